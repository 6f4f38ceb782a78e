"""Local outlier factor: sparser than the rows around it."""

from typing import Any

from backlight.anomaly.detectors.base import Detector, register
from backlight.anomaly.detectors.single import encoded


def _lof(n: int, _: int) -> Any:
    from sklearn.neighbors import LocalOutlierFactor

    return LocalOutlierFactor(n_neighbors=min(20, n - 1), novelty=True)


register(Detector("lof", "local outlier factor, 20 neighbours", encoded(_lof)))
