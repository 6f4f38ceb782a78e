"""backlight prototype as a person uses it: real files, pictures, a real browser."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import backlight
from backlight import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models and tables: wines, digits as pictures."""
    at = tmp_path_factory.mktemp("prototypes")
    wine = load_wine(as_frame=True)
    names = wine.target_names[wine.target]
    wine.data.assign(variety=names).to_csv(at / "wine.csv", index=False)
    skops.io.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(wine.data, names), at / "linear.skops")
    perceptron = MLPClassifier((8,), max_iter=3000, tol=1e-3, random_state=0)
    skops.io.dump(make_pipeline(StandardScaler(), perceptron).fit(wine.data, names), at / "net.skops")
    skops.io.dump(
        make_pipeline(StandardScaler(), KMeans(3, n_init=2, random_state=0)).fit(wine.data), at / "clusters.skops"
    )
    skops.io.dump(DecisionTreeClassifier(max_depth=3, random_state=0).fit(wine.data, names), at / "tree.skops")
    X, y = load_digits(return_X_y=True)
    (at / "digits").mkdir()
    for i in range(120):
        Image.fromarray((X[i].reshape(8, 8) * 255 / 16).astype(np.uint8)).save(at / "digits" / f"{i:03d}.png")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(128, 10),
    )
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    images, labels = torch.as_tensor(X / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.as_tensor(y)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    torch.export.save(
        torch.export.export(net.eval(), (images[:2],), dynamic_shapes=({0: torch.export.Dim.AUTO},)), at / "digits.pt2"
    )
    (at / "names.json").write_text(json.dumps([f"digit {k}" for k in range(10)]))
    return at


@pytest.fixture
def run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["backlight", "prototype", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as error:
            code = error.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_classes_of_a_pipeline_with_the_columns_that_moved(run, folder):
    code, out, err = run("linear.skops", "wine.csv", "--out", "linear.csv", "--force")
    assert code == 0, err
    assert "class_0" in out
    assert "exact" in out
    assert "proline" in out
    table = pd.read_csv(folder / "linear.csv")
    wine = load_wine(as_frame=True)
    model = skops.io.load(folder / "linear.skops", trusted=[])
    assert list(model.predict(table[list(wine.data.columns)])) == list(table["target"])
    assert (table[list(wine.data.columns)] <= wine.data.max() + 1e-9).all().all()


def test_the_smallest_change_of_a_row(run):
    code, out, err = run("net.skops", "wine.csv", "--near", 1, "--target", "class_1", "--fix", "alcohol")
    assert code == 0, err
    assert "class_1" in out
    assert "alcohol 1" not in out
    code, _, err = run("net.skops", "wine.csv", "--near", 1)
    assert code == 2
    assert "--target" in err


def test_rules_and_whole_numbers(run, folder):
    code, _, err = run(
        "net.skops", "wine.csv", "--rule", "malic_acid <= flavanoids", "--rule", "ash >= 2.5", "--integer", "proline,magnesium",
        "--target", "class_0", "--out", "ruled.parquet", "--force", "-q",
    )  # fmt: skip
    assert code == 0, err
    row = pd.read_parquet(folder / "ruled.parquet").iloc[0]
    assert row["malic_acid"] <= row["flavanoids"] + 1e-9
    assert row["ash"] >= 2.5 - 1e-9
    assert row["proline"] == round(row["proline"])


def test_clusters_and_trees(run):
    code, out, _ = run("clusters.skops", "wine.csv", "--prior", "mixture", "--restarts", 2)
    assert code == 0
    assert "cluster 2" in out
    code, out, err = run("tree.skops", "wine.csv", "--trust", "sklearn.tree._tree.Tree")
    assert code == 0, err
    assert "leaves" in out


def test_what_was_found_is_saved_and_made_again(run, folder):
    code, _, err = run("linear.skops", "wine.csv", "--out", "found.safetensors", "--force", "-q")
    assert code == 0, err
    p = backlight.Prototypes.load(folder / "found.safetensors")
    again = p.replay(backlight.neuralize(skops.io.load(folder / "linear.skops", trusted=[])))
    assert np.array_equal(again.x, p.x)


def test_pictures_of_an_image_classifier(run, folder):
    code, out, err = run(
        "digits.pt2", "digits/*.png", "--preprocess", "grey", "--size", 8, "--target", "digit 3", "--target", 5, "--classes",
        "names.json", "--out", "digits.png", "--report", "digits.html", "--force",
    )  # fmt: skip
    assert code == 0, err
    assert out.count("digit 3") == 2
    with Image.open(folder / "digits.png") as picture:
        assert picture.size[0] > 200
    page = (folder / "digits.html").read_text()
    assert page.count('class="proto"') == 2
    assert "http" not in page.replace("http-equiv", "")
    code, out, err = run(
        "digits.pt2", "digits/00*.png", "--preprocess", "grey", "--size", 8, "--target", 3, "--steps", 15, "--restarts", 2, "-q",
        "--out", "waves.png", "--force",
    )  # fmt: skip
    assert code == 0, err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["linear.skops", "wine.csv", "--target", "class_9"], "not an output"),
        (["linear.skops", "wine.csv", "--prior", "flat"], "--prior 'flat'"),
        (["linear.skops", "wine.csv", "--bounds", "1;2"], "--bounds '1;2'"),
        (["linear.skops", "wine.csv", "--rule", "ash"], "must compare"),
        (["linear.skops", "wine.csv", "--rule", "ash <= rust"], "'rust' is not a column"),
        (["linear.skops", "wine.csv", "--fix", "ash=much"], "no number"),
        (["linear.skops", "wine.csv", "--shape", "wide"], "--shape"),
        (["linear.skops", "wine.csv", "--out", "x.txt"], "x.txt"),
        (["linear.skops", "wine.csv", "--near", "999", "--target", "class_0"], "178 rows"),
        (["digits.pt2", "digits/000.png", "--near", "1"], "--near is for tables"),
        (["digits.pt2", "digits/000.png", "--preprocess", "grey", "--size", "8", "--target", "three"], "no position"),
        (["none.skops", "wine.csv"], "none.skops"),
    ],
)
def test_bad_input_is_one_clear_line(run, arguments, said):
    code, _, err = run(*arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_the_report_opens_offline_and_unfolds_by_keyboard(run, folder, browser):
    from selenium.webdriver.common.keys import Keys

    code, _, err = run("net.skops", "wine.csv", "--report", "net.html", "--force", "-q")
    assert code == 0, err
    browser.get((folder / "net.html").as_uri())
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert len(browser.find_elements("css selector", "article.group")) == 3
    known = browser.find_element("css selector", "article.group details")
    known.find_element("css selector", "summary").send_keys(Keys.ENTER)
    assert known.get_attribute("open") is not None
    assert "optima" in known.text
    browser.set_window_size(500, 900)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 500
    browser.set_window_size(1400, 1000)


def test_names_cannot_write_into_the_report(folder, tmp_path):
    from backlight.report.prototypes import write_prototype_report

    wine = load_wine(as_frame=True)
    data = wine.data.rename(columns={"ash": "<script>alert(1)</script>"})
    model = LogisticRegression(solver="newton-cholesky").fit(data, np.array(["<b>a</b>", "b", "c"])[wine.target])
    p = backlight.prototype(model, data=data)
    write_prototype_report(p, tmp_path / "p.html", title="<i>t</i>", provenance={"<u>": "<u>"})
    page = (tmp_path / "p.html").read_text()
    for bad in ("<script>", "<b>a</b>", "<i>t", "<u>"):
        assert bad not in page


def test_a_table_with_categories_gets_an_answer_in_its_own_columns(run, folder):
    from sklearn.compose import make_column_transformer
    from sklearn.preprocessing import OneHotEncoder

    rng = np.random.default_rng(0)
    orders = pd.DataFrame({"amount": rng.gamma(2, 100, 200).round(2), "country": rng.choice(["de", "fr", "us"], 200)})
    refused = np.where(orders.amount + 150 * (orders.country == "us") > 300, "refused", "paid")
    columns = make_column_transformer((StandardScaler(), ["amount"]), (OneHotEncoder(), ["country"]))
    model = make_pipeline(columns, LogisticRegression()).fit(orders, refused)
    skops.io.dump(model, folder / "shop.skops")
    orders.to_csv(folder / "orders.csv", index=False)
    row = int(np.flatnonzero(model.predict(orders) == "refused")[0])
    asked = ["shop.skops", "orders.csv", "--near", row + 1, "--target", "paid"]
    code, _, err = run(*asked, "--out", "answer.csv", "--report", "answer.html")
    assert code == 0, err
    assert model.predict(pd.read_csv(folder / "answer.csv")[["amount", "country"]])[0] == "paid"
    code, _, err = run(*asked, "--fix", "country", "--out", "kept.csv")
    assert code == 0, err
    assert pd.read_csv(folder / "kept.csv").country[0] == orders.country[row]
    code, _, err = run("shop.skops", "orders.csv", "--prior", "mixture")
    assert code == 2
    assert "the table holds categories" in err
    code, out, err = run("shop.skops", "orders.csv")
    assert code == 0, err
    assert "exact" in out


@pytest.mark.parametrize("command", ["prototype", "explain"])
def test_a_model_without_a_network_is_named_by_its_class(folder, monkeypatch, capsys, command):
    from sklearn.ensemble import AdaBoostRegressor

    X = load_wine(as_frame=True).data.iloc[:40, :3]
    X.to_csv(folder / "X.csv", index=False)
    skops.io.dump(AdaBoostRegressor(n_estimators=3, random_state=0).fit(X, X.alcohol), folder / "none.skops")
    asked = ["backlight", command, folder / "none.skops", folder / "X.csv", "--trust", "sklearn.tree._tree.Tree"]
    monkeypatch.setattr(sys, "argv", [*map(str, asked)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code not in (0, None)
    said = capsys.readouterr().err
    assert said.startswith("backlight: AdaBoostRegressor")
    assert len(said.strip().splitlines()) == 1
