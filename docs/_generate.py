"""What the documentation says of the code, read from the code: the house's picture, the tables of what is supported."""

from __future__ import annotations

import inspect
import tomllib
import warnings
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).parent.parent


def house(path: Path) -> None:
    """Draw the rooms floor by floor, with how many files and lines each has."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    floors = [[room.strip() for room in floor.split("|")] for floor in contracts[0]["layers"]]
    width, height, gap = 860, 46, 8
    body = []
    for y, rooms in enumerate(floors):
        across = (width - gap * (len(rooms) - 1)) / len(rooms)
        for x, room in enumerate(rooms):
            files = _files(room)
            lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
            left, top = x * (across + gap), y * (height + gap)
            said = f"{len(files)} files, {lines / 1000:.1f} k lines" if len(files) > 1 else f"{lines} lines"
            body.append(
                f'<rect x="{left:.1f}" y="{top}" width="{across:.1f}" height="{height}" rx="5" fill="#e8eef7" '
                f'stroke="#8da3c0"/><text x="{left + across / 2:.1f}" y="{top + 20}" text-anchor="middle" '
                f'font-weight="600">{escape(room)}</text><text x="{left + across / 2:.1f}" y="{top + 37}" '
                f'text-anchor="middle" font-size="11" fill="#5a6675">{said}</text>'
            )
    total = len(floors) * (height + gap)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-4 -4 {width + 8} {total + 4}" '
        f'font-family="system-ui, sans-serif" font-size="14" fill="#1d222b">{"".join(body)}</svg>\n',
        encoding="utf-8",
    )


def _files(room: str) -> list[Path]:
    place = ROOT / "src" / "backlight" / room
    return sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


def supported(path: Path) -> None:
    """Write the page «Is my model supported?» from the registries, behind the tables in words."""
    from backlight import metrics, neuralize, references, rules
    from backlight.classical.families.pyod import detectors
    from backlight.classical.frontend.preprocessing import transformers
    from backlight.engine.operators.registry import _MAKERS

    words = (Path(__file__).parent / "_supported_words.md").read_text(encoding="utf-8")
    lines = [words.rstrip(), "", "## Every registered estimator", ""]
    by_package: dict[str, list[str]] = {}
    for name in sorted(neuralize.supported):
        by_package.setdefault(name.partition(".")[0], []).append(name)
    by_package["PyOD's detectors"] = detectors()
    for name in transformers.names:
        by_package.setdefault(f"transformers of {name.partition('.')[0]}", []).append(name)
    for package, names in by_package.items():
        short = sorted({name.rpartition(".")[2] for name in names})
        lines += [f"**{package}** ({len(short)}): " + ", ".join(f"`{name}`" for name in short), ""]
    lines += _scores()
    lines += ["## Every operator of networks with a rule", "", ", ".join(f"`{name}`" for name in sorted(_MAKERS)), ""]
    named = [
        value for _, value in sorted(vars(rules).items()) if inspect.isclass(value) and issubclass(value, rules.Rule)
    ]
    lines += ["## Every rule", "", "| rule | |", "|---|---|"]
    lines += [f"| `{rule.__name__}` | {_first(rule)} |" for rule in named]
    lines += ["", "## Every metric", "", "| metric | |", "|---|---|"]
    lines += [f"| `{name}` | {_first(kind)} |" for name, kind in sorted(metrics.METRICS.items())]
    lines += ["", "## Every reference", "", "| reference | |", "|---|---|"]
    lines += [f"| `{name}` | {_first(kind)} |" for name, kind in sorted(references.KINDS.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _scores() -> list[str]:
    """A table of what the networks of scikit-learn's estimators explain, from a small fit of each by its defaults."""
    import contextlib
    import importlib.util
    import io

    from backlight import errors, neuralize

    spec = importlib.util.spec_from_file_location("matrix", ROOT / "benchmarks" / "matrix.py")
    if spec is None or spec.loader is None:
        return []
    matrix = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(matrix)
    lines = ["## Every estimator of scikit-learn, as it is fitted by default", ""]
    lines += ["| estimator | scores, the default first, and what they are counted in | rule |", "|---|---|---|"]
    refused = []
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, model, _ in matrix.sklearn_models(settings=1):
            short = name.partition("(")[0]
            try:
                network = neuralize(model)
                scores = [_in_words(one) for one in neuralize.head(network._estimator).scores.values()]
                lines.append(f"| `{short}` | {', '.join(scores)} | {_rule(network)} |")
            except errors.BacklightError as error:
                said = " ".join(str(error).split()).replace("|", r"\|")
                refused.append(f"| `{short}` | {said} |")
    lines += ["", "## What is refused, and why", "", "| estimator | |", "|---|---|", *refused, ""]
    return lines


def _in_words(score: Any) -> str:
    return f"`{score.name}`" + (f" ({score.unit.name})" if score.unit.name else "")


def _rule(network: Any) -> str:
    found = network.rule("auto")
    return f"`{found if isinstance(found, str) else type(found).__name__}`"


def _first(thing: type) -> str:
    text = inspect.getdoc(thing) or ""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", r"\|")
