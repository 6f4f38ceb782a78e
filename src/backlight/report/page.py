"""A template, filled: one self-contained file, everything escaped."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from backlight.tables.files import atomic

__all__ = ["write_page"]


def write_page(template: str, path: Path, *, force: bool = False, **values: Any) -> None:
    """Fill a template of this room and write it; to a temporary name first."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = files("backlight.report") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string((folder / template).read_text(encoding="utf-8"))
    style = Markup((folder / "report.css").read_text(encoding="utf-8"))  # noqa: S704 - the package's own file
    html = page.render(style=style, **values)
    with atomic(path, force=force) as temporary:
        temporary.write_text(html, encoding="utf-8")
