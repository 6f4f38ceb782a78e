"""Between which numbers every unit of a network lies, for inputs of a domain: interval arithmetic, rounded outwards.

Source of the idea: Moore, "Interval Analysis", 1966. A side that is not bounded is ±∞.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backlight.canonical.consumers import PLAIN_MOVES, steered
from backlight.canonical.form import Affine, Form, Given, Held, Operator, Pointwise, Value

__all__ = ["Interval", "bounds"]

# monotone in every argument, and their constants have no sign to speak of
_MONOTONE = PLAIN_MOVES | {
    "maximum", "minimum", "amax", "amin", "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices",
    "max_pool3d_with_indices", "adaptive_max_pool1d", "adaptive_max_pool2d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool3d", "mean", "sum",
    "sym_size",
}  # fmt: skip

_RANGES = {
    "sigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "_softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0), "abs": (0.0, torch.inf), "softplus": (0.0, torch.inf), "exp": (0.0, torch.inf),
    "square": (0.0, torch.inf), "sqrt": (0.0, torch.inf),
}  # fmt: skip

# outward, of the sum of the absolute values
_SLACK = 1e-13


@dataclass(frozen=True, slots=True)
class Interval:
    """Lower and upper bounds of a value, each of shape (1, *shape)."""

    low: Tensor
    high: Tensor


def bounds(form: Form, domain: Mapping[str, Interval] | None) -> dict[Value, Interval]:
    """Bounds of every value that holds numbers.

    Parameters
    ----------
    domain : dict of str to Interval, optional
        Of the inputs; what is not there may be anything.
    """
    found: dict[Value, Interval] = {}
    values = form.run({name: _one(form.example[name]) for name in form.inputs})
    for value in (*form.inputs.values(), *form.order()):
        numbers = values[value]
        if value in found or not isinstance(numbers, Tensor) or not numbers.is_floating_point():
            continue
        found[value] = _of(value, numbers, found, values, domain or {})
    return found


def _one(example: Any) -> Any:
    return example[:1] if isinstance(example, Tensor) else example


def _of(
    value: Value,
    numbers: Tensor,
    found: dict[Value, Interval],
    values: dict[Value, Any],
    domain: Mapping[str, Interval],
) -> Interval:
    if isinstance(value, Given) and value.name in domain:
        given = domain[value.name]
        return Interval(given.low.expand_as(numbers), given.high.expand_as(numbers))
    if isinstance(value, Held):
        return Interval(value.tensor, value.tensor)
    if isinstance(value, Affine):
        return _affine(value, numbers, found)
    if isinstance(value, Pointwise) and value.op in ("relu", "leaky_relu"):
        return _bent(value, found[value.source])
    if isinstance(value, Operator) and value.op in _MONOTONE and not steered(value, values):
        arguments = [source for source in value.sources() if source in found]
        if len(arguments) == sum(1 for s in value.sources() if _floats(values[s])):
            low, high = ({**values, **{s: getattr(found[s], side) for s in arguments}} for side in ("low", "high"))
            return Interval(value.compute(low), value.compute(high))
    low_, high_ = _RANGES.get(getattr(value, "op", ""), (-torch.inf, torch.inf))
    return Interval(torch.full_like(numbers, low_), torch.full_like(numbers, high_))


def _bent(value: Pointwise, source: Interval) -> Interval:
    """Of relu or leaky_relu, which falls below zero where its slope there is negative: zero is then the least."""
    ends = torch.stack([value.target(side, *value.args, **value.kwargs) for side in (source.low, source.high)])
    ends = torch.where(ends.isnan(), 0.0, ends)  # a slope of zero times −∞
    low, high = ends.amin(0), ends.amax(0)
    around = (source.low < 0) & (source.high > 0)
    return Interval(torch.where(around, low.clamp(max=0.0), low), high)


def _floats(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _affine(value: Affine, numbers: Tensor, found: dict[Value, Interval]) -> Interval:
    low, high = torch.zeros_like(numbers), torch.zeros_like(numbers)
    free_low, free_high, size = torch.zeros_like(numbers), torch.zeros_like(numbers), torch.zeros_like(numbers)
    for term in value.terms:
        source, weight = found[term.source], term.map.weight
        up, down = weight.clamp(min=0), weight.clamp(max=0)
        # an unbounded side counts as zero, and is remembered
        no_low, no_high = (torch.isinf(side).to(weight.dtype) for side in (source.low, source.high))
        lo, hi = (torch.nan_to_num(side, 0.0, 0.0, 0.0) for side in (source.low, source.high))
        apply = term.map.apply
        low = low + apply(lo, up, None) + apply(hi, down, None)
        high = high + apply(hi, up, None) + apply(lo, down, None)
        free_low = free_low + apply(no_low, up, None) - apply(no_high, down, None)
        free_high = free_high + apply(no_high, up, None) - apply(no_low, down, None)
        size = size + apply(torch.maximum(lo.abs(), hi.abs()), weight.abs(), None)
    slack = _SLACK * size
    if value.bias is not None:
        low, high = low + value.bias, high + value.bias
    # sums of non-negative parts have no rounding that could turn their sign
    low = torch.where(low >= 0, low, low - slack)
    high = torch.where(high <= 0, high, high + slack)
    return Interval(low.masked_fill(free_low > 0, -torch.inf), high.masked_fill(free_high > 0, torch.inf))
