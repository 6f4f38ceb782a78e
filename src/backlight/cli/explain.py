"""``backlight explain``: a table by a model of scikit-learn, pictures by a network, texts by a folder's model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backlight.cli.anomalies import deliver
from backlight.cli.common import (
    All,
    Classes,
    Force,
    Ids,
    Ignore,
    Model,
    Normal,
    Preprocess,
    Quiet,
    Report,
    ScoreName,
    Seed,
    Sheet,
    Size,
    Top,
    Trust,
    app,
    check_outputs,
    is_network,
    labels_of,
    overrides_of,
    plainly,
    progress_bar,
    require_columns,
    split,
    width,
)
from backlight.cli.pictures import explain_pictures_of
from backlight.cli.predictions import explain_predictions, read_target, show_predictions
from backlight.cli.texts import explain_texts_of
from backlight.errors import ArgumentError

if TYPE_CHECKING:
    from backlight.tables import Frame

__all__ = ["explain"]


@app.command()
@plainly
def explain(
    model: Model,
    data: Annotated[
        list[str],
        typer.Argument(
            help="Tables (CSV, Parquet, Arrow), also of texts; pictures (PNG, JPEG …) for a network of pictures."
        ),
    ],
    normal: Normal = None,
    top: Top = 20,
    explain_all: All = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Write scores and relevances: .parquet or .csv, of texts .json too; the heat maps: .png."),
    ] = None,
    report: Report = None,
    force: Force = False,
    seed: Seed = 0,
    architecture: Annotated[
        str | None, typer.Option(help="Weights alone: the network, squeezenet1_0 or a name of torchvision's.")
    ] = None,
    preprocess: Preprocess = "imagenet",
    size: Size = None,
    classes: Classes = None,
    target: Annotated[
        str | None,
        typer.Option(help="The class, cluster or next token to explain: name or position.", show_default="predicted"),
    ] = None,
    score: ScoreName = None,
    rules: Annotated[str, typer.Option(help="Tables: the rule, by name.")] = "auto",
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Pictures: a preset of rules or a reference method; repeat for several.",
            show_default="gamma-decreasing, gradient_x_input",
        ),
    ] = None,
    over: Annotated[bool, typer.Option("--over", help="Pictures: the maps over the picture in the PNG.")] = False,
    trust: Trust = None,
    column: Annotated[
        str | None, typer.Option(help="Texts: the column that holds them.", show_default="text, or the only one")
    ] = None,
    ids: Ids = None,
    sheet: Sheet = None,
    ignore: Ignore = None,
    quiet: Quiet = False,
) -> None:
    """Explain a table by your detector, clustering, classifier or regression; pictures or texts by a network."""
    if model.is_dir():
        explain_texts_of(
            model, data, column, target, rules, ids, sheet, None if explain_all else top, out, report, force, quiet,
            width(),
        )  # fmt: skip
        return
    if column is not None:
        raise ArgumentError("--column is for texts, explained by a folder with a model: leave it out")
    if model.suffix != ".skops" and is_network(model, architecture):
        chosen = read_target(target)
        if isinstance(chosen, str):
            raise ArgumentError(f"--target {chosen!r}: for pictures give the class's position, a whole number")
        explain_pictures_of(
            model, data, architecture, preprocess, size, classes, chosen, method, over, out, report, force, seed, quiet
        )
        return
    from backlight.anomaly.workflow import explain_table
    from backlight.classical import neuralize
    from backlight.classical.files import load_model
    from backlight.tables.columns import as_numbers
    from backlight.tables.files import expand, file_hash, read_files

    check_outputs(out, report, force)
    paths = expand(data)
    loaded = load_model(model, trust or [])
    explained = neuralize(loaded, score=score)
    frame = read_files(paths, sheet=sheet)
    left_out = [*split(ids), *split(ignore)]
    overrides = overrides_of(identifier=ids, ignored=ignore)
    require_columns(frame, overrides)
    inputs = frame.select([name for name in frame.names if name not in left_out])
    _require_known(inputs, explained.front.names, explained.front.named)
    inputs = as_numbers(inputs, [inputs.names[j] for j in _numbers_of(explained.front, inputs)])
    if not _is_detector(explained, rules, target):
        if normal:
            raise ArgumentError("--normal is for anomaly detectors, and this model's score is not one: leave it out")
        with progress_bar(quiet) as progress:
            ex = explain_predictions(explained, inputs, target=target, score=score, rules=rules, progress=progress)
        show_predictions(
            ex, labels_of(frame, split(ids)), f"{model.name} on {paths[0].name}", top=None if explain_all else top,
            out=out, report=report, force=force, quiet=quiet, width=width(),
            provenance={"model sha256": file_hash([model]), "data sha256": file_hash(paths)},
        )  # fmt: skip
        return
    network = explained
    normal_paths = expand(normal or [])
    reference = None
    if normal_paths:
        reference = read_files(normal_paths, sheet=sheet)
        reference = reference.select([name for name in reference.names if name not in left_out])
        reference = as_numbers(reference, [reference.names[j] for j in _numbers_of(explained.front, reference)])
    with progress_bar(quiet) as progress:
        found = explain_table(
            network, inputs, normal=reference, labels=labels_of(frame, split(ids)), top=None if explain_all else top,
            seed=seed, progress=progress,
        )  # fmt: skip
    provenance = {"model sha256": file_hash([model]), "data sha256": file_hash(paths), "seed": str(seed)}
    deliver(found, frame, f"{model.name} on {paths[0].name}", out, report, force, quiet, provenance)


def _numbers_of(front: Any, frame: Frame) -> list[int]:
    """Positions in the table of the columns in which the model takes numbers."""
    numbers = front.used - set(front.vocabulary.codes)
    if not (front.named and frame.named):
        return [j for j in sorted(numbers) if j < len(frame.names)]
    return [frame.names.index(front.names[j]) for j in sorted(numbers) if front.names[j] in frame.names]


def _is_detector(explained: Any, rules: str, target: str | None) -> bool:
    """Whether the anomaly report fits: a neuralized detector, by its own rule."""
    from backlight.classical import NeuralizedModel

    if not isinstance(explained, NeuralizedModel) or explained.score.name != "outlierness":
        return False
    if rules != "auto" or target is not None:
        raise ArgumentError("--rules and --target are for classifiers, clusterings and regressions: leave them out")
    return True


def _require_known(frame: Frame, known: tuple[str, ...], named: bool) -> None:
    from backlight.errors import ColumnsError, listed

    extra = [name for name in frame.names if name not in known] if named else []
    if extra and not [name for name in known if name not in frame.names]:
        raise ColumnsError(
            f"the columns differ from those at fit time (unknown to the model: {listed(extra)}): leave them out "
            f"with --ignore {','.join(extra[:3])!r}, or name the rows by one with --id"
        )
