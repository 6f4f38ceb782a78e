"""Models that have an exact form of their own: clusters with noise, own rows, factors, several outputs; and refusals."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cluster import DBSCAN, HDBSCAN
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.ensemble import AdaBoostRegressor, RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.isotonic import IsotonicRegression
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, MultiTaskLasso, Ridge, RidgeClassifier, SGDOneClassSVM
from sklearn.multioutput import ClassifierChain, MultiOutputRegressor, RegressorChain
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, LocalOutlierFactor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading
from sklearn.svm import OneClassSVM

import backlight

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 120)
X = RNG.normal(size=(120, 4)) + 4 * RNG.normal(size=(3, 4))[LABELS]
NUMBER = X[:, 0] + np.sin(X[:, 1])
TWO = np.stack([NUMBER, NUMBER**2], 1)


def assert_exact(model, rows, wanted=None, score=None):
    net = backlight.neuralize(model, score=score, columns=[f"x{j}" for j in range(rows.shape[1])])
    reference = net.reference_score(rows)
    found = net(rows).numpy()
    size = max(1, np.abs(reference).max())
    assert np.abs(found - reference).max() <= 1e-10 * size
    if wanted is not None:
        assert np.abs(reference - wanted).max() <= 1e-9 * size
    ex = backlight.explain(net, rows, "all" if net.score.outputs.names else None)
    assert np.abs(ex.residual).max() <= 1e-9 * size
    return ex


@pytest.mark.parametrize("options", [{}, {"metric": "manhattan", "n_neighbors": 7}, {"contamination": 0.1}], ids=str)
@pytest.mark.parametrize("front", [False, True])
def test_local_outlier_factors_of_the_models_own_rows(options, front):
    rows = np.r_[X, X[:3]]  # some of them twice
    last = LocalOutlierFactor(**options)
    model = make_pipeline(StandardScaler(), last).fit(rows) if front else last.fit(rows)
    ex = assert_exact(model, rows, -last.negative_outlier_factor_)
    assert (ex.values >= 0).all()
    with pytest.raises(backlight.errors.DataError, match="row 2 is none of them: fit it with novelty=True"):
        backlight.explain(model, np.r_[rows[:2], rows[2:4] + 0.01])


@pytest.mark.parametrize(
    "options", [{"eps": 1.8}, {"eps": 3.0, "metric": "manhattan"}, {"eps": 3.0, "metric": "minkowski", "p": 1}], ids=str
)
def test_the_clusters_of_dbscan_and_its_noise(options):
    model = DBSCAN(**options).fit(X)
    assert -1 in model.labels_
    ex = assert_exact(model, X)
    names = ["noise" if c < 0 else f"cluster {c}" for c in model.labels_]
    found = np.array(ex.output_names)[np.asarray(ex.output).argmax(1)]
    core = np.isin(np.arange(len(X)), model.core_sample_indices_) | (model.labels_ < 0)
    assert (found[core] == np.array(names)[core]).all()
    assert ((np.asarray(ex.output) > 0).sum(1) == 1).all()
    # noise is said as noise: by the columns in which it is far from the nearest core
    one = X[[model.core_sample_indices_[0]]].copy()
    one[0, 2] += 50
    far = backlight.explain(model, one)
    assert far.values[0].argmax() == 2
    assert "noise" in backlight.explain(model, one, "noise").output_names


def test_dbscan_behind_a_projection_and_without_any_cluster():
    assert_exact(make_pipeline(PCA(2), DBSCAN(eps=1.0)).fit(X), X[:20])
    with pytest.raises(backlight.errors.UnsupportedModel, match="noise alone"):
        backlight.explain(DBSCAN(eps=1e-9).fit(X), X[:2])
    with pytest.raises(backlight.errors.UnsupportedOption, match="metric='cosine'"):
        backlight.explain(DBSCAN(eps=0.1, metric="cosine").fit(X), X[:2])


def test_factors_as_a_density():
    model = FactorAnalysis(2).fit(X)
    assert_exact(model, X[:20], -model.score_samples(X[:20]))
    assert_exact(model, X[:20], model.score_samples(X[:20]), "score_samples")


def test_isotonic_regression_belongs_to_its_column():
    model = IsotonicRegression(out_of_bounds="clip").fit(X[:, 0], NUMBER)
    ex = assert_exact(model, X[:20, :1] * 2, model.predict(X[:20, :1] * 2))
    assert np.allclose(ex.values[:, 0].ravel(), np.ravel(ex.output))


@pytest.mark.parametrize(
    "model",
    [KernelRidge(kernel="rbf"), KernelRidge(kernel="poly"), KernelRidge(kernel="linear"), GaussianProcessRegressor(alpha=0.1),
     GaussianProcessRegressor(alpha=0.1, normalize_y=True), MultiTaskLasso(0.1), RegressorChain(Ridge()),
     make_pipeline(Nystroem(n_components=20, random_state=0), Ridge())],
    ids=str,
)  # fmt: skip
def test_regressions_with_several_outputs(model):
    model.fit(X, TWO)
    ex = assert_exact(model, X[:15], model.predict(X[:15]))
    assert ex.values.shape == (15, 4, 2)


def test_several_labels_of_a_ridge_classifier_and_of_a_chain():
    Y = np.stack([LABELS > 0, LABELS > 1, LABELS == 1], 1).astype(int)
    model = RidgeClassifier().fit(X, Y[:, :2])
    ex = assert_exact(model, X[:15], model.decision_function(X[:15]))
    assert ex.output_names == ("label 0", "label 1")
    assert_exact(ClassifierChain(LogisticRegression()).fit(X, Y), X[:15])


@pytest.mark.parametrize(
    "model",
    [KNeighborsClassifier(weights=np.ones_like), KNeighborsRegressor(weights="distance"), AdaBoostRegressor(n_estimators=3),
     HDBSCAN(copy=True), LabelSpreading()],
    ids=lambda m: type(m).__name__,
)  # fmt: skip
def test_what_has_no_exact_form_is_refused_in_a_sentence(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, LABELS)
    with pytest.raises(backlight.errors.BacklightError, match=type(model).__name__) as raised:
        backlight.explain(model, X[:2])
    assert len(str(raised.value)) <= 200


# -- what is explained by default --------------------------------------------------------------------------------------


ONE_CLASS = {
    "radial": OneClassSVM(nu=0.2),
    "linear": OneClassSVM(kernel="linear", nu=0.2),
    "polynomial": OneClassSVM(kernel="poly", degree=2, nu=0.2),
    "sigmoid": OneClassSVM(kernel="sigmoid", gamma=0.05, nu=0.3),
    "gradient descent": SGDOneClassSVM(random_state=0),
    "Nystroem": make_pipeline(Nystroem(n_components=20, random_state=0), SGDOneClassSVM(random_state=0)),
}


@pytest.mark.parametrize("name", ONE_CLASS)
def test_more_is_less_normal_for_every_one_class_machine(name):
    rows = np.random.default_rng(1).normal(size=(60, 4))
    model = clone(ONE_CLASS[name]).fit(rows)
    ex = backlight.explain(model, rows[:20])
    decision = model.decision_function(rows[:20])

    assert ex.target == "outlierness"
    np.testing.assert_array_equal(np.argsort(ex.output), np.argsort(-decision))
    if name != "radial":
        np.testing.assert_allclose(ex.output, -decision, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(
            backlight.explain(model, rows[:20], score="decision_function").output, decision, rtol=1e-9, atol=1e-11
        )


SEVERAL = {
    "linear": Ridge(),
    "members": MultiOutputRegressor(Ridge()),
    "chain": RegressorChain(Ridge()),
    "forest": RandomForestRegressor(3, max_depth=3, random_state=0),
    "kernel": KernelRidge(kernel="rbf"),
    "perceptron": MLPRegressor(hidden_layer_sizes=(4,), max_iter=20, random_state=0),
    "least squares": PLSRegression(2),
}


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_several_numbers_of_a_regression_do_not_compete(name):
    """Which of two predicted temperatures is the higher one says nothing about either: all are explained."""
    draw = np.random.default_rng(2)
    rows = draw.normal(size=(40, 3))
    model = clone(SEVERAL[name]).fit(rows, rows @ draw.normal(size=(3, 2)) + [100.0, 0.0])

    ex = backlight.explain(model, rows[:7])

    assert ex.values.shape == (7, 3, 2)
    np.testing.assert_allclose(ex.output, model.predict(rows[:7]), rtol=1e-8)
    np.testing.assert_array_equal(ex.values, backlight.explain(model, rows[:7], target="all").values)
    np.testing.assert_array_equal(ex.values[..., 1], backlight.explain(model, rows[:7], target=1).values)
    explainer = backlight.Explainer(model)
    assert explainer.targets.several
    assert backlight.Explainer(Ridge().fit(rows, rows[:, 0])).targets.several is False
