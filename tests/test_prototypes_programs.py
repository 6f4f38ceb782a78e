"""Prototypes of trees, linear programs and ReLU networks, and which models are solved exactly at all."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import decomposition
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_wine
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
from backlight import constraints, priors, spaces
from backlight.errors import ArgumentError, NoPrototype, Unbounded
from tests.test_prototypes_exact import line

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
