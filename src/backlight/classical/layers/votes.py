"""Votes: the class that a member names, as a step of its score."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backlight.classical.layers.base import EncodedRows, ForwardPass, Layer, Query, Wrapper
from backlight.classical.layers.composition import Signed

__all__ = ["Vote"]

# Scores that differ by less than this share of the largest are equal, and the first class has the vote.
_TIE = 1e-12


class Vote(Wrapper):
    r"""One unit a class: 1 for the class with the highest score :math:`y_c = \text{carried}_c + \text{base}_c`, else 0.

    Base is the vote of the bases, for class b say: what the member names where no column says anything. Where the row's
    vote goes to another class a, the contrast :math:`y_a - y_b` has been carried over zero, and unit a's 1 and unit
    b's −1 are handed to the columns as that contrast is, by its secant:

    .. math::  R = \frac{R^{(a)} - R^{(b)}}{\text{carried}_a - \text{carried}_b}.

    Parameters
    ----------
    inner : Layer
        One unit a class, or one unit in all: that of the second of two classes.
    """

    def __init__(self, inner: Layer) -> None:
        super().__init__(inner if inner.units > 1 else Signed(inner))
        self.units = self.inner.units

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, C)."""
        y = self.inner(x)
        return torch.nn.functional.one_hot(_winner(y), self.units).to(y)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        got = self.inner.run(x, ask)
        mine, usual = _winner(got.output), _winner(got.output - got.carried)
        output, base = (torch.nn.functional.one_hot(one, self.units).to(got.output) for one in (mine, usual))
        contrast = output - base
        moved = (contrast * got.carried).sum(1, keepdim=True)
        some = moved > 0
        carried = torch.where(some, contrast, 0.0)

        def back(c: Tensor) -> Tensor:
            share = (c * carried).sum(1, keepdim=True) / torch.where(some, moved, 1.0)
            return got.back(share * carried)

        return ForwardPass(output, carried, back, output, {"votes": carried})

    def accepts(self, rule: Any) -> bool:
        """As the inner layer."""
        return self.inner.accepts(rule)


def _winner(y: Tensor) -> Tensor:
    """The first class whose score is the highest, (n,)."""
    most = y.amax(1, keepdim=True)
    return (y >= most - _TIE * y.abs().amax(1, keepdim=True)).to(torch.int8).argmax(1)
