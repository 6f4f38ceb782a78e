"""Long formulas that print on a page: what several of them share is said once and has a name.

A sum is written with the coefficient of its first term one, so that multiples of it are the same sum; factors that all
its terms share stand in front; and a sum or a product that occurs more than once is given a name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy

__all__ = ["DIGITS", "Named", "named", "rounded"]

# of numbers that cannot be written with a short denominator
DIGITS = 5
_DENOMINATOR = 10**4
# products of fewer factors are as short as a name
_FACTORS = 2


@dataclass(frozen=True, slots=True)
class Named:
    """Formulas with names in them, and what the names stand for.

    Attributes
    ----------
    definitions : dict of sympy.Symbol to expression
        Each one speaks of inputs, parameters and names that come before it.
    formulas : list of expressions
        As many as were given, each equal to its own once the definitions are put in, last one first.
    """

    definitions: dict[Any, Any]
    formulas: list[Any]


def named(formulas: Sequence[Any], taken: Sequence[Any] = (), letter: str = "s") -> Named:
    """Formulas with names for what they share.

    Parameters
    ----------
    formulas : sequence of sympy expressions
    taken : sequence of sympy.Symbol
        Names that are in use.
    letter : str
        What the names begin with.
    """
    while any(str(symbol).startswith(letter) for symbol in taken):
        letter += "s"
    made = _Naming(letter)
    cells = [made.whole(formula) for formula in formulas]
    return _kept(made.order, cells, letter)


def rounded(expression: Any) -> Any:
    """An expression to be read: numbers with a long denominator as decimals."""
    long = {q: sympy.Float(q, DIGITS) for q in expression.atoms(sympy.Rational) if q.q > _DENOMINATOR}
    return expression.xreplace(long) if long else expression


@dataclass(slots=True)
class _Naming:
    letter: str
    known: dict[Any, Any] = field(default_factory=dict)
    order: dict[Any, Any] = field(default_factory=dict)
    seen: dict[Any, tuple[Any, Any]] = field(default_factory=dict)

    def whole(self, expression: Any) -> Any:
        coefficient, rest = self.parts(expression)
        return coefficient * rest

    def parts(self, expression: Any) -> tuple[Any, Any]:
        """A number and what it is multiplied with."""
        found = self.seen.get(expression)
        if found is None:
            found = self.seen[expression] = self._parts(expression)
        return found

    def _parts(self, e: Any) -> tuple[Any, Any]:
        if e.is_Rational:
            return e, sympy.Integer(1)
        if e.is_Add:
            return self._sum(e)
        if e.is_Mul:
            pairs = [self.parts(factor) for factor in e.args]
            return sympy.Mul(*(c for c, _ in pairs)), sympy.Mul(*(rest for _, rest in pairs))
        if e.is_Pow:
            coefficient, base = self.parts(e.base)
            if e.exp.is_Integer:
                return coefficient**e.exp, base**e.exp
            return sympy.Integer(1), self.name(coefficient * base) ** e.exp
        return sympy.Integer(1), e.func(*map(self.whole, e.args)) if e.args else e

    def _sum(self, e: Any) -> tuple[Any, Any]:
        pairs = sorted(map(self.parts, e.args), key=lambda pair: sympy.default_sort_key(pair[1]))
        common = _common([rest for _, rest in pairs])
        lead = pairs[0][0]
        terms = [(c / lead) * self.name(rest / common) for c, rest in pairs]
        return lead, common * self.name(sympy.Add(*terms))

    def name(self, expression: Any) -> Any:
        """The name of an expression; of short ones the expression itself."""
        short = not expression.args or (expression.is_Mul and len(expression.args) <= _FACTORS) or expression.is_Pow
        if short or expression.count_ops() <= _FACTORS:
            return expression
        if expression not in self.known:
            symbol = sympy.Symbol(f"{self.letter}{len(self.known) + 1}")
            self.known[expression] = symbol
            self.order[symbol] = expression
        return self.known[expression]


def _common(terms: list[Any]) -> Any:
    """The powers that all terms have as factors."""
    shared: dict[Any, Any] | None = None
    for term in terms:
        mine = dict(factor.as_base_exp() for factor in sympy.Mul.make_args(term))
        shared = mine if shared is None else {b: n for b, n in shared.items() if mine.get(b) == n}
    return sympy.Mul(*(b**n for b, n in (shared or {}).items() if b != 1))


def _kept(definitions: dict[Any, Any], cells: list[Any], letter: str) -> Named:
    """Without the names that are used once or never, and the others counted from one."""
    uses: Counter[Any] = Counter()
    for expression in (*definitions.values(), *cells):
        for node in sympy.preorder_traversal(expression):
            if node in definitions:
                uses[node] += 1
    written: dict[Any, Any] = {}
    kept: dict[Any, Any] = {}
    for symbol, expression in definitions.items():
        here = expression.xreplace(written)
        if uses[symbol] < 2:
            written[symbol] = here
            continue
        written[symbol] = sympy.Symbol(f"{letter}{len(kept) + 1}")
        kept[written[symbol]] = here
    return Named(kept, [cell.xreplace(written) for cell in cells])
