r"""Kernel classifiers and regressions: signed kernel expansions.

:math:`f(x) = \sum_j \beta_j k(x, u_j) + b`: `SVC`, `NuSVC`, `SVR`, `NuSVR`, `KernelRidge`, and a Nyström map followed
by a linear model, whose coefficients are :math:`\beta = N^{\mathsf T} w`. See
`backlight.classical.layers.expansion.SignedExpansion`; for Gaussian processes `backlight.classical.families.processes`.

Several classes. libsvm fits one expansion a pair of classes. "pairs" has one output a pair, what
``decision_function_shape="ovo"`` returns; "pair_sum" one output a class: the sum of its pairs, which the library
turns into ``decision_function_shape="ovr"`` by votes and a squashing that no relevance passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backlight.classical.families.kernels import Kernel, of_pairwise, pool
from backlight.classical.families.linear import affine, log_odds
from backlight.classical.families.scores import column, plain, predicted
from backlight.classical.families.svm import dense, products, svm_anchors, svm_kernel, svm_products
from backlight.classical.frontend.pipeline import Collapsed
from backlight.classical.functions import PairVotes
from backlight.classical.layers import Layer
from backlight.classical.layers.composition import Stack
from backlight.classical.layers.expansion import Levelled, SignedExpansion
from backlight.classical.layers.pools import SoftMinPool
from backlight.classical.network import Inputs, ModelSpec, Score
from backlight.classical.neuralize import neuralize
from backlight.classical.targets import Outputs
from backlight.errors import UnsupportedOption

__all__ = ["expansion", "kernel_ridge", "levelled", "numbered", "nystroem", "side_by_side", "svc", "svr"]

# Coefficients below this share of the largest one are rounding, of a solver that wanted zero.
_NOTHING = 1e-300


def expansion(
    kernel: Kernel, anchors: np.ndarray, beta: np.ndarray, intercept: float, inputs: Inputs
) -> SignedExpansion:
    """The layer of f = Σ β_j k(x, u_j) + b."""
    sides, sums = [], []
    for sign in (1.0, -1.0):
        mine = sign * beta > _NOTHING
        still = sign * intercept if sign * intercept > 0 else None
        weights = sign * beta[mine]
        total = float(weights.sum()) + (still or 0.0)
        if not mine.any():
            # An intercept alone: a pool whose only anchor sits on the row, which any row will do for.
            side = None if still is None else _constant(kernel, anchors[:1], inputs)
        else:
            side = pool(
                kernel, anchors[mine], np.log(weights), inputs.pullback, inputs.dtype,
                still=None if still is None else float(np.log(still)),
            )  # fmt: skip
        sides.append(side)
        sums.append(float(np.log(total)) if total > 0 else -np.inf)
    gaussian = all(isinstance(side, SoftMinPool) for side in sides if side is not None)
    return SignedExpansion(
        sides[0], sides[1], (sums[0], sums[1]), inputs.pullback, _median(anchors), named_rules=gaussian
    )


def _constant(kernel: Kernel, anchor: np.ndarray, inputs: Inputs) -> Layer:
    return pool(kernel, anchor, np.array([-np.inf]), inputs.pullback, inputs.dtype, still=0.0)


def _median(anchors: np.ndarray) -> float:
    """Median squared distance between anchors (of at most 500 of them, evenly spaced)."""
    from scipy.spatial.distance import pdist

    some = anchors[:: max(1, len(anchors) // 500)]
    return float(np.median(pdist(some, "sqeuclidean"))) if len(some) > 1 else 1.0


def _radial(estimator: Any, anchors: np.ndarray, beta: np.ndarray, intercept: float) -> Callable[[Inputs], Layer]:
    kernel = svm_kernel(estimator)
    return lambda inputs: expansion(kernel, anchors, beta, intercept, inputs)


@neuralize.register("sklearn.svm.SVC", "sklearn.svm.NuSVC")
def svc(estimator: Any) -> ModelSpec:
    """Neuralize `SVC` or `NuSVC`, of two classes or more."""
    classes = estimator.classes_
    anchors = svm_anchors(estimator)
    dual, intercepts = dense(estimator._dual_coef_), np.ravel(estimator._intercept_)  # private: libsvm's own signs
    what = f"{type(estimator).__name__} ({estimator.kernel if isinstance(estimator.kernel, str) else 'own'} kernel, "
    if len(classes) == 2:
        # The public attributes are libsvm's for several classes, and negated for two.
        beta, b = -dual[0], -float(intercepts[0])
        make = svm_products(estimator, anchors, beta[None], np.array([b])) or _radial(estimator, anchors, beta, b)
        score = plain(
            "decision_function", make, lambda model, z: np.asarray(model.decision_function(z)), Outputs.binary(classes)
        )
        return ModelSpec(f"{what}{len(anchors)} support vectors)", {"decision_function": score})
    starts = np.r_[0, np.cumsum(estimator.n_support_)]
    betas = np.zeros((len(intercepts), len(anchors)))
    names: list[str] = []
    sums = np.zeros((len(classes), len(classes) * (len(classes) - 1) // 2))
    ends: list[tuple[int, int]] = []
    for i in range(len(classes)):
        for j in range(i + 1, len(classes)):
            S_i, S_j = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
            betas[len(names), S_i], betas[len(names), S_j] = dual[j - 1, S_i], dual[i, S_j]
            sums[i, len(names)], sums[j, len(names)] = 1, -1
            names.append(f"{classes[i]} against {classes[j]}")
            ends.append((i, j))

    ties = estimator.break_ties and estimator.decision_function_shape == "ovr"

    pairs = svm_products(estimator, anchors, betas, intercepts)
    if pairs is None:
        made = [
            _radial(estimator, anchors[beta != 0], beta[beta != 0], float(b))
            for beta, b in zip(betas, intercepts, strict=True)
        ]
        pairs = lambda inputs: Stack([make(inputs) for make in made])  # noqa: E731

    def ovo(model: Any, z: Any) -> np.ndarray:
        from copy import copy

        other = copy(model)  # the same fitted arrays, another shape of the answer
        other.decision_function_shape = "ovo"
        return np.asarray(other.decision_function(z))

    scores = {
        "pair_sum": plain(
            "pair_sum", pairs, lambda model, z: ovo(model, z) @ sums.T,
            Outputs(tuple(str(c) for c in classes), sums, PairVotes(tuple(ends), len(classes), sums if ties else None)),
        ),
        "pairs": plain("pairs", pairs, ovo, Outputs.each(names)),
    }  # fmt: skip
    if estimator.decision_function_shape == "ovo":
        scores["decision_function"] = plain("decision_function", pairs, ovo, Outputs.each(names))
    return ModelSpec(f"{what}{len(anchors)} support vectors, {len(classes)} classes)", scores)


@neuralize.register("sklearn.svm.SVR", "sklearn.svm.NuSVR")
def svr(estimator: Any) -> ModelSpec:
    """Neuralize `SVR` or `NuSVR`; ``reference`` is the value that relevance is counted from."""
    anchors, beta = svm_anchors(estimator), dense(estimator.dual_coef_)[0]
    intercept = float(np.ravel(estimator.intercept_)[0])
    kind = f"{type(estimator).__name__} ({len(anchors)} support vectors)"
    make = svm_products(estimator, anchors, beta[None], np.array([intercept]))
    if make is None:
        make = _levelled(svm_kernel(estimator), anchors, beta, intercept)
    return ModelSpec(kind, {"predict": plain("predict", make, lambda model, z: np.asarray(model.predict(z)))})


def levelled(make: Callable[[float, Inputs], Layer], intercept: float) -> Callable[[Inputs], Layer]:
    """The layer of a regression that is counted from its intercept, or from any level."""
    return lambda inputs: Levelled(lambda b: make(b, inputs), intercept)


def _levelled(kernel: Kernel, anchors: np.ndarray, beta: np.ndarray, intercept: float) -> Callable[[Inputs], Layer]:
    return levelled(lambda b, inputs: expansion(kernel, anchors, beta, b, inputs), intercept)


@neuralize.register("sklearn.kernel_ridge.KernelRidge")
def kernel_ridge(estimator: Any) -> ModelSpec:
    """Neuralize `KernelRidge` with a radial, linear or polynomial kernel."""
    anchors, dual = dense(estimator.X_fit_), np.asarray(estimator.dual_coef_, dtype=float)
    beta = np.atleast_2d(dual.T)
    gamma = 1 / anchors.shape[1] if estimator.gamma is None else float(estimator.gamma)

    make = products(estimator.kernel, gamma, estimator.coef0, estimator.degree, anchors, beta, np.zeros(len(beta)))
    if make is None:
        kernel = of_pairwise(estimator, estimator.kernel, estimator.gamma, anchors.shape[1])
        make = side_by_side([_levelled(kernel, anchors, one, 0.0) for one in beta])
    score = plain("predict", make, predicted, numbered(len(beta)))
    return ModelSpec(f"KernelRidge ({len(anchors)} rows)", {"predict": score})


def side_by_side(makes: Sequence[Callable[[Inputs], Layer]]) -> Callable[[Inputs], Layer]:
    """One layer for each output."""
    return makes[0] if len(makes) == 1 else lambda inputs: Stack([make(inputs) for make in makes])


def numbered(n: int) -> Outputs:
    """The outputs of a regression."""
    return Outputs.quantities(n)


@neuralize.register("backlight.classical.frontend.pipeline.Collapsed")
def nystroem(estimator: Collapsed) -> ModelSpec:
    """Neuralize a `Nystroem` map with the linear model after it: one expansion over the map's own rows."""
    mapped, model = estimator.kernel_map, estimator.estimator
    anchors = dense(mapped.components_)
    kernel = of_pairwise(mapped, mapped.kernel, mapped.gamma, anchors.shape[1])
    N = np.asarray(mapped.normalization_)
    if not hasattr(model, "coef_"):
        raise UnsupportedOption(
            f"Nystroem followed by {type(model).__name__} has no network: a linear model must follow it"
        )
    weight, bias = affine(model) if hasattr(model, "intercept_") else (np.atleast_2d(dense(model.coef_)), np.zeros(1))
    offset = float(np.ravel(model.offset_)[0]) if hasattr(model, "offset_") else 0.0
    if not hasattr(model, "intercept_"):
        bias = np.full(len(weight), -offset)
    beta = weight @ N
    classes = getattr(model, "classes_", None)

    def make(inputs: Inputs, sign: int = 1) -> Layer:
        both = zip(sign * beta, sign * bias, strict=True)
        parts: list[Layer] = [expansion(kernel, anchors, b, c, inputs) for b, c in both]
        return parts[0] if len(parts) == 1 else Stack(parts)

    kind = f"Nyström map ({len(anchors)} rows) and {type(model).__name__}"
    scores: dict[str, Score]
    if classes is not None:
        outputs = Outputs.classes(classes)
        scores = {
            "decision_function": plain(
                "decision_function", make, lambda both, z: np.asarray(both.call("decision_function", z)), outputs
            )
        }
        if type(model).__name__ in ("LogisticRegression", "LogisticRegressionCV"):
            scores.update(log_odds(make, len(classes), outputs))
        return ModelSpec(kind, scores)
    if hasattr(model, "offset_"):

        def inside(both: Any, z: Any) -> np.ndarray:
            return np.asarray(both.call("decision_function", z))

        scores = {
            "outlierness": plain("outlierness", lambda inputs: make(inputs, -1), lambda both, z: -inside(both, z)),
            "decision_function": plain("decision_function", make, inside),
        }
        return ModelSpec(kind, scores, 0.0)
    bias = np.broadcast_to(bias, len(beta))
    level = side_by_side([_levelled(kernel, anchors, one, float(b)) for one, b in zip(beta, bias, strict=True)])
    score = plain("predict", level, lambda both, z: column(both.call("predict", z)), numbered(len(beta)))
    return ModelSpec(kind, {"predict": score})
