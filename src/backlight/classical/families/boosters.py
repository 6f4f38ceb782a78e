"""What the boosters of other libraries have in common: a margin made of trees, and the scores behind its link."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from backlight.classical.families.linear import against_the_rest, odds_scores
from backlight.classical.families.scores import column, plain
from backlight.classical.functions import minus_one, negated
from backlight.classical.layers import Layer
from backlight.classical.layers.pools import Link, LogOdds
from backlight.classical.network import Inputs, ModelSpec, Score
from backlight.classical.targets import Outputs
from backlight.errors import UnsupportedOption

__all__ = ["booster_spec"]


def booster_spec(
    kind: str,
    layer: Callable[[Inputs], Layer],
    units: int,
    margin: Callable[[Any, Any], np.ndarray],
    classes: Any,
    link: str | None,
    width: int,
    columns: Sequence[str] | None = None,
) -> ModelSpec:
    """The specification of a booster.

    Parameters
    ----------
    kind : str
    layer : function of `Inputs` to the layer
    units : int
        One for two classes, else one a class.
    margin : function of the model and rows
        The raw score by the library.
    classes : array, optional
    link : "softmax", "log" or None
        What makes a probability or a prediction of the margin.
    width : int
        How many columns.
    columns : sequence of str, optional
        The library's names of them; names that it counts are none.
    """
    counted = [re.sub(r"^(Column_|f)", "", name) == str(j) for j, name in enumerate(columns or ())]
    known = None if all(counted) else tuple(columns or ())
    if classes is None:
        outputs = Outputs.each([f"output {k}" for k in range(units)]) if units > 1 else Outputs()
        name = "log_predict" if link == "log" else "predict"
        score = plain(name, layer, lambda model, z: column(margin(model, z)), outputs)
        return ModelSpec(kind, {name: score}, n_columns=width, takes_missing=True, columns=known)
    names = list(classes)
    if len(names) < 2:
        raise UnsupportedOption(f"this {kind} was fitted on one class: there is nothing to tell apart")
    outputs = Outputs.classes(names)
    scores: dict[str, Score] = {"margin": plain("margin", layer, lambda model, z: column(margin(model, z)), outputs)}
    if link == "softmax":

        def odds(inputs: Inputs) -> Layer:
            inner = layer(inputs)
            if len(names) == 2:
                return inner
            negative = Link(inner, negated, minus_one)
            return LogOdds(negative, torch.zeros(len(names), dtype=torch.float64))

        def reference(model: Any, z: Any) -> np.ndarray:
            found = column(margin(model, z))
            return found if found.ndim == 1 else against_the_rest(found)

        scores.update(odds_scores(odds, outputs, reference))
    return ModelSpec(kind, scores, n_columns=width, takes_missing=True, columns=known)
