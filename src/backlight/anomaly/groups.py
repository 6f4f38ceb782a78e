"""Groups of columns, from sensors to subsystems to plants: contributions rolled up, totals kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backlight.errors import DataError, listed
from backlight.tables import Frame

__all__ = ["Groups", "Level", "read_groups"]

OTHER = "(no group)"


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One way of grouping columns.

    Attributes
    ----------
    name : str
        What the groups are: "subsystem".
    groups : tuple of str
    member : array of int of shape (d,)
        The group of each column.
    """

    name: str
    groups: tuple[str, ...]
    member: np.ndarray

    def roll_up(self, values: np.ndarray) -> np.ndarray:
        """Contributions of columns, (n, d), summed over groups, (n, g)."""
        out = np.zeros((len(values), len(self.groups)))
        np.add.at(out.T, self.member, values.T)
        return out


@dataclass(frozen=True, slots=True)
class Groups:
    """The file of groups: for each column its group at every level."""

    levels: tuple[str, ...]
    of: dict[str, tuple[str, ...]]

    def for_columns(self, names: Sequence[str]) -> tuple[Level, ...]:
        """The levels of these columns; what was taken from a column ("x: change") belongs where the column does."""
        found = []
        for k, level in enumerate(self.levels):
            labels = [self._group(name)[k] for name in names]
            known = list(dict.fromkeys(labels))
            found.append(Level(level, tuple(known), np.array([known.index(label) for label in labels])))
        return tuple(found)

    def _group(self, name: str) -> tuple[str, ...]:
        own = self.of.get(name) or self.of.get(name.rpartition(": ")[0])
        return own if own is not None else (OTHER,) * len(self.levels)


def read_groups(frame: Frame, names: Sequence[str]) -> Groups:
    """Read a table of groups: column names in its first column, a level of groups in each other one.

    Raises
    ------
    DataError
        Where it has no second column, names no column of the data, or names one twice.
    """
    if len(frame.names) < 2:
        raise DataError("the table of groups needs two columns: the name of a column, and its group")
    first = [str(cell).strip() for cell in frame.columns[0].tolist()]
    twice = sorted({name for name in first if first.count(name) > 1})
    if twice:
        raise DataError(f"the table of groups names {listed(twice)} twice: one line a column")
    if not set(first) & set(names):
        raise DataError(f"the table of groups names no column of the data: it has {listed(first[:5])}")
    cells = [[_text(cell) for cell in column.tolist()] for column in frame.columns[1:]]
    return Groups(tuple(frame.names[1:]), {name: tuple(level[i] for level in cells) for i, name in enumerate(first)})


def _text(cell: object) -> str:
    if cell is None or cell != cell:
        return OTHER
    return f"{cell:g}" if isinstance(cell, float) else str(cell)
