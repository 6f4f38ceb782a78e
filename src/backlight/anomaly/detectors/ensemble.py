r"""Several detectors of different kind, whose opinions are added in bits.

Each member k gives a row a score; among normal rows a score at least as high has probability :math:`q_k`, and
:math:`b_k=-\log_2 q_k` bits are its surprise. The ensemble's score is their mean, and column j contributes
:math:`\frac1K\sum_k b_k\,e_{kj}/\sum_i e_{ki}`, where :math:`e_k\ge 0` is the member's evidence: each member hands
out exactly its surprise, in the proportions of its own explanation. The parts therefore add up to the score; where a
member has a score and no evidence (a row that equals all its neighbours), its surprise belongs to no column and is
base.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backlight.anomaly.detectors.base import (
    MEMBERS,
    Contributions,
    Detector,
    Member,
    Reference,
    register,
)
from backlight.anomaly.encoding import Encoder
from backlight.anomaly.tail import Tail, fit_tail
from backlight.explanation.score_units import ScoreUnit

__all__ = ["BITS", "Ensemble"]

BITS = ScoreUnit(
    "bits",
    "Several detectors judge every row, and the score is their mean surprise: 10 bits mean that, to the average "
    "detector, one normal row in 2¹⁰ ≈ 1,000 is as unusual; each bit more makes it twice as rare.",
)
_CHUNK = 4096
_LEAST_SHAPE = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """See the module."""

    encoder: Encoder
    names: tuple[str, ...]
    fitted: tuple[Member, ...]
    tails: tuple[Tail, ...]
    z: np.ndarray

    @property
    def kind(self) -> str:
        """See `FittedDetector`."""
        return f"ensemble of {len(self.names)} detectors ({', '.join(self.names)})"

    @property
    def unit(self) -> ScoreUnit:
        """See `FittedDetector`."""
        return BITS

    @property
    def method(self) -> str:
        """See `FittedDetector`."""
        return "mean surprise, shared by each member's explanation"

    def score(self, coded: np.ndarray, own: np.ndarray) -> np.ndarray:
        """See `FittedDetector`."""
        out = np.empty(len(coded))
        for start in range(0, len(coded), _CHUNK):
            part = slice(start, start + _CHUNK)
            z = self.encoder(coded[part])
            bits = [tail.bits(m.score(z, own[part])) for m, tail in zip(self.fitted, self.tails, strict=True)]
            out[part] = np.mean(bits, axis=0)
        return out

    def contributions(self, coded: np.ndarray, own: np.ndarray) -> Contributions:
        """See `FittedDetector`."""
        z = self.encoder(coded)
        values = np.zeros((len(coded), self.encoder.d))
        score, base = np.zeros(len(coded)), np.zeros(len(coded))
        named = np.zeros(values.shape, dtype=int)
        weight = 1 / len(self.names)
        for member, tail in zip(self.fitted, self.tails, strict=True):
            bits = weight * tail.bits(member.score(z, own))
            evidence = np.maximum(member.evidence(z, own), 0.0)
            total = evidence.sum(1, keepdims=True)
            shares = np.divide(evidence, total, out=np.zeros_like(evidence), where=total > 0)
            values += bits[:, None] * shares
            base += np.where(total[:, 0] > 0, 0.0, bits)
            score += bits
            most = shares.max(1, keepdims=True)
            named += (shares >= 0.5 * most) & (most > 0)
        return Contributions(values, base, score, self.names, named)

    def embed(self, coded: np.ndarray) -> np.ndarray:
        """See `FittedDetector`."""
        return self.encoder(coded)

    @property
    def own_threshold(self) -> float | None:
        """See `FittedDetector`."""
        return None

    def fingerprint(self) -> str:
        """See `FittedDetector`."""
        digest = hashlib.sha256(" ".join(self.names).encode())
        digest.update(np.ascontiguousarray(self.z).tobytes())
        for tail in self.tails:
            digest.update(np.ascontiguousarray(tail.scores).tobytes())
        return digest.hexdigest()


def fit_ensemble(reference: Reference, names: Sequence[str] | None = None) -> Ensemble:
    """Fit all members, or those named; each one's surprise is that of its own reference rows, each without itself."""
    chosen = [MEMBERS[name] for name in names or MEMBERS]
    own = np.arange(len(reference.z))
    fitted: list[Any] = [kind.fit(reference) for kind in chosen]
    tails = [fit_tail(member.score(reference.z, own), _LEAST_SHAPE) for member in fitted]
    return Ensemble(reference.encoder, tuple(kind.name for kind in chosen), tuple(fitted), tuple(tails), reference.z)


register(Detector("ensemble", "density, local, correlation and marginal detectors together", fit_ensemble, 2000))
