"""What stands at a place of the network where relevance passes: an operator, its way on, its records (one protocol).

A `Site` is made for each operator that relevance reaches. It says which of its inputs relevance goes to, what role it
plays (which rules fit), and becomes a `Step` once its rule is known. Steps run forward once, keeping what their `pull`
needs, and then pull messages from outputs to inputs.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from backlight.engine.graph import Node, Ref
from backlight.errors import ArgumentError, UnsupportedOperator
from backlight.rules import (
    BoundRule,
    Elementwise,
    Facts,
    LinearMap,
    LinearRule,
    Message,
    Pass,
    Proportional,
    Rule,
    WinnerTakesAll,
    Zero,
    as_gradient,
    divide,
    dot,
    relevance,
    row_sums,
)
from backlight.rules.maps import FIRST, Rows, by_row

__all__ = [
    "LedgerRecorder", "LinearSite", "Parts", "Site", "Step", "Transposed", "TransposedStep", "fill", "sum_of", "total",
]  # fmt: skip

# what torch says where an operator cannot go back, by errors of several kinds
_NO_GRADIENT = re.compile(r"not (implemented|differentiable|supported)|no autograd formula")


class Parts(dict[int, Message]):
    """The messages to the members of a tuple of values."""


Messages = Message | Parts
Values = list[Any]


def fill(tree: Any, values: Values) -> Any:
    """Arguments with values in the place of references."""
    kind = type(tree)
    if kind is Ref:
        return values[tree.index]
    if kind is tuple or kind is list:
        return kind([fill(item, values) for item in tree])
    if kind is dict:
        return {key: fill(item, values) for key, item in tree.items()}
    if kind is slice:
        return slice(fill(tree.start, values), fill(tree.stop, values), fill(tree.step, values))
    return tree


def total(value: Tensor, message: Message, rows: Rows | None = FIRST) -> Tensor:
    """Σ of the relevance in a message, (targets, n); where rows cannot be told apart, (targets, 1)."""
    if rows == FIRST:
        amount: Tensor | float = 0.0
        if message.gradient is not None:
            amount = dot(message.gradient, value)
        if message.direct is not None:
            amount = amount + row_sums(message.direct)
        assert isinstance(amount, Tensor)
        if not bool(torch.isfinite(amount).all()) and bool(torch.isinf(value).any()):
            # a score of −∞, where attention is barred: nothing is sent to it, and it has no relevance
            return total(value.masked_fill(torch.isinf(value), 0.0), message)
        return amount
    value = value.masked_fill(torch.isinf(value), 0.0)
    flow = relevance(value, message)
    # a number for the whole batch has no axis
    return flow.reshape(len(flow), -1).sum(1, keepdim=True) if rows is None else by_row(flow, rows)


def sum_of(amounts: Iterable[Tensor]) -> Tensor:
    """Σ of tensors."""
    return reduce(torch.add, amounts)


@dataclass(slots=True)
class LedgerRecorder:
    """Entries of the ledger as they are made, output first.

    Attributes
    ----------
    rows : int
    entries : list of (step, entering, leaving, kept by the bias), each (targets, n)
        Where it is not known what belongs to which row, each row has an equal part of the sum.
    """

    rows: int
    entries: list[tuple[Step, Tensor, Tensor, Tensor]] = field(default_factory=list)

    def enter(
        self, step: Step, entering: Tensor, leaving: Tensor, bias: Tensor | float = 0.0, *, by_row: bool = False
    ) -> None:
        """Relevance that entered a step and left it, and what its bias kept; ``by_row`` where that is by the row."""
        kept = bias if isinstance(bias, Tensor) else torch.zeros_like(entering)
        if not by_row and (step.rows is None or kept.shape[-1] != self.rows):
            kept = kept.flatten(1).sum(1, keepdim=True)
        entering = self._by_row(entering)
        self.entries.append((step, entering, self._by_row(leaving).expand_as(entering), self._by_row(kept)))

    def total(self, value: Tensor, message: Message, rows: Rows | None) -> Tensor:
        """Σ of the relevance in a message, (targets, n), by the row where that is known."""
        return self._by_row(total(value, message, rows))

    def undefined(self, step: Step, value: Tensor, message: Message) -> None:
        """Relevance that came outright to units of value zero, of which a step can hand on nothing: 0/0 is 0."""
        if message.direct is None:
            return
        zeros = message.direct.where(value == 0, 0.0)
        if bool(zeros.any()):
            entering = self.total(value, message, step.rows)
            self.enter(step, entering, entering - self.total(value, Message(direct=zeros), step.rows))

    def _by_row(self, amount: Tensor) -> Tensor:
        return (
            amount
            if amount.shape[-1] == self.rows
            else amount.sum(-1, keepdim=True).div(self.rows).expand(-1, self.rows)
        )


@dataclass(slots=True)
class Step(ABC):
    """A planned operator.

    Attributes
    ----------
    node : Node
    carriers : tuple of int
        The nodes that it hands relevance to.
    out : int
        The node whose value it computes: a later one where a neighbour was fused into it.
    rule, why, cost : str
        For the table of the plan.
    rows, sources : Rows or None
        Where the rows are in the output, and in each carrier; ``None`` where that is not known.
    """

    node: Node
    carriers: tuple[int, ...]
    out: int
    rule: str
    why: str = field(default="", kw_only=True)
    cost: str = field(default="", kw_only=True)
    rows: Rows | None = field(default=FIRST, kw_only=True)
    sources: tuple[Rows | None, ...] = field(default=(), kw_only=True)

    @abstractmethod
    def forward(self, values: Values) -> tuple[Any, Any]:
        """The value, and what `pull` needs kept."""

    @abstractmethod
    def pull(self, record: Any, message: Any, book: LedgerRecorder) -> Sequence[Messages | None]:
        """A message for each carrier."""


@dataclass(slots=True)
class Site(ABC):
    """An operator that relevance reaches, before its rule is known.

    Attributes
    ----------
    role : str
        linear, scale, activation, sum, move, maximum, pool, product, norm, attention, lookup, unknown.
    default : Rule or None
        What runs where no entry of the composite applies; ``None`` where only one way exists.
    """

    node: Node
    carriers: tuple[int, ...]
    role: str
    default: Rule | None

    @property
    def passes_direct(self) -> bool:
        """Whether relevance that does not come as a gradient stays so on its way through."""
        return self.role in ("activation", "move", "maximum", "pool", "scale")

    def emits_direct(self, rule: Rule | None) -> bool:
        """Whether a rule here hands on relevance that is not proportional to the input."""
        return False

    def fits(self, rule: Rule) -> bool:
        """Whether a rule can be used here."""
        return self.role in rule.fits

    @abstractmethod
    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        """The step that runs a rule here."""


# -- layers with weights -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class LinearSite(Site):
    """z = W a + b with constant W; ``inner`` are nodes whose values are formed inside."""

    layer: LinearMap = field(kw_only=True)
    inner: tuple[int, ...] = field(default=(), kw_only=True)

    def fits(self, rule: Rule) -> bool:
        return "linear" in rule.fits

    def emits_direct(self, rule: Rule | None) -> bool:
        return not isinstance(rule, LinearRule) or rule.emits_direct(self.layer)

    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        if isinstance(rule, Pass):
            return _PassLinear(self.node, self.carriers, self.node.index, repr(rule), self.layer, cost="F")
        assert isinstance(rule, LinearRule)
        bound = rule.prepare(self.layer, facts)
        return LinearStep(self.node, self.carriers, self.node.index, repr(rule), self.layer, bound, cost=bound.cost)


@dataclass(slots=True)
class LinearStep(Step):
    layer: LinearMap
    bound: BoundRule
    rectified: bool = False

    def forward(self, values: Values) -> tuple[Any, Any]:
        a = values[self.carriers[0]]
        z = self.layer.apply(a, self.layer.weight, self.layer.bias)
        if self.rectified:
            z = z.relu_()
        return z, (a, z)

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        a, z = record
        aside, settled = None, False
        if isinstance(self.layer, Elementwise) and message.direct is not None:
            # one input a unit: there is nobody else to share with
            aside, message = message.direct, Message(message.gradient)
            if message.gradient is None:
                return (Message(direct=aside),)
        down, bias = self.bound.pull(a, z, message)
        entering, leaving = total(z, message, self.rows), total(a, down, self.sources[0])
        if isinstance(bias, Tensor) and bool(torch.isnan(bias).any()) and bool(torch.isinf(z).any()):
            # a bias of −∞ bars attention, and what it keeps of nothing is nothing
            bias = book.total(z, message, self.rows) - book.total(a, down, self.sources[0])
            settled = True
        book.enter(self, entering, leaving, bias, by_row=settled)
        if aside is not None:
            down = Message(down.gradient, aside if down.direct is None else down.direct + aside)
        return (down,)


@dataclass(slots=True)
class _PassLinear(Step):
    layer: LinearMap

    def forward(self, values: Values) -> tuple[Any, Any]:
        a = values[self.carriers[0]]
        z = self.layer.apply(a, self.layer.weight, self.layer.bias)
        if z.shape != a.shape:
            raise ArgumentError(
                f"Pass needs as many outputs as inputs, and {self.node.name} has {tuple(a.shape[1:])} and "
                f"{tuple(z.shape[1:])}"
            )
        return z, z

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        return (Message(direct=relevance(record, message)),)


# -- operators whose gradient is their own way of sharing --------------------------------------------------------------


@dataclass(slots=True)
class Transposed(Site):
    """An operator that is linear, or picks, in its carriers: the modified gradient goes back by its transpose.

    Attributes
    ----------
    leaks : bool
        Constants take part, and keep their share of the relevance.
    constant_slots : frozenset of int
        Carriers that are held constant: they get nothing.
    """

    leaks: bool = field(default=False, kw_only=True)
    share: Callable[[Tensor], Tensor] | None = field(default=None, kw_only=True)

    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        epsilon = rule.epsilon if isinstance(rule, Proportional) else 0.0
        name = {
            "sum": "Proportional()" if not epsilon else repr(rule), "move": "moves", "maximum": "WinnerTakesAll()",
            "pool": "WinnerTakesAll()", "unknown": "plain gradient",
        }.get(self.role, "held constant")  # fmt: skip
        return TransposedStep(
            self.node, self.carriers, self.node.index, name,
            moves=self.passes_direct, leaks=self.leaks or epsilon > 0, constants=self.leaks and self.role != "unknown",
            epsilon=epsilon,
        )  # fmt: skip


@dataclass(slots=True)
class TransposedStep(Step):
    moves: bool
    leaks: bool
    constants: bool = False
    epsilon: float = 0.0

    def forward(self, values: Values) -> tuple[Any, Any]:
        node = self.node
        leaves = {index: values[index].detach().requires_grad_() for index in dict.fromkeys(self.carriers)}
        held = {index: values[index] for index in leaves}
        for index, leaf in leaves.items():
            values[index] = leaf
        try:
            with torch.enable_grad():
                assert node.target is not None
                out = node.target(*fill(node.args, values), **fill(node.kwargs, values))
        finally:
            for index, value in held.items():
                values[index] = value
        value = out.detach() if isinstance(out, Tensor) else tuple(item.detach() for item in out)
        return value, (tuple(leaves.values()), out)

    def pull(self, record: Any, message: Any, book: LedgerRecorder) -> Sequence[Messages | None]:
        leaves, out = record
        if isinstance(message, Parts):
            outs = [out[k] for k in message]
            mails = list(message.values())
        else:
            outs, mails = [out], [message]
        leaks = self.leaks or (not self.moves and any(mail.direct is not None for mail in mails))
        gradients: list[Tensor | None] = []
        directs: list[Tensor | None] = []
        for value, mail in zip(outs, mails, strict=True):
            gradient, direct = mail
            if direct is not None and not self.moves:
                gradient, direct = as_gradient(value.detach(), mail), None
            if self.epsilon and gradient is not None:
                size = value.detach().abs()
                gradient = gradient * divide(size, size + self.epsilon)
            gradients.append(gradient)
            directs.append(direct)
        down = self._transpose(outs, leaves, gradients)
        straight = self._transpose(outs, leaves, directs)
        sent = [Message(c, r) if c is not None or r is not None else None for c, r in zip(down, straight, strict=True)]
        if leaks:
            pairs = list(zip(outs, gradients, directs, mails, strict=True))
            entering = sum_of(book.total(value.detach(), mail, self.rows) for value, _, _, mail in pairs)
            left = self.leaving(leaves, sent, book)
            kept: Tensor | float = 0.0
            if self.constants:
                # what was shared out and did not leave went to the constants
                kept = sum_of(book.total(v.detach(), Message(c, r), self.rows) for v, c, r, _ in pairs) - left
            book.enter(self, entering, left, kept, by_row=True)
        # a value that is used twice by the operator got one leaf, and one message
        mail_of = dict(zip(dict.fromkeys(self.carriers), sent, strict=True))
        return [mail_of.pop(index, None) for index in self.carriers]

    def leaving(self, leaves: tuple[Tensor, ...], sent: Sequence[Message | None], book: LedgerRecorder) -> Tensor:
        """Σ of what is sent to all carriers, (targets, n)."""
        axes = dict(zip(self.carriers, self.sources, strict=True)).values()
        parts = zip(leaves, sent, axes, strict=True)
        amounts = [book.total(leaf.detach(), mail, axis) for leaf, mail, axis in parts if mail is not None]
        return sum_of(amounts) if amounts else leaves[0].new_zeros(1, book.rows)

    def _transpose(
        self, outs: list[Tensor], leaves: tuple[Tensor, ...], cotangents: list[Tensor | None]
    ) -> list[Tensor | None]:
        pairs = [(value, c) for value, c in zip(outs, cotangents, strict=True) if c is not None and value.requires_grad]
        if not pairs:
            return [None] * len(leaves)
        values = [value for value, _ in pairs]
        try:
            columns = [
                torch.autograd.grad(
                    values,
                    leaves,
                    [c[k].to(value.dtype).expand_as(value) for value, c in pairs],
                    retain_graph=True,
                    allow_unused=True,
                )
                for k in range(pairs[0][1].shape[0])
            ]
        except RuntimeError as error:
            if not isinstance(error, NotImplementedError) and not _NO_GRADIENT.search(str(error)):
                raise
            raise UnsupportedOperator(
                f"operator {self.node.op!r} at {self.node.name!r}, which relevance reaches, has no gradient: {error}"
            ) from error
        found: list[Tensor | None] = []
        for column in zip(*columns, strict=True):
            given = [g for g in column if g is not None]
            if not given:
                found.append(None)
            else:
                found.append(given[0][None] if len(given) == 1 else torch.stack(given))
        return found


DEFAULTS: dict[str, Rule] = {
    "sum": Proportional(),
    "maximum": WinnerTakesAll(),
    "pool": WinnerTakesAll(),
    "scale": Zero(),
}
