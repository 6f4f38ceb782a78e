r"""One-class support vector machines, and support vector data description.

:math:`\texttt{score\_samples}(x) = \sum_j a_j k(x, u_j)` with dual coefficients
:math:`a_j \in (0, 1]` that do not sum to one. With :math:`S = \sum_j a_j` and :math:`\alpha = a/S`,

* outlierness :math:`o = -\log(\texttt{score\_samples}/S) \ge 0`, a soft-min pool over distances;
* the alarm line is :math:`\theta = -\log(\rho/S)`, :math:`\rho` = ``offset_``: above it the model says −1;
* ``decision_function`` :math:`= S e^{-o} - \rho = L\,(\theta - o)` with the logarithmic mean
  :math:`L = \rho\,(e^t-1)/t > 0`, :math:`t = \theta - o`: the relevance of inlierness, times one positive number
  a row;
* support vector data description (Tax & Duin 2004) has the same solution for a kernel with k(x, x) = 1; its squared
  distance from the centre is :math:`1 - 2e^{-o} + \sum_{jk}\alpha_j\alpha_k k(u_j, u_k)`.

Scikit-learn's coefficients must be normalised before the logarithm: as they are, the "outlierness" would be
negative for every row, and every ranking of causes reversed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from torch import nn

from backlight.classical.families.kernels import Kernel, of_pairwise, pool
from backlight.classical.families.kernels import kernel_of as radial
from backlight.classical.families.perceptrons import perceptron_layers
from backlight.classical.families.scores import log_distance, minus, plain
from backlight.classical.functions import Exponential, LogMean, svdd_slope
from backlight.classical.layers import Layer
from backlight.classical.layers.deep import Deep
from backlight.classical.layers.energies import Polynomial
from backlight.classical.layers.linear import Affine, tensor
from backlight.classical.layers.pools import Budget, Link
from backlight.classical.network import Inputs, ModelSpec, Score
from backlight.classical.neuralize import neuralize
from backlight.errors import UnsupportedOption
from backlight.explanation.score_units import NATS

__all__ = ["dense", "one_class_svm", "products", "svm_anchors", "svm_kernel", "svm_products"]

# score_samples is decision_function + offset_, so that a score far below the offset keeps only the absolute precision
# of the offset: at this share of it the logarithm is still right to 13 digits.
_DIGITS_LEFT = 1e-3


def dense(array: Any) -> np.ndarray:
    """A float64 array, also of a sparse matrix."""
    return np.asarray(array.toarray() if hasattr(array, "toarray") else array, dtype=np.float64)


def svm_anchors(estimator: Any) -> np.ndarray:
    """The support vectors; with a callable kernel they stand in a private copy of the training data."""
    if callable(estimator.kernel):
        return np.asarray(dense(estimator._BaseLibSVM__Xfit)[estimator.support_])  # private: support_vectors_ is empty
    return dense(estimator.support_vectors_)


def svm_kernel(estimator: Any) -> Kernel:
    """The radial kernel of a libsvm estimator."""
    if callable(estimator.kernel):
        return of_pairwise(estimator, estimator.kernel, None, estimator._BaseLibSVM__Xfit.shape[1])
    return radial(estimator, estimator.kernel, float(estimator._gamma))  # private: the number behind gamma="scale"


def products(
    kind: Any,
    gamma: float,
    offset: float,
    degree: float,
    anchors: np.ndarray,
    beta: np.ndarray,
    intercept: np.ndarray,
) -> Callable[[Inputs], Layer] | None:
    """The layer of f_u = Σ_j β_uj k(x, u_j) + b_u where k is a function of products, by the library's name; else None.

    β has shape (U, M). A linear kernel is an affine layer, a polynomial one `Polynomial`, and a sigmoid one a
    perceptron with one layer of tanh units, which the relevance engine explains.
    """
    if kind == "linear":
        return lambda inputs: Affine(tensor(beta @ anchors), tensor(intercept), inputs.pullback)
    if kind in ("poly", "polynomial"):
        if degree != int(degree):
            raise UnsupportedOption(f"a polynomial kernel of degree={degree} is not supported: fit it with a whole one")
        return lambda inputs: Polynomial(
            tensor(anchors), tensor(beta), tensor(intercept), gamma, offset, int(degree), inputs.pullback
        )
    if kind == "sigmoid":
        hidden, last = (gamma * anchors, np.full(len(anchors), offset)), (beta, intercept)
        return lambda inputs: Deep(perceptron_layers([hidden, last], nn.Tanh, inputs), len(beta), inputs.pullback)
    return None


def svm_products(
    estimator: Any, anchors: np.ndarray, beta: np.ndarray, intercept: np.ndarray
) -> Callable[[Inputs], Layer] | None:
    """`products` of a libsvm estimator."""
    gamma = float(estimator._gamma)  # private: the number behind gamma="scale"
    return products(estimator.kernel, gamma, estimator.coef0, estimator.degree, anchors, beta, intercept)


def _without_a_distance(
    estimator: Any, inside: Callable[[Inputs], Layer], outside: Callable[[Inputs], Layer]
) -> ModelSpec:
    """Of a kernel of products: the decision function, and as outlierness minus it."""

    def decision(model: Any, z: Any) -> np.ndarray:
        return np.asarray(model.decision_function(z))

    scores = {
        "outlierness": plain("outlierness", outside, lambda model, z: -decision(model, z)),
        "decision_function": plain("decision_function", inside, decision),
    }
    kind = f"one-class SVM ({estimator.kernel} kernel, {len(estimator.support_)} support vectors)"
    return ModelSpec(kind, scores, 0.0)


@neuralize.register("sklearn.svm.OneClassSVM")
def one_class_svm(estimator: Any) -> ModelSpec:
    """Neuralize a fitted `sklearn.svm.OneClassSVM`; without a radial kernel, its decision function and minus it."""
    vectors, dual = svm_anchors(estimator), dense(estimator.dual_coef_)[0]
    total, rho = float(dual.sum()), float(np.ravel(estimator.offset_)[0])
    inside = svm_products(estimator, vectors, dual[None], np.array([-rho]))
    outside = svm_products(estimator, vectors, -dual[None], np.array([rho]))
    if inside is not None and outside is not None:
        return _without_a_distance(estimator, inside, outside)
    kernel = svm_kernel(estimator)
    log_weights = np.log(dual / total)

    def outlierness(model: Any, z: Any) -> np.ndarray:
        score = np.asarray(model.score_samples(z))
        lost = score < _DIGITS_LEFT * rho
        with np.errstate(divide="ignore", invalid="ignore"):
            out = -np.log(score / total)
        if lost.any():
            from scipy.special import logsumexp

            rows = dense(z[lost] if hasattr(z, "toarray") else np.asarray(z)[lost])
            out[lost] = -logsumexp(log_weights + kernel.log(rows, vectors), axis=1)
        return out

    if rho <= 0:
        raise UnsupportedOption(
            f"this OneClassSVM has offset_={rho}, so that it calls every row normal: fit it with a larger nu"
        )
    theta = -float(np.log(rho / total))

    def make(inputs: Inputs) -> Layer:
        return pool(kernel, vectors, log_weights, inputs.pullback, inputs.dtype, training=True)

    def falling(name: str, offset: float, reference: Any) -> Score:
        return Score(
            name,
            lambda inputs: Budget(make(inputs), Exponential(total, -offset), LogMean(theta, rho), theta),
            reference,
        )

    alpha = dual / total

    @cache
    def within() -> float:
        # every vector with every other: only where it is asked for
        return float(alpha @ np.exp(kernel.log(vectors, vectors)) @ alpha)

    scores = {
        "outlierness": plain("outlierness", make, outlierness, unit=NATS),
        "inlierness": minus("inlierness", make, theta, lambda model, z: theta - outlierness(model, z), theta),
        "decision_function": falling("decision_function", rho, lambda model, z: np.asarray(model.decision_function(z))),
        "score_samples": falling("score_samples", 0.0, lambda model, z: np.asarray(model.score_samples(z))),
        "svdd_distance": Score(
            "svdd_distance",
            lambda inputs: Link(make(inputs), Exponential(-2.0, 1 + within()), svdd_slope),
            lambda model, z: 1 + within() - 2 * np.asarray(model.score_samples(z)) / total,
        ),
    }
    if kernel.gamma is not None:
        scores["log_distance"] = log_distance(make, kernel.gamma, float(np.log(total)), outlierness)
    return ModelSpec(f"one-class SVM ({kernel.name} kernel, {len(vectors)} support vectors)", scores, theta)
