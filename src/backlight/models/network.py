"""Networks of classical models: tables in, relevance of their columns out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from backlight.attribution.requested import Targets
from backlight.classical import NeuralizedModel
from backlight.classical.frontend.columns import FrontEnd
from backlight.classical.layers.base import EncodedRows, Layer, Propagation
from backlight.classical.layers.expansion import Levelled
from backlight.classical.layers.inside import places, selected
from backlight.classical.network import Score, no_original
from backlight.classical.targets import Outputs
from backlight.errors import ArgumentError, FileError
from backlight.explanation import Attribution
from backlight.explanation.score_units import ScoreUnit
from backlight.models.protocol import Query, layer_names, refuse_of_modules
from backlight.tables import Frame, in_batches

__all__ = ["NetworkModel", "Table", "tables"]

_STEP = 8192


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Rows of a table, with the model's columns in its order."""

    frame: Frame
    own_names: bool

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.frame)

    @property
    def step(self) -> int:
        """Rows at once."""
        return _STEP

    def take(self, start: int, stop: int) -> Table:
        """Some of the rows."""
        return Table(self.frame.take(slice(start, stop)), self.own_names)


def tables(X: Any, front: FrontEnd, size: int | str, names: Sequence[str] | None) -> tuple[int | None, Iterator[Table]]:
    """The rows of tables batch by batch, for a front end."""
    given = None if names is None else list(names)

    def read(item: Any) -> Table:
        frame = front.frame(item, given)
        return Table(front.align(frame), frame.named or given is not None)

    return in_batches(X, read, size)


class NetworkModel:
    """A neuralized model."""

    def __init__(self, network: NeuralizedModel) -> None:
        self.network = network
        self.kind = network.kind

    @property
    def columns(self) -> tuple[str, ...] | None:
        """See `Model.columns`."""
        return self.network.feature_names

    def score(self, *inputs: Tensor, **named: Any) -> Tensor:
        """See `Model.score`: the layer's units, also where a climb has left all numbers."""
        (x,) = inputs
        e = self.network.front.elements(x)
        units: Tensor = self.network.layer(EncodedRows(x, e, self.network.front.pullback.embed(e)))
        return units

    def fingerprint(self) -> str:
        """See `Model.fingerprint`."""
        return self.network.fingerprint()

    def asked(self, targets: Targets) -> Targets:
        """See `Model.asked`."""
        return self.network.score.outputs.asked(targets)

    def prepare(self, query: Query) -> Query:
        """See `Model.prepare`."""
        refuse_of_modules(query, self.kind)
        if str(query.device) not in ("None", "cpu"):
            raise ArgumentError(
                f"device={query.device!r} does not apply to a neuralized model in this version: leave it out"
            )
        options = {"canonical": query.canonical, "strict": query.strict, "seed": query.seed}
        rule = self.network.rule(query.rules, query.method, **options)
        deep = isinstance(rule, Propagation)
        wanted = selected(self.network.layer, layer_names(query.layers), self.kind) if query.layers else ()
        if wanted and (query.method != "lrp" or query.canonical):
            raise ArgumentError("layers= is for relevance propagation through the model as it is: leave the other out")
        if query.canonical and not deep:
            raise ArgumentError("canonical=True does not apply to a model without hidden units: leave it out")
        return replace(query, layers=wanted, rules=rule, reference=self.network.reference_of(query.reference, rule))

    def batches(
        self, X: Any, size: int | str, names: Sequence[str] | None, query: Query
    ) -> tuple[int | None, Iterator[Table]]:
        """See `Model.batches`."""
        return tables(X, self.network.front, size, names)

    def attribute(self, batch: Table, targets: Targets, query: Query) -> Attribution:
        """See `Model.attribute`."""
        network, rule, frame, score = self.network, query.rules, batch.frame, self.network.score.name
        found = network.relevance(frame, rule, query.reference, target=targets, layers=query.layers)
        facts = {"outputs": list(network.score.outputs.names), **found.facts}
        method = facts.pop("method", None) or getattr(rule, "method", None) or f"lrp ({getattr(rule, 'name', rule)})"
        if isinstance(rule, Propagation):
            promise = "none" if found.ledger is None or found.ledger.bias is None else "ledger"
        else:
            promise, facts["rule"] = "sum", repr(rule)
        names, told = found.names, score
        if not found.several:
            one = names[0]
            names = (score if one in ("", "predicted") else one,)
            told = f"{score} of {'the predicted output' if one == 'predicted' else one}" if one else score
        return replace(
            found,
            names=names,
            target=told,
            method=method,
            promise=promise,
            facts=facts,
            data=frame.matrix() if frame.whole is None else frame.whole,
            feature_names=frame.names if batch.own_names else network.front.names,
            labels=frame.labels,
            kind=frame.kind,
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """See `Model.layers`."""
        return tuple(places(self.network.layer))

    def plan(self, query: Query) -> str:
        """See `Model.plan`."""
        network = self.network
        steps = [type(step).__name__ for step in network.front.elements]
        lines = [f"{network.kind}: score {network.score.name!r} by {query.rules!r}"]
        lines += [f"  columns → {' → '.join(steps)}"] if steps else []
        named = [(name or "score", part) for name, part in network.layer.named_modules() if isinstance(part, Layer)]
        return "\n".join([*lines, *(f"  {name} ({type(part).__name__})" for name, part in named)])

    def kept(self, query: Query) -> dict[str, Any]:
        """See `Model.kept`."""
        network, score = self.network, self.network.score
        if isinstance(query.reference, float):
            for layer in network.modules():
                if isinstance(layer, Levelled):
                    layer.at(query.reference, torch.zeros(0, dtype=network.dtype))
        return {
            "front": network.front, "layer": network.layer, "score": score.name, "outputs": score.outputs,
            "unit": score.unit, "kind": network.kind, "threshold": network.threshold,
            "takes_missing": network.takes_missing, "dtype": network.dtype,
        }  # fmt: skip

    @classmethod
    def again(cls, kept: dict[str, Any]) -> NetworkModel:
        """The model of what `kept` gave."""
        names = ("front", "layer", "score", "outputs", "unit", "kind", "threshold", "takes_missing", "dtype")
        front, layer, name, outputs, unit, kind, threshold, takes_missing, dtype = (kept[key] for key in names)
        fits = isinstance(front, FrontEnd) and isinstance(layer, Layer) and isinstance(outputs, Outputs)
        if not fits or not isinstance(unit, ScoreUnit) or not isinstance(dtype, torch.dtype):
            raise FileError("the file does not hold a network")
        score = Score(str(name), no_original, no_original, outputs, unit)
        return cls(
            NeuralizedModel.assembled(
                front, layer, score, kind=str(kind), threshold=threshold, takes_missing=bool(takes_missing), dtype=dtype
            )
        )
