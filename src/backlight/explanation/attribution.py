"""What a model says of one batch, and the one way to put batches together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backlight.errors import DataError
from backlight.explanation.ledger import Ledger

__all__ = ["Attribution"]


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """Attributions of the rows of one batch, as arrays.

    Attributes
    ----------
    values : array of shape (n, *features), for several targets (n, *features, targets)
    output, base_values : arrays of shape (n,), for several targets (n, targets)
    names : tuple of str
        The targets.
    target : str
        What was explained, in words.
    ledger : Ledger, optional
    annotations : mapping of str to arrays with leading axis n
        Classical models: ``imputed`` (n, d): the cell was missing. ``self_anchor`` (n,): the row is itself one of the
        model's anchors and was left out. ``score_without_self`` (n,): the score had it not been one. ``no_distance``
        (n,): the row sits on its anchors, so that no column carries relevance. ``discarded`` (n,): share of the row's
        squared distance from the mean that a PCA discards and no explanation can see.
    layers : mapping of str to arrays of shape (n, *units), for several targets (n, *units, targets)
        Relevance at the places that were asked for.
    data : array of shape (n, *features), optional
        The inputs, in the user's units.
    feature_names, dims : tuple of str
        Of the axes of ``values``.
    method : str
        How it was worked out.
    promise : {"sum", "ledger", "none"}
        What holds of the method: values and base value make up the score; the ledger says what is missing; nothing.
    facts : mapping
        For the provenance: plan, hashes.
    labels : array of shape (n,), optional
        What the user calls the rows.
    kind : str
        The kind of table that came in.
    """

    values: np.ndarray
    output: np.ndarray
    base_values: np.ndarray
    names: tuple[str, ...] = ()
    target: str = ""
    ledger: Ledger | None = None
    annotations: Mapping[str, np.ndarray] = field(default_factory=dict)
    layers: Mapping[str, np.ndarray] = field(default_factory=dict)
    data: np.ndarray | None = None
    feature_names: tuple[str, ...] = ()
    dims: tuple[str, ...] = ("row", "feature")
    method: str = "lrp"
    promise: str = "sum"
    facts: Mapping[str, Any] = field(default_factory=dict)
    labels: np.ndarray | None = None
    kind: str = "numpy"

    @property
    def several(self) -> bool:
        """Whether there is an axis for targets."""
        return self.output.ndim == 2

    @staticmethod
    def joined(parts: Sequence[Attribution]) -> Attribution:
        """The attributions of all rows, from those of consecutive batches.

        Raises
        ------
        DataError
            When there is no batch.
        """
        if not parts:
            raise DataError("the table has no rows: give at least one row to explain")
        if len(parts) == 1:
            return parts[0]
        first, last = parts[0], parts[-1]
        ledgers = [part.ledger for part in parts]
        return Attribution(
            values=np.concatenate([part.values for part in parts]),
            output=np.concatenate([part.output for part in parts]),
            base_values=np.concatenate([part.base_values for part in parts]),
            names=first.names,
            target=first.target,
            ledger=None if ledgers[0] is None else Ledger.joined([one for one in ledgers if one is not None]),
            annotations={key: np.concatenate([part.annotations[key] for part in parts]) for key in first.annotations},
            layers={key: np.concatenate([part.layers[key] for part in parts]) for key in first.layers},
            data=None if first.data is None else np.concatenate([p.data for p in parts if p.data is not None]),
            feature_names=first.feature_names,
            dims=first.dims,
            method=last.method,
            promise=last.promise,
            facts=last.facts,
            labels=None if first.labels is None else np.concatenate([p.labels for p in parts if p.labels is not None]),
            kind=first.kind,
        )
