"""Models of CatBoost whose splits are its own to ask: on counts of categories, and trees that are not symmetric.

Its categories are hashes and counts of them, alone and together, so that score and Shapley values are its own:
``predict(prediction_type="RawFormulaVal")`` and ``get_feature_importance(type="ShapValues")``, in double precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from backlight.classical.families.categories import on_the_table
from backlight.classical.frontend.native_frames import TextCategories
from backlight.classical.layers import Layer
from backlight.classical.layers.contributed import Contributed
from backlight.classical.network import Inputs
from backlight.errors import DataError, require

__all__ = ["asked_of_the_library"]


def asked_of_the_library(model: Any, units: int, raw: Callable[[Any, Any], np.ndarray]) -> Callable[[Inputs], Layer]:
    """The function that makes the layer of a model of so many units, whose raw score a function computes."""
    categories = sorted(int(column) for column in model.get_cat_feature_indices())
    names = [str(name) for name in model.feature_names_]

    def shares(table: Any) -> np.ndarray:
        catboost = require("catboost", "boosting", "explaining a model of CatBoost")
        pool = catboost.Pool(table, cat_features=categories)
        found = np.asarray(model.get_feature_importance(pool, type="ShapValues"), dtype=float)
        return found[:, :, None] if found.ndim == 2 else found.transpose(0, 2, 1)

    def make(inputs: Inputs) -> Layer:
        vocabulary = on_the_table(inputs, type(model).__name__).vocabulary
        vocabulary.native = TextCategories(frozenset(categories))
        for column in categories:
            vocabulary.open.add(column)
            vocabulary.codes.setdefault(column, {})

        def table(coded: np.ndarray) -> Any:
            columns: dict[str, np.ndarray] = dict(zip(names, coded.T, strict=True))
            for column in categories:
                columns[names[column]] = _levels(coded[:, column], vocabulary.codes[column])
            return vocabulary.native(columns)  # type: ignore[misc]

        return Contributed(table, lambda rows: raw(model, rows), shares, units, inputs.pullback)

    return make


def _levels(codes: np.ndarray, known: dict[Any, int]) -> np.ndarray:
    """The texts of codes."""
    texts = list(known)  # in the order of their codes
    odd = (codes < 0) | (codes >= len(texts)) | (codes % 1 != 0)
    if odd.any():
        raise DataError(
            f"row {odd.argmax()} holds the code {codes[odd.argmax()]} of no category: give the table itself"
        )
    return np.array([texts[code] for code in codes.astype(int)], dtype=object)
