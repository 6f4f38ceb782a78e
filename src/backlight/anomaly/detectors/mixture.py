"""Bayesian Gaussian mixture: a few groups, each with its own shape."""

from typing import Any

from backlight.anomaly.detectors.base import Detector, register
from backlight.anomaly.detectors.single import encoded


def _mixture(n: int, d: int) -> Any:
    from sklearn.mixture import BayesianGaussianMixture

    # Its prior empties the components that the rows do not need. A full covariance has d²/2 numbers to learn.
    full = n >= 10 * d
    return BayesianGaussianMixture(
        n_components=max(1, min(8, n // (10 * d if full else 20))), covariance_type="full" if full else "diag",
        reg_covar=1e-2, max_iter=500, random_state=0,
    )  # fmt: skip


register(Detector("mixture", "Bayesian Gaussian mixture", encoded(_mixture)))
