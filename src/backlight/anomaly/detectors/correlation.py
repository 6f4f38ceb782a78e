r"""A member: values that do not fit together, by the correlations of the reference rows.

Score: the squared Mahalanobis distance with the shrunk covariance :math:`\Sigma=(1-a)S+a\mu I` of Ledoit and Wolf
(2004). Evidence: :math:`(P\delta)_j^2/P_{jj}`, what the best replacement of column j alone takes off the distance
(reconstruction-based contribution; Alcala and Qin, Automatica 45, 2009), for a column of several coordinates their
sum. A reference row is judged without itself: with :math:`\Sigma'=(1-a)\frac{m}{m-1}S+a\mu I` and
:math:`c=(1-a)\frac{m}{(m-1)^2}` its own covariance is :math:`\Sigma'-c\,\delta\delta^\top`, whose inverse is known
(Sherman and Morrison, 1950). The singular values of the centred rows give all of it, so that there may be more
columns than rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from backlight.anomaly.detectors.base import MemberKind, Reference, register_member

__all__ = ["Correlation", "fit_correlation"]


_LEAST_VARIANCE = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Correlation:
    r"""Inverses :math:`(I-V\operatorname{diag}(w)V^\top)/\lambda` of the covariances of all rows and of all but one."""

    mean: np.ndarray
    V: np.ndarray
    whole: tuple[float, np.ndarray]
    reduced: tuple[float, np.ndarray]
    c: float
    m: int
    encoder: Any

    def score(self, z: np.ndarray, own: np.ndarray) -> np.ndarray:
        """See `Member.score`."""
        return np.asarray(self._solved(z, own)[0])

    def evidence(self, z: np.ndarray, own: np.ndarray) -> np.ndarray:
        """See `Member.evidence`."""
        _, y, diagonal = self._solved(z, own)
        return np.asarray(self.encoder.by_column(np.square(y) / diagonal))

    def _solved(self, z: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The distances (n,), P δ (n, p) and the diagonals of P (n, p)."""
        delta = z - self.mean
        y, diagonal = self._apply(delta, self.whole)
        diagonal = np.broadcast_to(diagonal, z.shape)
        mine = own >= 0
        if mine.any():
            diagonal = diagonal.copy()
            half, base = self._apply(delta[mine], self.reduced)
            left = np.maximum(1 - self.c * (delta[mine] * half).sum(1), 1e-9)[:, None]
            diagonal[mine] = base + self.c * np.square(half) / left
            grown = self.m / (self.m - 1)
            y[mine], delta[mine] = half / left * grown, delta[mine] * grown
        return (delta * y).sum(1), y, diagonal

    def _apply(self, delta: np.ndarray, inverse: tuple[float, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        floor, weight = inverse
        y = (delta - (delta @ self.V) * weight @ self.V.T) / floor
        return y, (1 - np.square(self.V) @ weight) / floor


def _widened(centred: np.ndarray) -> np.ndarray:
    """Rows with two more for every coordinate that varies little, which bring its variance up to `_LEAST_VARIANCE`.

    A level that few rows have is rare, and the other members say so; it is not many deviations away.
    """
    m = len(centred)
    lacking = _LEAST_VARIANCE - np.square(centred).mean(0)
    few = np.flatnonzero(lacking > 0)
    more = np.zeros((2 * len(few), centred.shape[1]))
    more[np.arange(len(few)), few] = np.sqrt(m * lacking[few] / 2)
    more[len(few) + np.arange(len(few)), few] = -np.sqrt(m * lacking[few] / 2)
    return np.concatenate([centred, more])


def _shrinkage(centred: np.ndarray, gram: np.ndarray) -> float:
    """Ledoit's and Wolf's a, from row norms and either Gram matrix: nothing of the size of p² where p is large."""
    m, p = centred.shape
    norms = np.square(centred).sum(1)
    mu = float(norms.sum()) / m / p
    squares = float(np.square(gram).sum()) / m**2
    noise = (float(np.square(norms).sum()) / m - squares) / (p * m)
    spread = squares / p - mu**2
    return float(np.clip(noise / spread, 1e-6, 1.0)) if spread > 1e-12 * mu**2 else 1.0


def fit_correlation(reference: Reference) -> Correlation:
    """Fit the member; the first look at a table uses it as well."""
    z = reference.z
    m, p = z.shape
    mean = z.mean(0)
    centred = _widened(z - mean)
    # m·S and its trace, from the singular values; directions with none have the floor alone.
    gram = centred.T @ centred if p <= m else centred @ centred.T
    shrinkage = _shrinkage(centred, gram)
    sizes, vectors = np.linalg.eigh(gram)
    kept = sizes > 1e-12 * max(sizes[-1], 1e-300)
    sizes, vectors = sizes[kept], vectors[:, kept]
    V = vectors if p <= m else centred.T @ vectors / np.sqrt(sizes)
    floor = shrinkage * max(float(sizes.sum()) / m / p, 1e-12)

    def inverse(scale: float) -> tuple[float, np.ndarray]:
        own = (1 - shrinkage) * sizes * scale
        return floor, own / (own + floor)

    c = (1 - shrinkage) * m / (m - 1) ** 2
    return Correlation(mean, V, inverse(1 / m), inverse(1 / (m - 1)), c, m, reference.encoder)


register_member(MemberKind("correlation", "values that do not fit together", fit_correlation))
