"""Nodes of a graph, from expressions of its values; operators are those of ONNX, whatever writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

__all__ = ["Graph", "Node", "Operand", "Results", "Value"]


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor of the graph; arithmetic on it makes nodes.

    Attributes
    ----------
    graph : Graph
    name : str
    known : array, optional
        Its numbers, where it is a constant.
    """

    graph: Graph
    name: str
    known: np.ndarray | None = None

    __array_ufunc__: ClassVar[None] = None  # an array on the left leaves the arithmetic to this class

    def __add__(self, other: Operand) -> Value:
        return self.graph.op("Add", self, other)

    def __radd__(self, other: Operand) -> Value:
        return self.graph.op("Add", other, self)

    def __sub__(self, other: Operand) -> Value:
        return self.graph.op("Sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self.graph.op("Sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return self.graph.op("Mul", self, other)

    def __rmul__(self, other: Operand) -> Value:
        return self.graph.op("Mul", other, self)

    def __truediv__(self, other: Operand) -> Value:
        return self.graph.op("Div", self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return self.graph.op("Div", other, self)

    def __matmul__(self, other: Operand) -> Value:
        return self.graph.op("MatMul", self, other)

    def __neg__(self) -> Value:
        return self.graph.op("Neg", self)

    def __lt__(self, other: Any) -> Value:
        return self.graph.op("Less", self, other)

    def __gt__(self, other: Any) -> Value:
        return self.graph.op("Greater", self, other)

    def __le__(self, other: Any) -> Value:
        return self.graph.op("LessOrEqual", self, other)

    def __ge__(self, other: Any) -> Value:
        return self.graph.op("GreaterOrEqual", self, other)

    def __and__(self, other: Operand) -> Value:
        return self.graph.op("And", self, other)

    def __or__(self, other: Operand) -> Value:
        return self.graph.op("Or", self, other)

    def __invert__(self) -> Value:
        return self.graph.op("Not", self)

    def equals(self, other: Operand) -> Value:
        """Where both are the same; NaN is nothing's equal."""
        return self.graph.op("Equal", self, other)

    def exp(self) -> Value:
        """e^x."""
        return self.graph.op("Exp", self)

    def log(self) -> Value:
        """The natural logarithm."""
        return self.graph.op("Log", self)

    def abs(self) -> Value:
        """The absolute value."""
        return self.graph.op("Abs", self)

    def sqrt(self) -> Value:
        """The square root."""
        return self.graph.op("Sqrt", self)

    def is_nan(self) -> Value:
        """Where there is no number."""
        return self.graph.op("IsNaN", self)

    def double(self) -> Value:
        """Cast to double precision."""
        return self.graph.cast(self, np.float64)

    def sum(self) -> Value:
        """Σ over the last axis, which is kept."""
        return self.graph.op("ReduceSum", self, np.array([-1]), keepdims=1)

    def min(self) -> Value:
        """The smallest of the last axis, which is kept."""
        return self.graph.op("ReduceMin", self, np.array([-1]), keepdims=1)

    def max(self) -> Value:
        """The largest of the last axis, which is kept."""
        return self.graph.op("ReduceMax", self, np.array([-1]), keepdims=1)

    def argmax(self) -> Value:
        """The position of the first of the largest of the last axis, which is kept."""
        return self.graph.op("ArgMax", self, axis=-1, keepdims=1)

    def columns(self, which: Sequence[int]) -> Value:
        """Some positions of the last axis."""
        if self.known is not None:
            return self.graph.constant(self.known[..., list(which)])
        return self.graph.op("Gather", self, np.asarray(which, dtype=np.int64), axis=-1)

    def column(self, k: int) -> Value:
        """One position of the last axis, which is kept."""
        return self.columns([k])


Operand = Value | np.ndarray | float
# results of a graph by name, with their types and shapes
Results = Mapping[str, tuple[Value, type, Sequence[int | str]]]

_FOLDED = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "MatMul": np.matmul}


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator: names of what goes in and comes out, and attributes, where an array stands for a tensor."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    domain: str = ""


class Graph:
    """Nodes and constants; the same node is made once.

    Parameters
    ----------
    kind : type
        The precision of its constants.

    Attributes
    ----------
    nodes : list of Node
        Each behind those that it needs.
    inputs : mapping of name to type and shape of a row
    """

    def __init__(self, kind: type = np.float64) -> None:
        self.kind = kind
        self.nodes: list[Node] = []
        self.inputs: dict[str, tuple[type, tuple[int, ...]]] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self._made: dict[Any, Value] = {}

    def input(self, name: str, kind: type, *shape: int) -> Value:
        """Rows that are given, each of a shape."""
        self.inputs[name] = kind, shape
        return Value(self, name)

    def constant(self, array: Operand | Sequence[str]) -> Value:
        """Numbers that are part of the graph, or words."""
        if isinstance(array, Value):
            return array
        numbers = np.asarray(array)
        if numbers.dtype.kind == "U":
            numbers = numbers.astype(object)
        elif numbers.dtype.kind == "i":
            numbers = numbers.astype(np.int64)
        elif numbers.dtype.kind == "f":
            numbers = numbers.astype(self.kind)
        key = (str(numbers.dtype), numbers.shape, _bytes(numbers))
        if key not in self._constants:
            self._constants[key] = Value(self, f"backlight.c{len(self._constants)}", numbers)
        return self._constants[key]

    def constants(self) -> dict[str, np.ndarray]:
        """Those that a node uses, by name."""
        used = {name for node in self.nodes for name in node.inputs}
        return {one.name: one.known for one in self._constants.values() if one.name in used and one.known is not None}

    def op(self, kind: str, *operands: Operand, domain: str = "", name: str = "", **attributes: Any) -> Value:
        """The result of one operator; ``name`` is for results of the whole graph."""
        inputs = [self.constant(one) for one in operands]
        if kind in _FOLDED and all(one.known is not None for one in inputs):
            return self.constant(np.asarray(_FOLDED[kind](*(one.known for one in inputs))))
        said = [(key, _bytes(v) if isinstance(v, np.ndarray) else repr(v)) for key, v in sorted(attributes.items())]
        key = (kind, domain, name, tuple(one.name for one in inputs), repr(said))
        if key not in self._made:
            out = name or f"backlight.v{len(self.nodes)}"
            self.nodes.append(Node(kind, tuple(one.name for one in inputs), (out,), attributes, domain))
            self._made[key] = Value(self, out)
        return self._made[key]

    def several(self, kind: str, count: int, *operands: Operand, **attributes: Any) -> list[Value]:
        """The results of an operator that has several."""
        names = tuple(f"backlight.v{len(self.nodes)}.{k}" for k in range(count))
        self.nodes.append(Node(kind, tuple(self.constant(one).name for one in operands), names, attributes))
        return [Value(self, name) for name in names]

    def where(self, test: Operand, yes: Operand, no: Operand) -> Value:
        """Choose element by element."""
        return self.op("Where", test, yes, no)

    def concat(self, parts: Sequence[Operand]) -> Value:
        """Matrices side by side."""
        return self.constant(parts[0]) if len(parts) == 1 else self.op("Concat", *parts, axis=-1)

    def total(self, parts: Sequence[Operand]) -> Value:
        """The sum of several."""
        whole = self.constant(parts[0])
        for part in parts[1:]:
            whole = whole + part
        return whole

    def cast(self, value: Operand, kind: type) -> Value:
        """In another type of numbers."""
        return self.op("Cast", value, to=np.dtype(kind).name)


def _bytes(array: np.ndarray) -> bytes:
    return array.tobytes() if array.dtype != object else repr(array.tolist()).encode()
