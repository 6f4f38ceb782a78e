"""Inputs that are texts: what a tokenizer returned beside the numbers, and where each text ends.

Tokenizers and their results are known by what they offer, and not by their classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.explanation.tokens import annotations_of, readable

__all__ = ["last_tokens", "tokens_of"]

_MASKS = ("attention_mask", "decoder_attention_mask", "mask")


def last_tokens(given: Mapping[str, Any], output: Tensor) -> Tensor | None:
    """The position of each text's last token, (n,), where the output is one over the tokens of texts.

    Parameters
    ----------
    given : mapping of str to tensors
        The network's inputs by name. One of them must hold whole numbers, or a mask, a token each.
    output : Tensor of shape (n, tokens, outputs)
        Of any other shape: ``None``.
    """
    if output.dim() != 3:
        return None
    fitting = {
        name: value for name, value in given.items()
        if isinstance(value, Tensor) and value.shape == output.shape[:2] and not value.is_floating_point()
    }  # fmt: skip
    if not fitting:
        return None
    masks = [name for name in fitting if name.rpartition(".")[2] in _MASKS]
    decoding = any(name.startswith("decoder") for name in fitting)
    masks = [name for name in masks if name.startswith("decoder") == decoding]
    n, length = output.shape[:2]
    if not masks:
        return torch.full((n,), length - 1, device=output.device)
    counted = (fitting[masks[0]] != 0).to(torch.int64)
    return (counted * torch.arange(1, length + 1, device=counted.device)).argmax(1).to(output.device)


def tokens_of(X: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What is known of the tokens beside their numbers: padding from a mask, names from what a tokenizer returned.

    Returns
    -------
    dict of str to array of shape (n, tokens)
        See `backlight.explanation.tokens.annotations_of`; of ids without names only ``padding``.
    """
    ids, mask = given.get("input_ids"), given.get("attention_mask")
    if not isinstance(ids, Tensor) or ids.dim() != 2 or any(name.startswith("decoder_input") for name in given):
        return {}
    masked = isinstance(mask, Tensor) and mask.shape == ids.shape
    padding = (mask == 0).cpu().numpy() if masked else np.zeros(tuple(ids.shape), dtype=bool)  # type: ignore[union-attr]
    encodings = getattr(X, "encodings", None)
    if not encodings or len(encodings) != len(ids) or any(len(one.ids) != ids.shape[1] for one in encodings):
        return {"padding": padding} if masked else {}
    special = [[bool(mark) for mark in one.special_tokens_mask] for one in encodings]
    pieces = [readable(list(one.tokens), marks) for one, marks in zip(encodings, special, strict=True)]
    return annotations_of(pieces, special, padding.tolist())
