"""Kernel density estimates.

With bandwidth h and weights :math:`\\alpha` on the simplex, :math:`-\\log p(x) = o(x) + \\text{const}` with the
soft-min pool :math:`o = -\\log\\sum_j\\alpha_j k(x, u_j)`; for the Gaussian kernel :math:`-\\log k = \\gamma\\lVert
x-u_j\\rVert^2`, :math:`\\gamma = 1/(2h^2)`. The constant belongs to no feature and is found in ``base_values``.

Kernels that end (Epanechnikov, linear, cosine) give rows outside their support a density of zero. Its logarithm cannot
be shared; "support_distance", the distance to the nearest training row in bandwidths, can. The tophat is a step: which
feature made the step cannot be said.

Where scikit-learn's own number is wrong. `KernelDensity.score_samples` walks a tree and keeps running bounds of the
density; for rows outside the data these bounds lose all digits to cancellation. With 1000 standard normal rows in 10
dimensions and bandwidth 0.5, rows drawn with three times the spread get log-densities that are off by up to 57 %, some
above the highest value that a single nearest row allows (scikit-learn 1.9). The same class with one leaf
(``leaf_size`` ≥ n) adds the kernels up directly and is right to rounding: that is the reference here, and what the
network equals.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from backlight.classical.families.kernels import density_kernel, pool
from backlight.classical.families.neighbors import metric_of
from backlight.classical.families.scores import log_distance, minus, plain, shifted
from backlight.classical.layers import Layer
from backlight.classical.layers.linear import tensor
from backlight.classical.layers.neighbors import NearestRows, OrderStatistics
from backlight.classical.layers.pools import SoftMinPool
from backlight.classical.layers.surprise import WithSurprise
from backlight.classical.network import Inputs, ModelSpec
from backlight.classical.neuralize import neuralize
from backlight.errors import UnsupportedOption
from backlight.explanation.score_units import NATS

__all__ = ["kernel_density"]


@neuralize.register("sklearn.neighbors.KernelDensity")
def kernel_density(estimator: Any) -> ModelSpec:
    """Neuralize a fitted `sklearn.neighbors.KernelDensity`."""
    h = float(estimator.bandwidth_)
    kernel = density_kernel(estimator.kernel, h)
    if kernel is None:
        raise UnsupportedOption(
            f"KernelDensity(kernel={estimator.kernel!r}) is a step function, constant in every feature but at its "
            "edge: fit it with kernel='gaussian', 'exponential', 'epanechnikov', 'linear' or 'cosine'"
        )
    if metric_of(estimator, estimator.metric, estimator.metric_params) != "euclidean":
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
    log_weights = np.log(weights / weights.sum())

    def one_leaf(model: Any) -> Any:
        return clone(model).set_params(leaf_size=len(anchors), bandwidth=h)

    def log_density(model: Any, z: Any) -> np.ndarray:
        return np.asarray(one_leaf(model).fit(anchors, sample_weight=weights).score_samples(z))

    # The kernel's normaliser: what the library says of one anchor at that anchor.
    constant = -float(one_leaf(estimator).fit(anchors[:1]).score_samples(anchors[:1])[0])
    if kernel.gamma is not None:
        constant = 0.5 * anchors.shape[1] * float(np.log(2 * np.pi * h * h))

    def make(inputs: Inputs) -> Layer:
        found = pool(kernel, anchors, log_weights, inputs.pullback, inputs.dtype, training=True)
        return WithSurprise(found) if isinstance(found, SoftMinPool) else found

    scores = {
        "outlierness": shifted("outlierness", make, constant, lambda model, z: -log_density(model, z), NATS),
        "inlierness": minus("inlierness", make, -constant, log_density),
        "score_samples": replace(minus("score_samples", make, -constant, log_density), digits=False),
    }
    if estimator.kernel in ("epanechnikov", "linear", "cosine"):
        scores["support_distance"] = plain(
            "support_distance",
            lambda inputs: OrderStatistics(
                NearestRows(lambda z, k: estimator.tree_.query(z, k=k, return_distance=False), tensor(anchors)),
                tensor([1 / h]),
                inputs.pullback,
            ),
            lambda model, z: np.asarray(model.tree_.query(np.asarray(z, dtype=float), k=1)[0])[:, 0] / h,
        )
    if kernel.gamma is not None:
        scores["log_distance"] = log_distance(
            make, kernel.gamma, 0.0, lambda model, z: -log_density(model, z) - constant
        )
    detail = "Gaussian" if kernel.gamma is not None else kernel.name
    return ModelSpec(f"kernel density ({detail}, bandwidth {h:.4g}, {len(anchors)} rows)", scores)
