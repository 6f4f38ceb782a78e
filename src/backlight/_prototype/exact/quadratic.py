r"""Linear and quadratic f with a quadratic prior: closed forms, quadratic programs, branch and bound.

In v with x = mean + Lv and strength · Ω = ½‖v‖²:

* f = w·x + b: :math:`v^* = L^\mathsf{T}w`, that is x* = mean + Σw / strength;
* f = ½ δᵀHδ + w·δ + b: :math:`v^* = (I - L^\mathsf{T}HL)^{-1} L^\mathsf{T}(w + H(\text{mean} - m))`, where
  :math:`M = I - L^\mathsf{T}HL` is positive definite; a negative eigenvalue is a direction of growth without end;
* bounds and linear rules: the point of a polyhedron nearest to v* in the metric of M; for a diagonal prior with bounds
  alone that is clipping, for a correlated one it is not;
* whole numbers and one-hot groups: branch and bound over such programs.

Source: Boyd, Vandenberghe, "Convex optimization" (2004), 9.1 and 4.4.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass

import numpy as np

from backlight._prototype.formula import Linear, Quadratic
from backlight._prototype.problem import Certificate, Found, Problem
from backlight._prototype.qp import nearest
from backlight.constraints import Region
from backlight.errors import Infeasible, Unbounded

__all__ = ["Form", "branch", "inequalities", "quadratic"]

# An eigenvalue this near to zero, relative to 1 + the largest, is zero but for rounding.
_FLAT = 1e-10
_NODES = 20_000
_WHOLE = 1e-7


def quadratic(problem: Problem) -> Found | None:
    """See the module."""
    formula, white = problem.formula, problem.white
    if white is None or not (problem.smallest or isinstance(formula, Linear | Quadratic)):
        return None
    if (problem.region.margin is not None and problem.rivals is None) or problem.region.few:
        return None
    if white.diagonal and isinstance(formula, Linear) and not problem.smallest and _box_only(problem.region):
        return _clipped(problem, formula)
    form = _form(problem)
    if form is None:
        return None
    region = problem.region
    if region.free:
        x, unique = form.free, form.unique
        notes = [] if unique else ["the maximum is not unique: the point nearest to the prior's centre is given"]
        return Found(x, "exact", Certificate("closed form", 0.0, True), problem.code_of(x), notes=notes)
    if not region.mixed:
        solved = form.inside(region.low, region.high)
        if solved is None:
            raise Infeasible(_nowhere(problem))
        x = np.clip(solved[1], region.low, region.high)
        return Found(x, "exact", Certificate("duality gap", solved[2], True), problem.code_of(x))
    return branch(problem, form)


def _box_only(region: Region) -> bool:
    return not (region.mixed or region.rules or region.margin is not None)


def _clipped(problem: Problem, formula: Linear) -> Found:
    """A diagonal prior takes columns one by one: the bounds clip each."""
    white = problem.white
    assert white is not None
    scale, mean = white.factor.numpy(), white.mean.numpy()
    low, high = problem.region.low, problem.region.high
    fixed = (scale == 0) & ((mean < low) | (mean > high))
    if fixed.any():
        i = int(np.flatnonzero(fixed)[0])
        raise Infeasible(
            f"the prior keeps {problem.names[i]!r} at {mean[i]:g}, outside its bounds [{low[i]:g}, {high[i]:g}]"
        )
    x = np.clip(mean + scale**2 * formula.w, low, high)
    return Found(x, "exact", Certificate("closed form", 0.0, True), problem.code_of(x))


def inequalities(problem: Problem, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """G and h of Gx ≥ h: bounds, linear rules, and the decision where it is linear."""
    d = len(low)
    eye = np.eye(d)
    rows, right = [], []
    below, above = np.isfinite(low) & (low < high), np.isfinite(high) & (low < high)
    rows += [eye[below], -eye[above], -problem.region.A]
    right += [low[below], -high[above], -problem.region.b]
    if problem.region.margin is not None:
        for w, b in problem.rivals or []:
            rows.append(w[None])
            right.append(np.array([-b]))
    return np.concatenate(rows), np.concatenate(right)


@dataclass
class Form:
    """min ½‖y − y0‖² with x = base + B y: the problem in the metric of its own curvature.

    ``offset`` − ½‖y − y0‖² is f − strength · Ω but for a constant.
    """

    problem: Problem
    base: np.ndarray
    B: np.ndarray
    y0: np.ndarray
    unique: bool

    @property
    def free(self) -> np.ndarray:
        return np.asarray(self.base + self.B @ self.y0)

    def inside(self, low: np.ndarray, high: np.ndarray) -> tuple[float, np.ndarray, float] | None:
        """Cost ½‖y − y0‖², point and gap within bounds and rules."""
        region = self.problem.region
        G, h = inequalities(self.problem, low, high)
        same = low == high
        E = np.concatenate([region.E, np.eye(len(low))[same]])
        e = np.concatenate([region.e, low[same]])
        found = nearest(self.y0, G @ self.B, h - G @ self.base, E @ self.B, e - E @ self.base)
        if found is None:
            return None
        step = found.v - self.y0
        return 0.5 * float(step @ step), self.base + self.B @ found.v, found.gap


def _form(problem: Problem) -> Form | None:
    white, formula = problem.white, problem.formula
    assert white is not None
    mean, L = white.mean.numpy(), white.matrix()
    k = L.shape[1]
    if problem.smallest:
        return Form(problem, mean, L, np.zeros(k), True)
    if isinstance(formula, Linear):
        return Form(problem, mean, L, L.T @ formula.w, True)
    assert isinstance(formula, Quadratic)
    M = np.eye(k) - L.T @ formula.H @ L
    g = L.T @ (formula.w + formula.H @ (mean - formula.m))
    values, vectors = np.linalg.eigh((M + M.T) / 2)
    flat = _FLAT * max(1.0, float(np.abs(values).max()))
    if values[0] < -flat:
        if problem.region.boxed:
            return None  # a maximum exists, but not by this road
        needed = problem.strength * (1 - float(values[0]))
        raise Unbounded(
            f"f curves upwards more than the prior holds: along one direction f − strength·Ω grows without end "
            f"(curvature {-float(values[0]):.3g} > 0). Give strength > {needed:.4g}, or bounds"
        )
    null = np.abs(values) <= flat
    inside = vectors.T @ g
    if null.any():
        if np.abs(inside[null]).max() > 1e-8 * (1 + np.abs(inside).max()):
            raise Unbounded(
                "the prior holds f's curvature just so, and f grows linearly along that direction: give a larger "
                "strength, or bounds"
            )
        if not problem.region.free:
            return None
        y = np.where(null, 0.0, inside / np.where(null, 1.0, values))
        return Form(problem, mean, L @ vectors, y, False)
    root = np.sqrt(values)
    return Form(problem, mean, L @ vectors / root, inside / root, True)


def branch(problem: Problem, form: Form) -> Found:
    """Best-first branch and bound over one-hot groups and whole numbers."""
    region = problem.region
    counter = itertools.count()
    first = form.inside(region.low, region.high)
    if first is None:
        raise Infeasible(_nowhere(problem))
    queue = [(first[0], next(counter), region.low, region.high, first[1], first[2])]
    best, best_x, visited, slack = math.inf, None, 0, 0.0
    while queue and visited < _NODES:
        cost, _, low, high, x, gap = heapq.heappop(queue)
        if cost - gap >= best:
            break
        visited += 1
        children = _children(region, low, high, x)
        if children is None:
            if cost < best:
                best, best_x, slack = cost, x, gap
            continue
        for low_, high_ in children:
            solved = form.inside(low_, high_)
            if solved is not None and solved[0] - solved[2] < best:
                heapq.heappush(queue, (solved[0], next(counter), low_, high_, solved[1], solved[2]))
    if best_x is None:
        raise Infeasible(_nowhere(problem))
    bound = min([cost - gap for cost, *_, gap in queue], default=best)
    value = max(0.0, best - min(best, bound)) + slack
    whole = [i for group in region.groups for i in group] + region.integers
    best_x = np.clip(best_x, region.low, region.high)
    best_x[whole] = np.round(best_x[whole])
    return Found(
        best_x, "exact" if value <= 1e-9 * (1 + best) else "global" if value <= 1e-5 else "local",
        Certificate("branch and bound", value, True), problem.code_of(best_x), notes=[f"{visited} nodes"],
    )  # fmt: skip


def _children(
    region: Region, low: np.ndarray, high: np.ndarray, x: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """The pieces of a node whose point is not whole; None where it is."""
    worst, chosen = _WHOLE, None
    for group in region.groups:
        off = 1 - float(np.max(x[group]))
        if off > worst:
            worst, chosen = off, group
    if chosen is not None:
        pieces = []
        for one in chosen:
            if high[one] >= 1 and not any(low[i] > 0 for i in chosen if i != one):
                low_, high_ = low.copy(), high.copy()
                high_[chosen], low_[chosen] = 0.0, 0.0
                low_[one] = high_[one] = 1.0
                pieces.append((low_, high_))
        return pieces
    fraction = [abs(x[i] - round(x[i])) for i in region.integers]
    if fraction and max(fraction) > _WHOLE:
        i = region.integers[int(np.argmax(fraction))]
        below, above = (low.copy(), high.copy()), (low.copy(), high.copy())
        below[1][i], above[0][i] = math.floor(x[i]), math.ceil(x[i])
        return [piece for piece in (below, above) if piece[0][i] <= piece[1][i]]
    return None


def _nowhere(problem: Problem) -> str:
    said = "no input satisfies the bounds and constraints"
    white = problem.white
    if white is not None and white.width < problem.dimension:
        said += (
            f", or none on the {white.width}-dimensional subspace of {problem.dimension} that the prior or the code "
            "allows"
        )
    if problem.region.margin is not None:
        said += f" with the decision {problem.objective.name!r}"
    return said
