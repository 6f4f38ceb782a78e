"""Costs that no noisy machine can change: counted operations and counted memory."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import backlight
from backlight.rules import AlphaBeta, Box, Epsilon, Flat, Gamma, WSquare, Zero, ZPlus
from tests.oracles.attnlrp import Decoder
from tests.test_engine import seeded

pytestmark = pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")


def vgg(side=32):
    layers, channels = [], 3
    for width in (16, 32, 64):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(channels * (side // 8) ** 2, 32), nn.ReLU(), nn.Linear(32, 10)
    )


class Bottlenecks(nn.Module):
    """Residual blocks whose last convolution of three feeds the sum, behind a stem."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, bias=False),
                nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32),
            )
            for _ in range(6)
        )  # fmt: skip
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


NETS = {"vgg": vgg, "bottlenecks": Bottlenecks}


def flops(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


# forwards, transposed products and one more forward where only part of the layers need two ways back
BUDGETS = {
    "zero": (Zero(), 2.0),
    "epsilon": (Epsilon(), 2.0),
    "zplus": (ZPlus(), 3.0),
    "alphabeta": (AlphaBeta(2, 1), 4.0),
    "gamma": (Gamma(0.25), 4.0),
    "wsquare": (WSquare(), 2.0),
    "epsilon preset": ("epsilon", 2.0),
    "epsilon-plus": ("epsilon-plus", 3.0),
    "epsilon-plus-flat": ("epsilon-plus-flat", 3.0),
    "epsilon-gamma-box": (backlight.presets["epsilon-gamma-box"](-6.0, 6.0), 4.0),
    "epsilon-alpha2-beta1": ("epsilon-alpha2-beta1", 4.0),
    "gamma-decreasing": (backlight.presets["gamma-decreasing"](-6.0, 6.0), 4.0),
}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("rules", BUDGETS)
def test_operations_stay_within_the_budget(net, rules):
    model = seeded(NETS[net]())
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    made, budget = BUDGETS[rules]
    backlight.explain(model, x, 0, rules=made)
    with torch.no_grad():
        forward = flops(lambda: model(x))
    # the stem reads signed inputs, where z⁺ and αβ need up to twice the products
    stem = 2 * 32 * 32 * 27 * 2 * 2 * (16 if net == "vgg" else 32)
    assert flops(lambda: backlight.explain(model, x, 0, rules=made)) <= 1.15 * (budget * forward) + 3 * stem


def test_gamma_on_a_plain_rectified_chain_needs_one_way_back():
    model = seeded(vgg())
    x = torch.randn(1, 3, 32, 32).double()
    rules = backlight.Composite(
        [(backlight.first, Zero()), (backlight.convolution, Gamma()), (backlight.dense, Zero())]
    )
    backlight.explain(model, x, 0, rules=rules)
    with torch.no_grad():
        forward = flops(lambda: model(x))
    assert flops(lambda: backlight.explain(model, x, 0, rules=rules)) <= 3.05 * forward


def test_the_boxes_bounds_and_the_flat_rule_cost_nothing_per_row():
    model = seeded(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 900, 2)))
    x = torch.rand(8, 3, 32, 32).double()
    with torch.no_grad():
        forward = flops(lambda: model(x))
    for rule, budget in ((Flat(), 1.2), (Box(0.0, 1.0), 4.05), (WSquare(), 2.05)):
        rules = backlight.Composite([(backlight.first, rule), (backlight.dense, Zero())])
        backlight.explain(model, x, 0, rules=rules)
        dense = 2 * 8 * 16 * 900 * 2
        assert flops(lambda rules=rules: backlight.explain(model, x, 0, rules=rules)) <= budget * forward + 2 * dense


class Live(TorchDispatchMode):
    """Bytes of tensors made inside that are alive, and their peak."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(out):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self.known or key in given:
                continue
            self.known[key] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.gone, key)
        return out

    def gone(self, key):
        self.now -= self.known.pop(key, 0)


def peak(function):
    gc.collect()
    with Live() as live:
        function()
    return live.peak


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(
    "rules", [Zero(), "epsilon", "epsilon-plus", "epsilon-plus-flat", "epsilon-gamma-box", "epsilon-alpha2-beta1"]
)
def test_memory_stays_near_that_of_gradient_times_input(net, rules):
    model = seeded(NETS[net]()).requires_grad_(False)
    x = torch.randn(8, 3, 32, 32).double()

    def plain():
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)
        return x * gradient

    backlight.explain(model, x, 0, rules=rules, batch_size=8)
    bound = 1.3 if rules == "epsilon" or rules == Zero() else 1.6
    # what is kept of the result (float64 copies of a small input) is not the method's
    extra = 6 * x.numel() * 8
    assert peak(lambda: backlight.explain(model, x, 0, rules=rules, batch_size=8)) <= bound * peak(plain) + extra


@pytest.mark.parametrize("fused", [False, True])
def test_eight_tokens_cost_two_ways_on_and_eight_ways_back(fused):
    torch.manual_seed(0)
    model = Decoder(width=32, fused=fused).double().eval()
    ids = torch.randint(0, 11, (4, 24))
    backlight.explain(model, ids, [0])  # the capture
    with torch.no_grad():
        forward = flops(lambda: model(ids))

    def gradient():
        x = model.embed.weight[ids].detach().requires_grad_()
        instead = model.embed.register_forward_hook(lambda *_: x)
        torch.autograd.grad(model(ids)[:, 0].sum(), x)
        instead.remove()

    model.requires_grad_(False)
    back = flops(gradient) - forward
    assert flops(lambda: backlight.explain(model, ids, list(range(8)))) <= 2 * forward + 8 * back
