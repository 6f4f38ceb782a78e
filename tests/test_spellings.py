"""A linear layer gets the rule that was asked for, in whatever spelling its product is written."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import backlight
from backlight.rules import AlphaBeta, Box, Epsilon, Flat, Gamma, WSquare, ZPlus
from tests.oracles import lrp as oracle

pytestmark = pytest.mark.fast

D = torch.float64

SPELLINGS = {
    "functional": lambda x, w, b: F.linear(x, w, b),
    "functional, then bias": lambda x, w, b: F.linear(x, w) + b,
    "matmul": lambda x, w, b: x @ w.T + b,
    "bias first": lambda x, w, b: b + x @ w.T,
    "minus": lambda x, w, b: x @ w.T - (-b),
    "mm": lambda x, w, b: torch.mm(x, w.t()) + b,
    "addmm": lambda x, w, b: torch.addmm(b, x, w.T),
    "addmm, scaled": lambda x, w, b: torch.addmm(2 * b, x, w.T / 3, beta=0.5, alpha=3),
    "einsum": lambda x, w, b: torch.einsum("bi,oi->bo", x, w) + b,
    "einsum, implicit": lambda x, w, b: torch.einsum("bi,io", x, w.T) + b,
    "einsum, weights first": lambda x, w, b: torch.einsum("oi,bi->bo", w, x) + b,
    "einsum, ellipsis": lambda x, w, b: torch.einsum("...i,oi->...o", x, w) + b,
    "einsum, two constants": lambda x, w, b: torch.einsum("bi,ok,ki->bo", x, w, torch.eye(6, dtype=x.dtype)) + b,
    "left": lambda x, w, b: (w @ x.unsqueeze(-1) + b.unsqueeze(-1)).squeeze(-1),
    "left, transposed": lambda x, w, b: (w @ x.T + b[:, None]).T,
    "mul and sum": lambda x, w, b: (x[:, None] * w).sum(-1) + b,
    "mul and sum, other axis": lambda x, w, b: (w.T * x.unsqueeze(-1)).sum(1) + b,
    "mul and mean": lambda x, w, b: (x[:, None] * (6 * w)).mean(-1) + b,
    "tensordot": lambda x, w, b: torch.tensordot(x, w, dims=([1], [1])) + b,
    "tensordot, count": lambda x, w, b: torch.tensordot(x, w.T, dims=1) + b,
    "rows of vectors": lambda x, w, b: torch.stack([x @ w[k] + b[k] for k in range(8)], 1),
    "mv": lambda x, w, b: torch.stack([b[k] + torch.mv(x, w[k]) for k in range(8)], 1),
    "convolution": lambda x, w, b: F.conv1d(x[..., None], w[..., None], b).squeeze(-1),
    "convolution, then bias": lambda x, w, b: (F.conv2d(x[..., None, None], w[..., None, None]) + b[:, None, None]).flatten(1),
    "bmm over heads": lambda x, w, b: (torch.bmm(x.unflatten(1, (1, 6)).transpose(0, 1), w.T[None]) + b)[0],
    "baddbmm": lambda x, w, b: torch.baddbmm(b[None, None], x[None], w.T[None])[0],
}  # fmt: skip

RULES = {
    "epsilon": (Epsilon(0.05), None),
    "gamma": (Gamma(0.25), lambda a, W, b, R: oracle.gamma(a, W, b, R, 0.25)),
    "zplus": (ZPlus(), lambda a, W, b, R: oracle.alphabeta(a, W, b, R, 1, 0)),
    "alphabeta": (AlphaBeta(2, 1), lambda a, W, b, R: oracle.alphabeta(a, W, b, R, 2, 1)),
    "wsquare": (WSquare(), oracle.wsquare),
    "flat": (Flat(), oracle.flat),
    "box": (Box(-4.0, 4.0), None),
}


class Spelt(nn.Module):
    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.l, self.o, self.how = nn.Linear(6, 8), nn.Linear(8, 2), how

    def forward(self, x):
        z = self.l(x) if self.how is None else SPELLINGS[self.how](x, self.l.weight, self.l.bias)
        return self.o(F.relu(z))


def spelt(how):
    return Spelt(how).double().eval()


@pytest.fixture(scope="module")
def nets():
    return {how: spelt(how) for how in (None, *SPELLINGS)}


X = torch.randn(4, 6, dtype=D, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")
@pytest.mark.parametrize("how", SPELLINGS)
def test_every_spelling_is_the_layer_under_every_rule(how, nets):
    for name, (rule, _) in RULES.items():
        first = backlight.Composite([(backlight.first, rule), (nn.Linear, Epsilon())])
        ours, plain = (backlight.explain(nets[k], X, 1, rules=first) for k in (how, None))

        np.testing.assert_allclose(ours.values, plain.values, rtol=1e-9, atol=1e-12, err_msg=name)
        # with the rows on another axis than the first, the bias's share of each row is not told apart
        np.testing.assert_allclose(ours.ledger.bias.sum(), plain.ledger.bias.sum(), rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")
@pytest.mark.parametrize("how", ["einsum", "left", "mul and sum", "baddbmm"])
@pytest.mark.parametrize("rule", [name for name in RULES if name not in ("epsilon", "box")])
def test_a_spelling_follows_the_slow_rule(how, rule, nets):
    net = nets[how]
    fast, slow = RULES[rule]
    ex = backlight.explain(net, X, 1, rules=fast)
    with torch.no_grad():
        W, b = net.l.weight.numpy(), net.l.bias.numpy()
        V, d = net.o.weight.numpy(), net.o.bias.numpy()
        for row in range(2):
            hidden = F.relu(net.l(X[row]))
            R = np.zeros(2)
            R[1] = net.o(hidden)[1]
            R = slow(X[row].numpy(), W, b, slow(hidden.numpy(), V, d, R))
            np.testing.assert_allclose(ex.values[row], R, rtol=1e-9, atol=1e-12)


class Heads(nn.Module):
    """Weights with an axis of their own that both sides share: grouped layers spelt as einsum and as a loop."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.w, self.o, self.how = nn.Parameter(torch.randn(3, 4, 5)), nn.Linear(15, 2), how

    def forward(self, x):
        x = x.unflatten(1, (3, 4))
        z = {
            "einsum": lambda: torch.einsum("bhi,hio->bho", x, self.w),
            "matmul": lambda: (x.unsqueeze(2) @ self.w).squeeze(2),
            "bmm": lambda: torch.bmm(x.transpose(0, 1), self.w).transpose(0, 1),
            "mul and sum": lambda: (x[..., None] * self.w).sum(2),
            "loop": lambda: torch.stack([F.linear(x[:, h], self.w[h].T) for h in range(3)], 1),
        }[self.how]()
        return self.o(F.relu(z.flatten(1)))


@pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")
@pytest.mark.parametrize("how", ["einsum", "matmul", "bmm", "mul and sum"])
def test_grouped_weights_are_each_groups_own_layer(how):
    x = torch.randn(4, 12, dtype=D, generator=torch.Generator().manual_seed(1))
    ours, loop = Heads(how).double().eval(), Heads("loop").double().eval()
    for name, (rule, _) in RULES.items():
        if name == "box":
            continue  # its bounds are of the input
        a, b = (backlight.explain(net, x, 1, rules=rule).values for net in (ours, loop))
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_plan_calls_every_spelling_a_layer(nets):
    for how in SPELLINGS:
        rows = backlight.plan(nets[how], X, "epsilon").rows()
        assert sum(row["rule"] == "Epsilon()" for row in rows) == (9 if how in ("rows of vectors", "mv") else 2), how


class Products(nn.Module):
    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.o = (nn.Linear(6, 6, bias=False) for _ in range(4))
        self.how = how

    def forward(self, x):
        a, b, c = self.a(x), self.b(x), self.c(x)
        z = {
            "addcmul": lambda: torch.addcmul(a, b, c, value=0.5),
            "spelt": lambda: a + 0.5 * (b * c),
            "baddbmm": lambda: torch.baddbmm(a[:, None], b[:, None], torch.diag_embed(c), beta=2.0, alpha=0.5)[:, 0],
            "spelt, doubled": lambda: 2 * a + 0.5 * (b * c),
        }[self.how]()
        return self.o(z)


@pytest.mark.parametrize(("how", "plain"), [("addcmul", "spelt"), ("baddbmm", "spelt, doubled")])
def test_a_sum_with_a_product_shares_as_its_parts_do(how, plain):
    ours, parts = (backlight.explain(Products(k).double(), X, 1, rules="epsilon") for k in (how, plain))

    np.testing.assert_allclose(ours.values, parts.values, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.values.sum(1), ours.output, rtol=1e-4)
