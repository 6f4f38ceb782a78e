"""The tables that libraries take which read more of a data frame than its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backlight.errors import DataError, require

__all__ = ["CategoricalFrame", "Levels", "TextCategories", "category_text"]

# The levels of each column of categories, in the order of their codes; or how many codes there are, of bare numbers.
Levels = Mapping[int, Sequence[Any] | int]


@dataclass(frozen=True, slots=True, eq=False)
class CategoricalFrame:
    """A data frame whose categories are columns of dtype ``category``, with the levels that the model knows first.

    Attributes
    ----------
    levels : mapping of column to levels
    """

    levels: Levels

    def __call__(self, columns: Mapping[str, np.ndarray]) -> Any:
        """The data frame of named columns."""
        pandas = require("pandas", "test", "a model that was fitted on columns of categories")
        made = {}
        for j, (name, column) in enumerate(columns.items()):
            known = self.levels.get(j)
            made[name] = column if known is None else pandas.Categorical(column.tolist(), _with_new(column, known))
        return pandas.DataFrame(made)


def _with_new(column: np.ndarray, known: Sequence[Any] | int) -> list[Any]:
    """The levels, and behind them those of a column that are new."""
    seen = list(range(known)) if isinstance(known, int) else list(known)
    new = dict.fromkeys(v for v in column.tolist() if v is not None and v == v and v not in seen)
    return seen + list(new)


@dataclass(frozen=True, slots=True, eq=False)
class TextCategories:
    """A data frame whose categories are texts; whole numbers are written as such.

    Attributes
    ----------
    columns : frozenset of int
    """

    columns: frozenset[int]

    def __call__(self, columns: Mapping[str, np.ndarray]) -> Any:
        """The data frame of named columns."""
        pandas = require("pandas", "test", "a model that was fitted on columns of categories")
        made = {
            name: [category_text(cell) for cell in column.tolist()] if j in self.columns else column
            for j, (name, column) in enumerate(columns.items())
        }
        return pandas.DataFrame(made)


def category_text(cell: Any) -> str:
    """A category as text; of numbers whole ones only, and no missing cell."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int | float) and cell == cell and float(cell).is_integer():
        return str(int(cell))
    raise DataError(
        f"a column of categories holds {cell!r:.60}: write missing cells and fractions as text before fitting"
    )
