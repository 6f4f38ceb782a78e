"""Moments and clock times as people write them, day and month told apart for a whole column."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from backlight.tables.numbers import MISSING_IN_NUMBERS, PLAIN

__all__ = ["Dates", "read_clock", "read_dates"]

_DAYS = (
    "%d.%m.%Y", "%d.%m.%y", "%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%Y", "%m-%d-%Y", "%d-%m-%y",
    "%m-%d-%y", "%Y/%m/%d", "%Y.%m.%d", "%Y-%m", "%d %b %Y", "%d %B %Y", "%d. %B %Y", "%b %d, %Y", "%B %d, %Y",
    "%b %d %Y", "%B %d %Y", "%d-%b-%Y", "%d-%b-%y", "%b-%d-%Y", "%d%b%Y", "%b %Y", "%B %Y", "%a, %d %b %Y", "%d/%b/%Y",
)  # fmt: skip
_TIMES = (
    "", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p", ", %H:%M", ", %H:%M:%S", ":%H:%M:%S",
    " %H:%M:%S %z", ":%H:%M:%S %z", " %H:%M:%S GMT",
)  # fmt: skip
_OTHERS = ("%a %b %d %H:%M:%S %Y", "%A, %B %d, %Y", "%d.%m.%Y %H.%M.%S", "%d/%m/%Y %H.%M.%S", "%Y/%m/%dT%H:%M:%S")
_FORMATS = (*(day + time for day in _DAYS for time in _TIMES), *_OTHERS)
_LIKE_A_DATE = re.compile(r".*\d.*[-/.: A-Za-z].*\d.*", re.DOTALL)
_ISO = re.compile(r"\d{4}-\d\d(-\d\d)?.*", re.DOTALL)
_CLOCK = re.compile(r"(-?)(\d{1,3}):([0-5]\d)(?::([0-5]\d(?:\.\d+)?))?")
_COMPACT = re.compile(r"(1[89]|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
_QUARTER = re.compile(r"([12]\d{3})[ -]?[Qq]([1-4])")
_TRIED = 40
# 63 is 1963, 49 is 2049.
_LAST_SHORT_YEAR = 2050


@dataclass(frozen=True, slots=True, eq=False)
class Dates:
    """Texts read as moments: datetime64 of shape (n,), what is no date, and how they were read, in words."""

    values: np.ndarray
    bad: frozenset[str]
    how: tuple[str, ...]


def read_dates(texts: Sequence[str], counts: np.ndarray) -> Dates | None:
    """Read distinct texts, in the order of the rows, as moments; None where they are something else."""
    known = [i for i, text in enumerate(texts) if text.strip() not in MISSING_IN_NUMBERS]
    tried = [texts[i].strip() for i in known[:_TRIED]]
    if not tried:
        return None
    if all(_COMPACT.fullmatch(text) for text in tried) and len(known) >= 10:
        return _with(lambda text: dt.datetime.strptime(text, "%Y%m%d"), texts, known, counts, ("as year, month, day",))
    if all(PLAIN.fullmatch(text) for text in tried):
        return None
    if all(_QUARTER.fullmatch(text) for text in tried):
        return _with(_quarter, texts, known, counts, ("as quarters",))
    if sum(bool(_LIKE_A_DATE.fullmatch(text)) and 5 < len(text) < 41 for text in tried) < 0.8 * len(tried):
        return None
    if sum(bool(_ISO.fullmatch(text)) for text in tried) >= 0.8 * len(tried):
        found = _with(dt.datetime.fromisoformat, texts, known, counts, ())
        if found is not None:
            return found
    worked = {form: _count(form, tried) for form in _FORMATS}
    most = max(worked.values())
    if most < 0.8 * len(tried):
        return None
    # The order in which the rows are given decides between 3/4 and 4/3 only where no row does.
    found_all = [
        found
        for form in worked
        if worked[form] >= 0.8 * len(tried)
        if (found := _with(_parser(form), texts, known, counts, _said(form))) is not None
    ]
    if not found_all:
        return None
    fewest = min(len(found.bad) for found in found_all)
    best = [found for found in found_all if len(found.bad) == fewest]
    if len(best) == 1:
        return best[0]
    ranked = sorted(best, key=lambda found: _disorder(found.values))
    if _disorder(ranked[0].values) < _disorder(ranked[1].values):
        return Dates(ranked[0].values, ranked[0].bad, (*ranked[0].how, "no row decides; their order does"))
    return Dates(best[0].values, best[0].bad, (*best[0].how, "no row decides: name the column with --ignore if not so"))


def read_clock(texts: Sequence[str]) -> np.ndarray | None:
    """Clock times and durations (10:30, 3:25:07) as hours; None where the texts are something else."""
    out = np.full(len(texts), np.nan)
    for i, text in enumerate(texts):
        if text.strip() in MISSING_IN_NUMBERS:
            continue
        found = _CLOCK.fullmatch(text.strip())
        if found is None:
            return None
        hours = int(found[2]) + int(found[3]) / 60 + float(found[4] or 0) / 3600
        out[i] = -hours if found[1] else hours
    return None if np.isnan(out).all() else out


def _parser(form: str) -> Callable[[str], dt.datetime]:
    if "%y" not in form:
        return lambda text: dt.datetime.strptime(text, form)

    def parse(text: str) -> dt.datetime:
        found = dt.datetime.strptime(text, form)
        return found.replace(year=found.year - 100) if found.year > _LAST_SHORT_YEAR else found

    return parse


def _quarter(text: str) -> dt.datetime:
    found = _QUARTER.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return dt.datetime(int(found[1]), 3 * int(found[2]) - 2, 1)


def _count(form: str, texts: Sequence[str]) -> int:
    count = 0
    for text in texts:
        try:
            dt.datetime.strptime(text, form)
        except ValueError:
            continue
        count += 1
    return count


def _said(form: str) -> tuple[str, ...]:
    if "%d/%m" in form or "%d-%m" in form:
        return ("day before month",)
    return ("month before day",) if "%m/%d/" in form or "%m-%d-" in form else ()


def _with(
    parse: Callable[[str], dt.datetime],
    texts: Sequence[str],
    known: Sequence[int],
    counts: np.ndarray,
    how: tuple[str, ...],
) -> Dates | None:
    """All texts by one parser; None where more than single cells fail."""
    values = np.full(len(texts), np.datetime64("NaT"), dtype="datetime64[us]")
    bad: list[int] = []
    for i in known:
        try:
            values[i] = np.datetime64(parse(texts[i].strip()).replace(tzinfo=None), "us")
        except ValueError:
            bad.append(i)
            if len(bad) > 20:
                return None
    if bad and (counts[bad].sum() > 0.1 * counts[known].sum() or len(known) - len(bad) < 5):
        return None
    return Dates(values, frozenset(texts[i] for i in bad), how)


def _disorder(values: np.ndarray) -> float:
    """How far the moments go back and forth: the sum of all steps, in days."""
    steps = np.diff(values[~np.isnat(values)]).astype("timedelta64[s]").astype(float)
    return float(np.abs(steps).sum() / 86400)
