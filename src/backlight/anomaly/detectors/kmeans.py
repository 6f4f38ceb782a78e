"""Squared distance to the nearest of 8 centres."""

from typing import Any

from backlight.anomaly.detectors.base import Detector, register
from backlight.anomaly.detectors.single import encoded


def _kmeans(n: int, _: int) -> Any:
    from sklearn.cluster import KMeans

    return KMeans(max(1, min(8, n // 10)), n_init=3, random_state=0)


register(Detector("kmeans", "squared distance to the nearest of 8 centres", encoded(_kmeans)))
