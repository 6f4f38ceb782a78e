r"""Whether relevance is where the object is, for data with masks.

* relevance_mass = Σ of positive relevance inside the mask / Σ of positive relevance;
* relevance_rank = share of the mask's |mask| units that are among the |mask| most relevant ones;
* pointing = 1 where the most relevant unit lies in the mask.

A unit is in the mask where at least half of its features are. Sources: Arras, Osman, Samek, "CLEVR-XAI", Information
Fusion 81, 2022 (mass and rank); Zhang et al., "Top-down neural attention by excitation backprop", IJCV 2018 (pointing).
Known failure: a model may rightly use what lies outside of the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from backlight._evaluate.metrics.base import Candidate, Judge, Metric, metric

__all__ = ["Pointing", "RelevanceMass", "RelevanceRank"]


def _inside(judge: Judge) -> np.ndarray:
    assert judge.masks is not None
    units = judge.game.units
    masks = judge.masks.double()
    share = units.total(masks) / units.total(torch.ones_like(masks))
    return (share >= 0.5).numpy()


@metric("relevance_mass")
@dataclass(frozen=True, slots=True)
class RelevanceMass(Metric):
    """Share of positive relevance inside the mask: more is better."""

    needs = frozenset({"masks"})
    faithful = False

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        positive = np.maximum(candidate.units.numpy(), 0)
        total = positive.sum(1)
        return np.where(total > 0, (positive * _inside(judge)).sum(1) / np.where(total > 0, total, 1), np.nan)


@metric("relevance_rank")
@dataclass(frozen=True, slots=True)
class RelevanceRank(Metric):
    """Share of the mask found among as many most relevant units: more is better."""

    needs = frozenset({"masks"})
    faithful = False

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        inside, rank = _inside(judge), judge.order(candidate).argsort(1)
        size = inside.sum(1)
        hit = (inside & (rank < size[:, None])).sum(1)
        return np.where(size > 0, hit / np.maximum(size, 1), np.nan)


@metric("pointing")
@dataclass(frozen=True, slots=True)
class Pointing(Metric):
    """Whether the most relevant unit lies in the mask: more is better."""

    needs = frozenset({"masks"})
    faithful = False

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        first = judge.order(candidate)[:, 0]
        inside = _inside(judge)
        return np.where(inside.any(1), inside[np.arange(len(first)), first].astype(float), np.nan)
