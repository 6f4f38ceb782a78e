r"""How rare a score is among normal rows, also beyond the largest of them.

Below the 80 % quantile the share is counted. Above it a generalised Pareto tail, :math:`P(S>u+y)=0.2\,(1+\xi
y/\sigma)^{-1/\xi}` with :math:`\xi\ge 0`, is fitted by maximum likelihood to what lies between the 80 % and the 95 %
quantile; of the rest only the number counts. So a few anomalies among the rows move it little, whatever their scores,
and no single row decides a threshold.

References
----------
Coles, "An Introduction to Statistical Modeling of Extreme Values" (2001), chapter 4; the likelihood of censored
exceedances is that of survival analysis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Tail", "fit_tail"]

# Few rows say little of a shape: without evidence it is a little thinner than an exponential's, as sums of several
# measures are.
_USUAL_SHAPE, _SHAPE_SPREAD = -0.1, 0.2
_BODY, _CENSORED = 0.80, 0.95
_SHAPES = np.array([-0.3, -0.25, -0.2, -0.15, -0.1, -0.05, 1e-9, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5])
_SCALES = np.exp(np.linspace(-2.5, 2.0, 46))


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """The distribution of a score.

    Attributes
    ----------
    scores : array of shape (c,)
        Of the rows that it was fitted on, in ascending order.
    start : float
        Where the fitted tail begins.
    share : float
        How much of the distribution lies above it.
    scale, shape : float
        σ and ξ.
    """

    scores: np.ndarray
    start: float
    share: float
    scale: float
    shape: float

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """The share of normal rows with a score at least this high, above 0."""
        c = len(self.scores)
        below = np.searchsorted(self.scores, scores, side="left")
        counted = np.maximum((c - below + 0.5) / (c + 1), self.share)
        above = np.maximum(scores - self.start, 0.0)
        fitted = np.exp(
            np.log(self.share) - np.log1p(np.maximum(self.shape * above / self.scale, 1e-12 - 1)) / self.shape
        )
        return np.where(scores > self.start, np.maximum(fitted, 1e-300), counted)

    def bits(self, scores: np.ndarray) -> np.ndarray:
        """−log₂ of that share: 10 bits are one row in 1,024."""
        return np.asarray(-np.log2(self.probability(scores)))

    def quantile(self, rate: float) -> float:
        """The score that this share of normal rows exceeds."""
        if rate >= self.share:
            return float(np.quantile(self.scores, 1 - rate))
        return float(self.start + self.scale * np.expm1(self.shape * np.log(self.share / rate)) / self.shape)

    def interval(self, rate: float, seed: int = 0, draws: int = 200) -> tuple[float, float]:
        """A 90 % bootstrap interval of `quantile`."""
        rng = np.random.default_rng(seed)
        several = [fit_tail(rng.choice(self.scores, len(self.scores))).quantile(rate) for _ in range(draws)]
        low, high = np.quantile(several, [0.05, 0.95])
        return float(low), float(high)


def fit_tail(scores: np.ndarray, least_shape: float = -1.0) -> Tail:
    """Fit a `Tail` to the scores of at least ten rows, (c,).

    ``least_shape`` is the least ξ. Where bits are to be counted far beyond all rows it is above zero: no
    table's tail is known to stay thin there, and an absurd value is some dozens of bits, not thousands.
    """
    shapes = _SHAPES[least_shape <= _SHAPES]
    scores = np.sort(scores)
    start, last = (float(q) for q in np.quantile(scores, [_BODY, _CENSORED], method="lower"))
    above = scores[scores > start] - start
    if not len(above) or last <= start:
        spread = float(scores[-1] - scores[0])
        scale = max(spread / 10, 1e-6 * (1 + abs(start)))
        return Tail(scores, float(scores[-1]), 1 / (len(scores) + 1), scale, float(shapes[0]))
    seen = above[above <= last - start]
    beyond = len(above) - len(seen)
    sigma = (_SCALES * max(float(seen.mean()), 1e-300))[:, None]
    xi = shapes[None, :]
    # a tail with ξ < 0 ends: scales for which it would end before the last score that is seen are impossible
    floor = -1 + 1e-9
    log_odds = np.log1p(np.maximum(xi * seen[:, None, None] / sigma, floor)).sum(0)
    likelihood = -len(seen) * np.log(sigma) - (1 + 1 / xi) * log_odds
    likelihood -= beyond / xi * np.log1p(np.maximum(xi * (last - start) / sigma, floor))
    likelihood -= np.abs(xi - _USUAL_SHAPE) / _SHAPE_SPREAD
    likelihood[xi * (last - start) / sigma <= floor] = -np.inf
    i, k = np.unravel_index(int(np.argmax(likelihood)), likelihood.shape)
    return Tail(scores, start, len(above) / len(scores), float(sigma[i, 0]), float(shapes[k]))
