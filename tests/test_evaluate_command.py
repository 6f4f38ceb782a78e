"""``backlight evaluate`` as a person uses it: real files, a terminal's text, a page in a browser."""

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import backlight

runner_of = pytest.importorskip("typer.testing").CliRunner
from backlight import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import skops.io

    at = tmp_path_factory.mktemp("evaluate")
    wine = load_wine(as_frame=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(wine.data, wine.target)
    skops.io.dump(model, at / "model.skops")
    wine.data[:60].to_csv(at / "wine.csv", index=False)
    backlight.explain(model, wine.data[:60]).save(at / "saved.parquet")
    np.save(at / "noise.npy", np.random.default_rng(0).normal(size=(60, 13)))
    return at


def run(*arguments):
    return runner_of().invoke(cli.app, ["evaluate", *map(str, arguments)])


def test_saved_explanations_and_methods_are_judged_together(folder, tmp_path):
    out, report = tmp_path / "e.csv", tmp_path / "e.html"
    result = run(
        folder / "model.skops", folder / "wine.csv", "--explanation", folder / "saved.parquet",
        "--explanation", folder / "noise.npy", "--methods", "lrp,random", "--out", out, "--report", report,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for name in ("saved", "noise", "lrp", "random"):
        assert name in result.output
    assert "cannot be told apart" in result.output  # saved is lrp
    lines = out.read_text().splitlines()
    assert lines[0].startswith('"metric"')
    assert len(lines) == 1 + 5 * 4
    page = report.read_text()
    assert "not beaten" in page
    assert "<script" not in page


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--methods", "nothing"], "nothing"),
        (["--metric", "nothing"], "metric 'nothing' is not known"),
        (["--reference", "sky"], "reference='sky'"),
        (["--explanation", "missing.npy"], "missing.npy is not there"),
        (["--out", "e.txt"], "e.txt"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(folder, options, said):
    result = run(folder / "model.skops", folder / "wine.csv", *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_report_reads_on_a_wide_and_a_narrow_screen(folder, tmp_path, browser):
    report = tmp_path / "e.html"
    assert run(folder / "model.skops", folder / "wine.csv", "--report", report, "--quiet").exit_code == 0
    for width in (1400, 500):
        browser.set_window_size(width, 900)
        browser.get(report.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.find_element("css selector", "h1").text == "Which explanation of model.skops is faithful?"
    assert len(browser.find_elements("css selector", "figure svg")) == 2
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
