"""One-class support vector machines.

:math:`\\texttt{score\\_samples}(x) = \\sum_j a_j e^{-\\gamma\\lVert x-u_j\\rVert^2}` with dual coefficients
:math:`a_j \\in (0, 1]` that do not sum to one. With :math:`S = \\sum_j a_j` and :math:`\\alpha = a/S`,

* outlierness :math:`o = -\\log(\\texttt{score\\_samples}/S) \\ge 0`, a soft-min pool over distances;
* the alarm line is :math:`\\theta = -\\log(\\rho/S)`, :math:`\\rho` = ``offset_``: above it the model says −1;
* ``decision_function`` :math:`= S e^{-o} - \\rho = L\\,(\\theta - o)` with the logarithmic mean
  :math:`L = \\rho\\,(e^t-1)/t > 0`, :math:`t = \\theta - o`: the relevance of inlierness, times one positive number
  a row.

Scikit-learn's coefficients must be normalised before the logarithm: as they are, the "outlierness" would be
negative for every row, and every ranking of causes reversed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.errors import UnsupportedOption
from backlight.neural.density import log_mean_kernel
from backlight.neural.network import Head, Score
from backlight.neural.neuralize import neuralize

__all__ = ["one_class_svm"]

# score_samples is decision_function + offset_, so that a score far below the offset keeps only the absolute precision
# of the offset: at this share of it the logarithm is still right to 13 digits.
_DIGITS_LEFT = 1e-3


@neuralize.register("sklearn.svm.OneClassSVM")
def one_class_svm(estimator: Any) -> Head:
    """Neuralize a fitted `sklearn.svm.OneClassSVM` with RBF kernel."""
    if estimator.kernel != "rbf":
        raise UnsupportedOption(
            f"OneClassSVM(kernel={estimator.kernel!r}) has no network in this version: fit it with kernel='rbf'"
        )
    vectors, dual = estimator.support_vectors_, estimator.dual_coef_
    vectors = np.asarray(vectors.toarray() if hasattr(vectors, "toarray") else vectors, dtype=np.float64)
    dual = np.asarray(dual.toarray() if hasattr(dual, "toarray") else dual, dtype=np.float64)[0]
    gamma = float(estimator._gamma)  # private: the number behind gamma="scale"
    total, rho = float(dual.sum()), float(np.ravel(estimator.offset_)[0])
    log_weights = np.log(dual / total)

    def outlierness(model: Any, z: Any) -> np.ndarray:
        score = np.asarray(model.score_samples(z))
        lost = score < _DIGITS_LEFT * rho
        with np.errstate(divide="ignore"):
            out = -np.log(score / total)
        if lost.any():
            rows = np.asarray(z[lost].toarray() if hasattr(z, "toarray") else np.asarray(z)[lost], dtype=float)
            out[lost] = -log_mean_kernel(rows, vectors, log_weights, gamma)
        return out

    if rho <= 0:
        raise UnsupportedOption(
            f"this OneClassSVM has offset_={rho}, so that it calls every row normal: fit it with a larger nu"
        )
    theta = -float(np.log(rho / total))
    scores = {
        "outlierness": Score("outlierness", lambda o: o, torch.ones_like, outlierness),
        "inlierness": Score(
            "inlierness",
            lambda o: theta - o,
            lambda o: -torch.ones_like(o),
            lambda model, z: theta - outlierness(model, z),
            budget=theta,
        ),
        "decision_function": Score(
            "decision_function",
            lambda o: total * torch.exp(-o) - rho,
            lambda o: -_log_mean(o, theta, rho),
            lambda model, z: np.asarray(model.decision_function(z)),
            budget=theta,
        ),
        "score_samples": Score(
            "score_samples",
            lambda o: total * torch.exp(-o),
            lambda o: -_log_mean(o, theta, rho),
            lambda model, z: np.asarray(model.score_samples(z)),
            budget=theta,
        ),
    }
    kind = f"one-class SVM (RBF kernel, {len(vectors)} support vectors)"
    return Head(vectors, log_weights, gamma, scores, theta, kind)


def _log_mean(o: Tensor, theta: float, rho: float) -> Tensor:
    """L with S e^(−o) − ρ = L (θ − o): ρ (e^t − 1)/t, and ρ at t = 0."""
    t = theta - o
    return rho * torch.where(t == 0, 1.0, torch.expm1(t) / torch.where(t == 0, 1.0, t))
