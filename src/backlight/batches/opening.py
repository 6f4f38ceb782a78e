"""From anything that rows are read from to a `Source`: one function a class, by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from backlight.batches.files import open_files
from backlight.batches.sources import Frames, Source, Stream, arrow, length_of
from backlight.errors import DataError
from backlight.tables import is_stream

__all__ = ["open_rows", "register"]

_OPENERS: dict[str, Callable[[Any], Source]] = {}


def register(*classes: str) -> Callable[[Callable[[Any], Source]], Callable[[Any], Source]]:
    """Say how rows are read from objects of a class, ``"package.Class"``."""

    def keep(function: Callable[[Any], Source]) -> Callable[[Any], Source]:
        _OPENERS.update(dict.fromkeys(classes, function))
        return function

    return keep


def open_rows(source: Any) -> Source:
    """Open anything that rows are read from; see `backlight.explain_batches`.

    Raises
    ------
    DataError, FileError
    """
    if isinstance(source, str | Path):
        return open_files([source])
    if isinstance(source, list | tuple) and source and all(isinstance(one, str | Path) for one in source):
        return open_files(source)
    for cls in type(source).__mro__:
        opener = _OPENERS.get(f"{cls.__module__.partition('.')[0]}.{cls.__name__}")
        if opener is not None:
            return opener(source)
    if hasattr(source, "shape"):
        return Frames([source], length_of(source))
    if hasattr(source, "__arrow_c_stream__"):
        return _reader(arrow().RecordBatchReader.from_stream(source))
    if is_stream(source) or isinstance(source, list | tuple):
        return Frames(source)
    raise DataError(
        f"cannot read rows from {type(source).__module__}.{type(source).__name__}: give paths, an Arrow dataset or "
        "stream, a polars or DuckDB query, or frames one after the other"
    )


@register("pyarrow.RecordBatchReader")
def _reader(source: Any) -> Source:
    return Stream(source.schema, lambda columns, rows: source)


@register("pyarrow.Table", "pyarrow.RecordBatch")
def _table(source: Any) -> Source:
    def start(columns: list[str], batch_rows: int) -> Iterable[Any]:
        picked = source.select(columns)
        return picked.to_batches() if isinstance(picked, arrow().Table) else [picked]

    return Stream(source.schema, start, source.num_rows)


@register("pyarrow.Dataset", "pyarrow.FileSystemDataset", "pyarrow.UnionDataset", "pyarrow.InMemoryDataset")
def _dataset(source: Any) -> Source:
    return Stream(source.schema, lambda columns, rows: source.to_batches(columns=columns, batch_size=rows))


@register("pyarrow.Scanner")
def _scanner(source: Any) -> Source:
    return Stream(source.projected_schema, lambda columns, rows: source.to_reader())


@register("polars.LazyFrame")
def _lazy(source: Any) -> Source:
    schema = source.head(0).collect().to_arrow().schema

    def start(columns: list[str], rows: int) -> Iterable[Any]:
        if not hasattr(source, "collect_batches"):
            raise DataError("a LazyFrame is read in batches by polars 1.34 or later: update polars, or sink it first")
        frames = source.select(columns).collect_batches(chunk_size=rows, maintain_order=True)
        return (batch for frame in frames for batch in frame.to_arrow().to_batches())

    return Stream(schema, start)


@register("duckdb.DuckDBPyRelation", "_duckdb.DuckDBPyRelation")
def _relation(source: Any) -> Source:
    schema = source.limit(0).to_arrow_table().schema

    def start(columns: list[str], rows: int) -> Iterable[Any]:
        quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
        reader: Iterable[Any] = source.project(quoted).to_arrow_reader(rows)
        return reader

    return Stream(schema, start)
