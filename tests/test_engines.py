"""The recipes of the documentation, each in its engine: values are those of a plain loop, to the bit."""

import json
import shutil
import sys
import threading
import urllib.request
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

import backlight

NAMES = ("amount", "age", "visits")
# engines warn of their own imports
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return pa.table({name: rng.normal(size=400) for name in NAMES})


@pytest.fixture(scope="module")
def explainer(rows):
    model = make_pipeline(StandardScaler(), OneClassSVM(nu=0.1)).fit(rows.slice(0, 200).to_pandas())
    return backlight.Explainer(model)


def test_dask_partitions(rows, explainer):
    dask = pytest.importorskip("dask")
    delayed = [dask.delayed(explainer)(rows.slice(start, 100)) for start in range(0, 400, 100)]
    found = dask.compute(*delayed, scheduler="threads", num_workers=2)

    expected = [explainer(rows.slice(start, 100)).values for start in range(0, 400, 100)]
    assert all((a.values == b).all() for a, b in zip(found, expected, strict=True))


def test_spark_maps_record_batches(rows, explainer, tmp_path, monkeypatch):
    sql = pytest.importorskip("pyspark.sql")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    for variable in ("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON"):
        monkeypatch.setenv(
            variable, sys.executable
        )  # workers are the Python that has backlight, not the first of the path
    pq.write_table(rows, tmp_path / "rows.parquet")
    schema = "row long, score double, base double, amount double, age double, visits double"
    session = (
        sql.SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", 100)
        .getOrCreate()
    )
    try:
        session.sparkContext.setLogLevel("ERROR")

        def reasons(batches):
            yield from backlight.explain_batches(explainer, batches)

        frame = session.read.parquet(str(tmp_path / "rows.parquet")).repartition(2)
        found = frame.mapInArrow(reasons, schema).toPandas()
        parts = frame.toPandas()
    finally:
        session.stop()
    assert len(found) == 400
    ex = explainer(parts[list(NAMES)])
    got = found[["score", *NAMES]].to_numpy()
    expected = np.column_stack([ex.output, ex.values])
    # rows are told apart by their score; batches of other sizes round otherwise
    np.testing.assert_allclose(got[got[:, 0].argsort()], expected[expected[:, 0].argsort()], rtol=1e-11, atol=1e-12)


def test_ray_maps_batches_in_actors(rows, explainer):
    ray = pytest.importorskip("ray")
    data = pytest.importorskip("ray.data")

    class Reasons:
        def __init__(self, explainer):
            self.explainer = explainer

        def __call__(self, batch):
            return self.explainer(batch).to_frame()

    parts = [rows.slice(start, 100) for start in range(0, 400, 100)]
    ray.init(num_cpus=2, include_dashboard=False, ignore_reinit_error=True, log_to_driver=False)
    try:
        found = data.from_arrow(parts).map_batches(
            Reasons, fn_constructor_args=(explainer,), batch_format="pyarrow", batch_size=100,
            compute=data.ActorPoolStrategy(size=1),
        ).take_all()  # fmt: skip
    finally:
        ray.shutdown()
    expected = [row for part in parts for row in explainer(part).to_frame().to_pylist()]
    assert sorted(found, key=lambda row: row["output"]) == sorted(expected, key=lambda row: row["output"])


def test_an_endpoint_answers_sixteen_clients_at_once(rows, explainer):
    uvicorn, starlette = pytest.importorskip("uvicorn"), pytest.importorskip("starlette.applications")
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def reasons(request):
        ex = explainer(np.array(await request.json(), dtype=float))
        return JSONResponse({"score": ex.output.tolist(), "contributions": ex.values.tolist()})

    app = starlette.Starlette(routes=[Route("/reasons", reasons, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    started = threading.Event()
    while not server.started:
        started.wait(0.01)
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    matrix = np.column_stack([rows[name].to_numpy() for name in NAMES])

    def ask(start):
        body = json.dumps(matrix[start : start + 10].tolist()).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/reasons", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return np.array(json.load(answer)["contributions"])

    try:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, range(0, 320, 10)))
    finally:
        server.should_exit = True
        thread.join(timeout=60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [explainer(matrix[start : start + 10]).values for start in range(0, 320, 10)]
    assert all((a == b).all() for a, b in zip(answers, expected, strict=True))
