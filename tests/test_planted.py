"""Planting faults: what changes, what does not, and how explanations are judged by them."""

import numpy as np
import pytest

from backlight._evaluate.planted import FAULTS, bootstrap_mean, judge, plant


def table(n=300, d=8, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    X[:, 1] = rng.poisson(4, n)
    X[:, 2] = rng.integers(0, 3, n)  # codes of a category
    X[rng.random(n) < 0.1, 3] = np.nan
    return X, np.arange(d) == 2


@pytest.mark.parametrize("kind", FAULTS)
def test_only_the_planted_cells_change_and_the_same_seed_plants_the_same(kind):
    X, categories = table()
    before = X.copy()
    planted = plant(X, kind, categories=categories, seed=4)
    again = plant(X, kind, categories=categories, seed=4)
    other = plant(X, kind, categories=categories, seed=5)

    assert np.array_equal(X, before, equal_nan=True)
    assert np.array_equal(planted.X, again.X, equal_nan=True)
    assert not np.array_equal(planted.X, other.X, equal_nan=True)
    changed = ~((planted.X == X) | (np.isnan(planted.X) & np.isnan(X)))
    truth = np.zeros_like(changed)
    truth[planted.rows] = planted.truth
    assert np.array_equal(changed, truth)
    assert (planted.X[:, 1] == np.round(planted.X[:, 1])).all()
    assert set(planted.X[:, 2]) <= {0.0, 1.0, 2.0}


def test_each_fault_is_what_its_story_says():
    X, categories = table(n=600)
    low, high = np.nanquantile(X, [0.01, 0.99], axis=0)
    spike = plant(X, "spike", categories=categories)
    cells = spike.X[spike.rows][spike.truth]
    column = np.nonzero(spike.truth)[1]
    assert ((cells > high[column]) | (cells < low[column])).all()
    assert (spike.truth.sum(1) == 1).all()

    group = plant(X, "group", categories=categories, count=9)
    for start in range(0, 9, 3):
        assert (group.truth[start : start + 3] == group.truth[start]).all()
        same = group.X[group.rows[start : start + 3], np.flatnonzero(group.truth[start])[0]]
        assert np.ptp(same) < 0.1 * abs(same[0])

    swap = plant(X, "swap", categories=categories)
    for row, faulty in zip(swap.rows, swap.truth, strict=True):
        assert faulty.sum() == 2  # a quarter of eight columns
        for j in np.flatnonzero(faulty):
            assert swap.X[row, j] in X[:, j]

    shift = plant(X[:, [0, 4, 5, 6]], "shift")
    moved = (shift.X - X[:, [0, 4, 5, 6]])[shift.rows][shift.truth]
    assert (np.abs(moved) > 1.9).all()


def test_rows_to_plant_in_and_their_number_can_be_chosen():
    X, categories = table()
    planted = plant(X, "spike", rows=np.arange(100, 110), count=7, categories=categories)

    assert len(planted.rows) == 7
    assert set(planted.rows) <= set(range(100, 110))


def test_a_table_that_cannot_have_a_fault_has_none():
    codes = np.random.default_rng(0).integers(0, 3, (50, 4)).astype(float)

    assert plant(codes, "spike", categories=np.ones(4, dtype=bool)) is None
    assert plant(codes, "swap", categories=np.ones(4, dtype=bool)) is not None
    assert plant(np.ones((50, 4)), "swap") is None


def test_the_truth_is_judged_perfect_its_opposite_worst_and_indifference_by_chance():
    rng = np.random.default_rng(0)
    truth = np.zeros((40, 6), dtype=bool)
    for row in truth:
        row[rng.choice(6, 2, replace=False)] = True

    right, wrong, flat = (judge(v, truth) for v in (truth.astype(float), -truth.astype(float), np.zeros((40, 6))))

    assert (right.first == 1).all()
    assert (right.among == 1).all()
    assert (right.auc == 1).all()
    assert (wrong.first == 0).all()
    assert (wrong.auc == 0).all()
    assert np.allclose(flat.first, 1 / 3)
    assert np.allclose(flat.auc, 0.5)


def test_intervals_hold_the_mean_and_are_never_empty_for_a_few_rows():
    rng = np.random.default_rng(0)
    values = (rng.random(60) < 0.7).astype(float)
    found = bootstrap_mean(values)

    assert found.low < values.mean() == found.mean < found.high
    standard = np.sqrt(values.var() / 60)
    assert np.isclose(found.high - found.low, 2 * 1.96 * standard, rtol=0.15)
    sure = bootstrap_mean(np.ones(30))
    assert (sure.low, sure.high) == (0.9, 1.0)
    assert bootstrap_mean(np.zeros(30)).high == 0.1
