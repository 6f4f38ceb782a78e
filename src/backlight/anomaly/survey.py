"""The first look at a table that is read in batches: how many rows, a sample of them, and witnesses.

A witness is the first row in which something shows that a sample may miss: a column's least and largest value, its
first missing cell, each of its first levels. With them the sample is understood as the whole table would be, except
for what is decided by counting.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backlight.batches.sources import Source
from backlight.errors import DataError, require
from backlight.tables import Frame
from backlight.tables.readers.typed import columns_of

__all__ = ["READ_ROWS", "Survey", "frame_of", "gather", "survey"]

READ_ROWS = 8192
# A sample of so many cells, and at least so many rows.
_SAMPLE_CELLS, _LEAST_SAMPLE = 1_000_000, 20_000
_MOST_LEVELS = 200
# Up to so many rows all positions are shuffled, as for a table in memory; a shuffle takes 8 bytes a row.
_MOST_SHUFFLED = 1 << 24
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What is known of a table after one pass.

    Attributes
    ----------
    rows : int
    sample : Frame
        Rows in their order: those that were drawn, and the witnesses; all rows of a small table.
    table : pyarrow.Table
        The same as they were read, less columns of fractions, which name no rows.
    positions : array of int
        Where they are in the table.
    order : array of int
        Which of them were drawn, in the order of the draw.
    counting : tuple of str
        Columns that count the rows.
    """

    rows: int
    sample: Frame
    table: Any
    positions: np.ndarray
    order: np.ndarray
    counting: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether the sample is the table."""
        return len(self.positions) == self.rows


def survey(source: Source, seed: int, ignored: Sequence[str], progress: Any) -> Survey:
    """Read a table once.

    Parameters
    ----------
    source : Source
    seed : int
        Decides what is drawn, as for a table in memory.
    ignored : sequence of str
        Columns that may hold infinite values.

    Raises
    ------
    DataError
        Where there are no rows, or for an infinite value.
    """
    rows = source.rows
    if rows is None:
        first = None if source.names is None else source.names[:1]
        rows = sum(len(table) for table in source.read(first, READ_ROWS, 0))
    if rows == 0:
        raise DataError("the table has no rows")
    width = max(1, len(source.names or ()))
    drawn = _drawn(rows, min(rows, max(_LEAST_SAMPLE, _SAMPLE_CELLS // width)), seed)
    wanted = np.sort(drawn)
    seen = {name: _Seen() for name in source.names or ()}
    parts, start = [], 0
    for table in source.read(None, READ_ROWS, 0):
        for name, known in seen.items():
            known.look(table.column(name), start)
        low, high = np.searchsorted(wanted, [start, start + len(table)])
        parts.append(table.take(wanted[low:high] - start))
        start += len(table)
        progress("reading", start, max(start, rows))
    if start != rows:
        raise DataError(f"the table changed while it was read: {rows:,} rows, then {start:,}")
    for name, known in seen.items():
        if known.infinite is not None and name not in ignored:
            raise DataError(
                f"column {name!r} is infinite in row {known.infinite + 1}: replace infinite values, or leave the "
                f"column out (--ignore {name})"
            )
    more = np.setdiff1d([row for known in seen.values() for row in known.rows], wanted)
    if len(more):
        parts.append(gather(source, more.astype(np.int64)))
    positions = np.concatenate([wanted, more]).astype(np.int64)
    place = np.argsort(positions, kind="stable")
    pyarrow = require("pyarrow", "scale", "reading tables in batches")
    table = pyarrow.concat_tables(parts)
    del parts
    table = table.take(place)
    named = [one.name for one in table.schema if not pyarrow.types.is_floating(one.type)]
    positions = positions[place]
    counting = tuple(name for name, known in seen.items() if known.counts and rows >= 10)
    return Survey(rows, frame_of(table), table.select(named), positions, np.searchsorted(positions, drawn), counting)


def _drawn(rows: int, most: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if rows <= _MOST_SHUFFLED:
        return rng.permutation(rows)[:most].copy()
    return rng.choice(rows, most, replace=False)


def gather(source: Source, positions: np.ndarray) -> Any:
    """The rows at some positions, in ascending order, as an Arrow table; the rest is read and let go."""
    pyarrow = require("pyarrow", "scale", "reading tables in batches")
    return pyarrow.concat_tables(list(_taken(source, positions)))


def _taken(source: Source, positions: np.ndarray) -> Iterator[Any]:
    first = int(positions[0]) // READ_ROWS * READ_ROWS
    start = first
    for table in source.read(None, READ_ROWS, first):
        low, high = np.searchsorted(positions, [start, start + len(table)])
        if high > low:
            yield table.take(positions[low:high] - start)
        start += len(table)
        if high == len(positions):
            return


def frame_of(table: Any) -> Frame:
    """An Arrow table as files are read: typed columns; pandas' own index columns without a name are left out."""
    kept = [name for name in table.column_names if not _PANDAS_INDEX.fullmatch(name)]
    names, columns = columns_of(table.select(kept))
    return Frame(tuple(names), tuple(columns), "file", True)


@dataclass(slots=True)
class _Seen:
    """What was seen of a column: rows that stand for it, whether it counts the rows, where it is infinite first."""

    ends: dict[str, tuple[Any, int]] = field(default_factory=dict)
    levels: dict[Any, int] = field(default_factory=dict)
    gap: int | None = None
    infinite: int | None = None
    counts: bool = True
    last: tuple[float, float] | None = None

    @property
    def rows(self) -> list[int]:
        found = [row for _, row in self.ends.values()] + list(self.levels.values())[:_MOST_LEVELS]
        return found + ([] if self.gap is None else [self.gap])

    def look(self, cells: Any, start: int) -> None:
        pyarrow = require("pyarrow", "scale", "reading tables in batches")
        compute = require("pyarrow.compute", "scale", "reading tables in batches")
        kind, types = cells.type, pyarrow.types
        if self.gap is None:
            at = compute.index(compute.is_null(cells, nan_is_null=True), True).as_py()
            self.gap = start + at if at >= 0 else None
        number = types.is_integer(kind) or types.is_floating(kind)
        self.counts = self.counts and number and self._goes_on(cells)
        if number or types.is_boolean(kind) or types.is_temporal(kind):
            self._ends(cells, start, compute)
            if types.is_floating(kind) and self.infinite is None:
                at = compute.index(compute.is_inf(cells), True).as_py()
                self.infinite = start + at if at >= 0 else None
        elif types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind):
            self._levels(cells, start, compute)

    def _ends(self, cells: Any, start: int, compute: Any) -> None:
        found = compute.min_max(cells)
        for end in ("min", "max"):
            value = found[end].as_py()
            if value is None or value != value:
                continue
            known = self.ends.get(end, (value, -1))
            if known[1] < 0 or (value < known[0] if end == "min" else value > known[0]):
                at = compute.index(cells, found[end]).as_py()
                self.ends[end] = (value, start + max(0, at))

    def _levels(self, cells: Any, start: int, compute: Any) -> None:
        if len(self.levels) >= _MOST_LEVELS:
            return
        plain = cells.cast(cells.type.value_type) if hasattr(cells.type, "value_type") else cells
        for level in compute.unique(plain):
            if level.is_valid and level.as_py() not in self.levels and len(self.levels) < _MOST_LEVELS:
                self.levels[level.as_py()] = start + compute.index(plain, level).as_py()

    def _goes_on(self, cells: Any) -> bool:
        """Whether whole numbers go on by the same step."""
        if cells.null_count or not len(cells):
            return False
        numbers = np.asarray(cells.to_numpy(), dtype=np.float64)
        if (numbers != np.round(numbers)).any():
            return False
        if self.last is not None:
            numbers = np.concatenate([[self.last[0]], numbers])
        steps = np.diff(numbers)
        if self.last is None and not len(steps):
            self.last = None
            return True
        step = self.last[1] if self.last is not None else float(steps[0])
        self.last = (float(numbers[-1]), step)
        return bool(step != 0 and (steps == step).all())
