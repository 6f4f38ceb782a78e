r"""Sums of trees: a mixed-integer program over the pieces of the columns and the leaves of the trees.

A column of numbers with pieces 0 … K has binary variables μ_1 ≥ … ≥ μ_K, of which μ_k says that x lies in piece k or
above; a one-hot group has one variable a category. Each leaf has y ≥ 0, those of a tree add up to one, and at every
split

.. math::  \sum_{l \text{ left}} y_l \le [\text{left}], \qquad \sum_{l \text{ right}} y_l \le 1 - [\text{left}]

where [left] is a linear function of the column's variables. Leaves then are where x is, and scores are linear in y
(Cui, Chen, He, Chen, KDD 2015; Parmentier, Vidal, "Optimal counterfactual explanations in tree ensembles", ICML 2021).
Where Ω takes columns one by one, each piece has one cost and no number x is needed in the program at all; a correlated
quadratic Ω and linear rules get one. The answer is the best point of the pieces found; it is compared with the model
itself, and where rounding has let a program through, that one combination of leaves is excluded and the search goes on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from backlight._prototype.choices import Choice, choices
from backlight._prototype.ensemble import EnsembleSubject
from backlight._prototype.exact.boxes import Boxes
from backlight._prototype.exact.leaf_search import center_of, costs, kept, linear_rules, search, separable
from backlight._prototype.exact.mixed_integer import penalty
from backlight._prototype.exact.program import Program, Squares, settled
from backlight._prototype.exact.trees import inside
from backlight._prototype.problem import Certificate, Found, Problem
from backlight.errors import ArgumentError, Infeasible, NotFound

__all__ = ["Leaves", "ensembles"]

# Larger programs are left to the search; of those below, the solver's time is limited.
_MOST_LEAVES = 6000
_SECONDS = 20.0
_EXCLUDED = 20
# The least lead that a row of the program stands for, far above the solver's tolerance of 1e-6.
_LEAD = 1e-2


def ensembles(problem: Problem) -> Found | None:
    """See the module."""
    subject = problem.subject
    if not isinstance(subject, EnsembleSubject):
        return None
    start = search(problem)
    if int(subject.trees.table.leaf.sum()) > _MOST_LEAVES:
        if start is None:
            raise NotFound(
                f"a search over the {subject.kind} found no input with the decision {problem.objective.name!r}; there "
                "may be one"
            )
        return start
    known = None if start is None else start.x
    if problem.white is not None and problem.smallest and not separable(problem):
        solved, least, looked = Boxes(problem).best(math.inf if known is None else -value_of(problem, known))
        bound, kind, told = -least, "branch and bound", f"{looked} boxes"
    else:
        _bounded(problem)
        solved, bound = Leaves(problem).best()
        kind, told = "MILP gap", "a mixed-integer program"
    best = _better(problem, solved, known)
    if best is None:
        if bound == -math.inf:
            raise Infeasible(_nowhere(problem))
        raise NotFound(f"the solver found no input with the decision {problem.objective.name!r} in time")
    gap = max(0.0, bound - value_of(problem, best))
    size = 1 + abs(value_of(problem, best))
    status = "exact" if gap <= 1e-6 * size else "global" if gap <= 1e-4 * size else "local"
    notes = [f"{subject.trees.table.leaf.sum()} leaves of {len(subject.trees.table.roots)} trees, {told}"]
    return Found(best, status, Certificate(kind, gap, True), best, notes=notes)


def value_of(problem: Problem, x: np.ndarray) -> float:
    """F − strength · Ω of an input, of Gaussian priors without their constant."""
    found = -float(costs(problem, x[None])[0])
    if not problem.smallest:
        found += float(problem.target(torch.as_tensor(x).reshape(1, *problem.shape))[0])
    return found


def _better(problem: Problem, *found: np.ndarray | None) -> np.ndarray | None:
    known = [x for x in found if x is not None]
    return max(known, key=lambda x: value_of(problem, x)) if known else None


def _nowhere(problem: Problem) -> str:
    decided = f" with the decision {problem.objective.name!r}" if problem.region.margin is not None else ""
    return f"no input satisfies the bounds and constraints{decided}"


def _bounded(problem: Problem) -> None:
    """Refuse what needs numbers in the program where nothing bounds them."""
    if not separable(problem) and not problem.region.boxed:
        raise ArgumentError(
            "linear rules, or a correlated prior and f together, need bounds on every column of trees: give "
            "bounds='data'"
        )


Part = tuple[np.ndarray, np.ndarray, float]
"""A linear function of variables: where, weights, constant."""


class Leaves:
    """The program of one problem.

    Attributes
    ----------
    excluded : int
        Combinations of leaves that a program let through and the model did not.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.program, self.excluded = problem, Program(), 0
        assert isinstance(problem.subject, EnsembleSubject)
        self.subject = problem.subject
        self.center, self.plain = center_of(problem), separable(problem)
        region = problem.region
        few = region.few
        self.splits = choices(problem, self.center if few and not self.plain else None)
        self.variables = [self._variables(choice) for choice in self.splits.choices]
        self.leaves = [self._tree(int(root)) for root in self.subject.trees.table.roots]
        self.constant = self._score()
        self.squares: Squares | None = None
        if self.plain:
            self._priced()
        else:
            self._numbers()
        if few:
            self._changes()

    def _variables(self, choice: Choice) -> list[int]:
        program, K = self.program, len(choice)
        if len(choice.columns) == 1:
            steps = [program.add(0.0, 1.0, whole=True) for _ in range(K - 1)]
            for a, b in itertools.pairwise(steps):
                program.row(np.array([a, b]), np.array([1.0, -1.0]), 0.0, math.inf)
            return steps
        ones = [program.add(0.0, 1.0, whole=True) for _ in range(K)]
        program.row(np.array(ones), np.ones(K), 1.0, 1.0)
        return ones

    def of(self, k: int, numbers: np.ndarray) -> Part:
        """What has one of K numbers by the piece of a choice, as a linear function."""
        where = np.array(self.variables[k], dtype=int)
        ordered = len(self.splits.choices[k].columns) == 1
        weights, constant = (np.diff(numbers), float(numbers[0])) if ordered else (np.asarray(numbers), 0.0)
        used = np.flatnonzero(weights)
        return where[used], weights[used], constant

    def _tree(self, root: int) -> dict[int, int]:
        """The variables of the leaves of a tree that can be reached."""
        table, found = self.subject.trees.table, {}

        def below(node: int, pieces: dict[int, np.ndarray]) -> list[int]:
            if table.leaf[node]:
                found[node] = self.program.add(0.0, 1.0)
                return [found[node]]
            k, left = self.splits.node[node]
            here = pieces.get(k, np.ones(len(left), dtype=bool))
            sides = []
            for child, side in ((int(table.left[node]), left), (int(table.right[node]), ~left)):
                sides.append(below(child, pieces | {k: here & side}) if (here & side).any() else [])
            if sides[0] and sides[1]:
                where, weights, constant = self.of(k, left.astype(float))
                for leaves, sign, level in ((sides[0], -1.0, constant), (sides[1], 1.0, 1 - constant)):
                    place = np.append(np.array(leaves), where)
                    self.program.row(place, np.append(np.ones(len(leaves)), sign * weights), -math.inf, level)
            return sides[0] + sides[1]

        every = below(root, {})
        self.program.row(np.array(every), np.ones(len(every)), 1.0, 1.0)
        return found

    def _score(self) -> float:
        """The decision's rows, and f in the objective; the constant of f."""
        problem, trees = self.problem, self.subject.trees
        of_outputs = self.subject.directions
        nodes = np.array([node for leaves in self.leaves for node in leaves])
        places = np.array([place for leaves in self.leaves for place in leaves.values()])
        outputs, base = trees.table.values[nodes] @ of_outputs.T, of_outputs @ trees.bias
        if problem.region.margin is not None:
            assert problem.objective.wanted is not None
            probe = torch.as_tensor(np.concatenate([np.zeros((1, len(base))), np.eye(len(base))]))
            leads = self.subject.leads(probe, problem.objective.wanted).numpy()
            slopes, start = leads[1:] - leads[0], leads[0]
            scale = max(1.0, _LEAD / max(problem.region.margin, 1e-9))
            for column, shift in zip(slopes.T, start, strict=True):
                least = problem.region.margin - shift - float(base @ column)
                self.program.row(places, scale * (outputs @ column), scale * least, math.inf)
        if problem.smallest:
            return 0.0
        weights = problem.objective.coefficients(len(self.subject.outputs))
        if weights is None:
            raise ArgumentError("of trees targets are their outputs: logit(class), or sums of them")
        for place, gain in zip(places, outputs @ np.array(weights), strict=True):
            self.program.gain[int(place)] = float(gain)
        return float(base @ np.array(weights))

    def _priced(self) -> None:
        """One cost a piece."""
        start = float(costs(self.problem, self.center[None])[0])
        for k, choice in enumerate(self.splits.choices):
            rows = np.tile(self.center, (len(choice), 1))
            rows[:, choice.columns] = choice.at(self.center)
            price = costs(self.problem, rows) - start
            free = np.isfinite(price)
            for n in np.flatnonzero(~free):
                self._without(k, int(n))
            where, weights, constant = self.of(k, np.where(free, price, 0.0))
            for place, weight in zip(where, weights, strict=True):
                self.program.gain[int(place)] = -float(weight)
            self.constant -= constant
        self.constant -= start

    def _without(self, k: int, piece: int) -> None:
        """A piece is left out."""
        where, weights, constant = self.of(k, np.eye(len(self.splits.choices[k]))[piece])
        self.program.row(where, weights, -math.inf, -constant)

    def _numbers(self) -> None:
        """Numbers within the pieces, for linear rules and a prior that is no sum over columns."""
        region, x = self.problem.region, np.zeros(self.problem.dimension, dtype=int)
        for k, choice in enumerate(self.splits.choices):
            for n, i in enumerate(choice.columns):
                low = np.maximum(choice.low[:, n], region.low[i])
                high = np.minimum(choice.high[:, n], region.high[i])
                x[i] = self.program.add(float(low.min()), float(high.max()), choice.whole)
                for numbers, sides in ((low, (0.0, math.inf)), (high, (-math.inf, 0.0))):
                    where, weights, constant = self.of(k, numbers)
                    place = np.append(where, x[i])
                    ends = (side + constant if side == 0 else side for side in sides)
                    self.program.row(place, np.append(-weights, 1.0), *ends)
        for A, b in zip(region.A, region.b, strict=True):
            self.program.row(x, A, -math.inf, b)
        for E, e in zip(*linear_rules(self.problem), strict=True):
            self.program.row(x, E, e, e)
        self.x = x
        self.squares = penalty(self.program, self.problem, x)

    def _changes(self) -> None:
        """At most so many changed columns, and none of the sets that are excluded."""
        region = self.problem.region
        parts = []
        for k, choice in enumerate(self.splits.choices):
            parts.append(self.of(k, (choice.at(self.center) != self.center[choice.columns]).any(1).astype(float)))
        of_column = {i: k for k, choice in enumerate(self.splits.choices) for i in choice.columns}
        limits: list[tuple[Sequence[int], float]] = []
        if region.sparse is not None:
            limits.append((range(len(parts)), float(region.sparse)))
        limits += [(sorted({of_column[i] for i in columns}), len(columns) - 1.0) for columns in region.excluded]
        for which, most in limits:
            where = np.concatenate([parts[k][0] for k in which])
            weights = np.concatenate([parts[k][1] for k in which])
            self.program.row(where, weights, -math.inf, most - sum(parts[k][2] for k in which))

    def best(self) -> tuple[np.ndarray | None, float]:
        """The best input, None where there is none or none in time, and what no input exceeds; −inf: proved empty."""
        for _ in range(_EXCLUDED):
            result = settled(self.program, self.squares, _SECONDS)
            if result.status == 2:
                return None, -math.inf
            dual = getattr(result, "mip_dual_bound", None)
            bound = self.constant - float(dual if dual is not None else result.fun if result.x is not None else -np.inf)
            if result.x is None:
                return None, bound
            x = self._point(np.asarray(result.x))
            if x is not None and bool(kept(self.problem, x[None])[0]):
                return x, bound
            reached = [max(leaves.values(), key=lambda y: result.x[y]) for leaves in self.leaves]
            self.excluded += 1
            self.program.row(np.array(reached), np.ones(len(reached)), -math.inf, len(reached) - 1.0)
        return None, math.inf

    def _point(self, solution: np.ndarray) -> np.ndarray | None:
        """The best point of the pieces that a solution has chosen."""
        low, high = self.problem.region.low.copy(), self.problem.region.high.copy()
        x = self.center.copy()
        for k, choice in enumerate(self.splits.choices):
            mine = solution[self.variables[k]]
            piece = int(np.round(mine).sum()) if len(choice.columns) == 1 else int(mine.argmax())
            x[choice.columns] = choice.at(self.center)[piece]
            low[choice.columns], high[choice.columns] = choice.low[piece], choice.high[piece]
        if self.plain:
            return x
        if self.problem.white is None:
            polished = settled(self.program.fixed(solution), self.squares)
            return None if polished.x is None else np.clip(np.asarray(polished.x)[self.x], low, high)
        E, e = linear_rules(self.problem)
        region = replace(self.problem.region, groups=[], E=E, e=e)
        found = inside(replace(self.problem, region=region), (low, high))
        return None if found is None else found[1]
