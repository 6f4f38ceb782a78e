"""What would have to change: the fewest cells that bring a row to the threshold.

A cell is changed to what it usually is where the rest of the row is as it is: to the mean of the normal rows' values,
each weighted by a Gaussian kernel of the distance in all columns that stay (the mean shift of a kernel density, taken
in the changed columns alone), or to the value of the normal row nearest in those columns, whichever scores lower.
Columns are added one at a time, the one that lowers the score most first, and dropped again where the others suffice.
A category becomes one of its levels, a whole number a whole number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from backlight.anomaly.detectors.density import scott_bandwidth
from backlight.anomaly.encoding import Encoder

__all__ = ["Change", "Proposer", "fewest_changes"]

_MOST_CANDIDATES = 12
_MOST_CHANGES = 8


@dataclass(frozen=True, slots=True)
class Change:
    """The fewest cells found that bring a row to the threshold.

    ``columns`` is empty where the row is below it anyway.
    """

    columns: tuple[int, ...]
    cells: tuple[float, ...]
    excess_after: float


@dataclass(frozen=True, slots=True, eq=False)
class Proposer:
    """Usual cells for some columns of a row, given its others."""

    encoder: Encoder
    normal: np.ndarray
    z: np.ndarray
    gamma: float
    whole: np.ndarray

    @classmethod
    def of(cls, normal: np.ndarray, encoder: Encoder) -> Proposer:
        """From normal rows of shape (r, d)."""
        z = encoder(normal)
        h = scott_bandwidth(*z.shape)
        present = [normal[~np.isnan(normal[:, j]), j] for j in range(normal.shape[1])]
        return cls(encoder, normal, z, 1 / (2 * h * h), np.array([bool((c == np.round(c)).all()) for c in present]))

    def __call__(self, row: np.ndarray, columns: Sequence[int]) -> np.ndarray:
        """Two versions of the row, (2, d), with these columns changed."""
        stays = ~np.isin(self.encoder.column_of, columns)
        z = self.encoder(row[None])[0]
        distance = np.square(z[stays] - self.z[:, stays]).sum(1)
        nearest = int(np.argmin(distance))
        weight = np.exp(-self.gamma * (distance - distance[nearest]))
        out = np.repeat(row[None], 2, axis=0)
        for j in columns:
            out[0, j] = self._usual(j, weight)
            cell = self.normal[nearest, j]
            out[1, j] = out[0, j] if np.isnan(cell) else cell
        return out

    def _usual(self, j: int, weight: np.ndarray) -> float:
        cells = self.normal[:, j]
        there = ~np.isnan(cells)
        transform = self.encoder.transforms[j]
        if transform is None:
            return float(np.argmax(np.bincount(cells[there].astype(int), weight[there])))
        coordinate = int(np.flatnonzero(self.encoder.column_of == j)[0])
        total = weight[there].sum()
        if not total > 0:
            return float(np.median(cells[there]))
        mean = float(transform.undo(np.array((weight[there] * self.z[there, coordinate]).sum() / total)))
        return float(np.round(mean)) if self.whole[j] else mean


def fewest_changes(
    row: np.ndarray, values: np.ndarray, propose: Proposer, excess: Callable[[np.ndarray], np.ndarray]
) -> Change | None:
    """Look for the fewest cells.

    Parameters
    ----------
    row, values : arrays of shape (d,)
        A row, and the contributions of its columns.
    propose : Proposer
    excess : function of rows (k, d) to (k,)
        The score of changed rows, counted from the threshold.

    Returns
    -------
    Change, or None where not even eight cells are enough
    """
    now = float(excess(row[None])[0])
    if now <= 0:
        return Change((), (), now)
    candidates = [int(j) for j in np.argsort(-values, kind="stable")[:_MOST_CANDIDATES]]
    chosen: list[int] = []
    best, after = row, now
    while len(chosen) < min(_MOST_CHANGES, len(candidates)):
        open_ = [j for j in candidates if j not in chosen]
        tried = np.concatenate([propose(row, [*chosen, j]) for j in open_])
        scores = excess(tried)
        at = int(np.argmin(scores))
        chosen.append(open_[at // 2])
        best, after = tried[at], float(scores[at])
        if after <= 0:
            break
    else:
        return None
    while len(chosen) > 1:
        without = [[j for j in chosen if j != left] for left in chosen]
        tried = np.concatenate([propose(row, kept) for kept in without])
        scores = excess(tried)
        at = int(np.argmin(scores))
        if scores[at] > 0:
            break
        chosen, best, after = without[at // 2], tried[at], float(scores[at])
    changed = [j for j in chosen if not _same(best[j], row[j])]
    return Change(tuple(changed), tuple(float(best[j]) for j in changed), after)


def _same(a: float, b: float) -> bool:
    return bool(a == b or (np.isnan(a) and np.isnan(b)))
