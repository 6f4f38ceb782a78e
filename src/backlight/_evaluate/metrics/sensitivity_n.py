r"""Sensitivity-n: how well the relevance of random sets of units goes with what the score loses without them.

The mean over set sizes n of Pearson's correlation, within a row, of Σ_{i∈S} R_i and f(x) − f(x without S), |S| = n.

Source: Ancona, Ceolini, Öztireli, Gross, "Towards better understanding of gradient-based attribution methods", ICLR
2018, section 4. Known failure: blind to the scale and the sum of relevance, and undefined where sets of one size all
cost the same; such sizes are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backlight._evaluate.metrics.base import Candidate, Judge, Metric, metric
from backlight._evaluate.metrics.infidelity import drops

__all__ = ["SensitivityN"]


@metric("sensitivity_n")
@dataclass(frozen=True, slots=True)
class SensitivityN(Metric):
    """Mean correlation over set sizes: more is better, 1 is perfect.

    Parameters
    ----------
    sizes : int
        How many sizes between 1 and K − 1.
    samples : int
        Sets of each size: random ones, or all where there are no more.
    """

    sizes: int = 4
    samples: int = 16

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        count = judge.game.units.count
        if count < 2:
            return np.full(len(judge.game), np.nan)
        sizes = np.unique(np.linspace(1, count - 1, self.sizes).round().astype(int))
        gone, drop, of_size = drops(judge, sizes, self.samples)
        said = candidate.units.numpy() @ gone.T
        r = np.stack([_correlation(said[:, of_size == size], drop[:, of_size == size]) for size in sizes], axis=1)
        known = np.isfinite(r).sum(1)
        return np.where(known > 0, np.nansum(r, 1) / np.maximum(known, 1), np.nan)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's, a row each; NaN where either is constant up to rounding."""
    level = np.abs(a).max(1), np.abs(b).max(1)
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    sd = np.sqrt((a**2).mean(1)), np.sqrt((b**2).mean(1))
    defined = (sd[0] > 1e-10 * level[0]) & (sd[1] > 1e-10 * level[1])
    return np.asarray(np.divide((a * b).mean(1), sd[0] * sd[1], out=np.full(len(a), np.nan), where=defined))
