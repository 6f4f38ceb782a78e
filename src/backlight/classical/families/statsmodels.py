r"""Statsmodels: fitted results of linear, logistic and generalised linear models.

The linear predictor is one affine layer over the columns that the model was given, its constant one of them.
"predict" of a generalised linear model is the inverse of its link, by its secant.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.classical.families.linear import odds_scores
from backlight.classical.families.scores import plain
from backlight.classical.layers import Layer
from backlight.classical.layers.linear import Affine, tensor
from backlight.classical.layers.links import Secant
from backlight.classical.network import Inputs, ModelSpec
from backlight.classical.neuralize import neuralize
from backlight.classical.targets import Outputs
from backlight.errors import UnsupportedOption

__all__ = ["statsmodels_results"]


def _rows(z: Any) -> np.ndarray:
    return np.asarray(z, dtype=float)


@neuralize.register(
    "statsmodels.regression.linear_model.RegressionResultsWrapper",
    "statsmodels.discrete.discrete_model.BinaryResultsWrapper",
    "statsmodels.genmod.generalized_linear_model.GLMResultsWrapper",
)
def statsmodels_results(results: Any) -> ModelSpec:
    """Neuralize what ``fit()`` of OLS, WLS, GLS, Logit or GLM returned."""
    model, name = results.model, type(results.model).__name__
    if hasattr(model, "formula"):
        raise UnsupportedOption(f"{name} was fitted by a formula, which makes its own columns: give it the columns")
    weight = np.asarray(results.params, dtype=float)

    def linear(inputs: Inputs) -> Layer:
        return Affine(tensor(weight[None]), tensor([0.0]), inputs.pullback)

    def predictor(_: Any, z: Any) -> np.ndarray:
        return np.asarray(_rows(z) @ weight)

    kind = f"{name} of statsmodels ({len(weight)} weights)"
    if name == "Logit":
        return ModelSpec(kind, _logit(linear, predictor), n_columns=len(weight))
    if name == "GLM":
        inverse = model.family.link.inverse

        def value(y: Tensor) -> Tensor:
            return torch.as_tensor(np.asarray(inverse(np.asarray(y.detach().cpu().double())))).to(y)

        scores = {
            "predict": plain(
                "predict", lambda inputs: Secant(linear(inputs), value), lambda m, z: np.asarray(m.predict(_rows(z)))
            ),
            "linear_predictor": plain("linear_predictor", linear, predictor),
        }
        return ModelSpec(kind, scores, n_columns=len(weight))
    if name not in ("OLS", "WLS", "GLS", "GLSAR"):
        raise UnsupportedOption(f"{name} of statsmodels has no network here: OLS, WLS, GLS, Logit and GLM have")
    score = plain("predict", linear, lambda m, z: np.asarray(m.predict(_rows(z))))
    return ModelSpec(kind, {"predict": score}, n_columns=len(weight))


def _logit(linear: Any, predictor: Any) -> dict[str, Any]:
    scores = odds_scores(linear, Outputs.binary(["0", "1"]), predictor)

    def both(m: Any, z: Any) -> np.ndarray:
        p = np.asarray(m.predict(_rows(z)))
        return np.stack([1 - p, p], 1)

    whole = scores["probability"]
    return {**scores, "probability": plain("probability", whole.layer, both, whole.outputs)}
