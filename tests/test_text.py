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


# -- what users of transformers hand over ------------------------------------------------------------------------------


class Translator(torch.nn.Module):
    """An encoder whose mean is added to what a decoder has said; its decoder begins with token 0."""

    config = SimpleNamespace(is_encoder_decoder=True, decoder_start_token_id=0)

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.source, self.said = torch.nn.Embedding(9, 4), torch.nn.Embedding(9, 4)
        self.head = torch.nn.Linear(4, 9, bias=False)

    def forward(self, input_ids, attention_mask, decoder_input_ids):
        kept = attention_mask[..., None].to(self.head.weight.dtype)
        return self.head((self.source(input_ids) * kept).sum(1, keepdim=True) + self.said(decoder_input_ids).cumsum(1))


def test_an_encoder_with_a_decoder_begins_with_its_start_token():
    net = Translator().double().eval()
    ex = text.explain(net, TOKENIZER, ["the dog runs", "it"], "cat", strict=True)

    # the network is linear in its vectors: each token has the score of its vector
    source, said, head = net.source.weight.detach(), net.said.weight.detach(), net.head.weight.detach()
    for k, one in enumerate(("the dog runs", "it")):
        ids = _encode(one)
        assert same(ex.values[k, : len(ids)], source[ids] @ head[5])
        assert (ex.values[k, len(ids) : 4] == 0).all()
        assert ex.values[k, 4] == pytest.approx(float(said[0] @ head[5]))
    assert ex.annotations["special"].tolist() == [[True, False, False, False, True], [True, False, False, False, True]]
    assert ex.annotations["word"][1].tolist() == [-1, 0, -1, -1, -1]


def test_each_token_that_a_decoder_adds_shares_one_pass_over_the_source():
    net = Translator().double().eval()
    source, said, head = net.source.weight.detach(), net.said.weight.detach(), net.head.weight.detach()
    ids, spoken, want = _encode("the dog"), [0], []
    for _ in range(3):
        scores = (source[ids].sum(0) + said[spoken].sum(0)) @ head.T
        want.append(int(scores.argmax()))
        spoken.append(want[-1])
    ex = text.explain_continuation(net, TOKENIZER, "the dog", tokens=3, strict=True)
    given = text.explain_continuation(net, TOKENIZER, "the dog", torch.tensor([[0, *want]]), strict=True)

    assert ex.values.shape == (1, 3 + 1 + 3, 3)
    assert same(ex.values, given.values)
    for k, token in enumerate(want):
        assert same(ex.values[0, :3, k], source[ids] @ head[token])
        assert same(ex.values[0, 3 : 4 + k, k], said[[0, *want[:k]]] @ head[token])
        assert (ex.values[0, 4 + k :, k] == 0).all()


def test_what_generate_returned_is_a_continuation_without_the_text_before_it():
    ids, added = _encode("the dog"), [4, 3]
    plain = text.explain_continuation(_net(), TOKENIZER, "the dog", added)
    for given in (
        torch.tensor([[*ids, *added]]),
        SimpleNamespace(sequences=torch.tensor([[*ids, *added]])),
        np.array(added),
    ):
        assert same(text.explain_continuation(_net(), TOKENIZER, "the dog", given).values, plain.values)
    with pytest.raises(ArgumentError, match="holds 2 texts"):
        text.explain_continuation(_net(), TOKENIZER, "the dog", torch.tensor([added, added]))
    with pytest.raises(ArgumentError, match="what the model's generate returned"):
        text.explain_continuation(_net(), TOKENIZER, "the dog", [0.5])


class Chat:
    """A tokenizer that writes messages by a template, marks included."""

    pad_token_id = unk_token_id = 0

    def __call__(self, given, add_special_tokens=True):
        return {"input_ids": [*[0] * add_special_tokens, *(WORDS.index(word) for word in given.split())]}

    def encode(self, given, add_special_tokens=True):
        return self(given, add_special_tokens)["input_ids"]

    def decode(self, ids):
        return " ".join(WORDS[k] for k in ids)

    def convert_ids_to_tokens(self, ids):
        return [WORDS[k] for k in ids]

    def get_special_tokens_mask(self, ids, already_has_special_tokens):
        return [k == 0 for k in ids]

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert not tokenize
        assert add_generation_prompt
        return "<s> " + " . ".join(one["content"] for one in messages) + " it"


def test_messages_are_written_by_the_chat_template_once():
    messages = [{"role": "user", "content": "the dog"}, {"role": "assistant", "content": "runs home"}]
    ex = text.explain(_net(), Chat(), messages)
    ids = torch.tensor([[WORDS.index(word) for word in ["<s>", "the", "dog", ".", "runs", "home", "it"]]])
    plain = backlight.explain(_net(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    assert same(ex.values, plain.values)
    assert same(text.explain(_net(), Chat(), [messages, messages]).values[1], plain.values[0])
    assert text.explain_continuation(_net(), Chat(), messages, tokens=2).values.shape == (1, 9, 2)
    with pytest.raises(DataError, match="chat template"):
        text.explain(_net(), TOKENIZER, messages)


class Embedder(torch.nn.Module):
    """As sentence embedders are: one dict in, one dict out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.table = torch.nn.Embedding(9, 4)

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        kept = features["attention_mask"][..., None].to(self.table.weight.dtype)
        tokens = self.table(features["input_ids"])
        mean = (tokens * kept).sum(1) / kept.sum(1)
        return features | {"token_embeddings": tokens, "sentence_embedding": mean}


def test_an_embedder_that_takes_one_dict_is_explained_and_compared():
    net = Embedder().double().eval()
    ex = text.explain(net, TOKENIZER, ["the dog runs", "it"], 2, strict=True)
    table = net.table.weight.detach()
    assert same(ex.values[0], table[_encode("the dog runs"), 2] / 4)
    assert same(ex.values[1, :2], table[_encode("it"), 2] / 2)

    found = text.similarity(net, TOKENIZER, "the dog", "it", cosine=False, products=None)
    assert same(found.values, table[_encode("the dog")] / 3 @ (table[_encode("it")] / 2).T)


def test_swapped_arguments_and_pipelines_are_named():
    net, pipeline = _net(), SimpleNamespace(model=_net(), tokenizer=TOKENIZER)
    with pytest.raises(ArgumentError, match="the model first, then the tokenizer"):
        text.explain(TOKENIZER, net, "the dog")
    with pytest.raises(ArgumentError, match="give one as of transformers, or one with encode"):
        text.explain(net, ["the dog"], TOKENIZER)
    with pytest.raises(ArgumentError, match=r"holds a model: give its \.model"):
        text.similarity(pipeline, TOKENIZER, "the", "dog")
    with pytest.raises(ArgumentError, match="the model is a int"):
        text.explain_continuation(3, TOKENIZER, "the")
    with pytest.raises(backlight.errors.UnsupportedModel, match="holds a model"):
        backlight.explain(pipeline, ["the"])
    with pytest.raises(DataError, match="strings go to"):
        backlight.explain(net, ["the"])
