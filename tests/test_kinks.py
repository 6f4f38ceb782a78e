"""Spellings of kinks, what stands between units and their readers, and precision that is written into a forward."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import backlight
from backlight.canonical.kinks import _FUNCTIONS
from backlight.canonical.lines import compose, constant, identity, kinked, product, step
from backlight.rules import Gamma

D = torch.float64
z_, zero = identity(), constant(0.0)

# every function of one number that can be read, beside what it is
WRITTEN = {
    "relu": (_FUNCTIONS["relu"](z_), lambda t: np.maximum(t, 0)),
    "abs": (_FUNCTIONS["abs"](z_), np.abs),
    "relu6": (_FUNCTIONS["relu6"](z_), lambda t: np.clip(t, 0, 6)),
    "leaky_relu": (_FUNCTIONS["leaky_relu"](z_, 0.2), lambda t: np.where(t > 0, t, 0.2 * t)),
    "rrelu": (_FUNCTIONS["rrelu"](z_, 0.1, 0.3, False), lambda t: np.where(t > 0, t, 0.2 * t)),
    "prelu": (_FUNCTIONS["prelu"](z_, 0.2), lambda t: np.where(t > 0, t, 0.2 * t)),
    "hardtanh": (_FUNCTIONS["hardtanh"](z_), lambda t: np.clip(t, -1, 1)),
    "clamp": (_FUNCTIONS["clamp"](z_, -0.5, 2.0), lambda t: np.clip(t, -0.5, 2)),
    "clamp_min": (_FUNCTIONS["clamp_min"](z_, 0.5), lambda t: np.maximum(t, 0.5)),
    "clamp_max": (_FUNCTIONS["clamp_max"](z_, 0.5), lambda t: np.minimum(t, 0.5)),
    "threshold": (_FUNCTIONS["threshold"](z_, 0.5, 3.0), lambda t: np.where(t > 0.5, t, 3.0)),
    "softshrink": (_FUNCTIONS["softshrink"](z_, 0.5), lambda t: np.sign(t) * np.maximum(np.abs(t) - 0.5, 0)),
    "hardsigmoid": (_FUNCTIONS["hardsigmoid"](z_), lambda t: np.clip(t / 6 + 0.5, 0, 1)),
    "sign": (_FUNCTIONS["sign"](z_), np.sign),
    "heaviside": (_FUNCTIONS["heaviside"](z_, 0.25), lambda t: np.heaviside(t, 0.25)),
    "maximum": (_FUNCTIONS["maximum"](z_, z_.scaled(0.1)), lambda t: np.maximum(t, 0.1 * t)),
    "minimum": (_FUNCTIONS["minimum"](z_.scaled(-1.0), 0.0), lambda t: np.minimum(-t, 0)),
    "where": (_FUNCTIONS["where"](_FUNCTIONS["ge"](z_, 1.0), z_, 2.0), lambda t: np.where(t >= 1, t, 2)),
    "gt": (_FUNCTIONS["gt"](z_, 0.0), lambda t: t > 0),
    "ge": (_FUNCTIONS["ge"](z_, 0.0), lambda t: t >= 0),
    "lt": (_FUNCTIONS["lt"](z_, 1.0), lambda t: t < 1),
    "le": (_FUNCTIONS["le"](z_, 1.0), lambda t: t <= 1),
    "product": (product(_FUNCTIONS["gt"](z_, 0.0), z_), lambda t: t * (t > 0)),
    "nested": (compose(_FUNCTIONS["clamp"](z_, 0.0, 1.0), _FUNCTIONS["abs"](z_.scaled(2.0, -1.0))),
               lambda t: np.clip(np.abs(2 * t - 1), 0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_functions_of_one_number_are_what_they_say_also_at_their_breaks(name):
    f, expected = WRITTEN[name]
    points = np.concatenate([np.linspace(-8, 8, 65), [0.25, 0.5, -0.5, 1e-9, -1e-9]])

    assert np.abs([f(t) for t in points] - expected(points).astype(float)).max() <= 1e-12


def test_a_jump_is_not_taken_for_a_kink_and_a_square_not_for_a_line():
    assert not step(at=0.0).continuous
    assert product(z_, z_) is None
    assert (z_ + z_.scaled(-1.0)).straight
    assert kinked((1.0, 0.0), (1.0, 0.0), breaks=(0.0,)).tidy().straight


class Written(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, z):
        return self.f(z)


def canonical(f, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 5), Written(f), nn.Linear(5, 2)).double().eval()
    x = torch.randn(6, 3, dtype=D)
    made = backlight.canonize(net, x)
    assert torch.allclose(made(x), net(x), rtol=0, atol=1e-12)
    return made, x


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.relu, lambda z: (z + z.abs()) / 2),
        (torch.relu, lambda z: z * (z > 0)),
        (torch.relu, lambda z: -torch.minimum(-z, torch.zeros(()))),
        (F.relu6, lambda z: torch.relu(z) - torch.relu(z - 6)),
        (lambda z: F.leaky_relu(z, 0.1), lambda z: 0.1 * z + 0.9 * torch.relu(z)),
        (lambda z: F.softshrink(z, 0.5), lambda z: z - z.clamp(-0.5, 0.5)),
    ],
    ids=["abs", "mask", "minimum", "clamp", "leaky", "softshrink"],
)  # fmt: skip
def test_spellings_of_a_kink_have_one_canonical_form_and_one_explanation(first, second):
    (one, x), (two, _) = canonical(first), canonical(second)
    values = [backlight.explain(made.module, x, 0, rules=Gamma(0.25)).values for made in (one, two)]

    assert one.module.code == two.module.code
    assert np.abs(values[0] - values[1]).max() <= 1e-12


# steeper to the left, to the right, falling, with a plateau, the same on both sides
BENT = [
    (2.0, 0.5),
    (0.5, 2.0),
    (-2.0, 0.5),
    (0.5, -2.0),
    (2.0, 0.0),
    (0.0, -2.0),
    (-3.0, -1.0),
    (-1.5, 1.5),
    (1.5, -1.5),
]


def test_any_two_slopes_are_one_unit_of_the_same_function():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 5),
        Written(
            lambda z: torch.cat(
                [b * torch.relu(z - 0.3) - a * torch.relu(0.3 - z) + 0.25 * k for k, (a, b) in enumerate(BENT)], 1
            )
        ),
        nn.Linear(5 * len(BENT), 2),
    )
    net = net.double().eval()
    x = torch.randn(40, 3, dtype=D)
    made = backlight.canonize(net, x)

    torch.testing.assert_close(made(x), net(x), rtol=0, atol=1e-11)
    assert sum(step.kind == "recognised" for step in made.log) >= 1


def test_parts_side_by_side_are_one_layer():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 2), nn.Linear(3, 4), nn.Linear(6, 2)

        def forward(self, x):
            return self.c(torch.cat([self.a(x), self.b(x)], 1))

    torch.manual_seed(0)
    net, x = Halves().double(), torch.randn(5, 3, dtype=D)
    made = backlight.canonize(net, x)

    torch.testing.assert_close(made(x), net(x), rtol=0, atol=1e-13)
    assert "cat" not in made.module.code
    assert [m.out_features for m in made.module.modules() if isinstance(m, nn.Linear)] == [2]


def test_a_function_that_jumps_is_left_as_it_is():
    made, _ = canonical(lambda z: z * (z > 0.5))

    assert "recognised" not in {step.kind for step in made.log}


MOVES = {
    "cat of halves": lambda h: torch.cat([h[:, :4], h[:, 4:]], 1),
    "pad": lambda h: F.pad(h, (1, 2)),
    "pad of ones": lambda h: F.pad(h, (1, 0), value=1.0),
    "stack": lambda h: torch.stack([h, 2 * h], 1).flatten(1),
    "narrow": lambda h: torch.cat([h.narrow(1, 0, 3), h[:, 3:]], 1),
    "chunk": lambda h: torch.cat(h.chunk(2, 1)[::-1], 1),
    "clamp": lambda h: h.clamp(max=2.0),
    "two functions": torch.sigmoid,
}  # fmt: skip


class Read(nn.Module):
    """Relus of a layer behind something, and a readout."""

    def __init__(self, units, between, picture=False):
        super().__init__()
        layer = nn.Conv2d if picture else nn.Linear
        options = {"kernel_size": 3} if picture else {}
        self.a, self.between, self.picture = layer(2 if picture else 6, units, **options), between, picture
        like = between(torch.zeros(1, units, 4, 4) if picture else torch.zeros(1, units))
        self.b = layer(like.shape[1], 3, **options)

    def forward(self, x):
        out = self.b(self.between(torch.relu(self.a(x))))
        return out.mean((2, 3)) if self.picture else out


def planted(between, picture=False, units=8):
    """A network in which unit 1 is unit 0 again, and read with the opposite sign on top of what it was."""
    torch.manual_seed(0)
    net = Read(units, between, picture).double().eval()
    shape = (1, units, 4, 4) if picture else (1, units)
    with torch.no_grad():
        silent, bad = between(torch.zeros(shape, dtype=D)), net
        columns = []
        for k in (0, 1):
            one = torch.zeros(shape, dtype=D)
            one[:, k] = 0.5
            moved = (between(one) - silent).abs().movedim(1, 0).flatten(1).amax(1)
            columns.append(torch.nonzero(moved > 1e-9).flatten())
        for part in (bad.a.weight, bad.a.bias):
            part[1] = part[0]
        bad.b.weight[:, columns[0]] += 20.0
        bad.b.weight[:, columns[1]] -= 20.0
    return bad


@pytest.mark.parametrize("name", MOVES)
def test_units_that_cancel_are_found_behind_what_moves_them(name):
    net = planted(MOVES[name])
    found = backlight.canonize(net, torch.randn(5, 6, dtype=D))

    assert found.planted
    assert not found.unsearched


PICTURES = {
    "pad": lambda h: F.pad(h, (1, 1, 1, 1)),
    "upsampling": lambda h: F.interpolate(h, scale_factor=2, mode="bilinear"),
    "cat of halves": lambda h: torch.cat([h[:, :4], h[:, 4:]], 1),
    "pooled halves": lambda h: torch.cat([F.max_pool2d(h[:, :4], 2, 1), F.max_pool2d(h[:, 4:], 2, 1)], 1),
}


@pytest.mark.parametrize("name", PICTURES)
def test_channels_that_cancel_are_found_behind_what_moves_them(name):
    net, x = planted(PICTURES[name], picture=True), torch.randn(4, 2, 8, 8, dtype=D)
    found = backlight.canonize(net, x)

    assert found.planted


def test_halves_that_are_treated_differently_are_not_merged_but_named():
    """Of the first half averages are read, of the second the first places: equal units are read as different ones."""

    def between(h):
        return torch.cat([F.avg_pool2d(h[:, :1], 2, 2), h[:, 1:, ::2, ::2]], 1)

    net, x = planted(between, picture=True, units=2), torch.randn(4, 2, 8, 8, dtype=D)
    found = backlight.canonize(net, x)

    assert not found.planted
    assert found.unsearched
    assert "not searched" in repr(found)
    assert torch.allclose(found(x), net(x), rtol=0, atol=1e-10)


def test_what_has_no_place_is_said_and_is_no_claim_of_safety():
    class Softmaxed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.b(torch.relu(self.a(x)).softmax(1))

    torch.manual_seed(0)
    net, x = Softmaxed().double().eval(), torch.randn(5, 4, dtype=D)
    found = backlight.canonize(net, x)

    assert len(found.unsearched) == 1
    assert "softmax" in found.unsearched[0]


class InSingle(nn.Module):
    """Its forward names single precision in many ways."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(6, 4), nn.Linear(4, 3), torch.tensor(0.3)

    def forward(self, x):
        h = self.a(x.float()).relu().to(torch.float32) * self.scale
        mask = torch.ones(4, dtype=torch.float32).type(torch.float32) * torch.tensor(0.5)
        return self.b((h + mask) @ torch.eye(4))


def test_a_precision_in_the_forward_is_no_hindrance_in_double():
    torch.manual_seed(0)
    net, X = InSingle().eval(), torch.randn(8, 6)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = backlight.canonize(net, X)
    # single precision against the same numbers in double
    assert torch.allclose(found(X), net(X), rtol=0, atol=1e-5)
    assert type(net) is InSingle
    assert all(value.dtype == torch.float32 and torch.equal(value, before[n]) for n, value in net.state_dict().items())
    assert backlight.equivalent(net, net)


def test_a_cast_in_the_forward_is_no_hindrance_to_an_audit():
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.b(self.a(x.float()).relu())

    torch.manual_seed(0)
    found = backlight.audit(Cast().eval(), torch.randn(8, 6), rewrites=["rescale units"], methods=["lrp:zero"])

    assert found.function_change.max() < 1e-12


def test_constants_that_are_put_beside_units_are_counted_once():
    """A unit that is constant is dropped behind a pad with ones; what the pad puts in stays."""
    torch.manual_seed(0)
    net = Read(5, lambda h: F.pad(h, (2, 0), value=1.0)).double().eval()
    with torch.no_grad():
        net.a.weight[2] = 0.0
        net.a.bias[2] = 3.0
    x = torch.randn(5, 6, dtype=D)
    found = backlight.canonize(net, x)

    assert "dropped" in {step.kind for step in found.log}
    assert torch.allclose(found(x), net(x), rtol=0, atol=1e-12)


def test_a_kink_that_was_written_out_beside_another_value():
    """max(p, q) = p + relu(q − p), with the relu as a clamp: read by a sum of several values."""
    net, x = Written(lambda a: a[:, :1] + (a[:, 1:] - a[:, :1]).clamp(min=0)), torch.randn(6, 2, dtype=D)
    found = backlight.canonize(net, x)

    # without parameters the canonical form is in the default precision, which is single
    assert torch.allclose(found(x), x.amax(1, keepdim=True), rtol=0, atol=1e-6)


def test_an_audit_that_finds_no_place_for_any_rewrite_claims_nothing():
    net = nn.Sequential(nn.Linear(6, 3), nn.ReLU()).eval()
    found = backlight.audit(net, torch.randn(8, 6), rewrites=["rescale units"], methods=["lrp:zero"])

    assert found.rewrites == ()
    assert np.isnan(found.ssi["lrp:zero"])
    assert "No rewrite was tried" in repr(found)
    assert "not tried" in found.left_out["rescale units"]
    assert len(found.to_frame()["rewrite"]) == 0
