"""Trees are layers: sums of leaves, shared by exact Shapley values or along the paths, alone and inside other models."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import backlight
from backlight.classical.layers.tree_shapley import path_dependent
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
    ex = backlight.explain(model, X[:30], "all")

    assert ex.values.shape == (30, 5, classes)
    score = model.decision_function(X[:30]) if "Boosting" in type(model).__name__ else model.predict_proba(X[:30])
    score = np.stack([-score, score], 1) if score.ndim == 1 else score
    assert np.abs(np.asarray(ex.output) - score).max() <= 1e-10
    assert np.abs(ex.residual).max() <= 1e-12
    predicted = backlight.explain(model, X[:30])
    chosen = np.searchsorted(model.classes_, model.predict(X[:30]))
    assert np.allclose(predicted.values, ex.values[np.arange(30), :, chosen])
    assert ex.method == "tree_shap"


@pytest.mark.parametrize("model", REGRESSORS, ids=lambda m: type(m).__name__)
def test_regressions_add_up_to_their_prediction(model, rng):
    X, _ = table(rng)
    model.fit(X, X[:, 0] * X[:, 1])
    ex = backlight.explain(make_pipeline(StandardScaler(), model).fit(X, X[:, 0] * X[:, 1]), X[:30])
    assert np.abs(ex.residual).max() <= 1e-12
    assert np.abs(ex.base_values - ex.base_values[0]).max() <= 1e-12


def test_isolation_forests_are_explained_by_their_path_length(rng):
    X, _ = table(rng)
    model = IsolationForest(n_estimators=30, random_state=0).fit(X)
    odd = X[:40].copy()
    odd[:, 2] += 15

    ex = backlight.explain(model, odd)

    assert np.abs(ex.residual).max() <= 1e-12
    assert (ex.values.argmax(1) == 2).mean() > 0.8
    order = np.argsort(np.asarray(ex.output))
    assert (np.diff(-model.score_samples(odd)[order]) >= -1e-12).all()  # a rising function of the library's score


def test_indicators_of_one_column_are_summed_into_it(rng):
    frame = pd.DataFrame({"city": rng.choice(["Bern", "Rome", "Oslo"], 120), "price": rng.normal(size=120)})
    y = (frame.city == "Rome") * 2.0 + frame.price
    front = ColumnTransformer([("c", OneHotEncoder(sparse_output=False), ["city"])], remainder="passthrough")
    ex = backlight.explain(make_pipeline(front, RandomForestRegressor(10, random_state=0)).fit(frame, y), frame[:20])
    assert ex.feature_names == ("city", "price")
    assert np.abs(ex.residual).max() <= 1e-12


def test_a_background_gives_interventional_values(rng):
    X, _ = table(rng)
    model = RandomForestRegressor(5, random_state=0).fit(X, X[:, 0])
    ex = backlight.explain(model, X[:10], reference=X[100:])
    assert np.abs(ex.base_values - model.predict(X[100:]).mean()).max() <= 1e-12
    assert np.abs(ex.residual).max() <= 1e-12


def test_what_does_not_apply_to_trees_is_said(rng):
    X, y = table(rng)
    model = RandomForestClassifier(3).fit(X, y)
    with pytest.raises(backlight.errors.ArgumentError, match="give 'auto', one of 'shapley', 'path'"):
        backlight.explain(model, X, rules="gamma")
    with pytest.raises(backlight.errors.ArgumentError, match="reference= does not apply"):
        backlight.explain(model, X, rules="path", reference=X)
    with pytest.raises(backlight.errors.ArgumentError, match="choose from 'probability'"):
        backlight.explain(model, X, score="logit")
    with pytest.raises(backlight.errors.UnsupportedModel, match="after a projection"):
        backlight.explain(make_pipeline(PCA(2), model).fit(X, y), X)
    with pytest.raises(backlight.errors.NotFittedModel):
        backlight.explain(RandomForestClassifier(), X)


EVERY = [
    *CLASSIFIERS,
    *REGRESSORS,
    IsolationForest(n_estimators=15, max_features=0.6, random_state=0),
    AdaBoostClassifier(n_estimators=6, random_state=0),
]


def named(model):
    return type(model).__name__


def brute_force(game, d):
    """Shapley values by enumeration of the coalitions: game of a mask (d,) of columns that are known, to (n,)."""
    worth = {mask: game(np.array(mask)) for mask in itertools.product([False, True], repeat=d)}
    out = []
    for i in range(d):
        total = 0.0
        for mask, value in worth.items():
            if not mask[i]:
                size = sum(mask)
                weight = math.factorial(size) * math.factorial(d - size - 1) / math.factorial(d)
                total = total + weight * (worth[(*mask[:i], True, *mask[i + 1 :])] - value)
        out.append(total)
    return np.stack(out, 1)


@pytest.mark.parametrize("model", EVERY, ids=named)
def test_shapley_values_against_reference_rows_are_those_of_enumeration(model, rng):
    X, y = table(rng, n=120)
    model = clone(model).fit(X, y if is_classifier(model) else X[:, 0] * X[:, 1])
    Q, usual = X[:6], X[60:72]
    net = backlight.neuralize(model)

    def game(mask):
        mixed = np.where(mask, Q[:, None], usual[None])
        return net(mixed.reshape(-1, 5)).numpy().reshape(len(Q), len(usual), -1).mean(1)[:, -1]

    ex = backlight.explain(net, Q, -1 if net.score.outputs.names else None, reference=usual)
    assert np.abs(ex.values - brute_force(game, 5)).max() <= 1e-10


def expectation(tree, x, mask, node=0):
    """What a tree of scikit-learn's expects where some columns are known: the literal recursion."""
    left, right = tree.children_left[node], tree.children_right[node]
    if left < 0:
        return tree.value[node, 0, 0]
    i = tree.feature[node]
    if mask[i]:
        return expectation(tree, x, mask, left if np.float32(x[i]) <= tree.threshold[node] else right)
    weight = tree.weighted_n_node_samples
    return (
        weight[left] * expectation(tree, x, mask, left) + weight[right] * expectation(tree, x, mask, right)
    ) / weight[node]


def test_shapley_values_along_the_trees_are_those_of_enumeration(rng):
    X, _ = table(rng, n=120)
    model = RandomForestRegressor(4, max_depth=5, random_state=0).fit(X, X[:, 0] * X[:, 1])

    def game(mask):
        return np.array([np.mean([expectation(t.tree_, x, mask) for t in model.estimators_]) for x in X[:6]])

    wanted = brute_force(game, 5)
    assert np.abs(backlight.explain(model, X[:6]).values - wanted).max() <= 1e-10
    net = backlight.neuralize(model)
    own = path_dependent(net.layer.table, net.layer.table.rounded(X[:6]), np.array([0]))
    assert np.abs(own[:, :, 0] - wanted).max() <= 1e-10  # what stands in for the library where splits are on categories


@pytest.mark.parametrize("model", EVERY, ids=named)
def test_the_path_rule_hands_each_change_of_the_expected_value_to_the_split_that_made_it(model, rng):
    X, y = table(rng, n=120)
    model = clone(model).fit(X, y if is_classifier(model) else X[:, 0] * X[:, 1])
    ex = backlight.explain(model, X[:20], rules="path")
    assert np.abs(ex.residual).max() <= 1e-12 * (1 + np.abs(ex.values).max())
    assert ex.method == "tree_path"


def test_the_path_rule_is_the_walk(rng):
    X, _ = table(rng)
    model = DecisionTreeRegressor(max_depth=6, random_state=0).fit(X, X[:, 0] * X[:, 1])
    tree, wanted = model.tree_, np.zeros((20, 5))
    for row, x in zip(wanted, X[:20], strict=True):
        node = 0
        while tree.children_left[node] >= 0:
            i = tree.feature[node]
            below = (tree.children_left if np.float32(x[i]) <= tree.threshold[node] else tree.children_right)[node]
            row[i] += tree.value[below, 0, 0] - tree.value[node, 0, 0]
            node = below
    assert np.abs(backlight.explain(model, X[:20], rules="path").values - wanted).max() <= 1e-12


@pytest.mark.parametrize("rules", ["auto", "path"])
@pytest.mark.parametrize(
    "model",
    [
        BaggingClassifier(n_estimators=3, random_state=0), BaggingRegressor(n_estimators=3, max_features=0.7, random_state=0),
        VotingClassifier([("lr", make_pipeline(StandardScaler(), LogisticRegression())),
                          ("rf", RandomForestClassifier(5, random_state=0))], voting="soft"),
        VotingRegressor([("lr", make_pipeline(PCA(2), Ridge())), ("hgb", HistGradientBoostingRegressor(max_iter=5))]),
        CalibratedClassifierCV(RandomForestClassifier(5, random_state=0), cv=2),
        CalibratedClassifierCV(HistGradientBoostingClassifier(max_iter=5), cv=2),
        OneVsRestClassifier(GradientBoostingClassifier(n_estimators=4, random_state=0)),
        MultiOutputRegressor(GradientBoostingRegressor(n_estimators=4, random_state=0)),
        make_pipeline(StandardScaler(), BaggingClassifier(make_pipeline(StandardScaler(), DecisionTreeClassifier(max_depth=3)), 3)),
        GradientBoostingRegressor(init=Ridge(), n_estimators=4, random_state=0),
        RandomForestRegressor(4, random_state=0),
    ],
    ids=named,
)  # fmt: skip
def test_trees_compose(model, rules, rng):
    X, y = table(rng)
    several = isinstance(model, MultiOutputRegressor | RandomForestRegressor)
    numbers = X[:, :2] ** 2 if several else X[:, 0] ** 2
    target = y if is_classifier(model) or isinstance(model, Pipeline) else numbers
    model = clone(model).fit(X, target)
    for score in backlight.neuralize.head(model[-1] if isinstance(model, Pipeline) else model).scores:
        net = backlight.neuralize(model, score=score)
        # what gradient boosting starts from is computed by the library in single precision
        exactly = 1e-5 if isinstance(model, GradientBoostingRegressor) else 1e-12
        assert np.abs(net(X[:20]).numpy() - net.reference_score(X[:20])).max() <= exactly
        ex = backlight.explain(net, X[:20], "all" if net.score.outputs.names else None, rules=rules)
        assert np.abs(ex.residual).max() <= 1e-12


@pytest.mark.parametrize("rules", ["auto", "path"])
def test_missing_cells_and_categories_go_where_the_trees_send_them(rules, rng):
    frame = pd.DataFrame(
        {"size": rng.normal(size=200), "city": rng.choice(["Bern", "Rome", "Oslo", "Lima", "Kyiv"], 200)}
    )
    frame["city"] = frame["city"].astype("category")
    frame.loc[::7, "size"] = np.nan
    y = frame["city"].isin(["Rome", "Lima"]) * 2.0 + frame["size"].fillna(3)
    model = HistGradientBoostingRegressor(max_iter=10, categorical_features="from_dtype", min_samples_leaf=5).fit(
        frame, y
    )
    assert any(p.nodes["is_categorical"].any() for each in model._predictors for p in each)

    ex = backlight.explain(model, frame[:60], rules=rules)

    assert np.abs(np.asarray(ex.output) - model.predict(frame[:60])).max() <= 1e-12
    assert np.abs(ex.residual).max() <= 1e-12
    against = backlight.explain(model, frame[:10], reference=frame[100:110])
    assert np.abs(against.base_values - model.predict(frame[100:110]).mean()).max() <= 1e-12
    assert np.abs(against.residual).max() <= 1e-12


def test_a_forest_takes_missing_cells_where_it_was_fitted_with_them(rng):
    X, y = table(rng)
    X[::5, 1] = np.nan
    model = RandomForestClassifier(5, random_state=0).fit(X, y)
    ex = backlight.explain(model, X[:20], "all")
    assert np.abs(np.asarray(ex.output) - model.predict_proba(X[:20])).max() <= 1e-12
    assert np.abs(ex.residual).max() <= 1e-12
    with pytest.raises(backlight.errors.DataError, match="is missing in row 0"):
        backlight.explain(GradientBoostingClassifier(n_estimators=2).fit(np.nan_to_num(X), y), X)


def test_isolation_forests_have_the_librarys_scores_and_threshold(rng):
    X, _ = table(rng)
    model = IsolationForest(n_estimators=20, contamination=0.1, random_state=0).fit(X)
    for score in ("decision_function", "score_samples"):
        ex = backlight.explain(model, X, score=score)
        assert np.abs(np.asarray(ex.output) - getattr(model, score)(X)).max() <= 1e-12
        assert np.abs(ex.residual).max() <= 1e-12
    net = backlight.neuralize(model)
    assert ((net(X).numpy() > net.threshold) == (model.decision_function(X) < 0)).all()
