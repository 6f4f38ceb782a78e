"""Tables in files, read whole or refused with one clear line, and outputs that are never half-written."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from backlight.errors import (
    BacklightError,
    ColumnsError,
    ExistingFileError,
    FileError,
    MissingFileError,
    listed,
    require,
)
from backlight.tables.frame import Frame
from backlight.tables.readers.source import STANDARD_INPUT, located

__all__ = ["atomic", "check_output", "expand", "file_hash", "outputs", "read_files", "write_table"]

_TOTAL = re.compile(
    r"(grand\s|sub)?(total|sum|summe|gesamt|average|mean|mittelwert|totaal|итого|合[計计])", re.IGNORECASE
)


def expand(patterns: Sequence[str]) -> list[Path]:
    """Paths and glob patterns to files, sorted within a pattern; each must be there."""
    paths: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        found = (
            [path]
            if path.exists() or path == STANDARD_INPUT
            else [Path(p) for p in sorted(glob.glob(pattern, recursive=True))]
        )
        if not found:
            raise MissingFileError(f"{pattern}: no such file (and no file matches it as a pattern)")
        paths += found
    for path in paths:
        if path.is_dir():
            raise FileError(f"{path} is a directory: name a file in it, or a pattern such as '{path}/*.parquet'")
    return paths


def read_files(paths: Sequence[Path], *, sheet: str | None = None) -> Frame:
    """Read one table from one or several files of the same columns.

    Parameters
    ----------
    paths : sequence of Path
        ``-`` is standard input.
    sheet : str, optional
        A spreadsheet's sheet, by name or by number from 1.

    Returns
    -------
    Frame
        Of kind "file"; ``notes`` say what had to be decided.
    """
    from backlight.tables.readers import Options, read_table

    tables = [read_table(path, Options(sheet)) for path in paths]
    names, notes = tables[0].names, list(tables[0].notes)
    for path, table in zip(paths, tables, strict=True):
        if table.names != names:
            other = sorted(set(table.names) ^ set(names)) or ["the same ones, in another order"]
            raise ColumnsError(
                f"{path} has other columns than {paths[0]} ({listed(other)}): give files of the same columns"
            )
        notes += [f"{path.name}: {said}" for said in table.notes if table is not tables[0] and said not in notes]
    columns = tables[0].columns
    if len(tables) > 1:
        columns = tuple(_joined([table.columns[j] for table in tables]) for j in range(len(names)))
    if len(columns[0]) == 0:
        raise FileError(f"{listed(paths)}: the file has columns but no rows")
    columns = _without_total(columns, notes)
    return Frame(tuple(names), columns, "file", True, notes=tuple(notes))


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One column of several files: as texts where they do not agree on its type."""
    if len({part.dtype.kind for part in parts}) == 1:
        return np.concatenate(parts)
    empty = [part.dtype == np.float64 and bool(np.isnan(part).all()) for part in parts]
    others = {part.dtype.kind for part, nothing in zip(parts, empty, strict=True) if not nothing}
    if len(others) == 1 and others <= {"M", "m"}:
        gone = f"{others.pop()}8[s]"
        return np.concatenate([np.full(len(p), "NaT", gone) if e else p for p, e in zip(parts, empty, strict=True)])
    return np.concatenate([part if part.dtype == object else _as_texts(part) for part in parts])


def _as_texts(cells: np.ndarray) -> np.ndarray:
    out = np.empty(len(cells), dtype=object)
    out[:] = [None if v != v else f"{v:.15g}" if cells.dtype.kind == "f" else str(v) for v in cells]
    return out


def _without_total(columns: tuple[np.ndarray, ...], notes: list[str]) -> tuple[np.ndarray, ...]:
    """Leave out a last row of totals: called so, or without a text, and each of its numbers the sum of the others'."""
    n = len(columns[0])
    numbers = [c for c in columns if c.dtype == np.float64 and not np.isnan(c[-1])]
    texts = [str(c[-1]) for c in columns if c.dtype == object and c[-1] is not None and str(c[-1]).strip()]
    called = any(_TOTAL.match(text.strip()) for text in texts)
    if n < 5 or not numbers or not (called or (not texts and len(numbers) < len(columns))):
        return columns
    sums = [np.nansum(c[:-1]) for c in numbers]
    means = [total / max(1, int((~np.isnan(c[:-1])).sum())) for total, c in zip(sums, numbers, strict=True)]
    right = [
        any(abs(c[-1] - told) <= 1e-6 * np.nansum(np.abs(c[:-1])) + 0.006 for told in pair) and c[-1] != 0
        for c, *pair in zip(numbers, sums, means, strict=True)
    ]
    if sum(right) < (1 if called else max(1, len(right))) or sum(right) < 0.5 * len(right):
        return columns
    notes.append(f"The last row holds totals ({texts[0] if texts else 'without a name'}) and is left out.")
    return tuple(column[:-1] for column in columns)


def write_table(columns: dict[str, Any], path: Path, *, force: bool) -> None:
    """Write columns as Parquet or CSV, by the name's ending.

    In CSV a text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    pyarrow = require("pyarrow", "cli", "writing tables")
    if path.suffix == ".csv":
        columns = {_no_formula(name): _no_formulas(values) for name, values in columns.items()}
    table = pyarrow.table({name: pyarrow.array(values) for name, values in columns.items()})
    with atomic(path, force=force) as temporary:
        if path.suffix == ".csv":
            require("pyarrow.csv", "cli", "writing CSV").write_csv(table, temporary)
        else:
            require("pyarrow.parquet", "cli", "writing Parquet").write_table(table, temporary)


def _no_formulas(values: Any) -> Any:
    cells = values.tolist() if isinstance(values, np.ndarray) and values.dtype.kind in "OUS" else values
    return [_no_formula(cell) for cell in cells] if isinstance(cells, list) else values


def _no_formula(cell: Any) -> Any:
    """A text cell with an apostrophe in front of what begins a formula; numbers as they are."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


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
    """A temporary name to write to, renamed to the real one at the end and removed after any failure.

    Nobody else knows the name beforehand, so that in a folder that others write to it is no link of theirs. A file that
    is replaced hands on who may read it.
    """
    # short, whatever the name's own length: a name as long as the system takes must not fail for its temporary one
    temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    for known in _begun:
        known.setdefault(path, stamp(path))
    try:
        _refuse_existing(path, force)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        with suppress(FileNotFoundError):
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
        yield temporary
        _refuse_existing(path, force)
        temporary.replace(path)
    except BacklightError:
        raise
    except OSError as error:
        raise FileError(f"{path} cannot be written: {' '.join(str(error).split())[:160]}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_existing(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise ExistingFileError(f"{path} exists already: choose another name, or replace it (force)")


def stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file is written anew."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


_begun: list[dict[Path, tuple[int, int] | None]] = []


@contextmanager
def outputs(*paths: Path) -> Iterator[Callable[[], list[Path]]]:
    """What it yields names the files that were written since: of these, and of all that `atomic` writes meanwhile."""
    known = {path: stamp(path) for path in paths}
    _begun.append(known)
    try:
        yield lambda: [path for path, before in known.items() if stamp(path) != before]
    finally:
        _begun[:] = [one for one in _begun if one is not known]


def file_hash(paths: Sequence[Path]) -> str:
    """SHA-256 over the files' bytes, in order."""
    digest = hashlib.sha256()
    for path in paths:
        with located(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
