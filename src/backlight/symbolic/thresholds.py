"""From which value of a parameter on two networks name different inputs everywhere."""

from __future__ import annotations

from typing import Any

import sympy

from backlight.arguments import shown
from backlight.errors import ArgumentError
from backlight.symbolic.derive import Derivation, Region

__all__ = ["always_different_from"]


def always_different_from(first: Derivation, second: Derivation) -> Any:
    """The value of the rule's parameter from which two networks name different most relevant inputs everywhere.

    For two inputs, non-negative, networks without biases and a rule with one open parameter: relevance is then
    homogeneous, and a function of t = a₁/a₂ alone. The values of the parameter where |R₁| = |R₂| gains or loses a
    solution t are the roots of discriminants and of the values at the ends of the regions; between two of them
    nothing changes, so that one value in each interval decides.

    Parameters
    ----------
    first, second : Derivation

    Returns
    -------
    sympy expression, or None
        Exact. From there on, but for ties at single points, they differ at every input. ``None``: not for any value.

    Raises
    ------
    ArgumentError
        The derivations are not of that kind.

    Examples
    --------
    >>> import backlight
    >>> from backlight.symbolic import always_different_from
    >>> i, ii = (backlight.derive(net, "gamma") for net in backlight.examples.min_networks())
    >>> always_different_from(i, ii)
    -1/2 + sqrt(2)/2
    """
    for found in (first, second):
        if not isinstance(found, Derivation):
            raise ArgumentError(f"this is for what backlight.derive gives, not for {shown(found)}")
        biased = any(layer.bias is not None for step in found.network.instructions for layer in step.layers)
        if len(found.symbols) != 2 or len(found.parameters) != 1 or biased or found.assume != first.assume:
            raise ArgumentError(
                "this is for two derivations of networks without biases, with two inputs and one open parameter, under "
                "the same assumption 'nonnegative'"
            )
    if first.symbols != second.symbols or not all(symbol.is_positive for symbol in first.symbols):
        raise ArgumentError("this is for derivations with assume='nonnegative' and the same names of inputs")
    parameter = first.parameters[0]
    t = sympy.Symbol("t", positive=True)
    cells = [
        (max(a[0], b[0]), _least(a[1], b[1]), p, q)
        for a, p in _rays(first, t)
        for b, q in _rays(second, t)
        if _least(a[1], b[1]) > max(a[0], b[0])
    ]
    candidates = sorted({c for cell in cells for c in _candidates(cell, t, parameter)}, key=sympy.N)
    tests = [sympy.Rational(0), *candidates]
    answer = None
    for k in range(len(tests) - 1, -1, -1):
        above = tests[k + 1] if k + 1 < len(tests) else tests[k] + 1
        middle = sympy.nsimplify((sympy.N(tests[k], 30) + sympy.N(above, 30)) / 2, rational=True)
        if not all(_differ(cell, t, parameter, middle) for cell in cells):
            break
        answer = tests[k]
    return answer


def _least(a: Any, b: Any) -> Any:
    return a if sympy.oo == b or (sympy.oo != a and a < b) else b


def _rays(found: Derivation, t: Any) -> list[tuple[tuple[Any, Any], list[Any]]]:
    """For each full region its interval of t, and the factors whose signs decide which input has more."""
    return [
        (_interval(region), _factors(region, t)) for region in found.regions if region.dimension == len(found.symbols)
    ]


def _interval(region: Region) -> tuple[Any, Any]:
    low, high = sympy.Integer(0), sympy.oo
    for a, b, _ in region.piece.cut.positive:
        # a t + b > 0
        if a:
            bound = sympy.Rational(-b.numerator * a.denominator, b.denominator * a.numerator)
            low, high = (max(low, bound), high) if a > 0 else (low, _least(high, bound))
    return low, high


def _factors(region: Region, t: Any) -> list[Any]:
    first, second = (sympy.together(r.subs({region.symbols[0]: t, region.symbols[1]: 1})) for r in region.relevance)
    # |R₁| > |R₂| where R₁² − R₂² > 0; its denominator is a square
    numerator, denominator = sympy.fraction(sympy.together((first - second) * (first + second)))
    return [sympy.factor(numerator * denominator)]


def _candidates(cell: tuple[Any, Any, list[Any], list[Any]], t: Any, parameter: Any) -> list[Any]:
    low, high, p, q = cell
    found: list[Any] = []
    for expression in (*p, *q):
        _, factors = sympy.factor_list(expression, t, parameter)
        for factor, _ in factors:
            poly = sympy.Poly(factor, t)
            conditions = [poly.LC(), *([sympy.discriminant(factor, t)] if poly.degree() > 1 else [])]
            conditions += [factor.subs(t, end) for end in (low, high) if end != sympy.oo]
            for condition in conditions:
                if sympy.sympify(condition).has(parameter):
                    roots = sympy.real_roots(sympy.Poly(condition, parameter))
                    found += [sympy.radsimp(root) for root in roots if root > 0]
    return found


def _differ(cell: tuple[Any, Any, list[Any], list[Any]], t: Any, parameter: Any, value: Any) -> bool:
    low, high, p, q = cell
    middle = low + 1 if high == sympy.oo else (low + high) / 2
    signs = []
    for (expression,) in (p, q):
        here = sympy.expand(expression.subs(parameter, value))
        if here == 0:
            return False
        poly = sympy.Poly(here, t)
        inside = poly.count_roots(low, None if high == sympy.oo else high)
        ends = sum(1 for end in (low, high) if end != sympy.oo and poly.eval(end) == 0)
        if inside - ends > 0:
            return False
        signs.append(sympy.sign(poly.eval(middle)))
    return bool(signs[0] * signs[1] < 0)
