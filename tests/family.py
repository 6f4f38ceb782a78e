"""The scikit-learn family: one fitted model for every kind of network, small enough to fit in milliseconds."""

from functools import partial
from typing import Any

import numpy as np
from sklearn import (  # fmt: skip
    cluster,
    covariance,
    discriminant_analysis,
    ensemble,
    gaussian_process,
    kernel_ridge,
    linear_model,
    mixture,
    naive_bayes,
    neighbors,
    neural_network,
    svm,
)
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.gaussian_process import kernels as gp
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import laplacian_kernel
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from backlight.classical import KernelClusters, RadialKernel

DETECTORS = {
    "ocsvm": svm.OneClassSVM(nu=0.2),
    "ocsvm laplacian": svm.OneClassSVM(kernel=laplacian_kernel, nu=0.2),
    "ocsvm laplacian gamma": svm.OneClassSVM(kernel=partial(laplacian_kernel, gamma=0.3), nu=0.2),
    "ocsvm rational quadratic": svm.OneClassSVM(kernel=gp.RationalQuadratic(length_scale=2.0, alpha=1.5), nu=0.2),
    "ocsvm matern": svm.OneClassSVM(kernel=gp.Matern(length_scale=3.0, nu=0.5), nu=0.2),
    "ocsvm matern 3/2": svm.OneClassSVM(kernel=gp.Matern(length_scale=3.0, nu=1.5), nu=0.2),
    "ocsvm matern 5/2": svm.OneClassSVM(kernel=gp.Matern(length_scale=3.0, nu=2.5), nu=0.2),
    "ocsvm linear": svm.OneClassSVM(kernel="linear", nu=0.2),
    "ocsvm poly": svm.OneClassSVM(kernel="poly", degree=2, coef0=1.0, nu=0.2),
    "ocsvm own": svm.OneClassSVM(kernel=RadialKernel(lambda d: (1 + d).log()), nu=0.2),
    "kde": neighbors.KernelDensity(bandwidth=0.7),
    "kde exponential": neighbors.KernelDensity(kernel="exponential", bandwidth=0.7),
    "lof": neighbors.LocalOutlierFactor(novelty=True, n_neighbors=7),
    "lof manhattan": neighbors.LocalOutlierFactor(novelty=True, n_neighbors=7, metric="manhattan"),
    "knn distance p 1": neighbors.NearestNeighbors(n_neighbors=5, p=1),
    "knn distance": neighbors.NearestNeighbors(n_neighbors=5),
    "gmm full": mixture.GaussianMixture(3, random_state=0),
    "gmm tied": mixture.GaussianMixture(3, covariance_type="tied", random_state=0),
    "gmm diag": mixture.GaussianMixture(3, covariance_type="diag", random_state=0),
    "gmm spherical": mixture.GaussianMixture(3, covariance_type="spherical", random_state=0),
    "gmm one": mixture.GaussianMixture(1, random_state=0),
    "bayesian full": mixture.BayesianGaussianMixture(n_components=3, random_state=0),
    "bayesian tied": mixture.BayesianGaussianMixture(n_components=3, covariance_type="tied", random_state=0),
    "bayesian diag": mixture.BayesianGaussianMixture(
        n_components=3, covariance_type="diag", weight_concentration_prior_type="dirichlet_distribution", random_state=0
    ),
    "bayesian spherical": mixture.BayesianGaussianMixture(n_components=3, covariance_type="spherical", random_state=0),
    "covariance": covariance.EmpiricalCovariance(),
    "ledoit wolf": covariance.LedoitWolf(),
    "min cov det": covariance.MinCovDet(random_state=0),
    "elliptic envelope": covariance.EllipticEnvelope(random_state=0),
    "pca": PCA(3),
    "sgd one class": linear_model.SGDOneClassSVM(random_state=0),
    "nystroem one class": make_pipeline(
        Nystroem(n_components=30, random_state=0), linear_model.SGDOneClassSVM(random_state=0)
    ),
    "rbm": neural_network.BernoulliRBM(n_components=6, n_iter=3, random_state=0),
    "kmeans": cluster.KMeans(4, n_init=2, random_state=0),
    "kmeans two": cluster.KMeans(2, n_init=2, random_state=0),
    "minibatch kmeans": cluster.MiniBatchKMeans(4, n_init=2, random_state=0),
    "bisecting kmeans": cluster.BisectingKMeans(5, random_state=0),
    "mean shift": cluster.MeanShift(bandwidth=2.5),
    "affinity propagation": cluster.AffinityPropagation(damping=0.8, random_state=0),
}
CLASSIFIERS = {
    "qda": discriminant_analysis.QuadraticDiscriminantAnalysis(reg_param=0.1),
    "lda": discriminant_analysis.LinearDiscriminantAnalysis(),
    "lda lsqr": discriminant_analysis.LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2),
    "gaussian nb": naive_bayes.GaussianNB(),
    "bernoulli nb": naive_bayes.BernoulliNB(),
    "kernel clusters": KernelClusters(gamma=0.2),
    "nearest centroid": neighbors.NearestCentroid(),
    "nearest centroid city": neighbors.NearestCentroid(metric="manhattan"),
    "knn": neighbors.KNeighborsClassifier(5),
    "knn manhattan": neighbors.KNeighborsClassifier(5, metric="manhattan"),
    "knn even": neighbors.KNeighborsClassifier(4),
    "knn weighted": neighbors.KNeighborsClassifier(6, weights="distance"),
    "knn weighted city": neighbors.KNeighborsClassifier(4, weights="distance", metric="manhattan"),
    "logistic": linear_model.LogisticRegression(),
    "logistic liblinear": OneVsRestClassifier(linear_model.LogisticRegression(solver="liblinear")),
    "ridge classifier": linear_model.RidgeClassifier(),
    "sgd": linear_model.SGDClassifier(random_state=0),
    "perceptron": linear_model.Perceptron(random_state=0),
    "linear svc": svm.LinearSVC(random_state=0),
    "svc": svm.SVC(),
    "svc ovo": svm.SVC(decision_function_shape="ovo", gamma=0.3),
    "svc laplacian": svm.SVC(kernel=laplacian_kernel),
    "svc matern": svm.SVC(kernel=gp.Matern(length_scale=3.0, nu=1.5)),
    "svc linear": svm.SVC(kernel="linear"),
    "svc poly": svm.SVC(kernel="poly", degree=3, coef0=0.7),
    "nusvc": svm.NuSVC(nu=0.2),
    "search": GridSearchCV(make_pipeline(StandardScaler(), svm.SVC()), {"svc__C": [1.0, 10.0]}, cv=2),
    "nystroem logistic": make_pipeline(Nystroem(n_components=30, gamma=0.1, random_state=0), linear_model.LogisticRegression()),
    "nystroem sgd": make_pipeline(Nystroem(n_components=30, gamma=0.1, random_state=0), linear_model.SGDClassifier(random_state=0)),
    "one vs rest": OneVsRestClassifier(svm.SVC(gamma=0.1)),
    "one vs rest nb": OneVsRestClassifier(naive_bayes.GaussianNB()),
    "calibrated": CalibratedClassifierCV(svm.LinearSVC(random_state=0), cv=3),
    "calibrated nb": CalibratedClassifierCV(naive_bayes.GaussianNB(), cv=3),
    "voting": ensemble.VotingClassifier(
        [("lr", make_pipeline(StandardScaler(), linear_model.LogisticRegression())), ("nb", naive_bayes.GaussianNB())],
        voting="soft", weights=[2, 1],
    ),
    "bagging nb": ensemble.BaggingClassifier(
        naive_bayes.GaussianNB(), n_estimators=4, max_features=0.7, random_state=0
    ),
    "bagging logistic": ensemble.BaggingClassifier(
        linear_model.LogisticRegression(), n_estimators=3, random_state=0
    ),
}  # fmt: skip
COUNTS = {
    "multinomial nb": naive_bayes.MultinomialNB(),
    "complement nb": naive_bayes.ComplementNB(),
    "categorical nb": naive_bayes.CategoricalNB(min_categories=12),
}
REGRESSORS = {
    "linear": linear_model.LinearRegression(),
    "lasso": linear_model.Lasso(0.05),
    "linear svr": svm.LinearSVR(random_state=0),
    "poisson": linear_model.PoissonRegressor(),
    "tweedie": linear_model.TweedieRegressor(power=1.5, alpha=0.1),
    "tweedie identity": linear_model.TweedieRegressor(power=0, alpha=0.1),
    "pls": PLSRegression(2),
    "ransac": linear_model.RANSACRegressor(min_samples=0.6, random_state=0),
    "svr": svm.SVR(),
    "svr poly": svm.SVR(kernel="poly", degree=2),
    "nusvr": svm.NuSVR(gamma=0.2),
    "kernel ridge": kernel_ridge.KernelRidge(kernel="rbf", gamma=0.1, alpha=0.1),
    "kernel ridge laplacian": kernel_ridge.KernelRidge(kernel="laplacian", alpha=0.5),
    "kernel ridge own": kernel_ridge.KernelRidge(kernel=RadialKernel(lambda d: (1 + d).log())),
    "kernel ridge linear": kernel_ridge.KernelRidge(kernel="linear"),
    "kernel ridge poly": kernel_ridge.KernelRidge(kernel="poly", degree=2),
    "gaussian process": gaussian_process.GaussianProcessRegressor(
        gp.ConstantKernel(2.0, "fixed") * gp.RBF(3.0, "fixed") + gp.WhiteKernel(0.1, "fixed"), normalize_y=True
    ),
    "gaussian process rq": gaussian_process.GaussianProcessRegressor(
        gp.RationalQuadratic(3.0, 1.0, "fixed", "fixed"), alpha=0.1
    ),
    "gaussian process ard": gaussian_process.GaussianProcessRegressor(
        gp.RBF([1.0, 2.0, 3.0, 4.0, 5.0], "fixed") + gp.WhiteKernel(0.1, "fixed"), normalize_y=True
    ),
    "gaussian process matern": gaussian_process.GaussianProcessRegressor(
        2.0 * gp.Matern([2.0, 3.0, 3.0, 4.0, 5.0], "fixed", nu=2.5), alpha=0.1, optimizer=None
    ),
    "gaussian process sum": gaussian_process.GaussianProcessRegressor(
        0.5 * gp.RBF(3.0) + gp.RBF(1.0) * gp.Matern(2.0, nu=1.5) + gp.DotProduct(0.7) + 0.3, alpha=0.1, optimizer=None
    ),
    "gaussian process product": gaussian_process.GaussianProcessRegressor(
        gp.RBF([1.0, 2.0, 3.0, 4.0, 5.0]) * gp.RBF(2.0) + (0.1 * gp.DotProduct(1.0)) ** 2, alpha=0.1, optimizer=None
    ),
    "nystroem ridge": make_pipeline(Nystroem(n_components=30, gamma=0.1, random_state=0), linear_model.Ridge()),
    "knn regression manhattan": neighbors.KNeighborsRegressor(4, metric="manhattan"),
    "knn regression": neighbors.KNeighborsRegressor(4),
    "voting regression": ensemble.VotingRegressor(
        [("svr", svm.SVR()), ("lin", make_pipeline(StandardScaler(), linear_model.Ridge()))], weights=[1, 3]
    ),
    "bagging svr": ensemble.BaggingRegressor(svm.SVR(), n_estimators=4, max_features=0.6, random_state=0),
}
PERCEPTRONS = {
    "svc sigmoid": svm.SVC(kernel="sigmoid", gamma=0.03, coef0=-0.2),
    "svr sigmoid": svm.SVR(kernel="sigmoid", gamma=0.03),
    "mlp": neural_network.MLPClassifier((8, 5), max_iter=60, random_state=0),
    "mlp tanh": neural_network.MLPClassifier((6,), activation="tanh", max_iter=60, random_state=0),
    "mlp regression": neural_network.MLPRegressor(hidden_layer_sizes=(8,), max_iter=60, random_state=0),
}


def table(rng: np.random.Generator, n: int = 160, d: int = 5, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Correlated blobs, one a class."""
    y = rng.integers(0, classes, n)
    mixing = rng.normal(size=(d, d)) / 2 + np.eye(d)
    return rng.normal(size=(n, d)) @ mixing + 2.5 * rng.normal(size=(classes, d))[y], y


def process(kernel: gp.Kernel) -> gaussian_process.GaussianProcessRegressor:
    """A regression with a covariance as it is given."""
    return gaussian_process.GaussianProcessRegressor(kernel, alpha=0.3, optimizer=None)


def near(a: Any, b: Any, tolerance: float = 1e-10) -> bool:
    """Whether two arrays are equal to a share of the second one's largest number, or of one."""
    return np.abs(np.asarray(a) - b).max() <= tolerance * max(1, np.abs(b).max())
