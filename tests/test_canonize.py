"""The door of canonical forms: what canonize takes, refuses and leaves alone."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.svm import OneClassSVM
from torch import nn

import backlight
from backlight._audit import REWRITES
from backlight._audit.measure import total_variation
from backlight.canonical import lift, lower
from backlight.canonical.canonize import example_inputs
from backlight.errors import ArgumentError, UnsupportedModel
from backlight.rules import Box, Gamma
from tests.networks import made, mlp
from tests.test_canonical import QUIET, dense, generator, widths

# -- the door ----------------------------------------------------------------------------------------------------------


def test_the_model_is_left_as_it_was():
    net = mlp().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    addresses = [p.data_ptr() for p in net.parameters()]
    state = torch.get_rng_state()
    found = backlight.canonize(net)

    assert net.training
    assert [p.data_ptr() for p in net.parameters()] == addresses
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    # in the model's own precision, with the names of its layers
    assert {p.dtype for p in found.module.parameters()} == {torch.float32}
    assert dict(found.module.named_modules()).keys() >= {"0", "2", "4"}
    module, log = found
    assert module is found.module
    assert log is found.log
    assert list(found.to_frame("pandas").columns) == ["kind", "where", "what", "change"]


@QUIET
def test_explain_canonical_is_the_same_for_every_way_to_write_a_network():
    net, x = made("convolutional")
    form = lift(net, ((x,), {}))
    new = form.copy()
    REWRITES["factorise layers"].apply(new, generator())
    other = lower(new)
    plain = [backlight.explain(n, x, target=0, rules=Gamma()).values for n in (net, other)]
    canonical = [backlight.explain(n, x, target=0, rules=Gamma(), canonical=True) for n in (net, other)]

    assert total_variation(*plain).max() > 0.01
    assert total_variation(*(ex.values for ex in canonical)).max() < 1e-9
    assert canonical[0].output == pytest.approx(backlight.explain(net, x, target=0).output)
    assert any("fused" in step for step in canonical[0].provenance["canonical"])
    # kept, and made anew when the weights change
    with torch.no_grad():
        net[0].weight.mul_(2.0)
    changed = backlight.explain(net, x, target=0, rules=Gamma(), canonical=True)
    assert changed.output == pytest.approx(net(x)[:, 0].detach().numpy())


def test_single_precision_models_and_layers_of_the_canonical_form():
    net = mlp().eval()
    x = torch.randn(4, 20)
    ex = backlight.explain(net, x, target=1, canonical=True, layers="2")
    assert ex.output == pytest.approx(net(x)[:, 1].detach().numpy(), rel=1e-5)
    assert ex.layers["2"].shape == (4, 16)


def test_a_canonical_form_is_made_from_batches_of_any_kind():
    net, x = mlp().eval(), torch.randn(6, 20)
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=4)
    ex = backlight.explain(net, batches, target=0, canonical=True)
    assert ex.values.shape == (6, 20)
    again = backlight.explain(net, iter(batches), target=0, canonical=True)
    np.testing.assert_allclose(again.values, ex.values, rtol=1e-6, atol=1e-7)


def test_what_cannot_be_canonized_says_so():
    class Depends(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedModel, match="cannot be rewritten"):
        backlight.canonize(Depends(), torch.randn(2, 3))
    for call in (backlight.canonize, lambda m: backlight.audit(m, np.zeros((2, 3))), backlight.derive):
        with pytest.raises(UnsupportedModel, match="OneClassSVM is no torch module"):
            call(OneClassSVM())
    with pytest.raises(ArgumentError, match="give a few rows"):
        backlight.canonize(nn.Sequential(nn.Conv2d(1, 2, 3)))
    with pytest.raises(ArgumentError, match="'nonnegative'"):
        backlight.canonize(mlp(), domain="positive reals")
    with pytest.raises(ArgumentError, match="both bounds"):
        backlight.canonize(mlp(), domain=Box(None, None))
    with pytest.raises(ArgumentError, match="do not fit"):
        backlight.canonize(mlp(), torch.randn(3, 20), domain=(torch.zeros(7), torch.ones(7)))
    with pytest.raises(ArgumentError, match="above the upper"):
        backlight.canonize(mlp(), domain=(torch.ones(20), torch.zeros(20)))
    with pytest.raises(ArgumentError, match="outside of the domain"):
        backlight.canonize(mlp(), -torch.ones(3, 20), domain="nonnegative")


def test_a_box_gives_the_shape_of_the_inputs():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 2)).double()
    box = Box(torch.zeros(1, 8, 8), torch.ones(1, 8, 8))
    found = backlight.canonize(net, domain=box)
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    assert torch.allclose(found.module(x), net(x), atol=1e-12)


class _Heads(nn.Module):
    """Attention as people write it out: each side through two moves, (n, t, hd) → (n, t, h, d) → (n, h, t, d)."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        q, k, v = (one(x).view(-1, 3, 2, 2).transpose(1, 2) for one in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.o(mixed.transpose(1, 2).reshape(-1, 3, 4).mean(1))


@QUIET
def test_queries_and_keys_that_come_through_several_moves_are_normalised():
    """A query times s and a key divided by s give the same product, and so the same canonical form."""
    torch.manual_seed(0)
    net, x = _Heads().double().eval(), torch.randn(2, 3, 4, dtype=torch.float64)
    scaled = copy.deepcopy(net)
    scale = torch.tensor([3.0, 0.2, 5.0, 0.5], dtype=torch.float64)
    with torch.no_grad():
        for layer, factor in ((scaled.q, scale), (scaled.k, 1 / scale)):
            layer.weight *= factor[:, None]
            layer.bias *= factor
    assert torch.allclose(scaled(x), net(x), atol=1e-12)
    assert not torch.allclose(scaled.q.weight, net.q.weight, atol=0.1)
    forms = [backlight.canonize(one, x).module for one in (net, scaled)]
    weights = [sorted(p.abs().sum().item() for p in form.parameters()) for form in forms]

    assert weights[0] == pytest.approx(weights[1], rel=1e-9)


def test_units_that_are_always_on_leave_one_layer():
    """On x ≥ 0 nothing is cut by relu where no weight and no bias is negative: two layers are their product."""
    generated = generator(3)
    a, b = nn.Linear(3, 5).double(), nn.Linear(5, 2).double()
    with torch.no_grad():
        for layer in (a, b):
            layer.weight.copy_(torch.rand(layer.weight.shape, generator=generated, dtype=torch.float64))
            layer.bias.copy_(torch.rand(layer.bias.shape, generator=generated, dtype=torch.float64))
    found = backlight.canonize(nn.Sequential(a, nn.ReLU(), b), domain="nonnegative").module

    assert "relu" not in found.code
    (weight,) = [p for p in found.parameters() if p.dim() == 2]
    assert torch.allclose(weight, b.weight @ a.weight, rtol=1e-12)


def test_a_maximum_and_a_minimum_are_named_for_what_they_are():
    """On a ≥ 0: max(a₁, a₂) = relu(a₂) + relu(a₁ − a₂) and min(a₁, a₂) = relu(a₁) − relu(a₁ − a₂)."""
    for first, second, word in (([0, 1], 1.0, "maximum"), ([1, 0], -1.0, "minimum")):
        net = nn.Sequential(dense([first, [1, -1]]), nn.ReLU(), dense([[1.0, second]]))
        found = backlight.canonize(net, domain="nonnegative").module
        named = {kind for name, _ in found.named_modules() for kind in ("maximum", "minimum") if kind in name}

        assert word in found.code
        assert named == {word}


def test_what_a_dropped_relu_shows_is_looked_at_again():
    """The first layer is always on; behind it relu(z − 1) and relu(2z − 2) of one z are one unit."""
    net = nn.Sequential(
        dense([[1, 2], [2, 4]]), nn.ReLU(), dense([[1, 0], [0, 1]], [-1, -2]), nn.ReLU(), dense([[1, 1]])
    )
    found = backlight.canonize(net, domain="nonnegative")

    assert widths(found) == [1, 1]


@pytest.mark.parametrize(("domain", "least"), [(None, -1.0), ("nonnegative", 0.0)])
def test_rows_that_are_made_for_a_network_lie_all_over_its_domain(domain, least):
    """A network without layers reads as many numbers as it runs with; equal or empty rows would check nothing."""

    class Smallest(nn.Module):
        def forward(self, a):
            return torch.minimum(a[:, 0], a[:, 1])

    (rows,), _ = example_inputs(Smallest(), None, domain)
    assert rows.shape[1] == 2
    assert rows.min() >= least
    assert rows.max() <= 1
    assert rows.max() - rows.min() > 0.4 * (1 - least)
