"""Prototypes in closed form, against formulas written out, brute force, and other solvers."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import lsq_linear, minimize
from sklearn.covariance import EmpiricalCovariance
from sklearn.datasets import load_wine
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import backlight
from backlight import constraints, priors, spaces
from backlight._prototype.qp import nearest
from backlight.errors import Infeasible, Unbounded
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
