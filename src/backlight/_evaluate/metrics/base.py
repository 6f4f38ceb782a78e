"""The protocol of metrics: a number a row, from a judge who can ask the model and a candidate who explains it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from backlight._evaluate.game import Game
from backlight.arguments import checked
from backlight.errors import ArgumentError, listed

__all__ = ["METRICS", "Candidate", "Judge", "Metric", "metric", "read_metrics"]


@dataclass(slots=True, eq=False)
class Candidate:
    """An explanation that is judged.

    Attributes
    ----------
    name : str
    values : Tensor of shape (n, *features), float64
    units : Tensor of shape (n, count)
        The sum of the values within each unit.
    output, base : array of shape (n,), optional
        What the explanation itself says of the score and of the part that belongs to no feature.
    explain : function from rows (n, *features) to values, optional
        Explains other rows; known where the candidate came as a function or an `Explainer`.
    remake : function from a model to such a function, optional
        Explains another model, for randomisation and planted truth.
    retarget : function from targets (n,) to values, optional
        Explains the same rows for another output each.
    """

    name: str
    values: Tensor
    units: Tensor
    output: np.ndarray | None = None
    base: np.ndarray | None = None
    explain: Callable[[Tensor], Tensor] | None = None
    remake: Callable[[Any], Callable[[Tensor], Tensor]] | None = None
    retarget: Callable[[np.ndarray], Tensor] | None = None


@dataclass(slots=True, eq=False)
class Judge:
    """What a metric may ask.

    Attributes
    ----------
    game : Game
    fractions : array
        Of the units, that curves take away; from 0 to 1.
    seed : int
    masks : BoolTensor of shape (n, *features), optional
        Where the object is, for localisation.
    labels : array of shape (n,), optional
        What the rows are, for label randomisation.
    model, X : as the user gave them
    restore : function from rows (n, *features) to the user's kind of table, optional
        None where they cannot be told back, for instance because of columns of text.
    """

    game: Game
    fractions: np.ndarray
    seed: int
    masks: Tensor | None = None
    labels: np.ndarray | None = None
    model: Any = None
    restore: Callable[[Tensor], Any] | None = None
    _curves: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    @property
    def counts(self) -> np.ndarray:
        """How many units are taken away at each point of a curve."""
        return np.unique(np.round(self.fractions * self.game.units.count).astype(int))

    def rng(self) -> np.random.Generator:
        """The same draws for every candidate."""
        return np.random.default_rng(self.seed)

    def order(self, candidate: Candidate) -> np.ndarray:
        """Units by falling relevance, (n, count); ties fall at random, the same way for every candidate."""
        tie = self.rng().random(candidate.units.shape)
        return np.lexsort((tie, -candidate.units.numpy()), axis=1)

    def curve(self, candidate: Candidate, kind: str) -> np.ndarray:
        """F after the first ``counts`` units are taken away, (n, points): "morf" most relevant first, "lerf" least."""
        key = (candidate.name, kind)
        if key not in self._curves:
            order = self.order(candidate)
            rank = order.argsort(1) if kind == "morf" else order[:, ::-1].argsort(1)
            n, points = len(rank), len(self.counts)
            keep = torch.as_tensor(rank[:, None, :] >= self.counts[None, :, None]).flatten(0, 1)
            rows = torch.arange(n).repeat_interleave(points)
            self._curves[key] = self.game.value(rows, keep).view(n, points).numpy()
        return self._curves[key]

    def area(self, curve: np.ndarray) -> np.ndarray:
        """The area under curves by trapezoids, over the share that is taken away from 0 to 1, (n,)."""
        share = self.counts / self.game.units.count
        return np.asarray(np.trapezoid(curve, share, axis=1) / (share[-1] - share[0]))


class Metric(ABC):
    """A number a row.

    Attributes
    ----------
    name : str
    direction : int
        1 where more is better, −1 where less is better, 0 where it describes and does not rank.
    needs : frozenset of str
        "explain", "remake", "retarget", "masks", "labels": what a candidate or the user must bring.
    faithful : bool
        Whether it asks the model: then a random order must not win.
    """

    name: ClassVar[str] = ""
    direction: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset()
    faithful: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        """One number for each row, (n,); NaN where it is not defined."""

    @property
    def sentence(self) -> str:
        """What it is, in one sentence for people: the first of its documentation."""
        return (type(self).__doc__ or self.name).strip().splitlines()[0].rstrip(".")

    def missing(self, judge: Judge, candidate: Candidate) -> str:
        """What is missing for this candidate, or an empty string."""
        if "masks" in self.needs and judge.masks is None:
            return "masks= (where the object is)"
        if "labels" in self.needs and judge.labels is None:
            return "labels= (what the rows are)"
        if "retarget" in self.needs and candidate.retarget is None:
            return "a method by name or a function with a target= of its own, since it explains other outputs"
        if "explain" in self.needs and candidate.explain is None:
            return "an Explainer or a function instead of ready values, since it explains other rows"
        if "remake" in self.needs and candidate.remake is None:
            return "an Explainer or a function of (model, X) instead of ready values, since it explains other models"
        return ""


METRICS: dict[str, type[Metric]] = {}
M = TypeVar("M", bound=type[Metric])


def metric(name: str) -> Callable[[M], M]:
    """Register a metric under a name."""

    def register(cls: M) -> M:
        checked(cls)
        cls.name = name
        METRICS[name] = cls
        return cls

    return register


def read_metrics(given: Any) -> list[Metric]:
    """Names and objects as metrics."""
    found: list[Metric] = []
    for item in [given] if isinstance(given, str | Metric) else given:
        if isinstance(item, Metric):
            found.append(item)
        elif item in METRICS:
            found.append(METRICS[item]())
        else:
            near = get_close_matches(str(item), METRICS, 3)
            choose = f"did you mean {listed(near)}?" if near else f"choose from {listed(sorted(METRICS), 12)}"
            raise ArgumentError(f"metric {item!r} is not known: {choose}")
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise ArgumentError("a metric is named twice")
    return found
