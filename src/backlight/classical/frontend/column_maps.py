"""Transformers of category-encoders and feature-engine that map columns one by one.

Which column an output is made from is read off its name. Numbers are computed by the library's own ``transform``; a
category's numbers are looked up once, level by level, by giving the library rows that differ in that column alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight.classical.frontend.features import Features
from backlight.classical.frontend.preprocessing import level_code, transformers
from backlight.classical.frontend.transformers import Lookup
from backlight.errors import UnsupportedModel, UnsupportedOption, require

__all__ = ["column_map"]

_UNSEEN = "backlight: a level that was not seen"
_CATEGORY = (
    "BackwardDifferenceEncoder", "BaseNEncoder", "BinaryEncoder", "CatBoostEncoder", "CountEncoder", "GLMMEncoder",
    "GrayEncoder", "HelmertEncoder", "JamesSteinEncoder", "LeaveOneOutEncoder", "MEstimateEncoder", "OneHotEncoder",
    "OrdinalEncoder", "PolynomialEncoder", "QuantileEncoder", "RankHotEncoder", "SumEncoder", "SummaryEncoder",
    "TargetEncoder", "WOEEncoder",
)  # fmt: skip
_ENGINE = {
    "encoding": ("CountFrequencyEncoder", "MeanEncoder", "OneHotEncoder", "OrdinalEncoder", "WoEEncoder"),
    "imputation": ("ArbitraryNumberImputer", "EndTailImputer", "MeanMedianImputer"),
    "transformation": (
        "ArcsinTransformer", "BoxCoxTransformer", "LogCpTransformer", "LogTransformer", "PowerTransformer",
        "ReciprocalTransformer", "YeoJohnsonTransformer",
    ),
    "outliers": ("ArbitraryOutlierCapper", "Winsorizer"),
    "discretisation": ("ArbitraryDiscretiser", "EqualFrequencyDiscretiser", "EqualWidthDiscretiser",
                       "GeometricWidthDiscretiser"),
    "scaling": ("MeanNormalizationScaler",),
    "selection": ("DropConstantFeatures", "DropCorrelatedFeatures", "DropDuplicateFeatures", "DropFeatures",
                  "SmartCorrelatedSelection"),
}  # fmt: skip


class OfFrame(nn.Module):
    """The library's own numbers, of a frame with the names that it knows."""

    def __init__(self, step: Any, names: list[str]) -> None:
        super().__init__()
        self.step, self.names = step, names

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, E) to (n, E')."""
        pandas = require("pandas", "test", "a transformer of data frames")
        frame = pandas.DataFrame(x.detach().cpu().double().numpy(), columns=self.names)
        return torch.as_tensor(np.array(self.step.transform(frame), dtype=np.float64)).to(x)


@transformers.register(
    *(f"category_encoders.{name}" for name in _CATEGORY),
    *(f"feature_engine.{room}.{name}" for room, names in _ENGINE.items() for name in names),
)
def column_map(step: Any, features: Features) -> Features:
    """Carry features through a map of columns."""
    name = type(step).__name__
    if features.linear is not None or features.owner.ndim == 2:
        raise UnsupportedModel(f"{name} after a projection or a product cannot be carried back: put it before")
    names = [str(one) for one in step.feature_names_in_]
    made = [str(one) for one in step.get_feature_names_out()]
    source = np.array([_source(one, names, name) for one in made])
    levels = _levels(step, names)
    if not levels:
        return features.then(OfFrame(step, names), features.owner[source])
    return _looked_up(step, features, names, source, levels)


def _source(made: str, names: list[str], step: str) -> int:
    """The column that an output is named after."""
    found = [k for k, name in enumerate(names) if made == name or made.startswith(f"{name}_")]
    if not found:
        raise UnsupportedOption(f"{step} makes {made!r}, which is named after no column: apply it before fitting")
    return max(found, key=lambda k: len(names[k]))


def _levels(step: Any, names: list[str]) -> dict[int, list[Any]]:
    """The levels that each encoded column was fitted on."""
    inner = getattr(step, "ordinal_encoder", step)
    if hasattr(step, "base_n_encoder"):
        inner = step.base_n_encoder.ordinal_encoder
    mapped = getattr(inner, "category_mapping", None)
    if mapped is None and isinstance(getattr(inner, "mapping", None), list):
        mapped = inner.mapping
    found: dict[str, Any] = {}
    if mapped is not None:
        found = {one["col"]: list(getattr(one["mapping"], "index", one["mapping"])) for one in mapped}
    elif isinstance(getattr(inner, "mapping", None), dict):
        found = {column: list(series.index) for column, series in inner.mapping.items()}
    elif hasattr(step, "encoder_dict_"):
        found = {column: list(seen) for column, seen in step.encoder_dict_.items()}
    return {names.index(str(column)): seen for column, seen in found.items()}


def _looked_up(
    step: Any, features: Features, names: list[str], source: np.ndarray, levels: dict[int, list[Any]]
) -> Features:
    """Tables of every encoded column, and the numbers beside them as they are."""
    pandas = require("pandas", "test", "a transformer of data frames")
    usual = {k: (_present(levels[k])[0] if k in levels else 0.0) for k in range(len(names))}
    tables: list[tuple[int, list[float], list[float], float | None]] = []
    order, passed, place = [], [], 0
    read: dict[int, tuple[list[Any], np.ndarray, np.ndarray | None]] = {}
    for k, seen in levels.items():
        known = _present(seen)
        probe = pandas.DataFrame([{**usual, k: level} for level in known]).reindex(columns=range(len(names)))
        probe.columns = names
        numbers = np.asarray(step.transform(probe), dtype=float)
        unseen = pandas.DataFrame([{**usual, k: _UNSEEN}]).reindex(columns=range(len(names)))
        unseen.columns = names
        try:
            other = np.asarray(step.transform(unseen), dtype=float)[0]
        except Exception:  # the library refuses what it has not seen, and so does the table
            other = None
        read[k] = (known, numbers, other)
    for j, k in enumerate(source.tolist()):
        if k not in levels:
            passed.append(k)
            order.append(("passed", len(passed) - 1))
            continue
        known, numbers, other = read[k]
        codes = [level_code(level, int(features.owner[k]), features) for level in known]
        fallback = None if other is None or not np.isfinite(other[j]) else float(other[j])
        tables.append((k, codes, numbers[:, j].tolist(), fallback))
        order.append(("table", place))
        place += 1
    encoded = features.then(Lookup(tables, type(step).__name__), features.owner[source[np.isin(source, list(levels))]])
    blocks = [encoded] + ([features.pick(np.array(passed))] if passed else [])
    whole = Features.side_by_side(blocks, features.vocabulary)
    return whole.pick(np.array([at if kind == "table" else place + at for kind, at in order]))


def _present(levels: list[Any]) -> list[Any]:
    """Levels that are no mark of something missing."""
    kept = [level for level in levels if not (level is None or level != level or _is_mark(level))]
    return kept or levels


def _is_mark(level: Any) -> bool:
    """Whether a level is one of the negative numbers that stand for something unknown or missing."""
    return isinstance(level, float | int) and level in (-1, -2)
