"""The report of a table's classes, clusters or predictions: what makes each one, and why each row is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backlight.explanation.display import aligned
from backlight.report.page import write_page
from backlight.report.svg import waterfall_bar

if TYPE_CHECKING:
    from backlight.explanation import Explanation

__all__ = ["Prediction", "doubtful", "in_words", "predictions", "reasons_of", "write_prediction_report"]

_COLUMNS = 12
_REASONS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The rows of one class or cluster, or all rows of a regression.

    Attributes
    ----------
    name : str
    members : array of int
    mean : array of shape (d,)
        Mean relevance over the members.
    """

    name: str
    members: np.ndarray
    mean: np.ndarray


def predictions(ex: Explanation) -> list[Prediction]:
    """The explained outputs, in the model's order, each with its rows."""
    outputs = ex.provenance.get("outputs") or ()
    index = ex.annotations.get("target")
    if not outputs or index is None:
        return [Prediction(ex.output_names[0], np.arange(len(ex)), ex.values.mean(0))]
    found = []
    for k, name in enumerate(outputs):
        members = np.flatnonzero(index == k)
        if len(members):
            found.append(Prediction(str(name), members, ex.values[members].mean(0)))
    return found


def doubtful(ex: Explanation, count: int | None) -> np.ndarray:
    """Rows to look at: of decisions the closest calls first, of numbers the largest first."""
    score = np.asarray(ex.output)
    decided = ex.annotations.get("target") is not None
    order = np.argsort(score if decided else -score, kind="stable")
    return order if count is None else order[:count]


def reasons_of(ex: Explanation, row: int, count: int = _REASONS) -> list[tuple[str, str, float]]:
    """The columns with most relevance in a row: name, cell, relevance."""
    order = np.argsort(-np.abs(ex.values[row]), kind="stable")[:count]
    return [(ex.feature_names[j], cell(ex, row, j), float(ex.values[row, j])) for j in order]


def in_words(why: list[tuple[str, str, float]]) -> str:
    """Reasons in a line: column, cell, and its part of the score."""
    parts = aligned([value for _, _, value in why], 2, signed=True)
    return ", ".join(f"{column} {text} ({part})" for (column, text, _), part in zip(why, parts, strict=True))


def cell(ex: Explanation, row: int, column: int) -> str:
    """A cell of the table, for people."""
    if ex.data is None:
        return ""
    value = ex.data[row, column]
    if value is None or value != value:
        return "missing"
    return f"{value:.5g}" if isinstance(value, int | float | np.number) else str(value)


def typical(ex: Explanation, rows: np.ndarray, column: int) -> str:
    """What most of some rows have in a column: the middle 90 %, or the most frequent category."""
    if ex.data is None or not len(rows):
        return ""
    cells = ex.data[rows, column]
    numbers = [float(v) for v in cells if isinstance(v, int | float | np.number) and v == v]
    if len(numbers) == len([v for v in cells if v is not None and v == v]) and numbers:
        low, high = np.quantile(numbers, [0.05, 0.95])
        return f"{low:.4g}" if low == high else f"{low:.4g} – {high:.4g}"
    names, counts = np.unique([str(v) for v in cells], return_counts=True)
    return f"{names[counts.argmax()]} ({counts.max() / len(cells):.0%})"


def write_prediction_report(
    ex: Explanation,
    path: Path,
    *,
    title: str,
    provenance: Mapping[str, str],
    labels: np.ndarray,
    top: int | None = 20,
    force: bool = False,
) -> None:
    """Write one self-contained HTML file; to a temporary name first."""
    found = predictions(ex)
    every = np.arange(len(ex))
    rows = doubtful(ex, top)
    names = dict(enumerate(ex.provenance.get("outputs") or ()))
    index = ex.annotations.get("target")
    scores = aligned(np.asarray(ex.output)[rows], 4)
    mean = max(float(np.abs(group.mean).max()) for group in found) or 1.0
    write_page(
        "predictions.html.j2", path, force=force, title=title, kind=str(ex.provenance["model"]), method=ex.method,
        score=ex.target, rows=len(ex), decided=index is not None, gap=float(np.abs(ex.residual).max()),
        **dict(zip(("base", "size"), aligned(np.median(np.abs([ex.base_values, ex.output]), axis=1)), strict=True)),
        groups=[_group(ex, group, np.setdiff1d(every, group.members), mean) for group in found],
        several=len(found) > 1,
        details=[
            _row(ex, int(i), str(labels[i]), "" if index is None else str(names[int(index[i])]), score)
            for i, score in zip(rows, scores, strict=True)
        ],
        provenance={**provenance, **{name: str(v) for name, v in ex.provenance["versions"].items()}},
    )  # fmt: skip


def _group(ex: Explanation, group: Prediction, others: np.ndarray, scale: float) -> dict[str, Any]:
    order = np.argsort(-np.abs(group.mean), kind="stable")[:_COLUMNS]
    return {
        "name": group.name, "count": len(group.members),
        "columns": [
            {
                "name": ex.feature_names[j], "mean": mean,
                "bar": waterfall_bar(0, float(group.mean[j]), -scale, scale, "pos" if group.mean[j] >= 0 else "neg"),
                "inside": typical(ex, group.members, j), "outside": typical(ex, others, j),
            }
            for j, mean in zip(order, aligned(group.mean[order], signed=True), strict=True)
        ],
        "left": len(group.mean) - len(order),
    }  # fmt: skip


def _row(ex: Explanation, row: int, label: str, name: str, score: str) -> dict[str, Any]:
    why = reasons_of(ex, row, _COLUMNS)
    scale = float(np.abs(ex.values[row]).max()) or 1.0
    rest = float(ex.values[row].sum() - sum(value for _, _, value in why))
    base, whole = float(ex.base_values[row]), float(ex.output[row])
    *parts, rest_part, base_part = aligned([*(value for _, _, value in why), rest, base], 4, signed=True, scale=scale)
    return {
        "label": label, "decision": name, "score": score, "base": base_part, "rest": rest_part,
        "whole": aligned([whole], 4, scale=scale)[0],
        "short": in_words(why[:_REASONS]),
        "why": [
            {
                "name": column, "cell": text, "value": part,
                "bar": waterfall_bar(0, value, -scale, scale, "pos" if value >= 0 else "neg"),
            }
            for (column, text, value), part in zip(why, parts, strict=True)
        ],
        "left": ex.values.shape[1] - len(why),
    }  # fmt: skip
