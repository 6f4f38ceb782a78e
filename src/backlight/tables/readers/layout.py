"""Where a table begins in a sheet or a text: lines above it, its header, a row of units, or no header at all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from backlight.errors import listed
from backlight.tables.numbers import MISSING_IN_NUMBERS, looks_like_a_number

__all__ = ["Layout", "find_layout"]

Row = Sequence[str]

_HEAD = 40
_BODY = 200
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?|\d{1,2}:\d\d(:\d\d.*)?")
_UNIT = re.compile(
    r"[\[(].{0,12}[\])]|[-–%‰°µΩ$€£]|°\s?[CFK]|[µmkMGcdhn]?(m|g|s|A|V|W|Wh|Pa|Hz|N|J|K|L|l|b|B|bar|mol|eV|cd)([²³23]|/\S+|\^\S+)?"
    r"|hPa|mbar|kWh|rpm|mph|ppm|ppb|deg|degC|degF|mg/dl|mmHg|USD|EUR|GBP|CHF|min|hours?|days?|years?|sec|kg/m\S*|m/s\S*"
)
_COMMENT = ("#", "//", "%%", "--")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the first row of values is, the columns' names, and what was decided, in sentences."""

    start: int
    names: tuple[str, ...]
    notes: tuple[str, ...]


def find_layout(rows: Sequence[Row], lines: Sequence[int]) -> Layout:
    """Find the table in the first rows of a sheet or text.

    Parameters
    ----------
    rows : sequence of rows of texts, "" where a cell holds nothing
    lines : sequence of int
        The line of each row, for people.
    """
    width = _width(rows)
    first = _first(rows, width)
    notes = []
    above = [i for i in range(first) if any(rows[i])]
    if above:
        some = " · ".join(" ".join(cell for cell in rows[i] if cell.strip())[:40] for i in above[:2])
        notes.append(f"{_lines(above, lines)} above the table left out: {some}")
    if not _is_header(rows, first):
        names = tuple(f"column_{j + 1}" for j in range(width))
        called = names[0] if width == 1 else f"{names[0]} to {names[-1]}"
        notes.append(f"There is no line of column names: called {called}.")
        return Layout(first, names, tuple(notes))
    names = _fitted(rows, first, width)
    odd = [name for name in names if name and _is_value(name)]
    if odd and not _counts_up(odd):
        notes.append(f"{_lines([first], lines)} is taken as column names, although some are numbers: {listed(odd, 3)}.")
    start = first + 1
    if joined := _second_line(rows, first, names):
        notes.append(f"Lines {lines[first]} and {lines[start]} are column names together, such as {joined[-1]!r}.")
        names, start = joined, start + 1
    if _is_units(rows, start):
        said = ", ".join(cell.strip() for cell in rows[start] if cell.strip())
        notes.append(f"Line {lines[start]} is taken as units, not as values: {said[:80]}")
        start += 1
    return Layout(start, names, tuple(notes))


def _width(rows: Sequence[Row]) -> int:
    """How many cells most rows have."""
    counts = Counter(len(row) for row in rows if any(row))
    most = max(counts.values())
    return max(width for width, count in counts.items() if count == most)


def _filled(row: Row) -> int:
    return sum(bool(cell.strip()) for cell in row)


def _first(rows: Sequence[Row], width: int) -> int:
    """The first row that belongs to the table: its header or, without one, its first values."""
    later = sorted(_filled(row) for row in rows[len(rows) // 2 :] if any(row)) or [1]
    typical = later[len(later) // 2]
    for i, row in enumerate(rows[:_HEAD]):
        if not any(row) or i == len(rows) - 1:
            continue
        if row[0].lstrip().startswith(_COMMENT) and not _headed(rows, i, width):
            continue
        if _counts_rows(row, width):
            continue
        wide = len(row) >= width - 1 and (width > 2 or len(row) == width)
        if wide and (_filled(row) >= 0.6 * typical or not row[0].strip()):
            return i
    return next((i for i, row in enumerate(rows) if any(row)), 0)


def _counts_rows(row: Row, width: int) -> bool:
    """Whether this says how many rows and features follow, and the names of the classes, as scikit-learn's files do."""
    cells = [cell.strip() for cell in row if cell.strip()]
    counts, names = cells[:2], cells[2:]
    return (
        width > 2 and len(names) > 1 and all(cell.isdigit() for cell in counts) and int(counts[1]) == width - 1
        and not any(map(_is_value, names))
    )  # fmt: skip


def _headed(rows: Sequence[Row], i: int, width: int) -> bool:
    """Whether a line such as "#id,value" is the header: as wide as the values that follow, which have no other."""
    follow = [k for k in range(i + 1, min(i + 3, len(rows))) if any(rows[k])]
    return len(rows[i]) == width > 1 and bool(follow) and not _is_header(rows, follow[0])


def _is_value(cell: str) -> bool:
    text = cell.strip()
    return looks_like_a_number(text) or _DATE.fullmatch(text) is not None


def _measured(rows: Sequence[Row], start: int) -> set[int]:
    """The columns that hold numbers or dates below a row."""
    body = [row for row in rows[start : start + _BODY] if any(row)]
    found = set()
    for j in range(max((len(row) for row in body), default=0)):
        cells = [row[j].strip() for row in body if j < len(row)]
        present = [cell for cell in cells if cell not in MISSING_IN_NUMBERS]
        if present and sum(map(_is_value, present)) >= 0.8 * len(present):
            found.add(j)
    return found


def _is_header(rows: Sequence[Row], i: int) -> bool:
    row = rows[i]
    if len(rows) == i + 1:
        return not any(_is_value(cell) for cell in row)
    measured = {j for j in _measured(rows, i + 1) if j < len(row) and row[j].strip()}
    numbers = [row[j].strip() for j in sorted(measured) if _is_value(row[j])]
    words = [row[j] for j in measured if not _is_value(row[j]) and row[j].strip() not in MISSING_IN_NUMBERS]
    if numbers and _counts_up(numbers):
        return True
    if measured:
        return len(words) > len(numbers) or (bool(words) and not numbers)
    if any(_is_value(cell) for cell in row):
        return False
    below: list[set[str]] = [set() for _ in row]
    for later in rows[i + 1 : i + _BODY]:
        for seen, cell in zip(below, later, strict=False):
            seen.add(cell)
    present = [cell for cell in row if cell.strip()]
    return len(set(present)) == len(present) and not any(c.strip() and c in s for c, s in zip(row, below, strict=True))


def _counts_up(cells: Sequence[str]) -> bool:
    """Whether these are names such as 0, 1, 2 or 2001, 2002: whole numbers in steps of one, or other even years."""
    if len(cells) < 2 or not all(cell.isdigit() for cell in cells):
        return False
    values = [int(cell) for cell in cells]
    steps = {b - a for a, b in pairwise(values)}
    return (steps == {1} and (values[0] in (0, 1) or values[0] > 1800)) or (
        len(steps) == 1 and 1800 < values[0] < values[-1] < 2200
    )


def _fitted(rows: Sequence[Row], first: int, width: int) -> tuple[str, ...]:
    """A header as wide as the values: R leaves out the name of the row names, others end lines with a separator."""
    names = [cell.strip() for cell in rows[first]]
    if names and names[0].startswith("#"):
        names[0] = names[0].lstrip("# ")
    while len(names) > width and not names[-1]:
        names.pop()
    if len(names) == width - 1 and any(
        len(row) == width and row[-1].strip() for row in rows[first + 1 : first + _BODY]
    ):
        names = ["", *names]
    return tuple([*names, *[""] * (width - len(names))][: max(width, len(names))])


def _second_line(rows: Sequence[Row], first: int, names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Names of two lines, where the upper names groups, once in merged cells or again for each of its columns."""
    start = first + 1
    if len(rows) < start + 3 or len(rows[start]) < len(names) or _is_units(rows, start):
        return None
    lower = [cell.strip() for cell in rows[start][: len(names)]]
    measured = [j for j in _measured(rows, start + 1) if j < len(names)]
    words = [j for j in measured if lower[j] and not _is_value(lower[j]) and lower[j] not in MISSING_IN_NUMBERS]
    if not measured or len(words) < 0.8 * len(measured):
        return None
    upper, held = [], ""
    for name, below in zip(names, lower, strict=True):
        held = name or (held if below else "")
        upper.append(held)
    if len(set(filter(None, names))) == len(names) or not any(upper.count(name) > 1 for name in upper if name):
        return None
    joined = [" ".join(dict.fromkeys(filter(None, pair))) for pair in zip(upper, lower, strict=True)]
    return tuple(joined) if len(set(joined)) == len(joined) else None


def _is_units(rows: Sequence[Row], i: int) -> bool:
    """Whether a row under the header holds units: words in it where all other rows hold numbers."""
    if len(rows) < i + 3:
        return False
    row = rows[i]
    measured = [j for j in _measured(rows, i + 1) if j < len(row)]
    held = [row[j].strip() for j in measured if row[j].strip()]
    if not measured or not held or any(_is_value(cell) for cell in held):
        return False
    units = sum(bool(_UNIT.fullmatch(cell)) for cell in held)
    return units >= 0.5 * len(held) and all(len(cell) <= 15 for cell in row)


def _lines(rows: Sequence[int], lines: Sequence[int]) -> str:
    if len(rows) == 1:
        return f"Line {lines[rows[0]]}"
    return f"Lines {lines[rows[0]]} to {lines[rows[-1]]}"
