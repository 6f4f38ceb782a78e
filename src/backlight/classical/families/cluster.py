r"""Clusterings by centres: why this cluster, and not the next one.

Score "assignment", one output a cluster: :math:`f_c = \min_{k\ne c}(\lVert x-\mu_k\rVert^2-\lVert
x-\mu_c\rVert^2)`, positive exactly for the assigned cluster; see `backlight.classical.layers.contrasts.Contrasts`.
`MeanShift`, `AffinityPropagation` and, for classes, `NearestCentroid` are told by their centres in the same way.
"soft_assignment" is the log-odds of a mixture of equal round Gaussians of the clustering's own spread, the soft
k-means: :math:`\log q_c/(1-q_c)`, :math:`q \propto e^{-\beta d}`, with :math:`\beta = nd/(2\,\text{inertia})`, the
maximum likelihood given the labels. "outlierness" is the squared distance to the nearest centre.

Bisecting k-means predicts by walking down a tree of two centres a node; the cluster's score is the smallest of the
contrasts on its path. Spectral, agglomerative and density-based clusterings have no score for a new row; give their
labels to `KernelClusters`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from backlight.classical.families.linear import against_the_rest
from backlight.classical.families.scores import Reference, plain
from backlight.classical.families.svm import dense
from backlight.classical.functions import Scaled
from backlight.classical.layers import Layer, SoftMinDistance
from backlight.classical.layers.composition import Stack
from backlight.classical.layers.contrasts import Contrasts, Nearest
from backlight.classical.layers.linear import tensor
from backlight.classical.layers.pools import LogOdds, SoftMinPool
from backlight.classical.layers.radial import Radial
from backlight.classical.network import Inputs, ModelSpec, Score
from backlight.classical.neuralize import neuralize
from backlight.classical.targets import Outputs
from backlight.errors import UnsupportedOption
from backlight.explanation.score_units import SQUARED

__all__ = ["bisecting", "centers_only", "kernel_clusters", "kmeans", "nearest_centroid"]

# For each target (own centre, rival centre).
Pairs = list[list[tuple[int, int]]]


@neuralize.register("sklearn.cluster.KMeans", "sklearn.cluster.MiniBatchKMeans")
def kmeans(estimator: Any) -> ModelSpec:
    """Neuralize `KMeans` or `MiniBatchKMeans`."""
    centers = np.asarray(estimator.cluster_centers_, dtype=float)
    k = len(centers)
    pairs = _each_against_all(k)

    def assignment(model: Any, z: Any) -> np.ndarray:
        return _margins(np.asarray(model.transform(z), dtype=float) ** 2)

    scores = _scores(centers, pairs, assignment, list(range(k)), _transformed)
    if k > 1 and float(estimator.inertia_) > 0:
        scores |= _soft(estimator, centers)
    return _head(estimator, pairs, scores)


@neuralize.register("sklearn.cluster.MeanShift", "sklearn.cluster.AffinityPropagation")
def centers_only(estimator: Any) -> ModelSpec:
    """Neuralize a clustering that predicts the nearest of its centres: `MeanShift`, `AffinityPropagation`."""
    name = type(estimator).__name__
    if getattr(estimator, "affinity", "euclidean") != "euclidean":
        raise UnsupportedOption(f"{name}(affinity={estimator.affinity!r}) has no centres: fit it with 'euclidean'")
    centers = dense(estimator.cluster_centers_)
    if not len(centers):
        raise UnsupportedOption(f"this {name} has not converged and has no centres: fit it with more iterations")
    pairs = _each_against_all(len(centers))
    scores = _scores(centers, pairs, lambda _, z: _margins(_distances(z, centers)), list(range(len(centers))), _nearest)
    return _head(estimator, pairs, scores)


@neuralize.register("sklearn.neighbors.NearestCentroid")
def nearest_centroid(estimator: Any) -> ModelSpec:
    """Neuralize `NearestCentroid` with uniform priors: how much nearer than the next centroid."""
    priors = np.asarray(estimator.class_prior_)
    if not np.isclose(priors, 1 / len(priors)).all():
        raise UnsupportedOption(
            "NearestCentroid with unequal priors is not supported: fit it with priors='uniform', or use "
            "LinearDiscriminantAnalysis"
        )
    metric = {"euclidean": "sqeuclidean", "manhattan": "cityblock"}[estimator.metric]
    centers = dense(estimator.centroids_)
    k = len(centers)
    pairs = _each_against_all(k)
    outputs = Outputs.each(estimator.classes_)

    def contrast(inputs: Inputs) -> Layer:
        units = Radial(tensor(centers), inputs.pullback, metric=metric)
        return Contrasts(units, pairs, _stiffness(centers, pairs, metric))

    score = plain("contrast", contrast, lambda _, z: _margins(_distances(z, centers, metric)), outputs)
    return ModelSpec(f"nearest of {k} centroids", {"contrast": score})


@neuralize.register("sklearn.cluster.BisectingKMeans")
def bisecting(estimator: Any) -> ModelSpec:
    """Neuralize `BisectingKMeans`: a conjunction over the path of the tree."""
    centers: list[np.ndarray] = []
    paths: dict[int, list[tuple[int, int]]] = {}

    def walk(node: Any, path: list[tuple[int, int]]) -> None:  # private: the tree of centres, mean subtracted
        if node.left is None:
            paths[int(node.label)] = path
            return
        left = len(centers)
        centers.extend([np.asarray(node.left.center), np.asarray(node.right.center)])
        walk(node.left, [*path, (left, left + 1)])
        walk(node.right, [*path, (left + 1, left)])

    walk(estimator._bisecting_tree, [])
    mean = np.asarray(estimator._X_mean) if hasattr(estimator, "_X_mean") else 0.0
    nodes = np.asarray(centers, dtype=float) + mean
    pairs = [paths[c] for c in range(len(paths))]

    def assignment(_: Any, z: Any) -> np.ndarray:
        from sklearn.metrics.pairwise import euclidean_distances

        d = euclidean_distances(np.asarray(z, dtype=float), nodes, squared=True)
        return np.stack([np.min([d[:, b] - d[:, a] for a, b in path], axis=0) for path in pairs], 1)

    leaves = [path[-1][0] for path in pairs]
    return _head(estimator, pairs, _scores(nodes, pairs, assignment, leaves, _transformed))


def _each_against_all(k: int) -> Pairs:
    return [[(c, other) for other in range(k) if other != c] for c in range(k)]


def _distances(z: Any, centers: np.ndarray, metric: str = "sqeuclidean") -> np.ndarray:
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(dense(z), centers, metric))


def _margins(d: np.ndarray) -> np.ndarray:
    """min_{k≠c} d_k − d_c, (n, k)."""
    return np.stack([np.delete(d, c, axis=1).min(1) - d[:, c] for c in range(d.shape[1])], 1)


def _transformed(model: Any, z: Any) -> np.ndarray:
    """The squared distance to the nearest centre, by the library's own distances."""
    return np.asarray(np.asarray(model.transform(z), dtype=float).min(1) ** 2)


def _nearest(model: Any, z: Any) -> np.ndarray:
    return np.asarray(_distances(z, dense(model.cluster_centers_)).min(1))


def _stiffness(centers: np.ndarray, pairs: Pairs, metric: str = "sqeuclidean") -> float:
    """The β of `Contrasts`: one over the mean of the targets' scores at their centres."""
    d = _distances(centers, centers, metric)
    mean = float(np.mean([min(d[a, b] for a, b in path) for path in pairs]))
    return 1 / mean if mean > 0 else 1.0


def _head(estimator: Any, pairs: Pairs, scores: dict[str, Score]) -> ModelSpec:
    name = type(estimator).__name__
    return ModelSpec(f"{name} ({len(pairs)} clusters)" if len(pairs) > 1 else f"{name} (one cluster)", scores)


def _scores(
    centers: np.ndarray, pairs: Pairs, assignment: Reference, leaves: list[int], nearest: Reference
) -> dict[str, Score]:
    def distance(inputs: Inputs) -> Layer:
        return Nearest(Radial(tensor(centers[leaves]), inputs.pullback))

    def contrast(inputs: Inputs) -> Layer:
        return Contrasts(Radial(tensor(centers), inputs.pullback), pairs, _stiffness(centers, pairs))

    outputs = Outputs.each([f"cluster {c}" for c in range(len(pairs))])
    scores = {"assignment": plain("assignment", contrast, assignment, outputs)} if len(pairs) > 1 else {}
    return {**scores, "outlierness": plain("outlierness", distance, nearest, unit=SQUARED)}


def _soft(estimator: Any, centers: np.ndarray) -> dict[str, Score]:
    k = len(centers)
    stiffness = len(estimator.labels_) * centers.shape[1] / (2 * float(estimator.inertia_))

    def soft(inputs: Inputs) -> Layer:
        units = Radial(tensor(centers), inputs.pullback, Scaled(stiffness))
        return LogOdds(units, torch.zeros(k, dtype=torch.float64))

    def reference(model: Any, z: Any) -> np.ndarray:
        return against_the_rest(-stiffness * np.asarray(model.transform(z), dtype=float) ** 2)

    outputs = Outputs.each([f"cluster {c}" for c in range(k)])
    return {"soft_assignment": plain("soft_assignment", soft, reference, outputs)}


@neuralize.register("backlight.classical.KernelClusters")
def kernel_clusters(estimator: Any) -> ModelSpec:
    """Neuralize `KernelClusters`: distances, soft-min pools, differences, min over rivals."""
    k = len(estimator.rows_)
    pairs = _each_against_all(k)

    def make(inputs: Inputs) -> Layer:
        way, dtype = inputs.pullback, inputs.dtype
        pools = [
            SoftMinPool(SoftMinDistance(rows, np.zeros(len(rows)), estimator.gamma, way, dtype))
            for rows in estimator.rows_
        ]
        return Contrasts(Stack(pools), pairs, 1.0)

    def assignment(model: Any, z: Any) -> np.ndarray:
        return _margins(model.transform(z))

    outputs = Outputs.each([f"cluster {label}" for label in estimator.labels_])
    return ModelSpec(f"kernel clusters ({k})", {"assignment": plain("assignment", make, assignment, outputs)})
