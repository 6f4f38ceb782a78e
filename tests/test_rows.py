"""Rows that see each other are named, rows that do not raise no alarm, and joint explanations tell them apart."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import backlight
from backlight.engine import Network
from backlight.engine.checks import model_keeps_rows_apart
from backlight.errors import ArgumentError, BacklightWarning, UnsupportedModel
from backlight.rules import Epsilon, Gamma, Zero
from tests.networks import MAKERS, made
from tests.zoo import animal

N = 6
A = torch.softmax(torch.randn(N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), 1)
SHIFTED = torch.eye(N, dtype=torch.float64).roll(2, 0)


class Mixer(nn.Module):
    """A layer, something along the rows, a layer."""

    def __init__(self, mix):
        super().__init__()
        self.a, self.b, self.mix = nn.Linear(4, 4), nn.Linear(4, 2), mix

    def forward(self, x):
        return self.b(self.mix(torch.relu(self.a(x))))


MIXERS = {
    "centred": lambda h: h - h.mean(0),
    "standardised": lambda h: h / (h.std(0) + 1),
    "plus the mean": lambda h: h + h.mean(0, keepdim=True),
    "plus the first": lambda h: h[:1] + h,
    "graph": lambda h: A @ h,
    "graph of single edges": lambda h: SHIFTED @ h,
    "graph by einsum": lambda h: torch.einsum("ij,jk->ik", A, h),
    "sorted": lambda h: h.sort(0).values,
    "cumulated": lambda h: h.cumsum(0),
    "softmax over rows": lambda h: h * h.softmax(0),
    "largest of all": lambda h: h - h.amax(),
    "first row": lambda h: h - h[:1],
    "last row": lambda h: h - h[-1:],
    "turned": lambda h: h.flip(0),
    "rolled": lambda h: h.roll(2, 0),
    "attention over rows": lambda h: F.scaled_dot_product_attention(h[None], h[None], h[None])[0],
    "similarity": lambda h: (h @ h.T) @ h,
    "pairs": lambda h: h.view(-1, 2, 4).flip(1).reshape(-1, 4),
    "along the transposed": lambda h: F.avg_pool1d(h.T[None], 3, 1, 1)[0].T,
    "batch statistics": lambda h: F.batch_norm(h, None, None, training=True),
    "shares of the whole": lambda h: h / h.sum(),
}  # fmt: skip

APART = {
    "every second feature": lambda h: h[:, ::2].repeat(1, 2),
    "features sorted": lambda h: h.sort(1).values,
    "transposed and back": lambda h: h.T.cumsum(0).T,
    "outer products": lambda h: (h[:, :, None] * h[:, None, :]).mean(2),
    "merged with positions": lambda h: torch.tanh(h.view(-1, 2, 2).reshape(-1, 2)).view(-1, 4),
    "positions first": lambda h: h.view(-1, 2, 2).transpose(0, 1).reshape(-1, 2).view(2, -1, 2).transpose(0, 1).flatten(1),
    "norm of the row": lambda h: h / (h.norm(dim=1, keepdim=True) + 1),
    "row numbers": lambda h: h[torch.arange(len(h))],
    "whole of a batched product": lambda h: torch.bmm(h[:, None], h[:, :, None])[:, 0] * h,
    "cat and split": lambda h: sum(torch.cat([h, h * 2], 1).split(4, 1)),
    "with itself stacked": lambda h: torch.stack([h, h], 0).mean(0),
}  # fmt: skip


def mixer(mix, seed=0):
    torch.manual_seed(seed)
    return Mixer(mix).double().eval()


def batch(rows=N):
    return torch.randn(rows, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mix", MIXERS)
def test_rows_that_see_each_other_are_said(mix):
    net, x = mixer(MIXERS[mix]), batch()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        backlight.explain(net, x, 0)
    assert sum("rows of a batch see each other at" in str(one.message) for one in seen) == 1
    with pytest.raises(backlight.BacklightError):
        backlight.explain(net, x, 0, strict=True)


@pytest.mark.parametrize("mix", APART)
def test_rows_that_keep_to_themselves_raise_no_alarm(mix):
    net, x = mixer(APART[mix]), batch()
    ex = backlight.explain(net, x, 0, rules=Zero())
    alone = np.concatenate([backlight.explain(net, x[i : i + 1], 0, rules=Zero()).values for i in range(N)])
    np.testing.assert_allclose(ex.values, alone, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ex.ledger.absorbed.sum(0), ex.residual, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("rows", [2, 5, 12])
def test_known_networks_are_proved_apart_without_a_run(name, rows):
    net, x = made(name, rows)
    backlight.explain(net, x, 0, rules="epsilon")
    (plan,) = Network.of(net)._plans.values()
    assert plan.apart is True
    assert not plan.mixing


class Stacked(nn.Module):
    """Rows are the second axis for a while: behind a stack in front of them, and beside what is put together."""

    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = torch.relu(self.a(x))
        several = torch.stack([h, h.flip(1)])
        return self.o(torch.cat([several, 2 * several]).sum(0))


@pytest.mark.parametrize("rows", [2, 4, 5])
def test_rows_behind_a_stack_are_followed_without_a_run(rows):
    torch.manual_seed(0)
    net, x = Stacked().double().eval(), torch.randn(rows, 4, dtype=torch.float64)
    plan = backlight.plan(net, x, "epsilon")
    assert plan.apart is True
    assert not plan.mixing


@pytest.mark.filterwarnings("ignore:row ..*kept or added:backlight.errors.BacklightWarning")
def test_a_layer_along_the_rows_mixes_them():
    """W xᵀ with one column of W for each row: the output has as many columns as rows went in, and each is of them all."""

    class Along(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.o = nn.Linear(N, N), nn.Linear(4, 3)

        def forward(self, x):
            return self.o(torch.relu(self.a(x.T)).T)

    torch.manual_seed(0)
    net, x = Along().double().eval(), torch.randn(N, 4, dtype=torch.float64)
    with pytest.warns(BacklightWarning, match="see each other"):
        backlight.explain(net, x, 0, rules="epsilon")
    with pytest.raises(UnsupportedModel, match="see each other"):
        backlight.explain(net, x, 0, rules="epsilon", strict=True)


@pytest.mark.parametrize(("amount", "apart"), [(0.0, True), (1e-16, True), (1e-9, False)])
def test_rounding_that_depends_on_other_rows_is_no_mixing_and_more_is(amount, apart):
    """(x + m) − m is x but for the rounding of a sum of the size of m."""

    class Rounded(nn.Module):
        def forward(self, x):
            far = 8 * x.amax()
            return (x + far) - far + amount * x.sum(0)

    x = torch.randn(3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert model_keeps_rows_apart(Rounded(), ((x,), {})) is apart


class Recurrent(nn.Module):
    """Sequences with the time first inside, as recurrent layers have it by default."""

    def __init__(self, kind):
        super().__init__()
        self.r, self.o = kind(4, 5, num_layers=2), nn.Linear(5, 3)

    def forward(self, x):
        return self.o(self.r(x.transpose(0, 1))[0][-1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_booked_row_by_row(kind):
    torch.manual_seed(0)
    net, x = Recurrent(kind).double().eval(), torch.randn(4, 6, 4, dtype=torch.float64)
    ex = backlight.explain(net, x, 0, rules=Zero(), strict=True)
    np.testing.assert_allclose(ex.ledger.absorbed.sum(0), ex.residual, rtol=1e-9, atol=1e-12)
    for row in range(4):
        one = backlight.explain(net, x[row : row + 1], 0, rules=Zero())
        np.testing.assert_allclose(ex.ledger.absorbed[:, row], one.ledger.absorbed[:, 0], rtol=1e-8, atol=1e-12)


def test_as_many_rows_as_features_confuse_nothing():
    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.o = nn.Linear(4, 4), nn.Linear(4, 2)
            self.register_buffer("w", torch.randn(4, 4))

        def forward(self, x):
            return self.o(torch.relu(self.a(x).T.flip(0).T @ self.w + 0.3))

    torch.manual_seed(0)
    net, x = Square().double().eval(), batch(4)
    ex = backlight.explain(net, x, 0, rules=Zero())
    for row in range(4):
        one = backlight.explain(net, x[row : row + 1], 0, rules=Zero())
        np.testing.assert_allclose(ex.ledger.absorbed[:, row], one.ledger.absorbed[:, 0], rtol=1e-9, atol=1e-12)


def test_tokens_that_see_each_other_are_said_too():
    class Bags(nn.Module):
        def __init__(self, mean):
            super().__init__()
            self.e, self.o, self.mean = nn.Embedding(9, 4), nn.Linear(4, 2), mean

        def forward(self, ids):
            h = self.e(ids).mean(1)
            return self.o(torch.relu(h - h.mean(0) if self.mean else h))

    torch.manual_seed(0)
    ids = torch.randint(0, 9, (5, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backlight.explain(Bags(False).double().eval(), ids, 0)
    with pytest.warns(BacklightWarning, match="see each other"):
        backlight.explain(Bags(True).double().eval(), ids, 0)


def test_a_target_function_that_mixes_rows_is_said():
    net, x = mixer(lambda h: h), batch()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        backlight.explain(net, x, lambda y: y[:, 0] - y[:, 0].mean(), rules=Zero())
    assert any("target function gives a row a score that depends on other rows" in str(one.message) for one in seen)
    with pytest.raises(UnsupportedModel, match="target function"):
        backlight.explain(net, x, lambda y: y[:, 0] - y[:, 0].mean(), strict=True)


@pytest.mark.parametrize("rules", ["epsilon-plus", "gamma-decreasing"])
@pytest.mark.parametrize(
    "name", ["convolutional", "encoder", "attention", "lstm, time first", "windows", "frames", "tokens"]
)
def test_a_row_alone_has_the_explanation_that_it_has_in_a_batch(name, rules):
    """In double precision to rounding. In single precision both are off by their own rounding: kernels add up in another
    order for one row than for many, which was 2e-6 of the largest value on such networks."""
    net, x = animal(name, rows=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BacklightWarning)
        whole = backlight.explain(net, x, 0, rules=rules)
        alone = np.concatenate([backlight.explain(net, x[i : i + 1], 0, rules=rules).values for i in range(4)])
        np.testing.assert_allclose(alone, whole.values, rtol=1e-9, atol=1e-11 * np.abs(whole.values).max())
        single = net.float()
        y = x.float() if x.is_floating_point() else x
        whole = backlight.explain(single, y, 0, rules=rules).values
        alone = backlight.explain(single, y, 0, rules=rules, batch_size=1).values
    assert np.abs(alone - whole).max() <= 1e-4 * np.abs(whole).max()


# -- joint -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", ["centred", "graph", "first row", "turned", "pairs", "cumulated"])
def test_joint_rows_are_the_gradient_times_input_of_each_rows_score(mix):
    """LRP-0 of a network that is linear but for ReLUs is gradient × input, for every pair of a score and a row."""
    net, x = mixer(MIXERS[mix]), batch()
    ex = backlight.explain(net, x, 1, rules=Zero(), rows="joint")
    slopes = torch.autograd.functional.jacobian(lambda z: net(z)[:, 1], x)
    assert ex.values.shape == (N, N, 4)
    assert ex.dims == ("row", "input row", "feature")
    np.testing.assert_allclose(ex.values, (slopes * x).numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ex.output, net(x)[:, 1].detach(), rtol=1e-12)
    np.testing.assert_allclose(ex.ledger.absorbed.sum(0), ex.residual, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ex[2].values, ex.values[2:3] if ex[2].values.ndim == 3 else ex.values[2])


@pytest.mark.parametrize("rule", [Epsilon(), Gamma(0.25)])
@pytest.mark.parametrize(
    "target", [None, [0, 1], "all", lambda y: y.softmax(1)[:, 0], lambda y: (y @ y.T).diagonal() - y[:, 0].mean()],
    ids=["none", "list", "all", "softmax", "all rows"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")
def test_joint_rows_add_up_to_the_score_and_to_the_mixture(rule, target):
    net, x = mixer(MIXERS["graph"]), batch()
    ex = backlight.explain(net, x, target, rules=rule, rows="joint")
    mixed = backlight.explain(net, x, target, rules=rule)
    tail = ex.values.shape[3:]
    assert ex.values.shape[:3] == (N, N, 4)
    assert tail == mixed.values.shape[2:]
    np.testing.assert_allclose(ex.output, mixed.output, rtol=1e-12)
    np.testing.assert_allclose(ex.values.sum(0), mixed.values, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(ex.ledger.absorbed.sum(0), ex.residual, rtol=1e-8, atol=1e-11)


class _SomeRows(nn.Module):
    """A layer with a bias on three of the rows, and what it makes of them added to every row."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.b(h) + self.b(h[1:4]).sum(0, keepdim=True)


@pytest.mark.filterwarnings("ignore:the rows of a batch")
@pytest.mark.parametrize("how", ["joint", "separate"])
def test_the_bias_of_a_layer_on_some_of_the_rows_is_booked_whole(how):
    torch.manual_seed(0)
    net, x = _SomeRows().double(), torch.randn(N, 4, dtype=torch.float64)
    ex = backlight.explain(net, x, 1, rules=Zero(), rows=how)

    # LRP-0 loses what biases keep, and nothing else
    np.testing.assert_allclose(ex.ledger.absorbed.sum(), ex.residual.sum(), rtol=1e-9)
    np.testing.assert_allclose(ex.ledger.bias.sum(1), ex.ledger.absorbed.sum(1), rtol=1e-9, atol=1e-12)
    kept = dict(zip(ex.ledger.layers, ex.ledger.bias.sum(1), strict=True))
    bias = float(net.b.bias[1].detach())
    # every row's score holds the bias once for itself and three times for the others
    assert sorted(kept[name] / (N * bias) for name in ("b", "b@2")) == pytest.approx([1, 3])


def test_joint_rows_of_rows_that_are_apart_are_the_separate_ones_on_the_diagonal():
    net, x = made("convolutional")
    joint, plain = (backlight.explain(net, x, 1, rules=Gamma(0.25), rows=how) for how in ("joint", "separate"))
    for i in range(len(x)):
        np.testing.assert_allclose(joint.values[i, i], plain.values[i], rtol=1e-9, atol=1e-12)
        assert not np.delete(joint.values[i], i, 0).any()
    np.testing.assert_allclose(joint.ledger.absorbed, plain.ledger.absorbed, rtol=1e-8, atol=1e-12)


def test_joint_rows_need_one_batch_and_relevance_propagation():
    net, x = mixer(MIXERS["graph"]), batch()
    with pytest.raises(ArgumentError, match="not for method='gradient'"):
        backlight.explain(net, x, 0, rows="joint", method="gradient")
    with pytest.raises(ArgumentError, match="give one batch"):
        backlight.explain(net, iter([x, x]), 0, rows="joint")
    with pytest.raises(ArgumentError, match="'separate' or 'joint'"):
        backlight.explain(net, x, 0, rows="alone")
