"""Tables in files, read whole or refused with one clear line, and outputs that are never half-written."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backlight.errors import ColumnsError, ExistingFileError, FileError, MissingFileError, listed, require
from backlight.tables.frame import Frame, as_frame

__all__ = ["atomic", "check_output", "expand", "file_hash", "read_files", "write_table"]

_WITH_COMMA, _WITH_POINT = re.compile(r"\s*-?\d+,\d+\s*"), re.compile(r"\s*-?\d+\.\d+\s*")
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
_MISSING = ["", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None", "?"]


def expand(patterns: Sequence[str]) -> list[Path]:
    """Paths and glob patterns to files, sorted within a pattern; each must be there."""
    paths: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        found = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(pattern, recursive=True))]
        if not found:
            raise MissingFileError(f"{pattern}: no such file (and no file matches it as a pattern)")
        paths += found
    for path in paths:
        if path.is_dir():
            raise FileError(f"{path} is a directory: name a file in it, or a pattern such as '{path}/*.parquet'")
    return paths


def read_files(paths: Sequence[Path]) -> Frame:
    """Read one table from one or several files of the same columns."""
    pyarrow = require("pyarrow", "cli", "reading files")
    tables = [_read(path, pyarrow) for path in paths]
    first = tables[0].column_names
    for path, table in zip(paths, tables, strict=True):
        if table.column_names != first:
            other = sorted(set(table.column_names) ^ set(first)) or ["the same ones, in another order"]
            raise ColumnsError(
                f"{path} has other columns than {paths[0]} ({listed(other)}): give files of the same columns"
            )
    try:
        whole = pyarrow.concat_tables(tables, promote_options="permissive")
    except pyarrow.ArrowInvalid as error:
        raise ColumnsError(f"the files hold different types in one column ({_line(error)})") from error
    if whole.num_rows == 0:
        raise FileError(f"{listed(paths)}: the file has columns but no rows")
    return as_frame(whole)


def _read(path: Path, pyarrow: Any) -> Any:
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise FileError(
            f"{path}: cannot read files that end in {path.suffix or 'nothing'!r}; known are {listed(READERS, 12)}"
        )
    if path.stat().st_size == 0:
        raise FileError(f"{path} is empty")
    try:
        table = reader(path)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowException, OSError) as error:
        raise FileError(f"{path} cannot be read: {_line(error)}") from error
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise ColumnsError(f"{path}: column names occur twice: {listed(twice)}; rename them")
    return table


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."


def _read_csv(path: Path) -> Any:
    csv = require("pyarrow.csv", "cli", "reading CSV")
    head = _head(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(head)
    try:
        table = csv.read_csv(
            path,
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                null_values=_MISSING,
                strings_can_be_null=True,
                decimal_point="," if delimiter == ";" and _decimal_comma(head) else ".",
            ),
        )
        _ = table.column_names  # decoded only here
        if any(str(kind) == "binary" for kind in table.schema.types):  # what pyarrow makes of text that is no UTF-8
            raise _encoding_error(path)
    except FileError:
        raise
    except ValueError as error:  # pyarrow's own errors are ValueErrors
        if "UTF8" in str(error) or "UTF-8" in str(error) or "utf-8" in str(error):
            raise _encoding_error(path) from error
        raise
    return table


def _head(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(1 << 16)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in start:
        raise _encoding_error(path)
    return start.decode("utf-8-sig", errors="replace")


def _encoding_error(path: Path) -> FileError:
    return FileError(
        f"{path} is not UTF-8 text: save it as 'CSV UTF-8', or convert it: iconv -f WINDOWS-1252 -t UTF-8 {path.name}"
    )


def _delimiter(head: str) -> str:
    line = re.sub(r'"[^"]*"', "", head.splitlines()[0] if head else "")
    return max(",;\t|", key=lambda mark: (line.count(mark), mark == ","))


def _decimal_comma(head: str) -> bool:
    """Whether cells between semicolons look like 1,5 more often than like 1.5 (1.3.2024 is neither)."""
    cells = head.replace('"', "").replace("\r", "").replace("\n", ";").split(";")
    return sum(bool(_WITH_COMMA.fullmatch(c)) for c in cells) > sum(bool(_WITH_POINT.fullmatch(c)) for c in cells)


def _read_parquet(path: Path) -> Any:
    table = require("pyarrow.parquet", "cli", "reading Parquet").read_table(path)
    return table.drop_columns([name for name in table.column_names if _PANDAS_INDEX.fullmatch(name)])


def _read_arrow(path: Path) -> Any:
    return require("pyarrow.feather", "cli", "reading Arrow").read_table(path)


READERS: dict[str, Callable[[Path], Any]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".txt": _read_csv,
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
    ".ipc": _read_arrow,
}


def write_table(columns: dict[str, Any], path: Path, *, force: bool) -> None:
    """Write columns as Parquet or CSV, by the name's ending."""
    pyarrow = require("pyarrow", "cli", "writing tables")
    table = pyarrow.table({name: pyarrow.array(values) for name, values in columns.items()})
    with atomic(path, force=force) as temporary:
        if path.suffix == ".csv":
            require("pyarrow.csv", "cli", "writing CSV").write_csv(table, temporary)
        else:
            require("pyarrow.parquet", "cli", "writing Parquet").write_table(table, temporary)


def check_output(path: Path, suffixes: Sequence[str], *, force: bool) -> None:
    """Refuse an output before any work is done for it."""
    if path.suffix not in suffixes:
        raise FileError(f"{path}: the name must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise FileError(f"{path} is a directory: name a file")
    if path.exists() and not force:
        raise ExistingFileError(f"{path} exists already: choose another name, or replace it with --force")
    if not path.parent.is_dir():
        raise FileError(f"{path.parent} is not a directory: make it first")
    if not os.access(path.parent, os.W_OK):
        raise FileError(f"{path.parent} is not writable: choose another place")


@contextmanager
def atomic(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary name to write to, renamed to the real one at the end and removed after any failure."""
    if path.exists() and not force:
        raise ExistingFileError(f"{path} exists already: choose another name, or replace it (force)")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {_line(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def file_hash(paths: Sequence[Path]) -> str:
    """SHA-256 over the files' bytes, in order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
