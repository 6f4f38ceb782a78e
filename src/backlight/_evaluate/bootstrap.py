"""Intervals by resampling rows, the same rows for everything that is compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Interval", "Resampling"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over rows with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


class Resampling:
    """Draws of rows with replacement, as weights that sum to one: one product gives all resampled means.

    Efron, Tibshirani, "An introduction to the bootstrap", 1993, chapter 13 (percentile intervals).
    """

    def __init__(self, rows: int, seed: int, draws: int = 2000) -> None:
        rng = np.random.default_rng(seed)
        self._weights = rng.multinomial(rows, np.full(rows, 1 / rows), size=draws) / rows

    def interval(self, values: np.ndarray) -> Interval:
        """The mean over rows of values (n,); rows without a value (NaN) are left out."""
        known = np.isfinite(values)
        if not known.any():
            return Interval(float("nan"), float("nan"), float("nan"))
        weights = self._weights[:, known]
        total = weights.sum(1)
        means = (weights @ values[known])[total > 0] / total[total > 0]
        low, high = np.quantile(means, [0.025, 0.975])
        return Interval(float(values[known].mean()), float(low), float(high))

    def band(self, curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, lower and upper end at each point of curves (n, points)."""
        means = self._weights @ curves
        low, high = np.quantile(means, [0.025, 0.975], axis=0)
        return curves.mean(0), low, high
