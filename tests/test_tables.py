"""Tables of every kind, files of every kind, and what is said of bad ones."""

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch
from scipy.sparse import csr_matrix

from backlight.errors import ColumnsError, DataError, ExistingFileError, FileError, MissingFileError
from backlight.tables import as_frame, frame_like
from backlight.tables.columns import understand
from backlight.tables.files import atomic, check_output, expand, read_files, write_table


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (np.array([[1, 2], [3, 4]]), "numpy"),
        ([[1, 2], [3, 4]], "numpy"),
        (torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True), "torch"),
        (csr_matrix([[1, 2], [3, 4]]), "scipy"),
        (pd.DataFrame({"a": [1, 3], "b": [2, 4]}), "pandas"),
        (pd.DataFrame({"a": [1, 3], "b": [2, 4]}, dtype="Int64"), "pandas"),
        (pl.DataFrame({"a": [1, 3], "b": [2, 4]}), "polars"),
        (pa.table({"a": [1, 3], "b": [2, 4]}), "pyarrow"),
        (np.array([[True, 2], [3, 4]], dtype=object), "numpy"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__module__,
)
def test_every_kind_of_table_is_read_to_the_same_numbers(data, kind):
    frame = as_frame(data)

    assert frame.kind == kind
    assert frame.matrix().tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert frame.names == (("a", "b") if frame.named else ("x0", "x1"))


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "pyarrow"])
def test_missing_cells_are_nan_in_numbers_and_none_elsewhere(make):
    frame = as_frame(make({"n": [1.5, None, 3.0], "t": ["x", None, "z"], "b": [True, None, False]}))

    assert np.isnan(frame.column("n")[1])
    assert [frame.column("t")[i] for i in (0, 2)] == ["x", "z"]
    assert frame.column("t")[1] is None or np.isnan(frame.column("t")[1])  # pandas 3 has NaN there
    assert frame.column("b").tolist()[::2] == [1.0, 0.0]
    assert np.isnan(frame.column("b")[1])


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_frames_are_built_back_as_they_came(kind):
    frame = frame_like({"a": np.array([1.0, 2.0]), "t": np.array(["x", None], dtype=object)}, kind)

    assert as_frame(frame).kind == kind
    back = as_frame(frame).column("t")
    assert back[0] == "x"
    assert back[1] is None or np.isnan(back[1])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (np.zeros(3), r"two axes .* not shape \(3,\): a single row is X.reshape\(1, -1\)"),
        (np.zeros((2, 2, 2)), r"not shape \(2, 2, 2\)"),
        (3, "cannot read a table from builtins.int"),
        ([[1, 2], [3]], "different lengths"),
        (np.zeros((2, 2), dtype=complex), "complex128"),
    ],
)
def test_what_is_no_table_is_refused(data, said):
    with pytest.raises(DataError, match=said):
        as_frame(data)


def test_a_frame_with_a_name_twice_is_refused_by_that_name():
    frame = pd.DataFrame(np.zeros((3, 3)), columns=["a", "b", "a"])
    with pytest.raises(ColumnsError, match="occur twice: a: rename"):
        as_frame(frame)


@pytest.mark.parametrize("dtype", [float, int, np.float32, object])
def test_what_is_under_a_mask_is_no_value(dtype):
    table = np.ma.array(np.arange(6).reshape(3, 2).astype(dtype), mask=[[0, 0], [0, 1], [0, 0]])
    found = as_frame(table).matrix().astype(float)
    assert np.isnan(found[1, 1])
    assert np.array_equal(found[[0, 0, 1, 2, 2], [0, 1, 0, 0, 1]], [0, 1, 2, 4, 5])
    table.mask = np.ma.nomask
    assert np.array_equal(as_frame(table).matrix().astype(float), np.arange(6).reshape(3, 2))


def test_names_must_fit():
    with pytest.raises(ColumnsError, match="1 feature names for 2 columns"):
        as_frame(np.zeros((3, 2)), ["a"])


# -- what columns are ---------------------------------------------------------------------------------------------------


def kinds(columns, **overrides):
    return {c.name: c.kind for c in understand(as_frame(pa.table(columns)), overrides)}


def test_columns_are_told_apart():
    n = 60
    found = kinds(
        {
            "measured": [0.5 * i * i for i in range(n)],
            "flag": [i % 2 for i in range(n)],
            "row": list(range(n)),
            "customer_id": [(i * 7919) % 10007 for i in range(n)],
            "serial": [f"A{i:04d}" for i in range(n)],
            "day": [dt.date(2024, 1, 1) + dt.timedelta(i) for i in range(n)],
            "when": [f"{1 + i % 28:02d}.03.2024 10:{i % 60:02d}" for i in range(n)],
            "colour": [["red", "green", None][i % 3] for i in range(n)],
            "price": [f"{i + 1},{i:03d}.50" for i in range(n)],
            "share": [f"{i * 7 % 50} %" for i in range(n)],
            "comment": [f"the {i}th thing that was said" for i in range(n)],
            "same": [3] * n,
            "nothing": [None] * n,
            "list": [[i] for i in range(n)],
            "many": [f"t{i // 2}" for i in range(n)],
        }
    )

    assert found == {
        "measured": "number", "flag": "number", "row": "identifier", "customer_id": "identifier", "serial": "identifier",
        "day": "date", "when": "date", "colour": "category", "price": "number", "share": "number", "comment": "ignored",
        "same": "ignored", "nothing": "ignored", "list": "ignored", "many": "category",
    }  # fmt: skip


def test_numbers_written_as_text_are_read():
    column = understand(as_frame(pa.table({"price": ["1,234.5", "12", None, "-3e2", "7"] * 3})))[0]

    assert np.allclose(column.cells[:5], [1234.5, 12, np.nan, -300, 7], equal_nan=True)


def test_what_the_user_says_goes():
    columns = {
        "code": [1, 2, 3] * 10,
        "day": [dt.date(1970, 1, 1 + i) for i in range(30)],
        "text": ["a", "b", "c"] * 10,
    }

    assert kinds(columns, code="category", day="number", text="ignored") == {
        "code": "category",
        "day": "number",
        "text": "ignored",
    }
    days = understand(as_frame(pa.table(columns)), {"day": "number"})[1]
    assert days.cells.tolist() == list(range(30))
    with pytest.raises(DataError, match="column 'text' cannot be numeric: it holds 'a'"):
        kinds(columns, text="number")
    with pytest.raises(ColumnsError, match="no column 'x' in the data: the columns are code, day, text"):
        kinds(columns, x="number")


def test_infinite_values_are_named():
    with pytest.raises(DataError, match=r"column 'a' is -inf in row 2: .*--ignore a"):
        kinds({"a": [1.0, -np.inf, 2.0]})


# -- files --------------------------------------------------------------------------------------------------------------


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "text",
    [
        'name,value\n"Miller, Ann",1.5\nBob,\n',
        'name;value\n"Miller, Ann";1,5\nBob;\n',
        'name\tvalue\n"Miller, Ann"\t1.5\nBob\t\n',
        '\ufeffname,value\r\n"Miller, Ann",1.5\r\nBob,NA\r\n',
    ],
    ids=["comma", "semicolon and decimal comma", "tab", "byte order mark"],
)
def test_spreadsheet_exports_are_read(text, tmp_path):
    frame = read_files([write(tmp_path / "t.csv", text)])
    name, value = understand(frame, {"value": "number"})

    assert frame.names == ("name", "value")
    assert name.cells.tolist() == ["Miller, Ann", "Bob"]
    assert value.cells[0] == 1.5
    assert np.isnan(value.cells[1])


def test_files_of_every_kind_and_patterns_of_files_are_read(tmp_path):
    table = pa.table({"a": [1.0, 2.0], "b": ["x", "y"]})
    pq.write_table(table, tmp_path / "1.parquet")
    pyarrow.feather.write_feather(table, tmp_path / "2.arrow")
    write(tmp_path / "3.csv", "a,b\n1,x\n2,y\n")

    for name in ("1.parquet", "2.arrow", "3.csv"):
        assert read_files([tmp_path / name]).matrix().tolist() == [[1.0, "x"], [2.0, "y"]]
    pq.write_table(table, tmp_path / "4.parquet")
    assert len(read_files(expand([str(tmp_path / "*.parquet")]))) == 4


BAD = {
    "missing": (lambda p: p / "no.csv", MissingFileError, r"no\.csv: no such file"),
    "directory": (lambda p: p, FileError, "is a directory: name a file in it"),
    "empty": (lambda p: write(p / "e.csv", ""), FileError, r"e\.csv is empty"),
    "header only": (lambda p: write(p / "h.csv", "a,b\n"), FileError, "has columns but no rows"),
    "ragged": (
        lambda p: write(p / "r.csv", "a,b\n" + "1,2\n" * 40 + "3\n" * 5),
        FileError,
        r"5 lines do not have 2 cells as the others \(the first is line 42\)",
    ),
    "broken parquet": (
        lambda p: write(p / "b.parquet", "PAR1 nothing"),
        FileError,
        r"b\.parquet cannot be read",
    ),
    "broken spreadsheet": (
        lambda p: write(p / "x.xlsx", "PK\x03\x04"),
        FileError,
        r"x\.xlsx cannot be unpacked",
    ),
    "unknown content": (
        lambda p: write(p / "x.bin", "\x01\x02\x00\x00\x05"),
        FileError,
        r"x\.bin is neither text nor a kind of table that is known \(.*\.parquet",
    ),
    "a pickle": (lambda p: write(p / "x.pkl", "\x80", "latin-1"), FileError, "reading one can run code"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_line(case, tmp_path):
    make, kind, said = BAD[case]
    with pytest.raises(kind, match=said) as caught:
        read_files(expand([str(make(tmp_path))]))
    assert "\n" not in str(caught.value)


def test_files_of_other_columns_are_not_joined(tmp_path):
    files = [write(tmp_path / "1.csv", "a,b\n1,2\n"), write(tmp_path / "2.csv", "a,c\n1,2\n")]
    with pytest.raises(ColumnsError, match=r"2\.csv has other columns than .*1\.csv \(b, c\)"):
        read_files(files)


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_nothing_half_written_is_left_behind(failure, tmp_path):
    path = write(tmp_path / "out.csv", "old")
    with pytest.raises(failure), atomic(path, force=True) as temporary:
        temporary.write_text("half")
        raise failure

    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]


def test_outputs_are_checked_before_the_work(tmp_path):
    exists = write(tmp_path / "o.csv", "old")
    with pytest.raises(ExistingFileError, match="replace it with --force"):
        check_output(exists, (".csv",), force=False)
    check_output(exists, (".csv",), force=True)
    with pytest.raises(FileError, match=r"must end in \.parquet or \.csv"):
        check_output(tmp_path / "o.txt", (".parquet", ".csv"), force=False)
    with pytest.raises(FileError, match="is not a directory: make it first"):
        check_output(tmp_path / "no" / "o.csv", (".csv",), force=False)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_written_tables_are_read_back(ending, tmp_path):
    path = tmp_path / f"o.{ending}"
    write_table({"id": ["a", "b"], "x": np.array([1.0, 2.0])}, path, force=False)

    assert read_files([path]).matrix().tolist() == [["a", 1.0], ["b", 2.0]]


def test_a_sparse_table_that_no_memory_holds_is_refused_before_it_is_made_dense():
    from scipy import sparse

    table = sparse.csr_array((10_000_000, 1_000))
    with pytest.raises(
        DataError, match=r"10,000,000 rows and 1,000 columns is 10.0 billion.*at most 536,870 rows"
    ) as found:
        as_frame(table)
    assert len(str(found.value)) <= 200
