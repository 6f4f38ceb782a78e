"""Attention: the presets against relevance written without gradients, and what softmax keeps."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import backlight
from tests.conftest import same
from tests.oracles.attnlrp import Decoder, relevance

pytestmark = pytest.mark.fast

SOFTMAX = "softmax by its gradient"


def decoder(fused: bool) -> Decoder:
    torch.manual_seed(0)
    return Decoder(fused=fused).double().eval()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("rule", ["attnlrp", "cplrp", "auto"])
def test_a_decoder_agrees_with_relevance_written_without_gradients(rule, fused):
    net, ids = decoder(fused), torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        want, kept = relevance(net, ids, 7, "attnlrp" if rule == "attnlrp" else "cplrp")

    ex = backlight.explain(net, ids, 7, rules=rule, strict=True)
    lines = [k for k, name in enumerate(ex.ledger.rules) if name == SOFTMAX]

    # the reference divides by every unit: by small ones too
    assert same(ex.values[0], want.numpy(), 1e-10)
    assert ex.ledger.absorbed[lines].sum() == pytest.approx(float(kept), abs=1e-11)
    assert bool(lines) == (rule == "attnlrp")
    assert ex.residual[0] == pytest.approx(float(kept), abs=1e-11)


def test_what_softmax_keeps_is_named_in_the_ledger():
    ex = backlight.explain(decoder(True), torch.tensor([[3, 1, 4, 1, 5]]), 7, rules="attnlrp", strict=True)

    assert abs(ex.ledger.bias).sum() > 1e-3
    assert abs(ex.ledger.absorbed - ex.ledger.bias).max() < 1e-12


@pytest.mark.parametrize("rule", ["attnlrp", "cplrp"])
def test_rows_do_not_depend_on_their_neighbours(rule):
    net = decoder(False)
    ids = torch.tensor([[3, 1, 4, 1, 5], [2, 7, 1, 8, 2], [9, 9, 9, 0, 1]])
    together = backlight.explain(net, ids, 7, rules=rule).values

    assert same(
        together, np.concatenate([backlight.explain(net, ids[k : k + 1], 7, rules=rule).values for k in range(3)])
    )


class Crossed(nn.Module):
    """Queries of a text, keys and values that no input reaches; or one value in all three places."""

    def __init__(self, same_value: bool) -> None:
        super().__init__()
        self.same_value = same_value
        self.q, self.h = nn.Linear(4, 4, bias=False), nn.Linear(4, 1, bias=False)
        self.k, self.v = nn.Parameter(torch.randn(1, 6, 4)), nn.Parameter(torch.randn(1, 6, 4))

    def forward(self, x):
        q = self.q(x)
        k, v = (q, q) if self.same_value else (self.k.expand(len(x), -1, -1), self.v.expand(len(x), -1, -1))
        return self.h(nn.functional.scaled_dot_product_attention(q, k, v).mean(1))[:, 0]


def test_one_value_in_all_places_of_attention_has_a_rule():
    torch.manual_seed(1)
    net, x = Crossed(True).double().eval(), torch.randn(2, 3, 4, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ex = backlight.explain(net, x, strict=True)

    # no bias: constant weights conserve
    assert same(ex.values.sum((1, 2)), np.asarray(ex.output))
    followed = backlight.explain(net, x, rules="attnlrp", strict=True)
    lines = [k for k, name in enumerate(followed.ledger.rules) if name == SOFTMAX]
    assert same(followed.residual, followed.ledger.absorbed[lines].sum(0), 1e-10)


def test_queries_alone_have_relevance_only_where_attention_is_followed():
    torch.manual_seed(1)
    net, x = Crossed(False).double().eval(), torch.randn(2, 3, 4, dtype=torch.float64)
    followed = backlight.explain(net, x, rules="attnlrp", strict=True)

    # with constant K and V, f is a function of x through softmax alone: its gradient times x
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(leaf).sum(), leaf)
    assert same(followed.values, (gradient * x).numpy())


def test_a_llama_of_transformers_conserves_by_default():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=8,
        vocab_size=12, max_position_embeddings=16,
    )).double().eval()  # fmt: skip
    given = {"input_ids": torch.tensor([[1, 4, 7, 2, 8]])}
    by_default = backlight.explain(model, given, strict=True)
    followed = backlight.explain(model, given, rules="attnlrp", strict=True)

    # the model's own norms compute in single precision
    assert same(by_default.values.sum(1), np.asarray(by_default.output), 1e-6)
    assert abs(followed.values.sum() - by_default.values.sum()) > 1e-4 * abs(by_default.values.sum())
    assert by_default.method == "lrp (auto)"
    assert "attention weights as constants" in by_default.provenance["plan"]


def test_an_unknown_way_of_attention_is_refused():
    with pytest.raises(backlight.errors.ArgumentError, match="attention='all' is not known"):
        backlight.Composite([], attention="all")
