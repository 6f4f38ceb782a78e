"""Trees are no network: the same call hands them to an established explainer, and says so."""

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import backlight
from tests.family import table

pytestmark = pytest.mark.filterwarnings("ignore")  # of what shap imports

CLASSIFIERS = [
    DecisionTreeClassifier(max_depth=4), RandomForestClassifier(8), ExtraTreesClassifier(8),
    HistGradientBoostingClassifier(max_iter=8), GradientBoostingClassifier(n_estimators=8),
]  # fmt: skip
REGRESSORS = [
    DecisionTreeRegressor(max_depth=4), RandomForestRegressor(8), ExtraTreesRegressor(8),
    GradientBoostingRegressor(n_estimators=8), HistGradientBoostingRegressor(max_iter=8),
]  # fmt: skip


@pytest.mark.parametrize("model", CLASSIFIERS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("classes", [2, 3])
def test_classifiers_add_up_to_their_own_score(model, classes, rng):
    X, y = table(rng, classes=classes)
    model.fit(X, y)
    if isinstance(model, GradientBoostingClassifier) and classes == 3:
        with pytest.raises(backlight.errors.UnsupportedModel, match="GradientBoostingClassifier"):
            backlight.explain(model, X)
        return
    ex = backlight.explain(model, X[:30], "all")

    assert ex.values.shape == (30, 5, classes)
    score = model.decision_function(X[:30]) if "Boosting" in type(model).__name__ else model.predict_proba(X[:30])
    score = np.stack([-score, score], 1) if score.ndim == 1 else score
    assert np.abs(np.asarray(ex.output) - score).max() <= 1e-10
    # the explainer works in single precision in places
    assert np.abs(ex.residual).max() <= 1e-5
    predicted = backlight.explain(model, X[:30])
    chosen = np.searchsorted(model.classes_, model.predict(X[:30]))
    assert np.allclose(predicted.values, ex.values[np.arange(30), :, chosen])
    assert ex.method == "tree_shap"


@pytest.mark.parametrize("model", REGRESSORS, ids=lambda m: type(m).__name__)
def test_regressions_add_up_to_their_prediction(model, rng):
    X, _ = table(rng)
    model.fit(X, X[:, 0] * X[:, 1])
    ex = backlight.explain(make_pipeline(StandardScaler(), model).fit(X, X[:, 0] * X[:, 1]), X[:30])
    assert np.abs(ex.residual).max() <= 1e-5
    assert np.abs(ex.base_values - ex.base_values[0]).max() == 0


def test_isolation_forests_are_explained_by_their_path_length(rng):
    X, _ = table(rng)
    model = IsolationForest(n_estimators=30, random_state=0).fit(X)
    odd = X[:40].copy()
    odd[:, 2] += 15

    ex = backlight.explain(model, odd)

    assert np.abs(ex.residual).max() <= 1e-5
    assert (ex.values.argmax(1) == 2).mean() > 0.8
    order = np.argsort(np.asarray(ex.output))
    assert (np.diff(-model.score_samples(odd)[order]) >= -1e-12).all()  # a rising function of the library's score


def test_indicators_of_one_column_are_summed_into_it(rng):
    frame = pd.DataFrame({"city": rng.choice(["Bern", "Rome", "Oslo"], 120), "price": rng.normal(size=120)})
    y = (frame.city == "Rome") * 2.0 + frame.price
    front = ColumnTransformer([("c", OneHotEncoder(sparse_output=False), ["city"])], remainder="passthrough")
    ex = backlight.explain(make_pipeline(front, RandomForestRegressor(10, random_state=0)).fit(frame, y), frame[:20])
    assert ex.feature_names == ("city", "price")
    assert np.abs(ex.residual).max() <= 1e-5


def test_a_background_gives_interventional_values(rng):
    X, _ = table(rng)
    model = RandomForestRegressor(5, random_state=0).fit(X, X[:, 0])
    ex = backlight.explain(model, X[:10], reference=X[100:])
    assert np.abs(ex.base_values - model.predict(X[100:]).mean()).max() <= 1e-5
    assert np.abs(ex.residual).max() <= 1e-5


def test_what_does_not_apply_to_trees_is_said(rng):
    X, y = table(rng)
    model = RandomForestClassifier(3).fit(X, y)
    with pytest.raises(
        backlight.errors.ArgumentError, match="RandomForestClassifier has no network and is explained by exact"
    ):
        backlight.explain(model, X, rules="gamma")
    with pytest.raises(backlight.errors.ArgumentError, match="choose from 'probability'"):
        backlight.explain(model, X, score="logit")
    with pytest.raises(backlight.errors.UnsupportedModel, match="after a projection"):
        backlight.explain(make_pipeline(PCA(2), model).fit(X, y), X)
    with pytest.raises(
        backlight.errors.UnsupportedModel, match=r"RandomForestClassifier has no network.*backlight\.explain"
    ):
        backlight.neuralize(model)
    with pytest.raises(backlight.errors.NotFittedModel):
        backlight.explain(RandomForestClassifier(), X)
