"""The public law suites, over everything that is registered, and on things that break a law."""

import importlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN, KMeans
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC, OneClassSVM

import backlight
from backlight import priors
from backlight.classical import Autoencoder
from backlight.rules import NAMED_RULES, Epsilon, Gamma, named
from backlight.rules.base import AUDITED
from backlight.testing import check_neuralized, check_prior, check_rule


@pytest.mark.parametrize("name", NAMED_RULES)
def test_every_named_rule_keeps_the_laws(name):
    check_rule(NAMED_RULES[name])


@dataclass(frozen=True, slots=True, repr=False)
class Halved(Epsilon):
    """Loses half."""

    def bind(self, layer, facts):
        from dataclasses import replace

        return super(Halved, self).bind(replace(layer, weight=layer.weight / 2), facts)


@dataclass(frozen=True, slots=True, repr=False)
class Boastful(Epsilon):
    """Says that it sends gradients, and spreads the bias outright."""

    def emits_direct(self, layer):
        return False


def test_a_rule_that_breaks_a_law_is_told_which():
    with pytest.raises(AssertionError, match=r"Halved.*loses"):
        check_rule(Halved())
    with pytest.raises(AssertionError, match="it sends what emits_direct says"):
        check_rule(Boastful(bias="distribute"))
    with pytest.raises(AssertionError, match="loses"):
        check_rule(Epsilon(0.5), leak=1e-3)


def test_a_named_rule_is_known_everywhere():
    @named("gamma-strong", gamma=4.0)
    @dataclass(frozen=True, slots=True, repr=False)
    class Strong(Gamma):
        pass

    try:
        net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)).double().eval()
        found = backlight.audit(net, torch.randn(6, 4).double(), methods=["lrp:gamma-strong"], rewrites="dead units")
        assert "lrp:gamma-strong" in found.ssi
        one, _ = backlight.examples.min_networks()
        named_, given = backlight.derive(one, "gamma-strong"), backlight.derive(one, Gamma(4.0))
        point = {"a1": 2, "a2": 1}
        assert named_.at(**point, gamma=4).relevance == given.at(**point).relevance
    finally:
        NAMED_RULES.remove("gamma-strong")
        AUDITED.remove("gamma-strong")


MODELS = {
    "ocsvm": OneClassSVM(nu=0.3), "density": make_pipeline(StandardScaler(), KernelDensity()), "kmeans": KMeans(3, n_init=1),
    "lof": LocalOutlierFactor(novelty=True), "mixture": GaussianMixture(2, random_state=0), "bayes": GaussianNB(),
    "logistic": LogisticRegression(), "lda": LinearDiscriminantAnalysis(), "svc": SVC(),
    "perceptron": MLPClassifier((4,), solver="lbfgs", max_iter=3000, random_state=0),
    "factors": FactorAnalysis(2), "dbscan": DBSCAN(eps=0.9), "norm": make_pipeline(PCA(2), Normalizer(), LogisticRegression()),
    "autoencoder": Autoencoder(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 3))),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_networks_keep_the_laws(name):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    check_neuralized(
        MODELS[name].fit(X, (X[:, 0] > 0) + 1 * (X[:, 1] > 0.5)), np.r_[X[:10], 3 * rng.normal(size=(10, 3))]
    )


def test_models_of_texts_keep_the_laws():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["good", "bad", "plot", "film", "dull"], 6)) for _ in range(40)]
    labels = [text.count("good") > 1 for text in texts]
    check_neuralized(make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, labels), texts[:12])
    check_neuralized(make_pipeline(CountVectorizer(), PCA(2), SVC()).fit(texts, labels), texts[:12])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        "abod.ABOD",
        "cblof.CBLOF",
        "gmm.GMM",
        "hbos.HBOS",
        "iforest.IForest",
        "knn.KNN",
        "loda.LODA",
        "lof.LOF",
        "mcd.MCD",
        "ocsvm.OCSVM",
    ],
)
def test_detectors_of_pyod_keep_the_laws(name):
    pytest.importorskip("pyod")
    room, _, cls = name.partition(".")
    X = np.random.default_rng(0).normal(size=(60, 3))
    model = getattr(importlib.import_module(f"pyod.models.{room}"), cls)().fit(X)
    check_neuralized(model, np.r_[X[:6], 3 * np.random.default_rng(1).normal(size=(6, 3))])


def test_a_network_that_is_not_the_models_is_told():
    class Double(KernelDensity):
        def score_samples(self, X):
            return 2 * super().score_samples(X)

    X = np.random.default_rng(0).normal(size=(20, 2))
    with pytest.raises((AssertionError, backlight.errors.UnsupportedModel)):
        check_neuralized(Double().fit(X), X)


def every_prior():
    X = np.random.default_rng(0).normal(size=(30, 4))
    W, a, b = np.random.default_rng(1).normal(size=(3, 4)), np.zeros(4), np.zeros(3)
    return {
        "l2": priors.L2(0.5), "gaussian": priors.Gaussian.fit(X), "mixture": priors.Mixture.fit(X, 2),
        "density": priors.KernelDensity.fit(X, 0.8), "near": priors.Near(X[0]),
        "sum": priors.L2(0.1) + priors.Gaussian.fit(X), "estimator": priors.from_estimator(GaussianMixture(2).fit(X)),
        "rbm": priors.RBM(W, a, b),
    }  # fmt: skip


@pytest.mark.parametrize("name", every_prior())
def test_priors_keep_the_laws(name):
    check_prior(every_prior()[name], np.random.default_rng(2).normal(size=(6, 4)))


def test_a_prior_that_breaks_a_law_is_told_which():
    class Mean(priors.L2):
        def energy(self, x):
            return super().energy(x) + x.mean()

    with pytest.raises(AssertionError, match="rows do not see each other"):
        check_prior(Mean(1.0), np.random.default_rng(0).normal(size=(4, 3)))
