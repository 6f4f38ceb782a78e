"""A template, filled: one self-contained file, everything escaped."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from backlight.tables.files import atomic

__all__ = ["write_html", "write_page"]

# what a terminal would obey when the file is printed, and HTML forbids; tabs and ends of lines stay
_CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(14, 32), *range(127, 160)], " ")


def write_page(template: str, path: Path, *, force: bool = False, **values: Any) -> None:
    """Fill a template of this room and write it; to a temporary name first."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = files("backlight.report") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string((folder / template).read_text(encoding="utf-8"))
    style = Markup((folder / "report.css").read_text(encoding="utf-8"))  # noqa: S704 - the package's own file
    write_html(page.render(style=style, **values), path, force=force)


def write_html(html: str, path: Path, *, force: bool = False) -> None:
    """Write a page to a temporary name first, without control letters that names from data may hold."""
    with atomic(path, force=force) as temporary:
        # names of files need not be text: half of a pair of surrogates has no place in UTF-8
        temporary.write_text(html.translate(_CONTROLS), encoding="utf-8", errors="replace")
