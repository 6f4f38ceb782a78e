"""How near the smooth pools of neuralized models are to the maxima and minima that they stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from backlight.arguments import checked, numbers_in
from backlight.errors import ArgumentError
from backlight.explanation.faces import as_words

__all__ = ["PoolingLimit", "pooling_limit"]


@dataclass(frozen=True, slots=True)
class PoolingLimit:
    """The largest distance of soft-min pooling from the minimum on some data, and the bound that holds for all.

    Attributes
    ----------
    gamma : float
    gap : float
        max over rows of min_i d_i − softmin_i d_i, never negative.
    bound : float
        log(M)/γ, reached where all M values are equal.
    """

    gamma: float
    gap: float
    bound: float

    def _repr_html_(self) -> str:
        return as_words(repr(self))

    def __bool__(self) -> bool:
        """Whether the bound holds; rounding counts as nothing."""
        return -1e-12 <= self.gap <= self.bound * (1 + 1e-12) + 1e-12


@checked
def pooling_limit(distances: np.ndarray, gamma: float) -> PoolingLimit:
    r"""Compare softmin_i d_i = −(1/γ) log Σ_i exp(−γ d_i) with the minimum.

    .. math:: \min_i d_i - \tfrac{1}{\gamma} \log M \le \mathrm{softmin}_i\, d_i \le \min_i d_i

    since the largest of the M terms is exp(−γ min d), and their sum lies between that and M times that.

    Parameters
    ----------
    distances : array of shape (n, M)
    gamma : float

    Examples
    --------
    >>> import numpy as np
    >>> from backlight.symbolic import pooling_limit
    >>> found = pooling_limit(np.array([[1.0, 1.0], [0.0, 3.0]]), gamma=10.0)
    >>> bool(found), round(found.gap, 6) == round(found.bound, 6)
    (True, True)
    """
    d = numbers_in(distances, "distances").astype(float)
    if d.ndim != 2 or not d.size or not np.isfinite(d).all() or not gamma > 0:
        raise ArgumentError("give finite distances of shape (n, M), and gamma > 0")
    soft = -logsumexp(-gamma * d, axis=1) / gamma
    return PoolingLimit(float(gamma), float((d.min(1) - soft).max()), math.log(d.shape[1]) / gamma)
