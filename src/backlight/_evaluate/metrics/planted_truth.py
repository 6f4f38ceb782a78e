r"""Planted truth: whether an explanation names the fault that was put into a row.

Faults of one kind (`backlight.metrics.FAULTS`: a spike, a value that three rows share, values swapped between rows,
several columns shifted) are put into the judged rows, and the explanation of the changed rows is judged by

* hit: 1 where the most relevant unit is a faulty one (a share where several are equally relevant);
* among: the share of the row's k faulty units that is among its k most relevant ones, hit@k;
* auc: the area under the ROC curve of the relevance of faulty units against the others, within the row.

With ``refit=True`` the model is fitted anew to the table with its faults, 2 % of the rows at a time, as an unsupervised
detector meets them: then faults can hide in the model's own reference.

Sources: Emmott et al., "Systematic construction of anomaly detection benchmarks from real data", ODD 2013; Yang, Kim,
"Benchmarking attribution methods with relative feature importance", 2019. Known failure: it speaks of faults of this
kind, and of scores that a fault raises (outlierness); the class of a classifier may not care about a spike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from backlight._evaluate.metrics.base import Candidate, Judge, Metric, metric
from backlight._evaluate.metrics.refit import fitted_again, unfit
from backlight._evaluate.planted import FAULTS, Planted, plant
from backlight._evaluate.planted import judge as judged
from backlight.errors import ArgumentError

__all__ = ["PlantedTruth"]

_MEASURES = {"hit": "first", "among": "among", "auc": "auc"}


@dataclass(frozen=True, slots=True)
class PlantedTruth(Metric):
    """How often the most relevant unit is the planted fault: more is better.

    Parameters
    ----------
    measure : "hit", "among" or "auc"
    refit : bool
        Whether the model is fitted to the table with its faults; then ``draws`` times 2 % of the rows, at least 6, get
        one. Otherwise every row gets one and the model stays as it is.
    draws : int
        How many tables with faults; a row's number is its mean over those in which it has one.
    """

    measure: str = "hit"
    refit: bool = False
    draws: int = 1
    kind: ClassVar[str] = ""
    needs = frozenset({"explain"})
    faithful = False

    def __post_init__(self) -> None:
        if self.measure not in _MEASURES:
            raise ArgumentError(f"measure={self.measure!r} is not known: choose 'hit', 'among' or 'auc'")

    def missing(self, judge: Judge, candidate: Candidate) -> str:
        """What is missing for this candidate, or an empty string."""
        if judge.game.x.dim() != 2:
            return "a table: faults are put into columns"
        if (candidate.remake if self.refit else candidate.explain) is None:
            kind = "a function of (model, X)" if self.refit else "a function"
            return f"a method by name or {kind} instead of ready values, and columns of numbers, since it changes rows"
        return unfit(judge) if self.refit else ""

    def __call__(self, judge: Judge, candidate: Candidate) -> np.ndarray:
        found = np.full((self.draws, len(judge.game)), np.nan)
        for draw in range(self.draws):
            planted = self._planted(judge, draw)
            if planted is not None:
                found[draw, planted.rows] = self._measured(judge, candidate, planted)
        known = np.isfinite(found).sum(0)
        return np.where(known > 0, np.nansum(found, 0) / np.maximum(known, 1), np.nan)

    def _planted(self, judge: Judge, draw: int) -> Planted | None:
        table = judge.game.x.double().numpy()
        categories = np.isin(judge.game.scored.names, judge.game.scored.categories)
        codes = categories if len(categories) == table.shape[1] else None
        count = None if self.refit else len(table)
        return plant(table, self.kind, count=count, categories=codes, seed=judge.seed + draw)

    def _measured(self, judge: Judge, candidate: Candidate, planted: Planted) -> np.ndarray:
        changed = torch.as_tensor(planted.X).to(judge.game.x.dtype)
        explain: Any = candidate.explain
        if self.refit:
            assert candidate.remake is not None
            explain = candidate.remake(fitted_again(judge, changed))
        truth = np.zeros(planted.X.shape)
        truth[planted.rows] = planted.truth
        total = judge.game.units.total
        relevance, faulty = total(explain(changed).double()), total(torch.as_tensor(truth)) > 0
        found = judged(relevance.numpy()[planted.rows], faulty.numpy()[planted.rows])
        return np.asarray(getattr(found, _MEASURES[self.measure]))


for _kind, _fault in FAULTS.items():
    metric(f"planted_{_kind}")(
        type(
            f"Planted{_kind.title()}",
            (PlantedTruth,),
            {
                "kind": _kind,
                "__slots__": (),
                "__module__": __name__,
                "__doc__": f"Planted truth, {_fault.story}: how often the first reason is it; more is better.",
            },
        )
    )
