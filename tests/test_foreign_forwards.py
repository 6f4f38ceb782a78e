"""A forward is the user's own code: what it raises, in which precision it computes, what it writes into."""

import collections
import contextlib
import copy
import dataclasses
import importlib
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import backlight
from backlight.errors import BacklightWarning, DataError, UnsupportedModel
from backlight.rules import Epsilon

METHODS = ["lrp", "gradient", "integrated_gradients"]


class Normed(nn.Module):
    """Layers in less precision, with normalisations between that are folded and that stand alone."""

    def __init__(self, dtype):
        super().__init__()
        self.c, self.n = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
        self.d, self.m, self.k, self.o = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.BatchNorm1d(16), nn.Linear(16, 3)
        self.dtype = dtype

    def forward(self, x):
        with torch.autocast("cpu", dtype=self.dtype):
            h = F.relu(self.n(self.c(x))).mean((2, 3))
            return self.o(self.k(F.relu(self.m(self.d(h))))).float()


class Narrow(nn.Module):
    """One layer in less precision, the output in more."""

    def __init__(self, dtype):
        super().__init__()
        self.a, self.b, self.o, self.dtype = nn.Linear(6, 64), nn.Linear(64, 64).to(dtype), nn.Linear(64, 3), dtype
        self.n = nn.BatchNorm1d(64).to(dtype)

    def forward(self, x):
        return self.o(F.relu(self.n(self.b(F.relu(self.a(x)).to(self.dtype)))).float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [Normed, Narrow])
def test_the_least_precise_numbers_set_the_tolerance(kind, dtype):
    for seed in range(3):
        torch.manual_seed(seed)
        net = kind(dtype).eval()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.3)
                nn.init.uniform_(module.running_var, 0.3, 2)
        x = torch.randn(5, 2, 5, 5) if kind is Normed else torch.randn(5, 6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BacklightWarning)
            ex = backlight.explain(net, x, 0, rules="epsilon")
        y = net(x)[:, 0].detach().numpy()
        # hundreds of roundings to 2⁻⁸ or 2⁻¹¹
        np.testing.assert_allclose(ex.output, y, atol=16 * torch.finfo(dtype).eps * np.abs(y).max())


class Raising(nn.Module):
    def __init__(self, error, on):
        super().__init__()
        self.a, self.error, self.on = nn.Linear(3, 2), error, on

    def forward(self, x):
        if self.on(x):
            raise self.error
        return self.a(x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "error", [KeyError("key"), ZeroDivisionError(), ValueError("two\nlines"), RuntimeError("torch")]
)
def test_what_a_forward_raises_is_one_sentence(method, error):
    net = Raising(error, lambda x: bool((x > 5).any()))
    with pytest.raises(DataError, match=rf"^Raising cannot run on these inputs: {type(error).__name__}") as seen:
        backlight.explain(net, torch.full((4, 3), 9.0), 0, method=method)
    assert "\n" not in str(seen.value)


def test_a_reference_method_that_runs_more_rows_than_the_model_takes():
    net = Raising(ValueError("four rows"), lambda x: len(x) != 4)
    with pytest.raises(DataError, match="cannot run on these inputs: ValueError: four rows"):
        backlight.explain(net, torch.randn(4, 3), 0, method="integrated_gradients")


@pytest.mark.parametrize(
    ("place", "calls", "method"),
    [
        ("attribution.lrp.forward", 0, "lrp"),
        ("engine.network.forward", 0, "lrp"),
        ("engine.copies.light_copy", 0, "lrp"),
        ("engine.copies.undisturbed", 0, "lrp"),
        ("attribution.reference.light_copy", 0, "integrated_gradients"),
        ("attribution.reference.only_output", 1, "integrated_gradients"),
    ],
)
def test_a_fault_of_ours_is_not_said_to_be_the_forwards(monkeypatch, place, calls, method):
    module, _, name = place.rpartition(".")
    there = importlib.import_module(f"backlight.{module}")
    right, made = getattr(there, name), []

    def faulty(*args, **options):
        made.append(name)
        if len(made) > calls:
            raise KeyError("ours")
        return right(*args, **options)

    monkeypatch.setattr(there, name, faulty)
    with pytest.raises(KeyError, match="ours"):
        backlight.explain(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.randn(4, 3), 0, method=method)
    assert len(made) == calls + 1


class Writing(nn.Module):
    """Whatever a module may hold, written into at every run."""

    def __init__(self, tensors):
        super().__init__()
        self.a, self.tensors = nn.Linear(3, 2), tensors
        self.register_buffer("seen", torch.zeros(3))
        self.nested = [[torch.zeros(3)], {"deep": (torch.zeros(2), [torch.ones(1)])}]
        self.loose = torch.zeros(3)
        self.array = np.zeros(4)
        self.counter = collections.Counter()
        self.queue = collections.deque([1], maxlen=3)
        self.own = Own(self)
        self.drawn = torch.Generator().manual_seed(3)
        self.numpy = np.random.default_rng(4)
        self.python = random.Random(5)  # noqa: S311 - no secret

    def forward(self, x):
        with torch.no_grad():
            self.seen += 1
            if self.tensors:
                self.nested[0][0] += 1
                self.nested[1]["deep"][1][0] += 1
                self.loose += 1
                torch.rand(2, generator=self.drawn)
        self.nested[1]["deep"][1].append(2)
        self.array += 1
        self.counter["runs"] += 1
        self.queue.append(2)
        self.own.count()
        self.numpy.normal()
        self.python.random()
        return self.a(x)


class Own:
    def __init__(self, net):
        self.runs, self.layer, self.rows = 0, net.a, []

    def count(self):
        self.runs += 1
        self.rows.append(self.layer.weight.shape)


def state(net):
    tensors = [net.seen, net.loose, net.nested[0][0], net.nested[1]["deep"][0], net.nested[1]["deep"][1][0]]
    return copy.deepcopy((
        [t.tolist() for t in tensors], len(net.nested[1]["deep"][1]), net.array.tolist(), dict(net.counter), list(net.queue),
        net.own.runs, net.own.rows, net.drawn.get_state().tolist(), net.numpy.bit_generator.state, net.python.getstate(),
        {name: value.tolist() for name, value in net.state_dict().items()},
    ))  # fmt: skip


@pytest.mark.parametrize("tensors", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_that_a_module_holds_is_written_into(method, tensors):
    torch.manual_seed(0)
    net, x = Writing(tensors).eval(), torch.randn(4, 3)
    before, layer = state(net), net.own.layer
    # a graph cannot hold tensors that are no buffers and are written into: that is refused
    with contextlib.suppress(UnsupportedModel) if tensors and method == "lrp" else contextlib.nullcontext():
        backlight.explain(net, x, 0, method=method)

    assert state(net) == before
    assert net.own.layer is layer is net.a


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, x):
        return self.a(x - x.mean(0))


@pytest.mark.parametrize(
    "method", ["gradient", "gradient_x_input", "integrated_gradients", "smoothgrad", "occlusion", "shapley"]
)
def test_reference_methods_say_that_rows_see_each_other(method):
    net, x = Centred().double(), torch.randn(4, 3, dtype=torch.float64)
    with pytest.warns(BacklightWarning, match="the rows of a batch see each other"):
        backlight.explain(net, x, 0, method=method)
    with pytest.raises(UnsupportedModel, match="the rows of a batch see each other"):
        backlight.explain(net, x, 0, method=method, strict=True)
    # a row alone, and rows that are apart: no word
    backlight.explain(net, x[:1], 0, method=method, strict=True)
    backlight.explain(net.a, x, 0, method=method, strict=True)


class Free(nn.Module):
    """A forward as a function of its layers."""

    def __init__(self, run):
        super().__init__()
        self.a, self.b, self.run = nn.Linear(6, 8), nn.Linear(8, 3), run

    def forward(self, x):
        return self.run(self, x)


def free(run):
    torch.manual_seed(0)
    return Free(run).double().eval(), torch.randn(4, 6, dtype=torch.float64)


DRAWS = {
    "noise": lambda s, x: s.b(s.a(x) + torch.randn(8)),
    "in place": lambda s, x: s.b(s.a(x) + torch.empty(8).exponential_()),
    "gumbel": lambda s, x: s.b(F.gumbel_softmax(s.a(x), hard=True)),
    "counts": lambda s, x: s.b(torch.poisson(s.a(x).relu())),
    "columns": lambda s, x: s.b(s.a(x)[:, torch.randint(8, (8,))]),
    "NumPy": lambda s, x: s.b(s.a(x)) * (1 + np.random.randn()),  # noqa: NPY002
    "Python": lambda s, x: s.b(s.a(x)) * (1 + random.random()),  # noqa: S311
    "a branch": lambda s, x: s.b(s.a(x).relu()) if torch.rand(1) < 0.5 else s.b(s.a(x)),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_a_forward_whose_output_changes_with_what_it_draws_is_refused(kind):
    net, x = free(DRAWS[kind])
    with pytest.raises(UnsupportedModel, match="draws at random"):
        backlight.explain(net, x, 0)


def test_what_is_drawn_and_not_used_changes_nothing():
    net, x = free(lambda s, x: s.b(s.a(x).relu()) if not (s.training and torch.rand([]) < 0.5) else s.b(s.a(x)))
    drawn, _ = free(lambda s, x: (torch.rand([]) < 0.5, np.random.rand(), s.b(s.a(x).relu()))[2])  # noqa: NPY002
    before = torch.get_rng_state()
    first, second = (backlight.explain(one, x, 0, strict=True).values for one in (net, drawn))

    np.testing.assert_allclose(first, second, rtol=1e-12)
    assert torch.equal(torch.get_rng_state(), before)


def test_operators_of_functions_are_refused_by_name():
    net, x = free(lambda s, x: torch.cond(x.sum() > 0, lambda t: s.b(s.a(t).relu()), lambda t: s.b(s.a(t)), (x,)))
    with pytest.raises(UnsupportedModel, match=r"calls torch's 'cond', an operator of functions"):
        backlight.explain(net, x, 0)


@pytest.mark.parametrize(
    "run",
    [
        lambda s, x: s.b(torch.func.vmap(lambda row: torch.cumsum(row, 0))(s.a(x).relu())),
        lambda s, x: s.b(s.a(x).relu()) * len(torch.unique(x.round())),
        lambda s, x: s.b(s.a(x) * torch.heaviside(s.a(x), x.new_zeros(1))),
        lambda s, x: torch.func.jvp(lambda h: s.b(s.a(h).square()), (x,), (torch.ones_like(x),))[1],
    ],
)
def test_forwards_of_functions_and_counts_close(run):
    net, x = free(run)
    ex = backlight.explain(net, x, 0, rules="epsilon")
    np.testing.assert_allclose(ex.output, net(x)[:, 0].detach(), rtol=1e-9)
    np.testing.assert_allclose(
        ex.base_values + ex.values.sum(1) + ex.ledger.absorbed.sum(0), ex.output, rtol=1e-9, atol=1e-12
    )


def by_itself(s, x):
    return torch.stack([s.b(s.a(row).relu()) if row[0] > 0 else s.b(s.a(row)) for row in x])


def anew(s, x):
    h = s.a(x)
    h.unsqueeze_(1).transpose_(1, 2).squeeze_(2).mul_(2)
    return s.b(h.relu()) if x.sum() < 1e9 else h


def without_ones(s, x):
    h = s.a(x)[:, None] * 2
    h.squeeze_()
    return s.b(h) if x.sum() < 1e9 else h


@pytest.mark.parametrize("run", [by_itself, anew, without_ones])
def test_shapes_that_change_in_place_where_a_branch_looks_at_the_data(run):
    """A trace of one run holds operators that change the shape of the tensor that they are called on."""
    net, x = free(run)
    ex = backlight.explain(net, x, 0, rules=Epsilon(0.0))
    leaf = x.clone().requires_grad_()
    net(leaf)[:, 0].sum().backward()

    np.testing.assert_allclose(ex.output, net(x)[:, 0].detach(), rtol=1e-12)
    np.testing.assert_allclose(ex.values, (leaf.grad * x).numpy(), rtol=1e-9, atol=1e-12)


def test_an_operator_that_fails_on_numbers_that_are_none_is_explained():
    """Whether rows are apart is tried with rows of NaN, on which eigenvalues do not converge."""
    net, x = free(lambda s, x: s.b(torch.linalg.eigvalsh(torch.diag_embed(s.a(x)) + 1)))
    with pytest.warns(BacklightWarning, match="no rule is known for operator 'linalg_eigvalsh'"):
        ex = backlight.explain(net, x, 0, rules="epsilon")
    np.testing.assert_allclose(ex.output, net(x)[:, 0].detach(), rtol=1e-9)


def test_numbers_on_which_a_later_batch_fails_are_one_sentence():
    net, x = free(
        lambda s, x: s.b(torch.linalg.cholesky(torch.diag_embed(s.a(x)) * 0.1 + x[:, :1, None] * torch.eye(8)).sum(1))
    )
    x = x.abs() + 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BacklightWarning)
        backlight.explain(net, x, 0)
        with pytest.raises(DataError, match=r"^Free cannot run on these inputs: _LinAlgError") as seen:
            backlight.explain(net, -x, 0)
    assert "\n" not in str(seen.value)


def singular_values(h):
    return torch.linalg.svdvals(h.reshape(-1, 2, 4)).repeat(1, 4)


def singular_vectors(h):
    return torch.linalg.svd(h.reshape(-1, 2, 4), full_matrices=False)[2].flatten(1)


def pseudo_inverse(h):
    return torch.linalg.pinv(h.reshape(-1, 2, 4)).flatten(1)


def signed(z, a, layer):
    """The size of what a unit could be at most, with the sign of what it is."""
    size = (layer.weight.square().sum(1) * a.square().sum(1, keepdim=True) + layer.bias.square()).sqrt()
    return torch.where(z >= 0, size, -size)


@pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")
@pytest.mark.parametrize("epsilon", [1e-2, 1e-6, 0.0])
@pytest.mark.parametrize("middle", [singular_values, singular_vectors, pseudo_inverse])
def test_what_epsilon_moves_behind_a_decomposition_is_its_stabiliser_alone(middle, epsilon):
    """By hand: z / (z + ε ‖(w a, b)‖ sign z) of what comes to a unit goes on, and the decomposition has its gradient."""
    net, x = free(lambda s, x: s.b(middle(s.a(x))))
    h = net.a(x).detach().requires_grad_()
    g = middle(h)
    y = net.b(g)
    going = (y / (y + epsilon * signed(y, g, net.b)))[:, :1].detach()
    (c,) = torch.autograd.grad((going * g * net.b.weight[0]).sum(), h)
    c = c * h / (h + epsilon * signed(h, x, net.a))
    expected = x * (c @ net.a.weight)
    ex = backlight.explain(net, x, 0, rules=backlight.rules.Epsilon(epsilon))
    np.testing.assert_allclose(ex.values, expected.detach(), rtol=1e-9, atol=1e-12)


class Held(nn.Linear):
    """A number and a list in slots, one of them private."""

    __slots__ = ("__times", "seen")

    def __init__(self):
        super().__init__(3, 2)
        self.__times, self.seen = 3.0, []

    def change(self, times):
        self.__times = times

    def forward(self, x):
        self.seen.append(len(x))
        return super().forward(x) * self.__times


def test_what_a_module_holds_in_slots_is_read_watched_and_left_alone():
    net, x = Held().double(), torch.randn(4, 3, dtype=torch.float64)
    for times in (3.0, -5.0):
        net.change(times)
        ex = backlight.explain(net, x, 0, rules=backlight.rules.Zero())
        np.testing.assert_allclose(ex.values, x * net.weight[0].detach() * times, rtol=1e-12)
    assert net.seen == []


class Attribute(nn.Module):
    """Weights that are no parameters."""

    def __init__(self, dtype):
        super().__init__()
        self.w = torch.randn(3, 2, dtype=dtype)

    def forward(self, x):
        return x @ self.w


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_a_model_without_parameters_has_the_precision_that_it_runs_in(dtype, method):
    net, x = Attribute(dtype), np.random.default_rng(0).normal(size=(4, 3))
    ex = backlight.explain(net, x, 0, method=method)
    digits = 1e-12 if dtype is torch.float64 else 1e-4
    np.testing.assert_allclose(ex.output, x @ net.w.double()[:, 0].numpy(), rtol=digits, atol=digits)


class EightBits(nn.Module):
    """Weights that are kept in eight bits, and computed with in more."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 2).to(torch.float8_e4m3fn), requires_grad=False)

    def forward(self, x):
        return x @ self.w.to(x.dtype)


@pytest.mark.parametrize("method", METHODS)
def test_weights_in_eight_bits_are_computed_with_in_more(method):
    net, x = EightBits(), torch.randn(4, 3)
    np.testing.assert_allclose(backlight.explain(net, x, 0, method=method).output, net(x)[:, 0], rtol=1e-5)
    np.testing.assert_allclose(
        backlight.explain(net, x, 0, rules=backlight.rules.Zero()).values, x * net.w.float()[:, 0], rtol=1e-5
    )


def quantised(kind):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    if kind == "as it runs":
        return torch.ao.quantization.quantize_dynamic(net, {nn.Linear})
    net = torch.ao.quantization.QuantWrapper(net)
    net.qconfig = torch.ao.quantization.get_default_qconfig()
    torch.ao.quantization.prepare(net, inplace=True)(torch.randn(8, 3))
    return torch.ao.quantization.convert(net)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["as it runs", "beforehand"])
@pytest.mark.parametrize("method", METHODS)
def test_a_quantised_network_is_said_to_be_one(kind, method):
    with pytest.raises(UnsupportedModel, match="is quantised: its weights are packed"):
        backlight.explain(quantised(kind), torch.randn(4, 3), 0, method=method)


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.randn(4, 3).to_sparse(), r"X is a sparse tensor.*X\.to_dense\(\)"),
        (lambda: torch.randn(4, 3).to_sparse_csr(), r"X is a sparse tensor.*X\.to_dense\(\)"),
        (lambda: torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(3, 3)]), "X is a nested tensor"),
        (lambda: torch.quantize_per_tensor(torch.randn(4, 3), 0.1, 0, torch.qint8), r"X\.dequantize\(\)"),
    ],
)
def test_tensors_whose_numbers_have_no_place_are_refused(make, said):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        X = make()
    with pytest.raises(DataError, match=said):
        backlight.explain(nn.Linear(3, 2), X, 0)


@torch.library.custom_op("backlight_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x):
    return torch.empty_like(x)


def test_a_users_own_operator_without_a_gradient_is_named():
    net, x = free(lambda s, x: s.b(twice(s.a(x))))
    with (
        pytest.warns(BacklightWarning, match="no rule is known"),
        pytest.raises(UnsupportedModel, match=r"'backlight_tests\.twice'.*has no gradient"),
    ):
        backlight.explain(net, x, 0)


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    beside: torch.Tensor


def test_a_dataclass_is_an_output_as_a_dictionary_is():
    net, x = free(lambda s, x: Answer(s.b(s.a(x)), s.a(x)))
    expected = net.b(net.a(x)).detach()[:, 1]
    np.testing.assert_allclose(backlight.explain(net, x, 1, output="logits").output, expected)
    ex = backlight.explain(net, x, lambda out: out.logits[:, 1] + out.beside[:, 0])
    np.testing.assert_allclose(ex.output, expected + net.a(x).detach()[:, 0])
