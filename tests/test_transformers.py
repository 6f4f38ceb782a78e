"""Transformers before a model: the library's own score, relevance on the table's own columns."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import cluster, decomposition, feature_selection, impute, preprocessing, random_projection
from sklearn.compose import ColumnTransformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.kernel_approximation import AdditiveChi2Sampler, Nystroem, RBFSampler
from sklearn.linear_model import Lasso, LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, NeighborhoodComponentsAnalysis
from sklearn.pipeline import FeatureUnion, make_pipeline, make_union
from sklearn.svm import SVC, OneClassSVM

import backlight
from tests.family import table
from tests.test_family import assert_explained

ELEMENTWISE = {
    "power": preprocessing.PowerTransformer(),
    "box-cox": make_pipeline(preprocessing.MinMaxScaler((1, 2)), preprocessing.PowerTransformer(method="box-cox")),
    "quantile": preprocessing.QuantileTransformer(n_quantiles=20, output_distribution="normal"),
    "bins": preprocessing.KBinsDiscretizer(4, encode="ordinal", strategy="uniform"),
    "bins one-hot": preprocessing.KBinsDiscretizer(4, encode="onehot", strategy="uniform"),
    "bins dense": preprocessing.KBinsDiscretizer(4, encode="onehot-dense", strategy="uniform"),
    "splines": preprocessing.SplineTransformer(n_knots=4, degree=2),
    "binarizer": preprocessing.Binarizer(),
    "log": make_pipeline(preprocessing.MinMaxScaler(), preprocessing.FunctionTransformer(np.log1p)),
    "norm l2": preprocessing.Normalizer(),
    "norm l1": preprocessing.Normalizer("l1"),
    "norm max": preprocessing.Normalizer("max"),
    "chi2": make_pipeline(preprocessing.MinMaxScaler(clip=True), AdditiveChi2Sampler()),
    "tf-idf": make_pipeline(preprocessing.MinMaxScaler(clip=True), TfidfTransformer(sublinear_tf=False)),
    "knn imputer": impute.KNNImputer(n_neighbors=3, add_indicator=True),
    "iterative imputer": impute.IterativeImputer(max_iter=3, random_state=0),
    "missing indicator": make_union(impute.SimpleImputer(), impute.MissingIndicator(features="all")),
}
LINEAR = {
    "pca": decomposition.PCA(3),
    "pca whiten": decomposition.PCA(3, whiten=True),
    "incremental pca": decomposition.IncrementalPCA(3),
    "svd": decomposition.TruncatedSVD(3, random_state=0),
    "svd arpack": decomposition.TruncatedSVD(3, algorithm="arpack", random_state=0),
    "ica": decomposition.FastICA(3, random_state=0, whiten="unit-variance"),
    "factor analysis": decomposition.FactorAnalysis(2),
    "lda": LinearDiscriminantAnalysis(),
    "lda eigen": LinearDiscriminantAnalysis(solver="eigen", n_components=1),
    "gaussian projection": random_projection.GaussianRandomProjection(3, random_state=0),
    "sparse projection": random_projection.SparseRandomProjection(3, random_state=0),
    "merged columns": cluster.FeatureAgglomeration(3),
    "components analysis": NeighborhoodComponentsAnalysis(2, random_state=0, max_iter=5),
}
SELECTED = {
    "variance": feature_selection.VarianceThreshold(0.5),
    "k best": feature_selection.SelectKBest(k=3),
    "percentile": feature_selection.SelectPercentile(percentile=50),
    "from model": feature_selection.SelectFromModel(Lasso(0.1)),
    "recursive": feature_selection.RFE(LogisticRegression(), n_features_to_select=2),
    "sequential": feature_selection.SequentialFeatureSelector(
        LinearDiscriminantAnalysis(), n_features_to_select=2, cv=2
    ),
    "frozen": FrozenEstimator(preprocessing.StandardScaler().fit(np.arange(10.0).reshape(2, 5))),
}
PRODUCTS = {
    "squares": preprocessing.PolynomialFeatures(2),
    "cubes": preprocessing.PolynomialFeatures(3, include_bias=False),
    "interactions": preprocessing.PolynomialFeatures(2, interaction_only=True),
    "scaled": make_pipeline(preprocessing.PolynomialFeatures(2, include_bias=False), preprocessing.StandardScaler()),
}
UNIONS = {
    "union": make_union(preprocessing.StandardScaler(), preprocessing.QuantileTransformer(n_quantiles=10)),
    "union with projection": make_union(preprocessing.StandardScaler(), decomposition.PCA(2)),
    "weighted": FeatureUnion(
        [("a", preprocessing.StandardScaler()), ("b", decomposition.PCA(2)), ("c", "drop"), ("d", "passthrough")],
        transformer_weights={"a": 0.5, "b": 3.0},
    ),
    "with products": make_union(preprocessing.PolynomialFeatures(2), preprocessing.MaxAbsScaler()),
    "nested": make_union(
        make_pipeline(preprocessing.RobustScaler(), make_union(preprocessing.MinMaxScaler())), "passthrough"
    ),
}
ALL = {**ELEMENTWISE, **LINEAR, **SELECTED, **PRODUCTS, **UNIONS}
MODELS = {
    "density": KernelDensity(bandwidth=2.0),
    "one-class": OneClassSVM(nu=0.2),
    "svc": SVC(),
    "logistic": LogisticRegression(),
    "mixture": GaussianMixture(2, covariance_type="diag", random_state=0),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ALL)
def test_a_transformer_before_a_model(name, model, rng):
    X, y = table(rng)
    if "imputer" in name or "missing" in name:
        X[rng.random(X.shape) < 0.1] = np.nan
    if name in ("bins one-hot", "tf-idf") and model in ("density", "mixture"):
        pytest.skip("scikit-learn fits this model on dense tables only")
    pipe = make_pipeline(ALL[name], MODELS[model])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence
        pipe.fit(X, y)

        assert_explained(pipe, X[:50])
        assert backlight.explain(pipe, X[:3]).values.shape == (3, 5)


def test_no_gradient_is_made_up_where_none_passes(rng):
    X, _ = table(rng)
    net = backlight.neuralize(make_pipeline(preprocessing.PowerTransformer(), KernelDensity()).fit(X))
    with pytest.raises(backlight.errors.UnsupportedModel, match="no gradient passes through PowerTransformer"):
        net(torch.tensor(X, requires_grad=True))


def test_relevance_lands_on_the_columns_that_a_selection_kept(rng):
    X, y = table(rng)
    pipe = make_pipeline(feature_selection.SelectKBest(k=2), KernelDensity()).fit(X, y)
    kept = pipe[0].get_support()

    assert (backlight.explain(pipe, X).values[:, ~kept] == 0).all()
    assert (np.abs(backlight.explain(pipe, X).values[:, kept]) > 0).any(0).all()


def test_a_product_is_shared_by_its_exponents():
    """x² y gives two thirds to x and one third to y; the constant belongs to no column."""
    X = np.array([[2.0, 3.0], [1.0, -1.0], [0.5, 2.0], [3.0, 1.0]])
    features = preprocessing.PolynomialFeatures(3).fit(X)
    model = Ridge(alpha=1e-3).fit(features.transform(X), [1.0, 2.0, 3.0, 4.0])
    from sklearn.pipeline import Pipeline

    ex = backlight.explain(Pipeline([("features", features), ("model", model)]), X)

    expected = np.zeros((4, 2))
    for weight, (a, b) in zip(model.coef_, features.powers_, strict=True):
        if a + b:
            expected += weight * (X[:, :1] ** a * X[:, 1:] ** b) * np.array([a, b]) / (a + b)
    assert np.allclose(ex.values, expected, rtol=1e-12)
    assert np.allclose(ex.base_values, model.intercept_ + model.coef_[0])


def test_the_same_linear_function_behind_a_projection_has_the_same_relevance(rng):
    """A linear model of principal components is a linear model of the columns, and is explained as that."""
    X, y = table(rng, classes=2)
    pipe = make_pipeline(preprocessing.StandardScaler(), decomposition.PCA(3), LogisticRegression()).fit(X, y)
    weight = pipe[-1].coef_ @ pipe[1].components_ / pipe[0].scale_

    ex = backlight.explain(pipe, X, target=1)

    assert np.allclose(ex.values, weight * (X - X.mean(0)), rtol=1e-10)


def test_categories_become_numbers_and_stay_one_column(rng):
    n = 80
    frame = pd.DataFrame({
        "city": rng.choice(["Bern", "Rome", "Oslo"], n), "size": rng.choice(["s", "m", "l"], n),
        "price": rng.normal(size=n), "age": rng.normal(size=n),
    })  # fmt: skip
    y = (frame.price + (frame.city == "Bern") > 0).astype(int)
    for encoder in (
        preprocessing.TargetEncoder(),
        preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
        preprocessing.OneHotEncoder(handle_unknown="ignore"),
    ):
        front = ColumnTransformer([("c", encoder, ["city", "size"])], remainder=preprocessing.StandardScaler())
        front.set_output(transform="default")
        for model in (SVC(), LogisticRegression(), KernelDensity()):
            pipe = make_pipeline(front, preprocessing.FunctionTransformer(), model).fit(frame, y)
            assert_explained(pipe, frame[:30])
            new = frame[:2].copy()
            new.loc[0, "city"] = "Lima"
            assert_explained(pipe, new)
            assert backlight.explain(pipe, new).feature_names == ("city", "size", "price", "age")


def test_several_classes_give_several_target_encodings(rng):
    frame = pd.DataFrame({"city": rng.choice(["Bern", "Rome", "Oslo"], 90), "price": rng.normal(size=90)})
    y = rng.integers(0, 3, 90)
    encode = ColumnTransformer([("c", preprocessing.TargetEncoder(), ["city"])], remainder="passthrough")
    assert_explained(make_pipeline(encode, LogisticRegression()).fit(frame, y), frame)


def test_pipelines_that_pass_data_frames_on_are_explained_alike(rng):
    X, y = table(rng)
    frame = pd.DataFrame(X, columns=list("abcde"))
    make = lambda: make_pipeline(  # noqa: E731
        preprocessing.StandardScaler(), feature_selection.SelectKBest(k=4), preprocessing.PowerTransformer(), SVC()
    )
    plain, passing = make().fit(frame, y), make().set_output(transform="pandas").fit(frame, y)

    assert np.allclose(backlight.explain(plain, frame).values, backlight.explain(passing, frame).values, rtol=1e-10)


def test_imputed_cells_are_marked(rng):
    X, _ = table(rng)
    X[3, 1] = np.nan
    for imputer in (impute.KNNImputer(), impute.IterativeImputer(max_iter=2)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ex = backlight.explain(make_pipeline(imputer, KernelDensity()).fit(X), X[:5])
        assert ex.annotations["imputed"].sum() == 1
        assert ex.annotations["imputed"][3, 1]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (RBFSampler(random_state=0), "RBFSampler.*use Nystroem"),
        (Nystroem(n_components=20), "Nystroem followed by KernelDensity has no network: a linear model must follow"),
        (
            make_pipeline(Nystroem(n_components=20), preprocessing.StandardScaler()),
            "Nystroem must stand directly before",
        ),
        (decomposition.KernelPCA(2), "KernelPCA"),
        (preprocessing.FunctionTransformer(lambda x: x[:, ::-1]), "FunctionTransformer.*ufunc such as numpy.log1p"),
        (make_pipeline(decomposition.PCA(3), preprocessing.PowerTransformer()), "PowerTransformer after a projection"),
        (
            make_pipeline(preprocessing.PolynomialFeatures(2), preprocessing.OneHotEncoder(sparse_output=False)),
            "OneHotEncoder after",
        ),
    ],
)
def test_what_cannot_be_carried_back_is_refused_by_name(step, said, rng):
    X, y = table(rng)
    X = np.round(X)
    pipe = make_pipeline(step, KernelDensity()).fit(X, y)
    with pytest.raises(backlight.errors.UnsupportedModel, match=said):
        backlight.explain(pipe, X)
