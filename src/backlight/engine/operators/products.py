"""Products of signals, gates, normalisations, softmax and attention.

A **factor** is a value that only scales others: a gate (sigmoid), attention weights (softmax), the reciprocal of a
spread. Of factor × signal the signal takes all relevance and the factor counts as a constant; of two signals each takes
half. Normalisations count their statistics of spread as constants and keep the centring, which is linear.

Sources: gates, Arras et al., WASSA 2017; attention weights as constants, Ali et al., "XAI for transformers: better
explanations through conservative propagation", ICML 2022, which treats the spread of a layer norm in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from backlight.engine.graph import Node, Ref
from backlight.engine.operators.registry import Context, find, operator
from backlight.engine.operators.routing import MOVES
from backlight.engine.steps import (
    LedgerRecorder,
    Messages,
    Site,
    Step,
    Transposed,
    TransposedStep,
    Values,
    fill,
    sum_of,
    total,
)
from backlight.rules import Facts, Message, Rule, SignalTakesAll, Uniform, as_gradient, row_sums
from backlight.rules.maps import by_row

__all__ = ["is_factor", "normalisation", "one_product", "product"]

_FACTORS = frozenset({
    "sigmoid", "hardsigmoid", "softmax", "_softmax", "_safe_softmax", "rsqrt", "reciprocal", "std", "var",
    "linalg_vector_norm", "norm",
})  # fmt: skip
_ELEMENTWISE = frozenset({"mul", "multiply", "div", "true_divide"})
_KEEPS_FACTOR = MOVES | {
    "mul",
    "div",
    "add",
    "clamp",
    "clamp_min",
    "sqrt",
    "exp",
    "masked_fill",
    "dropout",
    "clone",
    "neg",
    "mean",
    # a router's weights: the largest of a softmax, over their sum
    "sum",
    "topk",
    "sort",
    "getitem",
}

# operators between a softmax and the product: attention in windows pads, cuts and folds its weights
_FAR = 64


def is_factor(argument: Any, context: Context) -> bool:
    """Whether a value comes from a gate, a softmax or a spread, by operators that keep that meaning."""
    return isinstance(argument, Ref) and _is_factor(argument.index, context, _FAR, {})


def _is_factor(index: int, context: Context, depth: int, known: dict[int, bool]) -> bool:
    # each value once: of sums of sums there are more paths than can be followed
    if index not in known:
        node = context.node(Ref(index))
        carriers = context.carriers(node) if node.op in _KEEPS_FACTOR and node.target is not None and depth else ()
        known[index] = node.op in _FACTORS or (
            bool(carriers) and all(_is_factor(one, context, depth - 1, known) for one in carriers)
        )
    return known[index]


@operator("multiply", "true_divide")
def product(node: Node, context: Context) -> Site | None:
    """A product of two values, of which relevance goes to the signals."""
    arguments = [Ref(index) for index in dict.fromkeys(node.inputs) if context.depends[index]]
    if len(arguments) == 1 and node.inputs.count(arguments[0].index) == 1:
        # linear in its one carrier
        role = "scale" if node.op in ("mul", "div") else "sum"
        if node.op == "div" and node.args[0] != arguments[0]:
            return None
        return _Linear(node, (arguments[0].index,), role, None)
    if node.op == "div":
        # a divisor is a factor: of the signal above it relevance goes to the signal alone
        return _Product(node, (node.args[0].index,), "product", SignalTakesAll())
    if len(arguments) > 2 or len(node.inputs) > 2:
        several = find("einsum of several")
        return several(node, context) if several is not None and node.op == "einsum" else None
    both = tuple(argument.index for argument in arguments)
    if len(both) == 1:
        return _Product(node, both * 2, "product", Uniform())
    # attention weights that are followed are a signal as the values are; routers and gates go on being factors
    followed = context.follows_attention and node.op not in _ELEMENTWISE
    factors = [not followed and is_factor(argument, context) for argument in arguments]
    if factors[0] != factors[1]:
        both = (both[factors.index(False)],)
    return one_product(node, both)


def one_product(node: Node, signals: tuple[int, ...]) -> Site:
    """The site of a product of which these are the signals."""
    return _Product(node, signals, "product", SignalTakesAll() if len(signals) == 1 else Uniform())


@dataclass(slots=True)
class _Linear(Transposed):
    """Linear in its one carrier, with no weights that a rule could change."""

    def fits(self, rule: Rule) -> bool:
        return False

    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        step = super(_Linear, self).bind(None, facts)
        step.rule, step.why = "Zero()", "linear in its only input"
        assert isinstance(step, TransposedStep)
        # what comes outright is not scaled
        step.moves = False
        return step


@dataclass(slots=True)
class _Product(Site):
    """``default`` says which rule the product is for: a gate's path is not followed."""

    def fits(self, rule: Rule) -> bool:
        return type(rule) is type(self.default)

    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        why = "the other factor is a gate, a softmax or a spread" if isinstance(self.default, SignalTakesAll) else ""
        return _ProductStep(self.node, self.carriers, self.node.index, repr(rule), why=why)


@dataclass(slots=True)
class _ProductStep(Step):
    def forward(self, values: Values) -> tuple[Any, Any]:
        node = self.node
        # a value times itself needs two leaves
        leaves: list[Tensor] = [values[index].detach().requires_grad_() for index in self.carriers]
        remaining = dict.fromkeys(self.carriers)
        pending = {
            index: [leaf for i, leaf in zip(self.carriers, leaves, strict=True) if i == index] for index in remaining
        }
        args = _replace(node.args, pending, values)
        with torch.enable_grad():
            assert node.target is not None
            out = node.target(*args, **fill(node.kwargs, values))
        return out.detach(), (leaves, out)

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        leaves, out = record
        gradient = as_gradient(out.detach(), message)
        book.undefined(self, out.detach(), message)
        columns = [
            torch.autograd.grad(out, leaves, gradient[k].expand_as(out), retain_graph=True)
            for k in range(gradient.shape[0])
        ]
        down = [torch.stack(column) for column in zip(*columns, strict=True)]
        return [Message(c / len(leaves)) for c in down]


@operator("addbmm", "addcmul", "addr", "addcdiv")
def product_and_sum(node: Node, context: Context) -> Site | None:
    """β b + α x · y: what is added takes its own share, and the product shares as a product does."""
    added, *factors = node.args[:3]
    carrying = [factor for factor in factors if context.carries(factor)]
    share = {index.index: 1.0 for index in (added,) if context.carries(index)}
    if node.op == "addcdiv" and context.carries(factors[1]):
        carrying = carrying[:1] if context.carries(factors[0]) else []
    if len(carrying) == 2:
        kinds = [is_factor(factor, context) for factor in carrying]
        if kinds[0] != kinds[1]:
            carrying = [carrying[kinds.index(False)]]
    divisors = [*share.values(), *[float(len(carrying))] * len(carrying)]
    carriers = (*share, *(factor.index for factor in carrying))
    left = [argument.index for argument in node.args[:3] if context.carries(argument)]
    if not carriers or (len(set(left)) < len(left) and len(left) > len(carriers)):
        # of a value that stands in two places only one is followed
        return None
    return _SumAndProduct(node, carriers, "sum", None, tuple(divisors))


@dataclass(slots=True)
class _SumAndProduct(Site):
    divisors: tuple[float, ...]

    def fits(self, rule: Rule) -> bool:
        return False

    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        name = "Uniform()" if max(self.divisors) > 1 else "Proportional()"
        return _SumAndProductStep(self.node, self.carriers, self.node.index, name, self.divisors)


@dataclass(slots=True)
class _SumAndProductStep(_ProductStep):
    divisors: tuple[float, ...]

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        leaves, out = record
        whole = [
            sent for sent in super(_SumAndProductStep, self).pull(record, message, book) if isinstance(sent, Message)
        ]
        sent = [
            Message(m.gradient * (len(leaves) / d))
            for m, d in zip(whole, self.divisors, strict=True)
            if m.gradient is not None
        ]
        entering = book.total(out.detach(), message, self.rows)
        parts = zip(leaves, sent, self.sources, strict=True)
        leaving = sum_of(book.total(leaf.detach(), m, axis) for leaf, m, axis in parts)
        # the rest stays with the constants
        book.enter(self, entering, leaving, entering - leaving, by_row=True)
        return sent


def _replace(tree: Any, pending: dict[int, list[Tensor]], values: Values) -> Any:
    if isinstance(tree, Ref):
        return pending[tree.index].pop(0) if pending.get(tree.index) else values[tree.index]
    if isinstance(tree, list | tuple):
        return type(tree)(_replace(item, pending, values) for item in tree)
    return tree


@operator("glu")
def gated_unit(node: Node, context: Context) -> Site | None:
    """Half of the channels times the sigmoid of the other half: the signal takes all."""
    return Transposed(replace(node, target=_gated_signal), context.carriers(node), "sum", None)


def _gated_signal(x: Tensor, dim: int = -1) -> Tensor:
    signal, gate = x.chunk(2, dim)
    return signal * torch.sigmoid(gate.detach())


# -- normalisations ----------------------------------------------------------------------------------------------------


@operator("layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "rms_norm", "_fused_rms_norm")
def normalisation(node: Node, context: Context) -> Site | None:
    if context.carriers(node) != (node.args[0].index,):
        return None
    layout = _layout(node, context)
    return None if layout is None else _Norm(node, (node.args[0].index,), "norm", None, *layout)


def _layout(node: Node, context: Context) -> tuple[int, int, bool, float | None, Tensor | None, Tensor | None] | None:
    """Groups of channels or trailing axes, whether centred, eps, weight and bias."""
    args: list[Any] = list(node.args)
    named = node.kwargs

    def at(position: int, name: str, default: Any = None) -> Any:
        return args[position] if len(args) > position else named.get(name, default)

    def constant(value: Any) -> Tensor | None:
        return context.constant(value) if isinstance(value, Ref) else None

    if node.op in ("layer_norm", "native_layer_norm"):
        eps = at(4, "eps", 1e-5)
        return 0, len(args[1]), True, eps, constant(at(2, "weight")), constant(at(3, "bias"))
    if node.op in ("rms_norm", "_fused_rms_norm"):
        return 0, len(args[1]), False, at(3, "eps"), constant(at(2, "weight")), None
    if node.op == "group_norm":
        return args[1], 0, True, at(4, "eps", 1e-5), constant(at(2, "weight")), constant(at(3, "bias"))
    if node.op == "native_group_norm":
        return args[6], 0, True, args[7], constant(args[1]), constant(args[2])
    shape = node.shape
    if node.op == "instance_norm" and shape is not None:
        return shape[0], 0, True, args[7], constant(args[1]), constant(args[2])
    return None


@dataclass(slots=True)
class _Norm(Site):
    groups: int
    trailing: int
    centred: bool
    eps: float | None
    weight: Tensor | None
    bias: Tensor | None

    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        return _NormStep(
            self.node, self.carriers, self.node.index, "spread held constant",
            self.groups, self.trailing, self.centred, self.eps, self.weight, self.bias,
        )  # fmt: skip


@dataclass(slots=True)
class _NormStep(Step):
    groups: int
    trailing: int
    centred: bool
    eps: float | None
    weight: Tensor | None
    bias: Tensor | None

    def forward(self, values: Values) -> tuple[Any, Any]:
        x = values[self.carriers[0]]
        rows = self._rows(x)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        spread = rows - rows.mean(-1, keepdim=True) if self.centred else rows
        inverse = torch.rsqrt(spread.square().mean(-1, keepdim=True) + eps)
        y = (spread * inverse).reshape(x.shape)
        weight, bias = self._shaped(self.weight, x), self._shaped(self.bias, x)
        if weight is not None:
            y = y * weight
        if bias is not None:
            y = y + bias
        return y, (x, y, inverse)

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        x, y, inverse = record
        gradient = as_gradient(y, message)
        weight = self._shaped(self.weight, x)
        c = gradient if weight is None else gradient * weight
        flat = c.reshape(c.shape[0], *self._rows(x).shape) * inverse
        if self.centred:
            flat = flat - flat.mean(-1, keepdim=True)
        down = Message(flat.reshape(c.shape))
        bias = self._shaped(self.bias, x)
        if bias is not None:
            shared = gradient * bias
            kept = row_sums(shared) if self.rows is None else by_row(shared, self.rows)
            book.enter(self, total(y, message, self.rows), total(x, down, self.sources[0]), kept)
        else:
            book.undefined(self, y, message)
        return (down,)

    def _rows(self, x: Tensor) -> Tensor:
        if self.groups:
            return x.reshape(x.shape[0], self.groups, -1)
        return x.flatten(x.dim() - self.trailing)

    def _shaped(self, parameter: Tensor | None, x: Tensor) -> Tensor | None:
        if parameter is None or not self.groups:
            return parameter
        return parameter.view(-1, *(1,) * (x.dim() - 2))
