"""Models of raw texts: the library's own scores, shared among the tokens of its vocabulary."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest, chi2
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import BernoulliNB, ComplementNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, Normalizer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

import backlight

RNG = np.random.default_rng(0)
GOOD, BAD, OTHER = ["good", "nice", "great"], ["bad", "awful", "poor"], ["film", "plot", "actor", "scene", "music"]
TEXTS = [" ".join(RNG.choice(GOOD + BAD + OTHER, 8)) for _ in range(80)]
Y = np.array([sum(t.count(w) for w in GOOD) > sum(t.count(w) for w in BAD) for t in TEXTS]).astype(int)
FRAME = pd.DataFrame(
    {"age": RNG.normal(size=80), "text": TEXTS, "city": RNG.choice(["Bern", "Rome"], 80), "title": TEXTS[::-1]}
)


def assert_explained(model, X, target=None):
    net = backlight.neuralize(model)
    wanted = net.reference_score(X)
    ex = backlight.explain(model, X, target)
    output = np.asarray(ex.output)
    found = backlight.neuralize(model)(X).numpy()
    assert np.abs(found - wanted).max() <= 1e-10 * max(1, np.abs(wanted).max())
    assert np.abs(ex.residual).max() <= 1e-9 * max(1, np.abs(output).max())
    return ex


@pytest.mark.parametrize(
    "last",
    [LogisticRegression(), LinearSVC(), RidgeClassifier(), MultinomialNB(), ComplementNB(), BernoulliNB(), SVC(),
     KNeighborsClassifier(3), RandomForestClassifier(5, random_state=0), KMeans(3, random_state=0)],
    ids=lambda m: type(m).__name__,
)  # fmt: skip
def test_every_kind_of_model_behind_a_vectorizer(last):
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    model = make_pipeline(vectorizer, last).fit(TEXTS, Y)
    ex = assert_explained(model, TEXTS[:9])
    assert ex.feature_names == tuple(vectorizer.get_feature_names_out())


def test_the_tokens_of_a_linear_model_have_weight_times_value():
    vectorizer = TfidfVectorizer()
    model = make_pipeline(vectorizer, LogisticRegression()).fit(TEXTS, Y)
    ex = backlight.explain(model, TEXTS[:9], 1)
    assert np.allclose(ex.values, vectorizer.transform(TEXTS[:9]).toarray() * model[-1].coef_, rtol=0, atol=1e-14)
    assert np.allclose(ex.output, model.decision_function(TEXTS[:9]), rtol=0, atol=1e-12)
    assert np.allclose(ex.data, vectorizer.transform(TEXTS[:9]).toarray())
    found = dict(zip(ex.feature_names, ex.values.sum(0), strict=True))
    assert min(found[w] for w in GOOD) > 0 > max(found[w] for w in BAD)


@pytest.mark.parametrize(
    "steps",
    [[TruncatedSVD(4)], [Normalizer()], [MaxAbsScaler()], [SelectKBest(chi2, k=5)], [TfidfTransformer(), TruncatedSVD(3)],
     [TruncatedSVD(4), Normalizer(copy=False)], [TruncatedSVD(4), StandardScaler(), Normalizer("l1")],
     [FunctionTransformer(np.log1p), TruncatedSVD(3), Normalizer("max")]],
    ids=lambda steps: "-".join(type(step).__name__ for step in steps),
)  # fmt: skip
@pytest.mark.parametrize(
    "last", [LogisticRegression(), SVC(), KMeans(2, random_state=0)], ids=lambda m: type(m).__name__
)
def test_steps_between(steps, last):
    assert_explained(make_pipeline(CountVectorizer(), *steps, last).fit(TEXTS, Y), TEXTS[:9])


def test_a_norm_after_a_centred_projection_is_a_gate():
    X = RNG.normal(size=(50, 6)) + 3
    model = make_pipeline(PCA(3), Normalizer(), LogisticRegression()).fit(X, X[:, 0] > 3)
    ex = backlight.explain(model, X[:8], 1)
    assert np.allclose(ex.output, model.decision_function(X[:8]), rtol=0, atol=1e-12)
    pca, size = model[0], np.linalg.norm(model[0].transform(X[:8]), axis=1, keepdims=True)
    wanted = (X[:8] - pca.mean_) / size * (model[-1].coef_ @ pca.components_)
    assert np.allclose(ex.values, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "give",
    [list, tuple, np.array, pd.Series, pl.Series, lambda t: pd.DataFrame({"q": t}), lambda t: np.array(t)[:, None]],
)
def test_texts_of_every_kind(give):
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, Y)
    want = backlight.explain(model, TEXTS[:5], 1)
    assert np.array_equal(backlight.explain(model, give(TEXTS[:5]), 1).values, want.values)


def test_texts_in_batches_in_a_stream_and_after_a_pickle():
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, Y)
    explainer = backlight.Explainer(model, 1)
    want = explainer(TEXTS).values
    assert np.allclose(explainer(TEXTS, batch_size=7).values, want, rtol=0, atol=1e-14)
    assert np.allclose(explainer(TEXTS[k : k + 20] for k in range(0, 80, 20)).values, want, rtol=0, atol=1e-14)
    assert np.array_equal(pickle.loads(pickle.dumps(explainer))(TEXTS).values, want)
    ex = explainer(pd.Series(TEXTS[:3], index=["a", "b", "c"]))
    assert list(ex.labels) == ["a", "b", "c"]
    with pytest.raises(backlight.errors.UnsupportedModel, match="TfidfVectorizer cannot be kept in a file"):
        explainer.save("never.backlight")


def test_columns_of_text_beside_others():
    columns = ColumnTransformer(
        [
            ("t", TfidfVectorizer(), "text"),
            ("n", StandardScaler(), ["age"]),
            ("o", OneHotEncoder(), ["city"]),
            ("c", CountVectorizer(), "title"),
        ]
    )
    model = make_pipeline(columns, LogisticRegression()).fit(FRAME, Y)
    ex = backlight.explain(model, FRAME[:9], 1)
    assert np.allclose(ex.output, model.decision_function(FRAME[:9]), rtol=0, atol=1e-12)
    assert np.abs(ex.residual).max() <= 1e-12
    assert ex.feature_names[:3] == ("age", "city", "text: actor")
    weights = model[-1].coef_[0]
    actor = columns.get_feature_names_out().tolist().index("t__actor")
    assert np.allclose(ex["text: actor"].values.ravel(), model[0].transform(FRAME[:9])[:, actor] * weights[actor])
    turned = FRAME[["title", "city", "text", "age"]][:9]
    assert np.array_equal(backlight.explain(model, turned, 1).values, ex.values)
    assert np.array_equal(backlight.explain(model, pl.from_pandas(FRAME[:9]), 1).values, ex.values)
    assert np.array_equal(backlight.neuralize(model).reference_score(FRAME[:9]), model.decision_function(FRAME[:9]))
    with pytest.raises(backlight.errors.ColumnsError, match="missing: title"):
        backlight.explain(model, FRAME[["age", "text", "city"]], 1)


def test_one_column_of_text_read_in_several_ways():
    union = FeatureUnion(
        [
            ("w", TfidfVectorizer()),
            ("c", TfidfVectorizer(analyzer="char")),
            ("d", TfidfVectorizer(analyzer="char", ngram_range=(2, 2))),
        ]
    )
    ex = assert_explained(make_pipeline(union, LogisticRegression()).fit(TEXTS, Y), TEXTS[:5])
    assert "word: good" in ex.feature_names
    assert {"char 1: g", "char 2: go"} <= set(ex.feature_names)
    assert len(set(ex.feature_names)) == len(ex.feature_names)
    same = CountVectorizer()
    twice = ColumnTransformer([("t", same, "text"), ("o", OneHotEncoder(handle_unknown="ignore"), ["text"])])
    ex = backlight.explain(make_pipeline(twice, LogisticRegression()).fit(FRAME, Y), FRAME[:5], 1)
    assert ex.feature_names[:5] == ("age", "text", "city", "title", "text: actor")
    assert np.abs(ex.residual).max() <= 1e-12


@pytest.mark.parametrize(
    "model",
    [
        VotingClassifier([("a", make_pipeline(TfidfVectorizer(), LogisticRegression())), ("b", make_pipeline(CountVectorizer(), MultinomialNB()))], voting="soft"),
        StackingClassifier([("a", make_pipeline(TfidfVectorizer(), LogisticRegression())), ("b", make_pipeline(CountVectorizer(), MultinomialNB()))], cv=2),
        CalibratedClassifierCV(make_pipeline(TfidfVectorizer(), LinearSVC()), cv=2),
        GridSearchCV(make_pipeline(TfidfVectorizer(), LogisticRegression()), {"logisticregression__C": [1.0]}, cv=2),
    ],
    ids=lambda m: type(m).__name__,
)  # fmt: skip
def test_members_that_read_texts_themselves(model):
    assert_explained(model.fit(TEXTS, Y), TEXTS[:5])


@pytest.mark.parametrize(
    ("rows", "said"),
    [("one text", "put it in a list"), (["a", 3], "row 1 holds 3"), ([None, "a"], "row 0 holds None"), (FRAME, "not 4 columns"),
     (np.zeros((2, 7)), "not 7 columns"), ([], "no rows")],
    ids=["text", "number", "missing", "table", "numbers", "empty"],
)  # fmt: skip
def test_what_is_no_text_is_refused(rows, said):
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, Y)
    with pytest.raises(backlight.errors.BacklightError, match=said) as raised:
        backlight.explain(model, rows, 1)
    assert len(str(raised.value)) <= 200


def test_hashes_and_files_are_refused_or_named():
    few = make_pipeline(HashingVectorizer(n_features=32), LogisticRegression()).fit(TEXTS, Y)
    assert assert_explained(few, TEXTS[:4], 1).feature_names[3] == "bucket 3"
    many = make_pipeline(HashingVectorizer(), LogisticRegression()).fit(TEXTS[:20], Y[:20])
    with pytest.raises(backlight.errors.UnsupportedOption, match="has no vocabulary"):
        backlight.explain(many, TEXTS[:2])
    files = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, Y)
    files[0].input = "filename"
    with pytest.raises(backlight.errors.UnsupportedOption, match="reads files"):
        backlight.explain(files, TEXTS[:2])


def test_more_numbers_than_memory_are_refused_before_they_are_made(monkeypatch):
    from backlight.classical.frontend import text_tables

    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, Y)
    monkeypatch.setattr(text_tables, "_NUMBERS", 100)
    with pytest.raises(backlight.errors.DataError, match="at most 9 texts at once"):
        backlight.explain(model, TEXTS)
    backlight.explain(model, TEXTS[:9])
