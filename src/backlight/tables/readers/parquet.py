"""Parquet."""

from __future__ import annotations

import re

import numpy as np

from backlight.errors import require
from backlight.tables.readers.registry import Options, Table, reader
from backlight.tables.readers.source import Source
from backlight.tables.readers.typed import columns_of

__all__ = ["read_parquet"]

# a file is read in so many parts, columns side by side, so that Arrow's cells and ours are not both in memory
_PARTS = 16
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


@reader("Parquet", endings=(".parquet", ".pq", ".parq"), starts=(b"PAR1",))
def read_parquet(source: Source, options: Options) -> Table:
    """Read a Parquet file; pandas' own index columns without a name are left out."""
    parquet = require("pyarrow.parquet", "cli", "reading Parquet")
    names: list[str] = []
    columns: list[np.ndarray] = []
    with parquet.ParquetFile(source.file()) as file:
        every = file.schema_arrow.names
        # a name with a dot is a path into a struct as well, so that it cannot be asked for alone
        apart = len(set(every)) == len(every) and not any("." in name for name in every)
        step = max(1, len(every) // _PARTS) if apart else max(1, len(every))
        for start in range(0, len(every), step):
            table = file.read(columns=every[start : start + step] if apart else None, use_threads=False)
            table.validate(full=True)  # offsets of a damaged file point anywhere
            table = table.select([i for i, name in enumerate(table.column_names) if not _PANDAS_INDEX.fullmatch(name)])
            found = columns_of(table)
            names += found[0]
            columns += found[1]
    return Table(tuple(names), tuple(columns))
