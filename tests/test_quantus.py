"""Beside Quantus 0.6: equal where it is right, and by name where it is not. Runs where Quantus is installed."""

import warnings

import numpy as np
import pytest
import torch

import backlight
from tests.conftest import same

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    quantus = pytest.importorskip("quantus")

pytestmark = pytest.mark.filterwarnings("ignore")


class Counting(torch.nn.Module):
    """A network that counts the rows it scores."""

    def __init__(self, width):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(width, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
        self.rows = 0

    def forward(self, x):
        self.rows += len(x)
        return self.net(x.flatten(1).double())


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    return Counting(6).eval(), rng.normal(size=(5, 6)), np.array([0, 1, 2, 0, 1]), rng.normal(size=(5, 6))


def ours(net, X, y, R, *names, **options):
    return backlight.evaluate(net, X, {"r": R}, target=y, metrics=list(names), reference="zero", **options)


def test_sparseness_and_complexity_are_equal(case):
    net, X, y, R = case
    theirs = {
        "sparseness": quantus.Sparseness(abs=True, normalise=False, disable_warnings=True),
        "complexity": quantus.Complexity(abs=True, normalise=False, disable_warnings=True),
    }
    found = ours(net, X, y, R, *theirs)
    for name, metric in theirs.items():
        values = metric(model=net, x_batch=X.copy(), y_batch=y, a_batch=R.copy())
        # theirs adds 1e-7 to each value
        np.testing.assert_allclose(found.scores[name][0], values, rtol=1e-5)


def test_pixel_flipping_leaves_out_the_first_point_of_the_curve(case):
    net, X, y, R = case
    metric = quantus.PixelFlipping(
        features_in_step=1, perturb_baseline=0.0, abs=False, normalise=False, disable_warnings=True
    )  # fmt: skip
    theirs = np.array(metric(model=net, x_batch=X.copy(), y_batch=y, a_batch=R.copy(), softmax=False))
    found = ours(net, X, y, R, "srg")
    curve = found.curves["r"][0]
    assert same(theirs, curve[:, 1:], 1e-6)
    with torch.no_grad():
        assert same(curve[:, 0], net(torch.as_tensor(X))[range(5), y])
        assert not np.isclose(theirs[:, 0], net(torch.as_tensor(X))[range(5), y]).any()


def test_completeness_there_asks_for_equal_bits_and_here_for_a_share(case):
    net, X, y, _ = case
    with torch.no_grad():
        gap = (net(torch.as_tensor(X)) - net(torch.zeros(5, 6)))[range(5), y].numpy()
    R = np.random.default_rng(1).random((5, 6))
    R = R / R.sum(1, keepdims=True) * gap[:, None] * (1 + 1e-9)
    theirs = quantus.Completeness(abs=False, normalise=False, disable_warnings=True)(
        model=net, x_batch=X.copy(), y_batch=y, a_batch=R.copy(), softmax=False
    )
    assert not any(theirs)
    np.testing.assert_allclose(ours(net, X, y, R, "completeness").scores["completeness"], 0, atol=1e-8)


def test_scores_here_are_those_of_the_rows_as_they_were_given(case):
    """There some metrics score a plain table of rows, some refuse it, and which ones depends on the version."""
    net, X, y, R = case
    refused = []
    for metric in (
        quantus.FaithfulnessCorrelation,
        quantus.SensitivityN,
        quantus.RegionPerturbation,
        quantus.Infidelity,
    ):
        try:
            metric(disable_warnings=True)(model=net, x_batch=X.copy(), y_batch=y, a_batch=R.copy())
        except Exception as error:
            refused.append((metric.__name__, type(error).__name__))
    assert refused
    assert np.isfinite(ours(net, X, y, R, "sensitivity_n").scores["sensitivity_n"]).any()


def test_the_symmetric_gain_takes_less_than_an_eighth_of_the_scored_rows():
    net, rng = Counting(192).eval(), np.random.default_rng(0)
    X, y, R = rng.normal(size=(4, 3, 8, 8)), np.array([0, 1, 2, 0]), rng.normal(size=(4, 3, 8, 8))
    for values in (R, -R):  # it knows one order at a time
        quantus.PixelFlipping(
            features_in_step=1, perturb_baseline=0.0, abs=False, normalise=False, disable_warnings=True
        )(model=net, x_batch=X.copy(), y_batch=y, a_batch=values.copy(), softmax=False)  # fmt: skip
    theirs, net.rows = net.rows, 0
    ours(net, X, y, R, "srg", units="feature")
    assert net.rows <= theirs / 8
