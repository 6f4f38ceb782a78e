"""Files of Parquet: their footers say how many rows there are, so that a run goes on in the middle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from backlight.batches.sources import Source, rebatched, same_columns
from backlight.errors import ColumnsError, listed, reading, require

__all__ = ["ParquetFiles"]


class ParquetFiles(Source):
    """Rows of several files, in their order.

    Raises
    ------
    FileError, ColumnsError
    """

    def __init__(self, paths: Sequence[Path], fingerprint: str) -> None:
        self._parquet = require("pyarrow.parquet", "scale", "reading Parquet")
        self.paths, self.fingerprint = list(paths), fingerprint
        counts: list[list[int]] = []
        for path in self.paths:
            with self._opened(path) as file:
                schema = file.schema_arrow
                if not counts:
                    self.schema = schema.remove_metadata()
                same_columns(path, schema, self.paths[0], self.schema)
                counts.append([file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)])
        self._groups = counts
        self.names, self.rows = tuple(self.schema.names), sum(map(sum, counts))
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ColumnsError(f"column names occur twice: {listed(twice)}: rename them")

    def _opened(self, path: Path) -> Any:
        with reading(path, "Parquet"):
            return self._parquet.ParquetFile(path, pre_buffer=False)

    def kind_of(self, column: str) -> Any:
        """See `Source.kind_of`."""
        return self.schema.field(column).type

    def read(self, columns: Sequence[str] | None, batch_rows: int, start: int) -> Iterator[Any]:
        """See `Source.read`; row groups before ``start`` are not touched."""
        wanted = list(self.schema.names if columns is None else columns)
        gone, places = start, []
        for path, groups in zip(self.paths, self._groups, strict=True):
            first = 0
            while first < len(groups) and gone >= groups[first] and gone > 0:
                gone -= groups[first]
                first += 1
            places.append((path, list(range(first, len(groups)))))

        def batches() -> Iterator[Any]:
            for path, groups in places:
                if groups:
                    with reading(path, "Parquet"), self._opened(path) as file:
                        stream = file.iter_batches(batch_rows, row_groups=groups, columns=wanted)
                        for batch in stream:
                            yield batch.select(wanted).cast(self._picked(wanted))

        return rebatched(batches(), batch_rows, gone)

    def _picked(self, wanted: list[str]) -> Any:
        pyarrow = require("pyarrow", "scale", "reading Parquet")
        return pyarrow.schema([self.schema.field(name) for name in wanted])
