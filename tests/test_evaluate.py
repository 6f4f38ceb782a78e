"""Calibration and removal against what they promise."""

import numpy as np
import pytest

from backlight._evaluate import conformal_p_values, removal_check


def test_p_values_are_ranks_counted_by_hand():
    calibration = np.array([[1.0], [2.0], [2.0], [3.0]])

    p = conformal_p_values(np.array([[0.0], [2.0], [2.5], [9.0]]), calibration)

    assert p[:, 0].tolist() == [5 / 5, 4 / 5, 2 / 5, 1 / 5]


def test_a_calibration_row_is_not_counted_against_itself():
    calibration = np.array([[1.0], [2.0], [3.0]])

    p = conformal_p_values(calibration, calibration, np.arange(3))

    assert p[:, 0].tolist() == [3 / 3, 2 / 3, 1 / 3]


@pytest.mark.parametrize("c", [19, 99])
def test_p_values_of_normal_rows_are_valid(c):
    """P(p ≤ a) ≤ a; over many draws, within four standard errors."""
    rng = np.random.default_rng(0)
    draws = 4000
    p = np.array([conformal_p_values(rng.normal(size=(1, 1)), rng.normal(size=(c, 1)))[0, 0] for _ in range(draws)])

    for a in (0.05, 0.1, 0.5):
        assert (p <= a).mean() <= a + 4 * np.sqrt(a * (1 - a) / draws)


def test_removal_prefers_the_true_causes_to_chance_and_to_their_reverse():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 8)) * np.arange(1, 9)
    zeros = np.zeros_like(X)

    check = removal_check(
        lambda rows, _: (rows**2).sum(1),
        X,
        zeros,
        {"true": X**2, "random": rng.random(X.shape), "reverse": -(X**2)},
    )

    assert check.curves["true"][0] == 1
    assert abs(check.curves["true"][-1]) < 1e-12
    assert (np.diff(check.curves["true"]) <= 0).all()
    assert check.beats("random") is True
    assert check.beats("reverse") is True
    other = removal_check(lambda rows, _: (rows**2).sum(1), X, zeros, {"reverse": -(X**2), "true": X**2})
    assert other.beats("true") is False
    equal = removal_check(lambda rows, _: (rows**2).sum(1), X, zeros, {"a": X**2, "b": X**2})
    assert equal.beats("b") is None


def test_removal_says_nothing_where_no_row_is_worse_than_its_replacement():
    X = np.zeros((5, 2))

    assert removal_check(lambda rows, _: (rows**2).sum(1), X, X, {"a": X}) is None
