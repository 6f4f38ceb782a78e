r"""How much there is to read.

With shares p_i = |R_i| / Σ|R_j| over the K units of a row:

* complexity = −Σ p_i log p_i, in nats (Bhatt, Weller, Moura, "Evaluating and aggregating feature-based model
  explanations", IJCAI 2020, definition 4);
* effective_features = exp(complexity): so many equal units would be as hard to read;
* sparseness = Gini's index of |R|, 0 for equal units and 1 − 1/K for a single one (Chalasani et al., "Concise
  explanations of neural networks using adversarial training", ICML 2020).

Known failure: they never ask the model. A wrong explanation of one unit is perfectly simple.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backlight._evaluate.metrics.base import Candidate, Judge, Metric, metric

__all__ = ["Complexity", "EffectiveFeatures", "Sparseness"]


def _shares(candidate: Candidate) -> np.ndarray:
    size = np.abs(candidate.units.numpy())
    total = size.sum(1, keepdims=True)
    return np.where(total > 0, size / np.where(total > 0, total, 1), np.nan)


@metric("complexity")
@dataclass(frozen=True, slots=True)
class Complexity(Metric):
    """Entropy of the shares of |relevance|, nats: less is easier to read."""

    direction = -1
    faithful = False

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        p = _shares(candidate)
        return np.asarray(-(p * np.log(np.where(p > 0, p, 1))).sum(1))


@metric("effective_features")
@dataclass(frozen=True, slots=True)
class EffectiveFeatures(Metric):
    """exp(entropy): as hard to read as so many equal units; less is easier."""

    direction = -1
    faithful = False

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        return np.asarray(np.exp(Complexity()(judge, candidate)))


@metric("sparseness")
@dataclass(frozen=True, slots=True)
class Sparseness(Metric):
    """Gini's index of |relevance|: more is sparser."""

    faithful = False

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        p = np.sort(_shares(candidate), 1)
        k = p.shape[1]
        # 1 − 2 Σ p_(i) (K − i + ½) / K
        return np.asarray(1 - 2 * (p * (k - np.arange(1, k + 1) + 0.5)).sum(1) / k)
