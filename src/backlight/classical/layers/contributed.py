"""Trees of which the library alone knows the splits: its own score, and its own exact Shapley values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.classical.layers.base import EncodedRows, ForwardPass, Layer, Query
from backlight.classical.layers.pullback import Pullback
from backlight.errors import UnsupportedModel
from backlight.rules.trees import TREE_RULES

__all__ = ["Contributed"]

# How far the library's own sum may be off, in shares of its terms.
_CLOSES = 1e-8


class Contributed(Layer):
    """y_u = base_u + Σ_i φ_iu, with the library's φ.

    Parameters
    ----------
    table : function of coded rows (n, columns) to the table that the library takes
    score : function of that table to (n, U)
    shares : function of that table to (n, columns + 1, U)
        Shapley values along the trees, and last what the model expects.
    units : int
    pullback : Pullback
        Of the columns as they are.
    """

    def __init__(
        self,
        table: Callable[[np.ndarray], Any],
        score: Callable[[Any], np.ndarray],
        shares: Callable[[Any], np.ndarray],
        units: int,
        pullback: Pullback,
    ) -> None:
        super().__init__()
        self.table, self.score, self.shares, self.pullback = table, score, shares, pullback
        self.units = units
        self.rules = {"shapley": TREE_RULES["shapley"]}

    def _native(self, x: EncodedRows) -> Any:
        return self.table(np.asarray(x.coded.detach().cpu().double()))

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        return torch.as_tensor(self.score(self._native(x)).reshape(len(x), self.units)).to(x.z)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        native = self._native(x)
        output = torch.as_tensor(self.score(native).reshape(len(x), self.units)).to(x.z)
        shares = torch.as_tensor(self.shares(native)).to(x.z)
        values, carried = shares[:, :-1], output - shares[:, -1]
        off = (values.sum(1) - carried).abs() > _CLOSES * (1 + shares.abs().sum(1))
        if bool(off.any()):
            raise UnsupportedModel(
                "the library's own Shapley values do not add up to its score: fit it with another kind of trees"
            )

        def back(c: Tensor) -> Tensor:
            return self.pullback.columns(torch.einsum("nu,nku->nk", c, values))

        return ForwardPass(output, carried, back, output, {"trees": carried})
