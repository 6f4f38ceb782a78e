r"""Codes: affine maps, principal components, generators.

With an affine generator x = Az + c and Ω = λ‖z‖², :math:`x^* = AA^\mathsf{T}w/(2\lambda) + c`; for λ = ½ the same
prototype as under the Gaussian N(c, AAᵀ).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight.arguments import checked, shown, users_code
from backlight.errors import ArgumentError
from backlight.priors.base import array, rows_of
from backlight.spaces.base import Space, as_shape

__all__ = ["PCA", "Affine", "Generator"]


class Affine(Space):
    """x = Az + c.

    Parameters
    ----------
    A : array of shape (d, k)
    c : array of shape (d,) or of an input's shape
        By default zero.
    shape : tuple of int, optional
        Of one input, where it has several axes.
    """

    name = "Affine"

    def __init__(self, A: Any, c: Any = None, *, shape: tuple[int, ...] | None = None) -> None:
        self.A = array(A, "A", 2)
        self.c = torch.zeros(len(self.A), dtype=torch.float64) if c is None else array(c, "c").flatten()
        if len(self.c) != len(self.A):
            raise ArgumentError(f"A maps to {len(self.A)} numbers, but c has {len(self.c)}")
        self.code_dim = int(self.A.shape[1])
        given = tuple(np.shape(c)) if c is not None and np.ndim(c) > 1 else (len(self.c),)
        self.shape = given if shape is None else as_shape(shape)

    def decode(self, z: Tensor) -> Tensor:
        """Az + c, (n, d)."""
        return z @ self.A.to(z).T + self.c.to(z)

    def encode(self, x: Tensor) -> Tensor:
        """The code whose image is nearest, by least squares."""
        found: Tensor = torch.linalg.lstsq(self.A, (x.double() - self.c).T, driver="gelsd").solution.T
        return found

    def affine(self) -> tuple[Tensor, Tensor]:
        """A and c."""
        return self.A, self.c


class PCA(Affine):
    """x = U diag(√eigenvalues) z + mean: principal components whose code has unit variance.

    With L2(0.5) a Gaussian prior on the subspace of the leading components.
    """

    def __init__(self, A: Any, c: Any = None, *, shape: tuple[int, ...] | None = None) -> None:
        super().__init__(A, c, shape=shape)
        self.name = f"PCA({self.code_dim})"

    @classmethod
    def fit(cls, X: Any, k: int) -> PCA:
        """The k leading components of data, which may have several axes."""
        from sklearn import decomposition

        rows = rows_of(X).numpy()
        most = min(rows.shape)
        if not (isinstance(k, int) and 1 <= k <= most):
            raise ArgumentError(f"k={k!r} must be a number of components from 1 to {most} for data {rows.shape}")
        found = decomposition.PCA(k, svd_solver="full" if min(rows.shape) <= 2000 else "auto", random_state=0).fit(rows)
        shape = tuple(X.shape[1:]) if isinstance(X, np.ndarray | Tensor) and X.ndim > 2 else None
        return cls(found.components_.T * np.sqrt(found.explained_variance_), found.mean_, shape=shape)


@checked
class Generator(Space):
    """x = decoder(z), for any differentiable function: a VAE's decoder, a GAN's generator, an inverse flow.

    A module is used as it is and left as it is; in training mode it is refused where that matters.

    Parameters
    ----------
    decoder : module or function of (n, code_dim) to (n, *shape)
    code_dim : int
    encoder : function of (n, *shape) to (n, code_dim), optional
        To start from data; without it starts are drawn from N(0, I).
    shape : tuple of int, optional
        Of one input of the model, where the decoder's output has another.
    dtype : torch.dtype, default float32
        What a decoder that is a plain function takes; a module takes that of its parameters.
    """

    def __init__(
        self,
        decoder: Callable[[Tensor], Tensor],
        code_dim: int,
        *,
        encoder: Callable[[Tensor], Tensor] | None = None,
        shape: tuple[int, ...] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not callable(decoder):
            raise ArgumentError(f"Generator takes a function from codes to inputs, not {type(decoder).__name__}")
        if code_dim < 1:
            raise ArgumentError(f"code_dim={code_dim!r} must be a positive number")
        if not isinstance(dtype, torch.dtype):
            raise ArgumentError(f"dtype must be one of torch's, such as torch.float32, not {shown(dtype)}")
        self.decoder, self.encoder, self.code_dim = decoder, encoder, code_dim
        self.name = f"Generator({code_dim})"
        parameters = list(decoder.parameters()) if isinstance(decoder, nn.Module) else []
        self.dtype = parameters[0].dtype if parameters else dtype
        self.device = parameters[0].device if parameters else torch.device("cpu")
        with torch.no_grad(), users_code("the decoder fails on two codes of zeros"):
            out = decoder(torch.zeros(2, code_dim, dtype=self.dtype, device=self.device))
        if not isinstance(out, Tensor) or out.shape[:1] != (2,):
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ArgumentError(f"the decoder must give one input for each of 2 codes, (2, {code_dim}), and gave {got}")
        self.shape = tuple(out.shape[1:]) if shape is None else as_shape(shape)

    def decode(self, z: Tensor) -> Tensor:
        """The decoder's image of the codes, in its own dtype."""
        out = self.decoder(z.to(self.device, self.dtype)).to(z.device)
        assert self.shape is not None
        return out.reshape(len(z), *self.shape)

    def encode(self, x: Tensor) -> Tensor | None:
        """By the encoder, where there is one."""
        if self.encoder is None:
            return None
        assert self.shape is not None
        with torch.no_grad():
            return self.encoder(x.reshape(len(x), *self.shape).to(self.device, self.dtype)).to("cpu", torch.float64)
