"""What a user hands over as model, messages and continuation, as the workflow takes it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from backlight.errors import ArgumentError

__all__ = ["added_tokens", "conversation", "decoder_start", "taken"]

_DICTS = ("dict", "mapping", "typing.dict", "typing.mapping")


class _ByName(nn.Module):
    """A model whose forward takes one dict, as one that takes its entries by name."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self.model({name: value for name, value in given.items() if value is not None})


def taken(model: Any, tokenizer: Any) -> nn.Module:
    """The model, which takes its inputs by name.

    Raises
    ------
    ArgumentError
        It is no module, or the tokenizer is one.
    """
    if isinstance(tokenizer, nn.Module):
        raise ArgumentError("the tokenizer is a network: give the model first, then the tokenizer, then the texts")
    if not isinstance(model, nn.Module):
        inner = getattr(model, "model", None)
        if isinstance(inner, nn.Module):
            raise ArgumentError(f"a {type(model).__name__} holds a model: give its .model and its .tokenizer")
        raise ArgumentError(f"the model is a {type(model).__name__}: give a torch.nn.Module, then the tokenizer")
    if not callable(tokenizer) and not hasattr(tokenizer, "encode"):
        raise ArgumentError(
            f"the tokenizer is a {type(tokenizer).__name__}: give one as of transformers, or one with encode, and the "
            "texts after it"
        )
    return _ByName(model) if _takes_a_dict(model) else model


def _takes_a_dict(model: nn.Module) -> bool:
    """Whether the forward's first argument is said to be a dict, as that of a sentence embedder is."""
    first = next(iter(inspect.signature(model.forward).parameters.values()), None)
    if first is None or first.annotation is inspect.Parameter.empty:
        return False
    kind = first.annotation
    return (kind if isinstance(kind, str) else str(getattr(kind, "__origin__", kind))).lower().startswith(_DICTS) or (
        getattr(kind, "__origin__", kind) in (dict, Mapping)
    )


def decoder_start(model: nn.Module) -> int | None:
    """The number of the token that a decoder beside an encoder begins with; ``None`` where there is no such decoder.

    Raises
    ------
    ArgumentError
        The configuration does not say it.
    """
    config = getattr(model, "config", None)
    if not getattr(config, "is_encoder_decoder", False):
        return None
    if "decoder_input_ids" not in inspect.signature(model.forward).parameters:
        return None
    for name in ("decoder_start_token_id", "bos_token_id"):
        if isinstance(found := getattr(config, name, None), int):
            return found
    raise ArgumentError(
        f"{type(model).__name__} has a decoder and its configuration names no decoder_start_token_id: give "
        "decoder_input_ids to backlight.explain"
    )


def conversation(text: Any) -> bool:
    """Whether it is a list of messages, each with a role."""
    return isinstance(text, list) and bool(text) and all(isinstance(one, Mapping) and "role" in one for one in text)


def added_tokens(continuation: Any, before: Sequence[int]) -> list[int]:
    """The numbers of added tokens: of a list, an array, or what ``generate`` returned, without what stood before them.

    Raises
    ------
    ArgumentError
        They are those of several texts, or no whole numbers.
    """
    found = getattr(continuation, "sequences", continuation)
    numbers = found.detach().cpu().numpy() if isinstance(found, Tensor) else np.asarray(found)
    if numbers.ndim == 2 and len(numbers) != 1:
        raise ArgumentError(f"the continuation holds {len(numbers)} texts: explain them one by one")
    if numbers.size and (numbers.ndim not in (1, 2) or numbers.dtype.kind not in "iu"):
        raise ArgumentError(
            "the continuation must be a string, numbers of tokens, or what the model's generate returned"
        )
    added = [int(one) for one in numbers.ravel()]
    whole = numbers.ndim == 2 and added[: len(before)] == list(before)
    return added[len(before) :] if whole else added
