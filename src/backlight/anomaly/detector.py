"""A detector for a table that nobody prepared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backlight.classical import NeuralizedModel, neuralize
from backlight.errors import ArgumentError, DataError, listed
from backlight.tables import Frame, as_frame
from backlight.tables.columns import Column, understand

__all__ = ["DETECTORS", "MIN_ROWS", "Detector", "Prepared", "fit_detector", "prepare"]

MIN_ROWS = 10

# Scott's bandwidth is made for one Gaussian; 1.4 times it found both scattered faults and small clusters of anomalies
# on the tables that this was tried on, while half and twice it each lost one of the two.
_BANDWIDTH = 1.4


@dataclass(frozen=True, slots=True)
class Detector:
    """A model of the family, as a detector for standardised rows.

    Attributes
    ----------
    title : str
        What it is, for people.
    make : function of the numbers of rows and columns to an unfitted estimator, whose score "outlierness" is used
    """

    title: str
    make: Callable[[int, int], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A table as the detector takes it.

    Attributes
    ----------
    columns : tuple of Column
        All columns, also those that are not modelled.
    used : tuple of str
        The modelled ones.
    coded : array of shape (n, len(used))
        Numbers; categories as codes; missing is NaN.
    levels : mapping of str to tuple of str
        What the codes of a category mean.
    """

    columns: tuple[Column, ...]
    used: tuple[str, ...]
    coded: np.ndarray
    levels: Mapping[str, tuple[str, ...]]


def prepare(
    frame: Frame, overrides: Mapping[str, str] | None = None, normal: Frame | None = None
) -> tuple[Prepared, Prepared | None]:
    """Decide what each column is and turn tables into numbers, the normal rows by the same decisions.

    Raises
    ------
    DataError
        For fewer than 10 rows, or when no column can be learnt from.
    """
    source = frame if normal is None else normal
    if len(source) < MIN_ROWS:
        raise DataError(f"{len(source)} rows are too few to learn what is normal: give at least {MIN_ROWS}")
    columns = understand(source, overrides)
    if normal is not None:
        columns = [_reconsidered(column, frame, overrides or {}) for column in columns]
    used = tuple(c.name for c in columns if c.kind in ("number", "category"))
    if not used:
        reasons = listed(f"{c.name} ({c.kind}: {c.why})" for c in columns)
        raise DataError(f"no column can be used: {reasons}; name some with --numeric or --categorical")
    if normal is None:
        return _coded(columns, used, {}), None
    fixed = {c.name: c.kind for c in columns}
    there = [replace(c, why=known.why) for c, known in zip(understand(frame, fixed), columns, strict=True)]
    levels: dict[str, list[str]] = {}
    reference = _coded(columns, used, levels)
    return _coded(there, used, levels), reference


def _reconsidered(column: Column, frame: Frame, overrides: Mapping[str, str]) -> Column:
    """A column that is constant in the normal rows but not in the table is where the table is new: keep it."""
    if column.kind != "ignored" or column.name in overrides or not column.why.startswith("constant"):
        return column
    there = understand(frame.select([column.name]))[0]
    if there.kind not in ("number", "category", "ignored"):
        return column
    both = np.concatenate([column.cells.astype(object), there.cells.astype(object)])
    together = understand(as_frame(both[:, None], [column.name]))[0]
    same_type = (column.cells.dtype == np.float64) == (together.kind == "number")
    if together.kind not in ("number", "category") or not same_type:
        return column
    return replace(column, kind=together.kind, why=f"{column.why} in the normal rows, but not here")


def _coded(columns: list[Column], used: tuple[str, ...], levels: dict[str, list[str]]) -> Prepared:
    by_name = {c.name: c for c in columns}
    parts = []
    for name in used:
        column = by_name[name]
        if column.kind == "number":
            parts.append(column.cells)
            continue
        known = levels.setdefault(name, [])
        place = {text: float(i) for i, text in enumerate(known)}
        codes = np.full(len(column.cells), np.nan)
        for i, value in enumerate(column.cells):
            if value is not None:
                text = str(value)
                if text not in place:
                    place[text] = float(len(known))
                    known.append(text)
                codes[i] = place[text]
        parts.append(codes)
    return Prepared(tuple(columns), used, np.stack(parts, 1), {k: tuple(v) for k, v in levels.items()})


def fit_detector(rows: np.ndarray, data: Prepared, detector: str = "kde") -> tuple[Any, NeuralizedModel]:
    """Fit a detector on prepared rows and return the scikit-learn pipeline and its network.

    Numbers are imputed by the median, with an indicator, and standardised. Categories become one indicator a level,
    unscaled: two different categories are then √2 apart, as far as two typical numbers are on average.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    if detector not in DETECTORS:
        raise ArgumentError(f"detector {detector!r} is not known: choose from {listed(DETECTORS)}")
    numbers = [j for j, name in enumerate(data.used) if name not in data.levels]
    texts = [j for j, name in enumerate(data.used) if name in data.levels]
    empty = [data.used[j] for j in numbers if np.isnan(rows[:, j]).all()]
    if empty:
        raise DataError(f"column {empty[0]!r} has no value in the normal rows: leave it out (--ignore {empty[0]})")
    blocks: list[Any] = []
    if numbers:
        blocks.append(
            (
                "numbers",
                make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler()),
                numbers,
            )
        )
    if texts:
        # All levels are given, also those that only the explained rows have: a new one is as far as any other.
        levels = [[*np.arange(len(data.levels[data.used[j]]), dtype=float), np.nan] for j in texts]
        encoder = OneHotEncoder(categories=levels, handle_unknown="ignore", sparse_output=False)
        blocks.append(("categories", encoder, texts))
    front = ColumnTransformer(blocks, sparse_threshold=0)
    model = make_pipeline(front, DETECTORS[detector].make(*front.fit_transform(rows).shape))
    model.fit(rows)
    return model, neuralize(model, score="outlierness")


def _bandwidth(n: int, d: int) -> float:
    return float(_BANDWIDTH * n ** (-1 / (d + 4)))


def _kde(n: int, d: int) -> Any:
    from sklearn.neighbors import KernelDensity

    return KernelDensity(bandwidth=_bandwidth(n, d))


def _ocsvm(n: int, d: int) -> Any:
    from sklearn.svm import OneClassSVM

    return OneClassSVM(gamma=1 / (2 * _bandwidth(n, d) ** 2), nu=0.5)


def _lof(n: int, _: int) -> Any:
    from sklearn.neighbors import LocalOutlierFactor

    return LocalOutlierFactor(n_neighbors=min(20, n - 1), novelty=True)


def _knn(n: int, _: int) -> Any:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=min(5, n - 1))


def _mixture(n: int, d: int) -> Any:
    from sklearn.mixture import BayesianGaussianMixture

    # Its prior empties the components that the rows do not need. A full covariance has d²/2 numbers to learn.
    full = n >= 10 * d
    return BayesianGaussianMixture(
        n_components=max(1, min(8, n // (10 * d if full else 20))), covariance_type="full" if full else "diag",
        reg_covar=1e-2, max_iter=500, random_state=0,
    )  # fmt: skip


def _mahalanobis(*_: int) -> Any:
    from sklearn.covariance import LedoitWolf

    return LedoitWolf()


def _pca(*_: int) -> Any:
    from sklearn.decomposition import PCA

    return PCA(n_components=0.9, svd_solver="full")


def _kmeans(n: int, _: int) -> Any:
    from sklearn.cluster import KMeans

    return KMeans(max(1, min(8, n // 10)), n_init=3, random_state=0)


DETECTORS: dict[str, Detector] = {
    "kde": Detector("kernel density", _kde),
    "ocsvm": Detector("one-class SVM", _ocsvm),
    "lof": Detector("local outlier factor, 20 neighbours", _lof),
    "knn": Detector("distance to the fifth nearest row", _knn),
    "mixture": Detector("Bayesian Gaussian mixture", _mixture),
    "mahalanobis": Detector("Mahalanobis distance, shrunk covariance", _mahalanobis),
    "pca": Detector("reconstruction error of principal components with 90 % of the variance", _pca),
    "kmeans": Detector("squared distance to the nearest of 8 centres", _kmeans),
}
