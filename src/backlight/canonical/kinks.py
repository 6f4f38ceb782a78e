r"""Every spelling of a kink becomes one: functions of one value, unit by unit, made of straight pieces.

(z + |z|)/2, max(z, 0), z · (z > 0), ``where(z > 0, z, 0)``, −min(−z, 0) and ``clamp(z, min=0)`` are relu(z). Whatever
is written with relu, abs, clamp, maxima, masks, factors and sums of one value z is first worked out as a function of
one number (`Pieces`), and then written in one way, with t the kink and u = ±(z − t):

* one kink: p · relu(u), p · |u| or p · leaky_relu(u, s) with −1 < s < 1, and a constant;
* flat, rising, flat: s · clamp(z, t₁, t₂), and a constant;
* anything else: λ z + Σ_j κ_j relu(z − t_j), and a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.canonical.form import Affine, Form, Held, Operator, Pointwise, Term, Value, scale_of, scaling
from backlight.canonical.lines import Pieces, compose, constant, identity, kinked, product, step
from backlight.canonical.units import Note

__all__ = ["kinks"]

_RELU = kinked((0.0, 0.0), (1.0, 0.0), breaks=(0.0,))
_AT_ZERO = Pieces(np.zeros(1), np.zeros(2), np.zeros(2), np.ones(1))
_ABS = kinked((-1.0, 0.0), (1.0, 0.0), breaks=(0.0,))

# a value as a function of another: which, and how
Read = tuple[Value, Pieces]


def kinks(form: Form, note: Note) -> bool:
    """Write each function of one value in its one way."""
    form.refresh()
    read = _Reading(form)
    users = form.users()
    changed = False
    for value in form.order():
        root, f = read.of[value]
        if root is value:
            changed |= isinstance(value, Affine) and _grouped(value, read)
            continue
        inside = [user for user in users[value] if read.of[user][0] is root]
        if (len(inside) == len(users[value]) and value is not form.output) or f.straight or not f.continuous:
            continue
        made = _written(f, root, value.name)
        if _signature(value, root) != _signature(made, root):
            form.replace(value, made)
            read.of[made] = root, f
            changed = True
    if changed:
        note("recognised", "", "kinks that were written out")
        form.refresh()
    return changed


class _Reading:
    """Each value as a function of one other, as far back as that goes."""

    def __init__(self, form: Form) -> None:
        self.of: dict[Value, Read] = {value: (value, identity()) for value in form.inputs.values()}
        self.shapes: dict[Value, Any] = {}
        for value in form.order():
            self.of.setdefault(value, (value, identity()))
            found = self._read(value)
            if found is not None and found[0].shape == value.shape:
                self.of[value] = found

    def _read(self, value: Value) -> Read | None:
        if isinstance(value, Affine):
            return self._sum(value)
        if isinstance(value, Pointwise) and value.op in _FUNCTIONS:
            return self._function(value.op, (value.source, *value.args), value.kwargs)
        if isinstance(value, Operator) and value.op in _FUNCTIONS:
            return self._function(value.op, value.args, value.kwargs)
        return None

    def _function(self, op: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Read | None:
        given, root = [], None
        for argument in args:
            if isinstance(argument, Value) and not isinstance(argument, Held):
                source, f = self.of[argument]
                if root is not None and source is not root:
                    return None
                root = source
                given.append(f)
            else:
                given.append(_number(argument))
        if root is None:
            return None
        found = _FUNCTIONS[op](*given, **kwargs)
        return None if found is None else (root, found)

    def _sum(self, value: Affine) -> Read | None:
        total, root = constant(0.0), None
        for term in value.terms:
            factor = scale_of(term)
            source, f = self.of[term.source]
            if factor is None or factor.numel() != 1 or (root is not None and source is not root):
                return None
            root, total = source, total + f.scaled(float(factor))
        if value.bias is not None:
            shift = _number(value.bias)
            if shift is None:
                return None
            total = total.scaled(1.0, shift)
        return None if root is None else (root, total)


def _number(value: Any) -> Any:
    """A constant that is one number everywhere; ``None`` stands for itself and for any other."""
    if isinstance(value, Held):
        value = value.tensor
    if isinstance(value, Tensor):
        first = value.flatten()[0] if value.numel() else None
        return float(first) if first is not None and bool((value == first).all()) else None
    return value


def _piece(value: Any) -> Pieces | None:
    if isinstance(value, Pieces):
        return value
    return constant(float(value)) if isinstance(value, int | float) else None


# -- the functions -----------------------------------------------------------------------------------------------------


def _of_pieces(function: Callable[..., Pieces | None]) -> Callable[..., Pieces | None]:
    """For functions of values: numbers are constants; anything that is neither has no such form."""

    def made(*args: Any, **kwargs: Any) -> Pieces | None:
        given = [_piece(argument) for argument in args]
        return None if kwargs or any(f is None for f in given) else function(*given)

    return made


def _of_first(function: Callable[..., Pieces | None]) -> Callable[..., Pieces | None]:
    """For functions of one value with numbers as parameters."""

    def made(f: Any, *args: Any, **kwargs: Any) -> Pieces | None:
        if not isinstance(f, Pieces) or not all(isinstance(a, int | float | None) for a in (*args, *kwargs.values())):
            return None
        outer = function(*args, **kwargs)
        return None if outer is None else compose(outer, f)

    return made


def _clamp(min: float | None = None, max: float | None = None) -> Pieces | None:  # noqa: A002 - the operator's words
    if min is not None and max is not None and min >= max:
        return constant(float(max))
    if min is None:
        return identity() if max is None else kinked((1.0, 0.0), (0.0, max), breaks=(max,))
    if max is None:
        return kinked((0.0, min), (1.0, 0.0), breaks=(min,))
    return kinked((0.0, min), (1.0, 0.0), (0.0, max), breaks=(min, max))


def _clamp_max(max: float) -> Pieces | None:  # noqa: A002
    return _clamp(None, max)


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0) -> Pieces | None:
    return _clamp(min_val, max_val)


def _leaky(negative_slope: float = 0.01) -> Pieces:
    return kinked((float(negative_slope), 0.0), (1.0, 0.0), breaks=(0.0,))


def _rrelu(lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *_: Any) -> Pieces | None:
    return None if training else _leaky((lower + upper) / 2)


def _threshold(threshold: float, value: float) -> Pieces:
    return Pieces(
        np.array([float(threshold)]), np.array([0.0, 1.0]), np.array([float(value), 0.0]), np.array([float(value)])
    )


def _softshrink(lambd: float = 0.5) -> Pieces:
    return kinked((1.0, lambd), (0.0, 0.0), (1.0, -lambd), breaks=(-lambd, lambd))


def _maximum(f: Pieces, g: Pieces) -> Pieces:
    return g + compose(_RELU, f + g.scaled(-1.0))


def _minimum(f: Pieces, g: Pieces) -> Pieces:
    return _maximum(f.scaled(-1.0), g.scaled(-1.0)).scaled(-1.0)


def _prelu(f: Pieces, slope: Pieces) -> Pieces | None:
    return compose(_leaky(float(slope.offset[0])), f) if slope.straight and slope.slope[0] == 0 else None


def _where(mask: Pieces, f: Pieces, g: Pieces) -> Pieces | None:
    yes, no = product(mask, f), product(mask.scaled(-1.0, 1.0), g)
    return None if yes is None or no is None else yes + no


def _compared(sign: float, at: float) -> Callable[..., Pieces | None]:
    return _of_pieces(lambda f, g: compose(step(at=at), f.scaled(sign) + g.scaled(-sign)))


def _cast(f: Any, *_: Any, **__: Any) -> Pieces | None:
    # of a mask to numbers; in double precision a cast changes nothing else
    return f if isinstance(f, Pieces) else None


_FUNCTIONS: dict[str, Callable[..., Pieces | None]] = {
    "relu": _of_first(lambda: _RELU),
    "relu6": _of_first(lambda: _clamp(0.0, 6.0)),
    "abs": _of_first(lambda: _ABS),
    "leaky_relu": _of_first(_leaky),
    "rrelu": _of_first(_rrelu),
    "prelu": _of_pieces(_prelu),
    "_prelu_kernel": _of_pieces(_prelu),
    "hardtanh": _of_first(_hardtanh),
    "clamp": _of_first(_clamp),
    "clip": _of_first(_clamp),
    "clamp_min": _of_first(_clamp),
    "clamp_max": _of_first(_clamp_max),
    "threshold": _of_first(_threshold),
    "softshrink": _of_first(_softshrink),
    "hardsigmoid": _of_first(lambda: compose(_clamp(0.0, 1.0) or identity(), identity().scaled(1 / 6, 0.5))),
    "heaviside": _of_pieces(lambda f, value: _where(compose(_AT_ZERO, f), value, compose(step(at=0.0), f))),
    "neg": _of_pieces(lambda f: f.scaled(-1.0)),
    "sign": _of_first(lambda: step(at=0.5).scaled(2.0, -1.0)),
    "maximum": _of_pieces(_maximum),
    "fmax": _of_pieces(_maximum),
    "minimum": _of_pieces(_minimum),
    "fmin": _of_pieces(_minimum),
    "mul": _of_pieces(product),
    "where": _of_pieces(_where),
    "gt": _compared(1.0, 0.0),
    "ge": _compared(1.0, 1.0),
    "lt": _compared(-1.0, 0.0),
    "le": _compared(-1.0, 1.0),
    "logical_not": _of_pieces(lambda f: f.scaled(-1.0, 1.0)),
    "to": _cast,
    "_to_copy": _cast,
}


# -- the one way -------------------------------------------------------------------------------------------------------


def _signature(value: Value, root: Value) -> Any:
    """How a function of a value is written."""
    if value is root:
        return None
    if isinstance(value, Affine):
        terms = [(float(term.map.weight), _signature(term.source, root)) for term in value.terms]
        return sorted(terms, key=repr), _number(value.bias)
    if not isinstance(value, Pointwise | Operator):
        return _number(value)
    given = (value.source, *value.args) if isinstance(value, Pointwise) else value.args
    args = [_signature(argument, root) if isinstance(argument, Value) else argument for argument in given]
    return value.op, *args, *value.kwargs.items()


def _written(f: Pieces, z: Value, name: str) -> Value:
    if len(f.breaks) == 1:
        return _bent(f, z, name)
    if len(f.breaks) == 2 and f.slope[0] == 0 == f.slope[2]:
        low, high = (float(t) for t in f.breaks)
        unit = Pointwise(name, "clamp", torch.ops.aten.clamp.default, z, (low, high), shape=z.shape)
        factor = float(f.slope[1])
        return _scaled(unit, factor, float(f.offset[1]), name)
    # from the flatter side
    left = abs(f.slope[0]) <= abs(f.slope[-1])
    terms, shift = [], 0.0
    for t, kink in zip(f.breaks, f.slope[1:] - f.slope[:-1], strict=True):
        u = _shifted(z, float(t), 1.0 if left else -1.0, name)
        terms.append(Term(scaling(float(kink)), _rectified(u, name)))
    base, shift = (f.slope[0], f.offset[0]) if left else (f.slope[-1], f.offset[-1])
    if base:
        terms.append(Term(scaling(float(base)), z))
    return Affine(name, terms, _bias(float(shift)), shape=z.shape)


def _bent(f: Pieces, z: Value, name: str) -> Value:
    t, right, left = float(f.breaks[0]), float(f.slope[1]), float(f.slope[0])
    sign = 1.0
    if abs(left) > abs(right):
        sign, right, left = -1.0, -left, -right
    u = _shifted(z, t, sign, name)
    ratio = left / right
    unit: Value
    if ratio == 0:
        unit = _rectified(u, name)
    elif ratio == -1:
        unit = Pointwise(name, "abs", torch.ops.aten.abs.default, u, shape=z.shape)
    else:
        unit = Pointwise(name, "leaky_relu", torch.ops.aten.leaky_relu.default, u, (ratio,), shape=z.shape)
    return _scaled(unit, right, float(f.at[0]), name)


def _rectified(u: Value, name: str) -> Pointwise:
    return Pointwise(name, "relu", torch.ops.aten.relu.default, u, shape=u.shape)


def _shifted(z: Value, t: float, sign: float, name: str) -> Value:
    if t == 0 and sign > 0:
        return z
    return Affine(name, [Term(scaling(sign), z)], _bias(-sign * t), shape=z.shape)


def _scaled(unit: Value, factor: float, shift: float, name: str) -> Value:
    if factor == 1 and shift == 0:
        return unit
    return Affine(name, [Term(scaling(factor), unit)], _bias(shift), shape=unit.shape)


def _bias(shift: float) -> Tensor | None:
    return torch.tensor(shift, dtype=torch.float64) if shift else None


def _grouped(value: Affine, read: _Reading) -> bool:
    """Several terms of a sum that are functions of one value become one."""
    groups: dict[Value, list[Term]] = {}
    for term in value.terms:
        factor = scale_of(term)
        if factor is not None and factor.numel() == 1 and term.source.shape == value.shape:
            groups.setdefault(read.of[term.source][0], []).append(term)
    changed = False
    for root, terms in groups.items():
        if len(terms) < 2:
            continue
        total = constant(0.0)
        for term in terms:
            total = total + read.of[term.source][1].scaled(float(term.map.weight))
        if total.straight or not total.continuous:
            continue
        made = _written(total, root, value.name)
        value.terms = [term for term in value.terms if all(term is not t for t in terms)]
        value.terms.append(Term(scaling(1.0), made))
        changed = True
    return changed
