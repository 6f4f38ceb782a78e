"""Explanations as a file of NumPy and as a program of torch: the numbers of the explainer, for any rows."""

import runpy
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PowerTransformer, StandardScaler
from sklearn.svm import SVC, SVR, OneClassSVM
from sklearn.tree import DecisionTreeClassifier
from torch import nn

import backlight
from backlight import errors
from tests import test_export as sql
from tests import test_export_networks as nets

_X = np.random.default_rng(0).normal(size=(50, 4))
_Y = np.arange(50) % 3
_MODELS = {
    "linear": (LinearRegression(), {}),
    "logistic": (LogisticRegression(), {"target": "all"}),
    "bayes": (GaussianNB(), {}),
    "mixture": (GaussianMixture(2, random_state=0), {}),
    "clusters": (KMeans(3, n_init=1, random_state=0), {}),
    "one-class": (OneClassSVM(nu=0.4), {}),
    "density": (KernelDensity(bandwidth=0.5), {}),
    "classifier": (SVC(), {}),
    "regression": (SVR(), {}),
    "forest": (RandomForestClassifier(3, max_depth=4, random_state=0), {"rules": "path"}),
}


def _python(path):
    return runpy.run_path(str(path))["explain"]


def _torch(path):
    module = torch.export.load(path).module()

    def run(X):
        with torch.no_grad():
            return {name: value.numpy() for name, value in module(torch.from_numpy(X)).items()}

    return run


def _require_equal(found, ex, tolerance=1e-9):
    for name, wanted in (("score", ex.output), ("base", ex.base_values), ("contributions", ex.values)):
        wanted = np.asarray(wanted)
        assert found[name].shape == wanted.shape, name
        size = np.maximum(1, np.abs(ex.values).sum(1).max() + np.abs(ex.output).max() + np.abs(ex.base_values).max())
        assert np.abs(found[name] - wanted).max() <= tolerance * size, name


@pytest.mark.parametrize("case", sql._CASES)
def test_a_file_of_numpy_has_the_numbers_of_the_explainer(case, tmp_path):
    explainer, rows = sql._explainer(case), sql._new_rows()
    path = backlight.export(explainer, tmp_path / "reasons.py", rows=sql._FRAME)
    found, ex = _python(path)(rows), explainer(rows)

    _require_equal(found, ex)
    if "target" in found:
        known = getattr(explainer._given, "classes_", [f"cluster {k}" for k in range(3)])
        assert found["target"].tolist() == [str(known[k]) for k in ex.annotations["target"]]


@pytest.mark.parametrize("name", _MODELS)
def test_a_program_of_torch_has_the_numbers_of_the_explainer(name, tmp_path):
    model, options = _MODELS[name]
    front = [StandardScaler()] if name == "forest" else [StandardScaler(), PCA(3)]
    explainer = backlight.Explainer(make_pipeline(*front, model).fit(_X, _Y), **options)
    path = backlight.export(explainer, tmp_path / "reasons.pt2")
    for rows in (np.concatenate([_X, _X * 30, _X + 1e-3]), _X[:1]):
        _require_equal(_torch(path)(rows), explainer(rows))


@pytest.mark.parametrize(
    ("name", "kind", "tolerance"),
    [*((name, torch.float64, 1e-9) for name in nets.NETWORKS), ("residual", torch.float32, 1e-4)],
)
def test_a_networks_explanation_is_a_program_of_torch(name, kind, tolerance, tmp_path):
    net, shape = nets._network(name)
    x = torch.randn(7, *shape, generator=torch.Generator().manual_seed(1)).to(kind)
    explainer = backlight.Explainer(net.to(kind))
    path = backlight.export(explainer, tmp_path / "reasons.pt2", rows=x)
    for rows in (x, x[:1]):
        _require_equal(_torch(path)(rows.numpy()), explainer(rows), tolerance)


@pytest.mark.parametrize("name", [name for name, (_, shape) in nets.NETWORKS.items() if shape == (5,)])
def test_a_dense_networks_explanation_is_a_file_of_numpy(name, tmp_path):
    net, shape = nets._network(name)
    explainer = backlight.Explainer(net.double(), target="all")
    x = torch.randn(7, *shape, generator=torch.Generator().manual_seed(1)).double()
    path = backlight.export(explainer, tmp_path / "reasons.py", rows=x)

    _require_equal(_python(path)(x.numpy()), explainer(x))


def test_the_file_needs_nothing_but_numpy(tmp_path):
    explainer = backlight.Explainer(make_pipeline(StandardScaler(), OneClassSVM()).fit(_X))
    path = backlight.export(explainer, tmp_path / "reasons.py")
    code = (
        f"import runpy, sys; import numpy as np; before = set(sys.modules)\n"
        f"explain = runpy.run_path({str(path)!r})['explain']\n"
        f"print(repr(explain([[0.0, 1.0, 2.0, 3.0]])['score'].tolist()))\n"
        f"assert explain(np.zeros((0, 4)))['contributions'].shape == (0, 4)\n"
        f"assert len(explain(np.zeros((5000, 4)))['score']) == 5000\n"
        f"assert not {{'torch', 'sklearn', 'scipy', 'backlight'}} & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)

    assert eval(run.stdout) == pytest.approx(explainer([[0.0, 1.0, 2.0, 3.0]]).output[:].tolist(), rel=1e-12)  # noqa: S307


_NAMES = ['a"""', "b'\n", "import os # \\", "c\x00é\u2028"]


def test_names_and_categories_are_literals_whatever_they_are(tmp_path):
    frame = pd.DataFrame({name: pd.Series(np.array(_NAMES, dtype=object)[(np.arange(20) + k) % 4]) for k, name in enumerate(_NAMES)})  # fmt: skip
    y = np.array(['"""', "\\'"], dtype=object)[np.arange(20) % 2]
    model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()).fit(frame, y)
    explainer = backlight.Explainer(model)
    path = backlight.export(explainer, tmp_path / "reasons.py")
    found, ex = _python(path)(frame), explainer(frame)

    assert path.read_bytes().isascii()
    _require_equal(found, ex)
    assert set(found["target"]) <= {'"""', "\\'"}


def test_a_row_that_is_refused_has_no_numbers(tmp_path):
    explainer = backlight.Explainer(make_pipeline(StandardScaler(), OneClassSVM()).fit(_X))
    rows = np.array([[0.0] * 4, [np.nan, 0, 0, 0], [0, np.inf, 0, 0], [0, 0, 1e200, 0]])
    for ending, opened in ((".py", _python), (".pt2", _torch)):
        path = backlight.export(explainer, tmp_path / f"reasons{ending}")
        found = opened(path)(rows)
        for name in ("score", "base", "contributions"):
            assert np.isnan(found[name].reshape(4, -1)).all(1).tolist() == [False, True, True, True], name


def test_trees_send_missing_cells_their_way(tmp_path):
    X = _X.copy()
    X[::3, 0] = np.nan
    explainer = backlight.Explainer(DecisionTreeClassifier(random_state=0).fit(X, _Y), rules="path", target=1)
    for ending, opened in ((".py", _python), (".pt2", _torch)):
        path = backlight.export(explainer, tmp_path / f"reasons{ending}")
        _require_equal(opened(path)(X), explainer(X))


def test_what_is_not_written_is_refused_by_name(tmp_path):
    pictures, shape = nets._network("small picture network")
    power = make_pipeline(PowerTransformer(), LinearRegression()).fit(_X, _Y)
    words = sql._explainer("linear")
    attention = nn.Sequential(
        nn.Unflatten(1, (4, 1)), nn.TransformerEncoderLayer(1, 1, 4, batch_first=True), nn.Flatten()
    ).eval()
    for given, ending, rows, said in (
        (power, ".py", None, "PowerTransformer is not written as a graph"),
        (power, ".pt2", None, "PowerTransformer is not written as a graph"),
        (words, ".pt2", None, "reads numbers alone"),
        (pictures, ".py", torch.ones(4, *shape), "Conv is not written in NumPy"),
        (attention, ".pt2", torch.ones(4, 4), "operator .* is not written as a graph"),
    ):
        with pytest.raises(errors.BacklightError, match=said) as raised:
            backlight.export(given, tmp_path / f"a{ending}", rows=rows)
        assert len(str(raised.value)) < 200
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [".py", ".pt2"])
def test_nothing_is_written_when_the_numbers_differ(ending, tmp_path, monkeypatch):
    from backlight._export.graphs import layers

    monkeypatch.setattr(layers, "array", lambda tensor: np.asarray(tensor) + 1e-6)
    with pytest.raises(errors.ConservationError, match="nothing was written"):
        backlight.export(LinearRegression().fit(_X, _Y), tmp_path / f"a{ending}")
    assert list(tmp_path.iterdir()) == []
