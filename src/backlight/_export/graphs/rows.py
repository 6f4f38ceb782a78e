"""What emitters are given and give: matrices of rows on the way through a network, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from backlight._export.emitters import Emitters
from backlight._export.graphs.graph import Graph, Value
from backlight._export.rows import array
from backlight.classical.layers import Query
from backlight.classical.layers.pullback import Pullback

__all__ = ["Emitted", "Rows", "elements", "embedded", "layer", "register", "run"]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows at three places of the front end, as `EncodedRows`; and the way back to their columns."""

    graph: Graph
    coded: Value
    e: Value
    z: Value
    pullback: Pullback

    def columns(self, elements: Value) -> Value:
        """Relevance of elements (n, E) to relevance of columns."""
        way = self.pullback
        if way.identity:
            return elements
        if way.shares is not None:
            shared: Value = elements @ array(way.shares)
            return shared
        whole: Value = elements @ np.eye(way.n_columns)[np.asarray(way.owner)]
        return whole

    def pair(self, delta: Value, gradient: Value) -> Value:
        """Shares of δ · g; see `Pullback.pair`."""
        way = self.pullback
        if way.into is not None and way.back is not None:
            delta, gradient = delta @ array(way.back), gradient @ array(way.into)
        return self.columns(delta * gradient)


@dataclass(frozen=True, slots=True, eq=False)
class Emitted:
    """Outputs (n, U), what features carry of them, and the way back from coefficients (n, U) or (1, U) to columns."""

    output: Value
    carried: Value
    back: Callable[[Value], Value]


Emitter = Callable[[Any, Rows, Query], Emitted]
Elements = Callable[[Any, Value], Value]
_EMITTERS: Emitters[Emitter, Elements] = Emitters("as a graph")
register, elements = _EMITTERS.register, _EMITTERS.elements


def layer(found: Any, rows: Rows, ask: Query) -> Emitted:
    """A layer's outputs and its way back.

    Raises
    ------
    UnsupportedModel
        For a layer that nobody has written as a graph.
    """
    return _EMITTERS.of_layer(found)(found, rows, ask)


def run(module: nn.Module, x: Value) -> Value:
    """What a module of a front end makes of rows.

    Raises
    ------
    UnsupportedModel
    """
    return _EMITTERS.of_module(module)(module, x)


def embedded(way: Pullback, e: Value) -> Value:
    """Elements to the model's space."""
    if way.into is None or way.center is None or way.shift is None:
        return e
    return (e - array(way.center)) @ array(way.into).T + array(way.shift)
