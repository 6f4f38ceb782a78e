r"""How a squared difference in the pool's space is shared among the columns of the table.

Front ends (scalers, encoders, imputers, projections) make :math:`z = A e + b` from elements :math:`e` that each
belong to one column of the table. A squared difference :math:`\delta = z - u = A(e - e_u)` is quadratic, so by
Euler's identity it is the sum over elements of

.. math::  r_k = (A^{+}\delta)_k \, (A^{\mathsf T}\delta)_k

where :math:`A^{+}\delta` is the difference of the minimum-norm pre-images: the relevance depends only on what the
model sees of the row, never on the part that a projection discards. For diagonal :math:`A` this is
:math:`\delta_k^2` itself, and for a projection on orthonormal axes :math:`(A^{\mathsf T}\delta)_k^2 \ge 0`;
otherwise (whitening, oblique maps) single terms may be negative. Elements of one column are then summed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Pullback"]


class Pullback(nn.Module):
    """Share squared differences in z among columns.

    Parameters
    ----------
    owner : array of int of shape (E,)
        The column that each element belongs to.
    n_columns : int
    linear : array of shape (K, E), optional
        The map A of z = A e + b; without it z is e.
    """

    owner: Tensor
    into: Tensor | None
    back: Tensor | None

    def __init__(
        self,
        owner: np.ndarray,
        n_columns: int,
        linear: np.ndarray | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.n_columns = n_columns
        self.register_buffer("owner", torch.as_tensor(owner, dtype=torch.long))
        self.identity = len(owner) == n_columns and bool((np.asarray(owner) == np.arange(n_columns)).all())
        if linear is None:
            self.into = self.back = None
        else:
            A = torch.as_tensor(linear, dtype=torch.float64)
            self.register_buffer("into", A.to(dtype))
            self.register_buffer("back", torch.linalg.pinv(A).T.contiguous().to(dtype))

    def _columns(self, elements: Tensor) -> Tensor:
        if self.identity:
            return elements
        out = elements.new_zeros((len(elements), self.n_columns))
        return out.index_add_(1, self.owner, elements)

    def squares(self, delta: Tensor) -> Tensor:
        """Shares of ‖δ‖², shape (rows, columns), from explicit differences of shape (rows, K)."""
        if self.into is None or self.back is None:
            return self._columns(delta.square())
        return self._columns((delta @ self.back) * (delta @ self.into))

    def carried(self, anchors: Tensor) -> Tensor:
        """What the matrix product needs of the anchors beside themselves: their own shares, (M, columns)."""
        if self.into is None or self.back is None:
            return self._columns(anchors.square())
        return self._columns((anchors @ self.back.to(anchors)) * (anchors @ self.into.to(anchors)))

    def share(self, z: Tensor, s: Tensor, wu: Tensor, wv: Tensor) -> Tensor:
        """Σ_j w_j · shares of ‖z − u_j‖², from s = Σ w_j, wu = Σ w_j u_j and wv = Σ w_j carried(u_j)."""
        if self.into is None or self.back is None:
            return self._columns(z * (z * s[:, None] - 2 * wu)) + wv
        left, right = z @ self.back, z @ self.into
        crossed = left * (right * s[:, None] - wu @ self.into) - (wu @ self.back) * right
        return self._columns(crossed) + wv
