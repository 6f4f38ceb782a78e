"""The pool against 60-digit arithmetic and against each rule's literal definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backlight.classical.layers.pullback import Pullback
from backlight.classical.layers.softmin_distance import SoftMinDistance
from backlight.rules import SOFTMIN_RULES, Free, OneClassDTD, Pool, Stable
from tests.conftest import examples
from tests.oracles import softmin as oracle
from tests.oracles.memory import Largest

pytestmark = pytest.mark.fast


def pool(U, weights=None, gamma=0.5, dtype=torch.float64):
    weights = np.ones(len(U)) if weights is None else weights
    return SoftMinDistance(U, np.log(weights), gamma, Pullback(np.arange(U.shape[1]), U.shape[1], dtype=dtype), dtype)


@pytest.mark.parametrize("rule", sorted(SOFTMIN_RULES))
@pytest.mark.parametrize("gamma", [1e-6, 1e-2, 1.0, 30.0])
def test_every_rule_equals_its_literal_definition(rule, gamma, rng):
    U, X = rng.normal(size=(40, 5)), rng.normal(size=(12, 5)) * 2
    weights = rng.uniform(0.1, 1, 40)

    got = pool(U, weights, gamma).relevance(torch.tensor(X), SOFTMIN_RULES[rule]()).values.numpy()

    expected = np.array([oracle.relevance(x, U, weights, gamma, rule) for x in X])
    # at γ = 1e-6 the definition itself loses digits in log Σ (o is 1e-5), not the fast form
    assert np.abs(got - expected).max() <= (1e-10 if gamma > 1e-5 else 1e-9) * np.abs(expected).max()


@pytest.mark.parametrize("gamma", [1e-12, 1e-6, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("spread", [0, 30])
def test_the_score_keeps_its_digits_at_extreme_kernel_widths_and_weights(gamma, spread, rng):
    U, X = rng.normal(size=(30, 4)), rng.normal(size=(8, 4)) * 3
    weights = 10.0 ** rng.uniform(-spread, 0, 30)

    got = pool(U, weights, gamma)(torch.tensor(X)).numpy()

    expected = np.array([oracle.outlierness(x, U, weights, gamma) for x in X])
    assert np.abs(got / expected - 1).max() <= 1e-9


@pytest.mark.parametrize("rule", sorted(SOFTMIN_RULES))
def test_a_row_beside_the_anchor_that_it_became_is_judged_by_the_others_and_scored_by_all(rule, rng):
    """As for a row of which one cell was changed since the model was fitted."""
    U, weights, gamma = rng.normal(size=(20, 3)), rng.uniform(0.1, 1, 20), 0.7
    own = np.arange(8)
    X = U[own] + rng.normal(size=(8, 3)) * 0.5

    got = pool(U, weights, gamma).relevance(torch.tensor(X), SOFTMIN_RULES[rule](), torch.tensor(own))

    rest = [(np.delete(U, i, 0), np.delete(weights, i)) for i in own]
    np.testing.assert_allclose(got.score, [oracle.outlierness(x, U, weights, gamma) for x in X], rtol=1e-9)
    expected = [oracle.outlierness(x, others, w, gamma) for x, (others, w) in zip(X, rest, strict=True)]
    np.testing.assert_allclose(got.others, expected, rtol=1e-9)
    expected = np.array([oracle.relevance(x, others, w, gamma, rule) for x, (others, w) in zip(X, rest, strict=True)])
    np.testing.assert_allclose(got.values, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_the_score_of_anchors_is_never_negative(rng):
    U = rng.normal(size=(50, 3))

    assert (pool(U, gamma=1e4)(torch.tensor(np.r_[U, U + 1e-9])) >= 0).all()


@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), M=st.integers(2, 60), d=st.integers(1, 12),
       log_gamma=st.floats(-6, 3), offset=st.sampled_from([0.0, 100.0, 1e4]), name=st.sampled_from(sorted(SOFTMIN_RULES)))  # fmt: skip
@settings(max_examples=examples(60))
def test_what_features_carry_is_what_the_rule_promises(seed, n, M, d, log_gamma, offset, name):
    rng = np.random.default_rng(seed)
    U, X = rng.normal(size=(M, d)) + offset, rng.normal(size=(n, d)) * 2 + offset
    X[::3] = U[rng.integers(0, M, len(X[::3]))]

    got = pool(U, rng.uniform(0.01, 1, M), 10**log_gamma).relevance(torch.tensor(X), SOFTMIN_RULES[name]())

    assert torch.isfinite(got.values).all()
    scale = torch.maximum(got.score, got.others.nan_to_num(posinf=0)) + 1e-300
    assert ((got.values.sum(1) - got.carried).abs() <= 1e-9 * scale).all()
    assert (got.values >= -1e-9 * scale[:, None]).all()


def test_conserving_rules_give_features_the_whole_score_of_unseen_rows(rng):
    U, X = rng.normal(size=(200, 6)), torch.tensor(rng.normal(size=(50, 6)))
    for rule in (Stable(), Pool(), OneClassDTD()):
        got = pool(U).relevance(X, rule)
        assert torch.allclose(got.values.sum(1), got.score, rtol=1e-12)


def test_the_free_rule_leaves_exactly_the_divergence_of_weights(rng):
    U, X = rng.normal(size=(60, 4)), rng.normal(size=(10, 4))
    weights = rng.uniform(0.1, 1, 60)
    got = pool(U, weights).relevance(torch.tensor(X), Free())

    alpha = weights / weights.sum()
    D = 0.5 * ((X[:, None] - U[None]) ** 2).sum(2)
    p = alpha * np.exp(-D)
    p /= p.sum(1, keepdims=True)
    divergence = (p * np.log(p / alpha)).sum(1)
    assert np.allclose((got.score - got.values.sum(1)).numpy(), divergence, rtol=1e-11)


def test_a_small_tau_approaches_the_published_rule_and_a_large_one_the_pool_rule(rng):
    U, X = rng.normal(size=(60, 4)), torch.tensor(rng.normal(size=(10, 4)))
    net = pool(U)

    assert torch.allclose(net.relevance(X, Stable(1e-9)).values, net.relevance(X, OneClassDTD()).values, rtol=1e-6)
    assert torch.allclose(net.relevance(X, Stable(1e9)).values, net.relevance(X, Pool()).values, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.1, 5.0, 1e3])
def test_a_row_that_is_an_anchor_is_explained_by_the_others(gamma, rng):
    U = rng.normal(size=(30, 4))
    net = pool(U, gamma=gamma)

    got = net.relevance(torch.tensor(U), Stable())

    for j in range(len(U)):
        others = np.delete(U, j, axis=0)
        expected = pool(others, gamma=gamma).relevance(torch.tensor(U[j : j + 1]), Stable())
        assert got.self_anchor[j]
        assert torch.allclose(got.others[j], expected.score[0], rtol=1e-10)
        assert torch.allclose(got.values[j], expected.values[0], rtol=1e-8, atol=1e-12)


def test_of_equal_anchors_only_one_is_left_out(rng):
    U = rng.normal(size=(20, 3))
    U[5] = U[4]
    got = pool(U, gamma=50.0).relevance(torch.tensor(U[4:5]), Stable())

    # Its twin remains at distance zero: nothing but the number of rows makes up the score.
    assert got.self_anchor[0]
    assert got.no_distance[0]
    assert got.values.abs().max() == 0
    assert torch.allclose(got.others, -torch.log(torch.tensor(1 / 19, dtype=torch.float64)), rtol=1e-12)


def test_the_only_anchor_explained_by_itself_carries_nothing():
    U = np.array([[1.0, 2.0]])
    got = pool(U).relevance(torch.tensor(U), Stable())

    assert got.values.tolist() == [[0.0, 0.0]]
    assert got.score.tolist() == [0.0]


def test_leaving_self_out_can_be_switched_off(rng):
    U = rng.normal(size=(30, 4))
    with_self = pool(U, gamma=1.0).relevance(torch.tensor(U), Stable(leave_self_out=False))

    assert not with_self.self_anchor.any()
    assert not torch.allclose(with_self.values, pool(U, gamma=1.0).relevance(torch.tensor(U), Stable()).values)


def test_float32_data_far_from_zero_keep_their_relevance(rng):
    """Trap: an uncentred expansion in float32 is off by 270 % at an offset of 1000."""
    U, X = (rng.normal(size=(200, 8)) + 1e4).astype("f4"), (rng.normal(size=(40, 8)) * 2 + 1e4).astype("f4")
    exact = pool(U.astype(float)).relevance(torch.tensor(X).double(), Stable()).values

    got = pool(U.astype(float), dtype=torch.float32).relevance(torch.tensor(X), Stable()).values

    assert (got - exact).abs().max() <= 1e-4 * exact.max()
    assert got.min() >= -1e-5 * exact.max()


def test_a_row_almost_on_an_anchor_keeps_its_digits(rng):
    """Trap: expanded squares cancel where ‖x − u‖ is far below the spread of the data."""
    U = rng.normal(size=(50, 5)) * 100
    X = U[:10] + rng.normal(size=(10, 5)) * 1e-5
    gamma = 1e8

    got = pool(U, gamma=gamma).relevance(torch.tensor(X), Free()).values.numpy()

    assert np.allclose(got, gamma * (X - U[:10]) ** 2, rtol=1e-9)


@pytest.mark.parametrize("far", [1e3, 1e6, 1e8])
def test_far_anchors_cost_neither_digits_nor_the_fast_path(far, rng, monkeypatch):
    import backlight.classical.layers.softmin_distance as module

    U, X = rng.normal(size=(300, 4)), rng.normal(size=(40, 4))
    U[0] = far
    slow_rows = []
    explicit = module._Pairs.__init__
    monkeypatch.setattr(
        module._Pairs, "__init__", lambda self, *a: (slow_rows.append(len(a[1])), explicit(self, *a))[1]
    )

    got = pool(U).relevance(torch.tensor(X), Stable()).values.numpy()

    expected = np.array([oracle.relevance(x, U, np.ones(300), 0.5, "stable") for x in X])
    assert np.abs(got - expected).max() <= 1e-11 * np.abs(expected).max()
    assert slow_rows == []


def test_results_do_not_depend_on_how_rows_are_chunked(rng, monkeypatch):
    import backlight.classical.layers.softmin_distance as module

    U, X = rng.normal(size=(300, 6)), torch.tensor(rng.normal(size=(500, 6)))
    whole = pool(U).relevance(X, Stable()).values
    monkeypatch.setattr(module, "_CHUNK_ENTRIES", 1)

    assert torch.allclose(pool(U).relevance(X, Stable()).values, whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("rule", sorted(SOFTMIN_RULES))
@pytest.mark.parametrize("equal", [True, False])
def test_counting_exponents_from_the_largest_changes_nothing_but_rounding(rule, equal, rng, monkeypatch):
    U = rng.normal(size=(300, 6))
    X = torch.tensor(np.concatenate([rng.normal(size=(70, 6)) * 2, U[:30]]))
    net = pool(U, None if equal else rng.uniform(0.1, 1, 300))
    as_it_decides = net.relevance(X, SOFTMIN_RULES[rule]())
    assert not net._can_underflow(X.square().sum(1))
    monkeypatch.setattr(SoftMinDistance, "_can_underflow", lambda *_: True)

    counted = net.relevance(X, SOFTMIN_RULES[rule]())

    assert torch.allclose(counted.values, as_it_decides.values, rtol=1e-10, atol=1e-13)
    assert torch.allclose(counted.score, as_it_decides.score, rtol=1e-13, atol=1e-14)
    assert torch.equal(counted.self_anchor, as_it_decides.self_anchor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exponents_are_counted_from_the_largest_before_any_could_underflow(dtype, rng):
    """Rows further and further out: at no distance is there a jump, an infinity, or a relevance that is lost."""
    U, direction = rng.normal(size=(50, 4)), rng.normal(size=4)
    X = torch.tensor(direction * np.geomspace(1, 200, 400)[:, None], dtype=dtype)
    net = pool(U, rng.uniform(1e-3, 1, 50), gamma=0.5, dtype=dtype)

    each = torch.stack([net.relevance(x[None], Stable()).carried[0] for x in X])

    assert torch.isfinite(each).all()
    assert (torch.diff(each) > 0).all()
    nearest = 0.5 * (X[:, None].double() - torch.tensor(U)).square().sum(2).amin(1)
    assert (each.double() - nearest).abs().max() <= -np.log(1e-3 / 50) + 1e-3 * float(nearest.max())


def test_no_tensor_of_rows_times_anchors_times_features_is_formed(rng):
    n, M, d = 3000, 2000, 40
    net, X = pool(rng.normal(size=(M, d))), torch.tensor(rng.normal(size=(n, d)))

    with Largest() as largest:
        net.relevance(X, Stable())

    # Sums over anchors of every row, and three blocks of a few rows.
    assert largest.entries <= max(n * net.payload.shape[1], 3 * net.chunk * M)
    assert net.payload.shape[1] < 2 * d + 1 + 8
    assert 3 * net.chunk < n / 10


def test_a_tau_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="tau must be a positive number, not 0"):
        Stable(0)


@pytest.mark.parametrize("whiten", [False, True])
def test_relevance_through_a_projection_sums_to_the_distance_and_ignores_what_is_discarded(whiten, rng):
    Q = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    A = Q[:3] * (np.array([[2.0], [0.5], [3.0]]) if whiten else 1.0)
    back = Pullback(np.arange(6), 6, A)
    delta = rng.normal(size=(20, 6))

    shares = back.squares(torch.tensor(delta @ A.T)).numpy()

    assert np.allclose(shares.sum(1), ((delta @ A.T) ** 2).sum(1), rtol=1e-12)
    unseen = delta + rng.normal(size=(20, 3)) @ Q[3:]
    assert np.allclose(back.squares(torch.tensor(unseen @ A.T)).numpy(), shares, atol=1e-12)
    if not whiten:
        assert np.allclose(shares, (delta @ A.T @ A) ** 2, atol=1e-12)


@pytest.mark.parametrize("score", ["outlierness", "log_distance"])
def test_the_hidden_layer_and_the_pools_weights_are_the_formulas(score):
    from sklearn.datasets import load_wine
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import OneClassSVM

    import backlight

    X = load_wine().data
    model = make_pipeline(StandardScaler(), OneClassSVM(gamma=0.05, nu=0.2)).fit(X)
    Z, u, alpha = model[0].transform(X), model[1].support_vectors_, model[1].dual_coef_[0]
    D = 0.05 * ((Z[:, None] - u[None]) ** 2).sum(2)
    p = alpha * np.exp(-D)
    found = backlight.neuralize(model, score=score).activations(X)

    assert np.abs(found["distance"] - D).max() < 1e-12 * 100
    assert np.abs(found["weight"] - p / p.sum(1, keepdims=True)).max() < 1e-10


def test_a_model_without_a_pool_says_so():
    from sklearn.linear_model import LinearRegression

    import backlight
    from backlight.errors import ArgumentError

    X = np.arange(6.0).reshape(3, 2)
    with pytest.raises(ArgumentError, match="no soft-min pool"):
        backlight.neuralize(LinearRegression().fit(X, X[:, 0])).activations(X)
