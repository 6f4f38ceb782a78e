"""A column, and how it was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["KINDS", "Column", "Written"]


KINDS = ("number", "category", "date", "identifier", "ignored")


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """A column and what it was taken for.

    Attributes
    ----------
    name : str
    kind : str
        One of `KINDS`.
    why : str
        The reason, for people.
    cells : array of shape (n,)
        float64 for numbers, datetime64 for dates, otherwise objects with ``None`` for missing cells.
    flagged : mapping of int to str
        Cells that should hold a number or a date and hold something else, by row, as they were written; ``cells``
        has them as missing.
    notes : tuple of str
        What was decided about the column's cells and could have been decided otherwise, in sentences.
    """

    name: str
    kind: str
    why: str
    cells: np.ndarray
    flagged: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> np.ndarray:
        """Which cells hold nothing that the kind can use, (n,)."""
        if self.cells.dtype.kind in "Mm":
            return np.asarray(np.isnat(self.cells))
        if self.cells.dtype == np.float64:
            return np.asarray(np.isnan(self.cells))
        return np.array([v is None for v in self.cells], dtype=bool)


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """The cells of some columns as the user wrote them, boxed only for the rows that are asked for."""

    columns: tuple[Column, ...]

    @staticmethod
    def of(columns: Sequence[Column], names: Sequence[str]) -> Written:
        """Of the columns with these names, in this order."""
        by_name = {column.name: column for column in columns}
        return Written(tuple(by_name[name] for name in names))

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """The cells of these rows, an array of objects of shape (m, d)."""
        out = np.empty((len(rows), len(self.columns)), dtype=object)
        for j, column in enumerate(self.columns):
            out[:, j] = column.cells[rows]
            for i, row in enumerate(rows):
                out[i, j] = column.flagged.get(int(row), out[i, j])
        return out
