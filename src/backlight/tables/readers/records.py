"""JSON: arrays of records, columns, what pandas writes, one level of nesting; and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from backlight.errors import FileError
from backlight.tables.frame import Unreadable
from backlight.tables.readers.encoding import decoded, encoding_of
from backlight.tables.readers.registry import Options, Table, reader
from backlight.tables.readers.source import Source

__all__ = ["read_json", "read_json_lines"]


@reader("JSON lines", endings=(".jsonl", ".ndjson"))
def read_json_lines(source: Source, options: Options) -> Table:
    """Read one record a line."""
    encoding, notes = encoding_of(source)
    with source.open() as stream:
        return _table(_lines(decoded(stream, encoding), source.name), notes)


def _lines(stream: Iterable[bytes], name: str) -> Iterator[Any]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            held = json.loads(line)
        except json.JSONDecodeError as error:
            raise FileError(f"{name}: line {number} is not JSON ({error.msg}): is it cut off?") from error
        if not isinstance(held, dict):
            raise FileError(f"{name}: line {number} is not a record in braces")
        yield held


@reader("JSON", endings=(".json", ".geojson"))
def read_json(source: Source, options: Options) -> Table:
    """Read records, columns, or rows of values, also where they lie under one key of an object."""
    encoding, notes = encoding_of(source)
    with source.open() as stream:
        text = decoded(stream, encoding).read()
    try:
        held = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # several records, one after the other
            return _table(_many(text.decode("utf-8"), source.name), notes)
        raise FileError(f"{source.name} is not JSON ({error.msg}, line {error.lineno}): is it cut off?") from error
    return _of(held, source.name, notes)


def _many(text: str, name: str) -> Iterator[Any]:
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        try:
            held, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise FileError(f"{name} is not JSON ({error.msg}, line {error.lineno}): is it cut off?") from error
        if not isinstance(held, dict):
            raise FileError(f"{name} holds values one after the other that are no records in braces")
        yield held
        while at < len(text) and text[at].isspace():
            at += 1


def _of(held: Any, name: str, notes: tuple[str, ...]) -> Table:
    if isinstance(held, list) and held:
        if all(isinstance(row, dict) for row in held):
            return _table(held, notes)
        if all(isinstance(row, list) for row in held):
            return _rows(held, None, name, notes)
    if isinstance(held, dict) and held:
        if isinstance(held.get("columns"), list) and isinstance(held.get("data"), list):
            return _rows(held["data"], [str(c) for c in held["columns"]], name, notes)
        if "schema" in held and isinstance(held.get("data"), list):
            return _of(held["data"], name, notes)
        values = list(held.values())
        if all(isinstance(v, list) for v in values) and not any(isinstance(c, dict) for v in values for c in v[:1]):
            return _by_column(held, name, notes)
        if all(isinstance(v, dict) for v in values):
            return _of_dicts(held, notes)
        inner = [k for k, v in held.items() if isinstance(v, list) and v and isinstance(v[0], dict | list)]
        if len(inner) == 1:
            said = f"The records under {inner[0]!r} are read; the rest of the file is not."
            return _of(held[inner[0]], name, (*notes, *((said,) if len(held) > 1 else ())))
    raise FileError(f"{name} is JSON, but no table: give an array of records, or an object of columns")


def _of_dicts(held: Mapping[str, Mapping[str, Any]], notes: tuple[str, ...]) -> Table:
    """Columns of rows by index ({"a": {"0": 1}}) or rows by index ({"0": {"a": 1}}): what counts up, is the rows."""
    outer, inner = list(held), [key for cells in held.values() for key in list(cells)[:3]]
    by_row = all(k.lstrip("-").isdigit() for k in outer) and not all(k.lstrip("-").isdigit() for k in inner)
    if not by_row and len({tuple(cells) for cells in held.values()}) > 1 and len(outer) > len(set(inner)):
        by_row = True
    if by_row:
        return _table(held.values(), notes)
    rows: dict[str, None] = dict.fromkeys(key for cells in held.values() for key in cells)
    return _finished({name: [cells.get(row) for row in rows] for name, cells in held.items()}, len(rows), notes)


def _by_column(held: Mapping[str, list[Any]], name: str, notes: tuple[str, ...]) -> Table:
    lengths = {len(cells) for cells in held.values()}
    if len(lengths) > 1:
        raise FileError(f"{name}: its columns have different lengths ({min(lengths)} to {max(lengths)})")
    return _finished({str(key): cells for key, cells in held.items()}, lengths.pop(), notes)


def _rows(rows: list[Any], names: list[str] | None, name: str, notes: tuple[str, ...]) -> Table:
    width = len(names) if names is not None else max(len(row) for row in rows)
    odd = next((i for i, row in enumerate(rows) if not isinstance(row, list) or len(row) != width), None)
    if odd is not None:
        raise FileError(f"{name}: row {odd + 1} does not have {width} cells as the others")
    if names is None:
        first = rows[0]
        if len(rows) > 1 and all(isinstance(c, str) for c in first) and not all(isinstance(c, str) for c in rows[1]):
            names, rows = first, rows[1:]
        else:
            names = [f"column_{j + 1}" for j in range(width)]
            notes = (*notes, f"There are no column names: called {names[0]} to {names[-1]}.")
    table = _finished({str(j): [row[j] for row in rows] for j in range(width)}, len(rows), notes)
    return Table(tuple(names), table.columns, table.notes)


def _table(records: Iterable[Any], notes: tuple[str, ...]) -> Table:
    """Records to columns; an object in a record becomes columns of its own, ``outer.inner``."""
    columns: dict[str, list[Any]] = {}
    texts: dict[str, str] = {}
    count = 0
    for record in records:
        for key, value in _flat(record):
            cells = columns.get(key)
            if cells is None:
                cells = columns[key] = [None] * count
            elif len(cells) < count:
                cells.extend([None] * (count - len(cells)))
            cells.append(texts.setdefault(value, value) if isinstance(value, str) else value)
        count += 1
    return _finished(columns, count, notes)


def _flat(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, dict):
            for inner, cell in value.items():
                yield f"{key}.{inner}", Unreadable("object") if isinstance(cell, dict) else cell
        else:
            yield str(key), value


def _finished(columns: dict[str, list[Any]], count: int, notes: tuple[str, ...]) -> Table:
    names = tuple(columns)
    arrays = []
    for name in names:
        cells = columns.pop(name)
        arrays.append(_typed([*cells, *[None] * (count - len(cells))]))
    return Table(names, tuple(arrays), notes)


def _typed(cells: list[Any]) -> np.ndarray:
    numbers = all(v is None or isinstance(v, bool | int | float) for v in cells)
    if numbers and not any(isinstance(v, int) and abs(v) >= 2**53 for v in cells):
        return np.array([np.nan if v is None else float(v) for v in cells])
    out = np.empty(len(cells), dtype=object)
    if any(isinstance(v, list | dict) for v in cells):
        kind = "list" if any(isinstance(v, list) for v in cells) else "object"
        cells = [Unreadable(kind) if isinstance(v, list | dict) else v for v in cells]
    elif not numbers:  # numbers among texts, as they are written
        cells = [v if v is None or isinstance(v, str | Unreadable) else json.dumps(v) for v in cells]
    out[:] = cells
    return out
