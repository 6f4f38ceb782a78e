"""What a language model says, as a target: linear in its output, so that relevance is of the score itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.arguments import numbers_in
from backlight.attribution.requested import Linear
from backlight.errors import ArgumentError

__all__ = ["Said", "contrast", "said"]


@dataclass(slots=True, eq=False)
class Said(Linear):
    """The score of a token at a position, or the sum of such scores over a span.

    Attributes
    ----------
    token : int, str, array of int of shape (n,), or None
        By its number, or read by the tokenizer; one a row; ``None`` is what the model says itself.
    against : int, str, "mean" or None
        Whose score is taken off: another token's, or the mean of all.
    position : int, (int, int) or None
        Whose output, in tokens; negative ones count from the text's end, two are a span. The output at a position is
        about the token after it. By default that of the text's last token.
    name : str
    seen : list of Tensor, optional
        Is given the tokens whose scores were explained, batch by batch.
    of_text : bool
        Whether they were outputs for a whole text, as classes are.
    spelt : bool
        Whether the token was found by its string, so that it is the number of no class.
    """

    token: int | str | np.ndarray | None = None
    against: int | str | None = None
    position: int | tuple[int, int] | None = None
    name: str = ""
    seen: list[Tensor] | None = field(default=None, repr=False)
    of_text: bool = False
    spelt: bool = False
    at_last: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        self.at_last = self.position is None
        if not self.name:
            who = "predicted token" if self.token is None else "given token" if self._each() else f"token {self.token}"
            less = "" if self.against is None else f" − {self.against}"
            where = "" if self.position is None else f" at {self.position}"
            self.name = f"{who}{less}{where}"

    def _each(self) -> bool:
        return isinstance(self.token, np.ndarray)

    def take(self, start: int, n: int) -> Said:
        """See `Linear.take`."""
        if not isinstance(self.token, np.ndarray):
            return self
        return replace(self, token=self.token[start : start + n])

    def read(self, number: Callable[[str], int]) -> Said:
        """The same with strings as the numbers of tokens."""
        token = number(self.token) if isinstance(self.token, str) else self.token
        against = number(self.against) if isinstance(self.against, str) and self.against != "mean" else self.against
        return replace(self, token=token, against=against, seen=self.seen)

    def seed(self, output: Tensor, last: Tensor | None) -> Tensor:
        """See `Linear.seed`."""
        if output.dim() == 1:
            return torch.ones_like(output)
        if output.dim() == 2 and not self.at_last:
            raise ArgumentError(f"position={self.position}: the output is one for a whole text: leave it out")
        if output.dim() > 3 or (output.dim() == 3 and last is None):
            raise ArgumentError(f"outputs of shape {tuple(output.shape[1:])} are not those of a language model")
        self.of_text = output.dim() == 2
        if self.of_text and self.spelt:
            raise ArgumentError(f"{self.name!r} is no label of the model: give one of its labels, or its number")
        if self.of_text and self.name == "predicted token":
            self.name = "predicted class"
        whole = output[:, None] if self.of_text else output
        n, length, count = whole.shape
        rows = torch.arange(n, device=output.device)
        end = torch.zeros_like(rows) if last is None or output.dim() == 2 else last
        seed = torch.zeros_like(whole)
        for place in self._places(end, length):
            token = self._tokens(whole[rows, place], count)
            if self.seen is not None:
                self.seen.append(token.cpu())
            seed.index_put_((rows, place, token), torch.ones_like(seed[rows, place, token]), accumulate=True)
            if self.against == "mean":
                seed[rows, place] -= 1 / count
            elif self.against is not None:
                seed[rows, place, self._number(self.against, count)] -= 1
        return seed.reshape(output.shape)

    def _places(self, end: Tensor, length: int) -> list[Tensor]:
        if self.position is None:
            return [end]
        first, stop = self.position if isinstance(self.position, tuple) else (self.position, self.position + 1)
        places = []
        for k in range(first, stop):
            place = torch.full_like(end, k) if k >= 0 else end + 1 + k
            if bool((place < 0).any() | (place >= length).any()):
                raise ArgumentError(f"position={self.position} is outside of texts of {length} tokens")
            places.append(place)
        if not places:
            raise ArgumentError(f"position={self.position} is an empty span: give (first, one after the last)")
        return places

    def _tokens(self, scores: Tensor, count: int) -> Tensor:
        if self.token is None:
            return scores.argmax(1)
        if isinstance(self.token, np.ndarray):
            token = torch.as_tensor(self.token.astype(np.int64), device=scores.device)
            if len(token) != len(scores) or bool((token < 0).any() | (token >= count).any()):
                raise ArgumentError(f"token= needs one number from 0 to {count - 1} for each text")
            return token
        return torch.full((len(scores),), self._number(self.token, count), device=scores.device)

    @staticmethod
    def _number(token: int | str, count: int) -> int:
        if isinstance(token, str):
            raise ArgumentError(f"token {token!r} needs a tokenizer to read it: see backlight.text.explain")
        if not 0 <= token < count:
            raise ArgumentError(f"token {token} is out of range: there are {count}")
        return int(token)


def said(token: Any = None, *, position: int | tuple[int, int] | None = None) -> Said:
    """The score of a token: the next one, or that at a position or over a span.

    Parameters
    ----------
    token : int, str or array of int, optional
        By default what the model says itself.
    position : int or (int, int), optional

    Examples
    --------
    >>> said(7).name, said(position=3).name
    ('token 7', 'predicted token at 3')
    """
    return Said(_token(token), None, position)


def _token(given: Any) -> Any:
    """A token, or one a row as an array."""
    if not isinstance(given, list | tuple | Tensor | np.ndarray):
        return given
    return numbers_in(given.detach().cpu() if isinstance(given, Tensor) else given, "tokens, one a row,")


def contrast(token: Any = None, against: Any = "mean", *, position: int | tuple[int, int] | None = None) -> Said:
    """Why one token and not another: the difference of their scores, or from the mean score of all tokens.

    Parameters
    ----------
    token : int, str or array of int, optional
        By default what the model says itself.
    against : int, str or "mean"
    position : int or (int, int), optional

    Examples
    --------
    >>> contrast(" good", " bad").name
    'token  good −  bad'
    """
    return replace(said(token, position=position), against=against, name="")
