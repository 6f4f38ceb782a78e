r"""Nearest neighbours: distances as outlier scores, local outlier factors, and votes.

* `NearestNeighbors`: "outlierness" is the distance to the k-th neighbour, "mean_distance" the mean over the k.
* `LocalOutlierFactor(novelty=True)`: LOF = A·B with A the mean density of the neighbours, a constant of the training
  set for given neighbours, and B the mean reach max(kdist_o, ‖x − o‖): relevance of an average of distances.
  With ``novelty=False`` its own rows are scored, each without itself: ``negative_outlier_factor_``.
* `KNeighborsClassifier`: a vote is a step; what decides it is which class's m-th row is nearer
  (`backlight.classical.layers.neighbors.ClassOrderStatistics`); where votes count by nearness, which class's harmonic
  distance is smaller (`backlight.classical.layers.weighted_votes.WeightedVotes`).
  "probability" is the share of the votes (`backlight.classical.layers.vote_shares.VoteShares`).
* `KNeighborsRegressor`: a prediction is constant within each neighbourhood, so no feature contributes to it;
"neighbourhood" says why these k rows and not the next k: the mean squared distance of the latter less that of the
former.

Distances are Euclidean or city-block; sums of absolute differences stand where the former's squares do.

Which rows are the neighbours is asked of the estimator's own search, so that ties fall as they do there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from backlight.classical.families.scores import minus, plain
from backlight.classical.families.svm import dense
from backlight.classical.functions import GateMean
from backlight.classical.layers import Layer
from backlight.classical.layers.linear import tensor
from backlight.classical.layers.neighbors import ClassOrderStatistics, NearestRows, OrderStatistics
from backlight.classical.layers.vote_shares import VoteShares
from backlight.classical.layers.weighted_votes import WeightedVotes
from backlight.classical.network import Inputs, ModelSpec
from backlight.classical.neuralize import neuralize
from backlight.classical.registry import without_names
from backlight.classical.targets import Outputs
from backlight.errors import DataError, UnsupportedOption
from backlight.explanation.score_units import DISTANCE, LOCAL

__all__ = ["distances", "local_outlier_factor", "metric_of", "neighbourhood", "search_among", "vote"]


# A row is one of the training set where it differs by no more than this share of the data's reach.
_SAME_ROW = 1e-9


def _rows(estimator: Any) -> tuple[NearestRows, np.ndarray]:
    """The training rows (private: `_fit_X`) and the estimator's own search, after a check of its metric."""
    city = _is_city(estimator)
    rows = dense(estimator._fit_X)
    bare = without_names(estimator)

    def search(z: np.ndarray, k: int) -> np.ndarray:
        return np.asarray(bare.kneighbors(z, n_neighbors=k, return_distance=False))

    return NearestRows(search, tensor(rows), city), rows


def metric_of(estimator: Any, metric: Any, params: Any) -> Any:
    """Its metric by one name, "euclidean" and "manhattan" where it is one of these; weights of it are refused."""
    params = dict(params or {})
    p = params.pop("p", 2)
    if any(value is not None for value in params.values()):
        raise UnsupportedOption(
            f"{type(estimator).__name__}(metric_params={estimator.metric_params!r}) is not supported: scale the "
            "columns before it instead"
        )
    if metric in ("manhattan", "cityblock", "l1") or (metric == "minkowski" and p == 1):
        return "manhattan"
    if metric in ("euclidean", "l2") or (metric == "minkowski" and p == 2):
        return "euclidean"
    return metric


def _is_city(estimator: Any) -> bool:
    """Whether its distances are city-block, not Euclidean."""
    found = metric_of(estimator, estimator.effective_metric_, estimator.effective_metric_params_)
    if found in ("euclidean", "manhattan"):
        return bool(found == "manhattan")
    raise UnsupportedOption(
        f"{type(estimator).__name__}(metric={estimator.metric!r}, p={getattr(estimator, 'p', 2)}) is not supported: "
        "fit it with metric='euclidean' or 'manhattan'; a Normalizer before the former orders rows as 'cosine' does"
    )


@neuralize.register("sklearn.neighbors.NearestNeighbors")
def distances(estimator: Any) -> ModelSpec:
    """Neuralize `NearestNeighbors` as an outlier score."""
    nearest, rows = _rows(estimator)
    k = min(estimator.n_neighbors, len(rows))
    last = np.eye(k)[-1]

    def make(weights: np.ndarray) -> Any:
        return lambda inputs: OrderStatistics(nearest, tensor(weights), inputs.pullback)

    scores = {
        "outlierness": plain("outlierness", make(last), lambda model, z: _distances(model, z, k)[:, -1], unit=DISTANCE),
        "mean_distance": plain(
            "mean_distance", make(np.full(k, 1 / k)), lambda model, z: _distances(model, z, k).mean(1)
        ),
    }
    return ModelSpec(f"distance to the {k} nearest of {len(rows)} rows", scores)


def _distances(model: Any, z: Any, k: int) -> np.ndarray:
    """Distances that the library's search found, from explicit differences: its own lose digits near zero."""
    rows, query = dense(model._fit_X), dense(z)
    found = without_names(model).kneighbors(query, n_neighbors=k, return_distance=False)
    delta = query[:, None] - rows[found]
    return np.asarray(np.abs(delta).sum(2) if _is_city(model) else np.sqrt((delta**2).sum(2)))


@neuralize.register("sklearn.neighbors.LocalOutlierFactor")
def local_outlier_factor(estimator: Any) -> ModelSpec:
    """Neuralize `LocalOutlierFactor(novelty=True)`."""
    if not estimator.novelty:
        return _own_rows(estimator)
    nearest, rows = _rows(estimator)
    k = estimator.n_neighbors_
    density = tensor(estimator._lrd)  # private: densities and k-distances of the training rows
    reach = tensor(estimator._distances_fit_X_[:, k - 1])

    def make(inputs: Inputs) -> Layer:
        # 1e-10 is what the library adds to the mean reach, lest it divide by zero
        return OrderStatistics(
            nearest, tensor(np.full(k, 1 / k)), inputs.pullback, floor=reach, extra=1e-10,
            gate=GateMean(density, inputs.dtype),
        )  # fmt: skip

    def factor(model: Any, z: Any) -> np.ndarray:
        return -np.asarray(model.score_samples(z))

    threshold = -float(estimator.offset_)
    scores = {
        "outlierness": plain("outlierness", make, factor, unit=LOCAL),
        "decision_function": minus(
            "decision_function", make, threshold, lambda model, z: np.asarray(model.decision_function(z))
        ),
        "score_samples": minus("score_samples", make, 0.0, lambda model, z: np.asarray(model.score_samples(z))),
    }
    return ModelSpec(f"local outlier factor ({k} neighbours, {len(rows)} rows)", scores, threshold)


def _own_rows(estimator: Any) -> ModelSpec:
    """`LocalOutlierFactor(novelty=False)`: its own rows, each without itself, as ``negative_outlier_factor_``."""
    city, rows, k = _is_city(estimator), dense(estimator._fit_X), estimator.n_neighbors_
    near = np.asarray(without_names(estimator).kneighbors(None, n_neighbors=k, return_distance=False))
    place = search_among(rows, city)
    size = float(np.abs(rows - np.median(rows, axis=0)).max())

    def which(z: Any) -> np.ndarray:
        """Which of its rows each row is."""
        z = dense(z)
        found = place.search(z, 1)[:, 0]
        strange = np.abs(z - rows[found]).max(1) > _SAME_ROW * size
        if strange.any():
            raise DataError(
                f"LocalOutlierFactor(novelty=False) scores the rows that it was fitted on, and row {strange.argmax()} "
                "is none of them: fit it with novelty=True"
            )
        return np.asarray(found)

    nearest = NearestRows(lambda z, n: near[which(z)][:, :n], tensor(rows), city)
    density, reach = tensor(estimator._lrd), tensor(estimator._distances_fit_X_[:, k - 1])

    def make(inputs: Inputs) -> Layer:
        return OrderStatistics(
            nearest, tensor(np.full(k, 1 / k)), inputs.pullback, floor=reach, extra=1e-10,
            gate=GateMean(density, inputs.dtype),
        )  # fmt: skip

    score = plain("outlierness", make, lambda model, z: -model.negative_outlier_factor_[which(z)], unit=LOCAL)
    return ModelSpec(
        f"local outlier factor of its own {len(rows)} rows ({k} neighbours)", {"outlierness": score},
        -float(estimator.offset_),
    )  # fmt: skip


@neuralize.register("sklearn.neighbors.KNeighborsClassifier")
def vote(estimator: Any) -> ModelSpec:
    """Neuralize `KNeighborsClassifier`."""
    if estimator.weights not in ("uniform", "distance"):
        raise UnsupportedOption("KNeighborsClassifier with weights of your own: fit it with 'uniform' or 'distance'")
    if estimator.outputs_2d_:
        raise UnsupportedOption("KNeighborsClassifier with several outputs is not supported: fit one model an output")
    nearest, rows = _rows(estimator)
    k, labels = estimator.n_neighbors, np.asarray(estimator._y)  # private: class indices of the training rows
    names = list(estimator.classes_)
    if len(names) < 2:
        raise UnsupportedOption("this KNeighborsClassifier was fitted on one class: there is nothing to tell apart")

    by_class = [search_among(rows[labels == c], nearest.city) for c in range(len(names))]
    weighted = estimator.weights == "distance"
    layer, slow = (WeightedVotes, harmonic_reference) if weighted else (ClassOrderStatistics, contrast_reference)

    def make(inputs: Inputs) -> Layer:
        return layer(nearest, by_class, torch.tensor(labels.astype(np.int64)), k, inputs.pullback)

    def contrast(model: Any, z: Any) -> np.ndarray:
        return slow(model, dense(z), rows, labels, len(names), k)

    def shares(inputs: Inputs) -> Layer:
        own = torch.tensor(labels.astype(np.int64))
        return VoteShares(nearest, by_class, own, k, weighted, inputs.pullback)

    def probability(model: Any, z: Any) -> np.ndarray:
        return np.asarray(without_names(model).predict_proba(z))

    scores = {
        "contrast": plain("contrast", make, contrast, Outputs.classes(names)),
        "probability": plain("probability", shares, probability, Outputs.each(names)),
    }
    return ModelSpec(f"{k} nearest neighbours ({len(rows)} rows, {len(names)} classes)", scores)


def search_among(rows: np.ndarray, city: bool) -> NearestRows:
    """The library's search among some rows, centred: its products would lose digits far from zero."""
    from sklearn.neighbors import NearestNeighbors

    center = np.median(rows, axis=0)
    model = NearestNeighbors(metric="manhattan" if city else "euclidean").fit(rows - center)

    def search(z: np.ndarray, k: int) -> np.ndarray:
        return np.asarray(model.kneighbors(z - center, n_neighbors=k, return_distance=False))

    return NearestRows(search, tensor(rows), city)


def contrast_reference(
    model: Any, z: np.ndarray, rows: np.ndarray, labels: np.ndarray, n_classes: int, k: int
) -> np.ndarray:
    """The order-statistic contrast, row by row, from sorted distances: slow and obvious."""
    near = without_names(model).kneighbors(z, n_neighbors=k, return_distance=False)
    out = np.empty((len(z), n_classes))
    for i, row in enumerate(z):
        d = np.abs(row - rows).sum(1) if _is_city(model) else ((row - rows) ** 2).sum(1)
        votes = np.bincount(labels[near[i]], minlength=n_classes)
        by_class = [np.sort(d[labels == c]) for c in range(n_classes)]

        def m_th(c: int, m: int, by_class: Any = by_class, d: Any = d, i: int = i) -> float:
            return float(by_class[c][m - 1]) if m <= len(by_class[c]) else float(d[near[i][-1]])

        for a in range(n_classes):
            gaps = []
            for b in range(n_classes):
                if b != a:
                    odd = n_classes == 2 and k % 2
                    m = (k + 1) // 2 if odd else min(votes[a], votes[b]) + 1
                    gaps.append(m_th(b, m) - m_th(a, m))
            out[i, a] = min(gaps)
    return out[:, 1] if n_classes == 2 else out


def harmonic_reference(
    model: Any, z: np.ndarray, rows: np.ndarray, labels: np.ndarray, n_classes: int, k: int
) -> np.ndarray:
    """The contrast of harmonic distances, row by row: slow and obvious."""
    near = without_names(model).kneighbors(z, n_neighbors=k, return_distance=False)
    out = np.empty((len(z), n_classes))
    for i, row in enumerate(z):
        d = np.abs(row - rows).sum(1) if _is_city(model) else np.sqrt(((row - rows) ** 2).sum(1))
        H = np.empty(n_classes)
        for c in range(n_classes):
            mine = d[near[i]][labels[near[i]] == c]
            H[c] = d[labels == c].min() if not len(mine) else 0.0 if mine.min() == 0 else 1 / (1 / mine).sum()
        out[i] = [np.delete(H, c).min() - H[c] for c in range(n_classes)]
    return out[:, 1] if n_classes == 2 else out


@neuralize.register("sklearn.neighbors.KNeighborsRegressor")
def neighbourhood(estimator: Any) -> ModelSpec:
    """Neuralize `KNeighborsRegressor`: why this neighbourhood."""
    if estimator.weights != "uniform":
        raise UnsupportedOption(
            "KNeighborsRegressor with weights has no neighbourhood of equals, and its prediction is a ratio of "
            "distances that no column adds to: fit it with weights='uniform', or Nystroem and Ridge"
        )
    nearest, rows = _rows(estimator)
    k = estimator.n_neighbors
    both = min(2 * k, len(rows))
    if both == k:
        raise UnsupportedOption(
            f"KNeighborsRegressor(n_neighbors={k}) uses all its rows: there is no other neighbourhood"
        )
    weights = np.r_[np.full(k, -1 / k), np.full(both - k, 1 / (both - k))]

    def make(inputs: Inputs) -> Layer:
        return OrderStatistics(nearest, tensor(weights), inputs.pullback, squared=True)

    power = 1 if nearest.city else 2
    score = plain("neighbourhood", make, lambda model, z: (_distances(model, z, both) ** power) @ weights)
    why = "is constant in each of them, and no column carries it: ask for 'neighbourhood', or fit a Nystroem and Ridge"
    return ModelSpec(f"neighbourhood of {k} of {len(rows)} rows", {"neighbourhood": score}, without={"predict": why})
