"""PyOD's detectors by distances: order statistics of them, gated by the library's own search.

* KNN, Sampling: distances to rows; CBLOF: to centres; PCA: a sum of distances to its axes;
* ABOD: the variance of angles to the nearest rows, which is homogeneous in the differences to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.classical.families.neighbors import metric_of
from backlight.classical.families.pyod import Make, Reading, reads
from backlight.classical.frontend.pipeline import carry
from backlight.classical.layers import EncodedRows, Layer
from backlight.classical.layers.angles import AngleVariance
from backlight.classical.layers.composition import Member
from backlight.classical.layers.linear import tensor
from backlight.classical.layers.neighbors import NearestRows, OrderStatistics
from backlight.classical.network import Inputs
from backlight.errors import UnsupportedOption
from backlight.explanation.score_units import DISTANCE, PLAIN

__all__: list[str] = []

# Shares of the largest variance that are rounding.
_NO_SPREAD = 1e-12


def _to(rows: np.ndarray, search: Callable[[np.ndarray, int], np.ndarray], weights: np.ndarray, city: bool) -> Make:
    nearest = NearestRows(search, tensor(rows), city)
    return lambda inputs: OrderStatistics(nearest, tensor(weights), inputs.pullback)


def _is_city(model: Any, metric: Any, params: Any) -> bool:
    found = metric_of(model, metric, params)
    if found not in ("euclidean", "manhattan"):
        raise UnsupportedOption(f"{type(model).__name__}(metric={metric!r}): fit it with 'euclidean' or 'manhattan'")
    return bool(found == "manhattan")


@reads("KNN")
def _knn(model: Any) -> Reading:
    inner, k = model.neigh_, model.n_neighbors
    rows = np.asarray(inner._fit_X)  # private: the training rows
    city = _is_city(inner, inner.effective_metric_, inner.effective_metric_params_)
    weights = np.zeros(k)
    if model.method == "largest":
        weights[-1] = 1.0
    elif model.method == "mean":
        weights[:] = 1 / k
    else:  # the median
        np.add.at(weights, [(k - 1) // 2, k // 2], 0.5)  # of an odd number both are one
    make = _to(rows, lambda z, n: inner.kneighbors(z, n_neighbors=n, return_distance=False), weights, city)
    return make, rows.shape[1], DISTANCE


@reads("ABOD")
def _abod(model: Any) -> Reading:
    if model.method != "fast":
        raise UnsupportedOption(f"ABOD(method={model.method!r}) takes all pairs of rows: fit it with method='fast'")
    rows = np.asarray(model.X_train_, dtype=float)

    def search(z: np.ndarray, k: int) -> np.ndarray:
        return np.asarray(model.neigh_.kneighbors(z, n_neighbors=k, return_distance=False))

    nearest = NearestRows(search, tensor(rows))
    return lambda inputs: AngleVariance(nearest, model.n_neighbors, inputs.pullback), rows.shape[1], PLAIN


@reads("Sampling")
def _sampling(model: Any) -> Reading:
    rows = np.asarray(model.subset, dtype=float)
    city = _is_city(model, model.metric, model.metric_params)

    def search(z: np.ndarray, k: int) -> np.ndarray:
        return np.asarray(np.argsort(model.dist.pairwise(z, rows), axis=1, kind="stable")[:, :k])

    return _to(rows, search, np.ones(1), city), rows.shape[1], DISTANCE


@reads("CBLOF")
def _cblof(model: Any) -> Reading:
    centers = np.asarray(model.cluster_centers_, dtype=float)
    large = np.asarray(sorted(model.large_cluster_labels_), dtype=int)
    K = len(centers)

    def search(z: np.ndarray, _: int) -> np.ndarray:
        """One of K × K anchors: the row's cluster, and the centre that its distance is measured to."""
        labels = np.asarray(model.clustering_estimator_.predict(z))
        away = np.sqrt(((z[:, None] - centers[large]) ** 2).sum(2)).argmin(1)
        return (labels * K + np.where(np.isin(labels, large), labels, large[away]))[:, None]

    sizes = tensor(np.repeat(model.cluster_sizes_, K).astype(float))
    nearest = NearestRows(search, tensor(np.tile(centers, (K, 1))))
    gate = (lambda near: sizes.to(near.device)[near[:, 0]]) if model.use_weights else None

    def make(inputs: Inputs) -> Layer:
        return _Centers(nearest, tensor([1.0]), inputs.pullback, gate=gate)

    return make, centers.shape[1], DISTANCE


class _Centers(OrderStatistics):
    """Distances to centres, which are no rows."""

    def self_index(self, x: EncodedRows) -> Tensor:
        """No row is a centre."""
        return torch.full((len(x),), -1, device=x.z.device)

    def training_rows(self) -> Tensor:
        """None."""
        return self.anchors[:0]


@reads("PCA")
def _pca(model: Any) -> Reading:
    axes, spread = (np.asarray(one, dtype=float) for one in (model.selected_components_, model.selected_w_components_))
    known = int((spread > _NO_SPREAD * spread.max()).sum())
    if known < len(spread):
        raise UnsupportedOption(
            f"PCA of PyOD divides by the variance of {len(spread) - known} axes that have none, as some columns are "
            f"sums of others: fit it with n_components={known}"
        )
    weights = 1 / spread
    everyone = np.arange(len(axes))
    nearest = NearestRows(lambda z, k: np.tile(everyone[:k], (len(z), 1)), tensor(axes))

    def make(inputs: Inputs) -> Layer:
        if not model.standardization:
            return _Centers(nearest, tensor(weights), inputs.pullback)
        elements, behind = inputs.behind(carry(model.scaler_, inputs.features))
        return Member(elements, behind.pullback, _Centers(nearest, tensor(weights), behind.pullback))

    return make, axes.shape[1], PLAIN
