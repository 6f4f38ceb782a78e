"""What the boosters of other libraries have in common: a margin made of trees, and the scores behind its link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from backlight.classical.families.linear import against_the_rest, odds_scores
from backlight.classical.families.scores import column, plain
from backlight.classical.families.trees import layer_of
from backlight.classical.functions import minus_one, negated
from backlight.classical.layers import Layer
from backlight.classical.layers.pools import Link, LogOdds
from backlight.classical.layers.tree_table import TreeTable
from backlight.classical.network import Inputs, ModelSpec, Score
from backlight.classical.targets import Outputs
from backlight.errors import UnsupportedOption

__all__ = ["booster_spec"]


def booster_spec(
    kind: str,
    table: TreeTable,
    start: np.ndarray,
    margin: Callable[[Any, Any], np.ndarray],
    classes: Any,
    link: str | None,
    width: int,
    make: Callable[[Inputs], Layer] | None = None,
) -> ModelSpec:
    """The specification of a booster.

    Parameters
    ----------
    kind : str
    table : TreeTable
        Units: one for two classes, else one a class.
    start : (U,) array
        What is added to the trees.
    margin : function of the model and rows
        The raw score by the library.
    classes : array, optional
    link : "softmax", "log" or None
        What makes a probability or a prediction of the margin.
    width : int
        Columns.
    make : function of `Inputs` to the layer, optional
        Where more than the trees stands between the table and the margin.
    """
    layer = layer_of(table, start) if make is None else make
    if classes is None:
        n = table.values.shape[1]
        outputs = Outputs.each([f"output {k}" for k in range(n)]) if n > 1 else Outputs()
        name = "log_predict" if link == "log" else "predict"
        score = plain(name, layer, lambda model, z: column(margin(model, z)), outputs)
        return ModelSpec(kind, {name: score}, n_columns=width, takes_missing=True)
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
    return ModelSpec(kind, scores, n_columns=width, takes_missing=True)
