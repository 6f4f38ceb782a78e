"""``backlight prototype``: what a model looks for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from backlight.cli.common import (
    Architecture,
    Classes,
    Force,
    Ids,
    Ignore,
    Model,
    Preprocess,
    Quiet,
    Report,
    ScoreName,
    Size,
    Trust,
    app,
    class_names,
    is_network,
    plainly,
    progress_bar,
    split,
    width,
)
from backlight.cli.terminal import console, one_title
from backlight.errors import ArgumentError

if TYPE_CHECKING:
    from backlight._prototype import Prototypes

__all__ = ["prototype"]


@app.command()
@plainly
def prototype(
    model: Model,
    data: Annotated[
        list[str],
        typer.Argument(help="Rows that the model knows (CSV, Parquet, Arrow), or pictures (PNG, JPEG …)."),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(help="A class, cluster or output: name or position; repeat for several.", show_default="all"),
    ] = None,
    prior: Annotated[
        str,
        typer.Option(
            help="gaussian, mixture or none (bounds alone); pictures: auto, gaussian, mixture or waves.",
            show_default="gaussian; auto",
        ),
    ] = "",
    strength: Annotated[float, typer.Option(help="How much the prior counts.")] = 1.0,
    near: Annotated[
        int | None,
        typer.Option(min=1, help="Tables: the smallest change of this row (1 is the first) that gives the target."),
    ] = None,
    score: ScoreName = None,
    bounds: Annotated[
        str | None,
        typer.Option(
            help="Tables: 'data' for the range of the data, two numbers such as 0,16, or 'none'.", show_default="data"
        ),
    ] = None,
    fix: Annotated[list[str] | None, typer.Option(help="Column(s) that keep the usual value, or name=value.")] = None,
    integer: Annotated[list[str] | None, typer.Option(help="Column(s) of whole numbers.")] = None,
    onehot: Annotated[list[str] | None, typer.Option(help="Columns of one group, separated by commas.")] = None,
    rule: Annotated[
        list[str] | None, typer.Option(help="A rule between columns, such as 'debt <= income' or 'age >= 18'.")
    ] = None,
    shape: Annotated[str | None, typer.Option(help="Draw rows of a table as images, such as 8x8.")] = None,
    architecture: Architecture = None,
    preprocess: Preprocess = "imagenet",
    size: Size = None,
    classes: Classes = None,
    restarts: Annotated[int, typer.Option(min=1, help="Starts for each target, where it must be climbed to.")] = 8,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of each climb.", show_default="by the problem")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write pictures: .png; numbers: .csv, .parquet; all to replay: .safetensors.")
    ] = None,
    report: Report = None,
    force: Force = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides starts and draws.")] = 0,
    trust: Trust = None,
    ids: Ids = None,
    ignore: Ignore = None,
    quiet: Quiet = False,
) -> None:
    """Show what a model looks for: the plausible input that maximises each class, cluster or score."""
    from backlight.tables.files import check_output, expand, file_hash

    for path, suffixes in ((out, (".png", ".csv", ".parquet", ".safetensors")), (report, (".html",))):
        if path is not None:
            check_output(path, suffixes, force=force)
    drawn = _shape(shape)
    paths = expand(data)
    if model.suffix != ".skops" and is_network(model, architecture):
        for name, value in (("near", near), ("score", score), ("bounds", bounds), ("fix", fix), ("integer", integer),
                            ("onehot", onehot), ("rule", rule), ("shape", shape)):  # fmt: skip
            if value:
                raise ArgumentError(f"--{name} is for tables: leave it out for an image classifier")
        found = _of_pictures(
            model, paths, target, prior or "auto", strength, architecture, preprocess, size, classes, restarts, steps,
            seed, quiet,
        )  # fmt: skip
    else:
        constraints = [*_fixed(fix), *_whole(integer, onehot), *(_rule(text) for text in rule or [])]
        found = _of_table(
            model, paths, target, prior or "gaussian", strength, near, score, _bounds(bounds), constraints, restarts,
            steps, seed, trust or [], [*split(ids), *split(ignore)], quiet,
        )  # fmt: skip
    from backlight.report.prototypes import write_prototype_numbers, write_prototype_picture, write_prototype_report

    title = f"What {model.name} looks for"
    if out is not None:
        if out.suffix == ".png":
            write_prototype_picture(found, out, shape=drawn, force=force)
        else:
            write_prototype_numbers(found, out, force=force)
    if report is not None:
        provenance = {"model sha256": file_hash([model]), "data sha256": file_hash(paths), "seed": str(seed)}
        write_prototype_report(
            found, report, title=title, provenance=provenance, shape=drawn, force=force,
            labels=[path.name for path in paths] if found.x.ndim > 2 else None,
        )  # fmt: skip
    if not quiet:
        _show(found, title)
        for path in (out, report):
            if path is not None:
                console().print(f"written: {path}")


def _of_table(
    model: Path,
    paths: list[Path],
    target: list[str] | None,
    prior: str,
    strength: float,
    near: int | None,
    score: str | None,
    bounds: Any,
    constraints: list[Any],
    restarts: int,
    steps: int | None,
    seed: int,
    trust: list[str],
    left_out: list[str],
    quiet: bool,
) -> Prototypes:
    import math

    from backlight import constraints as rules
    from backlight import priors
    from backlight._prototype import prototype as look
    from backlight.classical import neuralize
    from backlight.classical.families import trees
    from backlight.classical.files import load_model
    from backlight.cli.predictions import read_target
    from backlight.tables.columns import as_numbers
    from backlight.tables.files import read_files

    loaded = load_model(model, trust)
    tree = trees.is_tree(loaded)
    if tree and score is not None:
        raise ArgumentError(
            f"--score does not apply to a {trees.name_of(loaded)}, whose outputs are its trees': leave it out"
        )
    seen: Any = loaded if tree else neuralize(loaded, score=score)
    frame = as_numbers(read_files(paths))
    known = getattr(seen, "feature_names", None) if not tree else getattr(loaded, "feature_names_in_", None)
    keep = [name for name in frame.names if name not in left_out]
    if known is not None and set(known) <= set(keep):
        keep = [str(name) for name in known]  # labels and names beside the columns do no harm
    rows = frame.select(keep)
    table = _native(rows)
    chosen: Any
    if near is not None:
        if near > len(rows):
            raise ArgumentError(f"--near {near}: the table has {len(rows)} rows")
        if prior != "gaussian":
            raise ArgumentError("--near measures changes by the covariance of the data: leave --prior out")
        if not target:
            raise ArgumentError("--near needs the decision to reach: give --target")
        chosen, strength = priors.Near(_native(rows.take(slice(near - 1, near))), data=table), math.inf
        constraints = [*constraints, rules.decision()]
    else:
        chosen = _prior(prior, rows.matrix(), seed)
    wanted: Any = None if not target else [read_target(text) for text in target]
    with progress_bar(quiet) as progress:
        return look(
            seen, wanted, prior=chosen, data=table, strength=strength, bounds=bounds, constraints=constraints,
            restarts=restarts, steps=steps, seed=seed, progress=lambda done, total: progress("climbing", done, total),
        )  # fmt: skip


def _native(rows: Any) -> Any:
    from backlight.tables import frame_like

    return frame_like(dict(zip(rows.names, rows.columns, strict=True)), "pyarrow")


def _prior(name: str, rows: Any, seed: int) -> Any:
    from backlight import priors

    makers: dict[str, Any] = {
        # the Gaussian of a table with categories is fitted once these are numbers
        "gaussian": lambda: None if rows.dtype == object else priors.Gaussian.fit(rows),
        "mixture": lambda: priors.Mixture.fit(rows, seed=seed), "none": lambda: "none",
    }  # fmt: skip
    if name not in makers:
        raise ArgumentError(f"--prior {name!r} must be {', '.join(makers)}")
    if name == "mixture" and rows.dtype == object:
        raise ArgumentError("--prior mixture is of numbers, and the table holds categories: leave --prior out")
    return makers[name]()


def _of_pictures(
    model: Path,
    paths: list[Path],
    target: list[str] | None,
    prior: str,
    strength: float,
    architecture: str | None,
    preprocess: str,
    size: int | None,
    classes: Path | None,
    restarts: int,
    steps: int | None,
    seed: int,
    quiet: bool,
) -> Prototypes:
    import numpy as np

    from backlight.vision.files import load_network
    from backlight.vision.pictures import preprocessing
    from backlight.vision.prototypes import prototypes_of_pictures

    if prior not in ("auto", "gaussian", "mixture", "waves"):
        raise ArgumentError(f"--prior {prior!r}: for pictures auto, gaussian, mixture or waves")
    names = class_names(classes)
    prepare = preprocessing(preprocess, size)
    network = load_network(model, architecture)
    pixels = np.stack([prepare.pixels(path) for path in paths])
    wanted = _classes(target, names, network, prepare.inputs([pixels[0]]))
    with progress_bar(quiet) as progress:
        found = prototypes_of_pictures(
            network, pixels, prepare, wanted, prior=prior, strength=strength, restarts=restarts, seed=seed, steps=steps,
            progress=lambda done, total: progress("climbing", done, total),
        )  # fmt: skip
    kind = f"image classifier, {prepare.crop} × {prepare.crop}"
    found = replace(found, provenance=found.provenance | {"model": kind})
    return found if names is None else _renamed(found, names)


def _classes(target: list[str] | None, names: list[str] | None, network: Any, example: Any) -> list[int]:
    import torch

    if target is None:
        with torch.no_grad():
            count = int(network(torch.as_tensor(example)).shape[1])
        if count > 20:
            raise ArgumentError(f"the network has {count} classes: give --target, by position or name")
        return list(range(count))
    found = []
    for text in target:
        if text.isdigit():
            found.append(int(text))
        elif names is not None and text in names:
            found.append(names.index(text))
        else:
            raise ArgumentError(f"--target {text!r} is no position, and no name of --classes")
    return found


def _renamed(found: Prototypes, names: list[str]) -> Prototypes:
    def name(text: str) -> str:
        place = text.removeprefix("output ")
        return names[int(place)] if place.isdigit() and int(place) < len(names) else text

    return replace(found, names=tuple(map(name, found.names)), decided=tuple(map(name, found.decided)))


def _shape(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)\s*[x×]\s*(\d+)", text.strip())
    if match is None:
        raise ArgumentError(f"--shape {text!r} must be height x width, such as 8x8")
    return int(match[1]), int(match[2])


def _bounds(text: str | None) -> Any:
    if text is None or text == "data":
        return "data"
    if text == "none":
        return None
    try:
        low, high = (None if not part.strip() else float(part) for part in text.split(","))
    except ValueError:
        raise ArgumentError(f"--bounds {text!r} must be 'data', 'none' or two numbers such as 0,16") from None
    return low, high


def _fixed(texts: list[str] | None) -> list[Any]:
    from backlight import constraints

    found = []
    for text in split(texts):
        name, equals, value = text.partition("=")
        try:
            found.append(constraints.fix(name.strip(), value=float(value) if equals else None))
        except ValueError:
            raise ArgumentError(f"--fix {text!r}: {value!r} is no number") from None
    return found


def _whole(integer: list[str] | None, onehot: list[str] | None) -> list[Any]:
    from backlight import constraints

    found = [constraints.integer(*split(integer))] if integer else []
    return found + [constraints.onehot(*[name.strip() for name in text.split(",")]) for text in onehot or []]


def _rule(text: str) -> Any:
    from backlight import constraints

    match = re.fullmatch(r"\s*(.+?)\s*(<=|>=|≤|≥)\s*(.+?)\s*", text)
    if match is None:
        raise ArgumentError(f"--rule {text!r} must compare a column with a column or a number: 'debt <= income'")
    a, sign, b = match.groups()
    try:
        right: Any = float(b)
    except ValueError:
        right = b
    return constraints.le(a, right) if sign in ("<=", "≤") else constraints.ge(a, right)


def _show(found: Prototypes, title: str) -> None:
    terminal = console(width=width())
    p = found.provenance
    prior = str(p["prior"]).replace("priors.", "")
    terminal.print(one_title(title, f": {p['model']}; prior {prior}\n"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("target", overflow="fold")
    if any(found.decided):
        table.add_column("decided", overflow="fold")
    for name in ("f", "Ω"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("certificate")
    small = found.x.ndim == 2 and found.center is not None and found.x.shape[1] <= 40
    if small:
        table.add_column("moved most (from → to)")
    moved = found.moved(3) if small else [[] for _ in found.names]
    for t, name in enumerate(found.names):
        status = Text(found.outcome(t), style="" if found.fine(t) else "red")
        cells: list[Any] = [name, *([found.decided[t]] if any(found.decided) else []), f"{found.f[t]:.4g}",
                 f"{found.omega[t]:.4g}", status, str(found.certificate[t])]  # fmt: skip
        if small:
            cells.append(", ".join(f"{n} {a:.4g} → {b:.4g}" for n, a, b in moved[t]))
        table.add_row(*cells)
    terminal.print(table)
    for t, name in enumerate(found.names):
        if not found.fine(t) and found.notes[t]:
            terminal.print(f"{name}: {found.notes[t][-1]}")
