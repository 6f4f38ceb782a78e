"""The engine on whole networks: node by node against the slow rules, conservation, the plan, what is proved."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import backlight
from backlight.rules import AlphaBeta, Epsilon, Flat, Gamma, Pass, SoftmaxShare, WSquare, Zero, ZPlus
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
