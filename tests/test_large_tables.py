"""`backlight anomalies` on tables that are read in batches: the result of a table in memory."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from backlight import errors
from backlight.anomaly import large, survey, workflow
from backlight.anomaly.large import Asked, find_in_batches
from backlight.anomaly.scores import Tally
from backlight.anomaly.workflow import find_anomalies
from backlight.cli import app
from backlight.findings.anomalies import timeline
from backlight.tables.alike import read_alike
from backlight.tables.columns import understand
from backlight.tables.files import read_files
from backlight.tables.frame import as_frame

ROWS = 1200


def _table():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, 3)) @ rng.normal(size=(3, 4)) + 0.1 * rng.normal(size=(ROWS, 4))
    X[17, 2], X[1100, 0], X[5, 1] = 30, -25, np.nan
    X[100:140, 3] = -999
    when = np.datetime64("2024-01-01T00:00:00") + np.arange(ROWS) * np.timedelta64(3600, "s")
    columns = {f"x{j}": X[:, j] for j in range(4)}
    kinds = rng.choice(["a", "b", "c"], ROWS).astype(object)
    kinds[900] = "only here"
    flag = (np.arange(ROWS) == 901).astype(float)
    return pa.table({"name": [f"r{i}" for i in range(ROWS)], "count": np.arange(ROWS), **columns, "kind": kinds, "flag": flag, "when": when})  # fmt: skip


@pytest.fixture
def path(tmp_path):
    pq.write_table(_table(), tmp_path / "t.parquet", row_group_size=170)
    return tmp_path / "t.parquet"


@pytest.fixture
def sampled(monkeypatch):
    """A sample that is smaller than the table, and fewer calibration rows than the sample."""
    monkeypatch.setattr(survey, "_LEAST_SAMPLE", 0)
    monkeypatch.setattr(survey, "_SAMPLE_CELLS", 800 * 9)
    monkeypatch.setattr(survey, "READ_ROWS", 256)
    monkeypatch.setattr(large, "READ_ROWS", 256)
    monkeypatch.setattr(workflow, "_MOST_CALIBRATION", 500)
    detectors = workflow.detector_of("ensemble")
    monkeypatch.setattr(workflow, "detector_of", lambda name: type(detectors)(detectors.name, detectors.title, detectors.fit, 300))  # fmt: skip


def _same(found, wanted, drawn=True):
    ours, theirs = found.study, wanted.study
    assert np.array_equal([found.number(row) for row in ours.rows], theirs.rows)
    for mine, other in (
        (ours.explanation.values, theirs.explanation.values),
        (np.asarray(ours.explanation.output), np.asarray(theirs.explanation.output)),
        (ours.p_values, theirs.p_values),
        (ours.drivers, theirs.drivers),
        (ours.z_scores, theirs.z_scores),
        (ours.threshold.value, theirs.threshold.value),
        (ours.summary.least, theirs.summary.least),
        (ours.summary.most, theirs.summary.most),
    ):
        assert np.allclose(mine, other, rtol=1e-12, atol=1e-12)
    assert (ours.summary.rows, ours.summary.above) == (theirs.summary.rows, theirs.summary.above)
    assert np.array_equal(ours.nearest, theirs.nearest)
    assert [found.labels[row] for row in ours.rows] == [wanted.labels[row] for row in theirs.rows]
    assert [kind.name for kind in ours.kinds] == [kind.name for kind in theirs.kinds]
    assert [(c.name, c.kind, c.why) for c in found.columns] == [(c.name, c.kind, c.why) for c in wanted.columns]
    if drawn:
        assert [check.reasons for check in ours.checks] == [check.reasons for check in theirs.checks]


def test_a_table_that_is_no_larger_than_the_sample_has_the_result_that_it_has_in_memory(path):
    wanted = find_anomalies(read_files([path]), time="when")
    found, frame, written = find_in_batches(path, Asked(time="when"))

    assert written is None
    _same(found, wanted)
    assert found.notes == wanted.notes
    assert np.allclose(timeline(found).highest, timeline(wanted).highest, rtol=1e-12, equal_nan=True)
    assert list(frame.column("name")[found.study.rows]) == [wanted.labels[r] for r in wanted.study.rows]


def test_a_larger_table_is_judged_by_the_rows_that_it_would_have_drawn_in_memory(path, sampled):
    wanted = find_anomalies(read_files([path]), overrides={"when": "ignored"}, check=False)
    found, _, _ = find_in_batches(path, Asked(overrides={"when": "ignored"}, check=False))

    _same(found, wanted, drawn=False)
    assert "understood by" in " ".join(found.notes)
    # what only a few rows show is known: a level, a flag, a gap, a placeholder
    assert "only here" in found.study.bands[found.study.names.index("kind")].levels
    assert {"flag", "x1"} <= set(found.study.names)


def test_the_sky_line_of_dates_and_the_rows_of_each_stretch(path, sampled):
    found, _, _ = find_in_batches(path, Asked(check=False))
    line = timeline(found)

    names = [column.name for column in found.columns]
    assert "when: hour" in names
    assert "when: gap" not in names
    assert line.first == "2024-01-01 00:00:00.000"
    assert np.isfinite(line.highest).all()
    assert line.highest.max() == found.study.summary.most
    with pytest.raises(errors.ArgumentError, match="--time needs the row before"):
        find_in_batches(path, Asked(time="when"))


def test_shards_hold_every_row_and_a_run_goes_on(path, sampled, monkeypatch, tmp_path):
    monkeypatch.setattr(large, "_SHARD_ROWS", 512)
    asked = {"check": False, "reasons": True}
    found, _, written = find_in_batches(path, Asked(folder=tmp_path / "whole", **asked))
    whole = {one.name: one.read_bytes() for one in written.folder.iterdir()}
    assert (written.rows, written.shards, written.kept) == (ROWS, 3, 0)

    table = pq.read_table(tmp_path / "whole")
    scores = np.asarray(table["score"])
    assert table["row"].to_pylist() == list(range(1, ROWS + 1))
    assert table["name"].to_pylist() == [f"r{i}" for i in range(ROWS)]
    parts = np.column_stack([np.asarray(table[name]) for name in table.column_names if name.startswith(("base", "contribution: "))])  # fmt: skip
    assert np.allclose(parts.sum(1), scores, rtol=0, atol=1e-10)
    rows = [found.number(row) for row in found.study.rows]
    assert np.allclose(scores[rows], np.asarray(found.study.explanation.output), rtol=1e-12)
    p = np.column_stack([np.asarray(table[f"p: {name}"]) for name in found.study.names])
    assert np.array_equal(p[rows], found.study.p_values)

    # two processes write the same bytes, and so does a run that goes on behind what is there
    find_in_batches(path, Asked(folder=tmp_path / "two", workers=2, **asked))
    assert {one.name: one.read_bytes() for one in (tmp_path / "two").iterdir()} == whole
    (tmp_path / "two" / "part-00001.parquet").unlink()
    (tmp_path / "two" / "part-00002.parquet").unlink()
    again, _, written = find_in_batches(path, Asked(folder=tmp_path / "two", **asked))
    assert written.kept == 512
    assert {one.name: one.read_bytes() for one in (tmp_path / "two").iterdir()} == whole
    assert np.array_equal(again.numbers, found.numbers)
    assert np.array_equal(again.study.summary.values, found.study.summary.values)
    with pytest.raises(errors.ExistingFileError, match="another run"):
        find_in_batches(path, Asked(folder=tmp_path / "two", check=False))


def test_normal_rows_may_be_given(path, tmp_path, sampled):
    normal = read_files([path]).take(slice(0, 400))
    overrides = {"when": "ignored"}
    wanted = find_anomalies(read_files([path]), normal=normal, overrides=overrides, check=False)
    found, _, _ = find_in_batches(path, Asked(overrides=overrides, check=False), normal=normal)

    _same(found, wanted, drawn=False)


def test_infinite_cells_and_names_that_occur_twice(tmp_path, sampled):
    table = _table()
    bad = np.asarray(table["x0"]).copy()
    bad[1003] = np.inf
    pq.write_table(table.set_column(2, "x0", pa.array(bad)), tmp_path / "bad.parquet")
    with pytest.raises(errors.DataError, match=r"column 'x0' is infinite in row 1004"):
        find_in_batches(tmp_path / "bad.parquet")
    names = [f"r{i}" for i in range(ROWS)]
    names[17], names[1100] = "twice", "twice"
    pq.write_table(table.set_column(0, "name", pa.array(names)), tmp_path / "twice.parquet")
    found, _, _ = find_in_batches(tmp_path / "twice.parquet", Asked(check=False))

    assert "twice · row 18" in list(found.labels)


def test_numbers_and_dates_written_as_texts_are_read_in_every_batch_as_in_the_sample():
    n = 300
    texts = [f"{i % 90 + 1}.234,5" if i % 2 else f"{i}" for i in range(n)]  # a decimal comma that only some cells prove
    days = [f"{i % 28 + 1:02d}.{i % 12 + 1:02d}.2024" for i in range(n)]
    codes = [f"{10_000_000 + i % 7}" for i in range(n)]
    frame = as_frame(pa.table({"amount": texts, "day": days, "zip": pa.array(codes).cast(pa.int64())}))
    columns = understand(frame)
    read = read_alike(frame, columns)

    assert [column.kind for column in columns] == ["number", "date", "category"]
    for k in range(0, n, 7):
        for found, whole in zip(read(frame.take(slice(k, k + 7)), k), columns, strict=True):
            assert found.cells.tolist() == whole.cells[k : k + 7].tolist()


def test_many_scores_are_kept_as_counts_and_the_highest_exactly(monkeypatch):
    monkeypatch.setattr("backlight.anomaly.scores._MOST_KEPT", 500)
    scores = np.random.default_rng(0).standard_t(3, size=5000)
    scores[::97] = scores.max()
    tally = Tally(60)
    for start in range(0, 5000, 300):
        tally.add(start, scores[start : start + 300])
    found = tally.summary

    assert np.array_equal(tally.top, np.argsort(-scores, kind="stable")[:60])
    assert (found.rows, found.above, found.least, found.most) == (5000, (scores > 0).sum(), scores.min(), scores.max())
    assert found.counts.sum() == 5000
    assert len(found.values) < 5000
    kept = np.repeat(found.values, found.counts)
    assert np.allclose(kept, np.sort(scores), rtol=2.0**-10, atol=2.0**-20)


def test_the_command_line_writes_a_folder_and_a_report(path, tmp_path, sampled):
    def run(*arguments):
        return CliRunner().invoke(app, ["anomalies", str(path), "--no-check", *map(str, arguments)])

    first = run("--out", tmp_path / "scores", "--report", tmp_path / "r.html", "--ignore", "when")
    assert first.exit_code == 0, first.output
    assert f"{ROWS:,} rows in 1 shards" in first.output
    assert f"{ROWS:,} rows" in (tmp_path / "r.html").read_text()
    assert run("--out", tmp_path / "scores", "--ignore", "when").output.count("by an earlier run") == 1
    assert "needs --out FOLDER" in run("--workers", 2, "--all").output
    pa.csv.write_csv(_table(), tmp_path / "t.csv")
    from_csv = CliRunner().invoke(app, ["anomalies", str(tmp_path / "t.csv"), "--no-check", "--out", str(tmp_path / "c"), "--ignore", "when"])  # fmt: skip
    assert from_csv.exit_code == 0, from_csv.output
    ours, theirs = pq.read_table(tmp_path / "c")["score"], pq.read_table(tmp_path / "scores")["score"]
    assert np.allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-9)
