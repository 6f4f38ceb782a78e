"""Each reference against a slow, literal one."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from backlight import references
from backlight.errors import ArgumentError
from backlight.references import KINDS, Reference, as_reference

pytestmark = pytest.mark.fast


def bound(reference, x, seed=0):
    return reference.bind(x, lambda rows: torch.as_tensor(np.asarray(rows)), seed)


@pytest.fixture
def x():
    return torch.as_tensor(np.random.default_rng(1).normal(size=(6, 4)))


@pytest.fixture
def keep():
    keep = torch.as_tensor(np.random.default_rng(2).random((6, 4)) > 0.5)
    keep[0], keep[1] = True, False
    return keep


EACH = {
    "zero": lambda X: references.Zero(),
    "mean": references.Mean,
    "point": lambda X: references.Point(X[0]),
    "marginal": references.Marginal,
    "nearest": lambda X: references.Nearest(X, k=2),
    "gaussian": lambda X: references.Gaussian(X, draws=2),
    "blurred": lambda X: references.Blurred(1.0),
    "inpainted": lambda X: references.Inpainted(),
    "dropped": lambda X: references.Dropped(),
    "custom": lambda X: references.Custom(lambda x, keep: torch.where(keep, x, 7.0)),
}


def test_every_registered_reference_is_under_the_laws():
    assert set(EACH) == set(KINDS)


@pytest.mark.parametrize("name", sorted(EACH))
def test_what_is_kept_stays_as_it_is_and_the_same_seed_draws_the_same(name):
    X = np.random.default_rng(0).normal(size=(20, 4))
    x = torch.as_tensor(X[:5] + 0.1)
    if name in ("blurred", "inpainted"):
        X, x = X.reshape(20, 1, 2, 2), x.reshape(5, 1, 2, 2)
    before = x.clone()
    keep = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.4
    if name == "inpainted":
        keep = keep.all(1, keepdim=True).expand(x.shape)
    if name == "dropped":
        keep = torch.tensor([True, False, True, True]).expand(5, 4)
    reference = EACH[name](X)
    state = torch.get_rng_state()
    for draw in range(reference.draws):
        out = bound(reference, x)(torch.arange(5), keep, draw)
        assert torch.equal(out, bound(EACH[name](X), x)(torch.arange(5), keep, draw))
        if name == "dropped":
            assert torch.equal(out, x[:, [0, 2, 3]])
        else:
            assert torch.equal(out[keep], x[keep])
            assert torch.equal(bound(reference, x)(torch.arange(5), torch.ones_like(keep), draw), x)
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(getattr(Reference, name), type)


def test_a_gaussian_fills_in_the_conditional_mean(x, keep):
    X = np.random.default_rng(0).normal(size=(50, 4)) @ np.random.default_rng(3).normal(size=(4, 4)) + 2
    out = bound(references.Gaussian(X, shrinkage=1e-12), x)(torch.arange(6), keep, 0).numpy()
    mean, S = X.mean(0), np.cov(X.T)
    for i in range(6):
        k, g = keep[i].numpy(), ~keep[i].numpy()
        expected = x[i].numpy().copy()
        expected[g] = mean[g] + S[np.ix_(g, k)] @ np.linalg.solve(S[np.ix_(k, k)], x[i].numpy()[k] - mean[k])
        np.testing.assert_allclose(out[i], expected, rtol=1e-7, atol=1e-8)


def test_draws_of_a_gaussian_have_the_conditional_mean_and_covariance():
    X = np.random.default_rng(0).normal(size=(80, 3)) @ np.array([[1.0, 0.8, 0.2], [0, 0.6, -0.5], [0, 0, 0.7]])
    x = torch.as_tensor(X[:1])
    keep = torch.tensor([[True, False, False]])
    fill = bound(references.Gaussian(X, draws=8000, shrinkage=1e-12), x)
    drawn = np.array([fill(torch.tensor([0]), keep, k)[0, 1:].numpy() for k in range(8000)])
    S = np.cov(X.T)
    mean = X.mean(0)[1:] + S[1:, 0] / S[0, 0] * (X[0, 0] - X.mean(0)[0])
    covariance = S[1:, 1:] - np.outer(S[1:, 0], S[0, 1:]) / S[0, 0]
    np.testing.assert_allclose(drawn.mean(0), mean, atol=5 * np.sqrt(np.diag(covariance).max() / 8000))
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=5 * np.diag(covariance).max() * np.sqrt(2 / 8000))


def test_inpainting_solves_the_laplace_equation():
    x = torch.as_tensor(np.random.default_rng(0).normal(size=(1, 2, 5, 6)))
    keep = torch.as_tensor(np.random.default_rng(1).random((5, 6)) > 0.5)
    out = bound(references.Inpainted(), x)(torch.tensor([0]), keep.expand(1, 2, 5, 6), 0)[0].numpy()
    for i in range(5):
        for j in range(6):
            if not keep[i, j]:
                near = [
                    (i + a, j + b) for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1)) if 0 <= i + a < 5 and 0 <= j + b < 6
                ]
                np.testing.assert_allclose(out[:, i, j], np.mean([out[:, a, b] for a, b in near], axis=0), atol=1e-12)
    gone = bound(references.Inpainted(), x)(torch.tensor([0]), torch.zeros(1, 2, 5, 6, dtype=torch.bool), 0)[0]
    np.testing.assert_allclose(gone.numpy(), x[0].mean((1, 2), keepdim=True).expand(2, 5, 6).numpy(), atol=1e-12)


def test_a_blur_is_scipys():
    x = torch.as_tensor(np.random.default_rng(0).normal(size=(2, 3, 12, 9)))
    out = bound(references.Blurred(1.5), x)(torch.arange(2), torch.zeros(x.shape, dtype=torch.bool), 0)
    expected = gaussian_filter(x.numpy(), (0, 0, 1.5, 1.5), mode="nearest", radius=(0, 0, 5, 5))
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-12)


def test_the_nearest_row_is_another_row():
    X = np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0], [0.0, 0.0]])
    x = torch.as_tensor(X[:3])
    out = bound(references.Nearest(X), x)(torch.arange(3), torch.zeros(3, 2, dtype=torch.bool), 0)
    assert out.tolist() == [[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]
    with pytest.raises(ArgumentError, match="fewer than 3 rows"):
        bound(references.Nearest(X, k=3), x)


def test_a_reference_is_read_from_a_name_a_point_or_an_object(x):
    assert repr(as_reference("mean", x)) == "mean"
    assert repr(as_reference(np.zeros(4), x)) == "point"
    zero = references.Zero()
    assert as_reference(zero, x) is zero
    with pytest.raises(ArgumentError, match="choose from"):
        as_reference("nothing", x)
    with pytest.raises(ArgumentError, match="at least 1"):
        Reference.marginal(x, draws=0)
    with pytest.raises(ArgumentError, match="one row"):
        bound(references.Point(x), x)
    with pytest.raises(ArgumentError, match="the explained rows"):
        bound(references.Mean(np.zeros((3, 2))), x)
    with pytest.raises(ArgumentError, match="pictures"):
        bound(references.Blurred(), x)
