"""The same function in canonical form, and a log of every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from backlight.arguments import checked, numbers_in, shown
from backlight.canonical import patterns, pools, units
from backlight.canonical.affine import fuse, split_scales
from backlight.canonical.attention import gauge, spread_norms
from backlight.canonical.bounds import Interval, bounds
from backlight.canonical.form import Form
from backlight.canonical.kinks import kinks
from backlight.canonical.lift import lift, torch_module
from backlight.canonical.lower import lower
from backlight.canonical.moves import moves
from backlight.engine.capture import Inputs
from backlight.engine.precision import double_copy
from backlight.errors import ArgumentError, UnsupportedModel
from backlight.explanation.faces import as_table
from backlight.hints import FrameLike, RowsLike
from backlight.rules import Box
from backlight.tables import frame_like

__all__ = ["Canonical", "Step", "canonical_form", "canonical_of", "canonize", "example_inputs", "intervals"]

_ROUNDS = 400
# numbers in a row that are tried where no layer tells
_MOST_TOLD = 64
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
    unsearched : tuple of str
        Units of which it is not known whether some cancel, and why: ``planted`` says nothing about them.
    form : Form
    """

    module: fx.GraphModule
    log: tuple[Step, ...]
    change: float
    planted: tuple[Step, ...]
    unsearched: tuple[str, ...]
    form: Form = field(repr=False)

    def __iter__(self) -> Any:
        """``module, log = canonize(model)``."""
        return iter((self.module, self.log))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The canonical module's output."""
        return self.module(*args, **kwargs)

    def to_frame(self, kind: str = "numpy") -> FrameLike:
        """The log as a data frame."""
        columns: dict[str, np.ndarray] = {
            name: np.array([getattr(step, name) for step in self.log], dtype=object)
            for name in ("kind", "where", "what")
        }
        return frame_like(columns | {"change": np.array([step.change for step in self.log], dtype=float)}, kind)

    @property
    def _title(self) -> str:
        return f"canonical form: {len(self.log)} steps, the output changed by {self.change:.1e} of its largest"

    def _notes(self) -> list[str]:
        notes = []
        if self.planted:
            notes.append(
                f"{len(self.planted)} of these steps removed units that cancel each other exactly, which training does "
                "not make: an explanation may have been planted"
            )
        return notes + [f"not searched for units that cancel: {what}" for what in self.unsearched]

    def _repr_html_(self) -> str:
        rows = [[step.kind, step.where, step.what] for step in self.log]
        return as_table(self._title, ["step", "where", "what"], rows, self._notes())

    def __repr__(self) -> str:
        lines = [self._title]
        width = max([len(step.kind) for step in self.log], default=0)
        place = max([len(step.where) for step in self.log], default=0)
        lines += [f"{step.kind.ljust(width)}  {step.where.ljust(place)}  {step.what}" for step in self.log]
        return "\n".join([*lines, *self._notes()])


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
        low, high = domain.low, domain.high
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


@checked
def canonize(model: nn.Module, X: RowsLike = None, *, domain: Domain = None) -> Canonical:
    r"""The same function as a network in canonical form, and a log of what was done.

    Affine chains and batch normalisation are fused, collinear units merged, units dropped that are dead, constant or
    cancel each other, pairs relu(z), relu(−z) made into one unit and a linear part, units given length one, maxima,
    minima and absolute values recognised in their ReLU patterns, and attention written by its singular vectors. Two
    networks that differ by such steps have one canonical form, and so one explanation. Units keep their order.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode; left as it is.
    X : tensor, or tuple of tensors, optional
        A few rows, for the shape of the inputs. By default they have the shape of the domain's bounds, or of what the
        first fully connected layer reads.
    domain : "all", "nonnegative", Box(low, high) or (low, high), optional
        Where the inputs lie. On a smaller domain more relus are known to be on or off. By default anywhere.

    Returns
    -------
    Canonical
        ``module``, ``log`` and more; unpacks as ``module, log``. The module has the dtype of the model.

    Raises
    ------
    UnsupportedModel
        The graph depends on the data or the number of rows, or the numbers in the network cancel so badly that the
        function would change by more than 1e-8 of its largest output.
    ArgumentError

    Notes
    -----
    Every step is exact on the domain in exact arithmetic. The form is complete for networks with one hidden layer of
    rectifiers: the kinks of the function are their hyperplanes. With more layers it is complete up to what interval
    arithmetic can tell of signs; to decide it in full is as hard as to verify a ReLU network (NP-hard, Katz et al.,
    CAV 2017).

    Examples
    --------
    >>> import torch, backlight
    >>> nets = backlight.examples.min_networks()
    >>> for net in nets:
    ...     canonical = backlight.canonize(net, domain="nonnegative")
    ...     a = torch.tensor([[1.0, 1.0], [2.0, 1.0]])
    ...     print(backlight.explain(canonical.module, a, rules=backlight.rules.Gamma()).values)
    [[0.5 0.5]
     [0.  1. ]]
    [[0.5 0.5]
     [0.  1. ]]
    """
    model = torch_module(model)
    return canonical_of(model, example_inputs(model, X, domain), domain)


def canonical_of(model: nn.Module, inputs: Inputs, domain: Domain = None) -> Canonical:
    """The canonical form of a module, in its own precision, from a few rows of its inputs."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    return canonical_form(lift(model, inputs), domain, dtype)


def example_inputs(model: nn.Module, X: Any, domain: Domain) -> Inputs:
    """Rows of which the shape is known: given ones, or made for the domain or the first layer."""
    if X is not None:
        given = X if isinstance(X, tuple) else (X,)
        rows = tuple(item if isinstance(item, Tensor) else torch.as_tensor(numbers_in(item, "X")) for item in given)
        if not all(item.dim() and len(item) for item in rows):
            raise ArgumentError("X= must be rows, at least one: their shape is asked for")
        return rows, {}
    sides = (domain.low, domain.high) if isinstance(domain, Box) else domain
    if isinstance(sides, Sequence) and not isinstance(sides, str):
        if len(sides) != 2 or any(side is None for side in sides):
            raise ArgumentError(f"a domain needs Box(low, high) with both bounds, not {shown(domain)}")
        try:
            low, high = torch.broadcast_tensors(*(torch.as_tensor(numbers_in(side, "a domain")) for side in sides))
        except RuntimeError as error:
            raise ArgumentError(f"the two bounds of a domain have different shapes: {shown(domain)}") from error
        if low.dim():
            return (_between(low.double(), high.double()),), {}
    shape, positive = _recorded_shape(model), isinstance(domain, str) and domain == "nonnegative"
    for module in model.modules():
        if shape is None and isinstance(module, nn.Linear):
            shape = (module.in_features,)
        if shape is not None:
            ones = torch.ones(shape)
            return (_between(0 * ones if positive else -ones, ones),), {}
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            break
    else:
        count = _told(model)
        if count is not None:
            ones = torch.ones(count)
            return (_between(0 * ones if positive else -ones, ones),), {}
    raise ArgumentError("the shape of the inputs is not known: give a few rows as X")


def _told(model: nn.Module) -> int | None:
    """How many numbers a row has that a network without layers reads: those that it runs with, and no more.

    ``None`` where it runs with any number of them and reads them all.
    """
    copy = double_copy(model)
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(4, _MOST_TOLD + 1, generator=generator, dtype=torch.float64) - 0.5

    def run(x: Tensor) -> Tensor | None:
        try:
            with torch.no_grad():
                out = copy(x)
        # the user's own code, given inputs that it may not be made for: whatever it raises says that it is not
        except Exception:
            return None
        return out if isinstance(out, Tensor) and out.numel() else None

    for count in range(1, _MOST_TOLD + 1):
        if run(rows[:, :count]) is None:
            continue
        wider = rows[:, : count + 1].clone()
        before = run(wider)
        wider[:, count] += 1.0
        after = run(wider)
        reads = before is not None and after is not None and not torch.equal(before, after)
        return None if reads else count
    return None


def _recorded_shape(model: nn.Module) -> tuple[int, ...] | None:
    """Of one row of the only input, where an exported program remembers it."""
    graph = getattr(model, "graph", None)
    if not isinstance(graph, fx.Graph):
        return None
    given = [node.meta.get("val") for node in graph.nodes if node.op == "placeholder"]
    if len(given) != 1 or not isinstance(given[0], Tensor) or not all(isinstance(n, int) for n in given[0].shape[1:]):
        return None
    return tuple(given[0].shape[1:])


def _between(low: Tensor, high: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(4, *low.shape, generator=generator, dtype=torch.float64)
    low, high = torch.nan_to_num(low.double(), neginf=-1.0), torch.nan_to_num(high.double(), posinf=1.0)
    return low + share * (high - low)


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
        self.steps += [Step(kind, where, what, change, cancels) for kind, where, what, cancels in self.pending]
        self.pending, self.last = [], now
        if not float((now - self.first).abs().max()) <= _LARGEST_CHANGE * self.scale:
            step = self.steps[-1] if self.steps else None
            raise UnsupportedModel(
                f"the step {step} changed the network's function by {change:.2g} of its largest output: numbers of "
                "very different sizes cancel in it, so that no canonical form can be computed in double precision"
            )


def canonical_form(
    form: Form, domain: Domain = None, dtype: torch.dtype = torch.float64, title: str = "Canonical"
) -> Canonical:
    """Bring a form into canonical form; it is changed in place."""
    known = intervals(domain, form.example)
    for name, sides in (known or {}).items():
        given = form.example[name]
        if bool(((given < sides.low) | (given > sides.high)).any()):
            raise ArgumentError(
                f"some of the given rows lie outside of the domain {domain!r}: give rows that lie in it"
            )
    log = _Log(form)
    moves(form, log.note)
    kinks(form, log.note)
    log.settle()
    # patterns that were written out are found before their parts are fused into other layers
    while any(step(form, log.note) for step in _WRITTEN_OUT):
        log.settle()
    _fuse(form, log)
    for _ in range(_ROUNDS):
        where = bounds(form, known)
        lost = (
            units.rectifiers(form, where, log.note)
            or units.collapse(form, log.note)
            or units.opposite(form, where, log.note)
        )
        changed = lost or any(step(form, log.note) for step in _GADGETS)
        log.settle()
        if not changed:
            break
        # a line that units gave and others took away
        _fuse(form, log, suspect=lost)
    else:
        raise UnsupportedModel(f"no canonical form was reached in {_ROUNDS} steps")
    spread_norms(form, log.note)
    _fuse(form, log)
    gauge(form, log.note)
    log.settle()
    units.normalise(form, log.note)
    log.settle()
    _fuse(form, log)
    change = float((log.last - log.first).abs().max()) / log.scale
    planted = tuple(step for step in log.steps if step.cancels)
    return Canonical(lower(form, dtype, title), tuple(log.steps), change, planted, units.unsearched(form), form)


_WRITTEN_OUT = (split_scales, patterns.pairs, patterns.extremes, patterns.absorb, patterns.beside)
_GADGETS = (*_WRITTEN_OUT, units.orient, patterns.rows_of_extremes, pools.pools)


def _fuse(form: Form, log: _Log, *, suspect: bool = False) -> None:
    gone, cancelled = fuse(form)
    if suspect and cancelled:
        log.note("fused", "", "linear parts of units that cancel", cancels=True)
    elif gone > 0:
        log.note("fused", "", f"{gone} affine layers into their neighbours")
    log.settle()
