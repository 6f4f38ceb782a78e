"""PyOD's detectors on the command line: their scores on encoded rows, and their own thresholds."""

import contextlib
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine

import backlight
from backlight.anomaly.workflow import find_anomalies
from backlight.cli import main
from backlight.tables import as_frame

pytest.importorskip("pyod")
pytestmark = pytest.mark.filterwarnings("ignore")  # of what the library warns

TABLE = pd.DataFrame(load_wine().data[:, :5], columns=list("abcde")).assign(kind=np.where(np.arange(178) % 3, "u", "v"))
TABLE.loc[5, "c"] = 99.0
TABLE.loc[9, "a"] = np.nan


@pytest.mark.parametrize("name", ["ABOD", "CBLOF", "ECOD", "IForest", "KNN", "LOF", "OCSVM", "Sampling", "knn"])
def test_a_detector_judges_a_table_that_nobody_prepared(name):
    found = find_anomalies(as_frame(TABLE), detector=f"pyod:{name}", check=False)
    study = found.study
    assert study.threshold.value == found.detector.network.threshold
    assert "own" in study.threshold.note
    assert np.abs(study.explanation.residual).max() <= 1e-9 * max(1, np.abs(study.explanation.values).max())
    assert study.flagged.sum() <= 0.25 * len(TABLE)
    if name in ("KNN", "LOF", "knn"):
        assert study.rows[0] == 5
        assert study.explanation.feature_names[study.explanation.values[0].argmax()] == "c"


def test_a_rate_that_is_asked_for_counts_instead_of_the_threshold():
    own = find_anomalies(as_frame(TABLE), detector="pyod:KNN", check=False).study
    asked = find_anomalies(as_frame(TABLE), detector="pyod:KNN", check=False, alarm_rate=0.02).study
    assert asked.threshold.value > own.threshold.value
    assert "own" not in asked.threshold.note


def test_the_command_line_takes_them_and_says_what_it_does_not_know(tmp_path, capsys, monkeypatch):
    sheet = tmp_path / "wine.csv"
    TABLE.to_csv(sheet, index=False)
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "backlight",
            "anomalies",
            str(sheet),
            "--detector",
            "pyod:ECOD",
            "--no-check",
            "--quiet",
            "--out",
            str(tmp_path / "o.csv"),
        ],
    )
    with contextlib.suppress(SystemExit):
        main()
    assert (tmp_path / "o.csv").exists()
    for name, said in (
        ("pyod:INNE", "is not known: after pyod: choose from"),
        ("nothing", "or pyod:NAME"),
        ("pyod:MAD", "cannot be fitted"),
    ):
        with pytest.raises(backlight.errors.BacklightError, match=said):
            find_anomalies(as_frame(TABLE), detector=name, check=False)
    capsys.readouterr()
