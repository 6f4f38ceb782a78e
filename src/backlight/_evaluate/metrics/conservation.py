r"""Whether relevance adds up.

* conservation = |output − base − Σ R| / |output|, by what the explanation itself says of its score and base;
* completeness = |f(x) − f(reference) − Σ R| / (|f(x) − f(reference)| + Σ|R|), against the judge's own reference: from 0
  to 1, and 0 for integrated gradients and Shapley values of the same reference (Sundararajan, Taly, Yan, "Axiomatic
  attribution for deep networks", ICML 2017).

Known failure: a sum can be right while every term is wrong. It is a check, not a ranking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backlight._evaluate.metrics.base import Candidate, Judge, Metric, metric

__all__ = ["Completeness", "Conservation"]


@metric("conservation")
@dataclass(frozen=True, slots=True)
class Conservation(Metric):
    """Share of the score that the explanation leaves unsaid, by its own account: less is better."""

    direction = -1
    faithful = False

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        if candidate.output is None or candidate.base is None:
            return np.full(len(candidate.units), np.nan)
        gap = np.abs(candidate.output - candidate.base - candidate.units.numpy().sum(1))
        size = np.abs(candidate.output)
        return np.where(size > 0, gap / np.where(size > 0, size, 1), np.where(gap > 0, np.inf, 0.0))


@metric("completeness")
@dataclass(frozen=True, slots=True)
class Completeness(Metric):
    """Share that does not add up to f(x) − f(reference): less is better."""

    direction = -1
    faithful = False

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        r = candidate.units.numpy()
        difference = (judge.game.whole - judge.game.empty).numpy()
        size = np.abs(difference) + np.abs(r).sum(1)
        return np.where(size > 0, np.abs(difference - r.sum(1)) / np.where(size > 0, size, 1), 0.0)
