"""PyOD's detectors: "outlierness" is ``decision_function``, and the alarm is at ``threshold_``.

Which detector is read by which function is kept here; the functions stand in ``pyod_inside`` (those that hold a model
of scikit-learn's), ``pyod_distances``, ``pyod_terms`` (a sum of one term a column) and ``autoencoders``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from backlight.classical.families.scores import plain
from backlight.classical.layers import Layer
from backlight.classical.network import Inputs, ModelSpec
from backlight.classical.neuralize import neuralize, spec_of
from backlight.errors import NotFittedModel, UnsupportedModel
from backlight.explanation.score_units import ScoreUnit

__all__ = ["Make", "Reading", "detectors", "pyod_detector", "reads"]

_STEPS = "its score is a step function, constant in every column but at its edges; fit IForest or KNN instead"
_BESIDE = "it compares the rows that are given with each other, and a row alone has no score; fit LOF or KNN instead"
_OTHERWISE = "fit one that has, such as ECOD, KNN, LOF or IForest, or write one with backlight.neuralize.register"
_WHY = {
    "INNE": _STEPS,
    **dict.fromkeys(("COF", "LMDD", "LOCI", "QMCD", "ROD", "SOD", "SOS"), _BESIDE),
    "CD": "Cook's distance refits a regression on the rows that are given; fit MCD or PCA instead",
    "KPCA": "its error is a difference of kernel sums that cancel to the last digits; fit PCA, KDE or OCSVM instead",
    "VAE": "its reconstruction is drawn at random, another one in every call; fit AutoEncoder instead",
}

Make = Callable[[Inputs], Layer]
# what makes the layer, how many columns it takes, and the unit of its score
Reading = tuple[Make, int, ScoreUnit]
Reader = Callable[[Any], Reading]
_READERS: dict[str, Reader] = {}


def reads(*names: str) -> Callable[[Reader], Reader]:
    """Register a function from a fitted detector to its layer, its number of columns and its unit, by class names."""

    def keep(reader: Reader) -> Reader:
        _READERS.update(dict.fromkeys(names, reader))
        return reader

    return keep


def detectors() -> list[str]:
    """The detectors that have a network, by their names there."""
    return sorted(_READERS)


@neuralize.register("pyod.models.base.BaseDetector")
def pyod_detector(model: Any) -> ModelSpec:
    """Neuralize a detector of PyOD."""
    name = type(model).__name__
    reader = next((_READERS[cls.__name__] for cls in type(model).__mro__ if cls.__name__ in _READERS), None)
    if reader is None:
        raise UnsupportedModel(f"pyod's {name} has no network: {_WHY.get(name, _OTHERWISE)}")
    if not hasattr(model, "decision_scores_"):
        raise NotFittedModel(f"{name} is not fitted: call its fit(X) first")
    make, width, unit = reader(model)

    def decision(detector: Any, z: Any) -> np.ndarray:
        if hasattr(detector, "kde_"):  # a tree's running bounds lose digits that the family's reference keeps
            return spec_of(detector.kde_).scores["outlierness"].reference(detector.kde_, np.asarray(z, dtype=float))
        # some write what they computed last on themselves
        return np.asarray(copy.copy(detector).decision_function(np.asarray(z, dtype=float)), dtype=float)

    scores = {"outlierness": plain("outlierness", make, decision, unit=unit)}
    return ModelSpec(f"{name} of PyOD", scores, float(model.threshold_), n_columns=width)
