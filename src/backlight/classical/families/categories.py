"""Columns of categories that boosters take by the dtype of a data frame: their codes, and the trees behind them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from backlight.classical.frontend.features import Features
from backlight.classical.frontend.native_frames import CategoricalFrame, Levels
from backlight.classical.frontend.preprocessing import level_code
from backlight.classical.frontend.transformers import Lookup
from backlight.classical.layers import Layer
from backlight.classical.layers.composition import Member
from backlight.classical.layers.tree_table import TreeTable
from backlight.classical.layers.trees import Trees
from backlight.classical.network import Inputs
from backlight.errors import UnsupportedModel, UnsupportedOption

__all__ = ["Levels", "check_levels", "on_categories", "on_the_table"]


def on_the_table(inputs: Inputs, name: str) -> Features:
    """The features, where they are the columns of the table as they are."""
    features = inputs.features
    if features.linear is not None or features.layers or features.width != inputs.n_columns:
        raise UnsupportedModel(
            f"{name} knows categories by the dtype of a frame's columns, and stands behind other steps: fit it on the "
            "table itself, or encode the categories"
        )
    return features


def check_levels(levels: Levels, name: str) -> None:
    """Refuse levels that are neither texts nor numbers."""
    for column, known in levels.items():
        odd = [] if isinstance(known, int) else [one for one in known if not isinstance(one, str | int | float | bool)]
        if odd:
            raise UnsupportedOption(
                f"{name} has categories of type {type(odd[0]).__name__} in column {column}: write them as text"
            )


def on_categories(table: TreeTable, start: np.ndarray, levels: Levels, unseen: float | None, name: str) -> Any:
    """The function that makes the layer of trees whose columns of categories are looked up first.

    Parameters
    ----------
    table : TreeTable
        Of the codes.
    start : (U,) array
    levels : Levels
    unseen : float, optional
        The code of a level that was not seen; without one it is an error.
    name : str
        The model's.
    """
    check_levels(levels, name)

    def make(inputs: Inputs) -> Layer:
        features = on_the_table(inputs, name)
        features.vocabulary.native = CategoricalFrame(dict(levels))
        tables: list[tuple[int, list[float], list[float], float | None]] = []
        for column, known in levels.items():
            seen = list(range(known)) if isinstance(known, int) else list(known)
            codes = [level_code(level, column, features) for level in [*seen, math.nan]]
            other = len(seen) if isinstance(known, int) else unseen
            tables.append((column, codes, [*map(float, range(len(seen))), math.nan], other))
        chosen = np.array(list(levels), dtype=int)
        rest = np.setdiff1d(np.arange(features.width), chosen)
        blocks = [features.then(Lookup(tables, name), features.owner[chosen]), features.pick(rest)]
        whole = Features.side_by_side(blocks, features.vocabulary).pick(np.argsort(np.concatenate([chosen, rest])))
        elements, behind = inputs.behind(whole)
        return Member(elements, behind.pullback, Trees(table, start, behind.pullback))

    return make
