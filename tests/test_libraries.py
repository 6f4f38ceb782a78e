"""Models and transformers of other libraries inside pipelines: scores, sums, and the user's own columns."""

import importlib

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import backlight

pytestmark = pytest.mark.filterwarnings("ignore")  # of what the libraries warn at fit time

RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {"size": RNG.normal(size=150) + 5, "city": RNG.choice(["Bern", "Rome", "Oslo"], 150), "age": RNG.normal(size=150) + 5,
     "kind": RNG.choice(["old", "new"], 150)}
)  # fmt: skip
NUMBERS = FRAME[["size", "age"]]
Y = pd.Series((FRAME.city == "Rome") * 2.0 + FRAME["size"] + 0.1 * RNG.normal(size=150))
TWO = (Y.median() < Y).astype(int)


def assert_predicts(model, X, exactly=1e-10):
    ex = backlight.explain(model, X)
    assert np.abs(np.asarray(ex.output) - model.predict(X)).max() <= exactly
    assert np.abs(ex.residual).max() <= 1e-9
    return ex


@pytest.mark.parametrize(
    "name",
    ["BackwardDifferenceEncoder", "BaseNEncoder", "BinaryEncoder", "CatBoostEncoder", "CountEncoder", "HelmertEncoder",
     "JamesSteinEncoder", "LeaveOneOutEncoder", "MEstimateEncoder", "OneHotEncoder", "OrdinalEncoder", "QuantileEncoder",
     "SumEncoder", "TargetEncoder", "WOEEncoder"],
)  # fmt: skip
def test_category_encoders(name):
    ce = pytest.importorskip("category_encoders")
    model = make_pipeline(getattr(ce, name)(), Ridge()).fit(FRAME, TWO if name == "WOEEncoder" else Y)
    ex = assert_predicts(model, FRAME[:40])
    assert ex.feature_names == tuple(FRAME.columns)
    strange = FRAME[:3].assign(city="Lima")
    assert np.abs(np.asarray(backlight.explain(model, strange).output) - model.predict(strange)).max() <= 1e-10


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("encoding.OneHotEncoder", {}), ("encoding.OrdinalEncoder", {}), ("encoding.MeanEncoder", {}),
        ("encoding.CountFrequencyEncoder", {}), ("transformation.LogTransformer", {}), ("outliers.Winsorizer", {}),
        ("transformation.YeoJohnsonTransformer", {}), ("discretisation.EqualWidthDiscretiser", {"bins": 4}),
        ("scaling.MeanNormalizationScaler", {}), ("selection.DropFeatures", {"features_to_drop": ["age"]}),
    ],
)  # fmt: skip
def test_feature_engine(name, options):
    pytest.importorskip("feature_engine")
    room, _, cls = name.partition(".")
    step = getattr(importlib.import_module(f"feature_engine.{room}"), cls)(**options)
    X = FRAME if room == "encoding" else NUMBERS
    ex = assert_predicts(make_pipeline(step, Ridge()).fit(X, Y), X[:40])
    assert ex.feature_names == tuple(X.columns)


@pytest.mark.parametrize("tail", ["encoding.OneHotEncoder", "encoding.CountFrequencyEncoder"])
def test_imputers_and_rare_levels_of_feature_engine(tail):
    encoding, imputation = (
        pytest.importorskip("feature_engine.encoding"),
        pytest.importorskip("feature_engine.imputation"),
    )
    X = FRAME.assign(
        size=FRAME["size"].where(FRAME.index % 7 > 0), city=FRAME.city.where(FRAME.index % 20 > 0, "Pisa"),
        kind=FRAME.kind.where(FRAME.index % 25 > 0, "odd"),
    )  # fmt: skip
    rare = encoding.RareLabelEncoder(tol=0.1, n_categories=2)
    last = getattr(encoding, tail.partition(".")[2])()
    model = make_pipeline(imputation.MeanMedianImputer(), rare, last, Ridge()).fit(X, Y)
    ex = assert_predicts(model, X[:40])
    assert ex.feature_names == tuple(FRAME.columns)
    strange = X[:3].assign(city="Lima")  # counts as rare
    assert np.abs(np.asarray(backlight.explain(model, strange).output) - model.predict(strange)).max() <= 1e-10


def test_samplers_do_nothing_when_a_pipeline_predicts():
    imblearn = pytest.importorskip("imblearn")
    from imblearn.over_sampling import SMOTE
    from imblearn.pipeline import make_pipeline as sampled

    assert imblearn
    model = sampled(StandardScaler(), SMOTE(random_state=0), LogisticRegression()).fit(NUMBERS, TWO)
    ex = backlight.explain(model, NUMBERS[:20], target=1)
    assert np.abs(np.asarray(ex.output) - model.decision_function(NUMBERS[:20])).max() <= 1e-10
    assert np.abs(ex.residual).max() <= 1e-12


@pytest.mark.parametrize(
    "name",
    ["BalancedRandomForestClassifier", "BalancedBaggingClassifier", "EasyEnsembleClassifier", "RUSBoostClassifier"],
)
def test_ensembles_of_imbalanced_learn(name):
    ensemble = pytest.importorskip("imblearn.ensemble")
    model = getattr(ensemble, name)(n_estimators=3, random_state=0).fit(NUMBERS.to_numpy(), TWO)
    net = backlight.neuralize(model)
    ex = backlight.explain(net, NUMBERS.to_numpy()[:20], "all")
    own = (
        model.decision_function(NUMBERS.to_numpy()[:20])
        if net.score.name == "decision_function"
        else model.predict_proba(NUMBERS.to_numpy()[:20])[:, 1]
    )
    assert np.abs(np.asarray(ex.output)[:, 1] - own).max() <= 1e-10
    assert np.abs(ex.residual).max() <= 1e-9


def test_statsmodels():
    sm = pytest.importorskip("statsmodels.api")
    X = sm.add_constant(NUMBERS)
    ex = assert_predicts(sm.OLS(Y, X).fit(), X[:20])
    assert ex.feature_names == ("const", "size", "age")
    assert_predicts(sm.GLM(Y.abs(), X, family=sm.families.Poisson()).fit(), X[:20])
    logit = sm.Logit(TWO, X).fit(disp=0)
    ex = backlight.explain(logit, X[:20], target=1, score="probability")
    assert np.abs(np.asarray(ex.output) - logit.predict(X[:20])).max() <= 1e-10
    assert np.abs(ex.residual).max() <= 1e-12
    formula = pytest.importorskip("statsmodels.formula.api")
    with pytest.raises(backlight.errors.UnsupportedOption, match="by a formula"):
        backlight.explain(formula.ols("age ~ size", FRAME).fit(), NUMBERS[:5])


def test_skorch():
    skorch = pytest.importorskip("skorch")
    torch.manual_seed(0)
    X, y = NUMBERS.to_numpy().astype("f4"), TWO.to_numpy()
    net = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    model = skorch.NeuralNetClassifier(net, max_epochs=2, verbose=0, criterion=torch.nn.CrossEntropyLoss).fit(X, y)
    ex = backlight.explain(model, X[:20], "all")
    assert np.abs(np.asarray(ex.output) - model.forward(X[:20]).numpy()).max() <= 1e-5
    one = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.ReLU(), torch.nn.Linear(6, 1))
    fitted = skorch.NeuralNetRegressor(one, max_epochs=2, verbose=0).fit(X, Y.to_numpy().astype("f4")[:, None])
    assert np.abs(np.asarray(backlight.explain(fitted, X[:20]).output) - fitted.predict(X[:20]).ravel()).max() <= 1e-5
    with pytest.raises(backlight.errors.NotFittedModel):
        backlight.neuralize(skorch.NeuralNetClassifier(net))
