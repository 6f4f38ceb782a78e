r"""The nearest point of a polyhedron, exactly.

.. math::  \min_v \tfrac12\lVert v - v_0\rVert^2 \quad\text{s.t.}\quad Gv \ge h,\; Ev = e .

Every concave quadratic problem with linear constraints is one, in whitened coordinates. Equalities are solved by
their null space. What is left is a least-distance problem, one non-negative least squares (Lawson, Hanson, "Solving
least squares problems", 1974, chapter 23); its active set is then solved once more to full precision. The dual of the
multipliers bounds the distance from optimal, whoever found them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import null_space
from scipy.optimize import linprog, nnls

__all__ = ["Nearest", "nearest"]

_FEASIBLE = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """The solution.

    Attributes
    ----------
    v : (k,)
    gap : float
        Primal minus dual value: ½‖v − v₀‖² is at most this much too large.
    multipliers : (m,)
        Of the inequalities, with v − v₀ = Gᵀ multipliers but for the equalities' part.
    """

    v: np.ndarray
    gap: float
    multipliers: np.ndarray


def nearest(
    v0: np.ndarray, G: np.ndarray, h: np.ndarray, E: np.ndarray | None = None, e: np.ndarray | None = None
) -> Nearest | None:
    """The point of {Gv ≥ h, Ev = e} nearest to v₀; None where there is no such point."""
    start, basis = np.zeros_like(v0), None
    if E is not None and e is not None and len(E):
        start = np.linalg.lstsq(E, e, rcond=None)[0]
        if np.abs(E @ start - e).max() > _FEASIBLE * (1 + np.abs(e).max()):
            return None
        basis = null_space(E)
        found = _inequalities(basis.T @ (v0 - start), G @ basis, h - G @ start)
        if found is None:
            return None
        return Nearest(start + basis @ found.v, found.gap, found.multipliers)
    return _inequalities(v0, G, h)


def _inequalities(v0: np.ndarray, G: np.ndarray, h: np.ndarray) -> Nearest | None:
    sizes = np.linalg.norm(G, axis=1)
    empty = sizes <= 1e-13 * max(1.0, float(sizes.max(initial=0.0)))
    if np.any(h[empty] > _FEASIBLE * (1 + np.abs(h[empty]))):
        return None
    kept = ~empty & np.isfinite(h)
    rows, need = G[kept] / sizes[kept, None], h[kept] / sizes[kept]
    missing = need - rows @ v0
    every = np.zeros(len(G))
    if not len(rows) or missing.max() <= 0:
        return Nearest(v0.copy(), 0.0, every)
    # in units of the largest violation, which bounds the distance from below
    unit = float(missing.max())
    multipliers = _least_distance(rows, missing / unit)
    if multipliers is None:
        if not _possible(rows, need):
            return None
        multipliers = np.zeros(len(rows))
    step, multipliers = _polished(rows, missing / unit, multipliers)
    left = float((missing / unit - rows @ step).max())
    if left > _FEASIBLE and not _possible(rows, need):
        return None
    dual = float(multipliers @ (missing / unit) - 0.5 * np.square(rows.T @ multipliers).sum())
    gap = max(0.0, 0.5 * float(step @ step) - dual) * unit**2
    every[kept] = unit * multipliers / sizes[kept]
    return Nearest(v0 + unit * step, gap, every)


def _least_distance(rows: np.ndarray, missing: np.ndarray) -> np.ndarray | None:
    """Multipliers λ ≥ 0 of min ½‖s‖² s.t. rows · s ≥ missing."""
    E = np.vstack([rows.T, missing])
    f = np.zeros(len(E))
    f[-1] = 1.0
    try:
        u, _ = nnls(E, f, maxiter=30 * E.shape[1])
    except RuntimeError:  # the iteration limit: the caller's certificate shows what is missing
        return np.zeros(len(rows))
    residual = f - E @ u
    if residual[-1] <= 1e-14:
        return None
    return np.asarray(u / residual[-1])


def _polished(rows: np.ndarray, missing: np.ndarray, multipliers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The step of the multipliers, and both again from the equations of the active set."""
    step = rows.T @ multipliers
    chosen = np.flatnonzero(multipliers > 1e-14 * max(1.0, float(multipliers.max(initial=0.0))))
    if not len(chosen):
        return step, multipliers
    better = np.zeros_like(multipliers)
    better[chosen] = np.linalg.lstsq(rows[chosen] @ rows[chosen].T, missing[chosen], rcond=None)[0]
    moved = rows.T @ better

    def fault(s: np.ndarray, m: np.ndarray) -> float:
        return max(float((missing - rows @ s).max()), -float(m.min()), float(np.abs(m @ (missing - rows @ s))))

    if fault(moved, better) <= fault(step, multipliers):
        return moved, np.maximum(better, 0.0)
    return step, multipliers


def _possible(rows: np.ndarray, need: np.ndarray) -> bool:
    found = linprog(np.zeros(rows.shape[1]), A_ub=-rows, b_ub=-need, bounds=(None, None), method="highs")
    return bool(found.status == 0)
