"""What is in a file: unpacked, from standard input or the disk, with its first bytes at hand."""

from __future__ import annotations

import atexit
import bz2
import gzip
import io
import lzma
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import IO, Any

from backlight.errors import FileError, MissingFileError, listed, require

__all__ = ["STANDARD_INPUT", "Source", "located", "open_source"]

STANDARD_INPUT = Path("-")
_HEAD = 1 << 16


@dataclass(frozen=True, slots=True)
class Source:
    """A file's content.

    Attributes
    ----------
    name : str
        For messages.
    path : Path
        Where its bytes lie.
    packing : str
        "", "gzip", "bzip2", "xz", "zstd" or "zip".
    inner : str
        The name of what is packed.
    head : bytes
        The first bytes of the content.
    """

    name: str
    path: Path
    packing: str
    inner: str
    head: bytes

    @property
    def ending(self) -> str:
        """The ending of the content's name, in small letters."""
        return PurePath(self.inner).suffix.lower()

    @property
    def wide(self) -> bool:
        """Whether every second byte is zero mostly: text in UTF-16 without a mark."""
        few = self.head[:2000]
        zeros = max(few[0::2].count(0), few[1::2].count(0))
        return len(few) > 3 and zeros > 0.4 * len(few) and few.count(0) < 0.6 * len(few)

    @property
    def size(self) -> int:
        """How many bytes there are, as packed."""
        return self.path.stat().st_size

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The content as a stream of bytes."""
        with _unpacked(self.path, self.packing, self.inner) as stream:
            yield stream

    def file(self) -> Any:
        """The content for a parser that jumps about in it: its path, or all of its bytes where it is packed."""
        if not self.packing:
            return self.path
        with self.open() as stream:
            return io.BytesIO(stream.read())


@cache
def _spooled() -> Path:
    """Standard input, kept in a file until the program ends: it is read more than once."""
    with tempfile.NamedTemporaryFile(prefix="backlight-", delete=False) as file:
        path = Path(file.name)
        atexit.register(path.unlink, missing_ok=True)  # before it is read: that may be interrupted
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path


def located(path: Path) -> Path:
    """Where the bytes of a path lie: ``-`` is standard input."""
    return _spooled() if path == STANDARD_INPUT else path


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Look into a file: how it is packed and how its content begins."""
    name = "standard input" if path == STANDARD_INPUT else str(path)
    place = located(path)
    if place.exists() and not place.is_file():
        raise FileError(f"{name} is no file that can be read more than once: give - to read from standard input")
    if not place.is_file():
        raise MissingFileError(f"{name}: no such file")
    if place.stat().st_size == 0:
        raise FileError(f"{name} is empty")
    try:
        packing, inner = _packing(place, "" if path == STANDARD_INPUT else path.name, name)
        with _unpacked(place, packing, inner) as stream:
            head = stream.read(_HEAD)
    except FileError:
        raise
    except Exception as error:
        # The boundary to the unpackers, which list no exceptions.
        raise FileError(f"{name} cannot be unpacked: {' '.join(str(error).split())[:160]}") from error
    if not head:
        raise FileError(f"{name} is empty inside")
    yield Source(name, place, packing, inner, head)


_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
_DOCUMENTS = ("xl/", "mimetype", "word/", "ppt/")  # a spreadsheet is a zip, too: not unpacked here


def _packing(place: Path, called: str, name: str) -> tuple[str, str]:
    with place.open("rb") as file:
        start = file.read(8)
    packing = next((kind for mark, kind in _PACKED.items() if start.startswith(mark)), "")
    if packing != "zip":
        packed = PurePath(called)
        return packing, packed.stem if packing and packed.suffix else called
    with zipfile.ZipFile(place) as archive:
        members = [m.filename for m in archive.infolist() if not m.is_dir()]
    arrays = PurePath(called).suffix.lower() == ".npz" and all(member.endswith(".npy") for member in members)
    if arrays or any(member.startswith(_DOCUMENTS) for member in members):
        return "", called
    members = [m for m in members if not m.startswith("__MACOSX/") and not PurePath(m).name.startswith(".")]
    if len(members) != 1:
        raise FileError(f"{name} holds {len(members)} files ({listed(members, 4)}): unpack it and name one of them")
    return "zip", members[0]


@contextmanager
def _unpacked(place: Path, packing: str, inner: str) -> Iterator[IO[bytes]]:
    if packing == "zip":
        with zipfile.ZipFile(place) as archive, archive.open(inner) as stream:
            yield stream
    elif packing == "zstd":
        with require("pyarrow", "cli", "reading zstd files").input_stream(str(place), compression="zstd") as stream:
            yield stream
    else:
        opened: dict[str, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
        with opened.get(packing, open)(place, "rb") as stream:
            yield stream
