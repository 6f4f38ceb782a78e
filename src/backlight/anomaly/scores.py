"""The scores of all rows, kept whole while they are few and as counts of rounded values where they are many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["ScoreSummary", "Tally", "summary_of"]

_MOST_KEPT = 1 << 20
# Scores beyond those are rounded to so many significant bits: to 0.05 %.
_BITS = 10
_LEAST = 2.0**-20


@dataclass(frozen=True, slots=True, eq=False)
class ScoreSummary:
    """What is said of the scores of all rows, counted from the threshold.

    Attributes
    ----------
    rows, above : int
        How many there are, and how many lie above the threshold.
    least, most : float
    values : array of shape (k,)
    counts : array of int of shape (k,), optional
        How many rows have each value; None where there is one a row.
    """

    rows: int
    above: int
    least: float
    most: float
    values: np.ndarray
    counts: np.ndarray | None = None


def summary_of(excess: np.ndarray) -> ScoreSummary:
    """Of the scores themselves, (n,)."""
    return ScoreSummary(len(excess), int((excess > 0).sum()), float(excess.min()), float(excess.max()), excess)


class Tally:
    """Scores that come batch by batch, and the positions of the highest ones.

    Parameters
    ----------
    most : int
        How many of the highest are kept; of equal scores the first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[np.ndarray] = []
        self._values, self._counts = np.empty(0), np.empty(0, dtype=np.int64)
        self.rows = self.above = 0
        self.least, self.most = np.inf, -np.inf
        self._top, self._top_scores = np.empty(0, dtype=np.int64), np.empty(0)

    def add(self, start: int, excess: np.ndarray) -> None:
        """The scores of rows ``start``, ``start + 1``, …: each batch behind the one before."""
        self.rows += len(excess)
        self.above += int((excess > 0).sum())
        self.least, self.most = min(self.least, float(excess.min())), max(self.most, float(excess.max()))
        self._kept.append(excess)
        if sum(map(len, self._kept)) > _MOST_KEPT or len(self._values):
            self._round()
        scores = np.concatenate([self._top_scores, excess])
        places = np.concatenate([self._top, np.arange(start, start + len(excess))])
        best = np.argsort(-scores, kind="stable")[: self._most]
        self._top, self._top_scores = places[best], scores[best]

    @property
    def top(self) -> np.ndarray:
        """Positions of the highest scores, highest first."""
        return self._top

    @property
    def summary(self) -> ScoreSummary:
        """What there is so far."""
        if not len(self._values):
            return ScoreSummary(self.rows, self.above, self.least, self.most, np.concatenate(self._kept))
        return ScoreSummary(self.rows, self.above, self.least, self.most, self._values, self._counts)

    def _round(self) -> None:
        fraction, exponent = np.frexp(np.concatenate(self._kept))
        rounded = np.ldexp(np.round(np.ldexp(fraction, _BITS)), exponent - _BITS)
        small = np.abs(rounded) < _LEAST
        rounded[small] = np.where(rounded[small] > 0, _LEAST, 0.0)
        values, counts = np.unique(rounded, return_counts=True)
        merged, place = np.unique(np.concatenate([self._values, values]), return_inverse=True)
        total = np.bincount(place.ravel(), np.concatenate([self._counts, counts]), len(merged))
        self._values, self._counts, self._kept = merged, total.astype(np.int64), []
