"""PyOD's detectors: their own decision functions, thresholds, and a score for every column."""

import importlib
import re
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

import backlight

pytest.importorskip("pyod")
pytestmark = pytest.mark.filterwarnings("ignore")  # of what the library warns at fit time

X = StandardScaler().fit_transform(load_wine().data)[:, :8]
Q = np.r_[X[:20], X[:20] + 2 * np.random.default_rng(0).normal(size=(20, 8))]
DETECTORS = [
    ("knn.KNN", {}), ("knn.KNN", {"method": "mean", "metric": "manhattan"}), ("knn.KNN", {"method": "median", "n_neighbors": 4}), ("knn.KNN", {"method": "median"}),
    ("lof.LOF", {}), ("ocsvm.OCSVM", {}), ("ocsvm.OCSVM", {"kernel": "linear"}), ("kde.KDE", {}),
    ("gmm.GMM", {"n_components": 2, "random_state": 0}), ("mcd.MCD", {"random_state": 0}), ("pca.PCA", {}),
    ("pca.PCA", {"standardization": False}), ("iforest.IForest", {"n_estimators": 20, "random_state": 0}), ("hbos.HBOS", {}),
    ("hbos.HBOS", {"n_bins": "auto"}), ("ecod.ECOD", {}), ("copod.COPOD", {}), ("loda.LODA", {}), ("loda.LODA", {"n_bins": "auto"}),
    ("abod.ABOD", {}), ("abod.ABOD", {"n_neighbors": 10}), ("cblof.CBLOF", {"random_state": 0}), ("cblof.CBLOF", {"use_weights": True, "random_state": 0}), ("sampling.Sampling", {}),
]  # fmt: skip


def detector(name, options):
    room, _, cls = name.rpartition(".")
    return getattr(importlib.import_module(f"pyod.models.{room}"), cls)(**options)


@pytest.mark.parametrize(
    ("name", "options"), DETECTORS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values()))
)
def test_a_detector_has_its_decision_function_and_threshold(name, options):
    model = detector(name, options).fit(X)
    ex = backlight.explain(model, Q)
    wanted = model.decision_function(Q)
    # scikit-learn's density tree, which the library asks, keeps running bounds that lose digits
    exactly = 1e-3 if name == "kde.KDE" else 1e-10
    assert np.abs(np.asarray(ex.output) - wanted).max() <= exactly * max(1, np.abs(wanted).max())
    terms = np.abs(wanted) + np.abs(ex.base_values) + np.abs(ex.values).sum(1)
    assert (np.abs(ex.residual) <= 1e-9 * terms).all()
    net = backlight.neuralize(model, columns=list("abcdefgh"))
    assert net.threshold == model.threshold_
    assert len(net.feature_names) == 8


@pytest.mark.parametrize(
    "name", ["knn.KNN", "lof.LOF", "ocsvm.OCSVM", "iforest.IForest", "hbos.HBOS", "ecod.ECOD", "pca.PCA"]
)
def test_the_column_that_is_odd_is_found(name):
    odd = X[:20].copy()
    odd[:, 3] += 12
    model = detector(name, {}).fit(X)
    # one row at a time: ECOD ranks a row among the rows of its own batch as well
    named = [backlight.explain(model, odd[i : i + 1]).values[0].argmax() for i in range(len(odd))]
    assert np.mean(np.array(named) == 3) >= 0.75


def test_terms_of_one_column_each_are_the_librarys_own():
    model = detector("ecod.ECOD", {}).fit(X)
    ex = backlight.explain(model, Q)
    assert np.allclose(ex.output, model.decision_function(Q), rtol=1e-12)
    assert np.allclose(ex.values, model.O[-len(Q) :], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("inne.INNE", "step function"),
        ("cof.COF", "a row alone"),
        ("kpca.KPCA", "cancel"),
        ("qmcd.QMCD", "a row alone"),
        ("sod.SOD", "a row alone"),
    ],
)
def test_detectors_without_a_network_say_why(name, why):
    with pytest.raises(backlight.errors.UnsupportedModel, match=why) as raised:
        backlight.explain(detector(name, {}).fit(X), Q)
    assert len(str(raised.value)) <= 200


def test_angles_are_shared_by_the_slopes_of_their_variance():
    model = detector("abod.ABOD", {"n_neighbors": 4}).fit(X)
    ex = backlight.explain(model, Q[20:25])
    near = model.neigh_.kneighbors(Q[20:25], n_neighbors=4, return_distance=False)
    for row, anchors, found in zip(Q[20:25], X[near], ex.values, strict=True):

        def score(delta):
            pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
            return -np.var([delta[a] @ delta[b] / (delta[a] @ delta[a]) / (delta[b] @ delta[b]) for a, b in pairs])

        delta, h = anchors - row, 1e-5
        want = np.zeros(8)
        for a in range(4):
            for i in range(8):
                step = np.zeros((4, 8))
                step[a, i] = h
                want[i] -= delta[a, i] * (score(delta + step) - score(delta - step)) / (2 * h) / 4
        assert np.allclose(found, want, rtol=1e-4, atol=1e-7 * np.abs(want).max())
    with pytest.raises(backlight.errors.UnsupportedOption, match="method='fast'"):
        backlight.explain(detector("abod.ABOD", {"method": "default"}).fit(X[:30]), Q)


def test_unfitted_detectors_and_other_metrics_are_refused():
    with pytest.raises(backlight.errors.NotFittedModel, match="ECOD is not fitted"):
        backlight.explain(detector("ecod.ECOD", {}), Q)
    with pytest.raises(backlight.errors.UnsupportedOption, match="chebyshev"):
        backlight.explain(detector("knn.KNN", {"metric": "chebyshev"}).fit(X), Q)


def test_axes_without_a_spread_are_refused_with_how_many_there_are():
    from pyod.models.pca import PCA

    X = np.random.default_rng(0).normal(size=(80, 3))
    X = np.c_[X, X @ [1.0, 2.0, 0.0], X @ [0.0, 1.0, 1.0]]
    with pytest.raises(backlight.errors.UnsupportedOption, match=r"2 axes that have none.*n_components=3") as found:
        backlight.neuralize(PCA().fit(X))
    assert len(str(found.value)) <= 200
    model = PCA(n_components=3).fit(X)
    ex = backlight.explain(model, X)
    assert np.allclose(ex.output, model.decision_function(X), rtol=1e-10)


def test_rows_whose_score_rounding_decides_are_named():
    from pyod.models.loda import LODA

    rows = np.random.default_rng(1).normal(size=(60, 4)) * 3 + 1
    model = LODA(random_state=1).fit(rows)
    together = model.decision_function(rows)
    # the library's own score of the least row of a cut, with other rows beside it: the same model, another product
    alone = np.concatenate([model.decision_function(rows[i : i + 1]) for i in range(len(rows))])
    differ = np.flatnonzero(np.abs(alone - together) > 1e-9)
    assert len(differ)
    with pytest.warns(backlight.errors.BacklightWarning, match="on an edge of LODA's histograms") as said:
        ex = backlight.explain(model, rows)
    assert np.allclose(ex.output, together, rtol=0, atol=1e-12)
    found = re.search(r"\((.*?)\)", str(said[0].message))[1]
    named = {int(row) for row in re.findall(r"\d+", found)}
    assert "more" in found or set(differ) <= named
    inside = rows + 1e-3 * np.random.default_rng(2).normal(size=rows.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backlight.explain(model, inside[np.abs(inside - rows).min(1) > 1e-6][:20])
