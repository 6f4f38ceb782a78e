"""`Explainer`: one object that every model goes through, prepared once."""

import inspect
import threading
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KernelDensity
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.tree import DecisionTreeClassifier
from torch import nn

import backlight
from backlight.errors import ArgumentError, ConservationError
from backlight.rules import Zero

pytestmark = pytest.mark.filterwarnings("ignore:The set_")  # of what shap imports


def table():
    X = np.random.default_rng(0).normal(size=(40, 3))
    return X, np.array(["ash", "birch", "cedar"])[(X[:, 0] > -0.4).astype(int) + (X[:, 0] > 0.4)]


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture
def X():
    return table()[0]


@pytest.fixture
def y():
    return table()[1]


def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()


@cache
def models():
    """A model of each kind with three outputs, captured once."""
    X, y = table()
    perceptron = MLPClassifier((6,), solver="lbfgs", max_iter=2000, random_state=0).fit(X, y)
    return {
        "module": module(),
        "network": LogisticRegression().fit(X, y),
        "perceptron": perceptron,
        "trees": DecisionTreeClassifier(max_depth=3).fit(X, y),
    }


KINDS = ["module", "network", "perceptron", "trees"]


def test_the_signature_is_the_contract():
    parameters = inspect.signature(backlight.Explainer).parameters
    assert list(parameters)[:12] == [
        "model", "target", "score", "rules", "reference", "method", "layers", "canonical", "strict", "device",
        "feature_names", "output",
    ]  # fmt: skip
    assert list(inspect.signature(backlight.Explainer.__call__).parameters) == ["self", "X", "batch_size", "progress"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_explainer_says_what_explain_says(kind, X, y):
    model = models()[kind]
    for target in (None, 1, [0, 2], "all"):
        explainer = backlight.Explainer(model, target, feature_names=["a", "b", "c"])
        once, twice, whole = explainer(X), explainer(X, batch_size=7), backlight.explain(model, X, target)

        assert np.array_equal(once.values, whole.values)
        np.testing.assert_allclose(twice.values, once.values, rtol=1e-9, atol=1e-12)
        assert once.feature_names == ("a", "b", "c")
        assert once.output_names == whole.output_names


@pytest.mark.parametrize("kind", KINDS)
def test_the_rank_of_values_is_that_of_the_target(kind, X, y):
    model = models()[kind]
    for target, shape in ((None, (40, 3)), (0, (40, 3)), ([1], (40, 3, 1)), ("all", (40, 3, 3))):
        ex = backlight.explain(model, X, target)
        assert ex.values.shape == shape
        assert ex.output.shape == ex.base_values.shape == ex.residual.shape == (40, *shape[2:])
        assert ex.dims == (("row", "feature") if len(shape) == 2 else ("row", "feature", "target"))


@pytest.mark.parametrize(
    "model", [LinearRegression(), MLPRegressor(hidden_layer_sizes=(4,), solver="lbfgs", max_iter=2000)]
)
def test_all_of_one_output_is_a_list_of_one(model, X):
    model = model.fit(X, X[:, 0])
    assert backlight.explain(model, X, "all").values.shape == (40, 3, 1)
    assert backlight.explain(nn.Linear(3, 1).double().eval(), X, "all").values.shape == (40, 3, 1)


@pytest.mark.parametrize("kind", ["network", "perceptron", "trees"])
@pytest.mark.parametrize("form", [np.asarray, tuple, lambda y: np.asarray(y, dtype=object)])
def test_a_name_a_row_is_read_in_any_form(kind, form, X, y):
    model = models()[kind]
    positions = np.searchsorted(model.classes_, y)
    by_name = backlight.explain(model, X, form(y), batch_size=11)

    assert np.array_equal(by_name.values, backlight.explain(model, X, positions, batch_size=11).values)
    one = backlight.explain(model, X, "birch")
    assert np.array_equal(one.values, backlight.explain(model, X, 1).values)
    assert one.output_names == ("birch",)
    assert backlight.explain(model, X, ["cedar", "ash"]).output_names == ("cedar", "ash")
    with pytest.raises(ArgumentError, match="39 indices for 40 rows"):
        backlight.explain(model, X, form(y[:-1]))
    with pytest.raises(ArgumentError, match=r"'oak' is not an output.*'ash', 'birch', 'cedar'"):
        backlight.explain(model, X, form(["oak", *y[1:]]))


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_a_row_follows_its_rows_through_a_stream(kind, X, y, rng):
    model = models()[kind]
    index = rng.integers(0, 3, 40)
    whole = backlight.explain(model, X, index)
    stream = backlight.explain(model, (X[i : i + 9] for i in range(0, 40, 9)), index)
    rows = np.array([backlight.explain(model, X[i : i + 1], int(k)).values[0] for i, k in enumerate(index)])

    np.testing.assert_allclose(stream.values, whole.values, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(rows, whole.values, rtol=1e-9, atol=1e-12)
    with pytest.raises(ArgumentError, match="row 30 has none"):
        backlight.explain(model, (X[i : i + 9] for i in range(0, 40, 9)), index[:30])


def test_an_output_is_chosen_with_its_ledger(X, y):
    ex = backlight.explain(LogisticRegression().fit(X, y), X, "all")
    for k, name in enumerate(ex.output_names):
        one = ex.output(name)
        np.testing.assert_allclose(one.ledger.entering[0], ex.output[:, k], rtol=1e-12)
        np.testing.assert_allclose(one.ledger.leaving[-1], one.values.sum(1), rtol=1e-9, atol=1e-12)


def test_strict_raises_the_same_error_for_every_kind(X):
    zero = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        zero.weight.copy_(torch.tensor([[1.0, -1.0, 0.0]]))
    same = nn.Sequential(zero, nn.Softplus()).eval()  # f(0) = log 2, and nothing enters
    with pytest.raises(ConservationError):
        backlight.explain(same, np.ones((2, 3)), rules=Zero(), strict=True)
    density = backlight.neuralize(KernelDensity().fit(X))
    Leaky = type(
        "Leaky", (type(density),), {"relevance": lambda self, *a, **k: _less(super(Leaky, self).relevance(*a, **k))}
    )
    density.__class__ = Leaky
    with pytest.raises(ConservationError, match="left unexplained"):
        backlight.Explainer(density, strict=True)(X)


def _less(found):
    found.values[:] *= 0.9
    return found


def test_threads_share_an_explainer(X, y):
    explainers = [backlight.Explainer(model) for model in models().values()]
    expected = [explainer(X).values for explainer in explainers]
    found = []

    def work():
        found.append([explainer(X).values for explainer in explainers])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 4
    for one in found:
        assert all(np.array_equal(a, b) for a, b in zip(one, expected, strict=True))


def test_a_changed_module_is_explained_as_it_is_now(X):
    net = module()
    explainer = backlight.Explainer(net, 0)
    before = explainer(X)
    with torch.no_grad():
        net[0].weight.mul_(2)
    np.testing.assert_array_equal(explainer(X).values, backlight.explain(net, X, 0).values)
    assert not np.allclose(explainer(X).values, before.values)


def test_a_classical_model_is_read_once(X):
    model = KMeans(3, n_init=1, random_state=0).fit(X)
    explainer = backlight.Explainer(model)
    before = explainer(X).values
    model.cluster_centers_ += 1.0
    assert np.array_equal(explainer(X).values, before)
    model.fit(X + 5)
    assert np.array_equal(explainer(X).values, before)
    model.fit(X[:, :1])  # it refuses the old rows now
    assert np.array_equal(explainer(X).values, before)


def test_a_model_that_counts_no_columns_is_opened_with_the_first_table(X):
    from backlight.classical import ModelSpec, Score
    from backlight.classical.layers.linear import Affine

    class Sum:
        def total(self, z):
            return z.sum(1)

    @backlight.neuralize.register(Sum)
    def spec(model):
        def layer(inputs):
            width = inputs.n_columns
            return Affine(torch.ones(1, width).double(), torch.zeros(1).double(), inputs.pullback)

        return ModelSpec("a sum", {"total": Score("total", layer, lambda m, z: m.total(np.asarray(z)))})

    explainer = backlight.Explainer(Sum())
    np.testing.assert_allclose(explainer(X).values, X, rtol=1e-12)
    named = backlight.Explainer(Sum(), feature_names=["a", "b", "c"])
    assert named(X).feature_names == ("a", "b", "c")


def test_values_changed_in_place_are_captured_without_rewriting_the_graph():
    """What torch's own rewriting takes longer for than the export; where somebody else reads the value, it is asked."""
    from backlight.engine.capture import _to_be_rewritten

    class Residual(nn.Module):
        def __init__(self, read_twice):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.read_twice = read_twice

        def forward(self, x):
            h = torch.relu_(self.first(x))
            y = self.second(h)
            z = y * 2 if self.read_twice else x
            y += h
            return torch.relu_(y) + z

    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.float64)
    for read_twice in (False, True):
        net = Residual(read_twice).double().eval()
        program = torch.export.export(net, (x,), strict=False)
        assert _to_be_rewritten(program.graph) is read_twice
        ex = backlight.explain(net, x, 1, rules=Zero())
        np.testing.assert_allclose(np.asarray(ex.output), net(x)[:, 1].detach(), rtol=1e-12)
        kept = ex.ledger.absorbed.sum(0)
        np.testing.assert_allclose(ex.values.sum(1) + kept, np.asarray(ex.output), rtol=1e-9, atol=1e-12)
