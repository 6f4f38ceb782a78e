r"""Gaussian mixtures and kernel densities.

For a linear f the tilted density is again a mixture (complete the square):

.. math::  e^{w\cdot x}\,\mathcal N(x;\mu,S) = e^{w\cdot\mu+\frac12 w^\mathsf{T}Sw}\,\mathcal N(x;\mu+Sw,S) ,

so that a prototype is a mode of a mixture with shifted means; see `backlight._prototype.tilting`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.arguments import checked
from backlight.errors import ArgumentError, DataError
from backlight.priors.base import Prior, Whitening, array, axes_of, knowing_columns, rows_of
from backlight.priors.gaussian import covariance_factor

__all__ = ["KernelDensity", "Mixture"]


class Mixture(Prior):
    """−log Σ_k weight_k N(x; mean_k, cov_k).

    Parameters
    ----------
    weights : array of shape (K,)
        Positive; normalised to one.
    means : array of shape (K, d)
    covs : array of shape (K, d, d), or (K, d) for diagonals
        Positive definite.
    """

    def __init__(self, weights: Any, means: Any, covs: Any) -> None:
        self.means = array(means, "means", 2)
        k, d = self.means.shape
        weights = array(weights, "weights", 1)
        covs = array(covs, "covs")
        if len(weights) != k or tuple(covs.shape) not in ((k, d, d), (k, d)):
            raise ArgumentError(
                f"a mixture of {k} means of {d} numbers takes {k} weights and covs of the shape ({k}, {d}, {d}) or "
                f"({k}, {d}), not {len(weights)} and {tuple(covs.shape)}"
            )
        if bool((weights <= 0).any()):
            raise ArgumentError("weights of a mixture must be positive: leave out components without weight")
        self.log_weights = (weights / weights.sum()).log()
        self.covs, self.dimension = covs, d
        self.name = f"Mixture({k})"
        try:
            self.chol = covs.sqrt() if covs.ndim == 2 else torch.linalg.cholesky(covs)
        except RuntimeError as error:  # torch's LinAlgError is one
            raise ArgumentError(
                "a covariance of the mixture is not positive definite: fit it with reg_covar > 0"
            ) from error
        diagonal = self.chol if covs.ndim == 2 else torch.diagonal(self.chol, dim1=1, dim2=2)
        if not bool((diagonal > 0).all()):
            raise ArgumentError("a variance of the mixture is not positive")
        self.log_norm = 0.5 * d * math.log(2 * math.pi) + diagonal.log().sum(1)
        # P = inverse Cholesky factors: one product a component instead of a triangular solve in every step
        eye = torch.eye(d, dtype=torch.float64)
        self.inverse = 1 / self.chol if covs.ndim == 2 else torch.linalg.solve_triangular(self.chol, eye, upper=False)

    @classmethod
    @knowing_columns
    def fit(
        cls,
        X: Any,
        k: int | str = "bic",
        *,
        covariance: str = "full",
        reg_covar: float = 0.01,
        standardize: bool | None = None,
        seed: int = 0,
    ) -> Mixture:
        """A mixture of data, by scikit-learn's EM.

        Parameters
        ----------
        X : table or tensor of n rows
        k : int or "bic"
            Number of components; ``"bic"`` takes the best of 1, 2, 3, 5, 8, 12, 20 by the Bayesian criterion.
        covariance : "full" or "diag"
        reg_covar : float
            Added to the variances, as a share of them.
        standardize : bool, optional
            Whether columns are measured in their own standard deviations, or all in the mean one. By default columns of
            a table are, which have units of their own, and inputs of several axes, such as images, are not.
        seed : int
        """
        from sklearn.mixture import GaussianMixture

        rows = rows_of(X).numpy()
        if covariance not in ("full", "diag"):
            raise ArgumentError(f"covariance={covariance!r} must be 'full' or 'diag'")
        if not reg_covar > 0:
            raise ArgumentError(f"reg_covar={reg_covar!r} must be a number > 0")
        if k == "bic":
            sizes = [size for size in (1, 2, 3, 5, 8, 12, 20) if size <= max(1, len(rows) // 10)]
        elif isinstance(k, int) and 1 <= k <= len(rows):
            sizes = [k]
        else:
            raise ArgumentError(f"k={k!r} must be 'bic' or a number of components from 1 to the {len(rows)} rows")
        middle, scale = rows.mean(0), rows.std(0)
        if not (scale > 0).any():
            raise DataError("all rows are equal: they have no density")
        own = axes_of(X) is None if standardize is None else standardize
        if own:
            scale = np.where(scale > 0, scale, np.median(scale[scale > 0]))
        else:
            scale = np.full(len(scale), np.sqrt(np.mean(scale**2)))
        standard = (rows - middle) / scale
        fits = [
            GaussianMixture(size, covariance_type=covariance, reg_covar=reg_covar, random_state=seed).fit(standard)
            for size in sizes
        ]
        best = min(fits, key=lambda fit: fit.bic(standard)) if len(fits) > 1 else fits[0]
        units = np.outer(scale, scale) if covariance == "full" else scale**2
        found = cls(best.weights_, best.means_ * scale + middle, best.covariances_ * units)
        found.shape = axes_of(X)
        return found

    @classmethod
    def of(cls, estimator: Any) -> Mixture:
        """The mixture of a fitted `sklearn.mixture.GaussianMixture`."""
        means, covs = np.asarray(estimator.means_), np.asarray(estimator.covariances_)
        k, d = means.shape
        if estimator.covariance_type == "tied":
            covs = np.broadcast_to(covs, (k, d, d))
        elif estimator.covariance_type == "spherical":
            covs = np.broadcast_to(covs[:, None], (k, d))
        return cls(estimator.weights_, means, covs)

    def log_joint(self, x: Tensor) -> Tensor:
        """Logarithms of weight_k N(x; k) for each component, (n, K)."""
        flat = x.flatten(1)
        inverse = self.inverse.to(flat)
        delta = flat[:, None, :] - self.means.to(flat)
        z = delta * inverse if inverse.ndim == 2 else torch.einsum("nki,kji->nkj", delta, inverse)
        joint: Tensor = -0.5 * z.square().sum(2) + (self.log_weights - self.log_norm).to(flat)
        return joint

    def energy(self, x: Tensor) -> Tensor:
        """−log p(x), (n,)."""
        return -torch.logsumexp(self.log_joint(x), 1)

    def spread(self) -> Whitening:
        """The Gaussian with the mixture's own mean and covariance."""
        weights = self.log_weights.exp()
        mean = weights @ self.means
        delta = self.means - mean
        within = self.covs if self.covs.ndim == 3 else torch.diag_embed(self.covs)
        cov = (weights[:, None, None] * within).sum(0) + (delta * weights[:, None]).T @ delta
        return Whitening(mean, covariance_factor(cov))

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Samples, (n, d)."""
        which = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        chol = self.chol[which]
        return self.means[which] + (z * chol if chol.ndim == 2 else torch.einsum("nij,nj->ni", chol, z))

    def parameters(self) -> dict[str, Any]:
        """Weights, means and covariances."""
        return {"weights": self.log_weights.exp().numpy(), "means": self.means.numpy(), "covs": self.covs.numpy()}


@checked
class KernelDensity(Prior):
    """−log of a Gaussian kernel density: a mixture with one component a row, all of covariance bandwidth² I.

    One bandwidth for all columns: columns of different units are standardised first.

    With a small bandwidth the prototype is the top-activating row itself; with a large one it is that of a Gaussian.

    Parameters
    ----------
    rows : table or tensor of n rows
    bandwidth : float > 0
    weights : array of shape (n,), optional
    """

    def __init__(self, rows: Any, bandwidth: float, weights: Any = None) -> None:
        if not (isinstance(bandwidth, int | float | np.number) and math.isfinite(bandwidth) and bandwidth > 0):
            raise ArgumentError(f"bandwidth={bandwidth!r} must be a number > 0")
        self.rows, self.bandwidth = rows_of(rows, "rows"), float(bandwidth)
        self.shape = axes_of(rows)
        n, d = self.rows.shape
        if weights is None:
            self.log_weights = torch.full((n,), -math.log(n), dtype=torch.float64)
        else:
            given = array(weights, "weights", 1)
            if len(given) != n or bool((given < 0).any()) or float(given.sum()) <= 0:
                raise ArgumentError(f"weights must be {n} numbers ≥ 0, one a row, and not all zero")
            self.rows, given = self.rows[given > 0], given[given > 0]
            self.log_weights = (given / given.sum()).log()
        self.dimension = d
        self.name = f"KernelDensity(h={self.bandwidth:.3g})"
        self.log_norm = d * (0.5 * math.log(2 * math.pi) + math.log(self.bandwidth))
        self._center = self.rows.mean(0)

    @classmethod
    @knowing_columns
    def fit(cls, X: Any, bandwidth: float | str = "scott", *, seed: int = 0) -> KernelDensity:
        """The kernel density of data.

        Parameters
        ----------
        X : table or tensor of n rows
        bandwidth : float, "scott" or "cv"
            ``"scott"``: the mean standard deviation of the columns times n^(−1/(d+4)); ``"cv"``: the likeliest of
            eight around that, by five-fold cross-validation.
        """
        rows = rows_of(X)
        n, d = rows.shape
        scott = float(rows.std(0, unbiased=False).mean()) * n ** (-1 / (d + 4))
        if isinstance(bandwidth, str):
            if bandwidth not in ("scott", "cv"):
                raise ArgumentError(f"bandwidth={bandwidth!r} must be a number, 'scott' or 'cv'")
            if scott <= 0:
                raise DataError("all rows are equal: they have no bandwidth")
            h = scott
            if bandwidth == "cv":
                from sklearn.model_selection import KFold

                folds = list(KFold(min(5, n), shuffle=True, random_state=seed).split(rows.numpy()))
                sizes = scott * np.geomspace(0.15, 2.0, 8)
                fits = [sum(float(-cls(rows[a], size).energy(rows[b]).sum()) for a, b in folds) for size in sizes]
                h = float(sizes[int(np.argmax(fits))])
            return cls(X, h) if axes_of(X) else cls(rows, h)
        return cls(X, bandwidth) if axes_of(X) else cls(rows, bandwidth)

    def log_joint(self, x: Tensor) -> Tensor:
        """Logarithms of weight_i N(x; row_i, h² I) for each row, (n, M)."""
        flat = x.flatten(1)
        # centred, or the expansion of the square would cancel
        rows, at = self.rows.to(flat) - self._center.to(flat), flat - self._center.to(flat)
        squared = at.square().sum(1)[:, None] - 2 * at @ rows.T + rows.square().sum(1)
        return -0.5 * squared.clamp(min=0) / self.bandwidth**2 + (self.log_weights - self.log_norm).to(flat)

    def energy(self, x: Tensor) -> Tensor:
        """−log p(x), (n,)."""
        return -torch.logsumexp(self.log_joint(x), 1)

    def spread(self) -> Whitening:
        """The Gaussian with the density's own mean and covariance."""
        weights = self.log_weights.exp()
        mean = weights @ self.rows
        delta = self.rows - mean
        cov = (delta * weights[:, None]).T @ delta + self.bandwidth**2 * torch.eye(len(mean), dtype=torch.float64)
        return Whitening(mean, covariance_factor(cov))

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Samples, (n, d)."""
        which = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        noise = torch.randn(n, self.rows.shape[1], generator=generator, dtype=torch.float64)
        return self.rows[which] + self.bandwidth * noise

    def parameters(self) -> dict[str, Any]:
        """Rows, weights and bandwidth."""
        return {"rows": self.rows.numpy(), "weights": self.log_weights.exp().numpy(), "bandwidth": self.bandwidth}
