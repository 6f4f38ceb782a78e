"""``backlight anomalies``: the unusual rows of a table, and why."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backlight.cli.common import (
    All,
    Data,
    Force,
    Ids,
    Ignore,
    Normal,
    Out,
    Quiet,
    Report,
    Seed,
    Top,
    app,
    check_outputs,
    overrides_of,
    plainly,
    progress_bar,
    width,
)

if TYPE_CHECKING:
    from backlight.anomaly.workflow import Findings
    from backlight.report import KnownFaults
    from backlight.tables import Frame

__all__ = ["anomalies", "deliver"]


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

    check_outputs(out, report, force)
    paths = expand(data)
    frame = read_files(paths)
    normal_paths = expand(normal or [])
    reference = read_files(normal_paths) if normal_paths else None
    if reference is not None:
        frame, reference = same_columns(frame, reference, normal_paths)
    # Loads torch: not before the files are known to be good.
    from backlight.anomaly.workflow import find_anomalies

    overrides = overrides_of(number=numeric, category=categorical, date=date, identifier=ids, ignored=ignore)
    with progress_bar(quiet) as progress:
        found = find_anomalies(
            frame, normal=reference, overrides=overrides, detector=detector, alarm_rate=alarm_rate,
            top=None if explain_all else top, seed=seed, progress=progress,
        )  # fmt: skip
    provenance = {"data sha256": file_hash(paths), "seed": str(seed)}
    if normal_paths:
        provenance["normal rows sha256"] = file_hash(normal_paths)
    source = f"{', '.join(path.name for path in paths[:3])}{' …' if len(paths) > 3 else ''}"
    deliver(found, frame, source, out, report, force, quiet, provenance)


def same_columns(frame: Frame, reference: Frame, paths: list[Path]) -> tuple[Frame, Frame]:
    from backlight.errors import ColumnsError, listed

    missing = [name for name in frame.names if name not in reference.names]
    extra = [name for name in reference.names if name not in frame.names]
    if missing or extra:
        said = [f"it lacks {listed(missing)}"] if missing else []
        said += [f"only it has {listed(extra)}"] if extra else []
        raise ColumnsError(f"{paths[0]} has other columns than the data: {'; '.join(said)}")
    return frame, reference.select(frame.names)


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
    console = Console(highlight=False, width=width())
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
