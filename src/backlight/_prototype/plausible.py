"""Plausible counterfactuals: near to a row of the data in every column, the smallest change over all rows.

An input is plausible where a kernel density of the data with a box for its kernel is positive: some row is within τ of
it in every column, in the column's standard deviations, and has the same categories. τ is the distance that the stated
share of the rows has to its own nearest other row. These inputs are a union of boxes, one a row, so that the problem
is solved in each of them by whatever solves it without. Boxes are taken by a lower bound of Ω, and what is left is left
out as soon as that is not below the best. With one linear rival and a sum of absolute values the bound is that of a
knapsack (Dantzig, "Discrete-variable extremum problems", 1957): columns change in the order of what they gain for
their cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import cKDTree

from backlight._prototype.problem import Certificate, Found, Problem
from backlight.errors import ArgumentError, Infeasible, NotFound
from backlight.priors import L1

__all__ = ["among_rows", "radius_of"]

# boxes that are climbed in, where no exact solver applies, and boxes of trees
_CLIMBED = 5
_SOLVED = 100
_SAME = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class _Boxes:
    """The boxes of the rows within the bounds: (n, d) each, and which rows they are of."""

    low: np.ndarray
    high: np.ndarray
    row: np.ndarray
    radius: float


def among_rows(problem: Problem, solve: Callable[[Problem], Found]) -> Found:
    """The smallest change that stays near to a row.

    Parameters
    ----------
    problem : Problem
    solve : callable
        What solves the problem in one box; raises `Infeasible` or `NotFound`.

    Raises
    ------
    ArgumentError, Infeasible, NotFound
    """
    if problem.data is None:
        raise ArgumentError("constraints.plausible() is told by the data's rows: give data=")
    if not problem.smallest or not (isinstance(problem.prior, L1) or problem.white is not None):
        raise ArgumentError(
            "constraints.plausible() is for the smallest change of a row: strength=float('inf') with priors.Near or "
            "priors.L1; elsewhere the prior itself holds the data's density"
        )
    boxes = _boxes(problem)
    bound = _bounds(problem, boxes)
    order = np.argsort(bound, kind="stable")
    best, least, at, proved, climbed = None, np.inf, 0, True, 0
    most = len(order) if problem.rivals is not None else _SOLVED
    for solved, k in enumerate(order):
        if bound[k] >= least or not np.isfinite(bound[k]):
            break
        if climbed >= _CLIMBED or solved >= most:
            proved = False
            break
        inside = replace(problem.region, low=boxes.low[k], high=boxes.high[k], plausible=None)
        try:
            found = solve(replace(problem, region=inside))
        except Infeasible:
            continue
        except NotFound:
            proved = False
            climbed += 1
            continue
        if found.status != "exact":
            proved = False
            climbed += 1
        x = torch.as_tensor(found.x).reshape(1, *problem.shape)
        omega = float(problem.energy(x, x.flatten(1))[0])
        if omega < least:
            best, least, at = found, omega, int(boxes.row[k])
    if best is None:
        kind = Infeasible if proved else NotFound
        raise kind(
            f"no input near to a row of the data satisfies what is asked for target {problem.objective.name!r}: leave "
            "plausible() out, or give a larger share"
        )
    said = f"within {boxes.radius:.3g} standard deviations of row {at} of the data in every column"
    status = best.status if proved else "local"
    certificate = best.certificate if proved else Certificate(best.certificate.kind, best.certificate.value, False)
    return replace(best, status=status, certificate=certificate, notes=[*best.notes, said])


def radius_of(data: np.ndarray, groups: list[list[int]], share: float) -> float:
    """How far the stated share of the rows is from the nearest other row of the same categories, at most.

    The largest difference over the columns, in standard deviations.
    """
    scaled, labels = _scaled(data, groups)
    nearest = np.full(len(data), np.inf)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        if len(mine) > 1:
            nearest[mine] = cKDTree(scaled[mine]).query(scaled[mine], k=2, p=np.inf)[0][:, 1]
    finite = nearest[np.isfinite(nearest)]
    return float(np.quantile(finite, share)) if len(finite) else 0.0


def _scaled(data: np.ndarray, groups: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Columns that are no categories in their standard deviations, and a number for each combination of categories."""
    grouped = [i for group in groups for i in group]
    rest = [i for i in range(data.shape[1]) if i not in grouped]
    size = data.std(0)
    scaled = data[:, rest] / np.where(size > 0, size, 1.0)[rest]
    labels = np.unique(np.round(data[:, grouped]), axis=0, return_inverse=True)[1].reshape(-1)
    return scaled, labels if grouped else np.zeros(len(data), dtype=int)


def _boxes(problem: Problem) -> _Boxes:
    region, share = problem.region, problem.region.plausible
    assert problem.data is not None
    assert share is not None
    data = problem.data.numpy().reshape(len(problem.data), -1)
    radius = radius_of(data, region.groups, share)
    size = radius * data.std(0)
    grouped = [i for group in region.groups for i in group]
    size[grouped] = 0.0
    low, high = np.maximum(data - size, region.low), np.minimum(data + size, region.high)
    whole = region.integers
    low[:, whole], high[:, whole] = np.ceil(low[:, whole] - _SAME), np.floor(high[:, whole] + _SAME)
    kept = (low <= high).all(1)
    return _Boxes(low[kept], high[kept], np.flatnonzero(kept), radius)


def _bounds(problem: Problem, boxes: _Boxes) -> np.ndarray:
    """What Ω is at least in each box; infinite where no input of it can have the decision."""
    prior, center = problem.prior, _center_of(problem)
    near = np.clip(center, boxes.low, boxes.high)
    rivals = problem.rivals or []
    if isinstance(prior, L1):
        weights = np.ones(len(center)) if prior.weights is None else prior.weights.numpy()
        cost = prior.lam * weights
        found = np.abs(near - center) @ cost
        for w, b in rivals:
            found = np.maximum(found, _knapsack(w, b, cost, center, near, boxes))
        return np.asarray(found)
    assert problem.white is not None
    L = problem.white.factor.numpy()
    variance = L**2 if L.ndim == 1 else (L**2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(near != center, 0.5 * (near - center) ** 2 / variance, 0.0)
    found = each.max(1)
    for w, b in rivals:
        found = np.where(_most(w, boxes) + b < 0, np.inf, found)
    return np.asarray(found)


def _center_of(problem: Problem) -> np.ndarray:
    if isinstance(problem.prior, L1):
        own = problem.prior.center
        return np.zeros(problem.dimension) if own is None else own.numpy()
    assert problem.white is not None
    return problem.white.mean.numpy()


def _most(w: np.ndarray, boxes: _Boxes) -> np.ndarray:
    """The largest value of w·x in each box."""
    return np.asarray(np.where(w > 0, boxes.high, boxes.low) @ w)


def _knapsack(
    w: np.ndarray, b: float, cost: np.ndarray, center: np.ndarray, near: np.ndarray, boxes: _Boxes
) -> np.ndarray:
    """The least Σ cost · |x − center| in each box with w·x + b ≥ 0, (n,)."""
    base = np.abs(near - center) @ cost
    lacking = -(near @ w + b)
    # near is the cheapest point of a box, and each step away from it costs
    room = np.where(w > 0, boxes.high - near, near - boxes.low) * np.abs(w)
    with np.errstate(divide="ignore", invalid="ignore"):
        price = np.where(w != 0, cost / np.abs(w), np.inf)
    order = np.argsort(price, kind="stable")
    order = order[np.isfinite(price[order])]
    gained = np.cumsum(room[:, order], axis=1)
    before = np.concatenate([np.zeros((len(room), 1)), gained[:, :-1]], axis=1)
    used = np.clip(lacking[:, None] - before, 0.0, room[:, order])
    reached = lacking <= gained[:, -1] * (1 + 1e-12) if len(order) else lacking <= 0
    return np.asarray(np.where(reached, base + used @ price[order], np.inf))
