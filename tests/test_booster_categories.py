"""Boosters fitted on data frames with columns of categories: codes, unseen and missing levels, exact contributions."""

import itertools
import math
import pickle

import numpy as np
import pytest

import backlight

pd = pytest.importorskip("pandas")
RNG = np.random.default_rng(0)
N = 240


def table(missing=True):
    city = RNG.choice(["u", "x", "z", "w", "v"], N).astype(object)
    if missing:
        city[::17] = None
    levels = {"city": pd.Categorical(city), "k": pd.Categorical(RNG.choice([3, 7, 9], N)), "b": RNG.integers(0, 5, N)}
    return pd.DataFrame({"a": RNG.normal(size=N), **levels})


FRAME = table()
NUMBER = np.asarray(FRAME.a + FRAME.city.cat.codes % 2 * 2 + (FRAME.k == 7) * 1.5)
CLASSES = (2 * NUMBER).astype(int) % 3


def models():
    xgb, lgb = pytest.importorskip("xgboost"), pytest.importorskip("lightgbm")
    small = {"n_estimators": 5, "verbose": -1, "min_data_per_group": 5, "cat_smooth": 1}
    partitions = {"n_estimators": 5, "max_depth": 4, "enable_categorical": True}
    return {
        "xgboost": (xgb.XGBRegressor(max_cat_to_onehot=2, **partitions), NUMBER),
        "xgboost, one level a split": (xgb.XGBRegressor(max_cat_to_onehot=20, **partitions), NUMBER),
        "xgboost, classes": (xgb.XGBClassifier(**partitions), CLASSES),
        "lightgbm": (lgb.LGBMRegressor(**small), NUMBER),
        "lightgbm, classes": (lgb.LGBMClassifier(**small), CLASSES),
    }


def contributions(model, X):
    if hasattr(model, "booster_"):
        found = np.asarray(model.booster_.predict(X, pred_contrib=True))
        found = found.reshape(len(X), -1, 5)[..., :-1]
        return found[:, 0] if found.shape[1] == 1 else found
    import xgboost as xgb

    return model.get_booster().predict(xgb.DMatrix(X, enable_categorical=True), pred_contribs=True)[..., :-1]


@pytest.mark.parametrize(
    "name", ["xgboost", "xgboost, one level a split", "xgboost, classes", "lightgbm", "lightgbm, classes"]
)
def test_categories_of_a_data_frame_are_the_librarys(name):
    model, y = models()[name]
    model.fit(FRAME, y)
    exactly = 1e-5 if name.startswith("xgboost") else 1e-12
    for score in backlight.neuralize.head(model).scores:
        net = backlight.neuralize(model, score=score)
        wanted = net.reference_score(FRAME)
        assert np.abs(net(FRAME).numpy() - wanted).max() <= exactly * max(1, np.abs(wanted).max())
        ex = backlight.explain(net, FRAME, "all" if net.score.outputs.names else None)
        assert np.abs(ex.residual).max() <= 1e-12 * (1 + np.abs(wanted).max())
        assert ex.feature_names == ("a", "city", "k", "b")
        if score in ("margin", "predict"):
            want = contributions(model, FRAME)
            assert np.abs(ex.values - (want.transpose(0, 2, 1) if want.ndim == 3 else want)).max() <= 10 * exactly
        assert np.abs(backlight.explain(net, FRAME, rules="path").residual).max() <= 1e-12 * (1 + np.abs(wanted).max())


@pytest.mark.parametrize("name", ["xgboost", "lightgbm"])
def test_values_against_reference_rows_are_those_of_enumeration(name):
    model, y = models()[name]
    model.fit(FRAME, y)
    rows, usual = FRAME[:3], FRAME[40:48]
    ex = backlight.explain(model, rows, reference=usual)

    def value(i, S):
        mixed = usual.copy()
        for j in S:
            mixed[FRAME.columns[j]] = pd.Series(
                [rows.iloc[i, j]] * len(usual), index=usual.index, dtype=FRAME.dtypes.iloc[j]
            )
        return model.predict(mixed).astype(float).mean()

    for i in range(3):
        game = {S: value(i, S) for r in range(5) for S in itertools.combinations(range(4), r)}
        for j in range(4):
            phi = sum(
                (game[tuple(sorted((*S, j)))] - game[S]) / (4 * math.comb(3, len(S)))
                for S in game if j not in S
            )  # fmt: skip
            assert abs(ex.values[i, j] - phi) <= (2e-5 if name == "xgboost" else 1e-10)


def test_levels_that_were_not_seen_are_missing_or_refused_as_there():
    new = FRAME.assign(city=FRAME.city.cat.add_categories("new"))
    new.loc[5, "city"] = "new"
    model, y = models()["lightgbm"]
    model.fit(FRAME, y)
    assert np.abs(backlight.neuralize(model)(new).numpy() - model.predict(new)).max() <= 1e-12
    model, y = models()["xgboost"]
    model.fit(FRAME, y)
    with pytest.raises(backlight.errors.DataError, match="row 5 has a category in encoded column 1 that XGBRegressor"):
        backlight.neuralize(model)(new)


def test_tables_of_other_kinds_have_the_same_levels(tmp_path):
    polars = pytest.importorskip("polars")
    model, y = models()["lightgbm"]
    model.fit(FRAME, y)
    want = backlight.explain(model, FRAME)
    assert np.array_equal(backlight.explain(model, polars.from_pandas(FRAME)).values, want.values)
    texts = FRAME.assign(city=FRAME.city.astype(object), k=FRAME.k.astype(int))
    assert np.array_equal(backlight.explain(model, texts).values, want.values)
    booster = pytest.importorskip("lightgbm").Booster(model_str=model.booster_.model_to_string())
    assert np.allclose(backlight.explain(booster, FRAME).values, want.values, rtol=0, atol=1e-12)
    kept = backlight.Explainer(model)
    kept(FRAME)
    kept.save(tmp_path / "lightgbm.explainer")
    assert np.array_equal(backlight.Explainer.load(tmp_path / "lightgbm.explainer")(FRAME).values, want.values)


def test_bare_codes_of_xgboost_go_where_the_trees_send_them():
    xgb = pytest.importorskip("xgboost")
    X = np.c_[FRAME.a, FRAME.city.cat.codes, FRAME.b].astype(float)
    X[X[:, 1] < 0, 1] = np.nan
    model = xgb.XGBRegressor(n_estimators=5, max_depth=4, enable_categorical=True, feature_types=["q", "c", "q"])
    model.fit(X, NUMBER)
    X[3, 1] = 77  # no tree names it
    assert np.abs(backlight.neuralize(model)(X).numpy() - model.predict(X)).max() <= 1e-5
    frame = xgb.DMatrix(FRAME, NUMBER, enable_categorical=True)
    booster = xgb.train({"max_depth": 3}, frame, 4)
    assert np.abs(backlight.explain(booster, FRAME).output - booster.predict(frame)).max() <= 1e-5


def test_categories_behind_other_steps_are_refused():
    lgb = pytest.importorskip("lightgbm")
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    model = make_pipeline(FunctionTransformer(), lgb.LGBMRegressor(n_estimators=2, verbose=-1)).fit(FRAME, NUMBER)
    assert np.abs(backlight.explain(model, FRAME).residual).max() <= 1e-12
    mixed = lgb.LGBMRegressor(n_estimators=2, verbose=-1).fit(FRAME, NUMBER, categorical_feature=["city", "k", "b"])
    with pytest.raises(backlight.errors.UnsupportedOption, match="categories in columns of more than one kind"):
        backlight.neuralize(mixed)


def test_names_that_xgboost_cuts_are_refused():
    xgb = pytest.importorskip("xgboost")
    frame = FRAME.assign(city=FRAME.city.cat.rename_categories({"x": "Łódź"}))
    with pytest.raises(backlight.errors.UnsupportedOption, match="in column 1 that are not ASCII"):
        backlight.neuralize(xgb.XGBRegressor(n_estimators=2, enable_categorical=True).fit(frame, NUMBER))
    lgb = pytest.importorskip("lightgbm")
    model = lgb.LGBMRegressor(n_estimators=2, verbose=-1).fit(frame, NUMBER)
    assert np.abs(backlight.neuralize(model)(frame).numpy() - model.predict(frame)).max() <= 1e-12


# -- CatBoost: its own contributions -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts():
    return FRAME.assign(city=FRAME.city.astype(object).fillna("none"), k=FRAME.k.astype(int))


@pytest.mark.parametrize("options", [{}, {"one_hot_max_size": 9}], ids=["counts of categories", "one-hot"])
@pytest.mark.parametrize("kind", ["regression", "two", "three"])
def test_catboost_on_categories(options, kind, texts):
    cat = pytest.importorskip("catboost")
    make, y = {"regression": (cat.CatBoostRegressor, NUMBER), "two": (cat.CatBoostClassifier, NUMBER > 1),
               "three": (cat.CatBoostClassifier, CLASSES)}[kind]  # fmt: skip
    model = make(12, depth=4, verbose=0, allow_writing_files=False, cat_features=["city", "k"], **options)
    model.fit(texts, y)
    for score in backlight.neuralize.head(model).scores:
        net = backlight.neuralize(model, score=score)
        wanted = net.reference_score(texts)
        assert np.abs(net(texts).numpy() - wanted).max() <= 1e-12 * max(1, np.abs(wanted).max())
        ex = backlight.explain(net, texts, "all" if net.score.outputs.names else None)
        assert np.abs(ex.residual).max() <= 1e-12 * (1 + np.abs(wanted).max())
    pool = cat.Pool(texts, cat_features=["city", "k"])
    found = model.get_feature_importance(pool, type="ShapValues")[..., :-1]
    ex = backlight.explain(model, texts, "all" if kind != "regression" else None)
    values = ex.values[..., 1] if kind == "two" else ex.values
    assert np.abs(values - (found.transpose(0, 2, 1) if found.ndim == 3 else found)).max() <= 1e-12
    new = texts.assign(city=texts.city.where(texts.index != 3, "new"), k=texts.k.astype(str))
    net = backlight.neuralize(model, score="predict" if kind == "regression" else "margin")
    raw = model.predict(new, prediction_type="RawFormulaVal")
    assert np.abs(net(new).numpy() - raw).max() <= 1e-12


def test_models_of_catboost_that_were_loaded_know_their_columns(texts, tmp_path):
    cat = pytest.importorskip("catboost")
    options = {"n_estimators": 3, "verbose": 0, "allow_writing_files": False}
    for X, more in ((texts, {"cat_features": ["city", "k"]}), (texts[["a", "b"]], {})):
        model = cat.CatBoostRegressor(**more, **options).fit(X, NUMBER)
        model.save_model(str(tmp_path / "model.cbm"))
        loaded = cat.CatBoostRegressor().load_model(str(tmp_path / "model.cbm"))
        ex = backlight.explain(loaded, X)
        assert np.array_equal(ex.values, backlight.explain(model, X).values)
        assert ex.feature_names == tuple(X.columns)
    kept = backlight.Explainer(model)
    assert np.array_equal(pickle.loads(pickle.dumps(kept))(X).values, kept(X).values)


def test_what_catboost_does_not_say_is_refused(texts):
    cat = pytest.importorskip("catboost")
    options = {"n_estimators": 3, "verbose": 0, "allow_writing_files": False}
    model = cat.CatBoostRegressor(cat_features=["city", "k"], **options).fit(texts, NUMBER)
    with pytest.raises(backlight.errors.DataError, match="write missing cells and fractions as text"):
        backlight.explain(model, texts.assign(city=None))
    with pytest.raises(backlight.errors.ArgumentError, match=r"one of 'shapley', or"):
        backlight.explain(model, texts, rules="path")
    with pytest.raises(backlight.errors.DataError, match=r"holds the code 0\.5 of no category"):
        net = backlight.neuralize(model)
        net(net.encode(texts) + 0.5)
    uneven = cat.CatBoostRegressor(cat_features=["city"], grow_policy="Lossguide", **options).fit(texts, NUMBER)
    with pytest.raises(backlight.errors.UnsupportedOption, match="fit it with grow_policy='SymmetricTree'"):
        backlight.neuralize(uneven)


@pytest.mark.parametrize(
    "options", [{"grow_policy": "Lossguide", "max_leaves": 6}, {"grow_policy": "Depthwise", "depth": 3}]
)
def test_trees_of_catboost_that_are_not_symmetric(options):
    cat = pytest.importorskip("catboost")
    X = np.c_[FRAME.a, FRAME.b, RNG.normal(size=N)]
    X[::11, 0] = np.nan
    for make, y in ((cat.CatBoostRegressor, NUMBER), (cat.CatBoostClassifier, CLASSES)):
        model = make(6, verbose=0, allow_writing_files=False, **options).fit(X, y)
        net = backlight.neuralize(model)
        raw = model.predict(X, prediction_type="RawFormulaVal")
        assert np.abs(net(X).numpy() - raw).max() <= 1e-12 * np.abs(raw).max()
        assert np.abs(backlight.explain(net, X).residual).max() <= 1e-12
