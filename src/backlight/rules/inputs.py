r"""Rules for the layer that touches the input, where a value of zero is not "nothing": flat, w² and box.

They give relevance to units with :math:`a_j = 0` too. In a deeper layer they are allowed: what they give to a unit that
is switched off goes on through its activation, by its own layer's rule.

Sources: flat: Lapuschkin, Wäldchen, Binder, Montavon, Samek, Müller, "Unmasking Clever Hans predictors", Nature
Communications 10, 2019; w² and box (:math:`z^{\mathcal B}`): Montavon, Lapuschkin, Binder, Samek, Müller, "Explaining
nonlinear classification decisions with deep Taylor decomposition", Pattern Recognition 65, 2017, equations 6 and 7.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from backlight.errors import ArgumentError, DataError, warn
from backlight.rules.base import BoundRule, Facts, LinearRule, Message, divide, named, relevance
from backlight.rules.maps import LinearMap

__all__ = ["Box", "Flat", "WSquare"]


@named("flat", audits=False)
@dataclass(frozen=True, slots=True, repr=False)
class Flat(LinearRule):
    r"""Equal parts: :math:`R_j = \sum_k R_k / N_k`, N_k the number of inputs of unit k.

    Neither padding nor the bias counts.
    """

    def bind(self, layer: LinearMap, facts: Facts) -> BoundRule:
        return _BoundFlat(layer, "F + box filter", self)


@dataclass(frozen=True, slots=True)
class _BoundFlat(BoundRule):
    rule: Flat

    def pull(self, a: Tensor, z: Tensor, message: Message) -> tuple[Message, Tensor | float]:
        layer = self.layer
        count = layer.gather(torch.ones_like(a[:1]))
        s = divide(relevance(z, message), count + self.rule.epsilon)
        return Message(direct=layer.spread(s, a.shape)), 0.0


@named("wsquare", audits=False)
@dataclass(frozen=True, slots=True, repr=False)
class WSquare(LinearRule):
    r"""w²: :math:`R_j = \sum_k w_{jk}^2 / (\sum_{j'} w_{j'k}^2 + b_k^2) R_k` (padding does not count)."""

    def bind(self, layer: LinearMap, facts: Facts) -> BoundRule:
        return _BoundWSquare(
            layer, "F + B", self, layer.weight.square(), None if layer.bias is None else layer.bias.square()
        )


@dataclass(frozen=True, slots=True)
class _BoundWSquare(BoundRule):
    rule: WSquare
    squares: Tensor
    squared_bias: Tensor | None
    cache: dict[torch.Size, Tensor] = field(default_factory=dict)

    def pull(self, a: Tensor, z: Tensor, message: Message) -> tuple[Message, Tensor | float]:
        layer = self.layer
        total = self.cache.get(a.shape[1:])
        if total is None:
            # depends on the shape of the input alone
            total = layer.apply(torch.ones_like(a[:1]), self.squares, self.squared_bias)
            self.cache[a.shape[1:]] = total
        s = divide(relevance(z, message), total + self.rule.epsilon)
        return Message(direct=layer.adjoint(s, self.squares, a.shape)), layer.bias_share(s, self.squared_bias)


@named("box", audits=False, low=-6.0, high=6.0)
@dataclass(frozen=True, slots=True, repr=False)
class Box(LinearRule):
    r"""z^B, for inputs in a box l ≤ x ≤ h.

    .. math:: R_j = \sum_k \frac{x_j w_{jk} - l_j w_{jk}^+ - h_j w_{jk}^-}{\sum_{j'} \dots} R_k

    Every contribution is ≥ 0, and the bias takes no part.

    Parameters
    ----------
    low, high : float, sequence or tensor, optional
        Bounds of the inputs as the layer sees them, that is after normalisation: one number, or anything that
        broadcasts against one row, for instance ``[[[l]], …]`` of shape (channels, 1, 1) for images; a flat sequence
        is one number a channel. Left out: each row's own smallest and largest value.
    outside : {"warn", "allow", "raise"}
        What happens to an input outside of the box: the formula as it is, whose contributions may then be negative,
        with a warning that names the input (an error under ``strict``) or without one, or an error. Published maps
        whose bounds are those of the training rows need the formula.
    """

    low: Any = None
    high: Any = None
    outside: str = "warn"

    def __post_init__(self) -> None:
        super(Box, self).__post_init__()
        if (self.low is None) != (self.high is None):
            raise ArgumentError("a box needs both low and high, or neither of them")
        if self.outside not in ("warn", "allow", "raise"):
            raise ArgumentError(f"outside must be 'warn', 'allow' or 'raise', not {self.outside!r}")
        for name in ("low", "high"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, float | int):
                # tuples compare by value, so that equal rules are equal
                object.__setattr__(self, name, _as_tuples(torch.as_tensor(value).tolist()))
        if self.low is not None and bool((torch.as_tensor(self.low) > torch.as_tensor(self.high)).any()):
            raise ArgumentError(f"the box is empty: low={self.low!r} is above high={self.high!r}")

    def strictly(self) -> Box:
        return replace(self, outside="raise") if self.outside == "warn" else self

    def bind(self, layer: LinearMap, facts: Facts) -> BoundRule:
        own = self.low is None
        cost = "3F + 3B" if own else "F + 3B"
        return _BoundBox(layer, cost, self, layer.weight.clamp(min=0), layer.weight.clamp(max=0))


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class _BoundBox(BoundRule):
    rule: Box
    up: Tensor
    down: Tensor
    cache: dict[torch.Size, Tensor] = field(default_factory=dict)

    def pull(self, a: Tensor, z: Tensor, message: Message) -> tuple[Message, Tensor | float]:
        layer, rule = self.layer, self.rule
        low, high, beyond = self._bounds(a)
        if rule.low is None:
            bounds = layer.apply(low, self.up, None) + layer.apply(high, self.down, None)
        elif (cached := self.cache.get(a.shape[1:])) is not None:
            bounds = cached
        else:
            bounds = layer.apply(low, self.up, None) + layer.apply(high, self.down, None)
            self.cache[a.shape[1:]] = bounds
        total = z - bounds
        if layer.bias is not None:
            total = total - layer.per_unit(layer.bias)
        # inside of the box rounding alone makes it negative
        signed = rule.outside == "allow" or beyond
        total = total if signed else total.clamp_(min=0)
        s = divide(relevance(z, message), total + rule.epsilon * (total.sign() if signed else 1.0))
        outside = low * layer.adjoint(s, self.up, a.shape)
        outside += high * layer.adjoint(s, self.down, a.shape)
        return Message(layer.adjoint(s, layer.weight, a.shape), outside.neg_()), 0.0

    def _bounds(self, a: Tensor) -> tuple[Tensor, Tensor, bool]:
        """The box, and whether an input is outside of it."""
        if self.rule.low is None:
            # what comes in has its rows where they are in what goes out
            axis, outer, inner = self.layer.rows
            apart = a.unflatten(axis, (outer, -1, inner))
            others = [k for k in range(apart.dim()) if k != axis + 1]
            low, high = (
                bound.expand_as(apart).flatten(axis, axis + 2)
                for bound in (apart.amin(others, True), apart.amax(others, True))
            )
            return low, high, False
        row = a.shape[1:]
        low, high = (_fit(getattr(self.rule, name), a) for name in ("low", "high"))
        # a pixel of 0 or 255 after normalisation, in another precision than the bounds
        slack = 1e-5 * float((high - low).max())
        beyond = (a < low - slack) | (a > high + slack)
        left = self.rule.outside != "allow" and bool(beyond.any())
        if left:
            first, *place = (int(k) for k in beyond.nonzero()[0])
            where = f"column {place[0]}" if len(place) == 1 else f"position {tuple(place)}"
            at = (0, *place)
            got, lower, upper = float(a[(first, *place)]), float(low[at]), float(high[at])
            said = (
                f"row {first}, {where} is {got:.6g}, outside its box from {lower:.6g} to {upper:.6g}: give the range "
                "that the layer sees, or Box(low, high, outside='allow')"
            )
            if self.rule.outside == "raise":
                raise DataError(said)
            warn(said)
        return low.expand(1, *row), high.expand(1, *row), left


def _fit(value: Any, a: Tensor) -> Tensor:
    bound = torch.as_tensor(value, dtype=a.dtype, device=a.device)
    if bound.dim() == 1 and a.dim() > 2:
        bound = bound.view(-1, *(1,) * (a.dim() - 2))
    try:
        return bound.expand(1, *a.shape[1:])
    except RuntimeError:
        raise ArgumentError(
            f"a bound of shape {tuple(bound.shape)} does not fit inputs of shape {tuple(a.shape[1:])}"
        ) from None
