"""Targets of classical models, and options without a network, refused by name."""

import warnings

import numpy as np
import pytest
import torch
from sklearn import (  # fmt: skip
    cluster,
    covariance,
    ensemble,
    gaussian_process,
    linear_model,
    naive_bayes,
    neighbors,
    neural_network,
    svm,
)
from sklearn.decomposition import PCA
from sklearn.gaussian_process import kernels as gp
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.multiclass import OneVsOneClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

import backlight
from backlight.rules import Stable
from tests.family import near, process, table

pytestmark = pytest.mark.fast


# -- targets -------------------------------------------------------------------------------------------------------------


def test_targets_are_said_as_for_any_model(rng):
    X, y = table(rng)
    names = np.array(["ash", "birch", "cedar"])
    model = linear_model.LogisticRegression().fit(X, names[y])
    every = backlight.explain(model, X, "all")
    assert every.values.shape == (160, 5, 3)
    assert every.output_names == ("ash", "birch", "cedar")
    assert near(backlight.explain(model, X, 1).values, every.values[:, :, 1])
    assert near(backlight.explain(model, X, "cedar").values, every.values[:, :, 2])
    assert near(backlight.explain(model, X, [2, 0]).values, every.values[:, :, [2, 0]])
    assert near(backlight.explain(model, X, y).values, every.values[np.arange(160), :, y])
    assert near(backlight.explain(model, X, torch.tensor(y), batch_size=7).values, every.values[np.arange(160), :, y])
    chosen = backlight.explain(model, X)
    assert near(chosen.values, every.values[np.arange(160), :, model.decision_function(X).argmax(1)])
    contrast = backlight.explain(model, X, np.array([1.0, -1.0, 0.0]))
    assert near(contrast.values, every.values[:, :, 0] - every.values[:, :, 1])
    assert near(every.output("birch").values, every.values[:, :, 1])


def test_the_first_of_two_classes_is_minus_the_second(rng):
    X, y = table(rng, classes=2)
    model = svm.SVC().fit(X, y)
    both = backlight.explain(model, X, "all")
    assert near(both.values[:, :, 0], -both.values[:, :, 1])
    assert near(np.asarray(both.output)[:, 1], model.decision_function(X))
    predicted = backlight.explain(model, X)
    assert (np.asarray(predicted.output) >= 0).all()


@pytest.mark.parametrize(
    ("target", "said"),
    [(7, "target=7 is out of range: the model has 3 outputs"), ("oak", "'oak' is not an output.*'0', '1', '2'"),
     ([], "the list of targets is empty"), (np.arange(3), "3 indices for 160 rows"), (lambda y: y, "needs a torch module"),
     (0.5, "target=0.5 is not known"), (np.ones(2), "is not known")],
)  # fmt: skip
def test_targets_that_make_no_sense_are_refused(target, said, rng):
    X, y = table(rng)
    with pytest.raises(backlight.errors.ArgumentError, match=said):
        backlight.explain(linear_model.LogisticRegression().fit(X, y), X, target)


# -- options without a network -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (svm.SVC(kernel=lambda a, b: a @ b.T), "SVC.kernel='<lambda>'.*RadialKernel"),
        (neighbors.KNeighborsClassifier(weights=np.ones_like), "weights of your own.*'uniform' or 'distance'"),
        (neighbors.KNeighborsClassifier(metric="chebyshev"), "metric='chebyshev'"),
        (neighbors.KNeighborsClassifier(metric_params={"w": np.arange(5.0)}), "metric_params=.*'w'.*scale the columns"),
        (neighbors.LocalOutlierFactor(novelty=True, p=1, metric_params={"w": np.ones(5)}), "metric_params=.*'w'"),
        (
            neighbors.KernelDensity(metric="minkowski", metric_params={"w": np.ones(5)}),
            "metric_params=.*'w'.*scale the columns",
        ),
        (neighbors.LocalOutlierFactor(metric="cosine", novelty=True), "metric='cosine'.*Normalizer"),
        (ensemble.VotingClassifier([("a", naive_bayes.GaussianNB()), ("b", svm.SVC())]), "SVC.*one by one"),
        (process(gp.ExpSineSquared() + gp.WhiteKernel(9)), r"GaussianProcessRegressor\(kernel=ExpSineSquared"),
        (process(gp.RBF() + gp.Matern(nu=2)), "kernel=Matern.*nu=2"),
        (process(gp.DotProduct() * gp.RBF()), "kernel=DotProduct.*RBF.*products of a constant"),
        (process(gp.RBF([1, 1, 1, 2, 2]) * gp.Matern()), "kernel=RBF.*Matern.*kernels of one distance"),
        (process((gp.RBF() + gp.ConstantKernel()) ** 2), "kernel=RBF"),
        (process(gp.WhiteKernel() + 2.0), "constant in every column"),
        (gaussian_process.GaussianProcessClassifier(), "3 classes compares probabilities.*two apart, such as y == "),
        (neighbors.NearestCentroid(priors="empirical"), "unequal priors.*LinearDiscriminantAnalysis"),
        (neighbors.RadiusNeighborsClassifier(5.0), "step function"),
        (cluster.AffinityPropagation(max_iter=1), "has not converged"),
        (cluster.Birch(), "Birch has no network.*KernelClusters"),
        (KernelRidge(kernel="poly", degree=2.5, coef0=99), "degree=2.5"),
        (OneVsOneClassifier(svm.LinearSVC()), "OneVsOneClassifier.*counts votes"),
        (make_pipeline(cluster.FeatureAgglomeration(2, pooling_func=np.max), linear_model.Ridge()), "pooling_func=max"),
        (make_pipeline(PCA(2), naive_bayes.BernoulliNB()), "BernoulliNB after a projection"),
        (make_pipeline(Nystroem(n_components=20), svm.SVC()), "Nystroem followed by SVC"),
    ],
)  # fmt: skip
def test_an_option_without_a_network_is_refused_by_name(model, said, rng):
    X, y = table(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence
        model.fit(X, y)
    with pytest.raises(backlight.errors.UnsupportedModel, match=said):
        backlight.neuralize(model)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (linear_model.LogisticRegression(), {"reference": 3.0}, "takes a table of rows"),
        (svm.SVR(), {"reference": np.zeros((1, 5))}, "takes a number"),
        (naive_bayes.GaussianNB(), {"reference": np.zeros((1, 5))}, "takes none"),
        (svm.SVC(), {"reference": np.zeros((1, 5)), "rules": "signed"}, "takes none"),
        (neural_network.MLPClassifier((3,), solver="lbfgs", random_state=0), {"layers": ["9"]}, "no layer is named '9'"),
    ],
)  # fmt: skip
def test_an_argument_that_a_model_does_not_read_is_refused(model, options, said, rng):
    X, y = table(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence
        model.fit(X, y)
    with pytest.raises(backlight.errors.ArgumentError, match=said):
        backlight.explain(model, X, **options)


def test_the_class_that_wins_by_broken_ties_is_the_predicted_one(rng):
    X, y = table(rng, classes=5)
    Q = rng.normal(size=(10_000, 5)) * 3
    for ties in (False, True):
        model = svm.SVC(break_ties=ties, gamma=0.05).fit(X, y)
        ex = backlight.explain(model, Q[:3000])
        assert (ex.annotations["target"] == model.predict(Q[:3000])).all()


def test_ties_of_a_vote_are_marked(rng):
    X, y = table(rng, classes=2)
    model = neighbors.KNeighborsClassifier(4).fit(X, y)
    ex = backlight.explain(model, X)
    assert (ex.annotations["tie"] == (model.predict_proba(X)[:, 0] == 0.5)).all()


def test_a_category_that_was_never_seen_is_named(rng):
    X = rng.integers(0, 3, (60, 4))
    model = naive_bayes.CategoricalNB().fit(X, X[:, 0] > 1)
    with pytest.raises(
        backlight.errors.DataError, match="row 0 has category 9 in feature 2, of which CategoricalNB knows 0 to 2"
    ):
        backlight.explain(model, [[0, 1, 9, 0]])


@pytest.mark.parametrize(
    ("model", "rules", "known"),
    [(svm.SVC(), "stable", "'signed', 'midpoint', 'gi', 'hybrid'"),
     (covariance.EmpiricalCovariance(), Stable(), "'cdc', 'pdc', 'rbc'"),
     (neighbors.KernelDensity(), "rbc", "'stable', 'dtd', 'pool', 'free', 'conditional_surprise'")],
)  # fmt: skip
def test_a_rule_of_another_layer_is_refused_with_those_it_has(model, rules, known, rng):
    X, y = table(rng)
    with pytest.raises(backlight.errors.ArgumentError, match=known):
        backlight.explain(model.fit(X, y), X, rules=rules)


@pytest.mark.parametrize("k", [2, 3, 7])
def test_what_one_cluster_a_row_is_asked_is_worked_out_alone(k, rng):
    """The short way for one target a row gives what all pairs of centres give, also on centres and for sums."""
    X, _ = table(rng)
    model = cluster.KMeans(k, n_init=1, random_state=0).fit(X)
    Q = np.r_[X, model.cluster_centers_]
    short, long = backlight.neuralize(model), backlight.neuralize(model)
    long.layer.flat = False

    assert short.layer.flat
    for target in (None, k - 1, "all", rng.integers(0, k, len(Q)), rng.normal(size=k)):
        a, b = backlight.explain(short, Q, target), backlight.explain(long, Q, target)
        for field in ("values", "output", "base_values"):
            assert near(np.asarray(getattr(a, field)), np.asarray(getattr(b, field)))
        assert near(a.ledger.entering, b.ledger.entering)
        assert a.ledger.layers == b.ledger.layers


def test_free_energies_behind_a_linear_map_start_where_that_map_has_its_centre(rng):
    """The secant of each hidden unit goes from the machine's input at the mean row, which a scaler has moved from 0."""
    X = 3 + 2 * rng.random((60, 5))
    front = make_pipeline(PCA(3), MinMaxScaler()).fit(X)
    pca, scaler = front[0], front[1]
    machine = neural_network.BernoulliRBM(4, n_iter=5, random_state=0).fit(front.transform(X))
    W, c, b = machine.components_, machine.intercept_hidden_, machine.intercept_visible_
    A = scaler.scale_[:, None] * pca.components_
    start, step = c + W @ scaler.min_, (X - pca.mean_) @ A.T @ W.T
    slope = (np.logaddexp(0, start + step) - np.logaddexp(0, start)) / step
    expected = -(X - pca.mean_) * ((b + slope @ W) @ A)

    assert near(backlight.explain(make_pipeline(front, machine), X).values, expected)
