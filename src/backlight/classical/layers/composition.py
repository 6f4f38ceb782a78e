r"""Layers made of layers: side by side, averaged, their variance, and models with a front end of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backlight.classical.layers.base import EncodedRows, ForwardPass, Layer, Query, Wrapper
from backlight.classical.layers.pullback import Pullback

__all__ = ["Mean", "Member", "Signed", "Stack", "Unit", "Variance", "Weighted", "member_query"]


def _common_rules(layers: Sequence[Layer]) -> dict[str, Any]:
    """The rules that every layer has.

    Where they differ each keeps its own default, under the name "own"; a rule of some is the others' default there.
    """
    first = layers[0].rules
    shared = {name: rule for name, rule in first.items() if all(name in layer.rules for layer in layers)}
    if shared:
        return shared
    some = {name: rule for layer in layers for name, rule in layer.rules.items() if not isinstance(rule, str)}
    return {"own": "own", **some}


def member_query(layer: Layer, ask: Query) -> Query:
    """The question for a member: the same rule where it has it, no row of its own left out."""
    known = layer.accepts(ask.rule) or any(ask.rule is rule or ask.rule == rule for rule in layer.rules.values())
    return Query(ask.rule if known else next(iter(layer.rules.values())), None, ask.usual, ask.level)


class _Group(Layer):
    """Several layers on the same rows."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.rules = _common_rules(layers)

    @property
    def rows(self) -> int:
        """Rows at once."""
        return max(16, min(layer.rows for layer in self.members()) // max(1, len(self.layers) // 4))

    def members(self) -> list[Layer]:
        """The layers."""
        return list(self.layers)  # type: ignore[arg-type]

    def _runs(self, x: EncodedRows, ask: Query) -> list[ForwardPass]:
        return [layer.run(x, member_query(layer, ask)) for layer in self.members()]


class Stack(_Group):
    """The units of several layers, side by side."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__(layers)
        self.units = sum(layer.units for layer in layers)

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        return torch.cat([layer(x) for layer in self.members()], 1)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        runs = self._runs(x, ask)
        sizes = [layer.units for layer in self.members()]
        output = torch.cat([got.output for got in runs], 1)
        carried = torch.cat([got.carried for got in runs], 1)

        def back(c: Tensor) -> Tensor:
            parts = torch.split(c, sizes, 1)
            # Only what is asked for: most targets use few of the units.
            used = [(got, part) for got, part in zip(runs, parts, strict=True) if bool((part != 0).any())]
            return sum(
                (got.back(part) for got, part in used), torch.zeros_like(runs[0].back(torch.zeros_like(parts[0])))
            )

        return ForwardPass(output, carried, back, output, {"units": carried})


class Weighted(_Group):
    """y = Σ_m w_m y_m + b: relevance is the same sum."""

    weights: Tensor
    bias: Tensor

    def __init__(self, layers: Sequence[Layer], weights: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(layers)
        self.units = layers[0].units
        self.register_buffer("weights", weights)
        self.register_buffer("bias", torch.zeros(self.units, dtype=weights.dtype) if bias is None else bias)

    def _sum(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.einsum("m,mnu->nu", self.weights, torch.stack(list(parts)))

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        return self._sum([layer(x) for layer in self.members()]) + self.bias

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        runs = self._runs(x, ask)
        output = self._sum([got.output for got in runs]) + self.bias
        carried = self._sum([got.carried for got in runs])

        def back(c: Tensor) -> Tensor:
            return torch.stack([got.back(c * w) for got, w in zip(runs, self.weights, strict=True)]).sum(0)

        return ForwardPass(output, carried, back, output, {"members": carried})

    @property
    def made_of(self) -> Mapping[str, int]:
        """The members, all units of each together."""
        return {"members": len(self.layers)}

    def inside(self, name: str, x: EncodedRows, ask: Query) -> Callable[[Tensor], Tensor]:
        """See `Layer.inside`."""
        carried = torch.stack([got.carried for got in self._runs(x, ask)], 2)
        return lambda c: torch.einsum("nu,num,m->nm", c, carried, self.weights)


class Mean(Weighted):
    """The plain mean of members."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        n = len(layers)
        super().__init__(layers, torch.full((n,), 1 / n, dtype=torch.float64))


class Signed(Wrapper):
    """(−f, f) of one unit f: the two classes of a binary model, one unit each."""

    def __init__(self, inner: Layer) -> None:
        super().__init__(inner)
        self.units = 2

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, 2)."""
        f = self.inner(x)
        return torch.cat([-f, f], 1)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        got = self.inner.run(x, ask)

        def both(f: Tensor) -> Tensor:
            return torch.cat([-f, f], 1)

        return ForwardPass(
            both(got.output), both(got.carried), lambda c: got.back(c[:, 1:] - c[:, :1]), both(got.output),
            {name: both(value) for name, value in got.flow.items()}, got.notes,
        )  # fmt: skip

    def accepts(self, rule: Any) -> bool:
        """As the inner layer."""
        return self.inner.accepts(rule)


class Unit(Wrapper):
    """One unit of a layer."""

    def __init__(self, inner: Layer, index: int) -> None:
        super().__init__(inner)
        self.index = index

    def _of(self, value: Tensor) -> Tensor:
        return value[:, self.index : self.index + 1]

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, 1)."""
        return self._of(self.inner(x))

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        got = self.inner.run(x, ask)
        sides = (self.index, self.inner.units - self.index - 1)
        return ForwardPass(
            self._of(got.output), self._of(got.carried), lambda c: got.back(nn.functional.pad(c, sides)),
            self._of(got.output), {name: self._of(value) for name, value in got.flow.items()}, got.notes,
        )  # fmt: skip


class Variance(_Group):
    r"""Predictive uncertainty: the variance of the members' outputs.

    :math:`\operatorname{var}_m f_m = \sum_i \operatorname{Cov}_m(R_i^{(m)}, f_m)` + the covariance of the members'
    bases: a feature is relevant for the uncertainty where the members disagree about it. After "Explaining predictive
    uncertainty by exposing second-order effects" (Bley, Lapuschkin, Samek, Montavon, Pattern Recognition 2025), whose
    marginal form this is.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__(layers)
        self.units = layers[0].units

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        return torch.stack([layer(x) for layer in self.members()]).var(0, correction=0)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        runs = self._runs(x, ask)
        outputs = torch.stack([got.output for got in runs])
        weights = (outputs - outputs.mean(0)) / len(runs)
        output = outputs.var(0, correction=0)
        carried = (weights * torch.stack([got.carried for got in runs])).sum(0)

        def back(c: Tensor) -> Tensor:
            return torch.stack([got.back(c * w) for got, w in zip(runs, weights, strict=True)]).sum(0)

        return ForwardPass(output, carried, back, output, {"covariance of members": carried})

    @property
    def made_of(self) -> Mapping[str, int]:
        """The members, all units of each together."""
        return {"members": len(self.layers)}

    def inside(self, name: str, x: EncodedRows, ask: Query) -> Callable[[Tensor], Tensor]:
        """See `Layer.inside`."""
        runs = self._runs(x, ask)
        outputs = torch.stack([got.output for got in runs], 2)
        weights = (outputs - outputs.mean(2, keepdim=True)) / len(runs)
        carried = weights * torch.stack([got.carried for got in runs], 2)
        return lambda c: torch.einsum("nu,num->nm", c, carried)


class Member(Wrapper):
    """A model behind a front end of its own, on the columns of the same table."""

    def __init__(self, elements: nn.Module, pullback: Pullback, inner: Layer) -> None:
        super().__init__(inner)
        self.elements, self.pullback, self.units = elements, pullback, inner.units

    def point(self, x: EncodedRows) -> EncodedRows:
        """Rows behind the member's own steps."""
        e = self.elements(x.coded)
        return EncodedRows(x.coded, e, self.pullback.embed(e))

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        out: Tensor = self.inner(self.point(x))
        return out

    def activations(self, x: EncodedRows) -> Mapping[str, Tensor]:
        """As the inner layer's, behind the front end."""
        return self.inner.activations(self.point(x))

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        usual = None if ask.usual is None else self.point(ask.usual)
        return self.inner.run(self.point(x), Query(ask.rule, None, usual, ask.level))

    def accepts(self, rule: Any) -> bool:
        """As the inner layer."""
        return self.inner.accepts(rule)
