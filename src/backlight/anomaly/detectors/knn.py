"""Distance to the fifth nearest row."""

from typing import Any

from backlight.anomaly.detectors.base import Detector, register
from backlight.anomaly.detectors.single import encoded


def _knn(n: int, _: int) -> Any:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=min(5, n - 1))


register(Detector("knn", "distance to the fifth nearest row", encoded(_knn)))
