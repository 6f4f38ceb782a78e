"""PyOD's detectors that hold others: a model of scikit-learn's behind a function of its score, or members.

* OCSVM, LOF, KDE, GMM, IForest, MCD: the network of the model inside;
* FeatureBagging: the mean of its members.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.classical.families.pyod import Make, Reading, reads
from backlight.classical.layers import Layer
from backlight.classical.layers.composition import Mean, Member
from backlight.classical.layers.links import Secant
from backlight.classical.network import Inputs
from backlight.classical.neuralize import spec_of
from backlight.errors import UnsupportedOption
from backlight.explanation.score_units import LOCAL, NATS, PLAIN

__all__: list[str] = []


def _inside(model: Any, function: Callable[[Tensor], Tensor] | None = None) -> Make:
    """The outlierness of the model inside, behind a function."""
    layer = spec_of(model).scores["outlierness"].layer
    return layer if function is None else lambda inputs: Secant(layer(inputs), function)


@reads("OCSVM")
def _ocsvm(model: Any) -> Reading:
    inner = model.detector_
    total, rho = float(np.sum(inner.dual_coef_)), float(np.ravel(inner.offset_)[0])
    if spec_of(inner).scores["outlierness"].unit is PLAIN:  # without a radial kernel it is minus the decision function
        return _inside(inner), inner.n_features_in_, PLAIN
    return _inside(inner, lambda o: rho - total * torch.exp(-o)), inner.n_features_in_, PLAIN


@reads("IForest")
def _iforest(model: Any) -> Reading:
    from backlight.classical.families.trees import average_path

    inner = model.detector_
    c, offset = average_path(inner._max_samples), float(inner.offset_)  # private: as public max_samples may be "auto"
    return _inside(inner, lambda o: torch.exp2(o / c) + offset), inner.n_features_in_, PLAIN


@reads("GMM", "MCD")
def _held(model: Any) -> Reading:
    return _inside(model.detector_), model.detector_.n_features_in_, NATS if hasattr(model, "means_") else PLAIN


@reads("KDE")
def _kde(model: Any) -> Reading:
    return _inside(model.kde_), model.kde_.n_features_in_, NATS


@reads("LOF")
def _lof(model: Any) -> Reading:
    return _inside(model.detector_), model.detector_.n_features_in_, LOCAL


@reads("FeatureBagging")
def _bagging(model: Any) -> Reading:
    if model.combination != "average":
        raise UnsupportedOption("FeatureBagging(combination='max') is one member's score: fit it with 'average'")
    members = [
        (_member(one), np.asarray(columns))
        for one, columns in zip(model.estimators_, model.estimators_features_, strict=True)
    ]

    def make(inputs: Inputs) -> Layer:
        layers = []
        for one, columns in members:
            elements, behind = inputs.behind(inputs.features.pick(columns))
            layers.append(Member(elements, behind.pullback, one(behind)))
        return Mean(layers)

    return make, model.n_features_, PLAIN


def _member(one: Any) -> Make:
    return spec_of(one).scores["outlierness"].layer
