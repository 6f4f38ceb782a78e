"""Named functions of a layer's outputs as graphs, and layers that pass by their slope."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from backlight._export.graphs.graph import Value
from backlight._export.graphs.rows import Emitted, Rows, layer, register
from backlight._export.rows import array
from backlight.classical import functions as named
from backlight.classical.layers import Query
from backlight.classical.layers.links import Pair, Secant
from backlight.classical.layers.pools import Budget, Link
from backlight.errors import UnsupportedModel

__all__ = ["function_of", "secant_of_exp"]


def _sigmoid(y: Value) -> Value:
    small = (-y.abs()).exp()
    return y.graph.where(y >= 0.0, 1.0, small) / (1.0 + small)


def secant_of_exp(t: Value) -> Value:
    """(e^t − 1)/t: near zero the difference loses its digits, and the series has them."""
    series = 1.0 + t * (1 / 2) + t * t * (1 / 6) + t * t * t * (1 / 24)
    return t.graph.where(t.abs() < 1e-3, series, (t.exp() - 1.0) / t)


def _sigmoid_slope(l: Value) -> Value:  # noqa: E741 - log-odds
    """(σ(l) − ½)/l = (1 − e^−|l|) / (2 |l| (1 + e^−|l|))."""
    size = l.abs()
    return secant_of_exp(-size) / (2.0 * (1.0 + (-size).exp()))


def _like(y: Value, value: float) -> Value:
    return y.graph.where(y.is_nan(), value, value)


def _log1p(x: Value) -> Value:
    """log(1 + x) with the digits of a small x ≥ 0: by (log u) x/(u − 1), u = 1 + x as it is rounded (Kahan)."""
    u = 1.0 + x
    step = u - 1.0
    flat = step.equals(0.0)
    return x.graph.where(flat, x, u.log() * (x / x.graph.where(flat, 1.0, step)))


def _matern(d: Value, order: float) -> Value:
    s = (order * d).sqrt()
    inside = s if order == 3 else s + s * s * (1 / 3)
    psi = s - _log1p(inside)
    return d.graph.where(psi < 0.0, 0.0, psi)


def _compact(found: named.Compact, d: Value) -> Value:
    where, h = d.graph.where, found.h
    if found.kind == "exponential":
        return d.sqrt() / h
    near = d < h * h
    t = where(near, d * (1 / (h * h)), 0.0)  # beyond the support there is no logarithm to take
    if found.kind == "epanechnikov":
        inside = -(1.0 - t).log()
    elif found.kind == "linear":
        inside = -(1.0 - t.sqrt()).log()
    else:
        # cos of half a turn's share, by its sine: the operator Cos has no double precision everywhere
        raise UnsupportedModel("cosine kernels are not written as a graph in this version: use Explainer.save")
    return where(near, inside, np.inf)


_PLAIN: dict[Any, Callable[[Value], Value]] = {
    named.same: lambda y: y,
    named.negated: lambda y: -y,
    named.minus_one: lambda y: _like(y, -1.0),
    named.root: lambda y: y.sqrt(),
    named.matern_3_2: lambda y: _matern(y, 3.0),
    named.matern_5_2: lambda y: _matern(y, 5.0),
    named.sigmoid_slope: _sigmoid_slope,
    named.svdd_slope: lambda y: 2.0 * secant_of_exp(-y),
    torch.ones_like: lambda y: _like(y, 1.0),
    torch.sigmoid: _sigmoid,
}
_MADE: dict[type, Callable[[Any, Value], Value]] = {
    named.Shifted: lambda f, y: y + f.constant,
    named.Straight: lambda f, y: f.slope * y + f.constant,
    named.Everywhere: lambda f, y: _like(y, f.value),
    named.Rest: lambda f, y: f.constant - y,
    named.Exponential: lambda f, y: f.scale * (-y).exp() + f.constant,
    named.LogMean: lambda f, y: -f.rho * secant_of_exp(f.theta - y),
    named.MinusExp2: lambda f, y: -(y * (np.log(2.0) / f.c)).exp() - f.constant,
    named.Platt: lambda f, y: -(array(f.a) * y + array(f.b)),
    named.PlattSlope: lambda f, y: _like(y, 1.0) * -array(f.a),
    named.Scaled: lambda f, y: f.factor * function_of(f.inner, y if f.divisor == 1 else y / f.divisor),
    named.Together: lambda f, y: function_of(f.first, y) + function_of(f.second, y),
    named.Rational: lambda f, y: f.alpha * _log1p(y / f.scale),
    named.Compact: _compact,
}


def function_of(function: Any, y: Value) -> Value:
    """A named function, element by element.

    Raises
    ------
    UnsupportedModel
    """
    if type(function) in _MADE:
        return _MADE[type(function)](function, y)
    for known, write in _PLAIN.items():
        if function is known:
            return write(y)
    name = getattr(function, "__name__", type(function).__name__)
    raise UnsupportedModel(f"the function {name} is not written as a graph in this version: export another score")


@register(Link)
def _link(found: Link, rows: Rows, ask: Query) -> Emitted:
    below = layer(found.inner, rows, ask)
    slope = function_of(found.slope, below.output)
    return Emitted(function_of(found.value, below.output), slope * below.carried, lambda c: below.back(c * slope))


@register(Secant)
def _secant(found: Secant, rows: Rows, ask: Query) -> Emitted:
    below, where = layer(found.inner, rows, ask), rows.graph.where
    base = below.output - below.carried
    output = function_of(found.value, below.output)
    # a base that is the score itself but for rounding has no slope to it
    some = below.carried.abs() > 1e-12 * (below.output.abs() + base.abs())
    slope = where(some, (output - function_of(found.value, base)) / where(some, below.carried, 1.0), 0.0)
    return Emitted(output, slope * below.carried, lambda c: below.back(c * slope))


@register(Pair)
def _pair(found: Pair, rows: Rows, ask: Query) -> Emitted:
    below = layer(found.inner, rows, ask)
    both = np.array([[-1.0, 1.0]])
    return Emitted(below.output * both + np.array([[1.0, 0.0]]), below.carried * both, lambda c: below.back(c @ both.T))


@register(Budget)
def _budget(found: Budget, rows: Rows, ask: Query) -> Emitted:
    below = layer(found.inner, rows, ask)
    known = found.usual(ask)
    usual = np.zeros(rows.pullback.n_columns) if known is None else array(known)
    slope = function_of(found.slope, below.output).abs()
    carried = slope * (float(usual.sum()) - below.carried)

    def back(c: Value) -> Value:
        return c * slope * (usual - below.back(rows.graph.constant(np.ones((1, 1)))))

    return Emitted(function_of(found.value, below.output), carried, back)
