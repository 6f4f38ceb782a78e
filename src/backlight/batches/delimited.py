"""Files of comma-separated values as Arrow batches, with the types of all files known from the first block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from backlight.errors import FileError, reading, require

__all__ = ["csv_types", "open_csv"]


def _opened(path: Path, types: Any, columns: Sequence[str] | None) -> Any:
    csv = require("pyarrow.csv", "scale", "reading CSV in batches")
    ending = path.suffixes[-2:] or [""]
    parse = csv.ParseOptions(delimiter="\t" if ".tsv" in ending else ",", newlines_in_values=True)
    convert = csv.ConvertOptions(
        column_types=types, include_columns=None if columns is None else list(columns), strings_can_be_null=True
    )
    return csv.open_csv(str(path), parse_options=parse, convert_options=convert)


def csv_types(path: Path) -> Any:
    """The Arrow schema of a file, by its first block: a whole number may be followed by others, so numbers are floats.

    Raises
    ------
    FileError
    """
    pyarrow = require("pyarrow", "scale", "reading CSV in batches")
    with reading(path, "comma-separated values"), _opened(path, None, None) as stream:
        schema = stream.schema
    wide = [pyarrow.types.is_integer(kind) or pyarrow.types.is_null(kind) for kind in schema.types]
    return pyarrow.schema(
        [field.with_type(pyarrow.float64()) if w else field for field, w in zip(schema, wide, strict=True)]
    )


def open_csv(paths: Sequence[Path], types: Any, columns: Sequence[str]) -> Iterator[Any]:
    """Record batches of some columns of all files.

    Raises
    ------
    FileError
    """
    for path in paths:
        with reading(path, "comma-separated values"), _opened(path, types, columns) as stream:
            batch = None
            for batch in stream:
                yield batch
            _require_closed(path, batch)


def _require_closed(path: Path, batch: Any) -> None:
    """Refuse a file whose last cell has a quotation mark that is not closed, and so has swallowed what follows."""
    last = batch.columns[-1][-1].as_py() if batch is not None and batch.num_rows and batch.columns else None
    if not isinstance(last, str) or "\n" not in last.strip():
        return
    end = b""
    with require("pyarrow", "scale", "reading CSV in batches").input_stream(str(path)) as stream:
        while part := stream.read(1 << 20):
            end = (end + part)[-64:]
    if not end.rstrip().endswith(b'"'):
        raise FileError(f"{path}: a quotation mark is not closed, so that all that follows it is one cell")
