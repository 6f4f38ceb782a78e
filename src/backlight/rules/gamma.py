r"""LRP-γ, for inputs of any sign.

.. math::
    R_j = \sum_k \frac{a_j\,(w_{jk} + \gamma\,[a_j w_{jk}]^{\mathrm{sign}\,z_k}\text{-part})}{\sum_{j'} \dots} R_k

For a unit with :math:`z_k > 0` every contribution :math:`a_j w_{jk}` that is positive is favoured by the factor
1 + γ, for :math:`z_k < 0` every negative one. The bias is neuron 0 with activation 1 and takes part in the same way.
For inputs ≥ 0 this is the published rule, and it is the only one that does not change when an input x is written as
relu(x) − relu(−x).

With :math:`P_k, N_k` the sums of positive and of negative contributions, :math:`z = P + N`, the denominators are
:math:`z + \gamma P` and :math:`z + \gamma N`: affine in γ, and never smaller in size than z.

Two products suffice each way for inputs of both signs, since :math:`[aw]^+ = \tfrac12(aw + |a||w|)`: P follows from z
and |W||a|, and the transposed product from Wᵀ and |W|ᵀ.

Source: Montavon, Binder, Lapuschkin, Samek, Müller, "Layer-wise relevance propagation: an overview", 2019, section
10.2.1; the form for inputs of any sign: Andéol, Kawakami, Wada, Kanamori, Müller, Montavon, "Learning
domain invariant representations by joint Wasserstein distance minimization", 2021, and the derivation above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backlight.errors import ArgumentError
from backlight.rules.base import BoundRule, Facts, LinearRule, Message, Norms, Symbolic, divide, named, relevance
from backlight.rules.maps import LinearMap

__all__ = ["Gamma"]


def _share(unit: Any, gamma: Any) -> list[Any]:
    favoured, total = unit.part(unit.sign >= 0)
    denominator = unit.z + gamma * total
    return [
        (w + gamma * f) * unit.z / denominator if denominator != 0 else unit.zero
        for w, f in zip(unit.weights, favoured, strict=True)
    ]


@named("gamma")
@dataclass(frozen=True, slots=True, repr=False)
class Gamma(LinearRule):
    r"""LRP-γ: :math:`R_j = \sum_k a_j (w_{jk}+\gamma w_{jk}^+) / \sum_{0,j'} a_{j'}(w_{j'k}+\gamma w_{j'k}^+) R_k`.

    That is for inputs ≥ 0 and :math:`z_k > 0`; see the module for the other signs. γ = 0 is LRP-0, γ → ∞ is `ZPlus`.

    Parameters
    ----------
    gamma : float
    epsilon : float
        None is needed: the denominator is at least as large as z.
    absolute : bool
    """

    gamma: float = 0.25

    def __post_init__(self) -> None:
        super(Gamma, self).__post_init__()
        if not 0 <= self.gamma < float("inf"):
            raise ArgumentError(f"gamma must be zero or positive and finite, not {self.gamma!r}; ZPlus is its limit")

    def emits_direct(self, layer: LinearMap) -> bool:
        return False

    def symbolic(self) -> Symbolic | None:
        if self.epsilon:
            return None
        return Symbolic("LRP-γ (γ = {gamma})", {"gamma": self.gamma}, True, _share)

    def bind(self, layer: LinearMap, facts: Facts) -> BoundRule:
        w, b, norms = layer.weight, layer.bias, self.norms(layer)
        up_bias = None if b is None else b + self.gamma * b.clamp(min=0)
        down_bias = None if b is None else b + self.gamma * b.clamp(max=0)
        if not facts.nonnegative:
            size_bias = None if b is None else b.abs()
            return _Signed(layer, "2F + 2B", self, norms, up_bias, down_bias, w.abs(), size_bias)
        positive = w.clamp(min=0)
        return _NonNegative(
            layer, "2F + B" if facts.gated else "2F + 2B", self, norms, up_bias, down_bias,
            positive, None if b is None else b.clamp(min=0), torch.add(w, positive, alpha=self.gamma),
            None if facts.gated else torch.add(w, w.clamp(max=0), alpha=self.gamma),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Bound(BoundRule):
    rule: Gamma
    norms: Norms
    up_bias: Tensor | None
    down_bias: Tensor | None

    def quotients(
        self, a: Tensor, z: Tensor, positive: Tensor, message: Message, gated: bool
    ) -> tuple[Tensor, Tensor | None]:
        """R / denominator where z ≥ 0, and where z < 0; ``positive`` is P."""
        rule = self.rule
        incoming = relevance(z, message)
        stabiliser = rule.stabiliser(self.layer, a, self.norms) if rule.epsilon else 0.0
        denominator = torch.add(z, positive, alpha=rule.gamma)
        if rule.epsilon:
            denominator += stabiliser
        if gated:
            # no relevance is where the denominator is zero
            return incoming.div_(denominator.clamp_min_(torch.finfo(z.dtype).tiny)), None
        above = divide(incoming, denominator)
        below = divide(incoming, torch.add(z, (z - positive).clamp_(max=0), alpha=rule.gamma).sub_(stabiliser))
        negative = z < 0
        return above.masked_fill_(negative, 0.0), below.masked_fill_(~negative, 0.0)

    def kept(self, above: Tensor, below: Tensor | None) -> Tensor | float:
        """What the bias keeps, as neuron 0."""
        kept = self.layer.bias_share(above, self.up_bias)
        return kept if below is None else kept + self.layer.bias_share(below, self.down_bias)


@dataclass(frozen=True, slots=True)
class _NonNegative(_Bound):
    positive: Tensor
    positive_bias: Tensor | None
    up: Tensor
    down: Tensor | None

    def pull(self, a: Tensor, z: Tensor, message: Message) -> tuple[Message, Tensor | float]:
        layer = self.layer
        positive = layer.apply(a, self.positive, self.positive_bias)
        above, below = self.quotients(a, z, positive, message, self.down is None)
        sent = layer.adjoint(above, self.up, a.shape)
        if below is not None:
            assert self.down is not None
            sent += layer.adjoint(below, self.down, a.shape)
        return Message(sent), self.kept(above, below)


@dataclass(frozen=True, slots=True)
class _Signed(_Bound):
    size: Tensor
    size_bias: Tensor | None

    def pull(self, a: Tensor, z: Tensor, message: Message) -> tuple[Message, Tensor | float]:
        layer, gamma = self.layer, self.rule.gamma
        positive = (layer.apply(a.abs(), self.size, self.size_bias) + z).mul_(0.5)
        above, below = self.quotients(a, z, positive, message, False)
        assert below is not None
        # γ [a w]^± = γ/2 (a w ± |a||w|)
        plain = layer.adjoint(above + below, layer.weight, a.shape).mul_(1 + gamma / 2)
        folded = layer.adjoint(above - below, self.size, a.shape).mul_(gamma / 2)
        return Message(plain.addcmul_(folded, a.sign())), self.kept(above, below)
