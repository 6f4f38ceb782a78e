"""Files of comma-separated values as Arrow batches, with the types of all files known from the first block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from backlight.errors import reading, require

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
            yield from stream
