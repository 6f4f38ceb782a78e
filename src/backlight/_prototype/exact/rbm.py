r"""Linear f under a restricted Boltzmann machine.

*Gaussian visible units*: a mixture of 2^H Gaussians of covariance σ²I, one for each state h of the hidden units, with
means a + σWᵀh; up to 16 hidden units they are written out, and the modes of the tilted mixture are bounded as in
`backlight._prototype.exact.modes`. Beyond that the convex part is linearised (CCCP; Yuille and Rangarajan, 2003):

.. math::  x \leftarrow a + \sigma^2 w + \sigma W^\mathsf{T}\operatorname{sigmoid}(b + Wx/\sigma)

raises J in every step.

*Binary visible units*: −F is convex in x, so J is, and its maximum over a box is at a corner. All corners are tried up
to 2^16; beyond that single changes are made while they help, from many corners.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy.special import expit

from backlight._prototype.exact.modes import Modes, of_modes
from backlight._prototype.formula import Linear
from backlight._prototype.problem import Certificate, Found, Problem
from backlight.errors import Unbounded
from backlight.priors import RBM

__all__ = ["binary_machine", "gaussian_machine"]

_ENUMERATED = 16
_STARTS = 64


def gaussian_machine(problem: Problem) -> Found | None:
    """See the module."""
    prior, formula = problem.prior, problem.formula
    if not isinstance(prior, RBM) or prior.sigma is None or not isinstance(formula, Linear):
        return None
    if not problem.region.free or problem.space.has_code or problem.smallest:
        return None
    W, a, b, s = prior.W.numpy(), prior.a.numpy(), prior.b.numpy(), prior.sigma
    w = formula.w / problem.strength
    if len(b) <= _ENUMERATED:
        states = np.array(list(itertools.product([0.0, 1.0], repeat=len(b))))
        pulled = states @ W
        means = a + s * pulled
        # h·b + hᵀWa/s + ½‖Wᵀh‖² of the completed square, and the tilt
        log_c = states @ b + pulled @ a / s + 0.5 * np.square(pulled).sum(1) + means @ w + 0.5 * s**2 * float(w @ w)
        return of_modes(problem, Modes(log_c, means + s**2 * w, 1 / s), problem.strength, formula.b)
    rng = np.random.default_rng(0)
    hidden = np.concatenate([np.zeros((1, len(b))), np.ones((1, len(b))), rng.integers(0, 2, (_STARTS - 2, len(b)))])
    x = a + s**2 * w + s * hidden @ W
    for _ in range(5000):
        new = a + s**2 * w + s * expit(b + x @ W.T / s) @ W
        moved = np.abs(new - x).max()
        x = new
        if moved <= 1e-14 * (1 + np.abs(x).max()):
            break
    free = -np.square(x - a).sum(1) / (2 * s**2) + np.logaddexp(0, b + x @ W.T / s).sum(1)
    value = x @ w + free
    best = int(np.argmax(value))
    optima = _tally(problem.strength * value + formula.b, x)
    residual = float(np.abs(a + s**2 * w + s * expit(b + x[best] @ W.T / s) @ W - x[best]).max())
    notes = [f"{len(optima)} optima from {len(x)} starts"]
    return Found(x[best], "local", Certificate("fixed point", residual, False), x[best], optima, notes)


def binary_machine(problem: Problem) -> Found | None:
    """See the module."""
    prior, formula, region = problem.prior, problem.formula, problem.region
    if not isinstance(prior, RBM) or prior.sigma is not None or not isinstance(formula, Linear):
        return None
    if problem.space.has_code or problem.smallest or region.rules or region.groups or region.margin is not None:
        return None
    if not region.boxed:
        raise Unbounded(
            "−Ω of an RBM with binary units is convex in x and grows without end: give bounds=(0, 1), or sigma= for "
            "Gaussian visible units"
        )
    W, a, b = prior.W.numpy(), prior.a.numpy(), prior.b.numpy()
    w, low, high = formula.w / problem.strength, region.low, region.high
    d = len(a)

    def value(x: np.ndarray) -> np.ndarray:
        return np.asarray(x @ (w + a) + np.logaddexp(0, b + x @ W.T).sum(-1))

    if d <= _ENUMERATED:
        corners = np.array(list(itertools.product(*zip(low, high, strict=True))))
        best = corners[int(np.argmax(value(corners)))]
        return Found(best, "exact", Certificate("all corners", 0.0, True), best, notes=[f"{len(corners)} corners"])
    rng = np.random.default_rng(0)
    x = np.where(rng.random((_STARTS, d)) < 0.5, low, high)
    x[0] = np.where(w + a > 0, high, low)
    x[1] = np.where(w + a + 0.5 * W.sum(0) > 0, high, low)
    if problem.data is not None:
        rows = problem.data.numpy()[: _STARTS // 2]
        x[2 : 2 + len(rows)] = np.where(rows > (low + high) / 2, high, low)
    for _ in range(100 * d):
        pre = b + x @ W.T
        step = np.where(x == low, high - low, low - high)
        # what each single change gains, (starts, d)
        changed = np.logaddexp(0, pre[:, None, :] + step[:, :, None] * W.T[None]).sum(2)
        gain = step * (w + a) + changed - np.logaddexp(0, pre).sum(1)[:, None]
        chosen = gain.argmax(1)
        better = gain[np.arange(len(x)), chosen] > 1e-12
        if not better.any():
            break
        rows_ = np.flatnonzero(better)
        x[rows_, chosen[rows_]] += step[rows_, chosen[rows_]]
    values = value(x)
    best_ = int(np.argmax(values))
    optima = _tally(problem.strength * values + formula.b, x)
    return Found(
        x[best_], "local", Certificate("no single change", 0.0, False), x[best_], optima,
        [f"{len(optima)} optima from {len(x)} starts"],
    )  # fmt: skip


def _tally(values: np.ndarray, x: np.ndarray) -> list[tuple[float, int]]:
    """Distinct optima, best first, with their counts."""
    found: list[tuple[float, int, np.ndarray]] = []
    for i in np.argsort(-values):
        for k, (v, n, y) in enumerate(found):
            if math.isclose(v, values[i], rel_tol=1e-9, abs_tol=1e-9) and np.abs(y - x[i]).max() <= 1e-6:
                found[k] = (v, n + 1, y)
                break
        else:
            found.append((float(values[i]), 1, x[i]))
    return [(v, n) for v, n, _ in found]
