"""Files and folders of files: Parquet, Arrow, comma-separated values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from backlight.batches.delimited import csv_types, open_csv
from backlight.batches.parquet import ParquetFiles
from backlight.batches.sources import Source, Stream, arrow, same_columns
from backlight.errors import FileError, listed, reading, require
from backlight.tables.files import expand

__all__ = ["open_files", "stamp"]


def open_files(given: Sequence[str | Path]) -> Source:
    """Rows of files, or of a folder of them, in order.

    Raises
    ------
    FileError, ColumnsError
    """
    paths: list[Path] = []
    for one in given:
        folder = Path(one)
        found = sorted(p for p in folder.rglob("*") if _is_part(p, folder)) if folder.is_dir() else expand([str(one)])
        if not found:
            raise FileError(f"{one} holds no files")
        paths += found
    endings = {path.suffix.lower() for path in paths}
    if endings <= {".parquet", ".pq", ".parq"}:
        return ParquetFiles(paths, stamp(paths))
    if endings <= {".arrow", ".feather", ".ipc", ".arrows"}:
        return _arrow_files(paths)
    if endings <= {".csv", ".tsv", ".txt", ".gz", ".bz2", ".zst"}:
        types = csv_types(paths[0])
        return Stream(types, lambda columns, rows: open_csv(paths, types, columns), None, stamp(paths))
    raise FileError(f"files ending in {listed(sorted(endings))} are not read in batches: give Parquet, Arrow or CSV")


def _is_part(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(("_", ".")) for part in path.relative_to(folder).parts)
    return path.is_file() and not hidden


def _arrow_files(paths: list[Path]) -> Source:
    ipc, pyarrow = require("pyarrow.ipc", "scale", "reading Arrow"), arrow()

    def opened(path: Path) -> tuple[Any, Iterator[Any]]:
        with reading(path, "an Arrow file"):
            file = pyarrow.memory_map(str(path))
            if file.read(6) != b"ARROW1":
                file.seek(0)
                stream = ipc.open_stream(file)
                return stream.schema, iter(stream)
            file.seek(0)
            whole = ipc.open_file(file)
            return whole.schema, (whole.get_batch(k) for k in range(whole.num_record_batches))

    def start(columns: list[str], rows: int) -> Iterator[Any]:
        for path in paths:
            names, batches = opened(path)
            same_columns(path, names, paths[0], schema)
            yield from (batch.cast(schema) if batch.schema != schema else batch for batch in batches)

    schema, _ = opened(paths[0])
    return Stream(schema, start, None, stamp(paths))


def stamp(paths: Sequence[Path]) -> str:
    """What files are, by their names, sizes, times, and first and last bytes."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 16))
            file.seek(max(0, status.st_size - (1 << 16)))
            digest.update(file.read())
    return digest.hexdigest()
