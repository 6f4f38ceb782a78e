"""What the numbers were computed with."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from backlight._version import __version__

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """Versions of everything that the numbers depend on, where it is installed."""
    return dict(_versions())


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = {"backlight": __version__, "python": platform.python_version()}
    for name in ("torch", "scikit-learn", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return tuple(found.items())
