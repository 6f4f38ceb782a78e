"""Operators by name, and what a maker of sites may ask about the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backlight.engine.graph import Graph, Node, Ref
from backlight.engine.steps import Site

__all__ = ["ALIASES", "FIRST_OF_TUPLE", "Context", "find", "known_operators", "operator"]

# operators that hand their first argument on as it is
ALIASES = frozenset({
    "alias", "clone", "contiguous", "detach", "detach_", "lift_fresh", "lift_fresh_copy", "dropout", "feature_dropout",
    "alpha_dropout", "native_dropout",
})  # fmt: skip

# operators that return a tuple of which only the first member is a value of the network
FIRST_OF_TUPLE = frozenset({
    "_native_batch_norm_legit_no_training", "native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit",
    "_batch_norm_no_update", "native_layer_norm", "native_group_norm", "native_dropout", "max_pool2d_with_indices",
    "max_pool3d_with_indices", "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention", "_fused_rms_norm",
    "embedding_bag", "_embedding_bag", "_embedding_bag_forward_only",
})  # fmt: skip


@dataclass(slots=True)
class Context:
    """What is known of a graph when its sites are made.

    Attributes
    ----------
    graph : Graph
    constants : dict of int to Tensor
        Values that depend on no input; of an operator with several results their list or tuple.
    depends : list of bool
        Whether a node depends on an input that relevance can reach.
    users : list of list of int
        For each node those that use its value.
    follows_attention : bool
        Whether relevance goes to the weights of attention, and not to the values alone.
    """

    graph: Graph
    constants: dict[int, Any]
    depends: list[bool]
    users: list[list[int]]
    follows_attention: bool = False

    @property
    def device(self) -> torch.device:
        """Where the network's constants are."""
        return next((v.device for v in self.constants.values() if isinstance(v, Tensor)), torch.device("cpu"))

    def constant(self, argument: Any) -> Tensor | None:
        """The value of an argument that no input reaches."""
        value = self.constants.get(argument.index) if isinstance(argument, Ref) else None
        return value if isinstance(value, Tensor) else None

    def carries(self, argument: Any) -> bool:
        """Whether relevance can go to an argument."""
        return isinstance(argument, Ref) and self.depends[argument.index]

    def carriers(self, node: Node) -> tuple[int, ...]:
        """All arguments that relevance can go to."""
        # positions and masks steer a value of the network; they hold no part of it
        numbers = node.dtype is None or node.dtype.is_floating_point
        return tuple(index for index in node.inputs if self.depends[index] and not (numbers and self._whole(index)))

    def _whole(self, index: int) -> bool:
        dtype = self.graph.nodes[index].dtype
        return dtype is not None and not dtype.is_floating_point

    def node(self, argument: Any) -> Node:
        """The node of a reference."""
        found: Node = self.graph.nodes[argument.index]
        return found


Maker = Callable[[Node, Context], Site | None]
_MAKERS: dict[str, Maker] = {}


def operator(*names: str) -> Callable[[Maker], Maker]:
    """Register the maker of sites for operators of these names. ``None`` from it: not in this form."""

    def register(maker: Maker) -> Maker:
        for name in names:
            _MAKERS[name] = maker
        return maker

    return register


def find(op: str) -> Maker | None:
    """The maker of sites for an operator."""
    return _MAKERS.get(op)


def known_operators() -> tuple[str, ...]:
    """Names of all operators that have a maker."""
    return tuple(_MAKERS)
