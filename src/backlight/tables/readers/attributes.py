"""ARFF, the attribute-relation files of Weka and OpenML: a line for each column, then rows, dense or sparse."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from backlight.errors import FileError
from backlight.tables.readers.encoding import decoded, encoding_of
from backlight.tables.readers.registry import Options, Table, reader
from backlight.tables.readers.source import Source

__all__ = ["read_attributes"]

_QUOTED = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
_ATTRIBUTE = re.compile(rf"@attribute\s+({_QUOTED}|[^\s{{]+)\s*(.*)", re.IGNORECASE)
_CELL = re.compile(rf"\s*({_QUOTED}|[^,]*?)\s*(,|$)")
_SPARSE = re.compile(rf"\s*(\d+)\s+({_QUOTED}|[^,\s]*)\s*(,|$)")
_NUMBERS = ("numeric", "real", "integer")


@reader("ARFF", endings=(".arff",), starts=(b"@relation", b"@RELATION", b"@Relation"))
def read_attributes(source: Source, options: Options) -> Table:
    """Read columns of numbers as float64, and those of names, texts and dates as texts; ``?`` is a missing cell."""
    encoding, said = encoding_of(source)
    names: list[str] = []
    numeric: list[bool] = []
    zeros: list[str] = []
    rows: list[list[str | None]] = []
    with source.open() as stream:
        lines = (
            (number, line.decode("utf-8", "replace").strip())
            for number, line in enumerate(decoded(stream, encoding), 1)
        )
        for number, line in lines:
            if not line or line.startswith("%") or line.lower().startswith("@relation"):
                continue
            if line.lower().startswith("@data"):
                break
            found = _ATTRIBUTE.fullmatch(line)
            if found is None:
                raise FileError(f"{source.name}: line {number} is no @attribute with a name and a type")
            names.append(_text(found[1]))
            kind = found[2].strip()
            if kind.lower().startswith("relational"):
                raise FileError(f"{source.name}: {names[-1]!r} holds tables of its own (relational): write one table")
            numeric.append(kind.lower().startswith(_NUMBERS))
            # what a sparse row leaves out is zero, or the first of the names
            zeros.append("0" if numeric[-1] or not kind.startswith("{") else _text(_first(kind)))
        for number, line in lines:
            if line and not line.startswith("%"):
                rows.append(_row(line, zeros, f"{source.name}: line {number}"))
    if not rows:
        raise FileError(f"{source.name}: the file has columns but no rows")
    columns = [_column([row[j] for row in rows], plain, source.name, names[j]) for j, plain in enumerate(numeric)]
    return Table(tuple(names), tuple(columns), said)


def _text(written: str) -> str:
    if written[:1] in ("'", '"') and written[-1:] == written[:1] and len(written) > 1:
        return re.sub(r"\\(.)", r"\1", written[1:-1])
    return written


def _first(kind: str) -> str:
    found = _CELL.match(kind.lstrip("{").rstrip("}"))
    return found[1] if found else ""


def _row(line: str, zeros: list[str], where: str) -> list[str | None]:
    if line.startswith("{"):
        row: list[str | None] = list(zeros)
        for found in _SPARSE.finditer(line.strip("{} \t")):
            if int(found[1]) >= len(row):
                raise FileError(f"{where} names column {found[1]} of {len(row)}")
            row[int(found[1])] = None if found[2] == "?" else _text(found[2])
        return row
    row = [None if cell in ("?", "") else _text(cell) for cell in _cells(line)]
    if len(row) == len(zeros) + 1 and re.fullmatch(r"\s*\{[^{}]*\}", line.rpartition(",")[2]):
        row.pop()  # the weight of the row
    if len(row) != len(zeros):
        raise FileError(f"{where} has {len(row)} cells for {len(zeros)} columns")
    return row


def _cells(line: str) -> Iterator[str]:
    at = 0
    if "," not in line and "\t" in line:
        line = line.replace("\t", ",")
    while True:
        found = _CELL.match(line, at)
        if found is None:  # a quotation mark that is not closed
            yield line[at:]
            return
        yield found[1]
        if found[2] == "":
            return
        at = found.end()


def _column(cells: list[str | None], plain: bool, file: str, name: str) -> np.ndarray:
    if plain:
        try:
            return np.array([np.nan if cell is None else float(cell) for cell in cells])
        except ValueError as error:
            raise FileError(f"{file}: column {name!r} is said to be numeric, and is not ({error})") from error
    out = np.empty(len(cells), dtype=object)
    out[:] = cells
    return out
