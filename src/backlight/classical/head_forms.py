r"""The reference rows of classical heads, and the slopes of their scores from them.

A head that measures distances in feature space is a function of differences :math:`\varphi(x) - \varphi(\tilde x)`, and
relevance of its features, handed to a rule that divides by the features themselves, would explode. So each head names
*reference rows* :math:`\tilde x_r` and slopes :math:`g_r` with

.. math::  s(x) = \text{base} + \sum_r g_r\cdot(\varphi(x) - \varphi(\tilde x_r))

and every difference is carried back between the two rows (`backlight.classical.paired`).

* soft-min pools (one-class SVM, density): the anchors are rows, and the pool's weights :math:`p_j` share among them:
  :math:`g_j = \gamma p_j\,(\varphi(x)-u_j)`; the others are measured from the row next to
  their mean;
* neighbours: the neighbours themselves, :math:`g = w\,\delta/\lVert\delta\rVert`;
* a centre, a mean or a cluster, which no row is: quadratic, :math:`g = P(\varphi(x)+\varphi(\tilde x)-2c)` from the row
  that lies next to it; an assignment, and a linear function, by their weights, from the row next to the rival's centre
  and next to the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from backlight.classical.layers import EncodedRows, Layer
from backlight.classical.layers.contrasts import Contrasts, Nearest
from backlight.classical.layers.linear import Affine, Mahalanobis
from backlight.classical.layers.neighbors import ClassOrderStatistics, OrderStatistics
from backlight.classical.layers.pools import Link, SoftMinPool
from backlight.classical.layers.softmin_distance import SoftMinDistance
from backlight.classical.layers.surprise import WithSurprise
from backlight.classical.layers.weighted_votes import WeightedVotes
from backlight.errors import DataError

__all__ = ["FORMS", "core_of", "slopes"]

# Anchors that differences are carried to one by one; the others are measured from the row next to their mean.
ANCHORS = 8
# Rows of features that may be found among anchors, in shares of their size.
_SAME = 1e-4

# From coefficients (n, U), rows z (n, K) and the rows of the data (M, K) to positions (n, r) and slopes (n, r, K).
Form = Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
FORMS: dict[type[nn.Module], Form] = {}


def _form(*layers: type[nn.Module]) -> Callable[[Form], Form]:
    def keep(form: Form) -> Form:
        FORMS.update(dict.fromkeys(layers, form))
        return form

    return keep


def _next_to(points: Tensor, rows: Tensor) -> Tensor:
    """The row next to each point."""
    return torch.cdist(points, rows).argmin(1)


def _among(anchors: Tensor, rows: Tensor) -> Tensor:
    """Which row each anchor is."""
    exact = rows.double()
    d = torch.cdist(anchors.double(), exact, compute_mode="donot_use_mm_for_euclid_dist")
    least, found = d.min(1)
    if bool((least > _SAME * (exact - exact.mean(0)).norm(dim=1).mean()).any()):
        raise DataError(
            "the rows in data= do not have the features that the head was fitted on: give the rows of its fit, as they "
            "went through the module"
        )
    return found


@_form(SoftMinDistance)
def _pool(pool: SoftMinDistance, c: Tensor, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    anchors = pool.anchors + pool.center
    centred = z - pool.center
    p = torch.softmax(pool.log_weights + pool.log_kernels(centred, centred.square().sum(1)), 1)[:, : len(anchors)]
    place = _among(anchors, rows)
    weight, near = p.topk(min(ANCHORS, len(anchors)), 1)
    delta = z[:, None] - rows[place[near]]
    slope = weight[:, :, None] * delta
    rest = p.scatter(1, near, 0.0)
    mass = rest.sum(1, keepdim=True)
    if bool((mass > 0).any()):  # from the row next to their mean
        mean = rest @ anchors
        beside = _next_to(mean / torch.where(mass > 0, mass, 1.0), rows)
        slope = torch.cat([slope, (mass * (z + rows[beside]) - 2 * mean)[:, None]], 1)
        return torch.cat([place[near], beside[:, None]], 1), pool.gamma * c[:, :, None] * slope
    return place[near], pool.gamma * c[:, :, None] * slope


@_form(OrderStatistics)
def _neighbours(layer: OrderStatistics, c: Tensor, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    near = layer.nearest.find(z, len(layer.weights), None)
    place = _among(layer.anchors, rows)
    slopes = []
    for _, delta, size, terms, scale in layer._blocks(z, near):
        some = size > 0
        weight = torch.where(some, terms / torch.where(some, size, 1.0), 0.0) * scale[:, None]
        slopes.append(weight[:, :, None] * layer.nearest.gradient(delta))
    return place[near], c[:, :, None] * torch.cat(slopes)


@_form(ClassOrderStatistics)
def _votes(layer: ClassOrderStatistics, c: Tensor, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    rival, mine, _ = layer._pairs(EncodedRows.at(z))
    place = _among(layer.anchors, rows)
    both = torch.cat([rival, mine], 1)
    slope = layer.nearest.gradient(z[:, None] - layer.anchors[both])
    return place[both], torch.cat([c, -c], 1)[:, :, None] * slope


@_form(WeightedVotes)
def _weighted_votes(layer: WeightedVotes, c: Tensor, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    place, delta, H, slope = layer.distances(z)
    weight = torch.einsum("nu,nuc,ncj->nj", c, layer.contrasts(H)[1], slope)
    return _among(layer.anchors, rows)[place], weight[:, :, None] * layer.nearest.gradient(delta)


@_form(Affine)
def _linear(layer: Affine, c: Tensor, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    usual = _next_to(rows.mean(0, keepdim=True), rows).expand(len(z))
    return usual[:, None], (c @ layer.weight)[:, None]


@_form(Mahalanobis)
def _mean(layer: Mahalanobis, c: Tensor, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    usual = _next_to(layer.center[None], rows).expand(len(z))
    return usual[:, None], (c * ((z + rows[usual] - 2 * layer.center) @ layer.metric))[:, None]


@_form(Nearest)
def _centre(layer: Nearest, c: Tensor, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    centers: Tensor = layer.inner.anchors  # type: ignore[assignment]
    mine = torch.cdist(z, centers).argmin(1)
    place = _next_to(centers, rows)[mine]
    return place[:, None], (c * (z + rows[place] - 2 * centers[mine]))[:, None]


@_form(Contrasts)
def _assignment(layer: Contrasts, c: Tensor, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    centers: Tensor = layer.inner.anchors  # type: ignore[assignment]
    d = torch.cdist(z, centers).square()
    places, slopes = [], []
    beside = _next_to(centers, rows)
    for k, (own, other) in enumerate(zip(layer.own, layer.rival, strict=True)):
        least = (d[:, other] - d[:, own]).argmin(1)
        mine, rival = own[least], other[least]
        places.append(beside[rival])
        slopes.append(c[:, k, None] * 2 * (centers[mine] - centers[rival]))
    return torch.stack(places, 1), torch.stack(slopes, 1)


def slopes(layer: Layer, c: Tensor, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """References and slopes of a layer, through what stands on it."""
    if type(layer) is Link:
        inner: Any = layer.inner
        slope = layer.slope(inner(EncodedRows.at(z)))
        return slopes(inner, c * slope, z, rows)
    if isinstance(layer, WithSurprise):
        return slopes(layer.inner, c, z, rows)
    if isinstance(layer, SoftMinPool):
        return _pool(layer.pool, c, z, rows)
    return FORMS[type(layer)](layer, c, z, rows)


def core_of(layer: nn.Module) -> nn.Module:
    """What stands below the links of a layer."""
    if type(layer) is Link or isinstance(layer, WithSurprise):
        return core_of(layer.inner)
    return layer.pool if isinstance(layer, SoftMinPool) else layer
