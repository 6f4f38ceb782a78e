"""A reference that anomalies cannot hide in.

Where no table of normal rows is given, the table itself is the reference. A first look ranks its rows by three robust
measures, and the most unusual 5 % are not learnt from, so that a small group of similar anomalies cannot vouch for its
members; every row that is learnt from is judged as if it had not been. The measures are the distance to the row that
is further away than 5 % of all (a group smaller than that cannot make itself dense), a Mahalanobis distance without
the most distant tenth, and the largest single coordinate.

A value that at least 1 % of the rows share exactly, a level of a switch or a category, is a habit of the table: at
least half of its rows are learnt from.

All of it treats rows alike, so clean rows are exchangeable and a share of them stays a share.
"""

from __future__ import annotations

import numpy as np

__all__ = ["TRIMMED", "usual_rows"]

TRIMMED = 0.05
_LEAST_NEIGHBOURS = 10
_LEVEL, _RARE = 0.01, 0.15
_LEAST_LEVEL = 5
_CHUNK = 512


def usual_rows(z: np.ndarray, cells: np.ndarray, trimmed: float = TRIMMED) -> np.ndarray:
    """Positions, in order, of the rows that are left when the most unusual share of them is set aside.

    Parameters
    ----------
    z : array of shape (n, p)
        Encoded rows.
    cells : array of shape (n, d)
        The same rows as they are, to see which values they share.
    """
    n = len(z)
    rank = np.maximum.reduce([_ranks(_sparsity(z)), _ranks(_distance(z)), _ranks(np.abs(z).max(1))])
    order = np.argsort(rank, kind="stable")
    kept = np.zeros(n, dtype=bool)
    kept[order[: n - int(trimmed * n)]] = True
    for column in cells.T:
        _readmit(column, order, kept)
    return np.flatnonzero(kept)


def _readmit(column: np.ndarray, order: np.ndarray, kept: np.ndarray) -> None:
    """Keep half of the rows of every rare level of a column, the most usual ones first."""
    levels, code, counts = np.unique(column, return_inverse=True, return_counts=True)
    n = len(column)
    if len(levels) == n:
        return
    rare = np.flatnonzero((counts >= max(_LEAST_LEVEL, _LEVEL * n)) & (counts <= _RARE * n))
    code = code.ravel()
    for level in rare:
        missing = int(np.ceil(counts[level] / 2)) - int(kept[code == level].sum())
        if missing > 0:
            out = order[(code[order] == level) & ~kept[order]]
            kept[out[:missing]] = True


def _ranks(scores: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return np.asarray(rankdata(scores)) / len(scores)


def _sparsity(z: np.ndarray) -> np.ndarray:
    n = len(z)
    k = min(n - 1, max(_LEAST_NEIGHBOURS, int(TRIMMED * n)))
    squares = np.square(z).sum(1)
    out = np.empty(n)
    for start in range(0, n, _CHUNK):
        part = slice(start, start + _CHUNK)
        distance = squares[part, None] + squares - 2 * z[part] @ z.T
        out[part] = np.partition(distance, k, axis=1)[:, k]
    return out


def _distance(z: np.ndarray) -> np.ndarray:
    """The Mahalanobis distance by the covariance of the nine tenths that are nearest by that of all."""
    kept = np.arange(len(z))
    distance = np.zeros(len(z))
    for _ in range(2):
        distance = _mahalanobis(z, kept)
        kept = np.flatnonzero(distance <= np.quantile(distance, 0.9))
    return distance


def _mahalanobis(z: np.ndarray, kept: np.ndarray) -> np.ndarray:
    from backlight.anomaly.detectors.base import Reference
    from backlight.anomaly.detectors.correlation import fit_correlation
    from backlight.anomaly.encoding import Encoder

    p = z.shape[1]
    plain = Encoder((None,) * p, (1,) * p, (False,) * p, np.arange(p))
    return fit_correlation(Reference(plain, z[kept])).score(z, np.full(len(z), -1))
