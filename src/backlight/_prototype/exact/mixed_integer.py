r"""Small ReLU networks, k-means and linear f without a quadratic prior: linear and mixed-integer programs (HiGHS).

A ReLU :math:`h = \max(0, z)` with :math:`l \le z \le u`, l < 0 < u, is exactly

.. math::  h \ge 0,\quad h \ge z,\quad h \le u\,q,\quad h \le z - l\,(1-q),\quad q \in \{0,1\}

(Tjeng, Xiao, Tedrake, "Evaluating robustness of neural networks with mixed integer programming", 2019; for activation
maximisation Fischetti and Jo, 2018). The bounds come from interval arithmetic and are then drawn tighter, unit by unit,
by linear programs. Ω is none or a sum of absolute values. The solver's own bound is the certificate, taken to the value
of the model at the point that is returned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_matrix

from backlight._prototype.formulas import Linear, MinLinear, Network
from backlight._prototype.problem import Certificate, Found, Problem
from backlight.canonical.bounds import Interval, bounds
from backlight.canonical.form import Affine, Given, Held, Operator, Pointwise, Value
from backlight.errors import Infeasible, Unbounded
from backlight.priors import L1

__all__ = ["MOST_UNITS", "mixed_integer"]

MOST_UNITS = 64
_GAP = 1e-7
_SECONDS = 300.0


@dataclass
class _Program:
    """max c·v subject to rows, bounds and whole numbers; variables are added as they come."""

    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    gain: dict[int, float] = field(default_factory=dict)
    rows: list[tuple[np.ndarray, np.ndarray, float, float]] = field(default_factory=list)

    def add(self, low: float, high: float, whole: bool = False) -> int:
        self.low.append(low)
        self.high.append(high)
        self.whole.append(int(whole))
        return len(self.low) - 1

    def row(self, where: np.ndarray, weights: np.ndarray, low: float, high: float) -> None:
        self.rows.append((np.asarray(where), np.asarray(weights, dtype=float), low, high))

    def solve(self, relaxed: bool = False, seconds: float = _SECONDS) -> object:
        n = len(self.low)
        c = np.zeros(n)
        for i, weight in self.gain.items():
            c[i] -= weight
        constraints = []
        if self.rows:
            index = np.repeat(np.arange(len(self.rows)), [len(w) for w, *_ in self.rows])
            where = np.concatenate([w for w, *_ in self.rows])
            weights = np.concatenate([v for _, v, *_ in self.rows])
            matrix = coo_matrix((weights, (index, where)), shape=(len(self.rows), n)).tocsr()
            constraints = [LinearConstraint(matrix, [r[2] for r in self.rows], [r[3] for r in self.rows])]
        return milp(
            c, integrality=np.zeros(n) if relaxed else np.array(self.whole), bounds=Bounds(self.low, self.high),
            constraints=constraints, options={"mip_rel_gap": 0.0 if relaxed else _GAP * 1e-2, "time_limit": seconds},
        )  # fmt: skip


def mixed_integer(problem: Problem) -> Found | None:
    """See the module."""
    formula, prior, region = problem.formula, problem.prior, problem.region
    if problem.space.has_code or problem.smallest or not (prior is None or isinstance(prior, L1)):
        return None
    if not isinstance(formula, Linear | MinLinear | Network):
        return None
    if isinstance(formula, Network) and (not region.boxed or formula.units > MOST_UNITS):
        return None
    if region.margin is not None and problem.rivals is None:
        return None
    program = _Program()
    whole = {i for group in region.groups for i in group} | set(region.integers)
    x = np.array([program.add(region.low[i], region.high[i], i in whole) for i in range(problem.dimension)])
    for A, b in zip(region.A, region.b, strict=True):
        program.row(x, A, -math.inf, b)
    for E, e in zip(region.E, region.e, strict=True):
        program.row(x, E, e, e)
    if region.margin is not None:
        for w, b in problem.rivals or []:
            program.row(x, w, -b, math.inf)
    constant = _f(program, formula, x, problem)
    if isinstance(prior, L1):
        center = np.zeros(len(x)) if prior.center is None else prior.center.numpy()
        for i, m in zip(x, center, strict=True):
            t = program.add(0.0, math.inf)
            program.row(np.array([t, i]), np.array([1.0, -1.0]), -m, math.inf)
            program.row(np.array([t, i]), np.array([1.0, 1.0]), m, math.inf)
            program.gain[t] = -problem.strength * prior.lam
    result = program.solve()
    _raise_unless_solved(result, problem)
    v = np.asarray(result.x)[x]  # type: ignore[attr-defined]
    v = np.clip(v, region.low, region.high)
    v[sorted(whole)] = np.round(v[sorted(whole)])
    dual = getattr(result, "mip_dual_bound", None)
    top = -(float(result.fun) if dual is None else float(dual)) + constant  # type: ignore[attr-defined]
    value = float(formula.value(v[None])[0])
    if prior is not None:
        value -= problem.strength * float(prior.energy(torch.as_tensor(v)[None])[0])
    gap = max(0.0, top - value)
    binaries = sum(program.whole)
    kind = "MILP gap" if binaries else "linear program"
    status = "global" if gap <= 1e-5 else "local"
    if not binaries and gap <= 1e-7 * (1 + abs(value)):
        status = "exact"
    nodes = getattr(result, "mip_node_count", None)
    notes = [f"{binaries} binary variables, {nodes or 0} nodes"] if binaries else []
    return Found(v, status, Certificate(kind, gap, True), v, notes=notes)


def _raise_unless_solved(result: object, problem: Problem) -> None:
    status = result.status  # type: ignore[attr-defined]
    if status == 2:
        raise Infeasible("no input satisfies the bounds and constraints")
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
    if result.x is None:  # type: ignore[attr-defined]
        raise Infeasible(f"the solver found no point: {result.message}")  # type: ignore[attr-defined]


def _f(program: _Program, formula: Linear | MinLinear | Network, x: np.ndarray, problem: Problem) -> float:
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
    return _network(program, formula, x, problem)


@dataclass
class _Line:
    """Values as affine functions of variables: matrix (units, variables so far), constants."""

    matrix: np.ndarray
    constant: np.ndarray


def _network(program: _Program, formula: Network, x: np.ndarray, problem: Problem) -> float:
    form = formula.form
    n = int(np.prod(formula.shape))
    D = np.eye(n, len(x)) if formula.D is None else formula.D
    e0 = np.zeros(n) if formula.e0 is None else formula.e0
    low, high = problem.region.low, problem.region.high
    up, down = np.clip(D, 0, None), np.clip(D, None, 0)
    shape = (1, *formula.shape)
    name = next(iter(form.inputs))
    domain = {
        name: Interval(
            torch.as_tensor(up @ low + down @ high + e0).reshape(shape),
            torch.as_tensor(up @ high + down @ low + e0).reshape(shape),
        )
    }
    limits = bounds(form, domain)
    examples = form.run({name: form.example[name][:1]})
    lines: dict[Value, _Line] = {form.inputs[name]: _Line(D, e0)}
    for value in form.order():
        if value in lines or isinstance(value, Held | Given) or not isinstance(examples[value], torch.Tensor):
            continue
        if isinstance(value, Affine):
            lines[value] = _combined(value, lines, len(program.low))
        elif isinstance(value, Operator):
            lines[value] = _moved(value, lines, examples, len(program.low))
        elif isinstance(value, Pointwise):
            limit = limits[value.source]
            slope = 0.0
            if value.op == "leaky_relu":
                slope = float(value.args[0]) if value.args else 0.01
            lines[value] = _relu(program, lines[value.source], limit, slope)
    out = lines[form.output]
    matrix = _wide(out.matrix, len(program.low))
    for i, weight in enumerate(formula.coefficients @ matrix):
        if weight:
            program.gain[i] = float(weight)
    return float(formula.coefficients @ out.constant)


def _wide(matrix: np.ndarray, width: int) -> np.ndarray:
    return np.pad(matrix, ((0, 0), (0, width - matrix.shape[1])))


def _combined(value: Affine, lines: dict[Value, _Line], width: int) -> _Line:
    units = int(np.prod(value.shape))
    matrix, constant = np.zeros((units, width)), np.zeros(units)
    for term in value.terms:
        source = lines[term.source]
        shape = (-1, *term.source.shape)
        columns = torch.as_tensor(np.concatenate([source.matrix.T, source.constant[None]])).reshape(shape)
        image = term.apply(columns).reshape(len(columns), -1).numpy()
        matrix += _wide(image[:-1].T, width)
        constant += image[-1]
    if value.bias is not None:
        constant = constant + value.bias.expand(1, *value.shape).reshape(-1).numpy()
    return _Line(matrix, constant)


def _moved(value: Operator, lines: dict[Value, _Line], examples: dict[Value, object], width: int) -> _Line:
    """An operator that moves numbers: it moves columns of coefficients alike."""
    carried = [s for s in value.sources() if s in lines]
    assert carried
    columns = []
    for k in range(-1, width):
        given = dict(examples)
        for source in carried:
            line = lines[source]
            wide = _wide(line.matrix, width)
            one = line.constant if k < 0 else wide[:, k]
            given[source] = torch.as_tensor(one).reshape(1, *source.shape)
        columns.append(value.compute(given).reshape(-1).numpy())
    return _Line(np.stack(columns[1:], 1), columns[0])


def _relu(program: _Program, line: _Line, limit: Interval, slope: float) -> _Line:
    low, high = limit.low.reshape(-1).numpy(), limit.high.reshape(-1).numpy()
    units = len(low)
    picked: list[tuple[int, int]] = []
    for u in range(units):
        if low[u] < 0 < high[u]:
            low[u], high[u] = _tightened(program, line, u, float(low[u]), float(high[u]))
        if low[u] < 0 < high[u]:
            h = program.add(0.0, float(high[u]))
            q = program.add(0.0, 1.0, whole=True)
            where = np.flatnonzero(line.matrix[u])
            w, b = line.matrix[u, where], float(line.constant[u])
            program.row(np.append(where, h), np.append(-w, 1.0), b, math.inf)
            program.row(np.array([h, q]), np.array([1.0, -high[u]]), -math.inf, 0.0)
            program.row(np.append(where, [h, q]), np.append(-w, [1.0, -low[u]]), -math.inf, b - low[u])
            picked.append((u, h))
    matrix = np.zeros((units, len(program.low)))
    constant = np.zeros(units)
    on = low >= 0
    wide = _wide(line.matrix, len(program.low))
    matrix[on], constant[on] = wide[on], line.constant[on]
    for u, h in picked:
        matrix[u, h] = 1.0
    if slope:
        # leaky: slope · z + (1 − slope) · relu(z)
        matrix = slope * wide + (1 - slope) * matrix
        constant = slope * line.constant + (1 - slope) * constant
    return _Line(matrix, constant)


def _tightened(program: _Program, line: _Line, u: int, low: float, high: float) -> tuple[float, float]:
    """The range of a pre-activation in the linear relaxation of what stands before it."""
    where = np.flatnonzero(line.matrix[u])
    kept = program.gain
    sides = []
    for sign in (1.0, -1.0):
        program.gain = {int(i): sign * float(line.matrix[u, i]) for i in where}
        result = program.solve(relaxed=True)
        value = None if result.fun is None or result.status != 0 else -float(result.fun)  # type: ignore[attr-defined]
        sides.append(None if value is None else sign * value + float(line.constant[u]))
    program.gain = kept
    slack = 1e-7 * (1 + abs(low) + abs(high))
    top = high if sides[0] is None else min(high, sides[0] + slack)
    bottom = low if sides[1] is None else max(low, sides[1] - slack)
    return bottom, top
