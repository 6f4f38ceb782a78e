"""A search over the pieces of columns: from valid inputs, changed piece by piece while Ω falls; it proves nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from backlight._prototype.choices import Splits, choices
from backlight._prototype.ensemble import EnsembleSubject
from backlight._prototype.exact.trees import inside
from backlight._prototype.problem import Certificate, Found, Problem
from backlight.errors import ArgumentError
from backlight.priors import L1

__all__ = ["center_of", "costs", "kept", "linear_rules", "search", "separable"]

_STARTS = 6
_ROUNDS = 200
_DRAWN = 512
# Rows scored at once.
_ROWS = 20_000


def center_of(problem: Problem) -> np.ndarray:
    """What changes are counted from."""
    if problem.white is not None:
        return problem.white.mean.numpy()
    given = problem.prior.center if isinstance(problem.prior, L1) else None
    if given is None and problem.region.few:
        raise ArgumentError(
            "few and different changes are counted from the prior's centre: give priors.L1(1.0, center=row) or "
            "priors.Near(row)"
        )
    return np.zeros(problem.dimension) if given is None else given.numpy()


def linear_rules(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Rows and levels of equalities that are not the sums of one-hot groups."""
    region = problem.region
    sums = [np.isin(np.arange(len(region.low)), group) for group in region.groups]
    own = [k for k, row in enumerate(region.E) if not any(np.array_equal(row != 0, s) for s in sums)]
    return region.E[own], region.e[own]


def separable(problem: Problem) -> bool:
    """Whether columns can be chosen one by one but for the trees."""
    plain = problem.prior is None or isinstance(problem.prior, L1)
    diagonal = problem.white is not None and problem.white.diagonal
    return (plain or diagonal) and not len(problem.region.A) and not len(linear_rules(problem)[0])


def costs(problem: Problem, x: np.ndarray) -> np.ndarray:
    """Strength · Ω of rows (n, d), of Gaussian priors without their constant; inf where a prior does not go."""
    strength = 1.0 if problem.smallest else problem.strength
    if isinstance(problem.prior, L1):
        return strength * problem.prior.energy(torch.as_tensor(x)).numpy()
    if problem.white is None:
        return np.zeros(len(x))
    v = problem.white.encode(torch.as_tensor(x))
    off = np.abs(problem.white.decode(v).numpy() - x).max(1) > 1e-9 * (1 + np.abs(x).max(1))
    return np.where(off, np.inf, 0.5 * v.square().sum(1).numpy())


def kept(problem: Problem, x: np.ndarray) -> np.ndarray:
    """Which rows within the pieces satisfy everything, (n,)."""
    region, parts = problem.region, []
    for start in range(0, len(x), _ROWS):
        some = torch.as_tensor(x[start : start + _ROWS])
        if region.margin is None:
            parts.append(np.ones(len(some), dtype=bool))
            continue
        with torch.no_grad():
            # leads of trees are far from the margin, or ties but for rounding
            parts.append((problem.leads(some).amin(1) > -0.5 * region.margin).numpy())
    good = np.concatenate(parts) if parts else np.zeros(0, dtype=bool)
    if len(region.A):
        good &= (x @ region.A.T <= region.b + 1e-9 * (1 + np.abs(region.b))).all(1)
    E, e = linear_rules(problem)
    if len(E):
        good &= (np.abs(x @ E.T - e) <= 1e-9 * (1 + np.abs(e))).all(1)
    if region.few:
        changed = _changed(problem, x)
        if region.sparse is not None:
            good &= changed.sum(1) <= region.sparse
        for columns in region.excluded:
            good &= ~changed[:, list(columns)].all(1)
    return good


def _changed(problem: Problem, x: np.ndarray) -> np.ndarray:
    """Which columns differ from the centre, (n, d); of a group its first one stands for all."""
    changed = x != center_of(problem)
    for group in problem.region.groups:
        any_ = changed[:, group].any(1)
        changed[:, group] = False
        changed[:, group[0]] = any_
    return np.asarray(changed)


def search(problem: Problem) -> Found | None:
    """The best valid input that is found from the data, from chance, and from the centre up to the decision."""
    subject = problem.subject
    assert isinstance(subject, EnsembleSubject)
    center = center_of(problem)
    few = problem.region.few
    splits = choices(problem, center if few and not separable(problem) else None)
    points = [choice.at(center) for choice in splits.choices]
    starts = _starts(problem, splits, points, center)
    best: tuple[float, np.ndarray] | None = None
    for x in starts:
        value, end = _descended(problem, splits, points, x)
        if best is None or value > best[0]:
            best = value, end
    if best is None:
        return None
    if not separable(problem):
        best = _polished(problem, splits, *best)
    notes = [f"{len(starts)} starts, each changed piece by piece while it helps"]
    return Found(best[1], "local", Certificate("no single change", 0.0, False), best[1], [(best[0], 1)], notes)


def _polished(problem: Problem, splits: Splits, value: float, x: np.ndarray) -> tuple[float, np.ndarray]:
    """The best point of the pieces that an input lies in, where the prior is quadratic."""
    if problem.white is None:
        return value, x
    low, high = problem.region.low.copy(), problem.region.high.copy()
    for choice in splits.choices:
        at = x[choice.columns]
        piece = int(np.flatnonzero(((choice.low <= at) & (at <= choice.high)).all(1))[0])
        low[choice.columns], high[choice.columns] = choice.low[piece], choice.high[piece]
    E, e = linear_rules(problem)
    found = inside(replace(problem, region=replace(problem.region, groups=[], E=E, e=e)), (low, high))
    if found is None or not bool(kept(problem, found[1][None])[0]):
        return value, x
    better = float(_values(problem, found[1][None])[0])
    return (better, found[1]) if better > value else (value, x)


def _values(problem: Problem, x: np.ndarray) -> np.ndarray:
    found = -costs(problem, x)
    if not problem.smallest:
        with torch.no_grad():
            found = found + problem.target(torch.as_tensor(x)).numpy()
    return np.asarray(found)


def _starts(problem: Problem, splits: Splits, points: list[np.ndarray], center: np.ndarray) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    rows = [center[None]]
    if problem.data is not None:
        data = problem.data.numpy()
        rows.append(data[np.isfinite(data).all(1)])
    x = np.concatenate(rows)
    for choice, point in zip(splits.choices, points, strict=True):
        # the piece that a row is in, or the nearest one, at its point nearest to the centre
        far = np.abs(np.clip(x[:, None, choice.columns], choice.low, choice.high) - x[:, None, choice.columns]).sum(2)
        x[:, choice.columns] = point[far.argmin(1)]
    drawn = np.tile(x[:1], (_DRAWN, 1))
    for choice, point in zip(splits.choices, points, strict=True):
        drawn[:, choice.columns] = point[rng.integers(len(point), size=_DRAWN)]
    climbed = _climbed(problem, splits, points, x[0])
    x = np.concatenate([x, drawn, climbed[None]])
    good = np.unique(x[kept(problem, x)], axis=0)
    if not len(good):
        return []
    return list(good[np.argsort(-_values(problem, good), kind="stable")[:_STARTS]])


def _neighbours(splits: Splits, points: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """Rows that differ from x in the piece of one choice."""
    rows = []
    for choice, point in zip(splits.choices, points, strict=True):
        moved = point[(point != x[choice.columns]).any(1)]
        some = np.tile(x, (len(moved), 1))
        some[:, choice.columns] = moved
        rows.append(some)
    return np.concatenate(rows) if rows else x[None]


def _climbed(problem: Problem, splits: Splits, points: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """From a row up to the decision, the piece that raises the least lead most for its cost first."""
    if problem.region.margin is None:
        return x
    for _ in range(2 * len(points)):
        with torch.no_grad():
            here = float(problem.leads(torch.as_tensor(x)[None]).min())
            if here >= 0:
                break
            rows = _neighbours(splits, points, x)
            leads = problem.leads(torch.as_tensor(rows)).amin(1).numpy()
        gain, price = np.minimum(leads, 0) - here, costs(problem, rows) - costs(problem, x[None])
        rate = np.where(gain > 1e-12, gain / np.maximum(price, 1e-9), -math.inf)
        if not np.isfinite(rate.max(initial=-math.inf)):
            break
        x = rows[int(rate.argmax())]
    return x


def _descended(problem: Problem, splits: Splits, points: list[np.ndarray], x: np.ndarray) -> tuple[float, np.ndarray]:
    """One change at a time, the best of all that keep everything, while the value rises."""
    value = float(_values(problem, x[None])[0])
    for _ in range(_ROUNDS):
        rows = _neighbours(splits, points, x)
        values = _values(problem, rows)
        better = np.flatnonzero(values > value + 1e-12 * (1 + abs(value)))
        better = better[np.argsort(-values[better], kind="stable")]
        # the best first, a few at a time: most are not valid
        for start in range(0, len(better), 256):
            some = better[start : start + 256]
            good = some[kept(problem, rows[some])]
            if len(good):
                x, value = rows[good[0]], float(values[good[0]])
                break
        else:
            break
    return value, x
