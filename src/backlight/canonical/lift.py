"""From a PyTorch model to a `Form`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from backlight.canonical.form import Affine, Form, Given, Held, Operator, Pointwise, Term, Value, scaling
from backlight.engine.capture import Inputs, capture, tensors_of
from backlight.engine.dependencies import Dependencies
from backlight.engine.graph import Graph, Node, Ref
from backlight.engine.operators import find
from backlight.engine.operators.activations import ACTIVATIONS
from backlight.engine.precision import double_copy
from backlight.engine.simplify import simplify
from backlight.engine.steps import LinearSite
from backlight.errors import UnsupportedModel
from backlight.rules import Convolution, LinearMap

__all__ = ["doubled", "lift", "torch_module", "without_bias"]

_EXAMPLE_ROWS = 4
_SPLITS = frozenset({"split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unsafe_chunk"})


def lift(model: nn.Module, inputs: Inputs) -> Form:
    """The form of a model, in double precision; the model is left as it is.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode.
    inputs : (args, kwargs)
        A few rows: shapes are taken from them, and changes of the network are checked on them.

    Raises
    ------
    UnsupportedModel
        Its operators depend on the data, or on the number of rows.
    """
    copy = double_copy(model)
    inputs = doubled(inputs)
    graph = simplify(capture(copy, inputs))
    if graph.how != "exported":
        raise UnsupportedModel(
            f"{type(model).__name__} has no one graph for any number of rows ({graph.how}), so that it cannot be "
            "rewritten: control flow must not depend on the data or on the number of rows"
        )
    leaves = pytree.tree_leaves(inputs)
    example = {name: leaf[:_EXAMPLE_ROWS] for name, leaf in zip(graph.inputs, leaves, strict=True)}
    form = _Lifter(graph, Dependencies(graph, tensors_of(copy))).form(example)
    expected = copy(*pytree.tree_map(_few, inputs[0]), **pytree.tree_map(_few, inputs[1]))
    _check(form.refresh(), expected, model)
    return form


def torch_module(model: Any) -> nn.Module:
    """A model as a module: exported programs and compiled modules by what they hold.

    Raises
    ------
    UnsupportedModel
        Anything else, by name.
    """
    if isinstance(model, torch.export.ExportedProgram):
        return model.module()
    if not isinstance(model, nn.Module):
        raise UnsupportedModel(
            f"{type(model).__name__} is no torch module, and only these can be rewritten: for scikit-learn models see "
            "backlight.neuralize and backlight.explain"
        )
    inner = model._modules.get("_orig_mod") if type(model).__name__ == "OptimizedModule" else None
    return model if inner is None else inner


def doubled(inputs: Inputs) -> Inputs:
    """Inputs with their floating-point tensors in double precision."""

    def double(value: Any) -> Any:
        return value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value

    result: Inputs = pytree.tree_map(double, inputs)
    return result


def without_bias(layer: LinearMap) -> tuple[LinearMap, Tensor | None]:
    """A layer in double precision as its linear part and its bias, which broadcasts against (n, *units)."""
    weight = layer.weight.detach().double()
    bias = None if layer.bias is None else layer.per_unit(layer.bias.detach().double())
    if isinstance(layer, Convolution):
        geometry = (layer.stride, layer.padding, layer.dilation)
        return Convolution(weight, None, *geometry, layer.transposed, layer.output_padding, layer.groups), bias
    return type(layer)(weight, None), bias


class _Lifter:
    def __init__(self, graph: Graph, known: Dependencies) -> None:
        self.graph, self.known = graph, known
        self.values: dict[int, Value] = {}

    def form(self, example: dict[str, Any]) -> Form:
        explained, tail = self.known.explained()
        output = tail[-1].index if tail else explained
        needed = self.known.needed(output)
        inputs = {}
        for name, index in self.graph.inputs.items():
            inputs[name] = self.values[index] = Given(name)
        for node in self.graph.nodes:
            if node.index in needed and node.target is not None:
                self.values[node.index] = self._value(node)
        return Form(inputs, self.values[output], example)

    def _value(self, node: Node) -> Value:
        return self._layer(node) or self._sum(node) or self._activation(node) or self._operator(node)

    def _layer(self, node: Node) -> Value | None:
        maker = find(node.op)
        if maker is None or not any(self.known.depends[index] for index in node.inputs):
            return None
        site = maker(node, self.known.context)
        if not isinstance(site, LinearSite):
            return None
        linear, bias = without_bias(site.layer)
        op = "batch_norm" if "norm" in node.op else ""
        return Affine(node.name, [Term(linear, self.values[site.carriers[0]], node.name)], bias, op)

    def _sum(self, node: Node) -> Value | None:
        if node.op == "neg" and self._signal(node.args[0]):
            return Affine(node.name, [Term(scaling(-1.0), self.values[node.args[0].index])])
        if node.op not in ("add", "sub", "rsub") or not all(self._signal(argument) for argument in node.args[:2]):
            return None
        alpha = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
        if isinstance(alpha, Ref):
            return None
        x, y = (argument.index for argument in node.args[:2])
        if self.graph.nodes[x].shape != node.shape or self.graph.nodes[y].shape != node.shape:
            return None
        factors = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[node.op]
        terms = [Term(scaling(float(f)), self.values[i]) for f, i in zip(factors, (x, y), strict=True)]
        return Affine(node.name, terms)

    def _signal(self, argument: Any) -> bool:
        return self.known.context.carries(argument)

    def _activation(self, node: Node) -> Value | None:
        if node.op not in ACTIVATIONS or len(node.inputs) != 1 or not self._signal(node.args[0]):
            return None
        assert node.target is not None
        return Pointwise(
            node.name, node.op, node.target, self.values[node.inputs[0]], tuple(node.args[1:]), dict(node.kwargs)
        )

    def _operator(self, node: Node) -> Value:
        assert node.target is not None
        op, args, kwargs = node.op, self._filled(node.args), self._filled(node.kwargs)
        target = node.target
        source = self.graph.nodes[node.inputs[0]] if node.inputs else None
        if (
            target is torch.ops.aten.reshape.default
            and source is not None
            and node.rows == 0
            and source.rows == 0
            and node.shape is not None
        ):
            # all axes into one: in words that hold for other widths too
            whole = source.shape is not None and len(source.shape) > 1 and len(node.shape) == 1
            if whole and node.shape[0] == torch.Size(source.shape or ()).numel():
                op, target, args, kwargs = "flatten", torch.ops.aten.flatten.using_ints, (args[0], 1), {}
        cut = self._cut(node) if op == "getitem" else None
        return cut if cut is not None else Operator(node.name, op, target, args, kwargs)

    def _cut(self, node: Node) -> Operator | None:
        """One part of a value that was split, as a slice of its own."""
        ref, k = node.args
        whole = self.graph.nodes[ref.index]
        if whole.op not in _SPLITS or not whole.inputs or not isinstance(k, int):
            return None
        source = self.graph.nodes[whole.inputs[0]]
        given = dict(zip(("self", "by", "dim"), whole.args, strict=False)) | whole.kwargs
        by = given.get("by", given.get("split_size", given.get("split_sizes", given.get("chunks"))))
        axis = given.get("dim", 0)
        if source.shape is None or source.rows != 0 or axis % (len(source.shape) + 1) == 0:
            return None
        axis %= len(source.shape) + 1
        size = source.shape[axis - 1]
        if whole.op in ("chunk", "unsafe_chunk"):
            by = -(-size // by)
        start, end = (k * by, min((k + 1) * by, size)) if isinstance(by, int) else (sum(by[:k]), sum(by[: k + 1]))
        return Operator(node.name, "slice", torch.ops.aten.slice.Tensor, (self.values[source.index], axis, start, end))

    def _filled(self, tree: Any) -> Any:
        if isinstance(tree, Ref):
            return self._argument(tree.index)
        if isinstance(tree, tuple | list):
            return type(tree)([self._filled(item) for item in tree])
        if isinstance(tree, dict):
            return {key: self._filled(item) for key, item in tree.items()}
        if isinstance(tree, slice):
            return slice(*(self._filled(item) for item in (tree.start, tree.stop, tree.step)))
        return tree

    def _argument(self, index: int) -> Any:
        if index in self.known.constants:
            value = self.known.constants[index]
            if not isinstance(value, Tensor):
                return value
            if index not in self.values:
                tensor = value.double() if value.is_floating_point() else value
                self.values[index] = Held(self.graph.nodes[index].name, tensor)
        return self.values[index]


def _few(value: Any) -> Any:
    return value[:_EXAMPLE_ROWS] if isinstance(value, Tensor) and value.dim() else value


def _check(actual: Tensor, expected: Any, model: nn.Module) -> None:
    leaves = [leaf for leaf in pytree.tree_leaves(expected) if isinstance(leaf, Tensor) and leaf.shape == actual.shape]
    if not any(torch.allclose(leaf.double(), actual, rtol=1e-9, atol=1e-9, equal_nan=True) for leaf in leaves):
        raise UnsupportedModel(
            f"the captured graph of {type(model).__name__} does not compute what the model computes in double "
            "precision: its forward depends on something that a graph does not hold, or rounds to a lower precision"
        )
