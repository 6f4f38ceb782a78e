"""Names from data in every report, opened in a real browser: none runs, none makes an element."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import backlight
from backlight.anomaly.workflow import find_anomalies
from backlight.report.anomaly import write_anomaly_report
from backlight.report.audit import write_audit_report
from backlight.report.evaluation import write_evaluation_report
from backlight.report.predictions import write_prediction_report
from backlight.report.prototypes import write_prototype_report
from backlight.tables import as_frame
from tests.networks import mlp

RAN = "<script>window.ran=1</script>"
NAMES = [
    RAN, '"><img src=x onerror="window.ran=1">', "'><svg onload='window.ran=1'>", f"</title>{RAN}", f"</style>{RAN}",
    "javascript:window.ran=1", "{{ 7 * 7 }}{% raw %}", f"&lt;b&gt;{RAN}", "\u202egnp.exe", "a\x07b\x1b[31mred\x9b1m",
    f"-->{RAN}", f"]]>{RAN}", "' onmouseover='window.ran=1",
]  # fmt: skip
FACTS = {"title": NAMES[3] + "\udcff", "provenance": {NAMES[1]: NAMES[0], "command": NAMES[10]}}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    wine = load_wine()
    X = pd.DataFrame(wine.data, columns=NAMES)
    y = np.array([NAMES[0], NAMES[1], NAMES[8]])[wine.target]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    ex = backlight.explain(model, X)
    labels = np.array([NAMES[i % len(NAMES)] for i in range(len(X))])
    write_prediction_report(ex, folder / "predictions.html", labels=labels, **FACTS)
    write_prototype_report(backlight.prototype(model, data=X), folder / "prototypes.html", labels=list(labels), **FACTS)
    table = X.assign(**{"kind <b id='made'>": labels})
    write_anomaly_report(
        find_anomalies(as_frame(table), top=8, check=False), folder / "anomalies.html", source=NAMES[1], **FACTS
    )
    judged = backlight.evaluate(model, X[:20], {NAMES[1]: ex.values[:20], NAMES[0]: -ex.values[:20]})
    write_evaluation_report(judged, folder / "evaluation.html", **FACTS)
    net = mlp().double()
    audited = backlight.audit(net, np.random.default_rng(0).normal(size=(6, 20)), rewrites=["rescale units"])
    write_audit_report(audited, folder / "audit.html", **FACTS)
    return sorted(folder.iterdir())


def test_no_name_from_data_runs_or_makes_an_element(pages, browser):
    assert len(pages) == 5
    for page in pages:
        browser.get(page.as_uri())
        browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == [], page.name
        assert browser.execute_script("return window.ran === undefined"), page.name
        made = "img[src=x], [onerror], [onload], [onmouseover], #made, a[href^='javascript']"
        assert browser.execute_script(f"return document.querySelectorAll({made!r}).length") == 0, page.name
        assert "49" not in browser.title
        text = page.read_text(encoding="utf-8")
        assert not any(control in text for control in "\x07\x1b\x9b\x00"), page.name
