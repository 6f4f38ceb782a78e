"""DBSCAN: what makes a row a part of its cluster, and what makes it noise.

The score "assignment" has one output a cluster and one for "noise"; the largest is the label that `fit` gave to every
core row and to noise. A row at the edge of two clusters belongs to the one with the nearer core here, and to the one
that was found first there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backlight.classical.families.neighbors import metric_of, search_among
from backlight.classical.families.scores import plain
from backlight.classical.families.svm import dense
from backlight.classical.layers import Layer
from backlight.classical.layers.density_clusters import DensityClusters
from backlight.classical.network import Inputs, ModelSpec
from backlight.classical.neuralize import neuralize
from backlight.classical.targets import Outputs
from backlight.errors import UnsupportedModel, UnsupportedOption

__all__ = ["density_clusters"]


@neuralize.register("sklearn.cluster.DBSCAN")
def density_clusters(estimator: Any) -> ModelSpec:
    """Neuralize a fitted `sklearn.cluster.DBSCAN`."""
    params = {"p": estimator.p} if estimator.p is not None else {}
    metric = metric_of(estimator, estimator.metric, {**(estimator.metric_params or {}), **params})
    if metric not in ("euclidean", "manhattan"):
        raise UnsupportedOption(f"DBSCAN(metric={estimator.metric!r}): fit it with 'euclidean' or 'manhattan'")
    labels = np.asarray(estimator.labels_)[estimator.core_sample_indices_]
    if not len(labels):
        raise UnsupportedModel("this DBSCAN found noise alone: fit it with a larger eps or a smaller min_samples")
    city, rows = metric == "manhattan", dense(estimator.components_)
    names = [int(c) for c in np.unique(labels)]
    groups = [rows[labels == c] for c in names]
    reach = float(estimator.eps) if city else float(estimator.eps) ** 2
    cores = [search_among(group, city) for group in groups]

    def make(inputs: Inputs) -> Layer:
        return DensityClusters(cores, reach, inputs.pullback)

    def assignment(_: Any, z: Any) -> np.ndarray:
        from scipy.spatial.distance import cdist

        kind = "cityblock" if city else "sqeuclidean"
        d = np.stack([cdist(dense(z), group, kind).min(1) for group in groups], 1)
        held = np.array([np.delete(d, c, axis=1).min(1, initial=reach) - d[:, c] for c in range(len(groups))])
        return np.concatenate([held.T, d.min(1, keepdims=True) - reach], 1)

    outputs = Outputs.each([*(f"cluster {c}" for c in names), "noise"])
    kind = f"DBSCAN ({len(names)} clusters, {len(rows)} core rows)"
    return ModelSpec(kind, {"assignment": plain("assignment", make, assignment, outputs)})
