"""What a rewrite is: another way to write the same function. And the tools to make one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from backlight.canonical.algebra import pick_columns
from backlight.canonical.consumers import Reader
from backlight.canonical.form import Form, Value
from backlight.canonical.units import Layer, layers
from backlight.errors import ArgumentError, listed
from backlight.rules import Convolution, Dense, LinearMap

__all__ = [
    "REWRITES", "Rewrite", "column_blocks", "grow", "growing", "identity", "mixing", "no_columns", "normal", "permuted",
    "pick", "rewrite", "rotation", "row_like", "scale_of_columns", "uniform",
]  # fmt: skip

Apply = Callable[[Form, torch.Generator], bool]


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A change of a network that leaves its function as it is.

    Attributes
    ----------
    name : str
    why : str
        Why the function is preserved.
    apply : callable, optional
        Changes a `Form` in place with numbers from a generator, and says whether the network has such a place.
    module : callable, optional
        Instead of it: a function from the network, a double-precision ``torch.nn.Module``, to the rewritten one.
    group : str
        ``"deploy"``: what tools do on the way to production. ``"symmetry"``: other identities of the same algebra.
        ``"attack"``: made to move explanations.
    moves : frozenset of str
        The families of rules that are not invariant, by theory: zero, epsilon, gamma, zplus, alphabeta. LRP-0, gradient
        × input and integrated gradients are moved by none.

    Examples
    --------
    A rewrite of one's own is a function of the module:

    >>> import backlight
    >>> merge = backlight.Rewrite("merge adapters", module=lambda net: net.merged())
    """

    name: str
    why: str = ""
    apply: Apply | None = None
    module: Callable[[nn.Module], nn.Module] | None = None
    group: str = "deploy"
    moves: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if (self.apply is None) == (self.module is None):
            raise ArgumentError(f"the rewrite {self.name!r} needs either apply= or module=")


REWRITES: dict[str, Rewrite] = {}


def rewrite(name: str, *, why: str, group: str = "deploy", moves: str = "") -> Callable[[Apply], Apply]:
    """Register a rewrite of the catalogue."""

    def register(apply: Apply) -> Apply:
        REWRITES[name] = Rewrite(name, why, apply, None, group, frozenset(moves.split()))
        return apply

    return register


def pick(wanted: object) -> list[Rewrite]:
    """Rewrites by group ("deploy", "all", "attack"), by name, or as they are."""
    if isinstance(wanted, str | Rewrite):
        wanted = [wanted]
    found: dict[str, Rewrite] = {}
    for item in wanted:  # type: ignore[attr-defined]
        if isinstance(item, Rewrite):
            found[item.name] = item
        elif isinstance(item, str) and item in REWRITES:
            found[item] = REWRITES[item]
        elif item in ("deploy", "symmetry", "attack", "all"):
            groups = ("deploy", "symmetry") if item == "all" else (item,)
            found |= {name: made for name, made in REWRITES.items() if made.group in groups}
        else:
            raise ArgumentError(
                f"no rewrite is called {item!r}: give 'deploy', 'all', 'attack', a Rewrite, or names among "
                f"{listed(REWRITES, 8)}"
            )
    if not found:
        raise ArgumentError("there is no rewrite to audit with: the list is empty")
    return list(found.values())


# -- tools -------------------------------------------------------------------------------------------------------------


def uniform(generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Numbers between low and high."""
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * (high - low) + low


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rotation(generator: torch.Generator, size: int) -> Tensor:
    """An orthogonal matrix, uniformly distributed."""
    q, r = torch.linalg.qr(normal(generator, size, size))
    turned: Tensor = q * r.diagonal().sign()
    return turned


def growing(form: Form) -> list[Layer]:
    """Layers of rectifiers to which units can be added."""
    return [layer for layer in layers(form, frozenset({"relu"})) if layer.free and layer.readers.all_mix]


def identity(value: Value, factor: Tensor | None = None) -> LinearMap:
    """The identity on a value's units, or diag(factor), as a layer with weights: 1 × 1 for pictures."""
    axes = len(value.shape)
    count = value.shape[0] if axes >= 3 else value.shape[-1]
    matrix = torch.eye(count, dtype=torch.float64) if factor is None else torch.diag(factor)
    return mixing(value, matrix)


def mixing(value: Value, matrix: Tensor) -> LinearMap:
    """A matrix on a value's units as a layer."""
    axes = len(value.shape)
    if axes < 3:
        return Dense(matrix, None)
    spatial = axes - 1
    ones = (1,) * spatial
    weight = matrix.reshape(*matrix.shape, *ones)
    return Convolution(weight, None, ones, (0,) * spatial, ones, False, (0,) * spatial, 1)


def column_blocks(reader: Reader) -> Tensor:
    """The columns of each unit in a reader, (units, places, …)."""
    columns = _columns(reader.term.map)
    known = torch.nonzero(reader.units >= 0).flatten()
    order = known[torch.argsort(reader.units[known], stable=True)]
    return columns[order].reshape(int(reader.units.max()) + 1, -1, *columns.shape[1:])


def permuted(reader: Reader, order: Tensor) -> LinearMap:
    """The reader's map for units in another order."""
    known = torch.nonzero(reader.units >= 0).flatten()
    index = known[torch.argsort(reader.units[known], stable=True)].view(len(order), -1)
    places = torch.arange(len(reader.units))
    places[index] = index[order]
    return pick_columns(reader.term.map, places)


def grow(layer: Layer, weights: list[Tensor], bias: Tensor, columns: list[Tensor]) -> None:
    """Add units to a layer.

    Parameters
    ----------
    weights : list of Tensor
        For each term of what the layer reads the new rows, (new, in, …).
    bias : Tensor of shape (new,)
    columns : list of Tensor
        For each reader the new columns, (new, places, …) as `column_blocks` has them.
    """
    before = layer.before.twin()
    for term, added in zip(before.terms, weights, strict=True):
        term.map = _rows_added(term.map, added)
    shape = [1] * (len(before.shape) + 1)
    shape[layer.axis + 1] = -1
    held = layer.before.bias
    full = (
        torch.zeros(1, *layer.before.shape, dtype=torch.float64)
        if held is None
        else held.expand(1, *layer.before.shape)
    )
    new = bias.view(shape).expand(*[len(bias) if k == layer.axis + 1 else n for k, n in enumerate(full.shape)])
    before.bias = torch.cat([full, new], layer.axis + 1)
    before.op = ""
    blocks = [torch.cat([column_blocks(r), c]) for r, c in zip(layer.readers.mixing, columns, strict=True)]
    layer.units.source = before
    count = layer.count + len(bias)
    wide = list(layer.units.shape)
    wide[layer.axis] = count
    numbers = torch.arange(1, count + 1, dtype=torch.float64).view(shape).expand(1, *wide)
    arrived = layer.tracker.carried(layer.readers, layer.units, numbers)
    for reader, block in zip(layer.readers.mixing, blocks, strict=True):
        ids = arrived[reader.term.source]
        axis = ids.dim() - 1 if isinstance(reader.term.map, Dense) else 1
        ids = ids.movedim(axis, 0).reshape(ids.shape[axis], -1)[:, 0].long() - 1
        old = _columns(reader.term.map)
        made = old.new_zeros(len(ids), *old.shape[1:])
        # what is not of this layer keeps its columns, in order
        made[ids < 0] = old[reader.units < 0]
        known = torch.nonzero(ids >= 0).flatten()
        made[known[torch.argsort(ids[known], stable=True)]] = block.flatten(0, 1)
        reader.term.map = _with_columns(reader.term.map, made)


def scale_of_columns(reader: Reader) -> float:
    """The usual size of a reader's weights."""
    return float(reader.term.map.weight.square().mean().sqrt().clamp(min=1e-12))


def row_like(layer: Layer, generator: torch.Generator, count: int) -> list[Tensor]:
    """Random rows of the size of the layer's own."""
    made = []
    for term in layer.before.terms:
        own = term.map.weight
        made.append(normal(generator, count, *own.shape[1:]) * own.square().mean().sqrt())
    return made


def no_columns(reader: Reader, count: int) -> Tensor:
    """Zero columns for so many units."""
    return torch.zeros(count, *column_blocks(reader).shape[1:], dtype=torch.float64)


def _columns(layer: LinearMap) -> Tensor:
    return layer.weight.transpose(0, 1)


def _with_columns(layer: LinearMap, columns: Tensor) -> LinearMap:
    return replace(layer, weight=columns.transpose(0, 1).contiguous(), bias=None)


def _rows_added(layer: LinearMap, added: Tensor) -> LinearMap:
    return replace(layer, weight=torch.cat([layer.weight, added]), bias=None)
