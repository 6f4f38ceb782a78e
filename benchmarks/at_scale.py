"""Tables larger than memory: peak memory at two sizes, process time against a plain loop, runs that are killed.

    python benchmarks/at_scale.py FOLDER [--rows 2000000 20000000] [--kills 20] [--anomalies]

FOLDER takes the tables (160 bytes a row) and what is written of them; both are removed again. Each measurement is a
process of its own, on one thread: a scaler and a one-class SVM of about 1,000 support vectors on 20 columns.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

COLUMNS, BATCH, SHARD, PIECE = 20, 8192, 1 << 20, 100_000
MIXING = np.random.default_rng(0).normal(size=(6, COLUMNS))


def rows_of(k: int, count: int) -> np.ndarray:
    """The k-th piece of the table."""
    rng = np.random.default_rng([1, k])
    return rng.normal(size=(count, 6)) @ MIXING + 0.3 * rng.normal(size=(count, COLUMNS))


def make(path: Path, rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(f"x{j}", pa.float64()) for j in range(COLUMNS)])
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1, use_dictionary=False) as writer:
        for k, start in enumerate(range(0, rows, PIECE)):
            writer.write_table(pa.table(list(rows_of(k, min(PIECE, rows - start)).T), schema=schema))


def explainer():
    import pandas as pd
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import OneClassSVM

    import backlight

    data = pd.DataFrame(rows_of(0, 2000), columns=[f"x{j}" for j in range(COLUMNS)])
    return backlight.Explainer(make_pipeline(StandardScaler(), OneClassSVM(nu=0.5, gamma=0.05)).fit(data))


def used() -> tuple[float, float]:
    """Seconds of this process, and its peak memory in MB."""
    return time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def batches(path: str, out: str, shard: str) -> None:
    import backlight

    model = explainer()
    before, _ = used()
    print("begins", flush=True)
    written = backlight.explain_batches(model, path, sink=out, batch_rows=BATCH, shard_rows=int(shard))
    after, peak = used()
    print(written.kept, after - before, peak, flush=True)


def loop(path: str, out: str, shard: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    model = explainer()
    before, _ = used()
    print("begins", flush=True)
    total = 0.0
    for batch in pq.ParquetFile(path).iter_batches(BATCH):
        ex = model(pa.Table.from_batches([batch]))
        total += float(np.abs(ex.values).sum()) + float(ex.output[:].sum())
    after, peak = used()
    print(0, after - before, peak, flush=True)


def measured(what: str, *arguments: object) -> list[float]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--child", what, *map(str, arguments)]
    run = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=True)  # noqa: S603
    return [float(word) for word in run.stdout.splitlines()[-1].split()]


def sizes(folder: Path, rows: list[int]) -> None:
    print("rows        seconds   a plain loop   ratio   rows a second per core   peak MB")
    for n in rows:
        path, out = folder / f"{n}.parquet", folder / f"out-{n}"
        make(path, n)
        _, ours, peak = measured("batches", path, out, SHARD)
        shutil.rmtree(out)
        small = path if n <= 2_000_000 else folder / "loop.parquet"
        if small is not path:
            make(small, 2_000_000)
        _, plain, _ = measured("loop", small, out, SHARD)
        plain *= n / min(n, 2_000_000)
        print(
            f"{n:>10,}  {ours:7.1f}   {plain:12.1f}   {ours / plain:5.2f}   {n / ours:22,.0f}   {peak:7.0f}", flush=True
        )
        path.unlink()
        small.unlink(missing_ok=True)


def kills(folder: Path, times: int, rows: int = 1_500_000, shard: int = 65_536) -> None:
    path, whole, out = folder / "kills.parquet", folder / "whole", folder / "killed"
    make(path, rows)
    measured("batches", path, whole, shard)
    wanted = {one.name: one.read_bytes() for one in whole.iterdir()}
    rng = np.random.default_rng(0)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    redone = killed = 0
    for _ in range(times):
        before = {one.name: one.stat().st_ino for one in out.glob("part-*")} if out.exists() else {}
        command = [sys.executable, __file__, "--child", "batches", str(path), str(out), str(shard)]
        child = subprocess.Popen(command, env={**os.environ, **threads}, stdout=subprocess.PIPE, text=True)  # noqa: S603
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(rng.uniform(0.0, 1.5))
        child.send_signal(signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
        after = {one.name: one.stat().st_ino for one in out.glob("part-*")} if out.exists() else {}
        redone += sum(after.get(name) != inode for name, inode in before.items())
    kept, *_ = measured("batches", path, out, shard)
    same = {one.name: one.read_bytes() for one in out.iterdir() if not one.name.startswith(".")} == wanted
    print(
        f"{killed} kills of {times}: files identical: {same}; finished shards redone: {redone}; kept {kept:,.0f} rows"
    )
    for place in (whole, out):
        shutil.rmtree(place)
    path.unlink()


def command(path: str, out: str, shard: str) -> None:
    from backlight.cli import app

    app(["anomalies", path, "--quiet", *([] if out == "-" else ["--out", out])], standalone_mode=False)
    print(0, *used(), flush=True)


def anomalies(folder: Path) -> None:
    print("backlight anomalies, 20 columns: rows, how, CPU seconds, peak MB")
    for n in (200_000, 1_000_000):
        path = folder / f"{n}.parquet"
        make(path, n)
        for out in ("-", folder / "scores"):
            _, seconds, peak = measured("command", path, out, SHARD)
            print(f"{n:>9,}  {'plain' if out == '-' else '--out FOLDER':12}  {seconds:6.1f}  {peak:6.0f}", flush=True)
            shutil.rmtree(folder / "scores", ignore_errors=True)
        path.unlink()


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        {"batches": batches, "loop": loop, "command": command}[sys.argv[2]](*sys.argv[3:6])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs="*", default=[])
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--anomalies", action="store_true")
    asked = parser.parse_args()
    asked.folder.mkdir(exist_ok=True)
    if asked.rows:
        sizes(asked.folder, asked.rows)
    if asked.kills:
        kills(asked.folder, asked.kills)
    if asked.anomalies:
        anomalies(asked.folder)


if __name__ == "__main__":
    main()
