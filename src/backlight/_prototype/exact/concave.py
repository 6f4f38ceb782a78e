r"""Concave f: clusters of k-means, log-softmax of linear scores, outlierness under a strong enough prior.

In v with x = mean + Lv, J = f − ½‖v‖² is strongly concave with some modulus μ, and then for every v

.. math::  J^* - J(v) \le \lVert\nabla J(v)\rVert^2 / (2\mu) .

*k-means*, f = min_k a_k·v + b_k: the dual is a quadratic program over a simplex, and its gap bounds the result.

*Outlierness*, f = −log Σ_k exp(c_k − ½‖U(z − m_k)‖²): J is a soft-min of functions with curvature Λ − I, where
Λ = (UTL)ᵀ(UTL). Λ ≺ I: strictly concave, one outlier prototype. An eigenvalue above 1: unbounded. Equal to 1: bounded
exactly where the slopes along that direction have both signs.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog, minimize
from scipy.special import logsumexp, softmax

from backlight._prototype.exact.quadratic import inequalities
from backlight._prototype.formula import LogSoftmax, MinLinear, Pool
from backlight._prototype.problem import Certificate, Found, Problem
from backlight._prototype.qp import nearest
from backlight.errors import Infeasible, Unbounded

__all__ = ["concave"]

# √ε of the proximal point method, in units of the slopes.
_PROXIMAL = 0.03


def concave(problem: Problem) -> Found | None:
    """See the module."""
    formula, white = problem.formula, problem.white
    if white is None or problem.smallest:
        return None
    mean, L = white.mean.numpy(), white.matrix()
    if isinstance(formula, MinLinear) and not (problem.region.free or problem.region.mixed):
        return _inside(problem, formula, mean, L)
    if not problem.region.free:
        return None
    if isinstance(formula, MinLinear):
        v, gap = _simplex(formula.W @ L, formula.W @ mean + formula.b)
        kind = "duality gap"
    elif isinstance(formula, LogSoftmax):
        v, gap = _softmax(formula, formula.W @ L, formula.W @ mean + formula.b)
        kind = "strong concavity"
    elif isinstance(formula, Pool) and formula.sign < 0:
        solved = _outlier(problem, formula, mean, L)
        if solved is None:
            return None
        v, gap = solved
        kind = "strong concavity"
    else:
        return None
    x = mean + L @ v
    status = "exact" if gap <= 1e-9 else "global" if gap <= 1e-5 else "local"
    return Found(x, status, Certificate(kind, gap, True), problem.code_of(x))


def _simplex(A: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
    """max_v min_k A_k·v + b_k − ½‖v‖², by min ½‖Aᵀα‖² + b·α over the simplex."""
    k = len(b)
    Q = A @ A.T
    size = max(1.0, float(np.abs(Q).max()), float(np.abs(b).max()))
    alpha = np.full(k, 1 / k)
    if k > 1:
        found = minimize(
            lambda a: 0.5 * a @ Q @ a / size + b @ a / size, alpha, jac=lambda a: (Q @ a + b) / size,
            bounds=[(0, 1)] * k, constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": np.ones_like},
            method="SLSQP", options={"ftol": 1e-16, "maxiter": 1000},
        )  # fmt: skip
        alpha = np.clip(found.x, 0, None)
        alpha /= alpha.sum()
    best = _value(A, b, alpha)
    # the equations of the active set, to full precision
    for floor in (1e-3, 1e-5, 1e-7, 1e-9):
        on = np.flatnonzero(alpha > floor)
        system = np.block([[Q[np.ix_(on, on)], np.ones((len(on), 1))], [np.ones((1, len(on))), np.zeros((1, 1))]])
        solution = np.linalg.lstsq(system, np.append(-b[on], 1.0), rcond=None)[0][:-1]
        if np.all(solution >= -1e-12):
            exact = np.zeros(k)
            exact[on] = np.clip(solution, 0, None)
            exact /= exact.sum()
            if _value(A, b, exact)[1] < best[1]:
                best, alpha = _value(A, b, exact), exact
    return best


def _inside(problem: Problem, formula: MinLinear, mean: np.ndarray, L: np.ndarray) -> Found | None:
    """The same within bounds and linear rules: max t − ½‖v‖² with t ≤ A_k·v + b_k.

    The proximal point method: −t + ½ε(t − t_j)² is half a squared distance, and each step a nearest point; on a
    polyhedron it ends after a few. The weights of the pieces give the bound: a linear f, solved exactly.
    """
    region = problem.region
    if region.margin is not None and problem.rivals is None:
        return None
    A, b = formula.W @ L, formula.W @ mean + formula.b
    G, h = inequalities(problem, region.low, region.high)
    same = region.low == region.high
    E = np.concatenate([region.E, np.eye(len(mean))[same]])
    e = np.concatenate([region.e, region.low[same]])
    GL, hL, EL, eL = G @ L, h - G @ mean, E @ L, e - E @ mean
    k = L.shape[1]
    root = _PROXIMAL / (1 + float(np.abs(A).max()))
    rows = np.block([[A, np.full((len(A), 1), -1 / root)], [GL, np.zeros((len(GL), 1))]])
    right = np.concatenate([-b, hL])
    fixed = np.concatenate([EL, np.zeros((len(EL), 1))], 1)
    t, best = 0.0, None
    for _ in range(100):
        start = np.zeros(k + 1)
        start[-1] = root * t + 1 / root
        found = nearest(start, rows, right, fixed, eL)
        if found is None:
            raise Infeasible("no input satisfies the bounds and constraints")
        v = found.v[:-1]
        t = float((A @ v + b).min())
        alpha = found.multipliers[: len(A)]
        if alpha.sum() <= 0:
            continue
        alpha = alpha / alpha.sum()
        top = nearest(A.T @ alpha, GL, hL, EL, eL)
        if top is None:
            continue
        step = top.v - A.T @ alpha
        bound = float(alpha @ b) + 0.5 * float(alpha @ (A @ (A.T @ alpha))) - 0.5 * float(step @ step) + top.gap
        gap = max(0.0, bound - t + 0.5 * float(v @ v))
        if best is None or gap < best[1]:
            best = v, gap
        if gap <= 1e-12 * (1 + abs(t)):
            break
    if best is None:
        return None
    x = np.clip(mean + L @ best[0], region.low, region.high)
    status = "exact" if best[1] <= 1e-9 * (1 + abs(t)) else "global" if best[1] <= 1e-5 else "local"
    return Found(x, status, Certificate("duality gap", best[1], True), problem.code_of(x))


def _value(A: np.ndarray, b: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, float]:
    v = A.T @ alpha
    primal = float((A @ v + b).min()) - 0.5 * float(v @ v)
    dual = 0.5 * float(v @ v) + float(b @ alpha)
    return v, max(0.0, dual - primal)


def _softmax(formula: LogSoftmax, A: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
    """Newton's method for weight · log softmax(Av + b)_c − ½‖v‖², whose modulus is 1."""

    def value(v: np.ndarray) -> float:
        s = A @ v + b
        return float(formula.weight * (s[formula.c] - logsumexp(s)) - 0.5 * v @ v)

    v = np.zeros(A.shape[1])
    for _ in range(200):
        p = softmax(A @ v + b)
        gradient = formula.weight * (A[formula.c] - p @ A) - v
        if float(gradient @ gradient) <= 1e-28:
            break
        curvature = formula.weight * (A.T * p @ A - np.outer(p @ A, p @ A)) + np.eye(len(v))
        v = _damped(value, v, np.linalg.solve(curvature, gradient), gradient)
    p = softmax(A @ v + b)
    gradient = formula.weight * (A[formula.c] - p @ A) - v
    return v, 0.5 * float(gradient @ gradient)


def _damped(value: object, v: np.ndarray, step: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """A Newton step, halved until the value rises as it should."""
    assert callable(value)
    start, rise = value(v), float(gradient @ step)
    size = 1.0
    while value(v + size * step) < start + 1e-4 * size * rise - 1e-14 * (1 + abs(start)) and size > 1e-10:
        size /= 2
    return np.asarray(v + size * step)


def _outlier(problem: Problem, formula: Pool, mean: np.ndarray, L: np.ndarray) -> tuple[np.ndarray, float] | None:
    TL, at = formula.T @ L, formula.T @ mean + formula.t
    U = np.asarray(float(formula.U)) * np.eye(len(at))[None] if np.ndim(formula.U) == 0 else formula.U
    V = np.einsum("krq,qj->krj", U, TL)
    delta = np.einsum("krq,kq->kr", U if len(U) > 1 else np.repeat(U, len(formula.means), 0), at - formula.means)
    L_k = np.einsum("kri,krj->kij", V, V)
    tops = np.array([float(np.linalg.eigvalsh(one)[-1]) for one in L_k])
    lows = np.array([float(np.linalg.eigvalsh(np.eye(len(one)) - one)[0]) for one in L_k])
    if tops.max() > 1 + 1e-10:
        # proven where one direction's curvature is above that of the prior for every component
        _values, vectors = np.linalg.eigh(L_k[int(np.argmax(tops))])
        n = vectors[:, -1]
        least = float(np.einsum("i,kij,j->k", n, L_k, n).min())
        if least > 1 + 1e-10:
            needed = problem.strength * least
            raise Unbounded(
                f"the outlier score grows like a squared distance, faster than strength·Ω: ratio {least:.4g} > 1 along "
                f"one direction. Give strength > {needed:.4g}, bounds, or ask for the inlier score"
            )
        return None
    if lows.min() <= 1e-10:
        if len(L_k) > 1 or not _both_signs(V[0], delta, L_k[0]):
            raise Unbounded(
                "strength·Ω is as steep as the outlier score, and the prior's centre lies outside the convex hull of "
                "the anchors: give a larger strength, or bounds"
            )
        return None
    modulus = float(lows.min())
    shared = len(L_k) == 1

    def parts(v: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        u = delta + (V[0] @ v if shared else np.einsum("krj,j->kr", V, v))
        e = formula.log_c - 0.5 * np.square(u).sum(1)
        p = softmax(e)
        pulls = u @ V[0] if shared else np.einsum("kr,krj->kj", u, V)
        g = p @ pulls
        curved = L_k[0] if shared else np.einsum("k,kij->ij", p, L_k)
        spread = (pulls.T * p) @ pulls - np.outer(g, g)
        return float(-logsumexp(e) - 0.5 * v @ v), g - v, np.eye(len(v)) - curved + spread

    v = np.zeros(L.shape[1])
    for _ in range(300):
        _, gradient, curvature = parts(v)
        if float(gradient @ gradient) <= 1e-28 * max(1.0, float(v @ v)):
            break
        moved = _damped(lambda y: parts(y)[0], v, np.linalg.solve(curvature, gradient), gradient)
        if np.array_equal(moved, v):
            break
        v = moved
    gradient = parts(v)[1]
    return v, float(gradient @ gradient) / (2 * modulus)


def _both_signs(V: np.ndarray, delta: np.ndarray, curved: np.ndarray) -> bool:
    """Whether J is bounded along the directions in which prior and score curve alike.

    There J is a soft-min of linear functions with slopes s_k: bounded iff 0 is in their convex hull.
    """
    values, vectors = np.linalg.eigh(curved)
    N = vectors[:, np.abs(values - 1) <= 1e-8]
    slopes = (delta @ V) @ N
    k = len(slopes)
    found = linprog(
        np.zeros(k), A_eq=np.vstack([slopes.T, np.ones(k)]), b_eq=np.append(np.zeros(N.shape[1]), 1.0),
        bounds=(0, None), method="highs",
    )  # fmt: skip
    return bool(found.status == 0)
