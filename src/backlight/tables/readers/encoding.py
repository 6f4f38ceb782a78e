"""Which letters the bytes of a text stand for."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator
from typing import IO

from backlight.errors import FileError, require
from backlight.tables.readers.source import Source

__all__ = ["decoded", "encoding_of"]

_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
)  # fmt: skip
_BLOCK = 1 << 20
# What a short Western text is easily mistaken for; today's programs write Windows-1252.
_OF_OTHER_TIMES = {
    "ascii", "utf-8", "iso8859-1", "iso8859-3", "iso8859-10", "iso8859-13", "iso8859-14", "iso8859-16", "mac-roman",
    "mac-turkish", "mac-iceland", "mac-latin2", "cp437", "cp775", "cp850", "cp852", "cp857", "cp858", "cp860", "cp861",
    "cp863", "cp865", "cp037", "cp500", "cp1140", "cp273", "cp1257", "cp1258", "hp-roman8",
}  # fmt: skip
_TITLES = {
    "big5": "Big5", "cp932": "Shift JIS", "shift_jis": "Shift JIS", "koi8-r": "KOI8-R", "cp949": "Korean (cp949)",
    **{f"cp125{i}": f"Windows-125{i}" for i in range(9)},
}  # fmt: skip


def encoding_of(source: Source) -> tuple[str, tuple[str, ...]]:
    """The encoding of a text, and a sentence where it is not UTF-8."""
    for mark, encoding in _MARKS:
        if source.head.startswith(mark):
            if encoding == "utf-8-sig" and _not_utf8(source) is not None:
                raise FileError(f"{source.name} begins as UTF-8, and holds bytes that are not: save it as UTF-8 again")
            return encoding, () if encoding == "utf-8-sig" else (f"The text is in {encoding.upper()}.",)
    if source.wide:
        encoding = "utf-16-le" if source.head[1::2].count(0) > source.head[0::2].count(0) else "utf-16-be"
        return encoding, ("The text is in UTF-16.",)
    sample = _not_utf8(source)
    if sample is None:
        return "utf-8", ()
    guess = require("chardet", "cli", "reading text that is not UTF-8").detect(sample)["encoding"] or "cp1252"
    found = codecs.lookup(guess).name
    if found in _OF_OTHER_TIMES:
        found = "cp1252"
    try:
        sample.decode(found)
    except UnicodeDecodeError:
        found = "latin-1"
    said = f"The text is not UTF-8; it is read as {_TITLES.get(found, found)}, by the look of it."
    return found, (said,)


def _not_utf8(source: Source) -> bytes | None:
    """Some of the text that is not UTF-8 (lines with letters beyond ASCII), or None if all of it is UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with source.open() as stream:
        while block := stream.read(_BLOCK):
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                lines = [line for line in block.splitlines(True) if not line.isascii()]
                return b"".join(lines)[: 1 << 15]
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise FileError(f"{source.name} ends in the middle of a letter: it seems to be cut off") from error
    return None


def decoded(stream: IO[bytes], encoding: str, *, old_mac: bool = False) -> IO[bytes]:
    """The same text in UTF-8, without a mark."""
    if encoding == "utf-8" and not old_mac:
        return stream
    if encoding == "utf-8-sig" and not old_mac:
        stream.read(3)
        return stream
    return from_chunks(_letters(stream, encoding, old_mac))


def _letters(stream: IO[bytes], encoding: str, old_mac: bool) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    while block := stream.read(_BLOCK):
        text = decoder.decode(block)
        yield text.replace("\r", "\n") if old_mac else text
    yield decoder.decode(b"", final=True)


def from_chunks(chunks: Iterable[str]) -> IO[bytes]:
    """A stream of the UTF-8 bytes of these texts."""
    return io.BufferedReader(_Chunks(iter(chunks)), _BLOCK)


class _Chunks(io.RawIOBase):
    """Texts as a stream of bytes."""

    def __init__(self, chunks: Iterator[str]) -> None:
        self._chunks = chunks
        self._left = b""

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer from the texts."""
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = chunk.encode("utf-8", "replace")
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size
