r"""Naive Bayes: additive by construction, so that each feature's relevance is its own log-likelihood.

:math:`-\log p(x, c) = -\log\pi_c + \sum_i t_{ci}(x_i)`, and the log-odds of a class compare it with the others by a
soft-min. Nothing is left over but priors and the entropy of the rivals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.classical.families.gaussians import LOG_2PI, generative
from backlight.classical.families.linear import against_the_rest
from backlight.classical.functions import BernoulliTerms, CategoricalTerms, GaussianTerms, WeightedTerms
from backlight.classical.layers import Layer
from backlight.classical.layers.composition import Weighted
from backlight.classical.layers.linear import Additive, Quadratics, tensor
from backlight.classical.network import Inputs, ModelSpec
from backlight.classical.neuralize import neuralize
from backlight.errors import UnsupportedOption

__all__ = ["bernoulli", "categorical", "gaussian", "multinomial"]


def _exact(model: Any, z: Any) -> np.ndarray:
    """Log-odds from the library's joint log-likelihoods: predict_log_proba has lost digits where one class is sure."""
    joint = np.asarray(model.predict_joint_log_proba(z))
    return joint[:, 1] - joint[:, 0] if joint.shape[1] == 2 else against_the_rest(joint)


@neuralize.register("sklearn.naive_bayes.GaussianNB")
def gaussian(estimator: Any) -> ModelSpec:
    """Neuralize `GaussianNB`; the ratio of the variances of a feature is evidence of that feature."""
    mean, var = tensor(estimator.theta_), tensor(estimator.var_)
    constants = -np.log(estimator.class_prior_)
    width = 0.5 * (var.log() + LOG_2PI)

    def units(inputs: Inputs) -> Layer:
        if inputs.pullback.into is None:
            return Additive(GaussianTerms(mean, var, width), len(mean), inputs.pullback)
        forms = Quadratics(mean, var.rsqrt(), inputs.pullback)
        # behind a projection the variances belong to no column
        return Weighted([forms], torch.ones(1, dtype=torch.float64), width.sum(1))

    return generative(estimator, units, constants, f"Gaussian naive Bayes ({len(mean)} classes)", _exact)


@neuralize.register("sklearn.naive_bayes.MultinomialNB")
def multinomial(estimator: Any) -> ModelSpec:
    """Neuralize `MultinomialNB`: R_i = x_i log(θ_ci/θ_ki)."""
    return _additive(estimator, _weighted(estimator), -np.asarray(estimator.class_log_prior_), "multinomial")


@neuralize.register("sklearn.naive_bayes.ComplementNB")
def complement(estimator: Any) -> ModelSpec:
    """Neuralize `ComplementNB`: its joint log-likelihood is linear."""
    return _additive(estimator, _weighted(estimator), np.zeros(len(estimator.feature_log_prob_)), "complement")


@neuralize.register("sklearn.naive_bayes.BernoulliNB")
def bernoulli(estimator: Any) -> ModelSpec:
    """Neuralize `BernoulliNB`: absence is evidence too, and belongs to the feature that is absent."""
    log_p = tensor(estimator.feature_log_prob_)
    log_not = torch.log1p(-log_p.exp())
    constants = -np.asarray(estimator.class_log_prior_)
    cut = None if estimator.binarize is None else float(estimator.binarize)
    return _additive(estimator, BernoulliTerms(log_p, log_not, cut), constants, "Bernoulli")


@neuralize.register("sklearn.naive_bayes.CategoricalNB")
def categorical(estimator: Any) -> ModelSpec:
    """Neuralize `CategoricalNB`: one table of log-probabilities a feature."""
    tables = tuple(tensor(table) for table in estimator.feature_log_prob_)
    constants = -np.asarray(estimator.class_log_prior_)
    return _additive(estimator, CategoricalTerms(tables), constants, "categorical")


def _weighted(estimator: Any) -> Callable[[Tensor], Tensor]:
    """Terms −x_i w_ci of a model that is linear in x."""
    return WeightedTerms(tensor(estimator.feature_log_prob_))


def _additive(estimator: Any, terms: Callable[[Tensor], Tensor], constants: np.ndarray, name: str) -> ModelSpec:
    """A naive Bayes whose terms belong to one column each."""
    count = len(estimator.classes_)

    def units(inputs: Inputs) -> Layer:
        if inputs.pullback.into is not None:
            raise UnsupportedOption(
                f"{type(estimator).__name__} after a projection cannot be carried back: its terms belong to the "
                "projected axes"
            )
        return Additive(terms, count, inputs.pullback)

    return generative(estimator, units, constants, f"{name} naive Bayes ({count} classes)", _exact)
