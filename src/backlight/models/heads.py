"""Classical heads on the features of torch modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from backlight.attribution.inputs import Batch, batches, home
from backlight.attribution.requested import Targets
from backlight.classical.heads import FeatureHead
from backlight.classical.layers import EncodedRows
from backlight.classical.targets import Outputs
from backlight.errors import ArgumentError, UnsupportedModel
from backlight.explanation import Attribution
from backlight.models.protocol import Query, refuse_of_modules
from backlight.models.torch import TorchModel, dims_of
from backlight.rules import Gamma

__all__ = ["HeadModel"]

_STEP, _GAMMA = 16, 0.25


class HeadModel:
    """A head and the module whose features it takes."""

    def __init__(self, head: FeatureHead) -> None:
        self.head, self.kind = head, head.kind

    @property
    def columns(self) -> tuple[str, ...] | None:
        """See `Model.columns`."""
        return None

    def score(self, *inputs: Any, **named: Any) -> torch.Tensor:
        """See `Model.score`."""
        return TorchModel(self.head).score(*inputs, **named)

    def fingerprint(self) -> str:
        """See `Model.fingerprint`."""
        return TorchModel(self.head).fingerprint()

    def asked(self, targets: Targets) -> Targets:
        """See `Model.asked`."""
        outputs: Outputs = self.head.score.outputs
        return outputs.asked(targets)

    def prepare(self, query: Query) -> Query:
        """See `Model.prepare`."""
        refuse_of_modules(query, self.kind)
        given = {"layers": query.layers, "reference": query.reference, "device": query.device}
        gamma = query.rules.gamma if type(query.rules) is Gamma else None
        given["rules"] = None if query.rules == "auto" or gamma is not None else query.rules
        given["method"] = None if query.method == "lrp" else query.method
        given["canonical"] = query.canonical or None
        named = next((name for name, value in given.items() if value is not None), None)
        if named is not None:
            raise ArgumentError(
                f"{named}= does not apply to a head on features, which is explained by differences to its own rows: "
                "leave it out (rules= takes a Gamma)"
            )
        # behind hidden units by the γ rule, whose terms cancel less
        smooth = _GAMMA if self.head.deep else 0.0
        return replace(query, rules=smooth if gamma is None else float(gamma))

    def batches(
        self, X: Any, size: int | str, names: Sequence[str] | None, query: Query
    ) -> tuple[int | None, Iterator[Batch]]:
        """See `Model.batches`."""
        rows, stream = batches(X, home(self.head), _STEP if size == "auto" else size)
        columns = () if names is None else tuple(names)
        return rows, (replace(batch, columns=columns) for batch in stream) if columns else stream

    def attribute(self, batch: Batch, targets: Targets, query: Query) -> Attribution:
        """See `Model.attribute`."""
        head = self.head
        if len(batch.args) != 1 or batch.kwargs:
            raise ArgumentError("a head on features takes one input: give a module that takes the others as one")
        x = batch.args[0].detach().to(head.data)
        if x.shape[1:] != head.data.shape[1:]:
            raise ArgumentError(
                f"rows of shape {tuple(x.shape[1:])} for a head on rows of {tuple(head.data.shape[1:])}"
            )
        z = head._embed(x)
        outputs = head.score.outputs
        with torch.no_grad():
            units = head.network.layer(EncodedRows.at(z))
        asked = Targets(outputs.targets(targets), targets.several)
        found = []
        for one in asked.items:
            c = outputs.coefficients(one, units, outputs.index(one, units)).dense
            relevance, held = head.attribute(x, c, units, z, query.rules)
            found.append((relevance, (c * units).sum(1), held))
        values, output, base = (
            _array(torch.stack(part, -1) if asked.several else part[0]) for part in zip(*found, strict=True)
        )
        names = tuple(outputs.name(one) for one in asked.items)
        return Attribution(
            values, output, base,
            names=tuple(name or head.score.name for name in names),
            target=head.score.name if not names[0] else f"{head.score.name} of {', '.join(names[:4])}",
            data=_array(batch.args[0]), feature_names=batch.columns, dims=dims_of(x.ndim),
            method=f"lrp (paired reference, γ = {query.rules:g})", promise="sum", labels=batch.labels, kind=batch.kind,
            facts={"references": len(head.data)},
        )  # fmt: skip

    @property
    def layers(self) -> tuple[str, ...]:
        """See `Model.layers`."""
        return tuple(name for name, module in self.head.named_modules() if name and not list(module.children()))

    def plan(self, query: Query) -> str:
        """See `Model.plan`."""
        return f"{self.kind}: score {self.head.score.name!r} by differences to reference rows of {len(self.head.data)}"

    def kept(self, query: Query) -> dict[str, Any]:
        """See `Model.kept`."""
        raise UnsupportedModel(
            "a head on features carries differences through the module's own forward, which is code: send this "
            "explainer by pickle"
        )


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().double().cpu())
