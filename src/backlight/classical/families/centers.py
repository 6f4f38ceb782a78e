"""A centre in a space of features, as a deep one-class model (Deep SVDD) has: the squared distance to it."""

from __future__ import annotations

import numpy as np

from backlight.classical.families.scores import plain
from backlight.classical.heads import Center
from backlight.classical.layers.linear import Mahalanobis, tensor
from backlight.classical.network import ModelSpec
from backlight.classical.neuralize import neuralize
from backlight.explanation.score_units import SQUARED

__all__ = ["center"]


@neuralize.register("backlight.classical.heads.Center")
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
