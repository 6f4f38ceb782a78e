"""Options drawn at random: whatever a model was fitted with, its network has its score and its relevance adds up to it."""

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from sklearn import (  # fmt: skip
    cluster,
    covariance,
    discriminant_analysis,
    gaussian_process,
    kernel_ridge,
    linear_model,
    mixture,
    naive_bayes,
    neighbors,
    preprocessing,
    svm,
)
from sklearn.base import clone
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.gaussian_process import kernels as gp
from sklearn.kernel_approximation import Nystroem
from sklearn.pipeline import make_pipeline

from tests.conftest import examples
from tests.test_family import assert_explained

pytestmark = pytest.mark.fast

sizes = st.floats(1e-3, 30.0)
scales = st.sampled_from([1e-3, 1.0, 1e3])


metrics = st.sampled_from(["euclidean", "manhattan"])


def covariances():
    """Sums of up to three products."""
    lengths = st.floats(0.3, 10)
    radial = st.one_of(
        st.builds(gp.RBF, lengths),
        st.builds(gp.Matern, lengths, nu=st.sampled_from([0.5, 1.5, 2.5, np.inf])),
        st.builds(gp.RationalQuadratic, lengths, st.floats(0.1, 5)),
        st.builds(lambda k, e: k**e, st.builds(gp.Matern, lengths, nu=st.just(1.5)), st.floats(0.5, 3)),
    )
    factor = st.builds(gp.ConstantKernel, st.floats(0.1, 5))
    term = st.one_of(
        radial,
        st.builds(gp.WhiteKernel, st.floats(0.01, 1)),
        st.builds(gp.DotProduct, st.floats(0, 2)),
        st.builds(lambda a, b: a * b, factor, radial),
        st.builds(lambda a, b: a * b, radial, radial),
        st.builds(lambda a, b: a * b, factor, st.builds(gp.DotProduct, st.floats(0, 2))),
    )
    return st.builds(
        lambda first, rest: sum(rest, first), radial, st.lists(term, max_size=2)
    )  # at least one term is not constant


def models():
    """Detectors, clusterings, classifiers and regressions with their options."""
    k = st.integers(1, 6)
    gamma = st.one_of(st.sampled_from(["scale", "auto"]), sizes)
    return st.one_of(
        st.builds(svm.OneClassSVM, gamma=gamma, nu=st.floats(0.05, 0.9)),
        st.builds(neighbors.KernelDensity, kernel=st.sampled_from(["gaussian", "exponential"]), bandwidth=st.floats(0.05, 5)),
        st.builds(neighbors.NearestNeighbors, n_neighbors=k, p=st.sampled_from([1, 2])),
        st.builds(
            neighbors.LocalOutlierFactor, n_neighbors=k, novelty=st.just(True), contamination=st.floats(0.01, 0.4),
            metric=metrics,
        ),
        st.builds(
            mixture.GaussianMixture, st.integers(1, 4), random_state=st.just(0), reg_covar=st.just(1e-3),
            covariance_type=st.sampled_from(["full", "tied", "diag", "spherical"]),
        ),
        st.builds(
            mixture.BayesianGaussianMixture, n_components=st.integers(1, 4), random_state=st.just(0), reg_covar=st.just(1e-3),
            covariance_type=st.sampled_from(["full", "tied", "diag", "spherical"]),
            weight_concentration_prior_type=st.sampled_from(["dirichlet_process", "dirichlet_distribution"]),
        ),
        st.builds(covariance.EllipticEnvelope, support_fraction=st.sampled_from([None, 0.9]), random_state=st.just(0)),
        st.builds(covariance.ShrunkCovariance, shrinkage=st.floats(0.01, 0.9)),
        st.builds(cluster.KMeans, st.integers(2, 6), n_init=st.just(1), random_state=st.just(0)),
        st.builds(
            cluster.BisectingKMeans, st.integers(2, 6), random_state=st.just(0),
            bisecting_strategy=st.sampled_from(["biggest_inertia", "largest_cluster"]),
        ),
        st.builds(svm.SVC, gamma=gamma, C=st.floats(0.1, 100), decision_function_shape=st.sampled_from(["ovo", "ovr"])),
        st.builds(
            svm.SVC, kernel=st.just("poly"), degree=st.integers(1, 4), coef0=st.floats(0, 2), gamma=st.floats(0.01, 1)
        ),
        st.builds(svm.SVR, gamma=gamma, C=st.floats(0.1, 100), epsilon=st.floats(0.01, 0.3)),
        st.builds(
            kernel_ridge.KernelRidge, kernel=st.sampled_from(["rbf", "laplacian"]), gamma=sizes, alpha=st.floats(0.01, 5)
        ),
        st.builds(
            gaussian_process.GaussianProcessRegressor, covariances(), optimizer=st.none(),
            alpha=st.floats(0.05, 1), normalize_y=st.booleans(),
        ),
        st.builds(discriminant_analysis.QuadraticDiscriminantAnalysis, reg_param=st.floats(0.05, 0.9)),
        st.builds(
            discriminant_analysis.LinearDiscriminantAnalysis, solver=st.just("lsqr"), shrinkage=st.floats(0.1, 0.9)
        ),
        st.builds(naive_bayes.GaussianNB, var_smoothing=st.floats(1e-6, 1)),
        st.builds(naive_bayes.BernoulliNB, alpha=st.floats(0.01, 5), binarize=st.floats(0, 1), fit_prior=st.booleans()),
        st.builds(neighbors.KNeighborsClassifier, k, metric=metrics, weights=st.sampled_from(["uniform", "distance"])),
        st.builds(neighbors.KNeighborsRegressor, k, metric=metrics),
        st.builds(neighbors.NearestCentroid, metric=metrics),
        st.builds(linear_model.LogisticRegression, C=st.floats(0.01, 10), fit_intercept=st.booleans()),
        st.builds(linear_model.Ridge, alpha=st.floats(0.01, 10), fit_intercept=st.booleans()),
        st.builds(
            lambda gamma, n: make_pipeline(
                Nystroem(gamma=gamma, n_components=n, random_state=0), linear_model.RidgeClassifier()
            ),
            st.floats(0.01, 1), st.integers(5, 20),
        ),
    )  # fmt: skip


def steps():
    """A front end of up to three transformers."""
    elementwise = st.sampled_from([
        preprocessing.StandardScaler(), preprocessing.RobustScaler(), preprocessing.MinMaxScaler(clip=True),
        preprocessing.QuantileTransformer(n_quantiles=15), preprocessing.PowerTransformer(),
        preprocessing.SplineTransformer(n_knots=3, degree=2),
    ])  # fmt: skip
    linear = st.sampled_from([PCA(2), PCA(3, whiten=True), TruncatedSVD(2, random_state=0)])
    return st.one_of(
        st.lists(elementwise, max_size=2),
        st.tuples(elementwise, linear).map(list),
        st.tuples(linear, st.just(preprocessing.StandardScaler())).map(list),
    )


@settings(max_examples=examples(120), suppress_health_check=list(HealthCheck))
@given(
    model=models(),
    before=steps(),
    classes=st.integers(2, 4),
    scale=scales,
    single=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_model_with_any_options_behind_any_front_end(model, before, classes, scale, single, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, 60)
    X = scale * (rng.normal(size=(60, 4)) + rng.normal(size=(classes, 4))[y] * 2)
    if not before and scale != 1.0:
        before = [preprocessing.StandardScaler()]
    X = X.astype("f4").astype(float) if single else X
    t = X[:, 0] / scale if isinstance(model, svm.SVR | kernel_ridge.KernelRidge | linear_model.Ridge) else y
    if isinstance(model, gaussian_process.GaussianProcessRegressor | neighbors.KNeighborsRegressor):
        t = X[:, 0] / scale
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence and rank, which are not what is tested
        if isinstance(model, naive_bayes.BernoulliNB):  # refused behind a projection, which another test says
            before = [step for step in before if not isinstance(step, PCA | TruncatedSVD)]
        try:
            pipe = make_pipeline(*(clone(step) for step in before), model).fit(X, t)
        except np.linalg.LinAlgError:  # more columns of splines than rows of a class
            reject()
        Q = np.r_[X[:20].astype("f4") if single else X[:20], X[:20] + scale * rng.normal(size=(20, 4)), 0 * X[:1]]
        # Mahalanobis distances by two routes differ by the condition of the covariance times rounding; one without an
        # inverse (columns of splines sum to one) has no distance to agree on. Other covariances here are regularised.
        condition = np.linalg.cond(pipe[-1].covariance_) if isinstance(model, covariance.EllipticEnvelope) else 1.0
        if condition > 1e9:
            reject()
        rounding = 100 * np.finfo(float).eps * condition
        # A Gaussian process or a ridge on nearly equal rows has coefficients of both signs that cancel: what is summed
        # here in another order than there loses digits of their size, not of the prediction's.
        cancels = (
            isinstance(model, gaussian_process.GaussianProcessRegressor | kernel_ridge.KernelRidge)
            or type(model).__name__ == "Pipeline"
        )
        exactly, conserved = (1e-8, 1e-7) if cancels else (1e-10, 1e-9)
        assert_explained(pipe, Q, exactly=max(exactly, rounding), conserved=max(conserved, rounding))
