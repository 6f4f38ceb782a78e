"""A network as values and what they are made of: the notation in which networks are rewritten.

An affine value is a sum of linear maps of other values and a constant, Σ_j A_j x_j + b; what is not affine is a
function of one value, unit by unit, or any other operator. Values know what they are made of, and a form knows its
output: what the output does not need is gone by itself. Everything is in double precision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from backlight.engine.graph import by_name, named
from backlight.rules import Elementwise, LinearMap

__all__ = [
    "Affine",
    "Form",
    "Given",
    "Held",
    "Operator",
    "Pointwise",
    "Term",
    "Value",
    "lengthwise",
    "scale_of",
    "scaling",
]


@dataclass(eq=False, slots=True)
class Value(ABC):
    """A value of the network.

    Attributes
    ----------
    name : str
        Where it comes from: the module's path, or operator.
    shape : tuple of int
        Of one row, as of the last `Form.refresh`.
    """

    name: str
    shape: tuple[int, ...] = field(default=(), kw_only=True)

    def __getstate__(self) -> dict[str, Any]:
        return {one.name: by_name(getattr(self, one.name)) for one in fields(self)}

    def __setstate__(self, held: dict[str, Any]) -> None:
        for name, value in held.items():
            setattr(self, name, named(value))

    @abstractmethod
    def sources(self) -> Iterator[Value]:
        """The values that it is made of."""

    @abstractmethod
    def swap(self, change: Callable[[Value], Value]) -> None:
        """Make it of other values."""

    @abstractmethod
    def compute(self, values: Mapping[Value, Any]) -> Any:
        """Its numbers from theirs."""

    @abstractmethod
    def twin(self) -> Value:
        """A copy that can be changed alone."""


@dataclass(eq=False, slots=True)
class Given(Value):
    """An input of the network."""

    def sources(self) -> Iterator[Value]:
        return iter(())

    def swap(self, change: Callable[[Value], Value]) -> None:
        return

    def compute(self, values: Mapping[Value, Any]) -> Any:
        return values[self]

    def twin(self) -> Given:
        return Given(self.name, shape=self.shape)


@dataclass(eq=False, slots=True)
class Held(Value):
    """A constant tensor, as an argument of an operator."""

    tensor: Any

    def sources(self) -> Iterator[Value]:
        return iter(())

    def swap(self, change: Callable[[Value], Value]) -> None:
        return

    def compute(self, values: Mapping[Value, Any]) -> Any:
        return self.tensor

    def twin(self) -> Held:
        return Held(self.name, self.tensor, shape=self.shape)


@dataclass(eq=False, slots=True)
class Term:
    """A linear map of a value; the map has no bias. ``name`` is that of the layer that it comes from."""

    map: LinearMap
    source: Value
    name: str = ""

    def apply(self, value: Tensor) -> Tensor:
        """The map of a value's numbers."""
        return self.map.apply(value, self.map.weight, None)


@dataclass(eq=False, slots=True)
class Affine(Value):
    """Σ_j A_j x_j + b.

    Attributes
    ----------
    terms : list of Term
    bias : Tensor or None
        Broadcasts against (n, *shape).
    op : str
        ``"batch_norm"`` where it is written as one, else empty.
    """

    terms: list[Term]
    bias: Tensor | None = None
    op: str = ""

    def sources(self) -> Iterator[Value]:
        return (term.source for term in self.terms)

    def swap(self, change: Callable[[Value], Value]) -> None:
        for term in self.terms:
            term.source = change(term.source)

    def compute(self, values: Mapping[Value, Any]) -> Any:
        total: Any = 0.0
        for term in self.terms:
            total = total + term.apply(values[term.source])
        return total if self.bias is None else total + self.bias

    def twin(self) -> Affine:
        terms = [Term(term.map, term.source, term.name) for term in self.terms]
        return Affine(self.name, terms, self.bias, self.op, shape=self.shape)


@dataclass(eq=False, slots=True)
class Pointwise(Value):
    """A function of one value, unit by unit: an activation."""

    op: str
    target: Callable[..., Any]
    source: Value
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def sources(self) -> Iterator[Value]:
        return iter((self.source,))

    def swap(self, change: Callable[[Value], Value]) -> None:
        self.source = change(self.source)

    def compute(self, values: Mapping[Value, Any]) -> Any:
        return self.target(values[self.source], *self.args, **self.kwargs)

    def twin(self) -> Pointwise:
        return Pointwise(self.name, self.op, self.target, self.source, self.args, self.kwargs, shape=self.shape)


@dataclass(eq=False, slots=True)
class Operator(Value):
    """Any other operator, with values among its arguments."""

    op: str
    target: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def sources(self) -> Iterator[Value]:
        return _values((self.args, self.kwargs))

    def swap(self, change: Callable[[Value], Value]) -> None:
        self.args = mapped(self.args, change)
        self.kwargs = mapped(self.kwargs, change)

    def compute(self, values: Mapping[Value, Any]) -> Any:
        args, kwargs = mapped((self.args, self.kwargs), lambda value: values[value])
        return self.target(*args, **kwargs)

    def twin(self) -> Operator:
        return Operator(self.name, self.op, self.target, self.args, self.kwargs, shape=self.shape)


@dataclass(slots=True)
class Form:
    """A network in this notation.

    Attributes
    ----------
    inputs : dict of str to Given
        In the order of the model's arguments.
    output : Value
    example : dict of str to Any
        Inputs on which shapes are found and every change is checked.
    """

    inputs: dict[str, Given]
    output: Value
    example: dict[str, Any]

    def order(self) -> list[Value]:
        """Every value that the output needs, each after what it is made of."""
        found: dict[Value, None] = {}
        # iterative: networks are deeper than Python's stack
        todo: list[tuple[Value, bool]] = [(self.output, False)]
        entered: set[Value] = set()
        while todo:
            value, done = todo.pop()
            if done:
                found[value] = None
            elif value not in entered:
                entered.add(value)
                todo.append((value, True))
                todo += [(source, False) for source in reversed(list(value.sources())) if source not in entered]
        return list(found)

    def users(self) -> dict[Value, list[Value]]:
        """For each value those that are made of it."""
        found: dict[Value, list[Value]] = {}
        for value in self.order():
            found.setdefault(value, [])
            for source in dict.fromkeys(value.sources()):
                found[source].append(value)
        return found

    def replace(self, old: Value, new: Value, keep: Iterable[Value] = ()) -> None:
        """Put a value in the place of another, except in the values to keep and in what the new one is made of."""
        kept = set(keep)
        for value in self.order():
            if value not in kept and value is not new:
                value.swap(lambda source: new if source is old else source)
        if self.output is old:
            self.output = new

    def run(self, given: Mapping[str, Any] | None = None) -> dict[Value, Any]:
        """The numbers of every value."""
        given = self.example if given is None else given
        values: dict[Value, Any] = {value: given[name] for name, value in self.inputs.items()}
        with torch.inference_mode(False), torch.no_grad():
            for value in self.order():
                values[value] = value.compute(values)
        return values

    def refresh(self) -> Tensor:
        """Find the shapes anew, and return the output on the example."""
        values = self.run()
        for value, numbers in values.items():
            if isinstance(numbers, Tensor):
                value.shape = tuple(numbers.shape) if isinstance(value, Held) else tuple(numbers.shape[1:])
        output: Tensor = values[self.output]
        return output

    def copy(self) -> Form:
        """The same network in values of its own."""
        twins = {value: value.twin() for value in (*self.inputs.values(), *self.order())}
        for value in twins.values():
            value.swap(lambda source: twins[source])
        inputs = {name: twins[value] for name, value in self.inputs.items()}
        return Form(inputs, twins[self.output], self.example)  # type: ignore[arg-type]


def mapped(tree: Any, change: Callable[[Value], Any]) -> Any:
    """Nested arguments with something in the place of each value."""
    if isinstance(tree, Value):
        return change(tree)
    if isinstance(tree, tuple | list):
        return type(tree)([mapped(item, change) for item in tree])
    if isinstance(tree, dict):
        return {key: mapped(item, change) for key, item in tree.items()}
    if isinstance(tree, slice):
        return slice(*(mapped(item, change) for item in (tree.start, tree.stop, tree.step)))
    return tree


def _values(tree: Any) -> Iterator[Value]:
    if isinstance(tree, Value):
        yield tree
    elif isinstance(tree, tuple | list):
        for item in tree:
            yield from _values(item)
    elif isinstance(tree, dict):
        yield from _values(list(tree.values()))
    elif isinstance(tree, slice):
        yield from _values((tree.start, tree.stop, tree.step))


def scaling(factor: float | Tensor) -> Elementwise:
    """The map x ↦ factor · x."""
    return Elementwise(torch.as_tensor(factor, dtype=torch.float64), None)


def lengthwise(vector: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """One number a unit, laid along an axis of a row of this shape: it broadcasts against (n, *shape)."""
    sizes = [1] * (len(shape) + 1)
    sizes[axis + 1] = -1
    return vector.view(sizes)


def scale_of(term: Term) -> Tensor | None:
    """The factor of a term that only scales its value."""
    return term.map.weight if isinstance(term.map, Elementwise) else None
