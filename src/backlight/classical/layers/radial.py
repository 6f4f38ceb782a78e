r"""Functions of the distance to each of many anchors, where there is no shorter way: `Radial`.

Distances. With many anchors and a profile that forgives rounding, squared distances are expanded into one matrix
product of centred numbers, as in `softmin_distance`. That loses digits where a row is close to
an anchor in comparison with how far both are from the centre: the error of d is a few roundings of
:math:`S = \lVert z\rVert^2 + \lVert u\rVert^2`. Pairs with d < θ S are therefore computed again from their differences;
the relative error of all others is below a few ε/θ. A *concave* profile ψ with ψ(0) = 0 passes it on no larger than it
is, since :math:`\psi'(d)\, d \le \psi(d)`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backlight.classical.functions import same
from backlight.classical.layers.base import EncodedRows, ForwardPass, Layer, Query
from backlight.classical.layers.leave_one_out import Selves
from backlight.classical.layers.pullback import Pullback

__all__ = ["Radial"]

# Explicit differences are formed for at most this many numbers at once (32 MiB of doubles).
_PAIR_ENTRIES = 1 << 22
# A few blocks of this many doubles, half a MiB each, stay in a core's cache.
_CHUNK_ENTRIES = 1 << 16
# How many roundings of what they add up to the matrix products may lose.
_CANCELLATION = 1e3
# Terms below this share of a row's largest one cannot change a double.
_NEGLIGIBLE = 1e-20
# θ of the module's text: 8 ε/θ is 2e-12.
_CLOSE = 1e-3
# A row with more close anchors than this share of all has no use for the expansion.
_CROWDED = 1 / 16
# With fewer anchors or columns, explicit differences are as fast.
_MANY, _WIDE = 64, 4


class Radial(Layer):
    r"""h_j = ψ(d_j) ≥ 0, one unit for each anchor, with d a squared Euclidean or a city-block distance.

    Relevance of a unit goes to features in proportion to their share of the distance, :math:`\delta_i^2/d` or
    :math:`|\delta_i|/d` (Euler's identity for a function of degree 2 or 1).

    Parameters
    ----------
    anchors : (M, K)
    profile : function ψ of d, with ψ(0) = 0; infinite outside a kernel's support
    metric : {"sqeuclidean", "cityblock"}
    training : bool
        Whether the anchors are rows of the training set, which a row of the table can be.
    concave : bool
        Whether ψ is finite and concave, so that it never enlarges the relative error of a distance.
    """

    anchors: Tensor
    center: Tensor
    columns: Tensor
    keys: Tensor
    payload: Tensor

    def __init__(
        self,
        anchors: Tensor,
        pullback: Pullback,
        profile: Callable[[Tensor], Tensor] = same,
        metric: str = "sqeuclidean",
        training: bool = False,
        concave: bool = False,
    ) -> None:
        super().__init__()
        self.pullback, self.profile, self.metric, self.units = pullback, profile, metric, len(anchors)
        self.concave = concave
        squares = metric == "sqeuclidean"
        self.expands = squares and concave and len(anchors) >= _MANY and anchors.shape[1] >= _WIDE
        self.rules = {"distance": "distance"}
        self.register_buffer("anchors", anchors)
        self.register_buffer("center", anchors.median(0).values)
        centred = anchors - self.center
        self.selves = Selves(centred, self.center) if training else None
        if metric == "cityblock":
            self.register_buffer("columns", anchors.T.contiguous())
            return
        squared = centred.square().sum(1)
        self.radius = float(squared.max())
        self.register_buffer("payload", torch.cat([centred, pullback.carried(centred)], 1))
        if self.expands:  # ‖z − u‖² = [z, ‖z‖², 1] · [−2u, 1, ‖u‖²]
            keys = torch.cat([-2 * centred, torch.ones_like(squared)[:, None], squared[:, None]], 1)
            self.register_buffer("keys", keys.T.contiguous())

    @property
    def rows(self) -> int:
        """Rows at once."""
        return max(32, min(8192, _CHUNK_ENTRIES // self.units))

    def distances(self, z: Tensor) -> Tensor:
        """d, shape (n, M)."""
        if self.metric == "cityblock":
            return torch.cdist(z, self.anchors, p=1)
        # In single precision the expansion would leave too few digits to share.
        if self.expands and z.dtype == torch.float64:
            return self._expanded(z)
        return torch.cdist(z, self.anchors, compute_mode="donot_use_mm_for_euclid_dist").square()

    def _expanded(self, z: Tensor) -> Tensor:
        centred = z - self.center
        norm = centred.square().sum(1, keepdim=True)
        d = torch.cat([centred, norm, torch.ones_like(norm)], 1) @ self.keys
        limit = _CLOSE * (norm.detach() + self.radius)
        some = torch.nonzero(d.detach().amin(1, keepdim=True) < limit)[:, 0]
        if not len(some):
            return d
        close = d.detach()[some] < limit[some]
        crowded = close.sum(1) > _CROWDED * self.units
        row, anchor = torch.nonzero(close & ~crowded[:, None], as_tuple=True)
        row, whole = some[row], some[crowded]
        d = d.index_put((row, anchor), (z[row] - self.anchors[anchor]).square().sum(1))
        if len(whole):
            differences = torch.cdist(z[whole], self.anchors, compute_mode="donot_use_mm_for_euclid_dist").square()
            d = d.index_put((whole,), differences)
        return d

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, M)."""
        return self.profile(self.distances(x.z))

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        d = self.distances(x.z)
        h = self.profile(d)
        finite = h if self.concave else torch.where(torch.isfinite(h), h, 0.0)

        def back(c: Tensor) -> Tensor:
            relevance = c * finite
            if self.profile is same:
                return self.share(x.z, c, relevance)
            apart = d if bool(d.amin() > 0) else d.clamp_min(torch.finfo(d.dtype).tiny)
            return self.share(x.z, relevance / apart, relevance)  # where d is zero, so is the relevance

        return ForwardPass(h, finite, back, h, {"distance": finite})

    def share(self, z: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
        """Σ_j w_j · shares of d_j, (n, columns); ``relevance`` is w_j d_j."""
        if self.metric == "cityblock":
            return self._explicit(z, weight, relevance) if self.pullback.into is not None else self._absolute(z, weight)
        centred = z - self.center
        wu, wv = (weight @ self.payload).tensor_split((z.shape[1],), 1)
        total, size = weight.sum(1), relevance.sum(1)
        out = self.pullback.share(centred, total, wu, wv)
        # Rows near their anchors lose digits in the products above: they are done again from differences.
        if bool(weight.amin() < 0 < weight.amax()):
            total, size = weight.abs().sum(1), relevance.abs().sum(1)
        error = 8 * total.abs() * (centred.square().sum(1) + self.radius)
        rough = ~(error <= _CANCELLATION * size.abs())
        if bool(rough.any()):
            out[rough] = self._explicit(z[rough], weight[rough], relevance[rough])
        return out

    def _absolute(self, z: Tensor, weight: Tensor) -> Tensor:
        """Σ_j w_j |z − u_j|, one feature after the other for as many rows as the cache holds."""
        out = torch.empty_like(z.T)
        for start in range(0, len(z), self.rows):
            rows = slice(start, start + self.rows)
            here, gap = weight[rows], torch.empty_like(weight[rows])
            for k, column in enumerate(self.columns):
                torch.sub(z[rows, k, None], column, out=gap)
                out[k, rows] = gap.abs_().mul_(here).sum(1)
        return self.pullback.columns(out.T)

    def _explicit(self, z: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
        """The same from all differences, leaving out anchors whose term has no size."""
        out = z.new_zeros((len(z), self.pullback.n_columns))
        size = relevance.abs()
        row, anchor = torch.nonzero(size > _NEGLIGIBLE * size.amax(1, keepdim=True), as_tuple=True)
        step = max(1, _PAIR_ENTRIES // max(1, z.shape[1]))
        for start in range(0, len(row), step):
            r, a = row[start : start + step], anchor[start : start + step]
            delta = z[r] - self.anchors[a]
            gradient = delta.sign() if self.metric == "cityblock" else delta
            out.index_add_(0, r, self.pullback.pair(delta, gradient) * weight[r, a, None])
        return out

    def self_index(self, x: EncodedRows) -> Tensor:
        """Which anchor each row is, −1 for none."""
        if self.selves is None:
            return super().self_index(x)
        return self.selves.find(x.z - self.center, self.anchors - self.center)

    def training_rows(self) -> Tensor | None:
        """The anchors, where they are training rows."""
        return None if self.selves is None else self.anchors
