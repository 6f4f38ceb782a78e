"""Prototypes in closed form, against formulas written out, brute force, and other solvers."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import lsq_linear, minimize
from scipy.special import log_softmax, logsumexp
from sklearn import decomposition
from sklearn.cluster import BisectingKMeans, KMeans
from sklearn.covariance import EmpiricalCovariance
from sklearn.datasets import load_digits, load_wine, make_blobs
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity as SkKernelDensity
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import backlight
from backlight import constraints, priors, spaces, targets
from backlight._prototype.exact.modes import Modes
from backlight._prototype.qp import nearest
from backlight.errors import ArgumentError, Infeasible, NoPrototype, Unbounded
from tests.conftest import examples

EXACT = 1e-12


def line(w, b=0.5):
    """A module that is w·x + b."""
    layer = torch.nn.Linear(len(w), 1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight[:] = torch.as_tensor(w)
        layer.bias[:] = b
    return layer


def covariance(rng, d, rank=None):
    A = rng.standard_normal((d, d if rank is None else rank))
    return A @ A.T


# -- the three textbook cases ---------------------------------------------------------------------------------------


@settings(max_examples=examples(30))
@given(st.integers(0, 10**6), st.integers(1, 12), st.floats(1e-3, 1e3), st.floats(1e-2, 1e2))
def test_linear_with_squared_norm_is_w_over_two_lambda(seed, d, lam, strength):
    rng = np.random.default_rng(seed)
    w, m = rng.standard_normal((2, d))

    p = backlight.prototype(line(w), prior=priors.L2(lam, center=m), strength=strength)

    assert_allclose(p.x[0], m + w / (2 * lam * strength), rtol=EXACT, atol=EXACT)
    assert p.status == ("exact",)
    assert p.certificate[0].kind == "closed form"
    best = w @ m + 0.5 + w @ w / (4 * lam * strength)
    assert_allclose(p.value, best, rtol=1e-10)


@settings(max_examples=examples(30))
@given(st.integers(0, 10**6), st.integers(2, 10), st.booleans(), st.floats(0.1, 10))
def test_linear_with_gaussian_is_the_mean_plus_sigma_w_also_when_singular(seed, d, singular, strength):
    rng = np.random.default_rng(seed)
    w, mu = rng.standard_normal((2, d))
    S = covariance(rng, d, max(1, d // 2) if singular else None)

    p = backlight.prototype(line(w), prior=priors.Gaussian(mu, S), strength=strength)

    assert_allclose(p.x[0], mu + S @ w / strength, rtol=1e-11, atol=1e-11 * (1 + np.abs(S).max()))


@pytest.mark.parametrize("k", [2, 5, 9])
def test_generator_and_gaussian_agree_at_lambda_one_half(k):
    rng = np.random.default_rng(k)
    d = 7
    w, c, A = rng.standard_normal(d), rng.standard_normal(d), rng.standard_normal((d, k))

    code = backlight.prototype(line(w), prior=priors.L2(0.5), space=spaces.Affine(A, c))
    density = backlight.prototype(line(w), prior=priors.Gaussian(c, A @ A.T))

    assert_allclose(code.x, density.x, rtol=EXACT, atol=1e-12 * np.abs(A @ A.T).max())
    assert_allclose(code.x[0], A @ A.T @ w + c, rtol=1e-12, atol=1e-12)
    assert_allclose(A @ code.z[0] + c, code.x[0], atol=1e-12)
    third = backlight.prototype(line(w), prior=priors.L2(2.0), space=spaces.Affine(A, c), strength=3.0)
    assert_allclose(third.x[0], A @ A.T @ w / 12 + c, rtol=1e-12, atol=1e-12)


def test_the_inverse_of_a_nearly_singular_covariance_is_never_taken():
    rng = np.random.default_rng(0)
    d = 50
    V, _ = np.linalg.qr(rng.standard_normal((d, d)))
    S = (V * np.geomspace(1, 1e-12, d)) @ V.T
    w = rng.standard_normal(d)

    p = backlight.prototype(line(w), prior=priors.Gaussian(np.zeros(d), (S + S.T) / 2))

    assert_allclose(p.x[0], S @ w, atol=1e-12)


def test_mass_of_the_gaussian_is_its_normaliser():
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(1)
    S, mu = covariance(rng, 4), rng.standard_normal(4)
    x = rng.standard_normal((6, 4))
    told = priors.Gaussian(mu, S).energy(torch.as_tensor(x)).numpy()

    assert_allclose(told, -multivariate_normal(mu, S).logpdf(x), rtol=1e-10)
    flat = covariance(rng, 4, 2)
    on = mu + x[:, :4] @ flat
    told = priors.Gaussian(mu, flat).energy(torch.as_tensor(on)).numpy()
    assert_allclose(told, -multivariate_normal(mu, flat, allow_singular=True).logpdf(on), rtol=1e-7)
    assert torch.isinf(priors.Gaussian(mu, flat).energy(torch.as_tensor(x))).all()


# -- quadratic f ----------------------------------------------------------------------------------------------------


class QuadraticNet(torch.nn.Module):
    def __init__(self, H, w):
        super().__init__()
        self.H, self.w = torch.as_tensor(H), torch.as_tensor(w)

    def forward(self, x):
        return 0.5 * ((x @ self.H) * x).sum(1) + x @ self.w


def test_quadratic_f_has_its_formula():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 4)) @ rng.standard_normal((4, 4))
    y = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(int)
    model = QuadraticDiscriminantAnalysis(reg_param=0.3).fit(X, y)
    prior = priors.Gaussian.fit(X)

    p = backlight.prototype(model, 1, prior=prior, strength=20.0, exact="require")

    # the log-odds as a quadratic form, from the library's own parameters
    P = [R / S @ R.T for R, S in zip(model.rotations_, model.scalings_, strict=True)]
    H, w = P[0] - P[1], P[1] @ model.means_[1] - P[0] @ model.means_[0]
    beta, S, mu = 20.0, prior.cov.numpy(), prior.mean.numpy()
    expected = np.linalg.solve(beta * np.linalg.inv(S) - H, w + beta * np.linalg.inv(S) @ mu)
    assert_allclose(p.x[0], expected, rtol=1e-8)
    assert p.certificate[0].kind == "closed form"
    told = -model.predict_log_proba(p.x)[0] @ [1, -1]
    assert_allclose(p.f[0], told, rtol=1e-6)


def test_one_eigenvalue_decides_whether_quadratic_f_is_bounded():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 3))
    detector = EmpiricalCovariance().fit(X)
    P = detector.get_precision()
    top = 2 * np.linalg.eigvalsh(P)[-1]  # f = δᵀPδ has H = 2P

    for strength in (0.98 * top, 0.5 * top):
        with pytest.raises(Unbounded, match="strength >"):
            backlight.prototype(detector, prior=priors.Gaussian(np.ones(3), np.eye(3)), strength=strength)
    p = backlight.prototype(detector, prior=priors.Gaussian(np.ones(3), np.eye(3)), strength=1.02 * top)
    assert p.status[0] == "exact"
    gradient = 2 * P @ (p.x[0] - detector.location_) - 1.02 * top * (p.x[0] - 1)
    assert_allclose(gradient, 0, atol=1e-9 * top * np.abs(p.x).max())


# -- bounds and linear rules ----------------------------------------------------------------------------------------


def box_problem(seed=0, d=12):
    rng = np.random.default_rng(seed)
    S = covariance(rng, d) / d + 0.05 * np.eye(d)
    return rng.standard_normal(d) * 2, rng.standard_normal(d) * 0.3, S


def test_clipping_is_right_for_a_diagonal_and_wrong_for_a_correlated_prior():
    w, mu, S = box_problem()
    P = np.linalg.inv(S)

    def J(x):
        return w @ x - 0.5 * (x - mu) @ P @ (x - mu)

    diagonal = backlight.prototype(line(w), prior=priors.Gaussian(mu, np.diag(S)), bounds=(-1, 1))
    assert_allclose(diagonal.x[0], np.clip(mu + np.diag(S) * w, -1, 1), rtol=EXACT)

    p = backlight.prototype(line(w), prior=priors.Gaussian(mu, S), bounds=(-1, 1))
    clipped = np.clip(mu + S @ w, -1, 1)
    R = np.linalg.cholesky(P).T
    other = lsq_linear(R, R @ (mu + S @ w), bounds=(-1, 1), method="bvls", tol=1e-14).x
    assert J(p.x[0]) > J(clipped) + 1e-3
    assert J(p.x[0]) >= J(other) - 1e-10
    assert_allclose(p.x[0], other, atol=1e-7)
    residual = np.abs(np.clip(p.x[0] + w - P @ (p.x[0] - mu), -1, 1) - p.x[0]).max()
    assert residual < 1e-10
    assert p.certificate[0].bound
    assert p.certificate[0].value < 1e-10
    assert (p.x >= -1).all()
    assert (p.x <= 1).all()


def test_linear_rules_against_another_solver():
    w, mu, S = box_problem(3, 6)
    P = np.linalg.inv(S)
    rules = [
        constraints.le("a", "b"),
        constraints.linear({"c": 1, "d": 2}, low=0.5),
        constraints.linear({"e": 1, "f": 1}, 1, 1),
    ]
    import pandas as pd

    data = pd.DataFrame(np.random.default_rng(0).standard_normal((20, 6)), columns=list("abcdef"))
    model = LinearRegression().fit(data, data @ w)
    p = backlight.prototype(model, prior=priors.Gaussian(mu, S), constraints=rules, bounds={"a": (None, 0.3)})

    found = minimize(
        lambda x: -(w @ x) + 0.5 * (x - mu) @ P @ (x - mu), np.zeros(6), jac=lambda x: -w + P @ (x - mu), method="SLSQP",
        bounds=[(None, 0.3)] + [(None, None)] * 5, options={"ftol": 1e-15, "maxiter": 500},
        constraints=[
            {"type": "ineq", "fun": lambda x: x[1] - x[0]}, {"type": "ineq", "fun": lambda x: x[2] + 2 * x[3] - 0.5},
            {"type": "eq", "fun": lambda x: x[4] + x[5] - 1},
        ],
    )  # fmt: skip
    assert_allclose(p.x[0], found.x, atol=1e-6)
    assert p.problems[0].region.violation(p.x[0]) < 1e-9


def test_a_singular_prior_stays_on_its_subspace_inside_the_bounds_or_says_there_is_nowhere():
    rng = np.random.default_rng(0)
    A, mu, w = rng.standard_normal((6, 2)), np.zeros(6), rng.standard_normal(6)
    p = backlight.prototype(line(w), prior=priors.Gaussian(mu, A @ A.T), bounds=(-1, 1))
    left = p.x[0] - A @ np.linalg.lstsq(A, p.x[0], rcond=None)[0]

    assert_allclose(left, 0, atol=1e-12)
    assert np.abs(p.x).max() <= 1
    with pytest.raises(Infeasible, match="2-dimensional subspace of 6"):
        backlight.prototype(line(w), prior=priors.Gaussian(mu, A @ A.T), bounds=(5, 6))


@settings(max_examples=examples(40))
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 20))
def test_the_nearest_point_satisfies_its_optimality_conditions(seed, k, m):
    rng = np.random.default_rng(seed)
    G, h, v0 = rng.standard_normal((m, k)), rng.standard_normal(m), rng.standard_normal(k) * 3
    found = nearest(v0, G, h)
    from scipy.optimize import linprog

    possible = linprog(np.zeros(k), A_ub=-G, b_ub=-h, bounds=(None, None)).status == 0
    assert (found is not None) == possible
    if found is not None:
        assert (G @ found.v - h).min() > -1e-7
        assert found.gap < 1e-6 * (1 + ((found.v - v0) ** 2).sum())


def test_whole_numbers_and_groups_equal_the_best_of_all_choices():
    rng = np.random.default_rng(2)
    d = 7  # three of one group, two whole numbers, two free
    w, mu, S = rng.standard_normal(d), rng.standard_normal(d) * 0.3, covariance(rng, d) / d + 0.1 * np.eye(d)
    P = np.linalg.inv(S)
    p = backlight.prototype(
        line(w), prior=priors.Gaussian(mu, S), bounds={3: (-2, 2), 4: (-2, 2)},
        constraints=[constraints.onehot(0, 1, 2), constraints.integer(3, 4)], exact="require",
    )  # fmt: skip

    best = -np.inf
    for one, a, b in itertools.product(range(3), range(-2, 3), range(-2, 3)):
        fixed = np.concatenate([np.eye(3)[one], [a, b]])
        free = mu[5:] + np.linalg.solve(P[5:, 5:], w[5:] - P[5:, :5] @ (fixed - mu[:5]))
        x = np.concatenate([fixed, free])
        best = max(best, w @ x - 0.5 * (x - mu) @ P @ (x - mu))
    x = p.x[0]
    assert_allclose(w @ x - 0.5 * (x - mu) @ P @ (x - mu), best, rtol=1e-9)
    assert_array_equal(x[:5], np.round(x[:5]))
    assert x[:3].sum() == 1
    assert p.certificate[0].kind == "branch and bound"


# -- counterfactuals ------------------------------------------------------------------------------------------------


def test_the_smallest_change_that_flips_a_linear_decision_has_its_formula():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 4)) @ rng.standard_normal((4, 4))
    y = (X @ [1, -1, 0.5, 0] > 0).astype(int)
    model = LogisticRegression().fit(X, y)
    x0 = X[y == 0][0]
    S = np.cov(X.T)
    near = priors.Near(x0, S)

    p = backlight.prototype(model, 1, prior=near, strength=np.inf, constraints=[constraints.decision(margin=0.2)])

    w, b = model.coef_[0], model.intercept_[0]
    # the logits are −f and f, so that a lead of 0.2 is f = 0.1
    expected = x0 + S @ w * (0.1 - (w @ x0 + b)) / (w @ S @ w)
    assert_allclose(p.x[0], expected, rtol=1e-9)
    assert model.predict(p.x)[0] == 1
    assert p.status == ("exact",)
    flipped = backlight.prototype(model, 1, prior=near, strength=np.inf, constraints=[constraints.decision()])
    assert model.predict(flipped.x)[0] == 1


def test_a_counterfactual_among_many_classes_beats_every_rival():
    wine = load_wine()
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(wine.data, wine.target)
    x0 = wine.data[0]
    p = backlight.prototype(
        model, [1, 2], prior=priors.Near(x0, data=wine.data), strength=np.inf,
        constraints=[constraints.decision(), constraints.fix(0)],
    )  # fmt: skip

    assert p.decided == ("1", "2")
    assert_array_equal(p.x[:, 0], x0[0])
    assert_array_equal(model.predict(p.x), [1, 2])
    # going back a hundredth of the way loses the decision
    assert not (model.predict(x0 + 0.99 * (p.x - x0)) == [1, 2]).any()


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


# -- trees ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("correlated", [False, True])
def test_the_best_leaf_of_a_tree(correlated):
    wine = load_wine()
    X = wine.data[:, [0, 6, 9]]
    model = DecisionTreeClassifier(max_depth=5, random_state=0).fit(X, wine.target)
    S = np.cov(X.T)
    prior = priors.Gaussian(X.mean(0), S if correlated else np.diag(S))
    p = backlight.prototype(model, prior=prior)

    assert_array_equal(model.predict(p.x), [0, 1, 2])
    rng = np.random.default_rng(0)
    near = np.concatenate([X, X.mean(0) + rng.standard_normal((200_000, 3)) @ np.linalg.cholesky(S).T])
    J = model.predict_proba(near) - prior.energy(torch.as_tensor(near)).numpy()[:, None]
    assert (J.max(0) <= p.value + 1e-9).all()
    assert (J.max(0) >= p.value - 0.1).all()
    assert all(c.kind == "leaves" for c in p.certificate)


def test_a_leaf_ends_at_the_single_precision_number_beside_its_threshold():
    X = np.array([[0.1], [0.2], [0.3], [0.7]])
    model = DecisionTreeRegressor().fit(X, [0.0, 0.0, 1.0, 1.0])
    low = backlight.prototype(model, prior=priors.L2(1.0, center=[-9.0]))
    p = backlight.prototype(model, prior=priors.L2(0.1, center=[0.0]))

    assert model.predict(p.x)[0] == 1.0
    assert p.f[0] == 1.0
    assert model.predict(np.nextafter(p.x.astype(np.float32), np.float32(-1)))[0] == 0.0
    assert low.x[0, 0] == -9.0
    with pytest.raises(ArgumentError, match="prior"):
        backlight.prototype(model, bounds=(0, 1))


def test_trees_keep_bounds_rules_and_decisions():
    wine = load_wine(as_frame=True)
    model = DecisionTreeClassifier(max_depth=4, random_state=0).fit(wine.data, wine.target)
    x0 = wine.data.iloc[[0]]
    p = backlight.prototype(
        model, "2", prior=priors.Near(x0, data=wine.data), strength=np.inf,
        constraints=[constraints.decision(), constraints.integer("magnesium"), constraints.fix("alcohol")],
    )  # fmt: skip
    assert model.predict(p.to_frame()[list(wine.data.columns)])[0] == 2
    assert p["2"].to_frame()["alcohol"][0] == x0["alcohol"].iloc[0]
    assert float(p.to_frame()["magnesium"][0]).is_integer()


# -- linear programs and ReLU networks ------------------------------------------------------------------------------


def test_without_a_prior_a_linear_f_is_at_a_corner_of_its_bounds():
    w = np.array([1.0, -2.0, 0.5])
    p = backlight.prototype(line(w), bounds=(np.array([0, -1, 2.0]), np.array([1, 3, 4.0])))
    assert_allclose(p.x[0], [1, -1, 4])
    assert p.status == ("exact",)
    ruled = backlight.prototype(line(w), bounds=(0, 1), constraints=[constraints.linear({0: 1, 2: 1}, high=0.8)])
    assert_allclose(ruled.x[0], [0.8, 0, 0], atol=1e-9)


def test_absolute_values_keep_a_linear_f_at_the_centre_or_do_not_hold_it():
    w = np.array([1.0, -2.0, 0.5])
    held = backlight.prototype(line(w), prior=priors.L1(2.5, center=[1.0, 1, 1]))
    assert_allclose(held.x[0], 1, atol=1e-9)
    with pytest.raises(Unbounded, match=r"max \|w_i\| = 2 > strength·λ = 1\.5"):
        backlight.prototype(line(w), prior=priors.L1(1.5))
    boxed = backlight.prototype(line(w), prior=priors.L1(1.5), bounds=(-3, 3))
    assert_allclose(boxed.x[0], [0, -3, 0], atol=1e-9)


@pytest.mark.parametrize("model", ["plain", "deep", "conv", "leaky", "residual"])
def test_the_certified_optimum_of_a_relu_network_is_above_a_dense_grid(model):
    torch.manual_seed(3)
    nets = {
        "plain": torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)),
        "deep": torch.nn.Sequential(
            torch.nn.Linear(2, 5), torch.nn.ReLU(), torch.nn.Linear(5, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)
        ),
        "conv": torch.nn.Sequential(
            torch.nn.Unflatten(1, (1, 2)),
            torch.nn.Conv1d(1, 3, 2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(9, 2),
        ),
        "leaky": torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.LeakyReLU(0.1), torch.nn.Linear(6, 2)),
        "residual": Residual(),
    }
    net = nets[model].double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 401, dtype=torch.float64)] * 2)
    for prior in (priors.L1(0.4, center=[0.2, -0.1]), None):
        p = backlight.prototype(net, prior=prior, bounds=(-1, 1), space=spaces.Input(2), exact="require")
        with torch.no_grad():
            J = net(grid) - (0 if prior is None else prior.energy(grid)[:, None])
        assert (p.value >= J.max(0).values.numpy() - 1e-9).all()
        assert (p.value <= J.max(0).values.numpy() + 0.05).all()
        assert all(c.value <= 1e-5 and c.bound for c in p.certificate)


class Residual(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = torch.nn.Linear(2, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.c(h + torch.relu(self.b(h)))


def test_a_perceptron_of_scikit_learn_behind_a_scaler_is_certified_too():
    wine = load_wine()
    X = wine.data[:, :4]
    model = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=3000, tol=1e-2, random_state=0)).fit(
        X, wine.target
    )
    p = backlight.prototype(model, bounds=(X.min(0), X.max(0)), exact="require")
    rng = np.random.default_rng(0)
    points = rng.uniform(X.min(0), X.max(0), (20_000, 4))
    J = backlight.neuralize(model)(torch.as_tensor(points)).numpy()

    assert set(p.status) == {"global"}
    assert (J.max(0) <= p.value + 1e-9).all()
    regression = MLPRegressor(hidden_layer_sizes=(6,), max_iter=3000, tol=1e-2, random_state=0).fit(
        X / X.max(0), wine.target
    )
    q = backlight.prototype(regression, bounds=(0, 1), exact="require")
    assert q.f[0] >= regression.predict(rng.random((20_000, 4))).max() - 1e-9


# -- which models are read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        LinearRegression(), Ridge(), LogisticRegression(solver='newton-cholesky'), LinearDiscriminantAnalysis(), LinearSVC(dual=False),
        SVC(kernel="linear"), make_pipeline(StandardScaler(), LogisticRegression()),
        make_pipeline(StandardScaler(), decomposition.PCA(3), SVC(kernel="linear")),
        make_pipeline(StandardScaler(), decomposition.PCA(3), KMeans(3, n_init=2, random_state=0)),
    ],
)  # fmt: skip
def test_linear_models_of_scikit_learn_are_solved_exactly_in_the_users_units(model):
    wine = load_wine(as_frame=True)
    model.fit(wine.data, wine.target)
    p = backlight.prototype(model, data=wine.data, exact="require")

    x = torch.as_tensor(p.x)
    network = backlight.neuralize(model)
    S, mu = p.problems[0].prior.cov, p.problems[0].prior.mean
    rng = np.random.default_rng(0)
    step = torch.as_tensor(rng.standard_normal((50, 13))) @ torch.linalg.cholesky(S).T * 0.01
    out = network(x).reshape(len(p), -1)
    for t in range(len(p)):
        column = t if out.shape[1] > 1 else 0
        values = network(x[t] + step).reshape(50, -1)[:, column] - p.problems[0].prior.energy(x[t] + step)
        assert float(values.max()) <= p.value[t] + 1e-9
    assert mu.shape == (13,)
    assert list(p.to_frame().columns) == ["target", *wine.data.columns]


def test_a_torch_network_without_activations_is_linear_whatever_its_layers():
    torch.manual_seed(0)
    net = (
        torch.nn.Sequential(
            torch.nn.Conv2d(1, 3, 3),
            torch.nn.BatchNorm2d(3),
            torch.nn.AvgPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(27, 4),
        )
        .double()
        .eval()
    )
    X = torch.randn(50, 1, 8, 8, dtype=torch.float64)
    p = backlight.prototype(net, data=X, exact="require")
    J = (
        torch.autograd.functional.jacobian(net, torch.zeros(1, 1, 8, 8, dtype=torch.float64))[0, :, 0]
        .flatten(1)
        .numpy()
    )
    prior = p.problems[0].prior

    assert_allclose(p.x.reshape(4, 64), prior.mean.numpy() + J @ prior.cov.numpy(), atol=1e-12)
    assert p.x.shape == (4, 1, 8, 8)


def test_require_says_what_was_seen_and_what_is_exact():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    with pytest.raises(ArgumentError, match=r"no exact solver applies.*none that can be read.*L2"):
        backlight.prototype(net, prior=priors.L2(1.0), exact="require")


def test_values_are_those_of_the_model_at_the_returned_point():
    digits = load_digits()
    model = LogisticRegression(max_iter=200).fit(digits.data, digits.target)
    p = backlight.prototype(model, data=digits.data, bounds=(0, 16), strength=2.0)

    assert_allclose(p.f, model.decision_function(p.x)[range(10), range(10)], rtol=1e-10)
    assert_allclose(p.value, p.f - 2.0 * p.omega, rtol=1e-12)
    assert p.x.min() >= 0
    assert p.x.max() <= 16


def test_a_target_without_a_solution_does_not_take_the_others_with_it():
    wine = load_wine()
    model = LogisticRegression(max_iter=4000).fit(wine.data, wine.target)
    near = priors.Near(wine.data[0], data=wine.data)
    kept = tuple(range(12))
    with pytest.warns(backlight.errors.BacklightWarning, match="no input satisfies"):
        p = backlight.prototype(
            model, prior=near, strength=np.inf, constraints=[constraints.decision(margin=2.0), constraints.fix(*kept)],
            bounds={12: (1000, 1100)},
        )  # fmt: skip
    assert "infeasible" in p.status
    assert "exact" in p.status
    assert np.isnan(p.x[p.status.index("infeasible")]).all()
    with pytest.raises(NoPrototype):
        backlight.prototype(
            model, 2, prior=near, strength=np.inf, constraints=[constraints.decision(), constraints.fix(*range(13))]
        )


def law_models():
    wine = load_wine()
    X, y = wine.data[:, :5], wine.target
    scaled = StandardScaler
    return X, {
        "logistic": LogisticRegression(solver="newton-cholesky").fit(X, y),
        "behind a projection": make_pipeline(scaled(), decomposition.PCA(3), LinearSVC(dual=False)).fit(X, y),
        "clusters": make_pipeline(scaled(), KMeans(4, n_init=2, random_state=0)).fit(X),
        "one-class SVM": make_pipeline(scaled(), OneClassSVM(gamma=0.02, nu=0.2)).fit(X),
        "quadratic": QuadraticDiscriminantAnalysis(reg_param=0.5).fit(X, y == 1),
        "density": backlight.neuralize(
            make_pipeline(scaled(), GaussianMixture(3, random_state=0)).fit(X), score="score_samples"
        ),
    }


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("model", list(law_models()[1]))
def test_no_climb_is_above_what_an_exact_solver_bounds(model, bounded):
    X, models = law_models()
    options = {
        "data": X,
        "bounds": (X.min(0), X.max(0)) if bounded else None,
        "strength": 20.0 if model == "quadratic" else 1.0,
    }
    certified = 0
    every = [priors.Gaussian.fit(X), priors.Mixture.fit(X, 3), priors.Gaussian(X.mean(0), X.var(0))]
    for prior in every + [priors.L1(0.3, X.mean(0))] * bounded:
        try:
            p = backlight.prototype(models[model], prior=prior, **options)
        except Unbounded:
            continue
        q = backlight.prototype(models[model], prior=prior, exact="never", **options)
        for t, c in enumerate(p.certificate):
            if c.bound:
                certified += 1
                assert q.value[t] <= p.value[t] + c.value + 1e-7 * (1 + abs(p.value[t]))
                assert q.value[t] >= p.value[t] - 1
    assert certified or bounded


@pytest.mark.parametrize("strength", [1.0, 2.5])
@pytest.mark.parametrize("kind", ["rows", "mixture", "binary machine", "Gaussian machine", "many hidden", "density"])
def test_the_best_optimum_in_the_list_is_the_value_of_the_result(kind, strength):
    """Both are f(x) − strength·Ω(x) at the same point, with all constants."""
    rng = np.random.default_rng(0)
    w, bounds, target, b = rng.standard_normal(3), None, None, rng.standard_normal(6)
    if kind == "rows":
        prior = priors.KernelDensity(rng.standard_normal((20, 3)), 0.5)
    elif kind == "mixture":
        prior = priors.Mixture([0.3, 0.7], rng.standard_normal((2, 3)) * 3, np.stack([np.eye(3), 0.5 * np.eye(3)]))
    elif kind == "binary machine":
        prior, w, bounds = priors.RBM(rng.standard_normal((6, 20)), np.zeros(20), b), rng.standard_normal(20), (0, 1)
    elif kind == "density":
        prior = priors.Gaussian(np.zeros(3), 4 * np.eye(3))
        density = SkKernelDensity(bandwidth=0.8).fit(rng.standard_normal((30, 3)))
        target = backlight.neuralize(density, score="score_samples")
    else:
        hidden = 18 if kind == "many hidden" else 5
        prior = priors.RBM(rng.standard_normal((hidden, 3)) * 0.5, np.zeros(3), rng.standard_normal(hidden), sigma=1.0)
    p = backlight.prototype(line(w, 0.7) if target is None else target, prior=prior, bounds=bounds, strength=strength)

    assert len(p.optima[0]) >= 1
    assert_allclose(p.optima[0][0][0], p.value[0], rtol=1e-6)
    if target is None:
        assert_allclose(
            p.value[0], w @ p.x[0] + 0.7 - strength * float(prior.energy(torch.as_tensor(p.x))[0]), rtol=1e-9
        )


def test_clipped_columns_are_certified_in_closed_form():
    w = np.array([3.0, -0.5, 0.2, -4.0])
    p = backlight.prototype(line(w), prior=priors.L2(0.5), bounds=(-1, 1))

    assert_allclose(p.x[0], np.clip(w, -1, 1), rtol=1e-12)
    assert p.status == ("exact",)
    assert (p.certificate[0].kind, p.certificate[0].bound) == ("closed form", True)


def test_whole_columns_are_counted_and_a_program_without_them_has_none_to_count():
    w = np.array([1.0, -2.0, 0.5])
    whole, plain = (
        backlight.prototype(line(w), prior=priors.L1(0.1), bounds=(-3, 3.5), constraints=rules)
        for rules in ([constraints.integer(0, 1)], [])
    )
    assert_allclose(whole.x[0], [3, -3, 3.5], atol=1e-9)
    assert any("2 binary variables" in note for note in whole.notes[0])
    assert not any("binary" in note for note in plain.notes[0])


def test_ranges_of_units_are_not_cut_where_one_side_is_far_longer_than_the_other():
    """max relu(relu(x) − 2000 relu(y)) over [−1, 1]² is 1, at x = 1 and y ≤ 0; the range behind it is [−2000, 1]."""
    layers = [torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1), torch.nn.ReLU(), torch.nn.Linear(1, 1)]
    net = torch.nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        for place, weight in ((0, [[1.0, 0.0], [0.0, 1.0]]), (2, [[1.0, -2000.0]]), (4, [[1.0]])):
            net[place].weight.copy_(torch.tensor(weight))
            net[place].bias.zero_()
    p = backlight.prototype(net, 0, prior=None, bounds=(-1, 1), space=spaces.Input(2), exact="require")

    assert_allclose(p.value, 1.0, rtol=1e-9)


def test_a_cluster_under_an_absolute_prior_weighs_one_against_the_other():
    """f = min over rivals is linear between two clusters: beyond the rival's pull nothing is gained but Ω grows.

    Every vertex of a fine grid is tried; the best of them is no better, and the bound is met.
    """
    X = np.r_[np.full((10, 1), -1.0), np.full((10, 1), 1.0)] + np.linspace(-0.01, 0.01, 20)[:, None]
    model = KMeans(2, n_init=1, random_state=0).fit(X)
    network = backlight.neuralize(model)
    grid = np.linspace(-3, 3, 6001)[:, None]
    slope = np.abs(np.diff(network(grid).numpy()[:, 0])).max() / np.diff(grid[:, 0])[0]
    for lam, stays in ((0.6, False), (1.5, True)):
        p = backlight.prototype(model, 0, prior=priors.L1(lam * slope), bounds=(-3, 3), exact="require")
        J = network(grid).numpy()[:, 0] - lam * slope * np.abs(grid[:, 0])
        assert p.value[0] >= J.max() - 1e-9
        assert abs(p.x[0, 0]) == pytest.approx(0.0 if stays else 3.0, abs=1e-6)


def test_a_solver_prints_nothing_and_what_others_print_is_kept(capfd):
    """HiGHS writes past Python's streams: so do these, from several threads at once."""
    import os
    import sys
    import threading

    from backlight._prototype.exact.quiet import quiet

    def speak(k):
        with quiet():
            os.write(1, b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();\n")
            os.write(1, f"line {k}\n".encode())

    sys.stdout.write("before\n")
    threads = [threading.Thread(target=speak, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(RuntimeError, match="stop"), quiet():
        raise RuntimeError("stop")
    sys.stdout.write("after\n")
    lines = capfd.readouterr().out.splitlines()

    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert sorted(lines[1:-1]) == [f"line {k}" for k in range(8)]
