r"""Clusters of rows that lie close together, and noise.

With :math:`d_c` the squared distance to the nearest core row of cluster c and :math:`\varepsilon` the reach of one,

.. math::  f_c = \min(\varepsilon^2, \min_{k\ne c} d_k) - d_c, \qquad f_\text{noise} = \min_k d_k - \varepsilon^2,

of which exactly one is positive: a row belongs to the cluster whose core is nearest, if that is within reach, and to
none otherwise. Distances are shared among columns; the reach belongs to none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from backlight.classical.layers.base import EncodedRows, ForwardPass, Layer, Query
from backlight.classical.layers.neighbors import NearestRows
from backlight.classical.layers.pullback import Pullback

__all__ = ["DensityClusters"]


class DensityClusters(Layer):
    """One unit for each cluster, and one for noise.

    Parameters
    ----------
    cores : list of NearestRows
        The core rows of each cluster.
    reach : float
        ε², or ε where distances are city-block.
    pullback : Pullback
    """

    rules = {"distance": "distance"}  # noqa: RUF012 - as in the class above

    def __init__(self, cores: list[NearestRows], reach: float, pullback: Pullback) -> None:
        super().__init__()
        self.cores, self.reach, self.pullback = cores, float(reach), pullback
        self.units = len(cores) + 1

    def _delta(self, z: Tensor) -> Tensor:
        """Differences to the nearest core row of each cluster, (n, C, K)."""
        return torch.stack([z - rows.rows.to(z)[rows.find(z, 1, None)[:, 0]] for rows in self.cores], 1)

    def _units(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (n, C + 1), and how much each distance counts in each of them: (n, C + 1, C)."""
        n, C = d.shape
        counts = d.new_zeros((n, C + 1, C))
        out = d.new_empty((n, C + 1))
        everyone = torch.arange(n, device=d.device)
        for c in range(C):
            others = d.clone()
            others[:, c] = torch.inf
            least, rival = others.min(1)
            within = least < self.reach
            out[:, c] = least.clamp_max(self.reach) - d[:, c]
            counts[everyone, c, rival] += within.to(d)
            counts[:, c, c] -= 1
        least, nearest = d.min(1)
        out[:, C] = least - self.reach
        counts[everyone, C, nearest] = 1.0
        return out, counts

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, C + 1)."""
        return self._units(self.cores[0].size(self._delta(x.z)))[0]

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        delta = self._delta(x.z)
        d = self.cores[0].size(delta)
        output, counts = self._units(d)
        carried = torch.einsum("nuc,nc->nu", counts, d)

        def back(c: Tensor) -> Tensor:
            weight = torch.einsum("nu,nuc->nc", c, counts)
            return self.pullback.sum_of_pairs(delta, self.cores[0].gradient(delta), weight)

        return ForwardPass(output, carried, back, output, {"distances": carried})

    @property
    def made_of(self) -> Mapping[str, int]:
        """The distance to the nearest core row of each cluster."""
        return {"distance": len(self.cores)}

    def inside(self, name: str, x: EncodedRows, ask: Query) -> Callable[[Tensor], Tensor]:
        """See `Layer.inside`."""
        d = self.cores[0].size(self._delta(x.z))
        counts = self._units(d)[1]
        return lambda c: torch.einsum("nu,nuc->nc", c, counts) * d
