"""The front end as a graph: what its modules make of coded columns."""

from __future__ import annotations

import math

import numpy as np
from torch import nn

from backlight._export.graphs.graph import Value
from backlight._export.graphs.rows import elements, run
from backlight._export.rows import array
from backlight.classical.frontend.features import Branches, MultiplyAdd, Pick, ShiftDivide
from backlight.classical.frontend.preprocessing import Impute, OneHot
from backlight.classical.frontend.transformers import Lookup, Products

__all__: list[str] = []


def _is(cells: Value, levels: np.ndarray) -> Value:
    """Where cells are their levels; NaN is NaN."""
    same = cells.equals(levels)
    return same | (cells.is_nan() & np.isnan(levels)) if np.isnan(levels).any() else same


@elements(nn.Sequential)
def _sequence(module: nn.Sequential, x: Value) -> Value:
    for one in module:
        x = run(one, x)
    return x


@elements(Branches)
def _branches(module: Branches, x: Value) -> Value:
    return x.graph.concat([run(branch, x) for branch in module.branches])


@elements(Pick)
def _pick(module: Pick, x: Value) -> Value:
    return x.columns(module.positions.tolist())


@elements(ShiftDivide)
def _shift_divide(module: ShiftDivide, x: Value) -> Value:
    return (x - array(module.shift)) / array(module.divisor)


@elements(MultiplyAdd)
def _multiply_add(module: MultiplyAdd, x: Value) -> Value:
    y = x * array(module.factor) + array(module.term)
    if module.clip is None:
        return y
    low, high = module.clip
    # an operator that clips may lose that there is no number
    return x.graph.where(y < low, low, x.graph.where(y > high, high, y))


@elements(Impute)
def _impute(module: Impute, x: Value) -> Value:
    gone = _is(x, array(module.marks))
    kept, indicated = module.kept.tolist(), module.indicated.tolist()
    filled = x.graph.where(gone, array(module.statistics), x).columns(kept)
    return x.graph.concat([filled, gone.columns(indicated).double()]) if indicated else filled


@elements(OneHot)
def _one_hot(module: OneHot, x: Value) -> Value:
    element, target, fallback = module.element.tolist(), module.target.tolist(), module.fallback.tolist()
    hit = _is(x.columns(element), array(module.level)).double()
    places = np.eye(module.width + 1)[:, : module.width]  # the last one collects dropped levels
    out = hit @ places[target]
    known = hit @ np.eye(len(fallback))[element]
    if module.strict:  # a category that it refuses has no score
        return x.graph.where(known.min() > 0.0, out, math.nan)
    return out + (1.0 - known) @ places[fallback]


@elements(Lookup)
def _lookup(module: Lookup, x: Value) -> Value:
    where, out = x.graph.where, []
    for index, (k, fallback) in enumerate(zip(module.element, module.fallback, strict=True)):
        levels = array(getattr(module, f"levels{index}"))
        values = array(getattr(module, f"values{index}"))
        hit = _is(x.column(k), levels)
        first = x.graph.cast(hit, np.int32).argmax()
        found = x.graph.op("Gather", values, first, axis=0)
        out.append(where(hit.double().max() > 0.0, found, math.nan if fallback is None else fallback))
    return x.graph.concat(out)


@elements(Products)
def _products(module: Products, x: Value) -> Value:
    powers = array(module.powers).astype(int)
    one = x.graph.where(x.column(0).is_nan(), 1.0, 1.0)
    padded, last = x.graph.concat([x, one]), powers.shape[1]
    used = [[k for k, p in enumerate(row) for _ in range(p)] for row in powers.tolist()]
    degree = max(1, *(len(row) for row in used))
    places = np.array([row + [last] * (degree - len(row)) for row in used])
    out = padded.columns(places[:, 0].tolist())
    for k in range(1, degree):
        out = out * padded.columns(places[:, k].tolist())
    return out
