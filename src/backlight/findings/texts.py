"""Texts and their words: what a page and a terminal show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backlight.explanation import Explanation
from backlight.explanation.tokens import Span, spans

__all__ = ["Texts", "Word", "texts_of"]

_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«»„“”‚‘’…–—·¡¿。、！？，；：（）"


@dataclass(frozen=True, slots=True)
class Word:
    """A word over all texts: how often it stands there, and its mean and total relevance."""

    text: str
    count: int
    mean: float
    total: float


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Explained texts.

    Attributes
    ----------
    ex : Explanation
    labels : tuple of str
        What names each text.
    said : tuple of str
        What was explained of each: a label, a token.
    lines : tuple of tuple of Span
        The words of each text.
    words : tuple of Word
        Those of largest total relevance first, whatever its sign.
    """

    ex: Explanation
    labels: tuple[str, ...]
    said: tuple[str, ...]
    lines: tuple[tuple[Span, ...], ...]
    words: tuple[Word, ...]

    def columns(self) -> dict[str, list[Any]]:
        """A table with one row a word: text, what was said, score, place, word, relevance."""
        rows = [
            (label, said, float(score), k, span.text.strip(), span.value)
            for label, said, score, line in zip(
                self.labels, self.said, np.asarray(self.ex.output), self.lines, strict=True
            )
            for k, span in enumerate(line)
        ]
        names = ("row", "output", "score", "place", "word", "relevance")
        return {name: [row[k] for row in rows] for k, name in enumerate(names)}

    def records(self) -> list[dict[str, Any]]:
        """One object a text, with its words."""
        return [
            {
                "row": label, "output": said, "score": float(score), "base": float(base),
                "words": [{"text": span.text, "relevance": span.value, "special": span.special} for span in line],
            }
            for label, said, score, base, line in zip(
                self.labels, self.said, np.asarray(self.ex.output), self.ex.base_values, self.lines, strict=True
            )
        ]  # fmt: skip


def texts_of(ex: Explanation, labels: Sequence[str]) -> Texts:
    """What is shown of explained texts."""
    said = ex.annotations.get("said")
    names = [ex.target] * len(ex) if said is None else [str(one).strip() for one in said]
    lines = tuple(tuple(spans(ex, row)) for row in range(len(ex)))
    found: dict[str, list[float]] = {}
    for line in lines:
        for span in line:
            word = span.text.strip().strip(_PUNCTUATION).casefold()
            if word and not span.special:
                found.setdefault(word, []).append(span.value)
    words = [Word(word, len(v), float(np.mean(v)), float(np.sum(v))) for word, v in found.items()]
    words.sort(key=lambda word: -abs(word.total))
    return Texts(ex, tuple(labels), tuple(names), lines, tuple(words))
