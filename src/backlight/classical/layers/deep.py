"""Hidden units, whose way back is the relevance engine's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from backlight.attribution.canonical import canonical_module
from backlight.attribution.inputs import Batch
from backlight.attribution.lrp import TARGET_LINE, Attributed, LayerwiseRelevance
from backlight.attribution.reference import REFERENCES, ReferenceMethod, named_method
from backlight.attribution.requested import Requested, Targets
from backlight.classical.layers.base import (
    Account,
    Coefficients,
    EncodedRows,
    ForwardPass,
    Layer,
    Line,
    Propagation,
    Query,
)
from backlight.classical.layers.pullback import Pullback
from backlight.errors import ArgumentError

__all__ = ["Deep"]


class Deep(Layer):
    """Hidden units, from elements to outputs: explained by the relevance engine as any module is.

    Attributes
    ----------
    module : torch.nn.Sequential
    pullback : Pullback
        From the elements to the columns.
    """

    rules: Mapping[str, Any] = {"auto": Propagation()}
    reads = frozenset({"rows"})

    def __init__(self, module: nn.Module, units: int, pullback: Pullback) -> None:
        super().__init__()
        self.module, self.units, self.pullback = module, units, pullback

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        out: Tensor = self.module(x.e)
        return out

    @property
    def made_of(self) -> Mapping[str, int]:
        """The outputs of the module's own layers."""
        found: dict[str, int] = {}
        if not isinstance(self.module, nn.Sequential):  # as many units as come
            leaves = [name for name, part in self.module.named_modules() if name and not list(part.children())]
            return {f"module.{name}": 1 for name in leaves}
        with torch.no_grad():
            z = next(self.module.parameters()).new_zeros((1, self.pullback.n_elements))
            for name, part in list(self.module.named_children())[:-1]:
                z = part(z)
                found[f"module.{name}"] = z.numel()
        return found

    def inside(self, name: str, x: EncodedRows, ask: Query) -> Callable[[Tensor], Tensor]:
        """See `Layer.inside`."""
        asked: Propagation = ask.rule if isinstance(ask.rule, Propagation) else Propagation()
        if named_method(asked.method)[0] != "lrp" or asked.canonical:
            raise ArgumentError(
                "layers= is for relevance propagation through the network as it is: leave the other out"
            )
        start = None if ask.usual is None else ask.usual.e.mean(0, keepdim=True)
        place = name.partition(".")[2]
        way = LayerwiseRelevance(self.module, asked.rules, asked.strict, None, start, (place,))

        def units(c: Tensor) -> Tensor:
            target = Requested(function=lambda y: (y.reshape(len(y), -1) * c).sum(1))
            found: Tensor = way(Batch((x.e,), {}), Targets((target,), False)).layers[place][0]
            return found.flatten(1)

        return units

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        asked: Propagation = ask.rule if isinstance(ask.rule, Propagation) else Propagation()
        name, options = named_method(asked.method)
        batch, module = Batch((x.e,), {}), self.module
        facts: dict[str, Any] = {}
        if asked.canonical:
            module, steps = canonical_module(module, batch)
            facts["canonical"] = list(steps)
        start = None if ask.usual is None else ask.usual.e.mean(0, keepdim=True)
        attribute: Callable[[Batch, Targets], Attributed]
        output = self.module(x.e)
        base = torch.zeros_like(output)
        if name == "lrp":
            attribute = way = LayerwiseRelevance(module, asked.rules, asked.strict, None, start, ())
            facts |= way.facts(batch)
        else:
            attribute = ReferenceMethod(module, name, start, asked.seed, options)
            facts["method"] = name
            if REFERENCES[name].differs:
                base = self.module(torch.zeros_like(x.e[:1]) if start is None else start).expand_as(output)

        def account(coefficients: Coefficients) -> Account:
            c = coefficients.dense

            def score(y: Tensor) -> Tensor:
                # captum repeats rows
                return (y.reshape(len(y), -1) * c.repeat(len(y) // len(c), 1)).sum(1)

            got = attribute(batch, Targets((Requested(function=score),), False))
            lines: list[Line] = [
                (name, rule, into[0], out[0], bias[0])
                for name, rule, into, out, bias in got.ledger
                if (name, rule) != TARGET_LINE
            ]
            elements = next(iter(got.values.values()))[0] if got.values else torch.zeros_like(x.e)
            return Account(self.pullback.columns(elements), (c * (output - base)).sum(1), {}, lines)

        return ForwardPass(
            output, output - base, lambda c: account(Coefficients(c)).relevance, output,
            {"hidden units": output - base}, account=account, facts=facts,
        )  # fmt: skip
