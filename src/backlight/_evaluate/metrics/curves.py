r"""Curves of the score while units are taken away, most relevant first (MoRF) or least relevant first (LeRF).

With v(k) the score after k of K units are taken away, and the area A[v] by trapezoids over k/K from 0 to 1:

* deletion = A[MoRF], low where the named units carry the score;
* insertion = A[LeRF]: to take away the least relevant is to put back the most relevant, read from the other end;
* srg = A[LeRF] − A[MoRF], the symmetric relevance gain, independent of the level at which everything is gone;
* abpc = the mean of LeRF − MoRF over the points of the curves after the first.

Sources: Samek et al., "Evaluating the visualization of what a deep neural network has learned", IEEE TNNLS 28, 2017;
Petsiuk, Das, Saenko, "RISE", BMVC 2018; Blücher, Vielhaben, Strodthoff, "Decoupling pixel flipping and occlusion
strategy for consistent XAI benchmarks", TMLR 2024; Schulz et al., "Restricting the flow", ICLR 2020 (abpc).

Known failure: what counts as "taken away" decides rankings. A method whose own reference is the judge's wins by that;
deletion alone, with a fill outside the data, rewards whatever breaks the model first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backlight._evaluate.metrics.base import Candidate, Judge, Metric, metric

__all__ = ["Abpc", "Deletion", "Insertion", "Srg"]


@metric("deletion")
@dataclass(frozen=True, slots=True)
class Deletion(Metric):
    """Area under the score while the most relevant units are taken away first: less is better."""

    direction = -1

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        return judge.area(judge.curve(candidate, "morf"))


@metric("insertion")
@dataclass(frozen=True, slots=True)
class Insertion(Metric):
    """Area under the score while the most relevant units are put in first: more is better."""

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        return judge.area(judge.curve(candidate, "lerf"))


@metric("srg")
@dataclass(frozen=True, slots=True)
class Srg(Metric):
    """Symmetric relevance gain, insertion minus deletion: more is better; 0 for a random order on average."""

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        return np.asarray(judge.area(judge.curve(candidate, "lerf")) - judge.area(judge.curve(candidate, "morf")))


@metric("abpc")
@dataclass(frozen=True, slots=True)
class Abpc(Metric):
    """Area between the perturbation curves, as a mean over their points: more is better."""

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        gap = judge.curve(candidate, "lerf") - judge.curve(candidate, "morf")
        return np.asarray(gap[:, 1:].mean(1))
