"""Linear layers and their bound rules as graphs: z = W a + b, its transpose, and what each rule sends back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from backlight._export.graphs.graph import Operand, Value
from backlight.errors import UnsupportedModel
from backlight.rules import Convolution, Dense, Elementwise, LinearMap
from backlight.rules.base import BoundRule, LinearRule, Norms, _WithoutBias
from backlight.rules.epsilon import _BoundEpsilon
from backlight.rules.gamma import _Bound, _NonNegative, _Signed

__all__ = ["Geometry", "divided", "geometry", "pull"]


def _numbers(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().cpu())


def divided(numerator: Value, denominator: Value) -> Value:
    """The quotient, 0 where the denominator is 0."""
    where, none = numerator.graph.where, denominator.equals(0.0)
    return where(none, 0.0, numerator / where(none, 1.0, denominator))


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """What a layer does with weights of its shape.

    Attributes
    ----------
    apply : function of a, weight and bias to z
    adjoint : function of s and weight to Wᵀ s
    gather : function of a to the sums over each unit's own inputs
    per_unit : function of a vector to what broadcasts against z
    """

    apply: Callable[[Value, Tensor, Tensor | None], Value]
    adjoint: Callable[[Value, Tensor], Value]
    gather: Callable[[Value], Value]
    per_unit: Callable[[Tensor], np.ndarray]


def geometry(layer: LinearMap, before: Sequence[int], after: Sequence[int]) -> Geometry:
    """A layer's, for the shapes of one row before and after it.

    Raises
    ------
    UnsupportedModel
    """
    makers: dict[type, Callable[[Any, Sequence[int], Sequence[int]], Geometry]] = {
        Dense: _dense, Convolution: _convolution, Elementwise: _elementwise,
    }  # fmt: skip
    if type(layer) not in makers:
        raise UnsupportedModel(
            f"{type(layer).__name__} layers are not written as a graph in this version: use dense layers"
        )
    return makers[type(layer)](layer, before, after)


def _dense(_layer: Dense, _before: Sequence[int], _after: Sequence[int]) -> Geometry:
    def apply(a: Value, weight: Tensor, bias: Tensor | None) -> Value:
        z = a @ _numbers(weight).T
        return z if bias is None else z + _numbers(bias)

    return Geometry(apply, lambda s, weight: s @ _numbers(weight), lambda a: a.sum(), _numbers)


def _elementwise(_layer: Elementwise, _before: Sequence[int], _after: Sequence[int]) -> Geometry:
    def apply(a: Value, weight: Tensor, bias: Tensor | None) -> Value:
        z = a * _numbers(weight)
        return z if bias is None else z + _numbers(bias)

    return Geometry(apply, lambda s, weight: s * _numbers(weight), lambda a: a, _numbers)


def _convolution(layer: Convolution, before: Sequence[int], after: Sequence[int]) -> Geometry:
    if layer.transposed:
        raise UnsupportedModel(
            "transposed convolutions are not written as a graph in this version: use another network"
        )
    kernel = tuple(layer.weight.shape[2:])
    same: dict[str, Any] = {
        "strides": list(layer.stride), "pads": [*layer.padding, *layer.padding], "dilations": list(layer.dilation),
        "group": layer.groups,
    }  # fmt: skip
    reach = [
        (o - 1) * s - 2 * p + d * (k - 1) + 1
        for o, s, p, d, k in zip(after[1:], layer.stride, layer.padding, layer.dilation, kernel, strict=True)
    ]
    # rows and columns at the end that no window of a wide stride reaches
    rest = [size - reached for size, reached in zip(before[1:], reach, strict=True)]

    def apply(a: Value, weight: Tensor, bias: Tensor | None) -> Value:
        further = [] if bias is None else [_numbers(bias)]
        return a.graph.op("Conv", a, _numbers(weight), *further, **same)

    def adjoint(s: Value, weight: Tensor) -> Value:
        return s.graph.op("ConvTranspose", s, _numbers(weight), output_padding=rest, **same)

    def gather(a: Value) -> Value:
        ones = np.ones((layer.weight.shape[0], before[0] // layer.groups, *kernel))
        return a.graph.op("Conv", a, ones if layer.groups > 1 else ones[:1], **same)

    def per_unit(parameter: Tensor) -> np.ndarray:
        return _numbers(parameter).reshape(-1, *(1,) * len(kernel))

    return Geometry(apply, adjoint, gather, per_unit)


# -- rules -------------------------------------------------------------------------------------------------------------


def pull(bound: BoundRule, shape: Geometry, a: Value, z: Value, gradient: Value | None, incoming: Value) -> Value:
    """The modified gradient that a rule sends back, from that of z, or from relevance outright.

    Raises
    ------
    UnsupportedModel
        For a rule that nobody has written as a graph.
    """
    if isinstance(bound, _WithoutBias) and bound.layer.bias is not None:
        return pull(bound.inner, shape, a, z - shape.per_unit(bound.layer.bias), None, incoming)
    if isinstance(bound, _BoundEpsilon):
        return _epsilon(bound, shape, a, z, gradient, incoming)
    if isinstance(bound, _NonNegative):
        return _gamma(bound, shape, a, z, incoming)
    if isinstance(bound, _Signed):
        return _signed_gamma(bound, shape, a, z, incoming)
    rule = getattr(bound, "rule", bound)
    raise UnsupportedModel(
        f"the rule {type(rule).__name__} is not written as a graph in this version: use ε, γ or 'auto'"
    )


def _stabiliser(rule: LinearRule, shape: Geometry, a: Value, norms: Norms) -> Operand:
    if norms is None:
        return rule.epsilon
    weights, bias = norms
    scale = shape.gather(a * a) * _numbers(weights)
    return (scale if bias is None else scale + _numbers(bias)).sqrt()


def _epsilon(
    bound: _BoundEpsilon, shape: Geometry, a: Value, z: Value, gradient: Value | None, incoming: Value
) -> Value:
    rule, where = bound.rule, a.graph.where
    if rule.bias == "distribute" and bound.layer.bias is not None:
        raise UnsupportedModel("Epsilon(bias='distribute') is not written as a graph in this version: use 'absorb'")
    if gradient is None:
        sign = where(z < 0.0, -1.0, 1.0)
        bottom = z + sign * _stabiliser(rule, shape, a, bound.norms) if rule.epsilon else z
        return shape.adjoint(divided(incoming, bottom), bound.layer.weight)
    s = gradient
    if rule.epsilon:
        size = z.abs()
        s = s * divided(size, size + _stabiliser(rule, shape, a, bound.norms))
    elif bound.gated:
        s = where(z > 0.0, s, 0.0)
    return shape.adjoint(s, bound.layer.weight)


def _quotients(
    bound: _Bound, shape: Geometry, a: Value, z: Value, positive: Value, incoming: Value
) -> tuple[Value, Value]:
    """R / denominator where z ≥ 0, and where z < 0."""
    rule, where = bound.rule, a.graph.where
    extra: Operand = _stabiliser(rule, shape, a, bound.norms) if rule.epsilon else 0.0
    negative = z - positive
    above = divided(incoming, z + positive * rule.gamma + extra)
    below = divided(incoming, z + where(negative < 0.0, negative, 0.0) * rule.gamma - extra)
    return where(z < 0.0, 0.0, above), where(z < 0.0, below, 0.0)


def _gamma(bound: _NonNegative, shape: Geometry, a: Value, z: Value, incoming: Value) -> Value:
    positive = shape.apply(a, bound.positive, bound.positive_bias)
    above, below = _quotients(bound, shape, a, z, positive, incoming)
    sent = shape.adjoint(above, bound.up)
    return sent if bound.down is None else sent + shape.adjoint(below, bound.down)


def _signed_gamma(bound: _Signed, shape: Geometry, a: Value, z: Value, incoming: Value) -> Value:
    gamma = bound.rule.gamma
    positive = (shape.apply(a.abs(), bound.size, bound.size_bias) + z) * 0.5
    above, below = _quotients(bound, shape, a, z, positive, incoming)
    # γ [a w]^± = γ/2 (a w ± |a||w|)
    plain = shape.adjoint(above + below, bound.layer.weight) * (1 + gamma / 2)
    folded = shape.adjoint(above - below, bound.size) * (gamma / 2)
    return plain + folded * a.graph.op("Sign", a)
