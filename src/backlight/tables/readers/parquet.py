"""Parquet."""

from __future__ import annotations

import re

from backlight.errors import require
from backlight.tables.readers.registry import Options, Table, reader
from backlight.tables.readers.source import Source
from backlight.tables.readers.typed import columns_of

__all__ = ["read_parquet"]

_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


@reader("Parquet", endings=(".parquet", ".pq", ".parq"), starts=(b"PAR1",))
def read_parquet(source: Source, options: Options) -> Table:
    """Read a Parquet file; pandas' own index columns without a name are left out."""
    parquet = require("pyarrow.parquet", "cli", "reading Parquet")
    with parquet.ParquetFile(source.file()) as file:
        table = file.read()
    table.validate(full=True)  # offsets of a damaged file point anywhere
    table = table.select([i for i, name in enumerate(table.column_names) if not _PANDAS_INDEX.fullmatch(name)])
    names, columns = columns_of(table)
    return Table(tuple(names), tuple(columns))
