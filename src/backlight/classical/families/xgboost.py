r"""XGBoost: estimators and boosters, read from the model's own JSON.

"margin" is the raw score, a sum of leaves and the base score, which ``predict(output_margin=True)`` returns in single
precision; "log_odds" and "probability" of classes follow from it, "predict" of regressions and rankings is it where the
link is the identity, and "log_predict" where it is a logarithm. Rows are compared in single precision, and go left
where their value is *less* than a threshold.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from backlight.classical.families.boosters import booster_spec
from backlight.classical.families.categories import on_categories
from backlight.classical.families.trees import layer_of
from backlight.classical.families.xgboost_levels import levels_of, sets_of
from backlight.classical.frontend.native_frames import Levels
from backlight.classical.layers.tree_table import Tree, table_of
from backlight.classical.network import ModelSpec
from backlight.classical.neuralize import neuralize
from backlight.errors import UnsupportedOption, require

__all__ = ["xgboost_booster", "xgboost_estimator"]

_LOG = ("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft")
_LOGIT = ("binary:logistic", "reg:logistic", "binary:logitraw")


@neuralize.register("xgboost.sklearn.XGBModel", "xgboost.XGBModel")
def xgboost_estimator(estimator: Any) -> ModelSpec:
    """Neuralize an estimator of scikit-learn's kind: the trees that its own ``predict`` uses."""
    if not np.isnan(estimator.missing):
        raise UnsupportedOption(
            f"{type(estimator).__name__}(missing={estimator.missing!r}): write missing cells as NaN and fit it so"
        )
    booster = estimator.get_booster()
    best = getattr(estimator, "best_iteration", None) if booster.attr("best_iteration") is not None else None
    classes = getattr(estimator, "classes_", None)

    def margin(model: Any, z: Any) -> np.ndarray:
        return np.asarray(model.predict(z, output_margin=True), dtype=float)

    return _spec(type(estimator).__name__, booster, best, classes, margin, estimator.n_features_in_)


@neuralize.register("xgboost.core.Booster", "xgboost.Booster")
def xgboost_booster(booster: Any) -> ModelSpec:
    """Neuralize a booster."""
    xgboost = require("xgboost", "boosting", "scoring a booster")

    def margin(model: Any, z: Any) -> np.ndarray:
        # a data frame has categories, which are read by its dtypes
        rows = xgboost.DMatrix(z, enable_categorical=True) if hasattr(z, "dtypes") else _bare(xgboost, z)
        return np.asarray(model.predict(rows, output_margin=True, validate_features=False), dtype=float)

    return _spec("xgboost.Booster", booster, None, None, margin, booster.num_features())


def _bare(xgboost: Any, z: Any) -> Any:
    return xgboost.DMatrix(np.asarray(z, dtype=np.float32))


def _spec(name: str, booster: Any, best: int | None, classes: Any, margin: Any, width: int) -> ModelSpec:
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    grown, objective = learner["gradient_booster"], learner["objective"]["name"]
    if grown.get("name") == "gblinear":
        raise UnsupportedOption(f"{name}(booster='gblinear') is linear: take LinearRegression or LogisticRegression")
    drop = grown.get("weight_drop")
    model = grown.get("gbtree", grown)["model"]
    parameters = learner["learner_model_param"]
    units = max(1, int(parameters["num_class"]), int(parameters.get("num_target", 1)))
    information, indptr = model["tree_info"], model.get("iteration_indptr")
    count = len(information) if best is None else indptr[best + 1]
    levels = levels_of(learner, model, name)
    trees = [
        _tree(tree, unit, units, 1.0 if drop is None else drop[k], name, levels)
        for k, (tree, unit) in enumerate(zip(model["trees"][:count], information[:count], strict=True))
    ]
    start = np.broadcast_to(np.array(_numbers(parameters["base_score"])), units).copy()
    if objective in _LOGIT:
        start = np.log(start) - np.log1p(-start)
    elif objective in _LOG:
        start = np.log(start)
    link = "log" if objective in _LOG else "logit" if objective == "reg:logistic" else None
    if classes is not None:
        link = "margin" if objective == "binary:hinge" else "softmax"
    if objective == "binary:logistic" and classes is None:
        classes = np.array([0, 1])  # a booster knows no names
    table = table_of(trees)
    layer = on_categories(table, start, levels, None, name) if levels else layer_of(table, start)
    return booster_spec(
        f"{name} ({len(trees)} trees)", layer, units, margin, classes, link, width, booster.feature_names
    )


def _numbers(text: str) -> list[float]:
    """The base score, one number or one a unit."""
    found = json.loads(text)
    return [float(value) for value in found] if isinstance(found, list) else [float(found)]


def _tree(tree: dict[str, Any], unit: int, units: int, weight: float, name: str, levels: Levels) -> Tree:
    left = np.array(tree["left_children"])
    condition = np.array(tree["split_conditions"], dtype=np.float32)
    if int(tree["tree_param"].get("size_leaf_vector", 1)) > 1:
        raise UnsupportedOption(f"{name}(multi_strategy='multi_output_tree'): fit it with 'one_output_per_tree'")
    values = np.zeros((len(left), units))
    values[:, unit] = weight * np.where(left < 0, condition, 0)
    categories = {}
    for node, start, size in sets_of(tree):
        right, seen = set(tree["categories"][start : start + size]), levels[tree["split_indices"][node]]
        # whatever is not in the set goes left; one more code stands for those that no tree names
        known = range(seen + 1 if isinstance(seen, int) else len(seen))
        categories[node] = (frozenset(set(known) - right), frozenset(known))
    missing = np.array(tree["default_left"], dtype=bool)
    return Tree(
        left, np.array(tree["right_children"]), np.array(tree["split_indices"]),
        np.nextafter(condition, np.float32(-np.inf)), values, np.array(tree["sum_hessian"], dtype=float), missing,
        categories,
    )  # fmt: skip
