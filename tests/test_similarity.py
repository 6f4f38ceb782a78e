"""Which words make two texts alike: relevance of pairs of tokens."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import backlight
from backlight import text
from backlight.errors import ArgumentError
from tests.conftest import same

WORDS = ["<s>", "the", "dog", "runs", "home", "cat", "sees", "it", "."]
TOKENIZER = SimpleNamespace(
    encode=lambda given: [0, *(WORDS.index(word) for word in given.split())],
    decode=lambda ids: "".join(" " + WORDS[k] for k in ids if k),
)
TEXTS = ("the dog runs home", "the cat sees it home .")


class Embedder(nn.Module):
    def __init__(self, width: int = 12, pooled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.a, self.b = nn.Embedding(9, 6), nn.Linear(6, 10, bias=False), nn.Linear(10, width, bias=False)
        self.pooled = pooled

    def forward(self, input_ids, attention_mask):
        h = self.b(torch.relu(self.a(self.embed(input_ids))))
        if not self.pooled:
            return h
        kept = attention_mask[..., None].to(h.dtype)
        return (h * kept).sum(1) / kept.sum(1)


def net(**options) -> Embedder:
    return Embedder(**options).double().eval()


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("products", [None, 12, 99])
def test_all_directions_give_the_double_sum_over_tokens(pooled, products):
    model = net(pooled=pooled)
    found = text.similarity(model, TOKENIZER, *TEXTS, cosine=False, products=products)
    # without biases LRP-0 of a ReLU network is gradient × input: token i has its own vector's share of the mean
    ids = [torch.tensor(TOKENIZER.encode(one)) for one in TEXTS]
    with torch.no_grad():
        parts = [model.b(torch.relu(model.a(model.embed(one)))) / len(one) for one in ids]

    assert same(found.values, (parts[0] @ parts[1].t()).numpy(), 1e-5)
    assert found.output == pytest.approx(float(parts[0].sum(0) @ parts[1].sum(0)), rel=1e-12)
    assert found.products == 12
    assert (found.error == 0).all()
    assert abs(found.residual) < 1e-4 * abs(found.output)


def test_a_part_of_the_directions_is_right_on_average_and_says_its_error():
    model = net(width=60)
    whole = text.similarity(model, TOKENIZER, *TEXTS, products=None)
    parts = [text.similarity(model, TOKENIZER, *TEXTS, products=20, seed=seed) for seed in range(12)]
    off = np.array([part.values - whole.values for part in parts])
    said = np.array([part.error for part in parts])

    assert all(part.products == 20 and same(part.values.sum(), whole.values.sum(), 1e-6) for part in parts)
    # a mean square over 12 draws and 35 pairs, which share their draws
    assert 0.6 < np.sqrt((off**2).mean() / (said**2).mean()) < 1.6
    assert np.abs(off.mean(0)).max() < 3 * np.sqrt((said**2).mean(0).max() / len(parts))
    assert "standard error" in repr(parts[0])
    assert "standard error" not in repr(whole)


def test_words_are_pairs_of_a_matrix():
    found = text.similarity(net(), TOKENIZER, *TEXTS)

    assert found.by_word().sum() == pytest.approx(found.values.sum())
    assert [word.strip() for word, _, _ in found.words[1]][1:] == ["the", "cat", "sees", "it", "home", "."]
    first = found.pairs(1)[0]
    assert abs(first[2]) == pytest.approx(np.abs(found.by_word()).max())
    for word in ("dog", "home", "similarity"):
        assert word in found._repr_html_()
        assert word in str(found.view()) + repr(found)
    same_text = text.similarity(net(), TOKENIZER, TEXTS[0], TEXTS[0])
    assert same_text.output == pytest.approx(1)
    assert same(same_text.values, same_text.values.T, 1e-9)


def test_what_is_no_embedding_is_refused():
    with pytest.raises(ArgumentError, match="products=2"):
        text.similarity(net(), TOKENIZER, *TEXTS, products=2)

    class Flat(Embedder):
        def forward(self, input_ids, attention_mask):
            return super().forward(input_ids, attention_mask).sum((1, 2))

    with pytest.raises(ArgumentError, match="no embeddings"):
        text.similarity(Flat().double(), TOKENIZER, *TEXTS)
    assert backlight.text.Similarity is text.Similarity
