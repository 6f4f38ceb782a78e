"""Score and contributions in databases, in onnxruntime and as a file of NumPy: how equal they are to the explainer, and what they cost.

    python benchmarks/exports.py [--rows 10000] [--postgresql "host=... dbname=..."] [--only NAME ...] [--no-cost]

The rows have empty cells, categories that nobody has seen, and values thousands of deviations away. An error is the
largest difference of a row's numbers by what its score is made of; a size is that of the SELECT beside its tables. The
second table is the CPU of DuckDB, on one thread, by that of the explainer, for a scaler and a one-class SVM.
"""

from __future__ import annotations

import argparse
import re
import runpy
import sqlite3
import tempfile
import time
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import GradientBoostingClassifier, IsolationForest, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import backlight

NUMBERS, WORDS = ["age", "paid"], ["kind", "size"]


def table(seed: int, n: int, far: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    scale = rng.choice([1.0, 1.0, 1.0, 30.0, 1e3], (2, n)) if far else np.ones((2, n))
    kinds, sizes = ["x", "y's", "z", None], ["s", "m", "l"]
    frame = pd.DataFrame(
        {
            "age": 40 + 12 * rng.normal(size=n) * scale[0],
            "paid": np.exp(rng.normal(size=n)) * scale[1],
            "kind": pd.Series(rng.choice([*kinds, "new"] if far else kinds, n), dtype="str"),
            "size": pd.Series(rng.choice([*sizes, "other"] if far else sizes, n), dtype="str"),
        }
    )
    for name in NUMBERS:
        frame.loc[rng.random(n) < 0.1, name] = np.nan
    return frame


def mixed(*last):
    return make_pipeline(
        make_column_transformer(
            (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), NUMBERS),
            (OneHotEncoder(handle_unknown="ignore"), ["kind"]),
            (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["size"]),
        ),
        *last,
    )


PIPELINES = {
    "linear": (mixed(LinearRegression()), {}),
    "ridge of products": (mixed(PolynomialFeatures(2), StandardScaler(), Ridge()), {}),
    "logistic": (mixed(LogisticRegression()), {}),
    "logistic, every class": (mixed(LogisticRegression()), {"target": "all"}),
    "probability": (mixed(LogisticRegression()), {"score": "probability", "target": 1, "two": True}),
    "Gaussian naive Bayes": (mixed(GaussianNB()), {}),
    "Bernoulli naive Bayes": (mixed(BernoulliNB()), {"two": True}),
    "Gaussian mixture": (mixed(GaussianMixture(2, random_state=0, reg_covar=0.1)), {}),
    "PCA, Gaussian mixture": (mixed(PCA(3), GaussianMixture(2, random_state=0, reg_covar=0.1)), {}),
    "PCA, robust Mahalanobis": (mixed(PCA(3), EllipticEnvelope(random_state=0, support_fraction=1.0)), {}),
    "k-means": (mixed(KMeans(3, random_state=0, n_init=1)), {}),
    "one-class SVM": (mixed(OneClassSVM(nu=0.4)), {}),
    "PCA, one-class SVM": (mixed(PCA(2), OneClassSVM(nu=0.4)), {}),
    "one-class SVM, published rule": (mixed(OneClassSVM(nu=0.4)), {"rules": "dtd"}),
    "kernel density": (mixed(MinMaxScaler(), KernelDensity(bandwidth=0.7)), {}),
    "SVC of two": (mixed(SVC()), {"two": True}),
    "SVC of three": (mixed(RobustScaler(), SVC()), {"target": 1}),
    "SVR": (mixed(SVR()), {}),
    "linear discriminants": (mixed(LinearDiscriminantAnalysis()), {}),
    "quadratic discriminants": (mixed(QuadraticDiscriminantAnalysis(reg_param=0.5)), {}),
    "classification tree": (mixed(DecisionTreeClassifier(max_depth=6, random_state=0)), {"rules": "path"}),
    "regression tree": (mixed(DecisionTreeRegressor(max_depth=6, random_state=0)), {"rules": "path"}),
    "forest of 20": (mixed(RandomForestClassifier(20, max_depth=5, random_state=0)), {"rules": "path"}),
    "boosting, 10 rounds": (
        mixed(GradientBoostingClassifier(n_estimators=10, random_state=0)),
        {"rules": "path", "target": 0},
    ),
    "isolation forest of 20": (mixed(IsolationForest(n_estimators=20, random_state=0)), {"rules": "path"}),
}


def in_duckdb(text: str, rows: pd.DataFrame) -> pd.DataFrame:
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.register("given", rows.reset_index(names="id"))
    connection.execute("CREATE TABLE rows AS SELECT * FROM given")
    return connection.execute(text).df()


def in_sqlite(text: str, rows: pd.DataFrame) -> pd.DataFrame:
    connection = sqlite3.connect(":memory:")
    rows.astype(object).where(rows.notna(), None).reset_index(names="id").to_sql(
        "rows", connection, index=False, dtype={**dict.fromkeys(NUMBERS, "REAL"), **dict.fromkeys(WORDS, "TEXT")}
    )
    return pd.read_sql(text, connection)


def in_onnx(path: Path, rows: pd.DataFrame) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    cells = {name: rows[name].to_numpy(float)[:, None] for name in NUMBERS}
    cells |= {name: rows[[name]].fillna("").to_numpy(dtype=object) for name in WORDS}
    return stacked(*session.run(["score", "base", "contributions"], cells))


def in_numpy(path: Path, rows: pd.DataFrame) -> np.ndarray:
    found = runpy.run_path(str(path))["explain"](rows)
    return stacked(found["score"], found["base"], found["contributions"])


def in_postgresql(where: str, text: str, rows: pd.DataFrame) -> pd.DataFrame:
    import psycopg

    with psycopg.connect(where) as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMPORARY TABLE rows (id bigint, age double precision, paid double precision, kind text, size text)"
        )
        with cursor.copy("COPY rows FROM STDIN") as copied:
            for row in rows.astype(object).where(rows.notna(), None).reset_index().itertuples(index=False):
                copied.write_row(row)
        cursor.execute("ANALYZE rows")
        cursor.execute(text)
        return pd.DataFrame(cursor.fetchall(), columns=[one.name for one in cursor.description])


def stacked(score, base, values) -> np.ndarray:
    """Score, base and contributions of each row side by side, target after target."""
    score, base, values = np.asarray(score), np.asarray(base), np.asarray(values)
    if score.ndim == 1:
        score, base, values = score[:, None], base[:, None], values[..., None]
    whole = np.concatenate([score[:, None], base[:, None], values], 1)
    return np.moveaxis(whole, 2, 1).reshape(len(whole), -1)


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float((np.abs(found - wanted) / np.maximum(1, np.abs(wanted).sum(1, keepdims=True))).max())


def equality(n: int, folder: Path, server: str | None, only: list[str]) -> None:
    train, rows = table(0, 600), table(1, n, far=True)
    y = np.arange(len(train)) % 3
    print(f"{n:,} rows, {rows.isna().any(axis=1).sum():,} with empty cells")
    databases = {"duckdb": in_duckdb, "sqlite": in_sqlite}
    if server is not None:
        databases["postgresql"] = partial(in_postgresql, server)
    print(
        "  ".join([" " * 32, *(f"{one:>10}" for one in (*databases, "onnx", "numpy")), "SELECT, kB", "its tables, kB"])
    )
    for name in only or PIPELINES:
        model, options = PIPELINES[name]
        options = dict(options)
        target = y > 0 if options.pop("two", False) else y
        explainer = backlight.Explainer(model.fit(train, target), **options)
        ex = explainer(rows)
        wanted = stacked(ex.output, ex.base_values, ex.values)
        errors, sizes = [], []
        for dialect, run in databases.items():
            path = backlight.export(explainer, folder / "e.sql", dialect=dialect, key="id", rows=train, force=True)
            text = path.read_text()
            found = run(text, rows).sort_values("id")
            columns = [one for one in found if one not in ("id", "target")]
            errors.append(error(found[columns].to_numpy(float), wanted))
            beside = re.sub(r"'\[.*?\]'|\(VALUES\n.*?\)\)?,\ns0", "", text, flags=re.DOTALL)
            sizes.append((len(beside) / 1000, (len(text) - len(beside)) / 1000))
        path = backlight.export(explainer, folder / "e.onnx", rows=train, force=True)
        errors.append(error(in_onnx(path, rows), wanted))
        path = backlight.export(explainer, folder / "e.py", rows=train, force=True)
        errors.append(error(in_numpy(path, rows), wanted))
        said = "  ".join(f"{one:10.0e}" for one in errors)
        print(f"{name:32}  {said}  {sizes[0][0]:10.1f}  {sizes[0][1]:14.1f}", flush=True)


def cost(n: int, folder: Path) -> None:
    print("\ncolumns   support vectors   explain, µs a row   DuckDB, µs a row   ratio")
    for d in (5, 10, 20):
        mixing = np.random.default_rng(0).normal(size=(6, d))

        def rows(seed: int, count: int, mixing: np.ndarray = mixing, d: int = d) -> pd.DataFrame:
            rng = np.random.default_rng(seed)
            X = rng.normal(size=(count, 6)) @ mixing + 0.3 * rng.normal(size=(count, d))
            return pd.DataFrame(X, columns=[f"x{j}" for j in range(d)])

        model = make_pipeline(StandardScaler(), OneClassSVM(nu=0.5, gamma=0.05)).fit(rows(1, 2000))
        explainer, X = backlight.Explainer(model), rows(2, n)
        text = backlight.export(explainer, folder / "c.sql", key="id", force=True).read_text()
        ours, theirs = [], []
        for _ in range(3):
            start = time.process_time()
            explainer(X).values.sum()
            ours.append(time.process_time() - start)
            connection = duckdb.connect()
            connection.execute("SET threads = 1")
            connection.register("given", X.reset_index(names="id"))
            connection.execute("CREATE TABLE rows AS SELECT * FROM given")
            start = time.process_time()
            connection.execute(text).fetchnumpy()
            theirs.append(time.process_time() - start)
        a, b = (1e6 * min(times) / n for times in (ours, theirs))
        print(f"{d:7}   {len(model[-1].support_vectors_):15,}   {a:17.1f}   {b:16.1f}   {b / a:5.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--postgresql")
    parser.add_argument("--only", nargs="*", default=[], choices=PIPELINES, metavar="NAME")
    parser.add_argument("--no-cost", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        equality(asked.rows, Path(folder), asked.postgresql, asked.only)
        if not asked.no_cost:
            cost(asked.rows, Path(folder))


if __name__ == "__main__":
    main()
