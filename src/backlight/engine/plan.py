"""The plan of a network: which rule runs at which place, in which form, and why. What the table says is what runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.engine.composites import Place
from backlight.engine.dependencies import TAILS, Dependencies
from backlight.engine.facts import nonnegative_nodes, receives_direct, switched_off
from backlight.engine.folding import fold
from backlight.engine.graph import Graph, Node
from backlight.engine.operators import find
from backlight.engine.presets import composite, follows_attention
from backlight.engine.rows import RowsFound, follow_rows
from backlight.engine.steps import LinearSite, LinearStep, Site, Step, Transposed, Values, fill
from backlight.errors import ArgumentError, UnsupportedOperator, listed, warn
from backlight.explanation.faces import as_table
from backlight.rules import Epsilon, Facts, Rule
from backlight.rules.maps import FIRST, Rows
from backlight.tables import frame_like

__all__ = ["Plan", "make_plan"]

_COLUMNS = ("site", "operator", "rule", "why", "cost")


@dataclass(slots=True)
class PlainStep(Step):
    """An operator that relevance does not reach: it only computes its value."""

    def forward(self, values: Values) -> tuple[Any, Any]:
        assert self.node.target is not None
        return self.node.target(*fill(self.node.args, values), **fill(self.node.kwargs, values)), None

    def pull(self, record: Any, message: Any, book: Any) -> Sequence[Any]:
        raise AssertionError(f"{self.node.name} was sent relevance")  # pragma: no cover


@dataclass(slots=True)
class Plan:
    """A network made ready to explain.

    Attributes
    ----------
    graph : Graph
    steps : list of Step
        In running order.
    frees : list of tuple of int
        Values that are not needed after each step.
    template : list
        Values by node, with the constants in their places.
    output : int
        The node that is explained.
    tail : list of Step
        What the model does after that: a softmax, for instance.
    places : dict of str to int
        Where relevance can be read, by name.
    title : str
        The composite, and why where it was chosen automatically.
    notes : list of str
        What is worth knowing beside the table.
    apart : bool or None
        Whether the output of a row depends on that row alone; ``None`` while that is not known.
    mixing : str
        The first operator that acts along the rows, or may do so.
    proved : bool
        Whether a first batch has shown that all relevance is accounted for.
    bytes_of_a_row : (float, float) or None
        What the way back of one row takes, see `backlight.engine.checkpoints`, once it was counted.
    """

    graph: Graph
    steps: list[Step]
    frees: list[tuple[int, ...]]
    template: list[Any]
    output: int
    tail: list[Step]
    places: dict[str, int]
    title: str
    notes: list[str]
    apart: bool | None = None
    mixing: str = ""
    proved: bool = False
    bytes_of_a_row: tuple[float, float] | None = None
    _text: str = ""

    @property
    def text(self) -> str:
        """The table as text, written once."""
        if not self._text:
            self._text = repr(self)
        return self._text

    @property
    def inputs(self) -> dict[str, int]:
        """The network's inputs by name."""
        return self.graph.inputs

    def to_frame(self, kind: str = "numpy") -> Any:
        """The table as a data frame: pandas, polars or pyarrow, the first that is installed, or the one named."""
        rows = self.rows()
        return frame_like({name: np.array([row[name] for row in rows], dtype=object) for name in _COLUMNS}, kind)

    def rows(self) -> list[dict[str, str]]:
        """The table, one dict a place, in running order."""
        return [
            {
                "site": step.node.name, "operator": step.node.op + ("+relu" if _rectified(step) else ""),
                "rule": step.rule, "why": step.why, "cost": step.cost,
            }
            for step in self.steps
            if not isinstance(step, PlainStep) and step.rule != "moves"
        ]  # fmt: skip

    def __repr__(self) -> str:
        rows = self.rows()
        names = _COLUMNS
        widths = {name: max([len(name), *(len(row[name]) for row in rows)]) for name in names}
        lines = [f"rules: {self.title} ({self.graph.how}, {len(rows)} places)", *(f"  {note}" for note in self.notes)]
        lines.append("  ".join(name.ljust(widths[name]) for name in names).rstrip())
        lines += ["  ".join(row[name].ljust(widths[name]) for name in names).rstrip() for row in rows]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [[row[name] for name in _COLUMNS] for row in self.rows()]
        return as_table(f"rules: {self.title} ({self.graph.how}, {len(rows)} places)", _COLUMNS, rows, self.notes)


def _rectified(step: Step) -> bool:
    return isinstance(step, LinearStep) and step.rectified


def make_plan(
    graph: Graph, tensors: dict[str, Tensor], rules: Any, *, strict: bool, device: torch.device | None
) -> Plan:
    """Assign a rule to every place of a graph, and prepare it.

    Parameters
    ----------
    graph : Graph
        Simplified.
    tensors : dict of str to Tensor
        The model's parameters and buffers.
    rules : as in `backlight.explain`
    strict : bool
        Raise for an operator without a rule, instead of a warning and its plain gradient.
    device : torch.device, optional

    Raises
    ------
    UnsupportedOperator, ArgumentError
    """
    return _Planner(graph, tensors, rules, strict, device).plan()


class _Planner:
    def __init__(
        self, graph: Graph, tensors: dict[str, Tensor], rules: Any, strict: bool, device: torch.device | None
    ) -> None:
        self.graph, self.rules, self.strict = graph, rules, strict
        self.notes: list[str] = []
        self.known = Dependencies(graph, tensors, device)
        self.template, self.constants = self.known.template, self.known.constants
        self.context = self.known.context
        self.context.follows_attention = follows_attention(rules)

    def plan(self) -> Plan:
        output, after = self.known.explained()
        self.notes += self._words_on_inputs()
        tail: list[Step] = [PlainStep(node, (), node.index, "") for node in after]
        self.notes += [
            f"the model ends in a {TAILS[node.op]}: the logit before it is explained" for node in after[::-1]
        ]
        needed = self.known.needed(output)
        sites = self._sites(output, needed)
        self._fused = fold(sites, self._users(needed))
        order = sorted(sites)
        readers: list[list[int]] = [[] for _ in self.graph.nodes]
        for index in order:
            for carrier in dict.fromkeys(sites[index].carriers):
                readers[carrier].append(index)
        chosen, why, title = self._rules(sites, order)
        direct = receives_direct(self.graph, sites, chosen, readers)
        off = switched_off(self.graph, sites, readers, direct, output)
        known = nonnegative_nodes(self.graph, self.constants)
        steps: dict[int, Step] = {}
        where = follow_rows(self.graph, output, needed)
        for index in order:
            site = sites[index]
            facts = Facts(known[site.carriers[0]], off[index])
            rows = self._rows(where, index)
            if isinstance(site, LinearSite) and rows is not None and rows != FIRST:
                site.layer = replace(site.layer, rows=rows)
            step = site.bind(chosen[index], facts)
            step.out, step.rows = index, rows
            step.sources = tuple(self._rows(where, carrier) for carrier in site.carriers)
            step.why = step.why or why.get(index, "")
            steps[index] = step
        self._rectify(steps, sites, direct, output, needed)
        formed = set(self._fused)
        formed |= {index for site in sites.values() if isinstance(site, LinearSite) for index in site.inner}
        for index in needed:
            if index not in steps and index not in formed and self.graph.nodes[index].target is not None:
                steps[index] = PlainStep(self.graph.nodes[index], (), index, "")
        running = [steps[index] for index in sorted(steps)]
        places: dict[str, int] = {}
        for index in sorted(steps):
            if index in sites:
                places[steps[index].node.name] = places[self.graph.nodes[index].name] = index
        # a place whose value is only formed inside a fused step has the same relevance there
        for inner, outer in self._fused.items():
            places.setdefault(self.graph.nodes[inner].name, outer)
        return Plan(
            self.graph, running, self._frees(running, output), self.template, output, tail, places, title, self.notes,
            True if where.apart else None, where.mixing,
        )  # fmt: skip

    def _rows(self, where: RowsFound, index: int) -> Rows | None:
        """Where the rows of a value are; by its size alone where nothing else is known, which is a symbol's there."""
        node = self.graph.nodes[index]
        guessed = Rows(node.rows) if node.rows is not None and self.graph.how == "exported" else None
        return where.rows[index] or guessed

    def _words_on_inputs(self) -> list[str]:
        """Which output is explained where that was a choice, and which inputs steer the network only."""
        words: list[str] = []
        if self.known.note:
            if self.strict:
                raise ArgumentError(f"strict=True leaves no choice open: {self.known.note}")
            warn(self.known.note)
            words.append(self.known.note)
        if self.graph.note:
            self._say([self.graph.note])
        held = [name for name, index in self.graph.inputs.items() if index not in self.known.sources]
        used = {index for node in self.graph.nodes for index in node.inputs}
        held = [name for name in held if self.graph.inputs[name] in used]
        if held:
            words.append(f"held constant: {listed(held, 6)}")
        return words

    def _users(self, needed: set[int]) -> list[list[int]]:
        """For each value the nodes of this plan that use it."""
        return [[user for user in found if user in needed] for found in self.graph.users()]

    # -- sites ---------------------------------------------------------------------------------------------------------

    def _sites(self, output: int, needed: set[int]) -> dict[int, Site]:
        asked = {output}
        sites: dict[int, Site] = {}
        for node in reversed(self.graph.nodes):
            if node.index not in asked or node.target is None:
                continue
            maker = find(node.op)
            site = None if maker is None else maker(node, self.context)
            if site is None:
                site = self._unknown(node)
            sites[node.index] = site
            asked.update(site.carriers)
        self.asked = asked
        return sites

    def _unknown(self, node: Node) -> Site:
        where = f"operator {node.op!r}" + (f" in module {node.path!r}" if node.path else "")
        where += f" ({node.module.__name__})" if node.module is not None and node.path else ""
        if getattr(getattr(node.target, "_schema", None), "is_mutable", False):
            raise UnsupportedOperator(
                f"{where} works in place in a way that cannot be followed: use the operator that returns a new tensor"
            )
        if self.strict:
            raise UnsupportedOperator(
                f"no rule is known for {where}, which relevance reaches. Three ways out: strict=False lets its plain "
                "gradient through with a warning; backlight.engine.operator registers a rule for it; another method, "
                "such as method='integrated_gradients', needs no rules"
            )
        warn(
            f"no rule is known for {where}: its plain gradient is used, and what that loses stands in the ledger "
            "(strict=True refuses instead)",
        )
        carriers = self.context.carriers(node)
        if not carriers:
            raise UnsupportedOperator(f"no rule is known for {where}, and it has no gradient either")
        return Transposed(node, carriers, "unknown", None, leaks=True)

    # -- rules ---------------------------------------------------------------------------------------------------------

    def _rules(self, sites: dict[int, Site], order: list[int]) -> tuple[dict[int, Rule | None], dict[int, str], str]:
        self.places = self._describe(sites, order)
        chosen: dict[int, Rule | None] = {}
        why: dict[int, str] = {}
        places = [self.places[index] for index in order]
        made, reason = composite(self.rules, places)
        choices = made.choose(places, [sites[index].fits for index in order])
        self._say(choices.words)
        for index, choice in zip(order, choices.rules, strict=True):
            site = sites[index]
            if choice is not None:
                rule, why[index] = choice
                chosen[index] = rule.strictly() if self.strict else rule
                if why[index].startswith("_"):
                    why[index] = ""
            elif site.role == "linear":
                chosen[index], why[index] = Epsilon(), "no entry of the composite applies"
            else:
                chosen[index] = site.default
            if site.role == "scale" and chosen[index] is site.default:
                why[index] = {"add": "a fixed shift", "sub": "a fixed shift", "rsub": "a fixed shift"}.get(
                    site.node.op, "stands alone" if "norm" in site.node.op else "a fixed factor"
                )
        for inside, index in self._fused.items():
            if index in why and "norm" in self.graph.nodes[index].op + self.graph.nodes[inside].op:
                why[index] = (why[index] + ", " if why[index] else "") + "batch normalisation folded in"
        return chosen, why, made.name + (f": {reason}" if reason else "")

    def _say(self, words: list[str]) -> None:
        """Entries of the composite that do not do what they ask for: an error where nothing may be left open."""
        if words and self.strict:
            raise ArgumentError(words[0])
        for word in words:
            warn(word)
        self.notes += words

    def _describe(self, sites: dict[int, Site], order: list[int]) -> dict[int, Place]:
        least: dict[int, int] = dict.fromkeys(self.graph.inputs.values(), 0)
        most: dict[int, int] = dict(least)
        for index in order:
            site = sites[index]
            weight = int(site.role in ("linear", "lookup"))
            below = [least[c] for c in site.carriers if c in least]
            least[index] = min(below, default=0) + weight
            most[index] = max((most[c] for c in site.carriers if c in most), default=0) + weight
        sizes: dict[int, int] = {}
        for index in order:
            node = sites[index].node
            if sites[index].role == "linear" and node.op.startswith("conv") and node.shape is not None:
                sizes[index] = int(torch.Size(node.shape[1:]).numel())
        stages = sorted(set(sizes.values()), reverse=True)
        depths = max((most[index] for index in order), default=0)
        return {
            index: Place(
                sites[index].node.name, sites[index].node.path, sites[index].node.op, sites[index].role,
                sites[index].node.module, sites[index].node.shape,
                sites[index].role == "linear" and least[index] == 1, most[index], depths,
                stages.index(sizes[index]) if index in sizes else -1, len(stages),
            )
            for index in order
        }  # fmt: skip

    def _rectify(
        self, steps: dict[int, Step], sites: dict[int, Site], direct: list[bool], output: int, needed: set[int]
    ) -> None:
        """A layer and the ReLU behind it become one step, which keeps relu(z) alone."""
        users = self._users(needed)
        for index in sorted(steps):
            step = steps[index]
            if not isinstance(step, LinearStep) or index == output or len(users[index]) != 1:
                continue
            after = users[index][0]
            if after in steps and self.graph.nodes[after].op == "relu" and not direct[after]:
                step.rectified, step.out = True, after
                self._fused[index] = after
                del steps[index], steps[after]
                steps[after] = step
                sites[after] = sites[index]

    # -- memory --------------------------------------------------------------------------------------------------------

    def _frees(self, running: list[Step], output: int) -> list[tuple[int, ...]]:
        last: dict[int, int] = {}
        for position, step in enumerate(running):
            uses = step.carriers if isinstance(step, LinearStep) else (*step.node.inputs, *step.carriers)
            for index in uses:
                last[index] = position
            last.setdefault(step.out, position)
        frees: list[list[int]] = [[] for _ in running]
        for index, position in last.items():
            if index not in self.constants and index != output:
                frees[position].append(index)
        return [tuple(indices) for indices in frees]
