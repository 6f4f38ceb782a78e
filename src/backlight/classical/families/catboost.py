r"""CatBoost: models of numeric columns, read from their JSON; of others see `catboost_categories`.

Scores as of `backlight.classical.families.xgboost`; the margin is
``predict(prediction_type="RawFormulaVal")``.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backlight.classical.families.boosters import booster_spec
from backlight.classical.families.catboost_categories import asked_of_the_library
from backlight.classical.families.catboost_trees import trees_of
from backlight.classical.families.trees import layer_of
from backlight.classical.layers import Layer
from backlight.classical.layers.tree_table import table_of
from backlight.classical.network import Inputs, ModelSpec
from backlight.classical.neuralize import neuralize
from backlight.errors import NotFittedModel, UnsupportedOption, require

__all__ = ["catboost_model"]

_LOG = ("Poisson", "Tweedie")


def _raw(model: Any, z: Any) -> np.ndarray:
    catboost = require("catboost", "boosting", "scoring a model of CatBoost")
    return np.asarray(catboost.CatBoost.predict(model, z, prediction_type="RawFormulaVal"), dtype=float)


@neuralize.register("catboost.core.CatBoost", "catboost.CatBoost")
def catboost_model(model: Any) -> ModelSpec:
    """Neuralize a model: its trees, or where it has categories what it says of them itself."""
    name = type(model).__name__
    if not model.is_fitted():
        raise NotFittedModel(f"{name} is not fitted: call its fit(X) first")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        model.save_model(str(path), format="json")
        read = json.loads(path.read_text())
    information = read["features_info"]
    if information.get("text_features") or information.get("embedding_features"):
        raise UnsupportedOption(f"{name} was fitted on columns of text or embeddings: fit it on numbers and categories")
    scale, start = read["scale_and_bias"]
    start = np.ravel(start).astype(float)
    if information.get("categorical_features"):
        if "oblivious_trees" not in read:
            raise UnsupportedOption(
                f"{name}(grow_policy={model.get_all_params().get('grow_policy')!r}) has categories, and no Shapley "
                "values that add up: fit it with grow_policy='SymmetricTree'"
            )
        layer, count = asked_of_the_library(model, len(start), _raw), int(model.tree_count_)
        return _spec(model, f"{name} ({count} trees)", layer, len(start))
    trees = trees_of(read, len(start), scale)
    table = table_of(trees)
    return _spec(model, f"{name} ({len(trees)} trees)", layer_of(table, start), len(start))


def _spec(model: Any, kind: str, layer: Callable[[Inputs], Layer], units: int) -> ModelSpec:
    """The scores behind the margin's link."""
    loss = str(model.get_all_params().get("loss_function", "")).partition(":")[0]
    classes = getattr(model, "classes_", None)
    classes = None if classes is None or len(classes) == 0 else np.asarray(classes)
    link = "log" if loss in _LOG else "softmax" if loss in ("Logloss", "CrossEntropy", "MultiClass") else None
    link = "margin" if loss == "RMSEWithUncertainty" else link
    return booster_spec(kind, layer, units, _raw, classes, link, len(model.feature_names_), model.feature_names_)
