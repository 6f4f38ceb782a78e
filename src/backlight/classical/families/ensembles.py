r"""Ensembles of models that have networks: their explanations are sums of their members' explanations.

* regressions: the (weighted) mean of the members' predictions;
* classifiers: the mean of decision functions, or of probabilities. A probability is :math:`\sigma(l)` of log-odds l and
  passes relevance by its secant from l = 0: :math:`\sigma(l) = \tfrac12 + s\,l`;
* "variance": how much the members disagree, and about which features: see `Variance`.

Members may be pipelines, each with a front end of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.classical.families.scores import column, plain
from backlight.classical.frontend.pipeline import carry, front_features, unwrap
from backlight.classical.functions import Platt, PlattSlope, sigmoid_slope
from backlight.classical.layers import Layer
from backlight.classical.layers.composition import Mean, Member, Signed, Stack, Unit, Variance, Weighted
from backlight.classical.layers.linear import tensor
from backlight.classical.layers.links import Pair, Secant
from backlight.classical.layers.pools import Link
from backlight.classical.network import Inputs, ModelSpec, Score
from backlight.classical.neuralize import neuralize, spec_of
from backlight.classical.targets import Outputs
from backlight.errors import UnsupportedModel, UnsupportedOption, listed

__all__ = [
    "bagging_classifier",
    "bagging_regressor",
    "calibrated",
    "multi_output",
    "of_members",
    "one_vs_rest",
    "same_classes",
    "soft_voting",
    "voting_regressor",
]

Make = Callable[[Inputs], Layer]
# What a method decision_function returns, by the names of scores: boosters call it their margin.
DECISIONS = ["decision_function", "margin"]


def of_members(function: Callable[[Any], ModelSpec]) -> Callable[[Any], ModelSpec]:
    """The specification of an ensemble, whose cells may hold no value where each of its members can do without."""

    @wraps(function)
    def spec(estimator: Any) -> ModelSpec:
        folds = getattr(estimator, "calibrated_classifiers_", None)
        held = [fold.estimator for fold in folds] if folds else getattr(estimator, "estimators_", None)
        members = [estimator.regressor_] if held is None else list(held)
        return replace(function(estimator), takes_missing=all(map(_takes_missing, members)))

    return spec


def _takes_missing(model: Any) -> bool:
    """Whether a member takes rows with missing cells, by itself or as its own imputers fill them."""
    parts = unwrap(model)
    head = spec_of(parts.estimator)
    if head.takes_missing or not parts.steps:
        return head.takes_missing
    features = front_features(parts, head.n_columns)[2]
    return features.imputed >= features.used


def member(model: Any, names: Sequence[str], columns: np.ndarray | None = None) -> tuple[str, Make]:
    """A member's score of the first of these names that it has, and the function that makes its layer.

    Raises
    ------
    UnsupportedModel
        When it has none of them.
    """
    parts = unwrap(model)
    head = spec_of(parts.estimator)
    found = [name for name in names if name in head.scores]
    if not found:
        raise UnsupportedModel(
            f"a member of this ensemble, {head.kind}, has no score {listed(names)} (only {listed(head.scores)}): "
            "explain the members one by one"
        )

    def make(inputs: Inputs) -> Layer:
        features = inputs.features if columns is None else inputs.features.pick(columns)
        for step in parts.steps:
            features = carry(step, features)
        elements, behind = inputs.behind(features)
        return Member(elements, behind.pullback, head.scores[found[0]].layer(behind))

    return found[0], make


def _all(makes: Sequence[Make]) -> Callable[[Inputs], list[Layer]]:
    return lambda inputs: [make(inputs) for make in makes]


def _regression(kind: str, makes: Sequence[Make], weights: np.ndarray, members: Any) -> ModelSpec:
    layers = _all(makes)
    w = weights / weights.sum()

    def spread(model: Any, z: Any) -> np.ndarray:
        return np.asarray(np.var([each(z) for each in members(model)], axis=0))

    scores = {
        "predict": plain(
            "predict", lambda inputs: Weighted(layers(inputs), tensor(w)), lambda model, z: np.asarray(model.predict(z))
        ),
        "variance": plain("variance", lambda inputs: Variance(layers(inputs)), spread),
    }
    return ModelSpec(kind, scores)


@neuralize.register("sklearn.ensemble.VotingRegressor")
@of_members
def voting_regressor(estimator: Any) -> ModelSpec:
    """Neuralize `VotingRegressor`."""
    makes = [member(one, ["predict"])[1] for one in estimator.estimators_]
    weights = estimator._weights_not_none  # private: without those of dropped members
    weights = np.ones(len(makes)) if weights is None else np.asarray(weights, dtype=float)
    return _regression(
        f"mean of {len(makes)} regressions", makes, weights, lambda model: [one.predict for one in model.estimators_]
    )


@neuralize.register("sklearn.ensemble.BaggingRegressor")
@of_members
def bagging_regressor(estimator: Any) -> ModelSpec:
    """Neuralize `BaggingRegressor`."""
    makes = [member(one, ["predict"], columns)[1] for one, columns in _bag(estimator)]

    def members(model: Any) -> list[Any]:
        return [
            lambda z, one=one, columns=columns: one.predict(np.asarray(z)[:, columns]) for one, columns in _bag(model)
        ]

    return _regression(f"bag of {len(makes)} regressions", makes, np.ones(len(makes)), members)


@neuralize.register("sklearn.multioutput.MultiOutputRegressor")
@of_members
def multi_output(estimator: Any) -> ModelSpec:
    """Neuralize `MultiOutputRegressor`: one regression an output."""
    makes = _all([member(one, ["predict"])[1] for one in estimator.estimators_])
    n = len(estimator.estimators_)

    def predict(model: Any, z: Any) -> np.ndarray:
        return column(np.stack([one.predict(z) for one in model.estimators_], 1))

    outputs = Outputs.quantities(n)
    score = plain("predict", lambda inputs: Stack(makes(inputs)), predict, outputs)
    return ModelSpec(f"{n} regressions, one an output", {"predict": score})


def _bag(estimator: Any) -> list[tuple[Any, np.ndarray]]:
    pairs = zip(estimator.estimators_, estimator.estimators_features_, strict=True)
    return [(one, np.asarray(columns)) for one, columns in pairs]


@neuralize.register("sklearn.ensemble.BaggingClassifier")
@of_members
def bagging_classifier(estimator: Any) -> ModelSpec:
    """Neuralize `BaggingClassifier`: probabilities, decision functions, their variance."""
    bag = _bag(estimator)
    same_classes(estimator, [one for one, _ in bag])
    scores: dict[str, Score] = {}
    refused = []
    for name, method, outputs in (
        ("probability", "predict_proba", Outputs.each(estimator.classes_)),
        ("decision_function", "decision_function", Outputs.classes(estimator.classes_)),
    ):
        try:
            found = _bagged(estimator, bag, name, method, outputs) if hasattr(estimator, method) else {}
        except UnsupportedModel as error:
            refused.append(error)
            continue
        scores = {**found, **scores}
    if not scores:
        raise refused[0]
    first = [name for name in ("probability", "decision_function") if name in scores]
    return ModelSpec(f"bag of {len(bag)} classifiers", {name: scores[name] for name in (*first, "variance")})


def _bagged(
    estimator: Any, bag: list[tuple[Any, np.ndarray]], name: str, method: str, outputs: Outputs
) -> dict[str, Score]:
    """The mean of the members' method, and its variance."""
    layers = _all([member(one, [name], columns)[1] for one, columns in bag])

    def mean(model: Any, z: Any) -> np.ndarray:
        return np.asarray(getattr(model, method)(z))

    def spread(model: Any, z: Any) -> np.ndarray:
        each = [getattr(one, method)(np.asarray(z)[:, columns]) for one, columns in _bag(model)]
        return np.asarray(np.var(each, axis=0))

    # A variance has no sign to choose a class by: of two classes' one unit it is one number.
    one_unit = name == "decision_function" and len(estimator.classes_) == 2
    own = Outputs() if one_unit else Outputs.each(estimator.classes_)
    return {
        name: plain(name, lambda inputs: Mean(layers(inputs)), mean, outputs),
        "variance": plain("variance", lambda inputs: Variance(layers(inputs)), spread, own),
    }


def same_classes(estimator: Any, members: Sequence[Any]) -> None:
    """Refuse an ensemble of one class, and members that know fewer classes than the whole."""
    n = len(estimator.classes_)
    if n < 2:
        raise UnsupportedOption(
            f"this {type(estimator).__name__} was fitted on one class: there is nothing to tell apart"
        )
    short = [i for i, one in enumerate(members) if len(getattr(one, "classes_", range(n))) != n]
    if short:
        raise UnsupportedOption(
            f"member {short[0]} of this {type(estimator).__name__} was fitted on fewer classes than the whole: "
            "fit it with more rows a member"
        )


def soft_voting(estimator: Any) -> ModelSpec:
    """Neuralize `VotingClassifier(voting="soft")`."""
    same_classes(estimator, estimator.estimators_)
    makes = [member(one, ["probability"])[1] for one in estimator.estimators_]
    layers = _all(makes)
    weights = estimator._weights_not_none
    weights = np.ones(len(makes)) if weights is None else np.asarray(weights, dtype=float)
    outputs = Outputs.each(estimator.classes_)

    def spread(model: Any, z: Any) -> np.ndarray:
        return np.asarray(np.var([one.predict_proba(z) for one in model.estimators_], axis=0))

    scores = {
        "probability": plain(
            "probability", lambda inputs: Weighted(layers(inputs), tensor(weights / weights.sum())),
            lambda model, z: np.asarray(model.predict_proba(z)), outputs,
        ),
        "variance": plain("variance", lambda inputs: Variance(layers(inputs)), spread, outputs),
    }  # fmt: skip
    return ModelSpec(f"mean of {len(makes)} classifiers", scores)


@neuralize.register("sklearn.multiclass.OneVsRestClassifier")
@of_members
def one_vs_rest(estimator: Any) -> ModelSpec:
    """Neuralize `OneVsRestClassifier`: the decision function of each class's own model."""
    if estimator.multilabel_:
        raise UnsupportedOption(
            "OneVsRestClassifier with several labels at once is not supported: fit one model a label"
        )
    # Where a member has no decision function, its log-odds are what its probability is made of.
    names = ["decision_function"] if hasattr(estimator, "decision_function") else ["log_odds"]
    found = [member(one, DECISIONS if names == ["decision_function"] else names) for one in estimator.estimators_]
    makes = _all([make for _, make in found])

    def decision(model: Any, z: Any) -> np.ndarray:
        if names == ["decision_function"]:
            return np.asarray(model.decision_function(z))
        logs = [one.predict_log_proba(z) for one in model.estimators_]
        odds = np.stack([log[:, 1] - log[:, 0] for log in logs], 1)
        return odds[:, 0] if odds.shape[1] == 1 else odds

    score = plain(names[0], lambda inputs: Stack(makes(inputs)), decision, Outputs.classes(estimator.classes_))
    return ModelSpec(f"one-versus-rest ({len(found)} classifiers)", {names[0]: score})


@neuralize.register("sklearn.calibration.CalibratedClassifierCV")
@of_members
def calibrated(estimator: Any) -> ModelSpec:
    """Neuralize `CalibratedClassifierCV(method="sigmoid")`.

    "log_odds" is the mean over the folds of the calibrated log-odds −(a f + b) of each class against the rest;
    "probability", for two classes, what predict_proba returns.
    """
    if estimator.method == "isotonic":
        return _isotonic(estimator)
    if estimator.method != "sigmoid":
        raise UnsupportedOption(
            f"CalibratedClassifierCV(method={estimator.method!r}) is not supported: fit it with 'sigmoid' or 'isotonic'"
        )
    classes = estimator.classes_
    binary = len(classes) == 2
    folds = estimator.calibrated_classifiers_
    same_classes(estimator, [fold.estimator for fold in folds])
    makes: list[Make] = []
    for fold in folds:
        with_decision = hasattr(fold.estimator, "decision_function")
        name, make = member(fold.estimator, DECISIONS if with_decision else ["probability"])
        slopes = [(float(one.a_), float(one.b_)) for one in fold.calibrators]
        makes.append(_platt(make, slopes, pick=binary and name == "probability"))
    layers = _all(makes)

    def log_odds(model: Any, z: Any) -> np.ndarray:
        out = []
        for fold in model.calibrated_classifiers_:
            one = fold.estimator
            method = "decision_function" if hasattr(one, "decision_function") else "predict_proba"
            f = np.asarray(getattr(one, method)(z), dtype=float)
            f = f[:, None] if f.ndim == 1 else f[:, 1:] if binary else f
            out.append(np.stack([-(c.a_ * f[:, k] + c.b_) for k, c in enumerate(fold.calibrators)], 1))
        mean = np.mean(out, axis=0)
        return np.asarray(mean[:, 0] if binary else mean)

    scores: dict[str, Score] = {}
    if binary:

        def probabilities(inputs: Inputs) -> Layer:
            return Mean([Link(Signed(one), torch.sigmoid, sigmoid_slope) for one in layers(inputs)])

        scores["probability"] = plain(
            "probability", probabilities, lambda model, z: np.asarray(model.predict_proba(z)), Outputs.each(classes)
        )
    scores["log_odds"] = plain("log_odds", lambda inputs: Mean(layers(inputs)), log_odds, Outputs.classes(classes))
    return ModelSpec(f"calibrated classifier ({len(folds)} folds)", scores)


def _isotonic(estimator: Any) -> ModelSpec:
    """Two classes calibrated by monotone functions, each passed by its secant: "probability"."""
    classes, folds = estimator.classes_, estimator.calibrated_classifiers_
    if len(classes) != 2:
        raise UnsupportedOption(
            f"CalibratedClassifierCV(method='isotonic') of {len(classes)} classes divides by the sum of their own: fit "
            "it with method='sigmoid'"
        )
    same_classes(estimator, [fold.estimator for fold in folds])
    found = []
    for fold in folds:
        with_decision = hasattr(fold.estimator, "decision_function")
        found.append((*member(fold.estimator, DECISIONS if with_decision else ["probability"]), fold.calibrators[0]))

    def one(name: str, make: Make, calibrator: Any) -> Make:
        def value(f: Tensor) -> Tensor:
            flat = np.ravel(np.asarray(f.detach().cpu().double()))
            return torch.as_tensor(np.array(calibrator.predict(flat))).to(f).reshape(f.shape)

        def build(inputs: Inputs) -> Layer:
            inner = make(inputs)
            return Pair(Secant(Unit(inner, 1) if name == "probability" else inner, value))

        return build

    layers = _all([one(*each) for each in found])
    score = plain(
        "probability", lambda inputs: Mean(layers(inputs)), lambda model, z: np.asarray(model.predict_proba(z)),
        Outputs.each(classes),
    )  # fmt: skip
    return ModelSpec(f"isotonic calibration ({len(folds)} folds)", {"probability": score})


def _platt(make: Make, slopes: list[tuple[float, float]], pick: bool) -> Make:
    def build(inputs: Inputs) -> Layer:
        inner = make(inputs)
        if pick:
            inner = Unit(inner, 1)
        a, b = tensor([s for s, _ in slopes]), tensor([t for _, t in slopes])
        return Link(inner, Platt(a, b), PlattSlope(a))

    return build
