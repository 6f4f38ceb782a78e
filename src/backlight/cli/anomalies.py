"""``backlight anomalies``: the unusual rows of a table, and why."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from backlight.cli.common import (
    All,
    Data,
    Force,
    Ids,
    Ignore,
    Normal,
    Quiet,
    Report,
    Seed,
    Sheet,
    Top,
    app,
    check_outputs,
    overrides_of,
    plainly,
    progress_bar,
    width,
)
from backlight.cli.terminal import console, one_title
from backlight.errors import ArgumentError

if TYPE_CHECKING:
    from backlight.anomaly.workflow import Findings
    from backlight.findings import KnownFaults
    from backlight.tables import Frame

__all__ = ["anomalies", "deliver"]

_MOST_PRINTED = 20
_MOST_CELLS_IN_MEMORY = 8_000_000


@app.command()
@plainly
def anomalies(
    data: Data,
    normal: Normal = None,
    detector: Annotated[
        str,
        typer.Option(
            help="ensemble (density, local, correlation and marginal together), kde (kernel density), "
            "ocsvm (one-class SVM), lof (local outlier factor), knn (nearest neighbours), "
            "mixture, mahalanobis, pca (reconstruction error), kmeans, or one of PyOD's, such as pyod:ECOD."
        ),
    ] = "ensemble",
    top: Top = 20,
    explain_all: All = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write scores, relevances and p-values of the explained rows: .parquet or .csv. A name without an "
            "ending is a folder for the scores of all rows (with --all their reasons too), as shards of Parquet; a "
            "run that was interrupted goes on there."
        ),
    ] = None,
    report: Report = None,
    force: Force = False,
    seed: Seed = 0,
    alarm_rate: Annotated[
        float | None,
        typer.Option(
            help="Share of normal rows that may lie above the threshold.",
            show_default="0.01, or 0.05 for small tables",
        ),
    ] = None,
    numeric: Annotated[list[str] | None, typer.Option(help="Column(s) to take as numbers.")] = None,
    categorical: Annotated[list[str] | None, typer.Option(help="Column(s) to take as categories.")] = None,
    date: Annotated[list[str] | None, typer.Option(help="Column(s) to take as dates.")] = None,
    ids: Ids = None,
    sheet: Sheet = None,
    ignore: Ignore = None,
    time: Annotated[
        str | None,
        typer.Option(help="Column that orders the rows: changes since the row before count as well."),
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(help="Table of column names and their groups, to roll contributions up.")
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Plant faults in the table's own rows, to say how often the reasons are right.")
    ] = True,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that score; the table is read in batches, of Parquet, Arrow or CSV.")
    ] = 1,
    quiet: Quiet = False,
) -> None:
    """Find the anomalies of a table and say why: fits a detector, scores every row, explains the most unusual ones."""
    from backlight.tables.files import expand, read_files

    folder = out if out is not None and not out.suffix else None
    check_outputs(None if folder else out, report, force)
    paths = expand(data)
    overrides = overrides_of(number=numeric, category=categorical, date=date, identifier=ids, ignored=ignore)
    if folder is not None or workers > 1 or (time is None and not explain_all and are_large(paths)):
        if explain_all and folder is None:
            raise ArgumentError("--all with --workers needs --out FOLDER, for the reasons of all rows")
        asked = {
            "overrides": overrides, "detector": detector, "alarm_rate": alarm_rate, "top": top, "seed": seed,
            "check": check, "time": time, "folder": folder, "reasons": explain_all, "workers": workers,
        }  # fmt: skip
        _in_batches(paths, expand(normal or []), groups, asked, sheet, out, report, force, quiet)
        return
    frame = read_files(paths, sheet=sheet)
    normal_paths = expand(normal or [])
    reference = read_files(normal_paths, sheet=sheet) if normal_paths else None
    if reference is not None:
        frame, reference = same_columns(frame, reference, normal_paths)
    # Loads torch: not before the files are known to be good.
    from backlight.anomaly.groups import read_groups
    from backlight.anomaly.workflow import find_anomalies

    told = None if groups is None else read_groups(read_files([groups]), frame.names)
    with progress_bar(quiet) as progress:
        found = find_anomalies(
            frame, normal=reference, overrides=overrides, detector=detector, alarm_rate=alarm_rate,
            top=None if explain_all else top, seed=seed, check=check, time=time, groups=told,
            progress=progress,
        )  # fmt: skip
    deliver(found, frame, _named(paths), out, report, force, quiet, _provenance(paths, normal_paths, seed))


def _named(paths: list[Path]) -> str:
    return f"{', '.join(path.name for path in paths[:3])}{' …' if len(paths) > 3 else ''}"


def _provenance(paths: list[Path], normal_paths: list[Path], seed: int) -> dict[str, str]:
    from backlight.tables.files import file_hash

    provenance = {"data sha256": file_hash(paths), "seed": str(seed)}
    if normal_paths:
        provenance["normal rows sha256"] = file_hash(normal_paths)
    return provenance


def are_large(paths: list[Path]) -> bool:
    """Whether files are read in batches although nobody asked: Parquet of many cells."""
    if {path.suffix.lower() for path in paths} - {".parquet", ".pq", ".parq"}:
        return False
    from backlight.batches.files import open_files

    source = open_files(paths)
    return (source.rows or 0) * len(source.names or ()) > _MOST_CELLS_IN_MEMORY


def _in_batches(
    paths: list[Path],
    normal_paths: list[Path],
    groups: Path | None,
    asked: dict[str, Any],
    sheet: str | None,
    out: Path | None,
    report: Path | None,
    force: bool,
    quiet: bool,
) -> None:
    from backlight.batches.files import open_files
    from backlight.tables.files import read_files

    names = open_files(paths).names or ()
    reference = read_files(normal_paths, sheet=sheet) if normal_paths else None
    if reference is not None:
        same_names(names, reference, normal_paths)
        reference = reference.select(names)
    # Loads torch: not before the files are known to be good.
    from backlight.anomaly.groups import read_groups
    from backlight.anomaly.large import Asked, find_in_batches

    told = None if groups is None else read_groups(read_files([groups]), names)
    with progress_bar(quiet) as progress:
        found, frame, written = find_in_batches(paths, Asked(**asked, groups=told), normal=reference, progress=progress)
    provenance = _provenance(paths, normal_paths, asked["seed"])
    deliver(found, frame, _named(paths), None if written else out, report, force, quiet, provenance)
    if written is not None and not quiet:
        kept = f", {written.kept:,} of them by an earlier run" if written.kept else ""
        console(width=width()).print(
            f"wrote {written.folder!s}: {written.rows:,} rows in {written.shards} shards{kept}", soft_wrap=True
        )


def same_columns(frame: Frame, reference: Frame, paths: list[Path]) -> tuple[Frame, Frame]:
    same_names(frame.names, reference, paths)
    return frame, reference.select(frame.names)


def same_names(names: Sequence[str], reference: Frame, paths: list[Path]) -> None:
    """Refuse normal rows with other columns than the data."""
    from backlight.errors import ColumnsError, listed

    missing = [name for name in names if name not in reference.names]
    extra = [name for name in reference.names if name not in names]
    if missing or extra:
        said = [f"it lacks {listed(missing)}"] if missing else []
        said += [f"only it has {listed(extra)}"] if extra else []
        raise ColumnsError(f"{paths[0]} has other columns than the data: {'; '.join(said)}")


def deliver(
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
    """Write and print what was found: scores, reasons, the report."""
    from backlight.explanation.versions import versions
    from backlight.report.anomaly import write_anomaly_report
    from backlight.tables.files import write_table

    provenance = {
        **provenance,
        "detector sha256": found.detector.fingerprint(),
        "method": found.detector.method,
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    if out is not None:
        write_table(_columns_out(found, frame), out, force=force)
    if report is not None:
        write_anomaly_report(
            found, report, title="Why are these rows unusual?", source=f"{source} · {found.study.summary.rows:,} rows",
            provenance=provenance, faults=faults, force=force,
        )  # fmt: skip
    if not quiet:
        _print(found, source, out, report)


def _columns_out(found: Findings, frame: Frame) -> dict[str, Any]:
    import numpy as np

    study = found.study
    columns: dict[str, Any] = {"row": np.array([found.number(row) + 1 for row in study.rows.tolist()])}
    for column in found.columns:
        if column.kind == "identifier" and column.name in frame.names:
            columns[column.name] = frame.column(column.name)[study.rows].tolist()
    columns["score"] = study.explanation.output[:].tolist()
    columns["above_threshold"] = (study.explanation.output > 0).tolist()
    columns["base"] = study.explanation.base_values
    for j, name in enumerate(study.names):
        columns[f"contribution: {name}"] = study.explanation.values[:, j]
    for level in found.levels:
        for group, values in zip(level.groups, level.roll_up(study.explanation.values).T, strict=True):
            columns[f"{level.name}: {group}"] = values
    if study.p_values is not None:
        for j, name in enumerate(study.names):
            columns[f"p: {name}"] = study.p_values[:, j]
    return columns


def _print(found: Findings, source: str, out: Path | None, report: Path | None) -> None:
    import numpy as np

    from backlight.anomaly.bands import score_text
    from backlight.findings.anomalies import check_sentences, removal_verdict

    study = found.study
    terminal = console(width=width())
    terminal.print(one_title(source, f"  {study.summary.rows:,} rows  ·  {found.detector.kind}"))
    for line in _column_lines(found):
        terminal.print(f"  {line}")
    above = study.summary.above
    terminal.print(f"  {above:,} row{'' if above == 1 else 's'} above the threshold ({study.threshold.note})")
    for note in found.notes:
        terminal.print(f"  {note}")
    terminal.print()
    terminal.print(_rows(found))
    if len(study.rows) > _MOST_PRINTED:
        terminal.print(f"  … and {len(study.rows) - _MOST_PRINTED:,} more explained rows: write them with --out")
    terminal.print()
    terminal.print(
        " ".join(f"Score: {study.unit.name} above the threshold.".split()),
        "↑ above, ↓ below the normal range (5 to 95 % of normal rows); unmarked values are inside it.",
    )
    for level in found.levels:
        total = level.roll_up(study.drivers[None])[0]
        parts = ", ".join(f"{level.groups[g]} {score_text(total[g])}" for g in np.argsort(-total)[:6])
        terminal.print(f"Mean contribution by {level.name}: {parts}.")
    if study.kinds:
        kinds = ", ".join(f"{kind.name} ({len(kind.members)})" for kind in study.kinds[:6])
        terminal.print(f"Kinds of anomaly: {kinds}.")
    for said in check_sentences(study.checks):
        terminal.print(said)
    verdict = removal_verdict(study)
    gap = abs(study.explanation.residual).max()
    terminal.print(f"Every score is the sum of its contributions, to {gap:.0e}.", verdict.sentences if verdict else "")
    for path in (out, report):
        if path is not None:
            terminal.print(f"wrote {path!s}", soft_wrap=True)


def _column_lines(found: Findings) -> list[str]:
    """What the columns were taken for, a line a kind."""
    kinds: dict[str, list[str]] = {}
    for column in found.columns:
        shown = f"{column.name} ({column.why})" if column.kind == "ignored" else column.name
        if column.name in found.transforms:
            shown += f" ({found.transforms[column.name]})"
        kinds.setdefault(column.kind, []).append(shown)
    plural = {
        "number": "numbers",
        "category": "categories",
        "date": "dates",
        "identifier": "identifiers, not scored",
    }
    lines = []
    for kind in ("number", "category", "date", "identifier", "ignored"):
        names = kinds.get(kind, [])
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            lines.append(f"{plural.get(kind, kind)}: {', '.join(names[:8])}{more}")
    return lines


def _rows(found: Findings) -> Table:

    from backlight.anomaly.bands import score_text
    from backlight.findings.anomalies import reasons

    study = found.study
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("row", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("because (share of the reasons)")
    if study.members:
        table.add_column("agree", justify="right", no_wrap=True)
    for i in range(min(len(study.rows), _MOST_PRINTED)):
        score = float(study.explanation.output[i])
        named = reasons(study, i)
        because = ", ".join(
            f"{reason.name} {study.text(i, reason.name)}"
            f"{'' if reason.arrow in ('·', 'missing') else ' ' + reason.arrow} ({100 * reason.share:.0f} %)"
            for reason in named
        )
        agree = [f"{named[0].named} of {len(study.members)}" if named else ""] if study.members else []
        label = str(found.labels[study.rows[i]])
        table.add_row(label, score_text(score), because, *agree, style="bold" if score > 0 else "dim")
    return table
