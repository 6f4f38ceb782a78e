r"""Trees, forests, boosting, isolation forests: sums of leaves, by the rules of `backlight.rules.trees`.

* trees and forests: "probability" (the mean over the trees), "predict" for regressions;
* boosting: "decision_function" (the raw score), from it "log_odds" and "probability"; "predict", or with a logarithm
  as link "log_predict";
* isolation forests: "outlierness" is minus the mean path length over the trees, which is what adds up over them;
  ``score_samples`` is :math:`-2^{o/c}` of it, with c the mean path length of as many rows as a tree was given.

Leaves are compared in single precision where the library does so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight.classical.families.linear import log_odds
from backlight.classical.families.scores import column, plain, predicted
from backlight.classical.frontend.features import Features
from backlight.classical.frontend.pipeline import carry, unwrap
from backlight.classical.functions import MinusExp2
from backlight.classical.layers import Layer
from backlight.classical.layers.composition import Member, Weighted
from backlight.classical.layers.links import Secant
from backlight.classical.layers.tree_table import Tree, TreeTable, table_of
from backlight.classical.layers.trees import Trees
from backlight.classical.network import Inputs, ModelSpec, Score
from backlight.classical.neuralize import neuralize, spec_of
from backlight.classical.registry import public_name
from backlight.classical.targets import Outputs
from backlight.errors import UnsupportedOption

__all__ = [
    "boosted",
    "boosting",
    "classes_of",
    "forest",
    "histogram_boosting",
    "is_tree",
    "isolation_forest",
    "name_of",
]

_TREES = ("DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor")
_FORESTS = ("RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor")
_GRADIENT = ("GradientBoostingClassifier", "GradientBoostingRegressor")
_HISTOGRAM = ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor")
KNOWN = frozenset(
    {f"sklearn.tree.{name}" for name in _TREES}
    | {f"sklearn.ensemble.{name}" for name in (*_FORESTS, *_GRADIENT, *_HISTOGRAM, "IsolationForest")}
)


class Single(nn.Module):
    """Rounding to single precision."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x.float().to(x.dtype)


def is_tree(model: Any) -> bool:
    """Whether the estimator at the end of a model is made of trees."""
    return any(public_name(cls) in KNOWN for cls in type(unwrap(model).estimator).__mro__)


def name_of(model: Any) -> str:
    """The estimator's class."""
    return type(unwrap(model).estimator).__name__


def read_tree(tree: Any, values: np.ndarray, features: np.ndarray | None = None) -> Tree:
    """A tree of scikit-learn's, with values (N, U) of its nodes; its features may be some of the table's."""
    feature = np.asarray(tree.feature)
    if features is not None:
        feature = np.where(feature < 0, -1, np.asarray(features)[np.maximum(feature, 0)])
    return Tree(
        np.array(tree.children_left), np.array(tree.children_right), np.array(feature),
        np.array(tree.threshold, dtype=float), np.array(values, dtype=float),
        np.array(tree.weighted_n_node_samples, dtype=float), np.array(tree.missing_go_to_left, dtype=bool),
    )  # fmt: skip


def layer_of(table: TreeTable, bias: np.ndarray) -> Callable[[Inputs], Layer]:
    """The function that makes the layer of trees."""
    return lambda inputs: Trees(table, bias, inputs.pullback)


def takes_missing(estimator: Any) -> bool:
    """Whether rows may lack values."""
    return bool(estimator.__sklearn_tags__().input_tags.allow_nan)


def classes_of(estimator: Any) -> list[Any]:
    """Names of the classes; with several outputs those of all, one after the other."""
    classes = estimator.classes_
    several = [classes] if isinstance(classes, np.ndarray) else list(classes)
    if any(len(each) < 2 for each in several):
        raise UnsupportedOption(
            f"this {type(estimator).__name__} was fitted on one class: there is nothing to tell apart"
        )
    if len(several) == 1:
        return list(several[0])
    return [f"output {k}: {name}" for k, each in enumerate(several) for name in each]


@neuralize.register(
    *(f"sklearn.tree.{name}" for name in _TREES), *(f"sklearn.ensemble.{name}" for name in _FORESTS)
)  # fmt: skip
def forest(estimator: Any) -> ModelSpec:
    """Neuralize a tree, or a mean of trees."""
    each = list(getattr(estimator, "estimators_", [estimator]))
    classifies = hasattr(estimator, "classes_")
    trees = []
    for one in each:
        value = np.asarray(one.tree_.value, dtype=float)  # (N, outputs, classes)
        if classifies:
            sizes = np.atleast_1d(one.tree_.n_classes)
            parts = [value[:, k, :size] for k, size in enumerate(sizes)]
            values = np.concatenate([part / part.sum(1, keepdims=True) for part in parts], 1)
        else:
            values = value[:, :, 0]
        trees.append(read_tree(one.tree_, values / len(each)))
    make = layer_of(table_of(trees), np.zeros(trees[0].values.shape[1]))
    kind = f"{type(estimator).__name__} ({len(each)} tree{'s' if len(each) > 1 else ''})"
    if classifies:
        score = plain("probability", make, _probabilities, Outputs.each(classes_of(estimator)))
    else:
        outputs = Outputs.quantities(estimator.n_outputs_)
        score = plain("predict", make, predicted, outputs)
    return ModelSpec(kind, {score.name: score}, takes_missing=takes_missing(estimator))


def _probabilities(model: Any, z: Any) -> np.ndarray:
    found = model.predict_proba(z)
    return np.concatenate(found, 1) if isinstance(found, list) else np.asarray(found)


def boosted(
    estimator: Any, kind: str, make: Callable[[Inputs], Layer], raw: Any, link: Any, missing: bool
) -> ModelSpec:
    """The scores of a sum of trees: a classifier's raw score, or a regression's prediction behind its link."""
    scores: dict[str, Score] = {}
    if hasattr(estimator, "classes_"):
        classes = classes_of(estimator)
        outputs = Outputs.classes(classes)
        scores["decision_function"] = plain(
            "decision_function", make, lambda model, z: np.asarray(model.decision_function(z)), outputs
        )
        if link == "softmax":
            scores.update(log_odds(make, len(classes), outputs))
    elif link == "log":
        scores["log_predict"] = plain("log_predict", make, raw)
    else:
        scores["predict"] = plain("predict", make, predicted)
    return ModelSpec(kind, scores, takes_missing=missing)


@neuralize.register(*(f"sklearn.ensemble.{name}" for name in _GRADIENT))
def boosting(estimator: Any) -> ModelSpec:
    """Neuralize gradient boosting: what it starts from, and its trees."""
    n, units = estimator.estimators_.shape
    trees = []
    for one, unit in zip(estimator.estimators_.ravel(), np.tile(np.arange(units), n), strict=True):
        values = np.zeros((one.tree_.node_count, units))
        values[:, unit] = estimator.learning_rate * one.tree_.value[:, 0, 0]
        trees.append(read_tree(one.tree_, values))
    table = table_of(trees)
    kind = f"{type(estimator).__name__} ({len(trees)} trees)"
    start = estimator.init_
    if start == "zero" or type(start).__name__ in ("DummyClassifier", "DummyRegressor"):
        bias = estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_)))[0]  # private: where it starts
        make = layer_of(table, bias)
    elif hasattr(estimator, "classes_"):
        raise UnsupportedOption(
            f"{type(estimator).__name__}(init={type(start).__name__}()) starts from another model's probabilities: fit "
            "it with init=None or 'zero'"
        )
    else:
        first = spec_of(unwrap(start).estimator).scores["predict"]

        def make(inputs: Inputs) -> Layer:
            features = inputs.features.then(Single())  # it is given what the trees are
            for step in unwrap(start).steps:
                features = carry(step, features)
            elements, behind = inputs.behind(features)
            both = [
                Trees(table, np.zeros(units), inputs.pullback),
                Member(elements, behind.pullback, first.layer(behind)),
            ]
            return Weighted(both, torch.ones(2, dtype=torch.float64))

    link = "softmax" if estimator.loss == "log_loss" else None
    return boosted(estimator, kind, make, predicted, link, missing=False)


@neuralize.register(*(f"sklearn.ensemble.{name}" for name in _HISTOGRAM))
def histogram_boosting(estimator: Any) -> ModelSpec:
    """Neuralize histogram boosting, its categories encoded as it encodes them."""
    units = estimator.n_trees_per_iteration_
    bits, place = estimator._bin_mapper.make_known_categories_bitsets()  # private: which categories were seen
    trees = [
        _histogram_tree(one, unit, units, bits, place)
        for iteration in estimator._predictors  # private: the trees, binned thresholds and real ones
        for unit, one in enumerate(iteration)
    ]
    table, bias = table_of(trees, single=False), np.ravel(estimator._baseline_prediction)
    encoder = estimator._preprocessor

    def make(inputs: Inputs) -> Layer:
        if encoder is None:
            return Trees(table, bias, inputs.pullback)
        # It puts categories first; what it does to the numbers is to check them.
        chosen = np.asarray(estimator.is_categorical_)
        blocks = [carry(encoder.named_transformers_["encoder"], inputs.features.pick(np.flatnonzero(chosen)))]
        if not chosen.all():
            blocks.append(inputs.features.pick(np.flatnonzero(~chosen)))
        elements, behind = inputs.behind(Features.side_by_side(blocks, inputs.features.vocabulary))
        return Member(elements, behind.pullback, Trees(table, bias, behind.pullback))

    loss = estimator.loss
    link = "softmax" if loss == "log_loss" else "log" if loss in ("poisson", "gamma") else None
    kind = f"{type(estimator).__name__} ({len(trees)} trees)"
    return boosted(estimator, kind, make, lambda model, z: column(model._raw_predict(z)), link, missing=True)


def _histogram_tree(one: Any, unit: int, units: int, bits: np.ndarray, place: np.ndarray) -> Tree:
    nodes = one.nodes
    leaf = nodes["is_leaf"].astype(bool)
    values = np.zeros((len(nodes), units))
    values[:, unit] = nodes["value"]
    feature = nodes["feature_idx"].astype(int)
    categories = {
        int(k): (_levels(one.raw_left_cat_bitsets[nodes["bitset_idx"][k]]), _levels(bits[place[feature[k]]]))
        for k in np.flatnonzero(nodes["is_categorical"].astype(bool) & ~leaf)
    }
    return Tree(
        np.where(leaf, -1, nodes["left"].astype(int)), np.where(leaf, -1, nodes["right"].astype(int)), feature,
        nodes["num_threshold"].astype(float), values, nodes["count"].astype(float),
        nodes["missing_go_to_left"].astype(bool), categories,
    )  # fmt: skip


def _levels(words: np.ndarray) -> frozenset[int]:
    """The numbers whose bits are set."""
    return frozenset(32 * k + bit for k, word in enumerate(words.tolist()) for bit in range(32) if word >> bit & 1)


@neuralize.register("sklearn.ensemble.IsolationForest")
def isolation_forest(estimator: Any) -> ModelSpec:
    """Neuralize an isolation forest: minus the mean path length."""
    trees = []
    for one, features in zip(estimator.estimators_, estimator.estimators_features_, strict=True):
        tree = one.tree_
        path = _depths(tree) + np.array([average_path(n) for n in tree.n_node_samples.tolist()])
        trees.append(read_tree(tree, -path[:, None] / len(estimator.estimators_), features))
    make = layer_of(table_of(trees), np.zeros(1))
    c = average_path(estimator._max_samples)  # private, as public max_samples may be "auto"
    offset = float(estimator.offset_)

    def link(constant: float) -> Callable[[Inputs], Layer]:
        return lambda inputs: Secant(make(inputs), MinusExp2(c, constant))

    def minus_path(model: Any, z: Any) -> np.ndarray:
        return np.asarray(c * np.log2(-model.score_samples(z)))

    scores = {
        "outlierness": plain("outlierness", make, minus_path),
        "decision_function": plain(
            "decision_function", link(offset), lambda model, z: np.asarray(model.decision_function(z))
        ),
        "score_samples": plain("score_samples", link(0.0), lambda model, z: np.asarray(model.score_samples(z))),
    }
    threshold = float(c * np.log2(-offset)) if offset < 0 else None
    kind = f"isolation forest ({len(trees)} trees)"
    return ModelSpec(kind, scores, threshold, takes_missing=takes_missing(estimator))


def _depths(tree: Any) -> np.ndarray:
    """How many splits lie above each node."""
    out = np.zeros(tree.node_count)
    for node, (left, right) in enumerate(zip(tree.children_left.tolist(), tree.children_right.tolist(), strict=True)):
        if left >= 0:  # children come after their parents
            out[left] = out[right] = out[node] + 1
    return out


def average_path(n: float) -> float:
    """c(n): the mean path length of an unsuccessful search in a binary search tree (Liu et al. 2008)."""
    return 0.0 if n <= 1 else 1.0 if n == 2 else 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
