"""From strings to words that count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight._explain import Explainer
from backlight.arguments import checked, users_code
from backlight.attribution.said import Said
from backlight.errors import ArgumentError
from backlight.explanation import Explanation
from backlight.text.encode import Encoded, Encoder, Text
from backlight.text.given import added_tokens, conversation, decoder_start, taken

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
    texts : str, or sequence of str, of pairs of str, or of lists of messages
        Messages, each with a role and a content, are written by the tokenizer's chat template.
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
    model, encoder, labels = taken(model, tokenizer), Encoder(tokenizer), _labels(model)
    asked = (
        [_target(one, encoder, labels) for one in target]
        if isinstance(target, list)
        else _target(target, encoder, labels)
    )
    given: Any = [texts] if isinstance(texts, str | tuple) or conversation(texts) else list(texts)
    encoded = encoder(given)
    if (start := decoder_start(model)) is not None:
        encoded = encoded.decoding([start], [encoder.piece(start)])
    ex = Explainer(model, asked, **options)(encoded.for_model(model), batch_size, progress)
    return _named(ex, encoded, asked, encoder, labels)


@checked
def explain_continuation(
    model: nn.Module,
    tokenizer: Any,
    text: Text,
    continuation: Any = None,
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
    text : str or list of messages
        What an encoder reads, where the model has an encoder and a decoder.
    continuation : str, sequence of int, or what the model's ``generate`` returned, optional
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
    model, encoder = taken(model, tokenizer), Encoder(tokenizer)
    source = encoder([text])
    ids, first = source.inputs["input_ids"], decoder_start(model)
    before = ids[0].tolist() if first is None else [first]
    if continuation is None:
        end = getattr(tokenizer, "eos_token_id", None)
        added = _greedy(model, source.for_model(model) if first is not None else {}, before, tokens, end)
    elif isinstance(continuation, str):
        added = encoder._plain(continuation)
    else:
        added = added_tokens(continuation, before)
    if not added:
        raise ArgumentError("there is no token to explain: the continuation is empty")
    pieces = [encoder.piece(one) for one in added]
    asked = [
        Said(token, against, len(before) - 1 + k, name=f"{k}: {piece}").read(encoder.number)
        for k, (token, piece) in enumerate(zip(added, pieces, strict=True))
    ]
    if first is None:
        encoded = source.followed(added, pieces)
    else:
        encoded = source.decoding([first, *added], [encoder.piece(first), *pieces])
    ex = Explainer(model, list(asked), **options)(encoded.for_model(model))
    return replace(ex, annotations=encoded.annotations, feature_names=(), dims=("row", "token", "target"))


def _greedy(model: nn.Module, source: dict[str, Tensor], before: list[int], count: int, end: int | None) -> list[int]:
    """The most likely tokens, one after the other; the model stays as it is. ``source`` is what an encoder reads."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    given = {name: value.to(device) for name, value in source.items()}
    added: list[int] = []
    with torch.no_grad():
        for _ in range(count):
            whole = torch.tensor([[*before, *added]], device=device)
            asked = Encoded({"input_ids": whole, "attention_mask": torch.ones_like(whole)}, {})
            with users_code(f"{type(model).__name__} cannot run on these tokens"):
                out = model(**(given | {"decoder_input_ids": whole} if given else asked.for_model(model)))
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
