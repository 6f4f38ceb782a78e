"""Pictures of an evaluation; each returns its axes, none calls ``show``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backlight._evaluate.bootstrap import Interval
from backlight.errors import require

__all__ = ["draw_curves", "draw_intervals"]

Band = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw_curves(bands: Mapping[str, Mapping[str, Band]], share: np.ndarray, along: str, ax: Any = None) -> Any:
    """The mean score while units are taken away, by method: most relevant first full, least relevant first dashed."""
    plt = require("matplotlib.pyplot", "plot", "plots")
    if ax is None:
        ax = plt.subplots(figsize=(7, 4.2), layout="constrained")[1]
    for k, (method, both) in enumerate(bands.items()):
        for kind, line in (("morf", "-"), ("lerf", "--")):
            mean, low, high = both[kind]
            ax.plot(share, mean, line, color=f"C{k}", label=method if kind == "morf" else None)
            ax.fill_between(share, low, high, color=f"C{k}", alpha=0.15, linewidth=0)
    ax.set_xlabel(f"share of units taken away ({along})")
    ax.set_ylabel("mean score")
    ax.set_title("most relevant first (full), least relevant first (dashed)", fontsize=10)
    ax.legend(fontsize=8)
    return ax


def draw_intervals(
    intervals: Mapping[str, Interval], direction: int, tied: Sequence[str], name: str, ax: Any = None
) -> Any:
    """Methods ordered by a metric, 95 % intervals; a bar joins those that tie with the best."""
    plt = require("matplotlib.pyplot", "plot", "plots")
    known = [method for method, one in intervals.items() if not np.isnan(one.mean)]
    order = sorted(known, key=lambda method: direction * intervals[method].mean)
    if ax is None:
        ax = plt.subplots(figsize=(6.4, 1.2 + 0.35 * len(order)), layout="constrained")[1]
    for y, method in enumerate(order):
        one = intervals[method]
        ax.plot([one.low, one.high], [y, y], color="C0", linewidth=2)
        ax.plot([one.mean], [y], "o", color="C0")
    ax.set_yticks(range(len(order)), order)
    if tied:
        places = [order.index(method) for method in tied]
        edge = max(one.high for one in intervals.values() if not np.isnan(one.high))
        width = edge - min(one.low for one in intervals.values() if not np.isnan(one.low))
        at = edge + 0.04 * (width or 1)
        ax.plot([at, at], [min(places) - 0.2, max(places) + 0.2], color="black", linewidth=4, solid_capstyle="butt")
    ax.set_xlabel(f"{name}, mean and 95 % interval" + ("; the bar joins what ties with the best" if tied else ""))
    return ax
