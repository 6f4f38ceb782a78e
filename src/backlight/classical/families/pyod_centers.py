"""PyOD's detectors that sum distances to centres, which are no rows: CBLOF, and PCA, whose axes are centres."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.classical.families.pyod import Reading, reads
from backlight.classical.frontend.pipeline import carry
from backlight.classical.layers import EncodedRows, Layer
from backlight.classical.layers.composition import Member
from backlight.classical.layers.linear import tensor
from backlight.classical.layers.neighbors import NearestRows, OrderStatistics
from backlight.classical.network import Inputs
from backlight.errors import UnsupportedOption
from backlight.explanation.score_units import DISTANCE, PLAIN

__all__: list[str] = []

# Shares of the largest variance that are rounding.
_NO_SPREAD = 1e-12


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
