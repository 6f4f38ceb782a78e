"""What an audit found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backlight._audit.plots import heatmap
from backlight._audit.rewrite import Rewrite
from backlight.arguments import checked
from backlight.canonical.canonize import Step
from backlight.explanation.faces import as_table
from backlight.hints import FrameLike
from backlight.rules.base import NAMED_RULES
from backlight.tables import frame_like

__all__ = ["Audit"]


# where the function has a derivative, they see nothing else
_BY_THE_FUNCTION = ("gradient", "gradient_x_input", "integrated_gradients")
# an explanation that is the same for every input is invariant, and says nothing
_LEAST_DISCRIMINATIVITY = 0.05


@dataclass(frozen=True, slots=True, repr=False)
class Audit:
    """What changed.

    Attributes
    ----------
    methods : tuple of str
    rewrites : tuple of Rewrite
        Those that the network has a place for.
    left_out : dict of str to str
        The others, and why.
    change : array of shape (rewrites, methods, n)
        Total variation ½ ‖R/‖R‖₁ − R′/‖R′‖₁‖₁ between an input's explanations, before and after.
    rank, top : arrays of the same shape
        Spearman's correlation; whether another feature is the most relevant one.
    canonical : array of the same shape, or None
        The change between explanations of the canonical forms; NaN for methods without rules.
    function_change : array of shape (rewrites,)
        Largest change of the output, relative to the largest output.
    discriminativity : array of shape (methods,)
        Total variation between the explanations of different inputs of one class: the scale to read a change by.
    steps : tuple of Step
        What canonical form did to the network itself.
    planted : tuple of Step
        Those of them that removed units which cancel each other exactly.
    unsearched : tuple of str
        Units of which it is not known whether some cancel, and why.
    base : dict of str to array
        The explanations of the network as it is.
    seed : int
    """

    methods: tuple[str, ...]
    rewrites: tuple[Rewrite, ...]
    left_out: dict[str, str]
    change: np.ndarray
    rank: np.ndarray
    top: np.ndarray
    canonical: np.ndarray | None
    function_change: np.ndarray
    discriminativity: np.ndarray
    steps: tuple[Step, ...]
    planted: tuple[Step, ...]
    unsearched: tuple[str, ...]
    base: dict[str, np.ndarray]
    model: str
    rows: int
    seed: int
    feature_names: tuple[str, ...] = field(default=())

    @property
    def ssi(self) -> dict[str, float]:
        """Structure sensitivity index: the mean change of each method over rewrites and inputs."""
        if not self.rewrites:
            return dict.fromkeys(self.methods, float("nan"))
        return {method: float(self.change[:, k].mean()) for k, method in enumerate(self.methods)}

    @property
    def relative(self) -> dict[str, float]:
        """SSI ÷ discriminativity: .05 is little; at .3 the wiring explains a third as much as the input.

        NaN where explanations hardly depend on the input (discriminativity below 0.05).
        """
        found = {}
        for k, method in enumerate(self.methods):
            scale = float(self.discriminativity[k])
            found[method] = self.ssi[method] / scale if scale >= _LEAST_DISCRIMINATIVITY else float("nan")
        return found

    @checked
    def worst(self, k: int = 5) -> list[tuple[str, str, int, float]]:
        """The largest changes: (rewrite, method, row, change)."""
        order = np.argsort(-self.change, axis=None, kind="stable")[:k]
        places = [np.unravel_index(int(i), self.change.shape) for i in order]
        return [(self.rewrites[r].name, self.methods[m], int(n), float(self.change[r, m, n])) for r, m, n in places]

    def advice(self) -> list[str]:
        """What to do, in words."""
        said = []
        worst = {m: float(self.change[:, k].mean(1).max(initial=0.0)) for k, m in enumerate(self.methods)}
        if not self.rewrites:
            said.append(
                "No rewrite was tried, so that nothing is known of how much these explanations depend on wiring."
            )
        steady = [method for method in self.methods if worst[method] < 1e-6 and self.rewrites]
        moved = [method for method in self.methods if worst[method] >= 1e-6]
        if steady:
            said.append(f"{_and(steady)}: no rewrite moves these explanations.")
        for method in moved:
            k = self.methods.index(method)
            r = int(self.change[:, k].mean(1).argmax())
            relative = self.relative[method]
            size = (
                "they hardly depend on the input, so that no scale can be given" if np.isnan(relative)
                else f"{relative:.0%} of how much two inputs of one class differ"
            )  # fmt: skip
            said.append(
                f"{method}: rewrites move its explanations by {_number(self.ssi[method])} on average ({size}), most "
                f"{self.rewrites[r].name!r} by {_number(worst[method])}; another feature comes first in "
                f"{self.top[:, k].mean():.1%} of cases."
            )
            if method in _BY_THE_FUNCTION or _named(method, function_alone=True):
                said.append(
                    f"{method} depends on the function alone, except at its kinks: where two values of a maximum are "
                    "equal, or a unit is exactly zero, its derivative depends on how it is written."
                )
        if moved and self.canonical is not None:
            after = float(np.nanmax(self.canonical, initial=0.0))
            if after <= 1e-6:
                said.append(
                    f"Explain with canonical=True: on canonical forms the largest change of any method is {after:.0e}."
                )
            else:
                r, m, _ = (int(i) for i in np.unravel_index(int(np.nanargmax(self.canonical)), self.canonical.shape))
                said.append(
                    f"Canonical form does not undo everything here: {self.rewrites[r].name!r} still moves "
                    f"{self.methods[m]} by {after:.2g}. Compare methods that rewrites do not move."
                )
        if self.planted:
            said.append(
                f"The network itself holds units that cancel each other exactly ({len(self.planted)} places, first "
                f"{self.planted[0].where or 'in a linear part'}): training does not make these, and they can plant "
                "an explanation. Explain with canonical=True, or ask where the file comes from."
            )
        if self.unsearched:
            more = f", and {len(self.unsearched) - 1} more places" if len(self.unsearched) > 1 else ""
            said.append(f"Not searched for units that cancel, so that some may be there: {self.unsearched[0]}{more}.")
        return said

    def to_frame(self, kind: str = "numpy") -> FrameLike:
        """One row for each rewrite and method, as a data frame."""
        cells: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        for r, made in enumerate(self.rewrites):
            for m, method in enumerate(self.methods):
                after = np.nan if self.canonical is None else float(self.canonical[r, m].mean())
                row = (
                    made.name, method, float(self.change[r, m].mean()), float(self.change[r, m].max()),
                    float(self.rank[r, m].mean()), float(self.top[r, m].mean()), after, float(self.function_change[r]),
                )  # fmt: skip
                for name, value in zip(_COLUMNS, row, strict=True):
                    cells[name].append(value)
        return frame_like(
            {k: np.array(v, dtype=object if k in _COLUMNS[:2] else float) for k, v in cells.items()}, kind
        )

    @property
    def plot(self) -> AuditPlots:
        """``plot.heatmap(ax=None)``: rewrites × methods."""
        return AuditPlots(self)

    def table(self) -> list[list[str]]:
        """The table that is printed: a head, then one line a rewrite, then what they come to."""
        lines = [["rewrite", *self.methods, "function"]]
        for r, made in enumerate(self.rewrites):
            cells = [_number(float(value)) for value in self.change[r].mean(1)]
            lines.append([made.name, *cells, _number(float(self.function_change[r]))])
        lines.append(["mean (SSI)", *(_number(v) for v in self.ssi.values()), ""])
        lines.append(["between inputs of a class", *(_number(float(v)) for v in self.discriminativity), ""])
        lines.append(["SSI ÷ between inputs", *(_number(v) for v in self.relative.values()), ""])
        if self.canonical is not None:
            after = [np.nan if np.isnan(c).all() else float(np.nanmax(c)) for c in self.canonical.transpose(1, 0, 2)]
            lines.append(["largest, canonical forms", *(_number(v) for v in after), ""])
        return lines

    @property
    def _title(self) -> str:
        return f"structure audit of {self.model}: {self.rows} inputs, mean total variation of explanations (0 to 1)"

    def _repr_html_(self) -> str:
        head, *rows = self.table()
        return as_table(self._title, head, rows, self.advice())

    def __repr__(self) -> str:
        lines = self.table()
        widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
        shown = [
            "  ".join(
                cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        return "\n".join([self._title, *(line.rstrip() for line in shown), "", *self.advice()])


@dataclass(frozen=True, slots=True)
class AuditPlots:
    """``audit.plot``."""

    audit: Audit

    def heatmap(self, ax: Any = None) -> Any:
        """Rewrites × methods: mean total variation, from 0 (white) to 1. Returns the axes."""
        found = self.audit
        title = f"structure audit of {found.model}, {found.rows} inputs"
        return heatmap(found.change.mean(2), [made.name for made in found.rewrites], found.methods, title, ax)


_COLUMNS = (
    "rewrite", "method", "mean change", "largest change", "rank correlation", "top changed", "canonical",
    "function change",
)  # fmt: skip


def _named(method: str, *, function_alone: bool) -> bool:
    rule = NAMED_RULES.get(method.removeprefix("lrp:")) if method.startswith("lrp:") else None
    return rule is not None and rule.function_alone is function_alone


def _number(value: float) -> str:
    if np.isnan(value):
        return "–"
    return "0" if value == 0 else f"{value:.3f}" if value >= 5e-4 else f"{value:.0e}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
