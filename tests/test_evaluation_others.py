"""Metrics that ask for another model, another target, other rows or masks: each against its definition in a loop."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KernelDensity

import backlight
from backlight import metrics
from backlight._evaluate.metrics.randomisation import cascade
from backlight.errors import ArgumentError

localisation, planted_truth = metrics.localisation, metrics.planted_truth
FAULTS = sorted(metrics.FAULTS)


def evaluated(model, X, explanations, *asked, **options):
    return backlight.evaluate(model, X, explanations, metrics=list(asked), **{"reference": "zero", **options})


@pytest.fixture
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).double().eval()


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(24, 6))


@pytest.mark.parametrize("units", [None, 2])
def test_localisation_is_counted_unit_by_unit(units):
    rng = np.random.default_rng(1)
    X, R = rng.normal(size=(6, 3, 4, 4)), rng.normal(size=(6, 3, 4, 4))
    masks = rng.random((6, 4, 4)) < 0.4
    masks[0] = False
    found = evaluated(
        lambda x: x.sum((1, 2, 3)), X, {"r": R}, "relevance_mass", "relevance_rank", "pointing", masks=masks,
        units=units or "pixel",
    ).scores  # fmt: skip
    side = units or 1
    for i in range(6):
        unit, inside = [], []
        for a in range(0, 4, side):
            for b in range(0, 4, side):
                unit.append(R[i, :, a : a + side, b : b + side].sum())
                inside.append(masks[i, a : a + side, b : b + side].mean() >= 0.5)
        unit, inside = np.array(unit), np.array(inside)
        positive = unit * (unit > 0)
        np.testing.assert_allclose(found["relevance_mass"][0, i], positive[inside].sum() / positive.sum(), rtol=1e-12)
        if inside.any():
            first = np.argsort(-unit)[: inside.sum()]
            assert abs(found["relevance_rank"][0, i] - inside[first].mean()) < 1e-12
            assert found["pointing"][0, i] == inside[unit.argmax()]
        else:
            assert np.isnan(found["relevance_rank"][0, i])
            assert np.isnan(found["pointing"][0, i])


def test_model_randomisation_is_the_mean_rank_correlation_of_three_stages(net, X):
    def by(model, rows):
        return backlight.explain(model, rows, 1, method="gradient_x_input").values

    found = evaluated(net, X, {"g": by}, "model_randomisation", target=1).scores["model_randomisation"][0]
    own = np.abs(by(net, X))
    others = [np.abs(by(copy, X)) for copy in cascade(net, 3, 0)]
    expected = [np.mean([spearmanr(own[i], other[i])[0] for other in others]) for i in range(len(X))]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["network", "classical"])
def test_class_randomisation_is_the_rank_correlation_with_another_output(kind, net, X):
    model = net if kind == "network" else RidgeClassifier().fit(X, np.arange(24) % 4)
    count = 4
    own = net(torch.as_tensor(X)).argmax(1).numpy() if kind == "network" else model.decision_function(X).argmax(1)
    found = evaluated(model, X, ["gradient_x_input"] if kind == "network" else ["lrp"], "class_randomisation", seed=3)
    other = (own + np.random.default_rng(3).integers(1, count, 24)) % count
    assert (other != own).all()
    method = found.methods[0]
    R = [backlight.explain(model, X, t, method=method).values for t in (own, other)]
    expected = [spearmanr(R[0][i], R[1][i])[0] for i in range(24)]
    np.testing.assert_allclose(found.scores["class_randomisation"][0], expected, atol=1e-12)


def test_a_function_with_a_target_of_its_own_is_asked_for_another_output(net, X):
    def blind(rows, target=None):
        return rows

    def reads(model, rows, target=None):
        return backlight.explain(model, rows, target, method="gradient").values

    found = evaluated(net, X, {"blind": blind, "reads": reads, "ready": X}, "class_randomisation")
    np.testing.assert_allclose(found.scores["class_randomisation"][0], 1, atol=1e-12)
    assert found.scores["class_randomisation"][1].mean() < 0.5
    assert np.isnan(found.scores["class_randomisation"][2]).all()
    assert "needs a method by name or a function with a target=" in found.notes[0]


def test_label_randomisation_fits_the_model_to_permuted_labels():
    X, y = load_wine(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    model = LogisticRegression().fit(X, y)
    before = model.coef_.copy()
    found = evaluated(model, X, ["lrp"], metrics.METRICS["label_randomisation"](draws=1), labels=y, seed=2)
    other = LogisticRegression().fit(X, np.random.default_rng(2).permutation(y))
    R = [np.abs(backlight.explain(m, X).values) for m in (model, other)]
    expected = [spearmanr(a, b)[0] for a, b in zip(*R, strict=True)]
    np.testing.assert_allclose(found.scores["label_randomisation"][0], expected, atol=1e-10)
    assert (model.coef_ == before).all()
    assert np.isnan(evaluated(model, X, ["lrp"], "label_randomisation").scores["label_randomisation"]).all()


def squares(rows):
    return (rows**2).sum(1)


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("measure", ["hit", "among", "auc"])
def test_planted_truth_is_planting_and_looking(kind, measure, X):
    metric = metrics.METRICS[f"planted_{kind}"](measure=measure)
    found = evaluated(squares, X, {"r": lambda rows: rows**2, "ready": X}, metric, seed=4)
    got = found.scores[metric.name][0]
    planted = metrics.plant(X, kind, count=24, seed=4)
    expected = np.full(24, np.nan)
    for i, row in enumerate(planted.rows):
        R, faulty = planted.X[row] ** 2, planted.truth[i]
        if measure == "hit":
            expected[row] = faulty[R.argmax()]
        elif measure == "among":
            expected[row] = faulty[np.argsort(-R)[: faulty.sum()]].mean()
        else:
            expected[row] = np.mean([a > b for a in R[faulty] for b in R[~faulty]])
    np.testing.assert_allclose(got, expected, atol=1e-12)
    assert np.isnan(found.scores[metric.name][1]).all()
    assert "instead of ready values" in found.notes[0]


def test_an_oracle_names_every_spike_and_chance_names_one_in_d(X):
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(600, 6))
    median = np.median(wide, 0)
    found = evaluated(
        squares, wide, {"oracle": lambda rows: np.abs(rows - median), "chance": lambda rows: rng.random(rows.shape)},
        "planted_spike",
    )  # fmt: skip
    assert found.interval("planted_spike", "oracle").mean > 0.99
    # 600 rows, one in six: within four standard errors
    assert abs(found.interval("planted_spike", "chance").mean - 1 / 6) < 4 * np.sqrt(5 / 36 / 600)


def test_faults_that_share_a_value_hide_from_a_detector_that_is_fitted_to_them():
    X = load_breast_cancer().data[:200, :8]
    X = (X - X.mean(0)) / X.std(0)
    model = KernelDensity(bandwidth=0.8).fit(X)
    kept = X.copy()
    Group = metrics.METRICS["planted_group"]
    found = evaluated(model, X, ["lrp"], Group(refit=True, draws=3), reference="marginal", seed=1)
    expected = []
    for draw in range(3):
        planted = metrics.plant(X, "group", seed=1 + draw)
        R = backlight.explain(KernelDensity(bandwidth=0.8).fit(planted.X), planted.X[planted.rows]).values
        expected += [faulty[r.argmax()] for faulty, r in zip(planted.truth, R, strict=True)]
    got = found.scores["planted_group"][0]
    assert np.isfinite(got).sum() <= len(expected)
    fixed = evaluated(model, X, ["lrp"], "planted_group", reference="marginal", seed=1).scores["planted_group"]
    assert np.nanmean(got) < 0.7 < fixed.mean()
    assert abs(np.nanmean(got) - np.mean(expected)) < 0.1  # rows with two faults count once
    assert (kept == X).all()
    assert (np.asarray(model.tree_.data) == X).all()


def test_frames_of_numbers_are_changed_as_frames_and_text_is_said(X):
    frame = pd.DataFrame(X, columns=list("abcdef"))
    model = LogisticRegression().fit(frame, np.arange(24) % 3)
    found = evaluated(model, frame, ["lrp"], "max_sensitivity", "planted_spike", labels=np.arange(24) % 3)
    assert np.isfinite(found.scores["max_sensitivity"]).all()
    assert np.isfinite(found.scores["planted_spike"]).all()
    same = evaluated(LogisticRegression().fit(X, np.arange(24) % 3), X, ["lrp"], "max_sensitivity")
    np.testing.assert_allclose(found.scores["max_sensitivity"], same.scores["max_sensitivity"], rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": np.arange(3)}, "labels have the shape (3,), and there are 24 rows"),
        ({"asked": lambda: metrics.METRICS["planted_spike"](measure="precision")}, "measure='precision' is not known"),
    ],
)
def test_what_is_wrong_is_said(options, said, X):
    with pytest.raises(ArgumentError) as caught:
        evaluated(squares, X, {"r": X}, options.pop("asked", lambda: "srg")(), **options)
    assert said in str(caught.value)


def test_chance_can_be_asked_for_everything_and_scores_as_chance_does(net, X):
    asked = ["model_randomisation", "class_randomisation", "planted_spike"]
    found = evaluated(net, np.repeat(X, 25, 0), ["random"], *asked)
    # correlations of 6 ranks have the variance 1/5: of 600 rows the mean lies within five standard errors
    assert abs(found.scores["class_randomisation"].mean()) < 5 / np.sqrt(5 * 600)
    assert abs(found.scores["model_randomisation"].mean()) < 5 / np.sqrt(5 * 600)
    assert abs(found.scores["planted_spike"].mean() - 1 / 6) < 5 * np.sqrt(5 / 36 / 600)
