"""Shares of the votes of the nearest training rows: what a classifier of neighbours calls probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from backlight.classical.layers.base import EncodedRows, ForwardPass, Query
from backlight.classical.layers.neighbors import NearestRows, VotingRows
from backlight.classical.layers.pullback import Pullback

__all__ = ["VoteShares"]


class VoteShares(VotingRows):
    r"""p_c = Σ w_j over the rows of class c among the k nearest, weighted alike or by nearness; Σ w = 1.

    Votes are a gate. What carries them is how far the row is from the rows of class c and from the others: with
    :math:`s^c_i = \sum_{j\in N_c} (w_j/p_c)\,\delta_{ji}^2/d_j^2` the share of column i in the former (of the nearest
    row of the class, where it has none among the k) and :math:`s^{\bar c}` in the latter,

    .. math::  p_c = \tfrac1C + \sum_i \left[(1-\tfrac1C)\,p_c\,s^{\bar c}_i - \tfrac1C (1-p_c)\,s^c_i\right],

    as both sum to one. Where votes count by nearness and C = 2 this is the contrast of harmonic distances over their
    sum, :math:`p_c - \tfrac12 = \tfrac12 (H_{\bar c} - H_c)/(H_{\bar c} + H_c)`, the sum as a gate
    (`backlight.classical.layers.weighted_votes`). No column's relevance exceeds one; rows at distance zero carry
    nothing, and leave their share to the base.

    Parameters
    ----------
    rows, by_class, labels, k
        See `VotingRows`.
    weighted : bool
        Whether a vote counts one over its distance.
    """

    def __init__(
        self,
        rows: NearestRows,
        by_class: Sequence[NearestRows],
        labels: Tensor,
        k: int,
        weighted: bool,
        pullback: Pullback,
    ) -> None:
        super().__init__(rows, by_class, labels, k, pullback)
        self.weighted, self.units = weighted, self.n_classes

    @property
    def rows(self) -> int:
        """Rows at once."""
        return max(16, min(8192, (1 << 21) // ((self.k + self.units) * self.anchors.shape[1])))

    def _votes(self, near: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """What each of the k nearest adds to each class, (n, C, k), and the sums of these, (n, C)."""
        if self.weighted:
            d = size if self.nearest.city else size.sqrt()
            least = d.amin(1, keepdim=True)  # rows at distance zero vote alone, as in the library
            weight = torch.where(least > 0, least / torch.where(d > 0, d, 1.0), (d == 0).to(d))
        else:
            weight = torch.ones_like(size)
        weight = weight / weight.sum(1, keepdim=True)
        each = torch.stack([torch.where(self.labels[near] == c, weight, 0.0) for c in range(self.units)], 1)
        return each, each.sum(2)

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, C)."""
        near = self.nearest.find(x.z, self.k, None)
        return self._votes(near, self.nearest.size(x.z[:, None] - self.anchors[near]))[1]

    @property
    def made_of(self) -> Mapping[str, int]:
        """The k nearest rows, nearest first, and the nearest of each class, which counts where none of these is its."""
        return {"neighbours": self.k + self.units}

    def inside(self, name: str, x: EncodedRows, ask: Query) -> Callable[[Tensor], Tensor]:
        """See `Layer.inside`."""
        parts = self._parts(x)[-1]
        return lambda c: torch.einsum("nc,ncj->nj", c, parts)

    def _parts(self, x: EncodedRows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Differences to the rows, their sizes, the shares p, and what each row adds to each of them, (n, C, k + C)."""
        z, C = x.z, self.units
        near = self.nearest.find(z, self.k, None)
        alone = torch.cat([m[rows.find(z, 1, None)] for m, rows in zip(self.members, self.by_class, strict=True)], 1)
        delta = z[:, None] - self.anchors[torch.cat([near, alone], 1)]
        size = self.nearest.size(delta)
        votes, p = self._votes(near, size[:, : self.k])
        own = _normalized(torch.cat([votes, torch.diag_embed((votes.sum(2) == 0).to(z))], 2))
        least = size[:, self.k :][:, None].expand(-1, C, -1)
        eye = torch.eye(C, dtype=torch.bool, device=z.device)
        other = torch.nn.functional.one_hot(least.masked_fill(eye, torch.inf).argmin(2), C).to(z)
        others = votes.sum(1, keepdim=True) - votes
        others = _normalized(torch.cat([others, torch.where(others.sum(2, keepdim=True) == 0, other, 0.0)], 2))
        parts = (1 - 1 / C) * p[:, :, None] * others - (1 / C) * (1 - p)[:, :, None] * own  # (n, C, k + C)
        return delta, size, p, torch.where(size[:, None] > 0, parts, 0.0)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        delta, size, p, parts = self._parts(x)
        carried = parts.sum(2)

        def back(c: Tensor) -> Tensor:
            weight = torch.einsum("nc,ncj->nj", c, parts) / torch.where(size > 0, size, 1.0)
            return self.pullback.sum_of_pairs(delta, self.nearest.gradient(delta), weight)

        return ForwardPass(p, carried, back, p, {"distances": carried})


def _normalized(weight: Tensor) -> Tensor:
    return weight / weight.sum(2, keepdim=True)
