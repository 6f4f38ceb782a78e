r"""Small ReLU networks, k-means and linear f without a quadratic prior: linear and mixed-integer programs (HiGHS).

A ReLU :math:`h = \max(0, z)` with :math:`l \le z \le u`, l < 0 < u, is exactly

.. math::  h \ge 0,\quad h \ge z,\quad h \le u\,q,\quad h \le z - l\,(1-q),\quad q \in \{0,1\}

(Tjeng, Xiao, Tedrake, "Evaluating robustness of neural networks with mixed integer programming", 2019; for activation
maximisation Fischetti and Jo, 2018). The bounds come from interval arithmetic and are then drawn tighter, unit by unit,
by linear programs. Ω is none, a sum of absolute values, or quadratic: ½‖v‖² is put in by tangents until it is met. At
most k columns change by one binary variable each. The solver's own bound is the certificate, taken to the value of the
model at the point that is returned.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from backlight._prototype.exact.program import Program, Squares, settled
from backlight._prototype.exact.relu import Line, encoded, wide
from backlight._prototype.formula import Linear, MinLinear, Network
from backlight._prototype.problem import Certificate, Found, Problem
from backlight.errors import ArgumentError, Infeasible, NotFound, Unbounded
from backlight.priors import L1

__all__ = ["MOST_UNITS", "mixed_integer", "penalty"]

MOST_UNITS = 64


def mixed_integer(problem: Problem) -> Found | None:
    """See the module."""
    if not _applies(problem):
        return None
    program = Program()
    region = problem.region
    whole = sorted({i for group in region.groups for i in group} | set(region.integers))
    x = np.array([program.add(region.low[i], region.high[i], i in whole) for i in range(problem.dimension)])
    for A, b in zip(region.A, region.b, strict=True):
        program.row(x, A, -math.inf, b)
    for E, e in zip(region.E, region.e, strict=True):
        program.row(x, E, e, e)
    constant = _objective(program, problem, x)
    if region.few:
        _few(program, problem, x)
    squares = penalty(program, problem, x)
    result = settled(program, squares)
    _raise_unless_solved(result, problem)
    v = _inside(np.asarray(result.x)[x], problem, whole)
    if any(program.whole):
        # with the whole numbers held, a linear program: exact where the search is within its tolerance
        polished = settled(program.fixed(np.asarray(result.x)), squares)
        if polished.x is not None:
            v = _inside(np.asarray(polished.x)[x], problem, whole)
    if not bool(problem.satisfied(torch.as_tensor(v).reshape(1, *problem.shape))[0]):
        return None
    dual = getattr(result, "mip_dual_bound", None)
    top = -(float(result.fun) if dual is None else float(dual)) + constant
    value = 0.0 if problem.formula is None or problem.smallest else float(problem.formula.value(v[None])[0])
    value -= _omega(problem, v)
    gap, binaries = max(0.0, top - value), sum(program.whole)
    kind = "MILP gap" if binaries else "linear program"
    # of a network the largest value is known within the gap, however small
    known = 1e-6 if problem.smallest else 1e-7 if not binaries and squares is None else -1.0
    status = "exact" if gap <= known * (1 + abs(value)) else "global" if gap <= 1e-5 * (1 + abs(value)) else "local"
    nodes = getattr(result, "mip_node_count", None)
    notes = [f"{binaries} binary variables, {nodes or 0} nodes"] if binaries else []
    return Found(v, status, Certificate(kind, gap, True), v, notes=notes)


def _applies(problem: Problem) -> bool:
    formula, prior, region = problem.formula, problem.prior, problem.region
    linear = prior is None or isinstance(prior, L1)
    if problem.space.has_code or not (linear or problem.white is not None):
        return False
    decided = region.margin is None or problem.rivals is not None or problem.networks is not None
    if not decided or (problem.networks is not None and not region.boxed):
        return False
    if not linear:
        # what is left by the quadratic programs: whole numbers of networks, and few columns
        return (problem.smallest or isinstance(formula, Linear)) and (
            region.few or (region.mixed and problem.networks is not None)
        )
    if problem.smallest:
        return True
    if isinstance(formula, Network) and (not region.boxed or formula.units > MOST_UNITS):
        return False
    return isinstance(formula, Linear | MinLinear | Network)


def _objective(program: Program, problem: Problem, x: np.ndarray) -> float:
    """F in the objective, and what the decision asks for; the constant of f."""
    constant, line = 0.0, None
    if problem.region.margin is not None:
        for w, b in problem.rivals or []:
            program.row(x, w, -b, math.inf)
        if problem.networks:
            line = encoded(program, problem.networks[0], x, problem)
        for network in problem.networks or []:
            assert line is not None
            weights = network.coefficients @ wide(line.matrix, len(program.low))
            least = problem.region.margin - float(network.coefficients @ line.constant)
            where = np.flatnonzero(weights)
            program.row(where, weights[where], least, math.inf)
    if not problem.smallest and problem.formula is not None:
        assert isinstance(problem.formula, Linear | MinLinear | Network)
        constant = _f(program, problem.formula, x, problem, line)
    return constant


def _few(program: Program, problem: Problem, x: np.ndarray) -> None:
    """At most so many columns differ from the centre: one binary variable a column, or a group of them."""
    region, center = problem.region, _center(problem)
    together = {i: group[0] for group in region.groups for i in group}
    flags: dict[int, int] = {}
    for i, m in zip(x, center, strict=True):
        low, high = region.low[i] - m, region.high[i] - m
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ArgumentError(
                f"sparse() and count= need bounds on every column, and {problem.names[int(i)]!r} has none: give "
                "bounds='data'"
            )
        key = together.get(int(i), int(i))
        if key not in flags:
            flags[key] = program.add(0.0, 1.0, whole=True)
        program.row(np.array([i, flags[key]]), np.array([1.0, -high]), -math.inf, m)
        program.row(np.array([i, flags[key]]), np.array([1.0, -low]), m, math.inf)
    places = np.array(list(flags.values()))
    if region.sparse is not None:
        program.row(places, np.ones(len(places)), -math.inf, float(region.sparse))
    for columns in region.excluded:
        some = np.array([flags[i] for i in columns])
        program.row(some, np.ones(len(some)), -math.inf, len(some) - 1.0)


def _center(problem: Problem) -> np.ndarray:
    if problem.white is not None:
        return problem.white.mean.numpy()
    given = problem.prior.center if isinstance(problem.prior, L1) else None
    if problem.region.few and given is None:
        raise ArgumentError(
            "sparse() counts from the prior's centre: give priors.L1(1.0, center=row) or priors.Near(row)"
        )
    return np.zeros(problem.dimension) if given is None else given.numpy()


def penalty(program: Program, problem: Problem, x: np.ndarray) -> Squares | None:
    """Strength · Ω in the objective."""
    prior = problem.prior
    strength = 1.0 if problem.smallest else problem.strength
    if isinstance(prior, L1):
        weights = np.ones(len(x)) if prior.weights is None else prior.weights.numpy()
        for i, m, weight in zip(x, _center(problem), weights, strict=True):
            t = program.add(0.0, math.inf)
            program.row(np.array([t, i]), np.array([1.0, -1.0]), -m, math.inf)
            program.row(np.array([t, i]), np.array([1.0, 1.0]), m, math.inf)
            program.gain[t] = -strength * prior.lam * float(weight)
        return None
    if prior is None or problem.white is None:
        return None
    mean, L = problem.white.mean.numpy(), problem.white.matrix()
    places, tops = [], []
    for _ in range(L.shape[1]):
        places.append(program.add(-math.inf, math.inf))
        tops.append(program.add(0.0, math.inf))
        program.gain[tops[-1]] = -1.0
    for i, m, row in zip(x, mean, L, strict=True):
        used = np.flatnonzero(row)
        program.row(np.append(np.array(places)[used], i), np.append(row[used], -1.0), -m, -m)
    squares = Squares(np.array(places), np.array(tops))
    for point in (-10.0, -3.0, -1.0, -0.3, 0.3, 1.0, 3.0, 10.0):
        squares.cut(program, np.full(len(places), point))
    return squares


def _inside(v: np.ndarray, problem: Problem, whole: list[int]) -> np.ndarray:
    found: np.ndarray = np.clip(v, problem.region.low, problem.region.high)
    found[whole] = np.round(found[whole])
    return found


def _omega(problem: Problem, v: np.ndarray) -> float:
    """Strength · Ω; of a quadratic prior without its constant."""
    strength = 1.0 if problem.smallest else problem.strength
    if isinstance(problem.prior, L1):
        return strength * float(problem.prior.energy(torch.as_tensor(v)[None])[0])
    if problem.prior is None or problem.white is None:
        return 0.0
    return 0.5 * float(problem.white.encode(torch.as_tensor(v)[None]).square().sum())


def _raise_unless_solved(result: Any, problem: Problem) -> None:
    status = result.status
    if status == 2:
        what = f" with the decision {problem.objective.name!r}" if problem.region.margin is not None else ""
        raise Infeasible(f"no input satisfies the bounds and constraints{what}")
    if status in (3, 4) and not problem.region.boxed:
        # HiGHS may say "unbounded or infeasible"
        if isinstance(problem.prior, L1) and isinstance(problem.formula, Linear):
            steep = float(np.abs(problem.formula.w).max())
            raise Unbounded(
                f"Ω grows linearly (λ‖x‖₁) and max |w_i| = {steep:.4g} > strength·λ = "
                f"{problem.strength * problem.prior.lam:.4g}: use priors.L2 (squared), strength ≥ "
                f"{steep / problem.prior.lam:.4g}, or bounds"
            )
        raise Unbounded(
            f"f grows without end and nothing holds it (prior {problem.prior!r}): give a prior that grows faster, such "
            "as priors.Gaussian.fit(X), or bounds"
        )
    if result.x is None:
        raise NotFound(f"the solver found no point in time: {result.message}")


def _f(
    program: Program, formula: Linear | MinLinear | Network, x: np.ndarray, problem: Problem, line: Line | None
) -> float:
    """Put f into the objective; its constant."""
    if isinstance(formula, Linear):
        for i, w in zip(x, formula.w, strict=True):
            program.gain[int(i)] = float(w)
        return formula.b
    if isinstance(formula, MinLinear):
        t = program.add(-math.inf, math.inf)
        for w, b in zip(formula.W, formula.b, strict=True):
            program.row(np.append(x, t), np.append(w, -1.0), -b, math.inf)
        program.gain[t] = 1.0
        return 0.0
    out = encoded(program, formula, x, problem) if line is None else line
    for i, weight in enumerate(formula.coefficients @ wide(out.matrix, len(program.low))):
        if weight:
            program.gain[i] = float(weight)
    return float(formula.coefficients @ out.constant)
