r"""Gaussian mixtures, discriminant analysis, Mahalanobis distances, principal components.

All are quadratic forms. With energies :math:`E_k = \tfrac12\delta_k^{\mathsf T}P_k\delta_k + c_k`,
:math:`c_k = \tfrac12\log|2\pi\Sigma_k| - \log\pi_k`:

* :math:`-\log p = \operatorname{smin} E`, a soft-min with the responsibilities r as weights; by the rule ``free``
  :math:`R_i = \sum_k r_k\tfrac12\delta_{ki}(P_k\delta_k)_i`, and the constants and the entropy of r are base;
* the log-odds of a component or class are :math:`\operatorname{smin}_{k\ne c}E_k - E_c`.

Full covariances give signed relevance: a value that fits the others' correlation takes surprise away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from backlight.classical.families.linear import against_the_rest, odds_scores, reference_log_odds
from backlight.classical.families.scores import Reference, minus, plain, shifted
from backlight.classical.layers import Layer
from backlight.classical.layers.composition import Unit
from backlight.classical.layers.linear import Mahalanobis, Quadratics, tensor
from backlight.classical.layers.pools import LogOdds, SoftMin
from backlight.classical.network import Inputs, ModelSpec, Score
from backlight.classical.neuralize import neuralize
from backlight.classical.targets import Outputs
from backlight.errors import UnsupportedModel, UnsupportedOption
from backlight.explanation.score_units import NATS, SQUARED

__all__ = ["bayesian_mixture", "covariance", "factor_analysis", "mixture", "pca", "qda"]

LOG_2PI = float(np.log(2 * np.pi))


def factors_of(estimator: Any) -> np.ndarray:
    """L with P = L Lᵀ for every component: (U, K, K), (1, K, K), (U, K) or, spherical, (U, K)."""
    chol = np.asarray(estimator.precisions_cholesky_, dtype=float)
    kind = estimator.covariance_type
    if kind == "tied":
        return chol[None]
    if kind == "spherical":
        return np.repeat(chol[:, None], estimator.means_.shape[1], 1)
    return chol


@neuralize.register("sklearn.mixture.GaussianMixture")
def mixture(estimator: Any) -> ModelSpec:
    """Neuralize a fitted `GaussianMixture`."""
    return _mixture(estimator, np.log(estimator.weights_), 0.0, "Gaussian mixture")


@neuralize.register("sklearn.mixture.BayesianGaussianMixture")
def bayesian_mixture(estimator: Any) -> ModelSpec:
    """Neuralize a fitted `BayesianGaussianMixture`: expected energies under the posterior of weights and precisions."""
    # Private: E[log π] under the Dirichlet posterior. The rest is Bishop, PRML (2006), eqs. 10.64 and 10.65.
    log_weights = estimator._estimate_log_weights()
    d = estimator.means_.shape[1]
    from scipy.special import digamma

    freedom = np.atleast_1d(estimator.degrees_of_freedom_)
    log_lambda = d * np.log(2.0) + digamma(0.5 * (freedom - np.arange(d)[:, None])).sum(0)
    extra = 0.5 * (log_lambda - d / np.asarray(estimator.mean_precision_)) - 0.5 * d * np.log(freedom)
    return _mixture(estimator, log_weights, extra, "Bayesian Gaussian mixture")


def _mixture(estimator: Any, log_weights: np.ndarray, extra: Any, what: str) -> ModelSpec:
    means = np.asarray(estimator.means_, dtype=float)
    L = factors_of(estimator)
    d = means.shape[1]
    diagonal = L if L.ndim == 2 else np.diagonal(L, axis1=1, axis2=2)
    log_weights = log_weights + np.log(diagonal).sum(1) - 0.5 * d * LOG_2PI + extra
    names = [f"component {k}" for k in range(len(means))]

    def units(inputs: Inputs) -> Layer:
        return Quadratics(tensor(means), tensor(L), inputs.pullback)

    def make(inputs: Inputs) -> Layer:
        return SoftMin(units(inputs), tensor(log_weights))

    def assignment(inputs: Inputs) -> Layer:
        return LogOdds(units(inputs), tensor(-log_weights))

    def log_density(model: Any, z: Any) -> np.ndarray:
        return np.asarray(model.score_samples(z))

    def assigned(model: Any, z: Any) -> np.ndarray:
        # private: predict_proba rounds to 0 and 1
        return against_the_rest(np.asarray(model._estimate_weighted_log_prob(_as_array(z))))

    scores = {
        "outlierness": shifted("outlierness", make, 0.0, lambda model, z: -log_density(model, z), NATS),
        "inlierness": minus("inlierness", make, 0.0, log_density),
        "score_samples": minus("score_samples", make, 0.0, log_density),
    }
    if len(means) > 1:
        scores["assignment"] = plain("assignment", assignment, assigned, Outputs.each(names))
    return ModelSpec(f"{what} ({len(means)} components, {estimator.covariance_type} covariance)", scores)


def _as_array(z: Any) -> np.ndarray:
    return np.asarray(z.toarray() if hasattr(z, "toarray") else z, dtype=float)


@neuralize.register("sklearn.discriminant_analysis.QuadraticDiscriminantAnalysis")
def qda(estimator: Any) -> ModelSpec:
    """Neuralize a fitted `QuadraticDiscriminantAnalysis`."""
    L = np.stack([np.asarray(R) / np.sqrt(np.asarray(S)) for R, S in _axes(estimator)])
    log_det = np.array([np.log(S).sum() for _, S in _axes(estimator)])
    constants = 0.5 * log_det - np.log(estimator.priors_)
    return generative(
        estimator,
        lambda inputs: Quadratics(tensor(estimator.means_), tensor(L), inputs.pullback),
        constants,
        f"quadratic discriminant analysis ({len(estimator.classes_)} classes)",
        reference_log_odds,
    )


def _axes(estimator: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    axes = list(zip(estimator.rotations_, estimator.scalings_, strict=True))
    sizes = {len(S) for _, S in axes}
    if len(sizes) > 1:
        raise UnsupportedOption(
            f"the classes of this {type(estimator).__name__} have covariances of different ranks {sorted(sizes)}: "
            "fit it with reg_param > 0"
        )
    return axes


def generative(
    estimator: Any, units: Callable[[Inputs], Layer], constants: np.ndarray, kind: str, reference: Reference
) -> ModelSpec:
    """A classifier from energies: units + constants are −log p(x, class). Scores "log_odds" and "probability"."""
    if len(estimator.classes_) < 2:
        raise UnsupportedOption(
            f"this {type(estimator).__name__} was fitted on one class: there is nothing to tell apart"
        )
    outputs = Outputs.classes(estimator.classes_)

    def layer(inputs: Inputs) -> Layer:
        odds = LogOdds(units(inputs), tensor(constants))
        return Unit(odds, 1) if len(estimator.classes_) == 2 else odds

    return ModelSpec(kind, odds_scores(layer, outputs, reference))


# -- one Gaussian ----------------------------------------------------------------------------------------------------


@neuralize.register(
    "sklearn.covariance.EmpiricalCovariance",
    "sklearn.covariance.MinCovDet",
    "sklearn.covariance.EllipticEnvelope",
)
def covariance(estimator: Any) -> ModelSpec:
    """Neuralize a covariance estimate: the squared Mahalanobis distance, by three classical decompositions."""
    P, mean = np.asarray(estimator.get_precision()), np.asarray(estimator.location_)

    def make(inputs: Inputs) -> Layer:
        return Mahalanobis(tensor(P), tensor(mean), inputs.pullback)

    def distance(model: Any, z: Any) -> np.ndarray:
        return np.asarray(model.mahalanobis(_as_array(z)))

    threshold = None
    scores: dict[str, Score] = {"outlierness": plain("outlierness", make, distance, unit=SQUARED)}
    if hasattr(estimator, "offset_"):
        threshold = -float(estimator.offset_)
        scores["decision_function"] = minus(
            "decision_function", make, threshold, lambda model, z: np.asarray(model.decision_function(_as_array(z)))
        )
        scores["score_samples"] = minus(
            "score_samples", make, 0.0, lambda model, z: np.asarray(model.score_samples(_as_array(z)))
        )
    return ModelSpec(
        f"squared Mahalanobis distance ({type(estimator).__name__}, {len(mean)} features)", scores, threshold
    )


@neuralize.register("sklearn.decomposition.PCA")
def pca(estimator: Any) -> ModelSpec:
    """Neuralize principal components as a detector: reconstruction error, Hotelling's T², probabilistic PCA."""
    V = np.asarray(estimator.components_, dtype=float)
    mean, variance = np.asarray(estimator.mean_, dtype=float), np.asarray(estimator.explained_variance_, dtype=float)
    d = V.shape[1]

    def form(P: np.ndarray) -> Callable[[Inputs], Layer]:
        return lambda inputs: Mahalanobis(tensor(P), tensor(mean), inputs.pullback)

    def scaled(model: Any, z: Any) -> np.ndarray:
        scores = (_as_array(z) - model.mean_) @ model.components_.T
        return np.asarray((scores**2 / model.explained_variance_).sum(1))

    def error(model: Any, z: Any) -> np.ndarray:
        z = _as_array(z)
        return np.asarray(((z - model.inverse_transform(model.transform(z))) ** 2).sum(1))

    def unexplained(inputs: Inputs) -> Layer:
        if len(V) == d:
            raise UnsupportedModel(
                f"this {type(estimator).__name__} keeps all {d} components, so that its reconstruction error is zero "
                "but for rounding: fit it with fewer, or give score='t2'"
            )
        return form(residual)(inputs)

    residual = np.eye(d) - V.T @ V
    residual = residual @ residual  # itself, but for the rounding of V
    scores = {
        "outlierness": plain("outlierness", unexplained, error, unit=SQUARED),
        "t2": plain("t2", form((V.T / variance) @ V), scaled),
    }
    P = np.asarray(estimator.get_precision())
    constant = 0.5 * (d * LOG_2PI - np.linalg.slogdet(P)[1])

    def negative_log(inputs: Inputs) -> Layer:
        return Mahalanobis(tensor(P / 2), tensor(mean), inputs.pullback)

    if np.isfinite(constant):
        scores["score_samples"] = minus(
            "score_samples", negative_log, -constant, lambda model, z: np.asarray(model.score_samples(_as_array(z)))
        )
    return ModelSpec(f"principal components ({len(V)} of {d}; outlierness is the squared reconstruction error)", scores)


@neuralize.register("sklearn.decomposition.FactorAnalysis")
def factor_analysis(estimator: Any) -> ModelSpec:
    """Neuralize factors as a density: a Gaussian whose covariance is that of the factors and of each column's noise."""
    P, mean = np.asarray(estimator.get_precision(), dtype=float), np.asarray(estimator.mean_, dtype=float)
    constant = 0.5 * (len(mean) * LOG_2PI - float(np.linalg.slogdet(P)[1]))

    def make(inputs: Inputs) -> Layer:
        return Mahalanobis(tensor(P / 2), tensor(mean), inputs.pullback)

    def log_density(model: Any, z: Any) -> np.ndarray:
        return np.asarray(model.score_samples(_as_array(z)))

    scores = {
        "outlierness": shifted("outlierness", make, constant, lambda model, z: -log_density(model, z), NATS),
        "score_samples": minus("score_samples", make, -constant, log_density),
    }
    return ModelSpec(f"factor analysis ({len(estimator.components_)} factors)", scores)
