"""Whole numbers on the way to a table: relevance goes to them as it is, since they are no factors of anything.

A word's number is looked up, a category becomes a row of zeros and a one. What is done to such numbers before, moving
them, adding the start of a column's block, casting them, hands each its own relevance on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backlight.engine.graph import Node, Ref
from backlight.engine.operators.registry import Context, operator
from backlight.engine.steps import LedgerRecorder, Messages, Site, Step, Values, fill
from backlight.rules import Facts, Message, Rule, as_gradient, relevance

__all__ = ["LOOKUPS", "WHOLE_NUMBERS", "lookup", "whole"]

# operators that look numbers up, and where among their arguments those stand
LOOKUPS = {"embedding": 1, "embedding_bag": 1, "_embedding_bag": 1, "_embedding_bag_forward_only": 1, "one_hot": 0,
           "index": 1, "index_select": 2, "gather": 2}  # fmt: skip

# what may be done to a whole number that stays one
WHOLE_NUMBERS = frozenset({
    "add", "sub", "rsub", "mul", "clamp", "clamp_min", "clamp_max", "remainder", "fmod", "floor_divide", "one_hot",
    "long", "int", "div",
})  # fmt: skip


def whole(node: Node, context: Context) -> Site | None:
    """The site of an operator whose result or source is a whole number, or ``None`` where neither is."""
    into = node.dtype is not None and not node.dtype.is_floating_point
    found = [index for index in dict.fromkeys(node.inputs) if context.depends[index]]
    kinds = [context.graph.nodes[index].dtype for index in found]
    whole_ones = [kind is not None and not kind.is_floating_point for kind in kinds]
    if not found or not (into or all(whole_ones)) or (len(found) > 1 and not all(whole_ones)):
        return None
    return _Whole(node, tuple(found), "move", None)


@dataclass(slots=True)
class _Whole(Site):
    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        return _WholeStep(self.node, self.carriers, self.node.index, "moves")

    def emits_direct(self, rule: Rule | None) -> bool:
        return True


@dataclass(slots=True)
class _WholeStep(Step):
    def forward(self, values: Values) -> tuple[Any, Any]:
        assert self.node.target is not None
        y = self.node.target(*fill(self.node.args, values), **fill(self.node.kwargs, values))
        return y, (y, {index: values[index] for index in (*self.node.inputs, *self.carriers)})

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        y, held = record
        arriving = relevance(y, message)
        if self.node.op in WHOLE_NUMBERS | {"to", "_to_copy", "float", "double", "half", "bfloat16", "type_as"}:
            # each keeps its own, two that make up one have half each; where it was repeated over an axis, the sum
            share = arriving / len(self.carriers)
            return [Message(direct=_summed(share, held[index].shape)) for index in self.carriers]
        # the transpose of a move is the same for numbers with a fraction
        leaves = {
            index: torch.zeros(held[index].shape, dtype=arriving.dtype, device=arriving.device, requires_grad=True)
            for index in self.carriers
        }
        held = held | leaves
        # what the numbers are put beside, a start token's place for instance, has fractions then too
        at = LOOKUPS.get(self.node.op)
        args = [
            given.to(arriving.dtype) if k != at and isinstance(given, Tensor) and given.dtype == y.dtype else given
            for k, given in enumerate(fill(self.node.args, held))
        ]
        with torch.enable_grad():
            assert self.node.target is not None
            moved = self.node.target(*args, **fill(self.node.kwargs, held))
        columns = [torch.autograd.grad(moved, list(leaves.values()), each, retain_graph=True) for each in arriving]
        sent = [Message(direct=torch.stack(column)) for column in zip(*columns, strict=True)]
        self._booked(y, message, sent, held, book)
        return sent

    def _booked(
        self, y: Tensor, message: Message, sent: list[Message], held: dict[int, Any], book: LedgerRecorder
    ) -> None:
        """What came to constants that stand among the numbers, such as a start token, is a constant's."""
        known = None not in (self.rows, *self.sources)
        entering, leaving = book.total(y, message, self.rows if known else None), torch.zeros(())
        for index, rows, part in zip(self.carriers, self.sources, sent, strict=True):
            leaving = leaving + book.total(held[index], part, rows if known else None)
        kept = entering - leaving
        size = float(relevance(y, message).abs().sum()) * 8 * torch.finfo(kept.dtype).eps
        if bool((kept.abs() > size).any()):
            book.enter(self, entering, leaving, kept, by_row=True)


def _summed(arriving: Tensor, shape: torch.Size) -> Tensor:
    return arriving.sum_to_size(arriving.shape[0], *shape) if arriving.shape[1:] != shape else arriving


@operator("long", "int", "floor_divide")
def number(node: Node, context: Context) -> Site | None:
    return whole(node, context)


@operator("one_hot")
def one_hot(node: Node, context: Context) -> Site | None:
    return _Lookup(node, (node.args[0].index,), "lookup", None) if context.carries(node.args[0]) else None


# -- tables ------------------------------------------------------------------------------------------------------------


@operator("embedding")
def embedding(node: Node, context: Context) -> Site | None:
    weight, ids = node.args[:2]
    return None if context.constant(weight) is None else _Lookup(node, (ids.index,), "lookup", None)


def lookup(node: Node, context: Context) -> Site | None:
    """A constant that is indexed by numbers which relevance can reach."""
    at = LOOKUPS.get(node.op)
    if at is None or context.constant(node.args[0]) is None:
        return None
    found = [index for index in dict.fromkeys(node.inputs) if context.depends[index]]
    given = node.args[at]
    if node.op == "index" and (not isinstance(given, list) or len(given) != 1):
        # several numbers point at a cell together
        return None
    if node.op == "index_select" and node.args[1] != 0:
        return None
    return _Lookup(node, (found[0],), "lookup", None) if len(found) == 1 else None


@dataclass(slots=True)
class _Lookup(Site):
    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        return _LookupStep(self.node, self.carriers, self.node.index, "sum over the vector")

    def emits_direct(self, rule: Rule | None) -> bool:
        return True


@dataclass(slots=True)
class _LookupStep(Step):
    """A number gets all the relevance of its vector."""

    def forward(self, values: Values) -> tuple[Any, Any]:
        assert self.node.target is not None
        value = self.node.target(*fill(self.node.args, values), **fill(self.node.kwargs, values))
        return value, (value, values[self.carriers[0]].dim())

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        value, axes = record
        arriving = relevance(value, message)
        return (Message(direct=arriving.flatten(axes + 1).sum(-1) if value.dim() > axes else arriving),)


@operator("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(node: Node, context: Context) -> Site | None:
    """Vectors of a bag summed, averaged or maximised: each number gets its vector's share."""
    weight, ids = node.args[:2]
    table = context.constant(weight)
    if table is None or not context.carries(ids) or len(context.node(ids).shape or (0,)) > 1:
        return None
    names = ("offsets", "scale_grad_by_freq", "mode", "sparse", "per_sample_weights", "include_last_offset",
             "padding_idx")  # fmt: skip
    given = dict(zip(names, node.args[2:], strict=False)) | dict(node.kwargs)
    if isinstance(given.get("per_sample_weights"), Ref) and context.carries(given["per_sample_weights"]):
        return None
    return _Bag(node, (ids.index,), "lookup", None, table, given)


@dataclass(slots=True)
class _Bag(Site):
    table: Tensor
    given: dict[str, Any]

    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        return _BagStep(self.node, self.carriers, self.node.index, "shares of the bag", self.table, self.given)

    def emits_direct(self, rule: Rule | None) -> bool:
        return True


@dataclass(slots=True)
class _BagStep(Step):
    table: Tensor
    given: dict[str, Any]

    def forward(self, values: Values) -> tuple[Any, Any]:
        assert self.node.target is not None
        y = self.node.target(*fill(self.node.args, values), **fill(self.node.kwargs, values))
        ids = values[self.carriers[0]]
        given = fill(self.given, values)
        starts = given["offsets"].contiguous()
        starts = starts[:-1] if given.get("include_last_offset") else starts
        bag = torch.searchsorted(starts, torch.arange(len(ids), device=ids.device, dtype=starts.dtype), right=True) - 1
        return y[0] if isinstance(y, tuple) else y, (ids, bag, len(starts), given)

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        ids, bag, bags, given = record
        padding = given.get("padding_idx")
        counted = torch.ones_like(bag, dtype=torch.bool) if padding in (None, -1) else ids != padding
        with torch.enable_grad():
            vectors = self.table[ids].detach().requires_grad_()
            weights = given.get("per_sample_weights")
            scaled = (vectors if weights is None else vectors * weights[:, None]) * counted[:, None]
            pooled = _pooled(scaled, bag, counted, int(given.get("mode", 0)), bags)
        columns = []
        arriving = as_gradient(pooled.detach(), message)
        for each in arriving:
            (gradient,) = torch.autograd.grad(pooled, vectors, each, retain_graph=True)
            columns.append((gradient * vectors.detach()).sum(-1))
        return (Message(direct=torch.stack(columns)),)


def _pooled(vectors: Tensor, bag: Tensor, counted: Tensor, mode: int, bags: int) -> Tensor:
    """Vectors of each bag summed (0), averaged (1) or maximised (2)."""
    empty = vectors.new_zeros(bags, vectors.shape[1])
    if mode == 2:
        shown = vectors.masked_fill(~counted[:, None], -torch.inf)
        return empty.scatter_reduce(0, bag[:, None].expand_as(vectors), shown, "amax", include_self=False)
    summed = empty.index_add(0, bag, vectors)
    if mode == 0:
        return summed
    sizes = vectors.new_zeros(bags).index_add(0, bag, counted.to(vectors.dtype))
    return summed / sizes.clamp(min=1)[:, None]
