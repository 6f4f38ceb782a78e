"""Tables larger than memory: the values of a plain loop, from every kind of source, and runs that go on."""

import os
import signal
import subprocess
import sys

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import OneClassSVM

import backlight
from backlight import errors
from tests.conftest import same

ROWS, BATCH = 103, 20


def _table(n=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    return pa.table({"id": [f"r{i}" for i in range(n)], "a": rng.normal(size=n), "b": rng.normal(size=n), "c": rng.normal(size=n)})  # fmt: skip


@pytest.fixture(scope="module")
def explainer():
    data = _table(40, 1).drop_columns(["id"]).to_pandas()
    return backlight.Explainer(make_pipeline(StandardScaler(), OneClassSVM(nu=0.3)).fit(data))


def _loop(explainer, table, step=BATCH):
    rest = table.drop_columns(["id"]) if "id" in table.column_names else table
    parts = [explainer(rest.slice(k, step)) for k in range(0, len(rest), step)]
    return np.concatenate([np.column_stack([np.asarray(p.output), p.base_values, p.values]) for p in parts])


def _numbers(reader, skip=1):
    table = reader.read_all()
    return np.column_stack([np.asarray(table[name]) for name in table.column_names[skip:]])


def _sources(table, folder):
    pq.write_table(table.slice(0, 50), folder / "p0.parquet", row_group_size=17)
    pq.write_table(table.slice(50), folder / "p1.parquet", row_group_size=11)
    pa.feather.write_feather(table, folder / "t.arrow", chunksize=30)
    pa.csv.write_csv(table, folder / "t.csv")
    own = duckdb.connect()
    own.register("rows_of_it", table)
    return {
        "paths": [folder / "p0.parquet", folder / "p1.parquet"],
        "glob": str(folder / "p*.parquet"),
        "arrow file": folder / "t.arrow",
        "csv": folder / "t.csv",
        "dataset": pa.dataset.dataset([folder / "p0.parquet", folder / "p1.parquet"]),
        "scanner": pa.dataset.dataset(folder / "p0.parquet").scanner() and pa.dataset.dataset(table).scanner(),
        "reader": table.to_reader(max_chunksize=7),
        "table": table,
        "record batch": table.combine_chunks().to_batches()[0],
        "polars": pl.from_arrow(table),
        "lazy": pl.from_arrow(table).lazy(),
        "pandas": table.to_pandas(),
        "duckdb": own.sql("select * from rows_of_it"),
        "frames": (table.slice(k, BATCH).to_pandas() for k in range(0, len(table), BATCH)),
        "list of frames": [table.slice(k, BATCH) for k in range(0, len(table), BATCH)],
    }


def test_every_source_gives_the_values_of_a_plain_loop(explainer, tmp_path):
    table = _table()
    wanted = _loop(explainer, table)
    for name, source in _sources(table, tmp_path).items():
        reader = backlight.explain_batches(explainer, source, batch_rows=BATCH)
        assert reader.schema.names == ["row", "score", "base", "a", "b", "c"], name
        found = _numbers(reader)

        assert np.array_equal(found, wanted), name


def test_arrays_and_streams_of_arrays_without_names():
    X = np.random.default_rng(0).normal(size=(50, 3))
    explainer = backlight.Explainer(OneClassSVM(nu=0.3).fit(X))
    loop = np.concatenate([explainer(X[k : k + 20]).values for k in (0, 20, 40)])

    for source in (
        X,
        (X[k : k + 20] for k in (0, 20, 40)),
        torch.utils.data.DataLoader(torch.tensor(X), batch_size=20),
    ):
        reader = backlight.explain_batches(explainer, source, batch_rows=20)
        assert reader.schema.names == ["row", "score", "base", "x0", "x1", "x2"]
        assert same(_numbers(reader, 3), loop)


def test_ids_reasons_and_the_predicted_class(tmp_path):
    table = _table()
    flat = table.drop_columns(["id"]).append_column("kind", pa.array(["u", "v", None, "w"] * 25 + ["u"] * 3))
    frame = flat.to_pandas()
    front = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["kind"]), remainder=StandardScaler())
    model = make_pipeline(front, LogisticRegression()).fit(frame, np.arange(ROWS) % 3)
    explainer = backlight.Explainer(model)
    reader = backlight.explain_batches(
        explainer, flat.append_column("id", table["id"]), row_id="id", top=2, batch_rows=50
    )
    assert reader.schema.names == ["id", "score", "base", "a", "b", "c", "kind", "target", "reasons"]
    found = reader.read_all()
    whole = explainer(flat)

    assert found["id"].to_pylist() == table["id"].to_pylist()
    assert found["target"].to_pylist() == [str(k) for k in model.predict(frame)]
    (first, value), (second, _) = whole.top(2)[0]
    assert found["reasons"][0].as_py().startswith(f"{first} {value:+.4g}, {second} ")
    each = backlight.explain_batches(backlight.Explainer(model, target="all"), flat)
    assert each.schema.names[1:7] == ["score[0]", "base[0]", "a[0]", "b[0]", "c[0]", "kind[0]"]
    several = backlight.explain(model, flat, target="all")
    assert same(np.asarray(each.read_all()["kind[2]"]), several["kind"].values[:, 0, 2])


def test_a_network_of_torch_on_a_table():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).double().eval()
    table = _table().drop_columns(["id"])
    reader = backlight.explain_batches(backlight.Explainer(net), table, batch_rows=BATCH)

    assert reader.schema.names == ["row", "score", "base", "a", "b", "c"]
    assert same(_numbers(reader), _loop(backlight.Explainer(net), table))


def test_names_that_are_taken_and_columns_that_are_chosen(explainer):
    table = _table().rename_columns(["id", "score", "row", "c"]).drop_columns(["id"])
    own = backlight.Explainer(OneClassSVM().fit(table.to_pandas()))
    assert backlight.explain_batches(own, table).schema.names == ["backlight_row", "backlight_score", "base", "score", "row", "c"]  # fmt: skip
    bare = backlight.Explainer(OneClassSVM().fit(np.asarray(table.to_pandas())))
    wide = table.append_column("note", pa.array(["x"] * ROWS))
    chosen = backlight.explain_batches(bare, wide, columns=["score", "row", "c"])
    assert same(_numbers(chosen, 3), bare(table).values)


def test_what_does_not_fit_is_refused(explainer, tmp_path):
    table = _table()
    for options, said in (
        ({"columns": ["a", "nothing"]}, "no column 'nothing'"),
        ({"batch_rows": 0}, "batch_rows must be"),
        ({"top": 0}, "top must be"),
        ({"row_id": "key"}, "no column 'key'"),
    ):
        with pytest.raises(errors.BacklightError, match=said):
            backlight.explain_batches(explainer, table, **options)
    with pytest.raises(errors.DataError, match="cannot read rows from builtins"):
        backlight.explain_batches(explainer, 3)
    with pytest.raises(errors.MissingFileError):
        backlight.explain_batches(explainer, tmp_path / "no.parquet")
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.rename_columns(["id", "a", "b", "d"]), tmp_path / "b.parquet")
    with pytest.raises(errors.ColumnsError, match="other columns"):
        backlight.explain_batches(explainer, tmp_path / "*.parquet")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(errors.FileError, match="cannot be read as Parquet"):
        backlight.explain_batches(explainer, tmp_path / "c.parquet")
    with pytest.raises(errors.ArgumentError, match="one index a row"):
        model = LogisticRegression().fit(np.eye(3), [0, 1, 2])
        backlight.explain_batches(backlight.Explainer(model, target=np.array([0, 1])), np.eye(3))
    later = table.set_column(1, "a", pa.array([*[0.0] * 60, float("inf"), *[0.0] * 42]))
    reader = backlight.explain_batches(explainer, later, batch_rows=BATCH)
    with pytest.raises(errors.DataError, match="infinite"):
        reader.read_all()


class _Counting:
    """Frames that are made one at a time; how many of them are alive is counted."""

    def __init__(self, frames):
        self.frames, self.alive, self.most, self.made = frames, 0, 0, 0

    def __iter__(self):
        import weakref

        for k in range(self.frames):
            frame = pd.DataFrame(np.random.default_rng(k).normal(size=(64, 3)), columns=["a", "b", "c"])
            self.made += 1
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(frame, self._gone)
            yield frame
            del frame

    def _gone(self):
        self.alive -= 1


def test_memory_is_bounded_by_the_batch(explainer, tmp_path):
    for frames in (6, 60):
        source = _Counting(frames)
        for k, _ in enumerate(backlight.explain_batches(explainer, iter(source))):
            assert source.made <= k + 2
        assert source.most <= 4
    pool = pa.default_memory_pool()
    most = []
    for rows in (20_000, 80_000):
        rng = np.random.default_rng(0)
        table = pa.table({name: rng.normal(size=rows) for name in "abc"})
        pq.write_table(table, tmp_path / f"{rows}.parquet", row_group_size=4096)
        del table
        before, held = pool.bytes_allocated(), 0
        reader = backlight.explain_batches(explainer, tmp_path / f"{rows}.parquet", batch_rows=2048)
        for _ in reader:
            held = max(held, pool.bytes_allocated() - before)
        most.append(held)
    assert most[1] < 1.2 * most[0] + (1 << 16)


def test_shards_are_written_whole_and_kept(explainer, tmp_path):
    table = _table()
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=9)
    seen = []
    options = {"batch_rows": 10, "shard_rows": 30, "top": 1}

    done = backlight.explain_batches(
        explainer, tmp_path / "in.parquet", sink=tmp_path / "out", progress=lambda a, b: seen.append((a, b)), **options
    )

    assert (done.rows, done.shards, done.kept) == (ROWS, 4, 0)
    assert seen[-1] == (ROWS, ROWS)
    files = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert files == ["_backlight.json", *[f"part-{k:05d}.parquet" for k in range(4)]]
    read = pa.dataset.dataset(tmp_path / "out").to_table()
    assert np.array_equal(
        np.column_stack([np.asarray(read[name]) for name in ("score", "base", "a", "b", "c")]),
        _loop(explainer, table, 10),
    )
    first = _contents(tmp_path / "out")
    again = backlight.explain_batches(explainer, tmp_path / "in.parquet", sink=tmp_path / "out", **options)
    assert again.kept == ROWS
    (tmp_path / "out" / "part-00002.parquet").unlink()
    again = backlight.explain_batches(explainer, tmp_path / "in.parquet", sink=tmp_path / "out", **options)
    assert again.kept == 60
    assert _contents(tmp_path / "out") == first


def _contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_another_run_is_not_mixed_with_this_one(explainer, tmp_path):
    table = _table()
    pq.write_table(table, tmp_path / "in.parquet")
    source, sink = tmp_path / "in.parquet", tmp_path / "out"
    backlight.explain_batches(explainer, source, sink=sink, batch_rows=50)
    frame = table.drop_columns(["id"]).to_pandas()
    other = backlight.Explainer(make_pipeline(StandardScaler(), OneClassSVM(nu=0.31)).fit(frame))
    ruled = backlight.Explainer(make_pipeline(StandardScaler(), OneClassSVM(nu=0.3)).fit(frame), rules="dtd")

    for one, options, said in (
        (other, {"batch_rows": 50}, "explainer differs"),
        (ruled, {"batch_rows": 50}, "explainer differs"),
        (explainer, {"batch_rows": 40}, "differs"),
        (explainer, {"batch_rows": 50, "top": 2}, "differs"),
    ):
        with pytest.raises(errors.ExistingFileError, match=said):
            backlight.explain_batches(one, source, sink=sink, **options)
    pq.write_table(table.slice(1), source)
    with pytest.raises(errors.ExistingFileError, match="source differs"):
        backlight.explain_batches(explainer, source, sink=sink, batch_rows=50)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(errors.ExistingFileError, match="holds no run"):
        backlight.explain_batches(explainer, source, sink=tmp_path / "mine")


def test_rows_without_a_fingerprint_are_compared_when_a_run_goes_on(explainer, tmp_path):
    table, sink = _table(), tmp_path / "out"
    options = {"sink": sink, "batch_rows": 10, "shard_rows": 30}

    def frames(whole, broken=False):
        for k in range(0, len(whole), 25):
            if broken and k == 75:
                raise OSError("the line is dead")
            yield whole.slice(k, 25).to_pandas()

    with pytest.raises(OSError, match="the line is dead"):
        backlight.explain_batches(explainer, frames(table, broken=True), **options)
    kept = len(list(sink.glob("part-*")))
    assert kept == 2
    with pytest.raises(errors.ExistingFileError, match="other rows"):
        backlight.explain_batches(explainer, frames(_table(seed=5)), **options)
    done = backlight.explain_batches(explainer, frames(table), **options)

    assert done.rows == ROWS
    assert done.kept >= 60
    whole = pa.dataset.dataset(sink).to_table()
    assert whole["row"].to_pylist() == list(range(ROWS))
    assert same(np.asarray(whole["a"]), explainer(table.drop_columns(["id"])).values[:, 0])


_KILLED = """
import os, signal, sys
import numpy as np, pandas as pd
from sklearn.svm import OneClassSVM
import backlight
from backlight.batches import shards

source, sink, moment, when = sys.argv[1:]
rng = np.random.default_rng(0)
explainer = backlight.Explainer(OneClassSVM(nu=0.3).fit(pd.DataFrame(rng.normal(size=(30, 3)), columns=list("abc"))))
count = {"batch": 0, "named": 0, "full": 0}

def tick(name):
    count[name] += 1
    if name == moment and count[name] == int(when):
        os.kill(os.getpid(), signal.SIGKILL)

settled = shards._settled
def before_it_has_its_name(hidden, path):
    tick("full")
    settled(hidden, path)
    tick("named")
shards._settled = before_it_has_its_name
done = backlight.explain_batches(explainer, source, sink=sink, batch_rows=10, shard_rows=30, progress=lambda a, b: tick("batch"))
print(done.kept)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_run_killed_at_any_moment_goes_on_and_its_files_are_the_same(tmp_path):
    source = tmp_path / "in.parquet"
    pq.write_table(_table().drop_columns(["id"]), source, row_group_size=13)

    def run(sink, moment="never", when=0):
        command = [sys.executable, "-c", _KILLED, str(source), str(sink), moment, str(when)]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)

    assert run(tmp_path / "whole").returncode == 0
    wanted = _contents(tmp_path / "whole")
    sink = tmp_path / "killed"
    # one folder, killed again and again: in a shard, before a shard has its name, after, and before the manifest has
    for moment, when in (("batch", 5), ("full", 1), ("named", 1), ("batch", 4), ("full", 2)):
        before = len(list(sink.glob("part-*")))
        assert run(sink, moment, when).returncode == -signal.SIGKILL
        assert len(list(sink.glob("part-*"))) >= before
        names = [path.name for path in sink.glob("part-*")]
        assert all((sink / name).read_bytes() == wanted[name] for name in names)
    kept = 30 * len(list(sink.glob("part-*")))
    last = run(sink)

    assert last.stdout.strip() == str(min(kept, ROWS))
    assert _contents(sink) == wanted


def test_no_rows_give_a_schema_and_an_empty_shard(explainer, tmp_path):
    empty = _table().slice(0, 0)
    reader = backlight.explain_batches(explainer, empty)
    assert reader.read_all().num_rows == 0
    done = backlight.explain_batches(explainer, empty, sink=tmp_path / "out")
    assert (done.rows, done.shards) == (0, 1)
    assert pa.dataset.dataset(tmp_path / "out").to_table().column_names == reader.schema.names


def test_forests_by_their_path_rule_stream_too():
    table = _table().drop_columns(["id"])
    model = RandomForestRegressor(3, max_depth=3, random_state=0).fit(table.to_pandas(), np.arange(ROWS))
    explainer = backlight.Explainer(model)

    assert same(_numbers(backlight.explain_batches(explainer, table, batch_rows=BATCH)), _loop(explainer, table))


def test_a_function_of_record_batches_for_an_engine_and_its_empty_partitions(explainer):
    table = _table().drop_columns(["id"])
    parts = table.to_batches(max_chunksize=BATCH)
    reader = backlight.explain_batches(explainer, iter(parts))
    empty = backlight.explain_batches(explainer, iter([]))

    assert empty.schema == reader.schema
    assert empty.read_all().num_rows == 0
    assert np.array_equal(_numbers(reader), _loop(explainer, table))
