"""Explanations as ONNX: equal to the explainer in onnxruntime, for rows near and far, missing and unseen."""

import json

import numpy as np
import onnx
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PowerTransformer, StandardScaler
from sklearn.svm import SVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier

import backlight
from backlight import errors
from backlight._export.graphs.onnx import session
from tests import test_export as sql


def _inputs(rows, texts=("kind", "size")):
    """A data frame as the inputs of a graph that reads words: an empty word is no value."""
    return {
        name: np.array([[v if isinstance(v, str) else ""] for v in rows[name]], dtype=object)
        if name in texts
        else rows[name].to_numpy(dtype=float)[:, None]
        for name in rows
    }


def _run(path, inputs):
    found = session(path.read_bytes())
    return dict(zip([one.name for one in found.get_outputs()], found.run(None, inputs), strict=True))


def _require_equal(found, ex):
    size = np.abs(ex.values).sum(1) + np.abs(ex.output) + np.abs(ex.base_values)
    scale = np.maximum(1, size)
    for name, wanted in (("score", ex.output), ("base", ex.base_values), ("contributions", ex.values)):
        wanted = np.asarray(wanted)
        assert found[name].shape == wanted.shape, name
        off = np.abs(found[name] - wanted) / (scale[:, None] if name == "contributions" else scale)
        assert off.max() < 1e-9, name


@pytest.mark.parametrize("case", sql._CASES)
def test_the_numbers_of_a_graph_are_those_of_the_explainer(case, tmp_path):
    explainer, rows = sql._explainer(case), sql._new_rows()
    path = backlight.export(explainer, tmp_path / "reasons.onnx", rows=sql._FRAME)
    found, ex = _run(path, _inputs(rows)), explainer(rows)

    _require_equal(found, ex)
    if "target" in found:
        known = getattr(explainer._given, "classes_", [f"cluster {k}" for k in range(3)])
        assert found["target"].tolist() == [str(known[k]) for k in ex.annotations["target"]]


def test_a_table_of_numbers_is_one_matrix_and_says_its_columns(tmp_path):
    wine = load_wine()
    model = make_pipeline(StandardScaler(), PCA(5), SVC()).fit(wine.data, wine.target)
    explainer = backlight.Explainer(model, feature_names=wine.feature_names)
    path = backlight.export(explainer, tmp_path / "reasons.onnx")
    rng = np.random.default_rng(0)
    X = np.concatenate([wine.data, wine.data * rng.choice([1e-3, 1.0, 50.0], wine.data.shape)])
    found, ex = _run(path, {"X": X}), explainer(X)
    facts = {one.key: one.value for one in onnx.load(path).metadata_props}

    _require_equal(found, ex)
    assert json.loads(facts["feature_names"]) == wine.feature_names
    assert found["target"].tolist() == [str(k) for k in ex.annotations["target"]]


def test_a_row_that_is_refused_has_no_numbers(tmp_path):
    front = make_column_transformer((OneHotEncoder(), ["size"]), (StandardScaler(), ["b it's"]))
    model = make_pipeline(front, OneClassSVM(nu=0.4)).fit(sql._FRAME[["b it's", "size"]])
    path = backlight.export(backlight.Explainer(model), tmp_path / "q.onnx")
    cells = {"b it's": [1.0, 1.0, np.nan, np.inf, 1e200], "size": ["s", "new", "m", "s", "m"]}
    found = _run(path, {name: np.array(column, dtype=object if name == "size" else float)[:, None] for name, column in cells.items()})  # fmt: skip

    for name in ("score", "base", "contributions"):
        assert np.isfinite(found[name].reshape(5, -1)).all(1).tolist() == [True, False, False, False, False], name
        assert np.isnan(found[name].reshape(5, -1)[1:]).all(), name


def test_trees_send_missing_cells_their_way(tmp_path):
    X, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2
    X[::3, 0] = np.nan
    explainer = backlight.Explainer(DecisionTreeClassifier(random_state=0).fit(X, y), rules="path", target=1)
    path = backlight.export(explainer, tmp_path / "t.onnx")

    _require_equal(_run(path, {"X": X}), explainer(X))


def test_anchors_that_are_the_same_row_twice_are_left_out_as_the_explainer_does(tmp_path):
    X = np.random.default_rng(0).normal(size=(20, 3))
    X = np.concatenate([X, X[:5], X[:2]])
    for model in (
        KernelDensity(bandwidth=0.5),
        OneClassSVM(nu=0.9),
        KernelDensity(kernel="exponential", bandwidth=0.4),
    ):
        explainer = backlight.Explainer(model.fit(X))
        path = backlight.export(explainer, tmp_path / "d.onnx", force=True)
        _require_equal(_run(path, {"X": X}), explainer(X))


def test_single_precision_of_trees_is_kept_at_every_threshold(tmp_path):
    thresholds = np.float32([0.1, 1 / 3, 1e-40, -0.7])
    X = np.concatenate([np.nextafter(np.float64(t), s) for t in thresholds for s in (-np.inf, np.inf)] + [thresholds], axis=None)  # fmt: skip
    X = np.concatenate([X, X + 2.0**-27, X - 2.0**-27])[:, None]
    tree = DecisionTreeClassifier(random_state=0).fit(X, np.arange(len(X)) % 2)
    explainer = backlight.Explainer(tree, rules="path", feature_names=["a"], target=1)

    backlight.export(explainer, tmp_path / "t.onnx", rows=X)


def test_names_of_outputs_give_way_to_columns_of_the_same_name(tmp_path):
    frame = sql._FRAME[["a", "size"]].fillna(0).rename(columns={"a": "score"})
    front = make_column_transformer((OneHotEncoder(), ["size"]), remainder="passthrough")
    path = backlight.export(make_pipeline(front, LinearRegression()).fit(frame, frame["score"]), tmp_path / "a.onnx")

    assert {one.name for one in session(path.read_bytes()).get_outputs()} == {
        "backlight_score",
        "base",
        "contributions",
    }


def test_what_is_not_written_is_refused_by_name(tmp_path):
    X, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 2
    tree = DecisionTreeClassifier(max_depth=2, random_state=0).fit(X, y)
    power = make_pipeline(PowerTransformer(), LinearRegression()).fit(X, y)
    for explainer, name, said in (
        (backlight.Explainer(tree), "a.onnx", "rules='path'"),
        (backlight.Explainer(power), "a.onnx", "PowerTransformer is not written as a graph"),
    ):
        with pytest.raises(errors.BacklightError, match=said) as raised:
            backlight.export(explainer, tmp_path / name)
        assert len(str(raised.value)) < 200
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_when_the_numbers_differ(tmp_path, monkeypatch):
    from backlight._export.graphs import layers

    X, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 2
    monkeypatch.setattr(layers, "array", lambda tensor: np.asarray(tensor) + 1e-6)
    with pytest.raises(errors.ConservationError, match="nothing was written"):
        backlight.export(LogisticRegression().fit(X, y), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []
