"""Laws for every operator in every form: its relevance is handed on or accounted for, row by row, or a word says so.

Operators of one kind stand side by side in one network, as branches that are added up: a capture costs more than an
explanation.
"""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import backlight
from backlight.errors import BacklightWarning, UnsupportedModel, UnsupportedOperator
from backlight.rules import Flat, Gamma, WSquare, Zero, ZPlus
from tests.operators import LINEAR, OPERATORS, SHAPES, D, around, fixed

# no gradient that shares their value out: named in a warning, and by the error under strict
NAMED = {
    "table: softmax": "softmax", "table: softmin": "softmax", "table: atan2": "atan2", "table: xlogy": "xlogy",
    "table: pow, signal": "pow", "table: scatter_reduce, prod": "scatter_reduce", "table: det": "linalg_det",
    "table: inverse": "linalg_inv", "sequence: segment max": "segment_reduce", "image: softmax over pixels": "softmax",
    "image: soft argmax": "softmax",
}  # fmt: skip

REFUSED = {
    "table: fft": "fft_rfft", "table: complex": "complex", "table: complex modulus": "fft_rfft",
    "sequence: packed": "_pack_padded_sequence",
}  # fmt: skip


class Beside(nn.Module):
    """Operators as branches of one network."""

    def __init__(self, kind, names, bias):
        super().__init__()
        self.shape, self.functions = SHAPES[kind], [OPERATORS[name][1] for name in names]
        probe = fixed(2, *self.shape, seed=7)
        with warnings.catch_warnings():
            # torch's own on its operators in beta
            warnings.simplefilter("ignore", UserWarning)
            sizes = [function(probe)[0].numel() for function in self.functions]
        self.a = nn.Linear(5, probe[0].numel(), bias=bias)
        self.o = nn.ModuleList(nn.Linear(size, 2, bias=bias) for size in sizes)

    def forward(self, x):
        h = self.a(x).unflatten(1, self.shape)
        return sum(o(function(h).flatten(1)) for o, function in zip(self.o, self.functions, strict=True))


def groups(names, size):
    found = {}
    for kind in SHAPES:
        some = [name for name in names if OPERATORS[name][0] == kind]
        for start in range(0, len(some), size):
            part = some[start : start + size]
            found[f"{part[0]} to {part[-1].partition(': ')[2]}"] = (kind, part)
    return found


def made(kind, names, bias=True):
    torch.manual_seed(0)
    return Beside(kind, names, bias).double().eval(), torch.randn(4, 5, dtype=D)


def closes(ex):
    parts = ex.base_values + ex.values.sum(1) + ex.ledger.absorbed.sum(0)
    size = np.abs(ex.values).sum(1) + np.abs(ex.ledger.entering).sum(0) + np.abs(ex.output)
    return bool((np.abs(parts - ex.output) <= 1e-12 * size + 1e-13).all())


KNOWN = [name for name in OPERATORS if name not in NAMED and name not in REFUSED]
GROUPS = groups([name for name in KNOWN if name not in LINEAR], 16)
STRAIGHT = groups([name for name in KNOWN if name in LINEAR], 16)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("kind", "names"), GROUPS.values(), ids=GROUPS)
def test_relevance_is_handed_on_or_accounted_for(kind, names):
    net, x = made(kind, names)
    # ε bounds what a small denominator makes of it
    ex = backlight.explain(net, x, 1, rules=backlight.rules.Epsilon(1e-3))

    np.testing.assert_allclose(ex.output, net(x)[:, 1].detach(), rtol=1e-9, atol=1e-12)
    assert closes(ex)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("kind", "names"), STRAIGHT.values(), ids=STRAIGHT)
def test_linear_operators_hand_on_the_gradient(kind, names):
    """By LRP-0 the relevance of a linear network is input times gradient, and nothing is lost but to biases."""
    net, x = made(kind, names)
    ex = backlight.explain(net, x, 1, rules=Zero(), strict=True)

    x.requires_grad_()
    (gradient,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
    wanted = (gradient * x).detach().numpy()
    np.testing.assert_allclose(ex.values, wanted, rtol=1e-9, atol=1e-11 * np.abs(wanted).max())
    lost = np.abs(ex.ledger.absorbed - ex.ledger.bias).max()
    assert lost <= 1e-10 * np.abs(ex.ledger.entering).max()
    assert closes(ex)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", NAMED)
def test_operators_without_a_rule_are_named(name):
    net, x = around(name)
    with pytest.warns(BacklightWarning, match=f"no rule is known for operator '{NAMED[name]}'"):
        ex = backlight.explain(net, x, 1)
    assert closes(ex)
    with pytest.raises(UnsupportedOperator, match=f"operator '{NAMED[name]}'") as error:
        backlight.explain(net, x, 1, strict=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", REFUSED)
def test_operators_that_cannot_be_followed_are_refused_by_name(name):
    net, x = around(name)
    with pytest.raises(UnsupportedModel, match=f"operator '{REFUSED[name]}'") as error:
        backlight.explain(net, x, 1)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


LAYERS = {
    "F.linear of a constant": lambda h: F.linear(fixed(1, 8), h.view(-1, 2, 8)[:, 0]).t(),
    "multi_dot": lambda h: torch.linalg.multi_dot([h, fixed(16, 5), fixed(5, 3)]),
    "addmm": lambda h: torch.addmm(fixed(3), h, fixed(16, 3), beta=0.5, alpha=2.0),
    "same padding": lambda h: F.conv1d(h.view(-1, 2, 8), fixed(3, 2, 4), fixed(3), padding="same"),
    "same padding, dilated": lambda h: F.conv1d(h.view(-1, 2, 8), fixed(3, 2, 2), padding="same", dilation=3),
    "same padding, two axes": lambda h: F.conv2d(h.view(-1, 1, 4, 4), fixed(2, 1, 2, 4), fixed(2), padding="same"),
    "instance norm behind": lambda h: F.instance_norm(
        F.conv1d(h.view(-1, 2, 8), fixed(3, 2, 3)), fixed(3), fixed(3).abs() + 0.5, fixed(3), fixed(3), use_input_stats=False
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("spelt", LAYERS.values(), ids=LAYERS)
def test_layers_without_a_module_get_the_rule_that_was_asked_for(spelt):
    """The same map as one fully connected layer, whose weights are read off the map itself."""

    class Spelt(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.o = nn.Linear(6, 16), nn.Linear(shift.numel(), 2)

        def forward(self, x):
            return self.o(F.relu(spelt(self.a(x)).flatten(1)))

    shift = spelt(torch.zeros(1, 16, dtype=D)).flatten()
    columns = torch.stack([spelt(one[None]).flatten() - shift for one in torch.eye(16, dtype=D)], 1)
    torch.manual_seed(0)
    net, x = Spelt().double().eval(), torch.randn(4, 6, dtype=D)
    dense = nn.Linear(16, len(shift)).double()
    dense.weight.data, dense.bias.data = columns, shift
    plain = nn.Sequential(net.a, dense, nn.ReLU(), net.o)

    # by the flat rule every input counts, of a convolution those under its kernel
    rules = [Zero(), Gamma(0.25), ZPlus(), WSquare(), *([Flat()] if bool((columns != 0).all()) else [])]
    for rule in rules:
        wanted = backlight.explain(plain, x, 0, rules=rule).values
        found = backlight.explain(net, x, 0, rules=rule).values
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11 * np.abs(wanted).max())


def test_each_of_several_factors_takes_its_part():
    net, x = around("table: einsum, three signals", bias=False)
    ex = backlight.explain(net, x, 1, rules=Zero(), strict=True)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(net(x)[:, 1].sum(), x)

    # of degree three in x, and nothing is kept
    np.testing.assert_allclose(ex.values, (gradient * x / 3).detach(), rtol=1e-9)
    np.testing.assert_allclose(ex.values.sum(1), ex.output, rtol=1e-9)


@pytest.mark.parametrize("name", ["table: logsumexp", "table: logaddexp", "table: logcumsumexp", "table: log_softmax"])
def test_a_log_sum_exp_shares_by_its_softmax(name):
    """The identity in front, so that values are what arrives at the operator."""
    torch.manual_seed(0)
    function = OPERATORS[name][1]
    x = torch.randn(3, 8, dtype=D)

    class Net(nn.Module):
        def forward(self, x):
            return function(x + 0.0).flatten(1)

    y = function(x)
    ex = backlight.explain(Net(), x, 1 if y.shape[1] > 1 else 0, strict=True)
    p = x.softmax(1)
    if name == "table: logsumexp":
        wanted = p * y
    elif name == "table: log_softmax":
        wanted = -p * x.logsumexp(1, keepdim=True)
        wanted[:, 1] += x[:, 1]
    else:
        # the second output: of x₁ and x₆, and of x₀ and x₁
        pair = [1, 6] if name == "table: logaddexp" else [0, 1]
        wanted = torch.zeros_like(x)
        wanted[:, pair] = x[:, pair].softmax(1) * y[:, 1:2]
    np.testing.assert_allclose(ex.values, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["image: unpool", "image: tril", "sequence: triu", "sequence: diag_embed", "sequence: fold of columns"]
)
@pytest.mark.parametrize("rule", [WSquare(), Flat()])
def test_zeros_that_an_operator_puts_in_keep_what_a_rule_gives_them(name, rule):
    """By these rules relevance does not depend on the input, so that zeros between the values have some."""
    net, x = around(name)
    assert closes(backlight.explain(net, x, 1, rules=rule))
