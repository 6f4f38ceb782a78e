"""One capture for texts of all lengths: the exported program with open lengths, and its graph at any of them.

A graph is made for each length out of the same program, within milliseconds: what depends on the length alone (causal
masks, rotary angles, position tables) is constant there, and whatever reads sizes finds numbers. Nothing else in the
engine knows that lengths are open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from backlight.engine.builder import Builder
from backlight.engine.graph import Graph
from backlight.engine.outputs import Layout
from backlight.errors import UnsupportedModel

__all__ = ["Exported", "axes_of_lengths"]


def axes_of_lengths(names: Sequence[str], leaves: Sequence[Any]) -> dict[int, tuple[int, ...]]:
    """Which axes of inputs count tokens, by the position of the input.

    The second axis of whole numbers and of switches, which are tokens and what is said of them, and of what names
    itself their mask or their vectors; the third one too where it has the same length, as a mask of pairs has.

    Examples
    --------
    >>> axes_of_lengths(["input_ids", "pixel_values"], [torch.zeros(2, 7, dtype=torch.long), torch.zeros(2, 7)])
    {0: (1,)}
    """
    found: dict[int, tuple[int, ...]] = {}
    for position, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
        if not isinstance(leaf, Tensor) or leaf.dim() not in (2, 3) or leaf.shape[1] < 2 or leaf.is_complex():
            continue
        if leaf.is_floating_point() and not name.partition("[")[0].endswith(("mask", "embeds")):
            continue
        pairs = leaf.dim() == 3 and leaf.shape[2] == leaf.shape[1]
        found[position] = (1, 2) if pairs else (1,)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """A program of a model, from which graphs are made.

    Attributes
    ----------
    program : torch.export.ExportedProgram
    names : list of str
        Of its inputs.
    how : str
        See `Graph`.
    layout : Layout, optional
        See `Graph`; its shapes may hold open lengths.
    """

    program: torch.export.ExportedProgram
    names: list[str]
    how: str
    layout: Layout | None = None

    @property
    def open(self) -> bool:
        """Whether it serves more lengths than one."""
        sizes: list[Any] = [size for value in self._given() for size in value.shape[1:]]
        return any(size.node.expr.free_symbols for size in sizes if not isinstance(size, int))

    def at(self, model: nn.Module, inputs: tuple[Any, Any]) -> Graph | None:
        """The graph for the lengths of these inputs; ``None`` where the program does not hold for them."""
        lengths = self._lengths([leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)])
        return None if lengths is None else self.graph(model, lengths)

    def graph(self, model: nn.Module, lengths: Mapping[Any, int] | None = None) -> Graph:
        """The graph, with numbers in the place of open lengths."""
        signature = self.program.graph_signature
        held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        lifted = signature.inputs_to_lifted_tensor_constants
        builder = Builder(model, self.how, lengths)
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                if node.name in held:
                    builder.parameter(node, held[node.name])
                elif node.name in lifted:
                    builder.constant(node, self.program.constants[lifted[node.name]])
                else:
                    builder.input(node, self.names[len(builder.inputs)])
            elif node.op == "call_function":
                builder.call(node)
            elif node.op == "output":
                mutated = len(signature.buffers_to_mutate) + len(signature.user_inputs_to_mutate)
                outputs = list(node.args[0])[mutated:]
                tree = self.program.call_spec.out_spec
                builder.finish(pytree.tree_unflatten([builder.arguments(value) for value in outputs], tree))
            else:
                raise UnsupportedModel(
                    f"the exported program holds {node.op} {node.target}, which is a program of its own"
                )
        layout = self.layout
        if layout is not None and lengths:
            layout = layout.at(lambda size: int(size.node.expr.subs(lengths)))
        return replace(builder.graph, layout=layout)

    def _given(self) -> list[Tensor]:
        """The tensors that a user gives, as the program saw them."""
        user = set(self.program.graph_signature.user_inputs)
        values = [node.meta.get("val") for node in self.program.graph.nodes if node.name in user]
        return [value for value in values if isinstance(value, Tensor)]

    def _lengths(self, leaves: list[Tensor]) -> dict[Any, int] | None:
        """What the open lengths are for these inputs; ``None`` where a size is none that the program takes."""
        given = self._given()
        if len(given) != len(leaves):
            return None
        rows = {str(size) for value in given for size in value.shape[:1] if not isinstance(size, int)}
        found: dict[Any, int] = {}
        later: list[tuple[Any, int]] = []
        for value, leaf in zip(given, leaves, strict=True):
            if value.dim() != leaf.dim():
                return None
            for axis, (size, actual) in enumerate(zip(value.shape, leaf.shape, strict=True)):
                if axis == 0 and not isinstance(size, int):
                    continue
                if isinstance(size, int):
                    if size != actual:
                        return None
                    continue
                expression = size.node.expr
                if str(expression) in rows:
                    # a length that the model wants to be the number of rows
                    return None
                if expression.is_Symbol:
                    if found.setdefault(expression, actual) != actual:
                        return None
                else:
                    later.append((expression, actual))
        if any(expression.subs(found) != actual for expression, actual in later):
            return None
        bounds = self.program.range_constraints
        for symbol, actual in found.items():
            # torch.export takes no dynamic size for one; as with rows, a run says whether the graph holds for one
            if symbol in bounds and not (bounds[symbol].lower <= max(actual, 2) <= bounds[symbol].upper):
                return None
        return found
