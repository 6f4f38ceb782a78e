r"""Quadratic priors: the squared norm, a Gaussian, nearness to a point.

For f(x) = wᵀx + b and strength β, with Σ = LLᵀ and x = μ + Lz,

.. math::  f - \beta\Omega = f(\mu) + (L^\mathsf{T}w)\cdot z - \tfrac\beta2\lVert z\rVert^2 + \text{const}
           \quad\Rightarrow\quad x^* = \mu + \Sigma w/\beta ,

whatever the rank of Σ, and without its inverse. λ‖x − m‖² is the Gaussian with Σ = I/(2λ), without a normaliser.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.arguments import checked
from backlight.errors import ArgumentError, DataError
from backlight.priors.base import (
    Prior,
    Whitening,
    array,
    axes_of,
    holds_text,
    knowing_columns,
    names_columns,
    one_row,
    ordinary,
    rows_of,
    table_of,
)

__all__ = ["L2", "Gaussian", "Near", "covariance_factor"]

# Eigenvalues below this share of the largest are rounding: d · ε, as in numpy.linalg.matrix_rank.
_RANK = np.finfo(float).eps
# A row counts as off the subspace of a singular Gaussian from this share of its distance on.
_OFF = 1e-7


@checked
class L2(Prior):
    """λ‖x − center‖², the *squared* norm.

    In a space with a code (`Affine`, `PCA`, `Generator`) it counts the code: λ‖z‖².

    Parameters
    ----------
    lam : float > 0
        λ. There is no default: what is small depends on the units of x. A network trained on pixels in [0, 1] may
        begin with 0.3; for a generator's code 0.5 is −log N(z; 0, I).
    center : array, optional
        By default zero.
    on_code : bool, default True
        ``False`` counts the input x also in a space with a code.
    """

    def __init__(self, lam: float, center: Any = None, *, on_code: bool = True) -> None:
        self.lam = ordinary(lam, "lam", "with λ = 0 nothing keeps x in place")
        self.center = None if center is None else array(center, "center").flatten()
        self.on_code = on_code
        self.dimension = None if self.center is None else len(self.center)
        self.name = f"L2({self.lam:g})"

    def energy(self, x: Tensor) -> Tensor:
        """λ‖x − center‖², (n,)."""
        flat = x.flatten(1)
        delta = flat if self.center is None else flat - self.center.to(flat)
        return self.lam * delta.square().sum(1)

    def sized(self, d: int) -> Whitening:
        """The whitening for d numbers."""
        mean = torch.zeros(d, dtype=torch.float64) if self.center is None else self.center
        return Whitening(mean, torch.full((d,), 1 / math.sqrt(2 * self.lam), dtype=torch.float64))

    def whitening(self) -> Whitening | None:
        """See `Prior.whitening`: of a size where the centre gives one."""
        return None if self.dimension is None else self.sized(self.dimension)

    def parameters(self) -> dict[str, Any]:
        """λ and the centre."""
        return {"lam": self.lam} | ({} if self.center is None else {"center": self.center.numpy()})


class Gaussian(Prior):
    """−log N(x; mean, cov).

    Parameters
    ----------
    mean : array of shape (d,) or of an input's shape
    cov : array of shape (d, d), or (d,) for a diagonal
        Symmetric and positive semi-definite. A singular one is a density on mean + range(cov): rows elsewhere have
        infinite energy, and prototypes stay on it. It is never inverted.

    Examples
    --------
    >>> import numpy as np
    >>> from backlight.priors import Gaussian
    >>> prior = Gaussian([1.0, 0.0], [[2.0, 1.0], [1.0, 1.0]])
    >>> prior.whitening().matrix() @ prior.whitening().matrix().T
    array([[2., 1.],
           [1., 1.]])
    """

    def __init__(self, mean: Any, cov: Any) -> None:
        self.mean = array(mean, "mean").flatten()
        cov = array(cov, "cov")
        d = len(self.mean)
        if tuple(cov.shape) not in ((d,), (d, d)):
            raise ArgumentError(f"cov has the shape {tuple(cov.shape)} beside a mean of {d} numbers: give ({d}, {d})")
        self.cov = cov
        self.factor = covariance_factor(cov)
        self.dimension = d
        self.name = "Gaussian"
        if self.factor.ndim == 1:
            kept = self.factor[self.factor > 0]
            self.rank, log_det = len(kept), 2 * float(kept.log().sum())
        else:
            self.rank = int(self.factor.shape[1])
            singular = torch.linalg.svdvals(self.factor)
            log_det = 2 * float(singular.log().sum())
        if self.rank == 0:
            raise ArgumentError("cov is zero: the Gaussian is one point, and there is nothing to look for")
        self.constant = 0.5 * (self.rank * math.log(2 * math.pi) + log_det)

    @classmethod
    @knowing_columns
    def fit(cls, X: Any, shrinkage: float | str = "auto") -> Gaussian:
        """The Gaussian of data.

        Parameters
        ----------
        X : table or tensor of n rows; an input of several axes is flattened
        shrinkage : float in [0, 1] or "auto"
            How far the covariance is drawn towards the scaled identity; ``"auto"`` by Ledoit and Wolf (2004). 0 is
            the maximum likelihood, and singular where a column is constant or n ≤ d.
        """
        from sklearn.covariance import EmpiricalCovariance, LedoitWolf, ShrunkCovariance

        rows = rows_of(X).numpy()
        if len(rows) < 2:
            raise DataError("one row has no covariance: fit the Gaussian on several")
        if shrinkage == "auto":
            # measured in each column's own spread, or columns with large units would decide alone
            scale = rows.std(0)
            scale = np.where(scale > 0, scale, 1.0)
            found = LedoitWolf().fit(rows / scale)
            cov = found.covariance_ * np.outer(scale, scale)
            constant = rows.std(0) == 0
            cov[constant], cov[:, constant] = 0.0, 0.0
            return cls._shaped(rows.mean(0), cov, X)
        if not (isinstance(shrinkage, int | float) and 0 <= shrinkage <= 1):
            raise ArgumentError(f"shrinkage={shrinkage!r} must be 'auto' or a number from 0 to 1")
        model = EmpiricalCovariance() if shrinkage == 0 else ShrunkCovariance(shrinkage=float(shrinkage))
        return cls._shaped(rows.mean(0), model.fit(rows).covariance_, X)

    @classmethod
    def _shaped(cls, mean: Any, cov: Any, X: Any) -> Gaussian:
        found = cls(mean, cov)
        found.shape = axes_of(X)
        return found

    def energy(self, x: Tensor) -> Tensor:
        """−log N(x), (n,); infinite off the subspace of a singular one."""
        flat = x.flatten(1)
        delta = flat - self.mean.to(flat)
        factor = self.factor.to(flat)
        if factor.ndim == 1:
            zero = factor == 0
            z = torch.where(zero, torch.zeros_like(delta), delta / torch.where(zero, 1.0, factor))
            off = (zero & (delta.detach() != 0)).any(1)
        else:
            # L has orthogonal columns: its pseudo-inverse is Lᵀ over their squared lengths
            lengths = factor.square().sum(0)
            z = (delta @ factor) / lengths
            if self.rank == self.dimension:
                off = None
            else:
                left = (delta - z @ factor.T).detach().norm(dim=1)
                off = left > _OFF * (1 + delta.detach().norm(dim=1))
        out = 0.5 * z.square().sum(1) + self.constant
        return out if off is None else torch.where(off, torch.inf, out)

    def whitening(self) -> Whitening:
        """The coordinates x = mean + Lz with LLᵀ = cov."""
        return Whitening(self.mean, self.factor, self.constant)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Samples, (n, d)."""
        z = torch.randn(n, self.factor.shape[-1], generator=generator, dtype=torch.float64)
        return self.whitening().decode(z)

    def parameters(self) -> dict[str, Any]:
        """Mean and covariance."""
        return {"mean": self.mean.numpy(), "cov": self.cov.numpy()}


@checked
class Near(Prior):
    """Near one input: ½ (x − x0)ᵀ cov⁻¹ (x − x0), without a normaliser.

    With the covariance of data, changes that go together in the data are cheap together. For the smallest change that
    turns a decision, give ``strength=inf`` and the constraint `backlight.constraints.decision`.

    Parameters
    ----------
    x0 : array of an input's shape, or one row of a table
        A row with categories is read by the model that it is given to: each category is a column of 0 and 1.
    cov : array of shape (d, d) or (d,), optional
        By default that of ``data``, else the identity.
    data : table, optional
    """

    def __init__(self, x0: Any, cov: Any = None, *, data: Any = None) -> None:
        x0 = table_of(x0)
        self.given, self.name = None, "Near"
        if names_columns(x0) or names_columns(data):  # a model may have the columns in another order
            self.given = (x0, cov, data)
        self.pending = holds_text(x0) or holds_text(data)
        if self.pending:
            return
        if isinstance(x0, np.ndarray | Tensor | list | tuple) or np.ndim(x0) == 1:
            point = array(x0, "x0").flatten()
        else:
            point = rows_of(x0, "x0").flatten()
        if cov is not None and data is not None:
            raise ArgumentError("Near takes cov or data, not both")
        if cov is None:
            cov = np.ones(len(point)) if data is None else Gaussian.fit(data).cov
        self.inner = Gaussian(point, cov)
        self.x0, self.dimension = point, len(point)
        self.shape = axes_of(data)

    def located(self, encode: Callable[[Any], Tensor], groups: Sequence[Sequence[int]]) -> Prior:
        """See `Prior.located`."""
        if self.given is None:
            return self
        x0, cov, data = self.given
        point = one_row(encode(x0)) if names_columns(x0) or self.pending else self.x0
        found = Near(point, cov, data=encode(data) if names_columns(data) else data)
        if cov is not None and not self.pending and not torch.equal(point, self.x0):
            raise ArgumentError(
                "Near(row, cov): the row has the columns in another order than the model, and so may cov"
            )
        found.shape = self.shape
        return found

    def energy(self, x: Tensor) -> Tensor:
        """Half the squared distance, (n,)."""
        if self.pending:
            raise ArgumentError("priors.Near of a row with categories is read by a model: give it to prototype()")
        return self.inner.energy(x) - self.inner.constant

    def whitening(self) -> Whitening | None:
        """The coordinates x = x0 + Lz."""
        if self.pending:
            return None
        return Whitening(self.x0, self.inner.factor)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Samples of the Gaussian around x0, (n, d)."""
        return self.inner.draw(n, generator)

    def parameters(self) -> dict[str, Any]:
        """The point and the covariance."""
        return {"x0": self.x0.numpy(), "cov": self.inner.cov.numpy()}


def covariance_factor(cov: Tensor) -> Tensor:
    """L of full column rank with LLᵀ = cov and orthogonal columns: (d, rank), or (d,) for a diagonal."""
    if cov.ndim == 1:
        if bool((cov < 0).any()):
            raise ArgumentError(f"cov has the negative variance {float(cov.min()):.3g}")
        return cov.sqrt()
    if not torch.allclose(cov, cov.T, rtol=1e-8, atol=1e-12 * float(cov.abs().max())):
        raise ArgumentError("cov is not symmetric")
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    largest = float(values[-1])
    floor = _RANK * len(cov) * max(largest, 0.0)
    if float(values[0]) < -1e3 * floor - 1e-12 * abs(largest):
        raise ArgumentError(
            f"cov has the negative eigenvalue {float(values[0]):.3g} (largest {largest:.3g}): it is no covariance"
        )
    kept = values > floor
    factor: Tensor = vectors[:, kept] * values[kept].sqrt()
    return factor
