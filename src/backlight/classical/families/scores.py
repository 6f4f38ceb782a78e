"""Scores that several families share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from backlight.classical.functions import Everywhere, Rest, Shifted, Straight, minus_one, sigmoid_slope
from backlight.classical.layers import Layer
from backlight.classical.layers.pools import Budget, Link
from backlight.classical.network import Inputs, Score
from backlight.classical.targets import Outputs
from backlight.explanation.score_units import PLAIN, SQUARED, ScoreUnit

__all__ = ["Reference", "column", "minus", "plain", "predicted", "probability", "shifted"]

Reference = Callable[[Any, Any], np.ndarray]
Make = Callable[[Inputs], Layer]


def plain(
    name: str, make: Make, reference: Reference, outputs: Outputs | None = None, unit: ScoreUnit = PLAIN
) -> Score:
    """The layer's output itself."""
    return Score(name, make, reference, outputs or Outputs(), unit)


def column(y: Any) -> np.ndarray:
    """One number a row as shape (n,), several as they are."""
    out = np.asarray(y, dtype=float)
    return out[:, 0] if out.ndim == 2 and out.shape[1] == 1 else out


def predicted(model: Any, z: Any) -> np.ndarray:
    """What the library predicts."""
    return column(model.predict(z))


def shifted(name: str, make: Make, constant: float, reference: Reference, unit: ScoreUnit = PLAIN) -> Score:
    """The layer's output and a constant, which is base."""
    return Score(name, lambda inputs: Link(make(inputs), Shifted(constant), torch.ones_like), reference, unit=unit)


def log_distance(make: Make, gamma: float, log_total: float, outlierness: Reference) -> Score:
    r"""−(1/γ) log Σ_i α_i exp(−γ‖x − u_i‖²) = softmin_i(‖x − u_i‖² − (1/γ) log α_i), in squared distance.

    It is (outlierness − log Σ α)/γ, with outlierness that of weights that sum to one.
    """
    return Score(
        "log_distance",
        lambda inputs: Link(make(inputs), Straight(1 / gamma, -log_total / gamma), Everywhere(1 / gamma)),
        lambda model, z: (outlierness(model, z) - log_total) / gamma,
        unit=SQUARED,
    )


def minus(name: str, make: Make, constant: float, reference: Reference, total: float | None = None) -> Score:
    """A constant less the output, read as what a row leaves of the usual."""
    return Score(
        name,
        lambda inputs: Budget(make(inputs), Rest(constant), minus_one, total),
        reference,
    )


def probability(name: str, make: Make, reference: Reference, outputs: Outputs) -> Score:
    r"""1/(1 + e^{−l}) of log-odds l, by its secant from l = 0: relevance in probability, base ½ and the log-odds' own.

    Of two classes the second one's log-odds are the unit, and the first one's probability is one minus it.
    """
    return Score(name, lambda inputs: Link(make(inputs), torch.sigmoid, sigmoid_slope), reference, outputs)
