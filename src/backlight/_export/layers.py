"""Layers that touch the data, and layers made of layers, in SQL: each as its own ``run`` computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from backlight._export.expressions import E, dot, minus, number, over, plus, text, times
from backlight._export.rows import Emitted, Rows, array, embedded, layer, register, run
from backlight.classical import functions as named
from backlight.classical.layers import Query
from backlight.classical.layers.composition import Mean, Member, Signed, Stack, Unit, Weighted, member_query
from backlight.classical.layers.linear import Additive, Affine, Mahalanobis, Quadratics
from backlight.classical.layers.links import Secant
from backlight.classical.layers.pools import Budget, Link, LogOdds
from backlight.errors import UnsupportedModel
from backlight.rules.quadratic import PartialContribution, ReconstructionContribution

__all__ = ["link"]


def _scaled(c: E, values: Sequence[E]) -> list[E]:
    return [times(c, value) for value in values]


def _added(parts: Sequence[Sequence[E]], width: int) -> list[E]:
    return [plus(*(part[i] for part in parts)) for i in range(width)] if parts else [0.0] * width


@register(Affine)
def _affine(found: Affine, rows: Rows, ask: Query) -> Emitted:
    W, constant, reference = array(found.weight), array(found.constant), array(found.reference)
    start = reference if ask.usual is None else array(ask.usual.e.mean(0))
    owned = np.ones(len(start)) if rows.pullback.owned is None else array(rows.pullback.owned)
    delta = rows.let([times(minus(e, float(s)), float(o)) for e, s, o in zip(rows.e, start, owned, strict=True)])
    own = [minus(e, float(r)) for e, r in zip(rows.e, reference, strict=True)]
    output = rows.let([plus(dot(w, own), float(b)) for w, b in zip(W, constant, strict=True)])

    def back(c: Sequence[E]) -> list[E]:
        return rows.columns([times(d, plus(*map(times, c, map(float, w)))) for d, w in zip(delta, W.T, strict=True)])

    return Emitted(output, [dot(w, delta) for w in W], back)


@register(Quadratics)
def _quadratics(found: Quadratics, rows: Rows, ask: Query) -> Emitted:
    output: list[E] = []
    pairs = []
    factors = array(found.factors)
    for k, mean in enumerate(array(found.means)):
        L = factors[k if len(factors) > 1 else 0]
        delta = rows.let([minus(z, float(m)) for z, m in zip(rows.z, mean, strict=True)])
        if L.ndim == 1:
            y = [times(d, float(v)) for d, v in zip(delta, L, strict=True)]
            gradient = [times(d, float(v * v)) for d, v in zip(delta, L, strict=True)]
        else:
            y = rows.let([dot(column, delta) for column in L.T])
            gradient = rows.let([dot(row, y) for row in L])
        output.append(rows.program.let(times(found.scale, plus(*(times(v, v) for v in rows.let(y))))))
        pairs.append((delta, gradient))

    def back(c: Sequence[E]) -> list[E]:
        used = [(times(found.scale, one), pair) for one, pair in zip(c, pairs, strict=True) if one != 0]
        return _added([_scaled(one, rows.let(rows.pair(*pair))) for one, pair in used], rows.pullback.n_columns)

    return Emitted(output, output, back)


@register(Mahalanobis)
def _mahalanobis(found: Mahalanobis, rows: Rows, ask: Query) -> Emitted:
    delta = rows.let([minus(e, float(c)) for e, c in zip(rows.e, array(found.center), strict=True)])
    gradient = rows.let([dot(row, delta) for row in array(found.metric).T])
    output = rows.program.let(plus(*map(times, delta, gradient)))
    if isinstance(ask.rule, PartialContribution):
        shares = [times(d, g) for d, g in zip(delta, gradient, strict=True)]
    elif isinstance(ask.rule, ReconstructionContribution):
        if found.blocks is None:
            raise UnsupportedModel("rules='rbc' has no closed form after a product of columns: use 'pdc' or 'cdc'")
        shares = [times(g, dot(row, gradient)) for g, row in zip(gradient, array(found.blocks).T, strict=True)]
    else:
        roots = rows.let([dot(row, delta) for row in array(found.root).T])
        shares = [times(r, r) for r in roots]
    return Emitted([output], [output], lambda c: _scaled(c[0], rows.columns(shares)))


@register(Additive)
def _additive(found: Additive, rows: Rows, ask: Query) -> Emitted:
    terms = [rows.let(unit) for unit in _terms(found.terms, rows)]
    output = rows.let([plus(*unit) for unit in terms])

    def back(c: Sequence[E]) -> list[E]:
        width = len(rows.z)
        return rows.columns(
            [plus(*(times(one, unit[k]) for one, unit in zip(c, terms, strict=True))) for k in range(width)]
        )

    return Emitted(output, output, back)


def _terms(terms: Any, rows: Rows) -> list[list[E]]:
    """The terms of an additive layer: units, each with one term a feature."""
    z = rows.z
    if isinstance(terms, named.GaussianTerms):
        mean, var = array(terms.mean), array(terms.var)
        width = np.broadcast_to(array(terms.width), mean.shape)

        def one(cell: E, m: float, v: float, w: float) -> E:
            gap = rows.program.let(minus(cell, m))
            return plus(times(0.5 / v, gap, gap), w)

        units = zip(mean.tolist(), var.tolist(), width.tolist(), strict=True)
        return [[one(*each) for each in zip(z, *unit, strict=True)] for unit in units]
    if isinstance(terms, named.WeightedTerms):
        return [[times(cell, -float(w)) for cell, w in zip(z, unit, strict=True)] for unit in array(terms.weights)]
    if isinstance(terms, named.BernoulliTerms):
        x = list(z)
        if terms.cut is not None:
            cut = number(terms.cut)
            x = rows.let(
                [f"CASE WHEN {text(cell)} > {cut} THEN 1e0 WHEN {text(cell)} <= {cut} THEN 0e0 END" for cell in z]
            )
        pairs = zip(array(terms.log_p), array(terms.log_not), strict=True)
        return [
            [minus(times(cell, float(b - a)), float(b)) for cell, a, b in zip(x, p, q, strict=True)] for p, q in pairs
        ]
    if isinstance(terms, named.CategoricalTerms):
        tables = [array(table) for table in terms.tables]
        out: list[list[E]] = []
        for u in range(len(tables[0])):
            cases: list[E] = []
            for cell, table in zip(z, tables, strict=True):
                whens = " ".join(f"WHEN {k} THEN {number(-value)}" for k, value in enumerate(table[u]))
                cases.append(f"CASE ROUND({text(cell)}) {whens} END")
            out.append(cases)
        return out
    raise UnsupportedModel(f"{type(terms).__name__} are not written in SQL in this version: use Explainer.save")


# -- units of one layer, or of several ---------------------------------------------------------------------------------


@register(LogOdds)
def _log_odds(found: LogOdds, rows: Rows, ask: Query) -> Emitted:
    below = layer(found.inner, rows, ask)
    constants = array(found.constants).tolist()
    energies = rows.let([plus(y, c) for y, c in zip(below.output, constants, strict=True)])
    dialect, let = rows.program.dialect, rows.program.let
    matrix: list[list[E]] = []
    output: list[E] = []
    for c, own in enumerate(energies):
        others = [k for k in range(len(energies)) if k != c]
        least = let(dialect.least([energies[k] for k in others]))
        weights = rows.let([dialect.exp(minus(least, energies[k])) if len(others) > 1 else 1.0 for k in others])
        total = let(plus(*weights))
        softest = minus(least, f"LN({text(total)})") if len(others) > 1 else least
        output.append(let(minus(softest, own)))
        shares = dict(zip(others, [over(w, total) for w in weights], strict=True))
        matrix.append([shares.get(k, -1.0) for k in range(len(energies))])

    def through(c: Sequence[E]) -> list[E]:
        return [plus(*(times(one, row[k]) for one, row in zip(c, matrix, strict=True))) for k in range(len(energies))]

    carried = [plus(*map(times, row, below.carried)) for row in matrix]
    return Emitted(output, carried, lambda c: below.back(rows.let(through(c))))


@register(Unit)
def _unit(found: Unit, rows: Rows, ask: Query) -> Emitted:
    below, k = layer(found.inner, rows, ask), found.index
    size = len(below.output)
    return Emitted(
        [below.output[k]], [below.carried[k]], lambda c: below.back([c[0] if j == k else 0.0 for j in range(size)])
    )


@register(Signed)
def _signed(found: Signed, rows: Rows, ask: Query) -> Emitted:
    below = layer(found.inner, rows, ask)
    f, carried = below.output[0], below.carried[0]
    return Emitted([minus(0.0, f), f], [minus(0.0, carried), carried], lambda c: below.back([minus(c[1], c[0])]))


@register(Stack)
def _stack(found: Stack, rows: Rows, ask: Query) -> Emitted:
    parts = [layer(one, rows, member_query(one, ask)) for one in found.members()]

    def back(c: Sequence[E]) -> list[E]:
        start, given = 0, []
        for part in parts:
            some = list(c[start : start + len(part.output)])
            start += len(some)
            if any(one != 0 for one in some):
                given.append(part.back(some))
        return _added(given, rows.pullback.n_columns)

    return Emitted([y for part in parts for y in part.output], [y for part in parts for y in part.carried], back)


@register(Weighted, Mean)
def _weighted(found: Weighted, rows: Rows, ask: Query) -> Emitted:
    parts = [layer(one, rows, member_query(one, ask)) for one in found.members()]
    weights, bias = array(found.weights).tolist(), array(found.bias).tolist()
    units = range(len(parts[0].output))
    output = [plus(dot(weights, [part.output[u] for part in parts]), bias[u]) for u in units]
    carried = [dot(weights, [part.carried[u] for part in parts]) for u in units]

    def back(c: Sequence[E]) -> list[E]:
        given = [part.back([times(one, w) for one in c]) for part, w in zip(parts, weights, strict=True)]
        return _added(given, rows.pullback.n_columns)

    return Emitted(rows.let(output), carried, back)


@register(Member)
def _member(found: Member, rows: Rows, ask: Query) -> Emitted:
    e = run(found.elements, rows.program, list(rows.coded))
    way = found.pullback
    usual = None if ask.usual is None else found.point(ask.usual)
    inside = replace(rows, e=e, z=rows.let(embedded(way, e)), pullback=way)
    return layer(found.inner, inside, Query(ask.rule, None, usual, ask.level))


# -- links -------------------------------------------------------------------------------------------------------------


def link(function: Any, y: E, rows: Rows) -> E:
    """A named function of one value, in SQL.

    Raises
    ------
    UnsupportedModel
    """
    exp, let = rows.program.dialect.exp, rows.program.let
    if function is torch.ones_like:
        return 1.0
    if function is named.same:
        return y
    if function is named.negated:
        return minus(0.0, y)
    if function is named.minus_one:
        return -1.0
    if function is torch.sigmoid:
        return _sigmoid(y, rows)
    if function is named.sigmoid_slope:
        l = let(y)  # noqa: E741 - log-odds
        # near zero the difference loses its digits, and the series has them
        series = f"0.25e0 - {text(l)} * {text(l)} / 48e0"
        gap = text(over(minus(_sigmoid(l, rows), 0.5), l))
        return f"CASE WHEN ABS({text(l)}) < 1e-4 THEN {series} ELSE {gap} END"
    if isinstance(function, named.Shifted):
        return plus(y, function.constant)
    if isinstance(function, named.Straight):
        return plus(times(function.slope, y), function.constant)
    if isinstance(function, named.Everywhere):
        return function.value
    if isinstance(function, named.Rest):
        return minus(function.constant, y)
    if isinstance(function, named.Exponential):
        return plus(times(function.scale, exp(let(minus(0.0, y)))), function.constant)
    if isinstance(function, named.LogMean):
        t = let(minus(function.theta, y))
        return times(-function.rho, _secant_of_exp(t, rows))
    if function is named.svdd_slope:
        return times(2.0, _secant_of_exp(let(minus(0.0, y)), rows))
    name = getattr(function, "__name__", type(function).__name__)
    raise UnsupportedModel(f"the link {name} is not written in SQL in this version: export another score")


def _sigmoid(y: E, rows: Rows) -> E:
    small = rows.program.let(rows.program.dialect.exp(rows.program.let(f"(-ABS({text(y)}))")))
    return rows.program.let(
        f"CASE WHEN {text(y)} >= 0 THEN 1e0 / (1e0 + {text(small)}) ELSE {text(small)} / (1e0 + {text(small)}) END"
    )


def _secant_of_exp(t: E, rows: Rows) -> E:
    """(e^t − 1)/t."""
    one = text(t)
    series = f"1e0 + {one} / 2e0 + {one} * {one} / 6e0 + {one} * {one} * {one} / 24e0"
    gap = f"({rows.program.dialect.exp(t)} - 1e0) / {one}"
    return rows.program.let(f"CASE WHEN ABS({one}) < 1e-3 THEN {series} ELSE {gap} END")


@register(Link)
def _link(found: Link, rows: Rows, ask: Query) -> Emitted:
    below = layer(found.inner, rows, ask)
    slope = rows.let([link(found.slope, y, rows) for y in below.output])
    output = rows.let([link(found.value, y, rows) for y in below.output])
    carried = [times(s, c) for s, c in zip(slope, below.carried, strict=True)]
    return Emitted(output, carried, lambda c: below.back([times(one, s) for one, s in zip(c, slope, strict=True)]))


@register(Secant)
def _secant(found: Secant, rows: Rows, ask: Query) -> Emitted:
    raise UnsupportedModel("links by their secant are not written in SQL in this version: export another score")


@register(Budget)
def _budget(found: Budget, rows: Rows, ask: Query) -> Emitted:
    below = layer(found.inner, rows, ask)
    known = found.usual(ask)
    usual = [0.0] * rows.pullback.n_columns if known is None else array(known).tolist()
    slope = rows.program.let(times(-1.0, link(found.slope, below.output[0], rows)))
    output = rows.program.let(link(found.value, below.output[0], rows))
    carried = times(slope, minus(sum(usual), below.carried[0]))

    def back(c: Sequence[E]) -> list[E]:
        taken = below.back([1.0])
        return [times(c[0], slope, minus(u, r)) for u, r in zip(usual, taken, strict=True)]

    return Emitted([output], [carried], back)
