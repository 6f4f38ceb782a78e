"""Distances to anchors and their pools as graphs, a column at a time: no (rows, anchors, columns) tensor is formed."""

from __future__ import annotations

import math

import numpy as np
import torch

from backlight._export.graphs.graph import Value
from backlight._export.graphs.links import function_of, secant_of_exp
from backlight._export.graphs.rows import Emitted, Rows, layer, register
from backlight._export.rows import array
from backlight.classical import functions as named
from backlight.classical.layers import Query
from backlight.classical.layers.contrasts import Contrasts, Nearest
from backlight.classical.layers.expansion import Levelled, SignedExpansion, fitting_rule
from backlight.classical.layers.leave_one_out import Selves
from backlight.classical.layers.pools import NO_DISTANCE, SoftMin, SoftMinPool
from backlight.classical.layers.radial import Radial
from backlight.classical.layers.softmin_distance import SoftMinDistance
from backlight.classical.layers.surprise import WithSurprise
from backlight.errors import UnsupportedModel
from backlight.rules.expansion import SignedPools
from backlight.rules.softmin import SoftMinRule

__all__: list[str] = []

# how far two equal rows may be apart, in units of rounding; as of `Selves`
_ROUNDINGS = 64
# what is smaller than this divides to infinity
_LEAST = 1e-290


def _squares(z: Value, anchors: np.ndarray) -> Value:
    """Squared distances of rows (n, K) to anchors (M, K), from their differences."""
    gaps = [z.column(k) - anchors[None, :, k] for k in range(anchors.shape[1])]
    return z.graph.total([gap * gap for gap in gaps])


def _spread(rows: Rows, z: Value, anchors: np.ndarray, weight: Value) -> Value:
    """Σ_j w_j · shares of ‖z − u_j‖², (n, columns), from weights (n, M)."""
    way = rows.pullback
    left, right, lefts, rights = z, z, anchors, anchors
    if way.into is not None and way.back is not None:
        back, into = array(way.back), array(way.into)
        left, right, lefts, rights = z @ back, z @ into, anchors @ back, anchors @ into
    parts = []
    for k in range(lefts.shape[1]):
        one, other = left.column(k) - lefts[None, :, k], right.column(k) - rights[None, :, k]
        parts.append((weight * one * other).sum())
    return rows.columns(rows.graph.concat(parts))


def _own(selves: Selves, z: Value, anchors: np.ndarray) -> Value:
    """Which anchor each centred row itself is, as a matrix of truths with at most one a row.

    The anchors are in the order in which `Selves` looks at them.
    """
    eps = np.finfo(np.float64).eps
    gaps = [(z.column(k) - anchors[None, :, k]).abs() for k in range(anchors.shape[1])]
    widest = gaps[0]
    for gap in gaps[1:]:
        widest = z.graph.op("Max", widest, gap)
    near = widest <= _ROUNDINGS * eps * (z.abs().max() + selves.offset)
    first = z.graph.cast(near, np.int32).argmax()
    return near & first.equals(np.arange(len(anchors))[None])


def _shares(rule: SoftMinRule, p: Value, h: Value, total: Value, o: Value) -> tuple[Value, Value]:
    """What a rule gives each unit, (n, M), of a pool of weights p, their sum and its score o; and Σ of it times h."""
    where = p.graph.where
    h = where(p > 0.0, h, 0.0)  # a unit at infinity has no weight
    mean = (p * h).sum() / total
    weight, tau = p, rule.stabiliser
    if tau is not None:
        bottom = h if tau == 0 else h + tau * mean
        sound = bottom > _LEAST
        weight = where(sound, p / where(sound, bottom, 1.0), 0.0)
    mass = (weight * h).sum() / total
    factor: Value | float = 1.0
    if rule.conserves:
        factor = o if tau == 0 else o / where(mass > 0.0, mass, 1.0)
    if tau is not None or rule.conserves:
        some = (mean >= NO_DISTANCE * o) & (mean > 0.0) & (mass > 0.0)
        factor = where(some, factor, 0.0)
    return weight * (factor / total), mass * factor


@register(SoftMinPool)
def _pool(found: SoftMinPool, rows: Rows, ask: Query) -> Emitted:
    pool: SoftMinDistance = found.pool
    rule, graph, where = ask.rule, rows.graph, rows.graph.where
    order = np.asarray(pool.selves.order)
    anchors = array(pool.anchors)[order]
    log_weights = array(pool.log_weights)
    log_weights = np.concatenate([log_weights[order], log_weights[len(order) :]])
    z = rows.z - array(pool.center)
    D = pool.gamma * _squares(z, anchors)
    if pool.still:  # one more anchor that sits on every row
        D = graph.concat([D, D.column(0) * 0.0])
    logits = log_weights - D
    whole = _log_sum(logits)
    others, rest = whole, None
    if rule.leave_self_out:
        own = _own(pool.selves, z, anchors)
        if pool.still:
            own = graph.concat([own, own.column(0) & np.array(False)])
        left = np.log1p(-np.minimum(np.exp(log_weights), 1 - 1e-16))
        rest = where(own, left, 0.0).sum()
        logits = where(own, -math.inf, logits)
        others = _log_sum(logits)
    alone = others.equals(-math.inf)
    top = where(alone, 0.0, others)
    p = (logits - top).exp()
    total = where(alone, 1.0, p.sum())
    o = -others if rest is None else rest - others
    weight, carried = _shares(rule, p, D, total, where(alone, 0.0, where(o < 0.0, 0.0, o)))
    real = weight.columns(range(len(anchors))) if pool.still else weight
    values = pool.gamma * _spread(rows, z, anchors, real)
    return Emitted(where(whole > 0.0, 0.0, -whole), carried, lambda c: c * values)


def _log_sum(logits: Value) -> Value:
    """Log Σ e^x, −∞ where there is nothing to sum."""
    where, top = logits.graph.where, logits.max()
    none = top.equals(-math.inf)
    high = where(none, 0.0, top)
    return where(none, -math.inf, high + (logits - high).exp().sum().log())


@register(SoftMin)
def _soft_min(found: SoftMin, rows: Rows, ask: Query) -> Emitted:
    inner, rule, where = found.inner, ask.rule, rows.graph.where
    below = layer(inner, rows, Query(next(iter(inner.rules.values()))))
    h = below.output
    weights = array(found.log_weights)
    logits = weights - h
    whole = _log_sum(logits)
    if rule.leave_self_out and inner.training_rows() is not None:
        if not isinstance(inner, Radial) or inner.selves is None:
            raise UnsupportedModel(
                f"a soft-min of {type(inner).__name__} units is not written as a graph: use another rule"
            )
        order = np.asarray(inner.selves.order)
        anchors = (array(inner.anchors) - array(inner.center))[order]
        own = _own(inner.selves, rows.z - array(inner.center), anchors).columns(np.argsort(order).tolist())
        left = np.log1p(-np.minimum(np.exp(weights - float(found.log_total)), 1 - 1e-16))
        logits = where(own, -math.inf, logits - where(own, left, 0.0).sum())
    others = _log_sum(logits)
    alone = others.equals(-math.inf)
    top = where(alone, 0.0, others)
    p = (logits - top).exp()
    total = where(alone, 1.0, p.sum())
    o = where(alone, 0.0, -others + float(found.log_total))
    coefficients, _ = _shares(rule, p, h, total, o)
    values = below.back(coefficients)
    return Emitted(-whole, (coefficients * below.carried).sum(), lambda c: c * values)


@register(WithSurprise)
def _surprise(found: WithSurprise, rows: Rows, ask: Query) -> Emitted:
    if not isinstance(ask.rule, SoftMinRule):
        raise UnsupportedModel("conditional surprise is not written as a graph in this version: use another rule")
    return layer(found.inner, rows, ask)


@register(Radial)
def _radial(found: Radial, rows: Rows, ask: Query) -> Emitted:
    if found.metric != "sqeuclidean":
        raise UnsupportedModel("city-block distances are not written as a graph in this version: use Explainer.save")
    where, anchors = rows.graph.where, array(found.anchors)
    d = _squares(rows.z, anchors)
    h = function_of(found.profile, d)
    finite = h if found.concave else where((h - h).is_nan(), 0.0, h)

    def back(c: Value) -> Value:
        if found.profile is named.same:
            return _spread(rows, rows.z, anchors, c + 0.0 * d)
        some = d > 0.0  # where d is zero, so is the relevance
        return _spread(rows, rows.z, anchors, where(some, c * finite / where(some, d, 1.0), 0.0))

    return Emitted(h, finite, back)


@register(Nearest)
def _nearest(found: Nearest, rows: Rows, ask: Query) -> Emitted:
    below = layer(found.inner, rows, ask)
    first = (-below.output).argmax()
    chosen = first.equals(np.arange(found.inner.units)[None]).double()
    return Emitted(below.output.min(), (chosen * below.carried).sum(), lambda c: below.back(c * chosen))


@register(Contrasts)
def _contrasts(found: Contrasts, rows: Rows, ask: Query) -> Emitted:
    below, graph = layer(found.inner, rows, ask), rows.graph
    d, where = below.output, rows.graph.where
    outputs, carried, weights, ways = [], [], [], []
    for a, b in zip(found.own, found.rival, strict=True):
        i, j = a.tolist(), b.tolist()
        h = d.columns(j) - d.columns(i)
        f = h.min()
        p = (found.beta * (f - h)).exp()
        # inside f > 0 and so are all h; a row outside does not divide by any
        w = p / p.sum() * where(f > 0.0, f / h, 1.0)
        outputs.append(f)
        carried.append((w * (below.carried.columns(j) - below.carried.columns(i))).sum())
        weights.append(w)
        eye = np.eye(found.inner.units)
        ways.append(eye[j] - eye[i])

    def back(c: Value) -> Value:
        return below.back(
            graph.total([(w * c.column(t)) @ way for t, (w, way) in enumerate(zip(weights, ways, strict=True))])
        )

    return Emitted(graph.concat(outputs), graph.concat(carried), back)


@register(SignedExpansion)
def _signed_expansion(found: SignedExpansion, rows: Rows, ask: Query) -> Emitted:
    if not isinstance(ask.rule, SignedPools):
        raise UnsupportedModel(f"rules={getattr(ask.rule, 'name', ask.rule)!r} is not written as a graph: use 'signed'")
    graph = rows.graph
    sides = (found.positive, found.negative)
    runs = [None if side is None else layer(side, rows, Query(fitting_rule(side, ask.rule.pools))) for side in sides]
    logs = [None if got is None else size - got.output for got, size in zip(runs, found.log_sums, strict=True)]
    a, b = logs
    if a is not None and b is not None:
        output = a.exp() - b.exp()
        scale = graph.op("Max", a, b).exp() * secant_of_exp(-(a - b).abs())
    else:
        log, size, sign = (a, found.log_sums[0], 1.0) if a is not None else (b, found.log_sums[1], -1.0)
        if log is None:
            zero = 0.0 * rows.z.column(0)
            return Emitted(zero, zero, lambda c: c * zero + np.zeros((1, rows.pullback.n_columns)))
        output = sign * log.exp()
        scale = math.exp(size) * secant_of_exp(log - size)
    signed = [(sign, got) for sign, got in zip((-1.0, 1.0), runs, strict=True) if got is not None]
    carried = graph.total([sign * scale * got.carried for sign, got in signed])
    return Emitted(output, carried, lambda c: graph.total([got.back(c * scale * sign) for sign, got in signed]))


@register(Levelled)
def _levelled(found: Levelled, rows: Rows, ask: Query) -> Emitted:
    level = found.intercept if ask.level is None else float(ask.level)
    below = layer(found.at(level, torch.zeros(1, dtype=torch.float64)), rows, ask)
    return Emitted(below.output + level, below.carried, below.back)
