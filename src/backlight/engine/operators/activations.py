r"""Activations: R_in = R_out, unit by unit.

As a modified gradient that is the factor f(x)/x, written for each function in a form that has no 0/0. Where f(0) ≠ 0
the factor has no limit, and relevance is handed on outright.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from backlight.engine.graph import Node, Ref
from backlight.engine.operators.registry import Context, find, operator
from backlight.engine.operators.whole import whole
from backlight.engine.steps import LedgerRecorder, Messages, Site, Step, Values, fill
from backlight.rules import Facts, Message, Pass, Rule, relevance

__all__ = ["ACTIVATIONS", "CLAMPS", "RECTIFIERS", "Activation", "by_unit", "clamp_bounds"]

# zero for negative inputs, never negative: no relevance comes through where the input is negative
RECTIFIERS = frozenset({"relu", "relu6"})

CLAMPS = frozenset({"clamp", "clip", "clamp_min", "hardtanh"})

# f(x)/x from x, f(x) and the operator's further arguments
Ratio = Callable[..., Tensor]


def _by_value(x: Tensor, y: Tensor, *_: Any, **__: Any) -> Tensor:
    return (y / x).masked_fill_(x == 0, 0.0)


def _with_limit(limit: float) -> Ratio:
    def ratio(x: Tensor, y: Tensor, *_: Any) -> Tensor:
        return (y / x).masked_fill_(x == 0, limit)

    return ratio


def _leaky(x: Tensor, y: Tensor, slope: Any = 0.01, *_: Any) -> Tensor:
    return torch.ones_like(x).masked_fill_(x <= 0, slope)


def _random_leaky(x: Tensor, y: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, *_: Any) -> Tensor:
    # in evaluation the slope is the middle of its range
    return torch.ones_like(x).masked_fill_(x <= 0, (lower + upper) / 2)


def _elu(x: Tensor, y: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    return (y / x).masked_fill_(x == 0, alpha * scale * input_scale)


def _selu(x: Tensor, y: Tensor) -> Tensor:
    return (y / x).masked_fill_(x == 0, 1.0507009873554805 * 1.6732632423543772)


def _gelu(x: Tensor, y: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * torch.erfc(-x / math.sqrt(2))


def _prelu(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    columns = weight if weight.numel() == 1 else weight.view(-1, *(1,) * (x.dim() - 2))
    return torch.where(x > 0, torch.ones((), dtype=x.dtype, device=x.device), columns)


def _power(x: Tensor, y: Tensor, exponent: float) -> Tensor:
    return x ** (exponent - 1)


_RATIOS: dict[str, Ratio] = {
    "relu": lambda x, y: (x > 0).to(x.dtype),
    "relu6": lambda x, y: (y / x).masked_fill_(x <= 0, 0.0),
    "leaky_relu": _leaky,
    "rrelu": _random_leaky,
    "prelu": _prelu,
    "_prelu_kernel": _prelu,
    "elu": _elu,
    "celu": _elu,
    "selu": _selu,
    "gelu": _gelu,
    "silu": lambda x, y: torch.sigmoid(x),
    "mish": lambda x, y: torch.tanh(F.softplus(x)),
    "hardswish": lambda x, y: F.relu6(x + 3) / 6,
    "tanh": _with_limit(1.0),
    "softsign": lambda x, y: 1 / (1 + x.abs()),
    "hardshrink": lambda x, y: (y != 0).to(x.dtype),
    "softshrink": _by_value,
    "threshold": _by_value,
    "abs": lambda x, y: x.sign(),
    "square": lambda x, y: x,
    "sqrt": _by_value,
    "erf": _with_limit(2 / math.sqrt(math.pi)),
    "sin": _with_limit(1.0),
    "asinh": _with_limit(1.0),
    "atan": _with_limit(1.0),
    "sinh": _with_limit(1.0),
    "expm1": _with_limit(1.0),
    "log1p": _with_limit(1.0),
    "tan": _with_limit(1.0),
    "asin": _with_limit(1.0),
    "atanh": _with_limit(1.0),
    "erfinv": _with_limit(math.sqrt(math.pi) / 2),
    "deg2rad": _with_limit(math.pi / 180),
    "rad2deg": _with_limit(180 / math.pi),
    "frac": _with_limit(1.0),
    **dict.fromkeys(
        ("sign", "sgn", "floor", "ceil", "round", "trunc", "fmod", "remainder", "copysign", "heaviside"), _by_value
    ),
}

# f(0) ≠ 0
_OUTRIGHT = frozenset({
    "sigmoid", "special_expit", "hardsigmoid", "softplus", "exp", "exp2", "log_sigmoid", "log_sigmoid_forward", "cos",
    "cosh", "log", "log2", "log10", "logit", "special_logit", "reciprocal", "rsqrt", "erfc", "acos", "acosh", "sinc",
    "i0", "lgamma", "digamma", "special_gammaln", "special_psi",
})  # fmt: skip


# functions of one value, unit by unit
ACTIVATIONS = frozenset(_RATIOS) | _OUTRIGHT | CLAMPS | {"clamp_max"}


@dataclass(slots=True)
class Activation(Site):
    """``ratio`` is f(x)/x, or ``None`` where relevance is handed on outright."""

    ratio: Ratio | None = field(default=None, kw_only=True)

    def fits(self, rule: Rule) -> bool:
        return isinstance(rule, Pass)

    def emits_direct(self, rule: Rule | None) -> bool:
        return self.ratio is None

    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        return _ActivationStep(self.node, self.carriers, self.node.index, "Pass()", self.ratio)


@dataclass(slots=True)
class _ActivationStep(Step):
    ratio: Ratio | None

    def forward(self, values: Values) -> tuple[Any, Any]:
        assert self.node.target is not None
        given = fill(self.node.args, values)
        y = self.node.target(*given, **fill(self.node.kwargs, values))
        y = y[0] if isinstance(y, tuple) else y
        return y, (values[self.carriers[0]], y, given[1:], fill(self.node.kwargs, values))

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        x, y, further, named = record
        if self.ratio is None:
            return (Message(direct=relevance(y, message)),)
        gradient = message.gradient
        if gradient is not None:
            gradient = gradient * self.ratio(x, y, *further, **named)
        return (Message(gradient, message.direct),)


def _activation(node: Node, context: Context) -> Site | None:
    if node.op in ("fmod", "remainder") and (found := whole(node, context)) is not None:
        return found
    if context.carriers(node) != (node.args[0].index,) or context.node(node.args[0]).shape != node.shape:
        return None
    outright = node.op in _OUTRIGHT or (node.op == "threshold" and node.args[1] >= 0 and node.args[2] != 0)
    ratio = None if outright else _RATIOS[node.op]
    return Activation(node, (node.args[0].index,), "activation", Pass(), ratio=ratio)


operator(*_RATIOS, *_OUTRIGHT)(_activation)


def by_unit(node: Node, signal: Ref, context: Context, *, outright: bool) -> Site | None:
    """Any other function of one value, unit by unit; ``outright`` where it is not zero at zero."""
    if context.carriers(node) != (signal.index,) or context.node(signal).shape != node.shape:
        return None
    return Activation(node, (signal.index,), "activation", Pass(), ratio=None if outright else _by_value)


@operator("clamp", "clip", "clamp_min", "clamp_max", "hardtanh")
def clamp(node: Node, context: Context) -> Site | None:
    low, high = clamp_bounds(node)
    if isinstance(low, Ref) or isinstance(high, Ref):
        # the largest and the smallest of three
        maker, carriers = find("maximum"), context.carriers(node)
        return None if maker is None or not carriers else maker(node, context)
    if context.carriers(node) != (node.args[0].index,):
        return None
    through_zero = (low is None or low <= 0) and (high is None or high >= 0)
    flat = low == 0 or high == 0
    ratio: Ratio | None = _ClampRatio(0.0 if flat else 1.0) if through_zero else None
    return Activation(node, (node.args[0].index,), "activation", Pass(), ratio=ratio)


def clamp_bounds(node: Node) -> tuple[Any, Any]:
    """The lower and the upper bound of an operator that clamps, ``None`` where there is none."""
    low, high = (-1.0, 1.0) if node.op == "hardtanh" else (None, None)
    given = list(node.args[1:])
    if node.op == "clamp_max":
        high = given[0] if given else high
    else:
        low = given[0] if given else low
        high = given[1] if len(given) > 1 else high
    names = {"min": "low", "min_val": "low", "max": "high", "max_val": "high"}
    for name, value in node.kwargs.items():
        if names.get(name) == "low":
            low = value
        elif names.get(name) == "high":
            high = value
    return low, high


@dataclass(frozen=True, slots=True)
class _ClampRatio:
    limit: float

    def __call__(self, x: Tensor, y: Tensor, *_: Any, **__: Any) -> Tensor:
        return (y / x).masked_fill_(x == 0, self.limit)


@operator("pow")
def power(node: Node, context: Context) -> Site | None:
    x, exponent = node.args
    if isinstance(x, Ref) and isinstance(exponent, Ref) and context.carries(x):
        return None
    signal = x if isinstance(x, Ref) and context.carries(x) else exponent
    if not context.carries(signal) or context.node(signal).shape != node.shape:
        return None
    if signal is exponent or exponent <= 0:
        # no power of zero, or one of a number: not zero at zero
        return Activation(node, (signal.index,), "activation", Pass(), ratio=None)
    ratio: Ratio = _power if exponent >= 1 else _by_value
    return Activation(node, (x.index,), "activation", Pass(), ratio=ratio)
