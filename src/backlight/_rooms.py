"""Rooms whose files register what is in them: a new file is found without being named anywhere."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable

__all__ = ["open_room"]


def open_room(package: str, places: Iterable[str], *, later: Iterable[str] = ()) -> None:
    """Import every file of a package, but for those that are only imported when they are wanted."""
    for found in pkgutil.iter_modules(list(places)):
        if found.name not in later:
            importlib.import_module(f"{package}.{found.name}")
