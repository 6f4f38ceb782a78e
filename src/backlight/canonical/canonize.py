"""The same function in canonical form, and a log of every step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from backlight.canonical import gadgets, units
from backlight.canonical.affine import fuse
from backlight.canonical.attention import gauge, spread_norms
from backlight.canonical.bounds import Interval, bounds
from backlight.canonical.form import Form
from backlight.canonical.lower import lower
from backlight.errors import ArgumentError, UnsupportedModel
from backlight.rules import Box
from backlight.tables import frame_like

__all__ = ["Canonical", "Step", "canonical_form", "intervals"]

_ROUNDS = 400
# of the largest output; more than this is no rounding
_LARGEST_CHANGE = 1e-8

Domain = Any


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the way to canonical form.

    Attributes
    ----------
    kind : str
        fused, merged, dropped, collapsed, flipped, recognised, always on, normalised, gauged.
    where : str
        The place in the network.
    what : str
    change : float
        The largest change of the output that it made, relative to the largest output: rounding.
    cancels : bool
        Whether units were there that cancel each other, which training does not make.
    """

    kind: str
    where: str
    what: str
    change: float
    cancels: bool = False


@dataclass(slots=True, repr=False)
class Canonical:
    """A network in canonical form.

    Attributes
    ----------
    module : torch.fx.GraphModule
        Ordinary layers that keep their names; ``module.code`` shows it as Python.
    log : tuple of Step
    change : float
        The largest change of the output, relative to the largest output.
    planted : tuple of Step
        The steps that removed what training does not make: units that cancel each other exactly.
    form : Form
    """

    module: fx.GraphModule
    log: tuple[Step, ...]
    change: float
    planted: tuple[Step, ...]
    form: Form = field(repr=False)

    def __iter__(self) -> Any:
        """``module, log = canonize(model)``."""
        return iter((self.module, self.log))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The canonical module's output."""
        return self.module(*args, **kwargs)

    def to_frame(self, kind: str = "numpy") -> Any:
        """The log as a data frame."""
        columns: dict[str, np.ndarray] = {
            name: np.array([getattr(step, name) for step in self.log], dtype=object) for name in ("kind", "where", "what")
        }
        return frame_like(columns | {"change": np.array([step.change for step in self.log], dtype=float)}, kind)

    def __repr__(self) -> str:
        head = f"canonical form: {len(self.log)} steps, the output changed by {self.change:.1e} of its largest"
        lines = [head]
        width = max([len(step.kind) for step in self.log], default=0)
        place = max([len(step.where) for step in self.log], default=0)
        lines += [f"{step.kind.ljust(width)}  {step.where.ljust(place)}  {step.what}" for step in self.log]
        if self.planted:
            lines.append(
                f"{len(self.planted)} of these steps removed units that cancel each other exactly, which training does "
                "not make: an explanation may have been planted"
            )
        return "\n".join(lines)


def intervals(domain: Domain, example: Mapping[str, Any]) -> dict[str, Interval] | None:
    """A domain as bounds of every input.

    Parameters
    ----------
    domain : None, "all", "nonnegative", Box, or (low, high)
    example : dict of str to tensors
    """
    if domain is None or (isinstance(domain, str) and domain == "all"):
        return None
    if isinstance(domain, str):
        if domain != "nonnegative":
            raise ArgumentError(f"domain={domain!r} is not known: give 'all', 'nonnegative', or Box(low, high)")
        low, high = 0.0, torch.inf
    elif isinstance(domain, Box):
        low, high = domain.low, domain.high  # type: ignore[assignment]
        if low is None or high is None:
            raise ArgumentError("a domain needs Box(low, high) with both bounds")
    elif isinstance(domain, Sequence) and len(domain) == 2:
        low, high = domain
    else:
        raise ArgumentError(f"domain={domain!r} is not known: give 'all', 'nonnegative', or Box(low, high)")
    found = {}
    for name, value in example.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        sides = []
        for side in (low, high):
            given = torch.as_tensor(side, dtype=torch.float64)
            try:
                sides.append(given.expand(1, *value.shape[1:]))
            except RuntimeError:
                raise ArgumentError(
                    f"bounds of shape {tuple(given.shape)} do not fit inputs of shape {tuple(value.shape[1:])}"
                ) from None
        if bool((sides[0] > sides[1]).any()):
            raise ArgumentError("the lower bound of the domain is above the upper bound")
        found[name] = Interval(*sides)
    return found


class _Log:
    """Steps as they are made, with what each changed."""

    def __init__(self, form: Form) -> None:
        self.form, self.steps = form, list[Step]()
        self.first = self.last = form.refresh()
        self.scale = float(self.first.abs().max().clamp(min=1e-300))
        self.pending: list[tuple[str, str, str, bool]] = []

    def note(self, kind: str, where: str, what: str, *, cancels: bool = False) -> None:
        """A step that was made."""
        self.pending.append((kind, where, what, cancels))

    def settle(self) -> None:
        """Measure what the pending steps changed."""
        now = self.form.refresh()
        change = float((now - self.last).abs().max()) / self.scale
        self.steps += [Step(*said, change, cancels) for *said, cancels in self.pending]
        self.pending, self.last = [], now
        if not float((now - self.first).abs().max()) <= _LARGEST_CHANGE * self.scale:
            step = self.steps[-1] if self.steps else None
            raise UnsupportedModel(
                f"the step {step} changed the network's function by {change:.2g} of its largest output: numbers of very "
                "different sizes cancel in it, so that no canonical form can be computed in double precision"
            )


def canonical_form(form: Form, domain: Domain = None, dtype: torch.dtype = torch.float64, title: str = "Canonical") -> Canonical:
    """Bring a form into canonical form; it is changed in place."""
    known = intervals(domain, form.example)
    log = _Log(form)
    # gadgets that were written out are found before their parts are fused into other layers
    while gadgets.pairs(form, log.note) or gadgets.extremes(form, log.note) or gadgets.absorb(form, log.note):
        log.settle()
    _fuse(form, log)
    for _ in range(_ROUNDS):
        changed = (
            gadgets.pairs(form, log.note)
            or gadgets.extremes(form, log.note)
            or gadgets.absorb(form, log.note)
            or units.rectifiers(form, bounds(form, known), log.note)
            or units.collapse(form, log.note)
            or units.orient(form, log.note)
            or gadgets.rows_of_extremes(form, log.note)
            or gadgets.pools(form, log.note)
        )
        log.settle()
        if not changed:
            break
        _fuse(form, log)
    else:
        warnings.warn("the canonical form was not reached", stacklevel=2)
    spread_norms(form, log.note)
    _fuse(form, log)
    gauge(form, log.note)
    log.settle()
    units.normalise(form, log.note)
    log.settle()
    _fuse(form, log)
    change = float((log.last - log.first).abs().max()) / log.scale
    planted = tuple(step for step in log.steps if step.cancels)
    return Canonical(lower(form, dtype, title), tuple(log.steps), change, planted, form)


def _fuse(form: Form, log: _Log) -> None:
    gone = fuse(form)
    if gone > 0:
        log.note("fused", "", f"{gone} affine layers into their neighbours")
    log.settle()


