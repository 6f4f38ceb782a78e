"""Arrow's columns as ours: numbers as float64, moments and durations in their own types, equal texts as one object."""

from __future__ import annotations

from typing import Any

import numpy as np

from backlight.errors import require
from backlight.tables.frame import Unreadable

__all__ = ["Growing", "Interned", "columns_of"]

_EXACT = 2**53


# A column with more distinct texts than this, nearly one a row, is no column of categories.
_MOST_HELD = 50_000


class Growing:
    """A column that is read block by block, without a copy of the whole: pages not yet written take no memory."""

    def __init__(self, dtype: type) -> None:
        self._held: np.ndarray = np.empty(0, dtype=dtype)
        self._count = 0

    def append(self, cells: np.ndarray, expected: int) -> None:
        """Add a block; ``expected`` is how many cells there may be in all."""
        end = self._count + len(cells)
        if end > len(self._held):
            larger = np.empty(max(end, expected, 3 * len(self._held) // 2), dtype=self._held.dtype)
            larger[: self._count] = self._held[: self._count]
            self._held = larger
        self._held[self._count : end] = cells
        self._count = end

    @property
    def cells(self) -> np.ndarray:
        """What was added, (n,)."""
        return self._held[: self._count]


class Interned:
    """Texts as objects, each distinct one held once, over all blocks of a column."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._many = False

    def __call__(self, cells: Any) -> np.ndarray:
        """One block of texts, an array or chunks of Arrow's: objects of shape (n,), None where missing."""
        pyarrow = require("pyarrow", "cli", "reading files")
        if isinstance(cells, pyarrow.ChunkedArray):
            return np.concatenate([self(chunk) for chunk in cells.chunks] or [np.empty(0, dtype=object)])
        coded = cells if pyarrow.types.is_dictionary(cells.type) else cells.dictionary_encode()
        held = coded.dictionary.to_pylist()
        levels = np.empty(len(held) + 1, dtype=object)
        if not self._many and len(self._known) + len(held) > _MOST_HELD and 2 * len(held) > len(cells):
            self._many = True
            self._known.clear()
        if self._many:
            levels[:-1] = held
        else:
            levels[:-1] = [None if text is None else self._known.setdefault(text, text) for text in held]
        return np.asarray(levels[coded.indices.cast("int64").fill_null(len(held)).to_numpy(zero_copy_only=False)])

    def logical(self, column: np.ndarray) -> np.ndarray:
        """A column in which only true and false are written as numbers, any other as it is."""
        if not self._known or {text.lower() for text in self._known} - {"true", "false"}:
            return column
        return np.array([np.nan if text is None else float(text.lower() == "true") for text in column])


def columns_of(table: Any) -> tuple[list[str], list[np.ndarray]]:
    """Names and columns of a table or batch of Arrow's; the fields of a struct become columns, ``outer.inner``."""
    pyarrow = require("pyarrow", "cli", "reading files")
    if isinstance(table, pyarrow.RecordBatch):
        table = pyarrow.Table.from_batches([table])
    names: list[str] = []
    columns: list[np.ndarray] = []
    for name, cells in zip(table.column_names, table.columns, strict=True):
        if pyarrow.types.is_struct(cells.type):
            for field, inner in zip(cells.type, cells.combine_chunks().flatten(), strict=True):
                names.append(f"{name}.{field.name}")
                columns.append(_column(pyarrow.chunked_array([inner]), pyarrow))
        else:
            names.append(str(name))
            columns.append(_column(cells, pyarrow))
    return names, columns


def _column(cells: Any, pyarrow: Any) -> np.ndarray:
    kind, types = cells.type, pyarrow.types
    if isinstance(kind, pyarrow.ExtensionType | pyarrow.BaseExtensionType):
        cells = pyarrow.chunked_array([chunk.storage for chunk in cells.chunks], kind.storage_type)
        kind = cells.type
    if types.is_run_end_encoded(kind):
        cells = pyarrow.compute.run_end_decode(cells)
        kind = cells.type
    if types.is_dictionary(kind) and not _is_text(kind.value_type, types):
        cells = cells.cast(kind.value_type)
        kind = cells.type
    if types.is_null(kind):
        return np.full(len(cells), np.nan)
    if types.is_dictionary(kind) or _is_text(kind, types):
        return Interned()(cells)
    if types.is_temporal(kind) and not types.is_interval(kind):
        return _times(cells, kind, pyarrow)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind):
        return _numbers(cells, kind, pyarrow)
    out = np.empty(len(cells), dtype=object)
    out[:] = Unreadable(str(kind).partition("<")[0])
    return out


def _is_text(kind: Any, types: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _numbers(cells: Any, kind: Any, pyarrow: Any) -> np.ndarray:
    """Numbers as float64; whole numbers that it does not hold as Python's own."""
    numbers = np.array(cells.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    if pyarrow.types.is_integer(kind) and (np.abs(numbers) >= _EXACT).any():
        out = np.empty(len(cells), dtype=object)
        out[:] = cells.to_pylist()
        return out
    return numbers


def _times(cells: Any, kind: Any, pyarrow: Any) -> np.ndarray:
    """Moments by the clock on the wall, durations and times of day as timedelta64, whatever their range."""
    types = pyarrow.types
    if types.is_date(kind):
        unit, code = ("D", "M8") if types.is_date32(kind) else ("ms", "M8")
    else:
        if types.is_timestamp(kind) and kind.tz is not None:
            try:
                cells = pyarrow.compute.local_timestamp(cells)
            except pyarrow.ArrowInvalid:  # no zone is known for that moment: as it is, in UTC
                cells = cells.cast(pyarrow.timestamp(kind.unit))
        unit, code = kind.unit, "M8" if types.is_timestamp(kind) else "m8"
    storage = pyarrow.int32() if kind.bit_width == 32 else pyarrow.int64()
    counts = pyarrow.chunked_array([chunk.view(storage) for chunk in cells.chunks], storage).cast(pyarrow.int64())
    gone = np.iinfo(np.int64).min
    return np.array(counts.fill_null(gone).to_numpy(zero_copy_only=False)).view(f"{code}[{unit}]")
