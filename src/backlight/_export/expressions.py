"""Expressions of SQL as text, folded where a part of them is known; and the words that databases do not share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backlight.errors import UnsupportedOption

__all__ = ["DIALECTS", "Dialect", "E", "dot", "identifier", "minus", "number", "over", "plus", "text", "times"]

# e^-100 of one is no part of a double, and far from the smallest one
_NOTHING = 100

# an expression: its text, or the number that it is known to be
E = str | float


def number(value: float) -> str:
    """A literal that every database reads as a double: one with an exponent."""
    plain = repr(_finite(float(value)))
    plain = plain if "e" in plain else plain + "e0"
    return f"({plain})" if value < 0 else plain


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise UnsupportedOption(f"the network holds {value}, which SQL has no number for: export another score")
    return value


def text(value: E) -> str:
    """An expression as text."""
    return value if isinstance(value, str) else number(value)


def identifier(name: str) -> str:
    """A quoted name."""
    return '"' + name.replace('"', '""') + '"'


def plus(*terms: E) -> E:
    """The sum."""
    known = math.fsum(term for term in terms if not isinstance(term, str))
    rest = [term for term in terms if isinstance(term, str)]
    if not rest:
        return known
    parts = [*rest, *([number(known)] if known != 0 else [])]
    return parts[0] if len(parts) == 1 else f"({' + '.join(parts)})"


def times(*factors: E) -> E:
    """The product; zero times anything is zero."""
    known = math.prod(factor for factor in factors if not isinstance(factor, str))
    rest = [factor for factor in factors if isinstance(factor, str)]
    if not rest or known == 0:
        return known
    parts = [*([number(known)] if known != 1 else []), *rest]
    return parts[0] if len(parts) == 1 else f"({' * '.join(parts)})"


def minus(first: E, second: E) -> E:
    """The difference."""
    if isinstance(second, str):
        return f"(-{second})" if first == 0 else f"({text(first)} - {second})"
    return plus(first, -second)


def over(first: E, second: E) -> E:
    """The quotient."""
    if not isinstance(first, str) and not isinstance(second, str):
        return first / second
    return first if second == 1 else f"({text(first)} / {text(second)})"


def dot(weights: Sequence[float], terms: Sequence[E]) -> E:
    """Σ_i w_i t_i."""
    return plus(*(times(float(w), t) for w, t in zip(weights, terms, strict=True)))


@dataclass(frozen=True, slots=True)
class Dialect:
    """What databases say differently.

    Attributes
    ----------
    name : str
    largest : str
        The function of the largest of several values of a row.
    has_nan : bool
        Whether a column of doubles may hold NaN, which is then no value.
    underflows : bool
        Whether a result that is too small for a double is an error: of exp, and of products. Then exponentials are cut
        off far above that, and must be counted from the largest.
    fence : str
        Behind a subquery: its columns are worked out there, and not wherever they are named.
    has_lists : bool
        Whether a word of numbers can be read as a column: a word is read in one go, each literal is planned.
    """

    name: str
    largest: str
    has_nan: bool
    underflows: bool
    fence: str = ""
    has_lists: bool = False

    def exp(self, x: E) -> E:
        """e^x."""
        if not isinstance(x, str):
            return math.exp(x)
        return f"CASE WHEN {x} < -{_NOTHING}e0 THEN 0e0 ELSE EXP({x}) END" if self.underflows else f"EXP({x})"

    def most(self, terms: Sequence[E]) -> E:
        """The largest."""
        if len(terms) == 1:
            return terms[0]
        return f"{self.largest}({', '.join(text(term) for term in terms)})"

    def least(self, terms: Sequence[E]) -> E:
        """The smallest."""
        return minus(0.0, self.most([minus(0.0, term) for term in terms]))

    def double(self, name: str) -> str:
        """A column of numbers as doubles; no number is NULL."""
        plain = f"CAST({name} AS DOUBLE PRECISION)"
        return f"NULLIF({plain}, CAST('NaN' AS DOUBLE PRECISION))" if self.has_nan else plain

    def table(self, name: str, columns: Sequence[str], rows: np.ndarray) -> str:
        """A table of numbers as one of the terms of WITH."""
        if self.has_lists:
            lists = (", ".join(repr(value) for value in map(_finite, column)) for column in rows.T.tolist())
            said = (f"UNNEST(CAST('[{some}]' AS DOUBLE[])) AS {one}" for some, one in zip(lists, columns, strict=True))
            joined = ",\n".join(said)
            return f"{name} AS (SELECT\n{joined})"
        # what the first row is, are all
        first = ", ".join(f"CAST({number(value)} AS DOUBLE PRECISION)" for value in rows[0].tolist())
        others = (", ".join(map(number, row)) for row in rows[1:].tolist())
        body = ",\n".join(f"({row})" for row in (first, *others))
        return f"{name}({', '.join(columns)}) AS (VALUES\n{body})"


DIALECTS = {
    "duckdb": Dialect("duckdb", "GREATEST", True, False, has_lists=True),
    "postgresql": Dialect("postgresql", "GREATEST", True, True, " OFFSET 0"),
    "sqlite": Dialect("sqlite", "MAX", False, False, " LIMIT -1"),
}
