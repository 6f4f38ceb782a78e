"""The report of an evaluation: which explanation is faithful, against which reference, how surely; one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backlight.explanation.display import aligned
from backlight.report import svg
from backlight.report.page import write_page

if TYPE_CHECKING:
    from backlight._evaluate import Evaluation

__all__ = ["write_evaluation_report"]


def write_evaluation_report(
    found: Evaluation, path: Path, *, title: str, provenance: Mapping[str, str], force: bool = False
) -> None:
    """Write one self-contained HTML file; to a temporary name first."""
    write_page(
        "evaluation.html.j2", path, force=force, title=title, found=found, metrics=_metrics(found),
        panels=_panels(found),
        costs=_costs(found), agreement=_agreement(found), sentences=found.sentences(), provenance=dict(provenance),
    )  # fmt: skip


def _metrics(found: Evaluation) -> list[dict[str, Any]]:
    shown = []
    for metric in found.metrics:
        intervals = [found.interval(metric.name, method) for method in found.methods]
        known = [one for one in intervals if not np.isnan(one.mean)]
        if not known:
            continue
        least, most = min(one.low for one in known), max(one.high for one in known)
        texts = iter(aligned(np.array([[one.mean, one.low, one.high] for one in known]).ravel()))
        best = found.best(metric.name) if metric.direction else ()
        rows = []
        for method, one in zip(found.methods, intervals, strict=True):
            if np.isnan(one.mean):
                rows.append({"method": method, "mean": "–", "interval": "", "picture": "", "mark": ""})
                continue
            mean, low, high = (next(texts) for _ in range(3))
            mark = "" if method not in best else "best" if len(best) == 1 else "not beaten"
            picture = svg.interval(one.mean, one.low, one.high, least, most)
            rows.append(
                {"method": method, "mean": mean, "interval": f"{low} to {high}", "picture": picture, "mark": mark}
            )
        shown.append({"name": metric.name, "words": metric.sentence, "rows": rows})
    return shown


def _panels(found: Evaluation) -> list[dict[str, Any]]:
    bands = {method: found.bands(method) for method in found.curves}
    values = [v for both in bands.values() for band in both.values() for v in band[1:]]
    if not values:
        return []
    low, high = float(min(v.min() for v in values)), float(max(v.max() for v in values))
    ends = aligned(np.array([low, high]))
    return [
        {
            "method": method, "low": ends[0], "high": ends[1],
            "picture": svg.bands(
                found.share, [both["morf"], both["lerf"]], low, high,
                f"{method}: mean score while units are taken away, most and least relevant first",
            ),
        }
        for method, both in bands.items()
    ]  # fmt: skip


def _costs(found: Evaluation) -> list[dict[str, str]]:
    one = found.costs.get("one scoring")
    unit = one.seconds if one is not None and one.seconds > 0 else None
    return [
        {
            "method": name,
            "times": "–" if unit is None else f"{cost.seconds / unit:.3g} ×",
            "evaluations": "not seen" if cost.evaluations is None else f"{cost.evaluations:,}",
        }
        for name, cost in found.costs.items()
        if name != "one scoring"
    ]


def _agreement(found: Evaluation) -> list[dict[str, str]]:
    return [
        {"pair": f"{a} and {b}", "rank": f"{rank:.2f}", "overlap": f"{100 * overlap:.0f} %"}
        for (a, b), (rank, overlap) in found.agreement().items()
    ]
