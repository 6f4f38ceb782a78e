"""The front end in SQL: columns to codes, and the steps from there to elements. NULL is what NaN is in a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from backlight._export.expressions import E, identifier, number, over, plus, text, times
from backlight._export.program import Program
from backlight._export.rows import array, elements, run
from backlight.classical.frontend.columns import FrontEnd
from backlight.classical.frontend.features import Branches, MultiplyAdd, Pick, ShiftDivide
from backlight.classical.frontend.preprocessing import Impute, OneHot
from backlight.classical.frontend.transformers import Lookup, Products
from backlight.errors import UnsupportedModel

__all__ = ["coded"]


def coded(front: FrontEnd, names: Sequence[str], program: Program) -> list[E]:
    """The columns of a table as the numbers that the network takes; columns that nothing is made of are zero."""
    out: list[E] = []
    for j, name in enumerate(names):
        if j not in front.used:
            out.append(0.0)
        elif j in front.vocabulary.codes:
            codes = dict(front.vocabulary.codes[j])
            out.append(program.column(_codes(identifier(name), codes, j in front.vocabulary.knows_nan, name)))
        else:
            out.append(program.column(program.dialect.double(identifier(name))))
    return out


def _codes(cell: str, codes: dict[Any, int], knows_nan: bool, name: str) -> str:
    empty = "NULL" if knows_nan else number(codes.get(None, -1))
    lines = []
    for value, code in codes.items():
        if value is None:
            continue
        if not isinstance(value, str):
            raise UnsupportedModel(f"column {name!r} mixes text and {type(value).__name__}: export needs text alone")
        lines.append("WHEN {} = '{}' THEN {}".format(cell, value.replace("'", "''"), number(code)))
    return f"CASE WHEN {cell} IS NULL THEN {empty} {' '.join(lines)} ELSE {number(-1)} END"


def _is(cell: E, level: float) -> str:
    """Whether a cell holds a level; NaN is none."""
    return f"{text(cell)} IS NULL" if math.isnan(level) else f"{text(cell)} = {number(level)}"


@elements(nn.Sequential)
def _sequence(module: nn.Sequential, program: Program, x: list[E]) -> list[E]:
    for one in module:
        x = run(one, program, x)
    return x


@elements(Branches)
def _branches(module: Branches, program: Program, x: list[E]) -> list[E]:
    return [value for branch in module.branches for value in run(branch, program, x)]


@elements(Pick)
def _pick(module: Pick, program: Program, x: list[E]) -> list[E]:
    return [x[k] for k in module.positions.tolist()]


@elements(ShiftDivide)
def _shift_divide(module: ShiftDivide, program: Program, x: list[E]) -> list[E]:
    pairs = zip(x, array(module.shift), array(module.divisor), strict=True)
    return [program.let(over(plus(one, -float(s)), float(d))) for one, s, d in pairs]


@elements(MultiplyAdd)
def _multiply_add(module: MultiplyAdd, program: Program, x: list[E]) -> list[E]:
    pairs = zip(x, array(module.factor), array(module.term), strict=True)
    out = [program.let(plus(times(one, float(f)), float(t))) for one, f, t in pairs]
    if module.clip is None:
        return out
    low, high = (number(bound) for bound in module.clip)
    cut = [
        f"CASE WHEN {text(y)} < {low} THEN {low} WHEN {text(y)} > {high} THEN {high} ELSE {text(y)} END" for y in out
    ]
    return [program.let(one) for one in cut]


@elements(Impute)
def _impute(module: Impute, program: Program, x: list[E]) -> list[E]:
    gone = [_is(cell, float(mark)) for cell, mark in zip(x, array(module.marks), strict=True)]
    filled = array(module.statistics)
    out = [f"CASE WHEN {gone[k]} THEN {number(filled[k])} ELSE {text(x[k])} END" for k in module.kept.tolist()]
    out += [f"CASE WHEN {gone[k]} THEN 1e0 ELSE 0e0 END" for k in module.indicated.tolist()]
    return [program.let(one) for one in out]


@elements(OneHot)
def _one_hot(module: OneHot, program: Program, x: list[E]) -> list[E]:
    element, level, target = module.element.tolist(), array(module.level).tolist(), module.target.tolist()
    tests: dict[int, list[str]] = {k: [] for k in range(module.width)}
    known: dict[int, list[str]] = {k: [] for k in range(len(x))}
    at: dict[int, int] = {}
    for k, value, place in zip(element, level, target, strict=True):
        known[k].append(_is(x[k], value))
        if place < module.width:
            tests[place].append(_is(x[k], value))
            at[place] = k
    at |= {place: k for k, place in enumerate(module.fallback.tolist()) if place < module.width}
    out = []
    for place in range(module.width):
        k = at[place]
        seen = " OR ".join(known[k])
        rest = f"WHEN {seen} THEN 0e0 ELSE " + ("1e0" if module.fallback.tolist()[k] == place else "0e0")
        if module.strict:
            rest = f"WHEN {seen} THEN 0e0"  # a category that it refuses has no score
        hits = " OR ".join(tests[place])
        out.append(program.let(f"CASE {f'WHEN {hits} THEN 1e0 ' if hits else ''}{rest} END"))
    return out


@elements(Lookup)
def _lookup(module: Lookup, program: Program, x: list[E]) -> list[E]:
    out = []
    for index, (k, fallback) in enumerate(zip(module.element, module.fallback, strict=True)):
        levels = array(getattr(module, f"levels{index}")).tolist()
        values = array(getattr(module, f"values{index}")).tolist()
        cases = [f"WHEN {_is(x[k], a)} THEN {_value(b)}" for a, b in zip(levels, values, strict=True)]
        rest = "" if fallback is None else f" ELSE {_value(fallback)}"
        out.append(program.let(f"CASE {' '.join(cases)}{rest} END"))
    return out


def _value(value: float) -> str:
    return "NULL" if math.isnan(value) else number(value)


@elements(Products)
def _products(module: Products, program: Program, x: list[E]) -> list[E]:
    powers: Sequence[np.ndarray] = list(array(module.powers).astype(int))
    return [
        program.let(times(*(x[k] for k, p in enumerate(row) for _ in range(p)))) if row.any() else 1.0 for row in powers
    ]
