"""Solvers that know the whole problem, one file a family.

A solver takes a `Problem` and returns what it found, None where it does not apply, or raises `Unbounded` or
`Infeasible` with the reason. To add one, write it in a file of its own and put it into `SOLVERS`.
"""

from __future__ import annotations

from backlight.prototypes.exact.concave import concave
from backlight.prototypes.exact.leaves import leaves
from backlight.prototypes.exact.machines import binary_machine, gaussian_machine
from backlight.prototypes.exact.mixed_integer import mixed_integer
from backlight.prototypes.exact.modes import modes
from backlight.prototypes.exact.quadratic import quadratic
from backlight.prototypes.problem import Solver

__all__ = ["SOLVERS"]

SOLVERS: tuple[Solver, ...] = (quadratic, concave, modes, gaussian_machine, binary_machine, leaves, mixed_integer)
