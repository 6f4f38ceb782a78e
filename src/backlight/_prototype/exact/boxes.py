"""Branch and bound over boxes of a sum of trees, for quadratic Ω that is no sum over columns, and linear rules.

A box is a set of pieces for every column. Its bound is the least Ω in it, a quadratic program; it is given up where
even the best leaves that it reaches do not add up to the decision. The first box whose own best point is decided as
asked is the optimum, since boxes come in the order of their bounds. Otherwise it is cut at the split that stands
between that point and the best leaf of the tree that gains most by it: the half with the point keeps its bound.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from dataclasses import replace

import numpy as np
import torch

from backlight._prototype.choices import choices
from backlight._prototype.ensemble import EnsembleSubject
from backlight._prototype.exact.leaf_search import center_of, costs, kept, linear_rules
from backlight._prototype.exact.quadratic import Form, branch
from backlight._prototype.problem import Problem
from backlight.errors import Infeasible

__all__ = ["Boxes"]

_SECONDS = 20.0

Active = tuple[np.ndarray, ...]
"""Which pieces of each choice a box has."""


class Boxes:
    """The boxes of one problem, whose Ω alone counts."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.center = problem, center_of(problem)
        subject = problem.subject
        assert isinstance(subject, EnsembleSubject)
        assert problem.white is not None
        few = problem.region.few
        self.splits = choices(problem, self.center if few else None)
        self.table = table = subject.trees.table
        self.inner = [
            np.array([n for n, (k, _) in self.splits.node.items() if k == c], dtype=int)
            for c in range(len(self.splits.choices))
        ]
        self.left = [
            np.array([self.splits.node[int(n)][1] for n in nodes]).reshape(len(nodes), len(choice))
            for nodes, choice in zip(self.inner, self.splits.choices, strict=True)
        ]
        self.levels = _levels(table.left, table.right, table.leaf, table.roots)
        # what each leaf adds to each lead, and what leads start from
        outputs = torch.as_tensor(table.values @ subject.directions.T)
        base = torch.as_tensor(subject.directions @ subject.trees.bias)[None]
        if problem.region.margin is None:
            self.gain, self.start = np.zeros((len(table.left), 1)), np.zeros(1)
        else:
            assert problem.objective.wanted is not None
            zero = subject.leads(torch.zeros_like(base), problem.objective.wanted)
            self.gain = (subject.leads(outputs, problem.objective.wanted) - zero).numpy()
            self.start = subject.leads(base, problem.objective.wanted)[0].numpy() - problem.region.margin
        E, e = linear_rules(problem)
        self.region = replace(problem.region, groups=[], E=E, e=e, margin=None, sparse=None, excluded=[])
        white = problem.white
        small = replace(problem, region=self.region)
        self.form = Form(small, white.mean.numpy(), white.matrix(), np.zeros(white.width), True)
        self.home = [
            (choice.at(self.center) == self.center[choice.columns]).all(1) if few else np.zeros(len(choice), dtype=bool)
            for choice in self.splits.choices
        ]

    def best(self, most: float) -> tuple[np.ndarray | None, float, int]:
        """The input of least Ω below ``most``, the least Ω there can be, and how many boxes were looked at.

        The bound is inf where nothing below ``most`` was left.
        """
        counter, visited = itertools.count(), 0
        end = time.monotonic() + _SECONDS
        whole = tuple(np.ones(len(choice), dtype=bool) for choice in self.splits.choices)
        queue: list[tuple[float, int, Active, np.ndarray | None]] = [(0.0, next(counter), whole, None)]
        while queue:
            cost, _, active, x = heapq.heappop(queue)
            if cost >= most:
                return None, most, visited
            if time.monotonic() > end:
                return None, cost, visited
            visited += 1
            best = self._reachable(active)
            if best is None:
                continue
            if x is None:
                solved = self._point(active)
                if solved is None or solved[0] >= most:
                    continue
                cost, x = solved
                if queue and cost > queue[0][0]:
                    heapq.heappush(queue, (cost, next(counter), active, x))
                    continue
            parts = self._between(active, x)
            if parts is None:
                if bool(kept(self.problem, x[None])[0]):
                    return x, cost, visited
                parts = self._cut(active, x, best)
            for part, there in parts:
                heapq.heappush(queue, (cost, next(counter), part, x if there else None))
        return None, most, visited

    def _reachable(self, active: Active) -> np.ndarray | None:
        """The most that each node adds to each lead within a box, (N, rivals); None where that is not enough."""
        table = self.table
        to_left, to_right = np.zeros(len(table.left), dtype=bool), np.zeros(len(table.left), dtype=bool)
        for nodes, left, some in zip(self.inner, self.left, active, strict=True):
            if not some.any():
                return None
            if len(nodes):
                to_left[nodes] = left[:, some].any(1)
                to_right[nodes] = (~left[:, some]).any(1)
        region = self.problem.region
        if region.sparse is not None:
            surely = sum(not (some & home).any() for some, home in zip(active, self.home, strict=True))
            if surely > region.sparse:
                return None
        best = self.gain.copy()
        for nodes in self.levels:
            left = np.where(to_left[nodes, None], best[table.left[nodes]], -math.inf)
            right = np.where(to_right[nodes, None], best[table.right[nodes]], -math.inf)
            best[nodes] = np.maximum(left, right)
        top = self.start + best[table.roots].sum(0)
        slack = 1e-9 * (1 + np.abs(self.start))
        return best if bool((top >= -slack).all()) else None

    def _point(self, active: Active) -> tuple[float, np.ndarray] | None:
        """The least Ω in a box, and where."""
        low, high = self.problem.region.low.copy(), self.problem.region.high.copy()
        for choice, some in zip(self.splits.choices, active, strict=True):
            low[choice.columns], high[choice.columns] = choice.low[some].min(0), choice.high[some].max(0)
        if self.region.integers:
            try:
                whole = branch(replace(self.form.problem, region=replace(self.region, low=low, high=high)), self.form)
            except Infeasible:
                return None
            return max(0.0, float(costs(self.problem, whole.x[None])[0]) - whole.certificate.value), whole.x
        found = self.form.inside(low, high)
        return None if found is None else (max(0.0, found[0] - found[2]), np.clip(found[1], low, high))

    def _between(self, active: Active, x: np.ndarray) -> list[tuple[Active, bool]] | None:
        """The parts of a box whose point lies between pieces; None where it lies in one of each choice."""
        for k, (choice, some) in enumerate(zip(self.splits.choices, active, strict=True)):
            at = x[choice.columns]
            if bool((((choice.low <= at) & (at <= choice.high)).all(1) & some).any()):
                continue
            if len(choice.columns) > 1:
                return [(_only(active, k, np.arange(len(choice)) == n), False) for n in np.flatnonzero(some)]
            below = choice.high[:, 0] < at[0]
            return [(_only(active, k, side), False) for side in (below, ~below) if (side & some).any()]
        return None

    def _cut(self, active: Active, x: np.ndarray, best: np.ndarray) -> list[tuple[Active, bool]]:
        """The parts of a box at a split, and whether its own point is in each."""
        here = [
            int(np.flatnonzero(((c.low <= x[c.columns]) & (x[c.columns] <= c.high)).all(1) & some)[0])
            for c, some in zip(self.splits.choices, active, strict=True)
        ]
        cut = self._split(here, best) or self._changed(active, x)
        if cut is None:
            return []
        k, side = cut
        parts = [(_only(active, k, side), bool(side[here[k]])), (_only(active, k, ~side), not side[here[k]])]
        return [(part, there) for part, there in parts if part[k].any()]

    def _split(self, here: list[int], best: np.ndarray) -> tuple[int, np.ndarray] | None:
        """The split that keeps a point from the leaf that its lead gains most by."""
        table, worst = self.table, None
        lead = self.start.copy()
        for root in table.roots:
            node = int(root)
            while not table.leaf[node]:
                k, left = self.splits.node[node]
                node = int(table.left[node] if left[here[k]] else table.right[node])
            lead += self.gain[node]
        rival = int(lead.argmin())
        if lead[rival] >= 0:
            return None
        for root in table.roots:
            node, found = int(root), None
            gain = best[node, rival]
            while not table.leaf[node]:
                k, left = self.splits.node[node]
                child = int(table.left[node] if left[here[k]] else table.right[node])
                other = int(table.right[node] if left[here[k]] else table.left[node])
                if best[child, rival] < best[node, rival] and found is None and best[other, rival] == gain:
                    found = (k, left)
                node = child
            size = gain - self.gain[node, rival]
            if found is not None and (worst is None or size > worst[0]):
                worst = size, found
        return None if worst is None else worst[1]

    def _changed(self, active: Active, x: np.ndarray) -> tuple[int, np.ndarray] | None:
        """A column that has changed and need not have."""
        for k, (some, home) in enumerate(zip(active, self.home, strict=True)):
            columns = self.splits.choices[k].columns
            if (some & home).any() and (some & ~home).any() and (x[columns] != self.center[columns]).any():
                return k, home
        return None


def _only(active: Active, k: int, some: np.ndarray) -> Active:
    return tuple(own & some if n == k else own for n, own in enumerate(active))


def _levels(left: np.ndarray, right: np.ndarray, leaf: np.ndarray, roots: np.ndarray) -> list[np.ndarray]:
    """Inner nodes, children before parents."""
    found, level = [], roots[~leaf[roots]]
    while len(level):
        found.append(level)
        below = np.concatenate([left[level], right[level]])
        level = below[~leaf[below]]
    return found[::-1]
