"""Prototypes under mixtures, kernel densities, Boltzmann machines, and of concave families: against formulas and other solvers."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp
from sklearn.cluster import BisectingKMeans, KMeans
from sklearn.datasets import load_wine, make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity as SkKernelDensity
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

import backlight
from backlight import constraints, priors, targets
from backlight._prototype.exact.modes import Modes
from backlight.errors import Unbounded
from tests.conftest import examples
from tests.test_prototypes_exact import covariance, line

# -- mixtures and densities -----------------------------------------------------------------------------------------


def mixture_of(seed, K=5, d=4, apart=2.0):
    rng = np.random.default_rng(seed)
    covs = np.stack([covariance(rng, d) / d + 0.3 * np.eye(d) for _ in range(K)])
    return priors.Mixture(rng.random(K) + 0.2, rng.standard_normal((K, d)) * apart, covs), rng.standard_normal(d)


def test_the_tilting_identity():
    prior, w = mixture_of(0)
    x = torch.as_tensor(np.random.default_rng(1).standard_normal((30, 4)))
    from backlight._prototype.exact.modes import _tilted

    tilted = _tilted(prior, w)
    assert_allclose(tilted.value(x.numpy()), x.numpy() @ w - prior.energy(x).numpy(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("apart", [0.3, 1.5, 5.0])
def test_linear_f_under_a_mixture_reaches_its_bound_and_beats_random_starts(seed, apart):
    prior, w = mixture_of(seed, apart=apart)
    p = backlight.prototype(line(w, 0.0), prior=prior, exact="require")
    bound = p.value[0] + p.certificate[0].value

    def cost(x):
        return -(w @ x) + float(prior.energy(torch.as_tensor(x)[None])[0])

    rng = np.random.default_rng(seed)
    others = [-minimize(cost, rng.standard_normal(4) * (apart + 1) + 2 * w).fun for _ in range(20)]
    assert p.value[0] >= max(others) - 1e-7
    assert bound >= max(others)
    assert p.certificate[0].value <= np.log(5)
    x = torch.as_tensor(p.x).requires_grad_(True)
    (g,) = torch.autograd.grad((x @ torch.as_tensor(w) - prior.energy(x)).sum(), x)
    assert float(g.abs().max()) < 1e-8
    if apart == 5.0:
        assert p.certificate[0].value < 0.5


def test_components_that_stand_apart_leave_no_gap():
    means = np.array([[0.0, 0.0], [30.0, 0.0], [0.0, 40.0]])
    found = backlight.prototype(line([0.1, 0.2]), prior=priors.Mixture(np.ones(3), means, np.ones((3, 2))))

    assert found.status == ("global",)
    assert found.certificate[0].value < 1e-9


@settings(max_examples=examples(25))
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 3), st.floats(0.2, 6))
def test_no_point_is_above_the_bound(seed, K, d, apart):
    rng = np.random.default_rng(seed)
    U = np.stack([np.linalg.cholesky(covariance(rng, d) + 0.2 * np.eye(d)).T for _ in range(K)])
    found = Modes(rng.standard_normal(K), rng.standard_normal((K, d)) * apart, U)
    points = np.concatenate([found.means, rng.standard_normal((2000, d)) * apart, found.climb(found.means)])
    best = found.value(points).max()

    assert found.bound(best) >= best - 1e-12
    # also from a value that is not the best: what is known only prunes
    assert found.bound(float(found.value(found.means).min())) >= best - 1e-12


def test_one_component_is_the_gaussian_and_clones_are_one():
    rng = np.random.default_rng(0)
    S, mu, w = covariance(rng, 3) + np.eye(3), rng.standard_normal(3), rng.standard_normal(3)
    gaussian = backlight.prototype(line(w), prior=priors.Gaussian(mu, S))
    one = backlight.prototype(line(w), prior=priors.Mixture([1.0], [mu], [S]))
    clones = backlight.prototype(line(w), prior=priors.Mixture([0.2, 0.5, 0.3], [mu] * 3, [S] * 3))

    assert_allclose(one.x, gaussian.x, rtol=1e-11)
    assert_allclose(one.value, gaussian.value, rtol=1e-10)
    assert one.status == ("exact",)
    assert_allclose(clones.x, gaussian.x, rtol=1e-9)


def test_whole_coordinates_of_a_cluster_are_the_best_of_all():
    X, _ = make_blobs(120, 2, centers=[[0, 0], [3, 1], [-1, 4]], random_state=0)
    model = KMeans(3, n_init=2, random_state=0).fit(X)
    p = backlight.prototype(model, bounds=(-3, 5), constraints=[constraints.integer(0, 1)], exact="require")

    grid = np.array(list(itertools.product(range(-3, 6), repeat=2)), dtype=float)
    scores = backlight.neuralize(model)(grid).numpy()
    assert_allclose(p.value, scores.max(0), rtol=1e-9)
    assert_allclose(backlight.neuralize(model)(p.x).numpy().diagonal(), scores.max(0), rtol=1e-9)


def test_a_cluster_within_bounds_is_solved_by_its_own_bound():
    X, _ = make_blobs(120, 3, centers=4, random_state=0)
    model, prior = KMeans(4, n_init=2, random_state=0).fit(X), priors.Gaussian.fit(X)
    low, high = np.quantile(X, [0.3, 0.7], axis=0)
    p = backlight.prototype(model, prior=prior, bounds=(low, high))
    P, network = np.linalg.inv(prior.cov.numpy()), backlight.neuralize(model)

    def J(x, t):
        d = x - X.mean(0)
        return network(x)[:, t].numpy() - 0.5 * np.einsum("ni,ij,nj->n", d, P, d)

    rng = np.random.default_rng(0)
    others = low + (high - low) * rng.random((4000, 3))
    for t in range(4):
        assert p.status[t] in ("exact", "global")
        assert J(others, t).max() <= J(p.x[t][None], t)[0] + 1e-9
        assert (p.x[t] >= low).all()
        assert (p.x[t] <= high).all()


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_the_value_at_a_mode_of_a_kernel_density_is_the_objective(strength):
    rng = np.random.default_rng(3)
    X, w, h = rng.standard_normal((40, 3)), rng.standard_normal(3), 0.5
    prior = priors.KernelDensity(X, h)
    p = backlight.prototype(line(w, 0.5), prior=prior, strength=strength)
    squared = np.square(p.x[0] - X).sum(1) / (2 * h**2)
    log_density = logsumexp(-squared) - np.log(40) - 1.5 * np.log(2 * np.pi * h**2)

    assert_allclose(p.value[0], w @ p.x[0] + 0.5 + strength * log_density, rtol=1e-10)


def test_a_narrow_kernel_density_gives_the_top_activating_row_and_a_wide_one_the_mean():
    rng = np.random.default_rng(0)
    X, w = rng.standard_normal((60, 5)), rng.standard_normal(5)
    top = X[np.argmax(X @ w)]
    h = 1e-3
    narrow = backlight.prototype(line(w), prior=priors.KernelDensity(X, h))
    wide = backlight.prototype(line(w), prior=priors.KernelDensity(X, 100.0))

    assert_allclose(narrow.x[0], top + h**2 * w, atol=1e-12)
    assert narrow.status == ("global",)
    assert_allclose(wide.x[0], X.mean(0) + 1e4 * w, rtol=1e-3, atol=1)


def test_mean_shift_of_a_kernel_density_stands_still_at_its_own_formula():
    rng = np.random.default_rng(3)
    X, w, h = rng.standard_normal((40, 3)), rng.standard_normal(3), 0.5
    p = backlight.prototype(line(w), prior=priors.KernelDensity(X, h), strength=2.0)
    x, tilt = p.x[0], w / 2
    e = X @ tilt - ((x - X - h**2 * tilt) ** 2).sum(1) / (2 * h**2)
    r = np.exp(e - logsumexp(e))

    assert_allclose(x, h**2 * tilt + r @ X, atol=1e-10)


def test_the_most_normal_row_of_a_density_is_its_highest_mode():
    wine = load_wine()
    Z = StandardScaler().fit_transform(wine.data)
    mixture = GaussianMixture(3, covariance_type="diag", random_state=0).fit(Z)
    density = backlight.neuralize(mixture, score="score_samples")
    p = backlight.prototype(density, prior="none")

    assert p.value[0] >= mixture.score_samples(np.vstack([Z, mixture.means_])).max() - 1e-9
    assert p.status == ("global",)
    held = backlight.prototype(density, prior=priors.L2(0.5), strength=2.0)
    J = mixture.score_samples(held.x) - (held.x**2).sum(1)
    near = held.x + 0.05 * np.random.default_rng(0).standard_normal((200, 13))
    assert (mixture.score_samples(near) - (near**2).sum(1) < J).all()
    kde = SkKernelDensity(bandwidth=0.9).fit(Z)
    mode = backlight.prototype(backlight.neuralize(kde, score="score_samples"), prior="none")
    assert mode.f[0] >= SkKernelDensity(bandwidth=0.9, leaf_size=300).fit(Z).score_samples(Z).max()
    itself, read = (backlight.prototype(one, prior="none", bounds=(-3, 3)) for one in (kde, backlight.neuralize(kde)))
    assert_allclose(itself.x, read.x)


def test_components_far_from_the_origin_are_as_exact_as_near_it():
    rng = np.random.default_rng(0)
    log_c, means, y = rng.standard_normal(6), rng.standard_normal((6, 3)), rng.standard_normal((9, 3))
    for U in (1.5, np.linalg.cholesky(np.eye(3) + 0.2).T[None].repeat(6, 0)):
        near, far = (Modes(log_c, means + shift, U).terms(y + shift) for shift in (0.0, 1e5))
        # coordinates of 1e5 have an error of 1e-11
        assert_allclose(far, near, rtol=0, atol=1e-8)
        factor = U * np.eye(3)[None].repeat(6, 0) if isinstance(U, float) else U
        by_hand = [
            [c - 0.5 * np.square(u @ (x - m)).sum() for c, m, u in zip(log_c, means, factor, strict=True)] for x in y
        ]
        assert_allclose(near, by_hand, rtol=1e-12, atol=1e-12)


# -- Boltzmann machines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [3, 8, 18])
def test_gaussian_machines_against_many_starts(hidden):
    rng = np.random.default_rng(hidden)
    d = 5
    W, a, b, s = rng.standard_normal((hidden, d)), rng.standard_normal(d), rng.standard_normal(hidden), 0.7
    w = rng.standard_normal(d)
    prior = priors.RBM(W, a, b, sigma=s)
    p = backlight.prototype(line(w), prior=prior, exact="require")

    def cost(x):
        return -(w @ x) + ((x - a) ** 2).sum() / (2 * s**2) - np.logaddexp(0, b + W @ x / s).sum()

    others = [-minimize(cost, a + s * rng.integers(0, 2, hidden) @ W).fun + 0.5 for _ in range(40)]
    assert p.value[0] >= max(others) - 1e-6
    x = p.x[0]
    still = a + s**2 * w + s * W.T @ (1 / (1 + np.exp(-(b + W @ x / s))))
    assert_allclose(x, still, atol=1e-8)
    assert p.certificate[0].kind == ("tilting bound" if hidden <= 16 else "fixed point")


def test_binary_machines_are_at_a_corner():
    rng = np.random.default_rng(0)
    W, a, b, w = rng.standard_normal((6, 8)), rng.standard_normal(8), rng.standard_normal(6), rng.standard_normal(8)
    prior = priors.RBM(W, a, b)
    p = backlight.prototype(line(w, 0.0), prior=prior, bounds=(0, 1))
    corners = np.array(list(itertools.product([0.0, 1.0], repeat=8)))
    J = corners @ w - prior.energy(torch.as_tensor(corners)).numpy()

    assert_allclose(p.value[0], J.max(), rtol=1e-12)
    assert p.status == ("exact",)
    with pytest.raises(Unbounded, match="convex"):
        backlight.prototype(line(w), prior=prior)
    W20 = rng.standard_normal((6, 20))
    large = backlight.prototype(line(rng.standard_normal(20)), prior=priors.RBM(W20, np.zeros(20), b), bounds=(0, 1))
    assert large.status == ("local",)
    flips = np.abs(large.x[0] - np.eye(20))
    value = [
        float(
            large.problems[0].target(torch.as_tensor(f)[None])[0]
            - large.problems[0].prior.energy(torch.as_tensor(f)[None])[0]
        )
        for f in flips
    ]
    assert max(value) <= large.value[0] + 1e-9
    # rows of data are starts too: a deep corner that nothing else leads to is found from a row beside it
    for rows in (1, 5, 40):
        deep = (rng.random(20) < 0.5).astype(float)
        well = priors.RBM(60 * (2 * deep - 1)[None], np.zeros(20), -60 * deep.sum(keepdims=True) + 30)
        data = np.abs(np.tile(deep, (rows, 1)) - np.eye(20)[rng.integers(0, 20, rows)] * 0.4)
        slope = -(2 * deep - 1) * 0.1
        found = backlight.prototype(line(slope), prior=well, bounds=(0, 1), data=data)
        assert_array_equal(found.x[0], deep)


# -- concave families -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KMeans, BisectingKMeans])
def test_the_centre_of_a_cluster_is_certified(kind):
    X, _ = make_blobs(200, 4, centers=5, random_state=0)
    model = kind(5, random_state=0, n_init=2).fit(X)
    prior = priors.Gaussian.fit(X)
    p = backlight.prototype(model, prior=prior, exact="require")
    network = backlight.neuralize(model)
    P = np.linalg.inv(prior.cov.numpy())
    rng = np.random.default_rng(0)

    assert all(c.kind == "duality gap" and c.value < 1e-9 for c in p.certificate)
    assert p.decided == p.names
    assert p.status == ("exact",) * 5
    for t in range(5):

        def J(x, t=t):
            return network(torch.as_tensor(x))[:, t].numpy() - 0.5 * np.einsum(
                "ni,ij,nj->n", x - X.mean(0), P, x - X.mean(0)
            )

        others = np.concatenate([X, p.x[t] + rng.standard_normal((500, 4)) * 0.1])
        assert J(others).max() <= J(p.x[t][None])[0] + 1e-9
    assert_array_equal(model.predict(p.x), np.arange(5))


def test_log_probability_of_a_linear_model_by_newton():
    wine = load_wine()
    Z = StandardScaler().fit_transform(wine.data)
    model = LogisticRegression().fit(Z, wine.target)
    p = backlight.prototype(model, targets.log_probability(), prior=priors.L2(0.1), exact="require")
    for c in range(3):

        def cost(x, c=c):
            return -log_softmax(model.coef_ @ x + model.intercept_)[c] + 0.1 * x @ x

        found = minimize(cost, np.zeros(13), tol=1e-12)
        assert_allclose(p.x[c], found.x, atol=1e-4)
        assert cost(p.x[c]) <= found.fun + 1e-12
        assert p.certificate[c].value < 1e-20
    assert_allclose(p.f, np.log(model.predict_proba(p.x)[range(3), range(3)]), rtol=1e-10)
    two = LogisticRegression().fit(Z, wine.target == 0)
    q = backlight.prototype(two, targets.log_probability("True"), prior=priors.L2(0.1), exact="require")
    assert_allclose(q.f[0], two.predict_log_proba(q.x)[0, 1], rtol=1e-10)


def test_an_outlier_prototype_is_unique_exactly_above_the_scores_own_curvature():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    gamma = 0.4
    model = OneClassSVM(gamma=gamma, nu=0.3).fit(X)
    m = np.array([0.1, 0.2, -0.1])
    p = backlight.prototype(model, prior=priors.L2(1.05 * gamma, center=m), exact="require")
    network = backlight.neuralize(model)

    def cost(x):
        return -float(network(torch.as_tensor(x)[None])[0]) + 1.05 * gamma * ((x - m) ** 2).sum()

    ends = [minimize(cost, rng.standard_normal(3) * 5, tol=1e-12).x for _ in range(5)]
    assert_allclose(np.array(ends), np.tile(p.x[0], (5, 1)), atol=1e-4)
    assert p.certificate[0].kind == "strong concavity"
    with pytest.raises(Unbounded, match="faster than"):
        backlight.prototype(model, prior=priors.L2(0.9 * gamma, center=m))
    outside = np.array([50.0, 0, 0])
    with pytest.raises(Unbounded, match="convex hull"):
        backlight.prototype(model, prior=priors.L2(gamma, center=outside))
