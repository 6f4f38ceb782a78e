"""Scikit-learn's transformers as layers, one function each.

A function takes the fitted transformer and the features before it, and returns the features after it. All reads
of the transformers' attributes stand here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight.classical.frontend.features import Features, MultiplyAdd
from backlight.classical.layers.pullback import owned
from backlight.classical.registry import ClassRegistry
from backlight.errors import DataError, UnsupportedModel, UnsupportedOption

__all__ = ["level_code", "transformers"]

transformers: ClassRegistry[Callable[[Any, Features], Features]] = ClassRegistry()


def _or(value: Any, width: int, fill: float) -> np.ndarray:
    return np.full(width, fill) if value is None else np.asarray(value, dtype=float)


@transformers.register("sklearn.preprocessing.StandardScaler")
def _standard_scaler(step: Any, features: Features) -> Features:
    width = features.width
    shift = step.mean_ if step.with_mean else None
    return features.scaled(_or(shift, width, 0.0), _or(step.scale_, width, 1.0))


@transformers.register("sklearn.preprocessing.RobustScaler")
def _robust_scaler(step: Any, features: Features) -> Features:
    width = features.width
    return features.scaled(_or(step.center_, width, 0.0), _or(step.scale_, width, 1.0))


@transformers.register("sklearn.preprocessing.MaxAbsScaler")
def _max_abs_scaler(step: Any, features: Features) -> Features:
    if getattr(step, "clip", False):
        return _clipped(step, features, 1 / step.scale_, np.zeros(features.width), (-1.0, 1.0))
    return features.scaled(np.zeros(features.width), step.scale_)


@transformers.register("sklearn.preprocessing.MinMaxScaler")
def _min_max_scaler(step: Any, features: Features) -> Features:
    clip = tuple(float(bound) for bound in step.feature_range) if step.clip else None
    return _clipped(step, features, step.scale_, step.min_, clip)


def _clipped(step: Any, features: Features, factor: np.ndarray, term: np.ndarray, clip: Any) -> Features:
    if features.linear is None:
        return features.then(MultiplyAdd(factor, term, clip))
    if clip is not None:
        raise UnsupportedOption(
            f"{type(step).__name__}(clip=True) after a projection cannot be carried back exactly: "
            "put the scaler before the projection, or use clip=False"
        )
    return features.scaled(-term / factor, 1 / factor)


# -- imputation --------------------------------------------------------------------------------------------------------


class Impute(nn.Module):
    """Missing cells replaced by a statistic; optionally one indicator for each column that had any at fit time."""

    marks: Tensor
    statistics: Tensor
    kept: Tensor
    indicated: Tensor

    def __init__(self, statistics: np.ndarray, marks: np.ndarray, kept: np.ndarray, indicated: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("marks", owned(marks))
        self.register_buffer("statistics", owned(statistics))
        self.register_buffer("kept", owned(kept, torch.long))
        self.register_buffer("indicated", owned(indicated, torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, E) to (n, kept + indicated)."""
        gone = (x == self.marks) | (torch.isnan(x) & torch.isnan(self.marks))
        filled = torch.where(gone, self.statistics, x)
        return torch.cat([filled[:, self.kept], gone[:, self.indicated].to(x.dtype)], 1)


@transformers.register("sklearn.impute.SimpleImputer")
def _simple_imputer(step: Any, features: Features) -> Features:
    missing = step.missing_values
    if missing is not None and not isinstance(missing, int | float | np.number):
        raise UnsupportedOption(
            f"SimpleImputer(missing_values={missing!r}) is not supported: only NaN, None or a number"
        )
    if features.linear is not None or features.owner.ndim == 2:
        raise UnsupportedModel(
            "SimpleImputer after a projection or a product cannot be carried back: put it before, where cells can be "
            "missing"
        )
    statistics = np.array(
        [_statistic(v, int(c), features) for v, c in zip(step.statistics_, features.owner, strict=True)]
    )
    marks = np.array(
        [_mark(missing, v, int(c), features) for v, c in zip(step.statistics_, features.owner, strict=True)]
    )
    kept = np.arange(len(statistics)) if step.keep_empty_features else np.flatnonzero(~np.isnan(statistics))
    statistics = np.where(np.isnan(statistics), 0.0, statistics)
    indicated = step.indicator_.features_ if step.add_indicator else np.zeros(0, dtype=int)
    owner = np.concatenate([features.owner[kept], features.owner[indicated]])
    layer = Impute(statistics, marks, kept, indicated)
    imputed = features.imputed | frozenset(int(column) for column in features.owner)
    return replace(features.then(layer, owner), imputed=imputed)


def _statistic(value: Any, column: int, features: Features) -> float:
    if isinstance(value, str):
        return features.vocabulary.code(column, value)
    return float("nan") if value is None else float(value)


def _mark(missing: Any, statistic: Any, column: int, features: Features) -> float:
    """The code of a missing cell: None is a category of text, and NaN among numbers."""
    if missing is not None:
        if missing != missing:
            features.vocabulary.knows_nan.add(column)
        return float(missing)
    return features.vocabulary.code(column, None) if isinstance(statistic, str) else float("nan")


# -- categories --------------------------------------------------------------------------------------------------------


class OneHot(nn.Module):
    """One indicator a level; levels may share an indicator (infrequent ones) or have none (dropped ones)."""

    element: Tensor
    level: Tensor
    target: Tensor
    fallback: Tensor

    def __init__(
        self,
        element: list[int],
        level: list[float],
        target: list[int],
        fallback: list[int],
        width: int,
        strict: bool,
    ) -> None:
        super().__init__()
        self.width = width
        self.strict = strict
        self.register_buffer("element", torch.tensor(element, dtype=torch.long))
        self.register_buffer("level", torch.tensor(level, dtype=torch.float64))
        self.register_buffer("target", torch.tensor(target, dtype=torch.long))
        self.register_buffer("fallback", torch.tensor(fallback, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, E) of codes to (n, indicators)."""
        cells = x[:, self.element]
        hit = ((cells == self.level) | (torch.isnan(cells) & torch.isnan(self.level))).to(x.dtype)
        out = x.new_zeros((len(x), self.width + 1))  # the last one collects dropped levels
        out.index_add_(1, self.target, hit)
        known = x.new_zeros(x.shape).index_add_(1, self.element, hit)
        if self.strict and bool((known == 0).any()):
            row, k = torch.nonzero(known == 0)[0].tolist()
            raise DataError(
                f"row {row} has a category in encoded column {k} that OneHotEncoder did not see when it was fitted: "
                "fit it with handle_unknown='ignore' to accept new categories"
            )
        out.index_add_(1, self.fallback, 1 - known)
        return out[:, : self.width]


@transformers.register("sklearn.preprocessing.OneHotEncoder")
def _one_hot(step: Any, features: Features) -> Features:
    if features.linear is not None or features.owner.ndim == 2:
        raise UnsupportedModel("OneHotEncoder after a projection or a product cannot be carried back: encode before it")
    rare = step.infrequent_categories_ if _has_infrequent(step) else [None] * len(step.categories_)
    if step.drop is not None and any(r is not None for r in rare):
        raise UnsupportedOption(
            "OneHotEncoder(drop=…) together with infrequent categories is not supported: use one of the two"
        )
    dropped = step.drop_idx_ if step.drop_idx_ is not None else [None] * len(step.categories_)
    element, level, target, owner, fallback = [], [], [], [], []
    width = 0
    nowhere = -1  # until the width is known: the column after the last indicator, which is cut off
    for k, (categories, infrequent, drop) in enumerate(zip(step.categories_, rare, dropped, strict=True)):
        column = int(features.owner[k])
        merged = set() if infrequent is None else {_key(value) for value in infrequent}
        plain = [i for i, value in enumerate(categories) if _key(value) not in merged and i != drop]
        place = {i: width + n for n, i in enumerate(plain)}
        rest = width + len(plain) if merged else nowhere
        for i, value in enumerate(categories):
            element.append(k)
            level.append(level_code(value, column, features))
            target.append(place.get(i, rest if _key(value) in merged else nowhere))
        fallback.append(rest if step.handle_unknown in ("infrequent_if_exist", "warn") else nowhere)
        count = len(plain) + bool(merged)
        owner += [column] * count
        width += count
    target = [width if t == nowhere else t for t in target]
    fallback = [width if f == nowhere else f for f in fallback]
    layer = OneHot(element, level, target, fallback, width, step.handle_unknown == "error")
    return features.then(layer, np.asarray(owner, dtype=int))


def _has_infrequent(step: Any) -> bool:
    return step.min_frequency is not None or step.max_categories is not None


def _key(value: Any) -> Any:
    return "nan" if value != value else (type(value).__name__, value)


def level_code(value: Any, column: int, features: Features) -> float:
    """The code of a category."""
    if value is not None and value != value:
        features.vocabulary.knows_nan.add(column)
        return float("nan")
    if isinstance(value, int | float | bool | np.number | np.bool_):
        return float(value)
    return features.vocabulary.code(column, value)
