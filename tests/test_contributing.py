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
