"""Canonical form: it is the same function, every rewrite is undone, attacks are found, clean networks are left alone."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import backlight
from backlight._audit import REWRITES
from backlight._audit.measure import total_variation
from backlight.canonical import intervals, lift, lower
from backlight.canonical.affine import fold_norms
from backlight.canonical.algebra import compose, plus, scale_columns, scale_rows, simplest
from backlight.canonical.bounds import bounds
from backlight.canonical.canonize import canonical_form
from backlight.canonical.form import Affine
from backlight.errors import listed
from backlight.rules import AlphaBeta, Convolution, Dense, Elementwise, Epsilon, Gamma, Zero, ZPlus
from tests.conftest import examples
from tests.networks import MAKERS, lenet, made, mlp, resnet20

RULES = {
    "zero": Zero(),
    "epsilon": Epsilon(0.1),
    "gamma": Gamma(0.25),
    "zplus": ZPlus(),
    "alphabeta": AlphaBeta(2.0, 1.0),
}
QUIET = pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")


def explained(net, x, rules=RULES):
    return {name: backlight.explain(net, x, target=0, rules=rule).values for name, rule in rules.items()}


def moved(first, second):
    return {name: float(total_variation(first[name], second[name]).max()) for name in first}


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


# -- every rewrite, every kind of network ------------------------------------------------------------------------------


@QUIET
@pytest.mark.parametrize("name", MAKERS)
def test_every_rewrite_keeps_the_function_moves_what_theory_says_and_is_undone(name):
    net, x = made(name)
    form = lift(net, ((x,), {}))
    fold_norms(form)
    output = form.refresh()
    own, simple = explained(net, x), explained(canonical_form(form.copy()).module, x)
    applied = 0
    # the encoder holds what "attention" and "residual" hold, and takes as long as all the others
    every = 2 if name == "encoder" else 1
    for title, rewrite in list(REWRITES.items())[::every]:
        new = form.copy()
        if not rewrite.apply(new, generator()):
            continue
        applied += 1
        module = lower(new)
        assert (new.refresh() - output).abs().max() <= 1e-12 * output.abs().max(), title
        assert (module(x) - net(x)).abs().max() <= 1e-11 * output.abs().max(), title
        change = moved(own, explained(module, x))
        for rule, amount in change.items():
            if rule not in rewrite.moves:
                assert amount <= 1e-9, (title, rule)
        gradients = [backlight.explain(n, x, target=0, method="gradient_x_input").values for n in (net, module)]
        assert total_variation(*gradients).max() <= 1e-9, title
        made_simple = canonical_form(new)
        assert max(moved(simple, explained(made_simple.module, x)).values()) <= 1e-9, title
        if rewrite.group == "attack" and "size" not in title:
            assert made_simple.planted, title
    assert applied >= 11 // every


@QUIET
@pytest.mark.parametrize("title", [title for title, rewrite in REWRITES.items() if rewrite.moves])
def test_a_rule_that_a_rewrite_is_said_to_move_is_moved_somewhere(title):
    """Otherwise the catalogue's theory would be a claim that no test could refute."""
    rewrite = REWRITES[title]
    still = {rule: RULES[rule] for rule in rewrite.moves if rule in RULES}
    for name in MAKERS:
        net, x = made(name)
        form = lift(net, ((x,), {}))
        fold_norms(form)
        own, new = explained(net, x, still), form.copy()
        if rewrite.apply(new, generator()):
            change = moved(own, explained(lower(new), x, still))
            still = {rule: known for rule, known in still.items() if change[rule] <= 1e-4}
        if not still:
            return
    raise AssertionError(f"{title} moved {listed(still)} on no network")


@QUIET
@pytest.mark.parametrize(("load", "shape", "every"), [(lenet, (1, 32, 32), 1), (resnet20, (3, 32, 32), 4)])
def test_trained_networks_are_closed_and_clean(load, shape, every):
    net = load().double()
    torch.manual_seed(0)
    x = torch.randn(3, *shape, dtype=torch.float64)
    rules = {name: RULES[name] for name in ("epsilon", "gamma", "alphabeta")}
    form = lift(net, ((x,), {}))
    fold_norms(form)
    clean = canonical_form(form.copy())
    assert not clean.planted
    assert clean.change < 1e-13
    simple = explained(clean.module, x, rules)
    for title, rewrite in list(REWRITES.items())[::every]:
        new = form.copy()
        if rewrite.apply(new, generator()):
            found = canonical_form(new)
            assert max(moved(simple, explained(found.module, x, rules)).values()) <= 1e-9, title
            if rewrite.group == "attack" and "size" not in title:
                assert found.planted, title


@pytest.mark.parametrize("seed", range(3))
def test_two_rewrites_after_each_other_are_undone_too(seed):
    net, x = made("mlp", seed=seed)
    form = lift(net, ((x,), {}))
    simple = canonical_form(form.copy())
    rng = np.random.default_rng(seed)
    titles = [t for t, r in REWRITES.items() if r.group == "symmetry"]
    first, second = rng.choice(titles, 2, replace=False)
    for title in (first, second):
        REWRITES[title].apply(form, generator(seed))
        form.refresh()
    found = canonical_form(form)
    gamma = {"gamma": Gamma(0.25)}
    assert moved(explained(simple.module, x, gamma), explained(found.module, x, gamma))["gamma"] <= 1e-9, (
        first,
        second,
    )


# -- single identities, each against the paper's algebra ---------------------------------------------------------------


def dense(rows, bias=None):
    layer = nn.Linear(len(rows[0]), len(rows), bias=bias is not None, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows, dtype=torch.float64))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias, dtype=torch.float64))
    return layer


def kinds(canonical):
    return [step.kind for step in canonical.log]


def widths(canonical):
    return [m.out_features for m in canonical.module.modules() if isinstance(m, nn.Linear)]


def test_a_network_with_nothing_to_simplify_says_so():
    found = backlight.canonize(dense([[1, 2]]))
    assert not found.log
    assert repr(found).startswith("canonical form: 0 steps")


def test_collinear_units_are_one():
    net = nn.Sequential(dense([[1, 2], [2, 4], [0, 1]]), nn.ReLU(), dense([[1, 1, 1]]))
    found = backlight.canonize(net)

    assert widths(found) == [2, 1]
    # |(1, 2)| (1 + 2) and 1
    assert sorted(found.module.get_submodule("2").weight.flatten().tolist()) == pytest.approx([1, 3 * 5**0.5])
    assert not found.planted


def test_units_that_cancel_are_gone_and_named():
    net = nn.Sequential(dense([[1, 2], [2, 4], [0, 1]]), nn.ReLU(), dense([[2, -1, 1]]))
    found = backlight.canonize(net)

    assert widths(found) == [1, 1]
    assert [step.kind for step in found.planted] == ["merged"]
    assert "cancel" in repr(found)


def test_opposite_units_are_an_absolute_value_or_a_line():
    line = nn.Sequential(dense([[1, 2], [-1, -2]]), nn.ReLU(), dense([[1, -1]]))
    found = backlight.canonize(line)
    assert widths(found) == [1]
    assert found.module(torch.tensor([[3.0, -4.0]], dtype=torch.float64)).item() == pytest.approx(-5)

    class Size(nn.Module):
        def forward(self, x):
            return torch.relu(x) + torch.relu(-x)

    assert "abs" in backlight.canonize(Size(), torch.randn(3, 2)).module.code


def test_dead_constant_and_always_on_units():
    net = nn.Sequential(
        dense([[1, 1], [-1, -1], [0, 0], [1, -1]], [1, -1, 2, 0]), nn.ReLU(), dense([[1, 5, 3, 1]], [0.5])
    )
    everywhere = backlight.canonize(net)
    assert widths(everywhere)[0] == 2 or "collapsed" in kinds(everywhere)
    found = backlight.canonize(net, domain="nonnegative")
    # relu(a + b + 1) is on, relu(−a − b − 1) off, relu(2) constant
    assert {"always on", "dropped"} <= set(kinds(found))
    x = torch.rand(20, 2, dtype=torch.float64) * 5
    assert torch.allclose(found.module(x), net(x), atol=1e-12)


@QUIET
def test_the_three_min_networks_become_one_minimum():
    third = nn.Sequential(dense([[1, 1], [1, -1], [-1, 1]]), nn.ReLU(), dense([[0.5, -0.5, -0.5]]))
    a = torch.tensor([[1.0, 1.0], [2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    for net in (*backlight.examples.min_networks(), third):
        found = backlight.canonize(net, domain="nonnegative")
        assert "minimum" in found.module.code
        assert "aten.relu" not in found.module.code
        for rule in RULES.values():
            # the one loses to ε, the other makes 2 of 1 in every layer
            if not isinstance(rule, Epsilon) and rule != RULES["alphabeta"]:
                values = backlight.explain(found.module, a, rules=rule).values
                assert values == pytest.approx(np.array([[0.5, 0.5], [0, 1], [1, 0]]), abs=1e-12)


def test_without_the_domain_the_min_networks_stay_two():
    """relu(a₁) is not a₁ for negative inputs, and so no minimum is there to be found."""
    for net in backlight.examples.min_networks():
        assert "minimum" not in backlight.canonize(net).module.code


def test_maxima_over_windows_are_pooling_only_where_nothing_was_padded_with_zeros():
    class Windows(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, x):
            x = nn.functional.pad(x, (0, 2, 0, 2), value=self.value)
            rows = torch.maximum(x[:, :, 0:4:2], x[:, :, 1:5:2])
            return torch.maximum(rows[:, :, :, 0:4:2], rows[:, :, :, 1:5:2]).flatten(1)

    x = -torch.rand(3, 1, 4, 4, dtype=torch.float64)
    zeros = backlight.canonize(Windows(0.0), x)
    assert torch.equal(zeros.module(x), Windows(0.0)(x))
    assert torch.equal(zeros.module(-x), Windows(0.0)(-x))


def test_positions_that_depend_on_the_input_are_not_taken_for_fixed_ones():
    class Picks(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            h = torch.relu(self.a(x))
            order = torch.argsort(x.sum(1, keepdim=True) * torch.arange(6.0, dtype=x.dtype), 1)
            return self.b(torch.gather(h, 1, order))

    torch.manual_seed(0)
    net = Picks().double()
    x = torch.randn(40, 3, dtype=torch.float64)
    for rows in (x[x.sum(1) > 0], x[x.sum(1) < 0]):
        found = backlight.canonize(net, rows)
        assert torch.allclose(found.module(x), net(x), atol=1e-12)


def test_many_natural_units_that_are_always_on_are_not_called_planted():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1)).double()
    with torch.no_grad():
        net[0].weight.abs_()
        net[0].bias.abs_()
        net[0].weight[0].neg_()
    found = backlight.canonize(net, domain="nonnegative")
    assert "always on" in kinds(found)
    assert not found.planted


def test_baked_flips_are_found_without_their_pattern():
    """relu(z) = z + relu(−z), with the linear part multiplied into the next layer."""
    torch.manual_seed(3)
    net = mlp((6, 9, 4)).double()
    first, second = net[0], net[2]
    sign = torch.tensor([-1.0, 1, -1, 1, 1, -1, 1, 1, 1], dtype=torch.float64)

    class Flipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = dense((first.weight * sign[:, None]).tolist(), (first.bias * sign).tolist())
            self.b = dense(second.weight.tolist(), (second.bias + second.weight @ (first.bias * (sign < 0))).tolist())
            self.c = dense((second.weight @ (first.weight * (sign < 0)[:, None])).tolist())

        def forward(self, x):
            return self.b(torch.relu(self.a(x))) + self.c(x)

    x = torch.randn(8, 6, dtype=torch.float64)
    flipped = Flipped()
    assert torch.allclose(flipped(x), net(x), atol=1e-12)
    one, two = backlight.canonize(net), backlight.canonize(flipped, x)
    assert "flipped" in kinds(two)
    assert (
        max(moved(explained(one.module, x, {"g": Gamma()}), explained(two.module, x, {"g": Gamma()})).values()) < 1e-9
    )


def test_a_natural_skip_connection_is_not_taken_for_flipped_units():
    net, x = made("residual")
    assert "flipped" not in kinds(backlight.canonize(net, x))


def test_canonical_form_of_a_canonical_form_is_itself():
    for name in MAKERS:
        net, x = made(name)
        once = backlight.canonize(net, x)
        again = backlight.canonize(once.module, x)
        assert set(kinds(again)) <= {"fused", "gauged", "normalised"}, name
        values = explained(once.module, x, {"g": Gamma()})
        assert moved(values, explained(again.module, x, {"g": Gamma()}))["g"] <= 1e-9, name


# -- the pieces, against plain evaluation ------------------------------------------------------------------------------


@st.composite
def convolutions(draw):
    kernel, dilation = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2]))
    return {
        "kernel": kernel,
        "stride": draw(st.sampled_from([1, 2])),
        "padding": draw(st.integers(0, 2)),
        "dilation": dilation,
    }


def convolution(weight, stride=1, padding=0, dilation=1, **_):
    return Convolution(weight, None, (stride,) * 2, (padding,) * 2, (dilation,) * 2, False, (0, 0), 1)


def applied(layer, x):
    return layer.apply(x, layer.weight, None)


@settings(max_examples=examples(60))
@given(convolutions(), st.integers(0, 10**6), st.booleans())
def test_products_and_sums_of_maps_are_the_maps_of_products_and_sums(options, seed, centred):
    rng = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    x = random(2, 3, 9, 9)
    k = options["kernel"]
    outer = convolution(random(4, 5, k, k), **options)
    inner = convolution(random(5, 3, 1, 1))
    both = compose(outer, inner, (5, 9, 9))
    assert torch.allclose(applied(both, x), applied(outer, applied(inner, x)), atol=1e-10)
    turned = compose(convolution(random(2, 4, 1, 1)), outer, (4, 9, 9))
    assert turned is not None
    row, column = random(4), random(5)
    y = random(2, 5, 9, 9)
    assert torch.allclose(applied(scale_rows(outer, row), y), applied(outer, y) * row.view(-1, 1, 1))
    assert torch.allclose(applied(scale_columns(outer, column), y), applied(outer, y * column.view(-1, 1, 1)))
    if centred:
        wide = convolution(random(5, 5, 3, 3), padding=1)
        small = convolution(random(5, 5, 1, 1))
        scale = Elementwise(random(5, 1, 1), None)
        for other in (small, scale):
            total = plus(wide, other, (5, 9, 9))
            assert torch.allclose(applied(total, y), applied(wide, y) + applied(other, y), atol=1e-12)


def test_a_kernel_with_only_its_centre_is_a_pointwise_one_and_a_diagonal_a_scale():
    weight = torch.zeros(3, 3, 3, 3, dtype=torch.float64)
    weight[range(3), range(3), 1, 1] = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    found = simplest(convolution(weight, padding=1))
    assert isinstance(found, Elementwise)
    assert found.weight.flatten().tolist() == [1, 2, 3]
    assert isinstance(simplest(Dense(torch.eye(4).double() * 2, None)), Elementwise)
    # a stride leaves places out: no scale of the picture
    assert isinstance(simplest(convolution(weight, padding=1, stride=2)), Convolution)


def test_maps_that_are_no_one_map_are_not_made_one():
    three = convolution(torch.randn(2, 2, 3, 3).double(), padding=1)
    # the inner border is cut off between the two
    assert compose(three, three, (2, 9, 9)) is None
    assert plus(three, Dense(torch.randn(2, 2).double(), None), (2, 9, 9)) is None


@settings(max_examples=examples(10))
@given(st.sampled_from(["mlp", "residual", "convolutional", "maxout"]), st.integers(0, 1000), st.floats(0.1, 3))
def test_bounds_hold_every_value(name, seed, size):
    net, x = made(name, rows=4, seed=seed)
    x = x.clamp(-size, size)
    form = lift(net, ((x,), {}))
    known = bounds(form, intervals((-size, size), form.example))
    for value, numbers in form.run().items():
        if value in known:
            assert (numbers >= known[value].low - 1e-9).all()
            assert (numbers <= known[value].high + 1e-9).all()


class _Functions(nn.Module):
    """One layer, and functions of it of every kind: rising, of a known range, bent, of unknown sign."""

    def __init__(self):
        super().__init__()
        self.fc, self.other = nn.Linear(4, 5, dtype=torch.float64), nn.Linear(4, 5, dtype=torch.float64)

    def forward(self, x):
        h, g = self.fc(x), self.other(x)
        rows = [
            h.sigmoid(), h.tanh(), h.exp(), F.softplus(h), h.abs(), h.square(), torch.sqrt(h.relu()), torch.sin(3 * h),
            F.leaky_relu(h, 0.1), F.leaky_relu(h, -0.5), F.leaky_relu(h, 2.0), torch.maximum(h, g), torch.minimum(h, g),
            h.softmax(1), F.hardsigmoid(h), h * g, -h, h.flip(1), h.clamp(-0.1, 0.2), F.gelu(h), F.elu(h),
            torch.log(h.square() + 0.1), h.mean(1, keepdim=True) + g, h.sum(1, keepdim=True) - g,
            h.amax(1, keepdim=True) + g, h.amin(1, keepdim=True) - g, F.avg_pool1d(h[:, None], 3, 1, 1)[:, 0],
            F.max_pool1d(h[:, None], 3, 1, 1)[:, 0], h / (1 + g.square()), F.relu6(4 * h), torch.where(g > 0, h, g),
        ]  # fmt: skip
        return torch.cat(rows, 1)


def test_bounds_hold_for_functions_of_every_kind_and_are_tight_for_a_layer():
    torch.manual_seed(0)
    form = lift(_Functions(), ((torch.randn(2, 4, dtype=torch.float64),), {}))
    (name,) = form.inputs
    for low in (-1.5, 0.0, 0.4):
        corners = torch.tensor(list(itertools.product([low, 1.0], repeat=4)), dtype=torch.float64)
        x = torch.cat([corners, low + (1 - low) * torch.rand(200, 4, dtype=torch.float64)])
        known, values = bounds(form, intervals((low, 1.0), form.example)), form.run({name: x})
        assert len(known) > 30
        for value, interval in known.items():
            assert (values[value] >= interval.low - 1e-12).all(), value
            assert (values[value] <= interval.high + 1e-12).all(), value
        layer = next(value for value in form.order() if isinstance(value, Affine))
        torch.testing.assert_close(known[layer].low[0], values[layer].amin(0), rtol=0, atol=1e-11)
        torch.testing.assert_close(known[layer].high[0], values[layer].amax(0), rtol=0, atol=1e-11)


class _Tokens(nn.Module):
    """Features of tokens, each by itself: a factor and a shift, a rectifier, a layer over the features."""

    def __init__(self, scale):
        super().__init__()
        torch.manual_seed(0)
        self.shift = nn.Parameter(torch.randn(4, dtype=torch.float64) * scale)
        self.fc = nn.Linear(4, 2, dtype=torch.float64)
        with torch.no_grad():
            self.fc.weight /= scale
        self.scale = scale

    def forward(self, x):
        return self.fc(torch.relu(x * self.scale + self.shift)).sum(1)


def test_features_of_tokens_are_normalised_whatever_their_scale():
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    one, three = (backlight.canonize(_Tokens(scale), x).module for scale in (1.0, 3.0))
    torch.testing.assert_close(one(x), three(x), rtol=1e-12, atol=1e-12)
    states = [torch.cat([value.flatten() for value in net.state_dict().values()]) for net in (one, three)]
    torch.testing.assert_close(*states, rtol=1e-12, atol=1e-12)


def test_units_behind_a_leak_that_falls_are_not_thought_dead_or_linear():
    torch.manual_seed(14)
    net = nn.Sequential(nn.Linear(3, 6), nn.LeakyReLU(-0.7), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1)).double()
    x = torch.rand(100, 3, dtype=torch.float64)
    found = backlight.canonize(net, x, domain=(torch.zeros(3).double(), torch.ones(3).double()))
    torch.testing.assert_close(found.module(x), net(x), rtol=1e-12, atol=1e-12)


def test_unbounded_inputs_have_unbounded_bounds_and_relus_do_not_go_below_zero():
    net, x = made("mlp")
    form = lift(net, ((x,), {}))
    known = bounds(form, None)
    relu = next(value for value in form.order() if getattr(value, "op", "") == "relu")
    assert (known[relu].low == 0).all()
    assert torch.isinf(known[relu].high).all()
