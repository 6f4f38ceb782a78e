"""A table that is read in batches, each cell as the sample was understood that decided what the columns are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from backlight.tables.column import Column
from backlight.tables.columns import CODES, code_texts, understand
from backlight.tables.frame import Frame

__all__ = ["ReadAlike", "read_alike"]

# So many distinct texts of the sample are read with every batch: what a separator or a date means is theirs to say.
_WITNESSES = 500


@dataclass(frozen=True, slots=True, eq=False)
class ReadAlike:
    """How cells of further rows become columns.

    Attributes
    ----------
    columns : tuple of Column
        What was decided; their cells are not kept.
    witnesses : mapping of name to array of objects
        Texts of the sample, for columns of texts.
    placeholders : mapping of name to array of float
        Numbers that stand for "no value".
    """

    columns: tuple[Column, ...]
    witnesses: dict[str, np.ndarray]
    placeholders: dict[str, np.ndarray]

    def __call__(self, frame: Frame, start: int = 0) -> list[Column]:
        """The columns of a batch whose first row is row ``start`` of the table.

        Raises
        ------
        DataError
            For a cell that the column's kind cannot hold.
        """
        plain = [known for known in self.columns if known.kind != "ignored" and known.why != CODES]
        cells = {known.name: frame.column(known.name) for known in plain}
        before = max(
            (len(self.witnesses.get(name, ())) for name, held in cells.items() if held.dtype == object), default=0
        )
        both = [_behind(self.witnesses.get(name), held, before) for name, held in cells.items()]
        kinds = {known.name: known.kind for known in plain}
        found = understand(Frame(tuple(cells), tuple(both), "file", True), kinds, start - before) if plain else []
        by_name = {column.name: column for column in found}
        return [self._column(known, frame, by_name.get(known.name), before) for known in self.columns]

    def _column(self, known: Column, frame: Frame, found: Column | None, before: int) -> Column:
        if found is None:
            cells = frame.column(known.name)
            return replace(known, cells=cells if known.why != CODES else code_texts(cells))
        flagged = {row - before: text for row, text in found.flagged.items() if row >= before}
        return self.emptied(replace(known, cells=found.cells[before:], flagged=flagged))

    def emptied(self, column: Column) -> Column:
        """A column without the numbers that the sample has as placeholders."""
        marked = self.placeholders.get(column.name)
        if marked is None or column.kind != "number":
            return column
        where = np.isin(column.cells, marked)
        flagged = {**column.flagged, **{int(i): f"{column.cells[i]:g}" for i in np.flatnonzero(where)}}
        return replace(column, cells=np.where(where, np.nan, column.cells), flagged=flagged)


def _behind(witnesses: np.ndarray | None, cells: np.ndarray, before: int) -> np.ndarray:
    """The cells behind so many others, which are the column's witnesses or missing."""
    if not before:
        return cells
    if cells.dtype != object:
        return np.concatenate([np.full(before, np.nan if cells.dtype.kind == "f" else "NaT", dtype=cells.dtype), cells])
    held = np.full(before, None, dtype=object)
    if witnesses is not None:
        held[: len(witnesses)] = witnesses
    return np.concatenate([held, cells])


def read_alike(frame: Frame, columns: Sequence[Column]) -> ReadAlike:
    """From a sample and what its columns were taken for."""
    witnesses, placeholders = {}, {}
    for column in columns:
        cells = frame.column(column.name)
        if cells.dtype == object and column.kind in ("number", "date"):
            texts = list(dict.fromkeys(cell for cell in cells.tolist() if isinstance(cell, str)))
            step = -(-len(texts) // _WITNESSES) or 1
            held = np.empty(len(texts[::step]), dtype=object)
            held[:] = texts[::step]
            witnesses[column.name] = held
        if column.kind == "number" and cells.dtype == np.float64:
            gone = np.isnan(column.cells) & ~np.isnan(cells)
            if gone.any():
                placeholders[column.name] = np.unique(cells[gone])
    bare = tuple(replace(column, cells=column.cells[:0], flagged={}) for column in columns)
    return ReadAlike(bare, witnesses, placeholders)
