"""`KernelClusters`: any labels as a clustering that has a score for new rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin

from backlight.classical.families.svm import dense
from backlight.errors import DataError

__all__ = ["KernelClusters"]


class KernelClusters(ClusterMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    r"""Clusters of any shape, from the labels of any clustering: soft-min distances to the rows of each.

    The distance of a row to cluster c is :math:`o_c = -\log\operatorname{mean}_{j\in c} e^{-\gamma\lVert
    x-u_j\rVert^2}`, in nats, and it is assigned to the nearest: kernel k-means as a network (Kauffmann et al. 2022),
    for labels that another method found (spectral, agglomerative, density-based, by hand). Rows labelled −1 are noise
    and left out.

    Parameters
    ----------
    gamma : float, default 1.0

    Examples
    --------
    >>> from sklearn.cluster import AgglomerativeClustering
    >>> from sklearn.datasets import make_moons
    >>> import backlight
    >>> X, _ = make_moons(200, noise=0.05, random_state=0)
    >>> labels = AgglomerativeClustering(2, linkage="single").fit_predict(X)
    >>> model = KernelClusters(gamma=10).fit(X, labels)
    >>> bool((model.predict(X) == labels).all())
    True
    >>> backlight.explain(model, X[:2]).values.shape
    (2, 2)
    """

    def __init__(self, gamma: float = 1.0) -> None:
        self.gamma = gamma

    def fit(self, X: Any, labels: Any) -> KernelClusters:
        """Keep the rows of each cluster."""
        rows, labels = dense(X), np.asarray(labels)
        if len(rows) != len(labels):
            raise DataError(f"{len(labels)} labels for {len(rows)} rows: give one label a row")
        kept = labels != -1 if np.issubdtype(labels.dtype, np.integer) else np.ones(len(labels), dtype=bool)
        self.labels_, index = np.unique(labels[kept], return_inverse=True)
        if len(self.labels_) < 2:
            raise DataError("there is one cluster only: there is nothing to tell apart")
        self.rows_ = [rows[kept][index == c] for c in range(len(self.labels_))]
        self.n_features_in_ = rows.shape[1]
        names = getattr(X, "columns", None)
        if names is not None and all(isinstance(name, str) for name in names):
            self.feature_names_in_ = np.asarray(names, dtype=object)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Distances to the clusters, (n, clusters), from explicit differences."""
        from scipy.spatial.distance import cdist
        from scipy.special import logsumexp

        z = dense(X)
        far = [-self.gamma * cdist(z, rows, "sqeuclidean") for rows in self.rows_]
        return np.stack([np.log(d.shape[1]) - logsumexp(d, axis=1) for d in far], 1)

    def predict(self, X: Any) -> np.ndarray:
        """The label of the nearest cluster."""
        return np.asarray(self.labels_[self.transform(X).argmin(1)])
