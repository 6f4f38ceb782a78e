"""Gaussian processes: covariances that are sums, products and powers, and classifiers."""

import copy
from functools import partial

import numpy as np
import pytest
from sklearn import gaussian_process
from sklearn.decomposition import PCA
from sklearn.gaussian_process import kernels as gp
from sklearn.pipeline import make_pipeline

import backlight
from tests.family import near, process, table

pytestmark = pytest.mark.fast


def test_a_gaussian_process_is_counted_from_its_mean(rng):
    X, _ = table(rng)
    y = X[:, 0] + 7
    model = gaussian_process.GaussianProcessRegressor(alpha=0.1, normalize_y=True).fit(X, y)
    ex = backlight.explain(model, X + 1000)
    assert near(np.asarray(ex.output), np.full(len(X), y.mean()))


@pytest.mark.parametrize("make", [gp.RBF, partial(gp.Matern, nu=1.5), partial(gp.Matern, nu=2.5)])
def test_length_scales_a_column_are_a_scaling_of_the_columns(make, rng):
    X, _ = table(rng)
    y, lengths = X[:, 0] + np.sin(X[:, 1]), np.array([0.5, 1.0, 2.0, 3.0, 50.0])
    own, scaled = process(make(lengths)).fit(X, y), process(make(1.0)).fit(X / lengths, y)
    for level in (None, 2.0):
        here, there = (
            backlight.explain(own, X, reference=level),
            backlight.explain(scaled, X / lengths, reference=level),
        )
        assert near(here.values, there.values)
        assert near(here.base_values, there.base_values)


def test_length_scales_a_column_behind_a_rotation(rng):
    X, _ = table(rng)
    pipe = make_pipeline(PCA(5, whiten=True), process(gp.RBF([0.5, 1.0, 2.0, 3.0, 50.0]))).fit(X, X[:, 0])
    ex = backlight.explain(pipe, X)
    assert near(np.asarray(ex.output), pipe.predict(X))
    assert np.abs(ex.residual).max() <= 1e-9


@pytest.mark.parametrize(
    ("made", "same"),
    [
        (gp.RBF(3.0) * gp.RBF(4.0), gp.RBF(2.4)),
        (gp.RBF([3.0, 6.0, 3.0, 3.0, 3.0]) * gp.RBF([4.0, 8.0, 4.0, 4.0, 4.0]), gp.RBF([2.4, 4.8, 2.4, 2.4, 2.4])),
        (gp.RBF(2.0) ** 4, gp.RBF(1.0)),
        (gp.Matern(2.0, nu=0.5) ** 2, gp.Matern(1.0, nu=0.5)),
        (gp.Matern(2.0, nu=0.5) * gp.Matern(2.0, nu=0.5), gp.Matern(1.0, nu=0.5)),
        (gp.Matern(2.0, nu=np.inf) * 1.0, gp.RBF(2.0)),
        ((2.0 * gp.DotProduct(0.5)) ** 2, 4.0 * gp.DotProduct(0.5) * gp.DotProduct(0.5)),
    ],
)
def test_the_same_covariance_written_differently_is_explained_alike(made, same, rng):
    X, _ = table(rng)
    y = X[:, 0] + np.sin(X[:, 1])
    Q = X + rng.normal(size=X.shape)
    assert near(
        backlight.explain(process(made).fit(X, y), Q).values, backlight.explain(process(same).fit(X, y), Q).values
    )


def test_a_sum_of_covariances_is_a_sum_of_explanations(rng):
    X, _ = table(rng)
    parts = [2.0 * gp.RBF(2.0), gp.Matern([1.0, 2.0, 3.0, 4.0, 5.0], nu=1.5), 0.1 * gp.DotProduct(1.5)]
    whole = process(sum(parts[1:], parts[0]) + gp.WhiteKernel(0.1)).fit(X, X[:, 0] + 5)
    total = 0
    for part in parts:
        alone = copy.copy(whole)  # the same coefficients, a part of the covariance
        alone.kernel_ = part
        total = total + backlight.explain(alone, X).values
    assert near(backlight.explain(whole, X).values, total)


def test_a_dot_product_is_a_linear_model(rng):
    X, _ = table(rng)
    model = process(gp.DotProduct(1.5)).fit(X, X[:, 0])
    ex = backlight.explain(model, X)
    assert near(ex.values, X * (model.alpha_ @ X))
    assert near(ex.base_values, 1.5**2 * model.alpha_.sum())


def test_a_gaussian_process_classifier_decides_by_its_latent_mean(rng):
    X, y = table(rng, classes=2)
    Q = X + rng.normal(size=X.shape)
    model = gaussian_process.GaussianProcessClassifier(2.0 * gp.RBF([2.0, 3.0, 3.0, 3.0, 9.0]), optimizer=None).fit(
        X, y
    )
    net = backlight.neuralize(model)
    assert near(net(Q).numpy(), net.reference_score(Q))
    assert ((net(Q).numpy() > 0) == (model.predict(Q) == 1)).all()
    ex = backlight.explain(model, Q)
    assert np.abs(ex.residual).max() <= 1e-9
    assert (ex.annotations["target"] == model.predict(Q)).all()
