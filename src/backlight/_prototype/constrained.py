"""Linear rules, decisions and whole numbers on models that are no formula: sequential quadratic programs.

The best starts of the free ascent and the rows nearest to the rules are taken; whole numbers are then changed one
column or group at a time while it helps, with the other columns free to follow.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.linalg import null_space
from scipy.optimize import nnls

from backlight._prototype.exact.quadratic import inequalities
from backlight._prototype.gradient_ascent import Batch
from backlight._prototype.optimizer import Best, adam, evaluate
from backlight._prototype.problem import Certificate, Found, Problem
from backlight._prototype.qp import nearest
from backlight.constraints import Region
from backlight.errors import ArgumentError, Infeasible, NotFound
from backlight.priors import Whitening

__all__ = ["constrained", "needs_programs"]

_LARGEST = 400
_STARTS = 3
_SATISFIED = 1e-6
_ROUNDS = 200
_RIVALS = 5
_PENALISED = 200
_HALVINGS = 40


def needs_programs(problem: Problem) -> bool:
    """Whether there is more than a box that the coordinates can be clipped to."""
    region = problem.region
    if region.rules or region.mixed or region.margin is not None:
        return True
    if not region.bounded:
        return False
    white = problem.white
    if problem.space.has_code:
        return True
    if white is None or white.diagonal:
        return False
    return white.width < problem.dimension - int(_still(white).sum())


def _still(white: Whitening) -> np.ndarray:
    """Columns that a prior never moves."""
    size = (white.factor.abs() if white.diagonal else white.factor.abs().amax(1)).numpy()
    return np.asarray(size <= 1e-12 * size.max())


def held(problem: Problem) -> Problem:
    """The problem with columns that its prior never moves fixed at their value, where there are bounds."""
    white, region = problem.white, problem.region
    if white is None or not region.bounded or problem.space.has_code:
        return problem
    still = _still(white)
    if not still.any():
        return problem
    mean = white.mean.numpy()
    outside = np.flatnonzero(still & ((mean < region.low) | (mean > region.high)))
    if len(outside):
        i = int(outside[0])
        raise Infeasible(
            f"the prior keeps {problem.names[i]!r} at {mean[i]:g}, outside its bounds [{region.low[i]:g}, "
            f"{region.high[i]:g}]"
        )
    return replace(
        problem, region=replace(region, low=np.where(still, mean, region.low), high=np.where(still, mean, region.high))
    )


def constrained(batch: Batch, v: torch.Tensor, values: torch.Tensor) -> Found:
    """What was found for the one target of a batch, from points (n, k) and their values."""
    problem, k = batch.one, v.shape[1]
    if k > _LARGEST:
        raise ArgumentError(
            f"linear rules, decisions and whole numbers are for up to {_LARGEST} columns, not {k}: give bounds alone"
        )
    if problem.space.has_code and problem.space.affine() is None:
        raise ArgumentError("bounds and constraints on x cannot be kept by a decoder: leave them out")
    order = torch.argsort(values, descending=True)[:_STARTS]
    return _one(batch, [v[int(i)].numpy() for i in order])


class _Program:
    """J and the rules of one problem in the batch's coordinates."""

    def __init__(self, batch: Batch) -> None:
        self.batch, self.problem = batch, batch.one
        k = batch.width
        zero = torch.zeros(1, k, dtype=torch.float64)
        with torch.no_grad():
            self.base = batch.input(zero).flatten().double().numpy()
            step = batch.input(torch.eye(k, dtype=torch.float64)).flatten(1).double().numpy()
        self.B = (step - self.base).T

    def x(self, v: np.ndarray) -> np.ndarray:
        return np.asarray(self.base + self.B @ v)

    def rounded(self, v: np.ndarray) -> np.ndarray:
        """The input of coordinates, within its bounds and with its whole numbers whole."""
        return np.asarray(self.snapped(self.x(v)[None])[0])

    def snapped(self, rows: np.ndarray) -> np.ndarray:
        """Rows within the bounds, whole numbers and groups rounded."""
        region = self.problem.region
        found: np.ndarray = np.clip(rows, region.low, region.high)
        found[:, region.integers] = np.round(found[:, region.integers])
        for group in region.groups:
            chosen = np.argmax(found[:, group], axis=1)
            found[:, group] = np.eye(len(group))[chosen]
        return found

    def holds(self, x: np.ndarray) -> bool:
        """Whether an input satisfies everything, the decision included."""
        return bool(self.holding(x[None])[0])

    def holding(self, rows: np.ndarray) -> np.ndarray:
        """Which rows satisfy everything."""
        problem = self.problem
        size = 1e-7 * (1 + np.abs(rows).max(1))
        good = np.array([problem.region.violation(x) for x in rows]) <= np.maximum(size, 1e-6)
        given = torch.as_tensor(rows).reshape(len(rows), *problem.shape)
        return np.asarray(good & problem.satisfied(given).numpy())

    def rules(self, region: Region) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Bounds and linear rules in coordinates, Gv ≥ h and Ev = e."""
        p = replace(self.problem, region=replace(region, margin=None), rivals=None)
        G, h = inequalities(p, region.low, region.high)
        same = region.low == region.high
        E = np.concatenate([region.E, np.eye(len(region.low))[same]])
        e = np.concatenate([region.e, region.low[same]])
        return G @ self.B, h - G @ self.base, E @ self.B, e - E @ self.base

    def possible(self, start: np.ndarray) -> bool:
        """Whether bounds and linear rules leave anything: decided by a linear program."""
        return nearest(start, *self.rules(self.problem.region)) is not None

    def cost(self, v: np.ndarray) -> tuple[float, np.ndarray]:
        value, g = evaluate(self.batch.value, torch.as_tensor(v)[None])
        return (-float(value), -g[0].numpy()) if np.isfinite(float(value)) else (1e12, np.zeros_like(v))

    def leads(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By how much the wanted output leads each other one, less the margin, and the gradients."""
        point = torch.as_tensor(v)[None].requires_grad_(True)
        lead = self.problem.leads(self.batch.input(point))[0]
        # rivals far behind do not bind: the nearest few are followed
        values, slopes = [], []
        for k in torch.argsort(lead.detach())[:_RIVALS].tolist():
            (g,) = torch.autograd.grad(lead[k], point, retain_graph=True)
            values.append(float(lead[k].detach()))
            slopes.append(g[0].double().numpy())
        return np.array(values), np.array(slopes)

    def solve(self, start: np.ndarray, region: Region) -> tuple[float, np.ndarray] | None:
        """J and v from a start; None where the rules cannot be kept.

        Each step is the exact quadratic program with f and the decision linearised and the prior as it is, in which
        whitened coordinates have curvature one; a line search on J less the violated leads damps it.
        """
        GB, hB, EB, eB = self.rules(region)
        near = nearest(start, GB, hB, EB, eB)
        if near is None:
            return None
        v, decided = near.v, region.margin is not None
        price, size = 1.0, 1.0

        def merit(at: np.ndarray) -> float:
            lost = max(0.0, -float(self.leads(at)[0].min())) if decided else 0.0
            return -self.cost(at)[0] - price * lost

        for _ in range(_ROUNDS):
            gradient = -self.cost(v)[1]
            rows, right = GB, hB
            if decided:
                values, slopes = self.leads(v)
                rows, right = np.concatenate([GB, slopes]), np.concatenate([hB, slopes @ v - values])
            step = nearest(v + gradient, rows, right, EB, eB)
            if step is None:
                # the linearised decision contradicts the rules: towards it as far as they allow
                if not decided:
                    return None
                towards = slopes[0] * max(0.0, -values.min()) / (slopes[0] @ slopes[0] + 1e-12)
                step = nearest(v + towards, GB, hB, EB, eB)
                if step is None:
                    return None
            move = step.v - v
            if np.abs(move).max() <= 1e-11 * (1 + np.abs(v).max()):
                break
            if decided:
                steep = float(np.linalg.norm(slopes[0])) + 1e-12
                price = max(price, 2 * float(np.linalg.norm(gradient - move)) / steep)
            before, size = merit(v), min(1.0, 4 * size)
            while merit(v + size * move) <= before + 1e-12 * (1 + abs(before)) and size > 1e-6:
                size /= 2
            if size <= 1e-6:
                break
            v = v + size * move
        if decided:
            if region.margin is not None and not (len(GB) or len(EB)):
                v = self._penalised(v, price)
            v = self._over(v, GB, hB, EB)
            if float(self.leads(v)[0].min()) < -_SATISFIED:
                return None
        return -self.cost(v)[0], v

    def _penalised(self, v: np.ndarray, price: float) -> np.ndarray:
        """On kinks the programs stall: Adam on J less the missing lead, at a price above its multiplier."""

        def value(w: torch.Tensor) -> torch.Tensor:
            missing = (-self.problem.leads(self.batch.input(w)).amin(1)).clamp(min=0)
            return self.batch.value(w) - 2 * price * missing

        start = torch.as_tensor(v)[None]
        best = Best(start, *evaluate(value, start))
        for rate in (0.05, 0.01):
            best = adam(value, best, _PENALISED, rate)
        return np.asarray(best.v[0].numpy())

    def _over(self, v: np.ndarray, GB: np.ndarray, hB: np.ndarray, EB: np.ndarray) -> np.ndarray:
        """A little further along the leads' own slope, where rounding or a kink has left the decision short."""
        free = null_space(EB) if len(EB) else None
        for _ in range(20):
            values, slopes = self.leads(v)
            if values.min() >= 0:
                break
            k = int(values.argmin())
            # what is held stays where it is
            slope = slopes[k] if free is None else free @ (free.T @ slopes[k])
            if not float(slope @ slopes[k]) > 1e-14 * float(slopes[k] @ slopes[k]):
                break
            further = v + slope * (-values[k] * 1.01 + 1e-12) / float(slope @ slopes[k])
            if len(GB) and (GB @ further - hB).min() < -1e-7:
                break
            v = further
        return v


def _one(batch: Batch, starts: list[np.ndarray]) -> Found:
    problem = batch.one
    program = _Program(batch)
    region = problem.region
    known = _known(program)
    ends = [end for start in (*starts, *known) if (end := program.solve(start, region)) is not None]
    # what is known to satisfy everything is better than nothing
    ends += [(-program.cost(v)[0], v) for v in known]
    if not ends:
        if not program.possible(starts[0]):
            raise Infeasible(f"no input satisfies the bounds and linear rules of target {problem.objective.name!r}")
        raise NotFound(
            f"no input was found that satisfies the bounds and constraints of target {problem.objective.name!r}, from "
            f"{len(starts)} starts; there may be one"
        )
    value, v = max(ends, key=lambda end: end[0])
    status, kind = "stationary", "KKT residual"
    notes = [f"{len(ends)} of {len(starts) + 2 * len(known)} starts satisfy the constraints"]
    if region.mixed:
        value, v, changes = _whole(program, v)
        status, kind = "local", "no single change"
        notes.append(f"{changes} changes of whole-numbered columns")
    x = program.rounded(v)
    if not program.holds(x):
        raise NotFound(
            f"a search for target {problem.objective.name!r} ended where the constraints do not hold: there may be an "
            "input that satisfies them"
        )
    residual = 0.0 if region.mixed else _kkt(program, v)
    if kind == "KKT residual" and residual > 1e-3 * (1 + float(np.linalg.norm(v))):
        status = "max_iter"
    return Found(x, status, Certificate(kind, residual, False), problem.code_of(x), [(value, 1)], notes)


def _known(program: _Program) -> list[np.ndarray]:
    """Rows of the data that satisfy everything, whole numbers rounded and held columns put in, moved to the prior.

    Of each only the part of the way to the prior's centre is taken on which the decision holds.
    """
    problem, region = program.problem, program.problem.region
    if problem.data is None or region.margin is None:
        return []
    rows = program.snapped(problem.data.numpy())
    good = rows[program.holding(rows)]
    codes = program.batch.encode(torch.as_tensor(good)) if len(good) else None
    if codes is None:
        return []
    near = codes[torch.argsort(codes.square().sum(1))[:_STARTS]].double().numpy()
    found = []
    for v in near:
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS if not region.mixed else 0):
            middle = (low + high) / 2
            low, high = (low, middle) if program.holds(program.rounded(middle * v)) else (middle, high)
        found.append(high * v)
    return [v for v in found if program.holds(program.rounded(v))]


def _kkt(program: _Program, v: np.ndarray) -> float:
    """Distance of ∇J from the cone of the active rules' normals."""
    region = program.problem.region
    plain = replace(program.problem, rivals=None, region=replace(region, margin=None))
    G, h = inequalities(plain, region.low, region.high)
    x = program.x(v)
    same = region.low == region.high
    rows = [(G @ program.B)[G @ x - h <= 1e-7 * (1 + np.abs(h))]]
    both = np.concatenate([region.E, np.eye(len(x))[same]]) @ program.B
    rows += [both, -both]
    if region.margin is not None:
        values, slopes = program.leads(v)
        rows.append(slopes[values <= 1e-4 * (1 + abs(region.margin))])
    A = np.concatenate(rows)
    gradient = -program.cost(v)[1]
    if not len(A):
        return float(np.linalg.norm(gradient))
    return float(nnls(A.T, -gradient)[1])


def _whole(program: _Program, v: np.ndarray) -> tuple[float, np.ndarray, int]:
    """Round, then change one group or number at a time while J rises; also from rows that hold everything."""
    region = program.problem.region
    value, point, held = -np.inf, v, _numbers(region, program.x(v))
    for start in (v, *_known(program)):
        numbers = _numbers(region, program.x(start))
        solved = _held(program, start, numbers)
        if solved is not None and solved[0] > value:
            (value, point), held = solved, numbers
    changes, improved = 0, True
    while improved and changes < 200:
        improved = False
        for other in _neighbours(region, held):
            solved = _held(program, point, other)
            if solved is not None and solved[0] > value + 1e-9 * (1 + abs(value)):
                (value, point), held, improved, changes = solved, other, True, changes + 1
    if not np.isfinite(value):
        raise NotFound("no choice of whole numbers near the best one satisfies the constraints; there may be another")
    return value, point, changes


def _numbers(region: Region, x: np.ndarray) -> dict[int, float]:
    """The whole numbers next to a point."""
    held: dict[int, float] = {}
    for group in region.groups:
        chosen = group[int(np.argmax(x[group]))]
        held |= {i: float(i == chosen) for i in group}
    return held | {i: float(np.clip(round(x[i]), region.low[i], region.high[i])) for i in region.integers}


def _held(program: _Program, v: np.ndarray, held: dict[int, float]) -> tuple[float, np.ndarray] | None:
    region = program.problem.region
    low, high = region.low.copy(), region.high.copy()
    for i, number in held.items():
        low[i] = high[i] = number
    # a group's sum is kept by its values
    groups = [np.isin(np.arange(len(low)), g) for g in region.groups]
    kept = [k for k, row in enumerate(region.E) if not any(np.array_equal(row != 0, g) for g in groups)]
    solved = program.solve(v, replace(region, low=low, high=high, E=region.E[kept], e=region.e[kept]))
    return solved if solved is not None and program.holds(program.rounded(solved[1])) else None


def _neighbours(region: Region, held: dict[int, float]) -> list[dict[int, float]]:
    found = []
    for group in region.groups:
        found += [held | {i: float(i == one) for i in group} for one in group if held[one] == 0]
    for i in region.integers:
        for number in (held[i] - 1, held[i] + 1):
            if region.low[i] <= number <= region.high[i]:
                found.append(held | {i: number})
    return found
