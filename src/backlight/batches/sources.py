"""Rows that are read in batches: of a stream of Arrow, of frames in turn."""

from __future__ import annotations

import hashlib
import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np

from backlight.errors import ColumnsError, listed, require
from backlight.tables import Frame, as_frame

__all__ = [
    "Frames",
    "Source",
    "Stream",
    "arrow",
    "column_of",
    "digest_of",
    "length_of",
    "rebatched",
    "same_columns",
    "without",
]


class Source:
    """Rows that are read in batches.

    Attributes
    ----------
    names : tuple of str, optional
        The columns, where they have names.
    rows : int, optional
        How many rows there are, where that is known beforehand.
    fingerprint : str, optional
        What the rows are, where that can be told without reading them.
    """

    names: tuple[str, ...] | None = None
    rows: int | None = None
    fingerprint: str | None = None

    @abstractmethod
    def kind_of(self, column: str) -> Any:
        """The Arrow type of a column."""

    @abstractmethod
    def read(self, columns: Sequence[str] | None, batch_rows: int, start: int) -> Iterator[Any]:
        """Tables of ``batch_rows`` rows, the last one shorter, from row ``start`` on: a multiple of ``batch_rows``."""

    def check(self, columns: Iterable[str]) -> None:
        """Refuse columns that are not there."""
        unknown = [name for name in columns if self.names is not None and name not in self.names]
        if unknown:
            raise ColumnsError(f"the source has no column {unknown[0]!r}: it has {listed(self.names or ())}")


def arrow() -> Any:
    """Pyarrow."""
    return require("pyarrow", "scale", "explaining in batches")


def rebatched(batches: Iterable[Any], rows: int, skip: int = 0) -> Iterator[Any]:
    """Arrow tables of exactly so many rows, the last one shorter, after the first ``skip`` rows."""
    held: list[Any] = []
    count = 0
    for batch in batches:
        gone = min(skip, batch.num_rows)
        skip, batch = skip - gone, batch.slice(gone)
        while batch.num_rows:
            some = batch.slice(0, rows - count)
            batch = batch.slice(some.num_rows)
            held.append(some)
            count += some.num_rows
            if count == rows:
                yield arrow().Table.from_batches(held)
                held, count = [], 0
    if held:
        yield arrow().Table.from_batches(held)


class Stream(Source):
    """An Arrow schema, and a function that starts a stream of record batches of some of its columns."""

    def __init__(
        self,
        schema: Any,
        start: Callable[[list[str], int], Iterable[Any]],
        rows: int | None = None,
        fingerprint: str | None = None,
    ) -> None:
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if twice:
            raise ColumnsError(f"column names occur twice: {listed(twice)}: rename them")
        self.schema, self._start = schema, start
        self.names, self.rows, self.fingerprint = tuple(schema.names), rows, fingerprint

    def kind_of(self, column: str) -> Any:
        """See `Source.kind_of`."""
        return self.schema.field(column).type

    def read(self, columns: Sequence[str] | None, batch_rows: int, start: int) -> Iterator[Any]:
        """See `Source.read`."""
        wanted = list(self.schema.names if columns is None else columns)
        stream = (batch.select(wanted) for batch in self._start(wanted, batch_rows))
        return rebatched(stream, batch_rows, start)


class Frames(Source):
    """Tables in memory, one after the other; each keeps its own batches, and its kind."""

    def __init__(self, frames: Iterable[Any], rows: int | None = None) -> None:
        stream = iter(frames)
        self._first = next(stream, None)
        self._frames = stream if self._first is None else itertools.chain([self._first], stream)
        self.rows = rows
        if self._first is not None:
            frame = as_frame(_inputs(self._first))
            self.names = frame.names if frame.named else None
            self.width = len(frame.names)

    def kind_of(self, column: str) -> Any:
        """See `Source.kind_of`."""
        return column_of(_inputs(self._first), column).type

    def read(self, columns: Sequence[str] | None, batch_rows: int, start: int) -> Iterator[Any]:
        """See `Source.read`; batches end where frames do."""
        done = 0
        for item in self._frames:
            whole = _inputs(item)
            for first in range(0, length_of(whole), batch_rows):
                some = _cut(whole, first, first + batch_rows)
                done += length_of(some)
                if done > start:
                    yield some if columns is None or self.names is None else _selected(some, columns)


def _inputs(item: Any) -> Any:
    """A frame, of a batch that may have labels beside it; a record batch as a table, which is one."""
    found = item[0] if isinstance(item, tuple) and item else item
    return arrow().Table.from_batches([found]) if type(found).__name__ == "RecordBatch" else found


def length_of(table: Any) -> int:
    """How many rows there are in a table of any kind."""
    return int(table.shape[0]) if hasattr(table, "shape") else len(table)


def _cut(table: Any, first: int, last: int) -> Any:
    if first == 0 and last >= length_of(table):
        return table
    if isinstance(table, Frame):
        return table.take(slice(first, last))
    native = nw.from_native(table, eager_only=True, pass_through=True)
    return native[first:last].to_native() if isinstance(native, nw.DataFrame) else table[first:last]


def _selected(table: Any, columns: Sequence[str]) -> Any:
    if isinstance(table, Frame):
        return table.select(columns)
    return nw.from_native(table, eager_only=True).select(list(columns)).to_native()


def without(table: Any, name: str) -> Any:
    """A table without one of its columns."""
    if isinstance(table, Frame):
        return table.select([other for other in table.names if other != name])
    return nw.from_native(table, eager_only=True).drop(name).to_native()


def column_of(table: Any, name: str) -> Any:
    """A column of any table as an Arrow array, for the ids of rows."""
    if isinstance(table, Frame):
        return arrow().array(table.column(name).tolist())
    found = nw.from_native(table, eager_only=True)[name].to_arrow()
    return found.combine_chunks() if isinstance(found, arrow().ChunkedArray) else found


def same_columns(path: Path, found: Any, first: Path, schema: Any) -> None:
    """Refuse a file whose columns are not those of the first one."""
    if set(found.names) != set(schema.names):
        other = listed(sorted(set(found.names) ^ set(schema.names)))
        raise ColumnsError(f"{path} has other columns than {first} ({other}): give files of the same columns")


def digest_of(table: Any) -> bytes:
    """What the rows of a table are, for sources that have no fingerprint."""
    frame = as_frame(table)
    digest = hashlib.blake2b(digest_size=16)
    for column in frame.columns:
        plain = column if column.dtype != object else np.array([repr(cell) for cell in column], dtype=np.str_)
        digest.update(np.ascontiguousarray(plain).tobytes())
    return digest.digest()
