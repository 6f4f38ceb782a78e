"""Steps of a planned network as a graph: each one's value, and the modified gradients that it sends back.

Relevance comes as a modified gradient everywhere, since no rule that is written here sends it outright. A step that
nobody has written is refused by the operator's name and place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from backlight._export.graphs.graph import Graph, Value
from backlight._export.graphs.maps import divided, geometry, pull
from backlight.engine.graph import Ref
from backlight.engine.operators.activations import CLAMPS, _ActivationStep, clamp_bounds
from backlight.engine.operators.routing import _AdditionStep, _ReshapeStep
from backlight.engine.plan import Plan
from backlight.engine.steps import LinearStep, Step, TransposedStep
from backlight.errors import UnsupportedModel
from backlight.rules import Convolution
from backlight.rules.maps import FIRST

__all__ = ["Back", "Sizes", "step"]

# the modified gradient of a step's value to those of its carriers
Back = Callable[[Value], Sequence[Value]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The shapes of one row at the nodes of a plan."""

    plan: Plan

    def at(self, index: int) -> tuple[int, ...]:
        """Of a node.

        Raises
        ------
        UnsupportedModel
        """
        shape = self.plan.graph.nodes[index].shape
        if shape is None:
            raise UnsupportedModel(f"{self.plan.graph.nodes[index].name} has no fixed shape, which a graph needs")
        return tuple(int(size) for size in shape)


Emitter = Callable[[Any, dict[int, Value], Sizes], tuple[Value, Back]]


def step(one: Step, values: dict[int, Value], sizes: Sizes) -> tuple[Value, Back]:
    """A step's value, and its way back.

    Raises
    ------
    UnsupportedModel
    """
    emitter = _STEPS.get(type(one))
    if emitter is None or one.rows != FIRST or any(rows != FIRST for rows in one.sources):
        raise _refused(one)
    return emitter(one, values, sizes)


def _refused(one: Step) -> UnsupportedModel:
    return UnsupportedModel(
        f"operator {one.node.op!r} at {one.node.name!r} is not written as a graph in this version: use explain_batches"
    )


def _linear(one: LinearStep, values: dict[int, Value], sizes: Sizes) -> tuple[Value, Back]:
    layer, a = one.layer, values[one.carriers[0]]
    shape = geometry(layer, sizes.at(one.carriers[0]), sizes.at(one.node.index))
    z = shape.apply(a, layer.weight, layer.bias)
    if one.rectified:
        z = a.graph.op("Relu", z)
    return z, lambda g: [pull(one.bound, shape, a, z, g, g * z)]


# -- activations -------------------------------------------------------------------------------------------------------


def _rectified(x: Value, y: Value) -> Value:
    return x.graph.where(x > 0.0, 1.0, 0.0)


def _limit(limit: float) -> Callable[[Value, Value], Value]:
    return lambda x, y: x.graph.where(x.equals(0.0), limit, divided(y, x))


def _logistic(x: Value) -> Value:
    return x.graph.op("Sigmoid", x)


def _leaky(x: Value, slope: float) -> Value:
    return x.graph.where(x > 0.0, 1.0, slope)


def _activation(one: _ActivationStep, values: dict[int, Value], sizes: Sizes) -> tuple[Value, Back]:
    x, op, graph = values[one.carriers[0]], one.node.op, values[one.carriers[0]].graph
    further = one.node.args[1:]
    if one.ratio is None:  # relevance goes on outright
        raise _refused(one)
    if op == "relu":
        y, ratio = graph.op("Relu", x), _rectified(x, x)
    elif op == "relu6" or op in CLAMPS:
        low, high = (0.0, 6.0) if op == "relu6" else clamp_bounds(one.node)
        low, high = (-np.inf if low is None else float(low)), (np.inf if high is None else float(high))
        y = graph.op("Clip", x, low, high)
        ratio = _limit(1.0 if low < 0 < high else 0.0)(x, y)
    elif op == "leaky_relu":
        ratio = _leaky(x, float(further[0]) if further else 0.01)
        y = x * ratio
    elif op == "tanh":
        y = graph.op("Tanh", x)
        ratio = _limit(1.0)(x, y)
    elif op == "silu":
        ratio = _logistic(x)
        y = x * ratio
    elif op == "gelu" and not one.node.kwargs and further in ((), ("none",)):
        ratio = 0.5 * (1.0 + graph.op("Erf", x * float(np.sqrt(0.5))))
        y = x * ratio
    else:
        raise _refused(one)
    return y, lambda g: [g * ratio]


# -- moves, sums, maxima -----------------------------------------------------------------------------------------------


def _rows_of(graph: Graph, x: Value, shape: Sequence[int]) -> Value:
    """Rows in another shape."""
    return graph.op("Reshape", x, np.array([-1, *shape]))


def _reshape(one: _ReshapeStep, values: dict[int, Value], sizes: Sizes) -> tuple[Value, Back]:
    x, before, after = values[one.carriers[0]], sizes.at(one.carriers[0]), sizes.at(one.out)
    if prod(before) != prod(after):
        raise _refused(one)  # rows are taken apart or together
    return _rows_of(x.graph, x, after), lambda g: [_rows_of(x.graph, g, before)]


def _addition(one: _AdditionStep, values: dict[int, Value], sizes: Sizes) -> tuple[Value, Back]:
    x, y = (values[index] for index in one.carriers)
    return x + y, lambda g: [g, g]


def _pair(value: Any, axes: int) -> list[int]:
    given = list(value) if isinstance(value, Sequence) else [value]
    return [int(one) for one in (given * axes if len(given) == 1 else given)]


def _window(one: TransposedStep, names: Sequence[str]) -> dict[str, Any]:
    return dict(zip(names, one.node.args[1:], strict=False)) | dict(one.node.kwargs)


def _max_pool(one: TransposedStep, values: dict[int, Value], sizes: Sizes) -> tuple[Value, Back]:
    x, before = values[one.carriers[0]], sizes.at(one.carriers[0])
    graph, axes = x.graph, len(before) - 1
    given = _window(one, ("kernel_size", "stride", "padding", "dilation", "ceil_mode"))
    kernel = _pair(given["kernel_size"], axes)
    padding = _pair(given.get("padding", 0), axes)
    y, places = graph.several(
        "MaxPool", 2, x, kernel_shape=kernel, strides=_pair(given.get("stride") or kernel, axes),
        pads=[*padding, *padding], dilations=_pair(given.get("dilation", 1), axes),
        ceil_mode=int(bool(given.get("ceil_mode", False))),
    )  # fmt: skip

    def back(g: Value) -> list[Value]:
        flat = np.array([-1])
        size = graph.op("Shape", graph.op("Reshape", x, flat))
        nothing = graph.op("ConstantOfShape", size, value=np.zeros(1, dtype=graph.kind))
        # each window's relevance to where its largest value is, which windows may share
        whole = graph.op(
            "ScatterElements", nothing, graph.op("Reshape", places, flat), graph.op("Reshape", g, flat), reduction="add"
        )
        return [_rows_of(graph, whole, before)]

    return y, back


def _average(one: TransposedStep, values: dict[int, Value], sizes: Sizes) -> tuple[Value, Back]:
    """A mean over windows: a convolution of each channel by itself."""
    x, before, after = values[one.carriers[0]], sizes.at(one.carriers[0]), sizes.at(one.out)
    axes = len(before) - 1
    if "adaptive" in one.node.op:
        if any(size % out for size, out in zip(before[1:], after[1:], strict=True)):
            raise _refused(one)
        kernel = stride = [size // out for size, out in zip(before[1:], after[1:], strict=True)]
        padding = [0] * axes
    else:
        names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
        given = _window(one, names)
        kernel = _pair(given["kernel_size"], axes)
        stride = _pair(given.get("stride") or kernel, axes)
        padding = _pair(given.get("padding", 0), axes)
        plain = given.get("count_include_pad", True) or not any(padding)
        if given.get("ceil_mode") or given.get("divisor_override") or not plain:
            raise _refused(one)
    channels = before[0]
    weight = torch.full((channels, 1, *kernel), 1 / prod(kernel), dtype=torch.float64)
    layer = Convolution(
        weight, None, tuple(stride), tuple(padding), (1,) * axes, groups=channels, output_padding=(0,) * axes
    )
    shape = geometry(layer, before, after)
    return shape.apply(x, weight, None), lambda g: [shape.adjoint(g, weight)]


def _mean(one: TransposedStep, values: dict[int, Value], sizes: Sizes) -> tuple[Value, Back]:
    x, before, after = values[one.carriers[0]], sizes.at(one.carriers[0]), sizes.at(one.out)
    dims = one.node.args[1] if len(one.node.args) > 1 else one.node.kwargs.get("dim")
    axes = sorted(axis % (len(before) + 1) for axis in _pair(dims, 1)) if dims is not None else []
    if not axes or 0 in axes:
        raise _refused(one)
    kept = [1 if axis in axes else size for axis, size in enumerate(before, start=1)]
    count = prod(before) // prod(kept)
    y = x.graph.op("ReduceMean", x, np.array(axes), keepdims=1)
    ones = np.ones((1, *before)) / count
    return _rows_of(x.graph, y, after), lambda g: [_rows_of(x.graph, g, kept) * ones]


def _cat(one: TransposedStep, values: dict[int, Value], sizes: Sizes) -> tuple[Value, Back]:
    parts, dim = one.node.args[0], one.node.args[1] if len(one.node.args) > 1 else one.node.kwargs.get("dim", 0)
    axis = int(dim) % (len(sizes.at(one.out)) + 1)
    whole = all(isinstance(part, Ref) and part.index in values for part in parts)
    if axis == 0 or not whole or len({part.index for part in parts}) < len(parts):
        raise _refused(one)
    given = [values[part.index] for part in parts]
    graph = given[0].graph
    ends = np.cumsum([0, *(sizes.at(part.index)[axis - 1] for part in parts)])

    def back(g: Value) -> list[Value]:
        found = {
            part.index: graph.op("Slice", g, np.array([start]), np.array([stop]), np.array([axis]))
            for part, start, stop in zip(parts, ends, ends[1:], strict=False)
        }
        return [found[index] for index in one.carriers]

    return graph.op("Concat", *given, axis=axis), back


_TRANSPOSED: dict[str, Emitter] = {
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), _max_pool),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _average),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), _average),
    "mean": _mean,
    **dict.fromkeys(("cat", "concat"), _cat),
}


def _transposed(one: TransposedStep, values: dict[int, Value], sizes: Sizes) -> tuple[Value, Back]:
    if one.epsilon or one.node.op not in _TRANSPOSED:
        raise _refused(one)
    return _TRANSPOSED[one.node.op](one, values, sizes)


_STEPS: dict[type, Emitter] = {
    LinearStep: _linear,
    TransposedStep: _transposed,
    _ActivationStep: _activation,
    _AdditionStep: _addition,
    _ReshapeStep: _reshape,
}
