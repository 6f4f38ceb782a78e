"""``backlight evaluate``: which explanation of a model is faithful, and how surely."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from backlight.cli.common import (
    Architecture,
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
    is_network,
    network_inputs,
    plainly,
    progress_bar,
    split,
    width,
)
from backlight.cli.terminal import console
from backlight.errors import ArgumentError

if TYPE_CHECKING:
    from backlight._evaluate import Evaluation

__all__ = ["evaluate"]


@app.command()
@plainly
def evaluate(
    model: Model,
    data: Annotated[
        list[str],
        typer.Argument(help="The rows that were explained: tables, or pictures and arrays (.npy) for networks."),
    ],
    explanation: Annotated[
        list[Path] | None,
        typer.Option(help="A saved explanation (.parquet, .safetensors) or an array (.npy); repeat for several."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "--methods",
            help="A method by name: lrp, lrp:epsilon, gradient_x_input, random, …; repeat.",
            show_default="lrp, random",
        ),
    ] = None,
    reference: Annotated[
        str,
        typer.Option(help="What stands in for what is taken away: marginal, zero, mean, gaussian, nearest …"),
    ] = "marginal",
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", "--metrics", help="A metric; repeat for several.", show_default="srg, deletion, …"),
    ] = None,
    units: Annotated[str, typer.Option(help="Taken away together: auto, feature, pixel or a patch's side.")] = "auto",
    rows: Annotated[int, typer.Option(min=2, help="At most so many rows, the first ones.")] = 300,
    target: Annotated[str | None, typer.Option(help="The output: position or name.", show_default="predicted")] = None,
    score: ScoreName = None,
    architecture: Architecture = None,
    preprocess: Preprocess = "imagenet",
    size: Size = None,
    trust: Trust = None,
    ids: Ids = None,
    ignore: Ignore = None,
    out: Annotated[Path | None, typer.Option(help="Write the numbers: .csv or .parquet.")] = None,
    report: Report = None,
    force: Force = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides draws, ties and the bootstrap.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Judge explanations of one model on the same rows, against a stated reference, with intervals."""
    from backlight.tables.files import check_output, expand, file_hash

    for path, suffixes in ((out, (".csv", ".parquet")), (report, (".html",))):
        if path is not None:
            check_output(path, suffixes, force=force)
    paths = expand(data)
    loaded, X = _opened(model, paths, rows, architecture, preprocess, size, trust, [*split(ids), *split(ignore)])
    from backlight._evaluate import evaluate as judge
    from backlight.cli.predictions import read_target

    judged: dict[str, Any] = {path.stem: _explanation(path) for path in explanation or ()}
    judged |= {name: name for name in split(method) or (() if judged else ("lrp", "random"))}
    options: dict[str, Any] = {"metrics": split(metric)} if metric else {}
    with progress_bar(quiet) as progress:
        found = judge(
            loaded, X, judged, target=read_target(target), score=score, reference=reference,
            units=int(units) if units.isdigit() else units, seed=seed,
            progress=lambda done, total: progress("judging", done, total), **options,
        )  # fmt: skip
    if out is not None:
        found.save(out)
    if report is not None:
        from backlight.report.evaluation import write_evaluation_report

        provenance = {"model sha256": file_hash([model]), "data sha256": file_hash(paths), "seed": str(seed)}
        write_evaluation_report(
            found, report, title=f"Which explanation of {model.name} is faithful?", provenance=provenance, force=force
        )
    if not quiet:
        _print(found, model.name, [path for path in (out, report) if path is not None])


def _opened(
    model: Path,
    paths: list[Path],
    rows: int,
    architecture: str | None,
    preprocess: str,
    size: int | None,
    trust: list[str] | None,
    left_out: list[str],
) -> tuple[Any, Any]:
    if is_network(model, architecture):
        from backlight.vision.files import load_network

        return load_network(model, architecture), network_inputs(paths, rows, preprocess, size)[0]
    from backlight.classical.files import load_model
    from backlight.tables.columns import as_numbers
    from backlight.tables.files import read_files

    frame = as_numbers(read_files(paths))
    kept = frame.select([name for name in frame.names if name not in left_out]).take(slice(0, rows))
    return load_model(model, trust or []), kept


def _explanation(path: Path) -> Any:
    import numpy as np

    from backlight.errors import FileError, MissingFileError
    from backlight.explanation import Explanation

    if path.suffix != ".npy":
        return Explanation.load(path)
    if not path.is_file():
        raise MissingFileError(f"{path} is not there")
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise FileError(f"{path} is no array of numbers: {error}") from error


def _print(found: Evaluation, name: str, written: list[Path]) -> None:
    if not found.metrics:
        raise ArgumentError("no metric was asked for")
    terminal = console(width=width())
    terminal.print(f"{name}: {found.model}, {found.rows:,} rows, by {found.units}, reference {found.reference}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("explanation", overflow="fold")
    for metric in found.metrics:
        table.add_column(f"{metric.name} {({1: '↑', -1: '↓', 0: ''})[metric.direction]}", justify="right")
    from rich.text import Text

    for method in found.methods:
        cells: list[Text] = []
        for metric in found.metrics:
            one = found.interval(metric.name, method)
            best = metric.direction and method in found.best(metric.name)
            text = "–" if one.mean != one.mean else f"{one.mean:.3f} ({one.low:.3f} to {one.high:.3f})"
            cells.append(Text(text, style="bold" if best else ""))
        table.add_row(Text(method), *cells)
    terminal.print(table)
    terminal.print()
    for sentence in found.sentences():
        terminal.print("• " + sentence)
    for path in written:
        terminal.print(f"written: {path}", soft_wrap=True)
