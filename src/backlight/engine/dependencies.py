"""What depends on what in a captured graph: constants, the paths of relevance, the explained output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backlight.engine.graph import Graph, Node, Ref, references
from backlight.engine.operators import Context
from backlight.engine.operators.routing import MOVES
from backlight.engine.operators.whole import LOOKUPS, WHOLE_NUMBERS
from backlight.engine.outputs import choose, named_leaves
from backlight.engine.steps import fill
from backlight.errors import UnsupportedModel

__all__ = ["TAILS", "Dependencies"]

TAILS = {
    "softmax": "softmax", "_softmax": "softmax", "log_softmax": "log-softmax", "_log_softmax": "log-softmax",
    "sigmoid": "sigmoid", "log_sigmoid": "log-sigmoid",
}  # fmt: skip


# their values come from the shape of what they are given
_SHAPE_ONLY = frozenset({
    "sym_size", "new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like",
})  # fmt: skip


class Dependencies:
    """A graph with its constants computed.

    Attributes
    ----------
    graph : Graph
    constants : dict of int to Tensor
        Values that no input reaches; of an operator with several results their list or tuple.
    template : list
        The same by node, ``None`` elsewhere.
    reached, depends : list of bool
        Whether an input reaches a node at all, and whether relevance can be there.
    sources : frozenset of int
        The inputs that relevance can reach. Masks, and positions and types of tokens, are constants of the explanation.
    context : Context
        For the makers of sites.
    note : str
        A word on the choice of the output, where there was one.
    """

    note: str = ""

    def __init__(self, graph: Graph, tensors: dict[str, Tensor], device: torch.device | None = None) -> None:
        self.graph = graph
        self.template: list[Any] = [None] * len(graph.nodes)
        given = {index: tensors[name] for index, name in graph.parameters.items()} | graph.constants
        self.constants: dict[int, Any] = {}
        for index, value in given.items():
            self.constants[index] = value.detach() if device is None else value.detach().to(device)
        self.reached = self._reached()
        self._fold_constants()
        self.sources = self._sources()
        self.depends = self._carrying(self.sources)
        self.context = Context(graph, self.constants, self.depends, graph.users())

    def explained(self) -> tuple[int, list[Node]]:
        """The node that is explained, and what follows it in the model: a softmax, for instance."""
        found = named_leaves(self.graph.output, lambda leaf: isinstance(leaf, Ref) and self.depends[leaf.index])
        named = {name: ref.index for name, ref in found.items()}
        if not named:
            raise UnsupportedModel(self._why_nothing())
        chosen, self.note = choose({name: self.graph.nodes[index].shape for name, index in named.items()})
        index = named[chosen]
        tail: list[Node] = []
        while self.graph.nodes[index].op in TAILS and self.depends[self.graph.nodes[index].args[0].index]:
            node = self.graph.nodes[index]
            tail.insert(0, node)
            index = node.args[0].index
        return index, tail

    def _why_nothing(self) -> str:
        for node in self.graph.nodes:
            if node.dtype is not None and node.dtype.is_complex and self.reached[node.index]:
                where = f" in module {node.path!r}" if node.path else ""
                return (
                    f"operator {node.op!r}{where} gives complex numbers, which relevance cannot follow: "
                    "compute real and imaginary parts with real matrices, or explain by a reference method"
                )
        return "the model's output does not depend on its inputs by numbers that have a gradient"

    def needed(self, output: int) -> set[int]:
        """Every node that a value is computed from, constants left out."""
        needed, todo = set(), [output]
        while todo:
            index = todo.pop()
            if index in needed or index in self.constants:
                continue
            needed.add(index)
            todo += self.graph.nodes[index].inputs
        return needed

    def _reached(self) -> list[bool]:
        reached = [False] * len(self.graph.nodes)
        given = set(self.graph.inputs.values())
        for node in self.graph.nodes:
            reached[node.index] = node.index in given or any(reached[index] for index in node.inputs)
        return reached

    def _sources(self) -> frozenset[int]:
        """Which inputs relevance can reach.

        Numbers with a fraction, and whole numbers that are looked up in a table. Where there are none, whole numbers
        that are made numbers with a fraction, which are quantities then. A name that says mask, position or type of a
        token is taken at its word where another input is left.
        """
        given = {index: name for name, index in self.graph.inputs.items()}
        looked_up, cast = self._uses_of_whole_numbers(set(given))
        dtypes = {index: self.graph.nodes[index].dtype for index in given}
        floating = {index for index, dtype in dtypes.items() if dtype is not None and dtype.is_floating_point}
        found = floating | looked_up
        if not found:
            found = cast - {index for index, dtype in dtypes.items() if dtype is torch.bool}
        steering = {index for index in found if _steers(given[index])}
        return frozenset(found - steering if found - steering else found)

    def _uses_of_whole_numbers(self, given: set[int]) -> tuple[set[int], set[int]]:
        """Which inputs are positions in a table, and which are made numbers with a fraction."""
        origins: list[frozenset[int]] = []
        looked_up: set[int] = set()
        cast: set[int] = set()
        for node in self.graph.nodes:
            if node.index in given:
                whole = node.dtype is not None and not node.dtype.is_floating_point
                origins.append(frozenset((node.index,)) if whole else frozenset())
                continue
            below = frozenset[int]().union(*(origins[index] for index in node.inputs))
            at = LOOKUPS.get(node.op)
            if at is not None and len(node.args) > at:
                if all(index in self.constants for index in references_before(node, at)):
                    looked_up |= below
                origins.append(frozenset())
            elif node.dtype is not None and node.dtype.is_floating_point:
                cast |= below if node.op in MOVES or node.op in WHOLE_NUMBERS else frozenset()
                origins.append(frozenset())
            else:
                origins.append(below if node.op in WHOLE_NUMBERS or node.op in MOVES else frozenset())
        return looked_up, cast

    def _carrying(self, sources: frozenset[int]) -> list[bool]:
        """Where relevance can be: on a path from the inputs by numbers, not by shapes and comparisons alone."""
        found = [False] * len(self.graph.nodes)
        for node in self.graph.nodes:
            found[node.index] = node.index in sources or (
                node.target is not None and _differentiable(node) and any(found[k] for k in node.inputs)
            )
        return found

    def _fold_constants(self) -> None:
        values = self.template
        for index, value in self.constants.items():
            values[index] = value
        for node in self.graph.nodes:
            index = node.index
            if index not in self.constants and node.target is not None and not self.reached[index]:
                values[index] = node.target(*fill(node.args, values), **fill(node.kwargs, values))
                self.constants[index] = values[index]


def _differentiable(node: Node) -> bool:
    if node.op in _SHAPE_ONLY or node.dtype is torch.bool:
        return False
    if node.dtype is None:
        # a tuple of values, or a number computed from shapes
        return getattr(node.target, "__module__", "") != "_operator" or node.op == "getitem"
    return node.dtype.is_floating_point or node.op in MOVES or node.op in WHOLE_NUMBERS


def references_before(node: Node, at: int) -> list[int]:
    """The nodes among the arguments before one of them: a table, before the positions in it."""
    return [ref.index for ref in references(node.args[:at])]


def _steers(name: str) -> bool:
    last = name.partition("[")[0]
    return last.endswith(("mask", "position_ids", "token_type_ids", "segment_ids", "bbox"))
