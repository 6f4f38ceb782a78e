"""What depends on what in a captured graph: constants, the paths of relevance, the explained output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backlight.engine.graph import Graph, Node, Ref, references
from backlight.engine.operators import Context
from backlight.engine.operators.routing import MOVES
from backlight.engine.steps import fill
from backlight.errors import UnsupportedModel

__all__ = ["OUTPUT_NAMES", "TAILS", "Dependencies"]

TAILS = {
    "softmax": "softmax", "_softmax": "softmax", "log_softmax": "log-softmax", "_log_softmax": "log-softmax",
    "sigmoid": "sigmoid", "log_sigmoid": "log-sigmoid",
}  # fmt: skip


# of several named outputs, the one that is explained: the first of these that is there
OUTPUT_NAMES = ("logits", "out", "output", "prediction")

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
        Values that no input reaches.
    template : list
        The same by node, ``None`` elsewhere.
    reached, depends : list of bool
        Whether an input reaches a node at all, and whether relevance can be there.
    context : Context
        For the makers of sites.
    """

    def __init__(self, graph: Graph, tensors: dict[str, Tensor], device: torch.device | None = None) -> None:
        self.graph = graph
        self.template: list[Any] = [None] * len(graph.nodes)
        given = {index: tensors[name] for index, name in graph.parameters.items()} | graph.constants
        self.constants: dict[int, Tensor] = {}
        for index, value in given.items():
            self.constants[index] = value.detach() if device is None else value.detach().to(device)
        self.reached = self._reached()
        self._fold_constants()
        self.depends = self._carrying()
        self.context = Context(graph, self.constants, self.depends)

    def explained(self) -> tuple[int, list[Node]]:
        """The node that is explained, and what follows it in the model: a softmax, for instance."""
        found = [ref.index for ref in references(self.graph.output)]
        if isinstance(self.graph.output, dict) or hasattr(self.graph.output, "keys"):
            named = {key: value for key, value in self.graph.output.items() if isinstance(value, Ref)}
            for key in OUTPUT_NAMES:
                if key in named:
                    found = [named[key].index]
                    break
        found = [index for index in found if self.depends[index]]
        if not found:
            raise UnsupportedModel("the model's output does not depend on its inputs by numbers that have a gradient")
        if len(found) > 1:
            raise UnsupportedModel(
                f"the model has {len(found)} outputs: wrap it in a module that returns the one to be explained"
            )
        index = found[0]
        tail: list[Node] = []
        while self.graph.nodes[index].op in TAILS and self.depends[self.graph.nodes[index].args[0].index]:
            node = self.graph.nodes[index]
            tail.insert(0, node)
            index = node.args[0].index
        return index, tail

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

    def _carrying(self) -> list[bool]:
        """Where relevance can be: on a path from the inputs by numbers, not by shapes and comparisons alone."""
        found = [False] * len(self.graph.nodes)
        given = set(self.graph.inputs.values())
        for node in self.graph.nodes:
            found[node.index] = node.index in given or (_differentiable(node) and any(found[k] for k in node.inputs))
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
    return node.dtype.is_floating_point or node.op in MOVES
