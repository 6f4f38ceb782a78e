r"""LRP-αβ and its special case z⁺, for inputs of any sign.

.. math:: R_j = \sum_k \Big(\alpha \frac{(a_j w_{jk})^+}{P_k} - \beta \frac{(a_j w_{jk})^-}{N_k}\Big) R_k

with :math:`P_k, N_k` the sums of the positive and of the negative contributions to unit k. The bias is neuron 0: its
positive part stands in P, its negative part in N. Where a unit has no positive (negative) contribution, 0/0 is 0 and
the part α (−β) of its relevance is not passed on.

Source: Bach et al., PLoS ONE 10(7), 2015, equation 60; z⁺: Montavon, Lapuschkin, Binder, Samek, Müller, "Explaining
nonlinear classification decisions with deep Taylor decomposition", Pattern Recognition 65, 2017, equation 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from backlight.errors import ArgumentError
from backlight.rules.base import BoundRule, Facts, LinearRule, Message, Norms, Symbolic, divide, named, relevance
from backlight.rules.maps import LinearMap

__all__ = ["AlphaBeta", "ZPlus"]


def _share(unit: Any, alpha: Any, beta: Any) -> list[Any]:
    up, total_up = unit.part(True)
    down, total_down = unit.part(False)
    # a sum without a part is zero, and 0/0 is 0
    first = alpha * unit.z / total_up if total_up != 0 else unit.zero
    second = beta * unit.z / total_down if total_down != 0 else unit.zero
    return [first * u - second * d for u, d in zip(up, down, strict=True)]


@named("alphabeta")
@dataclass(frozen=True, slots=True, repr=False)
class AlphaBeta(LinearRule):
    r"""LRP-αβ: :math:`R_j = \sum_k (\alpha (a_jw_{jk})^+/P_k - \beta (a_jw_{jk})^-/N_k) R_k`.

    Parameters
    ----------
    alpha, beta : float
        α − β = 1, both ≥ 0. The literature writes N with its sign, so that both quotients are positive.
    epsilon : float
    absolute : bool
    """

    alpha: float = 2.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        super(AlphaBeta, self).__post_init__()
        if self.beta < 0 or not abs(self.alpha - self.beta - 1) <= 1e-12:
            raise ArgumentError(f"alpha − beta must be 1 with beta ≥ 0, not alpha={self.alpha!r}, beta={self.beta!r}")

    def emits_direct(self, layer: LinearMap) -> bool:
        return False

    def symbolic(self) -> Symbolic | None:
        if self.epsilon:
            return None
        parameters = {"alpha": self.alpha, "beta": self.beta}
        return Symbolic("LRP-αβ (α = {alpha}, β = {beta})", parameters, True, _share)

    def bind(self, layer: LinearMap, facts: Facts) -> BoundRule:
        w, b = layer.weight, layer.bias
        both = self.beta != 0
        forwards, backwards = ("2F", 1 + both) if facts.nonnegative else ("3F", 2 + 2 * both)
        cost = f"{forwards} + {backwards if backwards > 1 else ''}B"
        return _Bound(
            layer, cost, self, facts.nonnegative, self.norms(layer), w.clamp(min=0),
            w.clamp(max=0) if both or not facts.nonnegative else None,
            None if b is None else b.clamp(min=0), None if b is None else b.clamp(max=0),
        )  # fmt: skip


@named("zplus")
@dataclass(frozen=True, slots=True, repr=False)
class ZPlus(AlphaBeta):
    r"""z⁺: :math:`R_j = \sum_k (a_j w_{jk})^+ / \sum_{0,j'} (a_{j'} w_{j'k})^+ \, R_k`, αβ with α = 1, β = 0."""

    alpha: float = 1.0
    beta: float = 0.0

    def symbolic(self) -> Symbolic | None:
        return None if self.epsilon else Symbolic("LRP-z⁺", {}, True, partial(_share, alpha=1, beta=0))


@dataclass(frozen=True, slots=True)
class _Bound(BoundRule):
    rule: AlphaBeta
    nonnegative: bool
    norms: Norms
    up: Tensor
    down: Tensor | None
    up_bias: Tensor | None
    down_bias: Tensor | None

    def pull(self, a: Tensor, z: Tensor, message: Message) -> tuple[Message, Tensor | float]:
        layer, rule = self.layer, self.rule
        incoming = relevance(z, message)
        stabiliser = rule.stabiliser(layer, a, self.norms) if rule.epsilon else 0.0
        above = a if self.nonnegative else a.clamp(min=0)
        positive = layer.apply(above, self.up, self.up_bias)
        if not self.nonnegative:
            assert self.down is not None
            positive += layer.apply(a.clamp(max=0), self.down, None)
        # N before the stabiliser enters P
        negative = (z - positive).clamp_(max=0) if rule.beta else None
        s = divide(incoming, positive.add_(stabiliser) if rule.epsilon else positive)
        del positive  # of the size of the layer's output
        if rule.alpha != 1:
            s *= rule.alpha
        kept = layer.bias_share(s, self.up_bias)
        toward = layer.adjoint(s, self.up, a.shape)
        against = None if self.nonnegative else layer.adjoint(s, self._down, a.shape)
        if negative is not None:
            s = divide(incoming, negative.sub_(stabiliser) if rule.epsilon else negative).mul_(-rule.beta)
            kept = kept + layer.bias_share(s, self.down_bias)
            toward += layer.adjoint(s, self._down, a.shape)
            if against is not None:
                against += layer.adjoint(s, self.up, a.shape)
        if against is not None:
            toward = toward.where(a > 0, against)
        return Message(toward), kept

    @property
    def _down(self) -> Tensor:
        assert self.down is not None
        return self.down
