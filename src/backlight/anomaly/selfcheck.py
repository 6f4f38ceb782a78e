"""How often the reasons are right in the user's own table.

Faults of every kind (`backlight._evaluate.planted`) are planted into a sample of the rows, the detector is fitted
again on the table with its faults, exactly as it was fitted on the table itself, and its first reason for every
faulty row is compared with the truth. A plain z-score and chance are judged on the same rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from backlight._evaluate.planted import FAULTS, Fault, Interval, bootstrap_mean, judge, plant
from backlight.anomaly.bands import standard_scores
from backlight.anomaly.fitting import fit_detector
from backlight.anomaly.prepared import Prepared

__all__ = ["FaultCheck", "check_reasons"]

_MOST_ROWS = 1000
_MOST_CELLS = 60_000
_ROUNDS = 2
_MOST_PLANTED = 30
_LEAST_ROWS = 40


@dataclass(frozen=True, slots=True, eq=False)
class FaultCheck:
    """How often the first reason was right for one kind of fault.

    Attributes
    ----------
    fault : Fault
    rows : int
        How many faulty rows were judged.
    reasons, z_score : Interval
    difference : Interval
        Of the two, row by row.
    chance : float
        How often a column drawn at random would have been right.
    dependent : bool
        Whether columns of this table depend on each other: some pair of numbers is correlated beyond 0.5.
    """

    fault: Fault
    rows: int
    reasons: Interval
    z_score: Interval
    difference: Interval
    chance: float
    dependent: bool


def check_reasons(
    source: np.ndarray, data: Prepared, detector: str, *, trim: bool, seed: int,
    progress: Callable[[str, int, int], None],
) -> list[FaultCheck]:  # fmt: skip
    """Judge a detector on planted faults, a check for each kind that the table can have.

    Parameters
    ----------
    source : array of shape (n, d)
        Rows of the user's, normal ones where there are some.
    trim : bool
        As in `fit_detector`.
    """
    d = source.shape[1]
    most = max(2 * _LEAST_ROWS, min(_MOST_ROWS, _MOST_CELLS // d))
    if len(source) < _LEAST_ROWS or d < 2 or d > _MOST_CELLS // (2 * _LEAST_ROWS):
        return []
    is_category = np.array([name in data.levels for name in data.used])
    rng = np.random.default_rng(seed)
    found = []
    for step, (kind, fault) in enumerate(FAULTS.items()):
        progress("checking", step, len(FAULTS))
        judged: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for turn in range(_ROUNDS):
            sample = source[rng.permutation(len(source))[:most]]
            planted = plant(
                sample, kind, count=min(_MOST_PLANTED, max(6, len(sample) // 33)), categories=is_category,
                seed=seed + 1000 * turn,
            )  # fmt: skip
            if planted is None:
                break
            fitted = fit_detector(planted.X, data, detector, trim=trim)
            own = fitted.own(len(planted.X))[planted.rows]
            if not trim:  # a fault is no normal row: learn without it
                clean = np.setdiff1d(np.arange(len(planted.X)), planted.rows)
                fitted = fit_detector(planted.X[clean], data, detector, trim=False)
                own = np.full(len(planted.rows), -1)
            faulty = planted.X[planted.rows]
            values = fitted.detector.contributions(faulty, own).values
            z = standard_scores(faulty, planted.X, is_category)
            judged.append((judge(values, planted.truth).first, judge(z, planted.truth).first, planted.truth.mean(1)))
        if judged:
            found.append(_check(fault, judged, seed, _dependent(source, is_category)))
    progress("checking", len(FAULTS), len(FAULTS))
    return found


def _check(
    fault: Fault, judged: list[tuple[np.ndarray, np.ndarray, np.ndarray]], seed: int, dependent: bool
) -> FaultCheck:
    ours, plain, share = (np.concatenate(part) for part in zip(*judged, strict=True))
    return FaultCheck(
        fault, len(ours), bootstrap_mean(ours, seed), bootstrap_mean(plain, seed), bootstrap_mean(ours - plain, seed),
        float(share.mean()), dependent,
    )  # fmt: skip


def _dependent(rows: np.ndarray, is_category: np.ndarray) -> bool:
    from scipy.stats import rankdata

    numbers = rows[:_MOST_ROWS][:, ~is_category]
    if numbers.shape[1] < 2:
        return False
    ranks = np.apply_along_axis(rankdata, 0, np.nan_to_num(numbers))
    ranks = ranks[:, ranks.std(0) > 0]
    if ranks.shape[1] < 2:
        return False
    together = np.abs(np.corrcoef(ranks.T))
    np.fill_diagonal(together, 0)
    return bool(together.max() > 0.5)
