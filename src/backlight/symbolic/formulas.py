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
from backlight.rules import NAMED_RULES, LinearRule, Rule
from backlight.rules.base import Symbolic
from backlight.symbolic.polyhedra import Affine
from backlight.symbolic.program import Layer, Program

__all__ = ["Formula", "expression_of", "formula", "relevances"]

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

    @property
    def zero(self) -> Any:
        """0."""
        return sympy.Integer(0)

    @staticmethod
    def root(value: Any) -> Any:
        """The square root."""
        return sympy.sqrt(value)

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


def formula(rule: str | Rule) -> Formula:
    """A rule in symbols: by name with open parameters, or as given with its numbers."""
    known = [name for name, one in NAMED_RULES.items() if one.symbolic() is not None]
    if isinstance(rule, str):
        made = NAMED_RULES[rule].symbolic() if rule in NAMED_RULES else None
        if made is None:
            raise ArgumentError(
                f"rule={rule!r} has no formula: the rules are {listed(known, 12)}, or one of backlight.rules"
            )
        return _filled(made, {name: sympy.Symbol(name, positive=True) for name in made.parameters})
    if getattr(rule, "bias", "absorb") != "absorb":
        raise ArgumentError(f"{rule!r} has no formula here: formulas are for the default bias='absorb'")
    made = rule.symbolic() if isinstance(rule, LinearRule) else None
    if made is None:
        classes = dict.fromkeys(type(NAMED_RULES[name]).__name__ for name in known)
        raise ArgumentError(f"{rule!r} has no formula: formulas are for {listed(classes, 12)}")
    return _filled(made, {name: _number(value) for name, value in made.parameters.items()})


def _filled(made: Symbolic, values: dict[str, Any]) -> Formula:
    symbols = tuple(value for value in values.values() if isinstance(value, sympy.Symbol))
    return Formula(made.title.format(**values), symbols, made.signs, partial(made.share, **values))


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


def _number(value: Any) -> Any:
    """A parameter as the decimal number that was written."""
    return value if isinstance(value, sympy.Basic) else sympy.Rational(str(value))


def _rational(value: Fraction) -> Any:
    return sympy.Rational(value.numerator, value.denominator)


def expression_of(function: Affine, symbols: Sequence[sympy.Symbol]) -> Any:
    """An affine function in symbols."""
    return sum((_rational(c) * s for c, s in zip(function, symbols, strict=False) if c), _rational(function[-1]))
