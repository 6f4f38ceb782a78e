"""Classical heads on features of torch modules: their scores, and differences carried back to the inputs."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KernelDensity, KNeighborsClassifier, LocalOutlierFactor, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from torch import nn

import backlight
from backlight.classical.paired import PairedModule, _shares


def dense(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 6)).double()


def convolutional():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(5, 6, 3), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 5),
    ).double().eval()  # fmt: skip


def drawn(module, shape, n=70):
    X = torch.tensor(np.random.default_rng(0).normal(size=(n, *shape)))
    with torch.no_grad():
        Z = module(X).numpy()
    y = (Z[:, 0] > np.median(Z[:, 0])).astype(int) + (Z[:, 1] > np.median(Z[:, 1]))
    return X, Z, y


HEADS = [
    (OneClassSVM(), None), (OneClassSVM(gamma=5.0), "log_distance"), (KernelDensity(bandwidth=0.5), None),
    (KMeans(3, random_state=0), None), (KMeans(3, random_state=0), "outlierness"), (EllipticEnvelope(random_state=0), "outlierness"),
    (LogisticRegression(), None), (LinearRegression(), None), (NearestNeighbors(n_neighbors=3), None), (NearestNeighbors(), "mean_distance"),
    (LocalOutlierFactor(novelty=True), "outlierness"), (KNeighborsClassifier(), None),
    (make_pipeline(StandardScaler(), OneClassSVM()), None), (make_pipeline(PCA(3), LogisticRegression()), None),
    (make_pipeline(PCA(3, whiten=True), OneClassSVM()), None), (make_pipeline(PCA(3), EllipticEnvelope(random_state=0)), "outlierness"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "shape"), [(dense, (12,)), (convolutional, (1, 12, 12))], ids=["dense", "convolutional"]
)
@pytest.mark.parametrize(("head", "score"), HEADS, ids=lambda v: type(v).__name__ if hasattr(v, "fit") else str(v))
def test_a_head_is_exact_and_conserves(make, shape, head, score):
    module = make()
    X, Z, y = drawn(module, shape)
    head.fit(Z, y)
    net = backlight.neuralize(head, features=module, data=X, score=score)
    rows = X[:4] + torch.tensor(np.random.default_rng(1).normal(size=(4, *shape)))
    with torch.no_grad():
        features, found = module(rows).numpy(), net(rows).numpy()
    wanted = net.network.reference_score(features)
    assert np.abs(found - wanted).max() <= 1e-10 * max(1, np.abs(wanted).max())
    ex = backlight.explain(net, rows, "all" if net.score.outputs.names else None)
    assert ex.values.shape[:1] + ex.values.shape[1 : 1 + len(shape)] == (4, *shape)
    parts = np.abs(ex.values).sum(tuple(range(1, 1 + len(shape)))) + np.abs(ex.base_values)
    assert (np.abs(ex.residual) <= 1e-9 * parts).all()


def test_bases_are_the_scores_of_the_reference_rows():
    module = dense()
    X, Z, y = drawn(module, (12,))
    rows = X[:5] + 0.5

    def base(head, score=None, target=None):
        return backlight.explain(
            backlight.neuralize(head, features=module, data=X, score=score), rows, target
        ).base_values

    c = Z.mean(0) + 0.1
    assert np.allclose(base(c), ((Z - c) ** 2).sum(1).min(), rtol=1e-10)
    k = KMeans(3, random_state=0).fit(Z)
    nearest = k.predict(module(rows).detach().numpy())
    at_centres = np.array([((Z - u) ** 2).sum(1).min() for u in k.cluster_centers_])
    assert np.allclose(base(k, "outlierness"), at_centres[nearest], rtol=1e-10)
    usual = ((Z - Z.mean(0)) ** 2).sum(1).argmin()
    linear = LinearRegression().fit(Z, Z[:, 0] ** 2)
    assert np.allclose(base(linear), linear.predict(Z[[usual]]), rtol=1e-10)
    two = LogisticRegression().fit(Z, y > 0)
    assert np.allclose(base(two, target=1), two.decision_function(Z[[usual]]), rtol=1e-10)
    assert np.allclose(base(NearestNeighbors().fit(Z)), 0, atol=1e-12)
    # all anchors are carried one by one where they are few: what is left is the entropy of the pool
    few = OneClassSVM(nu=0.1, gamma=0.5).fit(Z[:8])
    net = backlight.neuralize(few, features=module, data=X[:8])
    d = ((module(rows).detach().numpy()[:, None] - few.support_vectors_) ** 2).sum(2)
    a = few.dual_coef_[0] / few.dual_coef_.sum()
    p = a * np.exp(-0.5 * d)
    o, p = -np.log(p.sum(1)), p / p.sum(1, keepdims=True)
    assert np.allclose(backlight.explain(net, rows).base_values, o - 0.5 * (p * d).sum(1), rtol=1e-9)


def test_rescaled_differences_are_those_of_the_definition():
    module, rng = dense(), np.random.default_rng(2)
    x, start, g = rng.normal(size=12), rng.normal(size=12), rng.normal(size=6)
    a, b, kept = x, start, []
    for layer in module:
        if isinstance(layer, nn.Linear):
            W, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            kept.append(W)
            a, b = W @ a + bias, W @ b + bias
        else:
            ra, rb = np.maximum(a, 0), np.maximum(b, 0)
            kept.append(np.diag((ra - rb) / (a - b)))
            a, b = ra, rb
    m = g
    for matrix in reversed(kept):
        m = m @ matrix
    one = torch.tensor
    found = PairedModule(module).back(one(x)[None], one(start)[None], one(g)[None])
    assert np.allclose(found[0], (x - start) * m, rtol=0, atol=1e-13)


@pytest.mark.parametrize("gamma", [0.25, 3.0])
def test_the_gamma_rule_of_differences_is_that_of_the_definition(gamma):
    layer, rng = nn.Linear(5, 4).double(), np.random.default_rng(3)
    x, start, g = rng.normal(size=5), rng.normal(size=5), rng.normal(size=4)
    z = layer.weight.detach().numpy() * (x - start)
    R = g * z.sum(1)
    want = np.zeros(5)
    for j in range(4):
        sign = np.sign(z[j].sum())
        share = z[j] + gamma * np.maximum(0, z[j] * sign) * sign
        want += share / share.sum() * R[j]
    one = torch.tensor
    found = PairedModule(layer).back(one(x)[None], one(start)[None], one(g)[None], gamma)
    assert np.allclose(found[0], want, rtol=0, atol=1e-13)


def test_shares_of_the_line_are_those_of_many_points_on_it():
    rng = np.random.default_rng(4)
    a, b = torch.tensor(rng.normal(size=(2, 3, 6, 5))), torch.tensor(rng.normal(size=(2, 3, 6, 5)))
    b[0, 0, 1] = b[0, 0].amax(0)  # ties at the start
    a[1, 2] = b[1, 2]
    found = _shares(a, b)
    t = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    at = (b[..., None] + t * (a - b)[..., None]).argmax(2)
    counted = torch.stack([(at == k).double().mean(-1) for k in range(6)], 2)
    moving = (a - b).abs().sum(2) > 0
    assert torch.allclose(found.sum(2), torch.ones(2, 3, 5, dtype=torch.float64))
    assert (found - counted).abs().amax(2)[moving].max() < 1e-3
    assert torch.allclose((found * (a - b)).sum(2), a.amax(2) - b.amax(2), atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_relevance_stays_of_the_size_of_the_score(seed):
    module = dense(seed)
    X, Z, _ = drawn(module, (12,))
    rows = X[:20] + 1.5 * torch.tensor(np.random.default_rng(seed).normal(size=(20, 12)))
    for head, score in (
        (OneClassSVM(), None),
        (KernelDensity(), "log_distance"),
        (NearestNeighbors(), None),
        (Z.mean(0), None),
    ):
        fitted = head.fit(Z) if hasattr(head, "fit") else head
        ex = backlight.explain(backlight.neuralize(fitted, features=module, data=X, score=score), rows)
        assert (np.abs(ex.values).sum(1) <= 5 * np.abs(ex.output)).all(), type(head).__name__


def test_pictures_are_shared_by_the_gamma_rule_and_rows_do_not_see_each_other():
    module = convolutional()
    X, Z, _ = drawn(module, (1, 12, 12))
    net = backlight.neuralize(OneClassSVM().fit(Z), features=module, data=X)
    rows = X[:5] + 1
    ex = backlight.explain(net, rows)
    assert "γ = 0.25" in ex.method
    assert ex.dims == ("row", "channel", "height", "width")
    assert np.allclose(backlight.explain(net, rows[2:3]).values, ex.values[2:3], rtol=0, atol=1e-12)
    assert np.allclose(backlight.explain(net, rows, batch_size=2).values, ex.values, rtol=0, atol=1e-12)
    plain = backlight.explain(net, rows, rules=backlight.rules.Gamma(0.0))
    assert np.allclose(plain.values.sum((1, 2, 3)), ex.values.sum((1, 2, 3)), rtol=1e-9)
    assert np.abs(ex.values).sum() < np.abs(plain.values).sum()
    assert np.array_equal(pickle.loads(pickle.dumps(backlight.Explainer(net)))(rows).values, ex.values)


def test_the_users_module_stays_as_it_was():
    module = convolutional().train()
    X, Z, _ = drawn(convolutional(), (1, 12, 12))
    before = copy.deepcopy(module.state_dict())
    net = backlight.neuralize(OneClassSVM().fit(Z), features=module, data=X)
    backlight.explain(net, X[:2])
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())


def test_a_single_precision_module_is_computed_in_the_dtype_that_is_asked_for():
    module = dense()
    X, Z, _ = drawn(module, (12,))
    head = OneClassSVM().fit(Z)
    single = backlight.explain(backlight.neuralize(head, features=module, data=X, dtype=torch.float32), X[:3] + 1)
    double = backlight.explain(backlight.neuralize(head, features=module, data=X), X[:3] + 1)
    assert np.allclose(single.values, double.values, rtol=0, atol=1e-4)


class Sorted(nn.Module):
    def forward(self, x):
        return x.sort(1).values


def test_what_cannot_be_carried_is_said_in_a_sentence():
    module = dense()
    X, Z, _ = drawn(module, (12,))
    head = OneClassSVM().fit(Z)
    sorting = nn.Sequential(module, Sorted())
    net = backlight.neuralize(head, features=module, data=X)
    refused = [
        (lambda: backlight.neuralize(head, features=module), "needs data="),
        (
            lambda: backlight.neuralize(head, features=module, data=X, score="decision_function"),
            "ask for score='outlierness'",
        ),
        (
            lambda: backlight.explain(backlight.neuralize(head, features=module, data=X[:20]), X[:2]),
            "do not have the features",
        ),
        (
            lambda: backlight.explain(backlight.neuralize(Z.mean(0), features=sorting, data=X), X[:2]),
            "none of those through which",
        ),
        (lambda: backlight.explain(net, X[:2], rules="epsilon"), "rules= does not apply"),
        (lambda: backlight.explain(net, X[:2], method="gradient"), "method= does not apply"),
        (lambda: backlight.explain(net, X[:2, :5]), "rows of shape"),
        (lambda: backlight.neuralize(Z, features=module, data=X), "a centre is one point"),
        (lambda: backlight.Explainer(net).save("never.backlight"), "is code"),
    ]
    for call, said in refused:
        with pytest.raises(backlight.errors.BacklightError, match=said) as raised:
            call()
        assert len(str(raised.value)) <= 200
