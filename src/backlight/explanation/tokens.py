"""Tokens of texts: how they read, which words they make, and relevance summed over either.

A token's text carries the blank before it, so that the tokens of a text joined are the text. Tokens may end inside a
letter (bytes of an emoji): the first of them holds the letter, the others are empty.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from backlight.errors import ArgumentError
from backlight.explanation.data import ExplanationData

__all__ = ["Span", "annotations_of", "has_tokens", "readable", "sentence_starts", "spans", "word_starts"]

# letters that byte-level vocabularies write for bytes that are no printable letter of Latin-1
_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = {chr(byte): byte for byte in _PRINTED}
_BYTES |= {chr(0x100 + k): byte for k, byte in enumerate(byte for byte in range(256) if byte not in _PRINTED)}
_ENDS = ".!?…。！？؟।"
_CLOSES = "\"'”’»)]}」』"
_JOINERS = "'’_-‐"


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring tokens read together.

    Attributes
    ----------
    text : str
        With the blank before it, where there is one.
    value : float
        The sum of their relevance.
    start, stop : int
        Their positions.
    special : bool
        A mark of the model's own, such as a start or a separator, and no part of the text.
    """

    text: str
    value: float
    start: int
    stop: int
    special: bool = False


def has_tokens(ex: ExplanationData) -> bool:
    """Whether an explanation says which tokens its positions are."""
    return "token" in ex.annotations and ex.values.ndim == 1 + ex.output.ndim


def annotations_of(
    pieces: Sequence[Sequence[str]], special: Sequence[Sequence[bool]], padding: Sequence[Sequence[bool]]
) -> dict[str, np.ndarray]:
    """The annotations of rows of equally many tokens: ``token``, ``word``, ``special`` and ``padding``, (n, tokens).

    Parameters
    ----------
    pieces : sequence of sequence of str
        As they read, each with the blank before it.
    special, padding : sequence of sequence of bool

    Notes
    -----
    ``word`` counts words from 0; it is −1 for marks and padding. A word ends at a blank, at punctuation, and at each
    letter of scripts that write no blanks.
    """
    words = []
    for row, marks, pads in zip(pieces, special, padding, strict=True):
        apart = [bool(m or p) for m, p in zip(marks, pads, strict=True)]
        count = np.cumsum([start and not out for start, out in zip(word_starts(row, apart), apart, strict=True)]) - 1
        words.append(np.where(apart, -1, count))
    return {
        "token": np.array([list(row) for row in pieces], dtype=str),
        "word": np.array(words, dtype=np.int64),
        "special": np.array([list(map(bool, row)) for row in special], dtype=bool),
        "padding": np.array([list(map(bool, row)) for row in padding], dtype=bool),
    }


def readable(tokens: Sequence[str], special: Sequence[bool]) -> list[str]:
    """Pieces of a vocabulary as they read: ``▁the``, ``Ġthe`` and ``##ing`` as `` the`` and ``ing``."""
    plain = [token for token, mark in zip(tokens, special, strict=True) if not mark]
    if any("▁" in token for token in plain):
        return _with_bytes([t if m else t.replace("▁", " ") for t, m in zip(tokens, special, strict=True)])
    if any(token.startswith(("Ġ", "Ċ")) for token in plain) and all(set(token) <= _BYTES.keys() for token in plain):
        return _letters([t if m else bytes(_BYTES[c] for c in t) for t, m in zip(tokens, special, strict=True)])
    if any(token.startswith("##") for token in plain):
        blank, out = False, []
        for token, mark in zip(tokens, special, strict=True):
            joined = token.startswith("##")
            out.append(token.removeprefix("##") if joined else " " * (blank and not mark) + token)
            blank = not mark
        return out
    return _with_bytes(list(tokens))


def _with_bytes(tokens: list[str]) -> list[str]:
    """``<0xE2>`` and its like, as sentence pieces write bytes outside the vocabulary."""

    def read(token: str) -> bytes | str:
        inside = token[3:5] if len(token) == 6 and token.startswith("<0x") and token.endswith(">") else ""
        return bytes([int(inside, 16)]) if inside and all(c in "0123456789ABCDEFabcdef" for c in inside) else token

    return _letters([read(token) for token in tokens])


def _letters(parts: Sequence[bytes | str]) -> list[str]:
    """Neighbouring bytes as text: a letter stands where its first byte is."""
    out = [part if isinstance(part, str) else "" for part in parts]
    at = 0
    while at < len(parts):
        if isinstance(parts[at], str):
            at += 1
            continue
        end = at
        while end < len(parts) and isinstance(parts[end], bytes):
            end += 1
        run = [part for part in parts[at:end] if isinstance(part, bytes)]
        owners = [at + k for k, part in enumerate(run) for _ in part]
        whole, place = b"".join(run), 0
        for letter in whole.decode("utf-8", "replace"):
            out[owners[min(place, len(owners) - 1)]] += letter
            place += 1 if letter == "\ufffd" else len(letter.encode())
        at = end
    return out


# -- words -------------------------------------------------------------------------------------------------------------


def _kind(letter: str) -> str:
    if letter.isspace():
        return "blank"
    category, code = unicodedata.category(letter), ord(letter)
    # ideographs, kana, Thai, Lao, Khmer, Burmese: written without blanks
    if category == "Lo" and (0x2E80 <= code <= 0xA4CF or 0xF900 <= code <= 0xFAFF or code >= 0x20000):
        return "single"
    if category[0] in "LN" or letter in _JOINERS:
        return "letter"
    if category[0] == "M" or letter == "\u200d" or 0x1F3FB <= code <= 0x1F3FF:
        return "joins"
    return "symbol" if category == "So" else "mark"


def _sticks(before: str, after: str) -> bool:
    """Whether two neighbouring letters belong to one word."""
    kinds = _kind(before), _kind(after)
    if kinds[1] == "joins" or before == "\u200d":
        return kinds[0] != "blank"
    if "blank" in kinds or "single" in kinds or "symbol" in kinds:
        return False
    return (kinds[0] == "mark") == (kinds[1] == "mark")


def word_starts(pieces: Sequence[str], apart: Sequence[bool]) -> list[bool]:
    """Which tokens begin a word; a token that stands apart always does."""
    starts: list[bool] = []
    before = ""
    for piece, alone in zip(pieces, apart, strict=True):
        joined = bool(starts) and not alone and (not piece or (before != "" and _sticks(before[-1], piece[0])))
        starts.append(not joined)
        if alone:
            before = ""
        elif piece:
            before = piece
    return starts


def sentence_starts(words: Sequence[Span]) -> list[bool]:
    """Which words begin a sentence: those after an end mark and a blank, those after a line's end."""
    starts: list[bool] = []
    ended = True
    for word in words:
        text = word.text
        fresh = word.special or (ended and bool(text.strip()) and text.strip()[0] not in _ENDS + _CLOSES)
        starts.append(fresh or not starts)
        if word.special:
            ended = True
        elif text.strip():
            closing = text.strip().rstrip(_CLOSES)
            after_mark = closing[-1] in _ENDS if closing else ended and not fresh
            ended = after_mark or "\n" in text[1:]
    return starts


def spans(ex: ExplanationData, row: int = 0, by: str = "word") -> list[Span]:
    """Relevance of one row by its tokens, words, sentences, or as a whole; the values add up to the row's sum.

    Parameters
    ----------
    ex : Explanation
        Of texts, of one target.
    row : int
    by : {"word", "token", "sentence", "text"}

    Returns
    -------
    list of Span
        In reading order. Padding appears only where it has relevance.

    Raises
    ------
    ArgumentError
    """
    if not has_tokens(ex):
        raise ArgumentError("this explanation does not say its tokens: explain what a tokenizer returned, or see "
                            "backlight.text.explain")  # fmt: skip
    if ex.output.ndim != 1:
        raise ArgumentError('several targets: choose one by name, ex.output("…")')
    if by not in _LEVELS:
        raise ArgumentError(f"by={by!r} is not known: choose 'token', 'word', 'sentence' or 'text'")
    if not -len(ex) <= row < len(ex):
        raise ArgumentError(f"row {row} of an explanation of {len(ex)} texts")
    return _LEVELS[by](_tokens(ex.annotations, ex.values[row], row))


def _tokens(notes: Mapping[str, np.ndarray], values: np.ndarray, row: int) -> list[tuple[Span, bool]]:
    """Tokens, each with whether it begins a word."""
    pieces, special, padding = (notes[name][row] for name in ("token", "special", "padding"))
    starts = word_starts(
        [str(piece) for piece in pieces], [bool(s or p) for s, p in zip(special, padding, strict=True)]
    )
    return [
        (Span(str(pieces[k]), float(values[k]), k, k + 1, bool(special[k] or padding[k])), starts[k])
        for k in range(len(pieces))
        if not padding[k] or values[k]
    ]


def _grouped(parts: Sequence[Span], starts: Sequence[bool]) -> list[Span]:
    groups: list[list[Span]] = []
    for part, start in zip(parts, starts, strict=True):
        if start or not groups:
            groups.append([])
        groups[-1].append(part)
    return [
        Span("".join(p.text for p in g), float(sum(p.value for p in g)), g[0].start, g[-1].stop, g[0].special)
        for g in groups
    ]


def _words(tokens: list[tuple[Span, bool]]) -> list[Span]:
    return _grouped([token for token, _ in tokens], [start for _, start in tokens])


def _letterwise(tokens: list[tuple[Span, bool]]) -> list[Span]:
    """Tokens, those that share a letter as one."""
    parts = [token for token, _ in tokens]
    starts = [
        not k or part.special or parts[k - 1].special
        or bool(part.text and _kind(part.text[0]) != "joins" and not parts[k - 1].text.endswith("\u200d"))
        for k, part in enumerate(parts)
    ]  # fmt: skip
    return _grouped(parts, starts)


def _sentences(tokens: list[tuple[Span, bool]]) -> list[Span]:
    words = _words(tokens)
    return _grouped(words, sentence_starts(words))


def _whole(tokens: list[tuple[Span, bool]]) -> list[Span]:
    return _grouped([token for token, _ in tokens], [False] * len(tokens))


_LEVELS: dict[str, Callable[[list[tuple[Span, bool]]], list[Span]]] = {
    "token": _letterwise,
    "word": _words,
    "sentence": _sentences,
    "text": _whole,
}
