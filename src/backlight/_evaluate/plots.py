"""Pictures of an evaluation; each returns its axes, none calls ``show``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from backlight.errors import ArgumentError, require

if TYPE_CHECKING:
    from backlight._evaluate.evaluation import Evaluation

__all__ = ["EvaluationPlots"]


class EvaluationPlots:
    """``evaluation.plot``."""

    def __init__(self, found: Evaluation) -> None:
        self._found = found

    def curves(self, ax: Any = None) -> Any:
        """The score while units are taken away: most relevant first full, least relevant first dashed, 95 % bands."""
        found = self._found
        if not found.curves:
            raise ArgumentError("no metric drew curves: ask for srg, deletion, insertion or abpc")
        plt = require("matplotlib.pyplot", "plot", "plots")
        if ax is None:
            ax = plt.subplots(figsize=(7, 4.2), layout="constrained")[1]
        for k, method in enumerate(found.curves):
            for kind, line in (("morf", "-"), ("lerf", "--")):
                mean, low, high = found.bands(method)[kind]
                ax.plot(found.share, mean, line, color=f"C{k}", label=method if kind == "morf" else None)
                ax.fill_between(found.share, low, high, color=f"C{k}", alpha=0.15, linewidth=0)
        ax.set_xlabel(f"share of units taken away ({found.units}, reference {found.reference})")
        ax.set_ylabel("mean score")
        ax.set_title("most relevant first (full), least relevant first (dashed)", fontsize=10)
        ax.legend(fontsize=8)
        return ax

    def intervals(self, metric: str | None = None, ax: Any = None) -> Any:
        """Methods ordered by a metric, 95 % intervals; a bar joins those that cannot be told apart from the best."""
        found = self._found
        name = metric or next(m.name for m in found.metrics if m.direction)
        direction = found._metric(name).direction
        plt = require("matplotlib.pyplot", "plot", "plots")
        intervals = {method: found.interval(name, method) for method in found.methods}
        order = sorted(
            (m for m in found.methods if not np.isnan(intervals[m].mean)), key=lambda m: direction * intervals[m].mean
        )
        if ax is None:
            ax = plt.subplots(figsize=(6.4, 1.2 + 0.35 * len(order)), layout="constrained")[1]
        for y, method in enumerate(order):
            one = intervals[method]
            ax.plot([one.low, one.high], [y, y], color="C0", linewidth=2)
            ax.plot([one.mean], [y], "o", color="C0")
        ax.set_yticks(range(len(order)), order)
        if direction:
            tied = [order.index(m) for m in found.best(name)]
            edge = max(one.high for one in intervals.values() if not np.isnan(one.high))
            width = edge - min(one.low for one in intervals.values() if not np.isnan(one.low))
            at = edge + 0.04 * (width or 1)
            ax.plot([at, at], [min(tied) - 0.2, max(tied) + 0.2], color="black", linewidth=4, solid_capstyle="butt")
        ax.set_xlabel(
            f"{name}, mean and 95 % interval" + ("; the bar joins what ties with the best" if direction else "")
        )
        return ax
