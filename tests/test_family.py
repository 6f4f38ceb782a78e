"""Every model of the family, alone and in pipelines: the library's own score, and relevance that adds up to it."""

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn import cluster, linear_model, mixture, naive_bayes, neighbors, svm
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer, StandardScaler

import backlight
from backlight.classical.frontend.pipeline import unwrap
from backlight.classical.layers.deep import Deep
from backlight.classical.neuralize import spec_of
from tests.family import CLASSIFIERS, COUNTS, DETECTORS, PERCEPTRONS, REGRESSORS, near, table

ALL = {**DETECTORS, **CLASSIFIERS, **COUNTS, **REGRESSORS, **PERCEPTRONS}
# scikit-learn fits these on dense arrays only, or changes what it computes
DENSE_ONLY = {
    name for name in ALL
    if name.startswith(("gmm", "bayesian", "pca", "kde", "qda", "lda", "gaussian", "min cov", "ledoit", "covariance",
                        "elliptic", "categorical", "voting", "one vs rest nb", "calibrated nb", "bagging", "kernel ridge l", "kernel ridge own",
                        "ocsvm ", "svc laplacian", "svc matern", "nystroem", "kernel clusters", "rbm", "mean shift",
                        "search", "pls"))
}  # fmt: skip
# kernels with a length scale for each of the table's columns
A_LENGTH_EACH = ("gaussian process ard", "gaussian process matern", "gaussian process product")


def data(name, rng, classes=3, n=160):
    X, y = table(rng, n=n, classes=classes)
    if name in COUNTS:
        X = np.clip(np.round(X + 4), 0, 11)
    if name in REGRESSORS:
        y = np.abs(X[:, 0] + np.sin(X[:, 1])) + 0.1
    if name == "rbm":
        X = 1 / (1 + np.exp(-X))
    return X, y


def queries(name, X, rng):
    """Training rows, rows around them, far rows, and the origin."""
    if name in COUNTS:
        return X
    far = X[rng.integers(0, len(X), 30)]
    odd = np.r_[X[:60], far + 5 * rng.normal(size=far.shape), 100 * far[:10], 0 * far[:2]]
    return 1 / (1 + np.exp(-odd)) if name == "rbm" else odd


def fitted(name, X, y, *before):
    model = copy.deepcopy(ALL[name])
    if before:
        model = make_pipeline(*before, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence, which is not what is tested
        return model.fit(X) if name in DETECTORS else model.fit(X, y)


def scores_of(model):
    return list(spec_of(unwrap(model).estimator).scores)


def assert_explained(model, Q, scores=None, exactly=1e-10, conserved=1e-9):
    for score in scores or scores_of(model):
        net = backlight.neuralize(model, score=score)
        reference = net.reference_score(Q)
        assert np.isfinite(reference).all()
        got = net(Q).detach().numpy()
        assert got.shape == reference.shape
        assert np.abs(got - reference).max() <= exactly * max(1, np.abs(reference).max()), score
        for target in [None, "all"] if net.score.outputs.names else [None]:
            ex = backlight.explain(net, Q, target)
            assert np.isfinite(ex.values).all()
            if isinstance(net.layer, Deep):
                continue  # what biases absorb in a deep network stands in the residual
            terms = np.abs(np.asarray(ex.output)) + np.abs(ex.base_values) + np.abs(ex.values).sum(1)
            assert (np.abs(ex.residual) <= conserved * terms + 1e-300).all(), (score, target)
        if net.score.outputs.names:
            whole = np.asarray(ex.output)
            as_given = whole[:, 1] if reference.ndim == 1 else whole
            assert np.abs(as_given - reference).max() <= exactly * max(1, np.abs(reference).max())


@pytest.mark.parametrize("name", ALL)
def test_a_model_alone(name, rng):
    X, y = data(name, rng)
    assert_explained(fitted(name, X, y), queries(name, X, rng))


@pytest.mark.parametrize("name", [*CLASSIFIERS, *COUNTS, "mlp", "mlp tanh", "svc sigmoid"])
def test_a_model_of_two_classes(name, rng):
    X, y = data(name, rng, classes=2)
    assert_explained(fitted(name, X, y), queries(name, X, rng))


@pytest.mark.parametrize("name", [name for name in ALL if name not in COUNTS and name != "rbm"])
def test_a_model_behind_an_elementwise_step_and_a_scaler(name, rng):
    X, y = data(name, rng)
    model = fitted(name, X, y, PowerTransformer(), StandardScaler())
    assert_explained(model, queries(name, X, rng)[:100])


@pytest.mark.parametrize(
    "name", [name for name in ALL if name not in COUNTS and name not in ("rbm", "bernoulli nb", "pca", *A_LENGTH_EACH)]
)
def test_a_model_behind_a_projection(name, rng):
    X, y = data(name, rng)
    model = fitted(name, X, y, StandardScaler(), PCA(4, whiten=True))
    # Relevance goes through the projection's pseudo-inverse, which is right to its condition number.
    assert_explained(model, queries(name, X, rng)[:100])


@pytest.mark.parametrize("name", [name for name in ALL if name not in PERCEPTRONS])
def test_ten_thousand_points(name, rng):
    X, y = data(name, rng, n=60)
    model = fitted(name, X, y)
    points = X[rng.integers(0, len(X), 10_000)]
    if name not in COUNTS:
        points = points + rng.normal(size=points.shape) * rng.choice([1e-8, 0.1, 1, 10], (len(points), 1))
    if name == "rbm":
        points = np.clip(points, 0, 1)
    score = scores_of(model)[0]
    net = backlight.neuralize(model, score=score)
    reference = net.reference_score(points)
    assert np.abs(net(points).numpy() - reference).max() <= 1e-10 * max(1, np.abs(reference).max())


@pytest.mark.parametrize("name", ALL)
def test_tables_of_every_kind_give_the_same_explanation(name, rng):
    X, y = data(name, rng)
    X = X.astype("f4").astype(float)
    names = [f"column {j}" for j in range(X.shape[1])]
    frame = pd.DataFrame(X, columns=names)
    plain = backlight.explain(fitted(name, X, y), X[:20])
    # Own kernels and the classes of this project are given arrays, whatever comes in.
    named = fitted(name, frame, y)
    of_frame = backlight.explain(named, frame[:20][names[::-1]] if hasattr(named, "feature_names_in_") else frame[:20])
    single = backlight.explain(fitted(name, X, y), X[:20].astype("f4"))

    near = 1e-7 * np.abs(plain.values).max()  # a fit on columns in another memory order rounds otherwise
    assert np.abs(single.values - plain.values).max() <= near
    assert np.abs(of_frame.values - plain.values).max() <= near
    assert of_frame.feature_names == tuple(names)
    assert type(of_frame.to_frame()) is pd.DataFrame


@pytest.mark.parametrize("name", [name for name in ALL if name not in DENSE_ONLY])
def test_a_model_fitted_on_a_sparse_table(name, rng):
    X, y = data(name, rng)
    X[np.abs(X) < 0.5] = 0
    model = fitted(name, csr_matrix(X), y)
    dense = backlight.explain(model, X[:20])
    assert_explained(model, X[:40])
    assert np.allclose(backlight.explain(model, csr_matrix(X[:20])).values, dense.values, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith(("bisecting", "bernoulli"))])
def test_a_model_fitted_on_single_precision(name, rng):
    """What was learnt in float32 is explained in float64: the score is that of the model as it is."""
    X, y = data(name, rng)
    model = fitted(name, X.astype("f4"), y.astype("f4") if name in REGRESSORS else y)
    # Scikit-learn computes some of these in float32 where the training data were: the reference then is rounded so.
    rounded = ("rbm", "mlp", "lasso", "linear", "kernel ridge linear", "kmeans", "minibatch", "gmm", "pca", "qda",
               "gaussian nb", "one vs rest nb", "bagging nb")  # fmt: skip
    exactly = 1e-5 if name.startswith(rounded) else 1e-10
    Q = X[:40] + 0.1 * rng.normal(size=X[:40].shape) if name not in COUNTS and name != "rbm" else X[:40]
    assert_explained(model, Q, exactly=exactly)


@pytest.mark.parametrize("name", ALL)
def test_a_network_in_single_precision_is_close(name, rng):
    X, y = data(name, rng)
    model = fitted(name, X, y)
    exact = backlight.explain(model, X[100:130])
    coarse = backlight.explain(backlight.neuralize(model, dtype=torch.float32), X[100:130])
    # A Nyström map's coefficients are large and of both signs: what is left of their sum has lost digits.
    loss = 0.2 if name == "nystroem one class" else 1e-3
    assert np.abs(coarse.values - exact.values).max() <= loss * np.abs(exact.values).max()


@pytest.mark.parametrize(
    "name",
    [n for n in ALL if n not in ("ocsvm own", "kernel ridge own", "ocsvm laplacian gamma") and n not in PERCEPTRONS],
)
def test_a_model_from_a_file_is_trusted_and_explained_alike(name, rng, tmp_path):
    import skops.io

    from backlight.classical.files import load_model

    X, y = data(name, rng)
    model = fitted(name, X, y)
    skops.io.dump(model, tmp_path / "model.skops")

    again = load_model(tmp_path / "model.skops")

    assert np.array_equal(backlight.explain(again, X[:5]).values, backlight.explain(model, X[:5]).values)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize(
    "model",
    [
        *(svm.SVC(gamma=gamma, C=C) for gamma in (1e-6, 1e-3, 10.0, 1e3) for C in (1e-3, 1.0, 1e6)),
        *(svm.SVR(gamma=gamma) for gamma in (1e-6, 1e3)),
        *(neighbors.KNeighborsClassifier(k) for k in (1, 79, 80)),
        *(neighbors.LocalOutlierFactor(k, novelty=True) for k in (1, 79)),
        *(cluster.KMeans(k, n_init=1, random_state=0) for k in (2, 40)),
        *(mixture.GaussianMixture(3, reg_covar=reg, random_state=0) for reg in (1e-9, 1e3)),
        *(neighbors.KernelDensity(kernel="exponential", bandwidth=h) for h in (1e-3, 1e3)),
        *(linear_model.LogisticRegression(C=C, max_iter=3000) for C in (1e-9, 1e6)),
    ],
    ids=lambda model: f"{type(model).__name__}({', '.join(f'{k}={v}' for k, v in model.get_params().items() if k in ('gamma', 'C', 'n_neighbors', 'n_clusters', 'reg_covar', 'bandwidth'))})",
)  # fmt: skip
def test_extreme_options_and_data_far_from_zero(model, offset, rng):
    X, y = table(rng, n=80)
    X = X + offset
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence
        model = copy.deepcopy(model).fit(X, X[:, 0] - offset if isinstance(model, svm.SVR) else y)
    Q = np.r_[X[:30], X[:10] + rng.normal(size=(10, 5)), X[:5] * 3]
    # Far from zero the library's own dot products have lost digits: four of x², of squared distances near one.
    assert_explained(model, Q, exactly=1e-10 if not offset else 1e-6)


@pytest.mark.parametrize("name", [name for name in ALL if name not in PERCEPTRONS])
def test_one_output_alone_is_the_direction_along_it(name, rng):
    """The way back of a single unit may be a shorter one than that of any mixture of units."""
    X, y = data(name, rng)
    model = fitted(name, X, y)
    names = backlight.neuralize(model).score.outputs.names
    if len(names) < 2:
        return
    Q = queries(name, X, rng)[::7]
    for k in (0, len(names) - 1):
        one = backlight.explain(model, Q, k)
        along = backlight.explain(model, Q, np.eye(len(names))[k])
        scale = np.abs(along.values).sum(1) + np.abs(along.output)
        for part in ("values", "output", "base_values"):
            short, long = getattr(one, part).T, getattr(along, part).T
            assert (np.abs(short - long) <= 1e-9 * np.maximum(scale, 1)).all()
        assert near(one.ledger.leaving[-1], along.ledger.leaving[-1], 1e-9)


def test_a_class_that_is_as_good_as_certain_keeps_its_digits(rng):
    """log q/(1−q) of a probability that rounds to one is the smallest lead over the others, less their number."""
    X = np.r_[rng.normal(size=(50, 2)), rng.normal(size=(50, 2)) + 300, rng.normal(size=(50, 2)) - 300]
    model = naive_bayes.GaussianNB().fit(X, np.repeat([0, 1, 2], 50))
    joint = model.predict_joint_log_proba(X)
    top = np.sort(joint, 1)
    wanted = top[:, 2] - np.logaddexp(top[:, 1], top[:, 0])
    ex = backlight.explain(model, X)
    assert wanted.min() > 800  # where exp underflows
    assert np.abs(ex.output / wanted - 1).max() < 1e-12
    assert np.abs(ex.residual).max() < 1e-9 * wanted.max()
