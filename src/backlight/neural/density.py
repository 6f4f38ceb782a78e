"""Kernel density estimates.

A Gaussian kernel density with bandwidth h and weights :math:`\\alpha` on the simplex is
:math:`-\\log p(x) = o(x) + \\tfrac d2\\log(2\\pi h^2)` with the soft-min pool
:math:`o = -\\log\\sum_j\\alpha_j e^{-\\gamma\\lVert x-u_j\\rVert^2}`, :math:`\\gamma = 1/(2h^2)`. The constant belongs
to no feature and is found in ``base_values``.

Where scikit-learn's own number is wrong. `KernelDensity.score_samples` walks a tree and keeps running bounds of the
density; for rows outside the data these bounds lose all digits to cancellation. With 1000 standard normal rows in 10
dimensions and bandwidth 0.5, rows drawn with three times the spread get log-densities that are off by up to 57 %, some
above the highest value that a single nearest row allows (scikit-learn 1.9). The same class with one leaf
(``leaf_size`` ≥ n) adds the kernels up directly and is right to rounding: that is the reference here, and what the
network equals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from backlight.errors import UnsupportedOption
from backlight.neural.network import Head, Score
from backlight.neural.neuralize import neuralize

__all__ = ["kernel_density", "log_mean_kernel"]


@neuralize.register("sklearn.neighbors.KernelDensity")
def kernel_density(estimator: Any) -> Head:
    """Neuralize a fitted `sklearn.neighbors.KernelDensity` with Gaussian kernel."""
    if estimator.kernel != "gaussian":
        raise UnsupportedOption(
            f"KernelDensity(kernel={estimator.kernel!r}) has no network in this version: fit it with kernel='gaussian'"
        )
    if estimator.metric not in ("euclidean", "l2") and not (
        estimator.metric == "minkowski" and (estimator.metric_params or {}).get("p", 2) == 2
    ):
        raise UnsupportedOption(
            f"KernelDensity(metric={estimator.metric!r}) is not supported: fit it with metric='euclidean'"
        )
    if estimator.atol != 0 or estimator.rtol != 0:
        raise UnsupportedOption(
            f"KernelDensity(atol={estimator.atol}, rtol={estimator.rtol}) scores only approximately, so that no "
            "network can equal it: fit it with atol=0, rtol=0"
        )
    from sklearn.base import clone

    tree = estimator.tree_
    anchors = np.asarray(tree.data, dtype=np.float64)
    weights = np.ones(len(anchors)) if tree.sample_weight is None else np.asarray(tree.sample_weight, dtype=np.float64)
    anchors, weights = anchors[weights > 0], weights[weights > 0]
    h, d = float(estimator.bandwidth_), anchors.shape[1]
    constant = 0.5 * d * float(np.log(2 * np.pi * h * h))

    def log_density(model: Any, z: Any) -> np.ndarray:
        one_leaf = clone(model).set_params(leaf_size=len(anchors), bandwidth=h)
        return np.asarray(one_leaf.fit(anchors, sample_weight=weights).score_samples(z))

    scores = {
        "outlierness": Score(
            "outlierness", lambda o: o + constant, torch.ones_like, lambda model, z: -log_density(model, z)
        ),
        "inlierness": Score("inlierness", lambda o: -(o + constant), lambda o: -torch.ones_like(o), log_density),
        "score_samples": Score("score_samples", lambda o: -(o + constant), lambda o: -torch.ones_like(o), log_density),
    }
    kind = f"kernel density (Gaussian, bandwidth {h:.4g}, {len(anchors)} rows)"
    log_weights = np.log(weights / weights.sum())
    return Head(anchors, log_weights, 1 / (2 * h * h), scores, None, kind)


def log_mean_kernel(z: np.ndarray, anchors: np.ndarray, log_weights: np.ndarray, gamma: float) -> np.ndarray:
    """Log Σ_j α_j e^(−γ‖z−u_j‖²) without underflow, from explicit differences: slow, obvious, exact."""
    from scipy.spatial.distance import cdist
    from scipy.special import logsumexp

    return np.asarray(logsumexp(log_weights - gamma * cdist(z, anchors, "sqeuclidean"), axis=1))
