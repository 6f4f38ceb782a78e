"""Votes of the nearest training rows that count by their nearness."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from backlight.classical.layers.base import EncodedRows, ForwardPass, Query
from backlight.classical.layers.neighbors import VotingRows

__all__ = ["WeightedVotes"]


class WeightedVotes(VotingRows):
    r"""f_a = min_{b≠a} H_b − H_a with the harmonic distance of a class, :math:`1/H_c = \sum_{j\in N_c} 1/d_j`.

    N_c are the rows of class c among the k nearest, so that :math:`1/H_c` is its weighted vote and f > 0 exactly where
    the vote goes to a. A class without a row among them is as far as its nearest row, which is farther than any of the
    k and so than the H of each class that has one. H is homogeneous in the distances,

    .. math::  H_c = \sum_{j\in N_c} p_j^2 d_j, \qquad p_j = H_c/d_j, \qquad \sum_{j\in N_c} p_j = 1,

    by Euler's theorem with its own slopes :math:`\partial H_c/\partial d_j = p_j^2`; each distance is shared as
    :math:`\delta_i^2/d`, of city-block ones :math:`|\delta_i|`. At distance zero H is zero, and nothing is carried.
    Where the two lowest H are equal the library gives the first of the classes; the annotation ``tie`` says so.
    """

    @property
    def rows(self) -> int:
        """Rows at once."""
        return max(16, min(8192, (1 << 21) // ((self.k + self.n_classes) * self.anchors.shape[1])))

    def distances(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Harmonic distances and their slopes.

        Returns
        -------
        place : (n, k + C) tensor of int
            The k nearest rows, and the nearest of each class.
        delta : (n, k + C, K) tensor
        H : (n, C) tensor
        slope : (n, C, k + C) tensor
            What makes H of ``delta`` times `NearestRows.gradient` of it.
        """
        near = self.nearest.find(z, self.k, None)
        alone = [
            found[rows.find(z, 1, None)] for found, rows in zip(self.members, self.by_class, strict=True)
        ]  # fmt: skip
        place = torch.cat([near, *alone], 1)
        delta = z[:, None] - self.anchors[place]
        size = self.nearest.size(delta)
        d = size if self.nearest.city else size.sqrt()
        inside = torch.stack([self.labels[near] == c for c in range(self.n_classes)], 1)  # (n, C, k)
        absent = torch.diag_embed((~inside.any(2)).to(torch.int8)).bool()  # a class that has none, its nearest row
        counted = torch.cat([inside, absent], 2)
        least = torch.where(counted, d[:, None], torch.inf).amin(2)
        ratio = torch.where(counted, least[:, :, None] / torch.where(d > 0, d, 1.0)[:, None], 0.0)
        H = torch.where(least > 0, least / torch.where(least > 0, ratio.sum(2), 1.0), 0.0)
        p = ratio / torch.where(least > 0, ratio.sum(2), 1.0)[:, :, None]
        slope = p**2 if self.nearest.city else p**2 / torch.where(d > 0, d, 1.0)[:, None]
        return place, delta, H, slope

    def contrasts(self, H: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (n, U), and what each H counts in each of them, (n, U, C)."""
        C = self.n_classes
        if C == 2:
            return H[:, :1] - H[:, 1:], H.new_tensor([1.0, -1.0]).expand(len(H), 1, 2)
        away = H[:, None].expand(-1, C, -1).masked_fill(torch.eye(C, dtype=torch.bool, device=H.device), torch.inf)
        least, rival = away.min(2)
        counts = torch.nn.functional.one_hot(rival, C).to(H) - torch.eye(C, dtype=H.dtype, device=H.device)
        return least - H, counts

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        return self.contrasts(self.distances(x.z)[2])[0]

    @property
    def made_of(self) -> Mapping[str, int]:
        """The k nearest rows, nearest first, and the nearest of each class, which counts where none of these is its."""
        return {"neighbours": self.k + self.n_classes}

    def inside(self, name: str, x: EncodedRows, ask: Query) -> Callable[[Tensor], Tensor]:
        """See `Layer.inside`."""
        _, delta, H, slope = self.distances(x.z)
        counts, size = self.contrasts(H)[1], self.nearest.size(delta)
        return lambda c: torch.einsum("nu,nuc,ncj->nj", c, counts, slope) * size

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        _, delta, H, slope = self.distances(x.z)
        output, counts = self.contrasts(H)

        def back(c: Tensor) -> Tensor:
            weight = torch.einsum("nu,nuc,ncj->nj", c, counts, slope)
            return self.pullback.sum_of_pairs(delta, self.nearest.gradient(delta), weight)

        two = H.topk(2, dim=1, largest=False).values
        notes = {"tie": two[:, 0] == two[:, 1]}
        return ForwardPass(output, output, back, output, {"harmonic distances": output}, notes)
