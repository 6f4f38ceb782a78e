r"""What goes through each training row that a model keeps, summed over rows: one function a layer.

A contribution is :math:`R_{ni} = \sum_j c_{nj}\,s_i(z_n - u_j)` with the shares :math:`s_i` of a squared distance to
anchor :math:`u_j`. Its sum over rows, for each anchor and column, needs three matrix products a batch and no more than
the sums themselves: for :math:`L = zB`, :math:`R = zA` of the pull-back,

.. math::  \sum_n c_{nj} (L_n - L_j)(R_n - R_j) = C^{\mathsf T}(L R) - (C^{\mathsf T}L) R_j - L_j (C^{\mathsf T}R)
           + (C^{\mathsf T}1) L_j R_j
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.attribution.requested import Targets
from backlight.classical import NeuralizedModel
from backlight.classical.layers import EncodedRows
from backlight.classical.layers import Query as LayerQuery
from backlight.classical.layers.composition import Signed, Stack, Unit, member_query
from backlight.classical.layers.expansion import Levelled, SignedExpansion
from backlight.classical.layers.pools import Link, SoftMinPool
from backlight.classical.layers.softmin_distance import SoftMinDistance
from backlight.classical.layers.surprise import WithSurprise
from backlight.errors import UnsupportedModel
from backlight.models import Model, Query
from backlight.models.network import NetworkModel
from backlight.rules.expansion import SignedPools
from backlight.rules.softmin import SoftMinRule

__all__ = ["TrainingRows", "training_rows_of"]

# numbers of a block of rows and training rows
_ENTRIES = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class _Through:
    """A pool of training rows; and, from coefficients of a layer's units (n, U), what goes through each, (n, M)."""

    pool: SoftMinDistance
    back: Callable[[Tensor], Tensor]


Reader = Callable[[Any, EncodedRows, LayerQuery], list[_Through]]
_LAYERS: dict[type, Reader] = {}


def _reads(*classes: type) -> Callable[[Reader], Reader]:
    def keep(function: Reader) -> Reader:
        _LAYERS.update(dict.fromkeys(classes, function))
        return function

    return keep


def _through(layer: Any, x: EncodedRows, ask: LayerQuery) -> list[_Through]:
    reader = _LAYERS.get(type(layer))
    if reader is None:
        raise UnsupportedModel(
            f"{type(layer).__name__} layers do not say which training rows carry a score: leave training_rows= out"
        )
    return reader(layer, x, ask)


def _before(found: Sequence[_Through], change: Callable[[Tensor], Tensor]) -> list[_Through]:
    """The same ways, from coefficients that are changed first."""

    def changed(back: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda c: back(change(c))

    return [replace(one, back=changed(one.back)) for one in found]


@_reads(SoftMinPool)
def _pool(layer: SoftMinPool, x: EncodedRows, ask: LayerQuery) -> list[_Through]:
    return [_Through(layer.pool, lambda c: c * layer.pool.coefficients(x.z, ask.rule))]


@_reads(WithSurprise)
def _with_surprise(layer: WithSurprise, x: EncodedRows, ask: LayerQuery) -> list[_Through]:
    if not isinstance(ask.rule, SoftMinRule):
        raise UnsupportedModel("conditional surprise does not say which training rows carry it: use another rule")
    return _through(layer.inner, x, ask)


@_reads(Link)
def _link(layer: Link, x: EncodedRows, ask: LayerQuery) -> list[_Through]:
    slope = layer.slope(layer.inner.run(x, ask).output)
    return _before(_through(layer.inner, x, ask), lambda c: c * slope)


@_reads(Signed)
def _signed(layer: Signed, x: EncodedRows, ask: LayerQuery) -> list[_Through]:
    return _before(_through(layer.inner, x, ask), lambda c: c[:, 1:] - c[:, :1])


@_reads(Unit)
def _unit(layer: Unit, x: EncodedRows, ask: LayerQuery) -> list[_Through]:
    sides = (layer.index, layer.inner.units - layer.index - 1)
    return _before(_through(layer.inner, x, ask), lambda c: torch.nn.functional.pad(c, sides))


@_reads(Levelled)
def _levelled(layer: Levelled, x: EncodedRows, ask: LayerQuery) -> list[_Through]:
    level = layer.intercept if ask.level is None else float(ask.level)
    return _through(layer.at(level, x.z), x, ask)


@_reads(SignedExpansion)
def _expansion(layer: SignedExpansion, x: EncodedRows, ask: LayerQuery) -> list[_Through]:
    if not isinstance(ask.rule, SignedPools):
        raise UnsupportedModel(f"rules={ask.rule.name!r} does not say which training rows carry a score: use 'signed'")
    scale = layer.scale(x)
    found: list[_Through] = []
    for sign, side, rule in layer.sides(ask.rule):
        found += _before(_through(side, x, LayerQuery(rule)), partial(torch.mul, sign * scale))
    return found


@_reads(Stack)
def _stack(layer: Stack, x: EncodedRows, ask: LayerQuery) -> list[_Through]:
    found: list[_Through] = []
    first = 0
    for part in layer.members():
        units = slice(first, first + part.units)
        found += _before(_through(part, x, member_query(part, ask)), _some(units))
        first += part.units
    return found


def _some(units: slice) -> Callable[[Tensor], Tensor]:
    return lambda c: c[:, units]


class TrainingRows:
    """The training rows of one explainer, and sums of what goes through them."""

    def __init__(self, network: NeuralizedModel, ask: LayerQuery, targets: Targets) -> None:
        self.network, self.ask, self.targets = network, ask, targets
        with torch.no_grad():
            found = _through(network.layer, network.point(torch.zeros((1, len(network.front.names))).double()), ask)
        self.anchors = np.concatenate([_array(one.pool.anchors + one.pool.center) for one in found])

    def sums(self, table: Any, codes: np.ndarray, groups: int) -> np.ndarray:
        """Σ over the rows of each group, (groups, M, columns)."""
        network, outputs = self.network, self.network.score.outputs
        (one,) = outputs.targets(self.targets)
        out = np.zeros((groups, len(self.anchors), network.front.pullback.n_columns))
        step = max(1, _ENTRIES // len(self.anchors))
        with torch.no_grad():
            whole = network.point(network.encode(table))
            for start in range(0, len(whole), step):
                x, some = whole.take(slice(start, start + step)), codes[start : start + step]
                units = network.layer(x)
                c = outputs.coefficients(one, units, outputs.index(one, units)).dense
                first = 0
                for way in _through(network.layer, x, self.ask):
                    through, last = way.back(c), first + len(way.pool.anchors)
                    for group in np.unique(some):
                        member = torch.as_tensor(some == group)
                        out[group, first:last] += _array(_summed(way.pool, x.z[member], through[member]))
                    first = last
        return out


def _summed(pool: SoftMinDistance, z: Tensor, c: Tensor) -> Tensor:
    """Σ_n c_nj · shares of ‖z_n − u_j‖², (M, columns)."""
    way, z, u = pool.pullback, z - pool.center, pool.anchors
    if way.into is None or way.back is None:
        left = right = z
        left_u = right_u = u
    else:
        left, right, left_u, right_u = z @ way.back, z @ way.into, u @ way.back, u @ way.into
    crossed = (c.T @ left) * right_u + left_u * (c.T @ right)
    return way.columns(c.T @ (left * right) - crossed + c.sum(0)[:, None] * left_u * right_u)


def _array(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().cpu().double())


def training_rows_of(model: Model, query: Query, targets: Targets) -> TrainingRows:
    """The training rows that a model keeps.

    Raises
    ------
    UnsupportedModel
        For a model that keeps none, or a layer that does not say what goes through them, by name.
    """
    if not isinstance(model, NetworkModel):
        raise UnsupportedModel(f"{model.kind} keeps no training rows: leave training_rows= out")
    reference = query.reference
    ask = LayerQuery(
        query.rules,
        None,
        reference if isinstance(reference, EncodedRows) else None,
        reference if isinstance(reference, float) else None,
    )
    return TrainingRows(model.network, ask, targets)
