"""A sum of trees over choices: for every column the pieces on which no split changes, by the model's own arithmetic.

A column of numbers comes apart into intervals. Where its elements rise or fall with it, the last number on one side of
every threshold is found by bisection over the floating-point numbers themselves, so that every point of an interval,
its ends included, falls on the side that is said. Trees that compare in single precision get ends in single precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backlight._prototype.ensemble import EnsembleSubject
from backlight._prototype.problem import Problem
from backlight.errors import Infeasible

__all__ = ["Choice", "Splits", "choices"]

# No number of a table is as large; single precision ends at 3.4e38.
_FAR = 1e30


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """One column, or a one-hot group of columns.

    Attributes
    ----------
    columns : list of int
    low, high : (K, columns)
        The K pieces; ordered where it is one column of numbers.
    whole : bool
        Whether its values are whole numbers.
    """

    columns: list[int]
    low: np.ndarray
    high: np.ndarray
    whole: bool = False

    def __len__(self) -> int:
        return len(self.low)

    def at(self, center: np.ndarray) -> np.ndarray:
        """The points of the pieces that are nearest to a centre, (K, columns)."""
        wanted = center[self.columns]
        return np.asarray(np.clip(np.round(wanted) if self.whole else wanted, self.low, self.high))

    def some(self, keep: np.ndarray) -> Choice:
        """Some of the pieces."""
        return Choice(self.columns, self.low[keep], self.high[keep], self.whole)


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """Choices, and on which of them each inner node of the trees sends rows to the left.

    Attributes
    ----------
    choices : list of Choice
    node : dict of inner node to (choice, (K,) array of bool)
    """

    choices: list[Choice]
    node: dict[int, tuple[int, np.ndarray]]


def choices(problem: Problem, apart: np.ndarray | None = None) -> Splits:
    """The choices of a problem within its bounds, whole numbers and groups.

    Parameters
    ----------
    problem : Problem
    apart : (d,), optional
        Numbers that are pieces of their own: what columns have that do not change.

    Raises
    ------
    Infeasible
        A column has no piece within its bounds.
    """
    subject, region = problem.subject, problem.region
    assert isinstance(subject, EnsembleSubject)
    base = _base(subject)
    grouped = {i: g for g, group in enumerate(region.groups) for i in group}
    ends = _ends(subject, base)
    found: list[Choice] = []
    for group in region.groups:
        rows = np.eye(len(group))
        inside = ((rows >= region.low[group]) & (rows <= region.high[group])).all(1)
        found.append(Choice(list(group), rows[inside], rows[inside]))
    for i in range(problem.dimension):
        if i in grouped:
            continue
        mine = ends.get(i, np.zeros((0, 2)))
        if apart is not None:
            c = apart[i]
            mine = np.concatenate([mine, [[np.nextafter(c, -np.inf), c], [c, np.nextafter(c, np.inf)]]])
            mine = mine[np.argsort(mine[:, 1], kind="stable")]
        low, high = _pieces(subject, i, mine, region.low[i], region.high[i])
        whole = i in region.integers
        if whole:
            low, high = np.ceil(low), np.floor(high)
        keep = low <= high
        found.append(Choice([i], low[keep, None], high[keep, None], whole))
    for choice in found:
        if not len(choice):
            raise Infeasible(f"no value of {problem.names[choice.columns[0]]!r} satisfies its bounds and constraints")
    return Splits(found, _sides(subject, found, base))


def _base(subject: EnsembleSubject) -> np.ndarray:
    """A row that the steps before the trees take."""
    base = np.zeros(len(subject.names or ()))
    for group in subject.groups:
        base[group[0]] = 1.0
    for j, levels in subject.levels.items():
        base[subject.places[j][0]] = levels[0]
    return base


def _pieces(
    subject: EnsembleSubject, i: int, ends: np.ndarray, least: float, most: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest numbers of a column's pieces within its bounds."""
    j = next(j for j, places in enumerate(subject.places) if i in places)
    if j in subject.levels:
        levels = subject.levels[j]
        inside = levels[(levels >= least) & (levels <= most)]
        return inside, inside
    low, high = np.append(-np.inf, ends[:, 1]), np.append(ends[:, 0], np.inf)
    return np.maximum(low, least), np.minimum(high, most)


def _ends(subject: EnsembleSubject, base: np.ndarray) -> dict[int, np.ndarray]:
    """Of each column of numbers the last number before each change and the first one after it, (changes, 2)."""
    table, owner = subject.trees.table, subject.trees.owner
    inner = np.flatnonzero(~table.leaf & (table.level_row < 0) if table.categorical else ~table.leaf)
    pairs = np.unique(np.stack([table.feature[inner], table.threshold[inner]], 1), axis=0)
    e, threshold = pairs[:, 0].astype(int), pairs[:, 1]
    place = np.array([subject.places[j][0] for j in owner[e]], dtype=int)
    numeric = np.array([j not in subject.known and j not in subject.levels for j in owner[e]], dtype=bool)
    e, threshold, place = e[numeric], threshold[numeric], place[numeric]
    if not len(e):
        return {}

    def left(x: np.ndarray) -> np.ndarray:
        rows = np.tile(base, (len(e), 1))
        rows[np.arange(len(e)), place] = x
        return np.asarray(subject.elements(rows)[np.arange(len(e)), e] <= threshold)

    start = left(np.full(len(e), -_FAR))
    changes = start != left(np.full(len(e), _FAR))
    # zero first: half of the range fits into an integer
    same = left(np.zeros(len(e))) == start
    low = np.where(same, 0, _ordered(np.full(len(e), -_FAR)))
    high = np.where(same, _ordered(np.full(len(e), _FAR)), 0)
    while bool((high - low > 1).any()):
        middle = low + (high - low) // 2
        before = left(_number(middle)) == start
        low, high = np.where(before, middle, low), np.where(before, high, middle)
    below, above = _number(low), _number(high)
    if table.single:
        below, above = _narrowed(below, above)
    found = {}
    for i in np.unique(place[changes]):
        here = changes & (place == i)
        ends = np.stack([below[here], above[here]], 1)
        found[int(i)] = ends[np.unique(ends[:, 0], return_index=True)[1]]
    return found


def _ordered(x: np.ndarray) -> np.ndarray:
    """Doubles as integers in the same order, next to each other where the doubles are."""
    bits = np.asarray(x, dtype=np.float64).view(np.int64)
    return np.where(bits < 0, np.int64(-(2**63)) - bits, bits)


def _number(k: np.ndarray) -> np.ndarray:
    """The way back from `_ordered`."""
    return np.where(k < 0, np.int64(-(2**63)) - k, k).astype(np.int64).view(np.float64)


def _narrowed(below: np.ndarray, above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends moved apart to single-precision numbers, so that rows may be kept in that precision."""
    down, up = below.astype(np.float32), above.astype(np.float32)
    down = np.where(down.astype(float) > below, np.nextafter(down, np.float32(-np.inf)), down)
    up = np.where(up.astype(float) < above, np.nextafter(up, np.float32(np.inf)), up)
    return down.astype(float), up.astype(float)


def _sides(subject: EnsembleSubject, found: Sequence[Choice], base: np.ndarray) -> dict[int, tuple[int, np.ndarray]]:
    """On which pieces each inner node sends rows to the left."""
    table, owner = subject.trees.table, subject.trees.owner
    choice_of = {i: k for k, choice in enumerate(found) for i in choice.columns}
    inner = np.flatnonzero(~table.leaf)
    mine = np.array([choice_of[subject.places[j][0]] for j in owner[table.feature[inner]]], dtype=int)
    sides: dict[int, tuple[int, np.ndarray]] = {}
    for k, choice in enumerate(found):
        nodes = inner[mine == k]
        if not len(nodes):
            continue
        rows = np.tile(base, (len(choice), 1))
        rows[:, choice.columns] = choice.at(np.zeros(len(base)))
        e = subject.elements(rows)[:, table.feature[nodes]]
        left = table.goes_left(e, np.broadcast_to(nodes, e.shape))
        sides |= {int(node): (k, left[:, n]) for n, node in enumerate(nodes)}
    return sides
