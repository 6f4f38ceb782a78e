r"""Models on the answers of models: stacking, chains, several outputs, and predictions behind a function of their own.

See `backlight.classical.layers.stacking` for how relevance passes from the last model to the columns. A label that a
chain hands on is a step of the score that decides it, passed by its secant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.classical.families.ensembles import DECISIONS, member, of_members
from backlight.classical.families.scores import column, plain
from backlight.classical.frontend.features import Features, Vocabulary
from backlight.classical.frontend.pipeline import carry, unwrap
from backlight.classical.functions import Step
from backlight.classical.layers import Layer
from backlight.classical.layers.composition import Member, Stack, Unit
from backlight.classical.layers.links import Secant
from backlight.classical.layers.stacking import Columns, Stacked
from backlight.classical.network import Inputs, ModelSpec, Score
from backlight.classical.neuralize import neuralize, spec_of
from backlight.classical.targets import Outputs
from backlight.errors import UnsupportedModel, UnsupportedOption

__all__ = ["chain", "multi_output_classifier", "stacking", "transformed_target"]

Make = Callable[[Inputs], Layer]
_SCORES = {"predict_proba": ["probability"], "decision_function": DECISIONS, "predict": ["predict"]}


def last_layer(model: Any, width: int, name: str, dtype: torch.dtype) -> Layer:
    """The layer of a model's score on rows of so many numbers."""
    parts = unwrap(model)
    features = Features((), np.arange(width), Vocabulary(), n_columns=width)
    inputs = Inputs(features, width, features.pullback(width, dtype), dtype)
    for step in parts.steps:
        features = carry(step, features)
    elements, behind = inputs.behind(features)
    inner = spec_of(parts.estimator).scores[name].layer(behind)
    return Member(elements, behind.pullback, inner) if parts.steps else inner


@neuralize.register("sklearn.ensemble.StackingClassifier", "sklearn.ensemble.StackingRegressor")
@of_members
def stacking(estimator: Any) -> ModelSpec:
    """Neuralize a stack: the scores of its last model, carried through the members to the columns."""
    parts: list[tuple[Make, list[int]]] = []
    for one, method in zip(estimator.estimators_, estimator.stack_method_, strict=True):
        if method == "predict" and hasattr(one, "classes_"):
            raise UnsupportedOption(
                f"a member of this stack, {type(one).__name__}, hands on labels: give it probabilities or a decision "
                "function"
            )
        name, make = member(one, _SCORES[method])
        n = len(getattr(one, "classes_", [0]))
        positions = [1] if name == "probability" and n == 2 else list(range(n if n > 2 else 1))
        parts.append((make, positions))
    final = estimator.final_estimator_
    inside = unwrap(final)
    head = spec_of(inside.estimator)

    def layer(name: str) -> Make:
        def make(inputs: Inputs) -> Layer:
            below: list[tuple[Layer, Sequence[int]]] = [(one(inputs), at) for one, at in parts]
            width = sum(len(at) for _, at in parts)
            if estimator.passthrough:
                own = Columns(inputs.pullback)
                below.append((own, range(own.units)))
                width += own.units
            return Stacked(below, last_layer(final, width, name, inputs.dtype))

        return make

    def reference(score: Score) -> Callable[[Any, Any], np.ndarray]:
        return lambda model, z: score.reference(inside.estimator, inside.transform(model.transform(z)))

    scores = {name: plain(name, layer(name), reference(one), one.outputs) for name, one in head.scores.items()}
    return ModelSpec(f"{type(estimator).__name__} ({len(parts)} members, then {head.kind})", scores)


@neuralize.register("sklearn.multioutput.RegressorChain", "sklearn.multioutput.ClassifierChain")
@of_members
def chain(estimator: Any) -> ModelSpec:
    """Neuralize a chain: each model sees the columns and the answers of those before it."""
    classifies = hasattr(estimator, "classes_")
    method = getattr(estimator, "chain_method_", "predict") if classifies else "predict"
    links = list(estimator.estimators_)
    names = _answers(links) if classifies else [_first(one, ["predict"]) for one in links]
    if classifies and any(len(one.classes_) != 2 for one in links):
        raise UnsupportedOption("ClassifierChain of more than two classes an output: fit one that tells two apart")

    def handed(k: int) -> str:
        return _first(links[k], _SCORES[method]) if classifies and method != "predict" else names[k]

    def make(inputs: Inputs) -> Layer:
        answers: list[tuple[Layer, Sequence[int]]] = []
        each: list[Layer] = []
        for k, one in enumerate(links):
            own = Columns(inputs.pullback)
            below: list[tuple[Layer, Sequence[int]]] = [(own, range(own.units)), *answers]
            width = own.units + len(answers)
            last = Stacked(below, last_layer(one, width, names[k], inputs.dtype))
            each.append(Unit(last, last.units - 1) if last.units > 1 else last)
            answer: Layer = Stacked(below, last_layer(one, width, handed(k), inputs.dtype))
            if classifies and method == "predict":
                low, high = (float(value) for value in one.classes_)
                answer = Secant(answer, Step(low, high, 0.5 if names[k] == "probability" else 0.0))
            answers.append((answer, [answer.units - 1]))
        back = np.argsort(estimator.order_)
        return Stack([each[k] for k in back])

    def reference(model: Any, z: Any) -> np.ndarray:
        if not classifies:
            return column(model.predict(z))
        rows = np.asarray(z, dtype=float)
        out = []
        for k, one in enumerate(model.estimators_):
            parts = unwrap(one)
            found = spec_of(parts.estimator).scores[names[k]].reference(parts.estimator, parts.transform(rows))
            out.append(found[:, 1] if found.ndim == 2 else found)
            answer = np.asarray(getattr(one, method)(rows))
            rows = np.c_[rows, answer[:, 1] if answer.ndim == 2 else answer]
        return np.stack([out[k] for k in np.argsort(model.order_)], 1)

    outputs = Outputs.quantities(len(links))
    name = "predict" if not classifies else "probability" if "probability" in names else "log_odds"
    return ModelSpec(f"chain of {len(links)} models", {name: plain(name, make, reference, outputs)})


def _answers(links: Sequence[Any]) -> list[str]:
    """The score of each classifier: log-odds or what has their sign, or where one has none the probability of each."""
    try:
        return [_first(one, ["log_odds", "decision_function", "margin", "logit"]) for one in links]
    except UnsupportedModel:
        return [_first(one, ["probability"]) for one in links]


def _first(model: Any, names: Sequence[str]) -> str:
    """The first of these scores that a model has."""
    return member(model, names)[0]


@neuralize.register("sklearn.multioutput.MultiOutputClassifier")
@of_members
def multi_output_classifier(estimator: Any) -> ModelSpec:
    """Neuralize `MultiOutputClassifier`: the probabilities of each output's classes, one after the other.

    Of classifiers without probabilities their decision functions, of two classes that of the second.
    """
    if not all(hasattr(one, "predict_proba") for one in estimator.estimators_):
        return _decisions(estimator)
    makes = [member(one, ["probability"])[1] for one in estimator.estimators_]
    names = [f"output {k}: {c}" for k, one in enumerate(estimator.estimators_) for c in one.classes_]

    def probabilities(model: Any, z: Any) -> np.ndarray:
        return np.concatenate(model.predict_proba(z), 1)

    score = plain(
        "probability", lambda inputs: Stack([make(inputs) for make in makes]), probabilities, Outputs.each(names)
    )
    return ModelSpec(f"{len(makes)} classifiers, one an output", {"probability": score})


def _decisions(estimator: Any) -> ModelSpec:
    makes = [member(one, DECISIONS)[1] for one in estimator.estimators_]
    names = [
        f"output {k}: {c}"
        for k, one in enumerate(estimator.estimators_)
        for c in (one.classes_[1:] if len(one.classes_) == 2 else one.classes_)
    ]

    def decisions(model: Any, z: Any) -> np.ndarray:
        return np.column_stack([one.decision_function(z) for one in model.estimators_])

    score = plain(
        "decision_function", lambda inputs: Stack([make(inputs) for make in makes]), decisions, Outputs.each(names)
    )
    return ModelSpec(f"{len(makes)} classifiers, one an output", {"decision_function": score})


@neuralize.register("sklearn.compose.TransformedTargetRegressor")
@of_members
def transformed_target(estimator: Any) -> ModelSpec:
    """Neuralize a regression of a transformed target: its prediction by the secant of the way back, and as it is."""
    inner = estimator.regressor_
    name, make = member(inner, ["predict", "log_predict"])
    step = estimator.transformer_

    def outside(y: np.ndarray) -> np.ndarray:
        return np.asarray(step.inverse_transform(np.reshape(y, (-1, 1))), dtype=float).reshape(np.shape(y))

    def value(y: Tensor) -> Tensor:
        return torch.as_tensor(outside(np.asarray(y.detach().cpu().double()))).to(y)

    if name != "predict":
        raise UnsupportedOption("TransformedTargetRegressor of a regression with a link of its own: leave one of them")

    def predict(inputs: Inputs) -> Layer:
        layer = make(inputs)
        if layer.units > 1:
            raise UnsupportedOption("TransformedTargetRegressor with several outputs: fit one model an output")
        return Secant(layer, value)

    scores = {
        "predict": plain("predict", predict, lambda model, z: column(model.predict(z))),
        "transformed": plain("transformed", make, lambda model, z: column(model.regressor_.predict(z))),
    }
    return ModelSpec(f"{type(inner).__name__} of a transformed target", scores)
