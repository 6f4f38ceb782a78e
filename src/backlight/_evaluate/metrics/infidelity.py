r"""Infidelity: how badly relevance predicts what happens when random units are taken away together.

.. math:: \mathrm{INFD} = \frac{\mathbb E_S\bigl(\beta \sum_{i \in S} R_i - (f(x) - f(x_{\setminus S}))\bigr)^2}
          {\mathbb E_S (f(x) - f(x_{\setminus S}))^2}

over sets S whose sizes are spread evenly over 1 … K − 1 (all sets of a size where they are few, so that the
expectation is exact), with β the best factor of the row where ``scaled`` is set
(infidelity asks for a proportion, and gradients have no scale), else 1. The denominator makes rows and models
comparable; without it this is equation 1 of Yeh et al., "On the (in)fidelity and sensitivity of explanations", NeurIPS
2019, with the perturbation I = x − x_{\S} and contributions instead of gradients, so that Σ_S R_i stands for Iᵀφ.

Known failure: dominated by large sets, where interactions are strongest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from backlight._evaluate.metrics.base import Candidate, Judge, Metric, metric

__all__ = ["Infidelity", "drops"]


def drops(judge: Judge, sizes: np.ndarray, per_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sets that are taken away, (sets, count), what the score loses by each, (n, sets), and their sizes, (sets,)."""
    keep, of_size = judge.game.sets(sizes, per_size, judge.rng())
    n = len(judge.game)
    rows = torch.arange(n).repeat_interleave(len(keep))
    values = judge.game.value(rows, keep.repeat(n, 1)).view(n, len(keep))
    return (~keep).numpy(), (judge.game.whole[:, None] - values).numpy(), of_size


@metric("infidelity")
@dataclass(frozen=True, slots=True)
class Infidelity(Metric):
    """Share of the squared change of the score that relevance does not predict: less is better, 0 is perfect.

    Parameters
    ----------
    samples : int
        Sets, spread over the sizes; a size that has no more sets than its part is enumerated.
    scaled : bool
        Whether relevance may be multiplied by the factor that suits it best, one a row.
    """

    samples: int = 64
    scaled: bool = False
    direction = -1

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        count = judge.game.units.count
        sizes = np.unique(np.linspace(1, max(1, count - 1), min(self.samples, max(1, count - 1))).round().astype(int))
        gone, drop, of_size = drops(judge, sizes, max(1, self.samples // len(sizes)))
        # every size counts the same, however many sets of it there are
        weight = 1 / (of_size[:, None] == of_size).sum(1)
        said = candidate.units.numpy() @ gone.T
        if self.scaled:
            square = (said**2) @ weight
            factor = np.divide((said * drop) @ weight, square, out=np.zeros_like(square), where=square > 0)
            said = said * factor[:, None]
        total = (drop**2) @ weight
        wrong = ((said - drop) ** 2) @ weight
        return np.where(total > 0, wrong / np.where(total > 0, total, 1), np.nan)
