"""Planting faults whose cause is known into real rows, and judging explanations by whether they name it.

A fault is planted in some rows of a table; everything else stays real. An explanation of those rows gives every
column a number, and is judged by how often its first column is a faulty one (hit@1), by the share of the faulty
columns among its first k (k faulty ones; hit@k), and by the area under the ROC curve of its numbers within a row.

What it is not: a proof for faults of another kind. The kinds here are what goes wrong in tables (`FAULTS`), and each
is reported by itself.

A new kind of fault is a function with `fault` before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["FAULTS", "Fault", "Interval", "Judgement", "Planted", "bootstrap_mean", "fault", "judge", "plant"]

Change = Callable[["_Table", np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault.

    Attributes
    ----------
    name : str
    story : str
        What is wrong with such a row, for people; several of them in ``plural``.
    change : function of a table, the rows to change and a random generator
        Changes the table's rows in place and returns which cells it changed, (m, d).
    """

    name: str
    story: str
    plural: str
    change: Change


@dataclass(frozen=True, slots=True, eq=False)
class Planted:
    """A table with faults.

    Attributes
    ----------
    X : array of shape (n, d)
        A copy of the table, changed in ``rows``.
    rows : array of int of shape (m,)
    truth : array of bool of shape (m, d)
        Which cells of those rows are faulty.
    fault : Fault
    """

    X: np.ndarray
    rows: np.ndarray
    truth: np.ndarray
    fault: Fault


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """How well an explanation names the faulty cells, a row each.

    Attributes
    ----------
    first : array of shape (m,)
        1 where the strongest column is a faulty one; a share where several are equally strong.
    among : array of shape (m,)
        The share of the k faulty columns that is among the k strongest.
    auc : array of shape (m,)
        NaN where all cells of a row are faulty.
    """

    first: np.ndarray
    among: np.ndarray
    auc: np.ndarray

    def interval(self, seed: int = 0) -> Interval:
        """hit@1."""
        return bootstrap_mean(self.first, seed)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """What faults need to know: cells, which columns are categories or whole numbers, and the columns' ranges."""

    X: np.ndarray
    numbers: np.ndarray
    whole: np.ndarray
    deviation: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def put(self, row: int, column: int, value: float, up: bool) -> None:
        """Set a cell; where the column has whole numbers only, to the next one on the far side."""
        self.X[row, column] = (np.ceil(value) if up else np.floor(value)) if self.whole[column] else value


FAULTS: dict[str, Fault] = {}


def fault(name: str, story: str, plural: str) -> Callable[[Change], Change]:
    """Make a kind of fault known."""

    def decorate(change: Change) -> Change:
        FAULTS[name] = Fault(name, story, plural, change)
        return change

    return decorate


@fault("spike", "one value far outside its column's range", "values far outside their range")
def _spike(table: _Table, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One column lies beyond its 1 % or 99 % quantile, by 2 to 6 standard deviations."""
    truth = np.zeros((len(rows), table.X.shape[1]), dtype=bool)
    for i, row in enumerate(rows):
        j = int(rng.choice(table.numbers))
        away = rng.uniform(2, 6) * table.deviation[j]
        up = rng.random() < 0.5
        table.put(row, j, table.high[j] + away if up else table.low[j] - away, up)
        truth[i, j] = True
    return truth


@fault("group", "the same extreme value in three rows", "extreme values that several rows share")
def _group(table: _Table, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Three rows at a time have nearly the same value, 4 to 8 standard deviations beyond the 99 % quantile."""
    truth = np.zeros((len(rows), table.X.shape[1]), dtype=bool)
    for start in range(0, len(rows), 3):
        j = int(rng.choice(table.numbers))
        value = table.high[j] + rng.uniform(4, 8) * table.deviation[j]
        for i in range(start, min(start + 3, len(rows))):
            table.put(rows[i], j, value + 0.005 * table.deviation[j] * rng.standard_normal(), True)
            truth[i, j] = True
    return truth


@fault("swap", "values that belong to another row", "swapped values")
def _swap(table: _Table, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Up to three columns, at most a quarter, take another row's value, at least one standard deviation away.

    Each such value is ordinary by itself: only together with the others it is wrong.
    """
    d = table.X.shape[1]
    truth = np.zeros((len(rows), d), dtype=bool)
    source = table.X.copy()
    for i, row in enumerate(rows):
        for j in rng.permutation(d):
            own = source[row, j]
            least = table.deviation[j] if j in table.numbers else 0.0
            far = np.flatnonzero(np.abs(source[:, j] - own) > least)
            if len(far) and truth[i].sum() < min(3, max(1, d // 4)):
                table.X[row, j] = source[rng.choice(far), j]
                truth[i, j] = True
    return truth


@fault("shift", "several values moved to the same side", "rows with several shifted values")
def _shift(table: _Table, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Up to three columns, at most a quarter, move by 2 to 4 standard deviations, all up or all down."""
    d = table.X.shape[1]
    truth = np.zeros((len(rows), d), dtype=bool)
    count = min(3, max(1, d // 4), len(table.numbers))
    for i, row in enumerate(rows):
        sign = rng.choice([-1.0, 1.0])
        for j in rng.choice(table.numbers, count, replace=False):
            here = table.X[row, j] if not np.isnan(table.X[row, j]) else (table.low[j] + table.high[j]) / 2
            table.put(row, int(j), here + sign * rng.uniform(2, 4) * table.deviation[j], sign > 0)
            truth[i, j] = True
    return truth


def plant(
    X: np.ndarray, kind: str, *, count: int | None = None, rows: np.ndarray | None = None,
    categories: np.ndarray | None = None, seed: int = 0,
) -> Planted | None:  # fmt: skip
    """Plant faults of one kind.

    Parameters
    ----------
    X : array of shape (n, d)
        A table; missing cells are NaN. It is not changed.
    kind : str
        A name in `FAULTS`.
    count : int, optional
        How many rows; by default 2 %, at least 6.
    rows : array of int, optional
        Rows that may be chosen; by default all.
    categories : array of bool of shape (d,), optional
        Which columns hold codes of categories: they get other codes, never extreme ones.
    seed : int
        The same seed plants the same faults.

    Returns
    -------
    Planted, or None where the table has nothing that could be changed in this way
    """
    n, d = X.shape
    rng = np.random.default_rng([seed, sorted(FAULTS).index(kind)])
    is_category = np.zeros(d, dtype=bool) if categories is None else categories
    filled = ~np.isnan(X).all(0)
    deviation = np.zeros(d)
    low, high = np.zeros(d), np.zeros(d)
    deviation[filled] = np.nanstd(X[:, filled], axis=0)
    low[filled], high[filled] = np.nanquantile(X[:, filled], [0.01, 0.99], axis=0)
    whole = np.array([bool((c == np.round(c)).all()) for c in (X[~np.isnan(X[:, j]), j] for j in range(d))])
    numbers = np.flatnonzero(~is_category & (deviation > 1e-9 * np.maximum(np.abs(low), np.abs(high))))
    if not len(numbers) and FAULTS[kind].change is not _swap:
        return None
    table = _Table(X.copy(), numbers, whole & ~is_category, deviation, low, high)
    pool = np.arange(n) if rows is None else rows
    chosen = rng.choice(pool, min(len(pool), count or max(6, n // 50)), replace=False)
    truth = FAULTS[kind].change(table, chosen, rng)
    hit = truth.any(1)
    return Planted(table.X, chosen[hit], truth[hit], FAULTS[kind]) if hit.any() else None


def judge(relevance: np.ndarray, truth: np.ndarray) -> Judgement:
    """Judge an explanation of faulty rows by the truth, both of shape (m, d); larger numbers are stronger reasons."""
    relevance = np.nan_to_num(relevance, nan=-np.inf)
    most = relevance == relevance.max(1, keepdims=True)
    first = (most & truth).sum(1) / most.sum(1)
    among, auc = np.empty(len(truth)), np.full(len(truth), np.nan)
    for i, (numbers, faulty) in enumerate(zip(relevance, truth, strict=True)):
        k = int(faulty.sum())
        among[i] = faulty[np.argsort(-numbers, kind="stable")[:k]].sum() / max(k, 1)
        if 0 < k < len(faulty):
            auc[i] = _auc(numbers[faulty], numbers[~faulty])
    return Judgement(first, among, auc)


def _auc(of: np.ndarray, others: np.ndarray) -> float:
    """How often the one is above the other; ties count half."""
    return float(((of[:, None] > others).mean() + (of[:, None] >= others).mean()) / 2)


def bootstrap_mean(values: np.ndarray, seed: int = 0, draws: int = 2000) -> Interval:
    """The mean of values that are not NaN, with a 95 % bootstrap interval.

    Where all are alike the bootstrap has nothing to say, and the bound is the rule of three: after m hits
    of m, a share of 1 − 3/m cannot be excluded.
    """
    values = values[~np.isnan(values)]
    mean = float(values.mean())
    if np.ptp(values) == 0:
        gap = min(1.0, 3 / len(values))
        return Interval(mean, max(0.0, mean - gap) if mean > 0 else mean, min(1.0, mean + gap) if mean < 1 else mean)
    means = np.random.default_rng(seed).choice(values, (draws, len(values))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean, float(low), float(high))
