"""What can be proved about the values of a graph before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from backlight.engine.graph import Graph, Node
from backlight.engine.operators.activations import CLAMPS, RECTIFIERS, clamp_bounds
from backlight.engine.operators.routing import MOVES
from backlight.engine.steps import Site
from backlight.rules import Rule

__all__ = ["nonnegative_nodes", "receives_direct", "switched_off"]

_NEVER_NEGATIVE = RECTIFIERS | {
    "abs", "exp", "hardsigmoid", "sigmoid", "softmax", "_softmax", "softplus", "sqrt", "rsqrt", "square", "std", "var",
}  # fmt: skip

# not negative where all of their inputs are not
_KEEPS = MOVES | {
    "add", "mul", "div", "sum", "mean", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool3d", "max_pool1d",
    "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "amax", "amin", "maximum", "minimum", "cumsum", "upsample_bilinear2d", "upsample_linear1d",
    "upsample_trilinear3d", "getitem", "matmul", "bmm", "topk", "sort",
}  # fmt: skip

# an operator that writes one of its numbers into the value, or multiplies by it
_READS_NUMBERS = frozenset({
    "add", "mul", "div", "pad", "constant_pad_nd", "masked_fill", "index_fill", "fill", "scatter",
})  # fmt: skip

# whole numbers behind the first argument say where, not what
_POINTS = frozenset({
    "gather", "index", "index_select", "index_put", "index_fill", "take", "take_along_dim", "scatter",
    "repeat_interleave", "max_unpool2d", "max_unpool3d",
})  # fmt: skip


def nonnegative_nodes(graph: Graph, constants: Mapping[int, Any]) -> list[bool]:
    """Which values are never negative, whatever the input."""
    known: list[bool] = []
    # of weights nobody asks
    asked = {index for node in graph.nodes if node.op in _KEEPS for index in node.inputs}
    for node in graph.nodes:
        if node.index in constants:
            known.append(node.index in asked and _never_negative(constants[node.index]))
        elif node.op in _NEVER_NEGATIVE:
            known.append(True)
        elif node.op in CLAMPS:
            low, _ = clamp_bounds(node)
            known.append(isinstance(low, int | float) and low >= 0)
        elif node.op in _KEEPS:
            numbers = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, float | int)]
            signed = node.op in _READS_NUMBERS and any(x < 0 for x in numbers)
            known.append(bool(node.inputs) and not signed and _counts(graph, known, node))
        else:
            known.append(False)
    return known


def _never_negative(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_never_negative(item) for item in value)
    if not isinstance(value, Tensor):
        return isinstance(value, int | float) and value >= 0
    if value.layout is not torch.strided or value.is_complex():
        return False  # neither has a comparison; nothing is proved of them
    if value.dtype.is_floating_point and value.dtype.itemsize == 1:
        value = value.float()  # eight bits have no minimum
    return bool(value.numel() and value.amin() >= 0)


def _counts(graph: Graph, known: Sequence[bool], node: Node) -> bool:
    """Whether everything that the values of a node are taken from is never negative."""
    for place, index in enumerate(node.inputs):
        given = graph.nodes[index]
        whole = given.dtype is not None and not given.dtype.is_floating_point and not given.dtype.is_complex
        # sizes, positions and choices have no sign to speak of; whole numbers that are values have one
        position = given.op == "sym_size" or given.dtype is torch.bool or (whole and place > 0 and node.op in _POINTS)
        if not (known[index] or position):
            return False
    return True


def receives_direct(
    graph: Graph, sites: Mapping[int, Site], rules: Mapping[int, Rule | None], readers: Sequence[Sequence[int]]
) -> list[bool]:
    """At which values relevance may arrive that is not proportional to them."""
    found = [False] * len(graph.nodes)
    for index in range(len(graph.nodes) - 1, -1, -1):
        for reader in readers[index]:
            site = sites[reader]
            if site.emits_direct(rules.get(reader)) or (site.passes_direct and found[reader]):
                found[index] = True
    return found


def switched_off(
    graph: Graph, sites: Mapping[int, Site], readers: Sequence[Sequence[int]], direct: Sequence[bool], output: int
) -> list[bool]:
    """At which values no relevance arrives where they are negative: all of their readers are rectifiers."""
    found = [False] * len(graph.nodes)
    for index in range(len(graph.nodes) - 1, -1, -1):
        if direct[index] or index == output or not readers[index]:
            continue
        found[index] = all(_silences(sites[reader].node, found[reader], sites[reader]) for reader in readers[index])
    return found


def _silences(node: Node, behind: bool, site: Site) -> bool:
    if node.op in RECTIFIERS or (node.op in CLAMPS and clamp_bounds(node)[0] == 0):
        return True
    return behind and site.role in ("move", "pool")
