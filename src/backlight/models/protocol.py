"""What every verb asks of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from backlight.arguments import shown
from backlight.attribution.reference import Method
from backlight.attribution.requested import Targets
from backlight.errors import ArgumentError
from backlight.explanation import Attribution

__all__ = ["Batch", "Model", "Query", "layer_names", "refuse_of_modules"]


class Batch(Protocol):
    """Rows as a model takes them."""

    @property
    def rows(self) -> int:
        """How many there are."""


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """How attributions are wanted; see `backlight.explain` for the fields.

    ``counted_from`` is what the user calls the reference, where it is a `Reference` object.
    """

    method: str | Method = "lrp"
    rules: Any = "auto"
    reference: Any = None
    layers: Any = None
    canonical: bool = False
    strict: bool = False
    device: Any = None
    output: Any = None
    seed: int = 0
    counted_from: str | None = None
    rows: str = "separate"


def refuse_of_modules(query: Query, kind: str) -> None:
    """Refuse what only modules have: a choice of outputs, and scores that depend on other rows.

    Raises
    ------
    ArgumentError
    """
    if query.output is not None:
        raise ArgumentError(f"output={shown(query.output)} does not apply to a {kind}: leave it out, or give target=")

    if not isinstance(query.rows, str) or query.rows != "separate":
        raise ArgumentError(f"rows={shown(query.rows)} does not apply to a {kind}, which scores every row by itself")


class Model(Protocol):
    """A model that can be asked for attributions.

    Attributes
    ----------
    kind : str
        What it is, for people.
    """

    kind: str

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the columns that it takes; None where rows are no rows of a table."""

    def score(self, *inputs: Any, **named: Any) -> Tensor:
        """Its outputs for encoded rows, (n, *outputs): differentiable where the model is, and no value refused."""

    def fingerprint(self) -> str:
        """SHA-256 over what was learnt."""

    def asked(self, targets: Targets) -> Targets:
        """What is explained, where a model has more to say than one output and no target is named."""

    def prepare(self, query: Query) -> Query:
        """Check a query and work out what is the same for all rows: rules, references.

        Raises
        ------
        ArgumentError
            For what does not apply to this kind of model.
        """

    def batches(
        self, X: Any, size: int | str, names: Sequence[str] | None, query: Query
    ) -> tuple[int | None, Iterator[Any]]:
        """How many rows there are, where that is known beforehand, and the rows batch by batch."""

    def attribute(self, batch: Any, targets: Targets, query: Query) -> Attribution:
        """Attributions of one batch, by a prepared query."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of its layers."""

    def plan(self, query: Query) -> str:
        """What will run, by a prepared query, as lines of text."""

    def kept(self, query: Query) -> dict[str, Any]:
        """All that a file must hold of it, to explain by a prepared query.

        Raises
        ------
        UnsupportedModel
            When it cannot be held without code.
        """


def layer_names(layers: Any) -> list[str]:
    """What ``layers=`` names.

    Raises
    ------
    ArgumentError
    """
    if isinstance(layers, str):
        return [layers]
    names = [] if layers is None else list(layers)
    if isinstance(layers, Mapping) or not all(isinstance(name, str) for name in names):
        raise ArgumentError(
            f"layers={layers!r}: give names of layers; the relevance of channel c is then ex.layers[name][:, c]"
        )
    return names
