"""Every type that a table can hold, at the ends of its range: read, or refused in one sentence."""

import datetime as dt
import decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline

from backlight import explain
from backlight.errors import BacklightError
from backlight.tables import as_frame
from backlight.tables.column import KINDS
from backlight.tables.columns import understand

N = 12
GOOD = np.random.default_rng(0).normal(size=N)


def integers(bits, signed):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.sampled_from([low, low + 1, 0, 1, high - 1, high]) | st.integers(low, high)


def times(kind, bits=64):
    """All values of a type of Arrow's that is counted in integers, by the cast that has no opinion about ranges."""
    storage = pa.int32() if bits == 32 else pa.int64()

    def make(values):
        return pa.array([None if v is None else v for v in values], storage).view(kind)

    return integers(bits, True), make


SIMPLE = {
    **{f"{'' if signed else 'u'}int{bits}": integers(bits, signed) for bits in (8, 16, 32, 64) for signed in (True, False)},
    "float64": st.sampled_from([0.0, -0.0, 5e-324, 1.7e308, -1.7e308, float("inf"), float("nan")]) | st.floats(),
    "bool": st.booleans(),
    "string": st.text(max_size=8) | st.sampled_from(["", "NA", "1e999", "-999", "0" * 400, "9" * 400, "[/]", "\x1b[31m"]),
    "large_string": st.text(max_size=8),
    "binary": st.binary(max_size=4),
    "time": st.times(),
    "list": st.lists(st.integers(0, 3), max_size=2),
    "struct": st.fixed_dictionaries({"a": st.integers(0, 3)}),
    "null": st.none(),
}  # fmt: skip
TYPES = {
    "float64": pa.float64(), "bool": pa.bool_(), "string": pa.string(), "large_string": pa.large_string(),
    "binary": pa.binary(), "time": pa.time64("us"), "list": pa.list_(pa.int64()), "struct": pa.struct({"a": pa.int64()}),
    "null": pa.null(), **{name: getattr(pa, name)() for name in SIMPLE if "int" in name},
}  # fmt: skip
COUNTED = {
    "date32": times(pa.date32(), 32),
    **{f"timestamp[{u}]": times(pa.timestamp(u)) for u in ("s", "ms", "us", "ns")},
    "timestamp with zone": times(pa.timestamp("us", "Europe/Berlin")),
    **{f"duration[{u}]": times(pa.duration(u)) for u in ("s", "ms", "us", "ns")},
}
MORE = {
    "decimal": lambda draw: pa.array(
        [draw(st.none() | st.decimals(-(10**17), 10**17, allow_nan=False, places=4)) for _ in range(N)],
        pa.decimal128(38, 20),
    ),
    "dictionary": lambda draw: pa.array(
        [draw(st.none() | st.sampled_from("abc")) for _ in range(N)], pa.string()
    ).dictionary_encode(),
}
KIND_NAMES = [*SIMPLE, *COUNTED, *MORE]


def drawn(draw, kind):
    if kind in MORE:
        return MORE[kind](draw)
    values, make = COUNTED[kind] if kind in COUNTED else (SIMPLE[kind], lambda v: pa.array(v, TYPES[kind]))
    gaps = draw(st.booleans())
    return make([draw(values | st.none()) if gaps else draw(values) for _ in range(N)])


def as_kind(table, library):
    """The same table in another library, where that library has the type at all."""
    if library == "pyarrow":
        return table
    try:
        return pl.from_arrow(table) if library == "polars" else table.to_pandas()
    except Exception:  # the other library's own conversion, not ours
        return None


def in_one_line(error):
    assert len(str(error).splitlines()) == 1


@pytest.fixture(scope="module")
def model():
    return make_pipeline(KernelDensity(bandwidth=0.5)).fit(pd.DataFrame({"good": GOOD, "c": GOOD}))


@pytest.mark.parametrize("kind", KIND_NAMES)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_every_type_at_the_ends_of_its_range_is_read_or_refused(kind, model, data):
    drawn_table = pa.table({"good": GOOD, "c": drawn(data.draw, kind)})
    for library in ("pyarrow", "polars", "pandas"):
        table = as_kind(drawn_table, library)
        if table is None:
            continue
        try:
            frame = as_frame(table)
            columns = understand(frame)
        except BacklightError as error:
            in_one_line(error)
        else:
            assert len(frame) == N
            assert all(c.kind in KINDS and len(c.cells) == N and "\n" not in c.why for c in columns)
            assert frame.matrix().shape == (N, 2)
        try:
            values = explain(model, table).values
        except BacklightError as error:
            in_one_line(error)
        else:
            assert values.shape == (N, 2)


@pytest.mark.parametrize("make", [pa.table, pl.DataFrame, pd.DataFrame], ids=["pyarrow", "polars", "pandas"])
@pytest.mark.parametrize("held", [{}, {"good": [], "c": []}], ids=["no columns", "no rows"])
def test_empty_tables_are_read_or_refused(make, held, model):
    assert len(as_frame(make(held))) == 0
    assert all(column.kind == "ignored" for column in understand(as_frame(make(held))))
    try:
        explain(model, make(held))
    except BacklightError as error:
        in_one_line(error)


@pytest.mark.parametrize("kind", ["int64", "uint64"])
def test_whole_numbers_beyond_float64_become_the_nearest(kind):
    top = np.iinfo(kind).max
    table = pa.table({"a": pa.array([top - i for i in range(N)], getattr(pa, kind)())})
    for held in (table, pl.from_arrow(table), table.to_pandas(), table.to_pandas(types_mapper=pd.ArrowDtype)):
        assert as_frame(held).column("a").tolist() == [float(top - i) for i in range(N)]


def test_moments_keep_their_clock_and_durations_their_length():
    table = pa.table(
        {
            "zone": pa.array([dt.datetime(2024, 1, 1, 12), None], pa.timestamp("us", "Europe/Berlin")),
            "far": pa.array([10**14, -(10**14)], pa.timestamp("s")),
            "day": pa.array([2**31 - 1, 0], pa.int32()).cast(pa.date32()),
            "length": pa.array([90, None], pa.duration("s")),
            "money": pa.array([decimal.Decimal("1.25"), None], pa.decimal128(9, 2)),
        }
    )
    frame = as_frame(table)

    assert frame.column("zone").astype("M8[s]").tolist() == [dt.datetime(2024, 1, 1, 13), None]
    assert frame.column("far").astype("M8[s]").astype(int).tolist() == [10**14, -(10**14)]
    assert frame.column("day").astype("M8[D]").astype(int).tolist() == [2**31 - 1, 0]
    assert frame.column("length").astype("m8[s]").astype(int)[0] == 90
    assert frame.column("money")[0] == 1.25
    kinds = {c.name: c.kind for c in understand(frame)}
    assert kinds["far"] == kinds["day"] == kinds["zone"] == "date"


def test_what_nothing_computes_with_is_named_by_its_type():
    """Lists of numbers in Parquet, and Python's own objects in a frame."""
    table = pa.table({"x": [1.0, 2.0, 3.0], "y": pa.array([[1, 2], [3], []], pa.list_(pa.int64()))})
    odd = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [object(), object(), object()]})
    times = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [dt.date(2020, 1, k) for k in (1, 2, 3)]})
    listed, plain, dates = (understand(as_frame(one))[1] for one in (table, odd, times))

    assert (listed.kind, plain.kind, dates.kind) == ("ignored", "ignored", "date")
    assert "list" in listed.why
    assert plain.why == "holds object values"
