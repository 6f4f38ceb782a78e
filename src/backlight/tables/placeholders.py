"""Numbers that stand for "no value": −999, 9999, and others far from the rest that come again and again."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

__all__ = ["Placeholder", "find_placeholder"]

_NINES = re.compile(r"-9{2,}(\.\d+)?|9{3,}(\.\d+)?|-9|-1e\+?\d+|-?9\.9+e\+?\d+")
_REPEATED = 3


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A number that stands for "no value": whether it is taken as missing, and what is said of it."""

    value: float
    missing: bool
    sentence: str


def find_placeholder(present: np.ndarray, distinct: np.ndarray) -> Placeholder | None:
    """The smallest or largest value, where it repeats and lies outside the others by more than their range.

    Taken as missing where it is written in nines, as the usual codes are; otherwise only said.

    Parameters
    ----------
    present : array of shape (n,)
    distinct : array of shape (k,)
        Its sorted distinct values.
    """
    if len(distinct) < 5 or not np.isfinite(distinct[[0, -1]]).all():
        return None
    half = distinct / 2  # differences of halves do not overflow
    for value, gap, spread in (
        (distinct[0], half[1] - half[0], half[-1] - half[1]),
        (distinct[-1], half[-1] - half[-2], half[-2] - half[0]),
    ):
        count = int((present == value).sum())
        if count < _REPEATED or count > 0.9 * len(present) or not gap > spread:
            continue
        written = f"{value:g}"
        if _NINES.fullmatch(written):
            said = f"{written} in {count} cells is taken as a placeholder for a missing value."
            return Placeholder(float(value), True, said)
        if gap > 2 * spread and count >= 0.01 * len(present) and value not in (0, 1):
            said = f"{written} occurs {count} times, far from all other values: is it a placeholder?"
            return Placeholder(float(value), False, said)
    return None
