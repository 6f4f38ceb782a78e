"""Linear and mixed-integer programs as they are built, one variable and row after the other; HiGHS solves them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_matrix

from backlight._prototype.exact.quiet import quiet

__all__ = ["Program", "Squares", "settled"]

_GAP = 1e-7
_SECONDS = 60.0
_CUTS = 40


@dataclass
class Program:
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

    def fixed(self, solution: np.ndarray) -> Program:
        """The linear program that is left when the whole numbers are held."""
        low, high = list(self.low), list(self.high)
        for i in np.flatnonzero(self.whole):
            low[i] = high[i] = float(np.clip(round(solution[i]), self.low[i], self.high[i]))
        return Program(low, high, [0] * len(low), dict(self.gain), list(self.rows))

    def solve(self, relaxed: bool = False, seconds: float = _SECONDS) -> Any:
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
        with quiet():
            return milp(
                c, integrality=np.zeros(n) if relaxed else np.array(self.whole), bounds=Bounds(self.low, self.high),
                constraints=constraints,
                options={"mip_rel_gap": 0.0 if relaxed else _GAP * 1e-2, "time_limit": seconds},
            )  # fmt: skip


@dataclass
class Squares:
    """Variables t_i ≥ ½ v_i², held by tangents: Kelley's cutting planes (SIAM Journal, 1960)."""

    places: np.ndarray
    tops: np.ndarray

    def cut(self, program: Program, v: np.ndarray) -> None:
        for place, top, point in zip(self.places, self.tops, v, strict=True):
            program.row(np.array([top, place]), np.array([1.0, -point]), -0.5 * point**2, np.inf)

    def missing(self, solution: np.ndarray) -> np.ndarray:
        return np.asarray(0.5 * solution[self.places] ** 2 - solution[self.tops])


def settled(program: Program, squares: Squares | None, seconds: float = _SECONDS) -> Any:
    """The program's solution, with tangents put in until the squares are what they should be."""
    end = time.monotonic() + seconds
    result = program.solve(seconds=seconds)
    for _ in range(_CUTS if squares is not None else 0):
        assert squares is not None
        if result.x is None:
            break
        missing = squares.missing(np.asarray(result.x))
        if missing.sum() <= 1e-8 * (1 + abs(float(result.fun))):
            break
        if time.monotonic() >= end:
            break
        squares.cut(program, np.asarray(result.x)[squares.places])
        result = program.solve(seconds=max(1.0, end - time.monotonic()))
    return result
