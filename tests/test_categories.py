"""Prototypes and counterfactuals of tables with columns of words: brute force over categories says what is best."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linprog
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, PolynomialFeatures, StandardScaler
from sklearn.svm import OneClassSVM

import backlight
from backlight import constraints, priors
from backlight.errors import BacklightError

INF = float("inf")
WORDS = {"country": ["de", "fr", "us"], "channel": ["app", "web"]}
NUMBERS = ["amount", "hour"]


def orders(n=240, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({
        "amount": rng.gamma(2, 100, n).round(2), "country": rng.choice(WORDS["country"], n),
        "hour": rng.integers(0, 24, n).astype(float), "channel": rng.choice(WORDS["channel"], n),
    })  # fmt: skip
    risky = (table.amount > 250) | ((table.country == "us") & (table.hour < 8)) | (table.channel == "web")
    return table, (risky & (rng.random(n) < 0.9)).astype(int)


def encoded(*steps):
    return make_column_transformer((StandardScaler(), NUMBERS), (OneHotEncoder(drop="if_binary"), list(WORDS)), *steps)


TABLE, LABELS = orders()
LINEAR = make_pipeline(encoded(), LogisticRegression()).fit(TABLE, LABELS)
LEAST = TABLE[NUMBERS].min().to_numpy(), TABLE[NUMBERS].max().to_numpy()
SAFE = TABLE[LINEAR.predict(TABLE) == 0]


def turned(row, **options):
    given = {"data": TABLE, "bounds": "data", "strength": INF, "constraints": [constraints.decision()]} | options
    return backlight.prototype(LINEAR, 1, **given)


def score(row, numbers, words):
    """The logit of a row with other numbers and words, by scikit-learn."""
    other = row.assign(**dict(zip(NUMBERS, numbers, strict=True)), **dict(zip(WORDS, words, strict=True)))
    return float(LINEAR.decision_function(other)[0])


def line(row, words):
    """Slope in the numbers and constant, for given words."""
    base = score(row, (0.0, 0.0), words)
    return np.array([score(row, (1.0, 0.0), words) - base, score(row, (0.0, 1.0), words) - base]), base


@pytest.mark.parametrize("at", [0, 7, 23])
@pytest.mark.parametrize("weights", [None, [0.01, 3.0, 0.2, 1.5]])
def test_the_smallest_change_in_l1_is_that_of_all_categories_tried_one_by_one(at, weights):
    row = SAFE.iloc[[at]]
    w = np.ones(4) if weights is None else np.array(weights)
    best = INF
    for words in itertools.product(*WORDS.values()):
        slope, base = line(row, words)
        x = row[NUMBERS].to_numpy()[0]
        cost = sum(wi for wi, a, b in zip(w[[1, 3]], words, row[list(WORDS)].to_numpy()[0], strict=True) if a != b)
        found = linprog(
            np.repeat(w[[0, 2]], 2), A_ub=-np.kron(slope, [1, -1])[None], b_ub=[base + slope @ x - 1e-6 / 2],
            bounds=[side for i in (0, 1) for side in ((0, LEAST[1][i] - x[i]), (0, x[i] - LEAST[0][i]))],
        )  # fmt: skip
        best = min(best, cost + found.fun) if found.status == 0 else best
    p = turned(row, prior=priors.L1(1.0, center=row, weights=weights))
    assert p.status == ("exact",)
    assert abs(p.omega[0] - best) <= 1e-8 * (1 + best)
    told = p.to_frame()
    assert list(told.columns) == ["target", *TABLE.columns]
    assert told.country[0] in WORDS["country"]
    assert LINEAR.predict(told[TABLE.columns])[0] == 1


@pytest.mark.parametrize("at", [1, 11])
def test_the_nearest_row_is_that_of_all_categories_tried_one_by_one(at):
    row = SAFE.iloc[[at]]
    x, best = row[NUMBERS].to_numpy()[0], INF
    for words in itertools.product(*WORDS.values()):
        slope, base = line(row, words)
        lack = max(0.0, 1e-6 / 2 - (base + slope @ x))
        cost = sum(a != b for a, b in zip(words, row[list(WORDS)].to_numpy()[0], strict=True))  # two halves of a square
        best = min(best, cost + lack**2 / (2 * slope @ slope))
    p = turned(row, prior=priors.Near(row), bounds=None, data=None)
    assert p.status == ("exact",)
    assert abs(p.omega[0] - best) <= 1e-6 * (1 + best)


def test_near_counts_in_the_datas_own_covariance_and_takes_a_row_in_any_form():
    row = SAFE.iloc[[5]]
    found = [
        turned(row, prior=priors.Near(given, data=TABLE)).to_frame()
        for given in (row, row.iloc[0], row.iloc[0].to_dict(), list(row.iloc[0]))
    ]
    for other in found[1:]:
        pd.testing.assert_frame_equal(other, found[0])
    assert LINEAR.predict(found[0][TABLE.columns])[0] == 1


@pytest.mark.parametrize("make", [priors.Near, lambda row: priors.L1(1.0, center=row)])
def test_a_row_with_columns_in_another_order_is_the_same_row(make):
    numbers = TABLE[NUMBERS]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(numbers, LABELS)
    row = numbers[model.predict(numbers) == 0].iloc[[0]]
    asked = {"data": numbers, "bounds": "data", "strength": INF, "constraints": [constraints.decision()]}
    known = backlight.prototype(model, 1, prior=make(row.to_numpy()[0]), **asked).x
    for other in (row, row[NUMBERS[::-1]], row[NUMBERS[::-1]].iloc[0], row[NUMBERS[::-1]].iloc[0].to_dict()):
        np.testing.assert_allclose(backlight.prototype(model, 1, prior=make(other), **asked).x, known)
    turned_round = numbers[NUMBERS[::-1]]
    near = backlight.prototype(model, 1, prior=priors.Near(row, data=turned_round), **asked).x
    np.testing.assert_allclose(near, backlight.prototype(model, 1, prior=priors.Near(row, data=numbers), **asked).x)
    for prior in (
        priors.Near(row[NUMBERS[::-1]], np.ones(2)),
        priors.L1(1.0, center=row[NUMBERS[::-1]], weights=[1, 2]),
    ):
        with pytest.raises(BacklightError, match="another order than the model"):
            backlight.prototype(model, 1, prior=prior, **asked)
    with pytest.raises(BacklightError, match="missing: hour"):
        backlight.prototype(model, 1, prior=make(row.rename(columns={"hour": "time"})), **asked)


def test_columns_of_words_are_kept_by_name():
    row = SAFE[(SAFE.country == "fr") & (SAFE.channel == "app")].iloc[[0]]
    prior, turn = priors.L1(1.0, center=row, weights=[1e-2, 1e-3, 1, 1e-3]), constraints.decision()
    kept = turned(row, prior=prior, constraints=[turn, constraints.fix("country", "channel")]).to_frame()
    assert (kept.country[0], kept.channel[0]) == ("fr", "app")
    asked = turned(row, prior=prior, constraints=[turn, constraints.fix("country", value="us")]).to_frame()
    assert asked.country[0] == "us"
    free = turned(row, prior=prior).to_frame()
    assert free.channel[0] == "web"
    once = turned(row, prior=prior, constraints=[turn, constraints.sparse(1)]).to_frame()
    assert (once[TABLE.columns].iloc[0] != row.iloc[0]).sum() == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"constraints": [constraints.fix("country", value="at")]}, "'at' is no category of 'country': choose from 'de', 'fr'"),
        ({"constraints": [constraints.fix("country", value=1.0)]}, "needs value= to be one of 'de', 'fr'"),
        ({"constraints": [constraints.fix("country")], "prior": None}, None),
        ({"constraints": [constraints.fix("amount", value="de")]}, "'amount' is no column of categories"),
        ({"constraints": [constraints.integer("country")]}, r"integer\(\) is for numbers, and 'country' holds categories"),
        ({"bounds": {"country": (0, 1)}}, "bounds= is for numbers, and 'country' holds categories"),
        ({"prior": priors.L1(1.0, center=TABLE.iloc[:2])}, "one row of a table, not 2"),
        ({"prior": priors.L1(1.0, center=TABLE.iloc[:1], weights=[1.0, 2.0])}, "has 2 numbers, but the table has 4 columns"),
        ({"prior": priors.Near(TABLE.iloc[:1].assign(country="at"))}, "no category in column 'country'"),
    ],
)  # fmt: skip
def test_what_words_cannot_do_is_said_in_a_sentence(options, said):
    given = {"prior": priors.L1(1.0, center=SAFE.iloc[[0]]), "data": TABLE, "strength": INF} | options
    given["constraints"] = [*given.get("constraints", []), constraints.decision()]
    if said is None:  # the Gaussian of the data has a centre of its own
        given["strength"], given["prior"] = 1.0, None
        assert backlight.prototype(LINEAR, 1, **given).to_frame().country[0] in WORDS["country"]
        return
    with pytest.raises(BacklightError, match=said):
        backlight.prototype(LINEAR, 1, **given)


def test_an_energy_without_a_model_is_refused():
    import torch

    for prior in (priors.Near(TABLE.iloc[:1]), priors.L1(1.0, center=TABLE.iloc[:1])):
        with pytest.raises(BacklightError, match="is read by a model"):
            prior.energy(torch.zeros(1, 4))


MODELS = {
    "perceptron": make_pipeline(encoded(), MLPClassifier((5,), solver="lbfgs", max_iter=2000, random_state=0)),
    "forest": make_pipeline(encoded(), RandomForestClassifier(6, max_depth=4, random_state=0)),
    "ordinal": make_pipeline(
        make_column_transformer((StandardScaler(), NUMBERS), (OrdinalEncoder(), list(WORDS))), LogisticRegression()
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_answers_of_every_kind_of_model_are_rows_of_the_table(name, tmp_path):
    model = MODELS[name].fit(TABLE, LABELS)
    row = TABLE[model.predict(TABLE) == 0].iloc[[3]]
    p = backlight.prototype(
        model, 1, prior=priors.L1(1.0, center=row), data=TABLE, bounds="data", strength=INF,
        constraints=[constraints.decision()], count=2,
    )  # fmt: skip
    told = p.to_frame()
    assert list(model.predict(told[TABLE.columns])) == [1] * len(told)
    assert set(told.channel) <= set(WORDS["channel"])
    assert not any(p.flags)
    p.save(tmp_path / "p.safetensors")
    loaded = backlight.Prototypes.load(tmp_path / "p.safetensors")
    pd.testing.assert_frame_equal(loaded.to_frame(), told)
    np.testing.assert_array_equal(loaded.replay(model).x, p.x)


def test_prototypes_and_their_explanations_speak_of_the_table():
    p = backlight.prototype(LINEAR, data=TABLE)
    assert p.status == ("exact", "exact")
    assert p.decided == ("0", "1")
    ex = p.explain("lrp")
    assert ex.feature_names == tuple(TABLE.columns)
    assert p.nearest(TABLE, k=2)[0].shape == (2, 2)
    judged = p.evaluate(TABLE, LABELS.astype(str).to_numpy())
    assert len(judged.to_frame()) >= 2


def test_a_regression_and_a_detector():
    p = backlight.prototype(make_pipeline(encoded(), Ridge()).fit(TABLE, TABLE.hour), data=TABLE)
    assert p.status == ("exact",)
    detector = make_pipeline(encoded(), OneClassSVM(nu=0.2)).fit(TABLE)
    odd = TABLE[detector.predict(TABLE) < 0].iloc[[0]]
    p = backlight.prototype(
        detector, prior=priors.Near(odd, data=TABLE), data=TABLE, bounds="data", strength=INF,
        constraints=[constraints.decision()],
    )  # fmt: skip
    assert detector.predict(p.to_frame()[TABLE.columns])[0] == 1


def test_a_table_of_words_alone():
    frame = pd.DataFrame({"job": ["a", "b", "c", "a"]})
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(frame, [0, 1, 0, 1])
    told = backlight.prototype(
        model, 1, prior=priors.Near({"job": "c"}), strength=INF, constraints=[constraints.decision()]
    ).to_frame()
    assert model.predict(told[["job"]])[0] == 1


def test_models_in_which_words_meet_other_columns_are_refused_in_a_sentence():
    products = make_pipeline(encoded(), PolynomialFeatures(2, include_bias=False), LogisticRegression(max_iter=2000))
    members = VotingClassifier([("a", make_pipeline(encoded(), LogisticRegression()))], voting="soft")
    with pytest.raises(BacklightError, match="multiplies columns or encodes them in its members"):
        backlight.prototype(products.fit(TABLE, LABELS), data=TABLE)
    with pytest.raises(BacklightError, match="multiplies columns or encodes them in its members"):
        backlight.prototype(members.fit(TABLE, LABELS), data=TABLE)
