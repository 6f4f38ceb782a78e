"""The command line as a person uses it: real files, exit codes, one clear line."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from backlight import cli
from backlight.anomaly import DETECTORS

SPREADSHEET = "\n".join(
    [
        "Order No;Ordered on;Customer;Country;Amount;Weight kg;Express",
        *(
            f'A-{i:04d};{1 + i % 28:02d}.03.2024;"{name}, {i % 4}";{"DE" if i % 3 else "FR"};'
            f"{20 + (i * 37) % 50},{i % 10}0;{'' if i % 11 == 0 else f'{1 + (i * 13) % 7},5'};{'yes' if i % 2 else 'no'}"
            for i, name in enumerate(["Miller", "Smith", "Lopez"] * 40)
        ),
        'A-9999;11.03.2024;"Miller, 0";DE;4800,00;1,5;no',
    ]
)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["backlight", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def sheet(tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text(SPREADSHEET, encoding="utf-8-sig")
    return path


def test_a_spreadsheet_export_is_explained_without_any_option(run, sheet, tmp_path):
    code, out, err = run("anomalies", sheet, "--report", "r.html", "--out", "o.parquet")

    assert (code, err) == (0, "")
    assert "numbers: Amount, Weight kg" in out
    assert "categories: Customer, Country, Express" in out
    assert "dates: Ordered on" in out
    assert "identifiers, not scored: Order No" in out
    first = next(line for line in out.splitlines() if line.startswith("A-"))
    assert first.split()[0] == "A-9999"
    assert "Amount 4800 ↑" in first
    table = pq.read_table(tmp_path / "o.parquet").to_pydict()
    assert table["Order No"][0] == "A-9999"
    assert table["row"][0] == 121
    parts = [table[name][0] for name in table if name.startswith("contribution: ")]
    assert np.isclose(table["score"][0], table["base"][0] + sum(parts), rtol=1e-9)
    assert 0 < table["p: Amount"][0] <= 0.05
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Order No <b>A-9999</b> · Ordered on <b>2024-03-11</b>" in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.parquet", "orders.csv", "r.html"]


def test_options_override_what_columns_are_taken_for(run, sheet):
    code, out, _ = run(
        "anomalies",
        sheet,
        "--ignore",
        "Amount,Express",
        "--numeric",
        "Ordered on",
        "--detector",
        "ocsvm",
        "--top",
        3,
    )

    assert code == 0
    assert "ignored: Amount (as you said), Express (as you said)" in out
    assert "numbers: Ordered on, Weight kg" in out
    assert "one-class SVM" in out
    assert out.count("\nA-") == 3


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_detector_has_its_report_in_its_own_unit(run, sheet, tmp_path, detector):
    code, out, err = run("anomalies", sheet, "--detector", detector, "--report", "r.html", "--out", "o.csv")

    assert (code, err) == (0, "")
    assert ("nats" in out) == (detector in ("kde", "ocsvm", "mixture"))
    html = (tmp_path / "r.html").read_text()
    assert ("nats" in html) == (detector in ("kde", "ocsvm", "mixture"))
    assert "  above" not in out


def test_all_rows_are_written_as_csv(run, sheet, tmp_path):
    code, out, _ = run("anomalies", sheet, "--all", "--out", "o.csv", "--quiet")

    assert (code, out) == (0, "")
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 122


def test_a_table_of_normal_rows_is_the_reference(run, sheet, tmp_path):
    lines = SPREADSHEET.splitlines()
    (tmp_path / "new.csv").write_text("\n".join([lines[0], lines[-1], *lines[5:8]]), encoding="utf-8")
    (tmp_path / "old.csv").write_text("\n".join(lines[:-1]), encoding="utf-8")

    code, out, _ = run("anomalies", "new.csv", "--normal", "old.csv")

    assert code == 0
    assert "1 row above the threshold (exceeded by about 1 % of normal rows" in out
    assert "Learnt from 120 normal rows" in out


BAD = {
    "no such file": (["anomalies", "no.csv"], "no.csv: no such file"),
    "a directory": (["anomalies", "."], "is a directory"),
    "empty": (["anomalies", "empty.csv"], "empty.csv is empty"),
    "broken parquet": (["anomalies", "broken.parquet"], "broken.parquet cannot be read"),
    "ragged": (["anomalies", "ragged.csv"], "5 lines do not have 2 cells as the others"),
    "pickled table": (["anomalies", "model.pkl"], "reading one can run code"),
    "too few rows": (["anomalies", "few.csv"], "2 rows are too few to learn what is normal"),
    "constant": (["anomalies", "constant.csv"], "no column can be used: a (ignored: constant (1))"),
    "infinite": (["anomalies", "infinite.parquet"], "column 'a' is inf in row 1"),
    "no such column": (["anomalies", "orders.csv", "--ignore", "Colour"], "no column 'Colour' in the data"),
    "named twice": (
        ["anomalies", "orders.csv", "--id", "Amount", "--ignore", "Amount"],
        "'Amount' is named twice",
    ),
    "detector": (["anomalies", "orders.csv", "--detector", "forest"], "choose from ensemble, kde, ocsvm, lof"),
    "output exists": (
        ["anomalies", "orders.csv", "--out", "orders.csv"],
        "orders.csv is one of the files that are read: choose another name",
    ),
    "output place": (["anomalies", "orders.csv", "--out", "no/o.csv"], "is not a directory: make it first"),
    "output ending": (["anomalies", "orders.csv", "--report", "r.pdf"], "must end in .html"),
    "normal differs": (
        ["anomalies", "orders.csv", "--normal", "few.csv"],
        "few.csv has other columns than the data",
    ),
    "pickle": (["explain", "model.pkl", "numbers.csv"], "loading a pickle runs whatever code it holds"),
    "pickle in disguise": (
        ["explain", "model.skops", "numbers.csv"],
        "loading a pickle runs whatever code it holds",
    ),
    "no model": (["explain", "orders.csv", "numbers.csv"], "is not a model saved with skops"),
    "planted": (
        ["explain", "planted.skops", "numbers.csv"],
        "types that are not known to be safe: posix.system",
    ),
    "other columns": (["explain", "good.skops", "orders.csv"], "the columns differ from those at fit time"),
    "one column more": (["explain", "good.skops", "more.csv"], "leave them out with --ignore 'note', or name the rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_line_and_exit_code_2_and_nothing_written(case, run, sheet, tmp_path):
    import skops.io

    files = {
        "empty.csv": b"", "broken.parquet": b"PAR1 and nothing", "ragged.csv": b"a,b\n" + b"1,2\n" * 30 + b"3\n" * 5,
        "few.csv": b"a\n1\n2\n", "constant.csv": b"a\n" + b"1\n" * 20,
        "numbers.csv": b"a,b\n" + b"1,2\n3,5\n" * 10, "more.csv": b"a,b,note\n" + b"1,2,x\n3,5,y\n" * 10,
        "model.pkl": pickle.dumps({"a": 1}), "model.skops": pickle.dumps({"a": 1}),
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    pq.write_table(pa.table({"a": [float("inf"), 1.0, 2.0] * 10}), tmp_path / "infinite.parquet")
    frame = __import__("pandas").DataFrame({"a": [1.0, 3.0, 4.0], "b": [2.0, 5.0, 9.0]})
    model = KernelDensity().fit(frame)
    skops.io.dump(model, tmp_path / "good.skops")
    model.planted_ = __import__("os").system
    skops.io.dump(model, tmp_path / "planted.skops")
    before = sorted(p.name for p in tmp_path.iterdir())
    arguments, said = BAD[case]

    code, out, err = run(*arguments)

    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("backlight: ")
    assert err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert sheet.read_text(encoding="utf-8-sig") == SPREADSHEET


def test_an_interrupted_run_writes_nothing(run, sheet, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("backlight.anomaly.workflow.study", interrupted)
    code, _, err = run("anomalies", sheet, "--out", "o.csv", "--report", "r.html")

    assert code == 130
    assert "interrupted; nothing was written" in err
    assert [p.name for p in tmp_path.iterdir()] == ["orders.csv"]


@pytest.mark.parametrize("estimator", [OneClassSVM(nu=0.1), KernelDensity(bandwidth=0.5)], ids=["ocsvm", "kde"])
def test_a_users_own_model_is_explained(estimator, run, tmp_path):
    import pandas as pd
    import skops.io

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(100, 2)), columns=["a", "b"])
    skops.io.dump(make_pipeline(StandardScaler(), estimator).fit(frame), tmp_path / "model.skops")
    frame.loc[7, "b"] = 9
    frame.insert(0, "name", [f"n{i}" for i in range(100)])
    frame.to_csv(tmp_path / "rows.csv", index=False)
    normal = frame.drop(index=7)
    normal.to_parquet(tmp_path / "normal.parquet")

    code, out, err = run(
        "explain",
        "model.skops",
        "rows.csv",
        "--id",
        "name",
        "--normal",
        "normal.parquet",
        "--report",
        "r.html",
        "--out",
        "o.csv",
    )

    assert (code, err) == (0, "")
    assert next(line for line in out.splitlines() if line.startswith("n")).split()[:1] == ["n7"]
    assert "b 9 ↑" in out
    assert (tmp_path / "o.csv").read_text().splitlines()[1].startswith("8,")
    assert "n7" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_types_that_the_user_trusts_are_loaded(tmp_path):
    import skops.io

    from backlight.classical.files import load_model
    from backlight.errors import UntrustedModelError

    model = KernelDensity().fit([[1.0], [2.0]])
    model.extra_ = json.JSONDecoder
    skops.io.dump(model, tmp_path / "m.skops")
    with pytest.raises(UntrustedModelError, match=r"--trust json\.decoder\.JSONDecoder"):
        load_model(tmp_path / "m.skops")
    assert load_model(tmp_path / "m.skops", ["json.decoder.JSONDecoder"]).extra_ is json.JSONDecoder


def test_the_same_command_writes_the_same_bytes(run, sheet, tmp_path):
    run("anomalies", sheet, "--out", "a.parquet", "--report", "a.html", "--seed", 3)
    first = [(tmp_path / name).read_bytes() for name in ("a.parquet", "a.html")]
    run("anomalies", sheet, "--out", "a.parquet", "--report", "a.html", "--seed", 3, "--force")
    second = [(tmp_path / name).read_bytes() for name in ("a.parquet", "a.html")]

    assert first[0] == second[0]
    assert first[1].replace(b" --force", b"") == second[1].replace(b" --force", b"")


def test_the_demo_runs_as_the_readme_says(tmp_path):
    out = subprocess.run(
        [sys.executable, "-m", "backlight", "demo"], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert "wine" in out.stdout
    assert out.stderr == ""
    names = sorted(p.name for p in (tmp_path / "backlight-demo").iterdir())
    assert names == ["normal-wines.csv", "reasons.parquet", "report.html", "wines.csv"]
    assert 50_000 < (tmp_path / "backlight-demo" / "report.html").stat().st_size < 400_000


def test_without_the_extra_the_command_says_how_to_install_it():
    code = "import sys; sys.modules['typer'] = None; from backlight.cli import main"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert out.returncode == 1
    assert out.stderr.strip() == "backlight's command line needs typer: pip install 'backlight[cli]'"


def test_the_version_is_told(run):
    assert run("--version") == (0, "backlight 0.1.0\n", "")
