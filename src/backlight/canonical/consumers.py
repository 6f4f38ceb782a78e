"""Who reads the units of a value, through what, and in which of its columns.

Between a layer's units and the weights that read them there may be operators that keep channels apart: pooling,
flattening, concatenation. They are followed with the numbers of the units in the place of their values.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backlight.canonical.form import Affine, Form, Held, Operator, Term, Value
from backlight.engine.operators.routing import MOVES
from backlight.rules import Convolution, Dense, Elementwise

__all__ = ["LINEAR", "PLAIN_MOVES", "Reader", "Readers", "Tracker", "steered"]

# what only moves numbers, whatever they are
PLAIN_MOVES = MOVES - {
    "where", "masked_fill", "index_put", "scatter", "index_fill", "masked_scatter", "fill", "tril", "triu",
    "slice_scatter", "select_scatter", "copy",
}  # fmt: skip
_AVERAGES = frozenset({
    "mean", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "_adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool3d", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
})  # fmt: skip
LINEAR = PLAIN_MOVES | _AVERAGES | {"sum", "cumsum"}
# in words that do not name the number of units
_RESIZABLE = frozenset({
    "flatten", "cat", "concat", "mean", "permute", "transpose", "squeeze", "unsqueeze", "t", "swapaxes", "dropout",
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool3d", "upsample_nearest1d",
    "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d",
    "upsample_bicubic2d", "_upsample_bilinear2d_aa",
})  # fmt: skip
_PADS = frozenset({"pad", "constant_pad_nd"})
_POOLS = frozenset({
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices",
    "adaptive_max_pool1d", "adaptive_max_pool2d",
})  # fmt: skip


_TRACKED = (LINEAR - {"sum", "cumsum"}) | _POOLS
# numbers of units behind averages: whole but for rounding
_WHOLE = 1e-9


@dataclass(slots=True)
class Reader:
    """A term that reads units.

    Attributes
    ----------
    value : Affine
    term : Term
    units : Tensor of int
        For each input unit of the term's map the unit that it reads, −1 for a constant or one of another value.
    direct : bool
        Whether nothing stands between.
    """

    value: Affine
    term: Term
    units: Tensor
    direct: bool


@dataclass(slots=True)
class Readers:
    """All readers of a value.

    Attributes
    ----------
    mixing : list of Reader
        Layers with weights that mix units.
    scaling : list of Reader
        Terms that only scale: the units go on one by one.
    closed : bool
        Whether there is no other use: nothing that mixes units without weights, and not the output.
    resizable : bool
        Whether what stands between holds for other numbers of units too.
    alike : bool
        Whether every unit is read in equally many places, which hold the same places of its picture.
    blocked : list of str
        The uses that keep it from being closed, in words.
    through : list of Operator
        What stands between, in running order.
    """

    mixing: list[Reader] = field(default_factory=list)
    scaling: list[Reader] = field(default_factory=list)
    closed: bool = True
    resizable: bool = True
    alike: bool = True
    blocked: list[str] = field(default_factory=list)
    through: list[Operator] = field(default_factory=list)

    @property
    def mergeable(self) -> bool:
        """Whether every use is by weights that mix units: then the columns of units can be added up."""
        plain = not any(_transposed(reader.term) for reader in self.mixing)
        return self.closed and self.alike and plain and not self.scaling and bool(self.mixing)

    @property
    def all_mix(self) -> bool:
        """Whether what stands between is no hindrance either: then units can be merged, dropped and added."""
        return self.mergeable and self.resizable

    def hindrance(self) -> str:
        """Why the units' columns cannot be added up, in words."""
        if self.blocked:
            return self.blocked[0]
        if self.scaling:
            return f"{self.scaling[0].value.name!r} hands them on one by one"
        if any(_transposed(reader.term) for reader in self.mixing):
            return "a transposed convolution reads them"
        return "they are read in different places" if self.mixing else "nothing with weights reads them"

    @property
    def direct(self) -> bool:
        """Whether all of them read the units themselves."""
        return self.all_mix and all(reader.direct for reader in self.mixing)


class Tracker:
    """Follows numbers that stand for units through what keeps them apart, in one form as it is now."""

    def __init__(self, form: Form) -> None:
        self.form, self.order = form, form.order()
        self._position = {value: k for k, value in enumerate(self.order)}
        # sizes and positions, for one row
        self.values = form.run({name: _one(given) for name, given in form.example.items()})

    def numbered(self, value: Value, axis: int) -> Tensor:
        """The number of the unit at each place of a row, (1, *shape), from one: where padding puts zeros is no unit."""
        count = value.shape[axis]
        shape = [1] * len(value.shape)
        shape[axis] = count
        numbers = torch.arange(1, count + 1, dtype=torch.float64)
        return numbers.view(1, *shape).expand(1, *value.shape)

    def readers(self, value: Value, axis: int) -> Readers:
        """The readers of a value whose units lie along an axis of its rows."""
        return self.follow(value, self.numbered(value, axis))

    def follow(self, value: Value, numbers: Tensor) -> Readers:
        """The readers of a value whose places have these numbers."""
        found = Readers()
        if value is self.form.output:
            found.closed = False
            found.blocked.append("they are the output")
        seen: dict[Value, Tensor] = {value: numbers}
        for user in self.order[self._position[value] + 1 :]:
            if not any(source in seen for source in user.sources()):
                continue
            if isinstance(user, Affine):
                for term in user.terms:
                    if term.source in seen and not _read(found, user, term, seen[term.source], term.source is value):
                        found.closed = False
                        found.blocked.append(f"{user.name!r} reads them in another order or in groups")
            elif isinstance(user, Operator) and user.op in _TRACKED and not self.steered(user):
                moved = None if user is self.form.output else self.through(user, seen)
                if moved is None:
                    found.closed = False
                    found.blocked.append(f"{user.name!r} ({user.op}) stands behind them")
                else:
                    seen[user] = moved
                    found.through.append(user)
                    found.resizable &= user.op in _RESIZABLE or _widens(user)
            elif not (isinstance(user, Operator) and user.op == "sym_size"):
                found.closed = False
                op = getattr(user, "op", "")
                found.blocked.append(f"{user.name!r} ({op}) stands behind them" if op else f"{user.name!r} reads them")
        return found

    def alike(self, value: Value, axis: int, readers: Readers) -> bool:
        """Whether every unit is read in equally many places, which hold the same places of its picture."""
        shape = value.shape
        generator = torch.Generator().manual_seed(0)
        picture = torch.rand(1, *shape, generator=generator, dtype=torch.float64).movedim(axis + 1, 0)[:1]
        places = picture.expand(shape[axis], *picture.shape[1:]).movedim(0, axis + 1)
        seen = self.carried(readers, value, places)
        for reader in readers.mixing:
            if reader.direct:
                continue
            columns = seen[reader.term.source].movedim(-1 if isinstance(reader.term.map, Dense) else 1, 0).flatten(1)
            known = torch.nonzero(reader.units >= 0).flatten()
            if len(known) % shape[axis] or not len(known):
                return False
            order = known[torch.argsort(reader.units[known], stable=True)]
            by_unit = order.view(shape[axis], -1)
            if not bool((reader.units[by_unit] == torch.arange(shape[axis])[:, None]).all()):
                return False
            held = columns[by_unit]
            if not bool((held - held[:1]).abs().max() <= _WHOLE):
                return False
        return True

    def steered(self, user: Operator) -> bool:
        """Whether positions or masks that depend on the input steer an operator."""
        return steered(user, self.values)

    def carried(self, readers: Readers, start: Value, numbers: Tensor) -> dict[Value, Tensor]:
        """Numbers at what stands between a value and its readers, with zeros beside them."""
        seen: dict[Value, Tensor] = {start: numbers}
        for operator in readers.through:
            seen[operator] = operator.compute({**seen, **self.beside(operator, seen)})
        return seen

    def beside(self, user: Operator, seen: Container[Value]) -> dict[Value, Any]:
        """Zeros for what else an operator is made of; sizes and positions as they are."""
        values: dict[Value, Any] = {}
        for source in user.sources():
            if source not in seen:
                value = self.values[source]
                plain = isinstance(value, Tensor) and value.is_floating_point() and not isinstance(source, Held)
                values[source] = torch.zeros_like(value) if plain else value
        return values

    def through(self, user: Operator, seen: dict[Value, Tensor]) -> Tensor | None:
        """The numbers of the units behind an operator; ``None`` where it mixes them."""
        beside = self.beside(user, seen)
        if user.op in _POOLS and any(bool((seen[s] < 0).any()) for s in user.sources() if s in seen):
            # the larger of a unit and a constant is neither
            return None
        moved = user.compute({**seen, **beside})
        if isinstance(moved, tuple | list):
            return moved  # type: ignore[return-value]
        if not isinstance(moved, Tensor) or moved.dim() < 2:
            return None
        if user.op in LINEAR:
            # what it puts in of its own is no unit
            silent = {source: torch.zeros_like(value) for source, value in seen.items() if isinstance(value, Tensor)}
            if all(source in silent or source in beside for source in user.sources()):
                own = user.compute({**silent, **beside})
                moved = torch.where(own == 0, moved, -torch.ones_like(moved))
        whole = moved.round()
        return whole if bool(((moved - whole).abs() <= _WHOLE).all()) else None


def steered(user: Operator, values: Mapping[Value, Any]) -> bool:
    """Whether positions or masks that depend on the input steer an operator."""
    given = ((source, values.get(source)) for source in user.sources() if not isinstance(source, Held))
    return any(isinstance(value, Tensor) and not value.is_floating_point() for _, value in given)


def _widens(user: Operator) -> bool:
    """Whether it is a pad that cuts nothing off: in words that hold for any number of units."""
    mode = user.kwargs.get("mode", user.args[2] if user.op == "pad" and len(user.args) > 2 else "constant")
    return user.op in _PADS and mode == "constant" and all(isinstance(n, int) and n >= 0 for n in user.args[1])


def _transposed(term: Term) -> bool:
    return isinstance(term.map, Convolution) and term.map.transposed


def _one(given: Any) -> Any:
    return given[:1] if isinstance(given, Tensor) else given


def _read(found: Readers, user: Affine, term: Term, numbers: Tensor, direct: bool) -> bool:
    if isinstance(term.map, Elementwise):
        found.scaling.append(Reader(user, term, torch.empty(0), direct))
        return True
    axis = numbers.dim() - 1 if isinstance(term.map, Dense) else 1
    by_unit = numbers.movedim(axis, 0).reshape(numbers.shape[axis], -1)
    # a unit, with zeros beside it where a picture was padded; or nothing but constants
    number = torch.where((by_unit > 0).any(1), by_unit.amax(1), by_unit.amin(1))
    whole = bool(((by_unit == number[:, None]) | (by_unit == 0)).all() and (number == number.round()).all())
    if not whole or (isinstance(term.map, Convolution) and term.map.groups != 1):
        return False
    found.mixing.append(Reader(user, term, number.long() - 1, direct))
    return True
