r"""Radial kernels: which network a kernel's logarithm is.

A positive kernel that depends on a distance d, :math:`k = \varphi(d)` with :math:`\varphi(0) = 1`, is the radial unit
:math:`h = -\log\varphi(d)`, and a weighted sum of kernels a soft-min pool of such units. The Gaussian has a layer of
its own, which needs no differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.classical.functions import Compact, Rational, Scaled, matern_3_2, matern_5_2, root
from backlight.classical.layers import Layer, Pullback, SoftMinDistance
from backlight.classical.layers.base import Wrapper
from backlight.classical.layers.linear import tensor
from backlight.classical.layers.pools import SoftMin, SoftMinPool
from backlight.classical.layers.radial import Radial
from backlight.classical.registry import public_name
from backlight.errors import ArgumentError, UnsupportedOption

__all__ = ["Kernel", "RadialKernel", "kernel_of", "pool"]


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """k = e^{−ψ(d)}.

    Attributes
    ----------
    name : str
    profile : function ψ of the distance, with ψ(0) = 0
    metric : {"sqeuclidean", "cityblock"}
    gamma : float, optional
        Of a Gaussian: ψ = γ d.
    concave : bool
        Whether ψ is finite and concave: see `backlight.classical.layers.radial`.
    """

    name: str
    profile: Callable[[Tensor], Tensor]
    metric: str = "sqeuclidean"
    gamma: float | None = None
    concave: bool = False

    def log(self, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        """The logarithm of k for all pairs, from explicit differences: slow, obvious, exact."""
        from scipy.spatial.distance import cdist

        return np.asarray(-self.profile(torch.as_tensor(cdist(X, Y, self.metric))))


class RadialKernel:
    """A radial kernel of your own, for scikit-learn to fit with and for backlight to read.

    ``SVC(kernel=RadialKernel(lambda d: d.clamp_min(0).sqrt()))`` fits k(x, y) = exp(−‖x − y‖).

    Parameters
    ----------
    profile : function
        ψ with k = exp(−ψ(d)), from a float64 tensor of distances to one of the same shape: ψ(0) = 0, never negative.
    metric : {"sqeuclidean", "cityblock"}
        What d is.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import scale
    >>> from sklearn.svm import OneClassSVM
    >>> import backlight
    >>> X = scale(load_wine().data)
    >>> model = OneClassSVM(kernel=RadialKernel(lambda d: 2 * torch.log1p(d / 20))).fit(X)
    >>> ex = backlight.explain(model, X[:3])
    >>> bool(abs(ex.residual).max() < 1e-9)
    True
    """

    def __init__(self, profile: Callable[[Tensor], Tensor], metric: str = "sqeuclidean") -> None:
        if metric not in ("sqeuclidean", "cityblock"):
            raise ArgumentError(f"metric={metric!r} is not known: choose 'sqeuclidean' or 'cityblock'")
        zero = float(profile(torch.zeros(1, dtype=torch.float64)))
        if zero != 0:
            raise ArgumentError(f"profile(0) is {zero}, not 0: scale the kernel so that k(x, x) = 1")
        self.profile, self.metric = profile, metric

    def __call__(self, X: Any, Y: Any) -> Any:
        """The Gram matrix, as scikit-learn asks for it; for two single rows, as some of its models ask, one number."""
        from scipy.spatial.distance import cdist

        single = np.ndim(X) == 1
        d = cdist(np.atleast_2d(np.asarray(X, dtype=float)), np.atleast_2d(np.asarray(Y, dtype=float)), self.metric)
        k = np.asarray(np.exp(-self.profile(torch.as_tensor(d)).numpy()))
        return k[0, 0] if single else k


def gaussian(gamma: float) -> Kernel:
    """exp(−γ‖x − y‖²)."""
    return Kernel("RBF", Scaled(gamma), gamma=gamma)


def laplacian(gamma: float) -> Kernel:
    """exp(−γ‖x − y‖₁)."""
    return Kernel("Laplacian", Scaled(gamma), "cityblock", concave=True)


def rational_quadratic(alpha: float, length: float) -> Kernel:
    """(1 + d/(2αl²))^{−α}."""
    scale = 2 * alpha * length * length
    return Kernel("rational quadratic", Rational(alpha, scale), concave=True)


def kernel_of(estimator: Any, kernel: Any, gamma: float | None) -> Kernel:
    """The radial kernel of a fitted estimator.

    Parameters
    ----------
    estimator : object
        For the message.
    kernel : str or callable
    gamma : float, optional
        The number that the estimator uses.

    Raises
    ------
    UnsupportedOption
        For a kernel that is not radial, or not known to be.
    """
    if kernel == "rbf" and gamma is not None:
        return gaussian(gamma)
    if kernel == "laplacian" and gamma is not None:
        return laplacian(gamma)
    found = _of_callable(kernel)
    if found is not None:
        return found
    name = kernel if isinstance(kernel, str) else getattr(kernel, "__name__", repr(kernel))
    raise UnsupportedOption(
        f"{type(estimator).__name__}(kernel={name!r}) has no network: fit it with kernel='rbf', with "
        "sklearn.metrics.pairwise.laplacian_kernel, with a RBF, RationalQuadratic or Matern(nu=0.5, 1.5 or "
        "2.5) of sklearn.gaussian_process.kernels, or with backlight.classical.RadialKernel(profile)"
    )


def _of_callable(kernel: Any) -> Kernel | None:
    if isinstance(kernel, RadialKernel):
        return Kernel("radial", kernel.profile, kernel.metric)
    if isinstance(kernel, partial) and not kernel.args and set(kernel.keywords) == {"gamma"}:
        gamma = kernel.keywords["gamma"]
        named = {"rbf_kernel": gaussian, "laplacian_kernel": laplacian}.get(getattr(kernel.func, "__name__", ""))
        module = getattr(kernel.func, "__module__", "")
        if named is not None and module.startswith("sklearn.metrics.pairwise") and isinstance(gamma, int | float):
            return named(float(gamma))
        return None
    found = of_process(kernel)
    length = np.ravel(getattr(kernel, "length_scale", np.nan))
    return at_length(found, float(length[0])) if found is not None and len(length) == 1 else None


def of_process(kernel: Any) -> Kernel | None:
    """A kernel of `sklearn.gaussian_process.kernels` at length scale 1, where it is radial."""
    kind = public_name(type(kernel)).removeprefix("sklearn.gaussian_process.kernels.")
    if kind == "RBF" or (kind == "Matern" and kernel.nu == math.inf):
        return gaussian(0.5)
    if kind == "RationalQuadratic":
        return rational_quadratic(float(kernel.alpha), 1.0)
    if kind == "Matern" and kernel.nu in _MATERN:
        return Kernel(*_MATERN[kernel.nu], concave=True)
    return None


def at_length(kernel: Kernel, length: float) -> Kernel:
    """The kernel of the distance counted in lengths."""
    square = length * length
    gamma = None if kernel.gamma is None else kernel.gamma / square
    return replace(kernel, profile=Scaled(1.0, kernel.profile, square), gamma=gamma)


def of_pairwise(estimator: Any, kernel: Any, gamma: float | None, n_features: int) -> Kernel:
    """The same for estimators that call `pairwise_kernels`, where gamma=None means 1 / n_features."""
    if getattr(kernel, "__name__", "") == "laplacian_kernel":
        kernel = "laplacian"
    return kernel_of(estimator, kernel, 1 / n_features if gamma is None else float(gamma))


# The half-integer members of the family (Rasmussen and Williams 2006, eq. 4.17). With s = √(2ν d) the slopes of ψ in d
# are ν/s for 1/2, 3/(2(1 + s)) and (5/6)(1 + s)/(1 + s + s²/3): all falling, so that ψ is concave.
_MATERN = {0.5: ("Matérn 1/2", root), 1.5: ("Matérn 3/2", matern_3_2), 2.5: ("Matérn 5/2", matern_5_2)}


def density_kernel(name: str, h: float) -> Kernel | None:
    """The kernels of `KernelDensity` that have a shape, scaled to k(0) = 1."""
    if name == "gaussian":
        return gaussian(1 / (2 * h * h))
    known = name in ("exponential", "epanechnikov", "linear", "cosine")
    return Kernel(name, Compact(name, h), concave=name == "exponential") if known else None


def pool(
    kernel: Kernel,
    anchors: np.ndarray,
    log_weights: np.ndarray,
    pullback: Pullback,
    dtype: torch.dtype,
    *,
    still: float | None = None,
    training: bool = False,
) -> Layer:
    """Pool −log Σ_j α_j k(x, u_j), weights normalised to one; ``still``: log-weight of an anchor on every row."""
    if kernel.gamma is not None:
        # Two pools that are subtracted may lose less than one that is not.
        lost = 1e5 if training else 1e3
        return SoftMinPool(SoftMinDistance(anchors, log_weights, kernel.gamma, pullback, dtype, still, lost))
    weights = np.asarray(log_weights, dtype=float)
    units: Layer = Radial(tensor(anchors), pullback, kernel.profile, kernel.metric, training, kernel.concave)
    if still is not None:
        weights = np.append(weights, still)
        units = _AndStill(units)
    log_w = tensor(weights)
    return SoftMin(units, log_w - torch.logsumexp(log_w, 0), default="stable")


class _AndStill(Wrapper):
    """One more unit that is always zero."""

    def __init__(self, inner: Layer) -> None:
        super().__init__(inner)
        self.units = inner.units + 1

    def forward(self, x: Any) -> Tensor:
        """Shape (n, U + 1)."""
        return torch.nn.functional.pad(self.inner(x), (0, 1))

    def run(self, x: Any, ask: Any) -> Any:
        """See `Layer.run`."""
        got = self.inner.run(x, ask)
        out = torch.nn.functional.pad(got.output, (0, 1))
        carried = torch.nn.functional.pad(got.carried, (0, 1))
        return type(got)(out, carried, lambda c: got.back(c[:, :-1]), out, {"distance": carried}, got.notes)
