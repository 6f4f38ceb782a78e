"""`NeuralizedModel`: a classical model, rewritten as a network with the same score."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight.errors import ArgumentError, DataError
from backlight.neural.frontend import FrontEnd
from backlight.neural.softmin_distance import SoftMinDistance
from backlight.rules.softmin import SoftMinRule
from backlight.tables import as_frame

__all__ = ["Head", "NeuralizedModel", "Relevance", "Score"]

# Rows that are encoded at once; the pool cuts them further for the cache.
_BATCH = 8192


@dataclass(frozen=True, slots=True)
class Score:
    """One score of a model, as a function of its outlierness.

    Attributes
    ----------
    name : str
    value : function of the pool's output o, shape (n,)
        The score.
    slope : function of the pool's output o, shape (n,)
        What one nat of relevance counts in this score. Negative where the score says how *normal* a row is: then
        every column has a budget, its share of what is usual, and its relevance is what the row leaves of it.
    reference : function of the original library's arguments
        The same score from the estimator itself: ``reference(estimator, z)`` of transformed rows z.
    budget : float, optional
        What the budgets of a normality score add up to; ``None`` for the mean outlierness of the reference rows.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    reference: Callable[[Any, Any], np.ndarray]
    budget: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """What `neuralize` needs to know of a fitted model that is a soft-min pool over distances.

    Attributes
    ----------
    anchors : array of shape (M, K)
    log_weights : array of shape (M,)
    gamma : float
    scores : mapping of str to Score
        The first one is the default.
    threshold : float, optional
        The model's own alarm line, in the units of the score "outlierness".
    kind : str
        What the model is, for people: "one-class SVM (RBF), 78 support vectors".
    """

    anchors: np.ndarray
    log_weights: np.ndarray
    gamma: float
    scores: Mapping[str, Score]
    threshold: float | None
    kind: str


@dataclass(frozen=True, slots=True, eq=False)
class Relevance:
    """Relevance of the columns of a table, as arrays; what `backlight.explain` dresses.

    Attributes
    ----------
    values : (n, d); output, base_values : (n,)
    annotations : mapping of str to arrays with leading axis n
        ``imputed`` (n, d): the cell was missing. ``self_anchor`` (n,): the row is itself one of the model's
        anchors and was left out. ``score_without_self`` (n,): the score had it not been one. ``no_distance`` (n,): the
        row sits on its anchors, so that no column carries relevance. ``discarded`` (n,): share of the
        row's squared distance from the mean that a PCA discards and no explanation can see.
    entering : mapping of layer name to (n,)
        Relevance that enters each layer, output first; the last entry is what the columns receive.
    slope : (n,)
        What one nat of the pool's relevance counts in the score.
    """

    values: np.ndarray
    output: np.ndarray
    base_values: np.ndarray
    annotations: dict[str, np.ndarray]
    entering: dict[str, np.ndarray]
    slope: np.ndarray

    @staticmethod
    def joined(parts: Sequence[Relevance]) -> Relevance:
        """The relevance of all rows, from that of consecutive batches.

        Raises
        ------
        DataError
            When there is no batch.
        """
        if not parts:
            raise DataError("the table has no rows: give at least one row to explain")
        first = parts[0]
        return Relevance(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.output for part in parts]),
            np.concatenate([part.base_values for part in parts]),
            {key: np.concatenate([part.annotations[key] for part in parts]) for key in first.annotations},
            {key: np.concatenate([part.entering[key] for part in parts]) for key in first.entering},
            np.concatenate([part.slope for part in parts]),
        )


class NeuralizedModel(nn.Module):
    """A classical model as a network: front end, distances, soft-min pool, score.

    Calling it gives the same score as the original library, to rounding. It takes a table of any kind, or a
    tensor of shape (n, columns) as `encode` makes it (for numeric tables: the numbers themselves).

    Attributes
    ----------
    front : FrontEnd
        From columns to the space of the distances.
    pool : SoftMinDistance
    score : Score
    feature_names : tuple of str
    threshold : float or None
        The model's own alarm line, in the units of the score "outlierness".
    """

    def __init__(
        self,
        estimator: Any,
        transform: Callable[[Any], Any],
        front: FrontEnd,
        head: Head,
        score: str | None,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        name = next(iter(head.scores)) if score is None else score
        if name not in head.scores:
            known = ", ".join(repr(known) for known in head.scores)
            raise ArgumentError(f"score={score!r} is not a score of this {head.kind}: choose from {known}")
        self.front = front
        self.pool = SoftMinDistance(head.anchors, head.log_weights, head.gamma, front.pullback, dtype)
        self.score = head.scores[name]
        self.threshold = head.threshold
        self.kind = head.kind
        self.dtype = dtype
        self._estimator = estimator
        self._transform = transform
        self._usual: dict[SoftMinRule, np.ndarray] = {}

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The table's columns."""
        return self.front.names

    def extra_repr(self) -> str:
        """What the module says of itself when printed."""
        return f"{self.kind}, score={self.score.name!r}, columns={len(self.feature_names)}"

    def fingerprint(self) -> str:
        """SHA-256 over everything that was learnt, for provenance."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        return digest.hexdigest()

    def forward(self, x: Any) -> Tensor:
        """The score of each row, shape (n,)."""
        return self.score.value(self.pool(self._embed(self.encode(x))))

    def encode(self, X: Any) -> Tensor:
        """A table as the numbers that the network takes, shape (n, columns).

        Numbers stay as they are, missing cells become NaN, categories become codes. A tensor is taken as encoded.
        """
        return (X if isinstance(X, Tensor) else self.front.encode(as_frame(X))).to(self.pool.center)

    def _embed(self, coded: Tensor) -> Tensor:
        if coded.ndim != 2 or coded.shape[1] != len(self.feature_names):
            raise DataError(
                f"the network takes a tensor of shape (rows, {len(self.feature_names)}), not {tuple(coded.shape)}"
            )
        z: Tensor = self.front(coded)
        far = ~torch.isfinite((z.detach() - self.pool.center).square().sum(1) * self.pool.gamma)
        if bool(far.any()):
            row = int(torch.nonzero(far)[0])
            self.front.check_finite(coded[row], row)
            raise DataError(
                f"row {row} is so far from the data that its squared distance overflows {self.dtype}: "
                "check its values, or scale the columns first"
            )
        return z

    def reference_score(self, X: Any) -> np.ndarray:
        """The same score, computed by the original library: what calling the network must equal.

        Scikit-learn is given float64, whatever the precision of X. A one-class SVM's score far from the data has no
        digits left (it is a sum minus the offset plus the offset); there the logarithm is taken of the same sum in
        extended range, by SciPy's distances and log-sum-exp.
        """
        return self.score.reference(self._estimator, self._transform(self.front.native(as_frame(X))))

    def relevance(self, X: Any, rule: SoftMinRule, reference: Any = None, own: np.ndarray | None = None) -> Relevance:
        """Relevance of every column for every row.

        Parameters
        ----------
        X : table of shape (n, d)
        own : array of int of shape (n,), optional
            Which anchor each row is, −1 for none, where the caller knows; otherwise equal rows are taken as the same.
        rule : SoftMinRule
        reference : table, optional
            Rows that count as usual, for scores that say how normal a row is; by default the model's own anchors.
        """
        coded = self.encode(X)
        known = None if own is None else torch.as_tensor(own, device=coded.device)
        batches = [slice(i, i + _BATCH) for i in range(0, len(coded), _BATCH)]
        out = Relevance.joined(
            [self._relevance(coded[rows], rule, None if known is None else known[rows]) for rows in batches]
        )
        return out if out.slope[0] > 0 else self._against_budget(out, rule, reference)

    @torch.no_grad()
    def _relevance(self, coded: Tensor, rule: SoftMinRule, own: Tensor | None) -> Relevance:
        z = self._embed(coded)
        got = self.pool.relevance(z, rule, own)
        output, slope = self.score.value(got.score), self.score.slope(got.score)
        annotations = {
            "self_anchor": got.self_anchor,
            "no_distance": got.no_distance,
            "score_without_self": self.score.value(got.others),
            "imputed": self.front.missing(coded),
        }
        discarded = self.front.discarded(coded)
        if discarded is not None:
            annotations["discarded"] = discarded
        entering = {
            f"score: {self.score.name}": output,
            "soft-min pool": slope * got.score,
            "distance": slope * got.carried,
            "columns": slope * got.values.sum(1),
        }
        return Relevance(
            _array(slope[:, None] * got.values),
            _array(output),
            _array(output - slope * got.carried),
            {key: _array(value) for key, value in annotations.items()},
            {key: _array(value) for key, value in entering.items()},
            _array(slope),
        )

    def _against_budget(self, out: Relevance, rule: SoftMinRule, reference: Any) -> Relevance:
        """Turn "how far" into "what is left of the usual": R = |slope| · (budget − outlier relevance)."""
        usual = self._usual_relevance(rule) if reference is None else self._mean_relevance(reference, rule)
        budget = usual
        if self.score.budget is not None:
            total = float(usual.sum())
            even = np.full_like(usual, self.score.budget / len(usual))
            budget = usual * (self.score.budget / total) if total > 0 else even
        slope = np.abs(out.slope)
        given = slope * budget.sum()
        entering = {key: value + given * (index > 0) for index, (key, value) in enumerate(out.entering.items())}
        values = out.values + slope[:, None] * budget
        return Relevance(values, out.output, out.base_values - given, out.annotations, entering, out.slope)

    @torch.no_grad()
    def score_without_self(self, X: Any, own: np.ndarray) -> np.ndarray:
        """The score of rows, each with one anchor left out: ``own`` from `self_index`, −1 for none."""
        z = self._embed(self.encode(X))
        return _array(self.score.value(self.pool.score_without(z, torch.as_tensor(own, device=z.device))))

    @torch.no_grad()
    def self_index(self, X: Any) -> np.ndarray:
        """Which anchor each row itself is, or −1."""
        return _array(self.pool.self_index(self._embed(self.encode(X)) - self.pool.center))

    @torch.no_grad()
    def embed(self, X: Any) -> np.ndarray:
        """Rows in the space of the distances, (n, K)."""
        return _array(self._embed(self.encode(X)))

    @torch.no_grad()
    def _mean_relevance(self, X: Any, rule: SoftMinRule) -> np.ndarray:
        z = self._embed(self.encode(X))
        return _array(self.pool.relevance(z, rule).values.mean(0))

    @torch.no_grad()
    def _usual_relevance(self, rule: SoftMinRule) -> np.ndarray:
        if rule not in self._usual:
            z = self.pool.anchors + self.pool.center
            self._usual[rule] = _array(self.pool.relevance(z, rule).values.mean(0))
        return self._usual[rule]


def _array(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().cpu())
