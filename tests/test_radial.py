"""Radial units: distances by matrix products against distances from differences, where the former lose digits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.neighbors import KernelDensity

import backlight
from backlight.classical.layers.base import EncodedRows, Query
from backlight.classical.layers.pullback import Pullback
from backlight.classical.layers.radial import Radial
from tests.conftest import examples
from tests.oracles.memory import Largest

pytestmark = pytest.mark.fast


def roots(anchors, **options):
    """√d to many anchors: a concave profile."""
    anchors = torch.as_tensor(anchors)
    way = Pullback(np.arange(anchors.shape[1]), anchors.shape[1])
    return Radial(anchors, way, lambda d: d.sqrt(), concave=True, **options)


def relative(got, expected):
    """The largest relative difference; zeros must be zeros."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert ((got == 0) == (expected == 0)).all()
    there = expected != 0
    return float(np.abs(got[there] / expected[there] - 1).max())


def awkward(rng):
    """Rows on anchors, next to them at every scale, in a tight far cluster, and everywhere else."""
    d = int(rng.integers(4, 12))
    U = rng.normal(size=(300, d))
    U[200:] = 40 + 1e-3 * rng.normal(size=(100, d))  # a crowd, far from the centre: most of its pairs are close
    Z = np.concatenate([
        rng.normal(size=(50, d)),
        U[:30],
        U[30:60] + 10.0 ** rng.uniform(-12, 0, size=(30, 1)) * rng.normal(size=(30, d)),
        U[200:230] + 1e-3 * rng.normal(size=(30, d)),
        1e3 * rng.normal(size=(10, d)),
    ])  # fmt: skip
    return U, Z


@settings(max_examples=examples(30))
@given(seed=st.integers(0, 2**31), offset=st.sampled_from([0.0, 1.0, 1e4]))
def test_distances_keep_their_digits_wherever_a_row_is(seed, offset):
    U, Z = awkward(np.random.default_rng(seed))
    units = roots(U + offset)
    assert units.expands

    got = units(EncodedRows.at(torch.tensor(Z + offset))).numpy()

    # the same numbers with the offset in them: it is they that have lost digits at 10⁴
    assert relative(got, cdist(Z + offset, U + offset)) <= 3e-12


def test_only_what_is_close_is_computed_again(rng, monkeypatch):
    U, Z = rng.normal(size=(2000, 30)), rng.normal(size=(100, 30))
    calls = []
    monkeypatch.setattr(torch, "cdist", lambda *args, **kwargs: calls.append(args))

    roots(U)(EncodedRows.at(torch.tensor(Z)))

    assert not calls


def test_single_precision_is_never_expanded(rng):
    U, Z = awkward(rng)

    got = roots(U.astype(np.float32))(EncodedRows.at(torch.tensor(Z.astype(np.float32))))

    exact = cdist(Z.astype(np.float32).astype(float), U.astype(np.float32).astype(float))
    assert relative(got.double(), exact) <= 2e-6


def test_relevance_is_each_distances_shares(rng):
    U, Z = awkward(rng)
    units, x = roots(U), EncodedRows.at(torch.tensor(Z))
    c = rng.uniform(0, 1, size=(len(Z), len(U))) * 10.0 ** rng.uniform(-6, 0, size=(len(Z), 1))

    for sign in (1.0, -1.0, np.where(rng.uniform(size=c.shape) < 0.5, -1.0, 1.0)):
        got = units.run(x, Query("distance")).back(torch.tensor(sign * c)).numpy()

        delta = Z[:, None] - U
        d = (delta**2).sum(2, keepdims=True)
        shares = np.divide(delta**2, np.sqrt(d), out=np.zeros_like(delta), where=d > 0)
        expected = ((sign * c)[:, :, None] * shares).sum(1)
        size = (c[:, :, None] * shares).sum((1, 2))  # what the relevances are parts of
        assert (np.abs(got - expected).max(1) <= 2e-12 * size).all()


def test_gradients_are_those_of_differences_and_finite_on_an_anchor(rng):
    U, Z = awkward(rng)
    units = Radial(torch.tensor(U), Pullback(np.arange(U.shape[1]), U.shape[1]), torch.log1p, concave=True)
    z = torch.tensor(Z, requires_grad=True)

    (got,) = torch.autograd.grad(units(EncodedRows.at(z)).sum(), z)

    delta = Z[:, None] - U
    expected = (2 * delta / (1 + (delta**2).sum(2, keepdims=True))).sum(1)
    assert np.abs(got.numpy() - expected).max() <= 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("kernel", ["exponential", "linear"])
def test_memory_does_not_grow_with_rows_times_anchors(kernel, rng):
    """As for the Gaussian: blocks of a few rows, whatever the table's length."""
    M, d, n = 1500, 6, 3000
    net = backlight.neuralize(KernelDensity(kernel=kernel, bandwidth=9.0).fit(rng.normal(size=(M, d))))

    X = rng.normal(size=(n, d))
    with Largest() as largest:
        backlight.explain(net, X)
        net(X)

    assert largest.entries <= 4 * max(1 << 16, n * d, M * (2 * d + 2))


def test_an_absolute_distance_is_shared_the_same_however_rows_are_cut(rng, monkeypatch):
    U, Z = rng.normal(size=(500, 5)), torch.tensor(rng.normal(size=(700, 5)))
    units = Radial(torch.tensor(U), Pullback(np.arange(5), 5), lambda d: 2 * d, "cityblock", concave=True)
    c = torch.tensor(rng.normal(size=(700, 500)))
    whole = units.run(EncodedRows.at(Z), Query("distance")).back(c)
    expected = (2 * c[:, :, None] * (Z[:, None] - torch.tensor(U)).abs()).sum(1)

    monkeypatch.setattr(Radial, "rows", 64)

    assert torch.allclose(whole, expected, rtol=1e-12, atol=1e-12)
    assert torch.allclose(units.run(EncodedRows.at(Z), Query("distance")).back(c), whole, rtol=1e-12, atol=1e-12)
