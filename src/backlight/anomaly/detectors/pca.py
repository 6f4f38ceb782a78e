"""Reconstruction error of principal components with 90 % of the variance."""

from typing import Any

from backlight.anomaly.detectors.base import Detector, register
from backlight.anomaly.detectors.network import encoded


def _pca(*_: int) -> Any:
    from sklearn.decomposition import PCA

    return PCA(n_components=0.9, svd_solver="full")


register(Detector("pca", "reconstruction error of principal components with 90 % of the variance", encoded(_pca)))
