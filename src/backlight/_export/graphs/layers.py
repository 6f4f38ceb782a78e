"""Layers that touch the data, and layers made of layers, as graphs: each as its own ``run`` computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backlight._export.graphs.graph import Value
from backlight._export.graphs.rows import Emitted, Rows, embedded, layer, register, run
from backlight._export.rows import array
from backlight.classical import functions as named
from backlight.classical.layers import Query
from backlight.classical.layers.composition import Mean, Member, Signed, Stack, Unit, Variance, Weighted, member_query
from backlight.classical.layers.linear import Additive, Affine, Mahalanobis, Quadratics
from backlight.classical.layers.pools import LogOdds
from backlight.errors import UnsupportedModel
from backlight.rules.quadratic import PartialContribution, ReconstructionContribution

__all__: list[str] = []


def _nothing(c: Value) -> bool:
    return c.known is not None and not c.known.any()


@register(Affine)
def _affine(found: Affine, rows: Rows, ask: Query) -> Emitted:
    W, reference = array(found.weight), array(found.reference)
    start = reference if ask.usual is None else array(ask.usual.e.mean(0))
    delta = rows.e - start
    if rows.pullback.owned is not None:
        delta = delta * array(rows.pullback.owned)
    output = (rows.e - reference) @ W.T + array(found.constant)
    return Emitted(output, delta @ W.T, lambda c: rows.columns(delta * (c @ W)))


@register(Quadratics)
def _quadratics(found: Quadratics, rows: Rows, ask: Query) -> Emitted:
    factors = array(found.factors)
    output, pairs = [], []
    for k, mean in enumerate(array(found.means)):
        L = factors[k if len(factors) > 1 else 0]
        delta = rows.z - mean
        y = delta * L if L.ndim == 1 else delta @ L
        gradient = y * L if L.ndim == 1 else y @ L.T
        output.append(found.scale * (y * y).sum())
        pairs.append((delta, gradient))
    whole = rows.graph.concat(output)

    def back(c: Value) -> Value:
        parts = [rows.pair(*pair) * (found.scale * c.column(k)) for k, pair in enumerate(pairs)]
        return rows.graph.total(parts)

    return Emitted(whole, whole, back)


@register(Mahalanobis)
def _mahalanobis(found: Mahalanobis, rows: Rows, ask: Query) -> Emitted:
    delta = rows.e - array(found.center)
    gradient = delta @ array(found.metric)
    if isinstance(ask.rule, PartialContribution):
        shares = delta * gradient
    elif isinstance(ask.rule, ReconstructionContribution):
        if found.blocks is None:
            raise UnsupportedModel("rules='rbc' has no closed form after a product of columns: use 'pdc' or 'cdc'")
        shares = gradient * (gradient @ array(found.blocks))
    else:
        root = delta @ array(found.root)
        shares = root * root
    output = (delta * gradient).sum()
    return Emitted(output, output, lambda c: c * rows.columns(shares))


@register(Additive)
def _additive(found: Additive, rows: Rows, ask: Query) -> Emitted:
    terms = _terms(found.terms, rows)
    output = rows.graph.concat([unit.sum() for unit in terms])

    def back(c: Value) -> Value:
        return rows.columns(rows.graph.total([c.column(u) * unit for u, unit in enumerate(terms)]))

    return Emitted(output, output, back)


def _terms(terms: Any, rows: Rows) -> list[Value]:
    """The terms of an additive layer: units, each (n, K)."""
    z = rows.z
    if isinstance(terms, named.GaussianTerms):
        mean, var = array(terms.mean), array(terms.var)
        width = np.broadcast_to(array(terms.width), mean.shape)
        gaps = [z - m for m in mean]
        return [0.5 * (gap * gap) / v + w for gap, v, w in zip(gaps, var, width, strict=True)]
    if isinstance(terms, named.WeightedTerms):
        return [z * -unit for unit in array(terms.weights)]
    if isinstance(terms, named.BernoulliTerms):
        x = z if terms.cut is None else (z > terms.cut).double()
        pairs = zip(array(terms.log_p), array(terms.log_not), strict=True)
        return [-(x * p + (1.0 - x) * q) for p, q in pairs]
    if isinstance(terms, named.CategoricalTerms):
        graph, codes = rows.graph, rows.graph.op("Round", z)
        units: list[list[Value]] = [[] for _ in range(len(terms.tables[0]))]
        for k, table in enumerate(terms.tables):
            levels = np.arange(table.shape[1], dtype=float)
            hit = codes.column(k).equals(levels)
            known = hit.double().max() > 0.0
            cells = graph.where(known, hit.double() @ -array(table).T, np.nan)
            for u, unit in enumerate(units):
                unit.append(cells.column(u))
        return [graph.concat(unit) for unit in units]
    raise UnsupportedModel(f"{type(terms).__name__} are not written as a graph in this version: use Explainer.save")


# -- units of one layer, or of several ---------------------------------------------------------------------------------


@register(LogOdds)
def _log_odds(found: LogOdds, rows: Rows, ask: Query) -> Emitted:
    below, graph = layer(found.inner, rows, ask), rows.graph
    U = found.units
    energies = below.output + array(found.constants)
    matrix, output = [], []
    for c in range(U):
        others = [k for k in range(U) if k != c]
        rivals = energies.columns(others)
        least = rivals.min()
        weights = (least - rivals).exp()
        total = weights.sum()
        output.append(least - total.log() - energies.column(c))
        matrix.append((weights / total) @ np.eye(U)[others] - np.eye(U)[[c]])
    carried = graph.concat([(row * below.carried).sum() for row in matrix])

    def back(c: Value) -> Value:
        return below.back(graph.total([c.column(k) * row for k, row in enumerate(matrix)]))

    return Emitted(graph.concat(output), carried, back)


@register(Unit)
def _unit(found: Unit, rows: Rows, ask: Query) -> Emitted:
    below, k = layer(found.inner, rows, ask), found.index
    one = np.eye(found.inner.units)[[k]]
    return Emitted(below.output.column(k), below.carried.column(k), lambda c: below.back(c @ one))


@register(Signed)
def _signed(found: Signed, rows: Rows, ask: Query) -> Emitted:
    below, both = layer(found.inner, rows, ask), np.array([[-1.0, 1.0]])
    return Emitted(below.output @ both, below.carried @ both, lambda c: below.back(c @ both.T))


@register(Stack)
def _stack(found: Stack, rows: Rows, ask: Query) -> Emitted:
    parts = [layer(one, rows, member_query(one, ask)) for one in found.members()]
    sizes = [one.units for one in found.members()]
    starts = np.cumsum([0, *sizes])

    def back(c: Value) -> Value:
        given = []
        for part, start, size in zip(parts, starts, sizes, strict=False):
            which = list(range(int(start), int(start) + size))
            some = c.columns(which)
            if not _nothing(some):
                given.append(part.back(some))
        zero = rows.graph.constant(np.zeros((1, rows.pullback.n_columns)))
        return rows.graph.total(given) if given else zero

    graph = rows.graph
    return Emitted(graph.concat([p.output for p in parts]), graph.concat([p.carried for p in parts]), back)


@register(Weighted, Mean)
def _weighted(found: Weighted, rows: Rows, ask: Query) -> Emitted:
    parts = [layer(one, rows, member_query(one, ask)) for one in found.members()]
    weights = array(found.weights).tolist()

    def added(values: Sequence[Value]) -> Value:
        return rows.graph.total([w * value for w, value in zip(weights, values, strict=True)])

    return Emitted(
        added([part.output for part in parts]) + array(found.bias),
        added([part.carried for part in parts]),
        lambda c: rows.graph.total([part.back(c * w) for part, w in zip(parts, weights, strict=True)]),
    )


@register(Variance)
def _variance(found: Variance, rows: Rows, ask: Query) -> Emitted:
    parts = [layer(one, rows, member_query(one, ask)) for one in found.members()]
    graph, n = rows.graph, len(parts)
    mean = graph.total([part.output for part in parts]) * (1 / n)
    gaps = [part.output - mean for part in parts]
    weights = [gap * (1 / n) for gap in gaps]
    carried = graph.total([w * part.carried for w, part in zip(weights, parts, strict=True)])
    return Emitted(
        graph.total([w * gap for w, gap in zip(weights, gaps, strict=True)]),
        carried,
        lambda c: graph.total([part.back(c * w) for w, part in zip(weights, parts, strict=True)]),
    )


@register(Member)
def _member(found: Member, rows: Rows, ask: Query) -> Emitted:
    e = run(found.elements, rows.coded)
    way = found.pullback
    usual = None if ask.usual is None else found.point(ask.usual)
    return layer(
        found.inner, replace(rows, e=e, z=embedded(way, e), pullback=way), Query(ask.rule, None, usual, ask.level)
    )
