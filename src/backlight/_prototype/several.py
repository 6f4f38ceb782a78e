r"""Several answers for one target, the best first and each different from those before.

By columns: each next one leaves some column alone of all that any one before has changed. By distance: each next one
differs from every one before by at least δ standard deviations in some column (or has another category), which is a
choice among boxes,

.. math::  x_i \ge x^{(j)}_i + \delta s_i \quad\text{or}\quad x_i \le x^{(j)}_i - \delta s_i
           \quad\text{for some } i,\ \text{for every earlier } x^{(j)}

so that branch and bound over boxes, best first, finds the best of all wherever one box is solved exactly.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from backlight._prototype.problem import Found, Problem
from backlight.constraints import Region
from backlight.errors import ArgumentError, Infeasible, NotFound
from backlight.priors import L1, Prior

__all__ = ["center_of_prior", "several"]

# Less than this, relative to 1 + the centre, is rounding and no change.
_MOVED = 1e-9
# Boxes that are solved for one answer.
_MOST_BOXES = 400

Solve = Callable[[Problem], Found]


def center_of_prior(prior: Prior | None) -> np.ndarray | None:
    """What fixed columns keep, and changed ones are counted from."""
    if isinstance(prior, L1):
        return None if prior.center is None else prior.center.numpy()
    own = None if prior is None else prior.whitening()
    return None if own is None else own.mean.numpy()


def several(
    problems: list[Problem], found: list[Found], solve: Solve, count: int, apart: float | None
) -> tuple[list[Problem], list[Found]]:
    """Up to so many for each target; each with the problem that it answers.

    Raises
    ------
    ArgumentError
        Changes are to be counted, and the prior has no centre; or nothing says how far a standard deviation is.
    """
    every: list[tuple[Problem, Found]] = []
    for problem, first in zip(problems, found, strict=True):
        every.append((problem, first))
        if np.isfinite(first.x).all():
            next_ones = _by_columns if apart is None else _by_distance
            every += next_ones(problem, first, solve, count - 1, apart)
    return [problem for problem, _ in every], [one for _, one in every]


def _by_columns(
    problem: Problem, first: Found, solve: Solve, count: int, _: float | None
) -> list[tuple[Problem, Found]]:
    center = center_of_prior(problem.prior)
    if center is None:
        raise ArgumentError(
            "count= counts changes from the prior's centre: give priors.Near(row) or priors.L1(center=), or apart="
        )
    together = {i: group[0] for group in problem.region.groups for i in group}
    excluded, last, every = list(problem.region.excluded), first, []
    for _ in range(count):
        moved = np.flatnonzero(np.abs(last.x - center) > _MOVED * (1 + np.abs(center))).tolist()
        if not moved or not np.isfinite(last.x).all():
            break
        excluded = [*excluded, tuple(sorted({together.get(i, i) for i in moved}))]
        other = replace(problem, region=replace(problem.region, excluded=excluded))
        try:
            last = solve(other)
        except (Infeasible, NotFound):
            break
        every.append((other, last))
    return every


def _by_distance(
    problem: Problem, first: Found, solve: Solve, count: int, apart: float | None
) -> list[tuple[Problem, Found]]:
    assert apart is not None
    tree = _Boxes(problem, first, apart * _spread(problem), solve)
    return list(itertools.islice(iter(tree.next, None), count))


def _spread(problem: Problem) -> np.ndarray:
    """One standard deviation of each column: the data's, or the prior's own."""
    if problem.data is not None:
        return np.asarray(problem.data.flatten(1).std(0, correction=0).numpy())
    own = None if problem.prior is None else problem.prior.spread()
    if own is None or len(own.mean) != problem.dimension:
        raise ArgumentError("apart= is counted in standard deviations of the data: give data=")
    L = own.factor
    return np.asarray((L.abs() if L.ndim == 1 else L.square().sum(1).sqrt()).numpy())


class _Boxes:
    """Boxes that together hold everything apart from the answers so far, each with what its Ω is at least."""

    def __init__(self, problem: Problem, first: Found, step: np.ndarray, solve: Solve) -> None:
        self.step, self.solve, self.number = step, solve, itertools.count()
        self.before, self.proved = [first.x], first.status == "exact"
        self.queue: list[tuple[float, int, Problem, Found | None]] = []
        self._add(_cost(problem, first.x), problem, first)

    def _add(self, cost: float, box: Problem, found: Found | None) -> None:
        heapq.heappush(self.queue, (cost, next(self.number), box, found))

    def next(self) -> tuple[Problem, Found] | None:
        """The best input that is apart from all before, and the box that it was found in; None where there is none."""
        solved = 0
        while self.queue:
            cost, _, box, found = heapq.heappop(self.queue)
            if found is None:
                if solved >= _MOST_BOXES:
                    self.proved = False
                    continue
                solved += 1
                try:
                    found = self.solve(box)
                except Infeasible:
                    continue
                except NotFound:
                    self.proved = False
                    continue
                self.proved &= found.status == "exact"
                self._add(max(cost, _cost(box, found.x)), box, found)
                continue
            near = next((x for x in self.before if not _apart(found.x, x, self.step, box.region)), None)
            if near is not None:
                for region in _halves(box.region, near, self.step):
                    self._add(cost, replace(box, region=region), None)
                continue
            self.before.append(found.x)
            self._add(cost, box, found)
            note = f"{solved} boxes apart from the {len(self.before) - 1} before"
            status = found.status if self.proved else "local"
            certificate = replace(found.certificate, bound=found.certificate.bound and self.proved)
            return box, replace(found, status=status, certificate=certificate, notes=[*found.notes, note])
        return None


def _cost(problem: Problem, x: np.ndarray) -> float:
    """Ω, or −(f − strength · Ω), of an input."""
    point = torch.as_tensor(x).reshape(1, *problem.shape)
    with torch.no_grad():
        z = torch.as_tensor(problem.code_of(x))[None]
        omega = float(problem.energy(point, z)[0])
        return omega if problem.smallest else problem.strength * omega - float(problem.target(point)[0])


def _apart(x: np.ndarray, before: np.ndarray, step: np.ndarray, region: Region) -> bool:
    """Whether some column differs by its step, or by a category."""
    grouped = [i for group in region.groups for i in group]
    size = np.abs(x - before)
    if grouped and size[grouped].max() > 0.5:
        return True
    rest = np.setdiff1d(np.arange(len(x)), grouped)
    # a column without a spread tells nothing apart
    rest = rest[step[rest] > 0]
    return bool((size[rest] >= step[rest] * (1 - 1e-6)).any())


def _halves(region: Region, before: np.ndarray, step: np.ndarray) -> list[Region]:
    """The boxes that together hold all that is apart from an input."""
    grouped = [i for group in region.groups for i in group]
    found = []
    for i in range(len(before)):
        if step[i] == 0:
            continue
        sides = [(before[i] + step[i], region.high[i]), (region.low[i], before[i] - step[i])]
        if i in grouped:  # any other category
            sides = [(1.0, 1.0)] if before[i] < 0.5 else []
        for least, most in sides:
            low, high = region.low.copy(), region.high.copy()
            low[i], high[i] = max(low[i], least), min(high[i], most)
            if i in region.integers:
                low[i], high[i] = math.ceil(low[i] - _MOVED), math.floor(high[i] + _MOVED)
            if low[i] <= high[i]:
                found.append(replace(region, low=low, high=high))
    return found
