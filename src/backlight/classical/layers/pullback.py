r"""From the columns of a table to the space of a model, and how relevance goes the same way back.

Front ends (scalers, encoders, imputers, projections) make :math:`z = A (e - e_0) + s` from elements :math:`e` that are
each made from one column of the table, or shared among several in fixed parts (a product of columns). Two kinds of
terms go back exactly.

*Differences.* A term :math:`g\cdot\delta` with :math:`\delta = z - u = A(e - e_u)` is the sum over elements of

.. math::  r_k = (A^{+}\delta)_k \, (A^{\mathsf T} g)_k

where :math:`A^{+}\delta` is the difference of the minimum-norm pre-images: the relevance depends only on what the
model sees of the row, never on the part that a projection discards. A function that is homogeneous of degree q in
:math:`\delta` is such a term with :math:`g = \nabla/q` (Euler); for a squared distance :math:`g=\delta`. For diagonal
:math:`A` that is :math:`\delta_k^2` itself, and for a projection on orthonormal axes :math:`(A^{\mathsf
T}\delta)_k^2 \ge 0`; otherwise (whitening, oblique maps) single terms may be negative.

*Linear functions.* :math:`w\cdot z + b` is :math:`(A^{\mathsf T}w)\cdot(e-e_0)` plus a constant: the same linear
function of the elements, however many maps it was written with.

Elements of one column are then summed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Pullback", "owned"]


def owned(array: object, dtype: torch.dtype = torch.float64) -> Tensor:
    """A tensor with memory of its own: the user's arrays may be read-only, and stay theirs."""
    return torch.tensor(np.asarray(array)).to(dtype)


class Pullback(nn.Module):
    """The affine end of a front end, and the way back to columns.

    Parameters
    ----------
    owner : array of int of shape (E,), or of float of shape (E, n_columns)
        The column that each element belongs to, or the share of each column in it.
    n_columns : int
    linear : array of shape (K, E), optional
        The map A of z = A (e − center) + shift; without it z is e.
    center : array of shape (E,), optional
    shift : array of shape (K,), optional
    """

    owner: Tensor
    shares: Tensor | None
    into: Tensor | None
    back: Tensor | None
    center: Tensor | None
    shift: Tensor | None

    def __init__(
        self,
        owner: np.ndarray,
        n_columns: int,
        linear: np.ndarray | None = None,
        dtype: torch.dtype = torch.float64,
        center: np.ndarray | None = None,
        shift: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.n_columns = n_columns
        owner = np.asarray(owner)
        self.n_elements = len(owner)
        if owner.ndim == 2:
            self.register_buffer("shares", owned(owner, dtype))
            self.identity = False
        else:
            self.shares = None
            self.register_buffer("owner", owned(owner, torch.long))
            self.identity = len(owner) == n_columns and bool((owner == np.arange(n_columns)).all())
        if linear is None:
            self.into = self.back = self.center = self.shift = None
            return
        A = owned(linear)
        self.register_buffer("into", A.to(dtype))
        self.register_buffer("back", torch.linalg.pinv(A).T.contiguous().to(dtype))
        e0 = np.zeros(A.shape[1]) if center is None else center
        z0 = np.zeros(A.shape[0]) if shift is None else shift
        self.register_buffer("center", owned(e0, dtype))
        self.register_buffer("shift", owned(z0, dtype))

    @property
    def width(self) -> int:
        """K: how many numbers the model takes."""
        return self.n_elements if self.into is None else len(self.into)

    @property
    def owned(self) -> Tensor | None:
        """Which elements belong to any column; None for all. A constant among products belongs to none."""
        return None if self.shares is None else (self.shares.sum(1) > 0).to(self.shares)

    def embed(self, e: Tensor) -> Tensor:
        """Elements to the model's space: (n, E) to (n, K)."""
        if self.into is None or self.center is None or self.shift is None:
            return e
        return (e - self.center) @ self.into.T + self.shift

    def columns(self, elements: Tensor) -> Tensor:
        """Relevance of elements to relevance of columns: (…, E) to (…, columns)."""
        if self.identity:
            return elements
        if self.shares is not None:
            return elements @ self.shares.to(elements)
        out = elements.new_zeros((*elements.shape[:-1], self.n_columns))
        return out.index_add_(-1, self.owner, elements)

    def pair(self, delta: Tensor, gradient: Tensor) -> Tensor:
        """Shares of δ · g, shape (…, columns), from differences and gradients of shape (…, K)."""
        if self.into is None or self.back is None:
            return self.columns(delta * gradient)
        return self.columns((delta @ self.back) * (gradient @ self.into))

    def squares(self, delta: Tensor) -> Tensor:
        """Shares of ‖δ‖², shape (rows, columns), from explicit differences of shape (rows, K)."""
        return self.pair(delta, delta)

    def sum_of_pairs(self, delta: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
        """Σ_r w_r · shares of δ_r · g_r, (rows, columns), from (rows, r, K) twice and weights (rows, r)."""
        into, back = self.into, self.back
        terms = delta * gradient if into is None or back is None else (delta @ back).mul_(gradient @ into)
        return self.columns((weight[:, None, :] @ terms).squeeze(1))

    def linear(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The linear function z ↦ weight · z + bias, of elements: weights (U, E), constants (U,), reference (E,).

        It is weights · (e − reference) + constants.
        """
        if self.into is None or self.center is None or self.shift is None:
            return weight, bias, weight.new_zeros(self.n_elements)
        return weight @ self.into.to(weight), bias + weight @ self.shift.to(weight), self.center.to(weight)

    def metric(self, P: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """The quadratic form δᵀPδ around a mean, of elements: (E, E) matrix, and a mean (E,) that maps to the mean."""
        if self.into is None or self.back is None or self.center is None or self.shift is None:
            return P, mean
        A = self.into.to(P)
        return A.T @ P @ A, (mean - self.shift.to(P)) @ self.back.to(P) + self.center.to(P)

    # -- squared distances to many anchors, without their differences ----------------------------------------------

    def carried(self, anchors: Tensor) -> Tensor:
        """What the matrix product needs of the anchors beside themselves: their own shares, (M, columns)."""
        if self.into is None or self.back is None:
            return self.columns(anchors.square())
        return self.columns((anchors @ self.back.to(anchors)) * (anchors @ self.into.to(anchors)))

    def share(self, z: Tensor, s: Tensor, wu: Tensor, wv: Tensor) -> Tensor:
        """Σ_j w_j · shares of ‖z − u_j‖², from s = Σ w_j, wu = Σ w_j u_j and wv = Σ w_j carried(u_j)."""
        if self.into is None or self.back is None:
            return self.columns(z * (z * s[:, None] - 2 * wu)) + wv
        left, right = z @ self.back, z @ self.into
        crossed = left * (right * s[:, None] - wu @ self.into) - (wu @ self.back) * right
        return self.columns(crossed) + wv
