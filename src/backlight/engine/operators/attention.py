"""Attention: softmax, and the fused operators.

By default attention weights are constants, as of Ali et al., "XAI for transformers: better explanations through
conservative propagation", ICML 2022: relevance goes to the values alone. A composite with ``attention="gradient"``
follows them, as of Achtibat et al., "AttnLRP: attention-aware layer-wise relevance propagation for transformers", ICML
2024. With messages c, relevance being value times message, and O = A V, A = softmax(S), S = τ Q Kᵀ + mask:

.. math:: c_A = c_O V^T / 2, \\quad c_V = A^T c_O / 2, \\quad c_S = A \\odot (c_A - \\sum_j A_j c_{A,j}),
    \\quad c_Q = \\tau c_S K / 2, \\quad c_K = \\tau c_S^T Q / 2

so that the gradients of a fused operator serve as they are: a fourth of those of Q and K, half of that of V. The first
order of the softmax at S leaves a constant, which keeps Σ A c_A − Σ S c_S: an entry of the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backlight.engine.graph import Node
from backlight.engine.operators.registry import Context, operator
from backlight.engine.steps import LedgerRecorder, Messages, Site, Step, Transposed, Values, fill, sum_of
from backlight.rules import Facts, Message, Rule, as_gradient

__all__ = ["attention", "softmax"]

_RULE = "softmax by its gradient"


@operator("softmax", "_softmax", "_safe_softmax")
def softmax(node: Node, context: Context) -> Site | None:
    source = node.args[0]
    return _Softmax(node, (source.index,), "attention", None) if _followed(source, context) else None


def _followed(argument: Any, context: Context) -> bool:
    return context.follows_attention and context.carries(argument)


@dataclass(slots=True)
class _Softmax(Site):
    def fits(self, rule: Rule) -> bool:
        return False

    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        return _SoftmaxStep(self.node, self.carriers, self.node.index, _RULE)


@dataclass(slots=True)
class _SoftmaxStep(Step):
    def forward(self, values: Values) -> tuple[Any, Any]:
        assert self.node.target is not None
        x = values[self.carriers[0]]
        y = self.node.target(*fill(self.node.args, values), **fill(self.node.kwargs, values))
        return y, (x, y)

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        x, y = record
        axis = self.node.args[1] if len(self.node.args) > 1 else self.node.kwargs["dim"]
        c = as_gradient(y, message)
        down = y * (c - (y * c).sum(axis - y.dim() if axis >= 0 else axis, keepdim=True))
        sent = Message(down.to(x.dtype))
        entering = book.total(y, message, self.rows)
        # where attention is barred a score may be −∞: its weight is zero, and so is its relevance
        leaving = book.total(x.masked_fill(torch.isinf(x), 0.0), sent, self.sources[0])
        book.enter(self, entering, leaving, entering - leaving, by_row=True)
        return (sent,)


@operator(
    "scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)  # fmt: skip
def attention(node: Node, context: Context) -> Site | None:
    weighing = tuple(argument for argument in node.args[:2] if _followed(argument, context))
    value = node.args[2]
    if not weighing:
        if not context.carries(value):
            return None
        if value in node.args[:2]:
            # what attends is also what is attended to: held constant in the one place, not in the other
            return _Fused(node, (value.index,), "attention", None, (1.0,), (2,))
        return Transposed(node, (value.index,), "attention", None)
    valued = (value,) if context.carries(value) else ()
    # A V is a product of two signals where V is one, and Q Kᵀ where both are
    shares = [1 / (1 + len(valued)) / len(weighing)] * len(weighing) + [0.5] * len(valued)
    carriers = tuple(argument.index for argument in (*weighing, *valued))
    slots = (*(k for k in range(2) if _followed(node.args[k], context)), *(2 for _ in valued))
    return _Fused(node, carriers, "attention", None, tuple(shares), slots)


@dataclass(slots=True)
class _Fused(Site):
    shares: tuple[float, ...]
    slots: tuple[int, ...]

    def fits(self, rule: Rule) -> bool:
        return False

    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        said = "held constant" if self.slots == (2,) else _RULE
        return _FusedStep(self.node, self.carriers, self.node.index, said, self.shares, self.slots)


@dataclass(slots=True)
class _FusedStep(Step):
    shares: tuple[float, ...]
    slots: tuple[int, ...]

    def forward(self, values: Values) -> tuple[Any, Any]:
        args = list(fill(self.node.args, values))
        # the same value may stand in several places: a leaf for each
        leaves = [args[slot].detach().requires_grad_() for slot in self.slots]
        for slot, leaf in zip(self.slots, leaves, strict=True):
            args[slot] = leaf
        with torch.enable_grad():
            assert self.node.target is not None
            out = self.node.target(*args, **fill(self.node.kwargs, values))
            out = out[0] if isinstance(out, tuple) else out
        return out.detach(), (leaves, out)

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        leaves, out = record
        columns: list[tuple[Tensor, ...]] = [
            torch.autograd.grad(out, leaves, c.expand_as(out), retain_graph=True)
            for c in as_gradient(out.detach(), message)
        ]
        down = [torch.stack(column) for column in zip(*columns, strict=True)]
        sent = [Message(c * share) for c, share in zip(down, self.shares, strict=True)]
        entering = book.total(out.detach(), message, self.rows)
        parts = zip(leaves, sent, self.sources, strict=True)
        leaving = sum_of(book.total(leaf.detach(), m, axis) for leaf, m, axis in parts)
        book.enter(self, entering, leaving, entering - leaving, by_row=True)
        return sent
