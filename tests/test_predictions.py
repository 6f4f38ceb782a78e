"""backlight explain on clusterings, classifiers and regressions, as a person uses it: real files, a real browser."""

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR
from typer.testing import CliRunner

import backlight
from backlight.cli import app
from tests.conftest import shared

runner = CliRunner()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    data = load_wine(as_frame=True)
    frame = data.data.rename(columns={"od280/od315_of_diluted_wines": "<b>od280</b>"})
    names = np.array(["Barolo", "Grignolino", "Barbera"])[data.target]
    frame.insert(0, "bottle", [f"b{i}" for i in range(len(frame))])
    frame.to_csv(tmp_path / "wine.csv", index=False)
    X = frame.drop(columns="bottle")
    for name, model, y in (
        ("kmeans", KMeans(3, n_init=3, random_state=0), None),
        ("mixture", GaussianMixture(2, covariance_type="diag", random_state=0), None),
        ("svc", SVC(), names),
        ("svr", SVR(), X["alcohol"]),
        ("lof", LocalOutlierFactor(novelty=True), None),
        ("mlp", MLPClassifier((6,), solver="lbfgs", max_iter=2000, random_state=0), names),
    ):
        skops.io.dump(make_pipeline(StandardScaler(), model).fit(X, y), tmp_path / f"{name}.skops")
    skops.io.dump(RandomForestClassifier(5, random_state=0).fit(X, names), tmp_path / "forest.skops")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments, code=0):
    result = runner.invoke(app, ["explain", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_clusters_are_told_with_what_makes_them(folder):
    said = run("kmeans.skops", "wine.csv", "--id", "bottle", "--out", "why.csv", "--top", "4")

    assert "KMeans (3 clusters), 178 rows" in said
    assert "The closest calls" in said
    written = pd.read_csv("why.csv")
    parts = [c for c in written if c.startswith("relevance of ")]
    assert len(parts) == 13
    assert np.abs(written.score - written.base - written[parts].sum(axis=1)).max() < 1e-9
    model = skops.io.load("kmeans.skops", trusted=skops.io.get_untrusted_types(file="kmeans.skops"))
    X = pd.read_csv("wine.csv").drop(columns="bottle")
    assert (written.output == [f"cluster {c}" for c in model.predict(X)]).all()
    closest = written.row[written.score.argsort()[:4]]
    assert [name in said for name in closest] == [True] * 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["svc.skops"], "SVC (rbf kernel"), (["svc.skops", "--target", "Barbera"], "pair_sum of Barbera"),
        (["svc.skops", "--score", "pairs", "--target", "0"], "Barbera against Barolo"),
        (["svr.skops"], "The largest scores"), (["mixture.skops", "--score", "assignment"], "component 1"),
        (["mlp.skops"], "multilayer perceptron"), (["mlp.skops", "--rules", "epsilon"], "epsilon"),
        (["forest.skops", "--trust", "sklearn.tree._tree.Tree"], "RandomForestClassifier (5 trees)"),
        (["lof.skops"], "above the threshold"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")  # of what shap imports
def test_every_kind_of_model_is_explained(folder, arguments, said):
    assert said in run(*arguments, "wine.csv", "--id", "bottle", "--report", "r.html")
    html = (folder / "r.html").read_text()
    assert "<b>od280</b>" not in html
    assert "&lt;b&gt;od280&lt;/b&gt;" in html
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["svc.skops", "--target", "Chianti"], "'Chianti' is not an output"),
        (["svc.skops", "--score", "logit"], "choose from 'pair_sum', 'pairs'"),
        (["svc.skops", "--rules", "stable"], "'signed', 'midpoint', 'gi', 'hybrid'"),
        (["svc.skops", "--normal", "wine.csv"], "--normal is for anomaly detectors"),
        (["lof.skops", "--target", "1"], "--rules and --target are for classifiers"),
        (["forest.skops"], "not known to be safe"),
    ],
)
def test_bad_options_end_in_one_clear_line(folder, arguments, said):
    output = run(*arguments, "wine.csv", "--id", "bottle", code=2)
    assert said in output.replace("\n", " ")
    assert "Traceback" not in output


def test_the_report_opens_offline_and_its_rows_unfold_by_keyboard(folder, browser):
    from selenium.webdriver.common.keys import Keys

    run("kmeans.skops", "wine.csv", "--id", "bottle", "--report", "r.html", "--top", "5")
    browser.get((folder / "r.html").as_uri())

    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    rows = browser.find_elements("css selector", "details.row")
    assert len(rows) == 5
    summary = rows[0].find_element("css selector", "summary")
    table = rows[0].find_element("css selector", "table")
    assert not table.is_displayed()
    summary.send_keys(Keys.ENTER)
    assert table.is_displayed()
    cells = [row.text for row in table.find_elements("css selector", "tbody tr")]
    assert cells[-1].startswith("score")
    assert len(browser.find_elements("css selector", ".group")) == 3
    browser.set_window_size(500, 900)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 500


@pytest.mark.parametrize("name", ["wheat_seeds", "penguins", "new_thyroid"])
def test_what_makes_a_cluster_is_where_it_differs(name):
    """On real named data the leading column of each k-means cluster separates it from the rest of the rows."""
    z = np.load(shared("clustering_named") / f"{name}.npz", allow_pickle=True)
    X = z["X"].astype(float)
    model = make_pipeline(StandardScaler(), KMeans(len(z["class_names"]), n_init=5, random_state=0)).fit(X)
    Z = model[0].transform(X)
    ex = backlight.explain(model, X)
    for c in range(model[-1].n_clusters):
        mine = ex.annotations["target"] == c
        first = ex.values[mine].mean(0).argmax()
        gaps = np.abs(Z[mine].mean(0) - Z[~mine].mean(0))
        assert gaps[first] >= np.median(gaps)
