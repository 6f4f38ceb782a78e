r"""Relevance that passes through chosen channels, heads or directions at a place: concept relevance propagation.

A message c arrives at a place with values a, so that R = a · c there. A condition lets a part of it pass on:

.. math:: c' = m \odot c, \qquad c' = \sum_k q_k (q_k \cdot c)

a mask, or orthonormal directions along the axis of channels. Both are linear in c and self-adjoint, so that a · c' is
the relevance of that part, and conditions whose masks add up to one add up to all that passes the place. What goes
around the place, through a skip connection for instance, is no part of it. Conditions at several places let pass what
passes all of them, from the output down.

Source: Achtibat et al., "From attribution maps to human-understandable explanations through concept relevance
propagation", Nature Machine Intelligence 5, 2023; directions, Chormai et al., "Disentangled explanations of neural
network predictions by finding relevant subspaces", TPAMI 46, 2024.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.arguments import numbers_in, shown
from backlight.attribution.inputs import Batch
from backlight.attribution.lrp import Attributed, Begun, LayerwiseRelevance, arrived
from backlight.attribution.requested import Targets
from backlight.attribution.targets import Seeds
from backlight.engine.run import Pass
from backlight.errors import ArgumentError, UnsupportedModel, listed
from backlight.rules import Message, as_gradient, relevance, row_sums

__all__ = ["Conditional", "Directions", "channel_axis"]

# numbers in the values of a place, for all conditions that share one way back
_TOGETHER = 2**23


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """A condition: what lies along a direction of the channels, or in the span of several.

    Parameters
    ----------
    vectors : Tensor of shape (channels,) or (k, channels)
        Of any length, independent of each other.
    """

    vectors: Any

    def basis(self, channels: int, like: Tensor) -> Tensor:
        """Orthonormal columns, (channels, k)."""
        rows = torch.as_tensor(self.vectors).to(like)
        rows = rows[None] if rows.dim() == 1 else rows
        if rows.shape[1] != channels:
            raise ArgumentError(f"a direction of {rows.shape[1]} numbers is none among {channels} channels")
        basis: Tensor
        basis, upper = torch.linalg.qr(rows.t())
        size = upper.diagonal().abs()
        if rows.shape[0] > channels or bool((size <= 1e-6 * size.max()).any()) or not bool(size.max() > 0):
            raise ArgumentError("the directions of a condition depend on each other: leave out those that others hold")
        return basis


Part = int | Sequence[int] | Tensor | Directions
Condition = Mapping[str, Part]


def channel_axis(plan: Any, index: int, value: Tensor) -> int:
    """The axis of a value that counts channels: heads of attention, maps of a convolution, else the last."""
    op = plan.graph.nodes[index].op
    source = plan.graph.nodes[index]
    while op in ("relu", "batch_norm", "gelu", "silu", "clamp", "dropout") and source.inputs:
        source = plan.graph.nodes[source.inputs[0]]
        op = source.op
    return 1 if value.dim() > 3 or op.startswith(("conv", "max_pool", "avg_pool", "adaptive")) else value.dim() - 1


def asked_axis(axis: int, value: Tensor) -> int:
    """The axis that the user says counts channels, from the front.

    Raises
    ------
    ArgumentError
        When the value has no such axis, or it counts the rows.
    """
    if axis == 0 or not -value.dim() < axis < value.dim():
        raise ArgumentError(
            f"axis={axis} counts no channels: beside its rows the place has axes 1 to {value.dim() - 1}"
        )
    return axis % value.dim()


@dataclass(slots=True)
class Conditional:
    """Explains batches of one model, conditional on parts of its places.

    Attributes
    ----------
    way : LayerwiseRelevance
    conditions : list of mapping of str to part
        For each condition the places that it holds at, by name.
    start : str, optional
        A place to start from in place of the output: the values there are explained, those of the condition.
    axis : int, optional
        Which axis of the places' values counts channels.
    """

    way: LayerwiseRelevance
    conditions: Sequence[Condition]
    start: str | None = None
    axis: int | None = None

    def __call__(self, batch: Batch, targets: Targets) -> Attributed:
        if len(targets.items) != 1:
            raise ArgumentError("conditions are for one target: explain the targets one after the other")
        if self.way.rows == "joint":
            raise ArgumentError("conditions are for rows='separate'")
        names = list(dict.fromkeys(name for condition in self.conditions for name in condition))
        if self.start is not None and any(self.start not in condition for condition in self.conditions):
            raise ArgumentError(f"every condition says which part of {self.start!r} is explained: name it in each")
        began = self.way.begun(batch, targets, [*names, *([self.start] if self.start else [])])
        known = began.places
        for name in names:
            if name not in known:
                raise ArgumentError(f"{name!r} matches several places: a condition names one of {listed(known, 6)}")
        # conditions at the same places share the way down to the first of them
        groups: dict[tuple[str, ...], list[int]] = {}
        for k, condition in enumerate(self.conditions):
            order = tuple(sorted(condition, key=lambda name: -known[name]))
            groups.setdefault(order, []).append(k)
        parts: list[_Part | None] = [None] * len(self.conditions)
        for order, members in groups.items():
            for member, part in zip(members, self._group(began, order, members), strict=True):
                parts[member] = part
        return self._joined(began, [part for part in parts if part is not None])

    def _group(self, began: Begun, order: tuple[str, ...], members: Sequence[int]) -> list[_Part]:
        run, known = began.run, began.places
        top = known[order[0]]
        value = self._value(run, top, order[0])
        message = self._arriving(began, order, top, value)
        size = max(1, max(self._value(run, known[name], name).numel() for name in order))
        step = max(1, min(64, _TOGETHER // size))
        found: list[_Part] = []
        for first in range(0, len(members), step):
            chosen = members[first : first + step]
            found += self._together(began, order, chosen, message)
        return found

    def _arriving(self, began: Begun, order: tuple[str, ...], top: int, value: Tensor) -> Message:
        """What arrives at the highest of the places, for one target."""
        if self.start is not None:
            if self.start != order[0]:
                raise ArgumentError(f"start={self.start!r} lies before {order[0]!r}, which it does not depend on")
            return Message(torch.ones_like(value)[None])
        if top == began.plan.output:
            return Message(began.seeds.gradient)
        found, _ = began.run.relevance(began.seeds.gradient, until=(top,))
        return found.get(top, Message(torch.zeros_like(value)[None]))

    def _together(self, began: Begun, order: tuple[str, ...], members: Sequence[int], message: Message) -> list[_Part]:
        run, known = began.run, began.places
        for place, name in enumerate(order):
            index = known[name]
            value = self._value(run, index, name)
            message = self._filtered(began, index, value, message, [self.conditions[k][name] for k in members])
            amount = row_sums(relevance(value, message))
            below = order[place + 1 :]
            until = (known[below[0]],) if below else tuple(run.plan.inputs.values())
            found, book = run.relevance(message, start=index, until=until)
            if below:
                message = found.get(until[0], Message(torch.zeros_like(run.kept[until[0]])[None]))
        values, ledger = arrived(run, found, book, self.way.reference)
        return [
            _Part(
                {name: value[k] for name, value in values.items()},
                [(name, rule, *(column[k] for column in columns)) for name, rule, *columns in ledger],
                amount[k],
            )
            for k in range(len(members))
        ]

    def _value(self, run: Pass, index: int, name: str) -> Tensor:
        value = run.kept[index]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise UnsupportedModel(f"{name!r} holds no tensor of numbers: name the place behind it")
        return value

    def _filtered(self, began: Begun, index: int, value: Tensor, message: Message, parts: Sequence[Part]) -> Message:
        """A message for each of so many conditions."""
        axis = channel_axis(began.plan, index, value) if self.axis is None else asked_axis(self.axis, value)
        if any(isinstance(part, Directions) for part in parts):
            # relevance that came outright lies along directions as a gradient does
            given = as_gradient(value, message)
            many = given.expand(len(parts), *given.shape[1:])
            return Message(torch.stack([_passed(c, value, part, axis) for c, part in zip(many, parts, strict=True)]))
        masks = torch.stack([_mask(part, value, axis) for part in parts])
        gradient, direct = message
        return Message(None if gradient is None else gradient * masks, None if direct is None else direct * masks)

    def _joined(self, began: Begun, parts: list[_Part]) -> Attributed:
        names = tuple(_title(condition) for condition in self.conditions)
        scores = torch.stack([part.amount for part in parts])
        seeds = Seeds(began.seeds.gradient, scores, names, True)
        inputs = list(parts[0].values)
        zero = torch.zeros_like(scores[0])
        lines = list(dict.fromkeys((line[0], line[1]) for part in parts for line in part.ledger))
        held = [{(line[0], line[1]): line[2:] for line in part.ledger} for part in parts]
        ledger = [
            (*line, *(torch.stack([one[line][k] if line in one else zero for one in held]) for k in range(3)))
            for line in lines
        ]
        return Attributed(
            {name: began.given[name] for name in inputs},
            {name: torch.stack([part.values[name] for part in parts]) for name in inputs},
            seeds, torch.zeros_like(scores), {}, ledger,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Part:
    """Relevance under one condition: by input, line by line, and how much of it there is, (n,)."""

    values: dict[str, Tensor]
    ledger: list[Any]
    amount: Tensor


def _mask(part: Part, value: Tensor, axis: int) -> Tensor:
    """One for what passes, broadcast against (n, *units)."""
    if isinstance(part, Tensor) and part.dtype is not torch.int64:
        try:
            return part.to(value).expand(1, *value.shape[1:])
        except RuntimeError:
            raise ArgumentError(
                f"a mask of shape {tuple(part.shape)} does not fit values of shape {tuple(value.shape[1:])}"
            ) from None
    numbers = numbers_in([part] if isinstance(part, int) else part, "channels")
    if numbers.size and numbers.dtype.kind not in "iu":
        raise ArgumentError(f"channels are whole numbers, not {shown(part)}; a mask is a tensor of the place's shape")
    chosen = torch.as_tensor(numbers.astype(np.int64))
    channels = value.shape[axis]
    if bool((chosen < -channels).any() | (chosen >= channels).any()) or chosen.dim() != 1:
        raise ArgumentError(f"channel {part!r} is out of range: there are {channels}")
    mask = torch.zeros(channels, dtype=value.dtype, device=value.device)
    mask[chosen.to(value.device)] = 1
    return mask.view(1, *(channels if k == axis else 1 for k in range(1, value.dim())))


def _passed(gradient: Tensor, value: Tensor, part: Part, axis: int) -> Tensor:
    if not isinstance(part, Directions):
        return gradient * _mask(part, value, axis)
    basis = part.basis(value.shape[axis], value)
    along = gradient.movedim(axis, -1)
    return (along @ basis @ basis.t()).movedim(-1, axis)


def _title(condition: Condition) -> str:
    said = []
    for name, part in condition.items():
        if isinstance(part, Directions):
            told = "direction" if torch.as_tensor(part.vectors).dim() == 1 else "directions"
        elif isinstance(part, Tensor) and part.dtype is not torch.int64:
            told = "mask"
        else:
            chosen = [part] if isinstance(part, int) else [int(k) for k in part]
            told = listed([str(k) for k in chosen], 4)
        said.append(f"{name}: {told}")
    return ", ".join(said)
