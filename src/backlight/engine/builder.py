"""From the nodes of a torch graph to a `Graph`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from backlight.engine.graph import PRIME, Graph, Node, Ref

__all__ = ["Builder"]


class Builder:
    """Collects nodes in order, and gives each its name.

    Parameters
    ----------
    model : torch.nn.Module
    how : str
        See `Graph`.
    lengths : mapping of symbol to int, optional
        What the open lengths are; numbers that are computed from them alone are numbers, and no nodes.
    """

    def __init__(self, model: nn.Module, how: str, lengths: Mapping[Any, int] | None = None) -> None:
        self.graph = Graph([], {}, {}, {}, None, how)
        self.inputs = self.graph.inputs
        self._model = model
        self._lengths = lengths or {}
        self._numbers: dict[Any, Any] = {}
        self._known: dict[Any, Any] = {}
        self._index: dict[Any, int] = {}
        self._rows: Any = None

    def parameter(self, node: Any, name: str) -> None:
        self.graph.parameters[self._add(node, name, "parameter", None)] = name

    def constant(self, node: Any, value: Tensor) -> None:
        self.graph.constants[self._add(node, node.name, "constant", None)] = value.detach()

    def input(self, node: Any, name: str) -> None:
        self.graph.inputs[name] = self._add(node, name, "input", None)

    def call(self, node: Any) -> None:
        if self._lengths and (number := self._number(node.meta.get("val"))) is not None:
            self._numbers[node] = number
            return
        target = _without_place(node.target)
        op = _operator_name(target)
        path = _module_path(node)
        module = None
        if path:
            with contextlib.suppress(AttributeError):
                module = type(self._model.get_submodule(path))
        else:
            module = type(self._model)
        index = self._add(node, path, op, target, node.args, node.kwargs)
        self.graph.nodes[index].path = path
        self.graph.nodes[index].module = module

    def finish(self, output: Any) -> None:
        self.graph.output = output
        _name(self.graph.nodes)

    def _add(self, node: Any, name: str, op: str, target: Any, args: Any = (), kwargs: Any = None) -> int:
        index = len(self.graph.nodes)
        value = node.meta.get("val", node.meta.get("tensor_meta"))
        shape = getattr(value, "shape", None)
        rows = None if shape is None else self._rows_axis(op, shape)
        whole = None if shape is None else self._whole(shape)
        if shape is not None:
            shape = [self._size(size) for axis, size in enumerate(shape) if axis != (rows or 0)]
        self.graph.nodes.append(
            Node(
                index,
                name,
                op,
                target,
                self.arguments(args),
                dict(self.arguments(kwargs or {})),
                shape=None if shape is None else tuple(shape),
                dtype=getattr(value, "dtype", None),
                rows=rows,
                sizes=whole,
            )
        )
        self._index[node] = index
        return index

    def _rows_axis(self, op: str, shape: Any) -> int | None:
        """Which axis counts the user's rows: the first of an input, and where that size comes back."""
        if op == "input" and len(shape):
            self._rows = self._rows or shape[0]
        sizes = [str(size) for size in shape]
        return sizes.index(str(self._rows)) if self._rows is not None and str(self._rows) in sizes else None

    def arguments(self, tree: Any) -> Any:
        """Arguments with references in the place of graph nodes."""
        if isinstance(tree, torch.fx.Node):
            return self._numbers[tree] if tree in self._numbers else Ref(self._index[tree])
        if isinstance(tree, list):
            return [self.arguments(item) for item in tree]
        if isinstance(tree, tuple):
            return tuple(self.arguments(item) for item in tree)
        if isinstance(tree, dict):
            return {key: self.arguments(item) for key, item in tree.items()}
        if isinstance(tree, slice):
            return slice(*(self.arguments(item) for item in (tree.start, tree.stop, tree.step)))
        return tree

    def _resolved(self, expression: Any) -> Any:
        """An expression with the lengths in it."""
        if not self._lengths:
            return expression
        if expression not in self._known:
            self._known[expression] = expression.subs(self._lengths)
        return self._known[expression]

    def _number(self, value: Any) -> int | float | bool | None:
        """A number that is computed from open lengths alone."""
        if not isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            return None
        found = self._resolved(value.node.expr)
        if found.free_symbols:
            return None
        if isinstance(value, torch.SymBool):
            return bool(found)
        return int(found) if isinstance(value, torch.SymInt) else float(found)

    def _whole(self, shape: Any) -> tuple[int, ...] | None:
        """Sizes for `PRIME` rows; ``None`` where one depends on the data."""
        found = []
        for size in shape:
            if isinstance(size, int) or not hasattr(size, "node"):
                found.append(int(size))
                continue
            expression = self._resolved(size.node.expr)
            symbols = expression.free_symbols
            if any(str(symbol).startswith("u") for symbol in symbols):
                return None
            found.append(int(expression.subs(dict.fromkeys(symbols, PRIME))))
        return tuple(found)

    def _size(self, size: Any) -> int:
        if isinstance(size, int) or not hasattr(size, "node"):
            return int(size)
        if not self._lengths:
            return int(size.node.hint)
        expression = self._resolved(size.node.expr)
        # rows are two where a model is captured
        return int(expression.subs(dict.fromkeys(expression.free_symbols, 2)))


def _name(nodes: list[Node]) -> None:
    """Unique names: the module's path where the module is one operator, else path and operator."""
    calls = [node for node in nodes if node.target is not None]
    per_module: dict[str, set[str]] = {}
    for node in calls:
        per_module.setdefault(node.path, set()).add(node.op)
    seen: dict[str, int] = {}
    for node in calls:
        inner = any(path.startswith(f"{node.path}.") for path in per_module)
        alone = node.path and not inner and len(per_module[node.path] - {"getitem", "sym_size"}) == 1
        name = node.path if alone else f"{node.path}.{node.op}".lstrip(".")
        if node.op in ("getitem", "sym_size"):
            name = f"{node.path}.{node.op}".lstrip(".")
        seen[name] = seen.get(name, 0) + 1
        node.name = name if seen[name] == 1 else f"{name}@{seen[name]}"


def _without_place(target: Any) -> Any:
    """The pure form of an operator that changes nothing but the shape of the tensor that it is called on.

    Whoever uses that tensor afterwards uses the operator's result in a graph of torch, so that nothing else sees it.
    """
    if torch.Tag.inplace_view not in getattr(target, "tags", ()):
        return target
    packet = getattr(torch.ops.aten, target._schema.name.removeprefix("aten::")[:-1], None)
    return getattr(packet, target._overloadname, target)


def _operator_name(target: Any) -> str:
    packet = getattr(target, "_opname", None)
    if packet is None:
        return str(getattr(target, "__name__", target))
    namespace = target.namespace
    return str(packet if namespace == "aten" else f"{namespace}.{packet}")


def _module_path(node: Any) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values() if isinstance(entry, tuple)]
    last = str(paths[-1]) if paths else ""
    # a module that is called a second time carries "@1" behind its path
    return last.split("@")[0] if not last.startswith("_empty") else ""
