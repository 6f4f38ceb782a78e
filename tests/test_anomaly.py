"""From a table to explained anomalies: what a study promises."""

import importlib
import itertools
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.stats import genpareto
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.svm import OneClassSVM

from backlight.anomaly import selfcheck
from backlight.anomaly.bands import bands_of, standard_scores
from backlight.anomaly.changes import fewest_changes
from backlight.anomaly.detectors import DETECTORS, MEMBERS, Reference, kde, ocsvm
from backlight.anomaly.detectors.correlation import _widened
from backlight.anomaly.encoding import fit_encoder
from backlight.anomaly.fitting import fit_detector
from backlight.anomaly.prepared import prepare
from backlight.anomaly.reference import usual_rows
from backlight.anomaly.selfcheck import _dependent
from backlight.anomaly.study import _scores
from backlight.anomaly.tail import fit_tail
from backlight.anomaly.workflow import explain_table, find_anomalies, moment_text
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

    study = find_anomalies(frame, detector=detector, top=6, check=False).study

    assert sorted(study.rows) == rows.tolist()
    for i, position in enumerate(study.rows):
        assert study.explanation[i].top(1)[0][0][0] == f"p{truth[rows.tolist().index(position)]}"
    z = study.z_scores.argmax(1) == [truth[rows.tolist().index(position)] for position in study.rows]
    assert z.mean() < 0.7


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_score_is_the_sum_of_its_parts_and_the_order_is_by_score(detector):
    study = find_anomalies(sensors()[0], detector=detector, top=None, check=False).study
    ex = study.explanation

    assert np.abs(ex.residual).max() <= 1e-9 * np.abs(ex.values).sum(1).max()
    assert np.allclose(ex.output, study.excess[study.rows], atol=1e-9)
    assert (np.diff(study.excess[study.rows]) <= 0).all()
    assert len(study.rows) == 300


def reference_of(X, names="abcdef"):
    encoder = fit_encoder(X, X, list(names[: X.shape[1]]), {}, np.zeros(X.shape[1], dtype=bool))
    return Reference(encoder, encoder(X))


def test_a_density_scores_a_fitted_row_exactly_as_if_it_had_not_been_fitted():
    """Refit without the row: the same score and the same relevance."""
    frame = sensors(n=40)[0]
    data, _ = prepare(frame)
    fitted = fit_detector(data.coded, data, "kde", trim=False)
    z = fitted.encoder(data.coded)
    scores = fitted.detector.score(data.coded, np.arange(40))
    bandwidth = 1.4 * 40 ** (-1 / (z.shape[1] + 4))

    for i in range(0, 40, 7):
        refit = KernelDensity(bandwidth=bandwidth).fit(np.delete(z, i, axis=0))
        assert np.allclose(scores[i], neuralize(refit)(z[i : i + 1]).item(), rtol=1e-10)


@pytest.mark.parametrize("detector", ["kde", "ocsvm", "lof", "knn"])
def test_which_anchor_a_fitted_row_became_is_known(detector):
    data, _ = prepare(sensors(n=60)[0])
    fitted = fit_detector(data.coded, data, detector, trim=False)
    z = torch.as_tensor(fitted.encoder(data.coded))

    assert np.array_equal(fitted.detector.anchors, fitted.detector.network.self_index(z))


@pytest.mark.parametrize("member", ["density", "correlation", "marginal"])
def test_a_member_judges_a_reference_row_as_if_it_had_not_learnt_from_it(member):
    """Fit again without the row, in the same coordinates: the same score and the same evidence."""
    rng = np.random.default_rng(1)
    reference = reference_of(rng.normal(size=(30, 4)) @ rng.normal(size=(4, 4)))
    whole = MEMBERS[member].fit(reference)
    scores, evidence = (f(reference.z, np.arange(30)) for f in (whole.score, whole.evidence))

    for i in range(0, 30, 6):
        without = Reference(reference.encoder, np.delete(reference.z, i, axis=0))
        row, nobody = reference.z[i : i + 1], np.array([-1])
        if member == "correlation":  # by its definition, with the shrinkage of all rows
            z, m = without.z, 30
            floor = whole.whole[0]
            mu_share = floor / (np.square(reference.z - reference.z.mean(0)).sum() / m / 4)
            P = np.linalg.inv((1 - mu_share) * np.cov(z.T, bias=True) + floor * np.eye(4))
            delta = row[0] - z.mean(0)
            assert np.allclose(scores[i], delta @ P @ delta, rtol=1e-9)
            assert np.allclose(evidence[i], (P @ delta) ** 2 / np.diag(P), rtol=1e-9)
        elif member == "density":
            h2 = (1.4 * 30 ** (-1 / 8)) ** 2
            distance = np.square(row - without.z)
            assert np.allclose(scores[i], -np.log(np.exp(-distance.sum(1) / (2 * h2)).sum()), rtol=1e-9)
            for j in range(4):
                rest = np.delete(distance, j, axis=1).sum(1)
                conditional = np.log(np.exp(-rest / (2 * h2)).sum()) + scores[i]
                assert np.allclose(evidence[i, j], conditional, rtol=1e-9)
        else:  # the bandwidth is that of all rows; the grid of the curves is fine to a few thousandths
            for j, curve in enumerate(whole.curves):
                kernels = np.exp(-np.square(row[0, j] - without.z[:, j]) / (2 * curve.h**2)).sum()
                assert np.allclose(evidence[i, j], max(np.log(curve.most / kernels), 0), atol=2e-2)
            assert np.isfinite(whole.score(row, nobody)).all()


def test_the_local_member_is_the_local_outlier_factor_of_scikit_learn():
    rng = np.random.default_rng(2)
    reference = reference_of(rng.normal(size=(80, 3)))
    rows = rng.normal(size=(25, 3)) * 2
    theirs = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(reference.z)
    member = MEMBERS["local"].fit(reference)

    assert np.allclose(member.score(rows, np.full(25, -1)), -theirs.score_samples(rows), rtol=1e-7)
    evidence = member.evidence(rows, np.full(25, -1))
    lof = neuralize(theirs, score="outlierness")
    relevance = lof.relevance(torch.as_tensor(rows), lof.rule("auto"), own=np.full(25, -1)).values
    assert np.allclose(evidence / evidence.sum(1, keepdims=True), relevance / relevance.sum(1, keepdims=True))


@pytest.mark.parametrize("member", MEMBERS)
def test_evidence_is_never_negative_and_points_at_the_only_odd_column(member):
    rng = np.random.default_rng(2)
    reference = reference_of(rng.normal(size=(80, 4)))
    row = np.array([[0.1, 0.0, 9.0, -0.1]])
    evidence = MEMBERS[member].fit(reference).evidence(row, np.array([-1]))

    assert (evidence >= 0).all()
    assert evidence[0].argmax() == 2


def test_surprise_is_counted_below_and_fitted_above():
    """An exponential tail: the quantiles are known."""
    scores = np.random.default_rng(0).exponential(size=4000)
    tail = fit_tail(scores)

    assert abs(tail.quantile(0.01) - np.log(100)) < 0.35
    assert np.allclose(tail.probability(np.array([0.5])), np.mean(scores >= 0.5), atol=1e-3)
    assert np.allclose(tail.probability(np.array([tail.quantile(0.001)])), 0.001, rtol=1e-6)
    bits = tail.bits(np.sort(np.r_[scores[:500], 20.0, 200.0]))
    assert (np.diff(bits) >= -1e-9).all()
    low, high = tail.interval(0.01)
    assert low < np.log(100) < high


@pytest.mark.parametrize("least", [-1.0, 0.05])
@pytest.mark.parametrize(("seed", "shape"), [(0, -0.25), (1, 0.0), (2, 0.4)])
def test_the_tail_is_the_most_likely_of_its_grid(seed, shape, least):
    """Against genpareto of SciPy, one pair (σ, ξ) after the other: censored above 95 %, and ξ near −0.1 preferred."""
    scores = 3 + genpareto.rvs(shape, size=120, random_state=seed)

    tail = fit_tail(scores, least)

    start, last = np.quantile(scores, [0.8, 0.95], method="lower")
    above = scores[scores > start] - start
    seen, beyond = above[above <= last - start], (above > last - start).sum()

    def likelihood(scale, xi):
        known = genpareto.logpdf(seen, xi, scale=scale).sum()
        return known + beyond * genpareto.logsf(last - start, xi, scale=scale) - abs(xi + 0.1) / 0.2

    best = max(
        likelihood(scale * seen.mean(), xi)
        for scale in np.exp(np.linspace(-2.5, 2, 46))
        for xi in [k / 20 if k else 1e-9 for k in range(-6, 11)]
        if xi >= least
    )
    assert tail.start == start
    assert tail.share == pytest.approx(len(above) / 120)
    assert tail.shape >= least
    assert likelihood(tail.scale, tail.shape) == pytest.approx(best, abs=1e-6)
    # bits and quantiles are those of this distribution, and each undoes the other
    for rate in (tail.share / 3, 1e-3, 1e-5):
        score = tail.quantile(rate)
        assert score == pytest.approx(start + genpareto.isf(rate / tail.share, tail.shape, scale=tail.scale), rel=1e-6)
        assert tail.bits(np.array([score]))[0] == pytest.approx(-np.log2(rate), rel=1e-6)


@pytest.mark.parametrize("size", [1, 40])
@pytest.mark.parametrize("member", MEMBERS)
def test_no_member_of_the_ensemble_depends_on_the_size_of_its_blocks(member, size, monkeypatch):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(70, 3))

    def judged():
        reference = reference_of(X)
        fitted = MEMBERS[member].fit(reference)
        rows = np.r_[reference.z, reference.z[:20] * 2]
        own = np.r_[np.arange(70), np.full(20, -1)]
        return fitted.score(rows, own), fitted.evidence(rows, own)

    whole = judged()
    for room in ("reference", "detectors.density", "detectors.ensemble", "detectors.local", "detectors.marginal"):
        room = importlib.import_module(f"backlight.anomaly.{room}")
        for name in ("_CHUNK", "_CHUNK_ENTRIES"):
            if hasattr(room, name):
                monkeypatch.setattr(room, name, size)
    for found, expected in zip(judged(), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("count", [1, 3, 12])
def test_a_few_anomalies_do_not_move_the_threshold_much(count):
    scores = np.random.default_rng(1).exponential(size=400)
    spoilt = scores.copy()
    spoilt[:count] = 1e6

    clean = fit_tail(scores).quantile(0.01)
    assert clean - 1 < fit_tail(spoilt).quantile(0.01) < 2.5 * clean


@pytest.mark.parametrize("n", [60, 150, 400])
@pytest.mark.parametrize("detector", ["ensemble", "kde", "lof"])
def test_one_glaring_row_is_above_the_threshold_for_every_seed(n, detector):
    X = np.random.default_rng(0).normal(size=(n, 4))
    X[20, 1] = 30.0

    for seed in range(3):
        study = find_anomalies(as_frame(X), detector=detector, seed=seed, top=2, check=False).study
        assert study.rows[0] == 20
        assert study.excess[20] > 0


# one component is left out where columns are independent: it sees one direction, not the faulty column
@pytest.mark.parametrize("detector", sorted(set(DETECTORS) - {"pca"}))
def test_two_similar_anomalies_do_not_vouch_for_each_other(detector):
    X = np.random.default_rng(0).normal(size=(600, 6))
    X[[100, 300], 0] = 40.0, 40.3

    study = find_anomalies(as_frame(X, list("abcdef")), detector=detector, top=2, check=False).study

    assert set(study.rows) == {100, 300}
    for values in study.explanation.values:
        assert values[0] >= (0.9 if detector == "ensemble" else 0.85) * np.clip(values, 0, None).sum()


@pytest.mark.parametrize("name", ["gauss", "heavy", "lognormal", "two modes", "counts"])
def test_clean_rows_are_flagged_about_as_often_as_stated(name):
    def rows(rng, n):
        if name == "heavy":
            return rng.standard_t(3, size=(n, 5))
        if name == "lognormal":
            return np.exp(rng.normal(size=(n, 5)))
        if name == "counts":
            return rng.poisson(1.0, size=(n, 5)).astype(float)
        return rng.normal(size=(n, 5)) + (6 * rng.integers(0, 2, (n, 1)) if name == "two modes" else 0)

    own, new, small = [], [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        table, others = as_frame(rows(rng, 300)), as_frame(rows(rng, 400))
        own.append(find_anomalies(table, alarm_rate=0.02, check=False, top=1).study.flagged.mean())
        study = find_anomalies(others, normal=table, alarm_rate=0.02, check=False, top=None).study
        new.append(study.flagged.mean())
        small.append((study.p_values <= 0.05).mean())

    assert 0.01 <= np.mean(own) <= 0.04
    assert 0.01 <= np.mean(new) <= 0.04
    assert 0.02 <= np.mean(small) <= 0.07


def test_detectors_agree_on_a_glaring_cell_and_the_shares_are_theirs():
    X = np.random.default_rng(0).normal(size=(200, 4))
    X[7, 2] = 25.0
    study = find_anomalies(as_frame(X), top=3, check=False).study

    assert study.members == ("density", "local", "correlation", "marginal")
    assert study.named[0].tolist() == [0, 0, 4, 0]
    assert (study.explanation.values >= 0).all()


def test_the_alarm_line_comes_from_normal_rows_alone():
    frame, rows, _ = sensors()
    clean = frame.take(np.setdiff1d(np.arange(300), rows))
    found = find_anomalies(frame, normal=clean, alarm_rate=0.05, check=False)

    flagged = found.study.flagged
    assert flagged[rows].all()
    assert flagged.mean() < 0.15


def test_p_values_are_small_for_the_planted_column():
    frame, rows, truth = sensors()
    clean = frame.take(np.setdiff1d(np.arange(300), rows))
    study = find_anomalies(frame.take(rows), normal=clean, top=None, check=False).study

    for i, position in enumerate(study.rows):
        assert study.p_values[i, truth[position]] == study.p_values[i].min() == 1 / (study.calibration_rows + 1)


def test_the_fewest_changes_bring_the_row_to_the_threshold_and_name_the_fault():
    frame, rows, truth = sensors()
    study = find_anomalies(frame, top=6, alarm_rate=0.05, check=False).study

    for i, position in enumerate(study.rows):
        change = study.changes[i]
        assert change.excess_after <= 0
        assert change.columns == (truth[rows.tolist().index(position)],)


def test_kinds_gather_rows_of_one_cause():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 5))
    rows, truth = np.arange(24) * 7, np.repeat([0, 2, 4], 8)
    X[rows, truth] = 9 + rng.normal(size=24)
    study = find_anomalies(as_frame(X, list("abcde")), alarm_rate=0.03, check=False).study

    leading = {kind.name: kind for kind in study.kinds[:3]}
    assert set(leading) == {"a ↑", "c ↑", "e ↑"}
    for kind in leading.values():
        causes = [truth[rows.tolist().index(m)] for m in kind.members if m in rows]
        assert len(causes) == 8
        assert len(set(causes)) == 1
    assert sum(len(kind.members) for kind in study.kinds) == study.grouped == study.flagged.sum()


def test_the_removal_check_beats_chance():
    removal = find_anomalies(sensors(faults=12)[0], top=12, check=False).study.removal

    assert removal.beats("random") is True


def test_planted_faults_say_how_often_the_reasons_are_right():
    """Columns that depend on each other give swapped values away, which a z-score cannot see."""
    checks = {c.fault.name: c for c in find_anomalies(sensors(n=200, faults=0)[0], top=1).study.checks}

    assert set(checks) == {"spike", "group", "swap", "shift"}
    assert checks["spike"].reasons.mean > 0.9
    assert checks["swap"].difference.low > 0
    for check in checks.values():
        assert check.chance < check.reasons.low


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


def test_the_seed_decides_which_rows_of_a_large_table_are_learnt_from():
    frame = sensors(n=2100)[0]
    a, b, c = (find_anomalies(frame, seed=s, top=5, check=False).study for s in (0, 0, 1))

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


@pytest.mark.parametrize("trim", [True, False])
def test_planted_faults_are_learnt_from_only_where_what_is_odd_is_left_out_again(trim, monkeypatch):
    data, _ = prepare(sensors(n=80, faults=0)[0])
    learnt = []

    def recorded(X, *arguments, **options):
        learnt.append(len(X))
        return fit_detector(X, *arguments, **options)

    monkeypatch.setattr(selfcheck, "fit_detector", recorded)
    checks = selfcheck.check_reasons(data.coded, data, "kde", trim=trim, seed=0, progress=lambda *_: None)

    assert checks
    assert (min(learnt) == 80) == trim
    if not trim:
        assert [k for k in learnt if k < 80] == [80 - 6] * (len(learnt) // 2)


@pytest.mark.parametrize(("n", "d"), [(50, 2), (400, 9)])
def test_the_boundary_and_the_density_have_the_same_kernel(n, d):
    h = 1.4 * n ** (-1 / (d + 4))

    assert kde._kde(n, d).bandwidth == pytest.approx(h, rel=1e-12)
    assert ocsvm._ocsvm(n, d).gamma == pytest.approx(1 / (2 * h**2), rel=1e-12)


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_a_single_row_with_no_finite_score_is_named(score):
    table = SimpleNamespace(coded=np.zeros((5, 2)), own=np.full(5, -1))
    judge = SimpleNamespace(score=lambda z, own: np.where(np.arange(len(z)) == 3, score, 1.0))

    with pytest.raises(DataError, match="row 4 has no finite score"):
        _scores(judge, table, lambda *_: None)


@pytest.mark.parametrize(("size", "left"), [(4, 0), (5, 3), (6, 3), (15, 8)])
def test_half_of_a_rare_level_counts_as_usual_and_a_handful_of_rows_is_no_level(size, left):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(100, 3))
    z[:size] += 30  # what is rare is odd too
    level = np.zeros((100, 1))
    level[:size] = 1

    kept = usual_rows(z, level, trimmed=0.2)

    assert (kept < size).sum() == left
    assert len(kept) == 80 + left
    assert len(usual_rows(z, np.arange(100.0)[:, None], trimmed=0.2)) == 80


def test_columns_are_dependent_where_two_ranks_go_together():
    rng = np.random.default_rng(0)
    free = rng.normal(size=(200, 3))
    tied, turned, constant = (np.c_[free, extra] for extra in (np.exp(free[:, 1]), -(free[:, 2] ** 3), np.ones(200)))
    numbers, one_category = np.zeros(4, dtype=bool), np.array([False, False, False, True])

    assert not _dependent(free, numbers[:3])
    assert not _dependent(constant, numbers)
    assert not _dependent(tied, one_category)
    assert not _dependent(free[:, :1], numbers[:1])
    assert _dependent(tied, numbers)
    assert _dependent(turned, numbers)
    with_gaps = tied.copy()
    with_gaps[::50, 0] = np.nan
    assert _dependent(with_gaps, numbers)


def test_too_little_to_learn_from_is_refused():
    with pytest.raises(DataError, match="9 rows are too few to learn what is normal: give at least 10"):
        find_anomalies(sensors(n=9, faults=1)[0])
    with pytest.raises(DataError, match=r"no column can be used: a \(ignored: constant \(1\)\)"):
        find_anomalies(as_frame(pa.table({"a": [1.0] * 20})))
    with pytest.raises(ArgumentError, match="detector 'svm' is not known: choose from ensemble, kde, ocsvm, lof, knn"):
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
    # one row in twenty is usual, one in twenty-one is not
    edge = [bands_of(np.eye(n)[:, :1], ["c"], {"c": ["u", "v"]})[0] for n in (20, 21)]
    assert [band.side(1.0) for band in edge] == ["usual", "rare"]
    assert [edge[0].side(v) for v in (0.0, 2.0, -1.0)] == ["usual", "rare", "rare"]
    z = standard_scores(np.array([[3.0, 0.0], [np.nan, 2.0]]), normal, np.array([False, True]))
    assert np.allclose(z[0, 0], 1 / np.std([1, 2, 3]))
    assert z[1, 1] > z[0, 1]


def test_changes_that_turn_out_not_to_be_needed_are_taken_back():
    """Cells of 4, 3, 2 that may be replaced by .5 or by 0, and a sum that may be 5.4: the first alone does not do.

    By contribution 2 is tried together with the others; what is left at the end is enough, and no cell of it is spare.
    """
    row = np.array([4.0, 3.0, 2.0, 0.0])

    def propose(row, columns):
        out = np.repeat(row[None], 2, axis=0)
        out[:, columns] = np.array([[0.5], [0.0]])
        return out

    for limit in (8.5, 5.4, 2.4, 0.4):
        change = fewest_changes(row, np.array([1.0, 2.0, 5.0, 0.0]), propose, lambda rows: rows.sum(1) - limit)  # noqa: B023
        best = next(
            size
            for size in range(4)
            if any(row.sum() - sum(row[list(pick)]) <= limit for pick in itertools.combinations(range(4), size))
        )
        assert len(change.columns) == best
        new = row.copy()
        new[list(change.columns)] = change.cells
        assert change.excess_after == pytest.approx(new.sum() - limit)
        assert new.sum() <= limit


def test_a_spare_change_is_dropped_with_its_own_column():
    """Alone neither column does, both do; once a third is changed, one of the first two is spare: the score is a table."""
    row = np.ones(3)
    scores = {(): 4.0, (0,): 1.0, (1,): 2.0, (2,): 3.0, (0, 1): 0.5, (0, 2): 0.7, (1, 2): -1.0, (0, 1, 2): -2.0}

    def propose(row, columns):
        out = np.repeat(row[None], 2, axis=0)
        out[0, columns] = 0
        return out

    def excess(rows):
        return np.array([scores[tuple(int(j) for j in np.flatnonzero(one == 0))] for one in rows])

    change = fewest_changes(row, np.array([3.0, 2.0, 1.0]), propose, excess)
    assert change.columns == (1, 2)
    assert change.excess_after == -1.0


def test_a_spare_change_is_dropped_wherever_it_stands():
    """0, 1, 2, 3 are taken in this order; then 1 is spare: the score is a table of what is changed."""
    scores = {(0,): 2.5, (0, 1): 2.0, (0, 1, 2): 1.0, (0, 1, 3): 1.5, (0, 1, 2, 3): -2.0, (0, 2, 3): -1.0}

    def propose(row, columns):
        out = np.repeat(row[None], 2, axis=0)
        out[0, columns] = 0
        return out

    def excess(rows):
        return np.array([scores.get(tuple(int(j) for j in np.flatnonzero(one == 0)), 3.0) for one in rows])

    change = fewest_changes(np.ones(4), np.array([4.0, 3.0, 2.0, 1.0]), propose, excess)
    assert change.columns == (0, 2, 3)
    assert change.excess_after == -1.0


def test_coordinates_that_hardly_vary_are_widened_to_a_tenth_and_others_left():
    """Variances are max(v, 1/10): two rows at ± a for a coordinate, their squares over the rows that there were."""
    rng = np.random.default_rng(0)
    centred = rng.standard_normal((50, 3)) * [1.0, 0.01, 0.2]
    centred -= centred.mean(0)
    after = _widened(centred)
    np.testing.assert_allclose(np.square(after).sum(0) / 50, np.maximum(np.square(centred).mean(0), 0.1), rtol=1e-12)
    np.testing.assert_allclose(after.mean(0), 0, atol=1e-12)
    np.testing.assert_array_equal(after[:50], centred)


def test_moments_and_numbers_that_order_rows_are_written_for_people():
    said = {
        np.datetime64("2020-01-31T00:00:00.000000"): "2020-01-31",
        np.datetime64("2020-01-31T05:30:00.000000"): "2020-01-31 05:30:00",
        3.0: "3", 2.5: "2.5", 7: "7",
    }  # fmt: skip
    assert {value: moment_text(value) for value in said} == said


@pytest.mark.parametrize("inside", [9, 10, 11])
def test_ranges_come_from_rows_below_the_threshold_where_there_are_ten(inside):
    """Rows near and far from a machine's data: fewer than ten near ones say too little, and all rows are taken."""
    rng = np.random.default_rng(0)
    model = OneClassSVM(nu=0.1, gamma=0.3).fit(rng.standard_normal((200, 2)))
    table = np.concatenate([0.05 * rng.standard_normal((inside, 2)), 6 + 0.05 * rng.standard_normal((20, 2))])
    assert (model.decision_function(table) > 0).sum() == inside
    found = explain_table(neuralize(model), as_frame(table))
    said = (
        f"from the {inside} rows of this table below"
        if inside >= 10
        else f"from the {inside + 20} rows of this table (all"
    )
    assert any(said in note for note in found.notes)
