"""Multilayer perceptrons: a `torch.nn.Sequential`, which the relevance engine explains like any other module.

A regressor with as many outputs as columns, fitted on ``(X, X)``, is an autoencoder: "outlierness" is the squared
difference between what it takes and what it gives, each column's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from backlight.classical.families.scores import column, plain, predicted
from backlight.classical.frontend.features import Features, Vocabulary
from backlight.classical.layers.deep import Deep
from backlight.classical.layers.linear import tensor
from backlight.classical.layers.reconstruction import Reconstruction
from backlight.classical.network import Inputs, ModelSpec
from backlight.classical.neuralize import neuralize
from backlight.classical.targets import Outputs
from backlight.errors import UnsupportedOption
from backlight.explanation.score_units import SQUARED

__all__ = ["perceptron", "perceptron_layers"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "logistic": nn.Sigmoid, "identity": nn.Identity,
}  # fmt: skip


@neuralize.register("sklearn.neural_network.MLPClassifier", "sklearn.neural_network.MLPRegressor")
def perceptron(estimator: Any) -> ModelSpec:
    """Neuralize a multilayer perceptron: its logits, or its prediction."""
    finish = estimator.out_activation_
    last = estimator.coefs_[-1].shape[1]
    classes = getattr(estimator, "classes_", None)
    if classes is not None and finish == "logistic" and last > 1:
        raise UnsupportedOption("MLPClassifier with several labels at once is not supported: fit one model a label")
    if finish not in ("identity", "softmax", "logistic"):
        raise UnsupportedOption(f"{type(estimator).__name__} ends in {finish!r}, which is not supported")
    names = None if classes is None else [str(c) for c in classes]
    if names is None:
        outputs = Outputs.quantities(last)
        score = plain("predict", lambda inputs: _deep(estimator, inputs), predicted, outputs)
        scores = {"predict": score}
        if last == estimator.n_features_in_ and last > 1:
            scores["outlierness"] = plain(
                "outlierness",
                lambda inputs: Reconstruction(_module(estimator), inputs.pullback, root=False),
                lambda model, z: ((np.asarray(z) - model.predict(z)) ** 2).sum(1),
                unit=SQUARED,
            )
        return ModelSpec(f"multilayer perceptron ({_sizes(estimator)})", scores)
    outputs = Outputs.classes(names)
    score = plain("logit", lambda inputs: _deep(estimator, inputs), _logits, outputs)
    return ModelSpec(f"multilayer perceptron ({_sizes(estimator)}, {len(names)} classes)", {"logit": score})


def _deep(estimator: Any, inputs: Inputs) -> Deep:
    maps = [(W.T, b) for W, b in zip(estimator.coefs_, estimator.intercepts_, strict=True)]
    return Deep(perceptron_layers(maps, ACTIVATIONS[estimator.activation], inputs), len(maps[-1][1]), inputs.pullback)


def _module(estimator: Any) -> nn.Sequential:
    """The perceptron on what it takes itself."""
    maps = [(W.T, b) for W, b in zip(estimator.coefs_, estimator.intercepts_, strict=True)]
    features = Features((), np.arange(estimator.n_features_in_), Vocabulary(), n_columns=estimator.n_features_in_)
    pullback = features.pullback(estimator.n_features_in_, torch.float64)
    inputs = Inputs(features, estimator.n_features_in_, pullback, torch.float64)
    return perceptron_layers(maps, ACTIVATIONS[estimator.activation], inputs)


def _sizes(estimator: Any) -> str:
    return "–".join(str(len(W)) for W in estimator.coefs_) + f"–{estimator.coefs_[-1].shape[1]}"


def perceptron_layers(
    maps: Sequence[tuple[np.ndarray, np.ndarray]], activation: type[nn.Module], inputs: Inputs
) -> nn.Sequential:
    """Weights (out, in) and biases of each layer as a module on elements: an affine front end goes into the first."""
    layers: list[nn.Module] = []
    for index, (W, b) in enumerate(maps):
        weight, bias = tensor(W), tensor(b)
        if index == 0:
            weight, bias, start = inputs.pullback.linear(weight, bias)
            bias = bias - weight @ start
        # made on "meta": building a layer must not draw from the user's random state
        layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64, device="meta").to_empty(device="cpu")
        layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
        layer.bias = nn.Parameter(bias.clone(), requires_grad=False)
        layers += [layer, activation()]
    return nn.Sequential(*layers[:-1]).eval()


def _logits(model: Any, z: Any) -> np.ndarray:
    """What the library's probabilities are the softmax or the logistic function of."""
    # The softmax forgets a constant a row, and both forget digits: the library's own pass, with another last
    # activation.
    from copy import copy

    linear = copy(model)
    linear.out_activation_ = "identity"
    return column(linear._forward_pass_fast(z, check_input=True))  # private: predict_proba before its end
