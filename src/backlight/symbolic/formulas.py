r"""Relevance as a formula: the rules on one linear region of a network, in symbols.

On a region every unit is an affine function of the inputs, and the sign of every contribution a_j w_jk is known. A
layer hands the modified gradient c_k = R_k / z_k on as

.. math:: c_j = \sum_k \hat w_{jk} \frac{z_k}{D_k} c_k

with ŵ and D as the rule has them; a rectifier that is on hands it on, a maximum gives it to the larger value, half each
where both are equal. A unit at zero has no relevance: 0/0 is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import sympy

from backlight.errors import ArgumentError, listed
from backlight.rules import AlphaBeta, Epsilon, Gamma, Rule, Zero, ZPlus
from backlight.symbolic.piecewise import Layer, Program
from backlight.symbolic.polyhedra import Affine

__all__ = ["RULES", "Formula", "expression_of", "formula", "relevances"]

# a factor for each input of a unit, from: contributions' weights, signs, z, its sign
Share = Callable[["Unit"], list[Any]]


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of a layer on a region: its weights, inputs with their signs, bias, and value."""

    weights: Sequence[Any]
    inputs: Sequence[Any]
    signs: Sequence[int]
    bias: Any
    z: Any
    sign: int
    own: Sequence[bool]

    def part(self, positive: bool) -> tuple[list[Any], Any]:
        """The weights of the contributions of one sign, zero elsewhere, and the sum of these with the bias's part."""
        chosen = [
            w if (w > 0) == ((s > 0) == positive) and w != 0 and s != 0 else sympy.Integer(0)
            for w, s in zip(self.weights, self.signs, strict=True)
        ]
        bias = self.bias if (self.bias > 0) == positive else sympy.Integer(0)
        return chosen, sum((w * a for w, a in zip(chosen, self.inputs, strict=True)), bias)


@dataclass(frozen=True, slots=True)
class Formula:
    """A rule in symbols.

    Attributes
    ----------
    title : str
    parameters : tuple of sympy.Symbol
        Left open; numbers where the rule was given with them.
    signs : bool
        Whether the signs of contributions and sums have to be known.
    share : callable
        The factors with which a unit hands on its modified gradient.
    """

    title: str
    parameters: tuple[sympy.Symbol, ...]
    signs: bool
    share: Share


def _positive(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, positive=True)


def _zero() -> Formula:
    return Formula("LRP-0", (), False, _zero_share)


def _zero_share(unit: Unit) -> list[Any]:
    return list(unit.weights)


def _epsilon_share(epsilon: Any, absolute: bool, unit: Unit) -> list[Any]:
    size = epsilon
    if not absolute:
        own = [a for a, reached in zip(unit.inputs, unit.own, strict=True) if reached]
        squares = sum(w * w for w in unit.weights) * sum(a * a for a in own) + unit.bias**2
        size = epsilon * sympy.sqrt(squares)
    return [w * unit.z / (unit.z + size * (1 if unit.sign >= 0 else -1)) for w in unit.weights]


def _epsilon(value: Any, absolute: bool) -> Formula:
    epsilon = _positive("epsilon") if value is None else _number(value)
    share = partial(_epsilon_share, epsilon, absolute)
    kind = "absolute" if absolute else "relative"
    return Formula(f"LRP-ε ({kind} ε = {epsilon})", _open(epsilon), True, share)


def _gamma_share(gamma: Any, unit: Unit) -> list[Any]:
    favoured, total = unit.part(unit.sign >= 0)
    denominator = unit.z + gamma * total
    return [
        (w + gamma * f) * unit.z / denominator if denominator != 0 else sympy.Integer(0)
        for w, f in zip(unit.weights, favoured, strict=True)
    ]


def _gamma(value: Any) -> Formula:
    gamma = _positive("gamma") if value is None else _number(value)
    return Formula(f"LRP-γ (γ = {gamma})", _open(gamma), True, partial(_gamma_share, gamma))


def _alphabeta_share(alpha: Any, beta: Any, unit: Unit) -> list[Any]:
    up, total_up = unit.part(True)
    down, total_down = unit.part(False)
    # a sum without a part is zero, and 0/0 is 0
    first = alpha * unit.z / total_up if total_up != 0 else sympy.Integer(0)
    second = beta * unit.z / total_down if total_down != 0 else sympy.Integer(0)
    return [first * u - second * d for u, d in zip(up, down, strict=True)]


def _alphabeta(alpha: Any, beta: Any, title: str) -> Formula:
    alpha, beta = (_positive(n) if v is None else _number(v) for n, v in (("alpha", alpha), ("beta", beta)))
    share = partial(_alphabeta_share, alpha, beta)
    return Formula(title or f"LRP-αβ (α = {alpha}, β = {beta})", _open(alpha, beta), True, share)


RULES: dict[str, Callable[[], Formula]] = {
    "zero": _zero,
    "epsilon": lambda: _epsilon(None, False),
    "epsilon-absolute": lambda: _epsilon(None, True),
    "gamma": lambda: _gamma(None),
    "alphabeta": lambda: _alphabeta(None, None, ""),
    "zplus": lambda: _alphabeta(1, 0, "LRP-z⁺"),
}


def formula(rule: str | Rule) -> Formula:
    """A rule in symbols: by name with open parameters, or as given with its numbers."""
    if isinstance(rule, str):
        if rule not in RULES:
            raise ArgumentError(
                f"rule={rule!r} has no formula: the rules are {listed(RULES, 12)}, or one of backlight.rules"
            )
        return RULES[rule]()
    if getattr(rule, "bias", "absorb") != "absorb":
        raise ArgumentError(f"{rule!r} has no formula here: formulas are for the default bias='absorb'")
    if isinstance(rule, Zero) or (isinstance(rule, Epsilon) and rule.epsilon == 0):
        return _zero()
    if type(rule) is Epsilon:
        return _epsilon(rule.epsilon, rule.absolute)
    if getattr(rule, "epsilon", 0.0) == 0.0:
        if type(rule) is Gamma:
            return _gamma(rule.gamma)
        if isinstance(rule, AlphaBeta) and type(rule) in (AlphaBeta, ZPlus):
            return _alphabeta(rule.alpha, rule.beta, "LRP-z⁺" if type(rule) is ZPlus else "")
    raise ArgumentError(f"{rule!r} has no formula: formulas are for Zero, Epsilon, Gamma, AlphaBeta and ZPlus")


def relevances(
    network: Program,
    values: Sequence[Sequence[Affine]],
    signs: dict[Any, int],
    symbols: Sequence[sympy.Symbol],
    made: Formula,
    output: int,
) -> list[Any]:
    """R of each input for one output unit on a region, not simplified."""
    exact = [[expression_of(f, symbols) for f in units] for units in values]
    last = len(network.instructions) - 1
    mail: list[list[Any]] = [[sympy.Integer(0)] * len(units) for units in exact]
    mail[last][output] = sympy.Integer(1)
    for k in range(last, 0, -1):
        step, sent = network.instructions[k], mail[k]
        if step.kind == "sum":
            for n, layer in enumerate(step.layers):
                _through(layer, (k, n), exact, sent, mail[layer.source], signs, made)
        elif step.kind == "same":
            _give(mail[step.sources[0]], sent, [1] * len(sent))
        elif step.kind in ("relu", "abs"):
            on = [signs[k, u] for u in range(len(sent))]
            _give(mail[step.sources[0]], sent, [max(s, 0) if step.kind == "relu" else s for s in on])
        else:
            first = [_share(network, k, u, signs) for u in range(len(sent))]
            for source, parts in zip(step.sources, (first, [1 - part for part in first]), strict=True):
                _give(mail[source], sent, parts)
    return [c * a for c, a in zip(mail[0], symbols, strict=True)]


def _share(network: Program, k: int, unit: int, signs: dict[Any, int]) -> Any:
    """What the first of the two values of a maximum or minimum has of it: where many are equal, each has its part."""
    step = network.instructions[k]
    sign = signs[k, unit] if step.kind == "maximum" else -signs[k, unit]
    if sign:
        return sympy.Integer(max(sign, 0))
    if step.first:
        return sympy.Integer(1)
    # the first value is itself one of so many that are equal
    equal, before = 1, step.before
    while before is not None:
        earlier = network.instructions[before]
        tie = signs[before, unit] if earlier.kind == "maximum" else -signs[before, unit]
        equal += tie == 0
        if tie < 0:
            break
        before = earlier.before
    return sympy.Rational(equal, equal + 1)


def _give(into: list[Any], sent: Sequence[Any], parts: Sequence[Any]) -> None:
    for unit, (c, part) in enumerate(zip(sent, parts, strict=True)):
        into[unit] = into[unit] + c * part


def _through(
    layer: Layer,
    key: tuple[int, int],
    exact: list[list[Any]],
    sent: Sequence[Any],
    into: list[Any],
    signs: dict[Any, int],
    made: Formula,
) -> None:
    inputs = exact[layer.source]
    for unit, c in enumerate(sent):
        if c == 0:
            continue
        weights = [_rational(w) for w in layer.weight[unit]]
        bias = _rational(layer.bias[unit]) if layer.bias is not None else sympy.Integer(0)
        if not layer.weighted:
            factors = weights
        else:
            z = sum((w * a for w, a in zip(weights, inputs, strict=True)), bias)
            kinds = [signs.get(("input", layer.source, j), 0) for j in range(len(inputs))] if made.signs else []
            factors = made.share(
                Unit(weights, inputs, kinds, bias, z, signs.get(("z", *key, unit), 0), layer.own[unit])
            )
        for j, factor in enumerate(factors):
            if factor != 0:
                into[j] = into[j] + factor * c


def _open(*values: Any) -> tuple[sympy.Symbol, ...]:
    return tuple(value for value in values if isinstance(value, sympy.Symbol))


def _number(value: Any) -> Any:
    """A parameter as the decimal number that was written."""
    return value if isinstance(value, sympy.Basic) else sympy.Rational(str(value))


def _rational(value: Fraction) -> Any:
    return sympy.Rational(value.numerator, value.denominator)


def expression_of(function: Affine, symbols: Sequence[sympy.Symbol]) -> Any:
    """An affine function in symbols."""
    return sum((_rational(c) * s for c, s in zip(function, symbols, strict=False) if c), _rational(function[-1]))
