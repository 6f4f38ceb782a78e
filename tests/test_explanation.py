"""The result type: laws of slicing, files, neighbours' formats."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KernelDensity

import backlight
from backlight import Explanation
from backlight.errors import ArgumentError, ExistingFileError, FileError, MissingFileError, NameNotFound
from tests.conftest import standardised


def example(n=6, d=3, targets=None, seed=0):
    rng = np.random.default_rng(seed)
    shape = (n,) if targets is None else (n, targets)
    values = rng.normal(size=(n, d) if targets is None else (n, d, targets))
    base = rng.normal(size=shape)
    return Explanation(
        values=values,
        output=base + values.sum(1),
        base_values=base,
        data=rng.normal(size=(n, d)),
        feature_names=[f"f{j}" for j in range(d)],
        output_names=["score"] if targets is None else [f"class {k}" for k in range(targets)],
        provenance={"seed": seed},
        annotations={"imputed": rng.random((n, d)) < 0.5, "self_anchor": rng.random(n) < 0.5},
    )


def same(a, b):
    assert np.array_equal(a.values, b.values)
    assert np.array_equal(a.output, b.output)
    assert np.array_equal(a.base_values, b.base_values)
    assert a.feature_names == b.feature_names
    if a.data is None:
        assert b.data is None
    elif a.data.dtype == object:
        assert a.data.tolist() == b.data.tolist()
    else:
        assert np.array_equal(a.data, b.data, equal_nan=True)
    assert a.annotations.keys() == b.annotations.keys()
    for key, value in a.annotations.items():
        assert np.array_equal(value, b.annotations[key])


@given(n=st.integers(1, 8), d=st.integers(1, 5), data=st.data())
def test_slices_of_rows_and_features_keep_the_sum(n, d, data):
    ex = example(n, d)
    names = data.draw(st.lists(st.sampled_from(ex.feature_names), min_size=1, unique=True))
    rows = data.draw(
        st.one_of(st.integers(0, n - 1), st.slices(n), st.lists(st.booleans(), min_size=n, max_size=n).map(np.array))
    )

    part = ex[rows][names]

    assert np.allclose(part.output, part.base_values + part.values.sum(1) + part.residual)
    assert np.allclose(part.residual, np.atleast_1d(ex.residual[rows]), atol=1e-12)
    assert part.values.shape == part.data.shape == part.annotations["imputed"].shape
    same(part, ex[rows, names])


def test_slices_are_found_by_row_name_and_output():
    ex = example(targets=2)

    assert ex[3].values.shape == (1, 3, 2)
    assert np.array_equal(ex[-1].values, ex[5:].values)
    assert ex["f1"].values.shape == (6, 1, 2)
    one = ex.output("class 1")
    assert one.target == "class 1"
    assert np.array_equal(one.values, ex.values[..., 1])
    assert np.array_equal(one.output, ex.output[:, 1])
    assert np.array_equal(ex[:, ["f2", "f0"]].values, ex.values[:, [2, 0]])
    assert ex[2, "f1"].values.shape == (1, 1, 2)
    assert np.array_equal(ex[:, 1:].values, ex.values[:, 1:])
    assert np.array_equal(ex[:, -1].values, ex.values[:, -1:])
    assert np.array_equal(ex[:, np.array([True, False, True])].values, ex.values[:, ::2])


def test_unknown_names_are_answered_with_the_known_ones():
    ex = example(targets=2)
    with pytest.raises(NameNotFound, match="no feature 'age': the features are f0, f1, f2"):
        ex["age"]
    with pytest.raises(KeyError, match="no output 'fraud': the outputs are class 0, class 1"):
        ex.output("fraud")
    with pytest.raises(IndexError, match="row 6 of an explanation of 6 rows"):
        ex[6]


def test_an_explanation_cannot_be_changed():
    ex = example()
    with pytest.raises(AttributeError):
        ex.target = "other"
    with pytest.raises(ValueError, match="read-only"):
        ex.values[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        ex.output[0] = 1
    with pytest.raises(TypeError):
        ex.provenance["seed"] = 2


def test_shapes_that_contradict_each_other_are_refused():
    with pytest.raises(ArgumentError, match="2 feature names for 3 features"):
        Explanation(np.zeros((4, 3)), np.zeros(4), np.zeros(4), feature_names=["a", "b"])
    with pytest.raises(ArgumentError, match="must agree"):
        Explanation(np.zeros((4, 3)), np.zeros(3), np.zeros(3))
    with pytest.raises(ArgumentError, match="row axis"):
        Explanation(np.zeros(4), np.zeros(4), np.zeros(4))


def test_top_orders_by_size_and_keeps_signs():
    ex = Explanation([[1.0, -3.0, 2.0]], [0.0], [0.0], feature_names=["a", "b", "c"])

    assert ex.top(2) == [[("b", -3.0), ("c", 2.0)]]
    assert ex[0].top(1) == [[("b", -3.0)]]


def test_tables_have_one_column_a_feature_and_survive_unlucky_names():
    ex = Explanation([[1.0, 2.0]], [3.5], [0.5], feature_names=["output", "b"])

    frame = ex.to_frame()

    assert list(frame.columns) == ["output", "b", "backlight_output", "base_value", "residual"]
    assert frame["output"][0] == 1.0
    assert frame["backlight_output"][0] == 3.5


def test_every_arrow_reader_reads_it():
    ex = example()

    assert pl.DataFrame(ex)["f1"].to_numpy().tolist() == ex.values[:, 1].tolist()
    assert pa.table(ex).column_names == ["f0", "f1", "f2", "output", "base_value", "residual"]
    if hasattr(pd.DataFrame, "from_arrow"):  # pandas 3
        assert pd.DataFrame.from_arrow(ex).shape == (6, 6)


@pytest.mark.parametrize("ending", ["parquet", "safetensors"])
def test_what_is_saved_is_loaded(ending, tmp_path):
    X = standardised("wine")
    ex = backlight.explain(KernelDensity().fit(X), X[:20])
    path = tmp_path / f"why.{ending}"

    ex.save(path)
    back = Explanation.load(path)

    same(ex, back)
    assert dict(back.provenance) == dict(ex.provenance)
    assert np.array_equal(back.ledger.entering, ex.ledger.entering)
    assert repr(back.ledger) == repr(ex.ledger)
    with pytest.raises(ExistingFileError, match="exists already"):
        ex.save(path)
    ex.save(path, force=True)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ["parquet", "safetensors"])
def test_text_cells_and_row_names_survive_a_file(ending, tmp_path):
    cells = np.array([[1.0, "x"], [2.0, None]], dtype=object)
    labels = np.array(["first", "second"])
    ex = Explanation(np.ones((2, 2)), [2.0, 2.0], [0.0, 0.0], data=cells, feature_names=["a", "b"], labels=labels)
    ex.save(tmp_path / f"e.{ending}")

    back = Explanation.load(tmp_path / f"e.{ending}")

    same(ex, back)
    assert back.labels.tolist() == ["first", "second"]


def test_several_targets_and_images_are_saved_as_tensors(tmp_path):
    image = Explanation(np.ones((2, 3, 4, 4)), [48.0, 48.0], [0.0, 0.0], dims=("row", "channel", "y", "x"))
    for ex in (image, example(targets=2)):
        ex.save(tmp_path / "e.safetensors", force=True)
        same(ex, Explanation.load(tmp_path / "e.safetensors"))
    with pytest.raises(ArgumentError, match=r"save as \.safetensors"):
        image.save(tmp_path / "e.parquet")
    assert not (tmp_path / "e.parquet").exists()


def test_parquet_files_are_plain_tables_for_others(tmp_path):
    ex = example()
    ex.save(tmp_path / "e.parquet")

    assert pl.read_parquet(tmp_path / "e.parquet")["f0"].to_list() == ex.values[:, 0].tolist()


def test_files_that_hold_no_explanation_are_refused(tmp_path):
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(FileError, match="holds no explanation"):
        Explanation.load(tmp_path / "other.parquet")
    with pytest.raises(FileError, match="cannot be read as an explanation"):
        Explanation.load(tmp_path / "broken.parquet")
    with pytest.raises(FileError, match="cannot be read as an explanation"):
        Explanation.load(tmp_path / "broken.safetensors")
    with pytest.raises(MissingFileError, match="is not a file"):
        Explanation.load(tmp_path / "nothing.parquet")
    with pytest.raises(FileError, match=r"must end in \.parquet or \.safetensors"):
        example().save(tmp_path / "e.pkl")


def test_to_shap_is_a_genuine_shap_explanation():
    shap = pytest.importorskip("shap", reason="the extra 'shap' is not installed")
    ex = example()

    assert isinstance(ex.to_shap(), shap.Explanation)
    assert np.array_equal(ex.to_shap().values, ex.values)


def test_the_printed_form_has_at_most_a_dozen_lines_and_the_residual():
    text = repr(example(n=100, d=40))

    assert len(text.splitlines()) <= 12
    assert "largest |residual|" in text
    assert "row 0:" in text


def test_the_notebook_form_escapes_what_users_wrote():
    ex = Explanation([[1.0]], [1.0], [0.0], data=np.array([["<b>x</b>"]], dtype=object), feature_names=["<script>"])

    html = ex._repr_html_()

    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;x" in html


def test_the_ledger_accounts_for_every_layer():
    X = standardised("wine")
    ex = backlight.explain(KernelDensity().fit(X), X[:10] + 0.01, rules="free")

    assert ex.ledger.layers == ("score: outlierness", "soft-min pool", "distance")
    assert np.allclose(ex.ledger.absorbed.sum(0), ex.output - ex.values.sum(1))
    assert np.allclose(ex.ledger.absorbed[:2].sum(0), ex.base_values)
    assert "Free(leave_self_out=True)" in repr(ex.ledger)
    assert len(ex[:4].ledger.to_frame()) == 3
