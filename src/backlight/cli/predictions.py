"""``backlight explain`` for classifiers, clusterings and regressions of tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from backlight.cli.terminal import console, one_title

if TYPE_CHECKING:
    from backlight.explanation import Explanation
    from backlight.tables import Frame

__all__ = ["explain_predictions", "read_target", "show_predictions"]

_SHOWN = 20


def read_target(text: str | None) -> int | str | None:
    """A class's position or its name."""
    if text is None:
        return None
    return int(text) if text.lstrip("-").isdigit() else text


def explain_predictions(
    model: Any, frame: Frame, *, target: str | None, score: str | None, rules: str, progress: Any
) -> Explanation:
    """Explain every row of a table, batch by batch."""
    from backlight._explain import explain

    return explain(
        model, frame, read_target(target), score=score, rules=rules, batch_size=2048,
        progress=lambda done, total: progress("explaining", done, total),
    )  # fmt: skip


def show_predictions(
    ex: Explanation,
    labels: np.ndarray | None,
    source: str,
    *,
    top: int | None,
    out: Path | None,
    report: Path | None,
    force: bool,
    quiet: bool,
    provenance: dict[str, str],
    width: int | None,
) -> None:
    """Write what was asked for, and print what makes each class, cluster or prediction."""
    from backlight.explanation.display import aligned
    from backlight.report.predictions import doubtful, in_words, predictions, reasons_of, write_prediction_report
    from backlight.tables.files import write_table

    if labels is None:
        labels = np.array([str(i + 1) for i in range(len(ex))], dtype=object)
    names = ex.provenance.get("outputs") or ()
    index = ex.annotations.get("target")
    if out is not None:
        columns: dict[str, Any] = {"row": list(labels)}
        if index is not None:
            columns["output"] = [str(names[int(k)]) for k in index]
        columns["score"] = np.asarray(ex.output)
        columns["base"] = np.asarray(ex.base_values)
        columns |= {f"relevance of {name}": ex.values[:, j] for j, name in enumerate(ex.feature_names)}
        write_table(columns, out, force=force)
    if report is not None:
        write_prediction_report(ex, report, title=source, provenance=provenance, labels=labels, top=top, force=force)
    if quiet:
        return
    terminal = console(width=width)
    terminal.print(one_title(source, f": {ex.provenance['model']}, {len(ex):,} rows"))
    terminal.print(f"Explained: {ex.target}, by {ex.method}.\n")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("output" if index is not None else "score")
    table.add_column("rows", justify="right")
    table.add_column("made by (mean part of the score)")
    for group in predictions(ex):
        order = np.argsort(-np.abs(group.mean), kind="stable")[:4]
        parts = aligned(group.mean[order], signed=True)
        made = ", ".join(f"{ex.feature_names[j]} ({part})" for j, part in zip(order, parts, strict=True))
        table.add_row(group.name, f"{len(group.members):,}", made)
    terminal.print(table)
    rows = doubtful(ex, min(top or _SHOWN, _SHOWN, len(ex)))
    closest = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    closest.add_column("row", no_wrap=True)
    if index is not None:
        closest.add_column("is")
    closest.add_column("score", justify="right", no_wrap=True)
    closest.add_column("because (part of the score)")
    scores = aligned(np.asarray(ex.output)[rows], 4)
    for i, score in zip(rows, scores, strict=True):
        named = [str(names[int(index[i])])] if index is not None else []
        closest.add_row(str(labels[i]), *named, score, in_words(reasons_of(ex, i)))
    terminal.print(f"\n{'The closest calls' if index is not None else 'The largest scores'}:")
    terminal.print(closest)
    gap = float(np.abs(ex.residual).max())
    terminal.print(f"\nEvery score is the sum of its parts and of what belongs to no column, to {gap:.0e}.")
    for path in (out, report):
        if path is not None:
            terminal.print(f"written: {path}")
