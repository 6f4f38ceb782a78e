"""PyOD's detectors by distances: order statistics of them, gated by the library's own search.

* KNN, Sampling: distances to rows;
* ABOD: the variance of angles to the nearest rows, which is homogeneous in the differences to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from backlight.classical.families.neighbors import metric_of
from backlight.classical.families.pyod import Make, Reading, reads
from backlight.classical.layers.angles import AngleVariance
from backlight.classical.layers.linear import tensor
from backlight.classical.layers.neighbors import NearestRows, OrderStatistics
from backlight.errors import UnsupportedOption
from backlight.explanation.score_units import DISTANCE, PLAIN

__all__: list[str] = []


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
