"""What will run: plans, the rules that are chosen, and what is kept from one call to the next."""

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
from backlight.rules import Box, Epsilon, Flat, Gamma, Zero
from tests.oracles import lrp as oracle
from tests.test_engine import Net, Residual, image, seeded

pytestmark = pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")


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


class Patches(nn.Module):
    """A convolution makes tokens of a picture, as in vision transformers; they attend to each other."""

    def __init__(self):
        super().__init__()
        self.patch, self.value, self.head = nn.Conv2d(1, 4, 2, 2), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = (x @ x.transpose(1, 2)).softmax(-1) @ self.value(x)
        return self.head(x.mean(1))


def test_a_network_that_attends_divides_by_nothing_in_its_dense_layers():
    plan = backlight.plan(seeded(Patches()), image(2, 1, 4))
    rules = {row["site"]: row["rule"] for row in plan.rows()}

    assert rules["patch"] == "Gamma()"
    assert rules["value"] == rules["head"] == "Zero()"
    assert "as the network attends" in str(plan)


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
