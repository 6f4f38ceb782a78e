"""Strings to tokens by any tokenizer, known by what it offers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight.arguments import shown, users_code
from backlight.errors import ArgumentError, DataError
from backlight.explanation.tokens import annotations_of, readable
from backlight.text.given import conversation

__all__ = ["Encoded", "Encoder"]

Text = str | tuple[str, str] | list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Texts as a model takes them.

    Attributes
    ----------
    inputs : dict of str to Tensor of shape (n, tokens)
        Padded behind, with a mask.
    annotations : dict of str to array of shape (n, tokens)
        See `backlight.explanation.tokens.annotations_of`.
    """

    inputs: dict[str, Tensor]
    annotations: dict[str, np.ndarray]

    def followed(self, added: Sequence[int], pieces: Sequence[str]) -> Encoded:
        """One text with tokens behind it."""
        ids = self.inputs["input_ids"]
        whole = torch.cat([ids, torch.tensor([list(added)], dtype=ids.dtype)], 1)
        return Encoded(
            {"input_ids": whole, "attention_mask": torch.ones_like(whole)}, self._noted(pieces, [False] * len(added))
        )

    def decoding(self, ids: Sequence[int], pieces: Sequence[str]) -> Encoded:
        """Texts that an encoder reads, and what the decoder beside it has said so far, the first of it a mark."""
        rows = len(self.inputs["input_ids"])
        said = {"decoder_input_ids": torch.tensor([list(ids)] * rows)}
        return Encoded({**self.inputs, **said}, self._noted(pieces, [True] + [False] * (len(ids) - 1)))

    def _noted(self, pieces: Sequence[str], marks: Sequence[bool]) -> dict[str, np.ndarray]:
        """Annotations of the tokens and of others behind them, which are no words of the text."""
        more, rows = len(pieces), len(self.annotations["token"])
        notes = {name: np.pad(value, ((0, 0), (0, more))) for name, value in self.annotations.items()}
        behind = np.tile(np.array(list(pieces), dtype=str), (rows, 1))
        notes["token"] = np.concatenate([self.annotations["token"], behind], 1)
        notes["special"][:, -more:] = marks
        notes["word"][:, -more:] = [-1 if mark else 0 for mark in marks]
        return notes

    def for_model(self, model: nn.Module) -> dict[str, Tensor]:
        """The inputs that a model's forward takes.

        Raises
        ------
        ArgumentError
            Texts differ in length, and the model takes no mask.
        """
        known = inspect.signature(model.forward).parameters
        if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values()) and "input_ids" in known:
            return self.inputs
        first = next(iter(known), "input_ids")
        renamed = {("input_ids" if "input_ids" in known else first): self.inputs["input_ids"]}
        renamed |= {name: value for name, value in self.inputs.items() if name in known}
        if "attention_mask" not in known and not bool(self.inputs["attention_mask"].all()):
            raise ArgumentError("the texts differ in length, and the model takes no attention_mask: explain them apart")
        return renamed


@dataclass(frozen=True, slots=True)
class Encoder:
    """A tokenizer of any make.

    Parameters
    ----------
    tokenizer : callable, or object with ``encode``
        As of ``transformers`` (fast or slow), of ``tokenizers``, or anything with ``encode(text)`` giving numbers and
        ``decode(numbers)`` giving a text.
    """

    tokenizer: Any

    def __post_init__(self) -> None:
        if not callable(self.tokenizer) and not hasattr(self.tokenizer, "encode"):
            raise ArgumentError(f"a tokenizer encodes texts; {shown(self.tokenizer)} does not")
        if isinstance(self.tokenizer, str | type):
            raise ArgumentError(f"the tokenizer itself is needed, not {shown(self.tokenizer)}")

    def __call__(self, texts: Sequence[Text]) -> Encoded:
        """Texts, or pairs of texts, padded to one length.

        Raises
        ------
        DataError
        """
        if isinstance(texts, str):
            texts = [texts]
        if not texts:
            raise DataError("there are no texts to explain: give at least one")
        for k, text in enumerate(texts):
            known = isinstance(text, str) or (isinstance(text, tuple) and len(text) == 2) or conversation(text)
            if not known:
                raise DataError(f"text {k} is {type(text).__name__}, not a string or a pair of strings")
        rows = [self._row(text) for text in texts]
        length = max(len(row["input_ids"]) for row, _, _ in rows)
        if not length or any(not len(row["input_ids"]) for row, _, _ in rows):
            empty = next(k for k, (row, _, _) in enumerate(rows) if not len(row["input_ids"]))
            raise DataError(f"text {empty} has no tokens")
        fill = getattr(self.tokenizer, "pad_token_id", None) or 0
        inputs = {
            name: torch.tensor([
                [*row[name], *[fill if name == "input_ids" else 0] * (length - len(row[name]))] for row, _, _ in rows
            ])
            for name in rows[0][0]
        }  # fmt: skip
        spare = [length - len(pieces) for _, pieces, _ in rows]
        notes = annotations_of(
            [[*pieces, *[""] * k] for (_, pieces, _), k in zip(rows, spare, strict=True)],
            [[*marks, *[False] * k] for (_, _, marks), k in zip(rows, spare, strict=True)],
            [[*[False] * len(pieces), *[True] * k] for (_, pieces, _), k in zip(rows, spare, strict=True)],
        )
        return Encoded(inputs, notes)

    def number(self, word: str) -> int:
        """The number of the one token that a string is.

        Raises
        ------
        ArgumentError
            It is several, or unknown.
        """
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        for spelling in (word, " " + word):
            ids = self._plain(spelling)
            if len(ids) == 1 and (ids[0] != unknown or word == getattr(self.tokenizer, "unk_token", None)):
                return ids[0]
        ids = self._plain(word)
        if ids == [unknown]:
            raise ArgumentError(f"{word!r} is no token that the tokenizer knows")
        parts = ", ".join(repr(self.piece(one)) for one in ids[:6])
        raise ArgumentError(f"{word!r} is {len(ids)} tokens ({parts}): name one of them, or its number")

    def piece(self, number: int) -> str:
        """How a token reads."""
        convert = getattr(self.tokenizer, "convert_ids_to_tokens", None)
        if convert is None:
            return str(self.tokenizer.decode([number]))
        token = str(convert([number])[0])
        return readable([token], [False])[0]

    def _plain(self, text: str) -> list[int]:
        """Numbers without start and end marks."""
        encode = self.tokenizer.encode
        if "add_special_tokens" in _parameters(encode) or callable(self.tokenizer):
            found = encode(text, add_special_tokens=False)
            return list(getattr(found, "ids", found))
        found = list(encode(text))
        pieces = [self.piece(one) for one in found]
        return [one for one, piece in zip(found, pieces, strict=True) if piece.strip() and piece.strip() in text]

    def _row(self, text: Text) -> tuple[dict[str, list[int]], list[str], list[bool]]:
        """Inputs of one text without padding, its pieces, and which of them are marks."""
        if not callable(self.tokenizer) and not isinstance(text, list):
            return self._encoded(text)
        with users_code("the tokenizer fails on a text"):
            if isinstance(text, list):
                text = self._written(text)
                given = self.tokenizer(text, add_special_tokens=False)
            else:
                given = self.tokenizer(*((text,) if isinstance(text, str) else text))
        if not isinstance(given, Mapping) or "input_ids" not in given:
            raise ArgumentError("the tokenizer returned no input_ids: give one as of transformers, or one with encode")
        inputs = {str(name): [int(v) for v in values] for name, values in given.items()}
        inputs.setdefault("attention_mask", [1] * len(inputs["input_ids"]))
        encodings = getattr(given, "encodings", None)
        if encodings:
            return inputs, *_pieces(encodings[0], text)
        marks = self.tokenizer.get_special_tokens_mask(inputs["input_ids"], already_has_special_tokens=True)
        tokens = [str(token) for token in self.tokenizer.convert_ids_to_tokens(inputs["input_ids"])]
        marks = [bool(mark) for mark in marks]
        return inputs, readable(tokens, marks), marks

    def _written(self, messages: list[dict[str, Any]]) -> str:
        """Messages by the chat template, up to where the model answers."""
        if not hasattr(self.tokenizer, "apply_chat_template"):
            raise DataError("messages need a tokenizer with a chat template: give strings")
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _encoded(self, text: Text) -> tuple[dict[str, list[int]], list[str], list[bool]]:
        with users_code("the tokenizer fails on a text"):
            found = self.tokenizer.encode(*((text,) if isinstance(text, str) else text))
        ids = [int(one) for one in getattr(found, "ids", found)]
        inputs = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if getattr(found, "special_tokens_mask", None) is not None:
            return inputs, *_pieces(found, text)
        pieces = [str(self.tokenizer.decode([one])) for one in ids]
        # a mark reads as nothing
        return inputs, pieces, [not piece for piece in pieces]


def _parameters(function: Any) -> Mapping[str, Any]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _pieces(encoding: Any, text: Text) -> tuple[list[str], list[bool]]:
    """Pieces as they stand in the text where it is one, with the blanks before them."""
    marks = [bool(mark) for mark in encoding.special_tokens_mask]
    if not isinstance(text, str):
        return readable(list(encoding.tokens), marks), marks
    pieces, done = [], 0
    for token, mark, (_, end) in zip(encoding.tokens, marks, encoding.offsets, strict=True):
        pieces.append(str(token) if mark else text[done:end])
        done = done if mark else max(done, end)
    return pieces, marks
