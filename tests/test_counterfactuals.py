"""What would have to change: nearest inputs with another decision, against linear programs, enumeration and formulas."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import linprog
from sklearn.covariance import EllipticEnvelope
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

import backlight
from backlight import constraints, priors
from backlight.errors import ArgumentError, Infeasible, NotFound, UnsupportedModel

INF = float("inf")
DECIDED = constraints.decision()


# -- linear models: linear and mixed-integer programs ---------------------------------------------------------------


def _linear_program(model, row, wanted, weights, bounds, held=()):
    """min Σ weight |x − row| with the wanted logit ahead by 1e-6, in the columns' own units, by SciPy."""
    scaler, last = model[0], model[-1]
    W = last.coef_ / scaler.scale_
    b = last.intercept_ - W @ scaler.mean_
    if len(W) == 1:
        W, b = np.vstack([-W, W]), np.concatenate([-b, b])
    d = len(row)
    A = np.array([W[k] - W[wanted] for k in range(len(W)) if k != wanted])
    right = np.array([b[wanted] - b[k] - 1e-6 for k in range(len(W)) if k != wanted])
    # x = row + up − down
    low, high = (row, row) if held is None else bounds
    low, high = np.array(low, dtype=float), np.array(high, dtype=float)
    for i in held or ():
        low[i] = high[i] = row[i]
    sides = [(0, max(0.0, high[i] - row[i])) for i in range(d)] + [(0, max(0.0, row[i] - low[i])) for i in range(d)]
    return linprog(np.tile(weights, 2), np.hstack([A, -A]), right - A @ row, bounds=sides, method="highs")


@pytest.mark.parametrize("load", [load_wine, load_breast_cancer, load_iris])
def test_the_sparsest_change_of_a_linear_model_is_the_linear_program(load):
    X, y = load(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X, y)
    weights = 1 / np.maximum(np.median(np.abs(X - np.median(X, 0)), 0), 1e-3)
    rng = np.random.default_rng(0)
    for i in rng.choice(len(X), 8, replace=False):
        wanted = int((model.predict(X[[i]])[0] + 1) % len(np.unique(y)))
        prior = priors.L1(1.0, center=X[i], weights=weights)
        p = backlight.prototype(
            model, str(wanted), prior=prior, data=X, strength=INF, constraints=DECIDED, bounds="data"
        )
        expected = _linear_program(model, X[i], wanted, weights, (X.min(0), X.max(0)))

        assert p.status == ("exact",)
        assert model.predict(p.x)[0] == wanted
        # HiGHS keeps rows to 1e-7 of numbers of order one
        assert_allclose(p.omega[0], expected.fun, rtol=1e-8, atol=1e-8)


def test_few_changed_columns_are_the_best_of_all_choices_of_them():
    X, y = load_iris(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    bounds, ones = (X.min(0), X.max(0)), np.ones(4)
    for i in (0, 60, 120):
        wanted = int((model.predict(X[[i]])[0] + 1) % 3)
        for k in (1, 2):
            kept = itertools.combinations(range(4), 4 - k)
            solved = [_linear_program(model, X[i], wanted, ones, bounds, held) for held in kept]
            best = min((s.fun for s in solved if s.status == 0), default=None)
            ask = {"prior": priors.L1(1.0, center=X[i]), "data": X, "strength": INF, "bounds": "data"}
            given = [DECIDED, constraints.sparse(k)]
            if best is None:
                with pytest.raises(Infeasible):
                    backlight.prototype(model, str(wanted), constraints=given, **ask)
                continue
            p = backlight.prototype(model, str(wanted), constraints=given, **ask)
            assert p.status == ("exact",)
            assert (np.abs(p.x[0] - X[i]) > 1e-7).sum() <= k
            assert_allclose(p.omega[0], best, rtol=1e-6, atol=1e-6)


def test_answers_that_are_apart_are_the_best_of_all_boxes_that_are():
    """Each next one against the linear program of every choice of a column and a side for each answer before."""
    X, y = load_iris(return_X_y=True)
    keep = y > 0
    X, y = X[keep], y[keep] - 1
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X, y)
    row, weights, step = X[3], 1 / X.std(0), 0.8 * X.std(0)
    wanted = int(1 - model.predict(row[None])[0])
    prior = priors.L1(1.0, center=row, weights=weights)
    ask = {"data": X, "strength": INF, "bounds": "data", "constraints": DECIDED}
    p = backlight.prototype(model, str(wanted), prior=prior, count=3, apart=0.8, **ask)

    assert p.status == ("exact",) * 3
    assert (model.predict(p.x) == wanted).all()
    for n in range(3):
        best = INF
        for sides in itertools.product(range(2 * X.shape[1]), repeat=n):
            low, high = X.min(0), X.max(0)
            for before, side in zip(p.x, sides, strict=False):
                i, up = divmod(side, 2)
                if up:
                    low[i] = max(low[i], before[i] + step[i])
                else:
                    high[i] = min(high[i], before[i] - step[i])
            if (low > high).any():
                continue
            # changes are counted from the row, and the box need not hold it
            sure = weights @ np.abs(np.clip(row, low, high) - row)
            if sure >= best:
                continue
            best = min(best, _least_change(model, row, wanted, weights, low, high))
        assert_allclose(p.omega[n], best, rtol=1e-7)


def _least_change(model, row, wanted, weights, low, high):
    """min Σ t, t ≥ weight |x − row|, in a box with the wanted logit ahead by 1e-6, by SciPy."""
    scaler, last = model
    w = last.coef_[0] / scaler.scale_
    b = last.intercept_[0] - w @ scaler.mean_
    sign, d = (1 if wanted else -1), len(row)
    # the logits of two classes are −f and f
    A = np.block([[np.diag(weights), -np.eye(d)], [-np.diag(weights), -np.eye(d)], [-2 * sign * w, np.zeros(d)]])
    right = np.concatenate([weights * row, -weights * row, [2 * sign * b - 1e-6]])
    found = linprog(np.r_[np.zeros(d), np.ones(d)], A, right, bounds=[*zip(low, high, strict=True), *[(0, None)] * d])
    return found.fun if found.status == 0 else INF


@pytest.mark.parametrize("prior", ["near", "l1"])
def test_answers_that_are_apart_keep_everything_else_and_are_proved(prior):
    rng = np.random.default_rng(3)
    n = 200
    X = np.column_stack([rng.integers(18, 80, n), rng.normal(size=n), np.eye(3)[rng.integers(0, 3, n)]]).astype(float)
    y = (X[:, 0] / 20 + X[:, 1] + X[:, 2] > 3).astype(int)
    model = LogisticRegression(max_iter=2000).fit(X, y)
    row = X[np.flatnonzero(model.predict(X) == 0)[0]]
    chosen = priors.Near(row, cov=X.var(0)) if prior == "near" else priors.L1(1.0, center=row, weights=1 / X.std(0))
    p = backlight.prototype(
        model, "1", prior=chosen, data=X, strength=INF, bounds="data", count=4, apart=0.5,
        constraints=[DECIDED, constraints.integer(0), constraints.onehot(2, 3, 4)],
    )  # fmt: skip

    assert len(p) == 4
    assert (model.predict(p.x) == 1).all()
    assert_allclose(p.x[:, 0], np.round(p.x[:, 0]), atol=1e-9)
    assert_allclose(p.x[:, 2:].sum(1), 1, atol=1e-9)
    assert (np.diff(p.omega) >= -1e-6).all()
    for a, b in itertools.combinations(p.x, 2):
        assert (np.abs(a - b) / X.std(0))[:2].max() >= 0.5 * (1 - 1e-5) or np.abs(a - b)[2:].max() > 0.5


def test_apart_is_a_positive_distance():
    X, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(X, y)
    for apart in (0, -1.0, INF, "far"):
        with pytest.raises(ArgumentError, match="apart"):
            backlight.prototype(model, data=X, count=2, apart=apart)


def test_few_changed_columns_with_a_quadratic_prior():
    """One column of a linear decision: the change is the missing lead over the weight, best where weight · spread is."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((200, 4)) * [1, 2, 3, 0.5]
    model = LogisticRegression(C=100.0).fit(X, X @ [1.0, -1.0, 0.3, 0.2] > 0)
    row = np.array([1.0, -1.0, 0.5, 0.1])
    w, b = model.coef_[0], model.intercept_[0]
    near = priors.Near(row, cov=np.array([1.0, 4.0, 9.0, 0.25]))
    p = backlight.prototype(
        model, "False", prior=near, strength=INF, bounds=(-50, 50), constraints=[DECIDED, constraints.sparse(1)]
    )
    # logits are −f and f: −f leads f by the margin where f = −margin/2
    step = -(row @ w + b + 0.5e-6) / w
    cost = 0.5 * step**2 / [1.0, 4.0, 9.0, 0.25]
    expected = row.copy()
    expected[np.argmin(cost)] += step[np.argmin(cost)]

    assert p.status == ("exact",)
    assert_allclose(p.x[0], expected, atol=1e-4)


# -- detectors -------------------------------------------------------------------------------------------------------


def test_the_nearest_normal_version_of_anomalies_is_normal_and_not_themselves():
    X = load_wine().data
    model = make_pipeline(StandardScaler(), OneClassSVM(nu=0.1, gamma=0.05)).fit(X[:130])
    for i in model.decision_function(X).argsort()[:3]:
        near = priors.Near(X[[i]], data=X)
        p = backlight.prototype(model, prior=near, strength=INF, data=X, constraints=[DECIDED])

        assert model.decision_function(p.x)[0] >= 0
        # at its threshold: a shorter way would not be normal
        shorter = X[i] + 0.99 * (p.x[0] - X[i])
        assert model.decision_function(shorter[None])[0] < 0


def test_the_nearest_normal_version_in_the_detectors_own_metric_is_on_the_line_to_the_mean():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 3)) @ rng.standard_normal((3, 3))
    model = EllipticEnvelope(random_state=0, contamination=0.05).fit(X)
    row = model.location_ + 5 * (X[0] - model.location_)
    near = priors.Near(row, cov=model.covariance_)
    p = backlight.prototype(model, prior=near, strength=INF, data=X, constraints=[DECIDED])
    distance = model.mahalanobis(row[None])[0]
    expected = model.location_ + (row - model.location_) * np.sqrt((-model.offset_ - 1e-6) / distance)

    assert model.decision_function(p.x)[0] >= 0
    assert_allclose(p.x[0], expected, atol=1e-4)


def test_a_row_that_is_normal_already_is_its_own_nearest_version():
    X = load_wine().data
    model = make_pipeline(StandardScaler(), OneClassSVM(nu=0.1, gamma=0.05)).fit(X)
    i = int(model.decision_function(X).argmax())
    p = backlight.prototype(model, prior=priors.Near(X[[i]], data=X), strength=INF, data=X, constraints=[DECIDED])

    assert_allclose(p.x[0], X[i], atol=1e-8)


def test_models_that_decide_nothing_have_no_decision():
    X = load_wine().data
    ask = {"prior": priors.Near(X[0]), "strength": INF, "constraints": [DECIDED]}
    for model in (Ridge().fit(X, X[:, 0]), torch.nn.Linear(13, 1).double()):
        with pytest.raises(ArgumentError, match="needs a classifier, or a detector"):
            backlight.prototype(model, **ask)


# -- whole numbers on perceptrons ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def census():
    rng = np.random.default_rng(7)
    X = np.column_stack([rng.integers(18, 40, 300), rng.integers(1, 9, 300), rng.integers(5, 20, 300)]).astype(float)
    y = rng.random(300) < 1 / (1 + np.exp(6 - 0.05 * X[:, 0] - 0.5 * X[:, 1] - 0.1 * X[:, 2]))
    return X, make_pipeline(StandardScaler(), MLPClassifier((6,), max_iter=600, random_state=0)).fit(X, y)


@pytest.mark.parametrize("kind", ["near", "sum of absolute values"])
def test_whole_numbers_of_a_perceptron_are_the_best_of_all(census, kind):
    X, model = census
    solved = 0
    for i in (3, 40, 77):
        row, wanted = X[i], not model.predict(X[[i]])[0]
        grid = np.array([(row[0], e, h) for e in range(1, 9) for h in range(5, 20)], dtype=float)
        prior = priors.Near(row, cov=X.var(0)) if kind == "near" else priors.L1(1.0, center=row)
        good = grid[model.predict(grid) == wanted]
        ask = {
            "prior": prior, "data": X, "strength": INF, "bounds": (X.min(0), X.max(0)),
            "constraints": [DECIDED, constraints.fix(0), constraints.integer(1, 2)],
        }  # fmt: skip
        if not len(good):
            with pytest.raises(Infeasible):
                backlight.prototype(model, str(wanted), **ask)
            continue
        p = backlight.prototype(model, str(wanted), **ask)
        best = float(prior.energy(torch.as_tensor(good)).min())
        solved += 1

        assert p.status == ("exact",)
        assert p.flags == ((),)
        assert model.predict(p.x)[0] == wanted
        assert_allclose(p.omega[0], best, rtol=1e-6)
    assert solved


def test_a_search_never_ends_in_another_class_and_claims_no_proof(census):
    X, model = census
    for i in (3, 40):
        wanted = not model.predict(X[[i]])[0]
        ask = {
            "prior": priors.Near(X[i], cov=X.var(0)), "data": X, "strength": INF, "bounds": "data", "exact": "never",
            "constraints": [DECIDED, constraints.integer(0, 1, 2)],
        }  # fmt: skip
        p = backlight.prototype(model, str(wanted), **ask)

        assert p.status == ("local",)
        assert model.predict(p.x)[0] == wanted
        assert_allclose(p.x, np.round(p.x))


def test_what_a_search_does_not_find_is_not_called_impossible():
    """relu(x) + 1 against 0: the second class is never decided. By search that is not known, by a program it is."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2)), net[0].bias.zero_()
        net[2].weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]])), net[2].bias.copy_(torch.tensor([1.0, 0.0]))
    ask = {"prior": priors.L1(1.0, center=np.zeros(2)), "strength": INF, "bounds": (-3, 3), "constraints": [DECIDED]}
    with pytest.raises(Infeasible):
        backlight.prototype(net, 1, **ask)
    with pytest.raises(NotFound, match="there may be"):
        backlight.prototype(net, 1, **{**ask, "prior": priors.Near(np.zeros(2))}, exact="never")


# -- what is empty or degenerate -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: priors.L2(1e-320),
        lambda: priors.L2(True),
        lambda: priors.L1(1e300),
        lambda: priors.L1(1.0, weights=[1.0, -1.0]),
        lambda: priors.L1(1.0, center=[0.0, 0.0], weights=[1.0]),
        lambda: constraints.sparse(0),
        lambda: constraints.onehot(0, 0),
        lambda: constraints.fix(0, value=float("nan")),
        lambda: constraints.le("a", "a"),
        lambda: constraints.compiled(None, [constraints.linear({"a": 1.0, 0: -1.0}, high=0.0)], ["a"], None, None),
    ],
)
def test_what_says_nothing_is_refused(make):
    with pytest.raises(ArgumentError):
        make()


def test_the_rounding_of_a_full_rotation_is_no_score():
    X = load_wine().data
    with pytest.raises(UnsupportedModel, match="keeps all 13 components"):
        backlight.explain(PCA().fit(X), X[:3])
    assert backlight.explain(PCA().fit(X), X[:3], score="t2").values.shape == (3, 13)


def test_an_exact_answer_that_is_far_off_stays_exact():
    """μ + Σ w, known in closed form, of w far longer than the Gaussian is wide."""
    rng = np.random.default_rng(2)
    w, mu, A = rng.standard_normal(7), rng.standard_normal(7), rng.standard_normal((7, 3))
    f = torch.nn.Linear(7, 1).double()
    f.weight.data = torch.tensor(w)[None]
    p = backlight.prototype(f, 0, prior=priors.Gaussian(mu, A @ A.T))

    assert p.status == ("exact",)
    assert p.flags == (("off_prior",),)
    assert not p.fine(0)
    assert_allclose(p.x[0], mu + A @ A.T @ w, atol=1e-10)


@pytest.mark.parametrize("fit", [priors.Gaussian.fit, priors.Mixture.fit, priors.KernelDensity.fit])
def test_a_prior_of_the_same_columns_in_another_order_is_refused(fit):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(60, 3)) * [1, 10, 100], columns=["a", "b", "c"])
    model = LogisticRegression(max_iter=2000).fit(X, (X["a"] > 0).astype(int))
    bounds = (X.to_numpy().min(0), X.to_numpy().max(0))
    assert backlight.prototype(model, prior=fit(X), bounds=bounds).x.shape == (2, 3)
    for other, said in ((X[["c", "a", "b"]], "another order"), (X.rename(columns={"c": "d"}), "other columns")):
        for prior in (fit(other), priors.L2(1.0) + fit(other)):
            with pytest.raises(backlight.errors.DataError, match=said):
                backlight.prototype(model, prior=prior, bounds=bounds)
    # rows without names are taken by position
    assert backlight.prototype(model, prior=fit(X.to_numpy()), bounds=bounds).x.shape == (2, 3)
