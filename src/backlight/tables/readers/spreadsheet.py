"""Spreadsheets: Excel's .xlsx, .xlsm, .xlsb and .xls, and OpenDocument's .ods."""

from __future__ import annotations

from typing import Any

from backlight.errors import ColumnsError, FileError, listed, require
from backlight.tables.readers.layout import find_layout
from backlight.tables.readers.registry import Options, Table, reader
from backlight.tables.readers.source import Source
from backlight.tables.readers.typed import columns_of

__all__ = ["read_spreadsheet"]

_LOOKED_AT = 300
# as many rows as these are a table, where an earlier sheet has fewer
_TABLE = 12


@reader(
    "a spreadsheet", endings=(".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"), starts=(b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
)
def read_spreadsheet(source: Source, options: Options) -> Table:
    """Read one sheet: the one that is asked for, otherwise the first that holds a table, or anything."""
    fastexcel = require("fastexcel", "cli", "reading spreadsheets")
    if source.packing:
        with source.open() as stream:
            book = fastexcel.read_excel(stream.read())
    else:
        book = fastexcel.read_excel(str(source.path))
    name, notes = _sheet(book, source.name, options.sheet)
    top = book.load_sheet(name, header_row=None, skip_rows=0, n_rows=_LOOKED_AT, dtypes="string").to_arrow()
    rows = [[cell or "" for cell in row] for row in zip(*top.to_pydict().values(), strict=True)]
    if not any(any(row) for row in rows):
        raise FileError(f"{source.name}: the sheet {name!r} is empty")
    layout = find_layout(rows, range(1, len(rows) + 1))
    held = book.load_sheet(
        name, header_row=None, skip_rows=layout.start, schema_sample_rows=None, skip_whitespace_tail_rows=True
    ).to_arrow()
    _, columns = columns_of(held)
    names = [*layout.names, *[""] * (len(columns) - len(layout.names))][: len(columns)]
    return Table(tuple(names), tuple(columns), (*notes, *layout.notes))


def _sheet(book: Any, file: str, asked: str | None) -> tuple[str, list[str]]:
    sheets = list(book.sheet_names)
    if asked is not None:
        if asked in sheets:
            return asked, []
        if asked.isdigit() and 1 <= int(asked) <= len(sheets):
            return sheets[int(asked) - 1], []
        raise ColumnsError(f"{file} has no sheet {asked!r}: its sheets are {listed(sheets)}")
    if len(sheets) == 1:
        return sheets[0], []
    sizes = {s: book.load_sheet(s, header_row=None, n_rows=_TABLE).to_arrow().num_rows for s in sheets}
    if not any(sizes.values()):
        raise FileError(f"{file}: all sheets are empty")
    # a cover or a legend often comes before the table
    chosen = next((s for s in sheets if sizes[s] == _TABLE), next(s for s in sheets if sizes[s]))
    others = listed((s for s in sheets if s != chosen), 5)
    return chosen, [f"The sheet {chosen!r} is read, not {others}: choose with --sheet."]
