"""Counterfactuals near to a row of the data: against every box written out, and against the definition."""

import numpy as np
import pytest
from scipy.optimize import linprog
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

import backlight
from backlight import constraints, priors
from backlight._prototype.plausible import radius_of
from backlight.errors import ArgumentError, Infeasible

SMALLEST = float("inf")


def nearest_other(scaled):
    far = np.abs(scaled[:, None] - scaled[None]).max(2)
    np.fill_diagonal(far, np.inf)
    return far.min(1)


@pytest.fixture
def wine():
    X, y = load_wine(return_X_y=True)
    X = X[:, :5]
    return X, (y == 1).astype(int)


def test_the_radius_is_the_quantile_of_the_distances_to_the_nearest_other_row(rng):
    X = rng.normal(size=(50, 3)) * [1, 10, 0.1]
    scaled = X / X.std(0)
    assert radius_of(X, [], 0.9) == pytest.approx(np.quantile(nearest_other(scaled), 0.9), rel=1e-12)

    # with categories only rows of the same ones are near
    group = np.eye(2)[rng.integers(0, 2, 50)]
    parts = [nearest_other(scaled[group[:, k] == 1]) for k in range(2)]
    both = radius_of(np.hstack([X, group]), [[3, 4]], 0.9)
    assert both == pytest.approx(np.quantile(np.concatenate(parts), 0.9), rel=1e-12)


def test_linear_counterfactuals_are_the_best_of_all_boxes(wine):
    X, y = wine
    model = LogisticRegression(max_iter=2000).fit(X, y)
    weights = 1 / X.std(0)
    tau = radius_of(X, [], 0.5) * X.std(0)
    for row in X[[0, 70, 150]]:
        other = 1 - model.predict(row[None])[0]
        found = backlight.prototype(
            model, str(other), prior=priors.L1(1.0, center=row, weights=weights), data=X, strength=SMALLEST,
            constraints=[constraints.decision(), constraints.plausible(0.5)], bounds="data",
        )  # fmt: skip
        sign = 1 if other == 1 else -1
        best = np.inf
        for center in X:
            low, high = np.maximum(X.min(0), center - tau), np.minimum(X.max(0), center + tau)
            # x = row + up - down; classes are -f and f, so that a lead of 1e-6 is half of that in f
            w = sign * model.coef_[0]
            lead = w @ row + sign * model.intercept_[0] - 0.5e-6
            A = np.vstack([np.r_[-w, w][None], np.c_[np.eye(5), -np.eye(5)], np.c_[-np.eye(5), np.eye(5)]])
            solved = linprog(np.r_[weights, weights], A, np.r_[lead, high - row, row - low])
            best = min(best, solved.fun if solved.status == 0 else np.inf)

        assert found.status == ("exact",)
        assert found.omega[0] == pytest.approx(best, rel=1e-7)
        # the definition itself, but for rounding
        assert (np.abs(found.x - X) <= tau * (1 + 1e-9) + 1e-9).all(1).any()


def test_a_stricter_share_is_never_nearer_and_all_of_them_stay_on_the_data(wine):
    X, y = wine
    model = RandomForestClassifier(3, max_depth=2, random_state=0).fit(X, y)
    row = X[[0]]
    other = str(1 - model.predict(row)[0])
    prior, sizes = priors.L1(1.0, center=row[0], weights=1 / X.std(0)), []
    for share in (None, 0.9, 0.3):
        rules = [constraints.decision(), *([constraints.plausible(share)] if share else [])]
        found = backlight.prototype(
            model, other, prior=prior, data=X, strength=SMALLEST, constraints=rules, bounds="data"
        )
        assert found.decided == (other,)
        sizes.append(float(found.omega[0]))
        if share:
            tau = radius_of(X, [], share) * X.std(0)
            assert (np.abs(found.x - X) <= tau * (1 + 1e-6) + 1e-9).all(1).any()
    assert sizes == sorted(sizes)


def test_networks_are_climbed_in_a_few_boxes_and_it_is_said(wine):
    X, y = wine[0][:, :2], wine[1]
    scaled = (X - X.mean(0)) / X.std(0)
    model = MLPClassifier((8,), max_iter=3000, random_state=0, activation="tanh", solver="lbfgs").fit(scaled, y)
    row = scaled[[0]]
    other = str(1 - model.predict(row)[0])
    found = backlight.prototype(
        model, other, prior=priors.Near(row, data=scaled), data=scaled, strength=SMALLEST,
        constraints=[constraints.decision(), constraints.plausible()], bounds="data",
    )  # fmt: skip

    assert found.decided == (other,)
    assert found.status == ("local",)
    tau = radius_of(scaled, [], 0.95)
    assert (np.abs(found.x - scaled) <= tau * (1 + 1e-6)).all(1).any()


def test_what_cannot_be_plausible_is_refused(wine):
    X, y = wine
    model = LogisticRegression(max_iter=2000).fit(X, y)
    near = priors.Near(X[0])
    rules = [constraints.decision(), constraints.plausible()]
    with pytest.raises(ArgumentError, match="give data="):
        backlight.prototype(model, "1", prior=near, strength=SMALLEST, constraints=rules)
    with pytest.raises(ArgumentError, match="the prior itself"):
        backlight.prototype(model, "1", data=X, constraints=rules)
    for share in (0, 1.1, True, "all"):
        with pytest.raises(ArgumentError, match="number"):
            constraints.plausible(share)
    other = str(1 - model.predict(X[:1])[0])
    # only rows of the class itself: none is near to the other side
    with pytest.raises(Infeasible, match="near to a row"):
        backlight.prototype(
            model, other, prior=near, data=X[0] + np.array([[0.0], [1e-6], [2e-6]]), strength=SMALLEST,
            constraints=rules,
        )  # fmt: skip
