"""Relevance at the inner layers of neuralized models: by formula, by the original library, and as a law."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KernelDensity, KNeighborsClassifier, NearestNeighbors
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, OneClassSVM

import backlight
from backlight.errors import ArgumentError
from backlight.testing import check_neuralized

WINE = load_wine()
X = StandardScaler().fit_transform(WINE.data)


def distances(rows, anchors):
    return ((rows[:, None] - anchors[None]) ** 2).sum(2)


def test_distances_to_support_vectors_have_their_weight_times_themselves():
    model = OneClassSVM(gamma=0.05, nu=0.2).fit(X)
    far = X[:6] + 0.3
    D = 0.05 * distances(far, model.support_vectors_)
    p = model.dual_coef_[0] * np.exp(-D)
    p /= p.sum(1, keepdims=True)
    ex = backlight.explain(model, far, rules="free", layers="distance")
    np.testing.assert_allclose(ex.layers["distance"], p * D, rtol=1e-9)
    np.testing.assert_allclose(ex.layers["distance"].sum(1), ex.values.sum(1), rtol=1e-10)


def test_a_row_that_is_an_anchor_has_nothing_from_itself():
    model = KernelDensity(bandwidth=1.0).fit(X)
    explainer = backlight.Explainer(model, layers="distance")
    ex = explainer(X[:5])
    inner = next(iter(ex.layers.values()))
    assert (np.abs(inner[np.arange(5), np.arange(5)]) == 0).all()
    np.testing.assert_allclose(inner.sum(1), ex.values.sum(1), rtol=1e-9)


def test_each_side_of_a_machine_and_each_vector():
    model = SVC(gamma=0.1).fit(X, WINE.target > 0)
    ex = backlight.explain(model, X[50:70], 1, layers="*")
    sides = ex.layers["positive"].sum(1) + ex.layers["negative"].sum(1)
    np.testing.assert_allclose(sides, ex.values.sum(1), rtol=1e-9)
    for side, sign in (("positive", 1), ("negative", -1)):
        assert ex.layers[f"{side}.distance"].shape == (20, (sign * model.dual_coef_[0] > 0).sum())
        assert (sign * ex.layers[f"{side}.distance"] <= 0).all()  # distance to a side speaks against it


def test_a_level_counts_at_inner_layers_too():
    y = WINE.data[:, 0]
    model = SVR(gamma=0.1, C=10).fit(X, y)
    ex = backlight.explain(model, X[:5], reference=12.0, layers=["positive", "negative"])
    np.testing.assert_allclose(sum(found.sum(1) for found in ex.layers.values()), ex.values.sum(1), rtol=1e-8)
    plain = backlight.explain(model, X[:5], layers=["positive", "negative"])
    assert np.abs(plain.values - ex.values).max() > 1e-3  # the level does count


def test_trees_of_a_forest_are_those_of_the_library():
    forest = RandomForestRegressor(7, max_depth=3, random_state=0).fit(X, WINE.data[:, 0])
    ex = backlight.explain(forest, X[:8], layers="trees")
    said = np.stack([tree.predict(X[:8]) for tree in forest.estimators_], 1)
    expected = np.array([tree.tree_.value[0, 0, 0] for tree in forest.estimators_])
    np.testing.assert_allclose(ex.layers["trees"], (said - expected) / 7, atol=1e-12)


def test_neighbours_have_their_distance():
    model = NearestNeighbors(n_neighbors=4).fit(X[10:])
    ex = backlight.explain(model, X[:5], layers="neighbours")
    np.testing.assert_allclose(ex.layers["neighbours"].sum(1), ex.output, rtol=1e-10)
    assert ex.layers["neighbours"].shape == (5, 4)


def test_hidden_units_of_a_perceptron_are_those_of_its_module():
    model = make_pipeline(StandardScaler(), MLPClassifier((7,), solver="lbfgs", max_iter=2000, random_state=0)).fit(
        WINE.data, WINE.target
    )
    net = backlight.neuralize(model)
    ex = backlight.explain(net, WINE.data[:4], 1, layers="module.1")
    with torch.no_grad():
        e = net.front.elements(torch.as_tensor(WINE.data[:4]))
    inside = backlight.explain(net.layer.module, e, 1, layers="1")
    np.testing.assert_allclose(ex.layers["module.1"], inside.layers["1"], rtol=1e-10)
    assert ex.layers["module.1"].shape == (4, 7)


def test_several_targets_have_the_last_axis_and_rows_stay_apart():
    model = KNeighborsClassifier(5).fit(X, WINE.target)
    explainer = backlight.Explainer(backlight.neuralize(model), target="all", layers="*")
    ex = explainer(X[:6])
    assert all(found.ndim == 3 and found.shape[::2] == (6, 3) for found in ex.layers.values())
    for name, found in ex.layers.items():
        np.testing.assert_allclose(found.sum(1), ex.values.sum(1), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(explainer(X[:6], batch_size=2).layers[name], found, rtol=1e-12)
        np.testing.assert_allclose(ex[2:4].layers[name], found[2:4])


def test_an_explainer_that_travels_keeps_its_layers(tmp_path):
    explainer = backlight.Explainer(OneClassSVM(nu=0.2).fit(X), layers=["dist*"])
    ex = explainer(X[:3])
    explainer.save(tmp_path / "why.backlight")
    for again in (backlight.Explainer.load(tmp_path / "why.backlight"), pickle.loads(pickle.dumps(explainer))):
        assert again.layers == explainer.layers == ("distance",)
        np.testing.assert_array_equal(again(X[:3]).layers["distance"], ex.layers["distance"])


@pytest.mark.parametrize(
    ("model", "asked", "said"),
    [
        (OneClassSVM(nu=0.2).fit(X), {"layers": "h_i"}, "the layers of a one-class SVM .* are 'distance'"),
        (Ridge().fit(X, X[:, 0]), {"layers": "distance"}, "has no inner layer, its score is made of columns"),
        (LogisticRegression().fit(X, WINE.target), {"layers": "0"}, "no layer is named|has no inner layer"),
        (SVC(gamma=0.1).fit(X, WINE.target > 0), {"layers": "positive", "rules": "gi"}, "with layers= take 'signed'"),
        (KernelDensity().fit(X), {"layers": "distance", "rules": "conditional_surprise"}, "take another rule"),
        (MLPClassifier((4,), solver="lbfgs", max_iter=2000, random_state=0).fit(X, WINE.target), {"layers": "module.1", "method": "gradient"}, "layers= is for"),
        (OneClassSVM(nu=0.2).fit(X), {"layers": {"distance": 1}}, "give names of layers"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_what_has_no_relevance_there_is_refused_in_a_sentence(model, asked, said):
    with pytest.raises(backlight.BacklightError, match=said):
        backlight.explain(model, X[:3], **asked)


def test_the_law_names_a_layer_that_hands_on_too_much(monkeypatch):
    from backlight.classical.layers.pools import SoftMinPool

    inside = SoftMinPool.inside
    monkeypatch.setattr(SoftMinPool, "inside", lambda *given: lambda c: 1.01 * inside(*given)(c))
    with pytest.raises(AssertionError, match="relevance at distance adds up"):
        check_neuralized(OneClassSVM(nu=0.2).fit(X), X[:5] + 0.1)


def test_two_explanations_of_one_model_at_once_do_not_meet():
    """The copy that answers for inner units shares what was learnt, and nothing else."""
    net = backlight.neuralize(SVC(gamma=0.1).fit(X, WINE.target > 0))
    before = backlight.explain(net, X[:4])
    backlight.explain(net, X[:4], layers="*")
    np.testing.assert_array_equal(backlight.explain(net, X[:4]).values, before.values)
    assert not any(getattr(part, "copied", False) for part in net.layer.modules())


def test_no_layer_by_mistake():
    with pytest.raises(ArgumentError, match="layers"):
        backlight.explain(OneClassSVM().fit(X), X[:2], layers=3)
