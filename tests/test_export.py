"""Explanations as SQL: equal to the explainer in two databases, for rows near and far, missing and unseen."""

import sqlite3

import duckdb
import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import GradientBoostingClassifier, IsolationForest, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, OneClassSVM
from sklearn.tree import DecisionTreeClassifier

import backlight
from backlight import errors
from backlight._export import verify

_RNG = np.random.default_rng(0)
_N = 60
_FRAME = pd.DataFrame(
    {
        "a": _RNG.normal(size=_N),
        "b it's": _RNG.normal(size=_N) * 3,
        "kind": pd.Series(_RNG.choice(["x", "y's", None], _N), dtype="str"),
        "size": pd.Series(_RNG.choice(["s", "m"], _N), dtype="str"),
    }
)
_FRAME.loc[::7, "a"] = np.nan
_Y = np.arange(_N) % 3


def _mixed(last, *between):
    """Numbers imputed and scaled, categories one-hot and ordinal, then a model."""
    front = make_column_transformer(
        (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), ["a", "b it's"]),
        (OneHotEncoder(handle_unknown="ignore"), ["kind"]),
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["size"]),
    )
    return make_pipeline(front, *between, last)


_CASES = {
    "linear": (_mixed(LinearRegression()), {}),
    "logistic": (_mixed(LogisticRegression()), {}),
    "logistic, all": (_mixed(LogisticRegression()), {"target": "all"}),
    "probability": (_mixed(LogisticRegression()), {"score": "probability", "target": 1, "two": True}),
    "gaussian bayes": (_mixed(GaussianNB()), {}),
    "bernoulli bayes": (_mixed(BernoulliNB()), {"two": True}),
    "mixture": (_mixed(GaussianMixture(2, random_state=0, reg_covar=0.1)), {}),
    "mixture of axes": (_mixed(GaussianMixture(2, random_state=0, reg_covar=0.1), PCA(3)), {}),
    "envelope": (_mixed(EllipticEnvelope(random_state=0, support_fraction=1.0), PCA(3)), {}),
    "clusters": (_mixed(KMeans(3, random_state=0, n_init=1)), {}),
    "one-class": (_mixed(OneClassSVM(nu=0.4)), {}),
    "one-class of axes": (_mixed(OneClassSVM(nu=0.4), PCA(2)), {}),
    "one-class, published": (_mixed(OneClassSVM(nu=0.4)), {"rules": "dtd"}),
    "one-class, normality": (_mixed(OneClassSVM(nu=0.4)), {"score": "decision_function"}),
    "density": (_mixed(KernelDensity(bandwidth=0.7), MinMaxScaler()), {}),
    "classifier": (_mixed(SVC()), {"two": True}),
    "classifier of three": (_mixed(SVC(), RobustScaler()), {"target": 1}),
    "regression": (_mixed(SVR()), {}),
    "discriminants": (_mixed(LinearDiscriminantAnalysis()), {}),
    "quadratic discriminants": (_mixed(QuadraticDiscriminantAnalysis(reg_param=0.5)), {}),
    "tree": (_mixed(DecisionTreeClassifier(max_depth=3, random_state=0)), {"rules": "path"}),
    "forest": (_mixed(RandomForestClassifier(4, max_depth=3, random_state=0)), {"rules": "path"}),
    "boosted": (_mixed(GradientBoostingClassifier(n_estimators=2, random_state=0)), {"rules": "path", "target": 0}),
    "isolation": (_mixed(IsolationForest(n_estimators=4, random_state=0)), {"rules": "path"}),
}


def _explainer(case):
    model, options = _CASES[case]
    options = dict(options)
    y = _Y > 0 if options.pop("two", False) else _Y
    return backlight.Explainer(model.fit(_FRAME, y), **options)


def _new_rows():
    """Rows of the training set, near and far ones, empty cells, levels that nobody has seen."""
    rng = np.random.default_rng(5)
    n = 40
    rows = pd.DataFrame(
        {
            "a": rng.normal(size=n) * rng.choice([0, 1, 20], n),
            "b it's": rng.normal(size=n) * rng.choice([0, 3, 50], n),
            "kind": pd.Series(rng.choice(["x", "y's", None, "new"], n), dtype="str"),
            "size": pd.Series(rng.choice(["s", "m", "other"], n), dtype="str"),
        }
    )
    rows.loc[::5, "a"] = np.nan
    rows.loc[::6, "b it's"] = np.nan
    return pd.concat([rows, _FRAME[:8]], ignore_index=True)


def _in_sqlite(query, rows):
    own = verify._sqlite("sqlite")
    own.execute('CREATE TABLE "rows" ("id" INTEGER, "a" DOUBLE, "b it\'s" DOUBLE, "kind" TEXT, "size" TEXT)')
    cells = [[None if v is None or v != v else v for v in row] for row in rows.reset_index().values.tolist()]
    own.executemany('INSERT INTO "rows" VALUES (?, ?, ?, ?, ?)', cells)
    own.row_factory = sqlite3.Row
    return pd.DataFrame([dict(row) for row in own.execute(query).fetchall()])


def _in_duckdb(query, rows):
    own = duckdb.connect()
    own.register("rows", rows.reset_index(names="id"))
    return own.execute(query).df()


def _numbers(path, X):
    """Score, base and contributions of rows, by the database that a text is for."""
    names = [f"x{j}" for j in range(X.shape[1])]
    frame = pd.DataFrame(X, columns=names).reset_index(names="id")
    if path.stem == "duckdb":
        own = duckdb.connect()
        own.register("rows", frame)
        found = own.execute(path.read_text()).df()
    else:
        connection = verify._sqlite("sqlite")
        frame.to_sql("rows", connection, index=False)
        found = pd.read_sql(path.read_text(), connection)
    return found.sort_values("id")[["score", "base", *names]].to_numpy(dtype=float)


@pytest.mark.parametrize("case", _CASES)
def test_the_numbers_of_two_databases_are_those_of_the_explainer(case, tmp_path):
    explainer, rows = _explainer(case), _new_rows()
    ex = explainer(rows)
    several = ex.output.ndim > 1
    for dialect, run in (("sqlite", _in_sqlite), ("duckdb", _in_duckdb)):
        path = backlight.export(explainer, tmp_path / f"{dialect}.sql", dialect=dialect, key="id", rows=_FRAME)
        found = run(path.read_text(), rows).sort_values("id")
        wanted = {}
        for k in range(ex.output.shape[1] if several else 1):
            tail = f"[{ex.output_names[k]}]" if several else ""
            pick = (lambda array, k=k: array[..., k]) if several else (lambda array: array)
            wanted |= {f"score{tail}": pick(np.asarray(ex.output)), f"base{tail}": pick(ex.base_values)}
            wanted |= {f"{name}{tail}": pick(ex.values)[:, j] for j, name in enumerate(ex.feature_names)}
        size = np.maximum(1, sum(np.abs(column) for column in wanted.values()))
        for name, column in wanted.items():
            off = np.abs(found[name].to_numpy(dtype=float) - column) / size
            assert off.max() < 1e-9, (dialect, name)
        if "target" in found:
            assert [str(one) for one in found["target"]] == [
                str(explainer._given.classes_[k]) if hasattr(explainer._given, "classes_") else f"cluster {k}"
                for k in ex.annotations["target"]
            ]


def test_a_row_that_is_refused_has_no_numbers(tmp_path):
    front = make_column_transformer((OneHotEncoder(), ["size"]), (StandardScaler(), ["b it's"]))
    model = make_pipeline(front, OneClassSVM(nu=0.4)).fit(_FRAME[["b it's", "size"]])
    explainer = backlight.Explainer(model)
    path = backlight.export(explainer, tmp_path / "q.sql", dialect="duckdb", key="id")
    rows = pd.DataFrame({"b it's": [1.0, 1.0, np.nan], "size": ["s", "new", "m"]})
    found = _in_duckdb(path.read_text(), rows).sort_values("id")

    assert found["score"].notna().tolist() == [True, False, False]
    assert found["size"].notna().tolist() == [True, False, False]


def test_single_precision_of_trees_is_kept_at_every_threshold(tmp_path):
    thresholds = np.float32([0.1, 1 / 3, 1e-40, -0.7])
    X = np.concatenate([np.nextafter(np.float64(t), s) for t in thresholds for s in (-np.inf, np.inf)] + [thresholds], axis=None)  # fmt: skip
    X = np.concatenate([X, X + 2.0**-27, X - 2.0**-27])[:, None]
    tree = DecisionTreeClassifier(random_state=0).fit(X, np.arange(len(X)) % 2)
    explainer = backlight.Explainer(tree, rules="path", feature_names=["a"], target=1)

    backlight.export(explainer, tmp_path / "t.sql", dialect="sqlite", rows=X)


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
@pytest.mark.parametrize(
    "model", [IsolationForest(n_estimators=3, random_state=0), DecisionTreeClassifier(random_state=0)], ids=str
)
@pytest.mark.parametrize("written", [0, 10_000])
def test_leaves_as_boxes_are_the_same_leaves(written, model, dialect, tmp_path, monkeypatch):
    from backlight._export import trees

    monkeypatch.setattr(trees, "_WRITTEN", written)
    X = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32).astype(float)
    X[::5, 1] = np.nan  # a forest that isolates sends such cells right, a tree where it has learnt to
    y = np.where(
        np.isnan(X[:, 1]), 2, np.arange(80) % 2
    )  # whether a cell is missing decides: that split is at infinity
    options = {} if isinstance(model, IsolationForest) else {"target": 1}
    explainer = backlight.Explainer(model.fit(X, y), rules="path", feature_names=["x0", "x1", "x2"], **options)
    thresholds = explainer.opened()[0].network.layer.table.threshold
    at = np.random.default_rng(1).choice(thresholds[np.isfinite(thresholds)], (30, 3))
    assert np.isfinite(thresholds).all() == isinstance(model, IsolationForest)
    rows = np.concatenate([X, np.full((1, 3), np.nan), at, np.nextafter(at, np.inf), at + 2.0**-27, at - 2.0**-27])
    path = backlight.export(explainer, tmp_path / f"{dialect}.sql", dialect=dialect, key="id", rows=rows)
    ex = explainer(rows)

    assert _numbers(path, rows) == pytest.approx(np.column_stack([ex.output[:], ex.base_values, ex.values]), abs=1e-12)


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
@pytest.mark.parametrize("rule", ["path", "auto"])
def test_rows_that_are_infinite_or_too_far_have_no_numbers(rule, dialect, tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 2))
    model = DecisionTreeClassifier(max_depth=3, random_state=0) if rule == "path" else OneClassSVM()
    explainer = backlight.Explainer(model.fit(X, np.arange(60) % 2), rules=rule, feature_names=["x0", "x1"])
    path = backlight.export(explainer, tmp_path / f"{dialect}.sql", dialect=dialect, key="id")
    rows = np.array([[0.1, 0.2], [np.inf, 0.0], [0.0, -np.inf], [1e200, 0.0], [1e150, 0.0]])
    for row in rows[1:4]:
        with pytest.raises(errors.DataError):
            explainer(row[None])

    assert np.isnan(_numbers(path, rows)).all(1).tolist() == [False, True, True, True, False]
    if dialect == "duckdb":  # no value, rather than no number
        own = duckdb.connect()
        own.register("rows", pd.DataFrame(rows, columns=["x0", "x1"]).reset_index(names="id"))
        assert own.execute(f"SELECT count(score), count(x0) FROM ({path.read_text()})").fetchone() == (2, 2)  # noqa: S608 - our own text


def test_what_is_not_written_is_refused_by_name(tmp_path):
    X, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 2
    tree = DecisionTreeClassifier(max_depth=2, random_state=0).fit(X, y)
    power = make_pipeline(PowerTransformer(), LinearRegression()).fit(X, y)
    for explainer, name, options, said in (
        (backlight.Explainer(tree), "a.sql", {}, "rules='path'"),
        (backlight.Explainer(power), "a.sql", {}, "PowerTransformer is not written in SQL"),
        (tree, "a.pmml", {}, "the ending must be one of .sql, .onnx, .pt2, .py"),
        (tree, "a.sql", {"dialect": "cobol"}, "dialect must be one of"),
    ):
        with pytest.raises(errors.BacklightError, match=said):
            backlight.export(explainer, tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_when_the_numbers_differ(tmp_path, monkeypatch):
    from backlight._export import layers

    X = np.random.default_rng(0).normal(size=(30, 2))
    model = LinearRegression().fit(X, X[:, 0])
    monkeypatch.setattr(layers, "dot", lambda weights, terms: 0.0)
    with pytest.raises(errors.ConservationError, match="nothing was written"):
        backlight.export(model, tmp_path / "a.sql", dialect="sqlite")
    assert list(tmp_path.iterdir()) == []


def test_the_text_for_postgresql_is_compared_too_and_guards_its_exponentials(tmp_path):
    X = np.random.default_rng(0).normal(size=(20, 2))
    path = backlight.export(OneClassSVM().fit(X), tmp_path / "p.sql", dialect="postgresql", table="my rows")
    text = path.read_text()

    assert 'FROM "my rows"' in text
    assert "< -100e0 THEN 0e0 ELSE EXP(" in text


_DENSE = {
    "density": KernelDensity(bandwidth=0.4),
    "narrow density": KernelDensity(bandwidth=1e-3),  # all exponentials but a row's own vanish
    "narrow one-class": OneClassSVM(nu=0.9, gamma=2.0),
    "wide one-class": OneClassSVM(nu=0.5, gamma=1e-4),
    "equal but for rounding": make_pipeline(StandardScaler(), PCA(3), OneClassSVM(nu=0.9)),
}


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        (name, rule)
        for name in _DENSE
        for rule in ("auto", "free", "pool", "dtd")
        # the published rule divides by distances, and those to a row's double are rounding or zero there
        if (name, rule) != ("equal but for rounding", "dtd")
    ],
)
def test_rows_that_are_anchors_once_or_twice_and_rows_far_away_have_the_same_numbers(name, rule, dialect, tmp_path):
    X = np.random.default_rng(0).normal(size=(24, 3)).round(3)
    X[:, 1] = X[:, 1] > 0  # a column that tells few rows apart
    X = np.concatenate([X, X[:4], X[:1]])
    explainer = backlight.Explainer(_DENSE[name].fit(X), rules=rule, feature_names=["x0", "x1", "x2"])
    rows = np.concatenate([X, X + 1e-4, X[:5] * 1e4, X[:5] - 1e7])
    path = backlight.export(explainer, tmp_path / f"{dialect}.sql", dialect=dialect, key="id", rows=rows)
    ex = explainer(rows)
    wanted = np.column_stack([ex.output[:], ex.base_values, ex.values])

    off = np.abs(_numbers(path, rows) - wanted) / np.maximum(1, np.abs(wanted).sum(1, keepdims=True))
    assert off.max() < 1e-9
