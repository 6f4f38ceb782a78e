"""Layer-wise relevance propagation: the engine's face."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from backlight.arguments import shown
from backlight.attribution.heads import head_places
from backlight.attribution.inputs import Batch
from backlight.attribution.requested import Targets
from backlight.attribution.targets import Seeds, resolve
from backlight.attribution.tokens import last_tokens
from backlight.engine.checkpoints import bytes_kept, checkpoints
from backlight.engine.checks import leak_of, rows_are_apart, slack_of
from backlight.engine.copies import Inputs
from backlight.engine.network import Network
from backlight.engine.outputs import Layout, Outputs
from backlight.engine.plan import Plan
from backlight.engine.run import Pass, finish, forward
from backlight.engine.steps import LedgerRecorder
from backlight.errors import ArgumentError, ConservationError, UnsupportedModel, listed, warn
from backlight.references import Reference
from backlight.rules import Message, dot, relevance, row_sums

__all__ = ["MUCH", "TARGET_LINE", "Attributed", "Begun", "LayerwiseRelevance", "arrived", "outputs_for", "whole_of"]

# the ledger's first line where the target is a function of the output: what its gradient does not hold of the score
TARGET_LINE = ("target", "its gradient at the output")

# numbers in the inputs of all rows and targets that share one way back: each target needs messages of its own
_TOGETHER = 2**21


@dataclass(slots=True)
class Attributed:
    """Attributions of one batch.

    Attributes
    ----------
    inputs : dict of str to Tensor
        The inputs that have attributions, by name.
    values : dict of str to Tensor of shape (targets, n, *features)
    seeds : Seeds
    base : Tensor of shape (targets, n)
    layers : dict of str to Tensor of shape (targets, n, *units)
    ledger : list of (name, rule, entering, leaving, bias), each (targets, n)
    """

    inputs: dict[str, Tensor]
    values: dict[str, Tensor]
    seeds: Seeds
    base: Tensor
    layers: dict[str, Tensor] = field(default_factory=dict)
    ledger: list[tuple[str, str, Tensor, Tensor, Tensor]] = field(default_factory=list)


# bytes that the way back may keep before it is held block by block
MUCH = 2**30

Line = tuple[str, str, Tensor, Tensor, Tensor]


@dataclass(slots=True)
class _Chunk:
    """What arrived for some of the targets; ``arriving`` is what was sent in, (targets, n)."""

    values: dict[str, Tensor]
    kept: dict[str, Tensor]
    ledger: list[Line]
    arriving: Tensor

    def missing(self) -> Tensor:
        """What was sent in, less what arrived and less what the ledger holds, (targets, n)."""
        rest = self.arriving - sum(row_sums(value) for value in self.values.values())
        for _, _, entering, leaving, _ in self.ledger:
            rest = rest - (entering - leaving)
        return rest

    def flow(self) -> float:
        """The size of all that was summed up, for one row and target at most."""
        amounts = [self.arriving, *(row_sums(value.abs()) for value in self.values.values())]
        amounts += [amount for line in self.ledger for amount in (line[2], line[3])]
        return sum(float(amount.abs().max()) for amount in amounts if amount.numel())


def _require_closed(plan: Plan, given: dict[str, Any], gradient: Tensor, chunks: list[_Chunk], *, by_row: bool) -> None:
    """All relevance of a first batch arrives or stands in the ledger, row by row or in the sum over the rows."""
    # a model in double precision may form its norms in single precision
    slack = max(slack_of(dtype) for dtype in {gradient.dtype, *plan.graph.precisions})
    for chunk in chunks:
        rest, flow = chunk.missing(), chunk.flow()
        if not by_row:
            # rows that see each other exchange relevance
            rest, flow = rest.sum(-1), flow * rest.shape[-1]
        if math.isfinite(flow) and rest.numel() and float(rest.abs().max()) > slack * flow:
            raise ConservationError(
                f"{leak_of(plan, given, gradient) or 'the plan'} neither hands on nor books "
                f"{float(rest.abs().max()):.3g} of the relevance: this is a fault of the rule or the operator there"
            )
    plan.proved = True


@dataclass(frozen=True, slots=True)
class Begun:
    """A network that ran on a batch.

    Attributes
    ----------
    plan : Plan
    given : dict of str to Tensor
        The inputs by name.
    run : Pass
    seeds : Seeds
    places : dict of str to int
        Nodes whose values were kept, by name.
    """

    plan: Plan
    given: dict[str, Any]
    run: Pass
    seeds: Seeds
    places: dict[str, int]


@dataclass(slots=True)
class LayerwiseRelevance:
    """Explains batches of one model by one plan for each shape of input."""

    model: nn.Module
    rules: Any
    strict: bool
    device: torch.device | None
    reference: Any
    layers: Sequence[str]
    output: Any = None
    rows: str = "separate"

    def plan(self, batch: Batch, targets: Targets | None = None) -> Plan:
        """What will run for such a batch."""
        outputs = outputs_for(self.output, targets)
        return Network.of(self.model).plan(
            (batch.args, batch.kwargs), self.rules, strict=self.strict, device=self.device, outputs=outputs
        )

    def facts(self, batch: Batch, targets: Targets | None = None) -> dict[str, Any]:
        """For the provenance: the method's name, the plan and a hash of the weights."""
        plan = self.plan(batch, targets)
        title = f"lrp ({plan.title.partition(': ')[0]})"
        return {"method": title, "plan": plan.text, "weights": Network.of(self.model).fingerprint()}

    def ran(
        self, batch: Batch, places: Sequence[str] = (), targets: Targets | None = None
    ) -> tuple[Plan, dict[str, Any], Pass, dict[str, int]]:
        """The plan, the inputs by name, the forward pass, and the places whose values were kept, by name."""
        plan = self.plan(batch, targets)
        leaves = pytree.tree_leaves((batch.args, batch.kwargs))
        given = dict(zip(plan.inputs, leaves, strict=True))
        found = self._places(plan, places)
        whole, blockwise = bytes_kept(plan, batch.rows)
        cuts = checkpoints(plan) if whole > MUCH and blockwise < whole else ()
        try:
            run = forward(plan, given, list(found.values()), cuts=cuts)
        except Exception:
            # operators fail on some numbers, in the plan as in the model itself, which then says so; where the model
            # runs, the plan is wrong, and what it raised is a fault to be seen
            Network.of(self.model).run((batch.args, batch.kwargs))
            raise
        return plan, given, run, found

    def begun(self, batch: Batch, targets: Targets, places: Sequence[str] | None = None) -> Begun:
        """The forward pass, and what is to be sent back.

        Parameters
        ----------
        batch : Batch
        targets : Targets
        places : sequence of str, optional
            Names or patterns of places whose values are kept; by default the layers that were asked for.

        Raises
        ------
        ArgumentError, UnsupportedModel
        """
        inputs = (batch.args, batch.kwargs)
        plan, given, run, found = self.ran(batch, self.layers if places is None else places, targets)
        joint = self.rows == "joint"
        if run.output.dim() == 0 or len(run.output) != batch.rows:
            raise UnsupportedModel(
                f"the explained output has shape {tuple(run.output.shape)} for {batch.rows} rows: it must have one "
                "entry a row; output= chooses among several outputs"
            )
        answer = whole_of(plan.graph.layout, targets, lambda out: finish(plan, out))
        seeds = resolve(targets, run.output, answer, joint=joint, last=last_tokens(given, run.output))
        if not joint:
            self._require_separate_rows(plan, inputs, seeds)
        return Begun(plan, given, run, seeds, found)

    def __call__(self, batch: Batch, targets: Targets) -> Attributed:
        began = self.begun(batch, targets)
        plan, given, run, seeds, places = began.plan, began.given, began.run, began.seeds, began.places
        leaves = list(given.values())
        joint = self.rows == "joint"
        # joint: every row's score is one to be sent back through all rows
        gradient = seeds.gradient.flatten(0, 1) if joint else seeds.gradient
        chunks: list[_Chunk] = []
        size = sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))
        step = max(1, min(64, _TOGETHER // max(size, 1)))
        for first in range(0, len(gradient), step):
            part = gradient[first : first + step]
            found, book = run.relevance(part, last=first + step >= len(gradient))
            chunks.append(self._chunk(run, part, found, book, places))
        if not plan.proved:
            _require_closed(plan, given, gradient, chunks, by_row=not joint and plan.apart is True)

        def joined(parts: list[Tensor]) -> Tensor:
            whole = torch.cat(parts)
            return whole.reshape(*seeds.scores.shape, *whole.shape[1:]) if joint else whole

        names = list(chunks[0].values)
        ledger: list[Line] = [
            (name, rule, *(joined([chunk.ledger[k][column] for chunk in chunks]) for column in (2, 3, 4)))  # type: ignore[misc]
            for k, (name, rule, *_) in enumerate(chunks[0].ledger)
        ]
        if joint:
            ledger = [(name, rule, *(column.sum(-1) for column in columns)) for name, rule, *columns in ledger]  # type: ignore[misc]
        if seeds.functions:
            arriving = dot(gradient, run.output)
            arriving = arriving.reshape(*seeds.scores.shape, -1).sum(-1) if joint else arriving
            ledger.insert(0, (*TARGET_LINE, seeds.scores, arriving, torch.zeros_like(arriving)))
        return Attributed(
            {
                name: given[name][None].expand(batch.rows, *given[name].shape) if joint else given[name]
                for name in names
            },
            {name: joined([chunk.values[name] for chunk in chunks]) for name in names},
            seeds,
            torch.zeros_like(seeds.scores),
            {name: joined([chunk.kept[name] for chunk in chunks]) for name in chunks[0].kept},
            ledger,
        )

    def _chunk(
        self, run: Pass, seed: Tensor, found: dict[int, Message], book: LedgerRecorder, places: dict[str, int]
    ) -> _Chunk:
        """What arrived of some of the targets, and what the ledger says of it."""
        plan = run.plan
        values, entries = arrived(run, found, book, self.reference)
        kept = {place: relevance(run.kept[index], found[index]) for place, index in places.items() if index in found}
        chunk = _Chunk(values, kept, entries, dot(seed, run.output))
        unknown = [k for k, (s, *_) in enumerate(book.entries) if s.rows is None or None in s.sources]
        if unknown and self.rows == "separate" and plan.apart:
            # the sum over the rows is known there, and what each row lacks: these lines share it
            share = chunk.missing() / len(unknown)
            share = share - share.mean(-1, keepdim=True)
            for k in unknown:
                name, rule, entering, leaving, bias = entries[k]
                absorbed = entering - leaving + share
                # what a rule loses beside its bias is known for all rows together
                lost = (absorbed - bias).mean(-1, keepdim=True)
                entries[k] = (name, rule, entering, leaving - share, absorbed - lost)
        return chunk

    def _require_separate_rows(self, plan: Plan, inputs: Inputs, seeds: Seeds) -> None:
        if seeds.mixing:
            said = "the target function gives a row a score that depends on other rows' outputs"
        elif not rows_are_apart(plan, self.model, inputs):
            said = f"the rows of a batch see each other at {plan.mixing}"
        else:
            return
        said += (
            ": values of a row are what it does for the scores of all rows together; rows='joint' tells them apart, "
            "batch_size=1 explains each row alone"
        )
        if self.strict:
            raise UnsupportedModel(said)
        warn(said)

    def _places(self, plan: Plan, patterns: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for pattern in patterns:
            if pattern == "heads":
                found |= head_places(plan)
                continue
            # a tuple of values has its members' relevance, and none of its own
            known = {name: index for name, index in plan.places.items() if plan.graph.nodes[index].dtype is not None}
            matched = {name: index for name, index in known.items() if fnmatch.fnmatchcase(name, pattern)}
            if not matched:
                raise ArgumentError(f"no layer is named {pattern!r}: the layers are {listed(plan.places, 12)}")
            found |= matched
        return found


def arrived(
    run: Pass, found: Mapping[int, Message], book: LedgerRecorder, reference: Any
) -> tuple[dict[str, Tensor], list[Line]]:
    """Relevance of the inputs, each (targets, n, *features), and the lines of the ledger."""
    entries: list[Line] = [(s.node.name, s.rule, *amounts) for s, *amounts in book.entries]  # type: ignore[misc]
    values: dict[str, Tensor] = {}
    for name, index in run.plan.inputs.items():
        if index not in found:
            continue
        x = run.inputs[name]
        point = point_of(reference, name, x, len(run.plan.inputs))
        values[name] = relevance(x if point is None else x - point, found[index])
        if point is not None and found[index].gradient is not None:
            through = Message(found[index].gradient)
            entering, leaving = (row_sums(relevance(v, through)) for v in (x, x - point))
            # what stays at the reference is named by it, as what a bias keeps is named by the bias
            entries.append((f"input {name}", "reference", entering, leaving, entering - leaving))
    return values, entries


def outputs_for(output: Any, targets: Targets | None) -> Outputs:
    """Which of the model's outputs is explained: the chosen one; without a choice, all that a target function sees."""
    functions = targets is not None and any(item.function is not None for item in targets.items)
    return Outputs(output, output is None and functions)


def whole_of(layout: Layout | None, targets: Targets, finish: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Any]:
    """From the explained output to what a target function is given."""
    if layout is None:
        return finish
    if layout.several and any(item.function is None for item in targets.items):
        raise ArgumentError("the model returns several outputs: output= says which of them an index is one of")
    return lambda out: layout.rebuild(finish(out))


def point_of(reference: Any, name: str, x: Tensor, inputs: int) -> Tensor | None:
    """The reference point of one of so many inputs, broadcast against its rows; ``None`` where none is given."""
    if reference is not None and inputs > 1 and not isinstance(reference, dict):
        raise ArgumentError("a network of several inputs needs a dict of references by input")
    given = reference.get(name) if isinstance(reference, dict) else reference
    return None if given is None else reference_point(given, x)


def reference_point(given: Any, x: Tensor) -> Tensor:
    """A reference as a tensor that broadcasts against the rows of x."""
    given = given.origin() if isinstance(given, Reference) else given
    try:
        point = torch.as_tensor(given, dtype=x.dtype, device=x.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(
            f"reference={shown(given)} is no point among the inputs: give one row of numbers, for instance the mean of "
            "the data"
        ) from error
    try:
        return point.expand(1, *x.shape[1:]) if point.dim() < x.dim() or point.shape[0] == 1 else point.expand_as(x)
    except RuntimeError:
        raise ArgumentError(
            f"a reference of shape {tuple(point.shape)} is no point among inputs of shape {tuple(x.shape[1:])}: give "
            "one row, for instance the mean of the data"
        ) from None
