"""The one loop: forward through the steps, then messages back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backlight.engine.memory import give_back
from backlight.engine.plan import Plan
from backlight.engine.steps import LedgerRecorder, Parts, Step
from backlight.rules import Message

__all__ = ["Pass", "forward"]

Watch = Callable[[int, Any, Any, LedgerRecorder, int], None]


@dataclass(slots=True)
class Pass:
    """A network that ran forward and waits for what is to be explained.

    Attributes
    ----------
    plan : Plan
    records : list
        What each step keeps for its `pull`.
    inputs : dict of str to Tensor
    output : Tensor of shape (n, …)
        The explained output.
    kept : dict of int to Tensor
        Values at places where relevance is asked for.
    entries : dict of int to (dict of int to value)
        By the position of a block's first step, the values that it begins with; `records` of its steps are made again.
    """

    plan: Plan
    records: list[Any]
    inputs: dict[str, Any]
    output: Tensor
    kept: dict[int, Tensor]
    entries: dict[int, dict[int, Any]] = field(default_factory=dict)
    _held: int = -1

    def relevance(
        self,
        seed: Tensor | Message,
        *,
        last: bool = False,
        watch: Watch | None = None,
        start: int | None = None,
        until: Collection[int] | None = None,
    ) -> tuple[dict[int, Message], LedgerRecorder]:
        """Send relevance back from the output, or from a place before it.

        Parameters
        ----------
        seed : Tensor of shape (targets, n, …), or Message
            The modified gradient where it starts: relevance is value · seed there. For output unit k: one at k.
        last : bool
            Nothing else will be explained: what the steps keep is let go on the way.
        watch : callable, optional
            Called behind each step with its position, what it received and sent, and the ledger before it.
        start : int, optional
            The node it starts at; by default the explained output.
        until : collection of int, optional
            Only what arrives at these nodes is asked for; nothing is done before the first of them.

        Returns
        -------
        dict of int to Message
            What arrived at the inputs and at the places that were asked for.
        LedgerRecorder
        """
        plan, book = self.plan, LedgerRecorder(self.output.shape[0])
        begin = plan.output if start is None else start
        mail: dict[int, Any] = {begin: seed if isinstance(seed, Message) else Message(seed)}
        wanted = set(plan.inputs.values()) | set(self.kept) if until is None else set(until)
        end = min(wanted, default=0)
        found: dict[int, Message] = {}
        with torch.inference_mode(False), torch.no_grad():
            for position in range(len(plan.steps) - 1, -1, -1):
                step = plan.steps[position]
                if step.out < end:
                    break
                message = mail.pop(step.out, None)
                if message is None:
                    continue
                if self.entries:
                    self._again(position)
                message = _typed(message, plan.graph.nodes[step.out].dtype)
                if step.out in wanted:
                    found[step.out] = message
                    if step.out == end and end not in plan.inputs.values():
                        break
                before = len(book.entries)
                sent = step.pull(self.records[position], message, book)
                if watch is not None:
                    watch(position, message, sent, book, before)
                if last:
                    self.records[position] = None
                if position in self.entries:
                    self._forget(position)
                for carrier, part in zip(step.carriers, sent, strict=True):
                    if part is not None:
                        mail[carrier] = _together(mail.get(carrier), part)
        found |= {index: message for index, message in mail.items() if index in wanted}
        return found, book

    def _again(self, position: int) -> None:
        """The records of the block that a step is in, where they are not there."""
        begin = max(k for k in self.entries if k <= position)
        if self._held == begin:
            return
        self._forget(self._held)
        stop = min((k for k in self.entries if k > begin), default=len(self.plan.steps))
        values = list(self.plan.template)
        for index, value in self.entries[begin].items():
            values[index] = value
        for k in range(begin, stop):
            step = self.plan.steps[k]
            values[step.out], self.records[k] = step.forward(values)
            for index in self.plan.frees[k]:
                values[index] = None
        self._held = begin

    def _forget(self, begin: int) -> None:
        if begin < 0:
            return
        stop = min((k for k in self.entries if k > begin), default=len(self.plan.steps))
        self.records[begin:stop] = [None] * (stop - begin)
        self._held = -1
        give_back()


def forward(
    plan: Plan,
    inputs: dict[str, Any],
    keep: Sequence[int] = (),
    put: Mapping[int, Callable[[Any], Any]] | None = None,
    cuts: Sequence[int] = (),
) -> Pass:
    """Run a planned network on inputs by name, keeping what the way back needs.

    Parameters
    ----------
    plan : Plan
    inputs : dict of str to Tensor
    keep : sequence of int
        Nodes whose values are kept beside it.
    put : mapping of int to callable, optional
        What goes on in the place of a node's value, as a function of it: an intervention.
    cuts : sequence of int
        Positions of steps that begin a block: what the steps keep is dropped, and made again block by block.
    """
    values = list(plan.template)
    for name, index in plan.inputs.items():
        values[index] = inputs[name]
    records: list[Any] = []
    kept: dict[int, Tensor] = {}
    entries: dict[int, dict[int, Any]] = {}
    begins = {0, *cuts} if cuts else set()
    with torch.inference_mode(False), torch.no_grad():
        for position, (step, gone) in enumerate(zip(plan.steps, plan.frees, strict=True)):
            if position in begins:
                if position:
                    give_back()
                entries[position] = {k: v for k, v in enumerate(values) if v is not None and plan.template[k] is None}
            values[step.out], record = step.forward(values)
            records.append(None if begins else record)
            if put is not None and step.out in put:
                values[step.out] = put[step.out](values[step.out])
            if step.out in keep:
                kept[step.out] = values[step.out]
            for index in gone:
                values[index] = None
    return Pass(plan, records, inputs, values[plan.output], kept, entries)


def finish(plan: Plan, output: Tensor) -> Tensor:
    """What the model makes of the explained output: its softmax, for instance."""
    values = list(plan.template)
    values[plan.output] = output
    for step in plan.tail:
        values[step.out], _ = step.forward(values)
    return values[plan.tail[-1].out] if plan.tail else output


def _typed(message: Any, dtype: torch.dtype | None) -> Any:
    """A message in the precision of the value that it is for: operators may mix several."""
    if not isinstance(message, Message) or dtype is None or not dtype.is_floating_point:
        return message
    gradient, direct = message
    return Message(None if gradient is None else gradient.to(dtype), None if direct is None else direct.to(dtype))


def _together(held: Any, part: Any) -> Any:
    if held is None:
        return part
    if isinstance(part, Parts):
        for member, message in part.items():
            held[member] = _together(held.get(member), message)
        return held
    return Message(_sum(held.gradient, part.gradient), _sum(held.direct, part.direct))


def _sum(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    if x is None:
        return y
    return x if y is None else x + y


__all__ += ["Step", "finish"]
