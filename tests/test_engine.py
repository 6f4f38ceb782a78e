"""The engine on whole networks: node by node against the slow rules, conservation, the plan, what is proved."""

import itertools
import threading
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import backlight
from backlight.engine.network import Network
from backlight.errors import BacklightWarning, UnsupportedModel, UnsupportedOperator
from backlight.rules import AlphaBeta, Box, Epsilon, Flat, Gamma, Pass, SoftmaxShare, WSquare, Zero, ZPlus
from tests.oracles import lrp as oracle

pytestmark = pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")


def seeded(net, seed=0, bias=True):
    """Double precision, weights and batch statistics that are not trivial."""
    g = torch.Generator().manual_seed(seed)
    net = net.double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            n = module.num_features
            module.running_mean = torch.randn(n, generator=g).double() * (0.3 if bias else 0)
            module.running_var = torch.rand(n, generator=g).double() + 0.5
            module.weight.data = torch.rand(n, generator=g).double() + 0.5
            module.bias.data = torch.randn(n, generator=g).double() * (0.3 if bias else 0)
        elif isinstance(module, nn.Linear | nn.Conv2d | nn.Conv1d | nn.ConvTranspose2d):
            shape = module.weight.shape
            module.weight.data = torch.randn(shape, generator=g).double() / np.sqrt(np.prod(shape[1:]))
            if module.bias is not None:
                module.bias.data = torch.randn(module.bias.shape, generator=g).double() * (0.3 if bias else 0)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm) and module.weight is not None:
            module.weight.data = torch.rand(module.weight.shape, generator=g).double() + 0.5
            module.bias.data = torch.randn(module.bias.shape, generator=g).double() * (0.3 if bias else 0)
    return net


def image(rows=2, channels=3, side=8, seed=0):
    return torch.randn(rows, channels, side, side, generator=torch.Generator().manual_seed(seed)).double()


# -- node by node ------------------------------------------------------------------------------------------------------

PAIRS = {
    "zero": (Zero(), oracle.zero),
    "gamma": (Gamma(0.25), lambda a, W, b, R: oracle.gamma(a, W, b, R, 0.25)),
    "zplus": (ZPlus(), lambda a, W, b, R: oracle.alphabeta(a, W, b, R, 1, 0)),
    "alphabeta": (AlphaBeta(2, 1), lambda a, W, b, R: oracle.alphabeta(a, W, b, R, 2, 1)),
    "epsilon": (Epsilon(0.1, absolute=True), lambda a, W, b, R: oracle.epsilon_absolute(a, W, b, R, 0.1)),
    "wsquare": (WSquare(), oracle.wsquare),
    "flat": (Flat(), oracle.flat),
}


def by_hand(net, x, slow, target):
    """Relevance at the input of every child of a sequential network, module by module."""
    values = [x]
    for module in net:
        values.append(module(values[-1]))
    R = np.zeros(values[-1].shape[1])
    R[target] = values[-1][0, target]
    found = []
    for module, a in zip(reversed(net), reversed(values[:-1]), strict=True):
        shape = a.shape[1:]
        if isinstance(module, nn.Linear | nn.Conv2d):
            W, b = oracle.matrix(module, shape)
            R = slow(a.flatten().numpy(), W, b, R)
        elif isinstance(module, nn.MaxPool2d):
            _, where = F.max_pool2d(a, module.kernel_size, module.stride, return_indices=True)
            down = np.zeros(shape).reshape(shape[0], -1)
            for c in range(shape[0]):
                np.add.at(down[c], where[0, c].flatten().numpy(), R.reshape(shape[0], -1)[c])
            R = down.flatten()
        elif isinstance(module, nn.AvgPool2d):
            W, b = oracle.matrix(module, shape)
            R = oracle.zero(a.flatten().numpy(), W, b, R)
        found.append(R.reshape(shape))
    return found[::-1]


@pytest.mark.parametrize("rule", PAIRS)
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2)])
def test_every_node_equals_the_slow_rules(rule, pool):
    net = seeded(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5),
            nn.ReLU(), nn.Linear(5, 3),
        )
    )  # fmt: skip
    fast, slow = PAIRS[rule]
    x = image(1, 2, 8)

    ex = backlight.explain(net, x, 1, rules=fast, layers=[str(k) for k in range(8)])

    with torch.no_grad():
        expected = by_hand(net, x, slow, 1)
    np.testing.assert_allclose(ex.values[0], expected[0], rtol=1e-10, atol=1e-12)
    for k in range(1, 9):
        if str(k - 1) in ex.layers and not isinstance(net[k - 1], nn.Conv2d | nn.Linear):
            np.testing.assert_allclose(ex.layers[str(k - 1)][0], expected[k], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", ["zero", "gamma", "zplus", "epsilon"])
def test_a_folded_batch_normalisation_is_the_fused_network(rule):
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    net = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)))
    fused = nn.Sequential(fuse_conv_bn_eval(net[0], net[1]), *net[2:])
    x = image()
    ours = backlight.explain(net, x, 1, rules=PAIRS[rule][0])
    theirs = backlight.explain(fused, x, 1, rules=PAIRS[rule][0])
    np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rule", ["zero", "gamma", "zplus", "epsilon"])
def test_a_folded_batch_normalisation_behind_a_dense_layer_is_the_fused_network(rule, bias):
    from torch.nn.utils.fusion import fuse_linear_bn_eval

    net = seeded(nn.Sequential(nn.Linear(5, 4, bias=bias), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)), bias=bias)
    fused = nn.Sequential(fuse_linear_bn_eval(net[0], net[1]), *net[2:])
    x = torch.randn(6, 5, dtype=next(net.parameters()).dtype)
    ours, theirs = (backlight.explain(made, x, 1, rules=PAIRS[rule][0]) for made in (net, fused))
    np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-9, atol=1e-11)


# -- conservation on what architectures are made of --------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.na, self.nb = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return F.relu(x + self.nb(self.b(F.relu(self.na(self.a(x))))))


class Dense(nn.Module):
    """Batch normalisation before the convolution, on a concatenation."""

    def __init__(self):
        super().__init__()
        self.n, self.c = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1, bias=False)

    def forward(self, x):
        both = torch.cat([x, x.flip(3)], 1)
        return torch.cat([x[:, :2], self.c(F.relu(self.n(both)))[:, :2]], 1)


class Squeeze(nn.Module):
    """Squeeze and excitation, with hard and soft gates."""

    def __init__(self, gate, act):
        super().__init__()
        self.c, self.d, self.u, self.gate, self.act = (
            nn.Conv2d(4, 4, 1, bias=False),
            nn.Conv2d(4, 2, 1),
            nn.Conv2d(2, 4, 1),
            gate,
            act,
        )

    def forward(self, x):
        h = self.act(self.c(x))
        return h * self.gate(self.u(F.relu(self.d(h.mean((2, 3), keepdim=True)))))


class Shuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(2, 2, 3, padding=1, groups=2, bias=False)

    def forward(self, x):
        a, b = x.chunk(2, 1)
        both = torch.cat([a, F.relu(self.c(b))], 1)
        n, c, h, w = both.shape
        return both.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 2, 1, bias=False), nn.Conv2d(4, 1, 3, padding=1, bias=False)

    def forward(self, x):
        pooled = F.max_pool2d(x, 3, 1, 1)[:, :1]
        return torch.cat([F.relu(self.a(x)), F.relu(self.b(F.avg_pool2d(x, 3, 1, 1))), pooled], 1)


class ConvNext(nn.Module):
    def __init__(self):
        super().__init__()
        self.d, self.n = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.LayerNorm(4)
        self.a, self.b = nn.Linear(4, 8, bias=False), nn.Linear(8, 4, bias=False)
        self.scale = nn.Parameter(torch.tensor([0.2, 0.9, 0.5, 0.7]).view(4, 1, 1))

    def forward(self, x):
        h = self.b(F.gelu(self.a(self.n(self.d(x).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
        return x + self.scale * h


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.attend = nn.LayerNorm(4), nn.MultiheadAttention(4, 2, batch_first=True, bias=False)

    def forward(self, x):
        t = x.flatten(2).transpose(1, 2)
        h = self.norm(t)
        t = t + self.attend(h, h, h, need_weights=False)[0]
        return t.transpose(1, 2).reshape(x.shape)


class Upsampled(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2, bias=False)

    def forward(self, x):
        big = F.leaky_relu(self.up(x), 0.1)
        return F.interpolate(F.interpolate(big, scale_factor=0.5, mode="bilinear"), size=x.shape[2:], mode="nearest")


BLOCKS = {
    "residual": Residual,
    "dense": Dense,
    "squeeze, hard": lambda: Squeeze(nn.Hardsigmoid(), nn.Hardswish()),
    "squeeze, soft": lambda: Squeeze(nn.Sigmoid(), nn.SiLU()),
    "shuffle": Shuffle,
    "inception": Inception,
    "convnext": ConvNext,
    "attention": Attention,
    "upsampled": Upsampled,
    "relu6": lambda: nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6()),
    "elu": lambda: nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.ELU()),
    "tanh": lambda: nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.Tanh()),
    "mish": lambda: nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.Mish()),
    "groupnorm": lambda: nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.GroupNorm(2, 4), nn.ReLU()),
    "instancenorm": lambda: nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.InstanceNorm2d(4), nn.ReLU()),
}


class Net(nn.Module):
    def __init__(self, block, bias=False):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=bias), nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(block(), block())
        self.head = nn.Linear(4, 3, bias=bias)

    def forward(self, x):
        h = F.relu(self.norm(self.stem(x)))
        return self.head(F.adaptive_avg_pool2d(self.blocks(h), 1).flatten(1))


@pytest.mark.parametrize("rule", [Zero(), Epsilon(1e-14), Gamma(0.25)], ids=["zero", "epsilon", "gamma"])
@pytest.mark.parametrize("block", BLOCKS)
def test_without_biases_relevance_is_conserved(block, rule):
    net = seeded(Net(BLOCKS[block]), bias=False)
    ex = backlight.explain(net, image(3), 1, rules=rule)
    np.testing.assert_allclose(ex.values.sum((1, 2, 3)) / ex.output, 1.0, rtol=1e-9)


@pytest.mark.parametrize(
    "rules", ["epsilon", "epsilon-plus", "epsilon-gamma-box", "epsilon-alpha2-beta1", "gamma-decreasing", "auto"]
)
@pytest.mark.parametrize("block", BLOCKS)
def test_the_ledger_accounts_for_all_that_is_not_conserved(block, rules):
    net = seeded(Net(BLOCKS[block], bias=True))
    ex = backlight.explain(net, image(3), 1, rules=rules)
    absorbed = ex.ledger.absorbed.sum(0)
    scale = np.abs(ex.ledger.entering).max()
    np.testing.assert_allclose(absorbed, ex.residual, rtol=1e-9, atol=1e-10 * scale)


# gates, normalisations and smooth activations are not passed by their gradient
PIECEWISE_LINEAR = ["residual", "dense", "shuffle", "inception", "upsampled"]


@pytest.mark.parametrize("block", PIECEWISE_LINEAR)
def test_lrp_zero_is_gradient_times_input_where_every_operator_is_piecewise_linear(block):
    net = seeded(Net(BLOCKS[block], bias=True))
    x = image(2)
    ours = backlight.explain(net, x, 1, rules=Zero())
    plain = backlight.explain(net, x, 1, method="gradient_x_input")
    np.testing.assert_allclose(ours.values, plain.values, rtol=1e-9, atol=1e-12)


def test_an_exported_program_and_its_module_give_the_same():
    net, x = seeded(Net(Residual)), image(2)
    program = torch.export.export(net, (x,), strict=False)
    np.testing.assert_allclose(
        backlight.explain(program, x).values, backlight.explain(net, x).values, rtol=1e-10, atol=1e-12
    )


# -- the structure example ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [1.0, 1e-3, 1e-6, 1e-12])
def test_the_two_min_networks_disagree_completely_at_a_tie(a):
    x = np.array([[a, a]])
    for gamma in (0.01, 0.25, 1.0):
        first, second = (backlight.explain(n, x, rules=Gamma(gamma)) for n in backlight.examples.min_networks())
        np.testing.assert_allclose(first.values, [[a, 0]], rtol=1e-12, atol=0)
        np.testing.assert_allclose(second.values, [[0, a]], rtol=1e-12, atol=0)


def test_the_min_networks_follow_their_closed_forms(rng):
    nets = backlight.examples.min_networks()
    a = rng.uniform(0, 3, (10_000, 2))
    a1, a2 = a.T
    g = 0.25
    d1, d2 = (g * a1 + a2) * ((1 + g) * a1 - a2), (a1 + g * a2) * ((1 + g) * a2 - a1)
    first = np.where(a1 > a2, [g * (1 + g) * a1**2 * a2 / d1, a2**2 * (a1 - a2) / d1], [a1, 0 * a1]).T
    second = np.where(a1 < a2, [a1**2 * (a2 - a1) / d2, g * (1 + g) * a2**2 * a1 / d2], [0 * a1, a2]).T
    np.testing.assert_allclose(backlight.explain(nets.i, a, rules=Gamma(g)).values, first, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(backlight.explain(nets.ii, a, rules=Gamma(g)).values, second, rtol=1e-8, atol=1e-10)
    # α2β1: (α(α−β) y, β² y) for a₁ > a₂
    ab = backlight.explain(nets.i, a, rules=AlphaBeta(2, 1)).values
    y = np.minimum(a1, a2)
    np.testing.assert_allclose(ab[a1 > a2], np.c_[2 * y, y][a1 > a2], rtol=1e-8)
    np.testing.assert_allclose(
        backlight.explain(nets.i, a, rules=ZPlus()).values, np.c_[y, 0 * y], rtol=1e-8, atol=1e-12
    )
    np.testing.assert_allclose(backlight.explain(nets.i, a).output, y, rtol=1e-12)


def test_the_min_networks_follow_the_closed_form_of_an_absolute_epsilon(rng):
    a = rng.uniform(0.1, 3, (200, 2))
    a = np.sort(a)[:, ::-1]  # a₁ > a₂
    a1, a2 = a.T
    e = 0.1
    expected = np.c_[
        e * a1 * a2**2 / ((a1 + e) * (a2 + e) * (a1 - a2 + e)), a2**2 * (a1 - a2) / ((a2 + e) * (a1 - a2 + e))
    ]
    ex = backlight.explain(backlight.examples.min_networks().i, a, rules=Epsilon(e, absolute=True))
    np.testing.assert_allclose(ex.values, expected, rtol=1e-9, atol=1e-12)


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_the_plan_says_what_runs_and_why():
    net = seeded(Net(Residual))
    plan = backlight.plan(net, image(1), "epsilon-plus-flat")
    rows = {row["site"]: row for row in plan.rows()}
    assert rows["stem"]["rule"] == "Flat()"
    assert rows["stem"]["operator"] == "conv2d+relu"
    assert "batch normalisation folded in" in rows["stem"]["why"]
    assert rows["blocks.0.a"] | {"why": ""} == {
        "site": "blocks.0.a", "operator": "conv2d+relu", "rule": "ZPlus()", "why": "", "cost": "2F + B"
    }  # fmt: skip
    assert rows["head"]["rule"] == "Epsilon()"
    assert "epsilon-plus-flat" in str(plan)
    assert "folded in" in plan._repr_html_()
    frame = plan.to_frame()
    assert list(frame.columns) == ["site", "operator", "rule", "why", "cost"]
    assert len(frame) == len(rows)


def test_automatic_rules_say_why():
    assert "the network has convolutions" in str(backlight.plan(seeded(Net(Residual)), image(1)))
    assert "the network has no convolutions" in str(backlight.plan(nn.Linear(3, 2), torch.zeros(1, 3)))


def test_gamma_falls_with_the_resolution_as_in_the_vgg_recipe():
    stages = []
    for _ in range(5):
        stages += [
            nn.Conv2d(3 if not stages else 4, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    net = seeded(nn.Sequential(*stages, nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))
    rules = {row["site"]: row["rule"] for row in backlight.plan(net, image(1, 3, 32), "gamma-decreasing").rows()}
    assert rules["0"] == "Box()"
    assert [rules[str(5 * s + 2)] for s in range(5)] == [f"Gamma(gamma={10 ** (-s / 2)!r})" for s in range(5)]
    assert rules["26"] == rules["28"] == "Zero()"


def test_a_composite_selects_by_position_name_class_function_and_operator():
    net = seeded(Net(Residual))
    rules = backlight.Composite(
        [
            (backlight.first, Flat()),
            ("blocks.0.*", Gamma(0.5)),
            (F.conv2d, Gamma(0.1)),
            (torch.nn.Linear, Epsilon(0.25)),
        ]
    )
    found = {row["site"]: row["rule"] for row in backlight.plan(net, image(1), rules).rows()}
    assert found["stem"] == "Flat()"
    assert found["blocks.0.a"] == "Gamma(gamma=0.5)"
    assert found["blocks.1.b"] == "Gamma(gamma=0.1)"
    assert found["head"] == "Epsilon(epsilon=0.25)"


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(backlight.errors.ArgumentError, match=r"named 'feature\.\*': the names are stem"):
        backlight.plan(seeded(Net(Residual)), image(1), backlight.Composite([("feature.*", Gamma())]))


def test_unknown_rules_list_the_presets():
    with pytest.raises(backlight.errors.ArgumentError, match="epsilon-plus-flat"):
        backlight.explain(nn.Linear(2, 1), torch.zeros(1, 2), rules="lrp-magic")


def test_a_model_that_ends_in_softmax_is_explained_at_its_logit_and_the_plan_says_so():
    body = seeded(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    x = torch.randn(5, 4).double()
    for tail in (nn.Softmax(1), nn.LogSoftmax(1)):
        whole = nn.Sequential(body, tail)
        assert "softmax: the logit before it is explained" in str(backlight.plan(whole, x))
        ours, logits = backlight.explain(whole, x), backlight.explain(body, x)
        np.testing.assert_allclose(ours.values, logits.values, rtol=1e-12)
        np.testing.assert_allclose(ours.output, body(x).detach().amax(1))


def test_a_function_of_the_softmax_is_explained_through_it():
    body = seeded(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    x = torch.randn(5, 4).double()
    whole = nn.Sequential(body, nn.Softmax(1))
    ex = backlight.explain(whole, x, lambda p: p[:, 1], rules=Zero())
    plain = backlight.explain(whole, x, lambda p: p[:, 1], method="gradient_x_input")
    np.testing.assert_allclose(ex.output, whole(x)[:, 1].detach())
    np.testing.assert_allclose(ex.values, plain.values, rtol=1e-9, atol=1e-14)


class Strange(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        matrices = torch.eye(4, dtype=x.dtype) * 3 + 0.01 * self.body(x).unsqueeze(1)
        return self.head(torch.linalg.inv(matrices).mean(1))


def test_an_unknown_operator_is_named_with_its_module_and_three_ways_out():
    net = nn.Sequential(nn.Linear(4, 4), Strange()).double()
    x = torch.randn(2, 4).double()
    with pytest.raises(UnsupportedOperator) as error:
        backlight.explain(net, x, strict=True)
    said = str(error.value)
    assert "linalg_inv" in said
    assert "'1' (Strange)" in said
    for way in ("strict=False", "registers a rule", "integrated_gradients"):
        assert way in said
    with pytest.warns(BacklightWarning, match="linalg_inv.*plain gradient"):
        backlight.plan(net, x)


def test_an_operator_can_be_registered():
    from backlight.engine.operators import registry
    from backlight.engine.steps import Transposed

    @backlight.engine.operator("linalg_inv")
    def inverse(node, context):
        return Transposed(node, context.carriers(node), "sum", None)

    try:
        net = nn.Sequential(nn.Linear(4, 4), Strange()).double()
        assert callable(inverse)
        assert "linalg_inv" in str(backlight.plan(net, torch.randn(2, 4).double(), strict=True))
    finally:
        del registry._MAKERS["linalg_inv"]


# -- rules beyond the usual places -------------------------------------------------------------------------------------


def test_flat_in_the_lower_half_of_a_network_passes_relevance_on_to_units_that_are_switched_off():
    net = seeded(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)))
    x = torch.randn(4, 3).double()
    rules = backlight.Composite([("4", Zero()), ("*", Flat())])
    ex = backlight.explain(net, x, 0, rules=rules, layers=["1"])
    a2 = net[:4](x).detach().numpy()
    R2 = a2 * net[4].weight.detach().numpy()[0]
    R1 = np.tile(R2.sum(1, keepdims=True) / 6, 6)
    np.testing.assert_allclose(ex.layers["1"], R1, rtol=1e-10)
    np.testing.assert_allclose(ex.values, np.tile(R1.sum(1, keepdims=True) / 3, 3), rtol=1e-10)


def test_pass_on_a_layer_needs_as_many_outputs_as_inputs():
    x = torch.randn(2, 4).double()
    square = seeded(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    rules = backlight.Composite([("0", Pass()), ("2", Zero())])
    ex = backlight.explain(square, x, 0, rules=rules)
    assert ex.values.shape == (2, 4)
    with pytest.raises(backlight.errors.ArgumentError, match="as many outputs as inputs"):
        backlight.explain(seeded(nn.Linear(4, 2)), x, rules=Pass())


@pytest.mark.parametrize("options", [{}, {"stride": 1, "padding": 1}, {"ceil_mode": True}, {"dilation": 2}])
def test_softmax_share_is_max_pooling_at_one_end_and_equal_parts_at_the_other(options):
    pool = nn.MaxPool2d(3, **options)
    x = image(2, 2, 9)
    size = pool(x)[0].numel()
    net = seeded(nn.Sequential(pool, nn.Flatten(), nn.Linear(size, 2)))

    def values(rule):
        return backlight.explain(net, x, 0, rules=backlight.Composite([("0", rule), ("2", Zero())])).values

    winner = values(backlight.rules.WinnerTakesAll())
    np.testing.assert_allclose(values(SoftmaxShare(1e7)), winner, atol=1e-10)
    np.testing.assert_allclose(values(SoftmaxShare(0.7)).sum((1, 2, 3)), winner.sum((1, 2, 3)), rtol=1e-10)
    assert np.abs(values(SoftmaxShare(0.0)) - winner).max() > 0.01


def test_sigmoid_and_softplus_pass_relevance_outright():
    for act in (nn.Sigmoid(), nn.Softplus()):
        net = seeded(nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 2)))
        x = torch.randn(2, 3).double()
        ex = backlight.explain(net, x, 1, rules=Zero())
        z = net[0](x).detach().numpy()
        R = act(torch.tensor(z)).numpy() * net[2].weight.detach().numpy()[1]
        expected = x.numpy() * ((R / z) @ net[0].weight.detach().numpy())
        np.testing.assert_allclose(ex.values, expected, rtol=1e-10)


# -- kept plans --------------------------------------------------------------------------------------------------------


def test_a_plan_is_made_once_and_again_when_the_model_changes():
    net, x = seeded(Net(Residual)), image(2)
    network = Network.of(net)
    first = backlight.plan(net, x)
    assert backlight.plan(net, x) is first
    before = backlight.explain(net, x).values

    net.head.weight.data.mul_(2)  # writes around the version counter
    assert backlight.plan(net, x) is not first
    np.testing.assert_allclose(backlight.explain(net, x).values, 2 * before, rtol=1e-10)

    graph = next(iter(network._graphs.values()))
    net.blocks = nn.Sequential(seeded(Residual(), 3))
    backlight.plan(net, x)
    assert next(iter(network._graphs.values())) is not graph


def test_a_changed_option_of_a_module_is_noticed():
    net = seeded(nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.1), nn.Linear(4, 2)))
    x = torch.randn(3, 3).double()
    backlight.explain(net, x, 0)
    net[1].negative_slope = 0.5
    ex = backlight.explain(net, x, 0, rules=Zero())
    np.testing.assert_allclose(ex.output, net(x)[:, 0].detach())


def test_a_dead_model_is_let_go():
    import gc
    import weakref

    net = seeded(Net(Residual))
    backlight.explain(net, image(1))
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        return self.a(x) if float(x.sum()) > 0 else self.b(x)


def test_a_branch_that_depends_on_data_is_traced_for_each_batch():
    net = seeded(Branching())
    for sign in (1.0, -1.0, 1.0):
        x = sign * torch.rand(2, 3).double()
        ex = backlight.explain(net, x, 0, rules=Zero())
        used = net.a if sign > 0 else net.b
        np.testing.assert_allclose(ex.values, (x * used.weight[0]).detach().numpy(), rtol=1e-12)
        assert "traced" in str(backlight.plan(net, x))


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.calls = nn.Linear(3, 2), [0]

    def forward(self, x):
        self.calls[0] += 1
        return self.a(x) * self.calls[0]


def test_a_counter_that_a_model_holds_is_read_as_it_stands_and_left_alone():
    net, x = Counting().double(), torch.rand(2, 3).double()
    for calls in (0, 1):
        ex = backlight.explain(net, x, 0)
        assert net.calls == [calls]
        np.testing.assert_allclose(ex.output, ((calls + 1) * net.a(x))[:, 0].detach().numpy(), rtol=1e-12)
        net(x)


TICKS = itertools.count(1)


def test_a_model_that_a_graph_cannot_hold_is_refused():
    class Ticking(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 2)

        def forward(self, x):
            return self.a(x) * next(TICKS)

    with pytest.raises(UnsupportedModel, match="does not compute what the model computes"):
        backlight.explain(Ticking(), torch.rand(2, 3))


def test_training_mode_is_refused_where_it_matters_and_only_there():
    x = torch.randn(4, 3)
    with pytest.raises(UnsupportedModel, match=r"drops out at random.*model.eval\(\)"):
        backlight.explain(nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).train(), x)
    with pytest.raises(UnsupportedModel, match=r"statistics of the batch.*model.eval\(\)"):
        backlight.explain(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).train(), x)
    assert backlight.explain(nn.Sequential(nn.Linear(3, 2)).train(), x).values.shape == (4, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_single_and_half_precision_give_the_same_picture(dtype):
    net, x = seeded(Net(Residual)), image(2)
    exact = backlight.explain(net, x, 1, rules="epsilon-plus").values
    rough = backlight.explain(net.to(dtype), x, 1, rules="epsilon-plus")
    bound = {torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]
    assert np.linalg.norm(rough.values - exact) <= bound * np.linalg.norm(exact)


def test_a_module_used_twice_is_two_places():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(3, 3)

        def forward(self, x):
            return self.f(torch.relu(self.f(x)))

    net = seeded(Twice())
    plan = backlight.plan(net, torch.zeros(1, 3))
    assert [row["site"] for row in plan.rows() if row["operator"].startswith("linear")] == [
        "f.linear",
        "f.linear@2",
    ] or [row["site"] for row in plan.rows() if row["operator"].startswith("linear")] == ["f", "f@2"]


def test_explaining_within_inference_mode_works():
    net, x = seeded(Net(Residual)), image(2)
    expected = backlight.explain(net, x).values
    with torch.inference_mode():
        y = x.clone()
        np.testing.assert_allclose(backlight.explain(net, y).values, expected, rtol=1e-12)


def test_two_threads_explain_one_model_at_once():
    net, x = seeded(Net(Residual)), image(2)
    expected = {rule: backlight.explain(net, x, rules=rule).values for rule in ("epsilon", "epsilon-plus")}
    backlight.engine.Network.of(net)._plans.clear()
    wrong = []

    def work(rule):
        with warnings.catch_warnings():
            for _ in range(10):
                if not np.allclose(
                    backlight.explain(net, x, rules=rule).values, expected[rule], rtol=1e-10, atol=1e-14
                ):
                    wrong.append(rule)  # noqa: PERF401

    threads = [threading.Thread(target=work, args=(rule,)) for rule in expected for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_box_needs_nothing_of_the_other_targets():
    net, x = seeded(Net(Residual)), image(2)
    rules = backlight.Composite([(backlight.first, Box(-5.0, 5.0)), (backlight.convolution, Gamma())])
    together = backlight.explain(net, x, "all", rules=rules)
    for k in range(3):
        np.testing.assert_allclose(
            together.values[..., k], backlight.explain(net, x, k, rules=rules).values, rtol=1e-9, atol=1e-13
        )


def test_a_constant_tensor_or_a_list_of_options_that_changes_is_noticed():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.factors, self.shift = nn.Linear(3, 2), [1.0], torch.ones(2, dtype=torch.float64)

        def forward(self, x):
            return self.f(x) * self.factors[0] + self.shift

    net = seeded(Scaled())
    x = torch.randn(2, 3).double()
    before = backlight.explain(net, x, 0, rules=Zero())
    net.factors[0] = 3.0
    net.shift.mul_(5)
    after = backlight.explain(net, x, 0, rules=Zero())
    np.testing.assert_allclose(after.values, 3 * before.values, rtol=1e-12)
    np.testing.assert_allclose(after.output, net(x)[:, 0].detach())


@pytest.mark.parametrize(
    ("act", "cost"),
    [
        (nn.ReLU(), "2F + B"),
        (nn.ReLU6(), "2F + B"),
        (nn.Hardtanh(0.0, 2.0), "2F + B"),
        (nn.LeakyReLU(), "2F + 2B"),
        (nn.Hardtanh(), "2F + 2B"),
    ],
)
def test_what_follows_a_layer_decides_its_cheapest_form(act, cost):
    net = seeded(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 5), act, nn.Linear(5, 2)))
    x = torch.randn(4, 3).double()
    rows = {row["site"]: row["cost"] for row in backlight.plan(net, x, Gamma(0.25)).rows()}
    assert rows["2"] == cost
    with torch.no_grad():
        a1 = net[:2](x)
        z2 = net[2](a1)
        a2 = act(z2)
    ex = backlight.explain(net, x, 0, rules=Gamma(0.25), layers=["1"])
    for i in range(4):
        parts = [
            (p.detach().numpy(), b.detach().numpy())
            for p, b in ((net[4].weight, net[4].bias), (net[2].weight, net[2].bias))
        ]
        out = np.array([float(net(x)[i, 0].detach()), 0.0])
        R = oracle.gamma(a2[i].numpy(), *parts[0], out, 0.25)
        np.testing.assert_allclose(
            ex.layers["1"][i], oracle.gamma(a1[i].numpy(), *parts[1], R, 0.25), rtol=1e-9, atol=1e-12
        )


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(4, 4)

    def forward(self, x):
        y = self.f(x)
        y[:, 0] = 0
        y += x
        y.clamp_(min=0)
        y[:, 1:] *= 2
        return y


class Normalising(nn.Module):
    """The input's normalisation inside of the model: it is no layer with weights."""

    def __init__(self):
        super().__init__()
        self.f, self.mean, self.std = nn.Linear(4, 3), nn.Buffer(torch.randn(4)), nn.Buffer(torch.rand(4) + 0.5)

    def forward(self, x):
        return self.f((x - self.mean) / self.std)


class ByHand(nn.Module):
    """Layer and root-mean-square norms, written out."""

    def __init__(self):
        super().__init__()
        self.f, self.g = nn.Linear(4, 4, bias=False), nn.Linear(4, 3, bias=False)

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        h = self.f(centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5))
        return self.g(h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6))


class Mixed(nn.Module):
    """Maxima over groups, a gated unit, a leaky unit written with where."""

    def __init__(self):
        super().__init__()
        self.f, self.g = nn.Linear(4, 12, bias=False), nn.Linear(3, 3, bias=False)

    def forward(self, x):
        a = self.f(x).view(-1, 3, 4).amax(-1)
        b = F.silu(a) * self.g(a)
        return torch.where(b > 0, b, 0.1 * b)


@pytest.mark.parametrize("net", [InPlace, Normalising, ByHand, Mixed])
def test_what_people_write_by_hand_is_understood(net):
    net = seeded(net())
    x = torch.randn(5, 4).double()
    backlight.plan(net, x, strict=True)
    ex = backlight.explain(net, x, 1, rules=Zero())
    np.testing.assert_allclose(ex.output, net(x)[:, 1].detach())
    np.testing.assert_allclose(ex.ledger.absorbed.sum(0), ex.residual, rtol=1e-9, atol=1e-12)
    if isinstance(net, ByHand | Mixed):
        np.testing.assert_allclose(ex.values.sum(1), ex.output, rtol=1e-9)
    if isinstance(net, InPlace | Normalising):
        plain = backlight.explain(net, x, 1, method="gradient_x_input")
        np.testing.assert_allclose(ex.values, plain.values, rtol=1e-9, atol=1e-13)


def test_the_first_layer_lies_behind_a_normalisation_of_the_input():
    net, x = seeded(Normalising()), torch.randn(3, 4).double()
    rows = {row["site"]: row["rule"] for row in backlight.plan(net, x, "epsilon-plus-flat").rows()}
    assert rows["f"] == "Flat()"
    ex = backlight.explain(net, x, 1, rules=backlight.Composite([(backlight.first, Flat())]))
    # equal parts go through shift and scale as they are
    np.testing.assert_allclose(ex.values, np.tile(ex.output[:, None] / 4, 4), rtol=1e-10)


def test_a_parameter_without_a_value_is_said():
    with pytest.raises(UnsupportedModel, match="without values yet: run it on a batch"):
        backlight.explain(nn.LazyLinear(3), torch.zeros(1, 2))


def test_all_members_of_a_tuple_may_be_used():
    class Unpool(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.head = nn.Conv2d(3, 2, 3, padding=1), nn.Linear(128, 2)

        def forward(self, x):
            pooled, where = F.max_pool2d(F.relu(self.f(x)), 2, return_indices=True)
            return self.head(F.max_unpool2d(pooled, where, 2).flatten(1))

    net, x = seeded(Unpool()), image(2)
    ex = backlight.explain(net, x, 1, rules=Zero())
    plain = backlight.explain(net, x, 1, method="gradient_x_input")
    np.testing.assert_allclose(ex.values, plain.values, rtol=1e-9, atol=1e-13)


def test_batches_that_take_other_branches_share_one_ledger():
    net = Branching()
    net.b = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    net = seeded(net)
    x = torch.cat([torch.rand(2, 3), -torch.rand(2, 3)]).double()
    ex = backlight.explain(net, x, 0, rules=Zero(), batch_size=2)
    assert len(ex.ledger.layers) == 2
    # the first two rows ran through one layer, the others through two
    assert [int(n) for n in (ex.ledger.entering != 0).sum(0)] == [1, 1, 2, 2]
    np.testing.assert_allclose(ex.ledger.absorbed.sum(0), ex.residual, rtol=1e-9, atol=1e-13)


def test_a_graph_for_a_fixed_number_of_rows_is_captured_once():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(4, 2)

        def forward(self, x):
            return self.f(x.reshape(3, 4))

    net, x = seeded(Fixed()), torch.randn(3, 4).double()
    first = backlight.explain(net, x, 0)
    graphs = dict(Network.of(net)._graphs)
    second = backlight.explain(net, x, 0)
    assert Network.of(net)._graphs == graphs
    assert len(graphs) == 1
    np.testing.assert_array_equal(first.values, second.values)
    assert next(iter(graphs.values())).how == "exported for 3 rows"
