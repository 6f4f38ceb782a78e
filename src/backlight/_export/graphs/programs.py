"""A graph as a program of torch: its operators one after the other, exported, saved, and read again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from backlight._export.graphs.graph import Graph, Node
from backlight._export.graphs.leaves import Descent
from backlight._export.graphs.tables import Written
from backlight._export.graphs.verify import Run
from backlight.errors import UnsupportedModel

__all__ = ["program_of", "run_program"]

_ROWS = 3

# what an operator makes of values, its attributes, and its inputs that are known numbers (None for others)
Operator = Callable[[Sequence[Any], Mapping[str, Any], Sequence[Any]], Any]


def _plain(function: Callable[..., Any]) -> Operator:
    return lambda x, attributes, known: function(*x)


def _axes(known: Sequence[Any], at: int = 1) -> list[int]:
    return [int(axis) for axis in known[at]]


def _gather(x: Sequence[Any], attributes: Mapping[str, Any], known: Sequence[Any]) -> Any:
    axis = attributes["axis"]
    return x[0][x[1]] if axis == 0 else x[0][..., x[1]]


def _squeezed(x: Sequence[Any], attributes: Mapping[str, Any], known: Sequence[Any]) -> Any:
    (axis,) = _axes(known)
    return x[0].squeeze(axis)


def _unsqueezed(x: Sequence[Any], attributes: Mapping[str, Any], known: Sequence[Any]) -> Any:
    (axis,) = _axes(known)
    return x[0].unsqueeze(axis)


def _slice(x: Sequence[Any], attributes: Mapping[str, Any], known: Sequence[Any]) -> Any:
    start, stop, axis = (int(known[k][0]) for k in (1, 2, 3))
    return x[0].narrow(axis, start, stop - start)


def _trees(x: Sequence[Any], attributes: Mapping[str, Any], known: Sequence[Any]) -> Any:
    descent, z = Descent.of(attributes), x[0]
    feature, left, right, missing = (
        torch.from_numpy(part) for part in (descent.feature, descent.left, descent.right, descent.missing_left)
    )
    split = torch.from_numpy(descent.split)
    at = torch.from_numpy(descent.roots).expand(z.shape[0], -1)
    for _ in range(descent.depth):
        cell = torch.gather(z, 1, feature[at])
        goes_left = (cell <= split[at]) | (cell.isnan() & missing[at])
        at = torch.where(goes_left, left[at], right[at])
    return (at - descent.inner).to(z.dtype)


_POOLS = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_ADJOINTS = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def _max_pool(x: Sequence[Any], attributes: Mapping[str, Any], known: Sequence[Any]) -> Any:
    axes = len(attributes["kernel_shape"])
    y, places = _POOLS[axes](
        x[0], attributes["kernel_shape"], attributes["strides"], attributes["pads"][:axes],
        attributes["dilations"], bool(attributes["ceil_mode"]), return_indices=True,
    )  # fmt: skip
    # places count within a plane; the graph counts through the whole batch
    planes = x[0].shape[0] * x[0].shape[1]
    size = int(np.prod(x[0].shape[2:]))
    first = torch.arange(planes).reshape(x[0].shape[0], x[0].shape[1], *(1,) * axes) * size
    return y, places + first


def _convolution(x: Sequence[Any], attributes: Mapping[str, Any], known: Sequence[Any]) -> Any:
    axes = len(attributes["strides"])
    bias = x[2] if len(x) > 2 else None
    return _CONVOLUTIONS[axes](
        x[0], x[1], bias, attributes["strides"], attributes["pads"][:axes], attributes["dilations"], attributes["group"]
    )


def _adjoint(x: Sequence[Any], attributes: Mapping[str, Any], known: Sequence[Any]) -> Any:
    axes = len(attributes["strides"])
    return _ADJOINTS[axes](
        x[0], x[1], None, attributes["strides"], attributes["pads"][:axes], attributes["output_padding"],
        attributes["group"], attributes["dilations"],
    )  # fmt: skip


_OPERATORS: dict[str, Operator] = {
    "Add": _plain(torch.add), "Sub": _plain(torch.sub), "Mul": _plain(torch.mul), "Div": _plain(torch.div),
    "MatMul": _plain(torch.matmul), "Neg": _plain(torch.neg), "Less": _plain(torch.lt),
    "Greater": _plain(torch.gt), "LessOrEqual": _plain(torch.le), "GreaterOrEqual": _plain(torch.ge),
    "And": _plain(torch.logical_and), "Or": _plain(torch.logical_or), "Not": _plain(torch.logical_not),
    "Equal": _plain(torch.eq), "Exp": _plain(torch.exp), "Log": _plain(torch.log), "Abs": _plain(torch.abs),
    "Sqrt": _plain(torch.sqrt), "IsNaN": _plain(torch.isnan), "Round": _plain(torch.round),
    "Sign": _plain(torch.sign), "Relu": _plain(torch.relu), "Sigmoid": _plain(torch.sigmoid),
    "Tanh": _plain(torch.tanh), "Erf": _plain(torch.erf), "Max": _plain(torch.maximum), "Where": _plain(torch.where),
    "Identity": _plain(torch.clone), "Shape": _plain(lambda x: x.shape),
    "Clip": lambda x, attributes, known: x[0].clamp(float(known[1]), float(known[2])),
    "Cast": lambda x, attributes, known: x[0].to(getattr(torch, attributes["to"])),
    "ReduceSum": lambda x, attributes, known: x[0].sum(_axes(known), keepdim=bool(attributes["keepdims"])),
    "ReduceMean": lambda x, attributes, known: x[0].mean(_axes(known), keepdim=bool(attributes["keepdims"])),
    "ReduceMin": lambda x, attributes, known: x[0].amin(_axes(known), keepdim=True),
    "ReduceMax": lambda x, attributes, known: x[0].amax(_axes(known), keepdim=True),
    "ArgMax": lambda x, attributes, known: x[0].argmax(attributes["axis"], keepdim=True),
    "Concat": lambda x, attributes, known: torch.cat(tuple(x), attributes["axis"]),
    "Reshape": lambda x, attributes, known: x[0].reshape([int(size) for size in known[1]]),
    "ConstantOfShape": lambda x, attributes, known: torch.from_numpy(attributes["value"]).new_zeros(x[0]),
    "ScatterElements": lambda x, attributes, known: x[0].scatter_add(0, x[1], x[2]),
    "Gather": _gather, "Squeeze": _squeezed, "Unsqueeze": _unsqueezed, "Slice": _slice, "TreeEnsemble": _trees,
    "MaxPool": _max_pool, "Conv": _convolution, "ConvTranspose": _adjoint,
}  # fmt: skip


class _Operators(nn.Module):
    """The nodes of a graph, as a module of one input."""

    def __init__(self, graph: Graph, results: Mapping[str, str]) -> None:
        super().__init__()
        (self.given,) = graph.inputs
        self.nodes: list[Node] = graph.nodes
        self.results = dict(results)
        self.known = graph.constants()
        self.places = {name: f"c{k}" for k, name in enumerate(self.known)}
        for name, numbers in self.known.items():
            self.register_buffer(self.places[name], torch.from_numpy(np.array(numbers, order="C")))

    def forward(self, X: Tensor) -> dict[str, Tensor]:
        """The graph's results by name."""
        values: dict[str, Any] = {name: getattr(self, place) for name, place in self.places.items()}
        values[self.given] = X
        for node in self.nodes:
            known = [self.known.get(name) for name in node.inputs]
            made = _OPERATORS[node.kind]([values[name] for name in node.inputs], node.attributes, known)
            values |= zip(node.outputs, made if len(node.outputs) > 1 else [made], strict=True)
        return {name: values[value] for name, value in self.results.items()}


def program_of(written: Written) -> bytes:
    """An exported program of one input, of any number of rows, that gives the results by name.

    Raises
    ------
    UnsupportedModel
        For columns of words, and for an operator that is not written.
    """
    graph = written.graph
    if written.texts or len(graph.inputs) > 1:
        raise UnsupportedModel("a program of torch reads numbers alone: export columns of words to .sql, .onnx or .py")
    missing = sorted({node.kind for node in graph.nodes} - set(_OPERATORS))
    if missing:
        raise UnsupportedModel(f"{missing[0]} is not written as a program of torch in this version: export to .onnx")
    results = {name: value.name for name, (value, _, _) in written.results.items()}
    module = _Operators(graph, results).eval()
    ((kind, shape),) = graph.inputs.values()
    example = torch.zeros((_ROWS, *shape), dtype=torch.from_numpy(np.zeros(0, dtype=kind)).dtype)
    with torch.no_grad():
        program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    kept = io.BytesIO()
    facts = {"explanation.json": json.dumps({**written.facts, "target_names": list(written.words)})}
    torch.export.save(program, kept, extra_files=facts)
    return kept.getvalue()


def run_program(content: bytes) -> Run:
    """A program as torch runs it; the bytes are our own."""
    module = torch.export.load(io.BytesIO(content)).module()

    def run(inputs: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        (x,) = inputs.values()
        with torch.no_grad():
            return {name: value.numpy() for name, value in module(torch.from_numpy(x)).items()}

    return run
