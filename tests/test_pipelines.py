"""Whole pipelines: equal scores, relevance on the original columns, everything else refused by name."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, make_column_selector, make_column_transformer
from sklearn.decomposition import PCA, KernelPCA
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import OneClassSVM
from sklearn.utils.fixes import parse_version

import backlight
from tests.conftest import examples, same, standardised

ESTIMATORS = [OneClassSVM(nu=0.2), KernelDensity(bandwidth=0.7)]


def assert_exact(model, X):
    for score in ("outlierness", "inlierness", "score_samples"):
        net = backlight.neuralize(model, score=score)
        reference = net.reference_score(X)
        ex = backlight.explain(net, X)
        assert np.abs(net(X).numpy() - reference).max() <= 1e-10 * max(1, np.abs(reference).max())
        assert np.abs(ex.residual).max() <= 1e-9 * max(1, np.abs(ex.values).sum(1).max())
    return ex


def mixed(n=200, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "temperature": rng.normal(300, 5, n),
            "pressure": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
            "colour": rng.choice(["red", "green", "blue"], n),
            "code": rng.choice([1, 2, 3], n),
            "rare": rng.choice(["common"] * 20 + ["odd", "strange"], n),
        }
    )
    frame.loc[3, "colour"] = None
    return frame


NUMBERS = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=["ocsvm", "kde"])
@pytest.mark.parametrize(
    "front",
    [
        [StandardScaler()],
        [StandardScaler(with_mean=False)],
        [StandardScaler(with_std=False)],
        [RobustScaler()],
        [MinMaxScaler()],
        [MinMaxScaler(clip=True)],
        [MaxAbsScaler()],
        ["passthrough", FunctionTransformer(), StandardScaler()],
        [StandardScaler(), PCA(4)],
        [PCA(4, whiten=True)],
        [StandardScaler(), PCA(5), MinMaxScaler(), PCA(2, whiten=True), RobustScaler()],
        [SimpleImputer(), PCA()],
    ],
    ids=str,
)
def test_numeric_front_ends_are_exact(front, estimator, rng):
    X = standardised("wine") * 3 + 1e3
    model = make_pipeline(*front, estimator).fit(X)

    assert_exact(model, np.r_[X, X[:20] + rng.normal(size=(20, 13)) * 5])


def test_a_diagonal_scaler_passes_relevance_through_unchanged(rng):
    X = standardised("wine")
    scale = rng.uniform(0.1, 100, 13)
    plain = OneClassSVM(nu=0.1, gamma=0.05).fit(X)
    scaled = make_pipeline(StandardScaler(), OneClassSVM(nu=0.1, gamma=0.05)).fit(X * scale + 7)

    a = backlight.explain(plain, X[:30] + 0.1)
    b = backlight.explain(scaled, (X[:30] + 0.1) * scale + 7)
    assert np.allclose(a.values, b.values, rtol=1e-3)  # libsvm stops at 1e-3


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=["ocsvm", "kde"])
@pytest.mark.parametrize(
    "blocks",
    [
        [("n", NUMBERS, ["temperature", "pressure"]), ("c", OneHotEncoder(handle_unknown="ignore"), ["colour", "code"])],
        [("n", NUMBERS, ["temperature"]), ("c", OneHotEncoder(drop="first"), ["colour", "code"])],
        [("c", OneHotEncoder(drop="if_binary"), ["colour", "rare"]), ("p", "passthrough", ["temperature"])],
        [("c", OneHotEncoder(min_frequency=25, handle_unknown="infrequent_if_exist"), ["rare"]), ("n", NUMBERS, ["pressure"])],
        [("c", OneHotEncoder(max_categories=2), ["colour"]), ("n", NUMBERS, ["pressure"])],
        [("t", make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()), ["colour", "rare"])],
        [("n", make_pipeline(SimpleImputer(), StandardScaler(), PCA(1)), ["temperature", "pressure"]), ("c", OneHotEncoder(), ["code"])],
        [("n", NUMBERS, make_column_selector(dtype_include=float)), ("d", "drop", ["rare"])],
    ],
    ids=["plain", "drop-first", "drop-binary", "infrequent", "max-categories", "text-imputer", "pca-inside", "selector"],
)  # fmt: skip
def test_column_transformers_are_exact(blocks, estimator):
    frame = mixed()
    model = make_pipeline(ColumnTransformer(blocks, sparse_threshold=0), estimator).fit(frame)

    ex = assert_exact(model, frame)

    assert ex.feature_names == tuple(frame.columns)
    used = {name for _, what, names in blocks if isinstance(names, list) and what != "drop" for name in names}
    for name in set(frame.columns) - used if all(isinstance(b[2], list) for b in blocks) else ():
        assert (ex[name].values == 0).all()


def test_sparse_output_weights_and_nested_pipelines_are_exact():
    frame = mixed()
    inner = ColumnTransformer(
        [("n", NUMBERS, ["temperature", "pressure"]), ("c", OneHotEncoder(), ["colour", "code"])],
        transformer_weights={"n": 2.0, "c": 0.5},
        sparse_threshold=1.0,
    )
    assert_exact(Pipeline([("a", Pipeline([("b", inner)])), ("end", OneClassSVM(nu=0.2))]).fit(frame), frame)


def test_a_tensor_is_taken_as_encoded():
    frame = mixed()
    front = ColumnTransformer(
        [("n", NUMBERS, ["temperature", "pressure"]), ("c", OneHotEncoder(sparse_output=False), ["colour"])]
    )
    model = make_pipeline(front, KernelDensity(bandwidth=0.7)).fit(frame)
    net = backlight.neuralize(model)
    coded = net.encode(frame)

    assert same(net(coded), net(frame))
    assert same(backlight.explain(model, coded).values, backlight.explain(model, frame).values)


@pytest.mark.parametrize("remainder", ["passthrough", "drop", StandardScaler()], ids=str)
def test_remainders_are_carried(remainder):
    frame = mixed()[["colour", "temperature", "code"]]
    front = ColumnTransformer([("c", OneHotEncoder(sparse_output=False), ["colour"])], remainder=remainder)
    assert_exact(make_pipeline(front, SimpleImputer(), KernelDensity()).fit(frame), frame)


def test_columns_by_position_slice_and_pandas_output_are_carried():
    frame = mixed()[["colour", "temperature", "code"]]
    front = ColumnTransformer([("c", OneHotEncoder(sparse_output=False), [0]), ("n", StandardScaler(), slice(1, 3))])
    assert_exact(make_pipeline(front.set_output(transform="pandas"), OneClassSVM(nu=0.2)).fit(frame), frame)


@pytest.mark.parametrize(
    "imputer",
    [
        SimpleImputer(add_indicator=True, keep_empty_features=True),
        SimpleImputer(add_indicator=True, keep_empty_features=False),
        SimpleImputer(strategy="constant", fill_value=7, keep_empty_features=True),
    ],
    ids=str,
)
def test_columns_without_any_value_are_imputed_or_dropped_as_scikit_learn_does(imputer):
    X = np.c_[mixed()[["temperature", "pressure"]].to_numpy(), np.full(200, np.nan)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn says that it skips the empty column
        assert_exact(make_pipeline(imputer, StandardScaler(), KernelDensity()).fit(X), X)


def test_a_number_can_stand_for_missing():
    X = mixed()[["temperature", "pressure"]].fillna(-1).to_numpy()
    assert_exact(make_pipeline(SimpleImputer(missing_values=-1), StandardScaler(), KernelDensity()).fit(X), X)


def test_columns_named_by_numbers_and_categorical_columns_are_read():
    frame = mixed()[["temperature", "code"]].set_axis([0, 1], axis=1)
    assert assert_exact(make_pipeline(StandardScaler(), KernelDensity()).fit(frame), frame).feature_names == ("0", "1")
    frame = pd.DataFrame({"x": pd.Categorical(mixed()["colour"].fillna("none")), "y": mixed()["code"] > 1})
    assert_exact(make_pipeline(OneHotEncoder(sparse_output=False), KernelDensity()).fit(frame), frame)


def test_one_hot_blocks_are_summed_to_their_column():
    """The sum over a block equals the relevance of its indicators in the encoded table."""
    frame = mixed()
    front = ColumnTransformer(
        [
            ("n", StandardScaler(), ["temperature"]),
            ("c", OneHotEncoder(sparse_output=False), ["colour", "code"]),
        ]
    )
    Z = front.fit_transform(frame)
    inner = KernelDensity(bandwidth=0.7).fit(Z)

    whole = backlight.explain(make_pipeline(front, inner), frame)
    parts = backlight.explain(inner, Z).values

    assert np.allclose(whole["temperature"].values[:, 0], parts[:, 0], atol=1e-12)
    assert np.allclose(whole["colour"].values[:, 0], parts[:, 1:5].sum(1), atol=1e-12)
    assert np.allclose(whole["code"].values[:, 0], parts[:, 5:].sum(1), atol=1e-12)


def test_imputed_cells_are_marked_and_explained_by_their_indicator():
    frame = mixed()[["temperature", "pressure"]]
    ex = backlight.explain(make_pipeline(NUMBERS, KernelDensity(bandwidth=0.7)).fit(frame), frame)

    assert np.array_equal(ex.annotations["imputed"], frame.isna().to_numpy())
    assert np.isnan(ex.data[ex.annotations["imputed"]]).all()
    assert (ex["pressure"].values[ex.annotations["imputed"][:, 1]] > 0).all()


def test_what_a_projection_discards_is_reported_and_carries_no_relevance(rng):
    X = rng.normal(size=(200, 4)) * [5, 4, 0.1, 0.1]
    model = make_pipeline(PCA(2), KernelDensity()).fit(X)
    pca = model[0]
    row = X[:1] + 30 * np.eye(4)[3] @ (np.eye(4) - pca.components_.T @ pca.components_)

    ex, plain = backlight.explain(model, row), backlight.explain(model, X[:1] + 1e-9)

    assert ex.annotations["discarded"][0] > 0.8
    assert np.allclose(ex.output, plain.output, atol=1e-6)
    residual = row - pca.inverse_transform(pca.transform(row))
    share = (residual**2).sum() / ((row - pca.mean_) ** 2).sum()
    assert np.allclose(ex.annotations["discarded"], share, rtol=1e-10)


@pytest.mark.parametrize(
    "convert",
    [pl.from_pandas, pa.Table.from_pandas, lambda frame: frame],
    ids=["polars", "pyarrow", "pandas"],
)
def test_data_frames_of_every_library_fit_explain_and_come_back_as_they_came(convert):
    frame = convert(mixed())
    if type(frame).__module__.startswith("pyarrow") and parse_version(sklearn.__version__) < parse_version("1.9"):
        pytest.skip("this scikit-learn cannot fit a ColumnTransformer on a pyarrow table")
    model = make_pipeline(
        ColumnTransformer(
            [
                ("n", NUMBERS, ["temperature", "pressure"]),
                ("c", OneHotEncoder(sparse_output=False), ["colour"]),
            ]
        ),
        KernelDensity(bandwidth=0.7),
    ).fit(frame)

    ex = assert_exact(model, frame)

    assert type(ex.to_frame()) is type(frame)
    same = clone(model).fit(mixed())
    assert np.allclose(ex.values, backlight.explain(same, mixed(), score="score_samples").values, rtol=1e-12)


def test_a_pandas_index_is_kept():
    frame = mixed()[["temperature"]].rename(index=lambda i: f"pump {i}")
    ex = backlight.explain(KernelDensity().fit(frame), frame)

    assert ex.to_frame().index[7] == "pump 7"
    assert "row pump 0:" in repr(ex)


def test_columns_are_matched_by_name_and_named_when_they_differ():
    frame = mixed()[["temperature", "code"]]
    model = make_pipeline(StandardScaler(), KernelDensity()).fit(frame)

    swapped = backlight.explain(model, frame[["code", "temperature"]])
    assert np.allclose(swapped.values, backlight.explain(model, frame).values)
    with pytest.raises(backlight.errors.ColumnsError, match=r"missing: code; unknown to the model: kind"):
        backlight.explain(model, frame.rename(columns={"code": "kind"}))
    with pytest.raises(
        backlight.errors.ColumnsError, match="3 columns, but the model was fitted on 2: temperature, code"
    ):
        backlight.explain(model, np.zeros((2, 3)))


def test_a_table_of_another_library_than_the_one_fitted_on():
    """scikit-learn's column transformers take no Arrow table; here it is the same table as the others."""
    frame = pd.DataFrame({"size": ["s", "m", "l"] * 20, "weight": np.arange(60.0)})
    front = make_column_transformer((OneHotEncoder(), ["size"]), remainder="passthrough")
    model = make_pipeline(front, Ridge()).fit(frame, frame["weight"])
    wanted = backlight.explain(model, frame).values
    for other in (pl.DataFrame, pa.table):
        found = backlight.explain(model, other(frame.to_dict("list")))
        np.testing.assert_allclose(found.values, wanted, rtol=1e-12, atol=1e-12)


def test_an_unseen_category_is_zero_or_an_error_as_the_encoder_says():
    frame = mixed()[["colour", "code"]].iloc[4:].reset_index(drop=True)
    new = frame.iloc[:3].copy()
    new.loc[0, "colour"] = "ultraviolet"
    for rule in ("ignore", "infrequent_if_exist"):
        encoder = OneHotEncoder(handle_unknown=rule, sparse_output=False)
        assert_exact(make_pipeline(encoder, KernelDensity()).fit(frame), new)
    strict = make_pipeline(OneHotEncoder(sparse_output=False), KernelDensity()).fit(frame)
    with pytest.raises(backlight.errors.DataError, match="row 0 has a category in encoded column 0"):
        backlight.explain(strict, new)


def test_text_where_numbers_are_expected_is_named():
    model = make_pipeline(StandardScaler(), KernelDensity()).fit(mixed()[["temperature"]])
    with pytest.raises(backlight.errors.DataError, match="'temperature' holds 'hot' in row 1"):
        backlight.explain(model, pd.DataFrame({"temperature": [1.0, "hot"]}))


def backwards(X):
    return X[:, ::-1]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (KernelPCA(2), r"sklearn\.decomposition\.KernelPCA: apply it to the table"),
        (FunctionTransformer(backwards), "FunctionTransformer.*backwards"),
        (SimpleImputer(missing_values="x", strategy="constant", fill_value="y"), "missing_values='x'"),
    ],
)
def test_transformers_that_cannot_be_carried_back_are_refused_by_name(step, said):
    numeric = not isinstance(step, SimpleImputer)
    X = standardised("wine") if numeric else mixed()[["colour"]].fillna("x").to_numpy(dtype=object)
    steps = [step] if numeric else [step, OneHotEncoder(sparse_output=False)]
    with pytest.raises(backlight.errors.UnsupportedModel, match=said):
        backlight.neuralize(make_pipeline(*steps, KernelDensity()).fit(X))


@pytest.mark.parametrize("missing", [None, np.nan])
def test_none_and_nan_are_kept_apart_as_scikit_learn_does(missing):
    """Trap: SimpleImputer(missing_values=nan) leaves None alone, and OneHotEncoder makes it a category."""
    X = np.array([["a"], ["b"], [None], [np.nan], ["a"], ["b"]] * 5, dtype=object)
    front = [SimpleImputer(missing_values=missing, strategy="most_frequent"), OneHotEncoder(sparse_output=False)]
    rows = X if missing is np.nan else X[[row[0] == row[0] for row in X]]
    model = make_pipeline(*front, KernelDensity(bandwidth=0.7)).fit(rows)

    ex = assert_exact(model, rows)

    assert (ex.annotations["imputed"][:, 0] == [row[0] is None or row[0] != row[0] for row in rows]).all()


def test_dropped_and_infrequent_categories_together_are_refused():
    encoder = OneHotEncoder(drop="first", min_frequency=25, sparse_output=False)
    with pytest.raises(backlight.errors.UnsupportedModel, match="together with infrequent categories"):
        backlight.neuralize(make_pipeline(encoder, KernelDensity()).fit(mixed()[["rare"]]))


@given(data=st.data())
@settings(max_examples=examples(25))
def test_random_pipelines_are_exact(data):
    seed = data.draw(st.integers(0, 1000))
    frame = mixed(n=60, seed=seed)
    scaler = data.draw(st.sampled_from([StandardScaler(), RobustScaler(), MinMaxScaler(), MaxAbsScaler()]))
    imputer = SimpleImputer(
        strategy=data.draw(st.sampled_from(["mean", "median", "most_frequent"])),
        add_indicator=data.draw(st.booleans()),
    )
    encoder = OneHotEncoder(drop=data.draw(st.sampled_from([None, "first"])), sparse_output=False)
    front = ColumnTransformer(
        [
            ("n", make_pipeline(imputer, scaler), ["pressure", "temperature"]),
            ("c", encoder, ["code", "colour"]),
        ],
        remainder="drop",
    )
    after = data.draw(
        st.sampled_from([[], [PCA(3)], [PCA(3, whiten=True)], [StandardScaler(), PCA(2), StandardScaler()]])
    )
    estimator = data.draw(st.sampled_from(ESTIMATORS))
    assert_exact(make_pipeline(front, *after, estimator).fit(frame), frame)
