r"""Relevance at inner layers: the way back, ended there.

The way back is linear in coefficients, and nothing above a layer asks what the relevance that comes back is counted by.
In a copy of the network in which one layer answers with the relevance of its own units, :math:`R_u = c_u\,
\text{carried}_u`, and everything beside it with nothing, the same pass that gives columns their relevance gives these
units theirs. What a layer is made of inside (distances to anchors, trees, hidden units) it says itself:
`Layer.made_of`, `Layer.inside`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from backlight.classical.layers.base import EncodedRows, ForwardPass, Layer, Query
from backlight.errors import ArgumentError, listed

__all__ = ["Place", "ended_at", "places", "selected"]


@dataclass(frozen=True, slots=True)
class Place:
    """An inner layer.

    Attributes
    ----------
    path : tuple of str
        The layers to go through, by what each calls the next.
    within : str
        What of the last one, see `Layer.made_of`; by default its own units.
    units : int
    """

    path: tuple[str, ...]
    within: str
    units: int


def places(layer: Layer) -> dict[str, Place]:
    """Every inner layer of a network, by name.

    A wrapper's only layer is left out of longer names where that leaves them different: ``distance``, not
    ``inner.distance``.
    """
    found: list[Place] = []

    def walk(one: Layer, path: tuple[str, ...]) -> None:
        if path:
            found.append(Place(path, "", one.units))
        found.extend(Place(path, name, units) for name, units in one.made_of.items())
        for name, child in one.below.items():
            walk(child, (*path, name))

    walk(layer, ())
    whole = [".".join([*place.path, *([place.within] if place.within else [])]) for place in found]
    short = [".".join(part for part in name.split(".")[:-1] if part != "inner") for name in whole]
    short = [f"{start}.{name.split('.')[-1]}".lstrip(".") for start, name in zip(short, whole, strict=True)]
    names = [brief if short.count(brief) == 1 else name for brief, name in zip(short, whole, strict=True)]
    return dict(zip(names, found, strict=True))


def selected(layer: Layer, patterns: Sequence[str], kind: str) -> tuple[str, ...]:
    """Names of the inner layers that are meant: by name, by pattern, or by the last part of a name.

    Raises
    ------
    ArgumentError
    """
    known = places(layer)
    if not known:
        raise ArgumentError(f"layers={list(patterns)!r}: a {kind} has no inner layer, its score is made of columns")
    out: dict[str, None] = {}
    for pattern in patterns:
        found = [name for name in known if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        found = found or [name for name in known if name.split(".")[-1] == pattern]
        if not found:
            names = listed([repr(name) for name in known], 12)
            raise ArgumentError(f"no layer is named {pattern!r}: the layers of a {kind} are {names}")
        out |= dict.fromkeys(found)
    return tuple(out)


def ended_at(layer: Layer, place: Place) -> Layer:
    """A copy of a network whose relevance is that of an inner layer, (n, place.units), instead of the columns'."""
    return _ended(layer, place.path, place)


def _ended(layer: Layer, path: tuple[str, ...], place: Place) -> Layer:
    if not path:
        return _answering(layer, place)
    return layer.rebuilt(
        lambda name, child: _ended(child, path[1:], place) if name == path[0] else _silent(child, place.units)
    )


def _silent(layer: Layer, units: int) -> Layer:
    """A copy that gives nothing to the units of another layer."""
    if layer.below:
        return layer.rebuilt(lambda _, child: _silent(child, units))
    return _running(layer, lambda got, x, ask: replace(got, back=lambda c: c.new_zeros((len(c), units)), account=None))


def _answering(layer: Layer, place: Place) -> Layer:
    def ended(got: ForwardPass, x: EncodedRows, ask: Query) -> ForwardPass:
        def units(c: Tensor) -> Tensor:
            return c * got.carried

        return replace(got, back=layer.inside(place.within, x, ask) if place.within else units, account=None)

    return _running(layer, ended)


def _running(layer: Layer, change: Callable[[ForwardPass, EncodedRows, Query], ForwardPass]) -> Layer:
    """A copy that runs as the layer does, and changes what it found."""
    new = layer.rebuilt(lambda _, child: child)

    def run(x: EncodedRows, ask: Query) -> ForwardPass:
        return change(layer.run(x, ask), x, ask)

    new.__dict__["run"] = new.__dict__["run_alone"] = run
    return new
