r"""CatBoost: models of numeric columns, read from their JSON.

Its trees are symmetric: all nodes of one depth ask the same question, whether a value is *greater* than a border, in
single precision. Scores as of `backlight.classical.families.xgboost`; the margin is
``predict(prediction_type="RawFormulaVal")``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from backlight.classical.families.boosters import booster_spec
from backlight.classical.layers.tree_table import Tree, table_of
from backlight.classical.network import ModelSpec
from backlight.classical.neuralize import neuralize
from backlight.errors import NotFittedModel, UnsupportedOption, require

__all__ = ["catboost_model"]

_LOG = ("Poisson", "Tweedie")


def _raw(model: Any, z: Any) -> np.ndarray:
    catboost = require("catboost", "boosting", "scoring a model of CatBoost")
    return np.asarray(catboost.CatBoost.predict(model, z, prediction_type="RawFormulaVal"), dtype=float)


@neuralize.register("catboost.core.CatBoost", "catboost.CatBoost")
def catboost_model(model: Any) -> ModelSpec:
    """Neuralize a model without categorical columns."""
    name = type(model).__name__
    if not model.is_fitted():
        raise NotFittedModel(f"{name} is not fitted: call its fit(X) first")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        model.save_model(str(path), format="json")
        read = json.loads(path.read_text())
    information = read["features_info"]
    if information.get("categorical_features") or information.get("text_features"):
        raise UnsupportedOption(f"{name} was fitted on categorical columns: encode them as numbers before fitting")
    if "oblivious_trees" not in read:
        raise UnsupportedOption(f"{name}(grow_policy={model.get_all_params().get('grow_policy')!r}): fit it symmetric")
    scale, start = read["scale_and_bias"]
    start = np.ravel(start).astype(float)
    # Where a column has no border it is not counted, and "AsTrue" sends missing cells to the greater side.
    columns = {one["feature_index"]: one for one in information["float_features"]}
    greater = {index: one.get("nan_value_treatment") == "AsTrue" for index, one in columns.items()}
    flat = {index: one.get("flat_feature_index", index) for index, one in columns.items()}
    trees = [_tree(tree, len(start), scale, greater, flat) for tree in read["oblivious_trees"]]
    loss = str(model.get_all_params().get("loss_function", "")).partition(":")[0]
    classes = getattr(model, "classes_", None)
    classes = None if classes is None or len(classes) == 0 else np.asarray(classes)
    link = "log" if loss in _LOG else "softmax" if loss in ("Logloss", "CrossEntropy", "MultiClass") else None
    kind = f"{name} ({len(trees)} trees)"
    return booster_spec(kind, table_of(trees), start, _raw, classes, link, int(model.n_features_in_))


def _tree(tree: dict[str, Any], units: int, scale: float, greater: dict[int, bool], flat: dict[int, int]) -> Tree:
    """A full binary tree: the library's own order has the last question at the root, as the highest bit of a leaf."""
    splits = tree["splits"] or []
    depth = len(splits)
    values = np.asarray(tree["leaf_values"], dtype=float).reshape(-1, units) * scale
    weights = np.asarray(tree["leaf_weights"], dtype=float)
    inner = 2**depth - 1
    n = inner + 2**depth
    left, right, feature, threshold = np.full(n, -1), np.full(n, -1), np.zeros(n, dtype=int), np.zeros(n)
    missing, out, cover = np.zeros(n, dtype=bool), np.zeros((n, units)), np.zeros(n)
    for node in range(inner):  # in the order of a heap
        split = splits[depth - (node + 1).bit_length()]
        left[node], right[node] = 2 * node + 1, 2 * node + 2
        index = split["float_feature_index"]
        feature[node], threshold[node], missing[node] = flat[index], split["border"], not greater[index]
    out[inner:], cover[inner:] = values, weights
    return Tree(left, right, feature, np.float32(threshold).astype(float), out, cover, missing)
