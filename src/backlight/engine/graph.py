"""A captured network: operators in the order in which they run, each knowing the module it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from backlight.engine.outputs import Layout

__all__ = ["PRIME", "Graph", "Node", "Ref", "by_name", "named", "references"]

# a number of rows that no other size is by chance
PRIME = 1_000_003


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of an earlier node, among the arguments of a later one."""

    index: int


@dataclass(frozen=True, slots=True)
class _Operator:
    """The name of an operator of torch, which pickle has no way to write."""

    namespace: str
    name: str
    overload: str


def by_name(value: Any) -> Any:
    """An operator of torch as its name; anything else as it is."""
    if not isinstance(value, torch._ops.OpOverload):
        return value
    namespace, _, name = value.name().partition(".")[0].partition("::")
    return _Operator(namespace, name, value._overloadname)


def named(value: Any) -> Any:
    """What `by_name` named."""
    if not isinstance(value, _Operator):
        return value
    return getattr(getattr(getattr(torch.ops, value.namespace), value.name), value.overload)


@dataclass(slots=True)
class Node:
    """One operator of the graph.

    Attributes
    ----------
    index : int
    name : str
        Module path and operator, unique in the graph: ``features.0``, ``layer1.0.add``, ``fc@2`` for the second use.
    op : str
        The operator without its overload: ``conv2d``; operators outside ``aten`` keep their namespace.
    target : callable or None
        ``None`` for an input of the graph (a parameter, a buffer, an input of the user's).
    args, kwargs
        With `Ref` in the place of earlier values.
    path : str
        The module it ran in.
    module : type, optional
        The class of that module.
    shape : tuple of int, optional
        Of one row of its value at capture.
    rows : int, optional
        The axis that counts the rows; ``None`` where rows and other axes were merged, or there are none.
    sizes : tuple of int, optional
        Of its whole value, for `PRIME` rows where any number of rows may come.
    """

    index: int
    name: str
    op: str
    target: Callable[..., Any] | None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    module: type | None = None
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    rows: int | None = None
    sizes: tuple[int, ...] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {one.name: by_name(getattr(self, one.name)) for one in fields(self)}

    def __setstate__(self, held: dict[str, Any]) -> None:
        for name, value in held.items():
            setattr(self, name, named(value))

    @property
    def inputs(self) -> list[int]:
        """Indices of the nodes among its arguments, in order, with repetitions."""
        return [ref.index for ref in references((self.args, self.kwargs))]


@dataclass(slots=True)
class Graph:
    """Nodes in running order.

    Attributes
    ----------
    nodes : list of Node
    inputs : dict of str to int
        The user's inputs by name.
    parameters : dict of int to str
        Parameters and buffers: the name in the model.
    constants : dict of int to Tensor
        Other tensors that the model holds.
    output : nested structure with `Ref`
    how : str
        "exported" (any number of rows), "exported for n rows", or "traced" (one run, with its control flow).
    layout : Layout, optional
        How the structure that the model returns is put together from the output, where a target is a function of it.
    note : str
        What is to be said of it wherever it is planned.
    """

    nodes: list[Node]
    inputs: dict[str, int]
    parameters: dict[int, str]
    constants: dict[int, Tensor]
    output: Any
    how: str
    layout: Layout | None = None
    note: str = ""

    @property
    def precisions(self) -> set[torch.dtype]:
        """The kinds of numbers with a fraction that it computes in."""
        return {node.dtype for node in self.nodes if node.dtype is not None and node.dtype.is_floating_point}

    def users(self) -> list[list[int]]:
        """For each node those that use its value."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            for index in dict.fromkeys(node.inputs):
                found[index].append(node.index)
        return found


def references(tree: Any) -> Iterator[Ref]:
    """Every `Ref` in nested arguments."""
    if isinstance(tree, Ref):
        yield tree
    elif isinstance(tree, tuple | list):
        for item in tree:
            yield from references(item)
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from references(item)
    elif isinstance(tree, slice):
        yield from references((tree.start, tree.stop, tree.step))
