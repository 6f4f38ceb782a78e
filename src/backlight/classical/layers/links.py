"""Links: functions of one unit each, passed by the slope between what no column says and what the row says."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backlight.classical.layers.base import EncodedRows, ForwardPass, Layer, Query, Wrapper
from backlight.classical.layers.pools import Link

__all__ = ["Pair", "Secant"]

Function = Callable[[Tensor], Tensor]


class Secant(Link):
    r"""y_u = φ(s_u) for any function φ of a unit s = carried + base, monotone or not.

    .. math::  R = \frac{\varphi(s) - \varphi(\text{base})}{s - \text{base}}\, R^{(s)}

    so that the base of y is φ(base): what the link makes of a row that no column has changed. Where nothing is carried
    the slope counts for nothing, and is zero.

    Parameters
    ----------
    inner : Layer
    value : function of units (n, U) to (n, U), unit by unit
    """

    def __init__(self, inner: Layer, value: Function) -> None:
        super().__init__(inner, value, torch.ones_like)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        got = self.inner.run(x, ask)
        output = self.value(got.output)
        base = got.output - got.carried
        # a base that is the score itself but for rounding has no slope to it
        some = got.carried.abs() > 1e-12 * (got.output.abs() + base.abs())
        rise = output - self.value(base)
        slope = torch.where(some, rise / torch.where(some, got.carried, 1.0), 0.0)
        return got.scaled(output, slope, self.value(got.others))

    def accepts(self, rule: object) -> bool:
        """As the inner layer."""
        return self.inner.accepts(rule)


class Pair(Wrapper):
    """(1 − p, p) of one unit p: the probabilities of both classes."""

    def __init__(self, inner: Layer) -> None:
        super().__init__(inner)
        self.units = 2

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, 2)."""
        p = self.inner(x)
        return torch.cat([1 - p, p], 1)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        got = self.inner.run(x, ask)
        output = torch.cat([1 - got.output, got.output], 1)

        def both(value: Tensor) -> Tensor:
            return torch.cat([-value, value], 1)

        return ForwardPass(
            output, both(got.carried), lambda c: got.back(c[:, 1:] - c[:, :1]), output,
            {name: both(value) for name, value in got.flow.items()}, got.notes,
        )  # fmt: skip

    def accepts(self, rule: object) -> bool:
        """As the inner layer."""
        return self.inner.accepts(rule)
