"""A table that nobody prepared, as a detector takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from backlight.anomaly.moments import Moments, find_moments
from backlight.errors import DataError, listed
from backlight.tables import Frame, as_frame
from backlight.tables.alike import read_alike
from backlight.tables.column import Column
from backlight.tables.columns import understand

__all__ = ["MIN_ROWS", "MOST_COLUMNS", "Prepared", "coded", "prepare"]

MIN_ROWS = 10
MOST_COLUMNS = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A table as the detector takes it.

    Attributes
    ----------
    columns : tuple of Column
        All columns, also those that are not modelled.
    used : tuple of str
        The modelled ones.
    coded : array of shape (n, len(used))
        Numbers; categories as codes; missing is NaN.
    levels : mapping of str to tuple of str
        What the codes of a category mean.
    moments : Moments
        What was taken from dates.
    """

    columns: tuple[Column, ...]
    used: tuple[str, ...]
    coded: np.ndarray
    levels: Mapping[str, tuple[str, ...]]
    moments: Moments

    def take(self, rows: np.ndarray) -> Prepared:
        """Some of the rows, by their positions in ascending order."""
        place = {int(row): i for i, row in enumerate(rows)}
        columns = tuple(
            replace(
                column,
                cells=column.cells[rows],
                flagged={place[row]: text for row, text in column.flagged.items() if row in place},
            )
            for column in self.columns
        )
        return Prepared(columns, self.used, self.coded[rows], self.levels, self.moments)


def prepare(
    frame: Frame,
    overrides: Mapping[str, str] | None = None,
    normal: Frame | None = None,
    time: str | None = None,
    *,
    whole: bool = True,
) -> tuple[Prepared, Prepared | None]:
    """Decide what each column is and turn tables into numbers, the normal rows by the same decisions.

    Moments give further columns; ``time`` is the column that orders the rows (see `find_moments`). ``whole`` says
    whether the frame is all of the table: of a sample nothing is taken that needs the row before.

    Raises
    ------
    DataError
        For fewer than 10 rows, or when no column can be learnt from.
    """
    source = frame if normal is None else normal
    if len(source) < MIN_ROWS:
        few = f"{len(source)} row{' is' if len(source) == 1 else 's are'} too few to learn what is normal"
        raise DataError(f"{few}: give at least {MIN_ROWS}")
    columns = understand(source, overrides)
    if normal is not None:
        columns = [_reconsidered(column, frame, overrides or {}) for column in columns]
    moments = find_moments(columns, time)
    if not whole:
        moments = moments.row_by_row
    columns = [_as_order(column, time) for column in columns]
    plain = columns
    columns = columns + moments.columns(columns)
    used = tuple(c.name for c in columns if c.kind in ("number", "category"))
    if not used:
        reasons = listed(f"{c.name} ({c.kind}: {c.why})" for c in columns)
        raise DataError(f"no column can be used: {reasons}; name some with --numeric or --categorical")
    if len(used) > MOST_COLUMNS:
        raise DataError(
            f"{len(used):,} columns are too many to be compared with each other: leave some out with --ignore, or "
            f"reduce them first (at most {MOST_COLUMNS:,})"
        )
    if normal is None:
        return coded(columns, used, {}, moments), None
    fixed = {c.name: c.kind for c in plain}
    alike = read_alike(source, plain)  # what is a placeholder in the normal rows is one where it is rare too
    found = zip(understand(frame, fixed), plain, strict=True)
    there = [alike.emptied(replace(column, why=known.why)) for column, known in found]
    there = there + moments.columns(there)
    levels: dict[str, list[str]] = {}
    reference = coded(columns, used, levels, moments)
    return coded(there, used, levels, moments), reference


def _as_order(column: Column, time: str | None) -> Column:
    """A number that orders the rows is no property of them."""
    if column.name != time or column.kind != "number":
        return column
    return replace(column, kind="identifier", why="orders the rows")


def _reconsidered(column: Column, frame: Frame, overrides: Mapping[str, str]) -> Column:
    """A column that is constant in the normal rows but not in the table is where the table is new: keep it."""
    if column.kind != "ignored" or column.name in overrides or not column.why.startswith("constant"):
        return column
    there = understand(frame.select([column.name]))[0]
    if there.kind not in ("number", "category", "ignored"):
        return column
    both = np.concatenate([column.cells.astype(object), there.cells.astype(object)])
    together = understand(as_frame(both[:, None], [column.name]))[0]
    same_type = (column.cells.dtype == np.float64) == (together.kind == "number")
    if together.kind not in ("number", "category") or not same_type:
        return column
    return replace(column, kind=together.kind, why=f"{column.why} in the normal rows, but not here")


def coded(columns: list[Column], used: tuple[str, ...], levels: dict[str, list[str]], moments: Moments) -> Prepared:
    """Columns as numbers; a level that is not among ``levels`` is added to them."""
    by_name = {c.name: c for c in columns}
    parts = []
    for name in used:
        column = by_name[name]
        if column.kind == "number":
            parts.append(column.cells)
            continue
        known = levels.setdefault(name, [])
        place = {text: float(i) for i, text in enumerate(known)}
        codes = np.full(len(column.cells), np.nan)
        for i, value in enumerate(column.cells):
            if value is not None:
                text = str(value)
                if text not in place:
                    place[text] = float(len(known))
                    known.append(text)
                codes[i] = place[text]
        parts.append(codes)
    return Prepared(tuple(columns), used, np.stack(parts, 1), {k: tuple(v) for k, v in levels.items()}, moments)
