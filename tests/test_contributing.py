"""The guide for contributors does what it says: each thing to add is one file that nothing else names."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import backlight
from backlight.testing import check_neuralized, check_prior, check_rule

GUIDE = Path(__file__).parents[1] / "CONTRIBUTING.md"
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL) if GUIDE.exists() else []


def module(name, source, monkeypatch):
    made = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(source, name, "exec"), made.__dict__)  # noqa: S102 - the guide's own text
    return made


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(20, 3))


@pytest.mark.skipif(not BLOCKS, reason="no guide beside the tests")
def test_the_rule_of_the_guide(X, monkeypatch):
    from backlight.rules.base import AUDITED, NAMED_RULES

    made = module("backlight.rules.mine", BLOCKS[0], monkeypatch)
    try:
        check_rule(made.Even())
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double().eval()
        assert backlight.audit(net, X, methods=["lrp:even"], rewrites="dead units").ssi["lrp:even"] >= 0
    finally:
        NAMED_RULES.remove("even")
        AUDITED.remove("even")


@pytest.mark.skipif(not BLOCKS, reason="no guide beside the tests")
def test_the_classical_model_of_the_guide(X, monkeypatch, tmp_path):
    source = "import numpy as np\nclass Scorecard:\n    weights_ = np.array([1.0, -2.0, 3.0])\n"
    package = module("my_package", source + "    def points(self, z): return z @ self.weights_\n", monkeypatch)
    package.network = module("my_package.network", BLOCKS[1], monkeypatch)
    known = backlight.neuralize._models._functions
    monkeypatch.setattr(backlight.neuralize._models, "_functions", dict(known))
    known.pop("my_package.Scorecard")
    estimator = package.Scorecard()  # it has no n_features_in_

    check_neuralized(estimator, X)
    np.testing.assert_allclose(backlight.explain(estimator, X).values, X * estimator.weights_, rtol=1e-12)
    explainer = backlight.Explainer(estimator, feature_names=["a", "b", "c"])
    explainer.save(tmp_path / "e")
    assert np.array_equal(backlight.Explainer.load(tmp_path / "e")(X).values, explainer(X).values)


def test_a_prior_is_one_class(X, monkeypatch):
    made = module(
        "backlight.priors.mine",
        "from backlight.priors.base import Prior\n"
        "class Quartic(Prior):\n"
        "    name = 'quartic'\n"
        "    def energy(self, x):\n"
        "        return (x**4).flatten(1).sum(1)\n",
        monkeypatch,
    )
    check_prior(made.Quartic(), X)
    net = torch.nn.Linear(3, 1).double().eval()
    found = backlight.prototype(net, prior=made.Quartic(), data=X, restarts=2)
    slope = net.weight.detach().numpy()[0]
    assert found.x[0] == pytest.approx(
        np.cbrt(slope / 4), abs=1e-4
    )  # where the slopes of f and of the energy are equal


def test_a_metric_is_one_class(X, monkeypatch):
    from backlight._evaluate.metrics.base import METRICS

    module(
        "backlight._evaluate.metrics.mine",
        "from dataclasses import dataclass\n"
        "import numpy as np\n"
        "from backlight._evaluate.metrics.base import Metric, metric\n"
        "@metric('largest')\n"
        "@dataclass(frozen=True, slots=True)\n"
        "class Largest(Metric):\n"
        "    direction = 1\n"
        "    faithful = False\n"
        "    def __call__(self, judge, candidate):\n"
        "        return np.abs(candidate.units.numpy()).max(1)\n",
        monkeypatch,
    )
    try:
        net = torch.nn.Linear(3, 1).double().eval()
        ex = backlight.explain(net, X)
        found = backlight.evaluate(net, X, {"lrp": ex}, reference="mean", metrics=["largest"])
        assert "largest" in repr(found)
    finally:
        del METRICS["largest"]


OPERATOR = '''
"""sin(πx)/(πx), unit by unit."""

import torch

from backlight.engine.graph import Node
from backlight.engine.operators.activations import Activation
from backlight.engine.operators.registry import Context, operator
from backlight.engine.steps import Site
from backlight.rules import Pass


@operator("sinc")
def sinc(node: Node, context: Context) -> Site | None:
    """The value at zero is one: relevance is handed on outright."""
    return Activation(node, context.carriers(node), "activation", Pass(), ratio=None)
'''


def test_an_operator_is_one_function(monkeypatch):
    from backlight.engine.operators import registry
    from tests.test_unary_operators import check_unary

    monkeypatch.setattr(registry, "_MAKERS", dict(registry._MAKERS))
    module("backlight.engine.operators.mine", OPERATOR, monkeypatch)
    assert "sinc" in check_unary(["sinc", "relu"])  # strict: it has a rule now


REWRITE = '''
"""Hidden units in the opposite order."""

import torch

from backlight._audit.rewrite import permuted, rewrite
from backlight.canonical.form import Form
from backlight.canonical.units import layers


@rewrite("reverse units", why="sums commute", group="symmetry")
def reverse(form: Form, generator: torch.Generator) -> bool:
    found = [layer for layer in layers(form) if layer.free and layer.readers.all_mix]
    for layer in found:
        order = torch.arange(layer.count).flip(0)
        maps = [permuted(reader, order) for reader in layer.readers.mixing]
        layer.units.source = layer.part(order, layer.before.name)
        for reader, made in zip(layer.readers.mixing, maps, strict=True):
            reader.term.map = made
    return bool(found)
'''


def test_a_rewrite_is_one_function(X, monkeypatch):
    from backlight._audit import REWRITES

    module("backlight._audit.mine", REWRITE, monkeypatch)
    try:
        net = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)).double().eval()
        found = backlight.audit(net, X, rewrites="all")
        assert "reverse units" in repr(found)
        only = backlight.audit(net, X, rewrites="reverse units")
        assert max(only.ssi.values()) < 1e-14  # the order of a sum
    finally:
        del REWRITES["reverse units"]


DETECTOR = '''
"""Squared distance with a covariance shrunk once more (oracle approximating shrinkage)."""

from typing import Any

from backlight.anomaly.detectors.base import Detector, register
from backlight.anomaly.detectors.single import encoded


def _oracle(*_: int) -> Any:
    from sklearn.covariance import OAS

    return OAS()


register(Detector("oas", "squared distance, oracle shrinkage", encoded(_oracle)))
'''


def test_a_detector_is_one_registration(monkeypatch):
    from backlight.anomaly.detectors import DETECTORS
    from backlight.anomaly.workflow import find_anomalies
    from tests.test_anomaly import sensors

    module("backlight.anomaly.detectors.mine", DETECTOR, monkeypatch)
    try:
        frame, rows, _ = sensors()
        study = find_anomalies(frame, detector="oas", top=6, check=False).study
        assert sorted(study.rows) == rows.tolist()
    finally:
        del DETECTORS["oas"]


def test_every_file_of_a_room_is_found(tmp_path, monkeypatch):
    from backlight._rooms import open_room

    (tmp_path / "roomful").mkdir()
    (tmp_path / "roomful" / "__init__.py").write_text("found = []\n")
    (tmp_path / "roomful" / "mine.py").write_text("from roomful import found\nfound.append('mine')\n")
    (tmp_path / "roomful" / "heavy.py").write_text("raise ImportError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import roomful

    open_room("roomful", roomful.__path__, later=("heavy",))
    assert roomful.found == ["mine"]
    monkeypatch.delitem(sys.modules, "roomful")
    monkeypatch.delitem(sys.modules, "roomful.mine")
