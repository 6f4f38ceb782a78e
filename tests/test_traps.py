"""The traps that other software falls into, each by name: none of them can be reproduced here.

Z: a rule-by-hook library with a canonizer per architecture; C: relevance by in-place weight edits; L: patched classes;
A: hooks on autograd nodes.
"""

import copy
import pickle
import threading
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import backlight
from backlight.rules import AlphaBeta, Epsilon, Flat, Gamma, Zero, ZPlus
from tests.test_engine import Net, Residual, image, seeded

pytestmark = pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")


def small():
    return seeded(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    )  # fmt: skip


def photograph(model):
    """Everything about a model that an explanation could change."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "objects": {name: id(t) for name, t in tensors.items()},
        "memory": {name: t.data_ptr() for name, t in tensors.items()},
        "values": {name: t.detach().clone() for name, t in tensors.items()},
        "versions": {name: t._version for name, t in tensors.items()},
        "grad": {name: (t.requires_grad, t.grad) for name, t in tensors.items()},
        "modules": {name: (id(m), type(m), m.training) for name, m in model.named_modules()},
        "dicts": {name: set(m.__dict__) for name, m in model.named_modules()},
        "hooks": {
            name: [len(getattr(m, h)) for h in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
            for name, m in model.named_modules()
        },
        "state": list(model.state_dict()),
    }


def same(before, after):
    values = before.pop("values"), after.pop("values")
    assert before == after
    assert all(torch.equal(values[0][name], values[1][name]) for name in values[0])


@pytest.mark.parametrize(
    "method", ["lrp", "gradient", "gradient_x_input", "integrated_gradients", "smoothgrad", "occlusion", "shapley"]
)
def test_z1_z2_c7_the_model_is_bit_identical_after_an_explanation(method):
    net, x = small(), image(2)
    net[0].register_forward_hook(lambda *_: None)
    before = photograph(net)
    options = {"samples": 2} if method in ("shapley", "smoothgrad") else {}
    backlight.explain(net, x, method=backlight.Method(method, **options))
    same(before, photograph(net))


def test_z1_an_optimizer_built_before_still_trains_and_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(F.relu(self.a(x)))

    net, x = Tied(), torch.randn(3, 4)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    backlight.explain(net, x, 0, rules="epsilon-plus")
    assert net.a.weight is net.b.weight
    before = net.a.weight.detach().clone()
    net(x).sum().backward()
    optimizer.step()
    assert not torch.equal(before, net.a.weight)


def test_z2_a_checkpoint_saved_after_an_explanation_loads_into_the_same_function():
    net, x = small(), image(2)
    expected = net(x)
    backlight.explain(net, x)
    fresh = small()
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(x), expected)
    fresh.load_state_dict(
        {name: value * 0 for name, value in net.state_dict().items() if "num" not in name}, strict=False
    )
    assert torch.equal(fresh(x), fresh(x * 0))


@pytest.mark.parametrize("act", [F.relu, F.gelu, F.silu, torch.tanh, F.elu, F.leaky_relu])
def test_z3_a_function_is_an_activation_like_a_module(act):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False)

        def forward(self, x):
            return self.b(act(self.a(x)))

    ex = backlight.explain(seeded(Functional()), torch.randn(5, 4).double(), 0, rules=Epsilon(1e-14))
    np.testing.assert_allclose(ex.values.sum(1) / ex.output, 1.0, rtol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_z4_c4_a_residual_sum_does_not_double_the_relevance(depth):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(6, 6, bias=False) for _ in range(depth))
            self.head = nn.Linear(6, 2, bias=False)

        def forward(self, x):
            for layer in self.layers:
                x = x + F.relu(layer(x))
            return self.head(x)

    for rule in (Zero(), Gamma(0.25)):
        ex = backlight.explain(seeded(Deep()), torch.randn(3, 6).double(), 0, rules=rule)
        np.testing.assert_allclose(ex.values.sum(1) / ex.output, 1.0, rtol=1e-9)


def test_z5_c1_a_layer_used_twice_is_right_not_only_conserving():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.g = nn.Linear(5, 5, bias=False), nn.Linear(5, 2, bias=False)

        def forward(self, x):
            return self.g(F.relu(self.f(F.relu(self.f(x)))))

    net = seeded(Reused())
    unrolled = nn.Sequential(copy.deepcopy(net.f), nn.ReLU(), copy.deepcopy(net.f), nn.ReLU(), copy.deepcopy(net.g))
    x = torch.randn(4, 5).double()
    for rule in (Zero(), Gamma(0.25), ZPlus(), AlphaBeta()):
        ours, expected = backlight.explain(net, x, 0, rules=rule), backlight.explain(unrolled, x, 0, rules=rule)
        np.testing.assert_allclose(ours.values, expected.values, rtol=1e-10, atol=1e-14)


def test_z6_the_first_layer_is_first_in_the_graph_not_in_registration():
    class HeadFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.stem = nn.Conv2d(4, 2, 1), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.head(F.relu(self.stem(x))).mean((2, 3))

    rules = {
        row["site"]: row["rule"]
        for row in backlight.plan(HeadFirst(), torch.zeros(1, 3, 8, 8), "epsilon-plus-flat").rows()
    }
    assert rules["stem"] == "Flat()"
    assert rules["head"] == "ZPlus()"


def test_z7_z8_batch_normalisation_before_its_layer_keeps_the_function():
    class PreActivation(nn.Module):
        def __init__(self):
            super().__init__()
            # registered in another order than they run
            self.conv1, self.bn1 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
            self.conv2, self.bn2 = nn.Conv2d(3, 2, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x)))))).mean((2, 3))

    net, x = seeded(PreActivation()), image(2)
    before = net(x).detach()
    ex = backlight.explain(net, x, 0, rules="epsilon-plus")
    np.testing.assert_allclose(ex.output, before[:, 0])
    assert torch.equal(net(x), before)


def test_z9_c8_a_model_in_training_mode_is_refused_and_its_statistics_stay():
    net = small().train()
    before = photograph(net)
    with pytest.raises(backlight.errors.UnsupportedModel, match="training mode"):
        backlight.explain(net, image(2))
    same(before, photograph(net))


def test_z10_c6_inference_in_another_thread_is_not_disturbed():
    net, x = seeded(Net(Residual)), image(2)
    with torch.no_grad():
        expected = net(x)
    wrong, stop = [], threading.Event()

    def infer():
        with torch.no_grad():
            while not stop.is_set():
                try:
                    got = net(x)
                    if not torch.allclose(got, expected, rtol=1e-10, atol=1e-13):
                        wrong.append(float((got - expected).abs().max()))
                except Exception as error:
                    wrong.append(error)

    thread = threading.Thread(target=infer)
    thread.start()
    for rule in ("epsilon", "epsilon-plus", "epsilon-gamma-box"):
        backlight.explain(net, x, rules=rule)
        # capture anew while the other thread runs
        backlight.engine.Network.of(net)._graphs.clear()
        backlight.engine.Network.of(net)._plans.clear()
    stop.set()
    thread.join()
    assert not wrong


@pytest.mark.parametrize("s", [1.0, 1e-2, 1e-4, 1e-6, 1e-12, 1e6])
def test_z11_the_same_function_in_other_units_has_the_same_explanation(s):
    net = seeded(nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False)))
    other = copy.deepcopy(net)
    other[0].weight.data *= 1  # inputs shrink, the head makes up for it
    other[2].weight.data /= s
    x = torch.randn(5, 4).double()
    for rule in (Epsilon(1e-6), Epsilon(0.25), Gamma(0.25), ZPlus()):
        plain = backlight.explain(net, x, 0, rules=rule).values
        scaled = backlight.explain(other, x * s, 0, rules=rule).values
        np.testing.assert_allclose(scaled, plain, rtol=1e-9, atol=1e-14)


def test_z12_a_unit_that_is_exactly_zero_neither_explodes_nor_invents():
    # z = 0 from (2, 2) with weights (1, −1): its own relevance is zero, and 0/0 is 0
    net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Softplus(), nn.Linear(1, 1, bias=False)).double()
    net[0].weight.data = torch.tensor([[1.0, -1.0]]).double()
    net[2].weight.data.fill_(1 / np.log(2))
    x = torch.tensor([[2.0, 2.0]]).double()
    for rule in (Zero(), Gamma(0.25), Epsilon(1e-6)):
        ex = backlight.explain(net, x, rules=rule)
        assert np.isfinite(ex.values).all()
        if rule == Zero():
            np.testing.assert_array_equal(ex.values, 0)
            with pytest.raises(backlight.errors.ConservationError, match=r"'0'.*kept or added 1 times the score"):
                backlight.explain(net, x, rules=rule, strict=True)


def test_z12_no_positive_part_passes_nothing_and_the_ledger_says_so():
    net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Softplus()).double()
    net[0].weight.data = torch.tensor([[-1.0, -2.0]]).double()
    x = torch.rand(1, 2).double() + 0.5
    ex = backlight.explain(net, x, rules=ZPlus())
    np.testing.assert_array_equal(ex.values, 0)
    np.testing.assert_allclose(ex.ledger.absorbed.sum(0), ex.output)
    with pytest.warns(backlight.errors.BacklightWarning, match=r"'0' \(ZPlus\(\)\)"):
        backlight.explain(net, x, rules=ZPlus())


def test_z13_functional_pooling_and_mean_share_like_the_pooling_module():
    class Pooled(nn.Module):
        def __init__(self, pool):
            super().__init__()
            self.c, self.f, self.pool = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), pool

        def forward(self, x):
            return self.f(self.pool(F.relu(self.c(x))).flatten(1))

    x = image(2)
    kinds = [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(6), lambda h: F.adaptive_avg_pool2d(h, 1), lambda h: h.mean((2, 3))]
    values = []
    for pool in kinds:
        net = seeded(Pooled(pool if isinstance(pool, nn.Module) else nn.Identity()))
        if not isinstance(pool, nn.Module):
            net.pool = Function(pool)
        values.append(backlight.explain(net, x, 0, rules="epsilon-plus").values)
    for other in values[1:]:
        np.testing.assert_allclose(other, values[0], rtol=1e-10, atol=1e-14)


class Function(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


def test_z13_a_model_that_ends_in_softmax_does_not_vanish():
    net = seeded(nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False), nn.Softmax(1)))
    ex = backlight.explain(net, torch.randn(3, 4).double(), rules=Zero())
    np.testing.assert_allclose(ex.values.sum(1), ex.output, rtol=1e-9)


def test_z14_a_compiled_model_is_explained_by_its_rules_not_by_the_gradient():
    net, x = seeded(Net(Residual)), image(2)
    expected = backlight.explain(net, x, rules="epsilon-plus").values
    compiled = torch.compile(net, backend="eager")
    compiled(x)
    np.testing.assert_allclose(backlight.explain(compiled, x, rules="epsilon-plus").values, expected, rtol=1e-10)


def test_z15_several_inputs_and_integer_inputs_work():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.a, self.b = nn.Embedding(10, 4), nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)

        def forward(self, numbers, ids):
            return self.b(F.relu(self.a(numbers) + self.e(ids).sum(1)))

    net = Two().double().eval()
    numbers, ids = torch.randn(4, 3).double(), torch.randint(0, 10, (4, 5))
    ex = backlight.explain(net, (numbers, ids), 0, rules=Zero())
    assert ex.shape == (4, 8)
    assert ex.feature_names[:2] == ("numbers[0]", "numbers[1]")
    assert ex.feature_names[-1] == "ids[4]"
    np.testing.assert_allclose(ex.values.sum(1), ex.output, rtol=1e-9)
    by_name = backlight.explain(net, {"numbers": numbers, "ids": ids}, 0, rules=Zero())
    np.testing.assert_allclose(by_name.values, ex.values, rtol=1e-12)


def test_z16_common_modules_have_a_rule_or_are_named():
    ruled = [
        nn.LayerNorm(6), nn.GroupNorm(2, 6), nn.BatchNorm1d(6), nn.Mish(), nn.GLU(1), nn.SELU(), nn.CELU(), nn.Hardtanh(),
        nn.Softsign(), nn.PReLU(), nn.Identity(), nn.Dropout(), nn.RMSNorm(6), nn.ReLU6(), nn.LogSigmoid(), nn.Threshold(0.1, 0),
    ]  # fmt: skip
    for module in ruled:
        width = 3 if isinstance(module, nn.GLU) else 6
        net = nn.Sequential(nn.Linear(4, 6), module, nn.Linear(width, 2)).double().eval()
        backlight.explain(net, torch.randn(3, 4).double(), 0, strict=False)
        backlight.plan(net, torch.randn(3, 4).double(), strict=True)


class Recurrent(nn.Module):
    def __init__(self, inner, width):
        super().__init__()
        self.rnn, self.head = inner, nn.Linear(width, 2, bias=False)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}])
def test_z16_recurrent_layers_are_written_out_and_conserve(kind, options):
    net = (
        Recurrent(kind(4, 3, batch_first=True, bias=False, **options), 6 if options.get("bidirectional") else 3)
        .double()
        .eval()
    )
    x = torch.randn(3, 5, 4).double()
    backlight.plan(net, x, strict=True)
    ex = backlight.explain(net, x, 1, rules=Zero())
    np.testing.assert_allclose(ex.output, net(x)[:, 1].detach(), rtol=1e-9)
    np.testing.assert_allclose(ex.values.sum((1, 2)) / ex.output, 1.0, rtol=1e-9)


class Stepwise(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell, self.head = cell, nn.Linear(3, 2, bias=False)

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_z16_recurrent_cells_are_written_out_and_conserve(kind):
    net = Stepwise(kind(4, 3, bias=False)).double().eval()
    x = torch.randn(3, 4, 4).double()
    backlight.plan(net, x, strict=True)
    ex = backlight.explain(net, x, 1, rules=Zero())
    np.testing.assert_allclose(ex.values.sum((1, 2)) / ex.output, 1.0, rtol=1e-9)


def test_z16_an_lstm_hands_all_relevance_to_signals_none_to_gates():
    net = Recurrent(nn.LSTM(2, 1, batch_first=True, bias=False), 1).double().eval()
    x = torch.randn(1, 1, 2).double()
    ex = backlight.explain(net, x, 0, rules=Zero())
    # one step from a cell of zero: c = i tanh(z), h = o tanh(c); all of it to z = w x, in proportion
    w = net.rnn.weight_ih_l0.detach()[2].numpy()
    parts = w * x[0, 0].numpy()
    np.testing.assert_allclose(ex.values[0, 0], parts / parts.sum() * ex.output[0], rtol=1e-10)


def test_z17_a_model_can_be_copied_and_pickled_after_an_explanation():
    net, x = small(), image(2)
    expected = net(x)
    backlight.explain(net, x)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), expected)
    assert torch.equal(copy.deepcopy(net)(x), expected)


def test_z_in_place_operators_and_reused_activations_are_right():
    act = nn.ReLU(inplace=True)
    layers = [nn.Linear(4, 6), act, nn.Linear(6, 6), act, nn.Linear(6, 2)]
    net = seeded(nn.Sequential(*layers))
    plain = nn.Sequential(net[0], nn.ReLU(), net[2], nn.ReLU(), net[4])
    x = torch.randn(4, 4).double()
    kept = x.clone()
    for rule in (Zero(), Gamma(0.25), Flat()):
        np.testing.assert_allclose(
            backlight.explain(net, x, 0, rules=rule).values,
            backlight.explain(plain, x, 0, rules=rule).values,
            rtol=1e-12,
        )
    assert torch.equal(x, kept)


def test_c1_a_second_call_uses_the_same_rules():
    net, x = small(), image(2)
    rules = backlight.Composite([("0", Gamma(0.5)), ("4", Epsilon(0.1))])
    first = backlight.explain(net, x, rules=rules).values
    np.testing.assert_array_equal(backlight.explain(net, x, rules=rules).values, first)


def test_c3_nothing_of_the_activations_stays_in_memory():
    import gc

    net, x = small(), image(2)
    backlight.explain(net, x)
    gc.collect()

    def held():
        return sum(1 for item in gc.get_objects() if issubclass(type(item), torch.Tensor))

    before = held()
    for _ in range(3):
        backlight.explain(net, x)
    gc.collect()
    assert held() <= before


def test_c5_gamma_on_signed_inputs_is_the_generalised_rule():
    layer = seeded(nn.Linear(5, 3))
    x = torch.randn(4, 5).double()
    split = nn.Linear(10, 3).double()
    split.weight.data = torch.cat([layer.weight, -layer.weight], 1).data
    split.bias.data = layer.bias.data
    halves = torch.cat([x.relu(), (-x).relu()], 1)
    plain = backlight.explain(layer, x, 0, rules=Gamma(0.25)).values
    both = backlight.explain(split, halves, 0, rules=Gamma(0.25)).values
    np.testing.assert_allclose(both[:, :5] + both[:, 5:], plain, rtol=1e-10)


def test_l1_other_models_of_the_same_classes_keep_their_gradients():
    first, other = seeded(Net(Residual)), seeded(Net(Residual), 5)
    x = image(2)
    other(x).sum().backward()
    expected = [p.grad.clone() for p in other.parameters()]
    forwards = {cls: cls.forward for cls in (nn.LayerNorm, nn.Dropout, nn.Conv2d, nn.Linear)}
    backlight.explain(first, x)
    other.zero_grad()
    other(x).sum().backward()
    assert all(torch.equal(p.grad, e) for p, e in zip(other.parameters(), expected, strict=True))
    assert all(cls.forward is function for cls, function in forwards.items())


def test_l2_exact_zeros_and_tiny_values_stay_finite_in_every_precision():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for act in (nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Sigmoid(), nn.ELU()):
            net = seeded(nn.Sequential(nn.Linear(4, 6), act, nn.Linear(6, 2))).to(dtype)
            x = torch.tensor([[0.0, 0, 0, 0], [-1e-10, 1e-10, 0, 1]]).to(dtype)
            net[0].bias.data[:3] = 0
            assert np.isfinite(backlight.explain(net, x, 0).values).all()


def test_a2_a_subtraction_and_its_layer_have_the_same_explanation():
    class Difference(nn.Module):
        def forward(self, x):
            return x[:, :1] - 0.5 * x[:, 1:]

    layer = nn.Linear(2, 1, bias=False).double()
    layer.weight.data = torch.tensor([[1.0, -0.5]]).double()
    x = torch.tensor([[2.0, 1.0]]).double()
    expected = [[2.0, -0.5]]
    np.testing.assert_allclose(backlight.explain(Difference(), x).values, expected)
    np.testing.assert_allclose(backlight.explain(layer, x, rules=Zero()).values, expected)


def test_a4_rows_do_not_share_relevance():
    net, x = seeded(Net(Residual)), image(4)
    together = backlight.explain(net, x, 1, rules="epsilon-plus").values
    for i in range(4):
        np.testing.assert_allclose(
            backlight.explain(net, x[i : i + 1], 1, rules="epsilon-plus").values[0], together[i], rtol=1e-9
        )


def test_d_an_input_used_twice_gets_relevance_from_both():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(8, 2, bias=False)

        def forward(self, x):
            return self.f(torch.cat([x, 2 * x], 1)) + x[:, :2]

    net, x = seeded(Both()), torch.randn(3, 4).double()
    ex = backlight.explain(net, x, 0, rules=Zero())
    np.testing.assert_allclose(ex.values.sum(1), ex.output, rtol=1e-10)
    plain = backlight.explain(net, x, 0, method="gradient_x_input")
    np.testing.assert_allclose(ex.values, plain.values, rtol=1e-10)


def test_after_an_exception_the_model_is_as_before():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 2)

        def forward(self, x):
            raise ZeroDivisionError("the user's own mistake")

    net = Fails()
    before = photograph(net)
    with pytest.raises(backlight.errors.DataError, match="the user's own mistake"):
        backlight.explain(net, torch.rand(2, 3))
    same(before, photograph(net))


def test_the_users_random_state_is_untouched():
    net, x = small(), image(2)
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the global state is what is tested
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for method in ("lrp", "smoothgrad", "shapley"):
        backlight.explain(net, x, method=backlight.Method(method, **({"samples": 2} if method != "lrp" else {})))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


# -- everything that is not handed on stands in the ledger -------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        lambda y: y.softmax(1)[:, 0],
        lambda y: y.log_softmax(1)[:, 1],
        lambda y: y[:, 0] * y[:, 1],
        lambda y: y[:, 0] + 3,
    ],
    ids=["softmax", "log-softmax", "product", "offset"],
)
def test_what_a_target_has_beside_its_gradient_is_the_ledgers_first_line(target):
    net = seeded(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)))
    x = torch.randn(4, 5).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", backlight.errors.BacklightWarning)
        ex = backlight.explain(net, x, target, rules=Zero())
    y = net(x).detach().requires_grad_()
    score = target(y)
    (slope,) = torch.autograd.grad(score.sum(), y)
    missing = (score - (slope * y).sum(1)).detach()
    assert ex.ledger.layers[0] == "target"
    np.testing.assert_allclose(ex.ledger.absorbed[0], missing, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ex.ledger.absorbed.sum(0), ex.residual, rtol=1e-9, atol=1e-12)
    with pytest.raises(backlight.errors.ConservationError, match="the target is not linear in the output"):
        backlight.explain(net, x, target, rules=Zero(), strict=True)


class Constants(nn.Module):
    """A class token, positions of another shape, a masked value, a floor: constants that join the signal."""

    def __init__(self):
        super().__init__()
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(6, 4))
        self.a, self.o = nn.Linear(4, 4), nn.Linear(4, 2)
        self.register_buffer("mask", torch.tensor([True, False, True, True]))

    def forward(self, x):
        h = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        h = torch.where(self.mask, self.a(h), torch.ones(4, dtype=h.dtype))
        return self.o(torch.maximum(h, torch.tensor(-0.1, dtype=h.dtype)).mean(1))


def test_constants_are_booked_as_bias_and_lose_nothing():
    net, x = seeded(Constants()), torch.randn(3, 5, 4).double()
    ex = backlight.explain(net, x, 0, rules=Zero(), strict=True)
    assert {"cat", "add", "where", "maximum"} <= set(ex.ledger.layers)
    np.testing.assert_allclose(ex.ledger.bias, ex.ledger.absorbed, atol=1e-12)
    np.testing.assert_allclose(ex.ledger.absorbed.sum(0), ex.residual, rtol=1e-9, atol=1e-12)
    # LRP-0 is gradient × input here, so that each line is known: the token's, for instance, is token · gradient
    token = net.token.detach().clone().requires_grad_()
    score = torch.func.functional_call(net, {"token": token}, (x,))[:, 0]
    for row in range(3):
        (slope,) = torch.autograd.grad(score[row], token, retain_graph=True)
        line = ex.ledger.layers.index("cat")
        np.testing.assert_allclose(ex.ledger.bias[line, row], (token * slope).sum().detach(), rtol=1e-9, atol=1e-12)


def test_the_states_and_biases_of_a_recurrent_layer_are_no_loss():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.r, self.o = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x):
            return self.o(self.r(x)[0][:, -1])

    ex = backlight.explain(seeded(Recurrent()), torch.randn(3, 6, 4).double(), 0, rules=Zero(), strict=True)
    np.testing.assert_allclose(ex.ledger.absorbed, ex.ledger.bias, atol=1e-12)
    np.testing.assert_allclose(ex.ledger.absorbed.sum(0), ex.residual, rtol=1e-9, atol=1e-12)


def test_a_random_leaky_relu_has_the_middle_of_its_slopes():
    net = seeded(nn.Sequential(nn.Linear(3, 4), nn.RReLU(0.1, 0.5), nn.Linear(4, 2, bias=False)))
    x = torch.randn(4, 3).double()
    ex = backlight.explain(net, x, 0, rules=Zero())
    plain = backlight.explain(net, x, 0, method="gradient_x_input")
    np.testing.assert_allclose(ex.values, plain.values, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ex.ledger.absorbed.sum(0), ex.residual, rtol=1e-9, atol=1e-12)


def test_a_threshold_that_puts_in_a_value_hands_its_relevance_on():
    net = nn.Sequential(nn.Threshold(0.5, 2.0), nn.Linear(3, 1, bias=False)).double()
    ex = backlight.explain(net, torch.tensor([[0.0, 1.0, 0.2]]).double(), rules=Zero())
    np.testing.assert_allclose(ex.values.sum(1), ex.output, rtol=1e-12)
