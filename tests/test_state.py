"""Nothing of the user's is changed by an explanation, and nothing that the user changes is overlooked by the next one."""

import random
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import backlight
from backlight.attribution.reference import REFERENCES
from backlight.engine.watch import checksum
from backlight.errors import BacklightError, UnsupportedModel

FACTOR = 2.0
TABLE = np.array([1.0, 2.0])


class Settings:
    def __init__(self):
        self.scale = 1.0


class Reader(nn.Module):
    """Its forward reads something of every kind."""

    factor = 1.0

    def __init__(self):
        super().__init__()
        self.a, self.drop, self.o = nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)
        self.scale, self.flag, self.settings, self.listed = 1.0, True, Settings(), [1.0]
        self.nested, self.array, self.plain = {"a": [1.0]}, np.ones(2), torch.ones(4, dtype=torch.float64)

    def helper(self):
        return self.settings.scale * float(self.array[1]) * float(TABLE[0])

    def forward(self, x):
        h = torch.tanh(self.drop(self.a(x))) * (self.scale * self.factor * FACTOR * self.helper() * self.listed[0])
        h = h * self.plain * self.nested["a"][0]
        return self.o(h if self.flag else -h)


def reader():
    torch.manual_seed(0)
    return Reader().double().eval()


def closure():
    value = 1.0

    def hook(module, inputs, output):
        return output * value

    def change(new):
        nonlocal value
        value = new

    return hook, change


def _set_global(net, monkeypatch):
    monkeypatch.setitem(globals(), "FACTOR", 5.0)


def _set_class(net, monkeypatch):
    monkeypatch.setattr(Reader, "factor", 3.0)


def _patch_class(net, monkeypatch):
    monkeypatch.setattr(Reader, "forward", lambda self, x: self.o(self.a(x)))


def _patch_instance(net, monkeypatch):
    net.forward = types.MethodType(lambda self, x: self.o(self.a(x) * 2), net)


def _settings(net, monkeypatch):
    net.settings.scale = 7.0


def _nested(net, monkeypatch):
    net.nested["a"][0] = 2.0


def _array(net, monkeypatch):
    net.array[1] = 9.0


def _global_array(net, monkeypatch):
    monkeypatch.setitem(globals(), "TABLE", TABLE.copy())
    TABLE[0] = 4.0


def _tensor(net, monkeypatch):
    net.plain.data[2] = 4.0


def _list(net, monkeypatch):
    net.listed[0] = 3.0


def _attribute(net, monkeypatch):
    net.scale = 3.0


def _flag(net, monkeypatch):
    net.flag = False


def _data(net, monkeypatch):
    net.a.weight.data[3, 1] = 9.0


def _view(net, monkeypatch):
    net.a.weight.detach().numpy()[2, 0] = 5.0


def _exchange(net, monkeypatch):
    rows = net.a.weight.data
    rows[0, 0], rows[0, 1] = rows[0, 1].clone(), rows[0, 0].clone()


def _swap(net, monkeypatch):
    net.a = nn.Linear(3, 4).double()


def _hook(net, monkeypatch):
    net.a.register_forward_hook(lambda module, inputs, output: output * 3)


CHANGES = [
    _set_global, _set_class, _patch_class, _patch_instance, _settings, _nested, _array, _global_array, _tensor, _list,
    _attribute, _flag, _data, _view, _exchange, _swap, _hook,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_a_forward_reads_is_watched(change, monkeypatch):
    net, x = reader(), torch.randn(3, 3, dtype=torch.float64)
    before = backlight.explain(net, x, 0, rules="epsilon")
    change(net, monkeypatch)
    after = backlight.explain(net, x, 0, rules="epsilon")
    np.testing.assert_allclose(after.output, net(x)[:, 0].detach(), rtol=1e-9)
    assert np.abs(after.values - before.values).max() > 1e-3


def test_what_a_hook_reads_is_watched():
    net, x = reader(), torch.randn(3, 3, dtype=torch.float64)
    held = [1.0]
    net.a.register_forward_hook(lambda module, inputs, output: output * held[0])
    hook, change = closure()
    net.o.register_forward_hook(hook)
    backlight.explain(net, x, 0)
    held[0] = 3.0
    np.testing.assert_allclose(backlight.explain(net, x, 0).output, net(x)[:, 0].detach(), rtol=1e-9)
    change(4.0)
    np.testing.assert_allclose(backlight.explain(net, x, 0).output, net(x)[:, 0].detach(), rtol=1e-9)


def test_what_was_not_changed_is_not_captured_again():
    net, x = reader(), torch.randn(3, 3, dtype=torch.float64)
    backlight.explain(net, x, 0)
    plan = next(iter(backlight.engine.Network.of(net)._plans.values()))
    net.a.weight.requires_grad_(False)
    net.zero_grad()
    backlight.explain(net, x, 0)
    assert next(iter(backlight.engine.Network.of(net)._plans.values())) is plan


def test_another_precision_is_noticed_where_the_inputs_have_none():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.o = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, ids):
            h = self.e(ids)
            return self.o((h * torch.full((4,), 0.5, dtype=h.dtype)).mean(1))

    net, ids = Words().double().eval(), torch.randint(0, 9, (3, 5))
    backlight.explain(net, ids, 0)
    np.testing.assert_allclose(backlight.explain(net.float(), ids, 0).output, net(ids)[:, 0].detach(), rtol=1e-5)


def test_training_mode_is_noticed():
    net, x = reader(), torch.randn(3, 3, dtype=torch.float64)
    backlight.explain(net, x, 0)
    net.train()
    with pytest.raises(UnsupportedModel, match="training mode"):
        backlight.explain(net, x, 0)
    net.drop.p = 0.0
    np.testing.assert_allclose(backlight.explain(net, x, 0).output, net(x)[:, 0].detach(), rtol=1e-9)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
)
def test_a_checksum_sees_every_element_and_every_exchange(dtype):
    torch.manual_seed(0)
    base = torch.randint(0, 2, (7, 5)).to(dtype) if dtype is torch.bool else torch.arange(35).view(7, 5).to(dtype)
    seen = {checksum(base), checksum(base.reshape(5, 7))}
    for k in range(35):
        other = base.clone()
        other.view(-1)[k] = not other.view(-1)[k] if dtype is torch.bool else 99
        seen.add(checksum(other))
    assert len(seen) == 37
    turned = base.t()
    assert checksum(turned) == checksum(turned.contiguous())


@pytest.mark.parametrize("size", [1, 3, 8, 35])
def test_the_checksum_of_accelerators_sees_every_element_and_every_exchange(size):
    from backlight.engine.watch import _on_device

    base = torch.arange(size, dtype=torch.float32)
    seen = {_on_device(base)}
    for k in range(size):
        other = base.clone()
        other[k] += 0.5
        seen.add(_on_device(other))
        if k:
            other = base.clone()
            other[0], other[k] = base[k], base[0]
            seen.add(_on_device(other))
    assert len(seen) == 2 * size


# -- nothing of the user's is changed ----------------------------------------------------------------------------------


class InPlace(nn.Module):
    """Writes into its input in every way, and into a buffer."""

    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.seen = []

    def forward(self, x):
        x.mul_(2)
        x[:, 0] = 0.5
        torch.relu_(x)
        x = F.dropout(x, 0.5, training=False, inplace=True)
        self.calls += 1
        self.seen.append(1)
        return self.o(F.relu(self.a(x), inplace=True))


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)

    def forward(self, x):
        x.mul_(2)
        torch.rand(1)
        np.random.rand()  # noqa: NPY002
        random.random()  # noqa: S311
        raise RuntimeError("no")


def state(net, x):
    """Everything of the user's that an explanation could reach, as bytes."""
    return {
        "x": x.numpy().tobytes(), "x needs a gradient": x.requires_grad,
        "tensors": {name: t.detach().numpy().tobytes() for name, t in net.state_dict(keep_vars=True).items()},
        "places": [(id(t), t.requires_grad, t.grad is None or t.grad.numpy().tobytes(), t._version) for t in net.parameters()],
        "modules": [(id(m), m.training, len(m._forward_hooks), sorted(vars(m))) for m in net.modules()],
        "seen": list(getattr(net, "seen", ())),
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002
        "python": random.getstate(),
    }  # fmt: skip


@pytest.mark.parametrize("method", ["lrp", *REFERENCES])
@pytest.mark.parametrize("make", [InPlace, Broken, reader])
def test_nothing_of_the_users_is_changed(make, method):
    if method in ("integrated_gradients", "smoothgrad", "occlusion", "shapley"):
        pytest.importorskip("captum")
    torch.manual_seed(3)
    net, x = make().double().eval(), torch.randn(2, 3, dtype=torch.float64)
    net(torch.zeros(1, 3, dtype=torch.float64)).sum().backward() if make is reader else None
    before = state(net, x)
    try:
        ex = backlight.explain(net, x, 0, method=method)
    except (BacklightError, RuntimeError):
        assert make is Broken
    else:
        np.testing.assert_allclose(ex.output, net(x.clone())[:, 0].detach(), rtol=1e-9) if make is reader else None
        for array in (ex.values, ex.output, ex.base_values, ex.data):
            assert not np.shares_memory(array, x.numpy())
    assert state(net, x) == before


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_results_share_no_memory_with_what_was_given(kind):
    net, x = reader(), kind(np.random.default_rng(0).normal(size=(3, 3)))
    ex = backlight.explain(net, x, 0)
    values, data = ex.values.copy(), ex.data.copy()
    x[:] = 0
    np.testing.assert_array_equal(ex.values, values)
    np.testing.assert_array_equal(ex.data, data)


def test_an_in_place_forward_has_the_explanation_of_the_same_forward_in_pure_form():
    class Pure(InPlace):
        def forward(self, x):
            x = torch.cat([torch.full_like(x[:, :1], 0.5), 2 * x[:, 1:]], 1).relu()
            return self.o(F.relu(self.a(x)))

    torch.manual_seed(0)
    net, x = InPlace().double().eval(), torch.randn(4, 3, dtype=torch.float64)
    pure = Pure().double().eval()
    pure.load_state_dict(net.state_dict())
    ours, plain = backlight.explain(net, x, 1), backlight.explain(pure, x, 1)
    np.testing.assert_allclose(ours.output, plain.output, rtol=1e-12)
    np.testing.assert_allclose(ours.values, plain.values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["lrp", "gradient"])
def test_a_forward_that_writes_into_its_parameters_is_refused(method):
    class Clamped(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 2)

        def forward(self, x):
            self.a.weight.data.clamp_(-0.1, 0.1)
            return self.a(x)

    net = Clamped().double().eval()
    before = net.a.weight.detach().clone()
    with pytest.raises(UnsupportedModel, match="writes into its own parameters"):
        backlight.explain(net, torch.randn(2, 3, dtype=torch.float64), 0, method=method)
    assert torch.equal(net.a.weight, before)


LAYOUTS = {
    "dense": lambda x: x,
    "columns first": lambda x: x.t().contiguous().t(),
    "every second": lambda x: torch.stack([x, x + 1], 2)[..., 0],
    "sparse": lambda x: x.to_sparse(),
    "sparse rows": lambda x: x.to_sparse_csr(),
    "half": lambda x: x.half(),
    "whole": lambda x: x.long(),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checksum_sees_every_single_number_in_every_layout(layout):
    x = torch.arange(12, dtype=torch.float64).reshape(3, 4)
    same, first = checksum(LAYOUTS[layout](x.clone())), checksum(LAYOUTS[layout](x))
    assert same == first
    for place in range(12):
        changed = x.clone()
        changed.view(-1)[place] += 3
        assert checksum(LAYOUTS[layout](changed)) != first
    assert checksum(LAYOUTS[layout](x.reshape(4, 3))) != first
