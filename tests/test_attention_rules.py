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

    assert same(ex.values[0], want.numpy(), 1e-12)
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


MASKS = {
    "none": (None, False),
    "causal": (None, True),
    "causal, written out": (torch.ones(7, 7, dtype=torch.bool).tril(), False),
    "some barred": (torch.arange(7) < torch.tensor([[[7]], [[4]]])[..., None], False),
    "a window": (torch.ones(7, 7, dtype=torch.bool).tril().triu(-2), False),
    "nothing seen by one": (torch.ones(7, 7, dtype=torch.bool).tril(-1), False),
    "added": (torch.randn(2, 3, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(5)), False),
    "added, minus infinity": (torch.zeros(7, 7, dtype=torch.float64).masked_fill_(torch.ones(7, 7).triu(1) > 0, -torch.inf), False),
}  # fmt: skip


class _Fused(nn.Module):
    def __init__(self, mask, causal):
        super().__init__()
        self.causal = causal
        self.register_buffer("mask", mask)

    def forward(self, x):
        q, k, v = x[:, :3], x[:, 3:6], x[:, 6:]
        seen = self.mask if self.mask is None or self.mask.shape[0] in (3, 7) or len(x) == 2 else self.mask[:1]
        return nn.functional.scaled_dot_product_attention(q, k, v, seen, is_causal=self.causal).flatten(1)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(("kept", "at_once"), [(2**20, 2**22), (0, 2**22), (0, 1)])
@pytest.mark.parametrize("columns", [[3], [0, 5, 17]])
def test_attention_held_constant_hands_back_its_weights_transposed(monkeypatch, name, kept, at_once, columns):
    """c_V = Aᵀ c_O, with A of the eager formula; kept, or made again for 16 queries at a time."""
    from backlight.engine.operators import attention

    monkeypatch.setattr(attention, "_KEPT", kept)
    monkeypatch.setattr(attention, "_AT_ONCE", at_once)
    mask, causal = MASKS[name]
    repeats = 5 if at_once == 1 and mask is None else 1  # more queries than one block holds
    x = torch.randn(2, 9, 7 * repeats, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    ex = backlight.explain(_Fused(mask, causal).eval(), x, columns)

    q, k, v = x[:, :3], x[:, 3:6], x[:, 6:]
    scores = q @ k.mT / 2
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1) > 0, -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else scores + mask
    weights = scores.softmax(-1).nan_to_num(0.0)
    for place, column in enumerate(columns):
        seed = torch.zeros(2, 3, 7 * repeats, 4, dtype=torch.float64)
        seed.flatten(1)[:, column] = 1
        expected = torch.zeros_like(x)
        expected[:, 6:] = v * (weights.mT @ seed)
        np.testing.assert_allclose(ex.values[..., place], expected.numpy(), rtol=0, atol=1e-13)


class _Kernel(nn.Module):
    """Attention by the function that torch documents, or by the kernel behind it, whose output is a pair."""

    def __init__(self, kernel: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.kernel = nn.Linear(8, 24), nn.Linear(8, 2), kernel

    def forward(self, x):
        q, k, v = (part.view(*part.shape[:2], 2, 4).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if self.kernel:
            y = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]
        else:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2).mean(1))


@pytest.mark.parametrize("rules", ["auto", "attnlrp", "cplrp"])
def test_a_kernel_that_returns_a_pair_is_explained_as_its_function(rules):
    torch.manual_seed(0)
    model = _Kernel(False).double().eval()
    kernel = _Kernel(True).double().eval()
    kernel.load_state_dict(model.state_dict())
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    named, hidden = (backlight.explain(one, x, 0, rules=rules) for one in (model, kernel))

    assert same(hidden.values, named.values)
    assert same(hidden.ledger.entering, named.ledger.entering)


class _Routed(nn.Module):
    """Experts that share a token by the largest weights of a router; each expert is linear."""

    def __init__(self, renormalised: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.router, self.renormalised = nn.Linear(4, 3), renormalised
        self.experts = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(3))
        # attention's own rules hold in a network that attends
        self.key = nn.Linear(4, 4)

    def forward(self, x):
        x = torch.nn.functional.scaled_dot_product_attention(self.key(x), self.key(x), x)
        weight, chosen = self.router(x).softmax(-1).topk(2)
        if self.renormalised:
            weight = weight / weight.sum(-1, keepdim=True)
        return sum(
            expert(x) * torch.where(chosen == k, weight, 0.0).sum(-1, keepdim=True)
            for k, expert in enumerate(self.experts)
        ).sum(1)


@pytest.mark.parametrize("renormalised", [False, True])
def test_a_routers_weights_are_constants(renormalised):
    net = _Routed(renormalised).double().eval()
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    ex = backlight.explain(net, x, 1, strict=True)

    # by hand: attention and router held constant, the network is linear in x
    with torch.no_grad():
        attention = (net.key(x) @ net.key(x).transpose(1, 2) / 2).softmax(-1)
        weight, chosen = net.router(attention @ x).softmax(-1).topk(2)
        if renormalised:
            weight = weight / weight.sum(-1, keepdim=True)
        maps = torch.stack([expert.weight[1] for expert in net.experts])
        message = (weight[..., None] * maps[chosen]).sum(2)
        want = (attention.transpose(1, 2) @ message) * x

    assert same(ex.values, want.numpy())
    assert ex.values.sum((1, 2)) == pytest.approx(ex.output, abs=1e-12)


class _Windowed(nn.Module):
    """Attention weights that are padded, cut and folded many times before they meet the values."""

    def __init__(self, moves: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.key, self.moves = nn.Linear(4, 4), moves

    def forward(self, x):
        weights = (self.key(x) @ self.key(x).transpose(1, 2)).softmax(-1)
        for _ in range(self.moves):
            weights = torch.nn.functional.pad(weights, (0, 1))[..., :-1].transpose(1, 2)
        return (weights @ x).sum(1)


def test_attention_is_known_behind_any_number_of_moves():
    net = _Windowed(12).double().eval()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    ex = backlight.explain(net, x, 1, strict=True)
    with torch.no_grad():
        weights = (net.key(x) @ net.key(x).transpose(1, 2)).softmax(-1)

    want = torch.zeros_like(x)
    want[..., 1] = weights.sum(1) * x[..., 1]
    assert same(ex.values, want.numpy())


def test_a_number_for_the_whole_batch_stands_beside_rows():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            own = x.abs().mean(1, keepdim=True)
            # of a row without values that of all rows, a number without an axis
            scale = torch.where(own > 0.5, own, own.sum().squeeze())
            return self.head(torch.cat([x[:, :2], scale], 1))

    x = torch.tensor([[1.0, 2.0, 0.5], [0.1, 0.2, -0.1]], dtype=torch.float64)
    with pytest.warns(backlight.errors.BacklightWarning, match="rows"):
        ex = backlight.explain(Scaled().double().eval(), x, 1, rules=backlight.rules.Zero())

    # what belongs to which row is not known; all rows together close
    assert abs((ex.residual - ex.ledger.absorbed.sum(0)).sum()) < 1e-12
