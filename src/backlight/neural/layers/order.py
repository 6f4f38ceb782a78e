r"""Order statistics of the distances to training rows: nearest neighbours, local outlier factors, votes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from backlight.neural.layers.base import Ask, Layer, Pass, Point
from backlight.neural.layers.pullback import Pullback

__all__ = ["ClassOrderStatistics", "NearestRows", "OrderStatistics"]


class NearestRows:
    """The k nearest training rows, as the library's own search finds them: which ones is a gate, not a function.

    Parameters
    ----------
    search : function of rows (n, K) and a number k
        Positions of the k nearest training rows, nearest first, (n, k).
    rows : (M, K) training rows
    """

    def __init__(self, search: Callable[[np.ndarray, int], np.ndarray], rows: Tensor) -> None:
        self.search, self.rows = search, rows

    def find(self, z: Tensor, k: int, own: Tensor | None) -> Tensor:
        """Positions (n, k), leaving out each row's own."""
        numbers = z.detach().cpu().numpy()
        if own is None or not bool((own >= 0).any()):
            return torch.as_tensor(self.search(numbers, k).copy(), device=z.device)
        found = torch.as_tensor(self.search(numbers, min(k + 1, len(self.rows))).copy(), device=z.device)
        mine = found == own[:, None]
        none = ~mine.any(1)
        mine[none, -1] = True  # not among them: the last one goes
        if found.shape[1] == k:  # every training row is a neighbour, and there is no other to take
            found = torch.cat([found, found[:, -1:]], 1)
            mine = torch.cat([mine, mine.new_zeros((len(mine), 1))], 1)
        return found[~mine].reshape(len(z), k)


class OrderStatistics(Layer):
    r"""y = A(x) Σ_r w_r max(m_r, d_(r)) + b: a weighted sum of the distances to the nearest training rows.

    d_(r) is the r-th smallest distance. Relevance: :math:`R_i = A\sum_r w_r\,
    d_{(r)}\,\delta_{ri}^2/\lVert\delta_r\rVert^2`; a neighbour at distance zero carries nothing. With floors m (the
    reach of a local outlier factor) the larger one is shared in the same way, and a gate A, made of constants of the
    training set, is passed as it is.

    Parameters
    ----------
    rows : NearestRows
    weights : (k,)
    squared : bool
        Whether d is squared.
    floor : (M,), optional
        m_r: a constant of each training row.
    gate : function of neighbours (n, k) to (n,), optional
    extra : float
        Added to the sum, before the gate; base.
    """

    weights: Tensor
    anchors: Tensor

    def __init__(
        self,
        rows: NearestRows,
        weights: Tensor,
        pullback: Pullback,
        squared: bool = False,
        floor: Tensor | None = None,
        gate: Callable[[Tensor], Tensor] | None = None,
        extra: float = 0.0,
    ) -> None:
        super().__init__()
        self.nearest, self.pullback, self.squared = rows, pullback, squared
        self.gate, self.extra = gate, extra
        self.floor: Tensor | None
        if floor is None:
            self.floor = None
        else:
            self.register_buffer("floor", floor)
        self.rules = {"distance": "distance"}
        self.register_buffer("weights", weights)
        self.register_buffer("anchors", rows.rows)

    @property
    def rows(self) -> int:
        """Rows at once."""
        return max(16, min(8192, (1 << 22) // (len(self.weights) * self.anchors.shape[1])))

    def _terms(self, x: Point, own: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found = self.nearest.find(x.z, len(self.weights), own)
        delta = x.z[:, None, :] - self.anchors[found]
        square = delta.square().sum(2)
        # the root of zero has no gradient
        d = square if self.squared else torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)
        if self.floor is not None:
            d = torch.maximum(d, self.floor[found])
        scale = torch.ones_like(d[:, 0]) if self.gate is None else self.gate(found)
        return delta, square, d * self.weights, scale

    def forward(self, x: Point) -> Tensor:
        """Shape (n, 1)."""
        _, _, terms, scale = self._terms(x, None)
        return (scale * (terms.sum(1) + self.extra))[:, None]

    def without(self, x: Point, own: Tensor) -> Tensor:
        """Shape (n, 1)."""
        _, _, terms, scale = self._terms(x, own)
        return (scale * (terms.sum(1) + self.extra))[:, None]

    def run(self, x: Point, ask: Ask) -> Pass:
        """See `Layer.run`."""
        own = ask.own
        delta, square, terms, scale = self._terms(x, None)
        output = (scale * (terms.sum(1) + self.extra))[:, None]
        others = output
        if own is not None and bool((own >= 0).any()):  # explained by the others, as pools do
            delta, square, terms, scale = self._terms(x, own)
            others = (scale * (terms.sum(1) + self.extra))[:, None]
        weight = torch.where(square > 0, scale[:, None] * terms / torch.where(square > 0, square, 1.0), 0.0)
        carried = (weight * square).sum(1, keepdim=True)
        parts = [self.pullback.squares(delta[:, r]) * weight[:, r, None] for r in range(weight.shape[1])]
        shared = torch.stack(parts).sum(0)
        none = (carried <= 0).squeeze(1)
        notes = {"no_distance": none}
        if own is not None:
            notes["self_anchor"] = own >= 0
        return Pass(output, carried, lambda c: c * shared, others, {"order statistics": output}, notes)

    def self_index(self, x: Point) -> Tensor:
        """Which training row each row is, −1 for none."""
        nearest = self.nearest.find(x.z, 1, None).squeeze(1)
        gap = (x.z - self.anchors[nearest]).abs().amax(1)
        size = x.z.abs().amax(1) + self.anchors.abs().amax()
        return torch.where(gap <= 64 * torch.finfo(x.z.dtype).eps * size, nearest, -1)

    def training_rows(self) -> Tensor:
        """The rows that distances are measured to."""
        return self.anchors


class ClassOrderStatistics(Layer):
    r"""The contrast f_ab = d_(m)^b − d_(m)^a: the m-th nearest row of class a against that of class b.

    Squared distances. With an odd number k of neighbours and two classes, m = (k + 1)/2 makes f > 0 exactly where the
    vote goes to a: the ball through the m-th row of a then holds fewer than m rows of b. In general m = min(v_a, v_b) +
    1 with the votes v of the k nearest rows, a gate: of the class with more votes that row lies inside the ball, of the
    other one outside. A class with fewer rows than that is represented by the k-th nearest row of all.

    Relevance: :math:`(z-u_b)_i^2 - (z-u_a)_i^2` of the two rows, which sums to f. Where a vote is a tie the library
    gives the first of the classes and the contrast decides by distance; the annotation ``tie`` says so.

    Bley et al. (arXiv 2508.03913, 2025) for two classes; the rest is derived here.
    """

    anchors: Tensor

    def __init__(self, rows: NearestRows, labels: Tensor, n_classes: int, k: int, pullback: Pullback) -> None:
        super().__init__()
        self.nearest, self.pullback, self.k = rows, pullback, k
        self.labels, self.n_classes = labels, n_classes
        self.units = n_classes if n_classes > 2 else 1
        self.rules = {"neighbours": "neighbours"}
        self.register_buffer("anchors", rows.rows)
        self.counts = torch.bincount(labels, minlength=n_classes)
        self.members = [torch.nonzero(labels == c).squeeze(1) for c in range(n_classes)]

    @property
    def rows(self) -> int:
        """Rows at once."""
        return max(16, min(4096, (1 << 21) // len(self.anchors)))

    def _pairs(self, x: Point) -> tuple[Tensor, Tensor, Tensor]:
        """For every unit the anchors of rival and own class, (n, U) each, and whether the vote is a tie."""
        z = x.z.detach()
        d = torch.cdist(z, self.anchors, compute_mode="donot_use_mm_for_euclid_dist")
        near = self.nearest.find(z, self.k, None)
        votes = torch.stack([(self.labels[near] == c).sum(1) for c in range(self.n_classes)], 1)
        ranked = []
        for rows in self.members:
            top = torch.topk(d[:, rows], min(self.k + 1, len(rows)), largest=False).indices
            ranked.append(rows[top])
        last = near[:, -1]
        first = votes.sort(1, descending=True).values
        tie = first[:, 0] == first[:, 1]

        def anchor(c: int, m: Tensor) -> Tensor:
            have = ranked[c].shape[1]
            picked = ranked[c].gather(1, (m.clamp_max(have) - 1)[:, None]).squeeze(1)
            return torch.where(m > have, last, picked)

        if self.n_classes == 2:
            m = torch.full_like(last, (self.k + 1) // 2) if self.k % 2 else votes.amin(1) + 1
            return anchor(0, m)[:, None], anchor(1, m)[:, None], tie
        rivals, owns = [], []
        for a in range(self.n_classes):
            best = torch.full_like(d[:, 0], math.inf)
            rival, own = torch.zeros_like(last), torch.zeros_like(last)
            for b in range(self.n_classes):
                if a == b:
                    continue
                m = torch.minimum(votes[:, a], votes[:, b]) + 1
                u, v = anchor(b, m), anchor(a, m)
                gap = d.gather(1, u[:, None]).square() - d.gather(1, v[:, None]).square()
                better = gap.squeeze(1) < best
                best = torch.where(better, gap.squeeze(1), best)
                rival, own = torch.where(better, u, rival), torch.where(better, v, own)
            rivals.append(rival)
            owns.append(own)
        return torch.stack(rivals, 1), torch.stack(owns, 1), tie

    def forward(self, x: Point) -> Tensor:
        """Shape (n, U)."""
        rival, mine, _ = self._pairs(x)
        z = x.z[:, None, :]
        return (z - self.anchors[rival]).square().sum(2) - (z - self.anchors[mine]).square().sum(2)

    def run(self, x: Point, ask: Ask) -> Pass:
        """See `Layer.run`."""
        rival, mine, tie = self._pairs(x)
        z = x.z[:, None, :]
        far, near = z - self.anchors[rival], z - self.anchors[mine]
        output = far.square().sum(2) - near.square().sum(2)

        def back(c: Tensor) -> Tensor:
            out = x.z.new_zeros((len(x), self.pullback.n_columns))
            for u in range(self.units):
                out += c[:, u, None] * (self.pullback.squares(far[:, u]) - self.pullback.squares(near[:, u]))
            return out

        return Pass(output, output, back, output, {"order statistics": output}, {"tie": tie})
