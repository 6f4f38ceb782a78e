r"""LightGBM: estimators and boosters, read from ``dump_model``.

Scores as of `backlight.classical.families.xgboost`; the margin is ``predict(raw_score=True)``, in double precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backlight.classical.families.boosters import booster_spec
from backlight.classical.families.categories import on_categories
from backlight.classical.families.trees import layer_of
from backlight.classical.frontend.native_frames import Levels
from backlight.classical.layers.tree_table import Tree, table_of
from backlight.classical.network import ModelSpec
from backlight.classical.neuralize import neuralize
from backlight.errors import UnsupportedOption

__all__ = ["lightgbm_booster", "lightgbm_estimator"]

_LOG = ("poisson", "gamma", "tweedie")


def _raw(model: Any, z: Any) -> np.ndarray:
    return np.asarray(model.predict(z, raw_score=True), dtype=float)


@neuralize.register("lightgbm.sklearn.LGBMModel", "lightgbm.LGBMModel")
def lightgbm_estimator(estimator: Any) -> ModelSpec:
    """Neuralize an estimator of scikit-learn's kind."""
    classes = getattr(estimator, "classes_", None) if hasattr(estimator, "predict_proba") else None
    return _spec(type(estimator).__name__, estimator.booster_, classes)


@neuralize.register("lightgbm.basic.Booster", "lightgbm.Booster")
def lightgbm_booster(booster: Any) -> ModelSpec:
    """Neuralize a booster."""
    return _spec("lightgbm.Booster", booster, None)


def _spec(name: str, booster: Any, classes: Any) -> ModelSpec:
    model = booster.dump_model(num_iteration=booster.best_iteration if booster.best_iteration > 0 else None)
    objective = str(model.get("objective", "")).split()
    units = model["num_tree_per_iteration"]
    levels = _levels(booster, name)
    trees, each = [], model["tree_info"]
    share = units / len(each) if model.get("average_output") else 1.0  # the raw score is a sum even of a forest
    for k, tree in enumerate(each):
        trees.append(_tree(tree, k % units, units, share, name))
    link = "log" if objective[:1] and objective[0] in _LOG else None
    if "cross_entropy" in objective or "sqrt" in objective:
        link = "root" if "sqrt" in objective else "logit"
    if objective[:1] and objective[0] in ("binary", "multiclass"):
        plain = "sigmoid:1" in objective or objective[0] == "multiclass"
        link = "softmax" if plain else None
        classes = np.arange(max(2, units)) if classes is None else classes
    table, start = table_of(trees, single=False), np.zeros(units)
    layer = on_categories(table, start, levels, np.nan, name) if levels else layer_of(table, start)
    return booster_spec(
        f"{name} ({len(trees)} trees)", layer, units, lambda m, z: share * _raw(m, z), classes, link,
        booster.num_feature(), booster.feature_name(),
    )  # fmt: skip


def _levels(booster: Any, name: str) -> Levels:
    """The levels of the columns of categories of a data frame: others than those that were seen count as missing."""
    known = booster.pandas_categorical
    if not known:
        return {}
    params = booster.params  # of a model that was read from a file under the name of the option
    columns = params.get("categorical_column", params.get("categorical_feature"))
    if not isinstance(columns, list) or len(columns) != len(known):
        raise UnsupportedOption(
            f"{name} has categories in columns of more than one kind: give all of them the dtype 'category' and fit it "
            "without categorical_feature="
        )
    return dict(zip(sorted(int(column) for column in columns), map(tuple, known), strict=True))


def _tree(tree: dict[str, Any], unit: int, units: int, share: float, name: str) -> Tree:
    """Nodes in the order of a walk; leaves hold their value, shrunk already."""
    rows: list[list[Any]] = []
    categories: dict[int, tuple[frozenset[int], frozenset[int]]] = {}

    def visit(node: dict[str, Any]) -> int:
        at = len(rows)
        if "split_index" not in node:
            if node.get("leaf_coeff"):
                raise UnsupportedOption(f"{name}(linear_tree=True) has linear functions as leaves: fit it without")
            rows.append([-1, -1, 0, 0.0, share * node["leaf_value"], node.get("leaf_count", 1), False])
            return at
        missing, threshold = node["default_left"], node["threshold"]
        if node["missing_type"] == "Zero":
            raise UnsupportedOption(f"{name}(zero_as_missing=True) is not supported: write missing cells as NaN")
        if node["decision_type"] == "==":
            left = frozenset(int(level) for level in str(threshold).split("||"))
            categories[at] = (left, left)  # all others, and missing ones, go right
            missing, threshold = False, 0.0
        elif node["missing_type"] == "None":  # missing counts as zero
            missing = threshold >= 0
        rows.append([0, 0, node["split_feature"], threshold, 0.0, node["internal_count"], missing])
        rows[at][0] = visit(node["left_child"])
        rows[at][1] = visit(node["right_child"])
        return at

    visit(tree["tree_structure"])
    left, right, feature, threshold, value, cover, missing = (np.array(part) for part in zip(*rows, strict=True))
    values = np.zeros((len(left), units))
    values[:, unit] = value
    return Tree(left, right, feature, threshold, values, cover, missing, categories)
