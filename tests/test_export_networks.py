"""Relevance propagation as ONNX: a network's explanation, in onnxruntime, is the explainer's."""

import numpy as np
import pytest
import torch
from torch import nn

import backlight
from backlight import errors
from backlight._export.graphs.onnx import session
from tests.test_engine import seeded

_SINGLE, _DOUBLE = 1e-4, 1e-9


class Residual(nn.Module):
    """A sum and a concatenation of branches, and a mean over positions."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(8, 3)

    def forward(self, x):
        a = torch.relu(self.first(x))
        b = torch.relu(self.norm(self.second(a)) + a)
        return self.head(torch.cat([a, b], 1).mean((2, 3)))


def _dense(activation):
    return nn.Sequential(nn.Linear(5, 8), activation, nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def _pictures(*between):
    return nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), *between, nn.Flatten(), nn.LazyLinear(3))


NETWORKS = {
    "dense": (lambda: _dense(nn.ReLU()), (5,)),
    "dense, one number": (lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1)), (5,)),
    **{type(f).__name__: (lambda f=f: _dense(f), (5,)) for f in (nn.ReLU6(), nn.LeakyReLU(0.1), nn.Tanh(), nn.SiLU(), nn.GELU())},
    "softmax at the end": (lambda: nn.Sequential(_dense(nn.ReLU()), nn.Softmax(1)), (5,)),
    "small picture network": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(),
            nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(6, 3),
        ),
        (2, 9, 9),
    ),
    "overlapping windows": (lambda: _pictures(nn.MaxPool2d(3, 1, 1)), (2, 9, 8)),
    "wide strides": (lambda: _pictures(nn.Conv2d(4, 4, 2, stride=2, groups=2), nn.ReLU()), (2, 10, 9)),
    "mean at the end": (lambda: _pictures(nn.AdaptiveAvgPool2d(1)), (2, 8, 8)),
    "padded mean": (lambda: _pictures(nn.AvgPool2d(3, 2, 1)), (2, 8, 8)),
    "signal": (lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(12, 2)), (2, 9)),
    "residual": (Residual, (2, 6, 6)),
}  # fmt: skip
QUESTIONS = {
    "predicted": {}, "one": {"target": -1}, "all": {"target": "all"}, "lrp-0": {"rules": backlight.rules.Zero()},
    "epsilon, absolute": {"rules": backlight.rules.Epsilon(0.1, absolute=True)},
    "epsilon without bias": {"rules": backlight.rules.Epsilon(bias="exclude")},
    "gamma": {"rules": backlight.rules.Gamma(epsilon=1e-3)}, "gamma without bias": {"rules": backlight.rules.Gamma(bias="exclude")},
}  # fmt: skip


def _network(name):
    make, shape = NETWORKS[name]
    net = make().eval()
    with torch.no_grad():
        net(torch.zeros(2, *shape))
    return seeded(net).float().eval(), shape


def _require_equal(path, explainer, x, tolerance):
    run = session(path.read_bytes())
    found = dict(zip([one.name for one in run.get_outputs()], run.run(None, {run.get_inputs()[0].name: x.numpy()}), strict=True))  # fmt: skip
    ex = explainer(x)
    size = np.abs(ex.values).reshape(len(x), -1).sum(1).max() + np.abs(ex.output).max()
    for name, wanted in (("score", ex.output), ("base", ex.base_values), ("contributions", ex.values)):
        assert found[name].shape == np.shape(wanted), name
        assert np.abs(found[name] - wanted).max() <= tolerance * size, name
    return found, ex


@pytest.mark.parametrize("name", NETWORKS)
def test_a_networks_explanation_is_a_network(name, tmp_path):
    net, shape = _network(name)
    x = torch.randn(20, *shape, generator=torch.Generator().manual_seed(1))
    explainer = backlight.Explainer(net)
    path = backlight.export(explainer, tmp_path / "reasons.onnx", rows=x[:5])

    found, _ = _require_equal(path, explainer, x, _SINGLE)
    if "target" in found:
        with torch.no_grad():
            assert found["target"].tolist() == net(x).argmax(1).tolist()


@pytest.mark.filterwarnings("ignore:.*kept or added")  # what an absolute ε keeps
@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("name", ["dense", "small picture network"])
def test_every_question_that_is_written_has_the_explainers_answer(name, question, tmp_path):
    net, shape = _network(name)
    x = torch.randn(12, *shape, generator=torch.Generator().manual_seed(1))
    explainer = backlight.Explainer(net, **QUESTIONS[question])
    path = backlight.export(explainer, tmp_path / "reasons.onnx", rows=x[:5])

    _require_equal(path, explainer, x, _SINGLE)


def test_double_precision_is_kept_and_a_reference_is_part_of_the_graph(tmp_path):
    net = _network("Tanh")[0].double()
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(1)).double()
    explainer = backlight.Explainer(net, target=1, reference=x.mean(0), rules=backlight.rules.Gamma())
    path = backlight.export(explainer, tmp_path / "reasons.onnx", rows=x[:5])

    _require_equal(path, explainer, x, _DOUBLE)


def test_a_module_is_left_as_it_is(tmp_path):
    net, shape = _network("small picture network")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    backlight.export(net, tmp_path / "reasons.onnx", rows=torch.ones(2, *shape))

    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_what_is_not_written_is_refused_by_name(tmp_path):
    dense, _ = _network("dense")
    pictures, shape = _network("small picture network")
    x, y = torch.ones(4, 5), torch.ones(4, *shape)
    attention = nn.Sequential(
        nn.Unflatten(1, (5, 1)), nn.TransformerEncoderLayer(1, 1, 4, batch_first=True), nn.Flatten()
    )
    cases = (
        (dense, {}, None, "give rows="),
        (dense, {"method": "gradient"}, x, "method='gradient' is not written as a graph"),
        (dense, {"canonical": True}, x, "canonical=True is not written as a graph"),
        (dense, {"target": lambda out: out[:, 0] ** 2}, x, "this target is not written as a graph"),
        (dense, {"rules": backlight.rules.Flat()}, x, "rule .* is not written as a graph"),
        (attention.eval(), {"target": 0}, x, "operator .* is not written as a graph"),
        (pictures.double(), {}, y.double(), "in single precision alone"),
    )  # fmt: skip
    for net, options, rows, said in cases:
        with pytest.raises(errors.BacklightError, match=said) as raised:
            backlight.export(backlight.Explainer(net, **options), tmp_path / "a.onnx", rows=rows)
        assert len(str(raised.value)) < 200
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_when_the_numbers_differ(tmp_path, monkeypatch):
    from backlight._export.graphs import maps

    net, _ = _network("dense")
    monkeypatch.setattr(maps, "divided", lambda numerator, denominator: numerator)
    with pytest.raises(errors.ConservationError, match="nothing was written"):
        backlight.export(net, tmp_path / "a.onnx", rows=torch.ones(4, 5))
    assert list(tmp_path.iterdir()) == []
