r"""ReLU networks as rows and binary variables of a program; see `backlight._prototype.exact.mixed_integer`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from backlight._prototype.exact.program import Program
from backlight._prototype.formula import Network
from backlight._prototype.problem import Problem
from backlight.canonical.bounds import Interval, bounds
from backlight.canonical.form import Affine, Given, Held, Operator, Pointwise, Value

__all__ = ["Line", "encoded", "wide"]


@dataclass
class Line:
    """Values as affine functions of variables: matrix (units, variables so far), constants."""

    matrix: np.ndarray
    constant: np.ndarray


def encoded(program: Program, formula: Network, x: np.ndarray, problem: Problem) -> Line:
    """The outputs of a network, with its units put into the program."""
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
    lines: dict[Value, Line] = {form.inputs[name]: Line(D, e0)}
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
    return lines[form.output]


def wide(matrix: np.ndarray, width: int) -> np.ndarray:
    return np.pad(matrix, ((0, 0), (0, width - matrix.shape[1])))


def _combined(value: Affine, lines: dict[Value, Line], width: int) -> Line:
    units = int(np.prod(value.shape))
    matrix, constant = np.zeros((units, width)), np.zeros(units)
    for term in value.terms:
        source = lines[term.source]
        shape = (-1, *term.source.shape)
        columns = torch.as_tensor(np.concatenate([source.matrix.T, source.constant[None]])).reshape(shape)
        image = term.apply(columns).reshape(len(columns), -1).numpy()
        matrix += wide(image[:-1].T, width)
        constant += image[-1]
    if value.bias is not None:
        constant = constant + value.bias.expand(1, *value.shape).reshape(-1).numpy()
    return Line(matrix, constant)


def _moved(value: Operator, lines: dict[Value, Line], examples: dict[Value, object], width: int) -> Line:
    """An operator that moves numbers: it moves columns of coefficients alike."""
    carried = [s for s in value.sources() if s in lines]
    assert carried
    columns = []
    for k in range(-1, width):
        given = dict(examples)
        for source in carried:
            line = lines[source]
            spread = wide(line.matrix, width)
            one = line.constant if k < 0 else spread[:, k]
            given[source] = torch.as_tensor(one).reshape(1, *source.shape)
        columns.append(value.compute(given).reshape(-1).numpy())
    return Line(np.stack(columns[1:], 1), columns[0])


def _relu(program: Program, line: Line, limit: Interval, slope: float) -> Line:
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
    spread = wide(line.matrix, len(program.low))
    matrix[on], constant[on] = spread[on], line.constant[on]
    for u, h in picked:
        matrix[u, h] = 1.0
    if slope:
        # leaky: slope · z + (1 − slope) · relu(z)
        matrix = slope * spread + (1 - slope) * matrix
        constant = slope * line.constant + (1 - slope) * constant
    return Line(matrix, constant)


def _tightened(program: Program, line: Line, u: int, low: float, high: float) -> tuple[float, float]:
    """The range of a pre-activation in the linear relaxation of what stands before it."""
    where = np.flatnonzero(line.matrix[u])
    kept = program.gain
    sides = []
    for sign in (1.0, -1.0):
        program.gain = {int(i): sign * float(line.matrix[u, i]) for i in where}
        result = program.solve(relaxed=True)
        value = None if result.fun is None or result.status != 0 else -float(result.fun)
        sides.append(None if value is None else sign * value + float(line.constant[u]))
    program.gain = kept
    slack = 1e-7 * (1 + abs(low) + abs(high))
    top = high if sides[0] is None else min(high, sides[0] + slack)
    bottom = low if sides[1] is None else max(low, sides[1] - slack)
    return bottom, top
