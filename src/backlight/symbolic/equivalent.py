"""Are two networks the same function? A proof, or an input where they differ."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import nn

from backlight.arguments import checked
from backlight.canonical.lift import torch_module
from backlight.engine.precision import double_copy
from backlight.errors import ArgumentError, UnsupportedModel, listed
from backlight.explanation.faces import as_words
from backlight.hints import DomainLike, RowsLike
from backlight.symbolic.domains import domain_cut
from backlight.symbolic.piecewise import Cut, added, pieces
from backlight.symbolic.polyhedra import Affine, at, interior
from backlight.symbolic.program import Program, program

__all__ = ["Counterexample", "NotProved", "Proof", "equivalent"]

_REGIONS = 20_000
_ORTHANTS = 8


@dataclass(frozen=True, slots=True)
class Proof:
    """The networks are the same function on the domain; true.

    Attributes
    ----------
    regions : int
        How many common linear regions were compared, in rational numbers.
    tolerance : float
    largest : float
        The largest difference of a coefficient; zero where they are equal.
    domain : str
    """

    regions: int
    tolerance: float
    largest: float
    domain: str

    def __bool__(self) -> bool:
        return True

    def _repr_html_(self) -> str:
        return as_words(repr(self))

    def __repr__(self) -> str:
        how = "exactly" if self.largest == 0 else f"within {self.tolerance:g} · (1 + ‖x‖₁)"
        return f"Proof: the same function on {self.domain}, {how}, in all of {self.regions} linear regions"


@dataclass(frozen=True, slots=True)
class Counterexample:
    """An input where the networks differ; false.

    Attributes
    ----------
    x : array of the input's shape
    exact : tuple of Fraction
        The same input, exactly.
    first, second : tuple of Fraction
        What the networks give there, exactly.
    """

    x: np.ndarray
    exact: tuple[Fraction, ...]
    first: tuple[Fraction, ...]
    second: tuple[Fraction, ...]

    def __bool__(self) -> bool:
        return False

    @property
    def difference(self) -> float:
        """The largest difference of an output there."""
        return float(max(abs(a - b) for a, b in zip(self.first, self.second, strict=True)))

    def _repr_html_(self) -> str:
        return as_words(repr(self))

    def __repr__(self) -> str:
        return f"Counterexample: at x = {self.x.tolist()} the outputs differ by {self.difference:.3g}"


@dataclass(frozen=True, slots=True)
class NotProved:
    """Neither proved nor refuted: the networks have too many linear regions; false.

    Attributes
    ----------
    largest : float
        The largest difference that a search found, rounding included.
    x : array
        Where.
    why : str
    """

    largest: float
    x: np.ndarray
    why: str

    def __bool__(self) -> bool:
        return False

    def _repr_html_(self) -> str:
        return as_words(repr(self))

    def __repr__(self) -> str:
        return f"not proved ({self.why}): the largest difference found is {self.largest:.3g}, at {self.x.tolist()}"


@checked
def equivalent(
    first: nn.Module | Callable[[torch.Tensor], torch.Tensor] | str,
    second: nn.Module | Callable[[torch.Tensor], torch.Tensor] | str,
    domain: DomainLike = None,
    *,
    tolerance: float = 0.0,
    X: RowsLike = None,
    limit: int = _REGIONS,
    seed: int = 0,
) -> Proof | Counterexample | NotProved:
    """Prove that two piecewise linear networks are the same function, or find an input where they are not.

    The common linear regions of both are enumerated, and their linear functions compared, all in rational numbers: a
    network's weights are exactly the binary fractions that they are. A region is left out only if there is a
    certificate that it is empty.

    Parameters
    ----------
    first, second : torch.nn.Module, function of a tensor of rows, or str
        Piecewise linear: layers with weights, relu, abs, clamp, maxima, minima, pooling, masks, and what moves and adds
        up. By name ``"min"``, ``"max"``, ``"sum"``, ``"mean"`` of the inputs, ``"relu"``, ``"abs"`` of each.
    domain : "all", "nonnegative", Box(low, high) or (low, high), optional
        Where they are compared; by default everywhere.
    tolerance : float, default 0
        Differences up to tolerance · (1 + ‖x‖₁) count as equal: weights that were rounded.
    X : array, optional
        A row, where neither network tells the shape of the input.
    limit : int
        Of linear regions; beyond it the answer is `NotProved`, with the largest difference that a search found.
    seed : int
        Of that search.

    Returns
    -------
    Proof, Counterexample or NotProved
        Only a `Proof` is true.

    Raises
    ------
    UnsupportedOperator, UnsupportedModel, ArgumentError

    Examples
    --------
    >>> import backlight
    >>> nets = backlight.examples.min_networks()
    >>> backlight.equivalent(nets.i, nets.ii)
    Proof: the same function on all inputs, exactly, in all of 6 linear regions
    >>> backlight.equivalent(nets.i, "min", domain="nonnegative")
    Proof: the same function on non-negative inputs, exactly, in all of 2 linear regions
    """
    if not 0 <= tolerance < float("inf"):
        raise ArgumentError(f"tolerance must be zero or positive, not {tolerance!r}")
    nets = [_module(net) for net in (first, second)]
    a, b = _programs(nets, X)
    if a.dimension != b.dimension:
        raise ArgumentError(f"the networks read {a.dimension} and {b.dimension} inputs")
    start = domain_cut(domain, a.dimension)
    both, ends = _joined(a, b)
    allowed = Fraction(tolerance)
    largest, count = Fraction(0), 0
    try:
        for piece in pieces(both, start, limit=limit, rounding=tolerance > 0):
            count += 1
            f, g = (piece.values[end] for end in ends)
            if len(f) != len(g):
                raise ArgumentError(f"the networks have {len(f)} and {len(g)} outputs")
            for p, q in zip(f, g, strict=True):
                difference = added(p, q, -1)
                size = max(abs(c) for c in difference)
                if size + piece.slack > allowed:
                    found = _witness(piece.cut, difference, max(allowed - piece.slack, Fraction(0)))
                    if found is None and piece.slack > allowed:
                        raise UnsupportedModel("kinks lie so near each other that rounding could be more than allowed")
                    if found is not None:
                        gap, scale = abs(at(difference, found)), 1 + sum(abs(v) for v in found)
                        if gap - piece.slack * scale <= allowed * scale:
                            raise UnsupportedModel("they may differ by a little more than the tolerance")
                        values = [tuple(at(h, found) for h in side) for side in (f, g)]
                        x = np.array([float(v) for v in found]).reshape(a.shape)
                        return Counterexample(x, found, *values)
                largest = max(largest, size + piece.slack)
    except UnsupportedModel as error:
        return _search(nets, start, a, str(error), seed)
    return Proof(count, tolerance, float(largest), _said(domain))


def _said(domain: Any) -> str:
    if domain is None or (isinstance(domain, str) and domain == "all"):
        return "all inputs"
    return "non-negative inputs" if isinstance(domain, str) else "the box"


def _witness(cut: Cut, difference: Affine, allowed: Fraction) -> tuple[Fraction, ...] | None:
    """A point of a region where the difference is more than allowed; ``None`` is a proof that there is none."""
    point = cut.point
    if abs(at(difference, point)) > allowed * (1 + sum(abs(v) for v in point)):
        return point
    size = len(point)
    if allowed == 0:
        # a point off the plane on which the difference happens to be zero
        for sign in (1, -1):
            found = interior([*cut.positive, tuple(sign * c for c in difference)], cut.zero, size)
            if found is not None:
                return found
        return None
    if size > _ORTHANTS:
        raise UnsupportedModel(f"with a tolerance, regions of more than {_ORTHANTS} inputs are not searched")
    # in each orthant ‖x‖₁ is linear
    for signs in itertools.product((1, -1), repeat=size):
        orthant = [tuple(Fraction(s * int(i == j)) for i in range(size + 1)) for j, s in enumerate(signs)]
        for sign in (1, -1):
            wanted = (
                *(sign * c - allowed * s for c, s in zip(difference, signs, strict=False)),
                sign * difference[-1] - allowed,
            )
            found = interior([*cut.positive, *orthant, wanted], cut.zero, size)
            if found is not None:
                return found
    return None


def _joined(a: Program, b: Program) -> tuple[Program, tuple[int, int]]:
    """Both networks one after the other, on the same input."""
    offset = len(a.instructions) - 1

    def moved(place: int) -> int:
        return 0 if place == 0 else place + offset

    later = tuple(
        replace(
            step,
            layers=tuple(replace(layer, source=moved(layer.source)) for layer in step.layers),
            sources=tuple(moved(source) for source in step.sources),
            before=None if step.before is None else moved(step.before),
        )
        for step in b.instructions[1:]
    )  # fmt: skip
    joined = Program(a.instructions + later, a.dimension, a.shape)
    ends = (len(a.instructions) - 1, moved(len(b.instructions) - 1))
    return joined, ends


class _Function(nn.Module):
    """A function of a tensor as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


_NAMED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "min": lambda x: x.flatten(1).amin(1, keepdim=True),
    "max": lambda x: x.flatten(1).amax(1, keepdim=True),
    "sum": lambda x: x.flatten(1).sum(1, keepdim=True),
    "mean": lambda x: x.flatten(1).mean(1, keepdim=True),
    "relu": torch.relu,
    "abs": torch.abs,
}


def _module(net: Any) -> nn.Module:
    if isinstance(net, str):
        if net not in _NAMED:
            raise ArgumentError(f"{net!r} is no function that is known by name: the names are {listed(_NAMED)}")
        return _Function(_NAMED[net])
    if callable(net) and not isinstance(net, nn.Module | torch.export.ExportedProgram):
        return _Function(net)
    return torch_module(net)


def _programs(nets: Sequence[nn.Module], X: Any) -> list[Program]:
    """Both networks; what one does not tell of its inputs the other may."""
    found: dict[int, Program] = {}
    unknown: ArgumentError | None = None
    for k, net in enumerate(nets):
        try:
            found[k] = program(net, X, function=True)
        except ArgumentError as error:
            unknown = error
    if not found:
        assert unknown is not None
        raise unknown
    shape = next(iter(found.values())).shape
    rows = torch.zeros(4, *shape, dtype=torch.float64)
    return [found[k] if k in found else program(net, rows, function=True) for k, net in enumerate(nets)]


def _search(nets: Sequence[nn.Module], start: Cut, network: Program, why: str, seed: int) -> NotProved:
    """The largest difference on random inputs of the domain, improved by steps along it."""
    generator = torch.Generator().manual_seed(seed)
    nets = [double_copy(net) for net in nets]
    center = torch.tensor([float(v) for v in start.point], dtype=torch.float64)
    x = center + torch.randn(4096, network.dimension, generator=generator, dtype=torch.float64)
    rows: Sequence[Affine] = start.positive
    if rows:
        sides = torch.tensor([[float(c) for c in row] for row in rows], dtype=torch.float64)
        for row in sides:
            # back to the inner side, one inequality after the other: enough for boxes and orthants
            gap = (x @ row[:-1] + row[-1]).clamp(max=0)
            x = x - gap[:, None] * row[:-1] / row[:-1].square().sum()
    with torch.no_grad():
        outputs = [net(x.view(-1, *network.shape)).flatten(1) for net in nets]
    difference = (outputs[0] - outputs[1]).abs().amax(1)
    best = int(difference.argmax())
    return NotProved(float(difference[best]), x[best].numpy().reshape(network.shape), why)
