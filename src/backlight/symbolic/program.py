"""A network as a program of rational numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from backlight.canonical.canonize import example_inputs
from backlight.canonical.consumers import LINEAR, Tracker
from backlight.canonical.form import Affine as Sum
from backlight.canonical.form import Form, Given, Held, Operator, Pointwise, Term, Value
from backlight.canonical.kinks import kinks
from backlight.canonical.lift import lift, torch_module
from backlight.errors import UnsupportedModel, UnsupportedOperator
from backlight.rules import Convolution, Dense

__all__ = ["ZERO", "Instruction", "Layer", "Program", "program"]


ZERO = Fraction(0)


@dataclass(frozen=True, slots=True)
class Layer:
    """One term of a sum, W x, with the sum's bias in the first of them that has weights.

    Attributes
    ----------
    weight : list of rows of Fraction
    bias : list of Fraction or None
    source : int
    weighted : bool
        Whether a rule applies; a term that only scales is passed by its gradient.
    own : list of rows of bool
        Which inputs a weight could reach: all of a dense layer, those under the kernel of a convolution.
    """

    weight: list[list[Fraction]]
    bias: list[Fraction] | None
    source: int
    weighted: bool
    own: list[list[bool]]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One value: ``input``, ``sum`` of layers, ``relu``, ``abs``, ``maximum``, ``minimum`` or ``same``.

    Maxima and minima of many values are chains of those of two. ``before`` is the chain's last step, if this one goes
    on with it, and ``first`` says that of equal values the first has all of it, as pooling takes it; else each has its
    share.
    """

    kind: str
    name: str
    layers: tuple[Layer, ...] = ()
    sources: tuple[int, ...] = ()
    before: int | None = None
    first: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """A network in rational numbers; the last instruction is its output."""

    instructions: tuple[Instruction, ...]
    dimension: int
    shape: tuple[int, ...]

    @property
    def sizes(self) -> list[int]:
        """How many units each instruction has."""
        found: list[int] = []
        for step in self.instructions:
            first = len(step.layers[0].weight) if step.layers else self.dimension
            found.append(found[step.sources[0]] if step.sources else first)
        return found

    @property
    def units(self) -> int:
        """How many units there are whose sign matters."""
        return sum(len(step.layers[0].weight) for step in self.instructions if step.kind == "sum")


def program(model: nn.Module, X: Any = None, *, function: bool = False) -> Program:
    """A network of layers with weights, relu, abs, maxima and minima, and what moves and adds up, in rational numbers.

    Parameters
    ----------
    function : bool
        Whether only the function counts: then it may be written differently, clamps as differences of relus.

    Raises
    ------
    UnsupportedOperator
        Any other operator, by name.
    """
    model = torch_module(model)
    form = lift(model, example_inputs(model, X, None))
    form.refresh()
    if function:
        kinks(form, lambda *_, **__: None)
    return _Reader(form, function).program()


class _Reader:
    def __init__(self, form: Form, function: bool) -> None:
        self.form, self.function = form, function
        self.tracker = Tracker(form)
        self.places: dict[Value, int] = {}
        self.steps: list[Instruction] = []

    def program(self) -> Program:
        if len(self.form.inputs) != 1:
            raise UnsupportedModel(f"the network has {len(self.form.inputs)} inputs: formulas need one")
        given = next(iter(self.form.inputs.values()))
        self._add(given, Instruction("input", given.name))
        for value in self.form.order():
            if not isinstance(value, Given):
                self._step(value)
        size = torch.Size(given.shape).numel()
        return Program(tuple(self.steps), size, given.shape)

    def _add(self, value: Value, step: Instruction) -> None:
        self.places[value] = len(self.steps)
        self.steps.append(step)

    def _step(self, value: Value) -> None:
        if isinstance(value, Sum):
            self._add(value, Instruction("sum", value.name, tuple(self._layers(value))))
        elif isinstance(value, Pointwise) and value.op in ("relu", "abs"):
            self._add(value, Instruction(value.op, value.name, (), (self.places[value.source],)))
        elif isinstance(value, Operator) and value.op in ("maximum", "minimum") and self._two(value):
            self._add(value, Instruction(value.op, value.name, (), tuple(self.places[a] for a in value.args)))
        elif (isinstance(value, Operator) and value.op in _SAME) or (
            isinstance(value, Operator) and self._largest_of(value)
        ):
            self._add(value, Instruction("same", value.name, (), (self.places[next(value.sources())],)))
        elif isinstance(value, Pointwise) and value.op == "leaky_relu":
            self._leaky(value)
        elif isinstance(value, Pointwise) and value.op == "clamp" and self.function:
            self._clamp(value)
        elif isinstance(value, Operator) and self._linear(value):
            self._add(value, Instruction("sum", value.name, tuple(self._moved(value))))
        elif isinstance(value, Operator) and value.op in _EXTREMES and len(self._carried(value)) == 1:
            self._extreme(value)
        elif not isinstance(value, Held) and not (isinstance(value, Operator) and value.op == "sym_size"):
            op = getattr(value, "op", type(value).__name__)
            raise UnsupportedOperator(
                f"formulas are for networks of layers with weights, relu, abs, maxima, minima and what moves and adds "
                f"up: {value.name!r} is {op!r}"
            )

    # -- what is written with the instructions -----------------------------------------------------------------------

    def _next(self, step: Instruction) -> int:
        self.steps.append(step)
        return len(self.steps) - 1

    def _scaled(self, name: str, parts: list[tuple[float, int]], size: int, shift: float = 0.0) -> Instruction:
        """Σ factor · value, and a constant."""
        layers = []
        for k, (factor, place) in enumerate(parts):
            weight = [[Fraction(factor) if i == j else ZERO for j in range(size)] for i in range(size)]
            bias = [Fraction(shift)] * size if k == 0 and shift else None
            layers.append(Layer(weight, bias, place, False, [[i == j for j in range(size)] for i in range(size)]))
        return Instruction("sum", name, tuple(layers))

    def _leaky(self, value: Pointwise) -> None:
        slope = float(value.args[0] if value.args else value.kwargs.get("negative_slope", 0.01))
        source, size = self.places[value.source], torch.Size(value.shape).numel()
        on = self._next(Instruction("relu", value.name, (), (source,)))
        # exactly: slope · z + (1 − slope) · relu(z)
        step = self._scaled(value.name, [(slope, source), (1.0, on)], size)
        rest = replace(
            step.layers[1], weight=[[w * (1 - Fraction(slope)) for w in row] for row in step.layers[1].weight]
        )
        self._add(value, replace(step, layers=(step.layers[0], rest)))

    def _clamp(self, value: Pointwise) -> None:
        low, high = value.args
        source, size = self.places[value.source], torch.Size(value.shape).numel()
        ends = []
        for bound in (low, high):
            shifted = self._next(self._scaled(value.name, [(1.0, source)], size, -bound))
            ends.append(self._next(Instruction("relu", value.name, (), (shifted,))))
        self._add(value, self._scaled(value.name, [(1.0, ends[0]), (-1.0, ends[1])], size, low))

    def _carried(self, value: Operator) -> list[Value]:
        """The values among its arguments that formulas speak of."""
        return [source for source in dict.fromkeys(value.sources()) if source in self.places]

    def _largest_of(self, value: Operator) -> bool:
        """Whether it is the first of a largest value and its place."""
        source = next(value.sources(), None)
        return value.op == "getitem" and getattr(source, "op", "") in _EXTREMES and value.args[1] == 0

    def _linear(self, value: Operator) -> bool:
        return value.op in LINEAR and bool(self._carried(value)) and not self.tracker.steered(value)

    def _sent(self, value: Operator, source: Value, rows: Tensor) -> Tensor:
        """The operator's value for rows in the place of one of its sources, zeros in the place of the others."""
        given = {s: self._like(s, len(rows)) for s in value.sources()} | {source: rows.view(-1, *source.shape)}
        found = value.compute(given)
        # of the largest value and its place
        numbers: Tensor = found[0] if isinstance(found, tuple) else found
        return numbers.reshape(len(rows), -1)

    def _like(self, source: Value, count: int) -> Any:
        held = self.tracker.values[source]
        if isinstance(source, Operator) and source.op == "sym_size":
            return count if source.args[1] == 0 else held
        if source in self.places:
            return torch.zeros(count, *source.shape, dtype=torch.float64)
        return held

    def _moved(self, value: Operator) -> Iterator[Layer]:
        for k, source in enumerate(self._carried(value)):
            size = torch.Size(source.shape).numel()
            zeros = torch.zeros(1, size, dtype=torch.float64)
            sent = self._sent(value, source, torch.cat([torch.eye(size, dtype=torch.float64), zeros]))
            matrix = (sent[:-1] - sent[-1:]).t()
            bias = _fractions(sent[-1]) if k == 0 and bool(sent[-1].any()) else None
            weight = [_fractions(row) for row in matrix]
            yield Layer(weight, bias, self.places[source], False, [[w != 0 for w in row] for row in weight])

    def _extreme(self, value: Operator) -> None:
        """Over an axis or windows: the places that each value is taken from, found by sending unit vectors through."""
        sign, first = _EXTREMES[value.op]
        (source,) = self._carried(value)
        size = torch.Size(source.shape).numel()
        sent = sign * self._sent(value, source, sign * torch.eye(size, dtype=torch.float64))
        members = [torch.nonzero(column > 0).flatten().tolist() for column in sent.t()]
        longest = max(len(m) for m in members)
        if not all(members) or (not first and any(len(m) < longest for m in members)):
            raise UnsupportedOperator(f"{value.name!r} ({value.op}) takes its values from windows of several sizes")
        kind, before, place = "maximum" if sign > 0 else "minimum", None, -1
        for t in range(longest):
            # a shorter window repeats its first place, which changes nothing
            rows = [[Fraction(int(j == (m[t] if t < len(m) else m[0]))) for j in range(size)] for m in members]
            layer = Layer(rows, None, self.places[source], False, [[w != 0 for w in row] for row in rows])
            picked = self._next(Instruction("sum", value.name, (layer,)))
            if t == 0:
                place = picked
                continue
            place = self._next(Instruction(kind, value.name, (), (place, picked), before, first))
            before = place
        self.places[value] = place

    @staticmethod
    def _two(value: Operator) -> bool:
        return all(isinstance(a, Value) for a in value.args) and value.args[0].shape == value.args[1].shape

    def _layers(self, value: Sum) -> Iterator[Layer]:
        bias = None
        if value.bias is not None:
            bias = _fractions(value.bias.expand(1, *value.shape).flatten())
        # as the module is run: layers with weights first, and the bias with the first of them
        terms = sorted(value.terms, key=lambda term: not isinstance(term.map, Dense | Convolution))
        for k, term in enumerate(terms):
            weighted = isinstance(term.map, Dense | Convolution)
            yield Layer(_matrix(term), bias if k == 0 else None, self.places[term.source], weighted, _own(term))


# the sign under which they are maxima, and whether of equal values the first is taken
_EXTREMES = {
    "amax": (1, False), "amin": (-1, False), "max": (1, True), "min": (-1, True), "max_pool1d": (1, True),
    "max_pool2d": (1, True), "max_pool3d": (1, True), "max_pool2d_with_indices": (1, True),
    "max_pool3d_with_indices": (1, True), "adaptive_max_pool1d": (1, True), "adaptive_max_pool2d": (1, True),
}  # fmt: skip
_SAME = frozenset({"flatten", "reshape", "view", "squeeze", "unsqueeze", "_unsafe_view"})


def _matrix(term: Term) -> list[list[Fraction]]:
    size = torch.Size(term.source.shape).numel()
    columns: Tensor = term.apply(torch.eye(size, dtype=torch.float64).view(size, *term.source.shape)).reshape(size, -1)
    return [_fractions(row) for row in columns.t()]


def _own(term: Term) -> list[list[bool]]:
    size = torch.Size(term.source.shape).numel()
    inputs = torch.eye(size, dtype=torch.float64).view(size, *term.source.shape)
    reached = term.map.apply(inputs, torch.ones_like(term.map.weight), None).reshape(size, -1)
    return [[bool(value) for value in row] for row in reached.t()]


def _fractions(values: Tensor) -> list[Fraction]:
    return [Fraction(float(value)) for value in values]
