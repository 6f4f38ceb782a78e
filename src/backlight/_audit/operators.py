"""Rewrites of operators: maxima as rectifiers, attention in other coordinates, factors moved out of layer norms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from backlight._audit.rewrite import mixing, normal, rewrite, uniform
from backlight.canonical.attention import keys, set_rows, set_values, values
from backlight.canonical.consumers import Tracker
from backlight.canonical.form import Affine, Form, Held, Operator, Pointwise, Term, Value, scaling

__all__: list[str] = []

_RELU = torch.ops.aten.relu.default
_CAT = torch.ops.aten.cat.default
_SLICE = torch.ops.aten.slice.Tensor


def _sum(name: str, a: Value, b: Value, sign: float, weights: bool) -> Affine:
    """A ± b, by an operator or by one layer with weights that reads both."""
    if not weights:
        return Affine(name, [Term(scaling(1.0), a), Term(scaling(sign), b)], shape=a.shape)
    axis = 1 if len(a.shape) >= 3 else len(a.shape)
    count = a.shape[axis - 1]
    eye = torch.eye(count, dtype=torch.float64)
    side = Operator(name + ".side", "cat", _CAT, ([a, b], axis), shape=a.shape)
    return Affine(name, [Term(mixing(a, torch.cat([eye, sign * eye], 1)), side)], shape=a.shape)


def _larger(name: str, a: Value, b: Value, weights: bool) -> Value:
    """Max(a, b) = relu(a − b) + b."""
    above = Pointwise(name + ".above", "relu", _RELU, _sum(name + ".difference", a, b, -1.0, weights), shape=a.shape)
    return _sum(name + ".max", above, b, 1.0, weights)


def _smaller(name: str, a: Value, b: Value, weights: bool) -> Value:
    """Min(a, b) = a − relu(a − b)."""
    above = Pointwise(name + ".above", "relu", _RELU, _sum(name + ".difference", a, b, -1.0, weights), shape=a.shape)
    return _sum(name + ".min", a, above, -1.0, weights)


def _as_rectifiers(form: Form, *, other: bool = False, weights: bool = False) -> bool:
    found = False
    for value in form.order():
        if not isinstance(value, Operator):
            continue
        made: Value | None = None
        if value.op in ("maximum", "minimum") and all(isinstance(a, Value) for a in value.args):
            a, b = value.args[::-1] if other else value.args
            if a.shape == b.shape:
                made = (_larger if value.op == "maximum" else _smaller)(value.name, a, b, weights)
        elif value.op in ("max_pool2d", "max_pool2d_with_indices"):
            made = _windows(value, other, weights)
        if made is not None:
            form.replace(value, made)
            found = True
    return found


def _two(given: Any) -> tuple[int, int]:
    values = tuple(given) if isinstance(given, list | tuple) else (given,)
    return (values[0], values[-1])


def _windows(value: Operator, other: bool, weights: bool) -> Value | None:
    options: dict[str, Any] = dict(
        zip(("kernel_size", "stride", "padding", "dilation", "ceil_mode"), value.args[1:], strict=False)
    )
    options |= value.kwargs
    kernel = _two(options["kernel_size"])
    stride = _two(options.get("stride") or kernel)
    if any(_two(options.get("padding", 0))) or _two(options.get("dilation", 1)) != (1, 1) or kernel[0] != kernel[1]:
        return None
    source, (height, width) = value.args[0], value.shape[1:]
    windows: list[Value] = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            # rounding up (ceil_mode) reaches beyond the picture
            if i + (height - 1) * stride[0] >= source.shape[1] or j + (width - 1) * stride[1] >= source.shape[2]:
                return None
            name = f"{value.name}.window{i}{j}"
            across = Operator(name, "slice", _SLICE, (source, 2, i, i + (height - 1) * stride[0] + 1, stride[0]))
            windows.append(
                Operator(
                    name, "slice", _SLICE, (across, 3, j, j + (width - 1) * stride[1] + 1, stride[1]), shape=value.shape
                )
            )
    if other:
        windows.reverse()
    while len(windows) > 1:
        pairs = [windows[k : k + 2] for k in range(0, len(windows), 2)]
        windows = [
            _larger(f"{value.name}.{k}", pair[0], pair[1], weights) if len(pair) == 2 else pair[0]
            for k, pair in enumerate(pairs)
        ]
        for window in windows:
            window.shape = value.shape
    return windows[0]


@rewrite("maxima as operators", why="max(a, b) = relu(a − b) + b, by sums and differences")
def operator_maxima(form: Form, generator: torch.Generator) -> bool:
    return _as_rectifiers(form)


@rewrite(
    "maxima as layers", why="max(a, b) = relu(a − b) + b, by layers with weights: exchange formats, hardware",
    moves="epsilon gamma zplus alphabeta",
)  # fmt: skip
def layer_maxima(form: Form, generator: torch.Generator) -> bool:
    return _as_rectifiers(form, weights=True)


@rewrite(
    "maxima as layers, turned", why="max(a, b) = relu(b − a) + a, by layers with weights", group="symmetry",
    moves="epsilon gamma zplus alphabeta",
)  # fmt: skip
def turned_maxima(form: Form, generator: torch.Generator) -> bool:
    return _as_rectifiers(form, other=True, weights=True)


def _change(generator: torch.Generator, size: int) -> torch.Tensor:
    """An invertible matrix that is well conditioned."""
    left, _, right = torch.linalg.svd(normal(generator, size, size))
    changed: torch.Tensor = left @ torch.diag(torch.exp(uniform(generator, size, low=-1.0, high=1.0))) @ right
    return changed


@rewrite("attention keys in other coordinates", why="(M q)ᵀ (M⁻ᵀ k) = qᵀ k")
def turn_keys(form: Form, generator: torch.Generator) -> bool:
    found = keys(form)
    for pair in found:
        for query, key in zip(pair.query_rows, pair.key_rows, strict=True):
            change = _change(generator, len(query))
            set_rows(pair.query, query, change)
            set_rows(pair.key, key, torch.linalg.inv(change).t())
    return bool(found)


@rewrite("attention values in other coordinates", why="(W_o M⁻¹)(M v) = W_o v", moves="epsilon gamma zplus alphabeta")
def turn_values(form: Form, generator: torch.Generator) -> bool:
    found = values(form)
    for head in found:
        for rows, columns in zip(head.rows, head.columns, strict=True):
            change = _change(generator, len(rows))
            set_rows(head.value, rows, change)
            out = head.reader.term.map.weight[:, columns] @ torch.linalg.inv(change)
            set_values(head, rows, columns, head.value.terms[0].map.weight[rows], out)
    return bool(found)


@rewrite(
    "factors out of layer norms",
    why="W (γ ⊙ n) = (W diag(1/d)) (d γ ⊙ n): smoothing before quantisation",
    moves="epsilon",
)
def smooth(form: Form, generator: torch.Generator) -> bool:
    found = False
    tracker = Tracker(form)
    for value in tracker.order:
        if not isinstance(value, Operator) or value.op != "layer_norm" or len(value.args) < 4 or not value.shape:
            continue
        weight, bias = value.args[2], value.args[3]
        readers = tracker.readers(value, len(value.shape) - 1)
        if not isinstance(weight, Held) or not readers.direct:
            continue
        factor = torch.exp(uniform(generator, value.shape[-1], low=-1.0, high=1.0))
        args = list(value.args)
        args[2] = Held(weight.name, weight.tensor * factor)
        if isinstance(bias, Held):
            args[3] = Held(bias.name, bias.tensor * factor)
        value.args = tuple(args)
        for reader in readers.mixing:
            reader.term.map = replace(reader.term.map, weight=reader.term.map.weight / factor)
        found = True
    return found
