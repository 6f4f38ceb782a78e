"""Models on the answers of models: their scores, and relevance that adds up through all of them."""

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.cross_decomposition import CCA
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor, StackingClassifier, StackingRegressor
from sklearn.feature_selection import RFE
from sklearn.linear_model import LinearRegression, LogisticRegression, MultiTaskLassoCV, Ridge
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, RegressorChain
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer, StandardScaler
from sklearn.svm import SVR, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import backlight
from tests.family import table

TWO = [("a", make_pipeline(StandardScaler(), Ridge())), ("b", DecisionTreeRegressor(max_depth=3, random_state=0))]
CLASSES = [
    ("a", LogisticRegression()),
    ("b", DecisionTreeClassifier(max_depth=3, random_state=0)),
    ("c", LinearSVC(random_state=0)),
]
MODELS = [
    StackingRegressor(TWO), StackingRegressor(TWO, passthrough=True), StackingRegressor(TWO, SVR()),
    StackingRegressor(TWO, RandomForestRegressor(4, random_state=0), passthrough=True),
    StackingClassifier(CLASSES), StackingClassifier(CLASSES, make_pipeline(StandardScaler(), LogisticRegression()), passthrough=True),
    StackingClassifier(CLASSES[:2], RandomForestClassifier(4, random_state=0)),
    RegressorChain(Ridge(), order=[1, 0]), RegressorChain(DecisionTreeRegressor(max_depth=3, random_state=0)),
    ClassifierChain(LogisticRegression(), order=[1, 0]), ClassifierChain(LogisticRegression(), chain_method="predict_proba"),
    MultiOutputClassifier(DecisionTreeClassifier(max_depth=3, random_state=0)), CCA(1), MultiTaskLassoCV(cv=3),
    TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1),
    TransformedTargetRegressor(RandomForestRegressor(4, random_state=0), transformer=PowerTransformer()),
    CalibratedClassifierCV(RandomForestClassifier(4, random_state=0), method="isotonic", cv=2),
    CalibratedClassifierCV(LogisticRegression(), method="isotonic", cv=2), RFE(LogisticRegression(), n_features_to_select=3),
]  # fmt: skip
SEVERAL = (RegressorChain, ClassifierChain, MultiOutputClassifier, CCA, MultiTaskLassoCV)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("classes", [2, 3])
def test_scores_are_the_models_and_add_up(model, classes, rng):
    X, y = table(rng, classes=classes)
    numbers = np.abs(X[:, 0] * X[:, 1]) + 0.1
    if isinstance(model, CalibratedClassifierCV) and classes == 3:
        pytest.skip("with more than two classes it divides by a sum of functions, and is refused")
    if isinstance(model, SEVERAL):
        target = (
            np.stack([y > 0, X[:, 0] > 0], 1).astype(int) if is_classifier(model) else np.stack([numbers, X[:, 1]], 1)
        )
    else:
        target = y if is_classifier(model) else numbers
    model = clone(model).fit(X, target)
    first = backlight.neuralize(model)
    for name in [first.score.name, "predict", "probability", "transformed"]:
        try:
            net = backlight.neuralize(model, score=name)
        except backlight.errors.ArgumentError:
            continue  # not one of its scores
        wanted = net.reference_score(X[:25])
        assert np.abs(net(X[:25]).numpy() - wanted).max() <= 1e-9 * max(1, np.abs(wanted).max())
        ex = backlight.explain(net, X[:25], "all" if net.score.outputs.names else None)
        terms = np.abs(np.asarray(ex.output)) + np.abs(ex.base_values) + np.abs(ex.values).sum(1)
        assert (np.abs(ex.residual) <= 1e-9 * terms).all()


def test_a_linear_last_step_is_a_weighted_sum_of_the_members(rng):
    X, _ = table(rng)
    y = X[:, 0] * X[:, 1]
    model = StackingRegressor(TWO, LinearRegression()).fit(X, y)
    ex = backlight.explain(model, X[:20])
    parts = [backlight.explain(one, X[:20]) for one in model.estimators_]
    w = model.final_estimator_.coef_
    assert np.abs(ex.values - (w[0] * parts[0].values + w[1] * parts[1].values)).max() <= 1e-9
    assert np.allclose(ex.output, model.predict(X[:20]), rtol=1e-12)


def test_the_base_of_a_transformed_target_is_the_transformed_base(rng):
    X, _ = table(rng)
    model = TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1).fit(X, np.exp(0.1 * X[:, 0]))
    ex = backlight.explain(model, X[:20])
    inner = backlight.explain(model.regressor_, X[:20])
    assert np.allclose(ex.base_values, np.expm1(inner.base_values), rtol=1e-9)
    assert np.allclose(ex.output, model.predict(X[:20]), rtol=1e-12)


def test_a_stack_on_labels_is_refused(rng):
    X, y = table(rng)
    model = StackingClassifier(CLASSES, stack_method="predict").fit(X, y)
    with pytest.raises(backlight.errors.UnsupportedOption, match="hands on labels"):
        backlight.neuralize(model)
