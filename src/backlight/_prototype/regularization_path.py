"""Prototypes along the strength of the prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backlight._prototype.data import PrototypeData
from backlight._prototype.plots import path
from backlight.arguments import numbers_in, shown
from backlight.errors import ArgumentError
from backlight.explanation.faces import as_table

__all__ = ["Path", "follow"]

_SHOWN = 4


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """What `Prototypes.path` returns.

    Attributes
    ----------
    strengths : tuple of float, increasing
    prototypes : tuple of Prototypes, one for each
    """

    strengths: tuple[float, ...]
    prototypes: tuple[PrototypeData, ...]

    @property
    def f(self) -> np.ndarray:
        """Values of the target, (strengths, targets)."""
        return np.stack([p.f for p in self.prototypes])

    @property
    def omega(self) -> np.ndarray:
        """Ω, (strengths, targets)."""
        return np.stack([p.omega for p in self.prototypes])

    def turns(self) -> list[tuple[str, float, float, str, str]]:
        """Where the model's decision changes: target, the strengths between, decided before and after."""
        found = []
        for t, name in enumerate(self.prototypes[0].names):
            for k in range(1, len(self.strengths)):
                before, after = self.prototypes[k - 1].decided[t], self.prototypes[k].decided[t]
                if before != after:
                    found.append((name, self.strengths[k - 1], self.strengths[k], before, after))
        return found

    def _repr_html_(self) -> str:
        names = self.prototypes[0].names[:_SHOWN]
        rows = [
            [f"{strength:g}", *(f"{p.f[t]:.3g} ({p.outcome(t)})" for t in range(len(names)))]
            for strength, p in zip(self.strengths, self.prototypes, strict=True)
        ]
        left = len(self.prototypes[0]) - len(names)
        notes = [f"and {left} more targets"] if left else []
        return as_table("f by strength", ["strength", *names], rows, [*notes, *self._turned()])

    def _turned(self) -> list[str]:
        return [
            f"between {low:g} and {high:g} the {before!r} of target {name!r} turns into {after!r}"
            for name, low, high, before, after in self.turns()
        ]

    def __repr__(self) -> str:
        names = self.prototypes[0].names[:_SHOWN]
        lines = ["strength  " + "  ".join(f"{name:<21}" for name in names).rstrip()]
        for strength, p in zip(self.strengths, self.prototypes, strict=True):
            cells = [f"{p.f[t]:<8.3g} {p.outcome(t):<12}" for t in range(len(p))]
            lines.append(f"{strength:<8g}  " + "  ".join(cells[:_SHOWN]).rstrip())
        if len(self.prototypes[0]) > _SHOWN:
            lines.append(f"and {len(self.prototypes[0]) - _SHOWN} more targets")
        return "\n".join([*lines, *self._turned()])

    def plot(self, *, ax: Any = None) -> Any:
        """What f and Ω are against strength, or pictures: see `backlight._prototype.plots.path`."""
        return path(self.strengths, self.prototypes, ax)


def follow(start: PrototypeData, strengths: Sequence[float]) -> Path:
    """See `Prototypes.path`."""
    values = sorted(np.atleast_1d(numbers_in(strengths, "strengths")).astype(float).ravel().tolist())
    if not values or not 0 < values[0] <= values[-1] < math.inf:
        raise ArgumentError(f"strengths must be finite numbers > 0, not {shown(strengths)}")
    setup = start.setup
    assert setup is not None
    # from the strength at hand outwards, so that each has a neighbour to start from
    order = sorted(values, key=lambda s: abs(math.log(s / start.strength)) if math.isfinite(start.strength) else s)
    found: dict[float, PrototypeData] = {}
    for strength in order:
        fresh = type(start).made(replace(setup, strength=strength))
        if start.x.ndim >= 2 and start.z is None and any(p.formula is None for p in fresh.problems):
            known = [*found.values(), start]
            near = min(known, key=lambda p: abs(math.log(p.strength / strength)) if math.isfinite(p.strength) else 9.0)
            starts = np.asarray(near.x)[np.isfinite(near.x.reshape(len(near.x), -1)).all(1)]
            if len(starts):
                warm = type(start).made(replace(setup, strength=strength, init=starts, restarts=len(starts)))
                fresh = _better(fresh, warm)
        found[strength] = fresh
    return Path(tuple(values), tuple(found[s] for s in values))


def _better(a: PrototypeData, b: PrototypeData) -> PrototypeData:
    """The better of two for each target."""
    take = np.nan_to_num(b.value, nan=-np.inf) > np.nan_to_num(a.value, nan=-np.inf)
    if not take.any():
        return a

    def mixed(name: str) -> Any:
        first, second = getattr(a, name), getattr(b, name)
        if isinstance(first, np.ndarray):
            return np.where(take.reshape(-1, *[1] * (first.ndim - 1)), second, first)
        return tuple(second[t] if take[t] else first[t] for t in range(len(take)))

    names = ("x", "f", "omega", "value", "status", "certificate", "decided", "optima", "notes", "flags")
    return replace(a, **{name: mixed(name) for name in names})
