"""Which reader takes which file, and the one boundary to all of their parsers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from backlight.errors import BacklightError, FileError, listed
from backlight.tables.readers.source import Source, open_source

__all__ = ["Options", "Table", "endings", "read_table", "reader"]


@dataclass(frozen=True, slots=True)
class Options:
    """What the user says about a file."""

    sheet: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Names, typed columns (see `backlight.tables.Frame`), and what was decided, in sentences."""

    names: tuple[str, ...]
    columns: tuple[np.ndarray, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Kind:
    title: str
    endings: tuple[str, ...]
    starts: tuple[bytes, ...]
    looks: Callable[[bytes], bool]
    read: Callable[[Source, Options], Table]


_KINDS: dict[str, _Kind] = {}
# What cannot be a table here, by its first bytes, and what to do.
_REFUSED = {
    b"SQLite format 3": "is a database: write its table as CSV or Parquet",
    b"\x80": "is a pickle, and reading one can run code: save the table as Parquet or CSV",
    b"%PDF": "is a PDF: copy its table into a spreadsheet or CSV",
    b"\x89HDF": "is an HDF5 file: save its table as Parquet or CSV",
    b"<": "is HTML or XML: save its table as CSV or a spreadsheet",
    b"Obj\x01": "is an Avro file: save it as Parquet",
    b"ORC": "is an ORC file: save it as Parquet",
    b"RDX": "is a file of R's: save the table with write.csv",
}


def reader(
    title: str,
    *,
    endings: Sequence[str],
    starts: Sequence[bytes] = (),
    looks: Callable[[bytes], bool] = lambda head: False,
) -> Callable[[Callable[[Source, Options], Table]], Callable[[Source, Options], Table]]:
    """Register a reader: what its files are called, how their names end, and how they begin or look."""

    def register(read: Callable[[Source, Options], Table]) -> Callable[[Source, Options], Table]:
        _KINDS[title] = _Kind(title, tuple(endings), tuple(starts), looks, read)
        return read

    return register


def endings() -> list[str]:
    """All endings that a reader is registered for."""
    return [ending for kind in _KINDS.values() for ending in kind.endings]


def read_table(path: Path, options: Options) -> Table:
    """Read one file of any kind; names are made unique, columns of nothing dropped.

    Raises
    ------
    FileError
        In one sentence, whatever the parser of the file's kind raised.
    """
    with open_source(path) as source:
        kind = _kind_of(source)
        try:
            table = kind.read(source, options)
        except (BacklightError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # The boundary to every parser: damaged files make them raise what they like, panics of compiled code
            # (which are no Exceptions) and sizes that no memory holds among them.
            raise FileError(f"{source.name} cannot be read as {kind.title}: {one_line(error)}") from error
    table = _named(table)
    if not table.columns:
        raise FileError(f"{source.name} holds no columns")
    return table


def _kind_of(source: Source) -> _Kind:
    head = source.head
    begun = [kind for kind in _KINDS.values() if any(head.startswith(start) for start in kind.starts)]
    if begun:
        # a zip of arrays begins as a spreadsheet does, which is the more common of the two
        return next((kind for kind in begun if source.ending in kind.endings), begun[-1])
    for start, said in _REFUSED.items():
        if head.startswith(start):
            raise FileError(f"{source.name} {said}")
    looked = next((kind for kind in _KINDS.values() if kind.looks(head)), None)
    if looked is not None:
        return looked
    named = {ending: kind for kind in _KINDS.values() for ending in kind.endings}.get(source.ending)
    if named is not None:
        return named
    if b"\x00" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")) and not source.wide:
        raise FileError(f"{source.name} is neither text nor a kind of table that is known ({listed(endings(), 30)})")
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t")
    title = "JSON lines" if start[:1] == b"{" and b"\n{" in start else "JSON" if start[:1] in (b"{", b"[") else "CSV"
    return _KINDS[title]


def one_line(error: BaseException) -> str:
    """What an exception says, in one line of at most 160 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def _named(table: Table) -> Table:
    """Every column with a name of its own; columns without a name and without a cell are left out."""
    notes, names, columns = list(table.notes), [], []
    blank, empty = [], 0
    for j, (name, cells) in enumerate(zip(table.names, table.columns, strict=True)):
        clean = " ".join(name.split())
        if not clean and _nothing(cells):
            empty += 1
            continue
        if not clean:
            clean = f"column_{j + 1}"
            blank.append(clean)
        names.append(clean)
        columns.append(cells)
    if empty:
        notes.append(f"{empty} column{'s' if empty > 1 else ''} without a name or any cell left out.")
    if blank:
        notes.append(f"{len(blank)} column{'s' if len(blank) > 1 else ''} without a name: called {listed(blank)}.")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        names = _unique(names)
        notes.append(f"Column names occur twice ({listed(twice)}): numbered, such as {twice[0]}_2.")
    return replace(table, names=tuple(names), columns=tuple(columns), notes=tuple(notes))


def _nothing(cells: np.ndarray) -> bool:
    if cells.dtype == np.float64:
        return bool(np.isnan(cells).all())
    return cells.dtype == object and all(v is None for v in cells)


def _unique(names: list[str]) -> list[str]:
    taken, out = set(names), []
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        new, k = name, seen[name]
        while seen[name] > 1 and new in taken:
            new, k = f"{name}_{k}", k + 1
        taken.add(new)
        out.append(new)
    return out
