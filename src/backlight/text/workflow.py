"""From strings to words that count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight._explain import Explainer
from backlight.arguments import checked
from backlight.attribution.said import Said
from backlight.errors import ArgumentError
from backlight.explanation import Explanation
from backlight.text.encode import Encoded, Encoder, Text

__all__ = ["explain", "explain_continuation"]


@checked
def explain(
    model: nn.Module,
    tokenizer: Any,
    texts: Text | Sequence[Text],
    target: Any = None,
    *,
    batch_size: int | str = "auto",
    progress: Any = None,
    **options: Any,
) -> Explanation:
    """Explain what a model says of texts, by their words.

    Parameters
    ----------
    model : torch.nn.Module
        Classifier, language model, embedder: as it is.
    tokenizer : callable, or object with ``encode``
        See `Encoder`.
    texts : str, or sequence of str or of pairs of str
    target : optional
        A label of a classifier, by its name or number; a token of a language model, by its string or number; what
        `said` and `contrast` return; anything that `backlight.explain` takes; a list of these. By default what the
        model says itself: the predicted class, or the predicted next token.
    batch_size : int or "auto"
    progress : bool or callable, optional
        As of `backlight.explain`.
    **options
        As of `backlight.Explainer`: rules, layers, strict, output …

    Returns
    -------
    Explanation
        ``values`` of shape (n, tokens); ``ex.plot.text()`` shows the words, `spans` lists them. Annotations: ``token``,
        ``word``, ``special``, ``padding``, and ``said``, the tokens or labels that were explained.

    Raises
    ------
    ArgumentError, DataError

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator ...>
    >>> letters = SimpleNamespace(encode=lambda text: [ord(c) % 32 for c in text], decode=lambda ids: chr(ids[0] + 96))
    >>> net = torch.nn.Sequential(torch.nn.EmbeddingBag(32, 4, mode="mean"), torch.nn.Linear(4, 2)).eval()
    >>> ex = explain(net, letters, ["abba"], 1)
    >>> ex.annotations["token"].tolist()
    [['a', 'b', 'b', 'a']]
    """
    encoder = Encoder(tokenizer)
    labels = _labels(model)
    asked = (
        [_target(one, encoder, labels) for one in target]
        if isinstance(target, list)
        else _target(target, encoder, labels)
    )
    encoded = encoder([texts] if isinstance(texts, str | tuple) else list(texts))
    ex = Explainer(model, asked, **options)(encoded.for_model(model), batch_size, progress)
    return _named(ex, encoded, asked, encoder, labels)


@checked
def explain_continuation(
    model: nn.Module,
    tokenizer: Any,
    text: str,
    continuation: str | Sequence[int] | None = None,
    *,
    tokens: int = 8,
    against: int | str | None = None,
    **options: Any,
) -> Explanation:
    """Which words of a text speak for each token that a language model adds, in one forward pass for all of them.

    Parameters
    ----------
    model : torch.nn.Module
        A language model: scores over the vocabulary at each token.
    tokenizer : callable, or object with ``encode``
    text : str
    continuation : str or sequence of int, optional
        The tokens to explain; by default those that the model finds most likely, one after the other.
    tokens : int
        How many of these.
    against : int, str or "mean", optional
        As of `contrast`.
    **options
        As of `backlight.Explainer`.

    Returns
    -------
    Explanation
        One row; ``values`` of shape (1, tokens, added tokens), a target for each added token. ``ex.plot.text()`` is the
        matrix of added tokens by words.
    """
    encoder = Encoder(tokenizer)
    start = encoder([text])
    ids = start.inputs["input_ids"]
    end = getattr(tokenizer, "eos_token_id", None)
    if continuation is None:
        added = _greedy(model, ids, tokens, end)
    elif isinstance(continuation, str):
        added = encoder._plain(continuation)
    else:
        added = [int(one) for one in continuation]
    if not added:
        raise ArgumentError("there is no token to explain: the continuation is empty")
    pieces = [encoder.piece(one) for one in added]
    whole = torch.cat([ids, torch.tensor([added], dtype=ids.dtype)], 1)
    asked = [
        Said(token, against, ids.shape[1] - 1 + k, name=f"{k}: {piece}").read(encoder.number)
        for k, (token, piece) in enumerate(zip(added, pieces, strict=True))
    ]
    more = len(added)
    notes = {name: np.pad(value, ((0, 0), (0, more))) for name, value in start.annotations.items()}
    notes["token"] = np.concatenate([start.annotations["token"], np.array([pieces], dtype=str)], 1)
    encoded = Encoded({"input_ids": whole, "attention_mask": torch.ones_like(whole)}, notes)
    ex = Explainer(model, list(asked), **options)(encoded.for_model(model))
    return replace(ex, annotations=notes, feature_names=(), dims=("row", "token", "target"))


def _greedy(model: nn.Module, ids: Tensor, count: int, end: int | None) -> list[int]:
    """The most likely tokens, one after the other; the model stays as it is."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    added: list[int] = []
    with torch.no_grad():
        for _ in range(count):
            whole = torch.cat([ids, torch.tensor([added], dtype=ids.dtype)], 1).to(device)
            out = model(whole)
            scores = out if isinstance(out, Tensor) else out["logits"] if isinstance(out, Mapping) else out[0]
            if not isinstance(scores, Tensor) or scores.dim() != 3:
                raise ArgumentError("the model gives no scores over the vocabulary at each token: it cannot continue")
            best = int(scores[0, -1].argmax())
            if best == end:
                break
            added.append(best)
    return added


def _labels(model: nn.Module) -> dict[int, str]:
    """Names of a classifier's outputs, where its configuration has some."""
    named = getattr(getattr(model, "config", None), "id2label", None)
    return {int(k): str(name) for k, name in named.items()} if isinstance(named, Mapping) else {}


def _target(target: Any, encoder: Encoder, labels: dict[int, str]) -> Any:
    if target is None:
        return Said(seen=[])
    if isinstance(target, Said):
        return replace(target.read(encoder.number), seen=[])
    if isinstance(target, str) and target != "all":
        numbers = {name: k for k, name in labels.items()}
        if target in numbers:
            return Said(numbers[target], name=target, seen=[])
        return Said(encoder.number(target), name=target, spelt=True, seen=[])
    return target


def _named(ex: Explanation, encoded: Encoded, asked: Any, encoder: Encoder, labels: dict[int, str]) -> Explanation:
    notes = {**ex.annotations}
    if ex.values.shape[1] == encoded.annotations["token"].shape[1]:
        notes |= encoded.annotations
    if isinstance(asked, Said) and asked.at_last and asked.seen:
        numbers = torch.cat(asked.seen).tolist()
        names = [labels.get(k, str(k)) if asked.of_text else encoder.piece(k) for k in numbers]
        notes["said"] = np.array(names, dtype=str)
    dims = ("row", "token") if ex.output.ndim == 1 else ("row", "token", "target")
    return replace(ex, annotations=notes, dims=dims)
