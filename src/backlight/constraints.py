"""What a prototype must satisfy: fixed columns, one-hot groups, whole numbers, linear rules, the model's decision.

Columns are named as in the user's table, or by position.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backlight.arguments import checked, numbers_in, shown
from backlight.errors import ArgumentError, Infeasible, listed

__all__ = [
    "Constraint", "Region", "compiled", "decision", "fix", "ge", "integer", "le", "linear", "onehot", "plausible",
    "sparse",
]  # fmt: skip

Column = str | int


@dataclass(frozen=True, slots=True)
class Constraint:
    """One rule; made by the functions of this module."""

    kind: str
    columns: tuple[Column, ...] = ()
    numbers: tuple[float, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    word: str | None = None


@checked
def fix(*columns: Column, value: float | str | None = None) -> Constraint:
    """Columns keep a value: by default that of the prior's centre, for `priors.Near` the row itself.

    A column of categories keeps its category, or the one that ``value`` names.
    """
    if isinstance(value, str):
        return Constraint("fix", _named(columns), word=value)
    if value is not None and not math.isfinite(value):
        raise ArgumentError(f"fix(…, value={value}): a column keeps a finite number")
    return Constraint("fix", _named(columns), () if value is None else (float(value),))


def onehot(*columns: Column) -> Constraint:
    """Exactly one of the columns is 1, the others are 0."""
    if len(set(_named(columns))) < max(2, len(columns)):
        raise ArgumentError("onehot() takes the columns of one group, at least two and each once")
    return Constraint("onehot", columns)


@checked
def integer(*columns: Column) -> Constraint:
    """Columns hold whole numbers."""
    return Constraint("integer", _named(columns))


@checked
def linear(weights: Mapping[Column, float], low: float = -math.inf, high: float = math.inf) -> Constraint:
    """The rule low ≤ Σ weight · column ≤ high."""
    if not isinstance(weights, Mapping):
        raise ArgumentError(f"linear() takes a dict of weights by column, not {shown(weights)}")
    numbers = tuple(numbers_in(list(weights.values()), "the weights of linear()").astype(float).ravel().tolist())
    if (
        len(numbers) != len(weights)
        or not all(map(math.isfinite, numbers))
        or math.isnan(low)
        or math.isnan(high)
        or low > high
    ):
        raise ArgumentError(f"linear({dict(weights)}, low={low}, high={high}): finite weights, and low ≤ high")
    return Constraint("linear", _named(tuple(weights)), numbers, float(low), float(high))


def le(a: Column, b: Column | float) -> Constraint:
    """Column a ≤ column b, or ≤ a number given as a float."""
    return linear({_named((a,))[0]: 1.0}, high=b) if isinstance(b, float) else linear(_difference(a, b), high=0.0)


def ge(a: Column, b: Column | float) -> Constraint:
    """Column a ≥ column b, or ≥ a number given as a float."""
    return linear({_named((a,))[0]: 1.0}, low=b) if isinstance(b, float) else linear(_difference(a, b), low=0.0)


def _difference(a: Column, b: Column) -> dict[Column, float]:
    _named((a, b))
    if a == b:
        raise ArgumentError(f"column {a!r} is compared with itself, which says nothing")
    return {a: 1.0, b: -1.0}


@checked
def sparse(k: int) -> Constraint:
    """At most k columns differ from the prior's centre; a one-hot group counts once.

    For `priors.L1` and quadratic priors such as `priors.Near` on linear models and small ReLU networks, where every
    column that may change has bounds.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ArgumentError(f"sparse({k!r}): at least one column must be allowed to change")
    return Constraint("sparse", low=float(k))


@checked
def plausible(share: float = 0.95) -> Constraint:
    """Near to a row of the data: where a kernel density of the data, with a box for its kernel, is positive.

    Some row of ``data`` has the same categories and differs from the result in no column by more than τ standard
    deviations; τ is the distance, in that sense, that a share of the rows has to its own nearest other row at most. For
    the smallest change of a row, ``strength=float("inf")`` with `priors.Near` or `priors.L1`.

    Parameters
    ----------
    share : float
        In (0, 1]; smaller is stricter.
    """
    if not (isinstance(share, int | float) and not isinstance(share, bool) and 0 < share <= 1):
        raise ArgumentError(f"plausible({share!r}): the share of rows is a number in (0, 1]")
    return Constraint("plausible", low=float(share))


@checked
def decision(margin: float = 1e-6) -> Constraint:
    """The model's decision at the prototype is the target: its logit leads all others by at least ``margin``.

    Of a detector of anomalies: the input is normal, its score at least ``margin`` on the normal side of the model's
    threshold. With ``priors.Near(row)`` and ``strength=inf`` that is the nearest normal version of a row.

    The smallest change that turns a decision ends where two logits are equal; the default is just enough that rounding
    cannot turn it back. A binary classifier's logits are −f and f.
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise ArgumentError(f"margin={margin} must be a number ≥ 0")
    return Constraint("decision", low=float(margin))


def _named(columns: tuple[Column, ...]) -> tuple[Column, ...]:
    if not columns or not all(isinstance(c, str | int | np.integer) and not isinstance(c, bool) for c in columns):
        raise ArgumentError(f"columns are names or positions, at least one, not {shown(columns)}")
    return columns


@dataclass(slots=True)
class Region:
    """Bounds and constraints in columns, as arrays.

    Attributes
    ----------
    low, high : (d,)
    A, b : (m, d), (m,): A x ≤ b
    E, e : (q, d), (q,): E x = e
    groups : list of lists of columns, one-hot
    integers : list of columns
    margin : float, optional
        By how much the target's logit must lead.
    sparse : int, optional
        How many columns may differ from the centre.
    excluded : list of tuples of columns
        Sets of which not all may differ from the centre; of a one-hot group its first column stands for all.
    plausible : float, optional
        The share of rows that have a row as near as the result has to have one.
    """

    low: np.ndarray
    high: np.ndarray
    A: np.ndarray
    b: np.ndarray
    E: np.ndarray
    e: np.ndarray
    groups: list[list[int]] = field(default_factory=list)
    integers: list[int] = field(default_factory=list)
    margin: float | None = None
    sparse: int | None = None
    excluded: list[tuple[int, ...]] = field(default_factory=list)
    plausible: float | None = None

    @property
    def bounded(self) -> bool:
        """Whether any column has a bound."""
        return bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())

    @property
    def boxed(self) -> bool:
        """Whether every column lies between finite bounds."""
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    @property
    def few(self) -> bool:
        """Whether it counts which columns differ from the centre."""
        return self.sparse is not None or bool(self.excluded)

    @property
    def mixed(self) -> bool:
        """Whether some columns hold whole numbers."""
        return bool(self.groups or self.integers)

    @property
    def rules(self) -> bool:
        """Whether there are linear rules beside bounds."""
        return bool(len(self.A) or len(self.E))

    @property
    def free(self) -> bool:
        """Whether nothing is asked for."""
        return not (self.bounded or self.mixed or self.rules or self.margin is not None or self.few)

    def violation(self, x: np.ndarray) -> float:
        """How far a point is from satisfying everything but the decision, in units of the columns."""
        worst = [np.max(self.low - x, initial=0.0), np.max(x - self.high, initial=0.0)]
        if len(self.A):
            worst.append(float(np.max((self.A @ x - self.b) / np.linalg.norm(self.A, axis=1), initial=0.0)))
        if len(self.E):
            worst.append(float(np.max(np.abs(self.E @ x - self.e) / np.linalg.norm(self.E, axis=1), initial=0.0)))
        whole = [i for group in self.groups for i in group] + self.integers
        if whole:
            worst.append(float(np.max(np.abs(x[whole] - np.round(x[whole])))))
        return float(max(worst))


def _fixed(rule: Constraint, name: str, center: float | None, low: float, high: float) -> float:
    """The value that a column keeps."""
    if rule.word is not None:
        raise ArgumentError(f"fix({name!r}, value={rule.word!r}): {name!r} is no column of categories")
    if not rule.numbers and center is None:
        raise ArgumentError(f"fix({name!r}) needs a value=: the prior has no centre to take it from")
    value: Any = rule.numbers[0] if rule.numbers else center
    if not low <= value <= high:
        raise Infeasible(f"{name!r} is fixed at {value:g}, outside its bounds [{low:g}, {high:g}]")
    return float(value)


def compiled(
    bounds: Any, constraints: Sequence[Constraint], names: Sequence[str], center: np.ndarray | None,
    data: np.ndarray | None,
) -> Region:  # fmt: skip
    """Bounds and constraints of the user as arrays.

    Parameters
    ----------
    bounds : (low, high), dict of column to (low, high), or "data"
    constraints : sequence of Constraint
    names : the columns
    center : (d,), optional
        What fixed columns keep where no value is given.
    data : (n, d), optional
    """
    d = len(names)
    low, high = _box(bounds, names, data)
    rows: list[np.ndarray] = []
    right: list[float] = []
    equal: list[np.ndarray] = []
    level: list[float] = []
    region = Region(low, high, np.zeros((0, d)), np.zeros(0), np.zeros((0, d)), np.zeros(0))
    given = [constraints] if isinstance(constraints, Constraint) else list(constraints)
    for rule in given:
        if not isinstance(rule, Constraint):
            raise ArgumentError(f"constraints are made by backlight.constraints, such as fix('age'); not {rule!r}")
        where = [_column(c, names) for c in rule.columns]
        if rule.kind == "fix":
            for i in where:
                low[i] = high[i] = _fixed(rule, names[i], None if center is None else float(center[i]), low[i], high[i])
        elif rule.kind == "onehot":
            region.groups.append(where)
            low[where], high[where] = np.maximum(low[where], 0.0), np.minimum(high[where], 1.0)
            row = np.zeros(d)
            row[where] = 1.0
            equal.append(row)
            level.append(1.0)
        elif rule.kind == "integer":
            region.integers += where
            low[where], high[where] = np.ceil(low[where]), np.floor(high[where])
        elif rule.kind == "linear":
            row = np.zeros(d)
            np.add.at(row, where, rule.numbers)
            if not row.any() or (math.isinf(rule.low) and math.isinf(rule.high)):
                said = listed([repr(names[i]) for i in where])
                raise ArgumentError(f"a linear rule on {said} says nothing: its weights cancel, or it has no side")
            if rule.low == rule.high:
                equal.append(row)
                level.append(rule.low)
                continue
            if rule.high < math.inf:
                rows.append(row)
                right.append(rule.high)
            if rule.low > -math.inf:
                rows.append(-row)
                right.append(-rule.low)
        elif rule.kind == "sparse":
            region.sparse = int(rule.low) if region.sparse is None else min(region.sparse, int(rule.low))
        elif rule.kind == "plausible":
            region.plausible = rule.low if region.plausible is None else min(region.plausible, rule.low)
        else:
            region.margin = rule.low if region.margin is None else max(region.margin, rule.low)
    twice = [c for group in region.groups for c in group]
    if len(set(twice)) < len(twice):
        raise ArgumentError("a column is in two one-hot groups")
    empty = np.flatnonzero(low > high)
    if len(empty):
        i = int(empty[0])
        raise Infeasible(f"no value of {names[i]!r} lies between its bounds {low[i]:g} and {high[i]:g}")
    if rows:
        region.A, region.b = np.array(rows), np.array(right)
    if equal:
        region.E, region.e = np.array(equal), np.array(level)
    return region


def _column(column: Column, names: Sequence[str]) -> int:
    if isinstance(column, str):
        if column not in names:
            raise ArgumentError(f"{column!r} is not a column: choose from {listed([repr(n) for n in names])}")
        return list(names).index(column)
    if not -len(names) <= column < len(names):
        raise ArgumentError(f"column {column} is out of range: there are {len(names)}")
    return int(column) % len(names)


def _two(sides: Any) -> tuple[Any, Any]:
    try:
        least, most = sides
    except (TypeError, ValueError) as error:
        raise ArgumentError("bounds are (low, high), numbers or arrays, or a dict of such by column") from error
    return least, most


def _numbers(value: Any, size: int) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=float).ravel()
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"a bound is a number or an array of numbers, not {shown(value)}") from error
    if array.size not in (1, size):
        raise ArgumentError(f"bounds have {array.size} numbers, but an input has {size}")
    return array


def _box(bounds: Any, names: Sequence[str], data: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    d = len(names)
    low, high = np.full(d, -math.inf), np.full(d, math.inf)
    if bounds is None:
        return low, high
    if isinstance(bounds, str):
        if bounds != "data":
            raise ArgumentError(f"bounds={bounds!r} must be (low, high), a dict of columns, or 'data'")
        if data is None:
            raise ArgumentError("bounds='data' needs data=")
        return data.min(0), data.max(0)
    if isinstance(bounds, Mapping):
        for column, sides in bounds.items():
            i = _column(column, names)
            for side, value in zip((low, high), _two(sides), strict=True):
                if value is not None:
                    side[i] = _numbers(value, 1)[0]
    else:
        for side, value in zip((low, high), _two(bounds), strict=True):
            if value is not None:
                side[:] = _numbers(value, d)
    if np.isnan(low).any() or np.isnan(high).any():
        raise ArgumentError("bounds hold NaN: leave a side out with None")
    empty = np.flatnonzero(low > high)
    if len(empty):
        i = int(empty[0])
        raise Infeasible(f"no value of {names[i]!r} lies between its bounds {low[i]:g} and {high[i]:g}")
    return low, high
