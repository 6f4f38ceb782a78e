"""Restricted Boltzmann machines: the free energy, a product of experts.

`BernoulliRBM.score_samples` is a pseudo-likelihood with a random bit: no network can equal it. What it is made of, the
free energy, is a linear and a softplus layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backlight.classical.families.scores import plain
from backlight.classical.layers import Layer
from backlight.classical.layers.energies import FreeEnergy
from backlight.classical.layers.linear import tensor
from backlight.classical.network import Inputs, ModelSpec
from backlight.classical.neuralize import neuralize

__all__ = ["machine"]


@neuralize.register("sklearn.neural_network.BernoulliRBM")
def machine(estimator: Any) -> ModelSpec:
    """Neuralize the free energy of a `BernoulliRBM`: the higher, the less likely."""
    W = estimator.components_

    def make(inputs: Inputs) -> Layer:
        return FreeEnergy(
            tensor(W), tensor(estimator.intercept_hidden_), tensor(estimator.intercept_visible_), inputs.pullback
        )

    def energy(model: Any, z: Any) -> np.ndarray:  # private
        return np.asarray(model._free_energy(np.asarray(z, dtype=float)))

    return ModelSpec(
        f"restricted Boltzmann machine ({len(W)} hidden units)", {"free_energy": plain("free_energy", make, energy)}
    )
