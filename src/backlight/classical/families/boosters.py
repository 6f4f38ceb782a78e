"""What the boosters of other libraries have in common: a margin made of trees, and the scores behind its link."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.classical.families.linear import against_the_rest, odds_scores
from backlight.classical.families.scores import column, plain
from backlight.classical.functions import minus_one, negated, signed_square
from backlight.classical.layers import Layer
from backlight.classical.layers.links import Secant
from backlight.classical.layers.pools import Link, LogOdds
from backlight.classical.network import Inputs, ModelSpec, Score
from backlight.classical.targets import Outputs
from backlight.errors import UnsupportedOption

__all__ = ["booster_spec"]

Margin = Callable[[Any, Any], np.ndarray]
# What a regression predicts of its margin, and what the margin is called then.
_LINKS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "log": ("log_predict", torch.exp),
    "logit": ("log_odds", torch.sigmoid),
    "root": ("root_predict", signed_square),
}


def _numbers(layer: Callable[[Inputs], Layer], units: int, margin: Margin, link: str | None) -> dict[str, Score]:
    """The scores of a regression, or of outputs that are no classes: before the link, and behind it by its secant."""
    outputs = Outputs.each([f"output {k}" for k in range(units)]) if units > 1 else Outputs()

    def raw(model: Any, z: Any) -> np.ndarray:
        return column(margin(model, z))

    if link not in _LINKS:
        name = "margin" if link == "margin" else "predict"
        return {name: plain(name, layer, raw, outputs)}
    name, function = _LINKS[link]

    def behind(model: Any, z: Any) -> np.ndarray:
        return np.asarray(function(torch.from_numpy(raw(model, z))))

    return {
        name: plain(name, layer, raw, outputs),
        "predict": plain("predict", lambda inputs: Secant(layer(inputs), function), behind, outputs),
    }


def booster_spec(
    kind: str,
    layer: Callable[[Inputs], Layer],
    units: int,
    margin: Margin,
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
    link : "softmax", "log", "logit", "root", "margin" or None
        What makes a probability or a prediction of the margin; "margin" is another one.
    width : int
        How many columns.
    columns : sequence of str, optional
        The library's names of them; names that it counts are none.
    """
    counted = [re.sub(r"^(Column_|f)", "", name) == str(j) for j, name in enumerate(columns or ())]
    known = None if all(counted) else tuple(columns or ())
    names = [] if classes is None else list(classes)
    if classes is None or (len(names) > 1 and units != (len(names) if len(names) > 2 else 1)):
        link = link if classes is None else "margin"  # several labels at once
        return ModelSpec(kind, _numbers(layer, units, margin, link), n_columns=width, takes_missing=True, columns=known)
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
