r"""A member: how rare each value is by itself, in its own column.

Score: :math:`\sum_j \log\max p_j-\log p_j(z_j)`, with a kernel density for numbers and shares for categories and
missing cells, all without the row itself; evidence: its terms. It knows nothing of how columns go together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from backlight.anomaly.detectors.base import MemberKind, Reference, register_member

__all__ = ["Marginal"]

_GRID = 400
_CHUNK_ENTRIES = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class _Curve:
    """Sums of kernels at reference values u: on a grid, and one by one where a value stands alone."""

    u: np.ndarray
    h: float
    places: np.ndarray
    sums: np.ndarray
    most: float

    def surprise(self, x: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Log of the largest density over the density at x, without the row itself."""
        total = np.interp(x, self.places, self.sums, left=0.0, right=0.0)
        left = total - (own >= 0)
        out = np.empty(len(x))
        clear = left > 3.0
        out[clear] = -np.log(left[clear])
        lonely = np.flatnonzero(~clear)
        for start in range(0, len(lonely), max(1, _CHUNK_ENTRIES // len(self.u))):
            rows = lonely[start : start + max(1, _CHUNK_ENTRIES // len(self.u))]
            exponents = -np.square(x[rows, None] - self.u) / (2 * self.h**2)
            mine = np.flatnonzero(own[rows] >= 0)
            exponents[mine, own[rows][mine]] = -np.inf
            most = exponents.max(1)
            out[rows] = -(most + np.log(np.exp(exponents - most[:, None]).sum(1)))
        return np.asarray(np.maximum(np.log(self.most) + out, 0.0))


@dataclass(frozen=True, slots=True, eq=False)
class Marginal:
    """See the module: a curve a number, counts a category, and counts of missing cells."""

    encoder: Any
    curves: tuple[_Curve | None, ...]
    counts: tuple[np.ndarray, ...]
    gaps: tuple[int, ...]
    m: int

    def score(self, z: np.ndarray, own: np.ndarray) -> np.ndarray:
        """See `Member.score`."""
        return np.asarray(self.evidence(z, own).sum(1))

    def evidence(self, z: np.ndarray, own: np.ndarray) -> np.ndarray:
        """See `Member.evidence`."""
        out = np.zeros((len(z), self.encoder.d))
        at = 0
        mine = (own >= 0).astype(float)
        for j, (curve, size, gap) in enumerate(zip(self.curves, self.encoder.sizes, self.encoder.gaps, strict=True)):
            width = size or 1
            missing = z[:, at + width] > 0 if gap else np.zeros(len(z), dtype=bool)
            if curve is not None:
                out[:, j] = curve.surprise(z[:, at], own)
            else:
                counts = self.counts[j]
                here = z[:, at : at + width] @ counts
                out[:, j] = np.log(counts.max() + 0.5) - np.log(np.maximum(here - mine, 0.0) + 0.5)
            if gap:
                count = self.gaps[j]
                rare = np.log(max(count, self.m - count) + 0.5) - np.log(np.maximum(count - mine, 0.0) + 0.5)
                out[missing, j] = rare[missing]
                at += 1
            at += width
        return out


def _curve(values: np.ndarray) -> _Curve:
    u = np.sort(values)
    inner = np.subtract(*np.quantile(u, [0.75, 0.25])) / 1.349
    spread = min(float(u.std()), inner) if inner > 0 else float(u.std())
    h = max(1.1 * spread * len(u) ** -0.2, 0.05)
    places = np.linspace(u[0] - 3 * h, u[-1] + 3 * h, _GRID)
    # the grid may be coarser than the kernel where one value is far away: kernels are then counted one by one
    if places[1] - places[0] > h / 4:
        places = np.unique(np.concatenate([u, u - h, u + h, np.linspace(u[0] - 3 * h, u[-1] + 3 * h, _GRID)]))
    sums = np.empty(len(places))
    step = max(1, _CHUNK_ENTRIES // len(u))
    for start in range(0, len(places), step):
        part = slice(start, start + step)
        sums[part] = np.exp(-np.square(places[part, None] - u) / (2 * h * h)).sum(1)
    return _Curve(values, h, places, sums, float(sums.max()))


def _fit(reference: Reference) -> Marginal:
    encoder, z = reference.encoder, reference.z
    curves: list[_Curve | None] = []
    counts, gaps = [], []
    at = 0
    for size, gap in zip(encoder.sizes, encoder.gaps, strict=True):
        width = size or 1
        curves.append(None if size else _curve(z[:, at]))
        counts.append(z[:, at : at + width].sum(0))
        gaps.append(int(z[:, at + width].sum()) if gap else 0)
        at += width + bool(gap)
    return Marginal(encoder, tuple(curves), tuple(counts), tuple(gaps), len(z))


register_member(MemberKind("marginal", "each value by itself", _fit))
