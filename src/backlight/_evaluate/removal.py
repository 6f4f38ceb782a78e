"""Removing the named causes: how fast the score falls, beside other rankings.

For every row the cells are replaced by those of a normal row, in the order of a ranking. The curve is the share of the
score's excess over that normal row that is left after k replacements; its mean over k = 1…d is the area, lower is
better. The comparison is paired by row, with a bootstrap interval of the mean difference.

What it is not: a proof that an explanation is right. Flipping rewards any ranking that finds where a row differs from
its replacement, which is why a plain z-score and a random order stand beside it.

References
----------
Samek et al., "Evaluating the visualization of what a deep neural network has learned", IEEE TNNLS 28 (2017).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["RemovalCheck", "removal_check"]

Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class RemovalCheck:
    """What is left of the score after k replacements, for several rankings.

    Attributes
    ----------
    curves : mapping of ranking name to array of shape (d + 1,)
        Mean share of the excess that is left; 1 at k = 0 and 0 at k = d.
    areas : mapping of ranking name to array of shape (rows,)
    differences : mapping of ranking name to (mean, low, high)
        Area of the first ranking minus that of the other: negative is better. 95 % bootstrap interval.
    rows : int
    """

    curves: Mapping[str, np.ndarray]
    areas: Mapping[str, np.ndarray]
    differences: Mapping[str, tuple[float, float, float]]
    rows: int

    def beats(self, other: str) -> bool | None:
        """True or False where the interval excludes zero, None where the two cannot be told apart."""
        _, low, high = self.differences[other]
        return True if high < 0 else False if low > 0 else None


def removal_check(
    score: Scorer, X: np.ndarray, replacement: np.ndarray, rankings: Mapping[str, np.ndarray], seed: int = 0
) -> RemovalCheck | None:
    """Compare rankings by what replacing cells in their order does to the score.

    Parameters
    ----------
    score : function ``(rows, positions) -> (rows,)``
        The score of changed rows; ``positions`` says which original row each came from.
    X, replacement : arrays of shape (n, d)
    rankings : mapping of name to array of shape (n, d)
        Larger is earlier. The first one is compared with the others.
    seed : int

    Returns
    -------
    RemovalCheck, or None if no row scores higher than its replacement
    """
    n, d = X.shape
    positions = np.arange(n)
    start, end = score(X, positions), score(replacement, positions)
    usable = np.flatnonzero(start - end > 1e-9 * np.maximum(1, np.abs(start)))
    if not len(usable):
        return None
    X, replacement, positions = X[usable], replacement[usable], positions[usable]
    span = (start - end)[usable]
    curves, areas = {}, {}
    for name, ranking in rankings.items():
        order = np.argsort(-ranking[usable], axis=1, kind="stable")
        left = np.ones((len(usable), d + 1))
        current = X.copy()
        rows = np.arange(len(usable))
        for k in range(d):
            current[rows, order[:, k]] = replacement[rows, order[:, k]]
            left[:, k + 1] = (score(current, positions) - end[usable]) / span
        curves[name], areas[name] = left.mean(0), left[:, 1:].mean(1)
    first, *others = rankings
    rng = np.random.default_rng(seed)
    differences = {name: _bootstrap(areas[first] - areas[name], rng) for name in others}
    return RemovalCheck(curves, areas, differences, len(usable))


def _bootstrap(values: np.ndarray, rng: np.random.Generator, draws: int = 2000) -> tuple[float, float, float]:
    means = rng.choice(values, (draws, len(values))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)
