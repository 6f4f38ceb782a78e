r"""Maxima, minima and absolute values that are written with rectifiers, found and made into what they are.

* relu(w) and relu(−w) read by one value: A relu(w) + B relu(−w) = (A + B) relu(w) − B w; c relu(w) + c relu(−w) = c |w|
* c relu(p − q) + c q = c max(p, q), and c p − c relu(p − q) = c min(p, q), where p and q are different values, or
  different inputs of a dense layer: only where the sum p + (−q) falls apart into the two does this count as a gadget,
  since every relu(z) + y is max(z + y, y)
* u = Σ_k ±relu(z_k) + z_k of some units k: flipped units, written out beside their layer
* a tree of maxima over windows of one picture is max pooling
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backlight.canonical.affine import channel_axis, only, side_by_side
from backlight.canonical.algebra import along, pick_columns, plus, rows, scale_rows, simplest
from backlight.canonical.form import Affine, Form, Operator, Pointwise, Term, Value, lengthwise, scale_of, scaling
from backlight.canonical.units import Layer, Note, layers
from backlight.rules import Convolution, Dense, Elementwise, LinearMap

__all__ = ["absorb", "beside", "extremes", "pairs", "rows_of_extremes"]

_SAME = 1e-11
_MAXIMUM = torch.ops.aten.maximum.default
_MINIMUM = torch.ops.aten.minimum.default


def _scalar(term: Term) -> float | None:
    factor = scale_of(term)
    return float(factor) if factor is not None and factor.numel() == 1 else None


# -- relu(w), relu(−w) -------------------------------------------------------------------------------------------------


def pairs(form: Form, note: Note) -> bool:
    """A pair of rectified values w and −w, read by one value."""
    for value in form.order():
        if not isinstance(value, Affine):
            continue
        rectified = [t for t in value.terms if isinstance(t.source, Pointwise) and t.source.op == "relu"]
        for i, first in enumerate(rectified):
            for second in rectified[i + 1 :]:
                w, other = (t.source.source for t in (first, second))  # type: ignore[attr-defined]
                if _opposite(other, w) and _one_of_pair(value, first, second, w):
                    note("collapsed", first.source.name, "relu(z) and relu(−z)")
                    form.refresh()
                    return True
    return False


def _one_of_pair(value: Affine, first: Term, second: Term, w: Value) -> bool:
    total = plus(first.map, second.map, value.shape)
    if total is None:
        return False
    a, b = _scalar(first), _scalar(second)
    value.terms = [t for t in value.terms if t is not first and t is not second]
    if a is not None and a == b:
        size = Pointwise(first.source.name + ".abs", "abs", torch.ops.aten.abs.default, w, shape=w.shape)
        value.terms.append(Term(first.map, size))
        return True
    if bool(total.weight.any()):
        value.terms.append(Term(total, first.source))
    value.terms.append(Term(_negated(second.map), w))
    return True


def _negated(layer: LinearMap) -> LinearMap:
    if isinstance(layer, Convolution):
        return replace(layer, weight=-layer.weight)
    return type(layer)(-layer.weight, None)


def _opposite(x: Value, y: Value) -> bool:
    """Whether x = −y by construction."""
    if isinstance(x, Affine) and len(x.terms) == 1 and x.terms[0].source is y and x.bias is None:
        return _scalar(x.terms[0]) == -1.0
    if isinstance(y, Affine) and len(y.terms) == 1 and y.terms[0].source is x and y.bias is None:
        return _scalar(y.terms[0]) == -1.0
    if not (isinstance(x, Affine) and isinstance(y, Affine)) or len(x.terms) != len(y.terms) or x.shape != y.shape:
        return False
    by_source = {term.source: term.map for term in y.terms}
    if set(by_source) != {term.source for term in x.terms} or len(by_source) != len(x.terms):
        return False
    for term in x.terms:
        total = plus(term.map, by_source[term.source], x.shape)
        if total is None or bool(total.weight.any()):
            return False
    a, b = (v.bias if v.bias is not None else torch.zeros(1, dtype=torch.float64) for v in (x, y))
    return bool(((a + b).abs() <= 1e-12 * (a.abs() + b.abs())).all())


# -- maxima and minima of values ---------------------------------------------------------------------------------------


def extremes(form: Form, note: Note) -> bool:
    """C relu(p − q) + c q is c max(p, q), of different values p and q."""
    for value in form.order():
        if not isinstance(value, Affine):
            continue
        for term in value.terms:
            c = _scalar(term)
            if c is None or not isinstance(term.source, Pointwise) or term.source.op != "relu":
                continue
            if _extreme(value, term, c):
                note("recognised", value.name, "a maximum" if c > 0 else "a minimum")
                form.refresh()
                return True
    return False


def _extreme(value: Affine, term: Term, c: float) -> bool:
    z = term.source.source  # type: ignore[attr-defined]
    if not isinstance(z, Affine) or z.bias is not None or len(z.terms) < 2:
        return False
    factors = {part.source: _scalar(part) for part in z.terms}
    if len(factors) != len(z.terms) or any(factor is None for factor in factors.values()):
        return False
    beside = {part.source: part for part in value.terms if part is not term}
    taken = []
    for source, factor in factors.items():
        if source in beside:
            given = _scalar(beside[source])
            if given is None or given != -c * factor:  # type: ignore[operator]
                return False
            taken.append(source)
    if not taken or len(taken) == len(factors):
        return False
    # c relu(z) − c z_S = c max(z − z_S, −z_S)
    name = term.source.name
    left = _sum(name + ".a", {s: f for s, f in factors.items() if s not in taken}, 1.0, z)  # type: ignore[misc]
    right = _sum(name + ".b", {s: f for s, f in factors.items() if s in taken}, -1.0, z)  # type: ignore[misc]
    if c < 0:
        left, right = (_turned(v) for v in (left, right))
    op, target = ("maximum", _MAXIMUM) if c > 0 else ("minimum", _MINIMUM)
    found = Operator(name + "." + op, op, target, (left, right), shape=z.shape)
    value.terms = [part for part in value.terms if part is not term and part.source not in taken]
    value.terms.append(Term(scaling(abs(c)), found))
    return True


def _sum(name: str, factors: dict[Value, float], sign: float, like: Value) -> Value:
    made = Affine(name, [Term(scaling(sign * f), s) for s, f in factors.items()], shape=like.shape)
    return only(made) or made


def _turned(value: Value) -> Value:
    if isinstance(value, Affine):
        made = value.twin()
        for term in made.terms:
            term.map = _negated(term.map)
        return only(made) or made
    return Affine(value.name + ".neg", [Term(scaling(-1.0), value)], shape=value.shape)


# -- maxima and minima of inputs of a dense layer ----------------------------------------------------------------------


def rows_of_extremes(form: Form, note: Note) -> bool:
    """The same with units and columns: c relu(w·x) with −c w_S in the linear part, S some of the inputs of w."""
    for layer in layers(form, frozenset({"relu"})):
        if not (layer.free and layer.readers.direct and len(layer.readers.mixing) == 1):
            continue
        reader, read = layer.readers.mixing[0], layer.before.terms[0]
        beside = [t for t in reader.value.terms if t.source is read.source and isinstance(t.map, Dense)]
        dense = isinstance(reader.term.map, Dense) and isinstance(read.map, Dense) and len(layer.before.terms) == 1
        if not dense or len(beside) != 1:
            continue
        found = _rows(layer, beside[0])
        if found:
            _make_rows(layer, beside[0], found)
            note("recognised", reader.value.name, f"{len(found)} maxima or minima of inputs")
            form.refresh()
            return True
    return False


def _rows(layer: Layer, beside: Term) -> list[tuple[int, Tensor, bool]]:
    """(unit, which of its inputs are in the linear part, whether it is a maximum)."""
    weights, biases = layer.weights(), layer.biases()
    columns, linear = layer.readers.mixing[0].term.map.weight, beside.map.weight
    found: list[tuple[int, Tensor, bool]] = []
    for k in range(layer.count):
        support = weights[k] != 0
        outputs = torch.nonzero(columns[:, k]).flatten()
        if bool(biases[k].any()) or int(support.sum()) < 2 or not len(outputs):
            continue
        c = columns[outputs, k]
        if not (bool((c > 0).all()) or bool((c < 0).all())):
            continue
        given, expected = linear[outputs][:, support], -c[:, None] * weights[k, support]
        zero, there = given == 0, (given - expected).abs() <= 1e-12 * expected.abs()
        inside = there[0]
        if not bool((there == inside).all() and (zero == ~inside).all()) or not bool(inside.any() and (~inside).any()):
            continue
        subset = torch.zeros_like(support)
        subset[torch.nonzero(support).flatten()[inside]] = True
        found.append((k, subset, bool(c[0] > 0)))
        # what is used up is not there for the next unit
        linear = linear.clone()
        linear[outputs[:, None], torch.nonzero(subset).flatten()] = 0
    beside.map = Dense(linear, None)
    return found


def _make_rows(layer: Layer, beside: Term, found: list[tuple[int, Tensor, bool]]) -> None:
    weights = layer.weights()
    reader = layer.readers.mixing[0]
    alive = torch.ones(layer.count, dtype=torch.bool)
    for largest in (True, False):
        chosen = [(k, subset) for k, subset, is_max in found if is_max is largest]
        if not chosen:
            continue
        units = torch.tensor([k for k, _ in chosen])
        subset = torch.stack([s for _, s in chosen])
        # c relu(z) − c z_S = c max(z − z_S, −z_S) = −c min(z_S − z, z_S)
        left = torch.where(subset, 0.0, weights[units])
        right = torch.where(subset, -weights[units], 0.0)
        sign = 1.0 if largest else -1.0
        name = layer.units.name + (".maximum" if largest else ".minimum")
        sides = [
            Affine(f"{name}.{side}", [Term(Dense(sign * w, None), beside.source)])
            for side, w in (("a", left), ("b", right))
        ]
        op, target = ("maximum", _MAXIMUM) if largest else ("minimum", _MINIMUM)
        made = Operator(name, op, target, tuple(sides))
        reader.value.terms.append(Term(Dense(sign * reader.term.map.weight[:, units], None), made))
        alive[units] = False
    if bool(alive.any()):
        layer.keep(alive)
    else:
        reader.value.terms.remove(reader.term)


# -- units flipped beside their layer ----------------------------------------------------------------------------------


def absorb(form: Form, note: Note) -> bool:
    """U_k = c relu(z_k) − c z_k for some units k and c relu(z_k) for the others: one layer of rectifiers."""
    for value in form.order():
        if not isinstance(value, Affine) or len(value.terms) < 2:
            continue
        for term in value.terms:
            c = _scalar(term)
            if c is None or not isinstance(term.source, Pointwise) or term.source.op != "relu":
                continue
            z = term.source.source
            rest = [part for part in value.terms if part is not term]
            if not isinstance(z, Affine) or len(rest) != len(z.terms) or z.shape != value.shape:
                continue
            found = _flipped(value, rest, z, c)
            if found is None:
                continue
            sign, which, axis = found
            turned = _signed(z, sign, axis)
            value.terms, value.bias = [Term(term.map, replace_source(term.source, turned))], None
            note("flipped", term.source.name, f"{which} units, which takes away a linear part")
            form.refresh()
            return True
    return False


def replace_source(units: Pointwise, source: Value) -> Pointwise:
    """The same activation of another value."""
    made = units.twin()
    made.source = source
    return made


def _flipped(value: Affine, rest: list[Term], z: Affine, c: float) -> tuple[Tensor, int, int] | None:
    by_source = {part.source: part.map for part in z.terms}
    if len(by_source) != len(z.terms) or {part.source for part in rest} != set(by_source):
        return None
    if any(isinstance(m, Convolution) and m.groups != 1 for m in by_source.values()):
        return None
    axis = channel_axis(value) if all(isinstance(m, Elementwise) for m in by_source.values()) else channel_axis(z)
    count = z.shape[axis]
    weights, given = [], []
    for part in rest:
        own = by_source[part.source]
        pair = [_by_unit(m, z.shape, axis) for m in (own, part.map)]
        if type(own) is not type(part.map) or plus(own, part.map, z.shape) is None or any(m is None for m in pair):
            return None
        weights.append(pair[0])
        given.append(pair[1])
    for bias, held in ((z.bias, weights), (value.bias, given)):
        full = torch.zeros(1, *z.shape, dtype=torch.float64) if bias is None else bias.expand(1, *z.shape)
        held.append(full[0].movedim(axis, 0).reshape(count, -1))
    w, m = torch.cat(weights, 1), torch.cat(given, 1)
    flipped = (
        ((m + c * w).abs() <= _SAME * c * w.abs().amax(1, keepdim=True)).all(1) if c > 0 else torch.zeros(count).bool()
    )
    silent = (m == 0).all(1)
    if not bool((flipped | silent).all()) or not bool(flipped.any()):
        return None
    return torch.where(flipped, -1.0, 1.0).double(), int(flipped.sum()), axis


def _signed(z: Affine, sign: Tensor, axis: int) -> Affine:
    """The value with the sign of some units turned."""
    factor = lengthwise(sign, z.shape, axis)
    turned = z.twin()
    for part in turned.terms:
        if isinstance(part.map, Elementwise):
            part.map = simplest(Elementwise(part.map.weight * factor, None))
        else:
            part.map = scale_rows(part.map, sign)
    if turned.bias is not None:
        turned.bias = turned.bias * factor
    turned.op = ""
    return turned


def beside(form: Form, note: Note) -> bool:
    """A layer on relu(z′) and z side by side, where c relu(z′_k) + c z_j is c relu(z_j) for z_j = −z′_k."""
    users = form.users()
    for value in form.order():
        if not isinstance(value, Affine):
            continue
        for term in value.terms:
            parts = side_by_side(term.source, term.map)
            if parts is None or len(parts) != 2 or users[term.source] != [value]:
                continue
            units, line = sorted(parts, key=lambda part: isinstance(part, Affine))
            if not (isinstance(units, Pointwise) and units.op == "relu" and isinstance(line, Affine)):
                continue
            z = units.source
            if isinstance(z, Affine) and len(parts[0].shape) and _joined(term, parts, units, line, z):
                note("flipped", units.name, "units beside their layer, which takes away a linear part")
                form.refresh()
                return True
    return False


def _joined(term: Term, parts: list[Value], units: Pointwise, line: Affine, z: Affine) -> bool:
    mine, theirs = ({t.source: t.map for t in v.terms} for v in (z, line))
    if set(mine) != set(theirs) or len(mine) != len(z.terms) or len(theirs) != len(line.terms):
        return False
    if any(isinstance(m, Elementwise) for m in (*mine.values(), *theirs.values())):
        return False
    axis = channel_axis(z)
    counts = [part.shape[axis] for part in parts]
    starts = dict(zip(parts, (0, counts[0]), strict=True))
    own, other = (_full_rows(v, list(mine), axis) for v in (z, line))
    if own.shape[1] != other.shape[1]:
        return False
    weight = term.map.weight.transpose(0, 1)
    v_units = weight[starts[units] : starts[units] + z.shape[axis]].flatten(1)
    v_line = weight[starts[line] : starts[line] + line.shape[axis]].flatten(1)
    sign = torch.ones(z.shape[axis], dtype=torch.float64)
    for j in range(len(other)):
        if not bool(v_line[j].any()):
            continue
        size = own.abs().amax(1)
        read = v_line[j].abs().max()
        fits = torch.zeros(len(own), dtype=torch.bool)
        for side in (1.0, -1.0):
            # z_j = −z′_k with the same column, or z_j = z′_k with the opposite one
            row = (own + side * other[j]).abs().amax(1) <= _SAME * size
            fits |= row & ((v_units - side * v_line[j]).abs().amax(1) <= _SAME * read)
        match = torch.nonzero(fits).flatten()
        if len(match) != 1 or sign[match[0]] < 0:
            return False
        sign[match[0]] = -1.0
    index = torch.arange(starts[units], starts[units] + z.shape[axis])
    made = units.twin()
    made.source = _signed(z, sign, axis)
    term.map, term.source = pick_columns(term.map, index), made
    return True


def _full_rows(value: Affine, sources: list[Value], axis: int) -> Tensor:
    """What each unit reads and its bias, with the sources in a given order."""
    maps = {t.source: t.map for t in value.terms}
    bias = torch.zeros(1, dtype=torch.float64) if value.bias is None else value.bias
    full = bias.expand(1, *value.shape)[0].movedim(axis, 0).reshape(value.shape[axis], -1)
    return torch.cat([*(rows(maps[source]) for source in sources), full], 1)


def _by_unit(layer: LinearMap, shape: tuple[int, ...], axis: int) -> Any:
    if isinstance(layer, Elementwise):
        factor = along(layer.weight, shape, axis)
        return None if factor is None else factor[:, None]
    return rows(layer)


# -- pooling -----------------------------------------------------------------------------------------------------------
