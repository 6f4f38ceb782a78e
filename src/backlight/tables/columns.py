"""What a column is: number, category, date, identifier, or nothing to learn from.

The decision is made from the cells alone, is always said with its reason, and can be overridden by name.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from backlight.errors import ColumnsError, DataError, listed
from backlight.tables.frame import Frame

__all__ = ["KINDS", "Column", "understand"]

KINDS = ("number", "category", "date", "identifier", "ignored")

_THOUSANDS = re.compile(r"^[-+]?\d{1,3}(,\d{3})+(\.\d+)?$")
_NUMBER = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
_ID_NAME = re.compile(
    r"(^|[_\s.-])(id|ids|uuid|guid|key|nr|no|number|code|index|row)$|^(id|uuid|guid|index)([_\s.-]|$)", re.I
)
_DATE_FORMATS = (
    "%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%d.%m.%Y", "%d.%m.%Y %H:%M",
    "%d.%m.%Y %H:%M:%S", "%d/%m/%Y", "%m/%d/%Y", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%d/%m/%y", "%m/%d/%y", "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S", "%d-%m-%Y", "%d %b %Y", "%b %d, %Y", "%d-%b-%Y", "%d-%b-%y",
)  # fmt: skip
_MOST_CATEGORIES = 100


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """A column and what it was taken for.

    Attributes
    ----------
    name : str
    kind : str
        One of `KINDS`.
    why : str
        The reason, for people.
    cells : array of shape (n,)
        float64 for numbers, otherwise objects with ``None`` for missing cells.
    """

    name: str
    kind: str
    why: str
    cells: np.ndarray


def understand(frame: Frame, overrides: Mapping[str, str] | None = None) -> list[Column]:
    """Say what every column is.

    Parameters
    ----------
    frame : Frame
    overrides : mapping of column name to kind, optional
        What the user says goes, where the cells allow it.

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
    columns = []
    for name, raw in zip(frame.names, frame.columns, strict=True):
        cells = raw if raw.dtype == np.float64 else _without_nan(raw)
        if name in overrides:
            column = _as_told(name, cells, overrides[name])
        else:
            column = _number(name, cells) if cells.dtype == np.float64 else _other(name, cells)
        if column.kind == "number" and np.isinf(column.cells).any():
            row = int(np.flatnonzero(np.isinf(column.cells))[0])
            raise DataError(
                f"column {name!r} is {column.cells[row]} in row {row + 1}: replace infinite values, or leave the "
                f"column out (--ignore {name})"
            )
        columns.append(column)
    return columns


def _without_nan(cells: np.ndarray) -> np.ndarray:
    out = np.empty(len(cells), dtype=object)
    out[:] = [None if v != v else v for v in cells]
    return out


def _as_told(name: str, cells: np.ndarray, kind: str) -> Column:
    why = "as you said"
    if kind == "number":
        numbers = cells if cells.dtype == np.float64 else _parse_numbers(cells)
        if numbers is None:
            numbers = _days(cells)
            why = "as you said: days since 1970"
        if numbers is None:
            wrong = next(v for v in cells if v is not None and _parse_numbers(np.array([v], dtype=object)) is None)
            raise DataError(f"column {name!r} cannot be numeric: it holds {wrong!r}")
        return Column(name, kind, why, numbers)
    if kind == "category" and cells.dtype == np.float64:
        return Column(name, kind, why, _texts(cells))
    return Column(name, kind, why, cells)


def _texts(cells: np.ndarray) -> np.ndarray:
    out = np.empty(len(cells), dtype=object)
    out[:] = [None if np.isnan(v) else f"{v:g}" for v in cells]
    return out


def _number(name: str, cells: np.ndarray) -> Column:
    present = cells[~np.isnan(cells)]
    distinct = np.unique(present)
    if not len(present):
        return Column(name, "ignored", "all cells are missing", cells)
    if len(distinct) == 1:
        return Column(name, "ignored", f"constant ({present[0]:g})", cells)
    whole = bool((present == np.round(present)).all())
    if whole and len(distinct) == len(cells) >= 10:
        steps = np.diff(cells)
        if (steps == steps[0]).all():
            return Column(name, "identifier", "counts the rows", cells)
        if _ID_NAME.search(name):
            return Column(name, "identifier", "a different whole number in every row, and named so", cells)
    return Column(name, "number", f"numbers, {distinct[0]:g} to {distinct[-1]:g}", cells)


def _other(name: str, cells: np.ndarray) -> Column:
    present = [v for v in cells if v is not None]
    if not all(isinstance(v, str | bool | int | float | dt.date | dt.datetime | dt.time) for v in present):
        return Column(name, "ignored", f"holds {type(present[0]).__name__} values", cells)
    if _days(cells) is not None:
        return Column(name, "date", f"dates, {min(map(str, present))} to {max(map(str, present))}", cells)
    numbers = _parse_numbers(cells)
    if numbers is not None:
        found = _number(name, numbers)
        return Column(name, found.kind, f"{found.why} (written as text)", found.cells)
    values = set(map(str, present))
    n = len(present)
    if len(values) == 1:
        return Column(name, "ignored", f"constant ({next(iter(values))})", cells)
    if len(values) == n >= 10 or (len(values) > 0.95 * n and n >= 40):
        prose = sum(len(value.split()) > 2 for value in values)
        if prose > 0.5 * len(values) and not _ID_NAME.search(name):
            return Column(name, "ignored", "free text, nearly every row different", cells)
        return Column(name, "identifier", "a different text in nearly every row", cells)
    if len(values) > max(_MOST_CATEGORIES, 1) or len(values) > 0.5 * n:
        return Column(name, "ignored", f"{len(values)} different texts, too many to compare", cells)
    return Column(name, "category", f"{len(values)} categories", cells)


def _parse_numbers(cells: np.ndarray) -> np.ndarray | None:
    """Numbers written as text (1,234.5 · 12 %), or None if any cell is something else."""
    out = np.full(len(cells), np.nan)
    for i, value in enumerate(cells):
        if value is None:
            continue
        if isinstance(value, bool | int | float):
            out[i] = value
            continue
        text = str(value).strip().removesuffix("%").strip()
        if _THOUSANDS.match(text):
            text = text.replace(",", "")
        if not _NUMBER.match(text):
            return None
        out[i] = float(text)
    return out


def _days(cells: np.ndarray) -> np.ndarray | None:
    """Days since 1970, or None if the cells are no dates."""
    present = [v for v in cells if v is not None]
    if not present:
        return None
    if all(isinstance(v, dt.date) for v in present):
        return np.array([np.nan if v is None else _day(v) for v in cells])
    if not all(isinstance(v, str) for v in present):
        return None
    for form in _DATE_FORMATS:
        parsed = _parse_dates(cells, form)
        if parsed is not None:
            return parsed
    return None


def _parse_dates(cells: Sequence[str | None] | np.ndarray, form: str) -> np.ndarray | None:
    out = []
    for value in cells:
        try:
            out.append(np.nan if value is None else _day(dt.datetime.strptime(value.strip(), form)))
        except ValueError:
            return None
    return np.array(out)


def _day(value: dt.date) -> float:
    if isinstance(value, dt.datetime):
        return (value.replace(tzinfo=None) - dt.datetime(1970, 1, 1)).total_seconds() / 86400
    return float((value - dt.date(1970, 1, 1)).days)
