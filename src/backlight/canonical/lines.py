"""Functions of one number that are made of straight pieces: what every spelling of a kink comes to.

A jump is allowed on the way (the mask z > 0 is one); z · (z > 0) has none left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Pieces", "compose", "constant", "identity", "kinked", "product", "step"]

# of numbers of order one: what is left of sums of slopes that cancel
_ROUNDING = 1e-13


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """f(t) = slope_k · t + offset_k between two neighbouring breaks.

    Attributes
    ----------
    breaks : (m,), rising
    slope, offset : (m + 1,)
    at : (m,)
        f at the breaks themselves.
    """

    breaks: np.ndarray
    slope: np.ndarray
    offset: np.ndarray
    at: np.ndarray

    def __call__(self, t: float) -> float:
        k = int(np.searchsorted(self.breaks, t))
        if k < len(self.breaks) and self.breaks[k] == t:
            return float(self.at[k])
        return float(self.slope[k] * t + self.offset[k])

    def __add__(self, other: Pieces) -> Pieces:
        return _joined(self, other, lambda a, b, c, d: (a + c, b + d))

    def scaled(self, factor: float, shift: float = 0.0) -> Pieces:
        """Factor · f + shift."""
        return Pieces(self.breaks, factor * self.slope, factor * self.offset + shift, factor * self.at + shift)

    @property
    def straight(self) -> bool:
        """Whether it has no break."""
        return not len(self.breaks)

    @property
    def continuous(self) -> bool:
        """Whether it has no jump."""
        left = self.slope[:-1] * self.breaks + self.offset[:-1]
        right = self.slope[1:] * self.breaks + self.offset[1:]
        size = _ROUNDING * 10 * _sizes(self)
        return bool((np.abs(left - right) <= size).all() and (np.abs(self.at - left) <= size).all())

    def tidy(self) -> Pieces:
        """Without breaks where nothing changes."""
        left = self.slope[:-1] * self.breaks + self.offset[:-1]
        right = self.slope[1:] * self.breaks + self.offset[1:]
        size = _ROUNDING * 10 * _sizes(self)
        bent = np.abs(self.slope[1:] - self.slope[:-1]) > _ROUNDING * (np.abs(self.slope[1:]) + np.abs(self.slope[:-1]))
        real = bent | (np.abs(left - right) > size) | (np.abs(self.at - left) > size)
        kept = np.concatenate([[True], real])
        return Pieces(self.breaks[real], self.slope[kept], self.offset[kept], self.at[real])


def _sizes(f: Pieces) -> np.ndarray:
    t = np.abs(f.breaks)
    return np.asarray(
        np.maximum(np.abs(f.slope[1:]) * t + np.abs(f.offset[1:]), np.abs(f.slope[:-1]) * t + np.abs(f.offset[:-1]))
        + np.finfo(float).tiny
    )


def identity() -> Pieces:
    """F(t) = t."""
    return _line(1.0, 0.0)


def constant(value: float) -> Pieces:
    """F(t) = value."""
    return _line(0.0, value)


def kinked(*pieces: tuple[float, float], breaks: tuple[float, ...]) -> Pieces:
    """A function without jumps: (slope, offset) of each piece from the left."""
    slope, offset = (np.array([p[k] for p in pieces], dtype=float) for k in (0, 1))
    at = slope[:-1] * np.array(breaks) + offset[:-1]
    return Pieces(np.array(breaks, dtype=float), slope, offset, at)


def step(*, at: float) -> Pieces:
    """1 for t > 0, 0 for t < 0, and this at 0."""
    return Pieces(np.zeros(1), np.zeros(2), np.array([0.0, 1.0]), np.array([at]))


def product(f: Pieces, g: Pieces) -> Pieces | None:
    """F · g, where one of them is constant on every piece."""
    curved = False

    def times(a: float, b: float, c: float, d: float) -> tuple[float, float]:
        nonlocal curved
        curved |= a != 0 and c != 0
        return a * d + b * c, b * d

    found = _joined(f, g, times, lambda x, y: x * y)
    return None if curved else found


def compose(outer: Pieces, inner: Pieces) -> Pieces:
    """Outer ∘ inner."""
    breaks: list[float] = list(inner.breaks)
    at: list[float] = [outer(float(y)) for y in inner.at]
    edges = np.concatenate([[-np.inf], inner.breaks, [np.inf]])
    for k, (s, o) in enumerate(zip(inner.slope, inner.offset, strict=True)):
        for t, value in zip(outer.breaks, outer.at, strict=True) if s else ():
            where = (t - o) / s
            if edges[k] < where < edges[k + 1]:
                breaks.append(float(where))
                at.append(float(value))
    order = np.argsort(breaks, kind="stable")
    rising = np.array(breaks, dtype=float)[order]
    slope, offset = [], []
    for m in _between(rising):
        k = int(np.searchsorted(inner.breaks, m))
        s, o = inner.slope[k], inner.offset[k]
        if s == 0:
            slope.append(0.0)
            offset.append(outer(float(o)))
        else:
            j = int(np.searchsorted(outer.breaks, s * m + o))
            slope.append(float(outer.slope[j] * s))
            offset.append(float(outer.slope[j] * o + outer.offset[j]))
    return Pieces(rising, np.array(slope), np.array(offset), np.array(at, dtype=float)[order]).tidy()


def _line(slope: float, offset: float) -> Pieces:
    return Pieces(np.zeros(0), np.array([slope]), np.array([offset]), np.zeros(0))


def _between(breaks: np.ndarray) -> list[float]:
    """A point inside each piece."""
    if not len(breaks):
        return [0.0]
    far = 1.0 + np.abs(breaks).max()
    return [float(breaks[0] - far), *((breaks[:-1] + breaks[1:]) / 2).tolist(), float(breaks[-1] + far)]


def _joined(
    f: Pieces,
    g: Pieces,
    lines: Callable[[float, float, float, float], tuple[float, float]],
    values: Callable[[float, float], float] = lambda x, y: x + y,
) -> Pieces:
    breaks = np.union1d(f.breaks, g.breaks)
    slope, offset = [], []
    for m in _between(breaks):
        i, j = int(np.searchsorted(f.breaks, m)), int(np.searchsorted(g.breaks, m))
        s, o = lines(float(f.slope[i]), float(f.offset[i]), float(g.slope[j]), float(g.offset[j]))
        slope.append(s)
        offset.append(o)
    at = np.array([values(f(float(t)), g(float(t))) for t in breaks])
    return Pieces(breaks, np.array(slope), np.array(offset), at).tidy()
