"""Solvers that know the whole problem, one file a family.

A solver takes a `Problem` and returns what it found, None where it does not apply, or raises `Unbounded` or
`Infeasible` with the reason. To add one, write it in a file of its own and put it into `SOLVERS`.
"""

from __future__ import annotations

from backlight._prototype.exact.concave import concave
from backlight._prototype.exact.ensembles import ensembles
from backlight._prototype.exact.mixed_integer import mixed_integer
from backlight._prototype.exact.modes import modes
from backlight._prototype.exact.quadratic import quadratic
from backlight._prototype.exact.rbm import binary_machine, gaussian_machine
from backlight._prototype.exact.trees import leaves
from backlight._prototype.problem import Solver

__all__ = ["SOLVERS"]

SOLVERS: tuple[Solver, ...] = (
    ensembles,
    quadratic,
    concave,
    modes,
    gaussian_machine,
    binary_machine,
    leaves,
    mixed_integer,
)
