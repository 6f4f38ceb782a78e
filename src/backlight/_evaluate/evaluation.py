"""What a judge found: numbers with intervals, differences that are paired by row, curves, costs, and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from backlight._evaluate.bootstrap import Interval, Resampling
from backlight._evaluate.candidates import Cost
from backlight._evaluate.metrics.agreement import overlap, spearman
from backlight._evaluate.metrics.base import Metric
from backlight._evaluate.plots import draw_curves, draw_intervals
from backlight.arguments import checked
from backlight.errors import ArgumentError, listed
from backlight.explanation.faces import as_table
from backlight.hints import FrameLike
from backlight.tables import frame_like

__all__ = ["Evaluation"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Evaluation:
    """How faithful explanations are, against which reference, with which interval, for what cost.

    Attributes
    ----------
    methods : tuple of str
        The explanations, as they were named.
    metrics : tuple of Metric
    scores : mapping of metric name to array of shape (methods, n)
        One number a row; NaN where it is not defined.
    curves : mapping of method to (MoRF, LeRF), each of shape (n, points); of the metrics that draw them
    share : array of shape (points,)
        Of the units that are taken away.
    relevance : mapping of method to array of shape (n, units)
    reference, units, model, target : str
    rows, evaluations, seed : int
        ``evaluations``: rows that the model scored for all curves and sets together.
    costs : mapping of method to Cost
        What explanations took that were made here; the cost of one scoring of all rows stands under "one scoring".
    notes : tuple of str
        What to keep in mind: a reference that differs from an explainer's own, metrics that could not be asked.
    """

    methods: tuple[str, ...]
    metrics: tuple[Metric, ...]
    scores: Mapping[str, np.ndarray]
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]]
    share: np.ndarray
    relevance: Mapping[str, np.ndarray]
    reference: str
    units: str
    model: str
    target: str
    rows: int
    evaluations: int
    seed: int
    costs: Mapping[str, Cost] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @checked
    def interval(self, metric: str, method: str) -> Interval:
        """Mean over rows with its 95 % bootstrap interval."""
        return self._resampling().interval(self._scores(metric)[self._method(method)])

    @checked
    def difference(self, metric: str, first: str, second: str) -> Interval:
        """First − second, paired by row, with its 95 % interval; ``.decided`` where that excludes zero."""
        scores = self._scores(metric)
        return self._resampling().interval(scores[self._method(first)] - scores[self._method(second)])

    @checked
    def best(self, metric: str) -> tuple[str, ...]:
        """The best method and those that cannot be told apart from it.

        Raises
        ------
        ArgumentError
            The metric only describes.
        """
        direction = self._metric(metric).direction
        if not direction:
            raise ArgumentError(f"metric {metric!r} describes and does not rank")
        scores = self._scores(metric)
        with np.errstate(invalid="ignore"):
            means = np.array([np.nan if np.isnan(row).all() else np.nanmean(row) for row in scores])
        if np.isnan(means).all():
            return ()
        first = self.methods[int(np.nanargmax(direction * means))]
        ties = [
            name for name in self.methods
            if name != first and not np.isnan(means[self._method(name)])
            and not self.difference(metric, first, name).decided
        ]  # fmt: skip
        return (first, *ties)

    @checked
    def agreement(self, k: int = 3) -> dict[tuple[str, str], tuple[float, float]]:
        """For each pair of methods the mean rank correlation of relevance, and the overlap of their first k units."""
        return {
            (a, b): (
                float(spearman(self.relevance[a], self.relevance[b]).mean()),
                float(overlap(self.relevance[a], self.relevance[b], k).mean()),
            )
            for a, b in combinations(self.methods, 2)
        }

    def table(self) -> list[dict[str, Any]]:
        """One line for each metric and method."""
        lines = []
        for metric in self.metrics:
            best = self.best(metric.name) if metric.direction else ()
            for method in self.methods:
                found = self.interval(metric.name, method)
                cost = self.costs.get(method)
                lines.append({
                    "metric": metric.name, "better": {1: "more", -1: "less", 0: ""}[metric.direction], "method": method,
                    "mean": found.mean, "low": found.low, "high": found.high,
                    "best": "best" if best[:1] == (method,) and len(best) == 1 else "tie" if method in best else "",
                    "defined": int(np.isfinite(self._scores(metric.name)[self._method(method)]).sum()),
                    "seconds": np.nan if cost is None else cost.seconds,
                    "evaluations": np.nan if cost is None or cost.evaluations is None else float(cost.evaluations),
                })  # fmt: skip
        return lines

    def to_frame(self, kind: str = "numpy") -> FrameLike:
        """`table` as a data frame of pandas, polars or pyarrow."""
        lines = self.table()
        text = ("metric", "better", "method", "best")
        return frame_like(
            {k: np.array([line[k] for line in lines], dtype=object if k in text else float) for k in lines[0]}, kind
        )

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """The table for polars, pyarrow, pandas and duckdb."""
        return self.to_frame("pyarrow").__arrow_c_stream__(requested_schema)

    def latex(self) -> str:
        """A table for a paper: methods down, metrics across, means with intervals, what is not beaten in bold."""
        escape = str.maketrans({"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$"})
        arrows = {1: r" $\uparrow$", -1: r" $\downarrow$", 0: ""}
        head = [m.name.translate(escape) + arrows[m.direction] for m in self.metrics]
        lines = [r"\begin{tabular}{l" + "r" * len(head) + "}", " & ".join(["", *head]) + r" \\", r"\hline"]
        for method in self.methods:
            cells = [method.translate(escape)]
            for metric in self.metrics:
                found = self.interval(metric.name, method)
                text = f"{found.mean:.3g}" if not np.isnan(found.mean) else "--"
                if metric.direction and method in self.best(metric.name):
                    text = rf"\textbf{{{text}}}"
                cells.append(text if text == "--" else rf"{text} {{\small [{found.low:.3g}, {found.high:.3g}]}}")
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join([*lines, r"\end{tabular}"])

    @property
    def plot(self) -> EvaluationPlots:
        """``plot.curves()``: with bands; ``plot.intervals(metric)``: methods, and those that tie with the best."""
        return EvaluationPlots(self)

    @checked
    def save(self, path: str | Path) -> None:
        """Write the table: .csv or .parquet."""
        from backlight.tables.files import write_table

        frame = self.to_frame()
        write_table({name: np.asarray(frame[name]) for name in frame}, Path(path), force=True)

    @checked
    def bands(self, method: str) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Mean, lower and upper end of a method's curves, by "morf" and "lerf"."""
        self._method(method)
        if method not in self.curves:
            raise ArgumentError(f"no curves of {method!r} were made: ask for a metric that is an area under them")
        morf, lerf = self.curves[method]
        again = self._resampling()
        return {"morf": again.band(morf), "lerf": again.band(lerf)}

    def sentences(self) -> list[str]:
        """What can be said of it."""
        said = []
        for metric in self.metrics:
            if not metric.direction:
                continue
            best = self.best(metric.name)
            if not best:
                continue
            word = "highest" if metric.direction > 0 else "lowest"
            if len(best) == 1:
                said.append(f"{metric.name}: {best[0]} is {word} ({self.interval(metric.name, best[0])}).")
            else:
                said.append(f"{metric.name}: {best[0]} is {word}, but cannot be told apart from {listed(best[1:])}.")
        return [*said, *self.notes]

    def __repr__(self) -> str:
        names = [m.name + {1: " ↑", -1: " ↓", 0: ""}[m.direction] for m in self.metrics]
        cells = [["", *names]]
        for method in self.methods:
            row = [method]
            for metric in self.metrics:
                found = self.interval(metric.name, method)
                mark = "*" if metric.direction and method in self.best(metric.name) else " "
                row.append(
                    "–" if np.isnan(found.mean) else f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]{mark}"
                )
            cells.append(row)
        widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
        shown = [
            "  ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in cells
        ]
        head = (
            f"evaluation of {len(self.methods)} explanations of {self.model} ({self.target}): {self.rows} rows, "
            f"reference {self.reference}, units {self.units}, {self.evaluations:,} scored rows"
        )
        tail = "* not beaten beyond the 95 % interval of the paired difference"
        return "\n".join([head, *(line.rstrip() for line in shown), tail, *self.notes])

    def _repr_html_(self) -> str:
        head = ["", *(f"{m.name} {({1: '↑', -1: '↓', 0: ''})[m.direction]}".strip() for m in self.metrics)]
        rows = []
        for method in self.methods:
            cells = [escape(method)]
            for metric in self.metrics:
                found = self.interval(metric.name, method)
                text = "–" if np.isnan(found.mean) else f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"
                cells.append(f"<b>{text}</b>" if metric.direction and method in self.best(metric.name) else text)
            rows.append(cells)
        title = f"{self.model}, {self.rows} rows, reference {self.reference}, units {self.units}"
        bold = "bold: not beaten beyond the 95 % interval of the paired difference"
        return as_table(title, head, rows, [bold, *self.notes], ready=True)

    def _resampling(self) -> Resampling:
        return Resampling(self.rows, self.seed)

    def _method(self, name: str) -> int:
        if name not in self.methods:
            raise ArgumentError(f"no explanation {name!r} was judged: there are {listed(self.methods)}")
        return self.methods.index(name)

    def _metric(self, name: str) -> Metric:
        found = [metric for metric in self.metrics if metric.name == name]
        if not found:
            raise ArgumentError(f"metric {name!r} was not asked for: there are {listed(m.name for m in self.metrics)}")
        return found[0]

    def _scores(self, name: str) -> np.ndarray:
        return self.scores[self._metric(name).name]


@dataclass(frozen=True, slots=True)
class EvaluationPlots:
    """``evaluation.plot``."""

    evaluation: Evaluation

    def curves(self, ax: Any = None) -> Any:
        """The score while units are taken away: most relevant first full, least relevant first dashed, 95 % bands."""
        found = self.evaluation
        if not found.curves:
            raise ArgumentError("no metric drew curves: ask for srg, deletion, insertion or abpc")
        bands = {method: found.bands(method) for method in found.curves}
        return draw_curves(bands, found.share, f"{found.units}, reference {found.reference}", ax)

    @checked
    def intervals(self, metric: str | None = None, ax: Any = None) -> Any:
        """Methods ordered by a metric, 95 % intervals; a bar joins those that cannot be told apart from the best."""
        found = self.evaluation
        name = metric or next(m.name for m in found.metrics if m.direction)
        direction = found._metric(name).direction
        intervals = {method: found.interval(name, method) for method in found.methods}
        return draw_intervals(intervals, direction, found.best(name) if direction else (), name, ax)
