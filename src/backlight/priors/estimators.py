"""Priors from densities that scikit-learn has fitted."""

from __future__ import annotations

from typing import Any

import numpy as np

from backlight.errors import NotFittedModel, UnsupportedModel, UnsupportedOption
from backlight.priors.base import Prior
from backlight.priors.gaussian import Gaussian
from backlight.priors.mixture import KernelDensity, Mixture
from backlight.priors.rbm import RBM

__all__ = ["from_estimator"]


def from_estimator(estimator: Any) -> Prior:
    """The prior of a fitted density.

    Parameters
    ----------
    estimator : GaussianMixture, KernelDensity (Gaussian kernel), EmpiricalCovariance and its kin, BernoulliRBM, PCA
        PCA as probabilistic PCA: its noise variance fills the directions that it leaves out.

    Raises
    ------
    UnsupportedModel, UnsupportedOption, NotFittedModel

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.mixture import GaussianMixture
    >>> from backlight import priors
    >>> priors.from_estimator(GaussianMixture(3, random_state=0).fit(load_iris().data))
    priors.Mixture(3)
    """
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    name = type(estimator).__name__
    make = next((_MAKERS[cls.__name__] for cls in type(estimator).__mro__ if cls.__name__ in _MAKERS), None)
    if make is None or not isinstance(estimator, BaseEstimator):
        known = ", ".join(_MAKERS)
        raise UnsupportedModel(
            f"{name} is no density that a prior can be made from: give one of {known}, or LogProb of a function"
        )
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise NotFittedModel(f"this {name} is not fitted: call fit first") from error
    return make(estimator)


def _kernel_density(estimator: Any) -> Prior:
    if estimator.kernel != "gaussian" or estimator.metric not in ("euclidean", "l2", "minkowski"):
        raise UnsupportedOption(
            f"KernelDensity(kernel={estimator.kernel!r}, metric={estimator.metric!r}): as a prior only the Gaussian "
            "kernel with the Euclidean metric"
        )
    tree = estimator.tree_
    weights = None if tree.sample_weight is None else np.asarray(tree.sample_weight)
    return KernelDensity(np.asarray(tree.data), float(estimator.bandwidth_), weights)


def _covariance(estimator: Any) -> Prior:
    return Gaussian(estimator.location_, estimator.covariance_)


def _rbm(estimator: Any) -> Prior:
    return RBM(estimator.components_, estimator.intercept_visible_, estimator.intercept_hidden_)


def _pca(estimator: Any) -> Prior:
    return Gaussian(estimator.mean_, estimator.get_covariance())


_MAKERS = {
    "GaussianMixture": Mixture.of,
    "KernelDensity": _kernel_density,
    "EmpiricalCovariance": _covariance,
    "BernoulliRBM": _rbm,
    "PCA": _pca,
}
