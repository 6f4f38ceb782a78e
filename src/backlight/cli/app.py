"""The commands for tables and pictures, and what all commands share.

Every command prints a readable result, shows progress on a terminal, writes what ``--out`` and ``--report`` name, and
ends with exit code 2 and one clear line on bad input.
"""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from backlight._version import __version__
from backlight.errors import ArgumentError, BacklightError

try:
    import typer
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Table
except ImportError as error:  # pragma: no cover - the message is tested in a process without the extra
    raise SystemExit(f"backlight's command line needs {error.name}: pip install 'backlight[cli]'") from None

if TYPE_CHECKING:
    import numpy as np

    from backlight.anomaly.workflow import Findings
    from backlight.report import KnownFaults
    from backlight.tables import Frame

__all__ = ["app", "class_names", "main", "plainly", "progress_bar", "split"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Why is this row an anomaly, why this picture this class, what does the model look for? And would the answer "
    "survive a rewrite?",
)

Data = Annotated[list[str], typer.Argument(help="CSV, Parquet or Arrow files, or patterns such as 'logs/*.parquet'.")]
Model = Annotated[
    Path,
    typer.Argument(
        help="A fitted scikit-learn model (.skops), or an image classifier: an exported program (.pt2) or weights "
        "(.safetensors) with --architecture."
    ),
]
Normal = Annotated[list[str] | None, typer.Option(help="Table of rows known to be normal (may be repeated).")]
Top = Annotated[int, typer.Option(min=1, help="How many of the most unusual rows to explain.")]
All = Annotated[bool, typer.Option("--all", help="Explain every row.")]
Out = Annotated[Path | None, typer.Option(help="Write scores, relevances and p-values: .parquet or .csv.")]
Report = Annotated[Path | None, typer.Option(help="Write a report: .html.")]
Force = Annotated[bool, typer.Option(help="Replace outputs that exist.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides the split into fitted and held-out rows.")]
Ignore = Annotated[list[str] | None, typer.Option(help="Column(s) to leave out; repeat, or separate by commas.")]
Ids = Annotated[list[str] | None, typer.Option("--id", help="Column(s) that name a row.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def plainly(command: Callable[..., None]) -> Callable[..., None]:
    """One clear line and exit code 2 on bad input, 130 when interrupted."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except BacklightError as error:
            said, code = str(error), 2
        except KeyboardInterrupt:
            said, code = "interrupted; nothing was written", 130
        else:
            return
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"backlight: {said}", markup=False)
        raise typer.Exit(code)

    return run


def _version(value: bool) -> None:
    if value:
        typer.echo(f"backlight {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
@plainly
def anomalies(
    data: Data,
    normal: Normal = None,
    detector: Annotated[
        str,
        typer.Option(
            help="kde (kernel density), ocsvm (one-class SVM), lof (local outlier factor), knn (nearest neighbours), "
            "mixture, mahalanobis, pca (reconstruction error) or kmeans."
        ),
    ] = "kde",
    top: Top = 20,
    explain_all: All = False,
    out: Out = None,
    report: Report = None,
    force: Force = False,
    seed: Seed = 0,
    alarm_rate: Annotated[
        float | None,
        typer.Option(
            help="Share of normal rows that may lie above the alarm line.",
            show_default="0.01, or 0.05 for small tables",
        ),
    ] = None,
    numeric: Annotated[list[str] | None, typer.Option(help="Column(s) to take as numbers.")] = None,
    categorical: Annotated[list[str] | None, typer.Option(help="Column(s) to take as categories.")] = None,
    date: Annotated[list[str] | None, typer.Option(help="Column(s) to take as dates.")] = None,
    ids: Ids = None,
    ignore: Ignore = None,
    quiet: Quiet = False,
) -> None:
    """Find the anomalies of a table and say why: fits a detector, scores every row, explains the most unusual ones."""
    from backlight.tables.files import expand, file_hash, read_files

    _check_outputs(out, report, force)
    paths = expand(data)
    frame = read_files(paths)
    normal_paths = expand(normal or [])
    reference = read_files(normal_paths) if normal_paths else None
    if reference is not None:
        frame, reference = _same_columns(frame, reference, normal_paths)
    # Loads torch: not before the files are known to be good.
    from backlight.anomaly.workflow import find_anomalies

    overrides = _overrides(number=numeric, category=categorical, date=date, identifier=ids, ignored=ignore)
    with progress_bar(quiet) as progress:
        found = find_anomalies(
            frame, normal=reference, overrides=overrides, detector=detector, alarm_rate=alarm_rate,
            top=None if explain_all else top, seed=seed, progress=progress,
        )  # fmt: skip
    provenance = {"data sha256": file_hash(paths), "seed": str(seed)}
    if normal_paths:
        provenance["normal rows sha256"] = file_hash(normal_paths)
    source = f"{', '.join(path.name for path in paths[:3])}{' …' if len(paths) > 3 else ''}"
    _deliver(found, frame, source, out, report, force, quiet, provenance)


@app.command()
@plainly
def explain(
    model: Model,
    data: Annotated[
        list[str],
        typer.Argument(help="Tables (CSV, Parquet, Arrow) for the one, pictures (PNG, JPEG …) for the other."),
    ],
    normal: Normal = None,
    top: Top = 20,
    explain_all: All = False,
    out: Annotated[
        Path | None, typer.Option(help="Write scores and relevances: .parquet or .csv; the heat maps: .png.")
    ] = None,
    report: Report = None,
    force: Force = False,
    seed: Seed = 0,
    architecture: Annotated[
        str | None, typer.Option(help="Weights alone: the network, squeezenet1_0 or a name of torchvision's.")
    ] = None,
    preprocess: Annotated[
        str, typer.Option(help="Pictures: imagenet, unit (RGB in 0 to 1) or grey (in 0 to 1).")
    ] = "imagenet",
    size: Annotated[int | None, typer.Option(min=1, help="Pictures: side of what the network sees.")] = None,
    classes: Annotated[Path | None, typer.Option(help="Pictures: names of the classes, one a line or as JSON.")] = None,
    target: Annotated[
        str | None,
        typer.Option(help="The class or cluster to explain: its name or position.", show_default="predicted"),
    ] = None,
    score: Annotated[str | None, typer.Option(help="Tables: which score of the model.", show_default="its own")] = None,
    rules: Annotated[str, typer.Option(help="Tables: the rule, by name.")] = "auto",
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Pictures: a preset of rules or a reference method; repeat for several.",
            show_default="gamma-decreasing, gradient_x_input",
        ),
    ] = None,
    over: Annotated[bool, typer.Option("--over", help="Pictures: the maps over the picture in the PNG.")] = False,
    trust: Annotated[list[str] | None, typer.Option(help="Type(s) in the model file that you trust.")] = None,
    ids: Ids = None,
    ignore: Ignore = None,
    quiet: Quiet = False,
) -> None:
    """Explain the rows of a table by your detector, clustering, classifier or regression; or pictures by a network."""
    if model.suffix != ".skops" and (
        architecture is not None or model.suffix in (".pt2", ".safetensors", ".pth", ".ckpt")
    ):
        from backlight.cli.decisions import read_target

        chosen = read_target(target)
        if isinstance(chosen, str):
            raise ArgumentError(f"--target {chosen!r}: for pictures give the class's position, a whole number")
        _explain_pictures(
            model, data, architecture, preprocess, size, classes, chosen, method, over, out, report, force, seed, quiet
        )
        return
    from backlight.anomaly.workflow import explain_table
    from backlight.classical import neuralize
    from backlight.classical.families import trees
    from backlight.classical.files import load_model
    from backlight.cli.decisions import explain_decisions, show_decisions
    from backlight.tables.files import expand, file_hash, read_files

    _check_outputs(out, report, force)
    paths = expand(data)
    loaded = load_model(model, trust or [])
    explained: Any = trees.TreeModel(loaded, score, None) if trees.is_tree(loaded) else neuralize(loaded, score=score)
    frame = read_files(paths)
    left_out = [*split(ids), *split(ignore)]
    overrides = _overrides(identifier=ids, ignored=ignore)
    _require_columns(frame, overrides)
    inputs = frame.select([name for name in frame.names if name not in left_out])
    _require_known(inputs, explained.front.names, explained.front.named)
    if not _is_detector(explained, rules, target):
        if normal:
            raise ArgumentError("--normal is for anomaly detectors, and this model's score is not one: leave it out")
        with progress_bar(quiet) as progress:
            ex = explain_decisions(
                loaded if trees.is_tree(loaded) else explained, inputs, target=target, score=score, rules=rules,
                progress=progress,
            )  # fmt: skip
        show_decisions(
            ex, _labels_of(frame, split(ids)), f"{model.name} on {paths[0].name}", top=None if explain_all else top,
            out=out, report=report, force=force, quiet=quiet, width=_width(),
            provenance={"model sha256": file_hash([model]), "data sha256": file_hash(paths)},
        )  # fmt: skip
        return
    network = explained
    normal_paths = expand(normal or [])
    reference = None
    if normal_paths:
        reference = read_files(normal_paths)
        reference = reference.select([name for name in reference.names if name not in left_out])
    with progress_bar(quiet) as progress:
        found = explain_table(
            network, inputs, normal=reference, labels=_labels_of(frame, split(ids)), top=None if explain_all else top,
            seed=seed, progress=progress,
        )  # fmt: skip
    provenance = {"model sha256": file_hash([model]), "data sha256": file_hash(paths), "seed": str(seed)}
    _deliver(found, frame, f"{model.name} on {paths[0].name}", out, report, force, quiet, provenance)


def _is_detector(explained: Any, rules: str, target: str | None) -> bool:
    """Whether the anomaly report fits: a neuralized detector, by its own rule."""
    from backlight.classical import NeuralizedModel

    if not isinstance(explained, NeuralizedModel) or explained.score.name != "outlierness":
        return False
    if rules != "auto" or target is not None:
        raise ArgumentError("--rules and --target are for classifiers, clusterings and regressions: leave them out")
    return True


def _explain_pictures(
    model: Path,
    data: list[str],
    architecture: str | None,
    preprocess: str,
    size: int | None,
    classes: Path | None,
    target: int | None,
    method: list[str] | None,
    over: bool,
    out: Path | None,
    report: Path | None,
    force: bool,
    seed: int,
    quiet: bool,
) -> None:
    from backlight.tables.files import check_output, expand, file_hash

    for path, suffix in ((out, ".png"), (report, ".html")):
        if path is not None:
            check_output(path, (suffix,), force=force)
    paths = expand(data)
    names = class_names(classes)
    # loads torch: not before the files are known to be there
    from backlight.report import write_picture_report, write_pictures
    from backlight.vision.files import load_network
    from backlight.vision.pictures import preprocessing
    from backlight.vision.workflow import DEFAULTS, explain_pictures

    prepare = preprocessing(preprocess, size)
    network = load_network(model, architecture)
    with progress_bar(quiet) as progress:
        seen = explain_pictures(
            network, paths, prepare, methods=method or DEFAULTS, target=target, class_names=names, seed=seed,
            progress=progress,
        )  # fmt: skip
    if out is not None:
        write_pictures(seen, out, over=over, force=force)
    if report is not None:
        provenance = {"model sha256": file_hash([model]), "pictures sha256": file_hash(paths), "seed": str(seed)}
        write_picture_report(seen, report, title=f"{model.name}: what it looks at", provenance=provenance, force=force)
    if quiet:
        return
    table = Table(
        box=None, pad_edge=False, caption="under each method: the sum of its relevance", caption_justify="left"
    )
    table.add_column("picture", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("score", justify="right")
    for name in seen.explanations:
        table.add_column(name, justify="right", overflow="fold")
    first = next(iter(seen.explanations.values()))
    for row, name in enumerate(seen.names):
        sums = [f"{ex.values[row].sum():+.4g}" for ex in seen.explanations.values()]
        table.add_row(name, seen.classes[row], f"{float(first.output[row]):.4g}", *sums)
    console = Console()
    console.print(table)
    for path in (out, report):
        if path is not None:
            console.print(f"written: {path}", highlight=False, markup=False)


def class_names(path: Path | None) -> list[str] | None:
    """Names of classes: one a line, a JSON list (of names, or of lists that end in one), or a JSON object by index."""
    if path is None:
        return None
    import json

    from backlight.errors import FileError, MissingFileError

    if not path.is_file():
        raise MissingFileError(f"{path} is not there")
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        held = json.loads(text)
        if isinstance(held, dict):
            held = [held[key] for key in sorted(held, key=int)]
        return [str(item[-1] if isinstance(item, list) else item) for item in held]
    except (ValueError, TypeError, IndexError) as error:
        raise FileError(f"{path} does not hold class names: a JSON list, or an object by index ({error})") from error


@app.command()
@plainly
def demo(
    folder: Annotated[Path, typer.Argument(help="Where to put the two tables and the report.")] = Path(
        "backlight-demo"
    ),
    force: Annotated[bool, typer.Option(help="Replace an earlier demo.")] = True,
    seed: Seed = 0,
) -> None:
    """Explain planted faults in real data: three kinds of wine, three laboratory values mixed up in every fifth row."""
    import numpy as np

    from backlight.anomaly.bands import standard_scores
    from backlight.anomaly.workflow import find_anomalies
    from backlight.demo import STORY, mixed_up_wines
    from backlight.report import KnownFaults
    from backlight.tables.files import file_hash, read_files, write_table

    wines = mixed_up_wines(seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"cannot make the folder {folder}: {error.strerror}") from error
    paths = {"normal": folder / "normal-wines.csv", "batch": folder / "wines.csv"}
    for name, rows, labels in (
        ("normal", wines.normal, wines.normal_ids),
        ("batch", wines.batch, wines.batch_ids),
    ):
        columns: dict[str, Any] = {"sample": list(labels)}
        columns |= {column: rows[:, j] for j, column in enumerate(wines.names)}
        write_table(columns, paths[name], force=force)
    frame, reference = read_files([paths["batch"]]), read_files([paths["normal"]])
    with progress_bar(False) as progress:
        found = find_anomalies(frame, normal=reference, top=20, seed=seed, progress=progress)
    plain = standard_scores(wines.batch, wines.normal, np.zeros(len(wines.names), dtype=bool)).max(1)
    faults = KnownFaults(wines.faults, STORY, plain)
    report = folder / "report.html"
    provenance = {
        "data sha256": file_hash([paths["batch"]]),
        "normal rows sha256": file_hash([paths["normal"]]),
        "seed": str(seed),
    }
    _deliver(found, frame, "wines.csv", folder / "reasons.parquet", report, force, False, provenance, faults)
    console = Console(highlight=False, width=_width())
    console.print(f"\nOpen [bold]{report}[/bold] in a browser. The same on the two files themselves:")
    again = [
        "backlight",
        "anomalies",
        str(paths["batch"]),
        "--normal",
        str(paths["normal"]),
        "--report",
        "report.html",
    ]
    console.print("  " + shlex.join(again), soft_wrap=True)


# -- what the commands share -----------------------------------------------------------------------------------------


def _check_outputs(out: Path | None, report: Path | None, force: bool) -> None:
    from backlight.tables.files import check_output

    if out is not None:
        check_output(out, (".parquet", ".csv"), force=force)
    if report is not None:
        check_output(report, (".html",), force=force)


def split(names: list[str] | None) -> list[str]:
    """Names of an option that may be repeated or hold several, separated by commas."""
    return [name.strip() for text in names or [] for name in text.split(",") if name.strip()]


def _overrides(**kinds: list[str] | None) -> dict[str, str]:
    out: dict[str, str] = {}
    for kind, names in kinds.items():
        for name in split(names):
            if name in out:
                raise ArgumentError(f"column {name!r} is named twice, as {out[name]} and as {kind}: choose one")
            out[name] = kind
    return out


def _require_columns(frame: Frame, names: dict[str, str]) -> None:
    from backlight.errors import ColumnsError, listed

    unknown = [name for name in names if name not in frame.names]
    if unknown:
        raise ColumnsError(f"no column {unknown[0]!r} in the data: the columns are {listed(frame.names, 20)}")


def _require_known(frame: Frame, known: tuple[str, ...], named: bool) -> None:
    from backlight.errors import ColumnsError, listed

    extra = [name for name in frame.names if name not in known] if named else []
    if extra and not [name for name in known if name not in frame.names]:
        raise ColumnsError(
            f"the columns differ from those at fit time (unknown to the model: {listed(extra)}): leave them out "
            f"with --ignore {','.join(extra[:3])!r}, or name the rows by one with --id"
        )


def _same_columns(frame: Frame, reference: Frame, paths: list[Path]) -> tuple[Frame, Frame]:
    from backlight.errors import ColumnsError, listed

    missing = [name for name in frame.names if name not in reference.names]
    extra = [name for name in reference.names if name not in frame.names]
    if missing or extra:
        said = [f"it lacks {listed(missing)}"] if missing else []
        said += [f"only it has {listed(extra)}"] if extra else []
        raise ColumnsError(f"{paths[0]} has other columns than the data: {'; '.join(said)}")
    return frame, reference.select(frame.names)


def _labels_of(frame: Frame, names: list[str]) -> np.ndarray | None:
    from backlight.anomaly.workflow import row_labels
    from backlight.tables.columns import understand

    if not names:
        return None
    first = frame.select(names[:1])
    return row_labels(tuple(understand(first, {names[0]: "identifier"})), len(frame))


def _width() -> int | None:
    return None if sys.stdout.isatty() else 120


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Any]:
    """A bar on a terminal, nothing anywhere else."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda what, done, total: None
        return
    columns = (TextColumn("{task.description:<11}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield update


def _deliver(
    found: Findings,
    frame: Frame,
    source: str,
    out: Path | None,
    report: Path | None,
    force: bool,
    quiet: bool,
    provenance: dict[str, str],
    faults: KnownFaults | None = None,
) -> None:
    from backlight._explain import versions
    from backlight.report import write_anomaly_report
    from backlight.tables.files import write_table

    provenance = {
        **provenance,
        "network sha256": found.network.fingerprint(),
        "rule": repr(found.network.rule("auto")),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    if out is not None:
        write_table(_columns_out(found, frame), out, force=force)
    if report is not None:
        write_anomaly_report(
            found, report, title="Why are these rows unusual?", source=f"{source} · {len(frame):,} rows",
            provenance=provenance, faults=faults, force=force,
        )  # fmt: skip
    if not quiet:
        _print(found, source, out, report)


def _columns_out(found: Findings, frame: Frame) -> dict[str, Any]:
    study = found.study
    columns: dict[str, Any] = {"row": study.rows + 1}
    for column in found.columns:
        if column.kind == "identifier" and column.name in frame.names:
            columns[column.name] = frame.column(column.name)[study.rows].tolist()
    columns["score"] = study.explanation.output[:].tolist()
    columns["above_alarm_line"] = (study.explanation.output > 0).tolist()
    columns["base"] = study.explanation.base_values
    for j, name in enumerate(study.names):
        columns[f"relevance: {name}"] = study.explanation.values[:, j]
    if study.p_values is not None:
        for j, name in enumerate(study.names):
            columns[f"p: {name}"] = study.p_values[:, j]
    return columns


def _print(found: Findings, source: str, out: Path | None, report: Path | None) -> None:
    from rich.markup import escape

    from backlight.anomaly.bands import score_text
    from backlight.report.anomaly import reasons

    study = found.study
    console = Console(highlight=False, width=_width())
    kinds: dict[str, list[str]] = {}
    for column in found.columns:
        kinds.setdefault(column.kind, []).append(
            f"{column.name} ({column.why})" if column.kind == "ignored" else column.name
        )
    console.print(f"[bold]{escape(source)}[/bold]  {len(study.excess):,} rows  ·  {escape(found.network.kind)}")
    plural = {
        "number": "numbers",
        "category": "categories",
        "date": "dates, not scored",
        "identifier": "identifiers, not scored",
    }
    for kind in ("number", "category", "date", "identifier", "ignored"):
        if kind in kinds:
            names = kinds[kind]
            text = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            console.print(f"  {plural.get(kind, kind)}: {escape(text)}")
    console.print(f"  {int(study.flagged.sum()):,} rows above the alarm line ({escape(study.threshold_note)})")
    for note in found.notes:
        console.print(f"  {escape(note)}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("row", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("because (share of the reasons)")
    limit = min(len(study.rows), 20)
    for i in range(limit):
        score = float(study.explanation.output[i])
        because = ", ".join(
            f"{escape(name)} {escape(study.text(i, name))}"
            f"{'' if arrow in ('·', 'missing') else ' ' + arrow} ({100 * share:.0f} %)"
            for name, arrow, share in reasons(study, i)
        )
        style = "bold" if score > 0 else "dim"
        table.add_row(escape(str(found.labels[study.rows[i]])), score_text(score), because, style=style)
    console.print()
    console.print(table)
    if len(study.rows) > limit:
        console.print(f"  … and {len(study.rows) - limit:,} more explained rows: write them with --out")
    console.print()
    console.print(
        " ".join(f"Score: {study.unit.name} above the alarm line.".split()),
        "↑ above, ↓ below the normal 5–95 % band; unmarked values are inside it.",
    )
    gap = abs(study.explanation.residual).max()
    console.print(f"Every score is the sum of its parts, to {gap:.0e}.", _trust_line(study))
    for path in (out, report):
        if path is not None:
            console.print(f"wrote {escape(str(path))}", soft_wrap=True)


def _trust_line(study: Any) -> str:
    check = study.trust
    if check is None:
        return ""
    words = {True: "faster than", False: "slower than", None: "no faster than"}
    return "Removing the named causes lowers scores " + ", ".join(
        f"{words[check.beats(other)]} {'a z-score ranking' if other == 'z-score' else 'a random order'}"
        for other in check.differences
    ) + "."  # fmt: skip


def main() -> None:
    """Run the command line."""
    app()
