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
            output, output - base, lambda c: account(Coefficients.of(c)).relevance, output,
            {"hidden units": output - base}, account=account, facts=facts,
        )  # fmt: skip
