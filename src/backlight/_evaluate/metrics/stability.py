r"""How far an explanation moves when the input hardly does.

.. math:: \max_{\delta} \frac{\lVert R(x + \delta) - R(x) \rVert}{\lVert R(x) \rVert},\qquad
          |\delta_i| \le r\, s_i

with s_i the range of feature i among the judged rows. Source: Yeh et al., "On the (in)fidelity and sensitivity of
explanations", NeurIPS 2019, definition 2 (SENS_MAX, there without the norm in the denominator). Known failure: a
constant explanation is perfectly stable, and the largest of a few random draws is a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from backlight._evaluate.metrics.base import Candidate, Judge, Metric, metric

__all__ = ["MaxSensitivity"]


@metric("max_sensitivity")
@dataclass(frozen=True, slots=True)
class MaxSensitivity(Metric):
    """Largest relative change of the explanation under small changes of the input: less is better.

    Parameters
    ----------
    radius : float
        In ranges of the features.
    samples : int
    """

    radius: float = 0.02
    samples: int = 8
    direction = -1
    needs = frozenset({"explain"})
    faithful = False

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        assert candidate.explain is not None
        x = judge.game.x
        spread = x.amax(0) - x.amin(0)
        rng = judge.rng()
        size = candidate.values.flatten(1).norm(dim=1).numpy()
        worst = np.zeros(len(x))
        for _ in range(self.samples):
            shift = torch.as_tensor(rng.uniform(-1, 1, tuple(x.shape))).to(x.dtype) * self.radius * spread
            moved = (candidate.explain(x + shift).double() - candidate.values).flatten(1).norm(dim=1).numpy()
            worst = np.maximum(worst, np.where(size > 0, moved / np.where(size > 0, size, 1), np.nan))
        return worst
