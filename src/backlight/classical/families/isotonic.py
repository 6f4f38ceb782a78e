"""Isotonic regression: a function of one column, to which all of its prediction belongs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.classical.families.scores import plain, predicted
from backlight.classical.layers import Layer
from backlight.classical.layers.linear import Additive
from backlight.classical.network import Inputs, ModelSpec
from backlight.classical.neuralize import neuralize

__all__ = ["isotonic"]


@neuralize.register("sklearn.isotonic.IsotonicRegression")
def isotonic(estimator: Any) -> ModelSpec:
    """Neuralize a fitted `sklearn.isotonic.IsotonicRegression`."""

    def terms(z: Tensor) -> Tensor:
        found = estimator.predict(np.asarray(z.detach().cpu().double()))
        return torch.as_tensor(np.asarray(found, dtype=float)).to(z)[:, None, None]

    def make(inputs: Inputs) -> Layer:
        return Additive(terms, 1, inputs.pullback)

    steps = len(estimator.X_thresholds_)
    return ModelSpec(
        f"isotonic regression ({steps} knots)", {"predict": plain("predict", make, predicted)}, n_columns=1
    )
