"""A reference that anomalies cannot hide in.

Where no table of normal rows is given, the table itself is the reference. A first look ranks its rows by three robust
measures, and the most unusual 5 % are not learnt from, so that a small group of similar anomalies cannot vouch for its
members; every row that is learnt from is judged as if it had not been. The measures are the distance to the row that
is further away than 5 % of all (a group smaller than that cannot make itself dense), a Mahalanobis distance without
the most distant tenth, and the largest single coordinate.

All of it treats rows alike, so clean rows are exchangeable and a share of them stays a share.
"""

from __future__ import annotations

import numpy as np

__all__ = ["TRIMMED", "usual_rows"]

TRIMMED = 0.05
_LEAST_NEIGHBOURS = 10
_CHUNK = 512


def usual_rows(z: np.ndarray, trimmed: float = TRIMMED) -> np.ndarray:
    """Positions of the rows of (n, p) that are left when the most unusual share of them is set aside, in order."""
    n = len(z)
    left = n - int(trimmed * n)
    rank = np.maximum.reduce([_ranks(_sparsity(z)), _ranks(_distance(z)), _ranks(np.abs(z).max(1))])
    # ties are broken by the second and third opinion, not by position
    return np.sort(np.argsort(rank, kind="stable")[:left])


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
