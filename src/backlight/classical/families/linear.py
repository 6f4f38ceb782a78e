r"""Linear models.

A linear model is one affine layer: :math:`R_i = w_i (x_i - \tilde x_i)`, :math:`\tilde x` = 0 or ``reference``. Behind
a projection or a Nyström map the layers are folded into one: see `expansions` for the latter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from backlight.classical.families.scores import Reference, plain, predicted, probability
from backlight.classical.families.svm import dense
from backlight.classical.functions import minus_one, negated
from backlight.classical.layers import Layer
from backlight.classical.layers.composition import Signed
from backlight.classical.layers.linear import Affine, tensor
from backlight.classical.layers.pools import Link, LogOdds
from backlight.classical.network import Inputs, ModelSpec, Score
from backlight.classical.neuralize import neuralize
from backlight.classical.targets import Outputs

__all__ = [
    "affine", "against_the_rest", "linear_classifier", "linear_regressor", "log_odds", "odds_scores",
    "reference_log_odds",
]  # fmt: skip

REGRESSORS = (
    "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "BayesianRidge",
    "ARDRegression", "Lars", "LarsCV", "LassoLars", "LassoLarsCV", "LassoLarsIC", "OrthogonalMatchingPursuit",
    "OrthogonalMatchingPursuitCV", "HuberRegressor", "QuantileRegressor", "TheilSenRegressor", "SGDRegressor",
    "PassiveAggressiveRegressor", "MultiTaskLasso", "MultiTaskElasticNet",
    "MultiTaskLassoCV", "MultiTaskElasticNetCV",
)  # fmt: skip
LOG_LINKED = ("PoissonRegressor", "GammaRegressor", "TweedieRegressor")
CLASSIFIERS = (
    "LogisticRegression", "LogisticRegressionCV", "RidgeClassifier", "RidgeClassifierCV", "SGDClassifier",
    "Perceptron", "PassiveAggressiveClassifier",
)  # fmt: skip


def affine(estimator: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weights (U, K) and intercepts (U,)."""
    weight = np.atleast_2d(dense(estimator.coef_))
    return weight, np.broadcast_to(np.ravel(np.asarray(estimator.intercept_, dtype=float)), len(weight)).copy()


def _affine_layer(estimator: Any) -> Callable[[Inputs], Layer]:
    weight, bias = affine(estimator)
    return lambda inputs: Affine(tensor(weight), tensor(bias), inputs.pullback)


@neuralize.register(*(f"sklearn.linear_model.{name}" for name in REGRESSORS), "sklearn.svm.LinearSVR")
def linear_regressor(estimator: Any) -> ModelSpec:
    """Neuralize a linear regression: score "predict"."""
    weight, _ = affine(estimator)
    outputs = Outputs.quantities(len(weight))
    score = plain("predict", _affine_layer(estimator), predicted, outputs)
    return ModelSpec(f"{type(estimator).__name__} ({weight.shape[1]} weights)", {"predict": score})


@neuralize.register(*(f"sklearn.cross_decomposition.{name}" for name in ("PLSRegression", "PLSCanonical", "CCA")))
def partial_least_squares(estimator: Any) -> ModelSpec:
    """Neuralize `PLSRegression`: a linear function of centred columns."""
    weight = np.atleast_2d(np.asarray(estimator.coef_, dtype=float))
    mean = np.asarray(estimator._x_mean, dtype=float)  # private: what predict takes off first
    bias = np.ravel(estimator.intercept_) - weight @ mean
    outputs = Outputs.quantities(len(weight))
    score = plain("predict", lambda inputs: Affine(tensor(weight), tensor(bias), inputs.pullback), predicted, outputs)
    return ModelSpec(f"partial least squares ({estimator.n_components} components)", {"predict": score})


@neuralize.register("sklearn.linear_model.SGDOneClassSVM")
def linear_one_class(estimator: Any) -> ModelSpec:
    """Neuralize `SGDOneClassSVM`: a linear function and an offset, outlierness is minus its decision function."""
    weight = np.atleast_2d(dense(estimator.coef_))
    bias = -np.ravel(np.asarray(estimator.offset_, dtype=float))
    scores = {
        "outlierness": plain(
            "outlierness",
            lambda inputs: Affine(tensor(-weight), tensor(-bias), inputs.pullback),
            lambda model, z: -_decision(model, z),
        ),
        "decision_function": plain(
            "decision_function", lambda inputs: Affine(tensor(weight), tensor(bias), inputs.pullback), _decision
        ),
    }
    return ModelSpec("linear one-class SVM", scores, 0.0)


@neuralize.register(*(f"sklearn.linear_model.{name}" for name in LOG_LINKED))
def log_linked_regressor(estimator: Any) -> ModelSpec:
    """Neuralize a Poisson, gamma or Tweedie regression: score "log_predict", the linear predictor."""
    link = getattr(estimator, "link", "log")
    if link == "identity" or (link == "auto" and estimator.power <= 0):
        return linear_regressor(estimator)
    score = plain("log_predict", _affine_layer(estimator), _linear_predictor)
    return ModelSpec(f"{type(estimator).__name__} (log link)", {"log_predict": score})


def _linear_predictor(model: Any, z: Any) -> np.ndarray:
    return np.asarray(model._linear_predictor(z))  # private: predict is its exponential, which overflows


@neuralize.register(
    *(f"sklearn.linear_model.{name}" for name in CLASSIFIERS),
    "sklearn.svm.LinearSVC",
    "sklearn.discriminant_analysis.LinearDiscriminantAnalysis",
)
def linear_classifier(estimator: Any) -> ModelSpec:
    """Neuralize a linear classifier: "decision_function", and where there are probabilities "log_odds"."""
    make = _affine_layer(estimator)
    outputs = Outputs.classes(estimator.classes_)
    n, units = len(estimator.classes_), len(affine(estimator)[0])
    if n == 2 and units > 1:  # several labels at once, each of them there or not
        outputs = Outputs.quantities(units, "label")
    scores = {"decision_function": plain("decision_function", make, _decision, outputs)}
    kind = f"{type(estimator).__name__} ({n} classes)"
    joint = type(estimator).__name__ in ("LogisticRegression", "LogisticRegressionCV", "LinearDiscriminantAnalysis")
    if joint and _is_softmax(estimator):
        scores.update(log_odds(make, n, outputs))
    return ModelSpec(kind, scores)


def _is_softmax(estimator: Any) -> bool:
    """Whether probabilities are the softmax of the decision function (and not of each class against the rest)."""
    if len(estimator.classes_) == 2 or not hasattr(estimator, "solver"):
        # once, "multinomial" of two classes was the softmax of (−f, f)
        return getattr(estimator, "multi_class", "auto") != "multinomial"
    if getattr(estimator, "multi_class", "auto") == "ovr":
        return False
    return bool(estimator.solver != "liblinear")


def _decision(model: Any, z: Any) -> np.ndarray:
    return np.asarray(model.decision_function(z), dtype=float)


def log_odds(make: Callable[[Inputs], Layer], n_classes: int, outputs: Outputs) -> dict[str, Score]:
    """Scores "log_odds" and "probability" of a model whose units are unnormalised log-probabilities of the classes.

    Two classes have one unit, the difference.
    """

    def layer(inputs: Inputs) -> Layer:
        inner = make(inputs)
        if n_classes == 2:
            return inner
        negative = Link(inner, negated, minus_one)
        return LogOdds(negative, torch.zeros(n_classes, dtype=torch.float64))

    return odds_scores(layer, outputs, decision_log_odds)


def odds_scores(layer: Callable[[Inputs], Layer], outputs: Outputs, reference: Reference) -> dict[str, Score]:
    """Scores "log_odds" and "probability" from the log-odds layer (one unit for two classes)."""
    both = outputs.directions is not None

    def two(inputs: Inputs) -> Layer:
        return Signed(layer(inputs)) if both else layer(inputs)

    return {
        "log_odds": plain("log_odds", layer, reference, outputs),
        "probability": probability(
            "probability", two, lambda model, z: np.asarray(model.predict_proba(z)), Outputs.each(outputs.names)
        ),
    }


def decision_log_odds(model: Any, z: Any) -> np.ndarray:
    """The same from the decision function, whose softmax the probabilities are: these have rounded to 0 and 1."""
    d = np.asarray(model.decision_function(z), dtype=float)
    return d if d.ndim == 1 else against_the_rest(d)


def against_the_rest(log_p: np.ndarray) -> np.ndarray:
    """The logarithms log p_c − log Σ_{k≠c} p_k, (n, C)."""
    from scipy.special import logsumexp

    rest = [logsumexp(np.delete(log_p, c, axis=1), axis=1) for c in range(log_p.shape[1])]
    return np.asarray(log_p - np.stack(rest, 1))


def reference_log_odds(model: Any, z: Any) -> np.ndarray:
    """Log-odds log q/(1 − q) from the library's own log-probabilities; (n,) for two classes."""
    log_q = np.asarray(model.predict_log_proba(z), dtype=float)
    if log_q.shape[1] == 2:
        return np.asarray(log_q[:, 1] - log_q[:, 0])
    return against_the_rest(log_q)
