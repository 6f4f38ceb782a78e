r"""Order statistics of the distances to training rows: nearest neighbours, local outlier factors, votes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.classical.layers.base import EncodedRows, ForwardPass, Layer, Query
from backlight.classical.layers.pullback import Pullback

__all__ = ["ClassOrderStatistics", "NearestRows", "OrderStatistics", "VotingRows"]

# A few blocks of this many doubles stay in a core's cache.
_CHUNK_ENTRIES = 1 << 16
# So many more rows than needed are searched for, to be put in order by their differences.
_SPARE = 3


@dataclass(frozen=True, slots=True, eq=False)
class BruteForce:
    """The k nearest of some rows, by all distances; of several at one distance those that come first."""

    rows: np.ndarray
    city: bool

    def __call__(self, z: np.ndarray, k: int) -> np.ndarray:
        """Positions (n, k), nearest first."""
        from scipy.spatial.distance import cdist

        metric = "cityblock" if self.city else "sqeuclidean"
        blocks = [z[start : start + 256] for start in range(0, max(1, len(z)), 256)]
        found = [np.argsort(cdist(block, self.rows, metric), axis=1, kind="stable")[:, :k] for block in blocks]
        return np.concatenate(found)


class NearestRows:
    """The k nearest training rows, as the library's own search finds them: which ones is a gate, not a function.

    Parameters
    ----------
    search : function of rows (n, K) and a number k
        Positions of the k nearest training rows, nearest first, (n, k).
    rows : (M, K) training rows
    city : bool
        Whether distances are sums of absolute differences, not roots of sums of squares.
    """

    def __init__(self, search: Callable[[np.ndarray, int], np.ndarray], rows: Tensor, city: bool = False) -> None:
        self.search, self.rows, self.city = search, rows, city

    @property
    def kept_instead(self) -> dict[str, Any]:
        """In a file, where the library's search has no place: `BruteForce`."""
        return {"search": BruteForce(self.rows.cpu().numpy(), self.city)}

    def gradient(self, delta: Tensor) -> Tensor:
        """What makes δ · gradient the city-block distance or the squared Euclidean one."""
        return delta.sign() if self.city else delta

    def size(self, delta: Tensor) -> Tensor:
        """That distance, of differences (…, K)."""
        return delta.abs().sum(-1) if self.city else delta.square().sum(-1)

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
    d_{(r)}\,\delta_{ri}^2/\lVert\delta_r\rVert^2`, of city-block distances :math:`|\delta_{ri}|`; a neighbour at
    distance zero carries nothing. With floors m (the reach of a local outlier factor) the larger one is shared in the
    same way, and a gate A, made of constants of the training set, is passed as it is.

    Parameters
    ----------
    rows : NearestRows
    weights : (k,)
    squared : bool
        Whether d is squared, where it is Euclidean.
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

    def _blocks(self, z: Tensor, found: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """For as many rows as the cache holds: output, differences, their sizes, terms, and the gate."""
        step = max(1, _CHUNK_ENTRIES // (found.shape[1] * z.shape[1]))
        for rows, near in zip(torch.split(z, step), torch.split(found, step), strict=True):
            delta = rows[:, None, :] - self.anchors[near]
            size = self.nearest.size(delta)
            d = size
            if not (self.squared or self.nearest.city):  # the root of zero has no gradient
                d = torch.where(size > 0, torch.where(size > 0, size, 1.0).sqrt(), 0.0)
            if self.floor is not None:
                d = torch.maximum(d, self.floor[near])
            scale = torch.ones_like(d[:, 0]) if self.gate is None else self.gate(near)
            terms = d * self.weights
            yield scale * (terms.sum(1) + self.extra), delta, size, terms, scale

    def _output(self, z: Tensor, own: Tensor | None) -> Tensor:
        found = self.nearest.find(z, len(self.weights), own)
        return torch.cat([block[0] for block in self._blocks(z, found)])[:, None]

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, 1)."""
        return self._output(x.z, None)

    def without(self, x: EncodedRows, own: Tensor) -> Tensor:
        """Shape (n, 1)."""
        return self._output(x.z, own)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        own = ask.own if ask.own is not None and bool((ask.own >= 0).any()) else None
        found = self.nearest.find(x.z, len(self.weights), own)  # a row is explained by the others, as pools do
        parts = []
        for value, delta, size, terms, scale in self._blocks(x.z, found):
            weight = torch.where(size > 0, scale[:, None] * terms / torch.where(size > 0, size, 1.0), 0.0)
            shares = self.pullback.sum_of_pairs(delta, self.nearest.gradient(delta), weight)
            parts.append((value, (weight * size).sum(1), shares))
        value, carried, shared = (torch.cat(part) for part in zip(*parts, strict=True))
        others = value[:, None]
        output = others if own is None else self._output(x.z, None)
        notes = {"no_distance": carried <= 0}
        if ask.own is not None:
            notes["self_anchor"] = ask.own >= 0
        flow = {"order statistics": output}
        return ForwardPass(output, carried[:, None], lambda c: c * shared, others, flow, notes)

    @property
    def made_of(self) -> Mapping[str, int]:
        """The nearest rows, nearest first."""
        return {"neighbours": len(self.weights)}

    def inside(self, name: str, x: EncodedRows, ask: Query) -> Callable[[Tensor], Tensor]:
        """See `Layer.inside`."""
        own = ask.own if ask.own is not None and bool((ask.own >= 0).any()) else None
        blocks = self._blocks(x.z, self.nearest.find(x.z, len(self.weights), own))
        parts = torch.cat([torch.where(size > 0, scale[:, None] * terms, 0.0) for _, _, size, terms, scale in blocks])
        return lambda c: c * parts

    def self_index(self, x: EncodedRows) -> Tensor:
        """Which training row each row is, −1 for none."""
        nearest = self.nearest.find(x.z, 1, None).squeeze(1)
        gap = (x.z - self.anchors[nearest]).abs().amax(1)
        size = x.z.abs().amax(1) + self.anchors.abs().amax()
        return torch.where(gap <= 64 * torch.finfo(x.z.dtype).eps * size, nearest, -1)

    def training_rows(self) -> Tensor:
        """The rows that distances are measured to."""
        return self.anchors


class VotingRows(Layer):
    """Training rows of several classes that vote by nearness: what layers that contrast or count votes hold.

    Parameters
    ----------
    rows : NearestRows
        The library's own search among all rows, which votes.
    by_class : sequence of NearestRows
        A search among the rows of each class, in the order of ``labels``.
    labels : (M,) tensor of int
    k : int
    """

    anchors: Tensor

    def __init__(
        self, rows: NearestRows, by_class: Sequence[NearestRows], labels: Tensor, k: int, pullback: Pullback
    ) -> None:
        super().__init__()
        self.nearest, self.by_class, self.pullback, self.k = rows, by_class, pullback, k
        self.labels, self.n_classes = labels, len(by_class)
        self.units = self.n_classes if self.n_classes > 2 else 1
        self.rules = {"neighbours": "neighbours"}
        self.register_buffer("anchors", rows.rows)
        self.members = [torch.nonzero(labels == c).squeeze(1) for c in range(self.n_classes)]


class ClassOrderStatistics(VotingRows):
    r"""The contrast f_ab = d_(m)^b − d_(m)^a: the m-th nearest row of class a against that of class b.

    Squared distances, or city-block ones. With an odd number k of neighbours and two classes, m = (k + 1)/2 makes f > 0
    exactly where the vote goes to a: the ball through the m-th row of a then holds fewer than m rows of b. In general
    m = min(v_a, v_b) + 1 with the votes v of the k nearest rows, a gate: of the class with more votes that row lies
    inside the ball, of the other one outside. A class with fewer rows than that is represented by the k-th nearest row
    of all.

    Relevance: :math:`(z-u_b)_i^2 - (z-u_a)_i^2` of the two rows, which sums to f. Where a vote is a tie the library
    gives the first of the classes and the contrast decides by distance; the annotation ``tie`` says so.

    Bley et al. (arXiv 2508.03913, 2025) for two classes; the rest is derived here.
    """

    @property
    def rows(self) -> int:
        """Rows at once."""
        return max(16, min(8192, (1 << 21) // ((self.k + _SPARE) * self.anchors.shape[1])))

    def _ranked(self, z: Tensor, c: int, m: int) -> tuple[Tensor, Tensor]:
        """Positions and squared distances of the m nearest rows of class c, nearest first, or of all it has.

        A few more are searched for and all are put in order by their differences: a fast search orders what is
        nearly as near by rounding.
        """
        have = len(self.members[c])
        found = self.members[c][self.by_class[c].find(z, min(m + _SPARE, have), None)]
        d = self.nearest.size(z[:, None] - self.anchors[found])
        d, order = torch.sort(d, dim=1, stable=True)
        return found.gather(1, order)[:, :m], d[:, :m]

    def _pairs(self, x: EncodedRows) -> tuple[Tensor, Tensor, Tensor]:
        """For every unit the anchors of rival and own class, (n, U) each, and whether the vote is a tie."""
        z, k, C = x.z.detach(), self.k, self.n_classes
        if C == 2 and k % 2 and min(len(rows) for rows in self.members) > k // 2:  # no vote is asked
            first, second = (self._ranked(z, c, k // 2 + 1)[0][:, -1:] for c in (0, 1))
            return first, second, torch.zeros_like(first[:, 0], dtype=torch.bool)
        near = self.nearest.find(z, k, None)
        votes = torch.stack([(self.labels[near] == c).sum(1) for c in range(C)], 1)
        ranked = [self._ranked(z, c, k // 2 + 1) for c in range(C)]
        last = near[:, -1]
        last_d = self.nearest.size(z - self.anchors[last])
        most = votes.sort(1, descending=True).values
        tie = most[:, 0] == most[:, 1]

        def m_th(c: int, m: Tensor) -> tuple[Tensor, Tensor]:
            found, d = ranked[c]
            at, there = (m.clamp_max(found.shape[1]) - 1)[:, None], m <= found.shape[1]
            position = torch.where(there, found.gather(1, at)[:, 0], last)
            return position, torch.where(there, d.gather(1, at)[:, 0], last_d)

        if C == 2:
            m = torch.full_like(last, k // 2 + 1) if k % 2 else votes.amin(1) + 1
            return m_th(0, m)[0][:, None], m_th(1, m)[0][:, None], tie
        rivals, owns = [], []
        for a in range(C):
            best = torch.full_like(last_d, math.inf)
            rival, own = torch.zeros_like(last), torch.zeros_like(last)
            for b in range(C):
                if a == b:
                    continue
                m = torch.minimum(votes[:, a], votes[:, b]) + 1
                (u, far), (v, close) = m_th(b, m), m_th(a, m)
                better = far - close < best
                best = torch.where(better, far - close, best)
                rival, own = torch.where(better, u, rival), torch.where(better, v, own)
            rivals.append(rival)
            owns.append(own)
        return torch.stack(rivals, 1), torch.stack(owns, 1), tie

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        rival, mine, _ = self._pairs(x)
        z = x.z[:, None, :]
        return self.nearest.size(z - self.anchors[rival]) - self.nearest.size(z - self.anchors[mine])

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        rival, mine, tie = self._pairs(x)
        z = x.z[:, None, :]
        far, near = z - self.anchors[rival], z - self.anchors[mine]
        output = self.nearest.size(far) - self.nearest.size(near)

        def back(c: Tensor) -> Tensor:
            both = torch.cat([far, near], 1)
            return self.pullback.sum_of_pairs(both, self.nearest.gradient(both), torch.cat([c, -c], 1))

        return ForwardPass(output, output, back, output, {"order statistics": output}, {"tie": tie})

    @property
    def made_of(self) -> Mapping[str, int]:
        """For every unit the rival's row, then for every unit its own class's."""
        return {"neighbours": 2 * self.units}

    def inside(self, name: str, x: EncodedRows, ask: Query) -> Callable[[Tensor], Tensor]:
        """See `Layer.inside`."""
        rival, mine, _ = self._pairs(x)
        z = x.z[:, None, :]
        far, near = (self.nearest.size(z - self.anchors[rows]) for rows in (rival, mine))
        return lambda c: torch.cat([c * far, -c * near], 1)
