r"""Clusterings by centres: why this cluster, and not the next one.

Score "assignment", one output a cluster: :math:`f_c = \min_{k\ne c}(\lVert x-\mu_k\rVert^2-\lVert
x-\mu_c\rVert^2)`, positive exactly for the assigned cluster; see `backlight.neural.layers.contrasts.Contrasts`.
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

from backlight.neural.layers import Layer, SoftMinDistance
from backlight.neural.layers.combine import Stack
from backlight.neural.layers.contrasts import Contrasts, Nearest
from backlight.neural.layers.pools import LogOdds, SoftMinPool
from backlight.neural.layers.radial import Radial
from backlight.neural.layers.units import tensor
from backlight.neural.linear import against_the_rest
from backlight.neural.network import Head, Inputs, Score
from backlight.neural.neuralize import neuralize
from backlight.neural.scores import plain
from backlight.neural.targets import Outputs
from backlight.neural.units import SQUARED

__all__ = ["bisecting", "kernel_clusters", "kmeans"]


@neuralize.register("sklearn.cluster.KMeans", "sklearn.cluster.MiniBatchKMeans")
def kmeans(estimator: Any) -> Head:
    """Neuralize `KMeans` or `MiniBatchKMeans`."""
    centers = np.asarray(estimator.cluster_centers_, dtype=float)
    k = len(centers)
    pairs = [[(c, other) for other in range(k) if other != c] for c in range(k)]

    def assignment(model: Any, z: Any) -> np.ndarray:
        d = np.asarray(model.transform(z), dtype=float) ** 2
        return np.stack([np.delete(d, c, axis=1).min(1) - d[:, c] for c in range(k)], 1)

    return _head(estimator, centers, pairs, assignment, list(range(k)))


@neuralize.register("sklearn.cluster.BisectingKMeans")
def bisecting(estimator: Any) -> Head:
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
    return _head(estimator, nodes, pairs, assignment, leaves)


def _head(estimator: Any, centers: np.ndarray, pairs: Any, assignment: Any, leaves: list[int]) -> Head:
    k = len(pairs)
    scores: dict[str, Score] = {}
    name = type(estimator).__name__

    def nearest(inputs: Inputs) -> Layer:
        return Nearest(Radial(tensor(centers[leaves]), inputs.pullback))

    def squared(model: Any, z: Any) -> np.ndarray:
        return np.asarray(np.asarray(model.transform(z), dtype=float).min(1) ** 2)

    outlierness = plain("outlierness", nearest, squared, unit=SQUARED)
    if k < 2:
        return Head(f"{name} (one cluster)", {"outlierness": outlierness})
    outputs = Outputs.each([f"cluster {c}" for c in range(k)])

    def contrast(inputs: Inputs) -> Layer:
        near = [min(float(((centers[b] - centers[a]) ** 2).sum()) for a, b in path) for path in pairs]
        beta = 1 / np.mean(near) if np.mean(near) > 0 else 1.0
        return Contrasts(Radial(tensor(centers), inputs.pullback), pairs, float(beta))

    scores["assignment"] = plain("assignment", contrast, assignment, outputs)
    if leaves == list(range(k)) and float(estimator.inertia_) > 0:
        stiffness = len(estimator.labels_) * centers.shape[1] / (2 * float(estimator.inertia_))

        def soft(inputs: Inputs) -> Layer:
            units = Radial(tensor(centers), inputs.pullback, lambda d: stiffness * d)
            return LogOdds(units, torch.zeros(k, dtype=torch.float64))

        def soft_reference(model: Any, z: Any) -> np.ndarray:
            return against_the_rest(-stiffness * np.asarray(model.transform(z), dtype=float) ** 2)

        scores["soft_assignment"] = plain("soft_assignment", soft, soft_reference, outputs)
    scores["outlierness"] = outlierness
    return Head(f"{name} ({k} clusters)", scores)


@neuralize.register("backlight.neural.KernelClusters")
def kernel_clusters(estimator: Any) -> Head:
    """Neuralize `KernelClusters`: distances, soft-min pools, differences, min over rivals."""
    k = len(estimator.rows_)
    pairs = [[(c, other) for other in range(k) if other != c] for c in range(k)]

    def make(inputs: Inputs) -> Layer:
        way, dtype = inputs.pullback, inputs.dtype
        pools = [
            SoftMinPool(SoftMinDistance(rows, np.zeros(len(rows)), estimator.gamma, way, dtype))
            for rows in estimator.rows_
        ]
        return Contrasts(Stack(pools), pairs, 1.0)

    def assignment(model: Any, z: Any) -> np.ndarray:
        d = model.transform(z)
        return np.stack([np.delete(d, c, axis=1).min(1) - d[:, c] for c in range(k)], 1)

    outputs = Outputs.each([f"cluster {label}" for label in estimator.labels_])
    return Head(f"kernel clusters ({k})", {"assignment": plain("assignment", make, assignment, outputs)})
