"""From a table to explained anomalies: what a study promises."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import roc_auc_score

from backlight.anomaly.bands import bands_of, standard_scores
from backlight.anomaly.detector import DETECTORS, fit_detector, prepare
from backlight.anomaly.workflow import anchor_positions, explain_table, find_anomalies
from backlight.classical import neuralize
from backlight.demo import mixed_up_wines
from backlight.errors import ArgumentError, DataError
from backlight.tables import as_frame


def sensors(n=300, faults=6, seed=0):
    """Two modes of operation; faults put one column of one mode into the other."""
    rng = np.random.default_rng(seed)
    mode = rng.integers(0, 2, n)
    X = np.stack([mode * 8 + rng.normal(size=n) for _ in range(5)], 1)
    rows = np.arange(faults) * 7
    truth = rng.integers(0, 5, faults)
    X[rows, truth] = 8 - X[rows, truth]
    table = pa.table(
        {
            "id": [f"s{i}" for i in range(n)],
            **{f"p{j}": X[:, j] for j in range(5)},
            "unit": rng.choice(["a", "b"], n),
        }
    )
    return as_frame(table), rows, truth


@pytest.mark.parametrize("detector", DETECTORS)
def test_faults_that_no_single_column_shows_are_found_and_named(detector):
    frame, rows, truth = sensors()

    study = find_anomalies(frame, detector=detector, top=6).study

    assert sorted(study.rows) == rows.tolist()
    for i, position in enumerate(study.rows):
        assert study.explanation[i].top(1)[0][0][0] == f"p{truth[rows.tolist().index(position)]}"
    z = study.z_scores.argmax(1) == [truth[rows.tolist().index(position)] for position in study.rows]
    assert z.mean() < 0.7


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_score_is_the_sum_of_its_parts_and_the_order_is_by_score(detector):
    study = find_anomalies(sensors()[0], detector=detector, top=None).study
    ex = study.explanation

    assert np.abs(ex.residual).max() <= 1e-9 * np.abs(ex.values).sum(1).max()
    assert np.allclose(ex.output, study.excess[study.rows], atol=1e-9)
    assert (np.diff(study.excess[study.rows]) <= 0).all()
    assert len(study.rows) == 300


def test_a_density_scores_a_fitted_row_exactly_as_if_it_had_not_been_fitted():
    """Refit without the row: the same score and the same relevance."""
    frame = sensors(n=40)[0]
    data, _ = prepare(frame)
    rows = data.coded
    estimator, network = fit_detector(rows, data, "kde")
    z, last = estimator[:-1].transform(rows), estimator[-1]
    own = np.arange(len(rows))
    scores = network.score_without_self(torch.as_tensor(rows), own)

    for i in range(0, 40, 7):
        refit = type(last)(bandwidth=last.bandwidth).fit(np.delete(z, i, axis=0))
        assert np.allclose(scores[i], neuralize(refit)(z[i : i + 1]).item(), rtol=1e-10)


@pytest.mark.parametrize("detector", ["kde", "ocsvm", "lof", "knn"])
def test_which_anchor_a_fitted_row_became_is_known(detector):
    data, _ = prepare(sensors(n=60)[0])
    estimator, network = fit_detector(data.coded, data, detector)

    assert np.array_equal(anchor_positions(estimator, network, 60), network.self_index(torch.as_tensor(data.coded)))


def test_the_alarm_line_comes_from_normal_rows_alone():
    frame, rows, _ = sensors()
    clean = frame.take(np.setdiff1d(np.arange(300), rows))
    found = find_anomalies(frame, normal=clean, alarm_rate=0.05)

    flagged = found.study.flagged
    assert flagged[rows].all()
    assert flagged.mean() < 0.15


def test_p_values_are_small_for_the_planted_column():
    frame, rows, truth = sensors()
    clean = frame.take(np.setdiff1d(np.arange(300), rows))
    study = find_anomalies(frame.take(rows), normal=clean, top=None).study

    for i, position in enumerate(study.rows):
        assert study.p_values[i, truth[position]] == study.p_values[i].min() == 1 / (study.calibration_rows + 1)


def test_repairs_bring_the_row_below_the_line_and_name_the_fault():
    frame, rows, truth = sensors()
    study = find_anomalies(frame, top=6, alarm_rate=0.05).study

    for i, position in enumerate(study.rows):
        repair = study.repairs[i]
        assert repair.excess_after <= 0
        assert repair.columns[0] == truth[rows.tolist().index(position)]


def test_groups_gather_rows_of_one_cause():
    frame, rows, truth = sensors(faults=30)
    study = find_anomalies(frame, top=30, alarm_rate=0.3).study

    assert len(study.groups) <= 8
    for group in study.groups[:3]:
        causes = [truth[rows.tolist().index(study.rows[m])] for m in group.members if study.rows[m] in rows]
        assert np.mean(np.array(causes) == np.bincount(causes).argmax()) > 0.8


def test_the_trust_check_beats_the_z_score_where_there_are_several_modes():
    trust = find_anomalies(sensors(faults=30)[0], top=30).study.trust

    assert trust.beats("z-score") is True
    assert trust.beats("random") is True


def test_the_demo_shows_what_a_z_score_cannot_see():
    wines = mixed_up_wines(0)
    frame = as_frame(wines.batch, wines.names)
    study = find_anomalies(frame, normal=as_frame(wines.normal, wines.names), top=None).study
    truth = np.isin(np.arange(60), list(wines.faults))
    z = standard_scores(wines.batch, wines.normal, np.zeros(13, dtype=bool)).max(1)

    assert roc_auc_score(truth, study.excess) >= 0.85
    assert roc_auc_score(truth, z) <= 0.75
    low, high = np.quantile(wines.normal, [0.05, 0.95], axis=0)
    for row, names in wines.faults.items():
        for name in names:
            j = wines.names.index(name)
            assert low[j] <= wines.batch[row, j] <= high[j]


def test_the_same_seed_gives_the_same_study_and_another_one_another_split():
    frame = sensors()[0]
    a, b, c = (find_anomalies(frame, seed=s).study for s in (0, 0, 1))

    assert np.array_equal(a.excess, b.excess)
    assert np.array_equal(a.explanation.values, b.explanation.values)
    assert not np.array_equal(a.excess, c.excess)


def test_a_category_that_normal_rows_do_not_have_is_a_reason():
    rng = np.random.default_rng(0)
    normal = as_frame(pa.table({"kind": rng.choice(["a", "b"], 200), "x": rng.normal(size=200)}))
    new = as_frame(pa.table({"kind": ["a", "c"], "x": [0.1, 0.1]}))

    study = find_anomalies(new, normal=normal).study

    assert study.rows[0] == 1
    assert study.explanation[0].top(1)[0][0][0] == "kind"
    assert study.bands[0].side(study.coded[0, 0]) == "rare"


def test_a_column_that_only_the_table_varies_in_is_not_overlooked():
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    normal = as_frame(pa.table({"x": x, "errors": [0] * 200, "state": ["ok"] * 200, "site": ["A"] * 200}))
    new = as_frame(
        pa.table({"x": [0.0, 0.0, 0.0], "errors": [0, 9, 0], "state": ["ok", "ok", "dead"], "site": ["A"] * 3})
    )

    found = find_anomalies(new, normal=normal)

    assert {c.name: c.kind for c in found.columns} == {
        "x": "number",
        "errors": "number",
        "state": "category",
        "site": "ignored",
    }
    assert [c.why for c in found.columns][1:] == [
        "constant (0) in the normal rows, but not here", "constant (ok) in the normal rows, but not here", "constant (A)",
    ]  # fmt: skip
    first = {int(row): found.study.explanation[i].top(1)[0][0][0] for i, row in enumerate(found.study.rows)}
    assert first[1] == "errors"
    assert first[2] == "state"


def test_too_little_to_learn_from_is_refused():
    with pytest.raises(DataError, match="9 rows are too few to learn what is normal: give at least 10"):
        find_anomalies(sensors(n=9, faults=1)[0])
    with pytest.raises(DataError, match=r"no column can be used: a \(ignored: constant \(1\)\)"):
        find_anomalies(as_frame(pa.table({"a": [1.0] * 20})))
    with pytest.raises(ArgumentError, match="detector 'svm' is not known: choose from kde, ocsvm, lof, knn"):
        find_anomalies(sensors()[0], detector="svm")
    with pytest.raises(ArgumentError, match="between 0 and 1, not 2"):
        find_anomalies(sensors()[0], alarm_rate=2)


def test_a_users_own_model_is_explained_with_its_own_alarm_line():
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import OneClassSVM

    frame = sensors()[0].select([f"p{j}" for j in range(5)])
    model = make_pipeline(StandardScaler(), OneClassSVM(nu=0.1)).fit(frame.matrix())

    found = explain_table(neuralize(model), frame)

    decision = model.decision_function(frame.matrix())
    clear = np.abs(decision) > 1e-6
    own = neuralize(model).self_index(frame.matrix()) >= 0
    # a support vector is scored as if it had not been one, so only the others must agree in sign
    assert ((found.study.excess > 0) == (decision < 0))[clear & ~own].all()
    assert found.study.p_values is None
    with_normal = explain_table(neuralize(model), frame, normal=frame)
    assert with_normal.study.p_values.shape == (20, 5)


def test_what_a_users_pca_discards_is_said():
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KernelDensity
    from sklearn.pipeline import make_pipeline

    frame = sensors()[0].select([f"p{j}" for j in range(5)])
    model = make_pipeline(PCA(2), KernelDensity()).fit(frame.matrix())

    found = explain_table(neuralize(model), frame)

    assert any(note.startswith("The model's PCA discards") for note in found.notes)


def test_bands_and_standard_scores_are_those_of_normal_rows():
    normal = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 1.0], [np.nan, 0.0]])
    bands = bands_of(normal, ["x", "c"], {"c": ["u", "v", "w"]})

    assert bands[0].median == 2
    assert [bands[0].side(v) for v in (0.0, 2.0, 9.0, np.nan)] == ["below", "inside", "above", "missing"]
    assert bands[1].normal == "u 75 %, v 25 %"
    assert [bands[1].side(v) for v in (0.0, 2.0)] == ["usual", "rare"]
    z = standard_scores(np.array([[3.0, 0.0], [np.nan, 2.0]]), normal, np.array([False, True]))
    assert np.allclose(z[0, 0], 1 / np.std([1, 2, 3]))
    assert z[1, 1] > z[0, 1]
