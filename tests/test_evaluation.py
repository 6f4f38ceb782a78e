"""The referee on functions with known answers, and laws over all metrics."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import backlight
from backlight import metrics, references
from backlight._evaluate.game import Game
from backlight._evaluate.metrics.infidelity import Infidelity
from backlight._evaluate.metrics.randomisation import cascade
from backlight._evaluate.metrics.sensitivity_n import SensitivityN
from backlight.errors import ArgumentError
from tests.conftest import same

W = np.array([3.0, -2.0, 1.0, 0.5, -0.25])
FUNCTIONS = {
    "additive": lambda x: x @ W + 2,
    "min": lambda x: x.min(1),
    "product": lambda x: x.prod(1),
    "piecewise linear": lambda x: np.maximum(x @ W, 0) - 2 * np.maximum(x[:, 0] - x[:, 1], 0.3),
}


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(30, 5)) + 0.5


def single_effects(f, X, reference=0.0):
    """How much the score loses when one feature alone is taken away."""
    out = np.empty_like(X)
    for j in range(X.shape[1]):
        changed = X.copy()
        changed[:, j] = reference
        out[:, j] = f(X) - f(changed)
    return out


def slow_curve(f, row, values, first):
    """The score of one row while features go, one by one, in the order of a ranking."""
    order = np.argsort(-values if first else values)
    current, curve = row.copy(), [f(row[None])[0]]
    for j in order:
        current[j] = 0
        curve.append(f(current[None])[0])
    return np.array(curve)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_curves_are_those_of_a_loop_over_rows_and_features(name, X):
    f = FUNCTIONS[name]
    R = np.random.default_rng(1).normal(size=X.shape)
    found = backlight.evaluate(f, X, {"some": R}, reference="zero", metrics=["srg", "deletion", "insertion", "abpc"])
    share = np.linspace(0, 1, 6)
    np.testing.assert_allclose(found.share, share)
    for i, row in enumerate(X):
        morf, lerf = (slow_curve(f, row, R[i], first) for first in (True, False))
        np.testing.assert_allclose(found.curves["some"][0][i], morf, atol=1e-12)
        np.testing.assert_allclose(found.curves["some"][1][i], lerf, atol=1e-12)
        area = [((c[1:] + c[:-1]) / 2 * 0.2).sum() for c in (morf, lerf)]
        got = {m.name: found.scores[m.name][0, i] for m in found.metrics}
        np.testing.assert_allclose(got["deletion"], area[0], atol=1e-10)
        np.testing.assert_allclose(got["insertion"], area[1], atol=1e-10)
        np.testing.assert_allclose(got["srg"], area[1] - area[0], atol=1e-10)
        np.testing.assert_allclose(got["abpc"], (lerf - morf)[1:].mean(), atol=1e-10)


def test_the_truth_of_an_additive_function_has_the_best_scores_there_are(X):
    truth = X * W
    found = backlight.evaluate(
        FUNCTIONS["additive"], X, {"truth": truth}, reference="zero",
        metrics=["srg", "infidelity", "sensitivity_n", "completeness", "effective_features", "sparseness", "complexity"],
    )  # fmt: skip
    ordered = -np.sort(-truth, 1)
    # with s(k) the sum of the k largest, MoRF(k) = f − s(k) and LeRF(k) = f − (total − s(5 − k))
    s = np.concatenate([np.zeros((30, 1)), ordered.cumsum(1)], 1)
    gap = s - (s[:, -1:] - s[:, ::-1])
    np.testing.assert_allclose(found.scores["srg"][0], ((gap[:, 1:] + gap[:, :-1]) / 2 / 5).sum(1), atol=1e-10)
    np.testing.assert_allclose(found.scores["infidelity"], 0, atol=1e-20)
    np.testing.assert_allclose(found.scores["sensitivity_n"], 1, atol=1e-10)
    np.testing.assert_allclose(found.scores["completeness"], 0, atol=1e-12)
    p = np.abs(truth) / np.abs(truth).sum(1, keepdims=True)
    np.testing.assert_allclose(found.scores["complexity"][0], -(p * np.log(p)).sum(1), atol=1e-10)
    gini = np.abs(p[:, :, None] - p[:, None]).sum((1, 2)) / (2 * 5)
    np.testing.assert_allclose(found.scores["sparseness"][0], gini, atol=1e-10)
    # no order has a larger gain: all 120 are tried on a few rows
    from itertools import permutations

    orders = np.array(list(permutations(range(5))))
    for i in range(3):
        every = backlight.evaluate(
            FUNCTIONS["additive"], np.repeat(X[i : i + 1], len(orders), 0), {"orders": -orders.argsort(1).astype(float)},
            reference="zero", metrics=["srg"],
        )  # fmt: skip
        assert every.scores["srg"].max() <= found.scores["srg"][0, i] + 1e-10


def sets_of(count):
    """All proper sets of units, each with its weight: sizes count alike."""
    found = [np.array(s, bool) for s in product([0, 1], repeat=count) if 0 < sum(s) < count]
    return found, [1 / math.comb(count, s.sum()) for s in found]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_infidelity_and_sensitivity_n_are_those_of_all_sets_written_out(name, X):
    f, R = FUNCTIONS[name], np.random.default_rng(2).normal(size=X.shape)
    found = backlight.evaluate(
        f, X, {"some": R}, reference="zero", metrics=[Infidelity(), SensitivityN(), "completeness"], seed=5
    )
    sets, weights = sets_of(5)
    for i, x in enumerate(X):
        said = np.array([R[i, s].sum() for s in sets])
        lost = np.array([f(x[None])[0] - f(np.where(s, 0, x)[None])[0] for s in sets])
        expected = (weights * (said - lost) ** 2).sum() / (weights * lost**2).sum() if lost.any() else np.nan
        np.testing.assert_allclose(found.scores["infidelity"][0, i], expected, rtol=1e-10)
        by_size = []
        for size in range(1, 5):
            of_size = [s.sum() == size for s in sets]
            if np.ptp(lost[of_size]) > 1e-12:  # sets that all cost the same have no correlation
                by_size.append(np.corrcoef(said[of_size], lost[of_size])[0, 1])
        got = found.scores["sensitivity_n"][0, i]
        assert abs(got - np.mean(by_size)) < 1e-10 if by_size else np.isnan(got)
        whole = f(x[None])[0] - f(np.zeros((1, 5)))[0]
        share = abs(whole - R[i].sum()) / (abs(whole) + np.abs(R[i]).sum())
        np.testing.assert_allclose(found.scores["completeness"][0, i], share, rtol=1e-10)


def test_scaled_infidelity_has_the_best_factor_of_each_row(X):
    f, R = FUNCTIONS["product"], np.random.default_rng(2).normal(size=X.shape)
    found = backlight.evaluate(f, X, {"some": R}, reference="zero", metrics=[Infidelity(scaled=True)])
    sets, weights = sets_of(5)
    for i, x in enumerate(X):
        said = np.array([R[i, s].sum() for s in sets])
        lost = np.array([f(x[None])[0] - f(np.where(s, 0, x)[None])[0] for s in sets])
        if not lost.any():
            continue
        root = np.sqrt(weights)
        factor = np.linalg.lstsq((root * said)[:, None], root * lost, rcond=None)[0]
        expected = (root * (factor * said - lost)) @ (root * (factor * said - lost)) / ((root * lost) @ (root * lost))
        np.testing.assert_allclose(found.scores["infidelity"][0, i], expected, rtol=1e-10)


def test_many_sets_are_drawn_few_are_all_there_are():
    game = type("Ten", (), {"units": type("U", (), {"count": 10})(), "sets": Game.sets})()
    keep, sizes = game.sets(np.array([1, 5]), 100, np.random.default_rng(0))
    assert (sizes == [1] * 10 + [5] * 100).all()
    assert (10 - keep.sum(1).numpy() == sizes).all()
    assert (~keep[:10]).numpy().sum(0).tolist() == [1] * 10
    # each of the ten is in half of the sets, within four standard errors
    assert (np.abs((~keep[10:]).numpy().mean(0) - 0.5) < 4 * 0.05).all()


def test_infidelity_is_captums_on_the_same_perturbations():
    captum = pytest.importorskip("captum.metrics")
    rng = np.random.default_rng(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).double().eval()
    X = rng.normal(size=(4, 6))
    R = rng.normal(size=(4, 6))
    found = backlight.evaluate(net, X, {"some": R}, reference="zero", metrics=[Infidelity(samples=100)])
    x = torch.as_tensor(X)
    sets, weights = sets_of(6)
    wrong = drop = 0
    for s, weight in zip(sets, weights, strict=True):
        without = torch.where(torch.as_tensor(s), 0.0, x)
        wrong += weight * captum.infidelity(
            net, lambda given, w=without: ((given - w) / given * given, w), x, torch.as_tensor(R) / x,
            n_perturb_samples=1,
        )  # fmt: skip
        drop += weight * (net(x) - net(without))[:, 0].detach() ** 2
    np.testing.assert_allclose(found.scores["infidelity"][0], (wrong / drop).detach().numpy(), rtol=1e-9)


def test_stability_is_captums_sensitivity_max_on_the_same_perturbations():
    captum = pytest.importorskip("captum.metrics")
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double().eval()
    X = np.random.default_rng(0).normal(size=(5, 4))

    def gradient(rows):
        with torch.enable_grad():
            rows = torch.as_tensor(rows).detach().clone().requires_grad_()
            return torch.autograd.grad(net(rows).sum(), rows)[0]

    found = backlight.evaluate(net, X, {"g": gradient}, metrics=["max_sensitivity"], reference="zero", seed=1)

    def shifted_by(shift):
        return lambda x: ((x[0] if isinstance(x, tuple) else x) + shift,)  # Captum gives a second parameter its radius

    rng, spread = np.random.default_rng(1), X.max(0) - X.min(0)
    worst = np.zeros(5)
    for _ in range(8):
        shift = torch.as_tensor(rng.uniform(-1, 1, X.shape) * 0.02 * spread)
        one = captum.sensitivity_max(
            lambda x: (gradient(x[0].detach() if isinstance(x, tuple) else x.detach()),), torch.as_tensor(X),
            perturb_func=shifted_by(shift), n_perturb_samples=1,
        )  # fmt: skip
        worst = np.maximum(worst, one.numpy())
    np.testing.assert_allclose(found.scores["max_sensitivity"][0], worst, rtol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("reference", ["zero", "mean", "marginal", "gaussian", "nearest"])
def test_single_effects_are_never_beaten_by_a_random_order(name, reference, X):
    f = FUNCTIONS[name]
    stand_in = references.as_reference(reference, X)
    fill = stand_in.bind(torch.as_tensor(X), lambda rows: torch.as_tensor(np.asarray(rows)), 0)
    effects = np.empty_like(X)
    for j in range(5):
        keep = torch.ones(X.shape, dtype=torch.bool)
        keep[:, j] = False
        filled = np.mean([f(fill(torch.arange(30), keep, d).numpy()) for d in range(stand_in.draws)], axis=0)
        effects[:, j] = f(X) - filled
    found = backlight.evaluate(f, X, {"effects": effects, "random": "random"}, reference=reference, metrics=[
        "srg", "deletion", "insertion", "abpc",
    ])  # fmt: skip
    for m in found.metrics:
        assert (
            found.difference(m.name, "effects", "random").mean * m.direction > -1e-12
            or not found.difference(m.name, "effects", "random").decided
        )


def every(X):
    """An argument list with which every registered metric can be asked."""
    net = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)).double().eval()
    masks = np.zeros(X.shape, bool)
    masks[:, :2] = True
    other = torch.nn.Sequential(torch.nn.Linear(5, 2)).double().eval()
    asked = [
        metrics.METRICS[name](refit=lambda X, y: other) if name == "label_randomisation" else name
        for name in sorted(metrics.METRICS)
    ]
    return net, {"reference": "mean", "metrics": asked, "masks": masks, "target": 1, "labels": np.arange(len(X))}


def test_every_metric_gives_one_number_a_row_and_leaves_model_and_random_states_alone(X):
    torch.manual_seed(0)
    net, options = every(X)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    kept = X.copy()
    found = backlight.evaluate(net, X, ["gradient_x_input", "lrp:epsilon", "random"], **options)
    for metric in found.metrics:
        scores = found.scores[metric.name]
        assert scores.shape == (3, 30)
        assert np.isfinite(scores[0]).mean() > 0.8, metric.name  # no share of the positive part where there is none
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert (kept == X).all()
    again = backlight.evaluate(net, X, ["gradient_x_input", "lrp:epsilon", "random"], **options)
    for metric in found.metrics:
        assert same(again.scores[metric.name], found.scores[metric.name])


@pytest.mark.parametrize("name", [k for k in sorted(metrics.METRICS) if metrics.METRICS[k].needs <= {"masks"}])
def test_metrics_do_not_depend_on_the_order_of_units_nor_on_a_constant(name, X):
    masks = np.zeros(X.shape, bool)
    masks[:, :2] = True
    R = np.random.default_rng(3).normal(size=X.shape)
    p = np.array([3, 0, 4, 1, 2])
    f = FUNCTIONS["piecewise linear"]
    ask = {"reference": "zero", "metrics": [name]}
    plain = backlight.evaluate(f, X, {"r": R}, masks=masks, **ask).scores[name]
    shifted = backlight.evaluate(lambda x: f(x) + 100, X, {"r": R}, masks=masks, **ask).scores[name]
    if name in ("deletion", "insertion"):
        shifted = shifted - 100  # a level, not a gain
    if name != "conservation":  # of ready values nothing is known
        np.testing.assert_allclose(shifted, plain, atol=1e-9)
    back = np.argsort(p)
    moved = backlight.evaluate(lambda x: f(x[:, back]), X[:, p], {"r": R[:, p]}, masks=masks[:, p], **ask).scores[name]
    np.testing.assert_allclose(moved, plain, atol=1e-9)


def test_model_randomisation_tells_who_reads_the_model(X):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)).double().eval()
    reads = {"gradient": lambda model, x: backlight.explain(model, x, method="gradient").values,
             "input alone": lambda model, x: np.asarray(x)}  # fmt: skip
    found = backlight.evaluate(net, X, reads, reference="zero", metrics=["model_randomisation"])
    assert same(found.scores["model_randomisation"][1], np.ones(30))
    assert found.interval("model_randomisation", "gradient").mean < 0.9
    copies = cascade(net, 2, 0)
    assert torch.equal(copies[0][0].weight, net[0].weight)
    assert not torch.equal(copies[0][2].weight, net[2].weight)
    assert torch.equal(copies[1][0].weight.flatten().sort()[0], net[0].weight.flatten().sort()[0])


def test_a_classical_model_a_table_and_the_names_of_its_columns():
    import pandas as pd

    wine = load_wine(as_frame=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(wine.data, wine.target)
    ex = backlight.explain(model, wine.data[:40])
    found = backlight.evaluate(
        model, wine.data[:40], {"lrp": ex, "random": "random", "shap's shape": ex.values},
        reference=references.Marginal(wine.data), units={"phenols": ["total_phenols", "flavanoids"]},
    )  # fmt: skip
    assert found.best("srg") == ("lrp", "shap's shape")
    assert found.difference("srg", "lrp", "random").decided
    assert found.relevance["lrp"].shape == (40, 12)
    frame = found.to_frame("pandas")
    assert isinstance(frame, pd.DataFrame)
    assert list(frame["best"][frame.metric == "srg"]) == ["tie", "", "tie"]
    assert r"\textbf" in found.latex()
    assert "<table" in found._repr_html_()
    assert found.agreement()["lrp", "shap's shape"] == (pytest.approx(1), 1)
    assert "cannot be told apart" in found.sentences()[0]


def test_categories_are_replaced_by_values_of_other_rows_alone():
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.preprocessing import OneHotEncoder

    rng = np.random.default_rng(0)
    table = pd.DataFrame({"size": rng.normal(size=60), "colour": rng.choice(["red", "blue"], 60)})
    y = (table["size"] + (table["colour"] == "red") > 0.5).astype(int)
    model = make_pipeline(
        make_column_transformer((StandardScaler(), ["size"]), (OneHotEncoder(), ["colour"])), LogisticRegression()
    ).fit(table, y)
    found = backlight.evaluate(model, table, ["lrp", "random"], metrics=["srg"])
    assert found.difference("srg", "lrp", "random").mean > 0
    with pytest.raises(ArgumentError, match="hold categories"):
        backlight.evaluate(model, table, ["lrp"], reference="zero")


def test_pictures_are_judged_by_pixels_patches_and_superpixels():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    ).double().eval()  # fmt: skip
    x = torch.rand(5, 3, 8, 8, dtype=torch.float64)
    ex = backlight.explain(net, x, 1)
    for units, count in (("auto", 64), (4, 4), (np.arange(192).reshape(3, 8, 8) // 8 % 8, 8)):
        found = backlight.evaluate(net, x, {"lrp": ex, "map": ex.values.sum(1)}, target=1, units=units, metrics=["srg"])
        assert found.relevance["lrp"].shape == (5, count)
        if isinstance(units, int | str):
            assert same(found.scores["srg"][1], found.scores["srg"][0])
    for reference in ("blurred", "inpainted", references.Custom(lambda x, keep: torch.where(keep, x, 0.5))):
        found = backlight.evaluate(net, x, {"lrp": ex}, target=1, units=4, reference=reference, metrics=["srg"])
        assert np.isfinite(found.scores["srg"]).all()


def test_tokens_are_dropped_altogether():
    class Sum(torch.nn.Module):
        def forward(self, tokens):
            return torch.relu(tokens).sum((1, 2))[:, None]

    x = torch.randn(6, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = torch.relu(x)
    found = backlight.evaluate(
        Sum().eval(), x, {"truth": truth, "random": "random"}, units="token", reference="dropped",
        fractions=[0, 0.25, 0.5], metrics=["srg", "infidelity"],
    )  # fmt: skip
    np.testing.assert_allclose(found.scores["infidelity"][0], 0, atol=1e-20)
    assert found.best("srg") == ("truth",)


def test_one_scoring_serves_all_explanations_and_both_ends_are_scored_once(X):
    asked = []

    def f(rows):
        asked.append(len(rows))
        return rows @ W

    found = backlight.evaluate(f, X, {"a": X, "b": -X}, reference="zero", metrics=["srg"], fractions=5)
    counts = np.unique(np.round(np.linspace(0, 1, 5) * 5))
    inner = len(counts) - 2
    # whole rows, rows without anything, two methods, two orders; and the whole rows once more to fix the target
    assert found.evaluations == 30 * (2 + 2 * 2 * inner)
    assert sum(asked) == found.evaluations + 30


def test_a_mismatch_of_references_is_said(X):
    class Told:
        reference = references.Zero()

        def __call__(self, rows):
            return np.asarray(rows) * W

    found = backlight.evaluate(FUNCTIONS["additive"], X, {"told": Told()}, reference="mean", metrics=["srg"])
    assert any("explained against zero" in note for note in found.notes)
    assert not backlight.evaluate(FUNCTIONS["additive"], X, {"told": Told()}, reference="zero", metrics=["srg"]).notes


def test_costs_are_measured_where_explanations_are_made_here(X):
    net = torch.nn.Sequential(torch.nn.Linear(5, 3)).double().eval()

    def twice(model, rows):
        rows = torch.as_tensor(rows)
        return (model(rows) + model(rows)).sum(1, keepdim=True).detach() * rows

    found = backlight.evaluate(net, X, {"twice": twice, "ready": X}, reference="zero", metrics=["srg"])
    assert found.costs["twice"].evaluations == 60
    assert "ready" not in found.costs


def test_plots_return_what_they_drew(X):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    found = backlight.evaluate(FUNCTIONS["min"], X, {"a": X, "random": "random"}, reference="zero")
    assert len(found.plot.curves().lines) == 4
    assert [t.get_text() for t in found.plot.intervals("srg").get_yticklabels()] != []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrics": ["nothing"]}, "metric 'nothing' is not known"),
        ({"metrics": ["srg", "srg"]}, "named twice"),
        ({"explanations": {}}, "no explanations"),
        ({"explanations": {"a": np.zeros((30, 4))}}, "has the shape"),
        ({"explanations": {"a": np.zeros((29, 5))}}, "29 rows for 30"),
        ({"explanations": {"a": np.full((30, 5), np.nan)}}, "not finite"),
        ({"units": "words"}, "units='words'"),
        ({"units": [["x9"]]}, "no column 'x9'"),
        ({"fractions": [0.5]}, "at least two"),
        ({"reference": "sky"}, "reference='sky'"),
        ({"target": "all"}, "one target"),
        ({"masks": np.zeros((3, 3))}, "masks have the shape"),
    ],
)
def test_what_cannot_be_judged_is_said_in_one_sentence(change, said, X):
    options = {"explanations": {"a": X}, "reference": "zero"} | change
    with pytest.raises(backlight.BacklightError, match=said) as error:
        backlight.evaluate(FUNCTIONS["additive"], X, options.pop("explanations"), **options)
    assert len(str(error.value)) < 300


def test_intervals_cover_the_mean_as_often_as_they_say():
    from backlight._evaluate.bootstrap import Resampling

    rng = np.random.default_rng(0)
    hits = [
        (found := Resampling(60, k, 400).interval(rng.exponential(size=60))).low <= 1 <= found.high for k in range(400)
    ]
    # percentile intervals of a skewed mean cover a little less than 95 %
    assert 0.90 <= np.mean(hits) <= 0.97
    assert math.isnan(Resampling(3, 0).interval(np.full(3, np.nan)).mean)


def test_one_reference_serves_explainers_and_the_judge(X):
    net = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.ReLU(), torch.nn.Linear(6, 1)).double().eval()
    mean = references.Mean(X)
    explainer = backlight.Explainer(net, reference=mean)
    ex = explainer(X)
    assert same(ex.values, backlight.explain(net, X, reference=X.mean(0)).values)
    assert ex.provenance["reference"] == "mean"
    for given in (ex, explainer):
        matched = backlight.evaluate(net, X, {"r": given}, reference=mean, metrics=["srg"])
        assert not matched.notes
        mismatched = backlight.evaluate(net, X, {"r": given}, reference="zero", metrics=["srg"])
        assert "explained against mean" in mismatched.notes[0]
    linear = LogisticRegression().fit(X, X[:, 0] > 0.5)
    rows = backlight.explain(linear, X, reference=references.Marginal(X))
    assert same(rows.values, backlight.explain(linear, X, reference=X).values)
    with pytest.raises(ArgumentError, match="no single point"):
        backlight.explain(net, X, reference=references.Gaussian(X))
    with pytest.raises(ArgumentError, match="no rows"):
        backlight.explain(linear, X, reference=references.Zero())
