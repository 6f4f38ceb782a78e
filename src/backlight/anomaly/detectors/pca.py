"""Reconstruction error of principal components with 90 % of the variance, at least one component left out."""

import numpy as np

from backlight.anomaly.detectors.base import Detector, FittedDetector, Reference, register
from backlight.anomaly.detectors.single import encoded

_KEPT = 0.9


def _fit(reference: Reference) -> FittedDetector:
    from sklearn.decomposition import PCA

    z = reference.z
    variance = np.square(np.linalg.svd(z - z.mean(0), compute_uv=False))
    enough = int(np.searchsorted(np.cumsum(variance), _KEPT * variance.sum())) + 1
    # Columns that do not depend on each other need all components: the last one is left out, or nothing would remain.
    kept = max(1, min(enough, len(variance) - 1))
    return encoded(lambda n, d: PCA(n_components=kept, svd_solver="full"))(reference)


register(Detector("pca", "reconstruction error of principal components with 90 % of the variance", _fit))
