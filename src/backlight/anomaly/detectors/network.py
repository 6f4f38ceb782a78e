"""Single detectors: an estimator of scikit-learn behind the encoder, and its network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from backlight.anomaly.detectors.base import Contributions, Reference
from backlight.anomaly.encoding import Encoder
from backlight.classical import NeuralizedModel, neuralize
from backlight.explanation import Attribution
from backlight.explanation.score_units import ScoreUnit

__all__ = ["EncodedNetwork", "UserNetwork", "fitted"]

_CHUNK = 20_000


class _Network:
    """What the two share."""

    network: NeuralizedModel

    @property
    def kind(self) -> str:
        """See `FittedDetector`."""
        return self.network.kind

    @property
    def unit(self) -> ScoreUnit:
        """See `FittedDetector`."""
        return self.network.score.unit

    @property
    def method(self) -> str:
        """See `FittedDetector`."""
        rule = self.network.rule("auto")
        return f"lrp ({getattr(rule, 'name', rule)})"

    @property
    def own_threshold(self) -> float | None:
        """See `FittedDetector`."""
        return None

    def _scores(self, z: np.ndarray, own: np.ndarray) -> np.ndarray:
        parts = [
            self.network.score_without_self(torch.as_tensor(z[k : k + _CHUNK]), own[k : k + _CHUNK])
            for k in range(0, len(z), _CHUNK)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _relevance(self, z: np.ndarray, own: np.ndarray) -> Attribution:
        rule = self.network.rule("auto")
        return Attribution.joined([
            self.network.relevance(torch.as_tensor(z[k : k + _CHUNK]), rule, own=own[k : k + _CHUNK])
            for k in range(0, max(len(z), 1), _CHUNK)
        ])  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class UserNetwork(_Network):
    """The network of a model that the user fitted; ``own`` are positions of its anchors."""

    network: NeuralizedModel

    def score(self, coded: np.ndarray, own: np.ndarray) -> np.ndarray:
        """See `FittedDetector`."""
        return self._scores(coded, own)

    def contributions(self, coded: np.ndarray, own: np.ndarray) -> Contributions:
        """See `FittedDetector`."""
        return _contributions(self._relevance(coded, own), lambda values: values)

    def embed(self, coded: np.ndarray) -> np.ndarray:
        """See `FittedDetector`."""
        return self.network.embed(torch.as_tensor(coded))

    def fingerprint(self) -> str:
        """See `FittedDetector`."""
        return self.network.fingerprint()


@dataclass(frozen=True, slots=True, eq=False)
class EncodedNetwork(_Network):
    """A network on encoded rows; ``anchors`` says which anchor each reference row became, −1 for none.

    ``keeps_threshold`` says whether the model's own threshold counts where nobody asks for a rate.
    """

    network: NeuralizedModel
    encoder: Encoder
    anchors: np.ndarray
    keeps_threshold: bool = False

    @property
    def own_threshold(self) -> float | None:
        """See `FittedDetector`."""
        return self.network.threshold if self.keeps_threshold else None

    def score(self, coded: np.ndarray, own: np.ndarray) -> np.ndarray:
        """See `FittedDetector`."""
        return self._scores(self.encoder(coded), self._anchor(own))

    def contributions(self, coded: np.ndarray, own: np.ndarray) -> Contributions:
        """See `FittedDetector`."""
        return _contributions(self._relevance(self.encoder(coded), self._anchor(own)), self.encoder.by_column)

    def embed(self, coded: np.ndarray) -> np.ndarray:
        """See `FittedDetector`."""
        return self.network.embed(torch.as_tensor(self.encoder(coded)))

    def fingerprint(self) -> str:
        """See `FittedDetector`."""
        return hashlib.sha256((self.network.fingerprint() + repr(self.encoder.transforms)).encode()).hexdigest()

    def _anchor(self, own: np.ndarray) -> np.ndarray:
        return np.where(own >= 0, self.anchors[own], -1)


def _contributions(found: Attribution, gather: Callable[[np.ndarray], np.ndarray]) -> Contributions:
    annotations = dict(found.annotations)
    alone = annotations.pop("score_without_self")
    base = found.base_values + alone - found.output
    return Contributions(gather(found.values), base, alone, annotations=annotations)


def fitted(estimator: Any, reference: Reference) -> EncodedNetwork:
    """The network of an estimator that was fitted to a reference's encoded rows."""
    network = neuralize(estimator, score="outlierness")
    return EncodedNetwork(network, reference.encoder, _anchors(estimator, network, len(reference.z)))


def _anchors(estimator: Any, network: NeuralizedModel, m: int) -> np.ndarray:
    rows = network.layer.training_rows()
    if rows is None or (len(rows) != m and not hasattr(estimator, "support_")):
        return np.full(m, -1)
    support = getattr(estimator, "support_", None)
    if support is None or getattr(support, "ndim", 1) != 1 or not hasattr(estimator, "dual_coef_"):
        return np.arange(m)
    out = np.full(m, -1)
    out[support] = np.arange(len(support))
    return out
