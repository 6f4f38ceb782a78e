"""Plots of an explanation with matplotlib: each draws where ``ax=`` says and returns the axes; none calls ``show``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backlight.arguments import checked
from backlight.errors import ArgumentError, require
from backlight.explanation.data import ExplanationData
from backlight.explanation.display import cell_text, number

if TYPE_CHECKING:
    from backlight.explanation.text import MatrixView, TextView

__all__ = ["Plots"]

_RAISES, _LOWERS, _REST = "#c2402c", "#3767a8", "#9aa0a8"


@dataclass(frozen=True, slots=True)
class Plots:
    """``ex.plot``: pictures of one relevance a feature.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import numpy as np
    >>> from backlight import Explanation
    >>> ex = Explanation(np.array([[2.0, -1.0]]), [1.5], [0.5], feature_names=["pressure", "flow"])
    >>> ax = ex.plot.waterfall(0)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['flow', 'pressure', 'base']
    """

    explanation: ExplanationData

    @checked
    def waterfall(self, row: int = 0, *, k: int = 10, ax: Any = None) -> Any:
        """How one row's base and features add up to its score: the k strongest features, the others together.

        Parameters
        ----------
        row : int
        k : int
            How many features get a bar of their own.
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Axes
        """
        ex = self._tabular()[row]
        values = ex.values[0]
        order = np.argsort(-np.abs(values), kind="stable")
        main, rest = order[:k], order[k:]
        names = ["base", *(self._label(ex, int(j)) for j in main)]
        steps = [float(ex.base_values[0]), *(float(values[j]) for j in main)]
        if len(rest):
            names.append(f"{len(rest)} other features")
            steps.append(float(values[rest].sum()))
        ends = np.cumsum(steps)
        starts = ends - steps
        colors = [_REST, *(_RAISES if step >= 0 else _LOWERS for step in steps[1:])]
        at = np.arange(len(steps))[::-1]
        ax = _axes(ax, 0.35 * len(steps) + 1.2)
        ax.barh(at, steps, left=starts, color=colors, height=0.7)
        ax.axvline(float(ex.output[0]), color="0.3", linewidth=1, linestyle="--")
        for y, end, step in zip(at, np.maximum(starts, ends), steps, strict=True):
            ax.annotate(
                f"{step:+.3g}", (end, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize="small"
            )
        ax.set_yticks(at[::-1], names[::-1])
        ax.use_sticky_edges = False
        ax.margins(x=0.12)
        ax.set_xlabel(ex.target or "output")
        label = row if ex.labels is None else ex.labels[0]
        ax.set_title(f"row {label}: {number(float(ex.output[0]))}", loc="left")
        return ax

    @checked
    def bar(self, *, k: int = 15, ax: Any = None) -> Any:
        """Mean relevance of each feature over the rows, with its sign; the k largest. Returns the axes."""
        ex = self._tabular()
        mean = ex.values.mean(0)
        order = np.argsort(-np.abs(mean), kind="stable")[:k][::-1]
        ax = _axes(ax, 0.3 * len(order) + 1.2)
        ax.barh(np.arange(len(order)), mean[order], color=[_RAISES if mean[j] >= 0 else _LOWERS for j in order])
        ax.axvline(0, color="0.3", linewidth=1)
        ax.set_yticks(np.arange(len(order)), [ex.feature_names[j] for j in order])
        ax.set_xlabel(f"mean relevance in {ex.target or 'the output'}, {len(ex)} rows")
        return ax

    @checked
    def beeswarm(self, *, k: int = 12, ax: Any = None) -> Any:
        """One dot a row and feature, coloured by the rank of the feature's value (grey where it is no number).

        Dots are spread by their density, not at random, so that the same data give the same picture. Returns the axes.
        """
        ex = self._tabular()
        order = np.argsort(-np.abs(ex.values).mean(0), kind="stable")[:k][::-1]
        ax = _axes(ax, 0.42 * len(order) + 1.4)
        dots = None
        for y, j in enumerate(order):
            rank = _ranks(ex.data, int(j))
            spread = y + _swarm(ex.values[:, j])
            if rank is None:
                ax.scatter(ex.values[:, j], spread, s=9, color=_REST, linewidths=0)
            else:
                dots = ax.scatter(ex.values[:, j], spread, s=9, c=rank, cmap="viridis", vmin=0, vmax=1, linewidths=0)
        ax.axvline(0, color="0.3", linewidth=1)
        ax.set_yticks(np.arange(len(order)), [ex.feature_names[j] for j in order])
        ax.set_xlabel(f"relevance in {ex.target or 'the output'}")
        if dots is not None:
            bar = ax.figure.colorbar(dots, ax=ax, ticks=[0, 1])
            bar.set_ticklabels(["lowest", "highest"])
            bar.set_label("value of the feature")
        return ax

    @checked
    def heatmap(self, *, k: int = 20, ax: Any = None) -> Any:
        """Rows by features, on a diverging scale centred at zero; the k strongest features. Returns the axes.

        The scale ends at the 99 % quantile of the absolute relevance, and says so.
        """
        ex = self._tabular()
        order = np.argsort(-np.abs(ex.values).mean(0), kind="stable")[:k]
        shown = ex.values[:, order]
        end = float(np.quantile(np.abs(shown), 0.99)) or 1.0
        ax = _axes(ax, 0.3 * len(order) + 1.6)
        image = ax.imshow(shown.T, aspect="auto", cmap="RdBu_r", vmin=-end, vmax=end, interpolation="nearest")
        ax.set_yticks(np.arange(len(order)), [ex.feature_names[j] for j in order])
        ax.set_xlabel(f"{len(ex)} rows")
        cut = float(np.abs(shown).max()) > end
        bar = ax.figure.colorbar(image, ax=ax, extend="both" if cut else "neither")
        bar.set_label("relevance" + (" (scale ends at the 99 % quantile)" if cut else ""))
        return ax

    @checked
    def image(
        self,
        rows: int | Sequence[int] | None = None,
        *,
        compare: Mapping[str, ExplanationData] | None = None,
        layers: Sequence[str] = (),
        pictures: Any = None,
        over: bool = False,
        quantile: float = 0.995,
        ax: Any = None,
    ) -> Any:
        """Heat maps of images: red raises the score, blue lowers it, white is zero.

        Several targets of the explanation, the methods of ``compare`` and the layers of ``layers`` stand side by side.
        Under each map stand the signed sum of its relevance, the score, and what the ends of its colours mean.

        Parameters
        ----------
        rows : int or sequence of int, optional
            By default the first six.
        compare : mapping of str to Explanation, optional
            Other explanations of the same rows, by the name to be shown.
        layers : sequence of str
            Layers that ``explain(…, layers=…)`` was asked for.
        pictures : array of shape (n, height, width, 3) or (n, 3, height, width), optional
            What to show as the inputs: bytes, or numbers in [0, 1]. By default the network's inputs, stretched.
        over : bool
            The map over the grey picture, rather than beside it.
        quantile : float
            The scale ends at this quantile of the absolute relevance: a few extreme pixels do not fade the rest.
        ax : matplotlib Axes, optional
            For one map of one row.

        Returns
        -------
        matplotlib Axes, or an array of them
        """
        from backlight.explanation.images import draw

        return draw(
            self.explanation,
            rows,
            compare=compare,
            layers=layers,
            pictures=pictures,
            over=over,
            quantile=quantile,
            ax=ax,
        )

    @checked
    def text(
        self, rows: int | Sequence[int] | None = None, *, by: str = "word", limit: float | None = None
    ) -> TextView | MatrixView:
        """Texts in the colours of their relevance: red raises the score, blue lowers it, none is zero.

        Of several targets, a matrix: a row for each target, a column for each word.

        Parameters
        ----------
        rows : int or sequence of int, optional
            By default the first six; of several targets the only one.
        by : {"word", "token", "sentence", "text"}
            What has a colour of its own.
        limit : float, optional
            Relevance at which colours are full; by default each text's own strongest.

        Returns
        -------
        TextView or MatrixView
            Shows itself in a notebook, and in a terminal by ``rich.print``; ``html()`` and ``save(path)``.
        """
        from backlight.explanation.text import draw_text

        return draw_text(self.explanation, rows, by=by, limit=limit)

    def _tabular(self) -> ExplanationData:
        ex = self.explanation
        if ex.output.ndim != 1 or len(ex.feature_names) != ex.values.shape[1]:
            raise ArgumentError('this plot needs one relevance a feature: choose one output by name, ex.output("…")')
        if not len(ex):
            raise ArgumentError("the explanation has no rows to draw")
        return ex

    @staticmethod
    def _label(ex: ExplanationData, j: int) -> str:
        return ex.feature_names[j] if ex.data is None else f"{ex.feature_names[j]} = {cell_text(ex.data[0, j])}"


def _axes(ax: Any, height: float) -> Any:
    if ax is not None:
        return ax
    pyplot = require("matplotlib.pyplot", "plot", "plotting")
    return pyplot.subplots(figsize=(7.5, height), layout="constrained")[1]


def _ranks(data: np.ndarray | None, j: int) -> np.ndarray | None:
    """Ranks of a column's values between 0 and 1; None where they are no numbers."""
    from scipy.stats import rankdata

    if data is None:
        return None
    column = data[:, j]
    if not all(isinstance(v, int | float | np.number) for v in column.tolist()):
        return None
    ranks = rankdata(column.astype(float), nan_policy="omit")
    return np.asarray((ranks - 1) / max(1, len(ranks) - 1))


def _swarm(values: np.ndarray, bins: int = 60) -> np.ndarray:
    """Vertical offsets that pile up dots of nearly equal value around the line, at most 0.4 of a row."""
    low, high = float(values.min()), float(values.max())
    place = np.floor((values - low) / ((high - low) or 1.0) * (bins - 1)).astype(int)
    offset = np.zeros(len(values))
    counts = np.bincount(place, minlength=bins)
    for b in np.flatnonzero(counts):
        n = np.arange(counts[b])
        offset[place == b] = (n + 1) // 2 * np.where(n % 2, 1, -1)
    most = np.abs(offset).max()
    return offset * (0.4 / most if most > 0 else 0.0)
