"""What a captured network holds: constants of any structure, nodes without a value, outputs, inputs that only steer."""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize, prune

import backlight
from backlight.engine.capture import capture
from backlight.errors import ArgumentError, BacklightWarning, UnsupportedModel

D = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")


def seeded(make, seed=0):
    torch.manual_seed(seed)
    return make().double().eval()


def closes(ex, tolerance=1e-12):
    """output = base + values + everything in the ledger, row by row."""
    flow = np.abs(ex.ledger.entering).max() if ex.ledger.layers else np.abs(ex.output).max()
    np.testing.assert_allclose(ex.ledger.absorbed.sum(0), ex.residual, rtol=0, atol=tolerance * flow)


# -- constants ---------------------------------------------------------------------------------------------------------


class Constant(nn.Module):
    """A linear layer whose weight reaches it through something that gives several values, or none."""

    def __init__(self, how):
        super().__init__()
        self.l, self.h, self.how = nn.Linear(6, 4), nn.Linear(4, 2), how
        self.register_buffer("codes", torch.arange(6))

    def weight(self, x):
        w = self.l.weight
        return {
            "chunk": lambda: torch.cat(w.chunk(2, 0)),
            "unbind": lambda: torch.stack(w.unbind(0)),
            "split": lambda: torch.cat(w.split([1, 3], 0)),
            "sort": lambda: w.sort(0)[0],
            "topk": lambda: w.topk(4, 0)[0],
            "cast": lambda: w * torch.arange(6).to(x.dtype),
            "one-hot": lambda: w @ F.one_hot(self.codes, 6).to(torch.float32).to(x.dtype),
            "max": lambda: w - w.max(1, keepdim=True).values,
        }[self.how]()

    def forward(self, x):
        return self.h(torch.relu(F.linear(x, self.weight(x), self.l.bias)))


@pytest.mark.parametrize("how", ["chunk", "unbind", "split", "sort", "topk", "cast", "one-hot", "max"])
def test_a_weight_is_a_constant_however_it_is_made(how):
    net = seeded(lambda: Constant(how))
    x = torch.randn(3, 6, dtype=D)
    plain = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), net.h).double()
    with torch.no_grad():
        plain[0].weight.copy_(net.weight(x))
        plain[0].bias.copy_(net.l.bias)
    for rule in (backlight.rules.Gamma(0.25), backlight.rules.WSquare()):
        ex = backlight.explain(net, x, 1, rules=rule)

        np.testing.assert_allclose(ex.values, backlight.explain(plain, x, 1, rules=rule).values, rtol=1e-10, atol=1e-12)


class Doubled(nn.Module):
    def forward(self, w):
        return 2 * w


def pruned(net):
    prune.l1_unstructured(net[0], "weight", 0.5)


def reparametrised(net):
    parametrize.register_parametrization(net[0], "weight", Doubled())


def normalised(net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(net[0])


def kept_aside(net):
    weight = net[0].weight.detach()
    del net[0].weight
    net[0].weight = weight


@pytest.mark.parametrize("change", [pruned, reparametrised, normalised, kept_aside])
def test_weights_that_are_no_parameters_are_weights(change):
    net = seeded(lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)))
    change(net)
    plain = seeded(lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)))
    x = torch.randn(3, 8, dtype=D)
    net(x)
    with torch.no_grad():
        plain[0].weight.copy_(net[0].weight)
        plain[2].load_state_dict(net[2].state_dict())

    ours, theirs = (backlight.explain(n, x, 0, rules=backlight.rules.Gamma(0.25)) for n in (net, plain))

    np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-10, atol=1e-12)


def test_a_forward_of_any_number_of_arguments():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, *inputs, **options):
            return self.head(self.lstm(inputs[0])[0][:, -1])

    net = seeded(Net)
    ex = backlight.explain(net, torch.randn(3, 7, 4, dtype=D), 0)

    assert ex.values.shape == (3, 7, 4)
    # one capture holds for other numbers of rows
    assert "exported, " in str(backlight.plan(net, torch.randn(3, 7, 4, dtype=D)))


# -- inputs that steer -------------------------------------------------------------------------------------------------


class Words(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.words, self.types, self.head, self.pool = nn.Embedding(9, 4), nn.Embedding(2, 4), nn.Linear(4, 2), pool

    def forward(self, ids, attention_mask, token_type_ids=None):
        x, n = self.words(ids), torch.arange(ids.shape[1])
        if token_type_ids is not None:
            x = x + self.types(token_type_ids)
        if self.pool == "attention":
            keep = (n[:, None] >= n).to(torch.bool)
            x = F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], keep)[:, 0]
        weights = attention_mask.to(x.dtype)[..., None]
        return self.head((x * weights).sum(1) / weights.sum(1))


@pytest.mark.parametrize("pool", ["attention", "mean"])
def test_masks_and_types_of_tokens_get_nothing_and_words_get_all(pool):
    net = seeded(lambda: Words(pool))
    ids = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])
    given = {"ids": ids, "attention_mask": (ids > 0).long(), "token_type_ids": torch.zeros_like(ids)}
    ex = backlight.explain(net, given, 1)

    assert ex.values.shape == (2, 4)
    assert (ex.values[ids.numpy() == 0] == 0).all() or pool == "attention"
    closes(ex)
    assert "held constant: attention_mask, token_type_ids" in str(backlight.plan(net, given))


def test_a_mean_of_words_gives_each_its_own_product():
    """Σ over the vector of head · word / length: worked out without a graph."""
    net = seeded(lambda: Words("mean"))
    ids = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])
    mask = (ids > 0).double()
    ex = backlight.explain(net, {"ids": ids, "attention_mask": mask.long()}, 1, rules=backlight.rules.Zero())

    with torch.no_grad():
        expected = (net.words(ids) @ net.head.weight[1]) * mask / mask.sum(1, keepdim=True)
    np.testing.assert_allclose(ex.values, expected, rtol=1e-12, atol=1e-15)


class Bags(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(9, 4, mode=mode, padding_idx=0), nn.Linear(4, 2, bias=False)

    def forward(self, ids):
        return self.head(self.bag(ids))


class Looked(nn.Module):
    """The same as a bag, spelt out."""

    def __init__(self, bags, how):
        super().__init__()
        self.w, self.head, self.mode, self.how = bags.bag.weight, bags.head, bags.bag.mode, how

    def forward(self, ids):
        vectors = {
            "functional": lambda: F.embedding(ids, self.w),
            "index": lambda: self.w[ids],
            "select": lambda: self.w.index_select(0, ids.reshape(-1)).reshape(*ids.shape, -1),
            "one-hot": lambda: F.one_hot(ids, 9).to(self.w.dtype) @ self.w,
            "shifted": lambda: F.embedding((ids.roll(1, 1).roll(-1, 1) + 3 - 3).clamp(min=0), self.w),
        }[self.how]()
        if self.mode == "max":
            return self.head(vectors.masked_fill((ids == 0)[..., None], -1e9).amax(1))
        total = vectors.sum(1)
        return self.head(total / (ids != 0).sum(1, keepdim=True) if self.mode == "mean" else total)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("how", ["functional", "index", "select", "one-hot", "shifted"])
def test_a_table_in_any_spelling_gives_each_number_its_vectors_share(mode, how):
    bags = seeded(lambda: Bags(mode))
    ids = torch.tensor([[1, 2, 3, 0], [4, 5, 1, 8], [7, 0, 0, 0]])
    whole = backlight.explain(bags, ids, 1, rules=backlight.rules.Zero())
    parts = backlight.explain(Looked(bags, how).eval(), ids, 1, rules=backlight.rules.Zero())

    assert whole.values.shape == (3, 4)
    np.testing.assert_allclose(whole.values.sum(1), whole.output, rtol=1e-12)
    np.testing.assert_allclose(whole.values, parts.values, rtol=1e-10, atol=1e-14)


# -- outputs -----------------------------------------------------------------------------------------------------------


class Cache:
    """Something that a model hands back beside its numbers."""


@dataclass
class Answer:
    logits: Any = None
    hidden: Any = None
    cache: Any = None


class Several(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.a, self.b, self.how = nn.Linear(4, 5), nn.Linear(5, 3), how

    def forward(self, x):
        hidden = torch.relu(self.a(x))
        logits = self.b(hidden)
        return {
            "dict": {"hidden": hidden, "logits": logits, "cache": Cache()},
            "dataclass": Answer(logits, hidden, Cache()),
            "tuple": (logits, hidden, Cache()),
            "nested": {"score": (logits, [hidden])},
        }[self.how]


@pytest.mark.parametrize(
    ("how", "output"),
    [("dict", "hidden"), ("dict", 0), ("dict", lambda o: o["hidden"]), ("dataclass", "hidden"),
     ("dataclass", lambda o: o.hidden), ("tuple", 1), ("tuple", -2), ("nested", lambda o: o["score"][1][0])],
)  # fmt: skip
@pytest.mark.parametrize("method", ["lrp", "gradient_x_input"])
def test_one_of_several_outputs_is_named(how, output, method):
    net, x = seeded(lambda: Several(how)), torch.randn(3, 4, dtype=D)
    first = nn.Sequential(net.a, nn.ReLU())
    ex = backlight.explain(net, x, 2, output=output, method=method)

    np.testing.assert_allclose(ex.values, backlight.explain(first, x, 2, method=method).values, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("how", "target"),
    [("dict", lambda o: o["logits"][:, 0] + 2 * o["hidden"][:, 1]),
     ("dataclass", lambda o: o.logits[:, 0] + 2 * o.hidden[:, 1]),
     ("tuple", lambda o: o[0][:, 0] + 2 * o[1][:, 1]),
     ("nested", lambda o: o["score"][0][:, 0] + 2 * o["score"][1][0][:, 1])],
)  # fmt: skip
@pytest.mark.parametrize("method", ["lrp", "gradient_x_input"])
def test_a_target_function_sees_all_that_the_model_returns(how, target, method):
    net, x = seeded(lambda: Several(how)), torch.randn(3, 4, dtype=D)
    hidden, logits = nn.Sequential(net.a, nn.ReLU()), nn.Sequential(net.a, nn.ReLU(), net.b)
    ex = backlight.explain(net, x, target, method=method, rules=backlight.rules.Zero())

    one = backlight.explain(logits, x, 0, method=method, rules=backlight.rules.Zero())
    other = backlight.explain(hidden, x, 1, method=method, rules=backlight.rules.Zero())
    np.testing.assert_allclose(ex.output, one.output + 2 * other.output, rtol=1e-12)
    np.testing.assert_allclose(ex.values, one.values + 2 * other.values, rtol=1e-10, atol=1e-14)


def test_a_choice_of_output_that_names_nothing_is_one_sentence():
    x = torch.randn(3, 4, dtype=D)
    with pytest.raises(ArgumentError, match=r"no output 'logit': it returns hidden, logits, cache"):
        backlight.explain(seeded(lambda: Several("dict")), x, 0, output="logit")
    with pytest.raises(ArgumentError, match="output=7: the model returns 3 values"):
        backlight.explain(seeded(lambda: Several("tuple")), x, 0, output=7)
    with pytest.raises(ArgumentError, match="output='cache' is no tensor"):
        backlight.explain(seeded(lambda: Several("dataclass")), x, 0, output="cache")
    with pytest.raises(ArgumentError, match="give a name, a position or a function"):
        backlight.explain(seeded(lambda: Several("dict")), x, 0, output=1.5)
    with pytest.raises(UnsupportedModel, match=r"2 outputs.*output=0"):
        backlight.explain(seeded(lambda: Several("tuple")), x, 0)


def test_a_choice_among_named_outputs_is_said():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.start, self.end = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return {"start": self.start(x), "end": self.end(x)}

    net, x = seeded(Named), torch.randn(3, 4, dtype=D)
    with pytest.warns(BacklightWarning, match="output 'start' is explained; output= names another one: end"):
        backlight.explain(net, x, 0)
    with pytest.raises(ArgumentError, match="strict=True leaves no choice open"):
        backlight.explain(net, x, 0, strict=True)


def test_a_compiled_script_is_refused_by_name():
    net, x = nn.Sequential(nn.Linear(3, 2)), torch.randn(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = (torch.jit.trace(net, x), torch.jit.script(net))
    for module in compiled:
        with pytest.raises(UnsupportedModel, match="compiled by TorchScript"):
            backlight.explain(module, x, 0)


# -- precision ---------------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """A norm computed in single precision, as many models do, in a network of another one."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.w = nn.Linear(6, 8), nn.Linear(8, 2), nn.Parameter(torch.rand(8) + 0.5)
        self.register_buffer("scale", torch.rand(8) + 0.5)

    def forward(self, x):
        h = torch.relu(self.a(x))
        f = h.to(torch.float32)
        f = f * torch.rsqrt(f.square().mean(-1, keepdim=True) + 1e-6)
        return self.b(self.w * f.to(h.dtype) * self.scale)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.bfloat16, 0.05)])
def test_arithmetic_is_in_each_operators_own_precision(dtype, tolerance):
    torch.manual_seed(0)
    net, x = Mixed().eval(), torch.randn(5, 6)
    single = backlight.explain(net, x, 1)
    other = Mixed().eval().to(dtype)
    other.load_state_dict(net.state_dict())
    ex = backlight.explain(other, x.to(dtype), 1)

    np.testing.assert_allclose(ex.values, single.values, rtol=0, atol=tolerance * np.abs(single.values).max())


def test_a_signal_that_a_constant_repeats_gets_the_relevance_of_all_copies():
    """Σ_k w_k x over a new axis: the transpose adds up over it."""

    class Repeated(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.h = nn.Parameter(torch.randn(4, 1, 5)), nn.Linear(5, 2, bias=False)

        def forward(self, x):
            return self.h((x[:, None, :, None] * self.w).sum(1).sum(1))

    net, x = seeded(Repeated), torch.randn(3, 6, dtype=D)
    ex = backlight.explain(net, x, 1, rules=backlight.rules.Zero())
    with torch.no_grad():
        expected = x * (net.w.sum((0, 1)) @ net.h.weight[1])
    np.testing.assert_allclose(ex.values, expected, rtol=1e-12)


@pytest.mark.parametrize("kernel", [4, (2, 3)])
@pytest.mark.parametrize(
    "rule",
    [backlight.rules.Gamma(0.25), backlight.rules.Flat(), backlight.rules.WSquare(), backlight.rules.Epsilon(0.1)],
)
def test_same_padding_of_an_even_kernel_is_a_pad_and_a_convolution(kernel, rule):
    """One more at the end of an axis than at its beginning, as torch pads."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, kernel, padding="same"), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(50, 2)
        )
    )
    pads = [amount for k in reversed(sides) for amount in ((k - 1) // 2, k // 2)]
    plain = nn.Sequential(nn.ZeroPad2d(pads), nn.Conv2d(1, 2, kernel), *net[1:]).double().eval()
    plain[1].load_state_dict(net[0].state_dict())
    x = torch.randn(2, 1, 5, 5, dtype=D)
    a, b = (backlight.explain(n, x, 0, rules=rule) for n in (net, plain))

    np.testing.assert_allclose(a.output, b.output, rtol=1e-12)
    if not isinstance(rule, backlight.rules.Flat | backlight.rules.WSquare):
        # these count the cells of a pad that is a layer of its own as inputs
        np.testing.assert_allclose(a.values, b.values, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(a.ledger.absorbed.sum(0), a.residual, rtol=1e-9, atol=1e-12)


def test_a_box_that_rows_leave_names_the_cell_and_can_be_allowed():
    """R_j = (x_j w_j − l_j w_j⁺ − h_j w_j⁻) / Σ … · f, also outside of the box."""
    net, x = seeded(lambda: nn.Linear(3, 2)), torch.tensor([[0.5, 0.3, 0.2], [0.5, 1.03, 0.2]], dtype=D)
    high = torch.tensor([2.0, 1.0, 1.0], dtype=D)
    named = r"row 1, column 1 is 1\.03, outside its box from 0 to 1:.*outside='allow'"
    box = backlight.rules.Box(torch.zeros(3), high)
    with pytest.warns(backlight.errors.BacklightWarning, match=named):
        warned = backlight.explain(net, x, 0, rules=box)
    for refused, strict in ((box, True), (replace(box, outside="raise"), False)):
        with pytest.raises(backlight.errors.DataError, match=named):
            backlight.explain(net, x, 0, rules=refused, strict=strict)
    allowed = replace(box, outside="allow")

    with torch.no_grad():
        w = net.weight[0]
        parts = x * w - high * w.clamp(max=0)
        expected = parts / parts.sum(1, keepdim=True) * net(x)[:, :1]
    for ex in (warned, backlight.explain(net, x, 0, rules=allowed, strict=True)):
        np.testing.assert_allclose(ex.values, expected, rtol=1e-12)
    with pytest.raises(ArgumentError, match="outside must be"):
        backlight.rules.Box(0, 1, outside="clip")


def test_a_double_network_whose_forward_names_a_lower_precision_is_explained_in_double():
    """The function of its numbers: the mean of the rows' columns of the weight, as whole numbers have no relevance."""

    class Letters(nn.Module):
        def __init__(self):
            super().__init__()
            self.o = nn.Linear(9, 2)

        def forward(self, ids):
            return self.o(F.one_hot(ids, 9).float().mean(1))

    net, ids = seeded(Letters), torch.randint(0, 9, (3, 5), generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError):
        net(ids)
    for rules in ("epsilon", "attnlrp"):
        with pytest.warns(backlight.errors.BacklightWarning, match="holds double precision.*names a lower one"):
            ex = backlight.explain(net, ids, 1, rules=rules)
        with torch.no_grad():
            score = net.o.weight[1][ids].mean(1) + net.o.bias[1]
        np.testing.assert_allclose(ex.output, score, rtol=1e-12)
    with pytest.raises(ArgumentError, match="names a lower one"):
        backlight.explain(net, ids, 1, rules="gamma", strict=True)
    # in the network's own precision there is nothing to be said
    backlight.explain(net.float(), ids, 1, rules="epsilon")


def test_a_double_network_that_cannot_run_in_double_either_says_its_own_error():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.o = nn.Linear(4, 2)

        def forward(self, x):
            return self.o(x.float()[:, :3])

    with pytest.raises(backlight.errors.DataError, match="Broken cannot run on these inputs"):
        backlight.explain(seeded(Broken), torch.randn(2, 4, dtype=D), 0)


def test_graphs_of_many_lengths_are_bounded(monkeypatch):
    from backlight.engine import network

    monkeypatch.setattr(network, "_KEPT_GRAPHS", 3)
    net = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool1d(2), nn.Flatten()).double()
    values = [backlight.explain(net, torch.ones(2, 1, length, dtype=torch.float64), 0).values for length in range(4, 9)]

    assert len(network.Network.of(net)._graphs) <= 3
    assert [value.shape[-1] for value in values] == [4, 5, 6, 7, 8]


# -- recurrent layers --------------------------------------------------------------------------------------------------


class Layers(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        torch.manual_seed(0)
        self.r = kind(3, 4, **options)

    def forward(self, x):
        output, last = self.r(x if self.r.batch_first else x.transpose(0, 1))
        states = last if isinstance(last, tuple) else (last,)
        rows_first = output if self.r.batch_first else output.transpose(0, 1)
        return torch.cat([rows_first.flatten(1), *(state.transpose(0, 1).flatten(1) for state in states)], 1)


RECURRENT = [
    (kind, options)
    for kind in (nn.LSTM, nn.GRU, nn.RNN)
    for options in (
        {"batch_first": True},
        {"num_layers": 2, "bidirectional": True},
        {"bias": False, "batch_first": True, "num_layers": 2},
    )
] + [(nn.RNN, {"nonlinearity": "relu"}), (nn.LSTM, {"proj_size": 2, "num_layers": 2, "bidirectional": True})]


@pytest.mark.parametrize(("kind", "options"), RECURRENT)
def test_recurrent_layers_are_what_their_gradient_says_in_every_output(kind, options):
    net = Layers(kind, **options).double().eval()
    x = torch.randn(2, 5, 3, dtype=D)
    # every step, every direction and every last state is one entry of the output
    for target in range(0, net(x).shape[1], 3):
        ex = backlight.explain(net, x, target, method="gradient")
        inputs = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(net(inputs)[:, target].sum(), inputs)
        np.testing.assert_allclose(ex.output, net(x)[:, target].detach(), rtol=1e-10)
        np.testing.assert_allclose(ex.values, expected, rtol=1e-9, atol=1e-12)


# torch warns of its own list of weights, and of its own trees
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("kind", "options"), RECURRENT)
def test_relevance_passes_the_steps_that_torch_would_write_out(kind, options):
    net = Layers(kind, **options).double().eval()
    x = torch.randn(2, 5, 3, dtype=D)
    layer = {nn.LSTM: "lstm", nn.GRU: "gru"}.get(kind, "rnn_" + options.get("nonlinearity", "tanh"))
    operator = getattr(torch.ops.aten, layer).input
    written = torch.export.default_decompositions()[operator]
    theirs = torch.export.export(net, (x,), strict=False).run_decompositions({operator: written}).module()

    ex, expected = (backlight.explain(one, x, 1, rules="epsilon") for one in (net, theirs))

    np.testing.assert_allclose(ex.values, expected.values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_capture_runs_no_step_of_a_recurrent_layer(kind, monkeypatch):
    def refuse(*_):
        raise AssertionError("the program is traced again, step by step")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", refuse)
    graph = capture(Layers(kind, batch_first=True).eval(), ((torch.randn(2, 300, 3),), {}))

    assert graph.how == "exported"
    assert sum(node.op == "tanh" for node in graph.nodes) >= 300
