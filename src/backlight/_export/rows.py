"""What emitters are given and give: the values of a row on the way through a network, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from backlight._export.emitters import Emitters
from backlight._export.expressions import E, dot, minus, plus, times
from backlight._export.program import Program
from backlight.classical.layers import Query
from backlight.classical.layers.pullback import Pullback

__all__ = ["Emitted", "Rows", "array", "elements", "layer", "register", "run"]


def array(tensor: Tensor) -> np.ndarray:
    """A tensor's numbers."""
    return np.asarray(tensor.detach().cpu().double())


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A row at three places of the front end, as `EncodedRows`; and the way back to its columns."""

    program: Program
    coded: Sequence[E]
    e: Sequence[E]
    z: Sequence[E]
    pullback: Pullback

    def let(self, expressions: Sequence[E]) -> list[E]:
        """Names for several values."""
        return [self.program.let(one) for one in expressions]

    def columns(self, elements: Sequence[E]) -> list[E]:
        """Relevance of elements to relevance of columns."""
        way = self.pullback
        if way.shares is not None:
            return [dot(share, elements) for share in array(way.shares).T]
        owner = way.owner.tolist()
        return [plus(*(r for r, c in zip(elements, owner, strict=True) if c == i)) for i in range(way.n_columns)]

    def pair(self, delta: Sequence[E], gradient: Sequence[E]) -> list[E]:
        """Shares of δ · g; see `Pullback.pair`."""
        way = self.pullback
        if way.into is not None and way.back is not None:
            delta = self.let([dot(back, delta) for back in array(way.back).T])
            gradient = self.let([dot(into, gradient) for into in array(way.into).T])
        return self.columns([times(d, g) for d, g in zip(delta, gradient, strict=True)])


@dataclass(frozen=True, slots=True, eq=False)
class Emitted:
    """Outputs, what features carry of them, and the way back from coefficients to columns; as `ForwardPass`."""

    output: list[E]
    carried: list[E]
    back: Callable[[Sequence[E]], list[E]]


Emitter = Callable[[Any, Rows, Query], Emitted]
Elements = Callable[[Any, Program, list[E]], list[E]]
_EMITTERS: Emitters[Emitter, Elements] = Emitters("in SQL")
register, elements = _EMITTERS.register, _EMITTERS.elements


def layer(found: Any, rows: Rows, ask: Query) -> Emitted:
    """A layer's outputs and its way back.

    Raises
    ------
    UnsupportedModel
        For a layer that nobody has written in SQL.
    """
    return _EMITTERS.of_layer(found)(found, rows, ask)


def run(module: nn.Module, program: Program, x: list[E]) -> list[E]:
    """What a module of a front end makes of values.

    Raises
    ------
    UnsupportedModel
    """
    return _EMITTERS.of_module(module)(module, program, x)


def embedded(way: Pullback, e: Sequence[E]) -> list[E]:
    """Elements to the model's space."""
    if way.into is None or way.center is None or way.shift is None:
        return list(e)
    centred = [minus(one, float(c)) for one, c in zip(e, array(way.center), strict=True)]
    return [plus(dot(row, centred), float(s)) for row, s in zip(array(way.into), array(way.shift), strict=True)]
