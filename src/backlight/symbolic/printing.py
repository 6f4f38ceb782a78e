"""Conditions, products and formulas as they are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from html import escape
from typing import Any

import sympy

from backlight.symbolic.formulas import expression_of
from backlight.symbolic.piecewise import Cut
from backlight.symbolic.polyhedra import Affine, interior

__all__ = ["condition", "drawn", "positive_factors", "rank", "relation", "said"]

_GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "epsilon": "ε"}


def rank(equations: Sequence[Affine]) -> int:
    """How many of the equations are independent."""
    if not equations:
        return 0
    return int(sympy.Matrix([[sympy.Rational(c.numerator, c.denominator) for c in f[:-1]] for f in equations]).rank())


def condition(cut: Cut, start: Cut, symbols: Sequence[sympy.Symbol]) -> Any:
    """The inequalities that bound a region and do not follow from the others and the assumptions."""
    size = len(symbols)
    held = [f for f in dict.fromkeys(cut.positive[len(start.positive) :]) if f not in start.positive]
    needed = list(held)
    for function in held:
        rest = [*start.positive, *(f for f in needed if f is not function)]
        # it follows where its opposite leaves nothing; what is left of zero has no interior
        if interior([*rest, tuple(-c for c in function)], cut.zero, size) is None:
            needed = [f for f in needed if f is not function]
    parts = [relation(f, symbols) for f in needed] + [relation(f, symbols, equal=True) for f in cut.zero]
    return sympy.And(*parts) if parts else sympy.true


def relation(function: Affine, symbols: Sequence[sympy.Symbol], *, equal: bool = False) -> Any:
    """Positive terms on one side, negative ones on the other."""
    scale = max((abs(c) for c in function[:-1] if c), default=Fraction(1))
    units = [c for c in function if c]
    if all(abs(c) == scale for c in units):
        function = tuple(c / scale for c in function)
    left = tuple(max(c, Fraction(0)) for c in function)
    right = tuple(max(-c, Fraction(0)) for c in function)
    a, b = expression_of(left, symbols), expression_of(right, symbols)
    if equal:
        first, second = (b, a) if sympy.default_sort_key(b) < sympy.default_sort_key(a) and b != 0 else (a, b)
        return sympy.Eq(first, second, evaluate=False)
    # the first input stands on the left
    if b != 0 and a != 0 and _first(b, symbols) < _first(a, symbols):
        return sympy.Lt(b, a, evaluate=False)
    if a == 0:
        return sympy.Lt(b, a, evaluate=False)
    return sympy.Gt(a, b, evaluate=False)


def _first(expression: Any, symbols: Sequence[sympy.Symbol]) -> int:
    return min((k for k, s in enumerate(symbols) if expression.has(s)), default=len(symbols))


def positive_factors(product: Any, point: dict[Any, Any]) -> Any:
    """The product with factors that are positive at a point, and the sign in front."""
    sign, found = sympy.Integer(1), []
    for factor in sympy.Mul.make_args(product):
        base, exponent = factor.as_base_exp()
        value = base.subs(point)
        value = value.subs(dict.fromkeys(value.free_symbols, sympy.Rational(1, 3)))
        if base.is_Add and exponent.is_Integer and value.is_negative:
            sign, base = sign * (-1) ** exponent, sympy.expand(-base)
        found.append(base**exponent)
    return sign * sympy.Mul(*found)


def drawn(expression: Any) -> str:
    """As MathML, which browsers draw without a library; names that are markup are escaped."""
    if expression is sympy.true or expression == True:  # noqa: E712 - SymPy's own true
        return "everywhere"
    # SymPy's printer takes names as they are: those with markup are put in afterwards
    marked = sorted((s for s in expression.free_symbols if escape(s.name) != s.name), key=str)
    held = {symbol: "Q" + "Z" * (k + 1) + "Q" for k, symbol in enumerate(marked)}
    stand_in = {symbol: sympy.Symbol(name) for symbol, name in held.items()}
    inner = sympy.mathml(expression.xreplace(stand_in), printer="presentation")
    for symbol, name in held.items():
        inner = inner.replace(f">{name}<", f">{escape(symbol.name)}<")
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML">{inner}</math>'


def said(expression: Any) -> str:
    """As plain text: and for &, = for Eq, ^ for powers."""
    if expression is sympy.true or expression == True:  # noqa: E712 - SymPy's own true
        return "everywhere"
    if isinstance(expression, sympy.And):
        return " and ".join(sorted(said(part) for part in expression.args))
    if isinstance(expression, sympy.Eq):
        return f"{said(expression.lhs)} = {said(expression.rhs)}"
    text = str(expression).replace("**", "^").replace("*", "·")
    # what is subtracted comes last
    text = re.sub(r"\(-([^()+-]+) \+ ([^()]+)\)", r"(\2 - \1)", text)
    return re.sub(r"\b(" + "|".join(_GREEK) + r")\b", lambda found: _GREEK[found[0]], text)
