r"""A member: how far the row is from its nearest rows, compared with how far those are from theirs.

Score: the local outlier factor of Breunig et al. (2000) with 20 neighbours, the row itself left out. Evidence: the
relevance of its network, :math:`\sum_r \operatorname{reach}_r\,\delta_{rj}^2/\lVert\delta_r\rVert^2` over the
neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from backlight.anomaly.detectors.base import MemberKind, Reference, register_member

__all__ = ["Local"]

_NEIGHBOURS = 20
_CHUNK = 4096
# Below this reach rows are the same.
_LEAST_REACH = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """See the module.

    Attributes
    ----------
    search : fitted sklearn.neighbors.NearestNeighbors
    reach : array of shape (m,)
        Distance of each reference row to its last neighbour.
    density : array of shape (m,)
        One over the mean reach of each reference row to its neighbours.
    """

    search: Any
    u: np.ndarray
    encoder: Any
    k: int
    reach: np.ndarray
    density: np.ndarray

    def score(self, z: np.ndarray, own: np.ndarray) -> np.ndarray:
        """See `Member.score`."""
        out = np.empty(len(z))
        for start in range(0, len(z), _CHUNK):
            part = slice(start, start + _CHUNK)
            distance, near = _neighbours(self.search, z[part], own[part], self.k)
            out[part] = np.maximum(distance, self.reach[near]).mean(1) * self.density[near].mean(1)
        return out

    def evidence(self, z: np.ndarray, own: np.ndarray) -> np.ndarray:
        """See `Member.evidence`."""
        out = np.empty((len(z), self.encoder.d))
        for start in range(0, len(z), 64):
            part = slice(start, start + 64)
            distance, near = _neighbours(self.search, z[part], own[part], self.k)
            squares = np.square(z[part, None, :] - self.u[near])
            size = squares.sum(2)
            weight = np.where(size > 0, np.maximum(distance, self.reach[near]) / np.where(size > 0, size, 1.0), 0.0)
            out[part] = self.encoder.by_column(np.einsum("nk,nkp->np", weight, squares))
        return out


def _neighbours(search: Any, z: np.ndarray, own: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and positions of the k nearest rows, (n, k), without each row itself."""
    distance, near = search.kneighbors(z, k + 1)
    mine = near == own[:, None]
    mine[~mine.any(1), -1] = True
    shape = (len(z), k)
    return distance[~mine].reshape(shape), near[~mine].reshape(shape)


def _fit(reference: Reference) -> Local:
    from sklearn.neighbors import NearestNeighbors

    u = reference.z
    k = min(_NEIGHBOURS, len(u) - 1)
    search = NearestNeighbors(algorithm="brute").fit(u)
    distance, near = _neighbours(search, u, np.arange(len(u)), k)
    reach = np.maximum(distance[:, -1], _LEAST_REACH)
    density = 1 / np.maximum(distance, reach[near]).mean(1)
    return Local(search, u, reference.encoder, k, reach, density)


register_member(MemberKind("local", "nearest rows", _fit))
