"""Columns of text: vectorizers make a block of columns of each, one for each token of their vocabulary.

Relevance belongs to tokens, so the table that is explained is the one that a vectorizer makes: the library's own counts
or weights, with the tokens as names of its columns. A norm over tokens is a gate, as behind `Normalizer`. Columns of a
table that are no text keep their place before the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight.classical.frontend.features import Features, Pick, Vocabulary
from backlight.classical.frontend.preprocessing import transformers
from backlight.classical.registry import public_name
from backlight.errors import UnsupportedModel, UnsupportedOption

__all__ = ["members_of", "reads_texts", "spread"]

_VECTORIZERS = (
    "sklearn.feature_extraction.text.CountVectorizer",
    "sklearn.feature_extraction.text.HashingVectorizer",
    "sklearn.feature_extraction.text.TfidfVectorizer",
)
# Buckets of hashes that are explained one by one.
_BUCKETS = 1 << 16


@transformers.register(*_VECTORIZERS)
def _vectorizer(step: Any, features: Features) -> Features:
    name = type(step).__name__
    if features.linear is not None or features.owner.ndim == 2 or features.width != 1:
        raise UnsupportedModel(f"{name} behind other steps cannot be carried back: give it the column of text itself")
    if step.input != "content":
        raise UnsupportedOption(f"{name}(input={step.input!r}) reads files: fit it on the texts, with input='content'")
    if "Hashing" in name and step.n_features > _BUCKETS:
        raise UnsupportedOption(
            f"{name}(n_features={step.n_features}) has no vocabulary: use TfidfVectorizer, or at most {_BUCKETS} "
            "buckets, which collisions of tokens share"
        )
    positions = features.vocabulary.place(int(features.owner[0]), step, _tokens(step))
    return Features((Pick(positions),), positions, features.vocabulary, n_columns=features.n_columns)


def _tokens(step: Any) -> tuple[str, ...]:
    if not hasattr(step, "get_feature_names_out"):
        return tuple(f"bucket {k}" for k in range(step.n_features))
    return tuple(str(token) for token in step.get_feature_names_out())


def reads_texts(step: Any) -> bool:
    """Whether a first step, or the members of a model, take texts, one a row, and not a table."""
    if any(public_name(cls) in _VECTORIZERS for cls in type(step).__mro__):
        return True
    inner = [one for _, one in [*getattr(step, "steps", ())[:1], *getattr(step, "transformer_list", ())]]
    return any(reads_texts(one) for one in [*inner, *members_of(step)])


def members_of(model: Any) -> list[Any]:
    """The fitted members of an ensemble."""
    calibrated = [one.estimator for one in getattr(model, "calibrated_classifiers_", ())]
    found = getattr(model, "estimators_", [])
    members = found.ravel().tolist() if isinstance(found, np.ndarray) else list(found)
    return [one for one in [*members, *calibrated] if hasattr(one, "fit")]


class Spread(nn.Module):
    """The table's own columns at their places; zero where a column of text was."""

    kept: Tensor

    def __init__(self, kept: Sequence[int], width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("kept", torch.tensor(list(kept), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, columns) to (n, columns of the table)."""
        out = x.new_zeros((len(x), self.width))
        out[:, self.kept] = x[:, : len(self.kept)]
        return out


def spread(found: Features, width: int, alone: bool) -> Features:
    """What a pipeline starts on, after a first passage has found which columns are text: those become their blocks.

    A column that is read as something else as well stays beside them, but not where texts are all there is.
    """
    texts = {block.column for block in found.vocabulary.blocks} - (set() if alone else found.used)
    kept = [j for j in range(width) if j not in texts]
    owner = np.array([kept.index(j) if j in kept else -1 - j for j in range(width)])
    vocabulary = Vocabulary(start=len(kept), kept=tuple(kept))
    columns = len(kept) + sum(len(block.tokens) for block in found.vocabulary.blocks)
    return Features((Spread(kept, width),), owner, vocabulary, n_columns=columns)
