r"""Differences carried through a torch module: from features of a row and of a reference row back to the inputs.

Every operation is passed by the mean of its gradient along the straight line between its two inputs, so that

.. math::  \sum_i (x_i - \tilde x_i)\, m_i = g \cdot (\varphi(x) - \varphi(\tilde x))

holds exactly: linear operations by their own gradient, element-wise functions by their secant (the rescale rule of
DeepLIFT, Shrikumar et al. 2017), maxima over windows by the shares of the line on which each entry is the largest, and
products, softmax, norms and attention as `backlight.classical.paired_operators` says. What is none of these is found by
the sum, which does not close.

With :math:`\gamma > 0` layers with weights share a difference :math:`\Delta_j = \sum_i z_{ij}`, :math:`z_{ij} =
w_{ij}(a_i - \tilde a_i)`, in proportion to :math:`z_{ij} + \gamma\,\max(0, z_{ij}\operatorname{sgn}\Delta_j)
\operatorname{sgn}\Delta_j`: LRP-γ of differences, whose sum is the same and whose terms cancel less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from backlight.classical.paired_operators import OPERATORS, Secant
from backlight.errors import UnsupportedModel

__all__ = ["PairedModule"]

# Functions of one element at a time, by the names that torch has for them in all of their spellings.
_ELEMENTWISE = frozenset(
    {
        "abs", "celu", "clamp", "clamp_max", "clamp_min", "elu", "exp", "gelu", "hardshrink", "hardsigmoid",
        "hardswish", "hardtanh", "leaky_relu", "log", "log1p", "logsigmoid", "mish", "reciprocal", "relu", "relu6",
        "rsqrt", "selu", "sigmoid", "silu", "sin", "softplus", "softshrink", "softsign", "sqrt", "square", "tanh",
        "tanhshrink",
    }
)  # fmt: skip
# How far sums may fail to close, by dtype.
_CLOSES = {torch.float64: 1e-8, torch.float32: 1e-3}
# Entries of pooling windows that lie outside a picture.
_OUTSIDE = -1e30


class _Largest(torch.autograd.Function):
    """The largest of axis 2 of rows and references, (2n, C, k, …); its gradient is each entry's share of the line."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        return both.amax(2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        a, b = both.chunk(2)
        top = grads[0].chunk(2)[0].unsqueeze(2) * _shares(a, b)
        return torch.cat([top, torch.zeros_like(top)])


def _shares(a: Tensor, b: Tensor) -> Tensor:
    """On which share of t in [0, 1] each entry of axis 2 is the largest of b + t (a − b)."""
    rise = a - b
    out = torch.zeros_like(a)
    # of equal ones the steepest, which is the largest right after
    steepest = torch.where(b == b.amax(2, keepdim=True), rise, -torch.inf).argmax(2, keepdim=True)
    t = torch.zeros_like(b[:, :, :1])
    for _ in range(a.shape[2]):
        slope, level = rise.gather(2, steepest), b.gather(2, steepest)
        steeper = rise > slope
        at = torch.where(steeper, (level - b) / torch.where(steeper, rise - slope, 1.0), torch.inf)
        at = torch.maximum(at, t)
        until = at.amin(2, keepdim=True)
        end = until.clamp_max(1.0)
        out.scatter_add_(2, steepest, end - t)
        t = end
        if bool((t >= 1).all()):
            break
        following = torch.where(at == until, rise, -torch.inf).argmax(2, keepdim=True)
        steepest = torch.where(until < 1, following, steepest)
    return out


def _pooled(x: Tensor, size: Any, stride: Any, padding: Any, dilation: Any, output: Any) -> Tensor:
    """Maxima over windows, which are laid out beside each other first."""
    k, s, p, d = (_pair(v) for v in (size, stride or size, padding, dilation))
    more = [max(0, (output[i] - 1) * s[i] + d[i] * (k[i] - 1) + 1 - x.shape[2 + i] - 2 * p[i]) for i in (0, 1)]
    padded = F.pad(x, (p[1], p[1] + more[1], p[0], p[0] + more[0]), value=_OUTSIDE)
    windows = F.unfold(padded, k, dilation=d, stride=s)
    laid = windows.reshape(len(x), x.shape[1], k[0] * k[1], -1)
    across = (padded.shape[3] - d[1] * (k[1] - 1) - 1) // s[1] + 1
    found: Tensor = _Largest.apply(laid)  # type: ignore[no-untyped-call]
    return found.reshape(len(x), x.shape[1], -1, across)[:, :, : output[0], : output[1]]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


Weighted = Callable[[Tensor, Tensor], Tensor]


class _Gamma(torch.autograd.Function):
    """A layer with weights on rows and references, (2n, …); its gradient shares differences by the γ rule."""

    @staticmethod
    def forward(
        ctx: Any, both: Tensor, weight: Tensor, apply: Callable[[Tensor, Tensor], Tensor], gamma: float
    ) -> Tensor:
        ctx.save_for_backward(both, weight)
        ctx.layer, ctx.gamma = apply, gamma
        out: Tensor = apply(both, weight)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        both, weight = ctx.saved_tensors
        a, b = both.chunk(2)
        delta, top = a - b, grads[0].chunk(2)[0]
        up, down = delta.clamp_min(0), delta.clamp_max(0)
        signs = weight.clamp_min(0), weight.clamp_max(0)
        with torch.enable_grad():
            free = torch.zeros_like(delta).requires_grad_()
            plain, plus, minus = (ctx.layer(free, w) for w in (weight, *signs))

        def forward(x: Tensor, w: Tensor) -> Tensor:
            out: Tensor = ctx.layer(x, w)
            return out

        def back(of: Tensor, c: Tensor) -> Tensor:
            return torch.autograd.grad(of, free, c, retain_graph=True)[0]

        whole = forward(delta, weight)
        rises = whole > 0
        helping = torch.where(
            rises, forward(up, signs[0]) + forward(down, signs[1]), forward(down, signs[0]) + forward(up, signs[1])
        )
        denominator = whole + ctx.gamma * helping
        c = top * torch.where(denominator == 0, 1.0, whole / torch.where(denominator == 0, 1.0, denominator))
        rising, falling = torch.where(rises, c, 0.0), torch.where(rises, 0.0, c)
        above = back(plus, rising) + back(minus, falling)
        below = back(minus, rising) + back(plus, falling)
        found = back(plain, c) + ctx.gamma * torch.where(delta > 0, above, below)
        return torch.cat([found, torch.zeros_like(found)]), None, None, None


def _weighted(func: Any, name: str, args: tuple[Any, ...], given: dict[str, Any], gamma: float) -> Tensor:
    """A dense layer or a convolution by the γ rule, its bias beside it."""
    weight = args[1] if len(args) > 1 else given["weight"]
    bias = args[2] if len(args) > 2 else given.get("bias")
    rest = {key: value for key, value in given.items() if key not in ("weight", "bias")}
    out: Tensor = _Gamma.apply(  # type: ignore[no-untyped-call]
        args[0], weight, lambda x, w: func(x, w, None, *args[3:], **rest), gamma
    )
    if bias is None:
        return out
    beside: Tensor = bias if name == "linear" else bias.reshape(-1, *[1] * (out.ndim - 2))
    return out + beside


class _Differences(TorchFunctionMode):
    """While it is entered, rows and references run together, and gradients are means along the line between them."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        name = name[:-1] if name.endswith("_") and not name.endswith("__") else name
        if name in _ELEMENTWISE and isinstance(args[0], Tensor) and args[0].requires_grad:
            return Secant.apply(args[0], lambda x: func(x, *args[1:], **given))  # type: ignore[no-untyped-call]
        if name in ("pow", "__pow__", "float_power") and not isinstance(args[1], Tensor) and args[0].requires_grad:
            return Secant.apply(args[0], lambda x: func(x, *args[1:], **given))  # type: ignore[no-untyped-call]
        if name in OPERATORS:
            found = OPERATORS[name](func, args, given)
            if found is not None:
                return found
        if self.gamma and name in ("linear", "conv1d", "conv2d") and args[0].requires_grad:
            return _weighted(func, name, args, given, self.gamma)
        if name == "max_pool2d" and args[0].requires_grad and args[0].ndim == 4:
            plain = func(args[0].detach(), *args[1:], **given)
            size = args[1] if len(args) > 1 else given["kernel_size"]
            rest = [*args[2:5], *[None] * (3 - len(args[2:5]))]
            defaults = (("stride", None), ("padding", 0), ("dilation", 1))
            stride, padding, dilation = (
                given.get(key, default) if v is None else v for v, (key, default) in zip(rest, defaults, strict=True)
            )
            return _pooled(args[0], size, stride, padding, dilation, plain.shape[2:])
        return func(*args, **given)


class PairedModule(nn.Module):
    """A module between inputs and features, and the way back of differences of features.

    Parameters
    ----------
    module : nn.Module
        From inputs (n, …) to features (n, K): a copy, in evaluation mode, without gradients of its own.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Features, (n, K)."""
        out: Tensor = self.module(x)
        return out.reshape(len(out), -1)

    def back(self, x: Tensor, start: Tensor, slope: Tensor, gamma: float = 0.0) -> Tensor:
        """Relevance of the inputs (n, …) that makes up slope · (φ(x) − φ(start)), from slopes (n, K).

        Raises
        ------
        UnsupportedModel
            When it does not.
        """
        with torch.enable_grad():
            both = torch.cat([x, start]).detach().clone().requires_grad_()
            with _Differences(gamma):
                out = self.forward(both)
            a, b = out.chunk(2)
            (gradient,) = torch.autograd.grad((a * slope.to(a)).sum(), both)
        relevance = (x - start) * gradient[: len(x)]
        terms = slope.to(a) * (a - b).detach()
        off = (relevance.flatten(1).sum(1) - terms.sum(1)).abs()
        size = relevance.flatten(1).abs().sum(1) + terms.abs().sum(1)
        if not bool((off <= _CLOSES.get(x.dtype, 0.1) * size + 1e-12).all()):
            raise UnsupportedModel(
                f"{type(self.module).__name__} has steps that are none of those through which differences can be "
                "carried: explain the module itself with backlight.explain"
            )
        return relevance.detach()
