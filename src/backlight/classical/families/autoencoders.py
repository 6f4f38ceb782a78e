r"""Autoencoders as detectors: how far a row is from what the network makes of it.

* `Autoencoder`, a torch module between columns and columns: the squared error, each column's own;
* PyOD's AutoEncoder: the root of that, behind its own scaler; DeepSVDD: the squared distance to its centre, or with
  ``use_ae=True`` of what its decoder gives, counted from the mean row.

A regressor of scikit-learn that was fitted on ``(X, X)`` has the score "outlierness" in
`backlight.classical.families.perceptrons`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from backlight.classical.families.pyod import Make, reads
from backlight.classical.families.scores import plain
from backlight.classical.frontend.pipeline import carry
from backlight.classical.layers import Layer
from backlight.classical.layers.composition import Member
from backlight.classical.layers.linear import tensor
from backlight.classical.layers.reconstruction import FromCentre, Reconstruction, frozen
from backlight.classical.network import Inputs, ModelSpec
from backlight.classical.neuralize import neuralize
from backlight.errors import ArgumentError
from backlight.explanation.score_units import DISTANCE, SQUARED, ScoreUnit

__all__ = ["Autoencoder", "autoencoder"]


class Autoencoder:
    """A torch module that gives back its own inputs, as a detector.

    Parameters
    ----------
    module : torch.nn.Module
        Trained, from rows (n, d) to rows (n, d).
    threshold : float, optional
        The squared error above which a row is unusual.

    Examples
    --------
    >>> import torch, backlight
    >>> from backlight.classical import Autoencoder
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Tanh(), torch.nn.Linear(2, 4))
    >>> ex = backlight.explain(Autoencoder(net), torch.randn(3, 4).numpy())
    >>> bool(abs(ex.residual).max() < 1e-12)
    True
    """

    def __init__(self, module: nn.Module, threshold: float | None = None) -> None:
        if not isinstance(module, nn.Module):
            raise ArgumentError(f"Autoencoder takes a torch.nn.Module, not a {type(module).__name__}")
        self.module, self.threshold_ = module, threshold
        first = next((one for one in module.modules() if isinstance(one, nn.Linear)), None)
        if first is not None:
            self.n_features_in_ = first.in_features

    def fit(self, *_: Any) -> Autoencoder:
        """Nothing: the module was trained."""
        return self

    def __sklearn_tags__(self) -> Any:
        """What a pipeline of scikit-learn asks of its last step."""
        from sklearn.base import BaseEstimator

        return BaseEstimator().__sklearn_tags__()

    def decision_function(self, X: Any) -> np.ndarray:
        """The squared error of each row, (n,)."""
        rows = tensor(X)
        with torch.no_grad():
            made = frozen(self.module)(rows).reshape(rows.shape)
        return np.asarray((rows - made).square().sum(1))


@neuralize.register("backlight.classical.Autoencoder")
def autoencoder(model: Autoencoder) -> ModelSpec:
    """Neuralize an autoencoder."""
    score = plain(
        "outlierness",
        lambda inputs: Reconstruction(frozen(model.module), inputs.pullback, root=False),
        lambda one, z: one.decision_function(z),
        unit=SQUARED,
    )
    return ModelSpec(f"autoencoder ({type(model.module).__name__})", {"outlierness": score}, model.threshold_)


def _behind(scaler: Any, make: Make) -> Make:
    """A layer behind a scaler of the detector's own."""

    def layer(inputs: Inputs) -> Layer:
        if scaler is None:
            return make(inputs)
        elements, behind = inputs.behind(carry(scaler, inputs.features))
        return Member(elements, behind.pullback, make(behind))

    return layer


@reads("AutoEncoder")
def _auto_encoder(model: Any) -> tuple[Make, int, ScoreUnit]:
    from sklearn.preprocessing import StandardScaler

    scaler = None
    if model.preprocessing:
        scaler = StandardScaler()
        scaler.mean_, scaler.scale_ = np.asarray(model.X_mean, dtype=float), np.asarray(model.X_std, dtype=float) + 1e-8
    net = frozen(model.model)
    return _behind(scaler, lambda inputs: Reconstruction(net, inputs.pullback, root=True)), model.feature_size, DISTANCE


@reads("DeepSVDD")
def _deep_svdd(model: Any) -> tuple[Make, int, ScoreUnit]:
    net, centre = frozen(model.model_.model), tensor(np.asarray(model.c_.detach().cpu()))
    scaler = model.scaler_ if model.preprocessing else None
    return _behind(scaler, lambda inputs: FromCentre(net, centre, inputs.pullback)), model.n_features, SQUARED
