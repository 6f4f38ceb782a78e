"""What anomaly detection takes from tables: moments, groups, awkward columns, and the fewest changes."""

import datetime as dt
import itertools
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage

from backlight.anomaly.changes import Proposer, fewest_changes
from backlight.anomaly.detectors.correlation import _shrinkage
from backlight.anomaly.encoding import fit_encoder
from backlight.anomaly.fitting import fit_detector
from backlight.anomaly.groups import read_groups
from backlight.anomaly.prepared import MOST_COLUMNS, prepare
from backlight.anomaly.workflow import find_anomalies
from backlight.errors import BacklightError, ColumnsError, DataError
from backlight.tables import as_frame


def diary(n=240, seed=0):
    """Two machines, a row every six hours each; a load that follows the hour."""
    rng = np.random.default_rng(seed)
    start = dt.datetime(2024, 1, 1)
    when = [start + dt.timedelta(hours=6 * (i // 2), minutes=int(rng.integers(0, 50))) for i in range(n)]
    hour = np.array([t.hour for t in when])
    load = 10.0 + hour + rng.normal(size=n) * 0.2
    return {
        "when": when,
        "machine": [f"m{i % 2}" for i in range(n)],
        "load": load,
        "level": rng.normal(size=n).cumsum(),
    }


def test_a_date_column_gives_what_varies_in_it_and_the_gap_to_the_row_before():
    data, _ = prepare(as_frame(pa.table(diary())), {"machine": "identifier"})
    by_name = {column.name: column for column in data.columns}

    assert data.used == ("load", "level", "when: hour", "when: weekday", "when: gap")
    assert by_name["when"].kind == "date"
    assert by_name["when: gap"].why == "hours since the row before"
    assert set(by_name["when: weekday"].cells) == {
        "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
    }  # fmt: skip
    assert by_name["when: weekday"].cells[0] == "Monday"  # 1 January 2024
    seconds = [(b - a).total_seconds() for a, b in itertools.pairwise(diary()["when"][::2])]
    assert np.allclose(by_name["when: gap"].cells[2::2], np.array(seconds) / 3600)


@pytest.mark.parametrize("end", [False, True])
def test_dates_that_stand_for_months_have_no_weekday_and_gaps_in_months(end):
    quarters = [dt.date(2000 + k // 4, 1 + 3 * (k % 4), 1) - dt.timedelta(days=int(end)) for k in range(60) if k != 31]
    data, _ = prepare(as_frame(pa.table({"quarter": quarters, "x": np.arange(59) % 7 + 0.5})))
    by_name = {column.name: column for column in data.columns}

    assert data.used == ("x", "quarter: month", "quarter: gap")
    names = ["December", "March", "June", "September"] if end else ["January", "April", "July", "October"]
    assert by_name["quarter: month"].cells.tolist() == [names[k % 4] for k in range(60) if k != 31]
    assert by_name["quarter: gap"].cells.tolist() == [3.0] * 31 + [6.0] + [3.0] * 27
    assert by_name["quarter: gap"].why == "months since the row before"


def test_days_alone_give_no_hour_and_a_year_gives_the_day_of_the_year():
    days = [dt.date(2022, 1, 1) + dt.timedelta(days=int(k)) for k in np.random.default_rng(0).integers(0, 800, 200)]
    data, _ = prepare(as_frame(pa.table({"day": days, "x": np.arange(200) % 7 + 0.5})))
    by_name = {column.name: column for column in data.columns}

    assert "day: hour" not in by_name
    assert by_name["day: day of year"].cells.tolist() == [day.timetuple().tm_yday for day in days]


def test_changes_are_those_since_the_row_before_in_the_same_series_whatever_the_order_of_rows():
    table = pa.table(diary())
    order = np.random.default_rng(1).permutation(len(table))
    data, _ = prepare(as_frame(table.take(order)), {"machine": "identifier"}, time="when")
    cells = {column.name: column.cells for column in data.columns}
    level = np.asarray(diary()["level"])
    expected = np.r_[0.0, 0.0, level[2:] - level[:-2]]

    assert {"load: change", "level: change"} <= set(data.used)
    assert np.allclose(cells["level: change"], expected[order])


def test_a_jump_in_a_series_is_explained_by_its_change_alone():
    table = diary()
    table["level"][120:] += 40.0
    found = find_anomalies(as_frame(pa.table(table)), overrides={"machine": "identifier"}, time="when", check=False)

    assert set(found.study.rows[:2]) == {120, 121}
    assert found.study.explanation[0].top(1)[0][0][0] == "level: change"
    assert found.axis.name == "when"
    assert found.labels[120] == "m0 · row 121"


def test_normal_rows_decide_what_is_taken_from_moments():
    normal = as_frame(pa.table(diary()))
    new = {name: column[:8] for name, column in diary(seed=3).items()}

    data, reference = prepare(as_frame(pa.table(new)), {"machine": "identifier"}, normal)

    assert data.used == reference.used
    assert "when: weekday" in data.used


def test_rows_without_order_are_refused():
    frame = as_frame(pa.table({"x": np.arange(20) % 7 + 0.5, "kind": ["a", "b"] * 10}))

    with pytest.raises(ColumnsError, match="no column 'day' to order the rows by"):
        find_anomalies(frame, time="day")
    with pytest.raises(DataError, match="--time kind: the column holds neither dates nor numbers"):
        find_anomalies(frame, time="kind")


def test_contributions_roll_up_to_groups_and_every_level_has_the_same_total():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 4))
    X[3, 1] = 12
    told = as_frame(
        pa.table({"column": ["a", "b", "c"], "part": ["pump", "pump", "fan"], "plant": ["north", "north", "south"]})
    )
    names = ["a", "b", "c", "d"]
    found = find_anomalies(as_frame(X, names), groups=read_groups(told, names), top=5, check=False)
    values = found.study.explanation.values

    assert [level.name for level in found.levels] == ["part", "plant"]
    assert found.levels[0].groups == ("pump", "fan", "(no group)")
    for level in found.levels:
        assert np.allclose(level.roll_up(values).sum(1), values.sum(1), rtol=1e-12)
    assert np.allclose(found.levels[0].roll_up(values)[:, 0], values[:, 0] + values[:, 1])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"column": ["a"]}, "needs two columns"),
        ({"column": ["a", "a"], "part": ["p", "q"]}, "names a twice"),
        ({"column": ["q"], "part": ["p"]}, "names no column of the data"),
    ],
)
def test_a_table_of_groups_that_fits_nothing_is_refused(table, said):
    with pytest.raises(BacklightError, match=said):
        read_groups(as_frame(pa.table(table)), ["a", "b"])


AWKWARD = {
    "heavy tails": lambda r, n: np.exp(2 * r.normal(size=n)),
    "mostly zero": lambda r, n: np.where(r.random(n) < 0.8, 0.0, r.exponential(size=n)),
    "three values": lambda r, n: r.integers(0, 3, n).astype(float),
    "constant but for two": lambda r, n: np.where(np.arange(n) < 2, 5.0, 1.0),
    "two in a hundred": lambda r, n: np.where(np.arange(n) % 50 == 0, 21.60, 21.61),
    "huge": lambda r, n: 1e12 + 1e3 * r.normal(size=n),
    "tiny": lambda r, n: 1e-12 * r.normal(size=n),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_columns_neither_break_nor_hide_a_fault_elsewhere(name):
    rng = np.random.default_rng(0)
    n = 300
    x = rng.normal(size=n)
    X = np.stack([AWKWARD[name](rng, n), x, x + 0.05 * rng.normal(size=n)], 1)
    X[77, 2] += 3.0  # breaks the only dependence, within its column's range or near it
    study = find_anomalies(as_frame(X, ["odd", "x", "y"]), top=6, check=False).study

    assert np.isfinite(study.excess).all()
    assert 77 in study.rows
    i = study.rows.tolist().index(77)
    assert study.explanation.values[i, 0] < 0.25 * study.explanation.values[i].sum()
    assert study.flagged.mean() <= 0.03


def test_a_level_that_one_row_in_fifty_has_is_rare_but_not_absurd():
    """One row in fifty is 5.6 bits; without its rows among the reference the level would count hundreds."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 4))
    X[:, 0] = np.where(np.arange(600) % 50 == 0, 21.60, 21.61)

    study = find_anomalies(as_frame(X), check=False).study

    assert (study.excess[::50] + study.threshold.value).mean() < 4 * np.log2(50)


def test_a_transform_is_chosen_by_the_tail_and_undone():
    rng = np.random.default_rng(0)
    X = np.stack([np.exp(2 * rng.normal(size=400)), rng.normal(size=400)], 1)
    encoder = fit_encoder(X, X, ["money", "height"], {}, np.zeros(2, dtype=bool))

    assert [transform.name for transform in encoder.transforms] == ["log", "linear"]
    z = encoder(X)
    assert np.allclose(z.mean(0), 0, atol=1e-12)
    assert np.allclose(z.std(0), 1, rtol=1e-12)
    for j, transform in enumerate(encoder.transforms):
        assert np.allclose(transform.undo(z[:, j]), X[:, j], rtol=1e-9, atol=1e-9)
    assert find_anomalies(as_frame(X, ["money", "height"]), check=False).transforms == {"money": "log"}


@pytest.mark.parametrize("shape", [(50, 6), (30, 80)])
def test_the_shrinkage_is_that_of_scikit_learn(shape):
    rng = np.random.default_rng(0)
    X = rng.normal(size=shape) * rng.random(shape[1])
    centred = X - X.mean(0)
    gram = centred.T @ centred if shape[1] <= shape[0] else centred @ centred.T

    assert np.isclose(_shrinkage(centred, gram), ledoit_wolf_shrinkage(X), rtol=1e-10)


def test_more_columns_than_can_be_compared_are_refused_in_one_sentence():
    X = np.random.default_rng(0).normal(size=(12, MOST_COLUMNS + 1))

    with pytest.raises(DataError, match="2,001 columns are too many to be compared") as error:
        find_anomalies(as_frame(X))
    assert str(error.value).count("\n") == 0


def test_no_smaller_set_of_cells_would_do():
    """Against all subsets, with the same proposals."""
    rng = np.random.default_rng(3)
    base = rng.normal(size=(150, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(150, 5))
    X = base.copy()
    faulty = np.arange(12)
    for row in faulty:
        columns = rng.choice(5, 1 + row % 3, replace=False)
        X[row, columns] += rng.choice([-1, 1], len(columns)) * rng.uniform(2.5, 4, len(columns))
    data, _ = prepare(as_frame(X))
    fitted = fit_detector(X[12:], data, trim=False)
    threshold = float(np.quantile(fitted.detector.score(X[12:], np.arange(138)), 0.98))
    propose = Proposer.of(X[12:], fitted.encoder)

    def excess(rows):
        return fitted.detector.score(rows, np.full(len(rows), -1)) - threshold

    found = fitted.detector.contributions(X[faulty], np.full(12, -1))
    looked = 0
    for row, values in zip(faulty, found.values, strict=True):
        change = fewest_changes(X[row], values, propose, excess)
        smallest = next(
            size
            for size in range(6)
            if any(excess(propose(X[row], list(s))).min() <= 0 for s in itertools.combinations(range(5), size))
        )
        looked += smallest > 0
        assert len(change.columns) == smallest
        assert change.excess_after <= 0
        changed = X[row].copy()
        changed[list(change.columns)] = change.cells
        assert np.isclose(excess(changed[None])[0], change.excess_after)
    assert looked >= 8


def test_changes_respect_what_a_column_holds():
    rng = np.random.default_rng(0)
    n = 200
    size = rng.integers(1, 9, n)
    kind = np.where(size > 4, "large", "small")
    price = size * 10.0 + rng.normal(size=n)
    price[5], kind[9] = 400.0, "large" if size[9] <= 4 else "small"
    size = size.astype(float)
    size[30] = 40
    frame = as_frame(pa.table({"size": size, "kind": kind, "price": price}))
    study = find_anomalies(frame, alarm_rate=0.02, check=False).study

    for i, row in enumerate(study.rows):
        if row == 30:
            change = study.changes[i]
            assert study.names[change.columns[0]] == "size"
            assert change.cells[0] == round(change.cells[0])
        if row == 9 and study.excess[9] > 0:
            assert study.bands[1].text(study.changes[i].cells[0]) in ("large", "small")


def test_a_cell_that_turns_out_not_to_matter_is_left_as_it_was():
    """Column a is the best first choice, but b and c are enough without it."""
    scores = {"": 10, "a": 6, "b": 7, "c": 7, "ab": 3, "ac": 3, "bc": -1, "abc": -2}

    def propose(row, columns):
        out = np.repeat(row[None], 2, axis=0)
        out[:, list(columns)] = 0.0
        return out

    def excess(rows):
        return np.array([scores["".join(n for n, cell in zip("abc", row, strict=True) if cell == 0)] for row in rows])

    change = fewest_changes(np.ones(3), np.array([3.0, 2.0, 1.0]), propose, excess)

    assert sorted(change.columns) == [1, 2]
    assert change.excess_after == -1


def test_anomalies_of_a_table_wait_neither_for_torch_nor_for_its_memory(tmp_path):
    """The default detector and its report need NumPy and scikit-learn; torch alone is 200 MB and a second or more."""
    rows = np.random.default_rng(0).normal(size=(80, 3))
    np.savetxt(tmp_path / "t.csv", rows, delimiter=",", header="a,b,c", comments="")
    code = (
        "import sys; from backlight.cli import app; sys.argv = ['backlight', 'anomalies', 't.csv', '--report', 'r.html'];"
        "app(standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r.html").is_file()


def test_a_placeholder_of_the_normal_rows_is_one_where_it_is_too_rare_to_be_told():
    rng = np.random.default_rng(0)
    usual, new = rng.normal(size=(200, 2)), rng.normal(size=(30, 2))
    usual[::20, 0] = new[3, 0] = -999.0
    data, reference = prepare(as_frame(new), normal=as_frame(usual))

    assert np.isnan(reference.coded[::20, 0]).all()
    assert np.isnan(data.coded[:, 0]).nonzero()[0].tolist() == [3]
    assert data.columns[0].flagged == {3: "-999"}
