"""What is normal for one column: a quantile band for numbers, shares for categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Band", "bands_of", "score_text", "standard_scores"]


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """The normal range of one column.

    Attributes
    ----------
    levels : tuple of str
        What codes mean, for a category; empty for a number.
    low, median, high : float
        The 5 %, 50 % and 95 % quantiles of normal rows, for a number.
    least, most : float
        The whole range of normal rows.
    shares : array
        Share of normal rows with each level, for a category.
    missing : float
        Share of normal rows without a value.
    """

    levels: tuple[str, ...]
    low: float
    median: float
    high: float
    least: float
    most: float
    shares: np.ndarray
    missing: float

    @property
    def is_category(self) -> bool:
        """Whether the column holds categories."""
        return bool(self.levels)

    def text(self, code: float) -> str:
        """A cell, for people."""
        if np.isnan(code):
            return "missing"
        if self.levels:
            return self.levels[int(code)] if 0 <= int(code) < len(self.levels) else "never seen"
        return _number(code)

    @property
    def normal(self) -> str:
        """The normal range, for people."""
        if self.levels:
            order = np.argsort(-self.shares, kind="stable")[:3]
            return ", ".join(f"{self.levels[i]} {_percent(self.shares[i])}" for i in order if self.shares[i] > 0)
        return f"{_number(self.low)} to {_number(self.high)}"

    def side(self, code: float) -> str:
        """Where a cell lies: "above", "below", "inside" the band, "rare", "usual" or "missing"."""
        if np.isnan(code):
            return "missing"
        if self.levels:
            known = 0 <= int(code) < len(self.shares)
            return "usual" if known and self.shares[int(code)] >= 0.05 else "rare"
        return "above" if code > self.high else "below" if code < self.low else "inside"


def bands_of(normal: np.ndarray, names: Sequence[str], levels: Mapping[str, Sequence[str]]) -> list[Band]:
    """The normal range of every column, from normal rows of shape (r, d)."""
    bands = []
    for j, name in enumerate(names):
        column = normal[:, j]
        present = column[~np.isnan(column)]
        known = tuple(levels.get(name, ()))
        shares = np.zeros(0)
        if known:
            shares = np.bincount(present[present >= 0].astype(int), minlength=len(known)) / max(1, len(column))
            low = median = high = least = most = float("nan")
        elif len(present):
            low, median, high = (float(q) for q in np.quantile(present, [0.05, 0.5, 0.95]))
            least, most = float(present.min()), float(present.max())
        else:
            low = median = high = least = most = float("nan")
        bands.append(Band(known, low, median, high, least, most, shares, float(np.isnan(column).mean())))
    return bands


def standard_scores(coded: np.ndarray, normal: np.ndarray, is_category: np.ndarray) -> np.ndarray:
    """The plain baseline, |z| of every cell: of the number, or of the indicator that the cell has its level.

    A missing cell gets the score of the indicator that it is missing. Shape (n, d).
    """
    out = np.zeros(coded.shape)
    for j in range(coded.shape[1]):
        cells, usual = coded[:, j], normal[:, j]
        if not is_category[j] and not np.isnan(usual).all():
            spread = np.nanstd(usual)
            out[:, j] = np.abs(cells - np.nanmean(usual)) / spread if spread > 0 else 0.0
        if is_category[j]:
            for level in np.unique(cells[~np.isnan(cells)]):
                out[cells == level, j] = _indicator_score((usual == level).mean(), len(usual))
        gone = np.isnan(cells)
        out[gone, j] = _indicator_score(np.isnan(usual).mean(), len(usual))
    return out


def _indicator_score(share: float, n: int) -> float:
    p = (share * n + 0.5) / (n + 1)
    return float(np.sqrt((1 - p) / p))


def _number(value: float) -> str:
    """Four digits, or all of a whole number's: 0.6213, 12,620, 62,825,648."""
    if 1e4 <= abs(value) < 1e12 or (value == round(value) and abs(value) < 1e12):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.0f}"
    return f"{value:.4g}"


def score_text(value: float) -> str:
    """A score or a part of one, with its sign: +5.46, −312.4, +71,245."""
    size = abs(value)
    return f"{value:+,.0f}" if size >= 1e4 else f"{value:+,.1f}" if size >= 100 else f"{value:+.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"
