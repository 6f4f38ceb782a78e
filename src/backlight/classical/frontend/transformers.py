"""More of scikit-learn's transformers, by what they do to the way back.

*Element-wise* steps, and steps that are element-wise but for a gate (a norm, a neighbour's value), keep the column of
every element: their numbers are computed by the library's own ``transform``, and relevance passes as it is. Steps that
make a *block* of elements from one column sum back into it. *Linear* steps become part of the map at the end of the
front end. *Products* of columns share their relevance by their exponents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight.classical.frontend.features import Features, Linear
from backlight.classical.frontend.preprocessing import level_code, transformers
from backlight.classical.layers.pullback import owned
from backlight.classical.registry import public_name, without_names
from backlight.errors import DataError, UnsupportedModel, UnsupportedOption

__all__ = ["Lookup", "Original", "Products"]


class Original(nn.Module):
    """The library's own numbers, computed by it: for steps whose way back needs no formula.

    Runs on the processor, in float64, and refuses to be differentiated.
    """

    def __init__(self, step: Any) -> None:
        super().__init__()
        self.step = without_names(step)  # elements have none

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, E) to (n, E')."""
        if x.requires_grad:
            raise UnsupportedModel(
                f"no gradient passes through {type(self.step).__name__}, whose numbers are the library's own: ask for "
                "relevance, or call the network under torch.no_grad()"
            )
        out = self.step.transform(x.detach().cpu().double().numpy())
        out = out.toarray() if hasattr(out, "toarray") else np.asarray(out)
        return torch.as_tensor(np.ascontiguousarray(out, dtype=np.float64)).to(x)


def _elements(step: Any, features: Features) -> Features:
    """The features, if they are still elements."""
    if features.linear is not None:
        raise UnsupportedModel(
            f"{type(step).__name__} after a projection cannot be carried back: put it before the projection"
        )
    return features


def _by_column(step: Any, features: Features) -> Features:
    """The features, if each element is made from one column."""
    if _elements(step, features).owner.ndim == 2:
        raise UnsupportedModel(
            f"{type(step).__name__} after a product of columns cannot be carried back: put it before the products"
        )
    return features


def _library(step: Any, features: Features, owner: np.ndarray | None = None) -> Features:
    return _elements(step, features).then(Original(step), owner)


# -- one element to one element --------------------------------------------------------------------------------------


@transformers.register(
    "sklearn.preprocessing.PowerTransformer",
    "sklearn.preprocessing.QuantileTransformer",
    "sklearn.preprocessing.Binarizer",
    "sklearn.feature_extraction.text.TfidfTransformer",
)
def _elementwise(step: Any, features: Features) -> Features:
    return _library(step, features)


class NormGate(nn.Module):
    """(e − start) / ‖A(e − start)‖: elements such that A of them is what a norm leaves of A(e − start)."""

    into: Tensor
    start: Tensor

    def __init__(self, into: np.ndarray, start: np.ndarray, norm: str) -> None:
        super().__init__()
        self.order = {"l1": 1.0, "l2": 2.0, "max": math.inf}[norm]
        self.register_buffer("into", owned(into))
        self.register_buffer("start", owned(start))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, E) to (n, E)."""
        delta = x - self.start
        size = torch.linalg.vector_norm(delta @ self.into.T, self.order, dim=1, keepdim=True)
        return delta / torch.where(size > 10 * torch.finfo(size.dtype).eps, size, 1.0)


@transformers.register("sklearn.preprocessing.Normalizer")
def _normalizer(step: Any, features: Features) -> Features:
    linear = features.linear
    if linear is None:
        return _library(step, features)
    # z = A(e − c) + s is A(e − c + A⁺s) where s is in the range of A: a norm of it is a gate on all elements
    back = np.linalg.pinv(linear.A)
    if not np.allclose(linear.A @ (back @ linear.shift), linear.shift, rtol=0, atol=1e-12):
        raise UnsupportedModel("Normalizer after a map onto more columns than it has: put it before the projection")
    gate = NormGate(linear.A, linear.center - back @ linear.shift, step.norm)
    zero = Linear(linear.A, np.zeros(linear.A.shape[1]), np.zeros(len(linear.A)))
    return replace(features, layers=(*features.layers, gate), linear=zero)


@transformers.register("sklearn.preprocessing.FunctionTransformer")
def _function(step: Any, features: Features) -> Features:
    function = step.func
    if function is None:
        return features
    if isinstance(function, np.ufunc) and function.nin == 1 and function.nout == 1 and function.signature is None:
        return _library(step, features)
    raise UnsupportedOption(
        f"FunctionTransformer(func={getattr(function, '__name__', function)!r}) is not known to work element by "
        "element: use a NumPy or SciPy ufunc such as numpy.log1p, or apply the function to the table before fitting, "
        "and explain that table"
    )


@transformers.register("sklearn.impute.KNNImputer", "sklearn.impute.IterativeImputer")
def _imputer(step: Any, features: Features) -> Features:
    _by_column(step, features)
    if not np.isnan(step.missing_values):
        raise UnsupportedOption(
            f"{type(step).__name__}(missing_values={step.missing_values!r}) is not supported: only NaN"
        )
    kept = np.arange(len(features.owner))
    gone = ~step._valid_mask if hasattr(step, "_valid_mask") else np.zeros(len(kept), dtype=bool)  # private
    if type(step).__name__ == "IterativeImputer":
        statistics = getattr(step.initial_imputer_, "statistics_", np.zeros(len(kept)))
        gone = np.isnan(np.asarray(statistics, dtype=float))
    if gone.any() and not step.keep_empty_features:
        kept = kept[~gone]
    marked = step.indicator_.features_ if step.add_indicator else np.zeros(0, dtype=int)
    owner = np.concatenate([features.owner[kept], features.owner[marked]])
    out = _library(step, features, owner)
    return replace(out, imputed=features.imputed | frozenset(int(c) for c in features.owner))


@transformers.register("sklearn.impute.MissingIndicator")
def _indicator(step: Any, features: Features) -> Features:
    _by_column(step, features)
    out = _library(step, features, features.owner[step.features_])
    return replace(out, imputed=features.imputed | frozenset(int(c) for c in features.owner))


# -- one element to a block ------------------------------------------------------------------------------------------


@transformers.register("sklearn.preprocessing.KBinsDiscretizer")
def _bins(step: Any, features: Features) -> Features:
    if step.encode == "ordinal":
        return _library(step, features)
    return _library(step, features, np.repeat(_elements(step, features).owner, step.n_bins_, axis=0))


@transformers.register("sklearn.preprocessing.SplineTransformer")
def _splines(step: Any, features: Features) -> Features:
    each = step.n_features_out_ // len(_elements(step, features).owner)
    return _library(step, features, np.repeat(features.owner, each, axis=0))


@transformers.register("sklearn.kernel_approximation.AdditiveChi2Sampler")
def _chi2(step: Any, features: Features) -> Features:
    owner = _elements(step, features).owner
    return _library(step, features, np.concatenate([owner] * (2 * step.sample_steps - 1)))


class Lookup(nn.Module):
    """Codes of categories to numbers, several for each element."""

    def __init__(self, tables: list[tuple[int, list[float], list[float], float | None]], name: str) -> None:
        super().__init__()
        self.name = name
        self.element = [element for element, _, _, _ in tables]
        self.fallback = [fallback for _, _, _, fallback in tables]
        for index, (_, levels, values, _) in enumerate(tables):
            self.register_buffer(f"levels{index}", torch.tensor(levels, dtype=torch.float64))
            self.register_buffer(f"values{index}", torch.tensor(values, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, E) of codes to (n, tables)."""
        out = []
        for index, (element, fallback) in enumerate(zip(self.element, self.fallback, strict=True)):
            levels, values = getattr(self, f"levels{index}"), getattr(self, f"values{index}")
            cells = x[:, element, None]
            hit = (cells == levels) | (torch.isnan(cells) & torch.isnan(levels))
            known = hit.any(1)
            if fallback is None and not bool(known.all()):
                row = int(torch.nonzero(~known)[0])
                raise DataError(
                    f"row {row} has a category in encoded column {element} that {self.name} did not see when it was "
                    "fitted"
                )
            found = values[hit.to(torch.uint8).argmax(1)]
            out.append(found if fallback is None else torch.where(known, found, fallback))
        return torch.stack(out, 1)


@transformers.register("sklearn.preprocessing.OrdinalEncoder")
def _ordinal(step: Any, features: Features) -> Features:
    _by_column(step, features)
    if step.min_frequency is not None or step.max_categories is not None:
        raise UnsupportedOption("OrdinalEncoder with infrequent categories is not supported: leave min_frequency out")
    tables: list[tuple[int, list[float], list[float], float | None]] = []
    for k, categories in enumerate(step.categories_):
        column = int(features.owner[k])
        levels = [level_code(value, column, features) for value in categories]
        values = [float(i) for i in range(len(categories))]
        missing = [i for i, value in enumerate(categories) if value is None or value != value]
        for i in missing:
            values[i] = float(step.encoded_missing_value)
        unknown = float(step.unknown_value) if step.handle_unknown == "use_encoded_value" else None
        tables.append((k, levels, values, unknown))
    return features.then(Lookup(tables, "OrdinalEncoder"))


@transformers.register("sklearn.preprocessing.TargetEncoder")
def _target(step: Any, features: Features) -> Features:
    _by_column(step, features)
    n_classes = len(step.classes_) if step.target_type_ == "multiclass" else 1
    tables: list[tuple[int, list[float], list[float], float | None]] = []
    for k, categories in enumerate(step.categories_):
        levels = [level_code(value, int(features.owner[k]), features) for value in categories]
        for c in range(n_classes):
            mean = float(np.ravel(step.target_mean_)[c])
            tables.append((k, levels, [float(v) for v in step.encodings_[k * n_classes + c]], mean))
    return features.then(Lookup(tables, "TargetEncoder"), np.repeat(features.owner, n_classes))


# -- linear ----------------------------------------------------------------------------------------------------------

Affine = Callable[[Any], tuple[np.ndarray, np.ndarray]]


def _pca(step: Any) -> tuple[np.ndarray, np.ndarray]:
    A = np.asarray(step.components_, dtype=float)
    if step.whiten:
        spread = np.sqrt(step.explained_variance_)
        A = A / np.maximum(spread, np.finfo(spread.dtype).eps)[:, None]
    return A, np.asarray(step.mean_, dtype=float)


def _components(step: Any) -> tuple[np.ndarray, np.ndarray]:
    A = step.components_
    A = np.asarray(A.toarray() if hasattr(A, "toarray") else A, dtype=float)
    return A, np.zeros(A.shape[1])


def _ica(step: Any) -> tuple[np.ndarray, np.ndarray]:
    A = np.asarray(step.components_, dtype=float)
    return A, np.asarray(step.mean_, dtype=float) if step.whiten else np.zeros(A.shape[1])


def _factors(step: Any) -> tuple[np.ndarray, np.ndarray]:
    W = np.asarray(step.components_, dtype=float)
    scaled = W / step.noise_variance_
    return np.linalg.solve(np.eye(len(W)) + scaled @ W.T, scaled), np.asarray(step.mean_, dtype=float)


def _discriminants(step: Any) -> tuple[np.ndarray, np.ndarray]:
    width = step._max_components  # private: as many axes as transform gives
    A = np.asarray(step.scalings_, dtype=float)[:, :width].T
    return A, np.asarray(step.xbar_, dtype=float) if step.solver == "svd" else np.zeros(A.shape[1])


def _means(step: Any) -> tuple[np.ndarray, np.ndarray]:
    if step.pooling_func is not np.mean:
        name = getattr(step.pooling_func, "__name__", step.pooling_func)
        raise UnsupportedOption(f"FeatureAgglomeration(pooling_func={name}) is not linear: fit it with numpy.mean")
    member = np.arange(step.n_clusters_)[:, None] == np.asarray(step.labels_)
    return member / member.sum(1, keepdims=True), np.zeros(len(step.labels_))


LINEAR: dict[str, Affine] = {
    "sklearn.cluster.FeatureAgglomeration": _means,
    "sklearn.decomposition.PCA": _pca,
    "sklearn.decomposition.IncrementalPCA": _pca,
    "sklearn.decomposition.TruncatedSVD": _components,
    "sklearn.decomposition.FastICA": _ica,
    "sklearn.decomposition.FactorAnalysis": _factors,
    "sklearn.discriminant_analysis.LinearDiscriminantAnalysis": _discriminants,
    "sklearn.random_projection.GaussianRandomProjection": _components,
    "sklearn.random_projection.SparseRandomProjection": _components,
    "sklearn.neighbors.NeighborhoodComponentsAnalysis": _components,
}


@transformers.register(*LINEAR)
def _linear(step: Any, features: Features) -> Features:
    name = next(public_name(cls) for cls in type(step).__mro__ if public_name(cls) in LINEAR)
    return features.projected(*LINEAR[name](step))


@transformers.register("sklearn.feature_selection.SelectorMixin")
def _selector(step: Any, features: Features) -> Features:
    return features.pick(step.get_support(indices=True))


# -- products ----------------------------------------------------------------------------------------------------------


class Products(nn.Module):
    """Monomials of elements."""

    powers: Tensor

    def __init__(self, powers: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("powers", owned(powers, torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, E) to (n, monomials)."""
        out = []
        for exponents in self.powers:
            term = torch.ones_like(x[:, 0])
            for k in torch.nonzero(exponents).squeeze(1).tolist():
                term = term * x[:, k] ** int(exponents[k])
            out.append(term)
        return torch.stack(out, 1)


@transformers.register("sklearn.preprocessing.PolynomialFeatures")
def _polynomial(step: Any, features: Features) -> Features:
    _elements(step, features)
    powers = np.asarray(step.powers_)
    degree = powers.sum(1, keepdims=True)
    shares = np.divide(powers, degree, out=np.zeros(powers.shape), where=degree > 0)
    made_of = features.owner if features.owner.ndim == 2 else np.eye(features.n_columns)[features.owner]
    return features.then(Products(powers), shares @ made_of)


# -- what has no way back ----------------------------------------------------------------------------------------------


@transformers.register("sklearn.kernel_approximation.RBFSampler", "sklearn.kernel_approximation.SkewedChi2Sampler")
def _random_features(step: Any, _: Features) -> Features:
    raise UnsupportedModel(
        f"{type(step).__name__} makes random cosines, through which no rule conserves relevance: use Nystroem, which "
        "with a linear model after it is one exact network"
    )


@transformers.register("sklearn.kernel_approximation.Nystroem")
def _nystroem(*_: Any) -> Features:
    raise UnsupportedModel("Nystroem must stand directly before a linear model, with which it is one network")
