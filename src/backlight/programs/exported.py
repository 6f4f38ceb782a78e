"""The network of an exported program: calls of known operators, interpreted one by one."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn
from torch.fx import traceback

from backlight.errors import DataError
from backlight.programs.guards import holds

__all__ = ["Condition", "ExportedNetwork", "Input"]


@dataclass(frozen=True, slots=True)
class Input:
    """An argument of a program: a tensor, or a constant that was fixed when it was exported."""

    name: str
    tensor: bool
    constant: Any = None

    def parameter(self) -> inspect.Parameter:
        """The argument of ``forward``."""
        default = inspect.Parameter.empty if self.tensor else self.constant
        return inspect.Parameter(self.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)


@dataclass(frozen=True, slots=True)
class Condition:
    """What a program needs of the size of an input along one axis, k · symbol + c, or a whole expression of sizes."""

    name: str = ""
    axis: int = 0
    k: int = 0
    symbol: str = ""
    c: int = 0
    low: int = 0
    high: int | None = None
    tree: ast.expr | None = field(default=None, compare=False)
    text: str = ""

    def names(self) -> set[str]:
        """The inputs that an expression asks for."""
        nodes = ast.walk(self.tree) if self.tree is not None else ()
        return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}

    def require(self, sizes: dict[str, tuple[Any, ...]], symbols: dict[str, Any]) -> None:
        """Raise `DataError` unless the sizes are such that the program holds for them."""
        if self.tree is not None:
            if not holds(self.tree, sizes):
                raise DataError(f"the program was exported for inputs with {self.text}")
            return
        size = sizes[self.name][self.axis]
        if self.k == 0:
            fine, wanted = size == self.c, str(self.c)
        else:
            value = (size - self.c) // self.k
            fine = value * self.k + self.c == size and value >= self.low and (self.high is None or value <= self.high)
            wanted = f"{self.k} · s + {self.c}" if (self.k, self.c) != (1, 0) else f"from {self.low} to {self.high}"
            if fine and self.symbol in symbols:
                fine, wanted = symbols[self.symbol] == value, "that of the other inputs"
            symbols.setdefault(self.symbol, value)
        if not fine:
            raise DataError(
                f"the program was exported for another size of input {self.name!r} along axis {self.axis}: it must be "
                f"{wanted}, and this one has {tuple(sizes[self.name])}; export it with dynamic_shapes"
            )


class ExportedNetwork(nn.Module):
    """A network read from a ``.pt2`` file.

    Its parameters and buffers have the names that they had when it was exported. Inputs of sizes that it was not
    exported for are refused.

    Parameters
    ----------
    graph : torch.fx.Graph
        Calls of operators in order.
    tensors : dict of str to Tensor
        Parameters, buffers and constants.
    inputs : tuple of Input
    structure : int, tuple, list or dict
        Positions among the outputs, in the structure that the model returned.
    conditions : tuple of Condition
    """

    def __init__(
        self,
        graph: fx.Graph,
        tensors: dict[str, Tensor],
        inputs: tuple[Input, ...],
        structure: Any,
        conditions: tuple[Condition, ...],
    ) -> None:
        super().__init__()
        self.graph = graph
        self._inputs = inputs
        self._structure = structure
        self._conditions = conditions
        for name, value in tensors.items():
            holder: nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if part not in holder._modules:
                    holder.add_module(part, nn.Module())
                holder = holder.get_submodule(part)
            if isinstance(value, nn.Parameter):
                holder.register_parameter(last, value)
            else:
                holder.register_buffer(last, value)

    @property
    def forward(self) -> Callable[..., Any]:  # type: ignore[override]
        """The program as a function whose arguments have names."""

        def call(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return self._run(*bound.arguments.values())

        signature = inspect.Signature([one.parameter() for one in self._inputs])
        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    def _run(self, *given: Any) -> Any:
        symbols: dict[str, Any] = {}
        sizes: dict[str, tuple[Any, ...]] = {}
        for one, value in zip(self._inputs, given, strict=True):
            if one.tensor:
                if not isinstance(value, Tensor):
                    raise DataError(f"input {one.name!r} of the program must be a tensor, not {type(value).__name__}")
                sizes[one.name] = tuple(value.shape)
            elif value != one.constant:
                raise DataError(f"the program was exported for {one.name}={one.constant!r}, and got {value!r}")
        for condition in self._conditions:
            if condition.axis >= len(sizes.get(condition.name, (0,) * 99)):
                raise DataError(f"input {condition.name!r} has too few axes: its shape is {sizes[condition.name]}")
            condition.require(sizes, symbols)
        # under a trace the operators keep the names of the modules that they came from
        with traceback.preserve_node_meta():
            outputs = fx.Interpreter(self, graph=self.graph).run(*given)
        return _filled(self._structure, outputs)


def _filled(structure: Any, outputs: tuple[Any, ...]) -> Any:
    if isinstance(structure, dict):
        return {key: _filled(part, outputs) for key, part in structure.items()}
    if isinstance(structure, list | tuple):
        return type(structure)(_filled(part, outputs) for part in structure)
    return outputs[structure]
