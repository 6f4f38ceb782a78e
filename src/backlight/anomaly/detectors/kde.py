"""Kernel density: how rare rows like this are."""

from typing import Any

from backlight.anomaly.detectors.base import Detector, register
from backlight.anomaly.detectors.density import scott_bandwidth
from backlight.anomaly.detectors.single import encoded


def _kde(n: int, d: int) -> Any:
    from sklearn.neighbors import KernelDensity

    return KernelDensity(bandwidth=scott_bandwidth(n, d))


register(Detector("kde", "kernel density", encoded(_kde)))
