"""Arrow's own files: Feather, IPC files and streams."""

from __future__ import annotations

from typing import Any

from backlight.errors import FileError, require
from backlight.tables.readers.registry import Options, Table, reader
from backlight.tables.readers.source import Source
from backlight.tables.readers.typed import columns_of

__all__ = ["read_arrow"]


@reader("Arrow", endings=(".arrow", ".feather", ".ipc", ".arrows"), starts=(b"ARROW1", b"FEA1", b"\xff\xff\xff\xff"))
def read_arrow(source: Source, options: Options) -> Table:
    """Read an Arrow file or stream; Feather of version 2 is one."""
    names, columns = columns_of(_table(source))
    return Table(tuple(names), tuple(columns))


def _table(source: Source) -> Any:
    ipc, pyarrow = require("pyarrow.ipc", "cli", "reading Arrow"), require("pyarrow", "cli", "reading Arrow")
    if source.head.startswith(b"FEA1"):
        raise FileError(f"{source.name} is Feather of version 1: save it again, as version 2 or Parquet")
    with source.open() as stream:
        content = pyarrow.py_buffer(stream.read())
    opened = ipc.open_stream if source.head.startswith(b"\xff\xff\xff\xff") else ipc.open_file
    with opened(content) as batches:
        table = batches.read_all()
    table.validate(full=True)  # offsets of a damaged file point anywhere
    return table
