"""A folder of shards: each is whole or not there, and a run that was killed goes on behind the last one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backlight.batches.sources import length_of
from backlight.errors import ExistingFileError, FileError, require

__all__ = ["Piece", "Shards", "Written"]

_MANIFEST = "_backlight.json"  # folders of Parquet are read without what begins with a line
_FORMAT = 1
_GROUP_CELLS = 1 << 21  # numbers held before they are written: 16 MiB


@dataclass(frozen=True, slots=True)
class Written:
    """What a run wrote.

    Attributes
    ----------
    folder : Path
    rows, shards : int
        All that the folder holds.
    kept : int
        Rows that an earlier run had written.
    """

    folder: Path
    rows: int
    shards: int
    kept: int


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A batch of results, and what its rows were, where the source has no fingerprint."""

    batch: Any
    rows: bytes


class Shards:
    """The folder.

    Parameters
    ----------
    folder : Path
    schema : pyarrow.Schema
    identity : mapping of str to str
        What must be the same for a run to go on: the explainer, the source, the options.
    shard_rows : int
        A shard is closed with the batch that brings it to so many rows.

    Raises
    ------
    ExistingFileError
        When the folder holds something else, or another run.
    """

    def __init__(self, folder: Path, schema: Any, identity: Mapping[str, str], shard_rows: int) -> None:
        self._parquet = require("pyarrow.parquet", "scale", "writing shards of Parquet")
        self.folder, self.schema, self.shard_rows = folder, schema, shard_rows
        self._manifest: dict[str, Any] = {"format": _FORMAT, **identity, "shard_rows": str(shard_rows)}
        self._complete: dict[str, int] | None = None
        self._begin()
        self.done = list(self._whole())

    @property
    def kept(self) -> int:
        """Rows that are there already."""
        return sum(rows for rows, _ in self.done)

    @property
    def _encoding(self) -> dict[str, Any]:
        """No two fractions are the same, so that a dictionary of them is lost time; their bytes apart compress."""
        types = require("pyarrow", "scale", "writing shards of Parquet").types
        fractions = [one.name for one in self.schema if types.is_floating(one.type)]
        others = [one.name for one in self.schema if not types.is_floating(one.type)]
        return {"compression": "zstd", "use_dictionary": others, "use_byte_stream_split": fractions}

    @property
    def paths(self) -> list[Path]:
        """The shards that are there already."""
        return [self._path(k) for k in range(len(self.done))]

    def _path(self, k: int) -> Path:
        return self.folder / f"part-{k:05d}.parquet"

    def _begin(self) -> None:
        place = self.folder / _MANIFEST
        if place.exists():
            try:
                found = json.loads(place.read_text())
            except ValueError as error:
                raise FileError(f"{place} is damaged: choose another folder") from error
            self._complete = found.pop("complete", None)
            differs = [key for key in self._manifest if found.get(key) != self._manifest[key]]
            if differs:
                raise ExistingFileError(f"{self.folder} holds another run (its {differs[0]} differs): choose another")
            return
        # a run may have been killed before its manifest got its name
        if self.folder.exists() and (
            not self.folder.is_dir() or {p.name for p in self.folder.iterdir()} - {f".{_MANIFEST}"}
        ):
            raise ExistingFileError(f"{self.folder} exists and holds no run of explain_batches: choose another folder")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{self.folder} cannot be made: {error.strerror}") from error
        self._write_manifest(self._manifest)

    def _write_manifest(self, content: dict[str, Any]) -> None:
        hidden = self.folder / f".{_MANIFEST}"
        try:
            hidden.write_text(json.dumps(content, indent=1))
            _settled(hidden, self.folder / _MANIFEST)
        finally:
            with suppress(OSError):
                hidden.unlink(missing_ok=True)  # of a disk that is full

    def _whole(self) -> Iterator[tuple[int, str]]:
        """Rows and input digest of the shards that are there, up to the first that is not."""
        pyarrow = require("pyarrow", "scale", "writing shards of Parquet")
        k = 0
        while self._path(k).exists():
            try:
                with self._parquet.ParquetFile(self._path(k)) as file:
                    said = file.metadata.metadata or {}
                    yield file.metadata.num_rows, said.get(b"backlight.input", b"").decode()
            except pyarrow.ArrowInvalid:
                return
            k += 1

    def checked(self, batches: Iterable[Any], digest: Any) -> Iterator[Any]:
        """The batches behind those that are there already, whose rows are compared with what the shards say.

        Raises
        ------
        ExistingFileError
        """
        stream = iter(batches)
        for rows, known in self.done:
            seen, found = 0, hashlib.sha256()
            while seen < rows:
                batch = next(stream, None)
                if batch is None:
                    break
                seen += length_of(batch)
                found.update(digest(batch))
            if seen != rows or found.hexdigest() != known:
                raise ExistingFileError(f"{self.folder} was made of other rows than these: choose another folder")
        yield from stream

    def write(self, pieces: Iterable[Piece]) -> Written:
        """Write all that comes, and say that the run is complete."""
        kept, k, rows = self.kept, len(self.done), self.kept
        known = None if self._complete is None else self._complete["rows"]
        stream = iter(pieces)
        while (first := next(stream, None)) is not None:
            if known is not None and rows >= known:
                raise ExistingFileError(f"{self.folder} is complete, and the source has more rows: choose another")
            rows += self._shard(k, first, stream)
            k += 1
        if k == 0:
            k, rows = 1, self._shard(0, None, stream)
        with self._writing():
            self._write_manifest({**self._manifest, "complete": {"rows": rows, "shards": k}})
        return Written(self.folder, rows, k, kept)

    def _shard(self, k: int, first: Piece | None, stream: Iterator[Piece]) -> int:
        hidden, digest = self.folder / f".part-{k:05d}.parquet", hashlib.sha256()
        with self._writing():
            writer = self._parquet.ParquetWriter(hidden, self.schema, **self._encoding)
        try:
            rows = self._fill(writer, digest, first, stream)
            with self._writing():
                writer.add_key_value_metadata({"backlight.input": digest.hexdigest()})
                writer.close()
                _settled(hidden, self._path(k))
        finally:
            with suppress(OSError):
                hidden.unlink(missing_ok=True)  # what was interrupted half way
        return rows

    def _fill(self, writer: Any, digest: Any, first: Piece | None, stream: Iterator[Piece]) -> int:
        """Write what comes until the shard is full; how many rows that were."""
        pyarrow = require("pyarrow", "scale", "writing shards of Parquet")
        group = max(1024, _GROUP_CELLS // len(self.schema))
        rows, held, waiting, piece = 0, [], 0, first
        while piece is not None:
            held.append(piece.batch)
            digest.update(piece.rows)
            rows, waiting = rows + piece.batch.num_rows, waiting + piece.batch.num_rows
            full = rows >= self.shard_rows
            if waiting >= group and not full:
                with self._writing():
                    writer.write_table(pyarrow.Table.from_batches(held), group)
                held, waiting = [], 0
            piece = None if full else next(stream, None)
        if held:
            with self._writing():
                writer.write_table(pyarrow.Table.from_batches(held), group)
        return rows

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FileError(f"{self.folder} cannot be written: {error.strerror or error}") from error


def _settled(hidden: Path, path: Path) -> None:
    """Give a file its name when all of it is on the disk."""
    with hidden.open("rb") as file:
        os.fsync(file.fileno())
    hidden.replace(path)
