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
from dataclasses import dataclass, field
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
        if node.op != "scaled_dot_product_attention" or node.kwargs.get("enable_gqa"):
            return Transposed(node, (value.index,), "attention", None)
        triangle = _is_triangle(context.constant(_option(node, 3, "attn_mask", None)))
        return _Weighing(node, (value.index,), "attention", None, triangle=triangle)
    valued = (value,) if context.carries(value) else ()
    # A V is a product of two signals where V is one, and Q Kᵀ where both are
    shares = [1 / (1 + len(valued)) / len(weighing)] * len(weighing) + [0.5] * len(valued)
    carriers = tuple(argument.index for argument in (*weighing, *valued))
    slots = (*(k for k in range(2) if _followed(node.args[k], context)), *(2 for _ in valued))
    return _Fused(node, carriers, "attention", None, tuple(shares), slots)


def _option(node: Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _is_triangle(mask: Tensor | None) -> bool:
    """Whether a mask bars what comes later and nothing else, which the kernels know without being told one by one."""
    if mask is None or mask.dtype is not torch.bool or mask.dim() < 2 or mask.shape[-1] != mask.shape[-2]:
        return False
    return mask.shape[-1] > 1 and bool((mask == torch.ones_like(mask[(0,) * (mask.dim() - 2)]).tril()).all())


@dataclass(slots=True)
class _Weighing(Transposed):
    """O = A V with A held constant; ``triangle`` where its mask is the causal one."""

    triangle: bool = field(default=False, kw_only=True)

    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        return _WeighingStep(self.node, self.carriers, self.node.index, "held constant", self.triangle)


# numbers of attention weights that are kept from the way on, and that are there at once where they are made again
_KEPT, _AT_ONCE = 2**20, 2**22


@dataclass(slots=True)
class _WeighingStep(Step):
    """c_V = Aᵀ c_O. Of long texts A is made again for some queries at a time, so that it is never there as a whole."""

    triangle: bool

    def forward(self, values: Values) -> tuple[Any, Any]:
        q, k, v, *rest = fill(self.node.args, values)
        given = dict(zip(("attn_mask", "dropout_p", "is_causal"), rest, strict=False)) | fill(self.node.kwargs, values)
        if self.triangle:
            given |= {"attn_mask": None, "is_causal": True}
        weights = None
        if q.dim() == k.dim() and q[..., 0].numel() * k.shape[-2] <= _KEPT:
            weights = _weights(q, k, given, 0, q.shape[-2])
            out = (weights @ v.to(weights.dtype)).to(v.dtype)
        else:
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, **given)
        return out, (q, k, v, given, weights, out)

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        q, k, v, given, weights, out = record
        gradient = as_gradient(out, message)
        dtype = torch.promote_types(q.dtype, torch.float32)
        down = torch.zeros(len(gradient), *v.shape, dtype=dtype, device=v.device)
        step = q.shape[-2] if weights is not None else max(16, _AT_ONCE * k.shape[-1] // max(k.numel(), 1))
        for first in range(0, q.shape[-2], step):
            last = min(first + step, q.shape[-2])
            some = weights if weights is not None else _weights(q, k, given, first, last)
            sent = (gradient[..., first:last, :].to(dtype).mT @ some).mT
            down[..., : some.shape[-1], :] += sent.sum_to_size(
                len(gradient), *v.shape[:-2], some.shape[-1], v.shape[-1]
            )
        found = Message(down.to(v.dtype))
        if message.direct is not None:
            book.enter(self, book.total(out, message, self.rows), book.total(v, found, self.sources[0]), by_row=True)
        return (found,)


def _weights(q: Tensor, k: Tensor, given: dict[str, Any], first: int, last: int) -> Tensor:
    """Attention weights of some queries, to the keys that they may see; in single precision at least, as kernels do."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    scale = given.get("scale")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask, causal = given.get("attn_mask"), bool(given.get("is_causal"))
    seen = min(last, k.shape[-2]) if causal else k.shape[-2]
    scores: Tensor = (q[..., first:last, :].to(dtype) * scale) @ k[..., :seen, :].to(dtype).mT
    if causal:
        queries, keys = torch.arange(first, last, device=q.device), torch.arange(seen, device=q.device)
        scores += torch.zeros(len(queries), seen, dtype=dtype, device=q.device).masked_fill_(
            queries[:, None] < keys, -torch.inf
        )
    if mask is None:
        return scores.softmax(-1)
    part = mask[..., first:last, :seen] if mask.shape[-2] > 1 else mask[..., :seen]
    if part.dtype is torch.bool:
        part = torch.zeros(part.shape, dtype=dtype, device=q.device).masked_fill_(~part, -torch.inf)
    weights: Tensor = (scores + part).softmax(-1)
    barred = torch.isneginf(part).all(-1, keepdim=True)
    # a query that may see nothing gets nothing
    if bool(barred.any()):
        weights = weights.masked_fill(barred, 0.0)
    return weights


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
