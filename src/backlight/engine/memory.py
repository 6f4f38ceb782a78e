"""Memory that was freed, given back to the system between the blocks of a long way back."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

__all__ = ["give_back"]


def give_back() -> None:
    """Let the system have the pages that hold nothing any more, where the C library can say which they are.

    The values of a long text are some megabytes each. Of such sizes glibc keeps what is freed, and the holes seldom fit
    what comes next, so that a process holds twice what it uses.
    """
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], object]:
    try:
        found: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        # not glibc
        return bool
    return found
