"""Mahalanobis distance with the shrunk covariance of Ledoit and Wolf."""

from typing import Any

from backlight.anomaly.detectors.base import Detector, register
from backlight.anomaly.detectors.single import encoded


def _mahalanobis(*_: int) -> Any:
    from sklearn.covariance import LedoitWolf

    return LedoitWolf()


register(Detector("mahalanobis", "Mahalanobis distance, shrunk covariance", encoded(_mahalanobis)))
