r"""Operations of several inputs on rows and references, (2n, …), by mean gradients along the line between the two.

* products, element by element or of matrices: :math:`ab-\tilde a\tilde b = \bar b\,(a-\tilde a) + \bar a\,(b-\tilde b)`
  with the means :math:`\bar a = (a+\tilde a)/2`; quotients are products with a reciprocal, which is a function of one;
* softmax: with the logarithmic mean :math:`L_k = (p_k-\tilde p_k)/(\log p_k-\log\tilde p_k)` of the two probabilities,
  :math:`p_k-\tilde p_k = L_k\,(\Delta_k - \sum_l L_l\Delta_l/\sum_l L_l)` of differences Δ of the logits: the softmax'
  own gradient with L in the place of p;
* norms over features and attention are made of these.

All are exact: the gradient times the difference of the inputs is the difference of the outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["OPERATORS", "Secant", "names_of"]

# Below this share of the larger one a difference is rounding, and the secant is the derivative.
_CLOSE = 1e-5

# From a function's arguments, positional and by name, to its output; None where it is linear as it is called.
Operator = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Tensor | None]
OPERATORS: dict[str, Operator] = {}


class Secant(torch.autograd.Function):
    """A function of single elements on rows and references, (2n, …); its gradient is the secant, on the rows."""

    @staticmethod
    def forward(ctx: Any, both: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The function."""
        out = function(both.clone())
        ctx.save_for_backward(both, out)
        ctx.function = function
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The secant, and where both are close the derivative."""
        both, out = ctx.saved_tensors
        (a, b), (ya, yb) = both.chunk(2), out.chunk(2)
        apart = (a - b).abs() > _CLOSE * torch.maximum(a.abs(), b.abs())
        with torch.enable_grad():
            middle = ((a + b) / 2).requires_grad_()
            (slope,) = torch.autograd.grad(ctx.function(middle.clone()).sum(), middle)
        slope = torch.where(apart, (ya - yb) / torch.where(apart, a - b, 1.0), slope)
        top = grads[0].chunk(2)[0] * slope
        return torch.cat([top, torch.zeros_like(top)]), None


class _Softmax(torch.autograd.Function):
    """Softmax over an axis, or its logarithm, on rows and references."""

    @staticmethod
    def forward(ctx: Any, both: Tensor, axis: int, log: bool) -> Tensor:
        logs = both.log_softmax(axis)
        ctx.save_for_backward(logs)
        ctx.axis, ctx.log = axis, log
        return logs.clone() if log else logs.exp()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (logs,) = ctx.saved_tensors
        a, b = logs.chunk(2)
        p, q = a.exp(), b.exp()
        apart = (a - b).abs() > _CLOSE
        # a masked entry is −∞ in both, and has no part in either
        apart = apart & torch.isfinite(a - b)
        mean = torch.where(apart, (p - q) / torch.where(apart, a - b, 1.0), (p + q) / 2)
        share = mean / mean.sum(ctx.axis, keepdim=True)
        top = grads[0].chunk(2)[0]
        if ctx.log:
            found = top - share * top.sum(ctx.axis, keepdim=True)
        else:
            found = mean * top - share * (mean * top).sum(ctx.axis, keepdim=True)
        return torch.cat([found, torch.zeros_like(found)]), None, None


def names_of(*names: str) -> Callable[[Operator], Operator]:
    """Register an operator by torch's names for it."""

    def keep(operator: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, operator))
        return operator

    return keep


def _varies(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _secant(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    found: Tensor = Secant.apply(x, function)  # type: ignore[no-untyped-call]
    return found


def _mean(both: Tensor) -> Tensor:
    """The mean of each row and its reference, in the place of both."""
    middle = (both[: len(both) // 2] + both[len(both) // 2 :]) / 2
    return torch.cat([middle, middle]).detach()


def _product(function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """A bilinear function, whose gradient by each factor is taken at the mean of the other."""
    with torch.no_grad():
        value = function(a, b)
    first, second = function(a, _mean(b)), function(_mean(a), b)
    return value + (first - first.detach()) + (second - second.detach())


@names_of("mul", "multiply", "__mul__", "__rmul__", "matmul", "__matmul__", "__rmatmul__", "bmm")
def _multiplied(func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Tensor | None:
    a, b = args[0], args[1] if len(args) > 1 else next(iter(given.values()))
    return _product(func, a, b) if _varies(a) and _varies(b) else None


@names_of("einsum")
def _summed(func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Tensor | None:
    factors = args[1:] if len(args) > 2 else tuple(args[1])
    if len(factors) != 2 or not all(map(_varies, factors)):
        return None
    return _product(lambda a, b: func(args[0], a, b), *factors)


@names_of("div", "divide", "true_divide", "__truediv__", "__rtruediv__", "__rdiv__")
def _divided(func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Tensor | None:
    a, b = args[0], args[1] if len(args) > 1 else given["other"]
    if func.__name__ in ("__rtruediv__", "__rdiv__"):
        a, b = b, a
    if not _varies(b) or given.get("rounding_mode") is not None:
        return None
    inverse = _secant(b, torch.reciprocal)
    return _product(torch.mul, a, inverse) if _varies(a) else a * inverse


@names_of("softmax", "log_softmax")
def _softmax(func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Tensor | None:
    axis = args[1] if len(args) > 1 else given.get("dim")
    if not isinstance(axis, int) or not _varies(args[0]) or axis % args[0].ndim == 0:
        return None
    return _shares(args[0], axis, func.__name__ == "log_softmax")


def _shares(x: Tensor, axis: int, log: bool = False) -> Tensor:
    found: Tensor = _Softmax.apply(x, axis, log)  # type: ignore[no-untyped-call]
    return found


def _scaled(centred: Tensor, eps: float, axes: tuple[int, ...]) -> Tensor:
    """Centred values over the root of their mean square."""
    spread = _product(torch.mul, centred, centred).mean(axes, keepdim=True)
    return _product(torch.mul, centred, _secant(spread, lambda v: (v + eps).rsqrt()))


def _option(args: tuple[Any, ...], given: dict[str, Any], place: int, name: str, default: Any) -> Any:
    return args[place] if len(args) > place else given.get(name, default)


def _weighed(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


@names_of("layer_norm")
def _layer_norm(func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Tensor | None:
    x, shape = args[0], _option(args, given, 1, "normalized_shape", ())
    weight, bias = _option(args, given, 2, "weight", None), _option(args, given, 3, "bias", None)
    axes = tuple(range(-len(shape), 0))
    found = _scaled(x - x.mean(axes, keepdim=True), _option(args, given, 4, "eps", 1e-5), axes)
    return _weighed(found, weight, bias)


@names_of("rms_norm")
def _rms_norm(func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Tensor | None:
    x, shape = args[0], _option(args, given, 1, "normalized_shape", ())
    eps = _option(args, given, 3, "eps", None)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _weighed(_scaled(x, eps, tuple(range(-len(shape), 0))), _option(args, given, 2, "weight", None), None)


@names_of("group_norm")
def _group_norm(func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Tensor | None:
    x, groups = args[0], _option(args, given, 1, "num_groups", 1)
    weight, bias = _option(args, given, 2, "weight", None), _option(args, given, 3, "bias", None)
    parts = x.reshape(len(x), groups, -1)
    found = _scaled(parts - parts.mean(2, keepdim=True), _option(args, given, 4, "eps", 1e-5), (2,))
    beside = (1, -1, *[1] * (x.ndim - 2))
    return _weighed(
        found.reshape(x.shape), None if weight is None else weight.reshape(beside),
        None if bias is None else bias.reshape(beside),
    )  # fmt: skip


@names_of("normalize")
def _normalize(func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Tensor | None:
    x, p, axis = args[0], _option(args, given, 1, "p", 2.0), _option(args, given, 2, "dim", 1)
    if p != 2 or not _varies(x):
        return None
    eps = _option(args, given, 3, "eps", 1e-12)
    size = _product(torch.mul, x, x).sum(axis, keepdim=True)
    return _product(torch.mul, x, _secant(size, lambda s: s.sqrt().clamp_min(eps).reciprocal()))


@names_of("scaled_dot_product_attention")
def _attention(func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Tensor | None:
    q, k, v = (_option(args, given, place, name, None) for place, name in enumerate(("query", "key", "value")))
    mask, causal = _option(args, given, 3, "attn_mask", None), _option(args, given, 5, "is_causal", False)
    if given.get("enable_gqa"):
        k, v = (one.repeat_interleave(q.shape[-3] // one.shape[-3], -3) for one in (k, v))
    if causal:
        seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        mask = seen if mask is None else mask
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf)
    return _attended(q, k, v, mask, given.get("scale"))


def _attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None = None) -> Tensor:
    """Values by the softmax of scores, to which a mask is added."""
    scores = _between(torch.matmul, q, k.transpose(-2, -1)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if mask is None else scores + mask
    return _between(torch.matmul, _shares(scores, scores.ndim - 1) if scores.requires_grad else scores.softmax(-1), v)


def _between(function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    return _product(function, a, b) if _varies(a) and _varies(b) else function(a, b)


@names_of("multi_head_attention_forward")
def _heads(func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    """Attention of `torch.nn.MultiheadAttention`: sequences first, the batch in the middle, weights not asked."""
    names = (
        "query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k",
        "bias_v", "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias",
    )  # fmt: skip
    of = {**dict(zip(names, args, strict=False)), **given}
    if of.get("bias_k") is not None or of.get("add_zero_attn") or of.get("static_k") is not None:
        return None
    rows = [of[name].transpose(0, 1) for name in names[:3]]  # (2n, L, E)
    weights = (
        [of["q_proj_weight"], of["k_proj_weight"], of["v_proj_weight"]]
        if of.get("use_separate_proj_weight")
        else list(of["in_proj_weight"].chunk(3))
    )
    biases = [None] * 3 if of.get("in_proj_bias") is None else list(of["in_proj_bias"].chunk(3))
    heads = of["num_heads"]
    q, k, v = (
        torch.unflatten(F.linear(x, w, b), -1, (heads, -1)).transpose(1, 2)
        for x, w, b in zip(rows, weights, biases, strict=True)
    )
    mask, padding = (_additive(of.get(name), q.dtype) for name in ("attn_mask", "key_padding_mask"))
    if mask is not None and mask.ndim == 3:  # one a head of each sequence
        mask = mask.reshape(-1, heads, *mask.shape[1:])
    if padding is not None:
        mask = padding[:, None, None] if mask is None else mask + padding[:, None, None]
    found = _attended(q, k, v, mask)
    out = F.linear(found.transpose(1, 2).flatten(2), of["out_proj_weight"], of["out_proj_bias"])
    return out.transpose(0, 1), None


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask of `torch.nn.MultiheadAttention`, in which true is hidden, as what is added to scores."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)
