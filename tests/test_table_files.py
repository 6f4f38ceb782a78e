"""Files as people have them, made by the programs that make them: what is read, and what is said of it."""

import bz2
import datetime as dt
import gzip
import json
import lzma
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import dump_svmlight_file

from backlight.batches.delimited import csv_types, open_csv
from backlight.errors import BacklightError, ColumnsError, FileError
from backlight.tables.columns import understand
from backlight.tables.files import read_files
from backlight.tables.readers import endings

N = 40
rng = np.random.default_rng(0)
TEMP = rng.normal(20, 3, N).round(2)
PRESS = rng.normal(1013, 8, N).round(1)
SITE = [["north", "south", "Müllerstraße"][i % 3] for i in range(N)]
BASE = pd.DataFrame({"temp": TEMP, "press": PRESS, "site": SITE})
LINES = [f"{t},{p}" for t, p in zip(TEMP, PRESS, strict=True)]
TEXT = BASE.to_csv(index=False)


def put(content):
    def write(path):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def workbook(rows, title="Sheet", before=()):
    def write(path):
        book = openpyxl.Workbook()
        book.active.title = title
        for row in (*before, *rows):
            book.active.append(list(row))
        book.save(path)

    return write


def zipped(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner/table.csv", TEXT)
        archive.writestr("__MACOSX/inner/._table.csv", "x")


def stream(path):
    table = pa.Table.from_pandas(BASE)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def relation(data):
    return put(
        "% of Weka\n@RELATION 'the plant'\n@attribute temp numeric\n@ATTRIBUTE 'press' REAL\n"
        "@attribute site {north, south, 'Müllerstraße'}\n\n@data\n" + data
    )


RECORDS = BASE.to_dict("records")
ROWS = [list(BASE.columns), *BASE.values.tolist()]
FILES = {
    "csv": ("t.csv", put(TEXT)),
    "csv in capitals": ("T.CSV", put(TEXT)),
    "csv without an ending": ("table", put(TEXT)),
    "csv with another ending": ("table.export", put(TEXT)),
    "csv with carriage returns": ("t.csv", put(TEXT.replace("\n", "\r\n"))),
    "csv of an old Macintosh": ("t.csv", put(TEXT.replace("\n", "\r"))),
    "csv with a mark": ("t.csv", put("\ufeff" + TEXT)),
    "csv quoted throughout": ("t.csv", put(BASE.to_csv(index=False, quoting=1))),
    "csv without a last line end": ("t.csv", put(TEXT.rstrip("\n"))),
    "csv with blank lines": ("t.csv", put(TEXT.replace("\n", "\n\n"))),
    "csv that says sep=": ("t.csv", put("sep=;\n" + BASE.to_csv(index=False, sep=";"))),
    "csv by polars": ("t.csv", lambda path: pl.from_pandas(BASE).write_csv(path)),
    "semicolons": ("t.csv", put(BASE.to_csv(index=False, sep=";"))),
    "semicolons and decimal commas": ("t.csv", put(BASE.to_csv(index=False, sep=";", decimal=","))),
    "tabs": ("t.tsv", put(BASE.to_csv(index=False, sep="\t"))),
    "tabs called txt": ("t.txt", put(BASE.to_csv(index=False, sep="\t"))),
    "bars": ("t.csv", put(BASE.to_csv(index=False, sep="|"))),
    "spaces": ("t.txt", put(BASE.to_csv(index=False, sep=" "))),
    "aligned with spaces": ("t.txt", put(BASE.to_string(index=False))),
    "trailing separators": ("t.csv", put(TEXT.replace("\n", ",\n"))),
    "trailing separators below the header": ("t.csv", put(TEXT.replace("\n", ",\n").replace(",\n", "\n", 1))),
    "utf-16": ("t.csv", put(TEXT.encode("utf-16"))),
    "utf-16 without a mark": ("t.csv", put(TEXT.encode("utf-16-le"))),
    "utf-16 of the other order": ("t.csv", put(TEXT.encode("utf-16-be"))),
    "windows-1252": ("t.csv", put(TEXT.encode("cp1252"))),
    "gzip": ("t.csv.gz", put(gzip.compress(TEXT.encode()))),
    "gzip called csv": ("t.csv", put(gzip.compress(TEXT.encode()))),
    "bzip2": ("t.csv.bz2", put(bz2.compress(TEXT.encode()))),
    "xz": ("t.csv.xz", put(lzma.compress(TEXT.encode()))),
    "zstd": ("t.csv.zst", put(pa.Codec("zstd").compress(TEXT.encode(), asbytes=True))),
    "zip": ("t.zip", zipped),
    "arff": ("t.arff", relation(BASE.to_csv(index=False, header=False, quotechar="'", quoting=2))),
    "arff, sparse": (
        "t.arff",
        relation("".join(f"{{0 {t}, 1 {p}" + f", 2 '{s}'" * (s != "north") + "}\n" for t, p, s in BASE.to_numpy())),
    ),
    "numpy, columns": ("t.npz", lambda path: np.savez(path, temp=TEMP, press=PRESS, site=np.array(SITE))),
    "numpy, records": (
        "t.npy",
        lambda path: np.save(
            path,
            BASE.astype({"site": "U20"})
            .to_records(index=False)
            .astype([("temp", "f8"), ("press", "f8"), ("site", "U20")]),
        ),
    ),
    "numpy, X and y": (
        "t.npz",
        lambda path: np.savez(
            path, X=np.c_[TEMP, PRESS], site=np.array(SITE), feature_names=["temp", "press"], more=np.zeros((3, 1))
        ),
    ),
    "json by pandas, records": ("t.json", put(BASE.to_json(orient="records"))),
    "json by pandas, columns": ("t.json", put(BASE.to_json(orient="columns"))),
    "json by pandas, index": ("t.json", put(BASE.to_json(orient="index"))),
    "json by pandas, split": ("t.json", put(BASE.to_json(orient="split"))),
    "json of lists": ("t.json", put(BASE.to_json(orient="columns") and json.dumps(BASE.to_dict("list")))),
    "json of rows": ("t.json", put(json.dumps(ROWS))),
    "json, indented": ("t.json", put(json.dumps(RECORDS, indent=2, ensure_ascii=False))),
    "json under a key": ("t.json", put(json.dumps({"status": "ok", "results": RECORDS}))),
    "json as jq prints it": ("t.json", put("\n".join(json.dumps(r, indent=2) for r in RECORDS))),
    "json without an ending": ("t", put(json.dumps(RECORDS))),
    "json packed": ("t.json.gz", put(gzip.compress(json.dumps(RECORDS).encode()))),
    "json lines": ("t.jsonl", put(BASE.to_json(orient="records", lines=True))),
    "json lines, another ending": ("t.log", put(BASE.to_json(orient="records", lines=True))),
    "json lines by polars": ("t.ndjson", lambda path: pl.from_pandas(BASE).write_ndjson(path)),
    "parquet": ("t.parquet", lambda path: BASE.to_parquet(path)),
    "parquet with an index": ("t.parquet", lambda path: BASE.iloc[::-1].iloc[::-1].to_parquet(path)),
    "parquet by polars": ("t.pq", lambda path: pl.from_pandas(BASE).write_parquet(path)),
    "parquet of categories": ("t.parquet", lambda path: BASE.astype({"site": "category"}).to_parquet(path)),
    "parquet without an ending": ("t", lambda path: pq.write_table(pa.Table.from_pandas(BASE), path)),
    "feather": ("t.feather", lambda path: BASE.to_feather(path)),
    "arrow stream": ("t.arrows", stream),
    "xlsx": ("t.xlsx", workbook(ROWS)),
    "xlsx by pandas": ("t.xlsx", lambda path: BASE.to_excel(path, index=False)),
    "xlsx called csv": ("t.csv", lambda path: workbook(ROWS)(path)),
    "xlsx with a title": ("t.xlsx", workbook(ROWS, before=[["Station 5"], []])),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", FILES)
def test_files_of_every_kind_are_the_same_table(kind, tmp_path):
    name, write = FILES[kind]
    write(tmp_path / name)
    frame = read_files([tmp_path / name])
    temp, press, site = understand(frame, {"press": "number"})

    assert frame.names == ("temp", "press", "site")
    assert temp.cells.tolist() == TEMP.tolist()
    assert press.cells.tolist() == PRESS.tolist()
    assert site.cells.tolist() == SITE


def test_every_registered_ending_has_its_example():
    missing = {
        ".xlsm",
        ".xlsb",
        ".xls",
        ".ods",
        ".tab",
        ".dat",
        ".psv",
        ".svm",
        ".libsvm",
        ".svmlight",
        ".data",
        ".asc",
        ".parq",
        ".ipc",
        ".arrow",
        ".geojson",
    }

    assert (
        set(endings()) - {"." + name.lower().removesuffix(".gz").rpartition(".")[2] for name, _ in FILES.values()}
        <= missing
    )


LETTERS = {
    "big5": "溫度 壓力 站點 觀測資料 氣象局 台北市 高雄市",
    "shift_jis": "温度 気圧 観測所 東京都 大阪府 データ",
    "koi8_r": "температура давление станция наблюдение север юг",
    "cp1251": "температура давление станция наблюдение север юг",
    "euc_kr": "온도 기압 관측소 서울특별시 부산광역시",
}  # fmt: skip


@pytest.mark.parametrize("encoding", LETTERS)
def test_other_alphabets_are_recognised(encoding, tmp_path):
    words = LETTERS[encoding].split()
    text = f"{words[0]},{words[1]}\n" + "".join(f"{words[i % len(words)]},{i}.5\n" for i in range(N))
    put(text.encode(encoding))(tmp_path / "t.csv")
    frame = read_files([tmp_path / "t.csv"])

    assert frame.names == (words[0], words[1])
    assert frame.column(words[0]).tolist() == [words[i % len(words)] for i in range(N)]
    assert "not UTF-8" in frame.notes[0]


SAID = {
    "no header": ("\n".join(LINES), ("column_1", "column_2"), N, "no line of column names"),
    "years as names": ("land,2001,2002\n" + "\n".join(f"l{i},{t},{p}" for i, (t, p) in enumerate(zip(TEMP, PRESS, strict=True))), ("land", "2001", "2002"), N, None),
    "counted names": ("0,1\n" + "\n".join(LINES), ("0", "1"), N, None),
    "title lines": ("Report of station 5\nGenerated 2024-01-01\n\ntemp,press\n" + "\n".join(LINES), ("temp", "press"), N, "Lines 1 to 2 above the table"),
    "title lines padded": ("Report,,\n,,\na,b,c\n" + "\n".join(x + ",1" for x in LINES), ("a", "b", "c"), N, "Line 1 above the table"),
    "comments": ("# station 5\n# unit: C\ntemp,press\n" + "\n".join(LINES), ("temp", "press"), N, "above the table left out: # station 5"),
    "comments between": ("temp,press\n" + "\n".join([*LINES[:9], "# moved", *LINES[9:]]), ("temp", "press"), N, "1 line between or below"),
    "header after a number sign": ("#temp,press\n" + "\n".join(LINES), ("temp", "press"), N, None),
    "counts and classes": (f"{N},2,good,bad\n" + "\n".join(x + ",1" for x in LINES), ("column_1", "column_2", "column_3"), N, f"Line 1 above the table left out: {N} 2 good bad"),
    "a number among names": ("temp,press,5\n" + "\n".join(x + ",1" for x in LINES), ("temp", "press", "5"), N, "Line 1 is taken as column names, although some are numbers: 5."),
    "single quotes": ("'temp'\t'site'\n" + "".join(f"{t}\t'north, {i}'\n" for i, t in enumerate(TEMP)), ("temp", "site"), N, None),
    "an apostrophe is no quote": ("temp;site\n" + "".join(f"{t};'s Gravenhage {i}\n" for i, t in enumerate(TEMP)), ("temp", "site"), N, None),
    "units": ("temp,press\n°C,hPa\n" + "\n".join(LINES), ("temp", "press"), N, "Line 2 is taken as units, not as values: °C, hPa"),
    "total": ("site,temp\n" + "".join(f"s{i},{t}\n" for i, t in enumerate(TEMP)) + f"Total,{TEMP.sum():.2f}\n", ("site", "temp"), N, "The last row holds totals"),
    "total, and a unit": ("site,what,temp\n" + "".join(f"s{i},mean,{t}\n" for i, t in enumerate(TEMP)) + f"Total,°C,{TEMP.sum():.2f}\n", ("site", "what", "temp"), N, "The last row holds totals (Total)"),
    "total without a name": ("site,temp\n" + "".join(f"s{i},{t}\n" for i, t in enumerate(TEMP)) + f",{TEMP.sum():.2f}\n", ("site", "temp"), N, "The last row holds totals (without a name)"),
    "sum of a site": ("site,temp\n" + "".join(f"s{i},{t}\n" for i, t in enumerate(TEMP)) + f"s99,{TEMP.sum():.2f}\n", ("site", "temp"), N + 1, None),
    "half of the totals": ("site,a,b\n" + "".join(f"s{i},{t},1\n" for i, t in enumerate(TEMP)) + f"Total,{TEMP.sum():.2f},7\n", ("site", "a", "b"), N, "The last row holds totals"),
    "a third of the totals": ("site,a,b,c\n" + "".join(f"s{i},{t},1,2\n" for i, t in enumerate(TEMP)) + f"Total,{TEMP.sum():.2f},7,9\n", ("site", "a", "b", "c"), N + 1, None),
    "means": ("site,temp\n" + "".join(f"s{i},{t}\n" for i, t in enumerate(TEMP)) + f"Mean,{TEMP.mean():.4f}\n", ("site", "temp"), N, "The last row holds totals"),
    "no total": ("site,temp\n" + "".join(f"s{i},{t}\n" for i, t in enumerate(TEMP)) + "Total,21.5\n", ("site", "temp"), N + 1, None),
    "names twice": ("a,a,b\n" + "\n".join(x + ",1" for x in LINES), ("a", "a_2", "b"), N, "Column names occur twice (a)"),
    "names twice and numbered": ("a,a_2,a\n" + "\n".join(x + ",1" for x in LINES), ("a", "a_2", "a_3"), N, "occur twice"),
    "names blank": (",b\n" + "\n".join(LINES), ("column_1", "b"), N, "1 column without a name: called column_1"),
    "blank columns": ("a,b,,\n" + "\n".join(x + ",," for x in LINES), ("a", "b"), N, "2 columns without a name or any cell left out"),
    "R's row names": ("a,b\n" + "\n".join(f"r{i},{x}" for i, x in enumerate(LINES)), ("column_1", "a", "b"), N, "without a name"),
    "short line": ("a,b,c\n" + "\n".join([*[x + ",1" for x in LINES], "7,8"]), ("a", "b", "c"), N + 1, f"Line {N + 2} has fewer cells than 3"),
    "short line beside blank columns": ("a,b,c,,\n" + "\n".join([*[x + ",1,," for x in LINES], "7,8"]), ("a", "b", "c"), N + 1, f"Line {N + 2} has fewer cells"),
    "long line": ("a,b\n" + "\n".join([*LINES[:5], "7,8,9", *LINES[5:]]), ("a", "b"), N + 1, "Line 7 has more cells than 2"),
    "footnotes": ("a,b,c,\n" + "\n".join([*[x + ",1" for x in LINES], "Notes", "1 - one", "2 - two", "3 - three", "4 - four"]), ("a", "b", "c"), N, "5 lines between or below"),
    "footnote": ("a,b,c\n" + "\n".join([*[x + ",1" for x in LINES], "Source: station"]), ("a", "b", "c"), N, "1 line between or below"),
    "quoted line ends": ('note,x\n' + "".join(f'"one\ntwo, {i}",{i}.5\n' for i in range(N)), ("note", "x"), N, None),
    "one column": ("value\n" + "\n".join(map(str, TEMP)), ("value",), N, None),
    "one column of moments": ("when\n" + "".join(f"2024-01-{i % 28 + 1:02d} 10:00:00\n" for i in range(N)), ("when",), N, None),
}  # fmt: skip


@pytest.mark.parametrize("case", SAID)
def test_where_the_table_begins_and_ends_is_found_and_said(case, tmp_path):
    text, names, rows, said = SAID[case]
    put(text)(tmp_path / "t.csv")
    frame = read_files([tmp_path / "t.csv"])

    assert frame.names == names
    assert len(frame) == rows
    assert not frame.notes if said is None else said in " ".join(frame.notes)


@pytest.mark.parametrize("seed", range(3))
def test_records_that_leave_keys_out_are_the_frame_of_pandas(seed, tmp_path):
    draw = np.random.default_rng(seed)
    records = [
        {"a": i, **{key: float(draw.normal()) for key in "bcd" if draw.random() < 0.4}, "in": {"x": i * 2.0}}
        for i in range(25)
    ]
    put("\n".join(json.dumps(r) for r in records))(tmp_path / "t.jsonl")
    put(json.dumps(records))(tmp_path / "t.json")
    expected = pd.json_normalize(records)
    for name in ("t.jsonl", "t.json"):
        frame = read_files([tmp_path / name])
        assert set(frame.names) == set(expected.columns)
        for key in frame.names:
            np.testing.assert_array_equal(frame.column(key).astype(float), expected[key].to_numpy(dtype=float))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_file_without_a_single_date_does_not_make_texts_of_another_ones_dates(order, tmp_path):
    days = pd.Series(pd.date_range("2024-01-01", periods=6))
    parts = [pd.DataFrame({"when": days, "x": range(6)}), pd.DataFrame({"when": [np.nan] * 4, "x": range(4)})]
    for k, part in enumerate(parts):
        part.to_parquet(tmp_path / f"{k}.parquet")
    when = read_files([tmp_path / f"{k}.parquet" for k in order]).column("when")

    assert when.dtype.kind == "M"
    first = 0 if order == (0, 1) else 4
    assert (when[first : first + 6] == days.to_numpy()).all()
    assert np.isnat(np.delete(when, range(first, first + 6))).all()


def test_mended_lines_are_where_they_were(tmp_path):
    put("a,b,c\n" + "1,2,3\n" * 30 + "4,5\n" + "1,2,3\n" * 30 + "6,7,8,9\n" + "1,2,3\n" * 60)(tmp_path / "t.csv")
    frame = read_files([tmp_path / "t.csv"])

    assert np.flatnonzero(frame.column("a") != 1).tolist() == [30, 61]
    assert frame.column("c")[[61, 62]].tolist() == [8, 3]
    assert np.isnan(frame.column("c")[30])


def test_what_is_no_number_far_below_the_first_rows_keeps_the_column_whole(tmp_path):
    put("a,b\n" + "1.50,2\n" * 60_000 + "ERROR,007\n")(tmp_path / "t.csv")
    frame = read_files([tmp_path / "t.csv"])

    assert frame.column("a")[[0, -1]].tolist() == ["1.50", "ERROR"]
    assert frame.column("b")[[0, -1]].tolist() == ["2", "007"]


def test_texts_in_single_quotes_lose_them_and_apostrophes_stay(tmp_path):
    put("'a','b'\n" + "1,'x, y'\n" * 40)(tmp_path / "t.csv")
    put("a,b\n" + "1,'s Gravenhage\n" * 40)(tmp_path / "u.csv")

    assert read_files([tmp_path / "t.csv"]).column("b")[0] == "x, y"
    assert read_files([tmp_path / "u.csv"]).column("b")[0] == "'s Gravenhage"


def test_wide_rows_come_in_blocks_of_many_rows(tmp_path, monkeypatch):
    """A block costs a call for each column; one of 2²⁰ bytes would hold 65 of these rows."""
    from backlight.tables.readers.typed import Growing

    calls, append = [], Growing.append

    def counted(self, cells, expected):
        calls.append(len(cells))
        append(self, cells, expected)

    monkeypatch.setattr(Growing, "append", counted)
    put(",".join(f"c{j}" for j in range(2000)) + "\n" + ("1.25001," * 1999 + "2\n") * 200)(tmp_path / "t.csv")
    frame = read_files([tmp_path / "t.csv"])

    assert len(frame) == 200
    assert frame.column("c1999")[-1] == 2
    assert calls == [200] * 2000


def test_texts_are_held_once(tmp_path):
    put("site,x\n" + "".join(f"a rather long name of site {i % 3},{i}\n" for i in range(9000)))(tmp_path / "t.csv")
    cells = read_files([tmp_path / "t.csv"]).column("site")

    assert len({id(text) for text in cells}) == 3


def test_sheets_are_chosen(tmp_path):
    book = openpyxl.Workbook()
    book.active.title = "empty"
    for name, factor in (("first", 1), ("second", 2)):
        sheet = book.create_sheet(name)
        for row in [["a", "b"], *[[i * factor, i] for i in range(5)]]:
            sheet.append(row)
    path = tmp_path / "t.xlsx"
    book.save(path)

    assert read_files([path]).column("a")[4] == 4
    assert "The sheet 'first' is read, not empty, second" in read_files([path]).notes[0]
    assert read_files([path], sheet="second").column("a")[4] == 8
    assert read_files([path], sheet="3").column("a")[4] == 8
    with pytest.raises(ColumnsError, match="no sheet 'x': its sheets are empty, first, second"):
        read_files([path], sheet="x")


def test_a_cover_before_the_table_is_not_the_table(tmp_path):
    path = tmp_path / "t.xlsx"
    with pd.ExcelWriter(path) as book:
        pd.DataFrame({"read me": ["ask Anna"]}).to_excel(book, sheet_name="cover", index=False)
        BASE.to_excel(book, sheet_name="data", index=False)

    frame = read_files([path])

    assert frame.names == ("temp", "press", "site")
    assert "The sheet 'data' is read, not cover" in frame.notes[0]


GROUPS = [["Plant 7", *[""] * 4], ["", "Sensor 1", "", "Sensor 2", ""], ["time", "temp", "press", "temp", "press"]]
AGAIN = [["x", "x", "y", "y", "z"], ["mean", "std", "mean", "std", "n"]]


@pytest.mark.parametrize(
    ("above", "names"),
    [
        (GROUPS, ("time", "Sensor 1 temp", "Sensor 1 press", "Sensor 2 temp", "Sensor 2 press")),
        (GROUPS[1:], ("time", "Sensor 1 temp", "Sensor 1 press", "Sensor 2 temp", "Sensor 2 press")),
        (AGAIN, ("x mean", "x std", "y mean", "y std", "z n")),
    ],
)
@pytest.mark.parametrize("ending", ["xlsx", "csv"])
def test_names_in_two_lines_are_put_together(above, names, ending, tmp_path):
    rows = [*above, *[[i, *rng.normal(size=4).round(3)] for i in range(N)]]
    write = workbook(rows) if ending == "xlsx" else put("\n".join(",".join(map(str, row)) for row in rows))
    write(tmp_path / f"t.{ending}")

    frame = read_files([tmp_path / f"t.{ending}"])

    assert frame.names == names
    assert frame.column(names[0]).tolist() == list(range(N))
    assert any("are column names together" in note for note in frame.notes)


@pytest.mark.parametrize("name", ["t.svm", "t.txt", "t"])
def test_sparse_rows_are_what_scikit_learn_wrote(name, tmp_path):
    dense = np.where(rng.random((N, 6)) < 0.4, rng.normal(size=(N, 6)).round(6), 0.0)
    dense[:, 4] = 0.0
    labels = np.arange(N) % 3
    dump_svmlight_file(dense, labels, str(tmp_path / name), zero_based=False)

    frame = read_files([tmp_path / name])

    assert frame.names == ("label", "feature_1", "feature_2", "feature_3", "feature_4", "feature_6")
    assert frame.column("label").tolist() == labels.tolist()
    np.testing.assert_allclose(frame.column("feature_6"), dense[:, 5])


def test_arrays_of_objects_and_of_pictures_are_refused_and_none_is_unpickled(tmp_path):
    for name, array, said in (("o", np.array([{}, {}]), "objects"), ("p", np.zeros((2, 3, 3)), "3 axes")):
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
        with pytest.raises(FileError, match=said):
            read_files([tmp_path / f"{name}.npy"])


@pytest.mark.parametrize("ending", ["ods", "xlsx", "xls"])
def test_what_libreoffice_saves_is_read(ending):
    columns = {c.name: c for c in understand(read_files([Path(__file__).parent / "data" / f"libreoffice.{ending}"]))}

    assert {name: column.kind for name, column in columns.items()} == {
        "temp": "number", "press": "number", "site": "category", "when": "date",
    }  # fmt: skip
    assert columns["temp"].cells.tolist() == TEMP.tolist()
    assert columns["when"].cells.astype("M8[D]").astype(str).tolist() == [f"2024-01-{1 + i % 28:02d}" for i in range(N)]


def test_typed_cells_of_a_workbook_keep_their_types(tmp_path):
    first = dt.datetime(2024, 1, 1, 12)
    rows = [["id", "when", "ok", "mixed", "code"]]
    rows += [
        [i, first + dt.timedelta(hours=i), i % 2 == 0, "ERROR" if i == 3 else i / 8, f"{i:03d}"] for i in range(30)
    ]
    workbook(rows, before=[["Report", None], [None]])(tmp_path / "t.xlsx")
    columns = {c.name: c for c in understand(read_files([tmp_path / "t.xlsx"]))}

    assert columns["when"].cells.astype("M8[s]")[5] == np.datetime64(first) + np.timedelta64(5, "h")
    assert columns["ok"].cells.tolist() == [float(i % 2 == 0) for i in range(30)]
    assert dict(columns["mixed"].flagged) == {3: "ERROR"}
    assert columns["mixed"].cells[7] == 7 / 8
    assert columns["code"].kind == "identifier"
    assert columns["code"].cells[7] == "007"


def test_nested_records_become_columns_one_level_deep(tmp_path):
    records = [
        {"id": i, "at": {"lat": i / 2, "deep": {"x": 1}}, "tags": ["a"], **({"late": 1.5} if i > 3 else {})}
        for i in range(9)
    ]
    put(json.dumps(records))(tmp_path / "t.json")
    frame = read_files([tmp_path / "t.json"])

    assert frame.names == ("id", "at.lat", "at.deep", "tags", "late")
    assert frame.column("at.lat").tolist() == [i / 2 for i in range(9)]
    assert np.isnan(frame.column("late")).tolist() == [True] * 4 + [False] * 5
    assert {c.name: c.kind for c in understand(frame)}["tags"] == "ignored"


def test_standard_input_is_read(tmp_path):
    put(TEXT)(tmp_path / "t.csv")
    code = "from backlight.tables.files import expand, read_files; print(len(read_files(expand(['-']))))"
    with (tmp_path / "t.csv").open("rb") as file:
        done = subprocess.run([sys.executable, "-c", code], stdin=file, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == str(N)


def test_a_zip_of_several_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("a.csv", TEXT)
        archive.writestr("b.csv", TEXT)
    with pytest.raises(FileError, match=r"holds 2 files \(a.csv, b.csv\): unpack it and name one"):
        read_files([tmp_path / "t.zip"])


def test_columns_that_differ_in_type_between_files_are_joined_as_texts(tmp_path):
    put("a,b\n1.5,2024-01-01\n")(tmp_path / "1.csv")
    put("a,b\nx,\n")(tmp_path / "2.csv")

    assert read_files([tmp_path / "1.csv", tmp_path / "2.csv"]).column("a").tolist() == ["1.5", "x"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", [k for k in FILES if not k.startswith(("csv", "json", "semi"))])
def test_damaged_files_are_read_or_refused_in_one_line(kind, tmp_path):
    name, write = FILES[kind]
    write(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    draw = random.Random(kind)  # noqa: S311 - damage, not secrets
    for _ in range(12):
        damaged = bytearray(content)
        if draw.random() < 0.4:
            del damaged[draw.randrange(len(damaged)) :]
        else:
            for _ in range(draw.choice([1, 4, 40])):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        (tmp_path / name).write_bytes(bytes(damaged))
        try:
            understand(read_files([tmp_path / name]))
        except BacklightError as error:
            message = str(error)
        else:
            message = ""
        assert len(message.splitlines()) <= 1


def test_a_line_with_too_few_cells_is_mended_beside_columns_that_are_read_again(tmp_path):
    """A column whose texts begin far down is read in a second pass, while the others are already there."""
    lines = [f"{i},{i if i < 18000 else 'x' + str(i % 3)},{i / 2}" for i in range(18500)]
    lines[8000] = "8000,8000"
    path = tmp_path / "a.csv"
    path.write_text("a,b,c\n" + "\n".join(lines) + "\n")
    table = read_files([path])
    a, b, c = table.columns

    assert (np.asarray(a, float) == np.arange(18500)).all()
    assert str(b[18001]) == "x1"
    assert np.flatnonzero(np.isnan(np.asarray(c, float))).tolist() == [8000]


@pytest.mark.parametrize("place", ["first cell", "last cell", "packed", "last line"])
def test_a_quotation_mark_that_is_not_closed_takes_no_rows_with_it(place, tmp_path):
    rows = [f"{k}.5,{k * k % 7},text {k}" for k in range(60)]
    rows[59 if place == "last line" else 30] = '"7.5,1,text' if place == "first cell" else '7.5,1,"text'
    data = "\n".join(["a,b,c", *rows, *([] if place == "last line" else ["1.5,2,text"])]).encode() + b"\n"
    path = tmp_path / ("x.csv.gz" if place == "packed" else "x.csv")
    path.write_bytes(gzip.compress(data) if place == "packed" else data)
    if place == "last line":
        # nothing follows that could be lost
        assert len(read_files([path])) == 60
        return
    with pytest.raises(FileError, match="a quotation mark is not closed"):
        read_files([path])
    with pytest.raises(FileError):
        list(open_csv([path], csv_types(path), ["a", "b", "c"]))


def test_cells_of_several_lines_at_the_end_of_a_file_are_read(tmp_path):
    path = tmp_path / "x.csv"
    for end in ("", "\n", "\r\n\r\n"):
        path.write_text("a,b\n" + "\n".join(f'{k}.5,"line\n{k}"' for k in range(40)) + end, newline="")
        frame = read_files([path])
        assert len(frame) == 40
        assert frame.columns[1][-1] == "line\n39"
        assert sum(len(batch) for batch in open_csv([path], csv_types(path), ["a", "b"])) == 40


def test_long_words_are_read_in_no_time_that_grows_with_their_square(tmp_path, monkeypatch):
    import clevercsv

    seen = []
    sniff = clevercsv.Sniffer.sniff
    monkeypatch.setattr(clevercsv.Sniffer, "sniff", lambda self, text, **o: seen.append(text) or sniff(self, text, **o))
    path = tmp_path / "x.csv"
    path.write_text("a;" + "x" * 100_000 + "\n" + "\n".join(f"{k},5;{k * k % 7}" for k in range(40)))
    frame = read_files([path])
    assert [len(name) for name in frame.names] == [1, 100_000]
    assert len(seen[0]) < 2_000


def test_a_column_of_intervals_leaves_the_others_alone(tmp_path):
    cells = pa.array([(1, 2, 3)] * 12, pa.month_day_nano_interval())
    pyarrow.feather.write_feather(pa.table({"a": np.arange(12.0), "c": cells}), tmp_path / "x.feather")
    assert read_files([tmp_path / "x.feather"]).select(["a"]).matrix()[:, 0].tolist() == list(range(12))


@pytest.mark.skipif(os.name == "nt", reason="no named pipes")
def test_a_pipe_is_said_to_be_none_that_is_read_twice(tmp_path):
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(FileError, match="give - to read from standard input"):
        read_files([tmp_path / "x.csv"])
