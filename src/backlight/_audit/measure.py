"""How far two explanations differ."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

__all__ = ["between", "rank_correlation", "shares", "top_changed", "total_variation"]


# of the largest explanation: less is rounding, and counts as nothing
_NOTHING = 1e-12


def shares(values: np.ndarray) -> np.ndarray:
    """Relevance as shares of the sum of absolute values, (n, features); a row of zeros, to rounding, is zeros."""
    flat = np.asarray(values, dtype=float).reshape(len(values), -1)
    size = np.abs(flat).sum(1, keepdims=True)
    size = np.where(size > _NOTHING * size.max(initial=0.0), size, 0.0)
    return np.asarray(np.divide(flat, size, out=np.zeros_like(flat), where=size > 0))


def total_variation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """½ ‖R/‖R‖₁ − R′/‖R′‖₁‖₁ of each row, from 0 to 1; beside nothing, something counts ½, and nothing zero."""
    return np.asarray(0.5 * np.abs(shares(first) - shares(second)).sum(1))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row, ties with their mean rank; 1 where both are constant, 0 where one is."""
    ranks = [rankdata(shares(values), axis=1) for values in (first, second)]
    a, b = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    size = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    constant = (np.ptp(ranks[0], axis=1) == 0) & (np.ptp(ranks[1], axis=1) == 0)
    return np.where(constant, 1.0, np.divide((a * b).sum(1), size, out=np.zeros(len(a)), where=size > 0))


def top_changed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether another feature has the largest absolute relevance, with a margin for rounding."""
    a, b = np.abs(shares(first)), np.abs(shares(second))
    winner = b.argmax(1)
    rows = np.arange(len(a))
    return np.asarray(a[rows, winner] < a.max(1) - 1e-9)


def between(values: np.ndarray, classes: np.ndarray, generator: np.random.Generator, pairs: int = 200) -> float:
    """Discriminativity: how much the explanations of two inputs of the same class differ, on average.

    Total variation over random pairs; over any two inputs where no class has two.
    """
    rows = np.arange(len(values))
    same = [np.flatnonzero(classes == c) for c in np.unique(classes)]
    same = [group for group in same if len(group) > 1] or [rows]
    if len(rows) < 2:
        return float("nan")
    weights = np.array([len(group) * (len(group) - 1) for group in same], dtype=float)
    chosen = generator.choice(len(same), size=pairs, p=weights / weights.sum())
    drawn = np.array([generator.choice(same[k], size=2, replace=False) for k in chosen])
    return float(total_variation(values[drawn[:, 0]], values[drawn[:, 1]]).mean())
