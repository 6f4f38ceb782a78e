"""Where the inputs lie: as a polyhedron of rational numbers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import sympy
import torch
from torch import Tensor

from backlight.arguments import shown
from backlight.errors import ArgumentError
from backlight.rules import Box
from backlight.symbolic.piecewise import Cut
from backlight.symbolic.polyhedra import Affine, interior

__all__ = ["domain_cut", "names_of"]


def names_of(dimension: int, names: Sequence[str] | None, *, positive: bool = False) -> list[sympy.Symbol]:
    """Symbols for the inputs: a1, a2, … or given names."""
    names = [f"a{j + 1}" for j in range(dimension)] if names is None else list(names)
    if len(names) != dimension or len(set(names)) != dimension:
        raise ArgumentError(f"{len(names)} names for {dimension} inputs: give one name for each, all different")
    assumed = {"positive": True} if positive else {"real": True}
    return [sympy.Symbol(name, **assumed) for name in names]


def domain_cut(domain: Any, dimension: int, symbols: Sequence[sympy.Symbol] = ()) -> Cut:
    """The interior of a domain: "all", "nonnegative", Box(low, high), (low, high), or linear inequalities of SymPy.

    Raises
    ------
    ArgumentError
        Unknown, empty, or not linear.
    """
    positive: list[Affine] = []
    if domain is None or (isinstance(domain, str) and domain == "all"):
        pass
    elif isinstance(domain, str):
        if domain not in ("nonnegative", "positive"):
            raise ArgumentError(
                f"domain {domain!r} is not known: give 'all', 'nonnegative', Box(low, high) or inequalities"
            )
        positive = [_unit(dimension, j, 1, Fraction(0)) for j in range(dimension)]
    elif isinstance(domain, Box):
        positive = _box(domain.low, domain.high, dimension)
    elif (
        isinstance(domain, Sequence) and domain and all(isinstance(c, sympy.core.relational.Relational) for c in domain)
    ):
        positive = [_inequality(c, symbols, dimension) for c in domain]
    elif isinstance(domain, Sequence) and len(domain) == 2:
        positive = _box(domain[0], domain[1], dimension)
    else:
        raise ArgumentError(
            f"domain {domain!r} is not known: give 'all', 'nonnegative', Box(low, high) or inequalities"
        )
    point = interior(positive, (), dimension)
    if point is None:
        raise ArgumentError(f"the domain {domain!r} has no interior: its bounds leave no input")
    return Cut(positive, [], point)


def _unit(dimension: int, j: int, sign: int, bias: Fraction) -> Affine:
    return (*(Fraction(sign * int(i == j)) for i in range(dimension)), bias)


def _box(low: Any, high: Any, dimension: int) -> list[Affine]:
    if low is None or high is None:
        raise ArgumentError("a domain needs Box(low, high) with both bounds")
    found = []
    for side, sign in ((low, 1), (high, -1)):
        try:
            bound: Tensor = torch.as_tensor(side, dtype=torch.float64).flatten()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ArgumentError(f"a bound of a domain is a number or an array of numbers, not {shown(side)}") from error
        values = bound.expand(dimension) if bound.numel() in (1, dimension) else None
        if values is None:
            raise ArgumentError(f"bounds of {bound.numel()} numbers do not fit {dimension} inputs")
        for j, value in enumerate(values.tolist()):
            if abs(value) != float("inf"):
                found.append(_unit(dimension, j, sign, Fraction(-sign * value) if value else Fraction(0)))
    return found


def _inequality(relation: Any, symbols: Sequence[sympy.Symbol], dimension: int) -> Affine:
    difference = sympy.expand(relation.gts - relation.lts) if hasattr(relation, "gts") else None
    by_name = {symbol.name: symbol for symbol in symbols}
    if difference is None:
        raise ArgumentError(f"{relation} is no inequality: assumptions are inequalities such as a1 > a2")
    unknown = {s.name for s in difference.free_symbols} - set(by_name)
    if unknown:
        raise ArgumentError(f"{relation} speaks of {sorted(unknown)}, and the inputs are {sorted(by_name)}")
    difference = difference.subs({s: by_name[s.name] for s in difference.free_symbols})
    poly = sympy.Poly(difference, *symbols)
    if poly.total_degree() > 1:
        raise ArgumentError(f"{relation} is not linear")
    found = [Fraction(int(c.p), int(c.q)) for c in (sympy.Rational(poly.coeff_monomial(s)) for s in symbols)]
    constant = sympy.Rational(poly.coeff_monomial(1))
    return (*found, Fraction(int(constant.p), int(constant.q)))
