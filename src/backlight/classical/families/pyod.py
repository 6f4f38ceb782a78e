r"""PyOD's detectors: "outlierness" is ``decision_function``, and the alarm is at ``threshold_``.

* detectors that hold one of scikit-learn's (OCSVM, LOF, KDE, GMM, IForest, MCD): that one's network behind the function
  that PyOD makes of its score;
* distances (KNN, Sampling, CBLOF, and PCA, which sums distances to its axes): order statistics, gated by the library's
  own search;
* sums of one term a column (HBOS, ECOD, COPOD, MAD): the terms themselves. ECOD and COPOD rank the rows that are given
  together, with the training rows, so that a row's score depends on the others beside it, as it does there;
* ABOD: the variance of angles to the nearest rows, which is homogeneous in the differences to them;
* LODA: each random cut's term, shared by the squares of the cut's weights, as the cut is a step of a projection;
* FeatureBagging: the mean of its members.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.classical.families.neighbors import metric_of
from backlight.classical.families.scores import plain
from backlight.classical.frontend.pipeline import carry
from backlight.classical.layers import EncodedRows, Layer
from backlight.classical.layers.angles import AngleVariance
from backlight.classical.layers.composition import Mean, Member
from backlight.classical.layers.linear import Additive, tensor
from backlight.classical.layers.links import Secant
from backlight.classical.layers.neighbors import NearestRows, OrderStatistics
from backlight.classical.layers.pools import Link
from backlight.classical.network import Inputs, ModelSpec
from backlight.classical.neuralize import neuralize, spec_of
from backlight.errors import NotFittedModel, UnsupportedModel, UnsupportedOption, require
from backlight.explanation.score_units import DISTANCE, LOCAL, NATS, PLAIN, ScoreUnit

__all__ = ["Make", "detectors", "pyod_detector", "reads"]

_STEPS = "its score is a step function, constant in every column but at its edges; fit IForest or KNN instead"
_BESIDE = "it compares the rows that are given with each other, and a row alone has no score; fit LOF or KNN instead"
_OTHERWISE = "fit one that has, such as ECOD, KNN, LOF or IForest, or write one with backlight.neuralize.register"
_WHY = {
    "INNE": _STEPS,
    **dict.fromkeys(("COF", "LMDD", "LOCI", "QMCD", "ROD", "SOD", "SOS"), _BESIDE),
    "CD": "Cook's distance refits a regression on the rows that are given; fit MCD or PCA instead",
    "KPCA": "its error is a difference of kernel sums that cancel to the last digits; fit PCA, KDE or OCSVM instead",
    "VAE": "its reconstruction is drawn at random, another one in every call; fit AutoEncoder instead",
}

Make = Callable[[Inputs], Layer]
Reader = Callable[[Any], tuple[Make, int, ScoreUnit]]
_READERS: dict[str, Reader] = {}


def reads(*names: str) -> Callable[[Reader], Reader]:
    """Register a function from a fitted detector to its layer, its number of columns and its unit, by class names."""

    def keep(reader: Reader) -> Reader:
        _READERS.update(dict.fromkeys(names, reader))
        return reader

    return keep


def detectors() -> list[str]:
    """The detectors that have a network, by their names there."""
    return sorted(_READERS)


@neuralize.register("pyod.models.base.BaseDetector")
def pyod_detector(model: Any) -> ModelSpec:
    """Neuralize a detector of PyOD."""
    name = type(model).__name__
    reader = next((_READERS[cls.__name__] for cls in type(model).__mro__ if cls.__name__ in _READERS), None)
    if reader is None:
        raise UnsupportedModel(f"pyod's {name} has no network: {_WHY.get(name, _OTHERWISE)}")
    if not hasattr(model, "decision_scores_"):
        raise NotFittedModel(f"{name} is not fitted: call its fit(X) first")
    make, width, unit = reader(model)

    def decision(detector: Any, z: Any) -> np.ndarray:
        if hasattr(detector, "kde_"):  # a tree's running bounds lose digits that the family's reference keeps
            return spec_of(detector.kde_).scores["outlierness"].reference(detector.kde_, np.asarray(z, dtype=float))
        # some write what they computed last on themselves
        return np.asarray(copy.copy(detector).decision_function(np.asarray(z, dtype=float)), dtype=float)

    scores = {"outlierness": plain("outlierness", make, decision, unit=unit)}
    return ModelSpec(f"{name} of PyOD", scores, float(model.threshold_), n_columns=width)


# -- detectors of scikit-learn inside ----------------------------------------------------------------------------------


def _inside(model: Any, function: Callable[[Tensor], Tensor] | None = None) -> Make:
    """The outlierness of the model inside, behind a function; without one, minus its decision function."""
    scores = spec_of(model).scores
    if "outlierness" not in scores:
        signed = scores["decision_function"].layer
        return lambda inputs: Link(signed(inputs), lambda y: -y, lambda y: -torch.ones_like(y))
    layer = scores["outlierness"].layer
    return layer if function is None else lambda inputs: Secant(layer(inputs), function)


@reads("OCSVM")
def _ocsvm(model: Any) -> tuple[Make, int, ScoreUnit]:
    inner = model.detector_
    total, rho = float(np.sum(inner.dual_coef_)), float(np.ravel(inner.offset_)[0])
    return _inside(inner, lambda o: rho - total * torch.exp(-o)), inner.n_features_in_, PLAIN


@reads("IForest")
def _iforest(model: Any) -> tuple[Make, int, ScoreUnit]:
    from backlight.classical.families.trees import average_path

    inner = model.detector_
    c, offset = average_path(inner._max_samples), float(inner.offset_)  # private: as public max_samples may be "auto"
    return _inside(inner, lambda o: torch.exp2(o / c) + offset), inner.n_features_in_, PLAIN


@reads("GMM", "MCD")
def _held(model: Any) -> tuple[Make, int, ScoreUnit]:
    return _inside(model.detector_), model.detector_.n_features_in_, NATS if hasattr(model, "means_") else PLAIN


@reads("KDE")
def _kde(model: Any) -> tuple[Make, int, ScoreUnit]:
    return _inside(model.kde_), model.kde_.n_features_in_, NATS


@reads("LOF")
def _lof(model: Any) -> tuple[Make, int, ScoreUnit]:
    return _inside(model.detector_), model.detector_.n_features_in_, LOCAL


# -- distances ---------------------------------------------------------------------------------------------------------


def _to(rows: np.ndarray, search: Callable[[np.ndarray, int], np.ndarray], weights: np.ndarray, city: bool) -> Make:
    nearest = NearestRows(search, tensor(rows), city)
    return lambda inputs: OrderStatistics(nearest, tensor(weights), inputs.pullback)


def _is_city(model: Any, metric: Any, params: Any) -> bool:
    found = metric_of(model, metric, params)
    if found not in ("euclidean", "manhattan"):
        raise UnsupportedOption(f"{type(model).__name__}(metric={metric!r}): fit it with 'euclidean' or 'manhattan'")
    return bool(found == "manhattan")


@reads("KNN")
def _knn(model: Any) -> tuple[Make, int, ScoreUnit]:
    inner, k = model.neigh_, model.n_neighbors
    rows = np.asarray(inner._fit_X)  # private: the training rows
    city = _is_city(inner, inner.effective_metric_, inner.effective_metric_params_)
    weights = np.zeros(k)
    if model.method == "largest":
        weights[-1] = 1.0
    elif model.method == "mean":
        weights[:] = 1 / k
    else:  # the median
        weights[[(k - 1) // 2, k // 2]] += 0.5
    make = _to(rows, lambda z, n: inner.kneighbors(z, n_neighbors=n, return_distance=False), weights, city)
    return make, rows.shape[1], DISTANCE


@reads("ABOD")
def _abod(model: Any) -> tuple[Make, int, ScoreUnit]:
    if model.method != "fast":
        raise UnsupportedOption(f"ABOD(method={model.method!r}) takes all pairs of rows: fit it with method='fast'")
    rows = np.asarray(model.X_train_, dtype=float)

    def search(z: np.ndarray, k: int) -> np.ndarray:
        return np.asarray(model.neigh_.kneighbors(z, n_neighbors=k, return_distance=False))

    nearest = NearestRows(search, tensor(rows))
    return lambda inputs: AngleVariance(nearest, model.n_neighbors, inputs.pullback), rows.shape[1], PLAIN


@reads("Sampling")
def _sampling(model: Any) -> tuple[Make, int, ScoreUnit]:
    rows = np.asarray(model.subset, dtype=float)
    city = _is_city(model, model.metric, model.metric_params)

    def search(z: np.ndarray, k: int) -> np.ndarray:
        return np.asarray(np.argsort(model.dist.pairwise(z, rows), axis=1, kind="stable")[:, :k])

    return _to(rows, search, np.ones(1), city), rows.shape[1], DISTANCE


@reads("CBLOF")
def _cblof(model: Any) -> tuple[Make, int, ScoreUnit]:
    centers = np.asarray(model.cluster_centers_, dtype=float)
    large = np.asarray(sorted(model.large_cluster_labels_), dtype=int)
    K = len(centers)

    def search(z: np.ndarray, _: int) -> np.ndarray:
        """One of K × K anchors: the row's cluster, and the centre that its distance is measured to."""
        labels = np.asarray(model.clustering_estimator_.predict(z))
        away = np.sqrt(((z[:, None] - centers[large]) ** 2).sum(2)).argmin(1)
        return (labels * K + np.where(np.isin(labels, large), labels, large[away]))[:, None]

    sizes = tensor(np.repeat(model.cluster_sizes_, K).astype(float))
    nearest = NearestRows(search, tensor(np.tile(centers, (K, 1))))
    gate = (lambda near: sizes.to(near.device)[near[:, 0]]) if model.use_weights else None

    def make(inputs: Inputs) -> Layer:
        return _Centers(nearest, tensor([1.0]), inputs.pullback, gate=gate)

    return make, centers.shape[1], DISTANCE


class _Centers(OrderStatistics):
    """Distances to centres, which are no rows."""

    def self_index(self, x: EncodedRows) -> Tensor:
        """No row is a centre."""
        return torch.full((len(x),), -1, device=x.z.device)

    def training_rows(self) -> Tensor:
        """None."""
        return self.anchors[:0]


@reads("PCA")
def _pca(model: Any) -> tuple[Make, int, ScoreUnit]:
    axes = np.asarray(model.selected_components_, dtype=float)
    weights = 1 / np.asarray(model.selected_w_components_, dtype=float)
    everyone = np.arange(len(axes))
    nearest = NearestRows(lambda z, k: np.tile(everyone[:k], (len(z), 1)), tensor(axes))

    def make(inputs: Inputs) -> Layer:
        if not model.standardization:
            return _Centers(nearest, tensor(weights), inputs.pullback)
        elements, behind = inputs.behind(carry(model.scaler_, inputs.features))
        return Member(elements, behind.pullback, _Centers(nearest, tensor(weights), behind.pullback))

    return make, axes.shape[1], PLAIN


# -- one term a column -------------------------------------------------------------------------------------------------


def _terms(function: Callable[[np.ndarray], np.ndarray], width: int) -> tuple[Make, int, ScoreUnit]:
    """A sum over columns of the library's own terms, (n, K)."""

    def terms(z: Tensor) -> Tensor:
        return torch.as_tensor(np.array(function(np.asarray(z.detach().cpu().double())))).to(z)[:, None, :]

    return lambda inputs: _Together(terms, 1, inputs.pullback), width, PLAIN


class _Together(Additive):
    """Terms of rows that are scored together."""

    @property
    def rows(self) -> int:
        """As many rows as there are."""
        return 1 << 30


@reads("ECOD", "COPOD")
def _tails(model: Any) -> tuple[Make, int, ScoreUnit]:
    def terms(z: np.ndarray) -> np.ndarray:
        one = copy.copy(model)  # it writes its terms on itself
        one.n_jobs = 1
        one.decision_function(z)
        return np.asarray(one.O)[-len(z) :]

    return _terms(terms, model.X_train.shape[1])


@reads("HBOS")
def _hbos(model: Any) -> tuple[Make, int, ScoreUnit]:
    hbos = require("pyod.models.hbos", "pyod", "scoring by histograms")

    def terms(z: np.ndarray) -> np.ndarray:
        if isinstance(model.n_bins, str):
            found = hbos._calculate_outlier_scores_auto(z, model.bin_edges_, model.hist_, model.alpha, model.tol)
        else:
            found = hbos._calculate_outlier_scores(
                z, model.bin_edges_, model.hist_, model.n_bins, model.alpha, model.tol
            )
        return -np.asarray(found)

    width = len(model.hist_) if isinstance(model.n_bins, str) else np.shape(model.hist_)[1]
    return _terms(terms, width)


@reads("MAD")
def _mad(model: Any) -> tuple[Make, int, ScoreUnit]:
    return _terms(lambda z: 0.6745 * np.abs(z - model.median_) / model.median_diff_, 1)


@reads("LODA")
def _loda(model: Any) -> tuple[Make, int, ScoreUnit]:
    cuts = np.asarray(model.projections_, dtype=float)
    shares = cuts**2 / (cuts**2).sum(1, keepdims=True)

    def terms(z: np.ndarray) -> np.ndarray:
        each = []
        for i, cut in enumerate(cuts):
            last = (model.n_bins_[i] if isinstance(model.n_bins, str) else model.n_bins) - 1
            place = np.searchsorted(model.limits_[i][:last], cut.dot(z.T), side="left")
            each.append(-model.weights[i] * np.log(model.histograms_[i][place]) / len(cuts))
        return np.asarray(np.stack(each, 1) @ shares)

    return _terms(terms, cuts.shape[1])


@reads("FeatureBagging")
def _bagging(model: Any) -> tuple[Make, int, ScoreUnit]:
    if model.combination != "average":
        raise UnsupportedOption("FeatureBagging(combination='max') is one member's score: fit it with 'average'")
    members = [
        (_member(one), np.asarray(columns))
        for one, columns in zip(model.estimators_, model.estimators_features_, strict=True)
    ]

    def make(inputs: Inputs) -> Layer:
        layers = []
        for one, columns in members:
            elements, behind = inputs.behind(inputs.features.pick(columns))
            layers.append(Member(elements, behind.pullback, one(behind)))
        return Mean(layers)

    return make, model.n_features_, PLAIN


def _member(one: Any) -> Make:
    return spec_of(one).scores["outlierness"].layer
