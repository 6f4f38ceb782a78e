"""The report of a structure audit: what moved, how far, what to do; one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backlight.errors import require
from backlight.report.page import write_page
from backlight.tables.files import atomic, write_table

if TYPE_CHECKING:
    from backlight._audit import Audit
    from backlight.symbolic import Derivation

__all__ = ["write_audit_numbers", "write_audit_picture", "write_audit_report", "write_phases"]

# γ* of the structure example lies between the second and the third
_GAMMAS = (0.05, 0.15, 0.25, 1.0)


def write_audit_numbers(found: Audit, path: Path, *, force: bool = False) -> None:
    """One row for each rewrite and method, as .csv or .parquet."""
    frame = found.to_frame()
    write_table({name: np.asarray(frame[name]) for name in frame}, path, force=force)


def write_audit_picture(found: Audit, path: Path, *, force: bool = False) -> None:
    """The heat map as PNG; to a temporary name first."""
    _save(lambda: found.plot.heatmap().figure, path, force)


def write_phases(found: Derivation, path: Path, *, force: bool = False) -> None:
    """Phase diagrams as PNG, for four values of an open parameter; to a temporary name first."""
    given: dict[str, Any] = {symbol.name: list(_GAMMAS) for symbol in found.parameters}
    if "alpha" in given:
        given = {"alpha": 2.0, "beta": 1.0}
    _save(lambda: found.plot.phase(**given)[0].figure, path, force)


def _save(draw: Any, path: Path, force: bool) -> None:
    matplotlib = require("matplotlib", "plot", "drawing an audit")
    matplotlib.use("Agg", force=False)
    plt = require("matplotlib.pyplot", "plot", "drawing an audit")
    figure = draw()
    with atomic(path, force=force) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)


def write_audit_report(
    found: Audit, path: Path, *, title: str, provenance: Mapping[str, str], force: bool = False
) -> None:
    """Write one self-contained HTML file; to a temporary name first."""
    write_page(
        "audit.html.j2",
        path,
        force=force,
        title=title,
        found=found,
        rows=_rows(found),
        summary=found.table()[1 + len(found.rewrites) :],
        worst=_worst(found),
        advice=found.advice(),
        log=[
            {"kind": step.kind, "where": step.where, "what": step.what, "planted": step.cancels} for step in found.steps
        ],
        provenance=dict(provenance),
    )


def _worst(found: Audit, count: int = 8) -> list[dict[str, Any]]:
    """The most moved input of each rewrite and method, the largest first."""
    shown: dict[tuple[str, str], dict[str, Any]] = {}
    for name, method, row, change in found.worst(found.change.size):
        if len(shown) == count or change < 5e-4:
            break
        shown.setdefault((name, method), {"rewrite": name, "method": method, "row": row, "change": f"{change:.3f}"})
    return list(shown.values())


def _rows(found: Audit) -> list[dict[str, Any]]:
    rows = []
    for r, made in enumerate(found.rewrites):
        cells = []
        for m in range(len(found.methods)):
            mean = float(found.change[r, m].mean())
            cells.append(
                {
                    "mean": "0" if mean < 1e-9 else "<0.01" if mean < 0.005 else f"{mean:.2f}",
                    # a colour between the page's and red, strong enough to read the number on
                    "share": round(100 * min(mean, 1.0) * 0.85),
                    "more": f"largest {found.change[r, m].max():.2g}, rank correlation {found.rank[r, m].mean():.2f}, "
                    f"another feature first in {found.top[r, m].mean():.0%}",
                }
            )
        change = f"{found.function_change[r]:.0e}" if found.function_change[r] else "0"
        rows.append({"name": made.name, "why": made.why, "group": made.group, "cells": cells, "function": change})
    return rows
