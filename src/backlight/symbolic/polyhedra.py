r"""Is a set of strict linear inequalities solvable? Decided in floating point, proved in rational numbers.

A point in the interior is proved by putting it in. That there is none is proved by Farkas' lemma: non-negative
multipliers y, not all zero, with Σ yᵢ aᵢ = 0 and Σ yᵢ bᵢ ≤ 0 contradict aᵢ·x + bᵢ > 0 for all i. The multipliers are
read off the linear programme that HiGHS solves, and solved for again exactly on their support.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import sympy
from scipy.optimize import linprog

from backlight.errors import BacklightError, UnsupportedModel

__all__ = ["Affine", "Undecided", "at", "interior", "nullspace"]

# a · x + b as (a₁, …, a_d, b)
Affine = tuple[Fraction, ...]

# numbers in a linear programme that the exact method takes on: some seconds
_EXACT_SIZE = 60

_ZERO, _ONE = Fraction(0), Fraction(1)


def at(function: Affine, point: Sequence[Fraction]) -> Fraction:
    """The value of an affine function."""
    return sum((c * x for c, x in zip(function, point, strict=False) if c), function[-1])


def interior(
    strict: Sequence[Affine], equal: Sequence[Affine] = (), size: int | None = None
) -> tuple[Fraction, ...] | None:
    """A rational point where all of the first are positive and all of the second zero; ``None`` if there is none."""
    dimension = size if size is not None else len((strict or equal)[0]) - 1
    origin: Sequence[Fraction] = (_ZERO,) * dimension
    basis: list[tuple[Fraction, ...]] | None = None
    if equal:
        solved = nullspace(equal, dimension)
        if solved is None:
            return None
        origin, basis = solved
        strict = [_restricted(function, origin, basis) for function in strict]
    point = _interior(list(strict), dimension if basis is None else len(basis))
    if point is None or basis is None:
        return point
    return tuple(
        origin[j] + sum((u * vector[j] for u, vector in zip(point, basis, strict=True)), _ZERO)
        for j in range(dimension)
    )


def nullspace(
    equal: Sequence[Affine], dimension: int
) -> tuple[tuple[Fraction, ...], list[tuple[Fraction, ...]]] | None:
    """The points where affine functions are zero, as origin + span; ``None`` if there are none."""
    rows = [list(function) for function in equal]
    pivots: list[int] = []
    rank = 0
    for column in range(dimension):
        found = next((r for r in range(rank, len(rows)) if rows[r][column]), None)
        if found is None:
            continue
        rows[rank], rows[found] = rows[found], rows[rank]
        pivot = rows[rank][column]
        rows[rank] = [value / pivot for value in rows[rank]]
        for r in range(len(rows)):
            if r != rank and rows[r][column]:
                factor = rows[r][column]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[rank], strict=True)]
        pivots.append(column)
        rank += 1
    if any(row[-1] and not any(row[:-1]) for row in rows):
        return None
    origin = [_ZERO] * dimension
    for r, column in enumerate(pivots):
        origin[column] = -rows[r][-1]
    basis = []
    for free in (column for column in range(dimension) if column not in pivots):
        vector = [_ZERO] * dimension
        vector[free] = _ONE
        for r, column in enumerate(pivots):
            vector[column] = -rows[r][free]
        basis.append(tuple(vector))
    return tuple(origin), basis


def _restricted(function: Affine, origin: Sequence[Fraction], basis: Sequence[Sequence[Fraction]]) -> Affine:
    slopes = tuple(sum((c * v for c, v in zip(function, vector, strict=False)), _ZERO) for vector in basis)
    return (*slopes, at(function, origin))


def _interior(strict: list[Affine], dimension: int) -> tuple[Fraction, ...] | None:
    constant = [function for function in strict if not any(function[:-1])]
    if any(function[-1] <= 0 for function in constant):
        return None
    strict = [function for function in strict if any(function[:-1])]
    if not strict or dimension == 0:
        return (_ZERO,) * dimension
    # the size of an inequality does not matter: each gets slopes of at most one
    sized = [tuple(c / max(abs(x) for x in function[:-1]) for c in function) for function in strict]
    rows = np.array([[float(c) for c in function] for function in sized])
    count = len(rows)
    # maximise t ≤ 1 with a·x + b ≥ t
    answer = linprog(
        np.array([*[0.0] * dimension, -1.0]), A_ub=np.hstack([-rows[:, :-1], np.ones((count, 1))]), b_ub=rows[:, -1],
        bounds=[*[(None, None)] * dimension, (None, 1.0)], method="highs",
    )  # fmt: skip
    if answer.status == 0:
        point = _rational(answer.x[:-1], sized)
        if point is not None:
            return point
        if _impossible(sized, -answer.ineqlin.marginals, dimension):
            return None
    return _exactly(sized, dimension)


def _rational(x: np.ndarray, strict: Sequence[Affine]) -> tuple[Fraction, ...] | None:
    for limit in (16, 10**4, 10**9, None):
        point = tuple(Fraction(float(v)) if limit is None else Fraction(float(v)).limit_denominator(limit) for v in x)
        if all(at(function, point) > 0 for function in strict):
            return point
    return None


def _impossible(strict: Sequence[Affine], multipliers: np.ndarray, dimension: int) -> bool:
    """Farkas' lemma, with the multipliers made exact."""
    support = [i for i, y in enumerate(multipliers) if y > 1e-9]
    if not support:
        return False
    # Σ yᵢ aᵢ = 0 and Σ yᵢ = 1, for the y of the support
    equations = [(*(strict[i][j] for i in support), _ZERO) for j in range(dimension)]
    equations.append((*[_ONE] * len(support), -_ONE))
    solved = nullspace(equations, len(support))
    if solved is None:
        return False
    exact, basis = solved
    if basis:
        return False
    return all(y >= 0 for y in exact) and sum(y * strict[i][-1] for y, i in zip(exact, support, strict=True)) <= 0


class Undecided(UnsupportedModel):
    """Floating point cannot tell, and the exact simplex method would take too long."""


def _exactly(strict: Sequence[Affine], dimension: int) -> tuple[Fraction, ...] | None:
    """The same by the exact simplex method, where floating point could not tell."""
    if len(strict) * (dimension + 1) > _EXACT_SIZE:
        raise Undecided("two kinks lie within rounding of each other, and the exact method would take too long")
    from sympy.solvers.simplex import InfeasibleLPError, UnboundedLPError, lpmax

    names = sympy.symbols(f"x0:{dimension}")
    t = sympy.Symbol("t")
    constraints = [
        sum(sympy.Rational(c.numerator, c.denominator) * x for c, x in zip(f, names, strict=False))
        + sympy.Rational(f[-1].numerator, f[-1].denominator) >= t
        for f in strict
    ]  # fmt: skip
    try:
        best, point = lpmax(t, [*constraints, t <= 1])
    except (InfeasibleLPError, UnboundedLPError) as error:
        raise BacklightError(f"a linear programme could not be decided: {error}") from error
    if best <= 0:
        return None
    found = tuple(Fraction(int(point[x].p), int(point[x].q)) if x in point else _ZERO for x in names)
    assert all(at(function, found) > 0 for function in strict)
    return found
