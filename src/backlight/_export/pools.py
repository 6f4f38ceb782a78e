"""Distances to anchors and their pools in SQL: few anchors beside each other in a row, many as a table beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from backlight._export.expressions import E, dot, minus, number, over, plus, text, times
from backlight._export.rows import Emitted, Rows, array, layer, register
from backlight.classical import functions as named
from backlight.classical.layers import Query
from backlight.classical.layers.contrasts import Contrasts, Nearest
from backlight.classical.layers.expansion import Levelled, SignedExpansion, fitting_rule
from backlight.classical.layers.pools import NO_DISTANCE, SoftMin, SoftMinPool
from backlight.classical.layers.radial import Radial
from backlight.classical.layers.softmin_distance import SoftMinDistance
from backlight.classical.layers.surprise import WithSurprise
from backlight.errors import UnsupportedModel
from backlight.rules.expansion import SignedPools
from backlight.rules.softmin import SoftMinRule

__all__: list[str] = []

# anchors that are written out in each row; more of them are a table
_FEW = 64
# exponentials of more than this below zero are no numbers to divide by: they are counted from the largest
_VANISHING = 350.0
# a row is an anchor where they differ by no more than this share of their size, as `Selves` has it
_ROUNDING = 64 * 2.0**-52


@register(Radial)
def _radial(found: Radial, rows: Rows, ask: Query) -> Emitted:
    if found.metric != "sqeuclidean" or found.profile is not named.same or found.units > _FEW:
        raise UnsupportedModel(
            f"distances to {found.units} anchors with a profile are not written in SQL in this version: use "
            "Explainer.save"
        )
    deltas = [
        rows.let([minus(z, float(u)) for z, u in zip(rows.z, anchor, strict=True)]) for anchor in array(found.anchors)
    ]
    output = rows.let([plus(*(times(d, d) for d in delta)) for delta in deltas])

    def back(c: Sequence[E]) -> list[E]:
        used = [(one, rows.let(rows.pair(d, d))) for one, d in zip(c, deltas, strict=True) if one != 0]
        return [plus(*(times(one, pair[i]) for one, pair in used)) for i in range(rows.pullback.n_columns)]

    return Emitted(output, output, back)


@register(Nearest)
def _nearest(found: Nearest, rows: Rows, ask: Query) -> Emitted:
    below = layer(found.inner, rows, ask)
    least = rows.program.let(rows.program.dialect.least(below.output))
    chosen = rows.let(_first(below.output, lambda y: f"{text(y)} <= {text(least)}"))
    carried = plus(*map(times, chosen, below.carried))
    return Emitted([least], [carried], lambda c: below.back([times(c[0], one) for one in chosen]))


def _first(terms: Sequence[E], test: Any) -> list[E]:
    """One for the first term that a test holds of, zero for all others."""
    before: list[str] = []
    out: list[E] = []
    for term in terms:
        cases = "".join(f"WHEN {other} THEN 0e0 " for other in before)
        out.append(f"CASE {cases}WHEN {test(term)} THEN 1e0 ELSE 0e0 END")
        before.append(test(term))
    return out


@register(Contrasts)
def _contrasts(found: Contrasts, rows: Rows, ask: Query) -> Emitted:
    below = layer(found.inner, rows, ask)
    d, dialect, let = below.output, rows.program.dialect, rows.program.let
    outputs: list[E] = []
    carried: list[E] = []
    weights: list[list[E]] = []
    for a, b in zip(found.own, found.rival, strict=True):
        pairs = list(zip(a.tolist(), b.tolist(), strict=True))
        h = rows.let([minus(d[j], d[i]) for i, j in pairs])
        f = let(dialect.least(h))
        p = rows.let([dialect.exp(let(times(found.beta, minus(f, one)))) for one in h])
        total = let(plus(*p))
        # inside f > 0 and so are all h; a row outside does not divide by any
        inside = [f"CASE WHEN {text(f)} > 0 THEN {text(f)} / {text(one)} ELSE 1e0 END" for one in h]
        w = rows.let([times(over(q, total), one) for q, one in zip(p, inside, strict=True)])
        outputs.append(f)
        carried.append(plus(*(times(one, minus(d[j], d[i])) for one, (i, j) in zip(w, pairs, strict=True))))
        weights.append(w)

    def back(c: Sequence[E]) -> list[E]:
        down: list[list[E]] = [[] for _ in d]
        for one, w, a, b in zip(c, weights, found.own, found.rival, strict=True):
            for share, i, j in zip(w, a.tolist(), b.tolist(), strict=True):
                down[j].append(times(one, share))
                down[i].append(times(-1.0, one, share))
        return below.back(rows.let([plus(*some) for some in down]))

    return Emitted(outputs, carried, back)


def _weights(rule: SoftMinRule, p: str, h: str, mean: str) -> str:
    """w_j of a rule for soft-min pools."""
    if rule.stabiliser is None:
        return p
    bottom = h if rule.stabiliser == 0 else f"({h} + {number(rule.stabiliser)} * {mean})"
    return f"CASE WHEN {bottom} > 1e-290 THEN {p} / {bottom} ELSE 0e0 END"  # what is smaller divides to infinity


def _factor(rule: SoftMinRule, o: str, mean: str, mass: str) -> str:
    """The scalar t of a rule."""
    t = "1e0"
    if rule.conserves:
        t = o if rule.stabiliser == 0 else f"{o} / {mass}"
    elif rule.stabiliser is None:
        return t
    none = f"{mean} IS NULL OR {mean} < {number(NO_DISTANCE)} * {o} OR {mean} <= 0 OR {mass} <= 0"
    return f"CASE WHEN {none} THEN 0e0 ELSE {t} END"


@register(SoftMin)
def _soft_min(found: SoftMin, rows: Rows, ask: Query) -> Emitted:
    inner = found.inner
    if inner.units > _FEW or (ask.rule.leave_self_out and inner.training_rows() is not None):
        raise UnsupportedModel(f"a soft-min of {type(inner).__name__} units is not written in SQL in this version")
    below = layer(inner, rows, Query(next(iter(inner.rules.values()))))
    rule, dialect, let = ask.rule, rows.program.dialect, rows.program.let
    h = rows.let(below.output)
    logits = rows.let([minus(float(w), one) for w, one in zip(array(found.log_weights), h, strict=True)])
    top = let(dialect.most(logits))
    p = rows.let([dialect.exp(let(minus(one, top))) for one in logits])
    total = let(plus(*p))
    output = let(minus(0.0, plus(top, f"LN({text(total)})")))
    o = text(let(plus(output, float(found.log_total))))
    mean = text(let(over(plus(*map(times, p, h)), total)))
    w = rows.let([_weights(rule, text(a), text(b), mean) for a, b in zip(p, h, strict=True)])
    mass = text(let(over(plus(*map(times, w, h)), total)))
    scale = let(over(_factor(rule, o, mean, mass), total))
    coefficients = rows.let([times(one, scale) for one in w])
    carried = plus(*map(times, coefficients, below.carried))
    values = rows.let(below.back(coefficients))
    return Emitted([output], [carried], lambda c: [times(c[0], value) for value in values])


@register(SoftMinPool)
def _pool(found: SoftMinPool, rows: Rows, ask: Query) -> Emitted:
    values, output, carried = _many(found.pool, rows, ask.rule)
    return Emitted([output], [carried], lambda c: [times(c[0], value) for value in values])


@register(WithSurprise)
def _surprise(found: WithSurprise, rows: Rows, ask: Query) -> Emitted:
    if not isinstance(ask.rule, SoftMinRule):
        raise UnsupportedModel("conditional surprise is not written in SQL in this version: use another rule")
    return layer(found.inner, rows, ask)


@dataclass(frozen=True, slots=True)
class _Anchors:
    """The table of a pool's anchors, the names of the two factors of their shares, and what bounds all of them.

    Attributes
    ----------
    table : str
    left, right : list of str
    least, radius : float
        The smallest log-weight, and the largest norm.
    along, width, shift : int, float, float
        The coordinate that tells most anchors apart, and its cells ``ROUND(z / width + shift)``: a row that is an
        anchor is in the same one, so that databases find it by equality.
    """

    table: str
    left: list[str]
    right: list[str]
    least: float
    radius: float
    along: int
    width: float
    shift: float


def _anchors(pool: SoftMinDistance, rows: Rows) -> _Anchors:
    U, way = array(pool.anchors), pool.pullback
    log_weights = array(pool.log_weights)
    rest = np.log1p(-np.minimum(np.exp(log_weights), 1 - 1e-16))
    along = int(np.argmax([len(np.unique(column)) for column in U.T]))
    width, shift, cells = _cells(U[:, along], _ROUNDING * (float(np.abs(U).max()) + pool.selves.offset))
    columns = ["j", "lw", "g", "rest", "cell", *(f"u{k}" for k in range(U.shape[1]))]
    sides: list[np.ndarray] = []
    left = right = [f"u{k}" for k in range(U.shape[1])]
    if way.into is not None and way.back is not None:
        sides = [U @ array(way.back), U @ array(way.into)]
        left, right = ([f"{name}{k}" for k in range(way.n_elements)] for name in "lr")
        columns += [*left, *right]
    j, gamma = np.arange(len(U)), np.full(len(U), pool.gamma)
    body = np.column_stack([j, log_weights[: len(U)], gamma, rest[: len(U)], cells, U, *sides])
    if pool.still:
        still = np.zeros(body.shape[1])
        still[:4] = len(U), log_weights[-1], 0.0, rest[-1]
        body = np.vstack([body, still])
    radius = float(np.sqrt((U * U).sum(1).max()))
    table = rows.program.table(columns, body)
    return _Anchors(table, left, right, float(log_weights.min()), radius, along, width, shift)


def _cells(u: np.ndarray, room: float) -> tuple[float, float, np.ndarray]:
    """A grid on a line, such that none of its points is within rounding of two cells: width, shift, and the cells."""
    width = 1e7 * room if room > 0 else 1.0
    for shift in np.linspace(0.0, 0.98, 50).tolist():
        low, high = (np.round((u + side * room) / width + shift) for side in (-2.0, 2.0))
        if (low == high).all():
            return width, shift, low
    return math.inf, 0.0, np.zeros(len(u))


def _at_least_zero(expression: str, rows: Rows) -> E:
    """No less than zero; where there is no value there is none, which GREATEST does not say everywhere."""
    y = text(rows.program.let(expression))
    return rows.program.let(f"CASE WHEN {y} < 0 THEN 0e0 ELSE {y} END")


def _own(anchors: _Anchors, z: Sequence[str], pool: SoftMinDistance, rows: Rows) -> dict[str, str]:
    """The anchor that a row itself is: its position, its log-weight less its distance, and log(1 − α) of it."""
    let = rows.program.let
    size = plus(rows.program.dialect.most([let(f"ABS({one})") for one in z]), pool.selves.offset)
    room = text(let(times(_ROUNDING, size)))
    cell = 0.0 if anchors.width == math.inf else plus(over(z[anchors.along], anchors.width), anchors.shift)
    near = [f"a.cell = {text(let(f'ROUND({text(cell)})'))}", "a.g > 0"]
    near += [f"ABS({one} - a.u{i}) <= {room}" for i, one in enumerate(z)]
    own = rows.program.sums(anchors.table, [], {"own": "MIN(q.j)"}, where=" AND ".join(near))["own"]
    squares = " + ".join(f"({one} - a.u{i}) * ({one} - a.u{i})" for i, one in enumerate(z))
    kept = {"logit": f"a.lw - a.g * ({squares})"}
    found = {"logit": "MAX(q.logit)", "rest": "MAX(q.rest)"}
    return {"own": own, **rows.program.sums(anchors.table, [kept], found, where=f"a.j = {own}")}


def _many(pool: SoftMinDistance, rows: Rows, rule: SoftMinRule) -> tuple[list[E], E, E]:
    """Values, output and what is carried of a pool over a table of anchors, by two passes over it.

    A third one, for the largest exponent, is made for rows so far away that their exponentials could vanish.
    """
    program, way = rows.program, pool.pullback
    exp, let = program.dialect.exp, program.let
    center = array(pool.center)
    z = [text(one) for one in rows.let([minus(cell, float(c)) for cell, c in zip(rows.z, center, strict=True)])]
    anchors = _anchors(pool, rows)
    table, left, right = anchors.table, anchors.left, anchors.right
    own = _own(anchors, z, pool, rows) if rule.leave_self_out else None
    is_own = "" if own is None else f"q.j = {own['own']}"
    squares = {f"s{k}": f"({one} - a.u{k}) * ({one} - a.u{k})" for k, one in enumerate(z)}
    pairs = [squares, {"d": f"q.g * ({' + '.join(f'q.{name}' for name in squares)})"}]

    norm = text(let(plus(*(times(one, one) for one in z))))
    farthest = let(times(2 * pool.gamma, plus(norm, anchors.radius**2)))
    logit = "q.lw - q.d" if own is None else f"CASE WHEN {is_own} THEN NULL ELSE q.lw - q.d END"
    vanish = f"{text(farthest)} > {number(_VANISHING + anchors.least)}"
    far = program.sums(table, pairs, {"top": f"MAX({logit})"}, where="" if program.dialect.underflows else vanish)
    top = text(let(f"COALESCE({far['top']}, 0e0)"))
    p = text(exp(f"(q.lw - q.d - {top})"))
    weighed = [*pairs, {"p": p if own is None else f"CASE WHEN {is_own} THEN 0e0 ELSE {p} END"}]
    lefts, rights = z, z
    if way.into is not None and way.back is not None:
        lefts = [text(one) for one in rows.let([dot(back, z) for back in array(way.back).T])]
        rights = [text(one) for one in rows.let([dot(into, z) for into in array(way.into).T])]
    shares = {f"r{k}": f"SUM(q.wg * {share})" for k, share in enumerate(_shared(lefts, left, rights, right))}
    both = {"total": "SUM(q.p)", "drop": "SUM(q.p * q.d)"}
    if rule.stabiliser is None:
        shares |= both
    got = program.sums(table, weighed, both) if rule.stabiliser is not None else {}
    mean = text(let(f"({got['drop']} / {got['total']})")) if got else ""
    weights = [{"w": _weights(rule, "q.p", "q.d", mean)}, {"wg": "q.w * q.g"}]
    got |= program.sums(table, [*weighed, *weights], {"mass": "SUM(q.w * q.d)", **shares})
    total = text(let(f"NULLIF({got['total']}, 0e0)"))
    mean = text(let(f"({got['drop']} / {total})"))
    log_total = text(let(f"({top} + LN({total}))"))
    rest = "0e0" if own is None else f"COALESCE({own['rest']}, 0e0)"
    o = text(_at_least_zero(f"({rest} - {log_total})", rows))
    output: E = o if own is None else _at_least_zero(f"(-{text(_joined(own, log_total, rows))})", rows)
    mass = text(let(f"{got['mass']} / {total}"))
    factor = text(let(_factor(rule, o, mean, mass)))

    def given(value: str) -> str:  # a row that is the only anchor has no other to share with
        gone = (
            "" if own is None else f"CASE WHEN {own['own']} IS NOT NULL AND {total} IS NULL THEN 0e0 ELSE {value} END"
        )
        return gone or value

    values = rows.let([given(f"({factor} * {got[f'r{k}']} / {total})") for k in range(len(left))])
    return rows.let(rows.columns(values)), output, let(given(f"({mass} * {factor})"))


def _shared(lefts: Sequence[str], left: Sequence[str], rights: Sequence[str], right: Sequence[str]) -> list[str]:
    """Shares of a squared distance of a pair: its squares, or products of two differences."""
    if lefts is rights:
        return [f"q.s{k}" for k in range(len(left))]
    sides = zip(lefts, left, rights, right, strict=True)
    return [f"({a} - q.{b}) * ({c} - q.{d})" for a, b, c, d in sides]


def _joined(own: Mapping[str, str], log_total: str, rows: Rows) -> E:
    """The logarithm of all weights: those of the others, and the row's own where it is an anchor."""
    let, mine = rows.program.let, own["logit"]
    gap = let(rows.program.dialect.exp(let(f"(-ABS({mine} - {log_total}))")))
    most = f"CASE WHEN {mine} > {log_total} THEN {mine} ELSE {log_total} END"
    alone = f"WHEN {own['own']} IS NULL THEN {log_total} WHEN {log_total} IS NULL THEN {mine}"
    return let(f"CASE {alone} ELSE {most} + LN(1e0 + {text(gap)}) END")


@register(SignedExpansion)
def _signed_expansion(found: SignedExpansion, rows: Rows, ask: Query) -> Emitted:
    if not isinstance(ask.rule, SignedPools):
        raise UnsupportedModel(f"rules={getattr(ask.rule, 'name', ask.rule)!r} is not written in SQL: use 'signed'")
    exp, let = rows.program.dialect.exp, rows.program.let
    sides = [found.positive, found.negative]
    runs = [None if side is None else layer(side, rows, Query(fitting_rule(side, ask.rule.pools))) for side in sides]
    logs = [
        None if got is None else let(minus(size, got.output[0])) for got, size in zip(runs, found.log_sums, strict=True)
    ]
    a, b = logs
    if a is not None and b is not None:
        output = let(minus(exp(a), exp(b)))
        gap = let(f"ABS({text(minus(a, b))})")
        top = let(exp(let(rows.program.dialect.most([a, b]))))
        scale = let(times(top, _falling(gap, rows)))
    else:
        log, size, sign = (a, found.log_sums[0], 1.0) if a is not None else (b, found.log_sums[1], -1.0)
        output = let(times(sign, exp(log))) if log is not None else 0.0
        scale = 0.0 if log is None else let(times(math.exp(size), _falling(let(minus(size, log)), rows)))
    signed = [(sign, got) for sign, got in zip((-1.0, 1.0), runs, strict=True) if got is not None]
    carried = plus(*(times(sign, scale, got.carried[0]) for sign, got in signed))

    def back(c: Sequence[E]) -> list[E]:
        given = [got.back([times(c[0], scale, sign)]) for sign, got in signed]
        return [plus(*(part[i] for part in given)) for i in range(rows.pullback.n_columns)]

    return Emitted([output], [carried], back)


def _falling(t: E, rows: Rows) -> E:
    """(1 − e^−t)/t of t ≥ 0."""
    one = text(t)
    series = f"1e0 - {one} / 2e0 + {one} * {one} / 6e0 - {one} * {one} * {one} / 24e0"
    gap = f"(1e0 - {rows.program.dialect.exp(f'(-{one})')}) / {one}"
    return rows.program.let(f"CASE WHEN {one} < 1e-3 THEN {series} ELSE {gap} END")


@register(Levelled)
def _levelled(found: Levelled, rows: Rows, ask: Query) -> Emitted:
    level = found.intercept if ask.level is None else float(ask.level)
    below = layer(found.at(level, torch.zeros(1, dtype=torch.float64)), rows, ask)
    return Emitted([rows.program.let(plus(below.output[0], level))], below.carried, below.back)
