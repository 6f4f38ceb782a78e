"""Questions to all rows from sums: equal to explaining everything and looking, and to formulas written row by row."""

import datetime as dt
import math
from functools import reduce
from operator import add

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR, OneClassSVM

import backlight
from backlight import errors

_NAMES = ["a", "b", "c"]


def _table(n=300):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(n, 3)), columns=_NAMES)
    frame["shop"] = pd.Series(rng.choice(["x", "y", None], n), dtype="str")
    frame["number"] = rng.integers(0, 3, n)
    frame["day"] = pd.Timestamp("2024-01-20") + pd.to_timedelta(rng.integers(0, 60, n), unit="D")
    return frame


_FRAME = _table()
_EXPLAINER = backlight.Explainer(OneClassSVM(nu=0.3).fit(_FRAME[_NAMES][:60]))


def _direct(explainer, frame, keys):
    """Mean contributions of each group, by explaining everything at once."""
    ex = explainer(frame[_NAMES])
    found = {}
    for row, key in enumerate(keys):
        found.setdefault(key, []).append(row)
    return ex, found


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        (None, [None] * len(_FRAME)),
        ("shop", [one if isinstance(one, str) else None for one in _FRAME["shop"]]),
        ("number", _FRAME["number"].tolist()),
        (["shop", "number"], [(a if isinstance(a, str) else None, b) for a, b in zip(_FRAME["shop"], _FRAME["number"], strict=True)]),
    ],
    ids=str,
)  # fmt: skip
def test_means_of_groups_are_those_of_all_rows_explained_at_once(by, keys):
    found = backlight.sum_batches(_EXPLAINER, _FRAME, by=by, columns=_NAMES, batch_rows=37)
    ex, rows = _direct(_EXPLAINER, _FRAME, keys)

    assert found.groups == tuple(rows)
    for k, group in enumerate(rows.values()):
        values = ex.values[group]
        assert found.rows[k] == len(group)
        assert found.mean[k] == pytest.approx(values.mean(0), rel=1e-12)
        assert found.mean_absolute[k] == pytest.approx(np.abs(values).mean(0), rel=1e-12)
        assert found.deviation[k] == pytest.approx(values.std(0), rel=1e-9)
        assert found.score[k] == pytest.approx(ex.output[group].sum(), rel=1e-12)
        assert found.base[k] == pytest.approx(ex.base_values[group].sum(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("text", [False, True])
def test_dates_are_cut_down_to_their_period(text, tmp_path):
    frame = _FRAME.assign(day=_FRAME["day"].dt.strftime("%Y-%m-%d")) if text else _FRAME
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "rows.parquet")
    found = backlight.sum_batches(_EXPLAINER, tmp_path / "rows.parquet", by="day", period="month", batch_rows=64)
    months = [dt.date(one.year, one.month, 1) for one in _FRAME["day"]]
    ex, rows = _direct(_EXPLAINER, _FRAME, months)

    assert found.groups == tuple(rows)
    assert found.mean == pytest.approx(np.stack([ex.values[group].mean(0) for group in rows.values()]), rel=1e-12)


def test_sums_of_parts_add_up_to_sums_of_the_whole():
    whole = backlight.sum_batches(_EXPLAINER, _FRAME, by="shop", columns=_NAMES, training_rows=True)
    parts = [
        backlight.sum_batches(_EXPLAINER, _FRAME[k : k + 70], by="shop", columns=_NAMES, training_rows=True)
        for k in range(0, len(_FRAME), 70)
    ]
    found = reduce(add, parts)

    assert found.groups == whole.groups
    for name in ("rows", "score", "base", "contributions", "absolute", "squares", "training_rows"):
        assert getattr(found, name) == pytest.approx(getattr(whole, name), rel=1e-11, abs=1e-11)


def _stable(z, U, alpha, gamma, tau=0.01):
    """What goes from one row through each anchor, (M, K): the rule as it is written, anchor by anchor."""
    D = [gamma * sum((a - b) ** 2 for a, b in zip(z, u, strict=True)) for u in U]
    own = next((j for j, d in enumerate(D) if d < 1e-20), None)
    rest = [j for j in range(len(U)) if j != own]
    total = sum(alpha[j] * math.exp(-D[j]) for j in rest)
    p = {j: alpha[j] * math.exp(-D[j]) / total for j in rest}
    o = -math.log(total / sum(alpha[j] for j in rest))
    mean = sum(p[j] * D[j] for j in rest)
    w = {j: p[j] / (D[j] + tau * mean) for j in rest}
    t = o / sum(w[j] * D[j] for j in rest)
    out = np.zeros_like(U)
    for j in rest:
        out[j] = [t * w[j] * gamma * (a - b) ** 2 for a, b in zip(z, U[j], strict=True)]
    return out


def test_what_goes_through_each_training_row_is_the_rule_summed_row_by_row():
    X = _FRAME[_NAMES].to_numpy()
    model = OneClassSVM(nu=0.3, gamma=0.4).fit(X[:60])
    found = backlight.sum_batches(backlight.Explainer(model), X, training_rows=True, batch_rows=50)
    U, alpha = model.support_vectors_, model.dual_coef_[0] / model.dual_coef_.sum()
    wanted = sum(_stable(z, U, alpha, 0.4) for z in X)

    assert found.anchors == pytest.approx(U, abs=1e-12)
    assert found.training_rows[0] == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (OneClassSVM(nu=0.4), {}),
        (OneClassSVM(nu=0.4), {"rules": "dtd"}),
        (OneClassSVM(nu=0.4), {"rules": "free"}),
        (OneClassSVM(nu=0.4), {"rules": "pool"}),
        (KernelDensity(bandwidth=0.6), {}),
        (SVC(), {"target": 1}),
        (SVC(), {}),
        (SVR(), {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("front", ["scaler", "axes", "encoder"])
def test_training_rows_add_up_to_the_contributions_of_each_group(front, model, options):
    names = [*_NAMES, "number"] if front == "encoder" else _NAMES
    fronts = {
        "scaler": [StandardScaler()],
        "axes": [StandardScaler(), PCA(2)],
        "encoder": [make_column_transformer((OneHotEncoder(), ["number"]), remainder=StandardScaler())],
    }
    pipeline = make_pipeline(*fronts[front], model).fit(_FRAME[names][:80], np.arange(80) % 2)
    explainer = backlight.Explainer(pipeline, **options)
    found = backlight.sum_batches(explainer, _FRAME, by="shop", columns=names, training_rows=True)
    ex = explainer(_FRAME[names])

    assert found.training_rows.shape == (3, len(found.anchors), len(names))
    assert found.training_rows.sum(1) == pytest.approx(
        found.contributions, rel=1e-9, abs=1e-9 * np.abs(ex.values).sum()
    )


def test_memory_does_not_grow_with_the_rows():
    def rows():
        for k in range(20):
            yield _FRAME[_NAMES].to_numpy() + k

    found = backlight.sum_batches(_EXPLAINER, rows(), training_rows=True)

    assert found.rows.tolist() == [20 * len(_FRAME)]
    assert found.training_rows.shape == (1, len(_EXPLAINER.opened()[0].network.layer.training_rows()), 3)


def test_a_table_of_means_has_one_line_a_group():
    found = backlight.sum_batches(_EXPLAINER, _FRAME, by=["number", "shop"], columns=_NAMES)
    frame = found.to_frame("pandas")

    assert list(frame.columns) == ["by number", "by shop", "rows", "score", "base", *_NAMES]
    assert len(frame) == len(found.groups) == 9
    assert frame["rows"].sum() == len(_FRAME)


def test_a_column_of_the_model_can_be_what_rows_are_grouped_by():
    model = LinearRegression().fit(_FRAME[["a", "number"]], _FRAME["b"])
    found = backlight.sum_batches(model, _FRAME, by="number")

    assert found.names == ("a", "number")
    assert sorted(found.groups) == [0, 1, 2]


def test_questions_that_have_no_answer_are_refused_by_name():
    X = _FRAME[_NAMES]
    several = backlight.Explainer(LogisticRegression().fit(X, _FRAME["number"]), target="all")
    forest = RandomForestRegressor(2, random_state=0).fit(X, _FRAME["number"])
    for model, source, options, error, said in (
        (several, X, {}, errors.ArgumentError, "one target"),
        (_EXPLAINER, _FRAME, {"by": "nowhere"}, errors.ColumnsError, "no column 'nowhere'"),
        (_EXPLAINER, _FRAME, {"period": "month"}, errors.ArgumentError, "name such a column"),
        (_EXPLAINER, _FRAME, {"by": "day", "period": "era"}, errors.ArgumentError, "period='era'"),
        (_EXPLAINER, _FRAME, {"by": "shop", "period": "month"}, errors.DataError, "no dates"),
        (_EXPLAINER, X.to_numpy(), {"by": "a"}, errors.ArgumentError, "have none"),
        (_EXPLAINER, X[:0], {}, errors.DataError, "no rows"),
        (forest, X, {"training_rows": True}, errors.UnsupportedModel, "training_rows="),
    ):
        with pytest.raises(error, match=said) as raised:
            backlight.sum_batches(model, source, **options)
        assert len(str(raised.value)) < 200
    one, other = (backlight.sum_batches(_EXPLAINER, _FRAME, by=by, columns=_NAMES) for by in ("shop", "number"))
    with pytest.raises(errors.ArgumentError, match="different features or groups"):
        one + other
