"""A centre in a space of features, as a deep one-class model (Deep SVDD) has: the squared distance to it."""

from __future__ import annotations

from typing import Any

import numpy as np

from backlight.classical.families.scores import plain
from backlight.classical.layers.linear import Mahalanobis, tensor
from backlight.classical.network import ModelSpec
from backlight.classical.neuralize import neuralize
from backlight.classical.score_units import SQUARED
from backlight.errors import ArgumentError

__all__ = ["Center", "center"]


class Center:
    """The squared distance to one point.

    Parameters
    ----------
    center : array of shape (K,)
    """

    def __init__(self, center: Any) -> None:
        self.center_ = np.asarray(center, dtype=float)
        if self.center_.ndim != 1:
            raise ArgumentError(f"a centre is one point of shape (K,), not an array of shape {self.center_.shape}")
        self.n_features_in_ = len(self.center_)

    def fit(self, *_: Any) -> Center:
        """Nothing: the centre was given."""
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """‖x − center‖², (n,)."""
        return np.asarray(((np.asarray(X, dtype=float) - self.center_) ** 2).sum(1))


@neuralize.register("backlight.classical.families.centers.Center")
def center(model: Center) -> ModelSpec:
    """Neuralize a centre."""
    point, eye = tensor(model.center_), tensor(np.eye(len(model.center_)))
    score = plain(
        "outlierness",
        lambda inputs: Mahalanobis(eye, point, inputs.pullback),
        lambda one, z: one.decision_function(z),
        unit=SQUARED,
    )
    return ModelSpec(f"distance to a centre ({len(model.center_)} features)", {"outlierness": score})
