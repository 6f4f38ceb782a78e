"""How far two explanations say the same: the correlation of their ranks, and the overlap of their first units."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

__all__ = ["overlap", "spearman"]


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation row by row, (n,); 0 where either is constant. Ties get their mean rank."""
    ra, rb = (rankdata(v, axis=1) for v in (a, b))
    ra, rb = ra - ra.mean(1, keepdims=True), rb - rb.mean(1, keepdims=True)
    size = np.sqrt((ra**2).sum(1) * (rb**2).sum(1))
    return np.asarray(np.divide((ra * rb).sum(1), size, out=np.zeros(len(a)), where=size > 0))


def overlap(a: np.ndarray, b: np.ndarray, k: int) -> np.ndarray:
    """Share of the k most relevant units that two explanations have in common, (n,)."""
    first = [np.argsort(-v, axis=1, kind="stable")[:, :k] for v in (a, b)]
    return np.asarray((first[0][:, :, None] == first[1][:, None, :]).any(2).mean(1))
