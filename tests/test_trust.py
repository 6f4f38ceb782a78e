"""What a network shares with the user's model (nothing), and what it must prove before it explains one."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, FastICA
from sklearn.ensemble import BaggingRegressor
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KernelDensity
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import OneClassSVM

import backlight
from backlight.classical import ModelSpec
from backlight.classical.families.scores import plain
from backlight.classical.layers.linear import Affine, tensor
from tests.family import table
from tests.test_family import ALL, data, fitted, scores_of

pytestmark = pytest.mark.fast

FRONTS = [
    StandardScaler(), MinMaxScaler(), MinMaxScaler(clip=True), RobustScaler(), MaxAbsScaler(), PCA(3), PCA(3, whiten=True),
    FastICA(3, random_state=0), SimpleImputer(), PowerTransformer(), QuantileTransformer(n_quantiles=20), SplineTransformer(),
    KBinsDiscretizer(3, encode="onehot-dense", quantile_method="averaged_inverted_cdf"), PolynomialFeatures(2), SelectKBest(k=3),
    TargetEncoder(random_state=0), OneHotEncoder(sparse_output=False, handle_unknown="ignore"),
    ColumnTransformer([("a", StandardScaler(), [0, 1]), ("b", MinMaxScaler(), [2])], remainder="passthrough"),
]  # fmt: skip


def assert_nothing_shared(model):
    """Perturb everything that a network holds: the model must keep every byte."""
    learnt = [step for _, step in model.steps] if hasattr(model, "steps") else [model]
    before = pickle.dumps([copy.deepcopy(step.__dict__) for step in learnt])
    for score in scores_of(model):
        net = backlight.neuralize(model, score=score)
        with torch.no_grad():
            for held in [*net.parameters(), *net.buffers()]:
                held.add_(1) if held.dtype != torch.bool else held.logical_not_()
    assert pickle.dumps([copy.deepcopy(step.__dict__) for step in learnt]) == before


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("ocsvm own", "kernel ridge own")])
def test_a_network_shares_no_memory_with_any_model_of_the_family(name, rng):
    X, y = data(name, rng)
    assert_nothing_shared(fitted(name, X, y))


@pytest.mark.parametrize("front", FRONTS, ids=lambda front: type(front).__name__)
def test_a_network_shares_no_memory_with_any_step_before_the_model(front, rng):
    X, y = table(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence
        model = make_pipeline(copy.deepcopy(front), LogisticRegression()).fit(X, y)
    assert_nothing_shared(model)


class LogRidge(Ridge):
    def fit(self, X, y):
        return super().fit(np.log1p(np.abs(X)), y)

    def predict(self, X):
        return super().predict(np.log1p(np.abs(X)))


class Shifted(OneClassSVM):
    def decision_function(self, X):
        return super().decision_function(X) + 1


class Doubled(StandardScaler):
    def transform(self, X):
        return 2 * super().transform(X)


class Renamed(Ridge):
    """The same score under another name."""


def test_a_subclass_with_another_score_is_not_given_its_parents_network(rng):
    X, y = table(rng)
    model = LogRidge().fit(X, X[:, 0])
    with pytest.raises(backlight.errors.UnsupportedModel, match="LogRidge is not its 'predict'"):
        backlight.neuralize(model)
    with pytest.raises(backlight.errors.UnsupportedModel, match="Shifted is not its"):
        backlight.explain(Shifted(nu=0.2).fit(X), X[:5])
    behind = make_pipeline(Doubled(), Ridge()).fit(X, y)
    with pytest.raises(backlight.errors.UnsupportedModel, match="is not its 'predict'"):
        backlight.explain(behind, X[:5])


def test_a_subclass_with_the_same_score_is(rng):
    X, _ = table(rng)
    model = Renamed().fit(X, X[:, 0])
    assert np.allclose(backlight.explain(model, X[:5]).output, model.predict(X[:5]), rtol=1e-12)


def test_a_perceptron_is_compared_as_well(rng):
    X, y = table(rng)

    class Hotter(MLPClassifier):
        def _forward_pass_fast(self, X, check_input=True):
            return 2 * super()._forward_pass_fast(X, check_input)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence
        model = Hotter((4,), max_iter=5, random_state=0).fit(X, y)
    with pytest.raises(backlight.errors.UnsupportedModel, match="is not its 'logit'"):
        backlight.explain(model, X[:3])


def test_a_network_that_its_user_trained_is_explained_as_it_is(rng):
    X, _ = table(rng)
    net = backlight.neuralize(Ridge().fit(X, X[:, 0]))
    with torch.no_grad():
        net.layer.weight.mul_(3)
    ex = backlight.explain(net, X[:5])
    assert np.abs(ex.residual).max() < 1e-9


class Sum:
    """A third party's fitted model, which counts no columns."""

    def fit(self, X):
        self.weights = np.arange(X.shape[1]) + 1.0
        return self

    def predict(self, X):
        return np.asarray(X) @ self.weights


def test_a_third_partys_model_needs_no_count_of_columns(rng):
    X, _ = table(rng)

    def spec(counted):
        def read(model):
            score = plain(
                "predict", lambda inputs: Affine(tensor(model.weights[None]), tensor([0.0]), inputs.pullback),
                lambda model, z: model.predict(z),
            )  # fmt: skip
            return ModelSpec("sum", {"predict": score}, n_columns=counted)

        return read

    model = Sum().fit(X)
    backlight.neuralize.register(Sum)(spec(None))
    assert np.allclose(backlight.explain(model, X[:3]).values, X[:3] * model.weights)
    with pytest.raises(backlight.errors.UnsupportedModel, match="does not say how many columns it takes"):
        backlight.neuralize(model)
    assert backlight.neuralize(model, columns=list("abcde")).feature_names == tuple("abcde")
    backlight.neuralize.register(Sum)(spec(5))
    assert len(backlight.neuralize(model).feature_names) == 5


def test_refusals_are_one_sentence_that_names_the_obstacle_and_the_next_step(rng):
    X, y = table(rng)

    class Foreign(BaseEstimator):
        def fit(self, X, _=None):
            self.n_features_in_ = X.shape[1]
            return self

        def transform(self, X):
            return X

    foreign = Foreign().fit(X)
    for thing, said in [
        (foreign, "register"), (object(), "no model"), ("model.pkl", "load the model first"), (LinearRegression, "is a class"),
        (LinearRegression().fit(X, y).predict, "is a method: give the LinearRegression itself"), ({"a": 1}, "no model"),
        (lambda x: x, "function"), (make_pipeline(foreign, Ridge()).fit(X, y), "before fitting"), (None, "no model"),
        (Ridge(), "not fitted"), (KernelDensity(), "not fitted"), (GaussianNB(), "not fitted"),
        (BaggingRegressor(foreign).set_params(), "not fitted"),
    ]:  # fmt: skip
        with pytest.raises(backlight.BacklightError, match=said) as raised:
            backlight.explain(thing, X[:2])
        assert len(str(raised.value)) <= 200
        assert str(raised.value).count("\n") == 0


def test_a_target_as_people_write_it(rng):
    X, y = table(rng)
    names = np.array(["Bern", "Oslo", "Rome"])
    model = LogisticRegression().fit(X, names[y])
    index = np.searchsorted(names, names[y][:6])
    wanted = backlight.explain(model, X[:6], target=index).values
    given = names[y][:6]
    for target in (given, given.astype(object), list(given), tuple(given), list(index), [str(name) for name in given]):
        got = backlight.explain(model, X[:6], target=target).values
        assert got.shape == wanted.shape
        assert np.allclose(got, wanted, rtol=1e-12)
    assert backlight.explain(model, X[:2], target=["Bern", "Rome"]).values.shape == (2, 5, 2)  # several targets
    with pytest.raises(backlight.errors.ArgumentError, match="one index a row"):
        backlight.explain(model, X[:4], target=["Bern", "Bern"])


def test_rows_are_compared_all_over_a_table_and_in_later_tables(rng):
    """A score that differs from its network's below row 4 of a table, or from the second table on, is not explained."""

    class Bent(Ridge):
        def predict(self, X):
            return super().predict(X) + 5.0 * (np.asarray(X)[:, 0] > 9)

    X, _ = table(rng)
    far = np.concatenate([X, X[:1].copy()])
    far[-1, 0] = 10
    model = Bent().fit(X, X[:, 0])
    explainer = backlight.Explainer(model)
    explainer(X[:3])
    with pytest.raises(backlight.errors.UnsupportedModel, match="is not its 'predict'"):
        explainer(far[-1:])
    with pytest.raises(backlight.errors.UnsupportedModel, match="is not its 'predict'"):
        backlight.explain(model, far)
    long = np.repeat(X, 1000 // len(X) + 1, axis=0)
    long[500:, 0] = 10
    with pytest.raises(backlight.errors.UnsupportedModel, match="is not its 'predict'"):
        backlight.explain(model, long)


def test_a_density_is_not_compared_with_a_number_that_has_lost_its_digits():
    X = np.random.default_rng(0).normal(size=(1000, 10))
    far = 3 * np.random.default_rng(1).normal(size=(20, 10))
    model = KernelDensity(bandwidth=0.5).fit(X)
    # one leaf adds the kernels up directly
    exact = KernelDensity(bandwidth=0.5, leaf_size=1000).fit(X).score_samples(far)
    assert np.abs(model.score_samples(far) - exact).max() > 1
    assert np.allclose(backlight.explain(model, far, score="score_samples").output, exact, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:Class Passive:FutureWarning")
def test_every_kind_of_model_says_that_it_is_not_fitted():
    """Also a Gaussian process, which the library takes as fitted: it predicts its prior."""
    from sklearn.utils import all_estimators

    known, seen = set(backlight.neuralize.supported), 0
    for name, cls in all_estimators():
        if f"{cls.__module__.rpartition('._')[0] or cls.__module__}.{name}" not in known:
            continue
        try:
            model = cls()
        except TypeError:  # it holds another model
            continue
        seen += 1
        with pytest.raises(backlight.errors.NotFittedModel, match=f"{name} "):
            backlight.explain(model, np.zeros((3, 2)))
    assert seen > 50


def test_a_model_that_differs_is_refused_at_every_call(rng):
    """An error is no comparison that was passed: neither of a score that differs, nor of rows that the model refuses."""

    class Picky(Ridge):
        def predict(self, X):
            if np.isnan(np.asarray(X)).any() or (np.asarray(X) > 9).any():
                raise ValueError("too large")
            return super().predict(X) + 5.0

    X, _ = table(rng)
    model = Ridge().fit(X, X[:, 0])
    explainer = backlight.Explainer(model)
    model.__class__ = Picky  # what a subclass would have said is only seen when the first rows come
    large = X[:1] + 100
    for _ in range(3):
        with pytest.raises(backlight.errors.DataError, match="itself refuses these rows: too large"):
            explainer(large)
    for _ in range(70):
        with pytest.raises(backlight.errors.UnsupportedModel, match="is not its 'predict'"):
            explainer(X[:1])
