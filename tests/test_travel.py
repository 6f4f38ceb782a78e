"""Results travel: pickled, copied and sent to another process they are what they were."""

import copy
import dataclasses
import multiprocessing
import pickle
from types import MappingProxyType

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, OneClassSVM

import backlight

pytestmark = pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3))
Y = (X[:, 0] > 0).astype(int)
T = torch.as_tensor(X)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double().eval()


MODELS = (
    OneClassSVM(), KMeans(2, n_init=1, random_state=0), KernelDensity(), LogisticRegression(), GaussianMixture(2, random_state=0),
    LocalOutlierFactor(novelty=True), Ridge(), SVC(), GaussianNB(), MLPRegressor(hidden_layer_sizes=(3,), solver="lbfgs", max_iter=2000, random_state=0),
    make_pipeline(StandardScaler(), OneClassSVM()),
)  # fmt: skip

RESULTS = {
    "explanation of a network": lambda: backlight.explain(network(), T, layers=["0"]),
    "explanation of a model": lambda: backlight.explain(OneClassSVM().fit(X), X, feature_names=["a", "b", "c"]),
    "ledger": lambda: backlight.explain(network(), T).ledger,
    "plan": lambda: backlight.plan(network(), T),
    "composite": lambda: backlight.Composite([(torch.nn.Linear, backlight.rules.Epsilon(1e-6)), ("0", backlight.rules.Gamma(0.25))]),
    "canonical form": lambda: backlight.canonize(network(), domain="nonnegative"),
    "prototypes of a model": lambda: backlight.prototype(KMeans(2, n_init=1, random_state=0).fit(X), 0, data=X),
    "prototypes of a network": lambda: backlight.prototype(network(), 0, data=X, restarts=2, steps=5),
    "audit": lambda: backlight.audit(network(), T[:3], rewrites="deploy", methods=("gradient_x_input",)),
    "derivation": lambda: backlight.derive(backlight.examples.min_networks().i, "gamma"),
    "proof": lambda: backlight.equivalent(*backlight.examples.min_networks(), domain="nonnegative"),
    "evaluation": lambda: backlight.evaluate(network(), T[:8], {"lrp": backlight.explain(network(), T[:8])}),
    "prior": lambda: backlight.priors.Gaussian.fit(X),
    "space": lambda: backlight.spaces.PCA.fit(X, 2),
}  # fmt: skip


def same(a, b, seen=None):
    """Whether two results hold the same numbers and texts, all the way down."""
    seen = set() if seen is None else seen
    if id(a) in seen:
        return True
    seen.add(id(a))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and (
            all(same(x, y, seen) for x, y in zip(a.flat, b.flat, strict=True))
            if a.dtype == object
            else np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
        )
    if isinstance(a, torch.nn.Module):  # every GraphModule is of a class of its own
        return same(dict(a.state_dict()), dict(b.state_dict()), seen)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict | MappingProxyType):
        return same(list(a), list(b), seen) and same(list(a.values()), list(b.values()), seen)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y, seen) for x, y in zip(a, b, strict=True))
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        return all(same(getattr(a, one.name), getattr(b, one.name), seen) for one in dataclasses.fields(a))
    if isinstance(a, float):
        return a == b or (a != a and b != b)
    return not isinstance(a, str | int | bytes | type(None)) or a == b


@pytest.fixture(scope="module", params=RESULTS)
def result(request):
    return RESULTS[request.param]()


def test_a_result_is_the_same_after_pickle_and_copy(result):
    for other in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert type(other) is type(result)
        assert repr(other) == repr(result)
        assert same(result, other)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_a_neuralized_model_is_the_same_after_pickle_and_copy(model):
    net = backlight.neuralize(model.fit(X, Y))
    rows = RNG.normal(size=(5, 3))
    for other in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert other.score.name == net.score.name
        assert torch.equal(other(rows), net(rows))
        np.testing.assert_array_equal(backlight.explain(other, rows).values, backlight.explain(net, rows).values)


def test_what_was_changed_in_a_network_travels_too():
    net = backlight.neuralize(LogisticRegression().fit(X, Y), dtype=torch.float32)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.mul_(2)
    other = pickle.loads(pickle.dumps(net.train()))
    assert other.training
    assert other.dtype is torch.float32
    assert torch.equal(other(X), net(X))


def test_an_explanation_that_came_back_cannot_be_changed():
    other = pickle.loads(pickle.dumps(RESULTS["explanation of a network"]()))
    for array in (other.values, other.output, other.layers["0"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(TypeError):
        other.provenance["a"] = 1


def _there(things):
    net, ex = things
    return net, ex, np.asarray(net(X)), backlight.explain(net, X)


def test_models_and_explanations_go_to_another_process_and_back():
    net = backlight.neuralize(OneClassSVM().fit(X))
    ex = backlight.explain(net, X)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        back, copied, scores, there = pool.apply(_there, ((net, ex),))
    np.testing.assert_array_equal(scores, np.asarray(net(X)))
    np.testing.assert_allclose(there.values, ex.values, rtol=1e-12, atol=1e-13)
    assert same(ex, copied)
    assert torch.equal(back(X), net(X))
