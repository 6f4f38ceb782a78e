"""What moments say of a row: hour, weekday, day of year, the gap to the row before, and changes since then.

Hour, weekday and day of year are taken where they vary, changes of all numbers with ``--time``. Rows are put in the
order of time, within each series where an identifier column has several rows each. What is taken from a column is
decided once, on the reference rows, and then the same for every table: a weekday needs two weeks of rows, a day of the
year a whole year, a gap rows of which most have a moment of their own. Dates that all are the first or the last day of
a month stand for months, quarters or years: they have no weekday, and their gaps are counted in months.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backlight.errors import ColumnsError, DataError, listed
from backlight.tables.column import Column

__all__ = ["Moments", "find_moments"]

_DAY = 86_400.0
_WEEKDAYS = np.array(["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"], dtype=object)
_MONTHS = np.array(
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
     "December"], dtype=object,
)  # fmt: skip
_UNITS = (("days", _DAY), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


@dataclass(frozen=True, slots=True)
class Moments:
    """What is taken from date columns.

    Attributes
    ----------
    features : tuple of (column, feature, unit)
        The unit is that of a gap, in words and seconds; ("", 1) otherwise.
    time : str, optional
        The column whose order says what came before.
    series : str, optional
        The column that says which rows belong together.
    changing : tuple of str
        Numbers whose change since the row before is taken.
    """

    features: tuple[tuple[str, str, tuple[str, float]], ...]
    time: str | None
    series: str | None
    changing: tuple[str, ...]

    @property
    def row_by_row(self) -> Moments:
        """Without what needs the row before: for tables that are read in batches."""
        return Moments(tuple(one for one in self.features if one[1] != "gap"), None, None, ())

    def columns(self, known: Sequence[Column]) -> list[Column]:
        """The further columns of a table."""
        by_name = {column.name: column for column in known}
        found = []
        for name, feature, unit in self.features:
            column = by_name[name]
            if column.cells.dtype.kind == "M":
                found.append(_taken(column, feature, unit, self._before(by_name, name)))
        if self.time is not None and self.time in by_name:
            before = self._before(by_name, self.time)
            found += [_change(by_name[name], before) for name in self.changing]
        return found

    def _before(self, by_name: dict[str, Column], time: str) -> np.ndarray:
        return _before(_order_of(by_name[time]), None if self.series is None else by_name[self.series].cells)


def find_moments(columns: Sequence[Column], time: str | None = None) -> Moments:
    """Decide what to take.

    Raises
    ------
    ColumnsError, DataError
        When ``time`` is no column, or one without order.
    """
    by_name = {column.name: column for column in columns}
    if time is not None:
        if time not in by_name:
            raise ColumnsError(f"no column {time!r} to order the rows by: the columns are {listed(by_name, 20)}")
        if by_name[time].kind not in ("date", "number", "identifier") or _is_text(by_name[time]):
            raise DataError(f"--time {time}: the column holds neither dates nor numbers, so the rows have no order")
    series = next((c.name for c in columns if c.kind == "identifier" and c.name != time and _repeats(c)), None)
    features = []
    for column in columns:
        if column.kind == "date" and column.cells.dtype.kind == "M" and not column.missing.all():
            before = _before(_order_of(column), None if series is None else by_name[series].cells)
            features += [(column.name, feature, unit) for feature, unit in _features(column, before)]
    changing: tuple[str, ...] = ()
    if time is not None:
        before = _before(_order_of(by_name[time]), None if series is None else by_name[series].cells)
        changing = tuple(
            c.name for c in columns if c.kind == "number" and c.name != time and np.nanstd(_change(c, before).cells) > 0
        )
    return Moments(tuple(features), time, series, changing)


def _is_text(column: Column) -> bool:
    return column.cells.dtype == object


def _repeats(column: Column) -> bool:
    cells = [cell for cell in column.cells.tolist() if cell is not None]
    return 0 < 2 * len(set(cells)) <= len(cells)


def _order_of(column: Column) -> np.ndarray:
    """Cells as numbers to be ordered by; missing is NaN."""
    if column.cells.dtype.kind == "M":
        seconds = column.cells.astype("datetime64[us]").astype(float) / 1e6
        seconds[column.missing] = np.nan
        return np.asarray(seconds)
    return np.asarray(column.cells, dtype=float)


def _before(order: np.ndarray, series: np.ndarray | None) -> np.ndarray:
    """The position of the row before each row, in its series; −1 where there is none."""
    out = np.full(len(order), -1)
    group = np.zeros(len(order), dtype=int)
    if series is not None:
        group = np.unique(np.array([str(cell) for cell in series.tolist()]), return_inverse=True)[1].ravel()
    known = np.flatnonzero(~np.isnan(order))
    known = known[np.lexsort((known, order[known], group[known]))]
    same = group[known[1:]] == group[known[:-1]]
    out[known[1:][same]] = known[:-1][same]
    return out


def _features(column: Column, before: np.ndarray) -> list[tuple[str, tuple[str, float]]]:
    seconds = _order_of(column)
    known = seconds[~np.isnan(seconds)]
    if _whole_months(column):
        return _features_of_months(column, before)
    span = float(np.ptp(known)) / _DAY
    found: list[tuple[str, tuple[str, float]]] = []
    if span >= 2 and len(np.unique(known % _DAY // 3600)) > 1:
        found.append(("hour", ("", 1.0)))
    days = np.unique(known // _DAY)
    if len(days) >= 14 and len(np.unique(days % 7)) > 1:
        found.append(("weekday", ("", 1.0)))
    if span >= 365 and len(days) >= 14:
        found.append(("day of year", ("", 1.0)))
    gaps = (seconds - seconds[before])[before >= 0]
    gaps = gaps[~np.isnan(gaps)]
    typical = float(np.median(gaps)) if len(gaps) else 0.0
    if typical > 0 and len(np.unique(gaps)) > 2:
        found.append(("gap", next((unit for unit in _UNITS if typical >= unit[1]), _UNITS[-1])))
    return found


def _whole_months(column: Column) -> bool:
    """Whether all dates are the first, or all the last, day of a month, and of more than two of them."""
    known = column.cells[~column.missing]
    days = known.astype("datetime64[D]")
    if (known != days).any() or len(np.unique(known)) < 3:
        return False
    last = days + 1
    return any(bool((d == d.astype("datetime64[M]").astype("datetime64[D]")).all()) for d in (days, last))


def _month_of(column: Column) -> np.ndarray:
    """Months since 1970; missing is NaN."""
    months = column.cells.astype("datetime64[M]").astype(float)
    months[column.missing] = np.nan
    return np.asarray(months)


def _features_of_months(column: Column, before: np.ndarray) -> list[tuple[str, tuple[str, float]]]:
    months = _month_of(column)
    known = months[~np.isnan(months)]
    found: list[tuple[str, tuple[str, float]]] = []
    if np.ptp(known) >= 12 and len(np.unique(known % 12)) > 1:
        found.append(("month", ("", 1.0)))
    gaps = (months - months[before])[before >= 0]
    gaps = gaps[~np.isnan(gaps)]
    if len(gaps) and np.median(gaps) > 0 and len(np.unique(gaps)) > 1:
        found.append(("gap", ("months", 1.0)))
    return found


def _taken(column: Column, feature: str, unit: tuple[str, float], before: np.ndarray) -> Column:
    seconds = _month_of(column) if unit[0] == "months" else _order_of(column)
    if feature in ("weekday", "month"):
        names = _WEEKDAYS if feature == "weekday" else _MONTHS
        number = seconds // _DAY + 3 if feature == "weekday" else _month_of(column)
        cells = names[np.where(np.isnan(number), 0, number % len(names)).astype(int)]
        cells[np.isnan(number)] = None
        return Column(f"{column.name}: {feature}", "category", f"from the dates of {column.name}", cells)
    if feature == "hour":
        numbers = seconds % _DAY / 3600
    elif feature == "day of year":
        start = column.cells.astype("datetime64[Y]")
        numbers = (column.cells.astype("datetime64[D]") - start.astype("datetime64[D]")).astype(float) + 1
        numbers[np.isnan(seconds)] = np.nan
    else:
        numbers = np.where(before >= 0, seconds - seconds[before], np.nan) / unit[1]
        usual = float(np.nanmedian(numbers)) if not np.isnan(numbers).all() else 0.0
        numbers[(before < 0) & ~np.isnan(seconds)] = usual
        return Column(f"{column.name}: gap", "number", f"{unit[0]} since the row before", numbers)
    return Column(f"{column.name}: {feature}", "number", f"from the dates of {column.name}", numbers)


def _change(column: Column, before: np.ndarray) -> Column:
    """A first row has not changed."""
    numbers = np.where(before >= 0, column.cells - column.cells[before], 0.0)
    return Column(f"{column.name}: change", "number", "change since the row before", numbers)
