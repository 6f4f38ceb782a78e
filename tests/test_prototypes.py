"""Prototypes by ascent: independence of rows, starts, certificates, statuses, and what a user does with the result."""

import copy
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.neural_network import BernoulliRBM, MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import backlight
from backlight import constraints, priors, spaces, targets
from backlight._prototype.optimizer import Best, adam, evaluate, lbfgs
from backlight.errors import (
    ArgumentError,
    BacklightError,
    BacklightWarning,
    DataError,
    FileError,
    Infeasible,
    MissingFileError,
    NameNotFound,
    NotFittedModel,
    Unbounded,
    UnsupportedModel,
    UnsupportedOption,
)
from tests.conftest import examples


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X / 16).reshape(-1, 1, 8, 8), y


@pytest.fixture(scope="module")
def net(digits):
    """A small network that has learnt the digits."""
    X, y = digits
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    X, y = torch.as_tensor(X, dtype=torch.float32), torch.as_tensor(y)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), y).backward()
        optimizer.step()
    model.zero_grad()
    return model.eval().double()


def smooth():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)).double()


# -- the optimisers -------------------------------------------------------------------------------------------------


def test_rows_of_a_batch_climb_as_if_they_were_alone():
    torch.manual_seed(0)
    A = torch.randn(6, 4, 4, dtype=torch.float64)
    starts = torch.randn(6, 4, dtype=torch.float64)

    def J(v, A=A):
        return -torch.einsum("ni,nij,nj->n", v, A @ A.transpose(1, 2) + 0.1 * torch.eye(4), v) + (torch.sin(3 * v)).sum(
            1
        )

    together = lbfgs(J, starts, 60, 1e-10)
    for k in range(6):
        alone = lbfgs(lambda v, k=k: J(v, A[k : k + 1]), starts[k : k + 1], 60, 1e-10)
        assert_allclose(together.v[k], alone.v[0], rtol=1e-10, atol=1e-12)
        assert float(alone.gradient.norm()) < 1e-6


def test_in_whitened_coordinates_conditioning_does_not_matter():
    rng = np.random.default_rng(0)
    V, _ = np.linalg.qr(rng.standard_normal((50, 50)))
    S = (V * np.geomspace(1, 1e-8, 50)) @ V.T
    w = rng.standard_normal(50)
    model = nn.Linear(50, 1, dtype=torch.float64)
    with torch.no_grad():
        model.weight[:] = torch.as_tensor(w)
    calls = []
    model_counted = nn.Sequential(model, Counter(calls))
    p = backlight.prototype(
        model_counted, prior=priors.Gaussian(np.zeros(50), S), exact="never", optimizer="lbfgs", restarts=1, steps=6
    )

    assert_allclose(p.x[0], S @ w, atol=1e-8)
    assert len(calls) < 60


class Counter(nn.Module):
    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def forward(self, x):
        self.calls.append(len(x))
        return x


def test_the_best_iterate_is_kept():
    def J(v):
        return -(v[:, 0] ** 2).abs()

    start = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    best = adam(J, Best(start, *evaluate(J, start)), 3, 5.0)
    assert best.value[0] == 0
    assert best.value[1] >= -4


# -- laws -----------------------------------------------------------------------------------------------------------


def test_all_targets_in_one_call_equal_a_call_each(net, digits):
    prior = priors.Mixture.fit(digits[0], 5)
    together = backlight.prototype(net, [2, 5, 7], data=digits[0], prior=prior, restarts=3)
    for t, k in enumerate((2, 5, 7)):
        alone = backlight.prototype(net, k, data=digits[0], prior=prior, restarts=3)
        assert_allclose(together.value[t], alone.value[0], rtol=1e-6)
        assert_allclose(together.x[t], alone.x[0], atol=1e-3)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_users_random_state(net, digits):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the user's own
    before = torch.get_rng_state().clone(), np.random.get_state()[1].copy()  # noqa: NPY002
    options = {"prior": priors.Gaussian.fit(digits[0]), "init": "random", "restarts": 4, "target": 3}
    a = backlight.prototype(net, **options, seed=5)
    b = backlight.prototype(net, **options, seed=5)
    c = backlight.prototype(net, **options, seed=6)

    assert_array_equal(a.x, b.x)
    assert not np.array_equal(a.x, c.x)
    assert torch.equal(before[0], torch.get_rng_state())
    assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_the_model_is_left_as_it_was(net, digits):
    model = copy.deepcopy(net)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model[4].weight.requires_grad_(False)
    seen = []
    handle = model[1].register_forward_hook(lambda *a: seen.append(1))
    state = {k: v.clone() for k, v in model.state_dict().items()}

    backlight.prototype(model, targets.channel("0", 2), data=digits[0][:50], restarts=2)
    with pytest.raises(ArgumentError):
        backlight.prototype(model, targets.channel("0", 99), data=digits[0][:50], restarts=2)

    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert all(bool((p.grad == 1).all()) for p in model.parameters())
    assert len(model[1]._forward_hooks) == 1
    assert sum(len(m._forward_hooks) for m in model.modules()) == 1
    assert not model.training
    handle.remove()


def test_what_is_returned_has_the_value_that_is_reported_and_lies_inside_the_bounds(net, digits):
    p = backlight.prototype(net, data=digits[0], bounds=(0, 1), restarts=3)

    with torch.no_grad():
        f = net(torch.as_tensor(p.x))[range(10), range(10)].numpy()
    omega = p.problems[0].prior.energy(torch.as_tensor(p.x)).numpy()
    assert p.x.min() >= 0
    assert p.x.max() <= 1
    assert_allclose(p.f, f, rtol=1e-12)
    assert_allclose(p.value, f - omega, rtol=1e-10)
    free = backlight.prototype(net, data=digits[0], restarts=3)
    assert (free.value >= p.value - 1e-6).all()


def test_bounds_do_not_change_what_lies_inside_them(net, digits):
    prior = priors.L2(5.0, center=digits[0].mean(0))
    free = backlight.prototype(net, [1, 4], prior=prior, data=digits[0], restarts=3)
    wide = backlight.prototype(net, [1, 4], prior=prior, data=digits[0], restarts=3, bounds=(-50, 50))
    assert_allclose(wide.value, free.value, rtol=1e-2)


def test_float32_models_give_float32_inputs_with_their_own_values(net, digits):
    single = copy.deepcopy(net).float()
    p = backlight.prototype(single, 3, data=digits[0].astype(np.float32), restarts=2)
    assert p.x.dtype == np.float32
    with torch.no_grad():
        assert_allclose(p.f[0], single(torch.as_tensor(p.x))[0, 3].item(), rtol=1e-6)


def test_a_smooth_model_gets_the_classical_certificate():
    model = smooth()
    p = backlight.prototype(model, prior=priors.L2(0.5))
    assert set(p.status) == {"local"}
    assert all(c.kind == "gradient" and c.value < 1e-5 for c in p.certificate)
    x = torch.as_tensor(p.x[:1]).requires_grad_(True)
    (g,) = torch.autograd.grad(model(x)[0, 0] - 0.5 * x.square().sum(), x)
    assert float(g.abs().max()) < 1e-5


def test_at_kinks_the_gradient_is_no_certificate_and_the_clarke_residual_is(net, digits):
    p = backlight.prototype(net, data=digits[0], restarts=4)
    assert set(p.status) == {"stationary"}
    for t, c in enumerate(p.certificate):
        assert c.kind in ("Clarke residual", "gradient")
        problem = p.problems[t]
        v = problem.white.encode(torch.as_tensor(p.x[t]).flatten()[None])
        from backlight._prototype.gradient_ascent import Batch, Options, _clarke

        batch = Batch([problem], Options())
        here, away = _clarke(batch, v, None), _clarke(batch, 0.8 * v, None)
        assert here < 0.05 * away


# -- statuses -------------------------------------------------------------------------------------------------------


def test_a_prior_that_outweighs_the_target_gives_another_class_and_says_so():
    wine = load_wine()
    Z = StandardScaler().fit_transform(wine.data)
    model = LogisticRegression().fit(Z, wine.target)
    prior = priors.Gaussian(Z[wine.target == 2].mean(0), 0.01 * np.eye(13))
    p = backlight.prototype(model, 0, prior=prior)

    assert p.status == ("exact",)
    assert p.flags == (("wrong_class",),)
    assert "exact, wrong_class" in repr(p)
    assert p.decided == ("2",)
    assert "the model sees '2' in it, not '0'" in p.notes[0][-1]
    assert p.certificate[0].kind == "closed form"


def test_a_result_off_the_prior_says_so(digits):
    model = LogisticRegression(max_iter=300).fit(digits[0].reshape(-1, 64), digits[1])
    p = backlight.prototype(model, 3, data=digits[0].reshape(-1, 64), strength=0.01)

    assert p.flags == (("off_prior",),)
    assert "less plausible than anything the prior knows" in p.notes[0][-1]


def test_dead_starts_are_found_and_said():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        model[0].bias[:] = -1e6
    p = backlight.prototype(model, prior=priors.L2(1.0))
    assert p.status == ("dead_start", "dead_start")
    assert "no gradient at any" in p.notes[0][-1]


def test_scores_that_are_constant_by_pieces_are_dead():
    from sklearn.naive_bayes import BernoulliNB

    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    p = backlight.prototype(BernoulliNB().fit(X, X[:, 0] > 0), data=X)
    assert p.status == ("dead_start", "dead_start")


def test_a_climb_that_leaves_all_numbers_is_unbounded():
    from sklearn.svm import SVC

    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 3)) + np.repeat(np.eye(3) * 3, 30, 0)
    model = SVC(kernel="poly", degree=3, coef0=1.0).fit(X, np.repeat([0, 1, 2], 30))
    with pytest.raises(Unbounded, match="grows without end"):
        backlight.prototype(model, data=X)


def test_interrupting_returns_the_best_so_far(net, digits):
    def stop(done, total):
        if done == 12:
            raise KeyboardInterrupt

    p = backlight.prototype(net, 3, data=digits[0], restarts=2, progress=stop)
    assert p.status == ("interrupted",)
    assert np.isfinite(p.value).all()


def test_progress_counts_to_its_end(net, digits, capsys):
    seen = []
    backlight.prototype(net, 3, data=digits[0], restarts=2, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert [a for a, _ in seen] == sorted(a for a, _ in seen)
    backlight.prototype(net, 3, data=digits[0], restarts=2, progress=True)
    assert "of 150" in capsys.readouterr().err


# Section 3.7: whatever does not hold x is refused, with the reason
def unbounded_cases():
    torch.manual_seed(0)
    line = nn.Linear(4, 1).double()
    relu = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1)).double()
    student = priors.LogProb(lambda x: -3 * torch.log1p(x.square().sum(1) / 3), name="student")
    cauchy = priors.LogProb(lambda x: -torch.log1p(x.square()).sum(1), name="cauchy")
    laplace = priors.LogProb(lambda x: -0.01 * x.abs().sum(1), name="laplace")
    logistic = priors.LogProb(
        lambda x: -0.02 * nn.functional.softplus(x).sum(1) - 0.02 * nn.functional.softplus(-x).sum(1), name="logistic"
    )
    norm = priors.LogProb(lambda x: -0.05 * x.norm(dim=1), name="unsquared norm")
    return {
        "linear, L1": (line, {"prior": priors.L1(0.01)}),
        "linear, unsquared norm": (line, {"prior": norm}),
        "linear, Student": (line, {"prior": student}),
        "linear, Cauchy": (line, {"prior": cauchy}),
        "linear, Laplace": (line, {"prior": laplace}),
        "linear, logistic tails": (line, {"prior": logistic}),
        "ReLU, L1": (relu, {"prior": priors.L1(1e-3)}),
        "ReLU, unsquared norm": (relu, {"prior": norm}),
        "product of inputs": (Square(), {"prior": priors.L2(0.1)}),
        "linear generator without a prior on its code": (line, {"space": spaces.Affine(np.eye(4)), "prior": student}),
        "bounds on one side only": (line, {"bounds": (0, None), "prior": "none"}),
    }


class Square(nn.Module):
    def forward(self, x):
        return x[:, 0] * x[:, 1]


@pytest.mark.parametrize("case", list(unbounded_cases()))
def test_what_grows_without_end_is_refused(case):
    model, options = unbounded_cases()[case]
    options = {"space": spaces.Input(4)} | options
    with pytest.raises((Unbounded, ArgumentError)) as caught:
        backlight.prototype(model, **options)
    assert any(word in str(caught.value) for word in ("grows", "holds the input in place", "bounds"))


def test_bounded_problems_are_not_mistaken():
    torch.manual_seed(0)
    relu = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1)).double()
    for prior in (priors.L2(1e-3), priors.Gaussian(np.zeros(4), 100 * np.eye(4)), priors.KernelDensity(np.eye(4), 3.0)):
        p = backlight.prototype(relu, prior=prior)
        assert p.status[0] in ("stationary", "local", "exact", "max_iter")
    held = backlight.prototype(
        nn.Linear(4, 1).double(), prior=priors.LogProb(lambda x: -9 * x.abs().sum(1)), space=spaces.Input(4)
    )
    assert_allclose(held.x, 0, atol=1e-2)


# -- targets --------------------------------------------------------------------------------------------------------


def test_arithmetic_on_targets_has_the_weights_it_says(net, digits):
    sum_ = 1.0 * targets.logit(3) + 3.0 * targets.channel("0", 1) - 5.0 * targets.neuron("4", 7) / 2
    objective = sum_.expand([str(k) for k in range(10)])[0]
    x = torch.as_tensor(digits[0][:7])
    a = net[0](x)
    expected = net(x)[:, 3] + 3 * a[:, 1].mean((1, 2)) - 2.5 * net[:5](x)[:, 7]
    from backlight._prototype.subject import subject_of

    seen = subject_of(net).see(x, objective.layers)
    assert_allclose(objective.value(seen).detach(), expected.detach(), rtol=1e-12)
    assert objective.name == "3 + 3 0:1 − 2.5 4[7]"
    turned = -sum_
    twice = -turned * 1.0
    assert_allclose(twice.expand([str(k) for k in range(10)])[0].value(seen).detach(), expected.detach(), rtol=1e-12)
    assert len(sum_.parts) == 3  # operands are not changed


def test_every_kind_of_target_has_its_formula(net, digits):
    from backlight._prototype.subject import subject_of

    x = torch.as_tensor(digits[0][:5])
    subject = subject_of(net)
    subject.prepare(x)
    out, a = net(x), net[0](x)
    v = np.arange(10.0)
    u = np.arange(8.0)
    cases = [
        (targets.logit("output 2"), out[:, 2]),
        (targets.log_probability(4), out.log_softmax(1)[:, 4]),
        (targets.probability(-1), out.softmax(1)[:, 9]),
        (targets.difference(3, 8), out[:, 3] - out[:, 8]),
        (targets.direction(v), out @ torch.as_tensor(v)),
        (targets.direction(u, "0"), a.mean((2, 3)) @ torch.as_tensor(u)),
        (targets.function(lambda y: y.square().sum(1)), out.square().sum(1)),
        (targets.function(lambda h: h[:, 0, 0, 0], layer="0"), a[:, 0, 0, 0]),
        (targets.neuron("0", (3, 2, 5)), a[:, 3, 2, 5]),
        (targets.neuron("0", 3), a[:, 3, 4, 4]),
        (targets.channel("0", 5), a[:, 5].mean((1, 2))),
        (targets.energy("0"), a.square().mean((1, 2, 3))),
    ]
    for target, expected in cases:
        (objective,) = target.expand(subject.outputs)
        seen = subject.see(x, objective.layers)
        assert_allclose(objective.value(seen).detach(), expected.detach(), rtol=1e-12)
    assert [o.name for o in targets.logit("all").expand(["a", "b"])] == ["a", "b"]
    both = (targets.channel("0", [1, 2]) - 0.1 * targets.energy("0")).expand(["a"])
    assert [o.name for o in both] == ["0:1 − 0.1 energy of 0", "0:2 − 0.1 energy of 0"]
    with pytest.raises(ArgumentError, match="cannot be added"):
        (targets.channel("0", [1, 2]) + targets.channel("0", [1, 2, 3])).expand(["a"])


def test_the_pass_goes_no_further_than_the_target():
    reached = []

    class Late(nn.Module):
        def forward(self, x):
            reached.append(1)
            return x

    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), Late()).double()
    p = backlight.prototype(model, targets.neuron("0", 1), prior=priors.L2(0.5))
    at_the_end = len(reached)  # shapes and the decision are looked at a few times
    assert at_the_end <= 4
    assert_allclose(p.x[0], model[0].weight[1].detach(), atol=1e-6)


def test_an_unknown_layer_is_named_with_its_neighbours(net, digits):
    with pytest.raises(ArgumentError, match=r"no layer '4\.linear'.*did you mean"):
        backlight.prototype(net, targets.channel("4.linear", 0), data=digits[0][:20])


def test_targets_of_scikit_learn_by_name_and_direction():
    wine = load_wine()
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(wine.data, wine.target_names[wine.target])
    p = backlight.prototype(model, ["class_2", "class_0"], data=wine.data)
    assert p.names == ("class_2", "class_0")
    assert p.decided == ("class_2", "class_0")
    d = backlight.prototype(model, np.array([1.0, -1.0, 0.0]), data=wine.data)
    c = backlight.prototype(model, targets.difference("class_0", "class_1"), data=wine.data)
    assert_allclose(d.x, c.x, rtol=1e-12)
    with pytest.raises(ArgumentError, match="choose from"):
        backlight.prototype(model, "class_9", data=wine.data)
    with pytest.raises(ArgumentError, match="not the softmax of its score"):
        from sklearn.svm import LinearSVC

        backlight.prototype(LinearSVC(dual=False).fit(wine.data, wine.target), targets.probability(), data=wine.data)


def test_a_model_that_ends_in_softmax_is_maximised_by_its_logits(net, digits):
    ended = nn.Sequential(net, nn.Softmax(1))
    logs = nn.Sequential(net, nn.LogSoftmax(1))
    plain = backlight.prototype(net, [1, 2], data=digits[0], restarts=2)
    for model in (ended, logs):
        p = backlight.prototype(model, [1, 2], data=digits[0], restarts=2)
        assert_allclose(p.f, plain.f, rtol=1e-6)

    class Function(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x).softmax(1)

    with pytest.raises(ArgumentError, match=r"are probabilities.*log_probability"):
        backlight.prototype(Function(), data=digits[0])
    q = backlight.prototype(Function(), targets.log_probability(3), data=digits[0], restarts=2)
    r = backlight.prototype(net, targets.log_probability(3), data=digits[0], restarts=2)
    assert_allclose(q.value, r.value, rtol=1e-4)


def test_any_function_of_a_tensor_is_a_model():
    p = backlight.prototype(lambda x: -((x - 2).square().sum(1) ** 2), prior=priors.L2(1e-4), space=spaces.Input(3))
    assert_allclose(p.x, 2, atol=0.05)


# -- priors and spaces ----------------------------------------------------------------------------------------------


def test_priors_of_fitted_densities_are_those_densities(digits):
    X = digits[0].reshape(-1, 64)[:, 20:30] + 0.01 * np.random.default_rng(0).standard_normal((len(digits[0]), 10))
    at = torch.as_tensor(X[:20])
    from sklearn.covariance import EmpiricalCovariance
    from sklearn.decomposition import PCA

    for kind in ("full", "tied", "diag", "spherical"):
        gmm = GaussianMixture(3, covariance_type=kind, random_state=0).fit(X)
        assert_allclose(priors.from_estimator(gmm).energy(at), -gmm.score_samples(X[:20]), rtol=1e-9)
    kde = KernelDensity(bandwidth=0.3, leaf_size=2000).fit(X)
    assert_allclose(priors.from_estimator(kde).energy(at), -kde.score_samples(X[:20]), rtol=1e-9)
    cov = EmpiricalCovariance().fit(X)
    from scipy.stats import multivariate_normal

    assert_allclose(
        priors.from_estimator(cov).energy(at),
        -multivariate_normal(cov.location_, cov.covariance_).logpdf(X[:20]),
        rtol=1e-9,
    )
    pca = PCA(4).fit(X)
    assert_allclose(priors.from_estimator(pca).energy(at), -pca.score_samples(X[:20]), rtol=1e-8)
    rbm = BernoulliRBM(5, random_state=0, n_iter=2).fit((X > 0.5).astype(float))
    assert_allclose(priors.from_estimator(rbm).energy(at), rbm._free_energy(X[:20]), rtol=1e-9)
    with pytest.raises(UnsupportedModel, match="LogProb"):
        priors.from_estimator(LogisticRegression())
    with pytest.raises(NotFittedModel):
        priors.from_estimator(GaussianMixture())
    with pytest.raises(UnsupportedOption, match="tophat"):
        priors.from_estimator(KernelDensity(kernel="tophat").fit(X))


@settings(max_examples=examples(15))
@given(st.integers(0, 10**6))
def test_every_prior_falls_along_its_own_gradient_and_keeps_rows_apart(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((30, 4))
    every = [
        priors.L1(0.5), priors.L2(0.5), priors.L2(0.5, center=X[0]), priors.Gaussian.fit(X), priors.Gaussian(X[0], np.ones(4)),
        priors.Mixture.fit(X, 2), priors.Mixture([1, 1], X[:2], np.ones((2, 4))), priors.KernelDensity.fit(X),
        priors.RBM(rng.standard_normal((3, 4)), X[0], X[1, :3]), priors.RBM(rng.standard_normal((3, 4)), X[0], X[1, :3], sigma=0.5),
        priors.Near(X[0], data=X), priors.LogProb(lambda x: -x.pow(4).sum(1)), 2 * priors.L2(1.0) + priors.Gaussian.fit(X),
    ]  # fmt: skip
    x = torch.as_tensor(rng.standard_normal((5, 4)))
    for prior in every:
        value, g = evaluate(prior.energy, x)
        assert value.shape == (5,)
        assert_allclose(prior.energy(x[2:3]), value[2:3], rtol=1e-12)
        lower = prior.energy(x - 1e-6 * g)
        assert bool((lower <= value + 1e-12).all()), prior


def test_sums_of_priors_add_and_scale(digits):
    X = digits[0][:200]
    x = torch.as_tensor(X[:3])
    prior = priors.Gaussian.fit(X) + 0.5 * priors.TotalVariation(2.0)
    expected = priors.Gaussian.fit(X).energy(x) + 0.5 * priors.TotalVariation(2.0).energy(x)
    assert_allclose(prior.energy(x), expected)
    assert repr(prior) == "priors.Gaussian + 0.5 · TotalVariation(2)"
    steps = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    steps[..., 2:] = 1
    assert_allclose(priors.TotalVariation(1.0, epsilon=1e-9).energy(steps), 4, atol=1e-6)
    doubled = backlight.prototype(nn.Linear(4, 1).double(), prior=2 * priors.L2(1.0))
    single = backlight.prototype(nn.Linear(4, 1).double(), prior=priors.L2(2.0))
    assert doubled.status == single.status == ("exact",)


def test_a_flow_is_used_with_the_warning_that_belongs_to_it():
    class Flow(nn.Module):
        def log_prob(self, x):
            return -0.5 * x.square().sum(1)

    with pytest.warns(BacklightWarning, match="only as good as its tails"):
        prior = priors.LogProb(Flow().log_prob)
    p = backlight.prototype(nn.Linear(3, 1).double(), prior=prior, space=spaces.Input(3))
    q = backlight.prototype(p.setup.model, prior=priors.L2(0.5))
    assert_allclose(p.x, q.x, atol=1e-5)


def test_density_and_code_of_an_invertible_map_give_two_answers():
    # x = z + 0.8 tanh 2z: the density carries its determinant, the code does not
    w = torch.tensor([1.86, -1.49, 0.9], dtype=torch.float64)

    def forward(z):
        return z + 0.8 * torch.tanh(2 * z)

    def log_prob(x):
        low, high = torch.full_like(x, -60), torch.full_like(x, 60)
        with torch.no_grad():
            for _ in range(80):
                mid = (low + high) / 2
                high = torch.where(forward(mid) > x, mid, high)
                low = torch.where(forward(mid) > x, low, mid)
        z = (low + high) / 2
        slope = 1 + 1.6 * (1 - torch.tanh(2 * z) ** 2)
        z = z + (x - forward(z)) / slope  # one step of Newton's method carries the gradient
        slope = 1 + 1.6 * (1 - torch.tanh(2 * z) ** 2)
        return -0.5 * z.square().sum(1) - slope.log().sum(1)

    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight[0] = w
    density = backlight.prototype(model, prior=priors.LogProb(log_prob), space=spaces.Input(3))
    code = backlight.prototype(model, space=spaces.Generator(forward, 3, dtype=torch.float64))
    assert np.abs(density.x - code.x).max() > 0.05
    z = torch.as_tensor(code.z[0])
    assert_allclose(z, w * (1 + 1.6 * (1 - torch.tanh(2 * z) ** 2)), atol=1e-5)


def test_codes_and_the_inputs_they_stand_for(net, digits):
    X = digits[0]
    pca = spaces.PCA.fit(X, 20)
    p = backlight.prototype(net, [3], data=X, space=pca, restarts=2)
    assert p.z.shape == (1, 20)
    assert p.x.shape == (1, 1, 8, 8)
    assert_allclose(pca.decode(torch.as_tensor(p.z)).numpy().reshape(1, 8, 8), p.x[0], atol=1e-12)
    assert_allclose(p.omega, 0.5 * (p.z**2).sum(1), rtol=1e-10)
    same = backlight.prototype(
        net, [3], data=X, restarts=2,
        prior=priors.Gaussian(pca.c, pca.A @ pca.A.T),
    )  # fmt: skip
    assert_allclose(same.f, p.f, rtol=1e-2)


def test_waves_give_back_the_images_they_are_made_of():
    rng = np.random.default_rng(0)
    images = rng.uniform(0.1, 0.9, (40, 3, 8, 7)) * np.array([1, 0.5, 0.8])[:, None, None]
    for space in (
        spaces.Fourier((3, 8, 7)),
        spaces.Fourier((3, 8, 7), range=(0, 1)),
        spaces.Fourier.fit(images),
        spaces.Fourier.fit(images, range=(0, 1)),
    ):
        back = space.decode(space.encode(torch.as_tensor(images)))
        assert_allclose(back, images, atol=1e-9)
    generator = torch.Generator().manual_seed(0)
    white = spaces.Fourier((1, 16, 16), decay=0.0)
    z = torch.randn(500, white.code_dim, generator=generator, dtype=torch.float64)
    assert abs(float(white.decode(z).std()) - 1) < 0.05
    drawn = spaces.Fourier.fit(images)
    z = torch.randn(400, drawn.code_dim, generator=generator, dtype=torch.float64)
    assert_allclose(
        np.cov(drawn.decode(z).numpy().transpose(1, 0, 2, 3).reshape(3, -1)),
        np.cov(images.transpose(1, 0, 2, 3).reshape(3, -1)),
        atol=0.02,
    )


def test_images_as_waves_seen_through_small_movements(net, digits):
    target = targets.robust(targets.logit(3), jitter=1, rotate=5)
    p, again = (
        backlight.prototype(
            net,
            target,
            data=digits[0],
            space=spaces.Fourier.fit(digits[0], range=(0, 1)),
            restarts=2,
            steps=40,
            prior=priors.TotalVariation(0.1),
        )
        for _ in range(2)
    )
    assert p.x.min() >= 0
    assert p.x.max() <= 1
    with torch.no_grad():
        assert_allclose(p.f[0], net(torch.as_tensor(p.x))[0, 3].item(), rtol=1e-9)
    assert p.decided == ("output 3",)
    assert_array_equal(p.x, again.x)


def test_a_decoder_without_an_encoder_starts_from_its_own_draws(net):
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(4, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8))).double()
    p = backlight.prototype(net, 3, space=spaces.Generator(decoder, 4), restarts=3)
    assert p.z.shape == (1, 4)
    assert_allclose(p.omega, 0.5 * (p.z**2).sum(1), rtol=1e-9)
    with pytest.raises(ArgumentError, match="one input for each"):
        spaces.Generator(lambda z: z.sum(), 4)


# -- tables ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def perceptron():
    wine = load_wine(as_frame=True)
    model = make_pipeline(StandardScaler(), MLPClassifier((12,), max_iter=2000, tol=1e-3, random_state=0))
    return model.fit(wine.data, wine.target), wine


def test_tables_come_back_as_tables_with_the_columns_that_moved(perceptron):
    model, wine = perceptron
    p = backlight.prototype(model, data=wine.data)
    frame = p.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert_array_equal(model.predict(frame[list(wine.data.columns)]), [0, 1, 2])
    moved = p.moved(4)[0]
    assert len(moved) == 4
    sd = wine.data.std(ddof=0)
    sizes = [abs(b - a) / sd[name] for name, a, b in moved]
    assert sizes == sorted(sizes, reverse=True)
    other = backlight.prototype(model, 0, data=pl.from_pandas(wine.data))
    assert isinstance(other.to_frame(), pl.DataFrame)
    assert_allclose(other.x, p.x[:1], atol=1e-3)


def test_constraints_hold_on_models_that_are_no_formula(perceptron):
    model, wine = perceptron
    rules = [
        constraints.fix("ash", value=2.5), constraints.integer("magnesium", "proline"), constraints.le("malic_acid", "flavanoids"),
        constraints.ge("alcohol", 13.0), constraints.decision(),
    ]  # fmt: skip
    p = backlight.prototype(model, data=wine.data, bounds={"hue": (0.9, None)}, constraints=rules)
    frame = p.to_frame()
    assert_allclose(frame["ash"], 2.5)
    assert_array_equal(frame["magnesium"], frame["magnesium"].round())
    assert_array_equal(frame["proline"], frame["proline"].round())
    assert (frame["malic_acid"] <= frame["flavanoids"] + 1e-9).all()
    assert (frame["alcohol"] >= 13 - 1e-9).all()
    assert (frame["hue"] >= 0.9).all()
    assert_array_equal(model.predict(frame[list(wine.data.columns)]), [0, 1, 2])
    assert all(c.kind == "no single change" for c in p.certificate)


def test_a_counterfactual_of_a_network_keeps_what_is_fixed(perceptron):
    model, wine = perceptron
    x0 = wine.data.iloc[[0]]
    p = backlight.prototype(
        model, 1, prior=priors.Near(x0, data=wine.data), strength=math.inf, data=wine.data,
        constraints=[constraints.decision(), constraints.fix("alcohol")],
    )  # fmt: skip
    assert p.decided == ("1",)
    assert p.x[0, 0] == x0["alcohol"].iloc[0]
    # a row of the other class, put to the same constraint, is farther
    rows = wine.data[(model.predict(wine.data) == 1)].to_numpy().copy()
    rows[:, 0] = p.x[0, 0]
    rows = rows[model.predict(pd.DataFrame(rows, columns=wine.data.columns)) == 1]
    far = p.problems[0].prior.energy(torch.as_tensor(rows))
    assert p.omega[0] < float(far.min())


def test_impossible_constraints_are_said(perceptron):
    model, wine = perceptron
    with pytest.raises(Infeasible, match="fixed at 99"):
        backlight.prototype(model, data=wine.data, bounds="data", constraints=[constraints.fix("ash", value=99)])
    with pytest.raises(Infeasible):
        backlight.prototype(
            model, 0, data=wine.data, constraints=[constraints.le("ash", 1.0), constraints.ge("ash", 2.0)]
        )
    with pytest.raises(ArgumentError, match="'rust' is not a column"):
        backlight.prototype(model, data=wine.data, constraints=[constraints.fix("rust")])
    with pytest.raises(ArgumentError, match="needs a class"):
        backlight.prototype(model, np.array([1.0, 0.0, 0.0]), data=wine.data, constraints=[constraints.decision()])


# -- what a user does with them -------------------------------------------------------------------------------------


def test_contributions_pay_and_cost_exactly_for_a_linear_model():
    wine = load_wine(as_frame=True)
    model = LogisticRegression(solver="newton-cholesky").fit(wine.data, wine.target)
    p = backlight.prototype(model, data=wine.data, strength=2.0)
    ex = p.explain()
    w, delta = model.coef_, p.x - p.center

    assert ex.values.shape == (3, 13, 2)
    assert_allclose(ex.values[..., 0], w * delta, rtol=1e-9, atol=1e-9)
    assert_allclose(ex.values[..., 1], 0.5 * w * delta, rtol=1e-6, atol=1e-8)
    assert_allclose(ex.residual, 0, atol=1e-8)
    assert list(ex.output_names) == ["f", "strength · Ω"]
    relevance = p.explain("lrp")
    assert_allclose(np.asarray(relevance.output), p.f, rtol=1e-10)


def test_contributions_of_a_network_add_up(net, digits):
    p = backlight.prototype(net, [3, 4], data=digits[0], restarts=2)
    ex = p.explain()
    assert ex.values.shape == (2, 1, 8, 8, 2)
    assert np.abs(ex.residual).max() < 0.02 * np.abs(p.f).max()
    lrp = p.explain("lrp")
    assert lrp.values.shape == (2, 1, 8, 8)


def test_judging_beside_the_two_baselines(net, digits):
    X, y = digits
    judge = LogisticRegression(max_iter=300).fit(X[900:].reshape(-1, 64), y[900:])
    p = backlight.prototype(net, data=X[:900], restarts=3)
    found = p.evaluate(X[900:], y[900:], judges=[judge, net])
    means = found.means()

    assert list(means) == ["prototype", "class mean", "top row"]
    assert means["prototype"]["confidence"] > 0.99
    rows = np.array([s == "prototype" for s in found.source])
    own = judge.predict_proba(p.x.reshape(10, -1))[range(10), range(10)]
    with torch.no_grad():
        second = net(torch.as_tensor(p.x)).softmax(1)[range(10), range(10)].numpy()
    assert_allclose(found.transfer[rows], (own + second) / 2, rtol=1e-9)
    assert ((found.percentile >= 0) & (found.percentile <= 1)).all()
    assert "class mean" in repr(found)
    assert len(found.to_frame()) == 30
    with pytest.raises(ArgumentError, match="neither a name nor an index"):
        p.evaluate(X[900:], ["a"] * len(X[900:]))


def test_nearest_rows(net, digits):
    p = backlight.prototype(net, [3], data=digits[0], restarts=2)
    index, far = p.nearest(digits[0], k=3)
    slow = np.sqrt(((digits[0] - p.x[0]) ** 2).sum((1, 2, 3)))
    assert_array_equal(index[0], np.argsort(slow)[:3])
    assert_allclose(far[0], np.sort(slow)[:3])


def test_a_path_over_strengths_is_monotone(net, digits):
    p = backlight.prototype(net, [3, 8], data=digits[0], restarts=3)
    path = p.path([0.3, 1, 3])
    assert path.strengths == (0.3, 1.0, 3.0)
    # of the exact maxima f and Ω both fall with the strength
    assert (np.diff(path.f, axis=0) <= 1e-3 * np.abs(path.f[1:])).all()
    assert (np.diff(path.omega, axis=0) <= 1e-3 * np.abs(path.omega[1:])).all()
    assert "0.3" in repr(path)


def test_the_turn_of_a_decision_along_the_path_is_named():
    wine = load_wine()
    Z = StandardScaler().fit_transform(wine.data)
    model = LogisticRegression().fit(Z, wine.target)
    prior = priors.Gaussian(Z[wine.target == 2].mean(0), np.eye(13))
    path = backlight.prototype(model, 0, prior=prior).path([0.1, 1, 30])
    assert [turn[3:] for turn in path.turns()] == [("0", "2")]
    assert "turns into" in repr(path)


def test_plots_draw_without_showing(net, digits, perceptron):
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    p = backlight.prototype(net, [3, 8], data=digits[0], restarts=3)
    grid = p.plot()
    assert len(grid.axes) == 2
    assert "output 3" in grid.axes[0].get_title()
    more = p.plot(
        others={
            "mixture": backlight.prototype(
                net, [3, 8], data=digits[0], prior=priors.Mixture.fit(digits[0], 3), restarts=2
            )
        }
    )
    assert len(more.axes) == 4
    assert p.plot.energy().get_xlabel().startswith("Ω")
    assert p.plot.restarts().get_yticklabels()[0].get_text() == "output 3"
    assert len(p.path([1, 3]).plot().axes) == 4
    model, wine = perceptron
    table = backlight.prototype(model, data=wine.data)
    bars = table.plot(k=5)
    assert len(bars.axes[0].get_yticklabels()) == 5
    assert table.path([1, 3]).plot().get_xlabel() == "strength of the prior"
    flat = backlight.prototype(
        LogisticRegression(max_iter=300).fit(digits[0].reshape(-1, 64), digits[1]), data=digits[0].reshape(-1, 64)
    )
    assert len(flat.plot(shape=(8, 8)).axes) == 10
    with pytest.raises(ArgumentError, match="exact"):
        flat.plot.restarts()
    plt.close("all")


@pytest.mark.parametrize("kind", ["gaussian", "mixture", "near", "pca", "bounds", "target"])
def test_saved_prototypes_are_made_again_to_the_bit(kind, net, digits, tmp_path):
    X = digits[0][:300]
    options = {
        "gaussian": {"data": X, "target": [1, 2]},
        "mixture": {"data": X, "target": 4, "prior": priors.Mixture.fit(X, 3), "seed": 3},
        "near": {"data": X, "target": 1, "prior": priors.Near(X[0], data=X), "init": X[:3], "restarts": 3},
        "pca": {"data": X, "target": 1, "space": spaces.PCA.fit(X, 5)},
        "bounds": {"data": X, "target": 1, "bounds": (0, np.ones((1, 8, 8))), "prior": priors.L2(1.0)},
        "target": {"data": X, "target": 2 * targets.logit(3) - targets.energy("0")},
    }[kind]
    p = backlight.prototype(net, **{"restarts": 2} | options)
    p.save(tmp_path / "p.safetensors")
    q = backlight.Prototypes.load(tmp_path / "p.safetensors")
    r = q.replay(net)

    assert_array_equal(q.x, p.x)
    assert q.status == p.status
    assert repr(q) == repr(p)
    assert_array_equal(r.x, p.x)
    assert_array_equal(r.value, p.value)


def test_what_a_file_cannot_hold_is_asked_for(net, digits, tmp_path):
    X = digits[0][:100]
    p = backlight.prototype(
        net,
        targets.function(lambda y: y[:, 0]),
        data=X,
        restarts=2,
        prior=priors.LogProb(lambda x: -x.flatten(1).square().sum(1)),
    )
    p.save(tmp_path / "p.safetensors")
    q = backlight.Prototypes.load(tmp_path / "p.safetensors")
    with pytest.raises(ArgumentError, match=r"prior= .* target= "):
        q.replay(net)
    with pytest.raises(BacklightError, match="replay"):
        q.evaluate(X)
    changed = copy.deepcopy(net)
    with torch.no_grad():
        changed[0].weight[0] += 1
    with pytest.raises(ArgumentError, match="another fingerprint"):
        q.replay(changed)
    with pytest.raises(MissingFileError):
        backlight.Prototypes.load(tmp_path / "none.safetensors")
    with pytest.raises(FileError, match=r"\.safetensors"):
        p.save(tmp_path / "p.json")
    with pytest.raises(FileError, match="exists"):
        p.save(tmp_path / "p.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not one")
    with pytest.raises(FileError, match="cannot be read as prototypes"):
        backlight.Prototypes.load(tmp_path / "bad.safetensors")


def test_prototypes_are_sliced_by_position_and_name(net, digits):
    p = backlight.prototype(net, data=digits[0], restarts=1)
    assert p["output 3"].names == ("output 3",)
    assert p[2:4].names == ("output 2", "output 3")
    assert p[-1].x.shape == (1, 1, 8, 8)
    assert len(list(p)) == 10
    assert ">target</th>" in p._repr_html_()
    with pytest.raises(NameNotFound, match="choose from"):
        p["zero"]


# -- errors ---------------------------------------------------------------------------------------------------------


def test_wrong_arguments_are_named(net, digits):
    X = digits[0][:50]
    for options, words in [
        ({"strength": 0.0}, "strength=0.0"),
        ({"strength": math.inf}, "needs constraints"),
        ({"exact": "maybe"}, "exact='maybe'"),
        ({"restarts": 0}, "restarts must be"),
        ({"optimizer": "sgd"}, "optimizer='sgd'"),
        ({"init": "middle"}, "init='middle'"),
        ({"prior": GaussianMixture()}, "priors.from_estimator"),
        ({"bounds": (1, 2, 3)}, "bounds"),
        ({"bounds": "wide"}, "bounds='wide'"),
        ({"target": 99}, "out of range"),
        ({"target": {"a": 1}}, "not known"),
        ({"prior": priors.L2(1.0, center=np.zeros(3))}, "prior for 3 numbers"),
    ]:
        with pytest.raises(BacklightError, match=words.replace("(", r"\(")):
            backlight.prototype(net, **({"data": X} | options))
    with pytest.raises(ArgumentError, match="shape of an input"):
        backlight.prototype(net, prior=priors.L2(1.0))
    with pytest.raises(ArgumentError, match="holds the input in place"):
        backlight.prototype(net, space=spaces.Input((1, 8, 8)))
    with pytest.raises(ArgumentError, match="training mode"):
        backlight.prototype(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), prior=priors.L2(1.0))
    with pytest.raises(DataError, match="cannot run on inputs"):
        backlight.prototype(net, data=digits[0].reshape(-1, 64)[:20])
    with pytest.raises(ArgumentError, match="must be a number from"):
        priors.L2(0)
    with pytest.raises(ArgumentError, match="negative eigenvalue"):
        priors.Gaussian(np.zeros(2), [[1, 2], [2, 1]])


def test_decoders_of_mnist_give_digits_that_an_independent_network_reads():
    from safetensors.torch import load_file

    from tests.conftest import shared
    from tests.networks import lenet

    weights = load_file(shared("mnist_vae") / "vae.safetensors")
    held = np.load(shared("mnist") / "mnist.npz")
    judge = lenet()
    X = torch.as_tensor(held["x_train"][:6000] / 255, dtype=torch.float32)[:, None]
    y = torch.as_tensor(held["y_train"][:6000], dtype=torch.long)
    torch.manual_seed(0)
    target = nn.Sequential(
        nn.Conv2d(1, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
    )
    optimizer = torch.optim.Adam(target.parameters(), 3e-3)
    for _ in range(3):
        for rows in torch.randperm(len(X)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(target(X[rows]), y[rows]).backward()
            optimizer.step()

    def decode(z):
        hidden = torch.relu(nn.functional.linear(z, weights["fc3.weight"], weights["fc3.bias"]))
        return torch.sigmoid(nn.functional.linear(hidden, weights["fc4.weight"], weights["fc4.bias"])).view(
            -1, 1, 28, 28
        )

    p = backlight.prototype(target.eval(), space=spaces.Generator(decode, 20))
    with torch.no_grad():
        seen = judge(nn.functional.interpolate(torch.as_tensor(p.x), (32, 32), mode="bilinear"))
    assert_array_equal(seen.argmax(1), np.arange(10))


def test_targets_of_several_kinds_in_one_list(net, digits, tmp_path):
    several = [targets.difference(3, 8), targets.channel("0", 1), 5]
    p = backlight.prototype(net, several, data=digits[0][:300], restarts=2)
    assert p.names == ("output 3 − output 8", "0:1", "output 5")
    p.save(tmp_path / "p.safetensors")
    assert_array_equal(backlight.Prototypes.load(tmp_path / "p.safetensors").replay(net).x, p.x)


def test_columns_of_a_tree_are_found_by_name():
    from sklearn.tree import DecisionTreeClassifier

    wine = load_wine(as_frame=True)
    tree = DecisionTreeClassifier(max_depth=3, random_state=0).fit(wine.data, wine.target)
    p = backlight.prototype(tree, data=wine.data)
    q = backlight.prototype(tree, data=wine.data[wine.data.columns[::-1]])
    assert_array_equal(p.x, q.x)
    with pytest.raises(DataError, match="lacks columns of the tree: ash"):
        backlight.prototype(tree, data=wine.data.drop(columns="ash"))


def test_a_row_of_a_frame_is_a_point_to_stay_near():
    wine = load_wine(as_frame=True)
    model = LogisticRegression(solver="newton-cholesky").fit(wine.data, wine.target)
    rows = [wine.data.iloc[5], wine.data.iloc[[5]], wine.data.iloc[5].to_numpy()]
    found = [backlight.prototype(model, 2, prior=priors.Near(row, data=wine.data)) for row in rows]
    assert_allclose(found[1].x, found[0].x, rtol=1e-12)
    assert_allclose(found[2].x, found[0].x, rtol=1e-12)


def test_judges_with_classes_in_another_order_are_read_by_name():
    wine = load_wine()
    names = wine.target_names[wine.target]
    model = LogisticRegression(solver="newton-cholesky").fit(wine.data, names)

    class Turned:
        classes_ = model.classes_[::-1]

        def predict_proba(self, X):
            return model.predict_proba(X)[:, ::-1]

    p = backlight.prototype(model, data=wine.data)
    found = p.evaluate(wine.data, names, judges=[Turned()])
    assert_allclose(found.transfer, found.confidence, rtol=1e-9)


def test_what_a_learnt_code_costs_is_not_shared_among_pixels(net, digits):
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(4, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8))).double()
    p = backlight.prototype(net, 3, data=digits[0], space=spaces.Generator(decoder, 4), restarts=2)
    ex = p.explain()
    assert list(ex.output_names) == ["f"]
    pca = backlight.prototype(net, 3, data=digits[0], space=spaces.PCA.fit(digits[0], 5), restarts=2).explain()
    assert list(pca.output_names) == ["f", "strength · Ω"]


def test_a_trees_own_confidence_is_its_probability():
    from sklearn.tree import DecisionTreeClassifier

    wine = load_wine()
    tree = DecisionTreeClassifier(max_depth=2, random_state=0).fit(wine.data, wine.target)
    p = backlight.prototype(tree, data=wine.data)
    found = p.evaluate(wine.data, wine.target, judges=[tree])
    assert_allclose(found.confidence, found.transfer)
