"""Transformers of category-encoders and feature-engine that map columns one by one.

Which column an output is made from is read off its name. Numbers are computed by the library's own ``transform``; a
category's numbers are looked up, see `backlight.classical.frontend.level_tables`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight.classical.frontend.features import Features
from backlight.classical.frontend.level_tables import levels_of, looked_up
from backlight.classical.frontend.preprocessing import level_code, transformers
from backlight.classical.frontend.transformers import Lookup
from backlight.errors import UnsupportedModel, UnsupportedOption, require

__all__ = ["column_map"]

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
    levels = levels_of(step, names)
    if not levels:
        filled = features.owner[[names.index(str(one)) for one in getattr(step, "imputer_dict_", ())]]
        imputed = features.imputed | frozenset(int(column) for column in filled)
        return replace(features.then(OfFrame(step, names), features.owner[source]), imputed=imputed)
    return looked_up(step, features, names, source, levels)


def _source(made: str, names: list[str], step: str) -> int:
    """The column that an output is named after."""
    found = [k for k, name in enumerate(names) if made == name or made.startswith(f"{name}_")]
    if not found:
        raise UnsupportedOption(f"{step} makes {made!r}, which is named after no column: apply it before fitting")
    return max(found, key=lambda k: len(names[k]))


@transformers.register("feature_engine.encoding.RareLabelEncoder")
def rare_labels(step: Any, features: Features) -> Features:
    """Levels that are kept, and one for all others."""
    if features.linear is not None or features.owner.ndim == 2:
        raise UnsupportedModel("RareLabelEncoder after a projection or a product cannot be carried back: put it before")
    names = [str(one) for one in step.feature_names_in_]
    kept = {names.index(str(column)): list(levels) for column, levels in step.encoder_dict_.items()}
    tables: list[tuple[int, list[float], list[float], float | None]] = []
    for k, levels in kept.items():
        column = int(features.owner[k])
        codes = [level_code(level, column, features) for level in levels]
        rare = level_code(step.replace_with, column, features)
        nothing = float("nan") if step.missing_values == "ignore" else rare
        tables.append((k, [*codes, float("nan")], [*codes, nothing], rare))
    chosen = np.array(list(kept), dtype=int)
    rest = np.setdiff1d(np.arange(len(names)), chosen)
    blocks = [features.then(Lookup(tables, "RareLabelEncoder"), features.owner[chosen]), features.pick(rest)]
    return Features.side_by_side(blocks, features.vocabulary).pick(np.argsort(np.concatenate([chosen, rest])))
