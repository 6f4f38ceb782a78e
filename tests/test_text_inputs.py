"""Texts as a tokenizer gives them: which token is explained, what is padding, how tokens are called."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import backlight
from backlight._evaluate.scored import scored
from backlight.attribution.tokens import last_tokens
from backlight.errors import DataError
from backlight.explanation.tokens import spans
from tests.conftest import same


class Language(nn.Module):
    """Says for each token what may follow: a mean of what came before."""

    def __init__(self, words: int = 9) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(words, 6), nn.Linear(6, words, bias=False)

    def forward(self, input_ids, attention_mask):
        kept = attention_mask[..., None].to(self.embed.weight.dtype)
        x = self.embed(input_ids) * kept
        return self.head(x.cumsum(1) / kept.cumsum(1).clamp(min=1))


IDS = torch.tensor([[3, 1, 4, 1, 5], [2, 7, 1, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def language() -> tuple[Language, dict[str, torch.Tensor]]:
    return Language().double().eval(), {"input_ids": IDS, "attention_mask": MASK}


def test_by_default_what_follows_each_text_is_explained():
    net, given = language()
    ex = backlight.explain(net, given, strict=True)
    with torch.no_grad():
        out = net(**given)

    want = torch.stack([out[0, 4].max(), out[1, 2].max()])
    assert same(ex.output, want.numpy())
    assert ex.target == "predicted token"
    # no bias: the words make up the score, and what is padded has none of it
    assert same(ex.values.sum(1), want.numpy())
    assert (ex.values[1, 3:] == 0).all()
    assert ex.annotations["padding"].tolist() == (MASK == 0).tolist()
    assert ex.dims == ("row", "token")
    assert (ex.data == IDS.numpy()).all()


def test_a_token_by_its_number_is_that_of_each_texts_end():
    net, given = language()
    with torch.no_grad():
        out = net(**given)

    assert same(backlight.explain(net, given, 5).output, torch.stack([out[0, 4, 5], out[1, 2, 5]]).numpy())
    assert same(
        backlight.explain(net, given, np.array([5, 2])).output, torch.stack([out[0, 4, 5], out[1, 2, 2]]).numpy()
    )
    several = backlight.explain(net, given, [1, 2])
    assert several.values.shape == (2, 5, 2)
    assert several.output_names == ("token 1", "token 2")
    direction = np.linspace(-1, 1, 9)
    last = torch.stack([out[0, 4], out[1, 2]]).numpy()
    assert same(backlight.explain(net, given, direction).output, last @ direction)


def test_left_padding_ends_where_the_text_ends():
    out = torch.zeros(2, 4, 3)
    ids, left = torch.ones(2, 4, dtype=torch.long), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])

    assert last_tokens({"input_ids": ids, "attention_mask": left}, out).tolist() == [3, 3]
    assert last_tokens({"input_ids": ids}, out).tolist() == [3, 3]
    assert last_tokens({"decoder_input_ids": ids, "attention_mask": 1 - left}, out).tolist() == [3, 3]
    # images, segmentations and tables have no last token
    assert last_tokens({"x": torch.ones(2, 4)}, out) is None
    assert last_tokens({"x": ids}, torch.zeros(2, 3)) is None


@pytest.mark.parametrize("target", [None, 5, np.array([5, 2])])
def test_the_judge_asks_for_the_same_token(target):
    net, given = language()
    subject, x = scored(net, given, target, None)
    shorter = {"input_ids": IDS[:, :3], "attention_mask": MASK[:, :3]}
    subject.others = {"attention_mask": MASK}

    assert same(subject.score(x, torch.arange(2)).numpy(), np.asarray(backlight.explain(net, given, target).output))
    # of fewer tokens it is what follows those
    subject.others = {"attention_mask": MASK[:, :3]}
    if target is not None:
        want = backlight.explain(net, shorter, target).output
        assert same(subject.score(x[:, :3], torch.arange(2)).numpy(), np.asarray(want))


class Cached(Language):
    """Returns a cache beside its scores, as language models do."""

    def forward(self, input_ids, attention_mask):
        return {"logits": super().forward(input_ids, attention_mask), "cache": SimpleNamespace(held=input_ids)}


def test_the_judge_leaves_out_what_holds_no_numbers():
    _, given = language()
    subject, x = scored(Cached().double().eval(), given, None, None)

    assert same(subject.score(x, torch.arange(2)).numpy(), np.asarray(backlight.explain(*language()).output))


class Encoded(dict):
    """What a tokenizer returns: a mapping that knows its tokens."""

    def __init__(self, inputs, encodings):
        super().__init__(inputs)
        self.encodings = encodings


def test_what_a_tokenizer_returned_names_the_tokens():
    net, given = language()
    rows = [["[CLS]", "un", "##likely", "story", "[SEP]"], ["[CLS]", "no", "[SEP]", "[PAD]", "[PAD]"]]
    encodings = [
        SimpleNamespace(ids=ids.tolist(), tokens=row, special_tokens_mask=[int(t.startswith("[")) for t in row])
        for ids, row in zip(IDS, rows, strict=True)
    ]
    ex = backlight.explain(net, Encoded(given, encodings), batch_size=1)

    assert [span.text.strip() for span in spans(ex, 0)] == ["[CLS]", "unlikely", "story", "[SEP]"]
    assert [span.text.strip() for span in spans(ex, 1)] == ["[CLS]", "no", "[SEP]"]
    assert sum(span.value for span in spans(ex, 0)) == pytest.approx(ex.values[0].sum())
    assert "unlikely" in ex._repr_html_()
    assert "story" in repr(ex)


def test_an_encoder_of_transformers_with_its_own_tokenizer():
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##able", "cap", "dog", "not"]
    vocabulary = {word: k for k, word in enumerate(words)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        "[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)]
    )
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **marks)
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9,
        max_position_embeddings=16, num_labels=3,
    )).double().eval()  # fmt: skip
    given = tokenizer(["a capable dog", "not"], return_tensors="pt", padding=True)
    ex = backlight.explain(model, given, strict=True)
    with torch.no_grad():
        want = model(**given).logits.max(1).values

    assert same(ex.output, want.numpy())
    assert [span.text.strip() for span in spans(ex, 0)] == ["[CLS]", "a", "capable", "dog", "[SEP]"]
    assert [span.text.strip() for span in spans(ex, 1)] == ["[CLS]", "not", "[SEP]"]
    assert (ex.values[1, 3:] == 0).all()


class Spoken(Language):
    """Takes vectors in the place of token numbers, as models of transformers do."""

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None):
        x = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        kept = attention_mask[..., None].to(x.dtype)
        return self.head(torch.tanh((x * kept).cumsum(1) / kept.cumsum(1).clamp(min=1)))


@pytest.mark.parametrize(("reference", "away"), [
    (None, None), (0, 0), (torch.tensor([[4, 4, 4, 4, 4]]), 4), ({"input_ids": 2}, 2),
])  # fmt: skip
def test_reference_methods_explain_token_numbers_by_their_vectors(reference, away):
    pytest.importorskip("captum")
    net = Spoken().double().eval()
    given = {"input_ids": IDS, "attention_mask": MASK}
    method = backlight.Method("integrated_gradients", steps=200)
    ex = backlight.explain(net, given, 5, method=method, reference=reference)
    with torch.no_grad():
        start = torch.zeros(1, 1, 6, dtype=torch.float64) if away is None else net.embed(torch.tensor([[away]]))
        other = net(None, MASK, start.expand(2, 5, 6))
        ends = [4, 2]
        want = torch.stack([net(**given)[k, end, 5] for k, end in enumerate(ends)])
        base = torch.stack([other[k, end, 5] for k, end in enumerate(ends)])

    assert ex.values.shape == (2, 5)
    assert same(ex.output, want.numpy())
    assert same(ex.base_values, base.numpy())
    assert np.allclose(ex.values.sum(1), (want - base).numpy(), rtol=0, atol=1e-5)
    assert (ex.values[1, 3:] == 0).all()
    if away is None:
        x = net.embed(IDS).detach().requires_grad_()
        out = net(None, MASK, x)
        (slope,) = torch.autograd.grad(out[0, 4, 5] + out[1, 2, 5], x)
        quick = backlight.explain(net, given, 5, method="gradient_x_input")
        assert same(quick.values, (slope * x).sum(-1).detach().numpy())


class Boxes(nn.Module):
    """Whole numbers of two kinds that are looked up, one a difference of two; and a shape taken from another value."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.word, self.width = nn.Embedding(9, 4), nn.Embedding(9, 4)
        self.head = nn.Linear(4, 2, bias=False)

    def forward(self, ids, edges):
        wide = self.width(edges[..., 1] - edges[..., 0])
        return self.head((self.word(ids) + wide.flatten(1).reshape_as(wide)).mean(1))


def test_two_whole_numbers_that_make_up_one_share_its_relevance():
    net = Boxes().double().eval()
    edges = torch.tensor([[[1, 3], [0, 2]], [[2, 2], [4, 8]]])
    ids = torch.tensor([[1, 2], [3, 3]])
    ex = backlight.explain(net, (ids, edges), 1, strict=True)
    words, pairs = ex.values[:, :2], ex.values[:, 2:].reshape(2, 2, 2)
    with torch.no_grad():
        want = (
            (net.word(ids) @ net.head.weight[1]) / 2,
            (net.width(edges[..., 1] - edges[..., 0]) @ net.head.weight[1]) / 2,
        )

    assert same(words, want[0].numpy())
    assert same(pairs.sum(2), want[1].numpy())
    assert same(pairs[..., 0], pairs[..., 1])
    assert same(ex.output, ex.values.sum(1))


def test_a_model_that_cannot_run_says_so_in_its_own_words():
    class Broken(Boxes):
        def forward(self, ids):
            raise RuntimeError("grouped products take no double precision")

    with pytest.raises(backlight.BacklightError, match="grouped products take no double"):
        backlight.explain(Broken().double(), IDS)


class Learning(nn.Module):
    """Returns its loss where labels are given, as models that are trained do; or that alone."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.alone = nn.Linear(3, 2, bias=False), alone

    def forward(self, x, y):
        answer = self.head(x)
        loss = (answer - y).square().mean()
        return loss if self.alone else {"loss": loss, "answer": answer}


def test_a_loss_is_no_answer():
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    net = Learning(False).double()
    ex = backlight.explain(net, {"x": x, "y": y}, 1)

    assert same(ex.output, net.head(x)[:, 1].detach().numpy())
    with pytest.raises(backlight.BacklightError, match=r"shape \(\) for 4 rows: it must have one entry a row"):
        backlight.explain(Learning(True).double(), {"x": x, "y": y})


def test_numbers_in_lists_stay_whole_as_a_tokenizer_gives_them():
    net, ids = Language().double().eval(), torch.tensor([[1, 2, 3], [4, 5, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    listed = backlight.explain(net, {"input_ids": ids.tolist(), "attention_mask": mask.tolist()})

    assert same(listed.values, backlight.explain(net, {"input_ids": ids, "attention_mask": mask}).values)
    with pytest.raises(DataError, match="padding=True"):
        backlight.explain(net, {"input_ids": [[1, 2], [3]], "attention_mask": [[1, 1], [1]]})


class Shifted(nn.Module):
    """The table is asked for the labels one place later, behind a start token, as decoders are taught."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 3)

    def forward(self, labels):
        moved = labels.new_zeros(labels.shape)
        moved[..., 1:] = labels[..., :-1].clone()
        moved[..., 0] = 6
        return self.table(moved.masked_fill(moved == 5, 0)).sum(1)


def test_numbers_that_are_written_into_others_take_their_relevance_with_them():
    net, labels = Shifted().double().eval(), torch.tensor([[1, 2, 3], [4, 5, 0]])
    ex = backlight.explain(net, labels, 1)
    table = net.table.weight.detach()[:, 1]

    # the last number moves out, the start token is a constant, and the masked number is what the mask says
    assert same(ex.values[:, 0], table[labels[:, 0]])
    assert float(ex.values[0, 1]) == pytest.approx(float(table[2]))
    assert (ex.values[:, 2] == 0).all()
    assert same(ex.output - ex.values.sum(1), ex.residual + ex.base_values)
