r"""LRP-0 and LRP-ε.

.. math:: R_j = \sum_k \frac{a_j w_{jk}}{z_k + \epsilon_k\,\mathrm{sign}(z_k)} R_k, \qquad z_k = \sum_j a_j w_{jk} + b_k

Source: Bach, Binder, Montavon, Klauschen, Müller, Samek, "On pixel-wise explanations for non-linear classifier
decisions by layer-wise relevance propagation", PLoS ONE 10(7), 2015, equations 56 and 58.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from backlight.rules.base import BoundRule, Facts, LinearRule, Message, Norms, Symbolic, divide, named, relevance
from backlight.rules.maps import LinearMap

__all__ = ["Epsilon", "Zero"]


@named("epsilon", epsilon=0.1)
@named("epsilon-absolute", audits=False, epsilon=0.1, absolute=True)
@dataclass(frozen=True, slots=True, repr=False)
class Epsilon(LinearRule):
    r"""LRP-ε: :math:`R_j = a_j \sum_k w_{jk} R_k / (z_k + \epsilon_k \mathrm{sign}(z_k))`; ε = 0 is LRP-0.

    With ε = 0 it is gradient × input, seen layer by layer. sign(0) is +1 and 0/0 is 0.

    Parameters
    ----------
    epsilon : float
        Relative by default, see `LinearRule`.
    absolute : bool
    bias : {"absorb", "distribute", "exclude"}
        The bias is neuron 0 and keeps its share :math:`b_k R_k / z_k` (default); or the share is given to the unit's
        inputs in equal parts; or the bias is left out of the denominator, so that the inputs share all of
        :math:`R_k`, by :math:`z_k - b_k`.
    """

    epsilon: float = 1e-6

    @property
    def biases(self) -> tuple[str, ...]:
        return ("absorb", "distribute", "exclude")

    def emits_direct(self, layer: LinearMap) -> bool:
        return self.bias == "distribute" and layer.bias is not None

    def symbolic(self) -> Symbolic | None:
        if self.epsilon == 0:
            return Symbolic("LRP-0", {}, False, _weights)
        kind = "absolute" if self.absolute else "relative"
        return Symbolic(
            f"LRP-ε ({kind} ε = {{epsilon}})", {"epsilon": self.epsilon}, True, partial(_share, self.absolute)
        )

    def bind(self, layer: LinearMap, facts: Facts) -> BoundRule:
        spread = self.bias == "distribute" and layer.bias is not None
        return _BoundEpsilon(layer, "F + B" + (" + box filter" if spread else ""), self, self.norms(layer), facts.gated)


@named("zero")
@dataclass(frozen=True, slots=True, repr=False)
class Zero(Epsilon):
    """LRP-0: `Epsilon` with ε = 0, the plain gradient of the layer in modified-gradient form."""

    epsilon: float = 0.0
    function_alone: ClassVar[bool] = True


def _share(absolute: bool, unit: Any, epsilon: Any) -> list[Any]:
    size = epsilon
    if not absolute:
        own = [a for a, reached in zip(unit.inputs, unit.own, strict=True) if reached]
        size = epsilon * unit.root(sum(w * w for w in unit.weights) * sum(a * a for a in own) + unit.bias**2)
    return [w * unit.z / (unit.z + size * (1 if unit.sign >= 0 else -1)) for w in unit.weights]


def _weights(unit: Any) -> list[Any]:
    return list(unit.weights)


@dataclass(frozen=True, slots=True)
class _BoundEpsilon(BoundRule):
    rule: Epsilon
    norms: Norms
    gated: bool

    def pull(self, a: Tensor, z: Tensor, message: Message) -> tuple[Message, Tensor | float]:
        layer, rule = self.layer, self.rule
        bias = layer.bias
        if message.direct is None:
            assert message.gradient is not None
            s = message.gradient
            if rule.epsilon:
                size = z.abs()
                # 0/0 is 0
                bounded = (size + rule.stabiliser(layer, a, self.norms)).clamp_min_(torch.finfo(z.dtype).tiny)
                s = s * (size / bounded)
            elif self.gated:
                s = s.masked_fill(z <= 0, 0.0)
        else:
            s = self._quotient(relevance(z, message), z, a)
        down = layer.adjoint(s, layer.weight, a.shape)
        if bias is None:
            return Message(down), 0.0
        if rule.bias == "distribute":
            count = layer.gather(torch.ones_like(a[:1]))
            return Message(down, layer.spread(s * (layer.per_unit(bias) / count), a.shape)), 0.0
        return Message(down), layer.bias_share(s, bias)

    def _quotient(self, incoming: Tensor, denominator: Tensor, a: Tensor) -> Tensor:
        if not self.rule.epsilon:
            return divide(incoming, denominator)
        stabiliser = self.rule.stabiliser(self.layer, a, self.norms)
        sign = torch.where(denominator < 0, -1.0, 1.0).to(denominator.dtype)
        return divide(incoming, denominator + stabiliser * sign)
