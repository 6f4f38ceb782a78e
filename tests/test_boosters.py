"""XGBoost, LightGBM, CatBoost: margins, probabilities, and the libraries' own exact contributions."""

import numpy as np
import pytest
from sklearn.datasets import load_wine

import backlight

WINE = load_wine()
TWO, NUMBER = (WINE.target > 0).astype(int), WINE.data[:, 0] - WINE.data[:, 1]
HOLES = np.where(np.random.default_rng(0).random(WINE.data.shape) < 0.1, np.nan, WINE.data)
SINGLE, DOUBLE = 1e-5, 1e-12


def check(model, X, exactly, contributions=None):
    """Scores are the library's, everything adds up by both rules, and Shapley values are the library's own."""
    columns = [f"x{j}" for j in range(X.shape[1])]
    for score in backlight.neuralize.head(model).scores:
        net = backlight.neuralize(model, score=score, columns=columns)
        wanted = net.reference_score(X)
        assert np.abs(net(X).numpy() - wanted).max() <= exactly * max(1, np.abs(wanted).max())
        ex = backlight.explain(net, X, "all" if net.score.outputs.names else None)
        assert np.abs(ex.residual).max() <= 1e-12 * (1 + np.abs(wanted).max())
        along = backlight.explain(net, X, rules="path")
        assert np.abs(along.residual).max() <= 1e-12 * (1 + np.abs(wanted).max())
        if contributions is not None and score == next(iter(backlight.neuralize.head(model).scores)):
            values = ex.values[..., -1] if ex.values.ndim == 3 else ex.values
            assert np.abs(values - contributions).max() <= 10 * exactly * (1 + np.abs(contributions).max())


@pytest.mark.parametrize("X", [WINE.data, HOLES], ids=["whole", "missing cells"])
@pytest.mark.parametrize(
    "name", ["two", "three", "regression", "forest", "dart", "poisson", "ranking", "stopped early"]
)
def test_xgboost(name, X):
    xgb = pytest.importorskip("xgboost")
    options = {"n_estimators": 8, "max_depth": 4}
    make, y, fit = {
        "two": (xgb.XGBClassifier, TWO, {}), "three": (xgb.XGBClassifier, WINE.target, {}),
        "regression": (xgb.XGBRegressor, NUMBER, {}), "forest": (xgb.XGBRFRegressor, NUMBER, {}),
        "dart": (lambda **o: xgb.XGBRegressor(booster="dart", rate_drop=0.3, **o), NUMBER, {}),
        "poisson": (lambda **o: xgb.XGBRegressor(objective="count:poisson", **o), WINE.target, {}),
        "ranking": (xgb.XGBRanker, WINE.target, {"group": [100, 78]}),
        "stopped early": (lambda **o: xgb.XGBClassifier(early_stopping_rounds=2, **o), WINE.target,
                          {"eval_set": [(X[::2], WINE.target[::2])], "verbose": False}),
    }[name]  # fmt: skip
    model = make(**options).fit(X, y, **fit)
    booster = model.get_booster()
    found = booster.predict(xgb.DMatrix(X), pred_contribs=True)
    found = found[..., -1, :-1] if found.ndim == 3 else found[:, :-1]
    check(model, X, SINGLE, found if name != "stopped early" else None)


def test_a_booster_of_xgboost():
    xgb = pytest.importorskip("xgboost")
    check(xgb.train({"objective": "binary:logistic"}, xgb.DMatrix(WINE.data, TWO), 5), WINE.data, SINGLE)
    with pytest.raises(backlight.errors.UnsupportedOption, match="gblinear"):
        backlight.neuralize(xgb.XGBRegressor(booster="gblinear", n_estimators=2).fit(WINE.data, NUMBER))
    with pytest.raises(backlight.errors.UnsupportedOption, match="write missing cells as NaN"):
        backlight.neuralize(xgb.XGBRegressor(missing=0.0, n_estimators=2).fit(WINE.data, NUMBER))


@pytest.mark.parametrize("X", [WINE.data, HOLES], ids=["whole", "missing cells"])
@pytest.mark.parametrize("name", ["two", "three", "regression", "dart", "poisson", "ranking"])
def test_lightgbm(name, X):
    lgb = pytest.importorskip("lightgbm")
    options = {"n_estimators": 8, "verbose": -1}
    make, y, fit = {
        "two": (lgb.LGBMClassifier, TWO, {}), "three": (lgb.LGBMClassifier, WINE.target, {}),
        "regression": (lgb.LGBMRegressor, NUMBER, {}), "dart": (lambda **o: lgb.LGBMRegressor(boosting_type="dart", **o), NUMBER, {}),
        "poisson": (lambda **o: lgb.LGBMRegressor(objective="poisson", **o), WINE.target, {}),
        "ranking": (lgb.LGBMRanker, WINE.target, {"group": [100, 78]}),
    }[name]  # fmt: skip
    model = make(**options).fit(X, y, **fit)
    contributions = model.booster_.predict(X, pred_contrib=True)[:, -X.shape[1] - 1 : -1]
    check(model, X, DOUBLE, contributions)


def test_lightgbm_with_categories_and_averaged():
    lgb = pytest.importorskip("lightgbm")
    X = WINE.data.copy()
    X[:, 0] = np.round(X[:, 0]) % 5
    y = (X[:, 0] % 2) * 3 + X[:, 1]
    model = lgb.LGBMRegressor(n_estimators=5, verbose=-1, cat_smooth=1, min_data_per_group=5).fit(
        X, y, categorical_feature=[0]
    )
    assert "==" in str(model.booster_.dump_model()["tree_info"])
    check(model, X, DOUBLE, model.booster_.predict(X, pred_contrib=True)[:, :-1])
    check(lgb.train({"objective": "regression", "verbose": -1}, lgb.Dataset(X, y), 3), X, DOUBLE)
    forest = lgb.LGBMRegressor(
        n_estimators=5, verbose=-1, boosting_type="rf", bagging_freq=1, bagging_fraction=0.6
    ).fit(X, y)
    assert np.allclose(backlight.explain(forest, X).output, forest.predict(X), rtol=1e-12)


@pytest.mark.parametrize("X", [WINE.data, HOLES], ids=["whole", "missing cells"])
@pytest.mark.parametrize("name", ["two", "three", "regression", "plain", "ranking"])
def test_catboost(name, X):
    cat = pytest.importorskip("catboost")
    options = {"n_estimators": 8, "depth": 4, "verbose": 0, "allow_writing_files": False}
    make, y, fit = {
        "two": (cat.CatBoostClassifier, TWO, {}), "three": (cat.CatBoostClassifier, WINE.target, {}),
        "regression": (cat.CatBoostRegressor, NUMBER, {}), "plain": (lambda **o: cat.CatBoost(o), NUMBER, {}),
        "ranking": (cat.CatBoostRanker, WINE.target, {"group_id": np.repeat([0, 1], [100, 78])}),
    }[name]  # fmt: skip
    model = make(**options).fit(X, y, **fit)
    found = model.get_feature_importance(cat.Pool(X), type="ShapValues")
    check(model, X, DOUBLE, found[:, -1, :-1] if found.ndim == 3 else found[:, :-1])
    with pytest.raises(backlight.errors.NotFittedModel):
        backlight.neuralize(cat.CatBoostRegressor())


def test_boosters_compose():
    xgb = pytest.importorskip("xgboost")
    from sklearn.ensemble import VotingRegressor
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), VotingRegressor([("a", xgb.XGBRegressor(n_estimators=4)), ("b", Ridge())]))
    model.fit(WINE.data, NUMBER)
    ex = backlight.explain(model, WINE.data[:20])
    assert np.abs(np.asarray(ex.output) - model.predict(WINE.data[:20])).max() <= 1e-5
    assert np.abs(ex.residual).max() <= 1e-12


def exact(model, X, score, wanted):
    """A score is what is wanted of the model, and adds up."""
    ex = backlight.explain(model, X, score=score)
    assert np.abs(np.asarray(ex.output) - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert np.abs(ex.residual).max() <= 1e-12 * (1 + np.abs(wanted).max())


@pytest.mark.parametrize("name", ["logistic", "poisson", "cross-entropy", "root", "gamma"])
def test_a_prediction_behind_a_link_is_there_as_its_margin_and_as_it_is(name, tmp_path):
    xgb, lgb = pytest.importorskip("xgboost"), pytest.importorskip("lightgbm")
    small = {"n_estimators": 6, "verbose": -1}
    model, score, inverse, y = {
        "logistic": (xgb.XGBRegressor(objective="reg:logistic", n_estimators=6), "log_odds", lambda p: np.log(p / (1 - p)), TWO),
        "poisson": (xgb.XGBRegressor(objective="count:poisson", n_estimators=6), "log_predict", np.log, WINE.target),
        "cross-entropy": (lgb.LGBMRegressor(objective="cross_entropy", **small), "log_odds", lambda p: np.log(p / (1 - p)), TWO),
        "root": (lgb.LGBMRegressor(reg_sqrt=True, **small), "root_predict", lambda p: np.sign(p) * np.sqrt(np.abs(p)), NUMBER),
        "gamma": (lgb.LGBMRegressor(objective="gamma", **small), "log_predict", np.log, WINE.data[:, 0]),
    }[name]  # fmt: skip
    predicted = model.fit(WINE.data, y).predict(WINE.data).astype(float)
    assert next(iter(backlight.neuralize.head(model).scores)) == score
    exact(model, WINE.data, score, inverse(predicted))
    exact(model, WINE.data, "predict", predicted)
    kept = backlight.Explainer(model, score="predict")
    kept.save(tmp_path / "explainer")
    again = backlight.Explainer.load(tmp_path / "explainer")
    assert np.array_equal(again(WINE.data).values, kept(WINE.data).values)


def test_margins_that_are_no_classes_are_outputs():
    xgb, cat = pytest.importorskip("xgboost"), pytest.importorskip("catboost")
    quiet = {"n_estimators": 4, "verbose": 0, "allow_writing_files": False}
    both = np.stack([TWO, 1 - TWO], 1)
    hinge = xgb.XGBClassifier(objective="binary:hinge", n_estimators=4).fit(WINE.data, TWO)
    assert list(backlight.neuralize.head(hinge).scores) == ["margin"]
    several = cat.CatBoostClassifier(loss_function="MultiLogloss", **quiet).fit(WINE.data, both)
    spread = cat.CatBoostRegressor(loss_function="RMSEWithUncertainty", **quiet).fit(WINE.data, NUMBER)
    labels = xgb.XGBClassifier(n_estimators=4).fit(WINE.data, both)
    for model, raw in ((several, {"prediction_type": "RawFormulaVal"}), (spread, {"prediction_type": "RawFormulaVal"}),
                       (labels, {"output_margin": True})):  # fmt: skip
        ex = backlight.explain(model, WINE.data, "all")
        assert ex.output_names == ("output 0", "output 1")
        assert np.abs(np.asarray(ex.output) - model.predict(WINE.data, **raw)).max() <= 1e-5
        assert np.abs(ex.residual).max() <= 1e-12


def test_an_ensemble_takes_missing_cells_where_each_of_its_members_does():
    xgb, lgb = pytest.importorskip("xgboost"), pytest.importorskip("lightgbm")
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import BaggingClassifier, HistGradientBoostingClassifier, StackingClassifier, VotingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    small = lgb.LGBMClassifier(n_estimators=3, verbose=-1)
    linear = make_pipeline(StandardScaler(), SimpleImputer(), LogisticRegression(max_iter=5000))
    members = [("a", small), ("b", xgb.XGBClassifier(n_estimators=3)), ("c", linear)]
    for model in (
        VotingClassifier(members, voting="soft"), VotingClassifier(members), StackingClassifier(members, cv=2),
        CalibratedClassifierCV(small, cv=2), CalibratedClassifierCV(small, cv=2, method="isotonic"),
        BaggingClassifier(HistGradientBoostingClassifier(max_iter=3), 2, random_state=0),
    ):  # fmt: skip
        model.fit(HOLES, TWO)
        ex = backlight.explain(model, HOLES[:40])
        assert np.abs(ex.residual).max() <= 1e-9, type(model).__name__
    whole = VotingClassifier([("a", small), ("b", LogisticRegression(max_iter=5000))], voting="soft").fit(
        WINE.data, TWO
    )
    with pytest.raises(backlight.errors.DataError, match="put a SimpleImputer in the pipeline"):
        backlight.explain(whole, HOLES[:10])
