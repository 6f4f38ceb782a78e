"""Every propagation rule against its slow twin on the layer's explicit matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import backlight
from backlight.errors import ArgumentError, DataError
from backlight.rules import (
    AlphaBeta,
    Box,
    Convolution,
    Dense,
    Elementwise,
    Epsilon,
    Facts,
    Flat,
    Gamma,
    Message,
    WSquare,
    Zero,
    ZPlus,
    relevance,
)
from tests.conftest import examples
from tests.oracles import lrp as oracle

pytestmark = pytest.mark.fast

LAYERS = {
    "dense": lambda bias: (nn.Linear(6, 4, bias=bias), (6,)),
    "conv1d": lambda bias: (nn.Conv1d(2, 3, 3, stride=2, padding=1, bias=bias), (2, 7)),
    "conv2d": lambda bias: (nn.Conv2d(2, 3, 3, padding=1, bias=bias), (2, 4, 5)),
    "conv2d strided, dilated": lambda bias: (nn.Conv2d(2, 3, 2, stride=2, padding=1, dilation=2, bias=bias), (2, 6, 5)),
    "conv2d grouped": lambda bias: (nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=bias), (4, 4, 4)),
    "conv2d depthwise": lambda bias: (nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=bias), (3, 4, 4)),
    "conv2d 1x1": lambda bias: (nn.Conv2d(3, 5, 1, bias=bias), (3, 3, 3)),
    "conv3d": lambda bias: (nn.Conv3d(2, 2, 2, bias=bias), (2, 3, 3, 3)),
    "transposed": lambda bias: (
        nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1, bias=bias),
        (3, 3, 3),
    ),
    "transposed grouped": lambda bias: (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=bias), (4, 3, 3)),
}

RULES = {
    "zero": (Zero(), oracle.zero),
    "epsilon": (Epsilon(0.1), oracle.epsilon_relative),
    "epsilon, absolute": (Epsilon(0.1, absolute=True), lambda a, W, b, R: oracle.epsilon_absolute(a, W, b, R, 0.1)),
    "epsilon, bias distributed": (Epsilon(0, bias="distribute"), oracle.epsilon_distribute),
    "epsilon, bias excluded": (Epsilon(0, bias="exclude"), oracle.epsilon_exclude),
    "gamma, bias excluded": (Gamma(0.25, bias="exclude"), lambda a, W, b, R: oracle.gamma(a, W, 0 * b, R, 0.25)),
    "alphabeta, bias excluded": (AlphaBeta(bias="exclude"), lambda a, W, b, R: oracle.alphabeta(a, W, 0 * b, R, 2, 1)),
    "gamma": (Gamma(0.25), lambda a, W, b, R: oracle.gamma(a, W, b, R, 0.25)),
    "gamma 10": (Gamma(10.0), lambda a, W, b, R: oracle.gamma(a, W, b, R, 10.0)),
    "zplus": (ZPlus(), lambda a, W, b, R: oracle.alphabeta(a, W, b, R, 1, 0)),
    "alphabeta": (AlphaBeta(2, 1), lambda a, W, b, R: oracle.alphabeta(a, W, b, R, 2, 1)),
    "alphabeta 1.5": (AlphaBeta(1.5, 0.5), lambda a, W, b, R: oracle.alphabeta(a, W, b, R, 1.5, 0.5)),
    "flat": (Flat(), oracle.flat),
    "wsquare": (WSquare(), oracle.wsquare),
    "box": (Box(-6.0, 6.0), lambda a, W, b, R: oracle.box(a, W, b, R, -6.0, 6.0)),
}


def slow_rule(rule, module, units):
    slow = RULES[rule][1]
    if rule == "epsilon":
        norms = oracle.kernel_norms(module, units)
        return lambda a, W, b, R: slow(a, W, b, R, 0.1, norms)
    return slow


def as_map(module):
    if isinstance(module, nn.Linear):
        return Dense(module.weight.detach(), None if module.bias is None else module.bias.detach())
    output_padding = getattr(module, "output_padding", ())
    return Convolution(
        module.weight.detach(), None if module.bias is None else module.bias.detach(), module.stride, module.padding,
        module.dilation, module.transposed, output_padding, module.groups,
    )  # fmt: skip


def drawn(layer, bias, seed, nonnegative=False, rows=3):
    torch.default_generator.manual_seed(seed)  # the public one seeds devices, too, for a third of the time
    module, shape = LAYERS[layer](bias)
    module = module.double()
    if module.bias is not None:
        nn.init.normal_(module.bias)
    a = torch.randn(rows, *shape, dtype=torch.float64)
    a = a.relu() if nonnegative else a
    return module, shape, a


def rounding(a, W, b, R):
    """What the roundings of sums are worth behind a division.

    A unit's parts are differences of its sums: that without its bias is z − b, the negative one is the whole less the
    positive one. Each is off by roundings of the largest of them, and what it hands on, R a w over the part, by as much over the part again.
    """
    up, down = np.maximum(a * W, 0).sum(1), np.maximum(-a * W, 0).sum(1)
    parts = np.abs([up, down, up - down, up - down + b])
    least = np.where(parts > 0, parts, np.inf).min(0)
    shares = np.abs(R) * np.maximum(1, (up + down) / least) * (up + down + np.abs(b)) / least
    return 30 * np.finfo(float).eps * shares.max()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", LAYERS)
@settings(max_examples=examples(6))
@given(bias=st.booleans(), nonnegative=st.booleans(), seed=st.integers(0, 10**6), targets=st.integers(1, 2))
def test_rule_equals_its_slow_twin(rule, layer, bias, nonnegative, seed, targets):
    module, shape, a = drawn(layer, bias, seed, nonnegative)
    fast = RULES[rule][0]
    with torch.no_grad():
        z = module(a)
    slow = slow_rule(rule, module, z[0].numel())
    c = torch.randn(targets, *z.shape, dtype=torch.float64)
    bound = fast.prepare(as_map(module), Facts(nonnegative=nonnegative))

    found = relevance(a, bound.pull(a, z, Message(c))[0])

    W, b = oracle.matrix(module, shape)
    cases = [(t, i) for t in range(targets) for i in range(len(a))]
    given = [(a[i].flatten().numpy(), W, b, (c[t, i] * z[i]).flatten().numpy()) for t, i in cases]
    expected = np.array([slow(*each) for each in given])
    slack = 1e-10 * np.abs(expected).max(1).clip(min=1) + np.array([rounding(*each) for each in given])
    off = np.abs(found.flatten(0, 1).flatten(1).numpy() - expected) - 1e-10 * np.abs(expected)
    assert (off <= slack[:, None]).all(), f"off by {off.max():.2g}, of {slack.min():.2g} that roundings explain"


SIZES = {
    "sequences": (nn.Linear(4, 3), [(2, 5, 4), (1, 2, 4), (2, 7, 4)]),
    "signals": (nn.Conv1d(2, 3, 3, padding=1), [(2, 2, 5), (1, 2, 9), (2, 2, 6)]),
    "pictures": (nn.Conv2d(2, 3, 2, padding=1), [(2, 2, 4, 5), (1, 2, 6, 5), (2, 2, 4, 7)]),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", SIZES)
def test_a_bound_rule_keeps_nothing_of_the_sizes_that_it_saw_before(rule, size):
    torch.manual_seed(0)
    module, shapes = SIZES[size]
    layer, fast = as_map(module.double()), RULES[rule][0]
    bound = fast.prepare(layer, Facts())
    for shape in shapes:
        a = torch.randn(shape, dtype=torch.float64)
        with torch.no_grad():
            z = module(a)
        message = Message(torch.randn(1, *z.shape, dtype=torch.float64))
        used, fresh = (relevance(a, r.pull(a, z, message)[0]) for r in (bound, fast.prepare(layer, Facts())))
        torch.testing.assert_close(used, fresh, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", [r for r in RULES if r != "box"])
@pytest.mark.parametrize("layer", ["dense", "conv2d grouped"])
def test_a_gated_layer_may_keep_the_rectified_output_alone(rule, layer):
    module, shape, a = drawn(layer, True, 1, nonnegative=True)
    fast = RULES[rule][0]
    with torch.no_grad():
        z = module(a)
    slow = slow_rule(rule, module, z[0].numel())
    c = torch.randn(1, *z.shape, dtype=torch.float64)

    found = relevance(a, fast.prepare(as_map(module), Facts(True, True)).pull(a, z.relu(), Message(c))[0])

    W, b = oracle.matrix(module, shape)
    for i in range(len(a)):
        R = (c[0, i] * z[i].relu()).flatten().numpy()
        expected = slow(a[i].flatten().numpy(), W, b, R)
        np.testing.assert_allclose(found[0, i].flatten().numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", ["dense", "conv2d"])
def test_relevance_that_arrives_outright_is_shared_by_the_same_formula(rule, layer):
    module, shape, a = drawn(layer, True, 2)
    fast = RULES[rule][0]
    with torch.no_grad():
        z = module(a)
    slow = slow_rule(rule, module, z[0].numel())
    r = torch.randn(1, *z.shape, dtype=torch.float64)
    found = relevance(a, fast.prepare(as_map(module), Facts()).pull(a, z, Message(direct=r))[0])
    W, b = oracle.matrix(module, shape)
    for i in range(len(a)):
        expected = slow(a[i].flatten().numpy(), W, b, r[0, i].flatten().numpy())
        np.testing.assert_allclose(found[0, i].flatten().numpy(), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("rule", ["zero", "gamma", "zplus", "alphabeta", "wsquare", "epsilon, absolute"])
def test_what_the_bias_keeps_is_what_neuron_zero_would_get(rule):
    module, shape, a = drawn("conv2d", True, 3)
    fast = RULES[rule][0]
    with torch.no_grad():
        z = module(a)
    slow = slow_rule(rule, module, z[0].numel())
    c = torch.randn(1, *z.shape, dtype=torch.float64)
    _, kept = fast.prepare(as_map(module), Facts()).pull(a, z, Message(c))
    W, b = oracle.matrix(module, shape)
    for i in range(len(a)):
        # the bias as one more column, with an input of one
        extended = slow(
            np.append(a[i].flatten().numpy(), 1.0), np.c_[W, b], np.zeros_like(b), (c[0, i] * z[i]).flatten().numpy()
        )
        np.testing.assert_allclose(float(kept[0, i]), extended[-1], rtol=1e-9, atol=1e-10)


@settings(max_examples=examples(20))
@given(seed=st.integers(0, 10**6), rule=st.sampled_from(["zero", "epsilon", "gamma", "zplus", "alphabeta"]))
def test_rules_do_not_change_when_an_input_is_written_as_two_rectified_halves(seed, rule):
    # theorem D of the structure audit: x = relu(x) − relu(−x) with weights (w, −w)
    torch.manual_seed(seed)
    w, b = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    a = torch.randn(2, 5, dtype=torch.float64)
    z = a @ w.t() + b
    c = torch.randn(1, 2, 4, dtype=torch.float64)
    made = RULES[rule][0] if rule != "epsilon" else Epsilon(0.1, absolute=True)

    plain = relevance(a, made.bind(Dense(w, b), Facts()).pull(a, z, Message(c))[0])
    halves = torch.cat([a.relu(), (-a).relu()], 1)
    split = relevance(halves, made.bind(Dense(torch.cat([w, -w], 1), b), Facts(True)).pull(halves, z, Message(c))[0])

    torch.testing.assert_close(split[..., :5] + split[..., 5:], plain, rtol=1e-10, atol=1e-10)


@settings(max_examples=examples(20))
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-8, 1e-3, 1e5]))
def test_relative_epsilon_is_blind_to_the_units_of_the_input(seed, scale):
    torch.manual_seed(seed)
    w, b = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    a = torch.randn(2, 5, dtype=torch.float64)
    z = a @ w.t() + b
    c = torch.randn(1, 2, 4, dtype=torch.float64)
    rule = Epsilon(0.25)
    plain = relevance(a, rule.bind(Dense(w, b), Facts()).pull(a, z, Message(c))[0])
    other = relevance(a * scale, rule.bind(Dense(w / scale, b), Facts()).pull(a * scale, z, Message(c))[0])
    torch.testing.assert_close(other, plain, rtol=1e-10, atol=1e-12)


def test_gamma_is_zero_at_one_end_and_zplus_at_the_other():
    module, _, a = drawn("conv2d", True, 5, nonnegative=True)
    with torch.no_grad():
        z = module(a)
    c = torch.rand(1, *z.shape, dtype=torch.float64)
    facts = Facts(nonnegative=True)

    def run(rule):
        return relevance(a, rule.bind(as_map(module), facts).pull(a, z, Message(c * (z > 0)))[0])

    torch.testing.assert_close(run(Gamma(0.0)), run(Zero()), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(run(Gamma(1e9)), run(ZPlus()), rtol=1e-6, atol=1e-6)


def test_an_elementwise_layer_follows_the_same_formulas():
    torch.manual_seed(0)
    w, b = torch.randn(3, 1, 1, dtype=torch.float64), torch.randn(3, 1, 1, dtype=torch.float64)
    a = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    layer = Elementwise(w, b)
    z = layer.apply(a, w, b)
    c = torch.randn(1, *z.shape, dtype=torch.float64)
    W, bias = oracle.matrix(lambda x: x * w + b, (3, 2, 2))
    for name in ("zero", "epsilon, absolute", "gamma", "zplus", "alphabeta", "wsquare", "flat"):
        fast, slow = RULES[name]
        found = relevance(a, fast.bind(layer, Facts()).pull(a, z, Message(c))[0])
        for i in range(2):
            expected = slow(a[i].flatten().numpy(), W, bias, (c[0, i] * z[i]).flatten().numpy())
            np.testing.assert_allclose(found[0, i].flatten().numpy(), expected, rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("layer", ["dense", "conv2d", "conv2d grouped", "transposed", "transposed grouped"])
def test_folding_an_affine_map_after_a_layer_keeps_the_function(layer):
    module, _, a = drawn(layer, True, 6)
    map_ = as_map(module)
    scale, shift = torch.randn(map_.channels, dtype=torch.float64), torch.randn(map_.channels, dtype=torch.float64)
    folded = map_.scaled(scale, shift)
    with torch.no_grad():
        expected = module(a) * map_.per_unit(scale) + map_.per_unit(shift)
    torch.testing.assert_close(folded.apply(a, folded.weight, folded.bias), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_folding_an_affine_map_before_a_convolution_keeps_the_function(groups):
    torch.manual_seed(0)
    module = nn.Conv2d(4, 6, 3, groups=groups).double()
    a, scale, shift = torch.randn(2, 4, 5, 5).double(), torch.randn(4).double(), torch.randn(4).double()
    folded = as_map(module).preceded(scale, shift)
    with torch.no_grad():
        expected = module(a * scale.view(4, 1, 1) + shift.view(4, 1, 1))
    torch.testing.assert_close(folded.apply(a, folded.weight, folded.bias), expected, rtol=1e-12, atol=1e-12)
    assert as_map(nn.Conv2d(4, 6, 3, padding=1)).preceded(scale, shift) is None


def test_box_bounds_are_numbers_channels_or_tensors_and_are_checked():
    x = torch.rand(2, 3, 4, 4)
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    first = backlight.first
    by_number = backlight.explain(net, x, rules=backlight.Composite([(first, Box(0.0, 1.0))]))
    by_channel = backlight.explain(net, x, rules=backlight.Composite([(first, Box([0.0] * 3, [1.0] * 3))]))
    by_tensor = backlight.explain(
        net, x, rules=backlight.Composite([(first, Box(torch.zeros(3, 1, 1), torch.ones(3, 1, 1)))])
    )
    np.testing.assert_allclose(by_channel.values, by_number.values, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(by_tensor.values, by_number.values, rtol=1e-5, atol=1e-7)
    with pytest.raises(DataError, match=r"outside its box.*0\.5"):
        backlight.explain(net, x, rules=backlight.Composite([(first, Box(0.0, 0.5))]), strict=True)
    with pytest.raises(ArgumentError, match="does not fit"):
        backlight.explain(net, x, rules=backlight.Composite([(first, Box([0.0] * 2, [1.0] * 2))]))


def test_a_box_without_bounds_is_each_rows_own_and_blind_to_the_other_rows():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).double()
    x = torch.rand(3, 3, 4, 4, dtype=torch.float64)
    x[2] *= 100
    together = backlight.explain(net, x, rules="epsilon-gamma-box")
    alone = backlight.explain(net, x[:1], rules="epsilon-gamma-box")
    np.testing.assert_allclose(together.values[0], alone.values[0], rtol=1e-10)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Gamma(-1), "gamma must be zero or positive"),
        (lambda: Gamma(float("inf")), "ZPlus is its limit"),
        (lambda: Epsilon(-1e-3), "epsilon must be zero or positive"),
        (lambda: Epsilon(bias="drop"), "absorb, distribute, exclude"),
        (lambda: Gamma(bias="distribute"), "absorb, exclude, not 'distribute'"),
        (lambda: AlphaBeta(2, 0), "alpha − beta must be 1"),
        (lambda: Box(0), "both low and high"),
        (lambda: Box(1, 0), "the box is empty"),
    ],
)
def test_a_rule_says_which_value_it_cannot_have(make, said):
    with pytest.raises(ArgumentError, match=said):
        make()


def test_rules_compare_by_value_and_print_what_differs_from_the_default():
    assert Gamma(0.25) == Gamma()
    assert repr(Gamma(0.5)) == "Gamma(gamma=0.5)"
    assert repr(Epsilon(1e-6, absolute=True)) == "Epsilon(absolute=True)"
    assert Box([0, 0], [1, 1]) == Box(torch.zeros(2), torch.ones(2))
    assert hash(Box([0, 0], [1, 1])) == hash(Box(torch.zeros(2), torch.ones(2)))


@pytest.mark.parametrize("bias", [True, False])
def test_only_a_bias_that_is_distributed_costs_a_filter(bias):
    layer = as_map(nn.Linear(3, 2, bias=bias))
    costs = {how: Epsilon(0, bias=how).prepare(layer, Facts()).cost for how in ("absorb", "exclude", "distribute")}
    assert costs == {
        "absorb": "F + B",
        "exclude": "F + B",
        "distribute": "F + B + box filter" if bias else "F + B",
    }
