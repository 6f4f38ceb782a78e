r"""Whether the explanation changes when the model is another one.

* model_randomisation: Spearman's correlation of |R| before and after the parameters are drawn anew (permuted within
  each tensor), from the output's layer downwards, averaged over the stages of the cascade;
* label_randomisation: the same for the model fitted anew to permuted labels;
* class_randomisation: Spearman's correlation of R for the row's own output and for another one, drawn at random.

Less is better. Sources: Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018; Sixt, Granz, Landgraf,
"When explanations lie", ICML 2020 (also for classes). Known failure: they separate explanations that
ignore the model from those that read it, and do not rank the latter: noise has a perfect score. With two classes an
explanation of the margin is its own mirror image, −1.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from backlight._evaluate.metrics.agreement import spearman
from backlight._evaluate.metrics.base import Candidate, Judge, Metric, metric
from backlight._evaluate.metrics.refit import fitted_again, unfit

__all__ = ["ClassRandomisation", "LabelRandomisation", "ModelRandomisation", "cascade"]


def cascade(module: nn.Module, stages: int, seed: int) -> list[nn.Module]:
    """Copies of a module whose last parameters, then more and more, are permuted within each tensor."""
    names = [name for name, _ in module.named_parameters()][::-1]
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    generator = torch.Generator().manual_seed(seed)
    current, made = copy.deepcopy(module), []
    ends = np.unique(np.linspace(1, len(layers), min(stages, len(layers))).round().astype(int))
    for k, layer in enumerate(layers, 1):
        with torch.no_grad():
            for name, value in current.named_parameters():
                if name.rpartition(".")[0] == layer:
                    order = torch.randperm(value.numel(), generator=generator)
                    value.copy_(value.flatten()[order].view_as(value))
        if k in ends:
            made.append(copy.deepcopy(current))
    return made


@metric("model_randomisation")
@dataclass(frozen=True, slots=True)
class ModelRandomisation(Metric):
    """Mean rank correlation with explanations of randomised copies of a network: less is better.

    Parameters
    ----------
    stages : int
        How many steps of the cascade from the output to the input.
    """

    stages: int = 3
    direction = -1
    needs = frozenset({"remake"})
    faithful = False

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        assert candidate.remake is not None
        module: Any = getattr(judge.game.scored, "module", None)
        if not isinstance(module, nn.Module):
            return np.full(len(judge.game), np.nan)
        before = candidate.units.abs().numpy()
        found = []
        for other in cascade(module, self.stages, judge.seed):
            values = candidate.remake(other)(judge.game.x).double()
            found.append(spearman(before, judge.game.units.total(values).abs().numpy()))
        return np.asarray(np.mean(found, axis=0))


@metric("label_randomisation")
@dataclass(frozen=True, slots=True)
class LabelRandomisation(Metric):
    """Mean rank correlation with explanations of the model fitted to permuted labels: less is better.

    Parameters
    ----------
    refit : function of (X, labels) to a model, optional
        How the model is fitted; by default a copy of a scikit-learn estimator is.
    draws : int
        How many permutations.
    """

    refit: Callable[[Any, np.ndarray], Any] | None = None
    draws: int = 2
    direction = -1
    needs = frozenset({"remake", "labels"})
    faithful = False

    def missing(self, judge: Judge, candidate: Candidate) -> str:
        """What is missing for this candidate, or an empty string."""
        return Metric.missing(self, judge, candidate) or ("" if self.refit is not None else unfit(judge))

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        assert candidate.remake is not None
        assert judge.labels is not None
        assert judge.restore is not None
        rng, x = judge.rng(), judge.game.x
        before, found = candidate.units.abs().numpy(), []
        for _ in range(self.draws):
            labels = rng.permutation(judge.labels)
            other = fitted_again(judge, x, labels) if self.refit is None else self.refit(judge.restore(x), labels)
            values = candidate.remake(other)(x).double()
            found.append(spearman(before, judge.game.units.total(values).abs().numpy()))
        return np.asarray(np.mean(found, axis=0))


@metric("class_randomisation")
@dataclass(frozen=True, slots=True)
class ClassRandomisation(Metric):
    """Rank correlation with the explanation of another output: less is better."""

    direction = -1
    needs = frozenset({"retarget"})
    faithful = False

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        assert candidate.retarget is not None
        own, count = judge.game.scored.own_outputs()
        if own is None or count < 2:
            return np.full(len(judge.game), np.nan)
        other = (own + judge.rng().integers(1, count, len(own))) % count
        values = candidate.retarget(other).double()
        return spearman(candidate.units.numpy(), judge.game.units.total(values).numpy())
