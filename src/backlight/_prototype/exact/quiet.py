"""Nothing on the standard output that a solver was not asked for.

HiGHS prints a line of its own while it repairs solutions, past Python's streams and its own options. While it runs,
the process' standard output goes to a file; everything in it but those lines is written out afterwards, so that what
other threads print meanwhile comes later, and is not lost.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["quiet"]

_PREFIX = b"Highs"
_LOCK = threading.Lock()
_OPEN: list[tuple[int, Any]] = []
_INSIDE = [0]


@contextmanager
def quiet() -> Iterator[None]:
    """For the time of a solver's call; calls in several threads share one file."""
    with _LOCK:
        _INSIDE[0] += 1
        if _INSIDE[0] == 1:
            _begin()
    try:
        yield
    finally:
        with _LOCK:
            _INSIDE[0] -= 1
            if _INSIDE[0] == 0:
                _end()


def _begin() -> None:
    try:
        _flush()
        kept = os.dup(1)
    except (OSError, ValueError):
        # there is no standard output to keep clean
        return
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed in _end
    os.dup2(file.fileno(), 1)
    _OPEN.append((kept, file))


def _end() -> None:
    if not _OPEN:
        return
    kept, file = _OPEN.pop()
    _flush()
    os.dup2(kept, 1)
    os.close(kept)
    with file:
        file.seek(0)
        told = b"".join(line for line in file if not line.startswith(_PREFIX))
    if told:
        os.write(1, told)


def _flush() -> None:
    """Python's buffer, and that of the C library, in which a solver's lines wait."""
    if sys.stdout is not None:
        sys.stdout.flush()
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)
