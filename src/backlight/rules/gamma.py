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
10.2.1; the form for inputs of any sign: Andéol, Kawakami, Wada, Kanamori, Müller, Montavon, 2021, and the derivation above.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backlight.errors import ArgumentError
from backlight.rules.base import BoundRule, Facts, LinearRule, Message, divide, relevance
from backlight.rules.maps import LinearMap

__all__ = ["Gamma"]


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

    def bind(self, layer: LinearMap, facts: Facts) -> BoundRule:
        w, b, norms = layer.weight, layer.bias, self.norms(layer)
        if not facts.nonnegative:
            return _Signed(layer, "2F + 2B", self, norms, w.abs())
        up = w.clamp(min=0)
        down = None if facts.gated else w + self.gamma * w.clamp(max=0)
        cost = "2F + B" if facts.gated else "2F + 2B"
        return _NonNegative(
            layer, cost, self, norms, up, None if b is None else b.clamp(min=0), w + self.gamma * up, down
        )

    def quotients(
        self,
        layer: LinearMap,
        a: Tensor,
        z: Tensor,
        positive: Tensor,
        message: Message,
        norms: Tensor | None,
        gated: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """R / denominator where z ≥ 0, and where z < 0; ``positive`` is P."""
        incoming = relevance(z, message)
        stabiliser = self.stabiliser(layer, a, norms)
        above = divide(incoming, torch.add(z, positive, alpha=self.gamma).add_(stabiliser))
        if gated:
            return above, None
        below = divide(incoming, torch.add(z, (z - positive).clamp_(max=0), alpha=self.gamma).sub_(stabiliser))
        negative = z < 0
        return above.masked_fill_(negative, 0.0), below.masked_fill_(~negative, 0.0)

    def bias_shares(self, layer: LinearMap, above: Tensor, below: Tensor | None) -> Tensor | float:
        """What the bias keeps, as neuron 0."""
        b = layer.bias
        if b is None:
            return 0.0
        kept = layer.bias_share(above, b + self.gamma * b.clamp(min=0))
        return kept if below is None else kept + layer.bias_share(below, b + self.gamma * b.clamp(max=0))


@dataclass(frozen=True, slots=True)
class _NonNegative(BoundRule):
    rule: Gamma
    norms: Tensor | None
    positive: Tensor
    positive_bias: Tensor | None
    up: Tensor
    down: Tensor | None

    def pull(self, a: Tensor, z: Tensor, message: Message) -> tuple[Message, Tensor | float]:
        layer, rule = self.layer, self.rule
        positive = layer.apply(a, self.positive, self.positive_bias)
        above, below = rule.quotients(layer, a, z, positive, message, self.norms, self.down is None)
        down = layer.adjoint(above, self.up, a.shape)
        if below is not None:
            assert self.down is not None
            down += layer.adjoint(below, self.down, a.shape)
        return Message(down), rule.bias_shares(layer, above, below)


@dataclass(frozen=True, slots=True)
class _Signed(BoundRule):
    rule: Gamma
    norms: Tensor | None
    size: Tensor

    def pull(self, a: Tensor, z: Tensor, message: Message) -> tuple[Message, Tensor | float]:
        layer, rule = self.layer, self.rule
        bias = None if layer.bias is None else layer.bias.abs()
        positive = (layer.apply(a.abs(), self.size, bias) + z).mul_(0.5)
        above, below = rule.quotients(layer, a, z, positive, message, self.norms, False)
        assert below is not None
        # γ [a w]^± = γ/2 (a w ± |a||w|)
        plain = layer.adjoint(above + below, layer.weight, a.shape).mul_(1 + rule.gamma / 2)
        folded = layer.adjoint(above - below, self.size, a.shape).mul_(rule.gamma / 2)
        return Message(plain.addcmul_(folded, a.sign())), rule.bias_shares(layer, above, below)
