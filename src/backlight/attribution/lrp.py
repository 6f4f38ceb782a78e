"""Layer-wise relevance propagation: the engine's face."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from backlight.attribution.inputs import Batch
from backlight.attribution.requested import Targets
from backlight.attribution.targets import Seeds, resolve
from backlight.engine.network import Network
from backlight.engine.outputs import Layout, Outputs
from backlight.engine.plan import Plan
from backlight.engine.run import finish, forward
from backlight.errors import ArgumentError, listed
from backlight.references import Reference
from backlight.rules import Message, dot, relevance, row_sums

__all__ = ["TARGET_LINE", "Attributed", "LayerwiseRelevance", "outputs_for", "whole_of"]

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

    def __call__(self, batch: Batch, targets: Targets) -> Attributed:
        plan = self.plan(batch, targets)
        leaves = pytree.tree_leaves((batch.args, batch.kwargs))
        given = dict(zip(plan.inputs, leaves, strict=True))
        places = self._places(plan)
        run = forward(plan, given, list(places.values()))
        answer = whole_of(plan.graph.layout, targets, lambda out: finish(plan, out))
        seeds = resolve(targets, run.output, answer)
        values: dict[str, list[Tensor]] = {}
        kept: dict[str, list[Tensor]] = {name: [] for name in places}
        ledger: list[list[tuple[str, str, Tensor, Tensor, Tensor]]] = []
        size = sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))
        step = max(1, min(64, _TOGETHER // max(size, 1)))
        for first in range(0, len(seeds.gradient), step):
            last = first + step >= len(seeds.gradient)
            found, book = run.relevance(seeds.gradient[first : first + step], last=last)
            entries = [(s.node.name, s.rule, entering, leaving, bias) for s, entering, leaving, bias in book.entries]
            if seeds.functions:
                part = slice(first, first + step)
                arriving = dot(seeds.gradient[part], run.output)
                entries.insert(0, (*TARGET_LINE, seeds.scores[part], arriving, torch.zeros_like(arriving)))
            for name, index in plan.inputs.items():
                if index in found:
                    x = given[name]
                    point = point_of(self.reference, name, x, len(plan.inputs))
                    values.setdefault(name, []).append(relevance(x if point is None else x - point, found[index]))
                    if point is not None and found[index].gradient is not None:
                        through = Message(found[index].gradient)
                        entering, leaving = (row_sums(relevance(v, through)) for v in (x, x - point))
                        # what stays at the reference is named by it, as what a bias keeps is named by the bias
                        entries.append((f"input {name}", "reference", entering, leaving, entering - leaving))
            for place, index in places.items():
                if index in found:
                    kept[place].append(relevance(run.kept[index], found[index]))
            ledger.append(entries)
        return Attributed(
            {name: given[name] for name in values},
            {name: torch.cat(parts) for name, parts in values.items()},
            seeds,
            torch.zeros_like(seeds.scores),
            {name: torch.cat(parts) for name, parts in kept.items() if parts},
            ledger[0]
            if len(ledger) == 1
            else [
                (name, rule, *(torch.cat([part[k][column] for part in ledger]) for column in (2, 3, 4)))  # type: ignore[misc]
                for k, (name, rule, *_) in enumerate(ledger[0])
            ],
        )

    def _places(self, plan: Plan) -> dict[str, int]:
        found: dict[str, int] = {}
        for pattern in self.layers:
            matched = {name: index for name, index in plan.places.items() if fnmatch.fnmatchcase(name, pattern)}
            if not matched:
                raise ArgumentError(f"no layer is named {pattern!r}: the layers are {listed(plan.places, 12)}")
            found |= matched
        return found


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
    point = torch.as_tensor(given, dtype=x.dtype, device=x.device)
    try:
        return point.expand(1, *x.shape[1:]) if point.dim() < x.dim() or point.shape[0] == 1 else point.expand_as(x)
    except RuntimeError:
        raise ArgumentError(
            f"a reference of shape {tuple(point.shape)} is no point among inputs of shape {tuple(x.shape[1:])}: give "
            "one row, for instance the mean of the data"
        ) from None
