"""Networks against the original library: equal scores, conserved relevance, refused options."""

import copy

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.cluster import OPTICS
from sklearn.dummy import DummyRegressor
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

import backlight
from backlight.classical.layers.radial import Radial
from tests.conftest import same, shared, standardised

pytestmark = pytest.mark.fast

SCORES = {"OneClassSVM": ("outlierness", "inlierness", "decision_function", "score_samples"),
          "KernelDensity": ("outlierness", "inlierness", "score_samples")}  # fmt: skip
GAMMAS = (1e-6, 1e-3, "scale", "auto", 1.0, 1e3)
SETS = ("18_Ionosphere", "23_mammography", "26_optdigits", "2_annthyroid", "31_satimage-2", "32_shuttle", "43_WDBC",
        "45_wine", "4_breastw", "6_cardio")  # fmt: skip


def detectors(X, gamma):
    width = 0.5 if isinstance(gamma, str) else (1 / (2 * gamma)) ** 0.5
    return OneClassSVM(nu=0.1, gamma=gamma).fit(X), KernelDensity(bandwidth=width).fit(X)


def assert_exact(model, X, exactly=1e-10, conserved=1e-9):
    for score in SCORES[type(model).__name__]:
        net = backlight.neuralize(model, score=score)
        reference = net.reference_score(X)
        assert np.abs(net(X).numpy() - reference).max() <= exactly * max(1, np.abs(reference).max()), score
        ex = backlight.explain(net, X)
        assert np.abs(ex.output - reference).max() <= exactly * max(1, np.abs(reference).max()), score
        assert np.isfinite(ex.values).all()
        # A score that crosses zero, or underflows, is the difference of these terms: they set its rounding.
        terms = np.abs(ex.output) + np.abs(ex.base_values) + np.abs(ex.values).sum(1)
        bound = np.abs(ex.output) if score == "outlierness" else terms
        assert (np.abs(ex.residual) <= conserved * bound + 1e-300).all(), score


def extreme(X, rng):
    far = X[rng.integers(0, len(X), 40)]
    return np.r_[X, far + rng.normal(size=far.shape) * 10, far + 1e4, far * 0]


@pytest.mark.parametrize("offset", [0, 1e4])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", ["wine", "breast_cancer", "digits"])
def test_scores_are_equal_and_relevance_is_conserved(name, gamma, offset, rng):
    X = standardised(name) + offset
    for model in detectors(X, gamma):
        assert_exact(model, extreme(X, rng))


@pytest.mark.parametrize("name", SETS)
def test_scores_are_equal_and_relevance_is_conserved_on_anomaly_sets(name, rng):
    data = np.load(shared("adbench") / f"{name}.npz", allow_pickle=True)
    X = data["X"].astype(float)
    X = X[rng.permutation(len(X))[:1500]]
    for offset in (0, 1e4):
        for gamma in (1e-6, "scale", 1e3):
            Z = StandardScaler().fit_transform(X) + offset
            for model in detectors(Z[:500], gamma):
                assert_exact(model, Z)
    raw = make_pipeline(StandardScaler(), OneClassSVM(nu=0.1)).fit(X)
    net = backlight.neuralize(raw, score="decision_function")
    assert np.abs(net(X).numpy() - raw.decision_function(X)).max() <= 1e-10 * np.abs(raw.decision_function(X)).max()


def test_scores_are_equal_on_ten_thousand_points(rng):
    X = standardised("wine")
    points = rng.normal(size=(10_000, 13)) * rng.choice([0.1, 1, 10, 1000], (10_000, 1))
    for model in detectors(X, "scale"):
        for score in SCORES[type(model).__name__]:
            net = backlight.neuralize(model, score=score)
            reference = net.reference_score(points)
            assert np.abs(net(points).numpy() - reference).max() <= 1e-10 * max(1, np.abs(reference).max())


def test_the_alarm_line_separates_as_the_model_does(rng):
    X = standardised("digits")
    model = OneClassSVM(nu=0.2, gamma="auto").fit(X)
    net = backlight.neuralize(model)
    decision = model.decision_function(X)
    clear = np.abs(decision) > 1e-9

    assert ((net(X).numpy() > net.threshold) == (decision < 0))[clear].all()


def test_outlierness_is_not_negative_though_dual_coefficients_do_not_sum_to_one(rng):
    """Trap: with scikit-learn's coefficients as they are, every row has negative outlierness and reversed ranks."""
    X = standardised("wine")
    model = OneClassSVM(nu=0.5).fit(X)
    assert model.dual_coef_.sum() > 10

    assert (backlight.neuralize(model)(rng.normal(size=(10_000, 13))) >= 0).all()


def test_far_rows_are_right_where_the_tree_of_scikit_learn_loses_its_digits(rng):
    """Trap: KernelDensity.score_samples is off by tens of per cent for rows outside the data."""
    X, far = rng.normal(size=(1000, 10)), rng.normal(size=(50, 10)) * 3
    model = KernelDensity(bandwidth=0.5).fit(X)
    truth = logsumexp(-2 * cdist(far, X, "sqeuclidean"), axis=1) - np.log(1000) - 5 * np.log(2 * np.pi * 0.25)

    net = backlight.neuralize(model, score="score_samples")

    assert np.abs(net(far).numpy() / truth - 1).max() <= 1e-12
    assert np.abs(net.reference_score(far) / truth - 1).max() <= 1e-12


def test_weights_of_rows_count_as_many_rows(rng):
    X = rng.normal(size=(30, 3))
    weights = rng.integers(0, 4, 30)
    query = rng.normal(size=(20, 3)) * 2
    weighted = KernelDensity(bandwidth=0.7).fit(X, sample_weight=np.maximum(weights, 1e-300))
    repeated = KernelDensity(bandwidth=0.7).fit(np.repeat(X, weights, axis=0))

    a, b = backlight.explain(weighted, query), backlight.explain(repeated, query)
    assert np.allclose(a.output, b.output, rtol=1e-12)
    assert np.allclose(a.values, b.values, rtol=1e-9)


def test_inlierness_budgets_add_up_and_shrink_where_the_row_is_unusual(rng):
    X = standardised("wine")
    model = OneClassSVM(nu=0.1).fit(X)
    row = np.zeros((1, 13))
    odd = row.copy()
    odd[0, 4] = 6

    usual, unusual = (backlight.explain(model, x, score="inlierness") for x in (row, odd))

    assert usual.output[0] > 0 > unusual.output[0]
    assert usual.values[0, 4] > 0 > unusual.values[0, 4]
    assert np.argmin(unusual.values[0]) == 4
    with_reference = backlight.explain(model, odd, score="inlierness", reference=X)
    assert np.allclose(with_reference.output, unusual.output)
    assert not np.allclose(with_reference.values, unusual.values)


@pytest.mark.parametrize("rule", ["stable", "pool", "free"])
def test_inlierness_is_a_budget_less_outlierness(rule, rng):
    """Σ b_i = θ = log(Σα / ρ), in proportion to the mean relevance of outlierness over the support vectors."""
    model = OneClassSVM(nu=0.1).fit(standardised("wine"))
    query = rng.normal(size=(8, 13))
    taken, left, theirs = (
        backlight.explain(model, x, score=score, rules=rule).values
        for x, score in ((query, "outlierness"), (query, "inlierness"), (model.support_vectors_, "outlierness"))
    )

    budget = left + taken
    assert np.allclose(budget, budget[0], rtol=1e-9)
    assert budget[0].sum() == pytest.approx(np.log(model.dual_coef_.sum() / model.offset_[0]), rel=1e-9)
    assert np.allclose(budget[0] / budget[0].sum(), theirs.mean(0) / theirs.mean(0).sum(), rtol=1e-7)


def test_budgets_are_those_of_the_rule_that_is_asked_for(rng):
    X = standardised("wine")
    net = backlight.neuralize(OneClassSVM(nu=0.1).fit(X), score="inlierness")
    query = rng.normal(size=(5, 13))
    alone = backlight.explain(backlight.neuralize(OneClassSVM(nu=0.1).fit(X), score="inlierness"), query, rules="free")

    backlight.explain(net, query)

    assert same(backlight.explain(net, query, rules="free").values, alone.values)


def test_decision_function_relevance_has_the_sign_of_inlierness(rng):
    X = standardised("wine")
    model = OneClassSVM(nu=0.1).fit(X)
    query = rng.normal(size=(50, 13)) * 2
    inlier, decision = (backlight.explain(model, query, score=s) for s in ("inlierness", "decision_function"))

    ratio = decision.values / inlier.values
    assert (ratio > 0).all()
    assert np.allclose(ratio, ratio[:, :1], rtol=1e-6)


def test_features_that_are_permuted_permute_their_relevance(rng):
    X, query = standardised("wine"), rng.normal(size=(30, 13))
    order = rng.permutation(13)
    for model in detectors(X, 0.05):
        swapped = copy.deepcopy(model).fit(X[:, order])
        a, b = backlight.explain(model, query), backlight.explain(swapped, query[:, order])
        assert np.allclose(a.values[:, order], b.values, rtol=1e-6, atol=1e-9)


def test_one_anchor_shares_the_score_as_squared_differences():
    model = KernelDensity(bandwidth=1.0).fit([[0.0, 0.0, 0.0]])

    ex = backlight.explain(model, [[1.0, 2.0, 3.0]])

    assert np.allclose(ex.values, [[0.5, 2.0, 4.5]], rtol=1e-14)
    assert np.allclose(ex.base_values, 1.5 * np.log(2 * np.pi))


@pytest.mark.parametrize(
    "make", [lambda X: X.astype("f4"), np.asfortranarray, csr_matrix, torch.tensor, lambda X: X.tolist()]
)
def test_data_of_every_kind_give_the_same_explanation(make):
    X = np.round(standardised("wine"), 2).astype("f4").astype(float)
    model = OneClassSVM(nu=0.1).fit(X)

    assert np.allclose(backlight.explain(model, make(X)).values, backlight.explain(model, X).values, rtol=1e-12)


def test_a_model_fitted_on_sparse_data_equals_the_one_fitted_on_dense_data():
    X = standardised("wine")
    X[np.abs(X) < 0.5] = 0
    sparse, dense = OneClassSVM(nu=0.1, gamma=0.05).fit(csr_matrix(X)), OneClassSVM(nu=0.1, gamma=0.05).fit(X)

    assert_exact(sparse, X)
    assert np.allclose(backlight.explain(sparse, X).values, backlight.explain(dense, X).values, rtol=1e-5, atol=1e-8)


def test_float32_networks_are_close_to_float64_ones(rng):
    X = standardised("wine")
    query = rng.normal(size=(100, 13))
    for model in detectors(X, "scale"):
        exact = backlight.explain(model, query)
        coarse = backlight.explain(backlight.neuralize(model, dtype=torch.float32), query)
        assert np.abs(coarse.values - exact.values).max() <= 1e-4 * np.abs(exact.values).max()


def test_the_users_model_data_and_random_state_are_left_as_they_were(rng):
    X = standardised("wine")
    for model in detectors(X, "scale"):
        before, data = copy.deepcopy(model.__dict__), X.copy()
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002 - the global state is what is watched
        states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

        backlight.explain(model, X, score="inlierness")

        assert (data == X).all()
        assert torch.equal(states[0], torch.get_rng_state())
        assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002
        assert model.__dict__.keys() == before.keys()
        for name, value in before.items():
            if isinstance(value, np.ndarray):
                assert np.array_equal(value, model.__dict__[name]), name


def test_gradients_flow_through_the_network(rng):
    X = standardised("wine")
    for model in detectors(X, 0.05):
        net = backlight.neuralize(model)
        x = torch.tensor(rng.normal(size=(3, 13)), requires_grad=True)
        assert torch.autograd.gradcheck(net, (x,))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (OneClassSVM(kernel=lambda a, b: a @ b.T), "kernel='<lambda>'"),
        (KernelDensity(kernel="tophat"), "kernel='tophat'"),
        (KernelDensity(metric="manhattan"), "metric='manhattan'"),
        (KernelDensity(rtol=1e-3), "rtol=0.001"),
    ],
)
def test_options_without_a_network_are_refused_by_name(model, said):
    with pytest.raises(backlight.errors.UnsupportedModel, match=said):
        backlight.neuralize(model.fit(standardised("wine")))


def test_unknown_and_unfitted_models_are_refused():
    X = standardised("wine")
    with pytest.raises(
        backlight.errors.UnsupportedModel, match=r"DummyRegressor has no network: it looks at no column"
    ):
        backlight.neuralize(DummyRegressor().fit(X, X[:, 0]))
    with pytest.raises(backlight.errors.UnsupportedModel, match=r"OPTICS has no network: .*KernelClusters"):
        backlight.neuralize(OPTICS().fit(X))
    with pytest.raises(backlight.errors.DataError, match=r"Linear cannot run on these inputs: .*178x13 and 2x1"):
        backlight.explain(torch.nn.Linear(2, 1), X)
    for model in (OneClassSVM(), KernelDensity(), make_pipeline(StandardScaler(), OneClassSVM())):
        with pytest.raises(backlight.errors.NotFittedModel, match="is not fitted"):
            backlight.neuralize(model)


def test_unknown_arguments_are_refused_with_what_is_known():
    X = standardised("wine")
    model = KernelDensity().fit(X)
    with pytest.raises(backlight.BacklightError, match="choose from 'outlierness', 'inlierness', 'score_samples'"):
        backlight.explain(model, X, score="logit")
    with pytest.raises(backlight.BacklightError, match="'stable', 'dtd', 'pool', 'free'"):
        backlight.explain(model, X, rules="gamma")
    with pytest.raises(backlight.BacklightError, match="method='shapley' needs hidden units"):
        backlight.explain(model, X, method="shapley")
    with pytest.raises(backlight.BacklightError, match="target=3"):
        backlight.explain(model, X, target=3)
    with pytest.raises(backlight.BacklightError, match=r"no layer is named 'pool'.*'distance'"):
        backlight.explain(model, X, layers=["pool"])


def test_cells_that_are_not_finite_are_named():
    X = standardised("wine")
    model = OneClassSVM().fit(X)
    for value, said in (
        (np.inf, "'x3' is inf in row 7"),
        (np.nan, "'x3' is missing in row 7"),
        (1e200, "overflows"),
    ):
        bad = X.copy()
        bad[7, 3] = value
        with pytest.raises(backlight.errors.DataError, match=said):
            backlight.explain(model, bad)


def test_a_third_party_model_is_one_function(rng):
    class Tail(KernelDensity):
        pass

    class Other:
        n_features_in_ = 2
        centre_ = np.zeros((1, 2))

        def __sklearn_is_fitted__(self):
            return True

    @backlight.neuralize.register(Other)
    def other(estimator):
        units = lambda inputs: Radial(torch.as_tensor(estimator.centre_), inputs.pullback)  # noqa: E731
        score = backlight.classical.Score("outlierness", units, lambda model, z: (z**2).sum(1))
        return backlight.classical.ModelSpec("a point", {"outlierness": score})

    X = rng.normal(size=(5, 2))
    assert np.allclose(backlight.explain(Other(), X).values, X**2)
    assert backlight.neuralize(Tail().fit(X)).kind.startswith("kernel density")  # found by its base class


@pytest.mark.parametrize("fault", ["1", "4", "7"])
def test_root_causes_of_a_chemical_plant_are_among_the_first_three(fault):
    import json

    folder = shared("tep")
    z = np.load(folder / "tep.npz", allow_pickle=True)
    truth = json.loads((folder / "expected_root_variables.json").read_text())["root"][fault]
    window = slice(*truth["window"])
    X = z["x_test_fault"][list(z["fault_id"]).index(int(fault))][window].astype(float)
    for estimator in (OneClassSVM(nu=0.1), KernelDensity(bandwidth="scott")):
        model = make_pipeline(StandardScaler(), estimator).fit(z["x_train_normal"].astype(float))
        mean = backlight.explain(model, X).values.mean(0)
        assert truth["columns"][0] in np.argsort(-mean)[:3]


def test_the_distance_that_a_machine_and_a_density_measure(rng):
    """−(1/γ) log Σ α_i exp(−γ‖x − u_i‖²), written out, and its relevance in squared distance."""
    from scipy.special import logsumexp

    X = standardised("wine")
    Q = np.r_[X[:20], 3 * rng.normal(size=(20, 13))]
    machine, density = OneClassSVM(nu=0.2, gamma=0.05).fit(X), KernelDensity(bandwidth=0.8).fit(X)
    cases = (
        (machine, machine.support_vectors_, np.log(machine.dual_coef_[0]), 0.05),
        (density, X, np.full(len(X), -np.log(len(X))), 1 / (2 * 0.8**2)),
    )
    for model, anchors, log_weights, gamma in cases:
        distances = ((Q[:, None] - anchors[None]) ** 2).sum(2)
        expected = -logsumexp(log_weights - gamma * distances, axis=1) / gamma
        net = backlight.neuralize(model, score="log_distance")
        np.testing.assert_allclose(net(Q).numpy(), expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())
        np.testing.assert_allclose(net.reference_score(Q), expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())
        ex = backlight.explain(net, Q)
        assert np.abs(ex.residual).max() <= 1e-9 * np.abs(expected).max()
        # the same shares as on the scale of nats, in another unit
        nats = backlight.explain(model, Q)
        np.testing.assert_allclose(ex.values, nats.values / gamma, rtol=1e-9, atol=1e-12)
