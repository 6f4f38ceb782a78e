"""What a column is: number, category, date, identifier, or nothing to learn from.

The decision is made from the cells alone, is always said with its reason, and can be overridden by name.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backlight.errors import ColumnsError, DataError, listed
from backlight.tables.column import Column
from backlight.tables.dates import read_clock, read_dates
from backlight.tables.frame import Frame, Unreadable, is_missing
from backlight.tables.numbers import MISSING_IN_NUMBERS, Numbers, decimal_mark, read_numbers
from backlight.tables.placeholders import find_placeholder

__all__ = ["CODES", "as_numbers", "code_texts", "understand"]

CODES = "codes by its name, not quantities"


_ID_NAME = re.compile(
    r"(^|[_\s.-])(id|ids|uuid|guid|key|nr|no|number|code|index|row)$|^(id|uuid|guid|index)([_\s.-]|$)", re.IGNORECASE
)
_POSTCODE = re.compile(r"(^|[_\s.-])(zip|zipcode|postcode|plz|zip_?code|postal_?code)$", re.IGNORECASE)
_MOST_CATEGORIES = 100


@dataclass(frozen=True, slots=True, eq=False)
class _Texts:
    """A column's distinct texts, in the order of the rows, and which of them each cell holds (−1: none)."""

    levels: list[str]
    codes: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.levels))

    def spread(self, values: np.ndarray) -> np.ndarray:
        """One value a level to one value a cell."""
        nothing = np.array([np.nan if values.dtype.kind == "f" else "NaT"], dtype=values.dtype)
        return np.asarray(np.concatenate([values, nothing])[self.codes])

    def rows_of(self, bad: frozenset[str]) -> dict[int, str]:
        """The cells that hold one of these texts."""
        if not bad:
            return {}
        wrong = np.array([level in bad for level in self.levels] + [False], dtype=bool)
        return {int(row): self.levels[self.codes[row]] for row in np.flatnonzero(wrong[self.codes])}


def understand(frame: Frame, overrides: Mapping[str, str] | None = None, first_row: int = 0) -> list[Column]:
    """Say what every column is.

    Parameters
    ----------
    frame : Frame
    overrides : mapping of column name to kind, optional
        What the user says goes, where the cells allow it.
    first_row : int
        Where the frame begins in the user's table, for messages.

    Raises
    ------
    ColumnsError
        When an override names no column.
    DataError
        When a column that must be a number holds something else, or an infinite value.
    """
    overrides = dict(overrides or {})
    unknown = [name for name in overrides if name not in frame.names]
    if unknown:
        raise ColumnsError(f"no column {unknown[0]!r} in the data: the columns are {listed(frame.names, 20)}")
    texts = {name: _texts(cells) for name, cells in zip(frame.names, frame.columns, strict=True) if _is_text(cells)}
    decimal = _common_mark(list(texts.values()))
    columns = []
    for name, cells in zip(frame.names, frame.columns, strict=True):
        column = _decide(name, cells, texts.get(name), decimal, overrides.get(name))
        if column.kind == "number" and np.isinf(column.cells).any():
            row = int(np.flatnonzero(np.isinf(column.cells))[0])
            raise DataError(
                f"column {name!r} is {column.cells[row]} in row {first_row + row + 1}: replace infinite values, or "
                f"leave the column out (--ignore {name})"
            )
        columns.append(column)
    return columns


def as_numbers(frame: Frame, names: Sequence[str] | None = None) -> Frame:
    """The table with texts as numbers where all of a column's cells are numbers in some convention, which is noted.

    For a model that takes numbers there: a column with any other cell stays as it is, for the model to refuse.

    Parameters
    ----------
    frame : Frame
    names : sequence of str, optional
        The columns that may be read so; all by default.
    """
    texts = {name: _texts(cells) for name, cells in zip(frame.names, frame.columns, strict=True) if _is_text(cells)}
    decimal = _common_mark(list(texts.values()))
    columns, notes = list(frame.columns), list(frame.notes)
    for j, name in enumerate(frame.names):
        if name in texts and (names is None or name in names):
            found = read_numbers(texts[name].levels, texts[name].counts, decimal)
            if found is not None and not found.bad:
                columns[j] = texts[name].spread(found.values)
                notes += _sentences(name, found.how, found.bad)
    return replace(frame, columns=tuple(columns), source=None, notes=tuple(notes))


def _is_text(cells: np.ndarray) -> bool:
    return cells.dtype == object and any(isinstance(v, str) for v in cells)


def _common_mark(texts: Sequence[_Texts]) -> str | None:
    """The decimal mark that the columns prove, None where they prove none or both."""
    marks = {decimal_mark(column.levels[:1000]) for column in texts} - {None}
    return marks.pop() if len(marks) == 1 else None


def _texts(cells: np.ndarray) -> _Texts:
    known: dict[str, int] = {}
    codes = np.empty(len(cells), dtype=np.int32)
    for i, value in enumerate(cells):
        codes[i] = (
            -1 if is_missing(value) else known.setdefault(value if type(value) is str else str(value), len(known))
        )
    return _Texts(list(known), codes)


def _decide(name: str, cells: np.ndarray, texts: _Texts | None, decimal: str | None, told: str | None) -> Column:
    if told is not None:
        return _as_told(name, cells, texts, decimal, told)
    if cells.dtype == np.float64:
        return _number(name, cells)
    if cells.dtype.kind == "m":
        return _number(name, _hours(cells), " (durations, in hours)")
    if cells.dtype.kind == "M":
        return _date(name, cells)
    if texts is not None:
        return _text(name, _without_nan(cells), texts, decimal)
    return _objects(name, _without_nan(cells))


def _without_nan(cells: np.ndarray) -> np.ndarray:
    gone = np.array([is_missing(v) for v in cells], dtype=bool)
    if not gone.any():
        return cells
    out = cells.copy()
    out[gone] = None
    return out


def _hours(cells: np.ndarray) -> np.ndarray:
    return np.where(np.isnat(cells), np.nan, cells / np.timedelta64(1, "s") / 3600)


def _days(cells: np.ndarray) -> np.ndarray:
    """Days since 1970, also of moments that no other type holds."""
    unit, count = np.datetime_data(cells.dtype)
    a_day = {"D": 1, "h": 24, "m": 1440, "s": 86400, "ms": 86400e3, "us": 86400e6, "ns": 86400e9}.get(unit)
    if a_day is None:
        cells, a_day, count = cells.astype("datetime64[D]"), 1, 1
    return np.where(np.isnat(cells), np.nan, cells.astype(np.int64) * (count / a_day))


def _as_told(name: str, cells: np.ndarray, texts: _Texts | None, decimal: str | None, kind: str) -> Column:
    why = "as you said"
    if kind == "number":
        return _told_number(name, cells, texts, decimal)
    if kind == "date":
        if cells.dtype.kind == "M":
            return Column(name, kind, why, cells)
        found = None if texts is None else read_dates(texts.levels, texts.counts)
        if texts is None or found is None:
            held = next((v for v in cells if not is_missing(v)), None)
            raise DataError(f"column {name!r} cannot be read as dates: it holds {held!r}")
        notes = _sentences(name, found.how, found.bad)
        return Column(name, kind, why, texts.spread(found.values), texts.rows_of(found.bad), notes)
    if kind == "category" and cells.dtype.kind in "fMm":
        return Column(name, kind, why, _as_texts(cells))
    return Column(name, kind, why, cells if cells.dtype.kind == "f" else _without_nan(cells))


def _told_number(name: str, cells: np.ndarray, texts: _Texts | None, decimal: str | None) -> Column:
    why = "as you said"
    if cells.dtype == np.float64:
        return Column(name, "number", why, cells)
    if cells.dtype.kind == "m":
        return Column(name, "number", f"{why}: hours", _hours(cells))
    if cells.dtype.kind == "M":
        return Column(name, "number", f"{why}: days since 1970", _days(cells))
    if texts is not None:
        found = read_numbers(texts.levels, texts.counts, decimal)
        if found is not None and not found.bad:
            return Column(name, "number", why, texts.spread(found.values), notes=_sentences(name, found.how, found.bad))
        moments = read_dates(texts.levels, texts.counts)
        hours = read_clock(texts.levels) if found is None and moments is None else None
        if hours is not None:
            return Column(name, "number", f"{why}: hours", texts.spread(hours))
        if moments is not None and not moments.bad:
            return Column(name, "number", f"{why}: days since 1970", texts.spread(_days(moments.values)))
        if found is not None:
            flags = texts.rows_of(found.bad)
            return Column(
                name, "number", why, texts.spread(found.values), flags, _sentences(name, found.how, found.bad)
            )
    elif all(isinstance(v, bool | int | float) for v in cells if v is not None):
        return Column(name, "number", why, _floats(_without_nan(cells)))
    wrong = next(v for v in cells if not is_missing(v) and read_numbers([str(v)], np.ones(1, dtype=int)) is None)
    raise DataError(f"column {name!r} cannot be numeric: it holds {wrong!r}")


def _floats(cells: np.ndarray) -> np.ndarray:
    return np.array([np.nan if v is None else float(v) for v in cells])


def _as_texts(cells: np.ndarray) -> np.ndarray:
    out = np.empty(len(cells), dtype=object)
    out[:] = [None if v != v else f"{v:g}" if cells.dtype.kind == "f" else str(v) for v in cells]
    return out


def _number(name: str, cells: np.ndarray, how: str = "", flagged: Mapping[int, str] | None = None) -> Column:
    flagged = flagged or {}
    present = cells[~np.isnan(cells)]
    distinct = np.unique(present)
    if not len(present):
        return Column(name, "ignored", "all cells are missing", cells)
    if len(distinct) == 1 and not flagged:
        return Column(name, "ignored", f"constant ({present[0]:g})", cells)
    whole = bool((present == np.round(present)).all())
    if whole and len(distinct) == len(cells) >= 10 and np.abs(distinct[[0, -1]]).max() < 1e300:
        steps = np.diff(cells)
        if (steps == steps[0]).all():
            return Column(name, "identifier", "counts the rows", cells)
        if _ID_NAME.search(name):
            return Column(name, "identifier", "a different whole number in every row, and named so", cells)
    if whole and _POSTCODE.search(name):
        return _codes_as_texts(name, cells, distinct)
    marked = find_placeholder(present, distinct)
    notes: tuple[str, ...] = ()
    if marked is not None:
        where = cells == marked.value
        notes = (f"Column {name!r}: {marked.sentence}",)
        if marked.missing:
            flagged = {**flagged, **dict.fromkeys(np.flatnonzero(where).tolist(), f"{marked.value:g}")}
            cells = np.where(where, np.nan, cells)
            distinct = distinct[distinct != marked.value]
    return Column(name, "number", f"numbers, {distinct[0]:g} to {distinct[-1]:g}{how}", cells, flagged, notes)


def code_texts(cells: np.ndarray) -> np.ndarray:
    """Codes of digits, such as postcodes, as texts; None where missing."""
    out = np.empty(len(cells), dtype=object)
    out[:] = [None if v != v else f"{v:.0f}" for v in cells]
    return out


def _codes_as_texts(name: str, cells: np.ndarray, distinct: np.ndarray) -> Column:
    out = code_texts(cells)
    kind = "category" if 1 < len(distinct) <= min(_MOST_CATEGORIES, 0.5 * len(cells)) else "identifier"
    return Column(name, kind, CODES, out)


def _date(
    name: str, cells: np.ndarray, notes: tuple[str, ...] = (), flagged: Mapping[int, str] | None = None
) -> Column:
    present = cells[~np.isnat(cells)]
    if not len(present):
        return Column(name, "ignored", "all cells are missing", cells)
    first, last = (str(v).replace("T", " ").removesuffix(".000000").removesuffix(" 00:00:00") for v in _ends(present))
    return Column(name, "date", f"dates, {first} to {last}", cells, flagged or {}, notes)


def _ends(times: np.ndarray) -> tuple[np.datetime64, np.datetime64]:
    return times.min(), times.max()


def _objects(name: str, cells: np.ndarray) -> Column:
    """Cells that are no texts: Python's own numbers, dates, times, and what nothing here computes with."""
    present = [v for v in cells if v is not None]
    if not present:
        return Column(name, "ignored", "all cells are missing", cells)
    odd = next((v for v in present if not isinstance(v, bool | int | float | dt.date | dt.time)), None)
    if isinstance(odd, Unreadable):
        return Column(name, "ignored", f"holds {odd.type} values", cells)
    if odd is not None:
        return Column(name, "ignored", f"holds {type(odd).__name__} values", cells)
    if all(isinstance(v, dt.date) for v in present):
        return _date(name, np.array([_moment(v) for v in cells], dtype="datetime64[us]"))
    if all(isinstance(v, int | float) for v in present):
        return _large(name, cells, len(set(present)))
    return _categories(name, cells, _texts(cells))


def _moment(value: Any) -> Any:
    return value.replace(tzinfo=None) if isinstance(value, dt.datetime) else value


def _large(name: str, cells: np.ndarray, distinct: int) -> Column:
    """Whole numbers that float64 does not hold exactly: names of rows where all differ, else their nearest."""
    if distinct == len(cells) >= 10:
        return Column(name, "identifier", "a different whole number in every row, beyond 2⁵³", cells)
    column = _number(name, _floats(cells))
    return replace(
        column, notes=(*column.notes, f"Column {name!r}: whole numbers beyond 2⁵³ are rounded to 16 digits.")
    )


def _text(name: str, cells: np.ndarray, texts: _Texts, decimal: str | None) -> Column:
    counts = texts.counts
    present = [level for level in texts.levels if level.strip() not in MISSING_IN_NUMBERS]
    if present and all(len(level) > 15 and level.isdigit() for level in present):
        return _large(name, cells, len(texts.levels))
    moments = read_dates(texts.levels, counts)
    if moments is not None:
        notes = _sentences(name, moments.how, moments.bad)
        return _date(name, texts.spread(moments.values), notes, texts.rows_of(moments.bad))
    found = read_numbers(texts.levels, counts, decimal)
    if found is not None:
        return _written(name, texts, found)
    hours = read_clock(texts.levels)
    if hours is not None:
        return _number(name, texts.spread(hours), " (clock times or durations, in hours)")
    return _categories(name, cells, texts)


def _written(name: str, texts: _Texts, found: Numbers) -> Column:
    how = f" (written as text{''.join(f', {said}' for said in found.how)})"
    column = _number(name, texts.spread(found.values), how, texts.rows_of(found.bad))
    if column.kind != "number" and not found.bad:
        return replace(column, why=f"{column.why} (written as text)")
    return replace(column, notes=(*column.notes, *_sentences(name, found.how, found.bad)))


def _sentences(name: str, how: tuple[str, ...], bad: frozenset[str]) -> tuple[str, ...]:
    said = [f"Column {name!r}, as it is read: {'; '.join(how)}."] if how else []
    if bad:
        few = listed((f"“{text.strip()[:30]}”" for text in sorted(bad)), 3)
        said.append(f"Column {name!r} holds {few} among its values: marked as missing there, and kept as evidence.")
    return tuple(said)


def _categories(name: str, cells: np.ndarray, texts: _Texts) -> Column:
    values, n = texts.levels, int((texts.codes >= 0).sum())
    if len(values) == 1:
        return Column(name, "ignored", f"constant ({values[0]})", cells)
    if len(values) == n >= 10 or (len(values) > 0.95 * n and n >= 40):
        prose = sum(len(value.split()) > 2 for value in values)
        if prose > 0.5 * len(values) and not _ID_NAME.search(name):
            return Column(name, "ignored", "free text, nearly every row different", cells)
        return Column(name, "identifier", "a different text in nearly every row", cells)
    if len(values) > max(_MOST_CATEGORIES, 1) or len(values) > 0.5 * n:
        return Column(name, "ignored", f"{len(values)} different texts, too many to compare", cells)
    return Column(name, "category", f"{len(values)} categories", cells)
