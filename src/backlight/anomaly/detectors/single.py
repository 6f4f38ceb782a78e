"""A detector of its own: an estimator of scikit-learn behind the encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backlight.anomaly.detectors.base import FittedDetector, Reference

__all__ = ["encoded"]


def encoded(make: Callable[[int, int], Any]) -> Callable[[Reference], FittedDetector]:
    """The ``fit`` of a detector, from what makes an unfitted estimator for so many rows and coordinates."""

    def fit(reference: Reference) -> FittedDetector:
        # networks need torch, the ensemble does not: who asks for it alone does not wait for torch
        from backlight.anomaly.detectors.network import fitted

        return fitted(make(*reference.z.shape).fit(reference.z), reference)

    return fit
