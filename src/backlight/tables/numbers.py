"""Numbers as people write them: $1,234.50 · 1.234,56 · (1,200.00) · 70.1 kg · 1 234 · 12 %.

What a separator means is decided for a whole column by what all of its cells allow, never cell by cell.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["MISSING", "MISSING_IN_NUMBERS", "PLAIN", "Numbers", "decimal_mark", "looks_like_a_number", "read_numbers"]

# What the usual programs write for "no value".
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None", "<NA>", "?")
# What means no value among numbers and dates, but may well be a category elsewhere.
MISSING_IN_NUMBERS = frozenset([*MISSING, "-", "--", "---", "–", "—", ".", "..", "...", "none", "na", "#NULL!", "NaT"])

PLAIN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_CLEAN = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u2012": "-", "\ufe63": "-", "\uff0d": "-", "\u2019": "'", "\u00a0": " ",
        "\u202f": " ", "\u2009": " ", "\u2007": " ", "\t": " ", "\x1a": "",
    }
)  # fmt: skip
_SHAPE = re.compile(
    r"(?P<open>\()?\s*(?P<sign>[-+])?\s*(?P<prefix>[^\s\d.,'()+-][^\s\d,'()+-]{0,4})?\s*(?P<inner>[-+])?\s*"
    r"(?P<core>\d(?:[\d.,' ]*\d)?[.,]?|[.,]\d+)(?P<exponent>[eE][-+]?\d+)?"
    r"(?P<gap>\s*)(?P<suffix>[^\s\d.,'()+-][^\s\d()]{0,7}(?:\s[^\s\d()]{1,8})?[23]?)?(?P<trail>-)?\s*(?P<close>\))?"
)
_POINT = re.compile(r"(\d+|[1-9]\d{0,2}(?:,\d{2,3})*,\d{3}|[1-9]\d{0,2}(?: \d{3})+|[1-9]\d{0,2}(?:'\d{3})+)?(\.\d*)?")
_COMMA = re.compile(r"(\d+|[1-9]\d{0,2}(?:\.\d{3})+|[1-9]\d{0,2}(?: \d{3})+|[1-9]\d{0,2}(?:'\d{3})+)?(,\d*)?")
# A number with a letter at one end, among whole numbers: all of them are names.
_CODE = re.compile(r"[A-Za-z]\d+|\d+[A-Za-z]")
_LEADING_ZERO = re.compile(r"[-+]?0\d+")
_MONEY = frozenset(
    (
        "us$", "a$", "c$", "r$", "hk$", "chf", "eur", "usd", "gbp", "jpy", "cny", "inr", "rs", "rs.", "kr", "kr.",
        "sek", "nok", "dkk", "zł", "pln", "czk", "huf", "rub", "brl", "mxn", "try", "zar", "aud", "cad", "nzd",
        "sgd", "hkd", "krw", "ft", "~", "≈",
    )
)  # fmt: skip
_TIMES = {"k": 1e3, "m": 1e6, "mn": 1e6, "mio": 1e6, "b": 1e9, "bn": 1e9}


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """Texts read as numbers.

    Attributes
    ----------
    values : array of shape (n,)
        NaN where the text is missing or no number.
    bad : frozenset of str
        Texts that are no numbers, nor mean "no value".
    how : tuple of str
        How they were read, in words, where there was something to decide.
    """

    values: np.ndarray
    bad: frozenset[str]
    how: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Parts:
    """A text taken apart: sign, digits with their separators, what stands around them."""

    negative: bool
    core: str
    exponent: str
    affix: str
    code: bool


def decimal_mark(texts: Sequence[str]) -> str | None:
    """The decimal mark that these texts prove ("." or ","), None where they are no numbers or allow both."""
    point = comma = 0
    for text in texts:
        parts = _apart(text)
        if parts is not None:
            a, b = _allows(_POINT, parts.core), _allows(_COMMA, parts.core)
            point += a and not b
            comma += b and not a
    return None if point == comma else "." if point > comma else ","


def looks_like_a_number(text: str) -> bool:
    """Whether a single text is a number in some convention."""
    return PLAIN.fullmatch(text) is not None or _apart(text) is not None


def read_numbers(texts: Sequence[str], counts: np.ndarray, decimal: str | None = None) -> Numbers | None:
    """Read distinct texts as numbers, or None where they are something else.

    Parameters
    ----------
    texts : sequence of n str
        The distinct texts of a column.
    counts : array of int of shape (n,)
        How many cells hold each.
    decimal : {".", ","}, optional
        The decimal mark of the other columns, for a column whose own cells allow both.
    """
    values = np.full(len(texts), np.nan)
    there = np.array([text.strip() not in MISSING_IN_NUMBERS for text in texts], dtype=bool)
    known = [i for i, held in enumerate(there) if held]
    if not known:
        return None
    if all(PLAIN.fullmatch(texts[i]) for i in known):
        zeros = sum(int(counts[i]) for i in known if _LEADING_ZERO.fullmatch(texts[i]))
        if zeros >= 0.01 * counts[known].sum():
            return None
        values[known] = [float(texts[i]) for i in known]
        return Numbers(values, frozenset(), ())
    parts = [_apart(text) if held else None for text, held in zip(texts, there, strict=True)]
    taken = np.array([p is not None for p in parts])
    if counts[taken].sum() < 0.5 * counts[known].sum() or _codes(parts, counts):
        return None
    unit, factors = _unit(parts, counts)
    how: list[str] = []
    mark = _mark(parts, counts, decimal, how)
    shape = _POINT if mark == "." else _COMMA
    for i, p in enumerate(parts):
        if p is None or not _allows(shape, p.core) or not (p.affix in (unit, "") or p.affix in factors):
            continue
        if p.affix == "" and unit == "%":
            continue
        digits = re.sub("[ ',]" if mark == "." else "[ '.]", "", p.core).replace(",", ".")
        values[i] = (-1 if p.negative else 1) * float(digits + p.exponent) * factors.get(p.affix, 1)
    bad = there & np.isnan(values)
    if not _few(texts, bad, there, values, counts):
        return None
    if factors:
        how.append("with " + ", ".join(f"{text} = {factor:,.0f}" for text, factor in factors.items()))
    elif unit:
        how.append(f"in {unit}")
    return Numbers(values, frozenset(text for text, wrong in zip(texts, bad, strict=True) if wrong), tuple(how))


def _apart(text: str) -> _Parts | None:
    found = _SHAPE.fullmatch(text.translate(_CLEAN).strip())
    if found is None or bool(found["open"]) != bool(found["close"]) or (found["sign"] and found["inner"]):
        return None
    prefix, suffix = (found["prefix"] or "").strip(), (found["suffix"] or "").strip()
    if prefix and prefix.lower() not in _MONEY and not all(unicodedata.category(c) == "Sc" for c in prefix):
        return None
    signs = [found["open"], found["sign"] or found["inner"], found["trail"]]
    if sum(bool(s) for s in signs) > 1:
        return None
    core = found["core"]
    code = bool(_LEADING_ZERO.fullmatch(core)) or (
        len(suffix) == 1 and suffix.isupper() and not found["gap"] and core.isdigit() and not prefix
    )
    return _Parts(any(s not in (None, "", "+") for s in signs), core, found["exponent"] or "", prefix + suffix, code)


def _allows(shape: re.Pattern[str], core: str) -> bool:
    return core not in (".", ",") and shape.fullmatch(core) is not None


def _codes(parts: Sequence[_Parts | None], counts: np.ndarray) -> bool:
    """Whether texts such as 00501 or 101A are codes: their digits are names, not quantities."""
    codes = sum(int(count) for p, count in zip(parts, counts, strict=True) if p is not None and p.code)
    multiples = {p.affix.lower() for p in parts if p is not None and p.code and p.affix} <= set(_TIMES)
    zeros = any(p is not None and p.code and not p.affix for p in parts)
    return codes >= 0.01 * counts.sum() and (zeros or not multiples)


def _unit(parts: Sequence[_Parts | None], counts: np.ndarray) -> tuple[str, dict[str, float]]:
    """The unit or currency of most cells; factors, where cells say k and M."""
    weights: Counter[str] = Counter()
    for p, count in zip(parts, counts, strict=True):
        if p is not None:
            weights[p.affix] += int(count)
    bare = {affix: affix.lstrip("$€£¥ ") for affix in weights}
    scaled = {affix: _TIMES[text.lower()] for affix, text in bare.items() if text.lower() in _TIMES}
    if len(set(scaled.values())) > 1 and sum(weights[a] for a in scaled) >= 0.5 * weights.total():
        plain = {affix: 1.0 for affix, text in bare.items() if affix and not text}
        return "", {**scaled, **plain}
    named = [(weight, affix) for affix, weight in weights.items() if affix]
    weight, unit = max(named, default=(0, ""))
    return (unit if weight >= 0.5 * weights.total() else ""), {}


def _mark(parts: Sequence[_Parts | None], counts: np.ndarray, decimal: str | None, how: list[str]) -> str:
    """The decimal mark that most cells allow; where they allow both, the other columns' or the point."""
    point = comma = 0
    both: list[str] = []
    grouped: list[str] = []
    for p, count in zip(parts, counts, strict=True):
        if p is None:
            continue
        a, b = _allows(_POINT, p.core), _allows(_COMMA, p.core)
        point += a * int(count)
        comma += b * int(count)
        if a and b and not p.core.isdigit() and ("," in p.core or "." in p.core):
            both.append(p.core)
        if re.search(r"\d[ ',.]\d{3}(\D|$)", p.core):
            grouped.append(p.core)
    if point != comma:
        mark = "." if point > comma else ","
    else:
        mark = decimal or "."
        odd = [core for core in both if ("," in core) == (mark == ".")]
        if odd:
            how.append(f"{odd[0]} taken as {re.sub('[,.]', '', odd[0])}")
    if mark == ",":
        how.append("decimal comma")
    elif grouped and any("," in core for core in grouped) and not how:
        how.append("comma between thousands")
    return mark


def _few(texts: Sequence[str], bad: np.ndarray, known: np.ndarray, values: np.ndarray, counts: np.ndarray) -> bool:
    """Whether the cells that are no numbers are few enough among numbers to be faults of single cells."""
    if not bad.any():
        return True
    numbers = np.unique(values[~np.isnan(values)])
    share = counts[bad].sum() / counts[known].sum()
    whole = bool((numbers == np.round(numbers)).all())
    if whole and any(_CODE.fullmatch(text) for text, wrong in zip(texts, bad, strict=True) if wrong):
        return False
    if len(numbers) < (10 if whole else 5) or bad.sum() > 20:
        return False
    return bool(share <= 0.1 or (share <= 0.5 and bad.sum() <= 5 and len(numbers) >= 20))
