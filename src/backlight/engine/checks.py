"""What a plan must satisfy, tried on a first batch: rows apart, and relevance that is handed on or accounted for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from backlight.engine.copies import Inputs, run_once
from backlight.engine.plan import Plan
from backlight.engine.run import forward
from backlight.engine.steps import LedgerRecorder, Parts, total
from backlight.errors import DataError

__all__ = ["leak_of", "model_keeps_rows_apart", "rows_are_apart", "slack_of"]

_ROWS = 3


def rows_are_apart(plan: Plan, model: nn.Module, inputs: Inputs) -> bool:
    """Whether the output of every row is the same, whatever stands in the others.

    In a graph for any number of rows three rows are tried, each of which is replaced in turn: numbers by what is not
    a number, which nothing but a selection stops, and whole numbers by another row's. In a graph for one number of
    rows, half of them are replaced, in log₂ n ways and the other way round, so that every pair is tried.
    """
    if plan.apart is not None:
        return plan.apart
    leaves, _ = pytree.tree_flatten(inputs)
    n = next(len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim())
    if n < 2:
        return True
    if plan.graph.how == "exported":
        pick = torch.arange(_ROWS) % n
        few = [leaf[pick.to(leaf.device)] if _by_rows(leaf, n) else leaf for leaf in leaves]
        # a network may take even numbers of rows alone
        with contextlib.suppress(RuntimeError):
            plan.apart = _try(_planned(plan), few, _ROWS, plan.graph.precisions, valid=False)
            return plan.apart
    traced = plan.graph.how == "traced"
    outputs = _plainly(model, inputs) if traced else _planned(plan)
    # an operator may fail on numbers that are none
    for valid in (True,) if traced else (False, True):
        with contextlib.suppress(RuntimeError):
            plan.apart = _try(outputs, leaves, n, plan.graph.precisions, valid=valid)
            return plan.apart
    # it refuses rows for what the others are
    plan.apart = False
    return plan.apart


def model_keeps_rows_apart(model: nn.Module, inputs: Inputs) -> bool:
    """The same of a model that has no plan, by running it: each of three rows is replaced by another row in turn."""
    leaves, _ = pytree.tree_flatten(inputs)
    n = next((len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), 1)
    if n < 2:
        return True
    precisions = {leaf.dtype for leaf in (*leaves, *model.parameters()) if isinstance(leaf, Tensor)}
    precisions = {dtype for dtype in precisions if dtype.is_floating_point}
    outputs = _plainly(model, inputs)
    few = [leaf[:_ROWS] if _by_rows(leaf, n) else leaf for leaf in leaves]
    # it may take this number of rows alone
    with contextlib.suppress(DataError):
        return _try(outputs, few, min(n, _ROWS), precisions, valid=True)
    with contextlib.suppress(DataError):
        return _try(outputs, leaves, n, precisions, valid=True)
    # it refuses rows for what the others are
    return False


Outcome = Callable[[list[Any]], list[Tensor]]


def _planned(plan: Plan) -> Outcome:
    return lambda given: [forward(plan, dict(zip(plan.inputs, given, strict=True)), cuts=(0,)).output]


def _plainly(model: nn.Module, inputs: Inputs) -> Outcome:
    spec = pytree.tree_structure(inputs)

    def outputs(given: list[Any]) -> list[Tensor]:
        found = pytree.tree_leaves(run_once(model, pytree.tree_unflatten(given, spec)))
        return [leaf for leaf in found if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim()]

    return outputs


def _try(outputs: Outcome, leaves: list[Any], n: int, precisions: set[torch.dtype], *, valid: bool) -> bool:
    plain = outputs(leaves)
    apart = True
    for gone in _masks(n):
        other = [_replaced(leaf, gone.to(leaf.device), valid) if _by_rows(leaf, n) else leaf for leaf in leaves]
        for before, after in zip(plain, outputs(other), strict=True):
            if len(before) != n or before.shape != after.shape:
                continue
            stays = ~gone.to(before.device)
            # numbers of less precision on the way
            share = max(slack_of(dtype) for dtype in {before.dtype, *precisions})
            slack = share * float(before.abs().max().clamp_min(torch.finfo(before.dtype).tiny))
            apart &= bool(((before[stays] - after[stays]).abs() <= slack).all())
    return apart


def _by_rows(leaf: Any, n: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == n


def _masks(n: int) -> Iterator[Tensor]:
    if n <= _ROWS:
        yield from torch.eye(n, dtype=torch.bool)
        return
    for bit in range((n - 1).bit_length()):
        mask = (torch.arange(n) >> bit) % 2 == 1
        yield mask
        yield ~mask


def _replaced(leaf: Tensor, gone: Tensor, valid: bool) -> Tensor:
    """A leaf with other rows in the place of some."""
    other = leaf.clone()
    if leaf.is_floating_point() and not valid:
        other[gone] = torch.nan
        return other
    others = leaf[~gone]
    # one of the rows, where that is another: numbers turned round may be positions that no table has
    differing = [row for row in others if bool((row != leaf[gone]).any())]
    stand_in = (differing[0] if differing else others[0])[None].expand_as(leaf[gone])
    if not differing and leaf.dim() > 1:
        stand_in = stand_in.flip(-1)
    other[gone] = stand_in
    return other


def slack_of(dtype: torch.dtype) -> float:
    """Which share of the largest number a sum of thousands may be off by."""
    return min(1e4 * torch.finfo(dtype).eps, 0.05)


def leak_of(plan: Plan, inputs: dict[str, Any], seed: Tensor) -> str:
    """The place that hands on another amount of relevance than it received, less what it booked: its name and rule."""
    places = [step.out for step in plan.steps]
    run = forward(plan, inputs, places)
    worst, amount = "", 0.0
    values: dict[int, Any] = {**run.kept, **{index: inputs[name] for name, index in plan.inputs.items()}}

    def watch(position: int, message: Any, sent: Any, book: LedgerRecorder, before: int) -> None:
        nonlocal worst, amount
        step = plan.steps[position]
        booked = sum(float((entering - leaving).sum()) for _, entering, leaving, _ in book.entries[before:])
        leaving = sum(
            _amount(values[carrier], part)
            for carrier, part in zip(step.carriers, sent, strict=True)
            if part is not None
        )
        off = abs(_amount(values[step.out], message) - leaving - booked)
        if off > amount:
            worst, amount = f"{step.node.name!r} ({step.rule})", off

    run.relevance(seed, watch=watch)
    return worst


def _amount(value: Any, message: Any) -> float:
    if isinstance(message, Parts):
        return sum(_amount(value[member], part) for member, part in message.items())
    return float(total(value, message, None).sum())
