"""A piecewise linear network in rational numbers, and its linear regions.

Every weight is taken as the rational number that it is in binary, so that a network of small whole numbers and halves
is exactly what is written. Regions are found by walking through the network with a polyhedron of inputs: at every unit
whose sign is open, it is cut in two, and each part is kept only if it was proved to hold a point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from backlight.errors import UnsupportedModel
from backlight.symbolic.polyhedra import Affine, at, interior
from backlight.symbolic.program import ZERO, Instruction, Program

__all__ = ["Cut", "Piece", "pieces"]


# of the largest coefficient
_NEAR = 1e-9


# -- regions -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Cut:
    """The inputs that are looked at: where some affine functions are positive and others zero.

    Attributes
    ----------
    positive, zero : list of Affine
    point : tuple of Fraction
        One of these inputs.
    rows : array
        The first, each with its largest coefficient one; filled in when it is asked for.
    """

    positive: list[Affine]
    zero: list[Affine]
    point: tuple[Fraction, ...]
    rows: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def near(self, function: Affine) -> tuple[int, Fraction] | None:
        """The sign of a function that is a multiple of one whose sign is known, but for some error.

        Returns
        -------
        (sign, error)
            With |function − κ h| ≤ error · (1 + ‖x‖₁) for the known h, κ > 0 or < 0; ``None`` if it is near none.
        """
        if not self.positive:
            return None
        size = max(abs(c) for c in function)
        mine = np.array([float(c / size) for c in function])
        for row, held in zip(self._sized(), self.positive, strict=True):
            for sign in (1, -1):
                if np.abs(mine - sign * row).max() < _NEAR:
                    factor = sign * size / max(abs(c) for c in held)
                    return sign, max(abs(c - factor * h) for c, h in zip(function, held, strict=True))
        return None

    def _sized(self) -> np.ndarray:
        rows = [[float(c / max(abs(x) for x in f)) for c in f] for f in self.positive[len(self.rows) :]]
        if rows:
            self.rows = np.vstack([self.rows.reshape(-1, len(rows[0])), np.array(rows)])
        return self.rows

    def sides(self, function: Affine, *, kinks: bool) -> list[tuple[int, Cut]]:
        """The parts where a function is positive, negative, and, if asked for, zero."""
        size = len(self.point)
        if not any(function[:-1]):
            return [(_sign(function[-1]), self)]
        here = _sign(at(function, self.point))
        found: list[tuple[int, Cut]] = []
        minus = tuple(-c for c in function)
        for sign, side in ((1, function), (-1, minus)):
            held = [*self.positive, side]
            point = self.point if here == sign else interior(held, self.zero, size)
            if point is not None:
                found.append((sign, Cut(held, self.zero, point, self.rows)))
        if len(found) == 2 and kinks:
            zero = [*self.zero, function]
            point = interior(self.positive, zero, size)
            if point is not None:
                found.insert(1, (0, Cut(self.positive, zero, point)))
        if not found:
            # zero on all of it
            return [(0, self)]
        return found


@dataclass(slots=True)
class Piece:
    """A region on which the network is linear.

    Attributes
    ----------
    cut : Cut
    values : list of list of Affine
        The units of every instruction as functions of the inputs.
    signs : dict of (instruction, unit) to int
        On which side of its kink each unit is; of a maximum or minimum which of the two is larger.
    slack : Fraction
        The output may be off by slack · (1 + ‖x‖₁): kinks that lie within rounding of each other count as one.
    """

    cut: Cut
    values: list[list[Affine]]
    signs: dict[tuple[int, int], int]
    slack: Fraction = ZERO


def pieces(
    network: Program,
    start: Cut,
    *,
    kinks: bool = False,
    limit: int = 20_000,
    rounding: bool = False,
    open_signs: Callable[[Program, int, list[list[Affine]]], Sequence[tuple[Any, Affine]]] | None = None,
) -> Iterator[Piece]:
    """Every region, depth first.

    Parameters
    ----------
    kinks : bool
        Also the lower-dimensional ones, where a unit is exactly at its kink.
    rounding : bool
        Take kinks that lie within 1e-9 of each other for one, and account for it in ``slack``.
    open_signs : callable, optional
        Further functions, by a key, whose sign has to be known once an instruction is computed.

    Raises
    ------
    UnsupportedModel
        There are more regions than the limit.
    """
    found = 0
    dimension = network.dimension
    inputs = [(*(Fraction(int(i == j)) for i in range(dimension)), ZERO) for j in range(dimension)]
    passed = _sensitivity(network) if rounding else _Nothing()
    todo: list[tuple[int, list[list[Affine]], dict[Any, Any], Cut]] = [(0, [], {"slack": ZERO}, start)]
    while todo:
        k, values, signs, cut = todo.pop()
        if k == len(network.instructions):
            found += 1
            if found > limit:
                raise UnsupportedModel(f"the network has more than {limit} linear regions here")
            slack = signs["slack"]
            yield Piece(cut, values, {key: sign for key, sign in signs.items() if key != "slack"}, slack)
            continue
        step = network.instructions[k]
        branches: list[tuple[dict[Any, Any], Cut]] = [(signs, cut)]
        if step.kind == "input":
            own: Callable[[dict[Any, int]], list[Affine]] = lambda _: inputs  # noqa: E731
        elif step.kind == "sum":
            total = _total(step, values)
            own = lambda _, total=total: total  # type: ignore[misc]  # noqa: E731
        elif step.kind == "same":
            given = values[step.sources[0]]
            own = lambda _, given=given: given  # type: ignore[misc]  # noqa: E731
        else:
            deciding = _deciding(step, values)
            for unit, function in enumerate(deciding):
                branches = [
                    ({**held, (k, unit): sign, "slack": held["slack"] + error * passed[k][unit]}, part)
                    for held, now in branches
                    for sign, part, error in _sides(now, function, kinks, rounding)
                ]
            own = lambda held, step=step, values=values, k=k: _chosen(step, values, held, k)  # type: ignore[misc]  # noqa: E731
        for held, now in reversed(branches):
            extended = [*values, own(held)]
            parts = [(held, now)]
            for key, function in open_signs(network, k, extended) if open_signs is not None else ():
                parts = [
                    ({**h, key: sign}, part)
                    for h, c in parts
                    for sign, part in c.sides(function, kinks=kinks and key[0] == "z")
                ]
            todo += [(k + 1, extended, h, c) for h, c in reversed(parts)]


class _Nothing:
    """Where no error is passed on."""

    def __getitem__(self, _: int) -> Any:
        return _Zeros()


class _Zeros:
    def __getitem__(self, _: int) -> Fraction:
        return ZERO


def _sides(cut: Cut, function: Affine, kinks: bool, rounding: bool) -> list[tuple[int, Cut, Fraction]]:
    if any(function[:-1]):
        known = cut.near(function)
        if known is not None and (rounding or known[1] == 0):
            return [(known[0], cut, known[1])]
    return [(sign, part, ZERO) for sign, part in cut.sides(function, kinks=kinks)]


def _sensitivity(network: Program) -> list[list[Fraction]]:
    """By how much an output can change for a change of one unit: the sum of absolute weights over all paths."""
    last = len(network.instructions) - 1
    sizes = network.sizes
    found = [[ZERO] * size for size in sizes]
    readers = {
        source for step in network.instructions for source in (*step.sources, *(lay.source for lay in step.layers))
    }
    for k in range(last, -1, -1):
        if k not in readers:
            found[k] = [Fraction(1)] * sizes[k]
        step = network.instructions[k]
        for source in step.sources:
            found[source] = [a + b for a, b in zip(found[source], found[k], strict=True)]
        for layer in step.layers:
            for row, size in zip(layer.weight, found[k], strict=True):
                if size:
                    found[layer.source] = [a + abs(w) * size for a, w in zip(found[layer.source], row, strict=True)]
    return found


def _total(step: Instruction, values: list[list[Affine]]) -> list[Affine]:
    total: list[Affine] | None = None
    for layer in step.layers:
        part = [combined(row, values[layer.source]) for row in layer.weight]
        if layer.bias is not None:
            part = [(*f[:-1], f[-1] + b) for f, b in zip(part, layer.bias, strict=True)]
        total = part if total is None else [added(f, g) for f, g in zip(total, part, strict=True)]
    assert total is not None
    return total


def combined(row: Sequence[Fraction], functions: Sequence[Affine]) -> Affine:
    """Σ w_j f_j."""
    size = len(functions[0])
    total = [ZERO] * size
    for w, function in zip(row, functions, strict=True):
        if w:
            total = [t + w * c for t, c in zip(total, function, strict=True)]
    return tuple(total)


def added(f: Affine, g: Affine, sign: int = 1) -> Affine:
    """The sum f + g."""
    return tuple(a + sign * b for a, b in zip(f, g, strict=True))


def _deciding(step: Instruction, values: list[list[Affine]]) -> list[Affine]:
    if step.kind in ("relu", "abs"):
        return values[step.sources[0]]
    first, second = (values[source] for source in step.sources)
    return [added(f, g, -1) for f, g in zip(first, second, strict=True)]


def _chosen(step: Instruction, values: list[list[Affine]], signs: dict[Any, int], k: int) -> list[Affine]:
    found = []
    zero = (ZERO,) * len(values[0][0])
    first = values[step.sources[0]]
    for unit, function in enumerate(first):
        sign = signs[k, unit]
        if step.kind == "relu":
            found.append(function if sign > 0 else zero)
        elif step.kind == "abs":
            found.append(function if sign > 0 else tuple(-c for c in function) if sign < 0 else zero)
        else:
            larger = sign >= 0
            other = values[step.sources[1]][unit]
            found.append(function if larger == (step.kind == "maximum") else other)
    return found


def _sign(value: Fraction) -> int:
    return (value > 0) - (value < 0)
