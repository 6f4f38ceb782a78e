"""Nearest inputs that a sum of trees decides otherwise, against every combination of the intervals between thresholds."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.datasets import load_iris, load_wine
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import backlight
from backlight import constraints, priors
from backlight._prototype.exact.boxes import Boxes
from backlight._prototype.exact.ensembles import Leaves
from backlight.errors import ArgumentError, Infeasible

INF = float("inf")
DECIDED = constraints.decision()
FLOAT32 = np.float32


def _thresholds(model):
    """The thresholds of each column, by the library's own trees."""
    found = {}
    for one in np.ravel(getattr(model, "estimators_", [model])):
        for i, t in zip(one.tree_.feature, one.tree_.threshold, strict=True):
            if i >= 0:
                found.setdefault(int(i), set()).add(float(t))
    return {i: sorted(ts) for i, ts in found.items()}


def _intervals(thresholds, low=-INF, high=INF):
    """Closed intervals of single-precision numbers between thresholds: x ≤ t goes left, x is rounded before."""
    ends, start = [], low
    for t in thresholds:
        down = FLOAT32(t) if float(FLOAT32(t)) <= t else np.nextafter(FLOAT32(t), FLOAT32(-INF))
        ends.append((start, min(float(down), high)))
        start = max(low, float(np.nextafter(down, FLOAT32(INF))))
    ends.append((start, high))
    return [(a, b) for a, b in ends if a <= b]


def _nearest(model, row, wanted, cost, low, high, held=(), whole=(), most=None):
    """The least cost over every combination of intervals, by the library's own predictions."""
    thresholds = _thresholds(model)
    choices = []
    for i in range(len(row)):
        if i in held:
            choices.append([row[i]])
            continue
        intervals = _intervals(thresholds.get(i, []), low[i], high[i])
        if i in whole:
            intervals = [(np.ceil(a), np.floor(b)) for a, b in intervals if np.ceil(a) <= np.floor(b)]
        start = np.round(row[i]) if i in whole else row[i]
        choices.append([float(np.clip(start, a, b)) for a, b in intervals])
    grid = np.array(list(itertools.product(*choices)))
    if most is not None:
        grid = grid[(grid != row).sum(1) <= most]
    good = grid[model.predict(grid) == wanted] if len(grid) else grid
    return float(cost(good).min()) if len(good) else INF


def _sets():
    X, y = load_iris(return_X_y=True)
    wine = load_wine()
    # a few columns only: the number of combinations is a product over them
    return {"iris": (X[:, [0, 2, 3]], y), "wine": (wine.data[:, [6, 9, 12]], wine.target)}


MODELS = {
    "tree": lambda: make_pipeline(DecisionTreeClassifier(max_depth=4, random_state=0)),
    "forest": lambda: RandomForestClassifier(10, max_depth=4, random_state=0),
    "extra trees": lambda: ExtraTreesClassifier(8, max_depth=3, random_state=1),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=3, max_depth=3, random_state=0),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("which", ["iris", "wine"])
def test_the_nearest_other_decision_is_the_best_of_all_combinations_of_leaves(kind, which):
    X, y = _sets()[which]
    model = MODELS[kind]().fit(X, y)
    bare = model[-1] if kind == "tree" else model
    weights, low, high = 1 / X.std(0), X.min(0), X.max(0)
    for i in (0, 60, 120):
        row, wanted = X[i], int((model.predict(X[[i]])[0] + 1) % 3)
        ask = {"data": X, "strength": INF, "bounds": "data"}
        cost = lambda g, row=row: (np.abs(g - row) * weights).sum(1)  # noqa: E731
        p = backlight.prototype(
            model, str(wanted), prior=priors.L1(1.0, center=row, weights=weights), constraints=[DECIDED], **ask
        )
        assert p.status == ("exact",)
        assert model.predict(p.x)[0] == wanted
        # ends of intervals are single-precision numbers; the solver's gap is 1e-9
        assert_allclose(p.omega[0], _nearest(bare, row, wanted, cost, low, high), rtol=1e-6)

        squares = lambda g, row=row: 0.5 * ((g - row) ** 2 * weights**2).sum(1)  # noqa: E731
        near = priors.Near(row, cov=1 / weights**2)
        p = backlight.prototype(model, str(wanted), prior=near, constraints=[DECIDED], **ask)
        assert p.status == ("exact",)
        assert_allclose(p.omega[0], _nearest(bare, row, wanted, squares, low, high), rtol=1e-6)

        for given, options in (
            ([constraints.sparse(1)], {"most": 1}),
            ([constraints.fix(1)], {"held": (1,)}),
            ([constraints.integer(0, 2)], {"whole": (0, 2)}),
        ):
            best = _nearest(bare, row, wanted, cost, low, high, **options)
            prior = priors.L1(1.0, center=row, weights=weights)
            if best == INF:
                with pytest.raises(Infeasible):
                    backlight.prototype(model, str(wanted), prior=prior, constraints=[DECIDED, *given], **ask)
                continue
            p = backlight.prototype(model, str(wanted), prior=prior, constraints=[DECIDED, *given], **ask)
            assert p.status == ("exact",)
            assert model.predict(p.x)[0] == wanted
            assert_allclose(p.omega[0], best, rtol=1e-6)


def test_a_correlated_prior_is_the_best_of_quadratic_programs_over_all_combinations():
    """Three columns: the nearest point of a box in a metric is that of one of its 27 faces, edges and corners."""
    X, y = _sets()["iris"]
    X = X[:, 1:]
    model = RandomForestClassifier(6, max_depth=3, random_state=0).fit(X, y)
    P = np.linalg.inv(np.cov(X.T))
    thresholds = _thresholds(model)
    boxes = list(itertools.product(*(_intervals(thresholds[i]) for i in range(2))))
    inner = np.array([[np.clip(0.0, a, b) if a == -INF or b == INF else (a + b) / 2 for a, b in box] for box in boxes])
    told = model.predict(inner)

    def inside(row, box):
        """A quadratic program of two variables, by its corners and edges."""
        points = [row]
        for i in range(2):
            j = 1 - i
            for end in box[i]:
                if np.isfinite(end):
                    # on the edge x_i = end the other one is free: P_jj δ_j + P_ji δ_i = 0
                    x = np.empty(2)
                    x[i], x[j] = end, np.clip(row[j] - P[j, i] * (end - row[i]) / P[j, j], *box[j])
                    points.append(x)
        ok = [x for x in points if all(a <= v <= b for v, (a, b) in zip(x, box, strict=True))]
        return min(0.5 * (x - row) @ P @ (x - row) for x in ok)

    for i in (0, 60, 120):
        row, wanted = X[i], int((model.predict(X[[i]])[0] + 1) % 3)
        best = min(inside(row, box) for box, cls in zip(boxes, told, strict=True) if cls == wanted)
        p = backlight.prototype(
            model, str(wanted), prior=priors.Near(row, cov=np.cov(X.T)), data=X, strength=INF, constraints=[DECIDED]
        )
        assert p.status == ("exact",)
        assert model.predict(p.x)[0] == wanted
        assert_allclose(p.omega[0], best, rtol=1e-5)
        # the proof does not lean on what the search has found before
        x, least, _ = Boxes(p.problems[0]).best(INF)
        assert x is not None
        assert model.predict(x[None])[0] == wanted
        assert_allclose(least, best, rtol=1e-5)


def test_the_program_alone_finds_what_the_search_and_the_program_find():
    X, y = _sets()["wine"]
    model = RandomForestClassifier(6, max_depth=3, random_state=0).fit(X, y)
    ask = {"data": X, "strength": INF, "bounds": "data", "constraints": [DECIDED], "count": 3}
    p = backlight.prototype(model, "1", prior=priors.L1(1.0, center=X[0], weights=1 / X.std(0)), **ask)
    for t in range(len(p)):
        program = Leaves(p.problems[t])
        x, top = program.best()
        assert x is not None
        assert program.excluded == 0
        assert_allclose(-top, p.omega[t], rtol=1e-6)


def test_every_answer_is_decided_as_asked_by_the_library_also_after_rounding_to_single_precision():
    X, y = load_wine(return_X_y=True)
    for model in (
        RandomForestClassifier(10, max_depth=4, random_state=0),
        HistGradientBoostingClassifier(max_iter=5),
        make_pipeline(StandardScaler(), RandomForestClassifier(10, max_depth=3, random_state=0)),
    ):
        model.fit(X, y)
        for i in (0, 100, 170):
            for wanted in set(range(3)) - {int(model.predict(X[[i]])[0])}:
                prior = priors.L1(1.0, center=X[i], weights=1 / X.std(0))
                p = backlight.prototype(model, wanted, prior=prior, data=X, strength=INF, constraints=[DECIDED])
                assert p.flags == ((),)
                assert model.predict(p.x)[0] == wanted
                if isinstance(model, RandomForestClassifier):  # histograms compare in double precision
                    assert model.predict(p.x.astype(np.float32).astype(float))[0] == wanted


def test_a_scaler_before_the_trees_changes_nothing():
    X, y = _sets()["wine"]
    scaler = StandardScaler().fit(X)
    forest = RandomForestClassifier(6, max_depth=3, random_state=0)
    model = make_pipeline(StandardScaler(), forest).fit(X, y)
    row, wanted = X[0], 1
    p = backlight.prototype(
        model, wanted, prior=priors.L1(1.0, center=row, weights=1 / scaler.scale_), data=X, strength=INF,
        constraints=[DECIDED],
    )  # fmt: skip
    inner = scaler.transform(row[None])[0]
    cost = lambda g: np.abs(g - inner).sum(1)  # noqa: E731
    wide = np.full(3, INF)

    assert p.status == ("exact",)
    assert model.predict(p.x)[0] == wanted
    assert_allclose(p.omega[0], _nearest(forest, inner, wanted, cost, -wide, wide), rtol=1e-5)


def test_one_hot_groups_are_the_best_of_all_choices():
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 3, 200)
    X = np.column_stack([np.eye(3)[colour], rng.standard_normal(200)])
    y = ((colour == 1) & (X[:, 3] > 0)) | ((colour == 2) & (X[:, 3] > 1))
    model = RandomForestClassifier(8, max_depth=4, random_state=0).fit(X, y)
    for i in np.flatnonzero(~model.predict(X))[:4]:
        row = X[i]
        numbers = [float(np.clip(row[3], a, b)) for a, b in _intervals(_thresholds(model)[3])]
        grid = np.array([[*one, v] for one in np.eye(3) for v in numbers])
        best = np.abs(grid[model.predict(grid)] - row).sum(1).min()
        p = backlight.prototype(
            model, "True", prior=priors.L1(1.0, center=row), data=X, strength=INF,
            constraints=[DECIDED, constraints.onehot(0, 1, 2)],
        )  # fmt: skip
        assert p.status == ("exact",)
        assert model.predict(p.x)[0]
        assert_allclose(p.omega[0], best, rtol=1e-6)


def test_linear_rules_hold_and_cost():
    X, y = _sets()["iris"]
    model = RandomForestClassifier(5, max_depth=3, random_state=0).fit(X, y)
    row, wanted = X[0], 1
    rule = constraints.linear({0: 1.0, 1: -1.0}, high=2.0)
    for prior in (priors.L1(1.0, center=row), priors.Near(row)):
        ask = {"prior": prior, "data": X, "strength": INF, "bounds": "data"}
        free = backlight.prototype(model, wanted, constraints=[DECIDED], **ask)
        held = backlight.prototype(model, wanted, constraints=[DECIDED, rule], **ask)
        assert held.status == ("exact",)
        assert model.predict(held.x)[0] == wanted
        assert held.x[0, 0] - held.x[0, 1] <= 2.0 + 1e-9
        assert held.omega[0] >= free.omega[0] - 1e-9
    # of two numbers the exact answer: a grid of intervals, and in each the rule as a line
    thresholds = _thresholds(model)
    best = INF
    for box in itertools.product(*(_intervals(thresholds.get(i, []), X[:, i].min(), X[:, i].max()) for i in range(3))):
        low, high = np.array(box).T
        if low[0] - high[1] > 2.0 or model.predict(low[None])[0] != wanted:
            continue
        x = np.clip(row, low, high)
        # what the rule lacks is made up by x_0 down or x_1 up, at the same price each
        lacking = max(0.0, x[0] - x[1] - 2.0)
        best = min(best, np.abs(x - row).sum() + lacking)
    p = backlight.prototype(
        model,
        wanted,
        prior=priors.L1(1.0, center=row),
        data=X,
        strength=INF,
        bounds="data",
        constraints=[DECIDED, rule],
    )
    assert p.omega[0] <= best * (1 + 1e-6)


def test_an_isolation_forests_nearest_normal_version():
    X, _ = _sets()["iris"]
    model = IsolationForest(n_estimators=8, max_samples=16, random_state=0, contamination=0.1).fit(X)
    rows = model.decision_function(X).argsort()[:2]
    for i in rows:
        p = backlight.prototype(
            model, prior=priors.L1(1.0, center=X[i]), strength=INF, data=X, constraints=[DECIDED], bounds="data"
        )
        assert p.status == ("exact",)
        assert model.decision_function(p.x)[0] >= 0
        assert p.omega[0] > 0


def test_a_search_gives_valid_answers_and_claims_no_proof():
    X, y = load_wine(return_X_y=True)
    model = RandomForestClassifier(60, random_state=0).fit(X, y)
    for i in (0, 100):
        wanted = int((model.predict(X[[i]])[0] + 1) % 3)
        prior = priors.L1(1.0, center=X[i], weights=1 / X.std(0))
        p = backlight.prototype(model, wanted, prior=prior, data=X, strength=INF, constraints=[DECIDED], exact="never")
        nearest = np.abs((X - X[i]) / X.std(0)).sum(1)[model.predict(X) == wanted].min()

        assert p.status == ("local",)
        assert not p.certificate[0].bound
        assert model.predict(p.x)[0] == wanted
        assert p.omega[0] < nearest


def test_the_largest_score_less_the_prior():
    """F − Ω with a diagonal prior: the best of all combinations of intervals."""
    X, y = _sets()["iris"]
    model = GradientBoostingClassifier(n_estimators=3, max_depth=2, random_state=0).fit(X, y)
    center, scale = X.mean(0), X.std(0)
    thresholds = _thresholds(model)
    values = [[float(np.clip(center[i], a, b)) for a, b in _intervals(thresholds.get(i, []))] for i in range(3)]
    grid = np.array(list(itertools.product(*values)))
    J = model.decision_function(grid) - 0.5 * (((grid - center) / scale) ** 2).sum(1)[:, None]
    p = backlight.prototype(model, prior=priors.Near(center, cov=scale**2), data=X)

    assert p.status == ("exact",) * 3
    assert_allclose(p.value, J.max(0), rtol=1e-6)


def test_what_trees_cannot_be_asked():
    X, y = _sets()["iris"]
    model = RandomForestClassifier(5, max_depth=2, random_state=0).fit(X, y)
    with pytest.raises(ArgumentError, match="no logits of a softmax"):
        backlight.prototype(model, backlight.targets.log_probability(0), data=X)
    with pytest.raises(ArgumentError, match="bounds='data'"):
        backlight.prototype(model, 0, data=X)
    with pytest.raises(ArgumentError, match="counted from the prior's centre"):
        backlight.prototype(model, 0, prior="none", data=X, bounds="data", constraints=[DECIDED, constraints.sparse(1)])


@pytest.mark.parametrize("kind", ["forest", "linear", "near"])
def test_several_answers_change_different_columns_and_each_is_the_best_left(kind):
    """The next one is the best of those that change no superset of what one before has changed, by enumeration."""
    X, y = _sets()["wine"]
    row, scale = X[0], X.std(0)
    if kind == "linear":
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    else:
        model = RandomForestClassifier(6, max_depth=3, random_state=0).fit(X, y)
    prior = priors.Near(row, cov=scale**2) if kind == "near" else priors.L1(1.0, center=row, weights=1 / scale)
    ask = {"prior": prior, "data": X, "strength": INF, "bounds": "data", "constraints": [DECIDED]}
    p = backlight.prototype(model, "1", count=4, **ask)
    changed = [frozenset(np.flatnonzero(np.abs(x - row) > 1e-8).tolist()) for x in p.x]

    assert (model.predict(p.x) == 1).all()
    assert set(p.status) <= {"exact", "global"}
    assert len(p) > 1
    assert p.names[:2] == ("1", "1 (2)")
    assert not any(changed[early] <= changed[late] for early, late in itertools.combinations(range(len(p)), 2))
    assert (np.diff(p.omega) >= -1e-9).all()
    sets = [frozenset(s) for n in (1, 2, 3) for s in itertools.combinations(range(3), n)]
    for n in range(len(p)):
        allowed = [s for s in sets if not any(before <= s for before in changed[:n])]
        best = INF
        for s in allowed:
            held = [constraints.fix(i, value=float(row[i])) for i in range(3) if i not in s]
            try:
                one = backlight.prototype(model, "1", **{**ask, "constraints": [DECIDED, *held]})
            except Infeasible:
                continue
            best = min(best, float(one.omega[0]))
        assert_allclose(p.omega[n], best, rtol=1e-5)
