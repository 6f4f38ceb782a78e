"""From strings to words: tokenizers of any make, targets of language, each token that a model adds."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import backlight
from backlight import text
from backlight.errors import ArgumentError, DataError
from tests.conftest import same
from tests.test_text_inputs import Language

WORDS = ["<s>", "the", "dog", "runs", "home", "cat", "sees", "it", "."]


def _encode(given: str) -> list[int]:
    return [0, *(WORDS.index(word) for word in given.split())]


TOKENIZER = SimpleNamespace(encode=_encode, decode=lambda ids: " ".join(WORDS[k] for k in ids if k))


def _net() -> Language:
    return Language().double().eval()


def _scores(given: str) -> torch.Tensor:
    ids = torch.tensor([_encode(given)])
    with torch.no_grad():
        out: torch.Tensor = _net()(ids, torch.ones_like(ids))[0]
    return out


def test_strings_are_explained_by_what_follows_them():
    ex = text.explain(_net(), TOKENIZER, ["the dog runs", "it"], strict=True)

    assert same(ex.output, [float(_scores("the dog runs")[-1].max()), float(_scores("it")[-1].max())])
    best = [int(_scores(t)[-1].argmax()) for t in ("the dog runs", "it")]
    assert ex.annotations["said"].tolist() == [TOKENIZER.decode([k]) for k in best]
    assert ex.annotations["special"][:, 0].all()
    assert [span.text for span in text.spans(ex, 1)][1:] == ["it"]
    assert (ex.values[1, 2:] == 0).all()
    alone = text.explain(_net(), TOKENIZER, "it")
    assert same(alone.values[0], ex.values[1, :2])


@pytest.mark.parametrize(("target", "want"), [
    ("cat", lambda s: s[-1, 5]),
    (text.said(5), lambda s: s[-1, 5]),
    (text.contrast("cat", "dog"), lambda s: s[-1, 5] - s[-1, 2]),
    (text.contrast("cat"), lambda s: s[-1, 5] - s[-1].mean()),
    (text.said("cat", position=1), lambda s: s[1, 5]),
    (text.said("cat", position=-2), lambda s: s[-2, 5]),
    (text.said(position=(1, 3)), lambda s: s[1].max() + s[2].max()),
])  # fmt: skip
def test_targets_of_language_are_the_scores_they_name(target, want):
    ex = text.explain(_net(), TOKENIZER, "the dog runs", target, strict=True)

    assert ex.output[0] == pytest.approx(float(want(_scores("the dog runs"))), abs=1e-12)
    # the network has no bias: the words make up the score
    assert ex.values.sum() == pytest.approx(ex.output[0], abs=1e-12)


def test_relevance_of_a_contrast_is_the_difference_of_relevances():
    cat, dog, both = (
        text.explain(_net(), TOKENIZER, "the dog runs", t).values for t in ("cat", "dog", text.contrast("cat", "dog"))
    )

    assert same(both, cat - dog)


def test_one_token_a_row_follows_its_row_through_batches():
    texts = ["the dog", "it", "the cat sees it"]
    numbers = np.array([3, 1, 8])
    ex = text.explain(_net(), TOKENIZER, texts, text.said(numbers), batch_size=2)

    assert same(ex.output, [float(_scores(t)[-1, k]) for t, k in zip(texts, numbers, strict=True)])
    assert ex.annotations["said"].tolist() == ["runs", "the", "."]


def test_each_added_token_has_its_own_words_and_none_from_behind():
    ex = text.explain_continuation(_net(), TOKENIZER, "the dog", "runs home .", strict=True)
    scores = _scores("the dog runs home .")

    assert ex.values.shape == (1, 6, 3)
    assert same(np.asarray(ex.output)[0], [float(scores[2, 3]), float(scores[3, 4]), float(scores[4, 8])])
    for k in range(3):
        assert (ex.values[0, 3 + k :, k] == 0).all()
        one = text.explain(_net(), TOKENIZER, ["the dog", "the dog runs", "the dog runs home"][k], [3, 4, 8][k])
        assert same(ex.values[0, : 3 + k, k], one.values[0])
    assert ex.plot.text().values.sum(1) == pytest.approx(np.asarray(ex.output)[0])


def test_without_a_continuation_it_is_what_the_model_finds_most_likely():
    class Plain(Language):
        def forward(self, input_ids, attention_mask=None):
            return super().forward(input_ids, torch.ones_like(input_ids))

    ex = text.explain_continuation(Plain().double().eval(), TOKENIZER, "the dog", tokens=2)
    first = int(_scores("the dog")[-1].argmax())

    assert ex.output_names[0] == f"0: {WORDS[first] if first else ''}"
    assert np.asarray(ex.output)[0, 0] == pytest.approx(float(_scores("the dog")[-1].max()))


def test_pieces_stand_in_the_text_as_it_was_written():
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0, "größe": 1, "##n": 2, "!": 3, "war": 4}))
    inner.normalizer = tokenizers.normalizers.Lowercase()
    inner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    found = text.Encoder(inner)(["Größen  war!", "war"])

    assert found.annotations["token"].tolist() == [["Größe", "n", "  war", "!"], ["war", "", "", ""]]
    assert found.annotations["word"].tolist() == [[0, 0, 1, 2], [0, -1, -1, -1]]
    assert found.inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]


def test_what_cannot_be_explained_is_refused_in_one_sentence():
    net = _net()
    with pytest.raises(ArgumentError, match="outside of texts of 4 tokens"):
        text.explain(net, TOKENIZER, "the dog runs", text.said(position=9))
    with pytest.raises(ArgumentError, match="empty span"):
        text.explain(net, TOKENIZER, "the dog runs", text.said(position=(2, 2)))
    with pytest.raises(ArgumentError, match="'the dog' is 2 tokens"):
        text.explain(net, TOKENIZER, "the dog runs", "the dog")
    with pytest.raises(ArgumentError, match="token 99 is out of range"):
        text.explain(net, TOKENIZER, "the dog runs", text.said(99))
    with pytest.raises(ArgumentError, match="needs a tokenizer to read it"):
        backlight.explain(
            net, {"input_ids": torch.ones(1, 2, dtype=torch.long), "attention_mask": torch.ones(1, 2)}, text.said("x")
        )
    with pytest.raises(DataError, match="no texts"):
        text.explain(net, TOKENIZER, [])
    with pytest.raises(DataError, match="text 1 is int"):
        text.explain(net, TOKENIZER, ["the", 3])
