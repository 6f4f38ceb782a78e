"""Rows in batches: whatever they are rows of."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np

from backlight.errors import ArgumentError, DataError

__all__ = ["Rows", "in_batches", "is_stream"]


class Rows(Protocol):
    """Some rows that can be cut.

    Attributes
    ----------
    rows : int
        How many there are.
    step : int
        How many go through at once where the user does not say.
    """

    @property
    def rows(self) -> int:
        """See the class."""

    @property
    def step(self) -> int:
        """See the class."""

    def take(self, start: int, stop: int) -> Any:
        """Rows start to stop, of the same class."""


B = TypeVar("B", bound=Rows)


def is_stream(X: Any) -> bool:
    """Whether X yields batches, as a DataLoader or a generator does, rather than being one."""
    if isinstance(X, tuple | dict | Mapping | np.ndarray) or hasattr(type(X), "shape"):
        return False  # by its class: a nested tensor has no shape to be asked for
    if hasattr(X, "shape"):
        return False
    if type(X).__name__ == "DataLoader" or hasattr(X, "__next__"):
        return True
    return hasattr(X, "__iter__") and not hasattr(X, "__len__")


def in_batches(X: Any, read: Callable[[Any], B], batch_size: int | str) -> tuple[int | None, Iterator[B]]:
    """How many rows there are, where that is known beforehand, and the rows batch by batch.

    Parameters
    ----------
    X : anything that ``read`` takes, or a stream of it
        A stream's batches may be tuples (inputs, labels, …), of which the inputs are the first.
    read : callable
        From what the user gave to rows.
    batch_size : int or "auto"

    Raises
    ------
    ArgumentError, DataError
    """
    if batch_size != "auto" and not (isinstance(batch_size, numbers.Integral) and batch_size > 0):
        raise ArgumentError(f"batch_size must be 'auto' or a positive number of rows, not {batch_size!r}")
    if is_stream(X):
        return None, (part for item in X for part in _cut(read(_inputs_of(item)), batch_size))
    whole = read(X)
    if not whole.rows:
        raise DataError("there are no rows to explain: give at least one")
    return whole.rows, _cut(whole, batch_size)


def _inputs_of(item: Any) -> Any:
    texts = isinstance(item, list) and bool(item) and isinstance(item[0], str)
    return item[0] if isinstance(item, tuple | list) and len(item) and not texts else item


def _cut(batch: B, batch_size: int | str) -> Iterator[B]:
    rows = batch.rows
    step = batch.step if batch_size == "auto" else int(batch_size)
    if 0 < rows <= step:
        yield batch
        return
    for start in range(0, rows, step):
        yield batch.take(start, start + step)
