"""From a PyTorch model to a `Graph`, without a trace left on the model.

`torch.export` sees a light copy of the module tree whose parameters are detached views of the user's: nothing of the
user's is exchanged, hooked or flagged. Where export refuses (control flow that depends on data), the operators of one
run are traced instead; such a graph holds for that run only and is not kept.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from backlight.engine.builder import Builder
from backlight.engine.copies import Inputs, light_copy, operators_of_functions, own_inputs, tensors_of, undisturbed
from backlight.engine.graph import Graph
from backlight.engine.lengths import Exported, axes_of_lengths
from backlight.engine.outputs import Layout, Outputs
from backlight.engine.recurrent import RecurrentLayersWhole, write_out
from backlight.errors import ArgumentError, UnsupportedModel

__all__ = [
    "Inputs", "capture", "capture_lengths", "input_names", "light_copy", "own_inputs",
    "program_of", "rows_of", "tensors_of", "undisturbed", "with_outputs",
]  # fmt: skip

# torch.export keeps state of its own while it runs
_LOCK = threading.Lock()

# operators that torch can write out in smaller ones which have rules
_WRITTEN_OUT = (
    torch.ops.aten.lstm_cell.default,
    torch.ops.aten.gru_cell.default,
    torch.ops.aten.rnn_tanh_cell.default,
    torch.ops.aten.rnn_relu_cell.default,
)


def capture(model: nn.Module, inputs: Inputs, outputs: Outputs | None = None) -> Graph:
    """The graph of a model for inputs of these shapes.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : (args, kwargs)
    outputs : Outputs, optional
        Which of the model's outputs; by default every tensor of fractions that it returns.

    Raises
    ------
    ArgumentError
        The model has no such output.
    DataError
        The model itself fails on these inputs.
    UnsupportedModel
        Neither export nor a trace gives a graph; says what torch said.
    """
    rows = rows_of(inputs)
    outputs = outputs or Outputs()
    with _LOCK, torch.no_grad(), undisturbed(), _quiet():
        copy, layout = with_outputs(light_copy(model, buffers="apart"), outputs)
        first: Exception | None = None
        # With one row export would take the number of rows for a constant; the values do not matter.
        for arguments, how, dynamic in (
            (_doubled(inputs, rows), "exported", True),
            (inputs, f"exported for {rows} rows", False),
        ):
            try:
                program = _exported(copy, arguments, dynamic)
                graph = Exported(program, input_names(copy, *arguments), how).graph(model)
                _require_no_levels(graph)
                return _laid_out(graph, layout, outputs)
            except ArgumentError:
                raise
            # torch.export documents no common class of what it raises
            except Exception as error:
                first = first or error
        of_functions = operators_of_functions(model, inputs)
        try:
            return _laid_out(_from_trace(copy, own_inputs(inputs), model), layout, outputs)
        except Exception as error:
            if of_functions:
                raise UnsupportedModel(
                    f"{type(model).__name__} calls torch's {of_functions[0]!r}, an operator of functions, which "
                    "relevance cannot follow: use torch.where, or a branch or loop of Python"
                ) from error
            raise UnsupportedModel(
                f"{type(model).__name__} cannot be captured as a graph: export said {_first_line(first)}; "
                f"a trace of one run said {_first_line(error)}"
            ) from error


def _require_no_levels(graph: Graph) -> None:
    """A program may hold the marks at which torch.func begins and ends: what lies between is not batched, nor dual."""
    if any(node.op.startswith(("_vmap_", "_jvp_")) for node in graph.nodes):
        raise UnsupportedModel("the program holds the marks of torch.func: a trace of one run has what lies between")


def capture_lengths(model: nn.Module, inputs: Inputs, outputs: Outputs | None = None) -> Exported | None:
    """What serves texts of all lengths, and any number of rows; ``None`` where that is not to be had.

    The axes that count tokens are left open (see `axes_of_lengths`); torch.export closes those whose length the model
    fixes, and says between which bounds the others hold.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : (args, kwargs)
    outputs : Outputs, optional
        Which of the model's outputs; by default every tensor of fractions that it returns.

    Raises
    ------
    ArgumentError
        The model has no such output.
    """
    outputs = outputs or Outputs()
    with _LOCK, torch.no_grad(), undisturbed(), _quiet():
        copy, layout = with_outputs(light_copy(model, buffers="apart"), outputs)
        arguments = _doubled(inputs, rows_of(inputs))
        names = input_names(copy, *arguments)
        try:
            program = _exported(copy, arguments, True, axes_of_lengths(names, pytree.tree_leaves(inputs)))
        except ArgumentError:
            raise
        # torch.export documents no common class of what it raises; another way of capturing says what is wrong
        except Exception:
            return None
        if outputs.choice is not None and not layout:
            return None
        return Exported(program, names, "exported", layout[-1] if layout else None)


def program_of(model: nn.Module, inputs: Inputs, outputs: Outputs) -> torch.export.ExportedProgram:
    """A model as a program that gives the chosen outputs alone, for any number of rows and, if it can be, any length.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : (args, kwargs)
        At least two rows.
    outputs : Outputs
    """
    with _LOCK, torch.no_grad(), undisturbed(), _quiet():
        copy, _ = with_outputs(light_copy(model, buffers="apart"), outputs)
        lengths = axes_of_lengths(input_names(copy, *inputs), pytree.tree_leaves(inputs))
        try:
            return _program(copy, inputs, True, lengths)
        # torch.export documents no common class of what it raises; a model of one length is a program too
        except Exception:
            if not lengths:
                raise
        return _program(copy, inputs, True)


def _laid_out(graph: Graph, seen: list[Layout | None], outputs: Outputs) -> Graph:
    if seen:
        return replace(graph, layout=seen[-1])
    # torch.export takes the graph of an exported program as it is, without what is called behind it
    if outputs.choice is not None:
        raise UnsupportedModel("output= chooses among the outputs of modules: wrap the exported program in one")
    return graph


def with_outputs(copy: nn.Module, outputs: Outputs) -> tuple[nn.Module, list[Layout | None]]:
    """A light copy that returns the chosen outputs alone; the list gets, at each run, how the whole is put together."""
    seen: list[Layout | None] = []

    def take(module: nn.Module, given: Any, value: Any) -> Any:
        taken, layout = outputs.take(value)
        seen.append(layout)
        return taken

    copy.register_forward_hook(take)
    return copy, seen


def _program(
    copy: nn.Module, inputs: Inputs, dynamic: bool, lengths: Mapping[int, tuple[int, ...]] | None = None
) -> torch.export.ExportedProgram:
    """The program of a model, with any number of rows, and of any length along the named axes of its leaves."""
    args, kwargs = inputs
    shapes: dict[str, Any] | None = None
    if dynamic:
        rows, length = torch.export.Dim.DYNAMIC, torch.export.Dim.AUTO
        leaves = itertools.count()

        def axes(value: Any) -> Any:
            open_ones = (lengths or {}).get(next(leaves), ())
            if not isinstance(value, Tensor) or not value.dim():
                return None
            return {0: rows, **dict.fromkeys(open_ones, length)}

        # torch.export wants them by the arguments of forward, *args and **kwargs under their own names
        shapes = pytree.tree_map(axes, dict(inspect.signature(copy.forward).bind(*args, **kwargs).arguments))
    return torch.export.export(copy, args, kwargs, dynamic_shapes=shapes, strict=False)


def _exported(
    copy: nn.Module, inputs: Inputs, dynamic: bool, lengths: Mapping[int, tuple[int, ...]] | None = None
) -> torch.export.ExportedProgram:
    """The program with pure operators alone."""
    with RecurrentLayersWhole():
        program = _program(copy, inputs, dynamic, lengths)
    write_out(program.graph)
    if _to_be_rewritten(program.graph):
        # operators stay whole, in-place ones become pure; recurrent cells are written out
        known = torch.export.default_decompositions()
        program = program.run_decompositions({op: known[op] for op in _WRITTEN_OUT})
    return program


def _from_trace(copy: nn.Module, inputs: Inputs, model: nn.Module) -> Graph:
    args, kwargs = inputs
    flat, spec = pytree.tree_flatten((args, kwargs))
    structure: list[Any] = []
    names = [name for name, _ in copy.named_parameters()] + [name for name, _ in copy.named_buffers()]
    values = [value for _, value in copy.named_parameters()] + [value for _, value in copy.named_buffers()]

    def run(*leaves: Any) -> list[Any]:
        held = dict(zip(names, leaves[: len(names)], strict=True))
        a, k = pytree.tree_unflatten(list(leaves[len(names) :]), spec)
        out = torch.func.functional_call(copy, held, a, k)
        found, tree = pytree.tree_flatten(out)
        structure.append(tree)
        return found

    traced = make_fx(torch.func.functionalize(run), record_module_stack=True, _error_on_data_dependent_ops=False)(
        *values, *flat
    )
    builder = Builder(model, "traced")
    given = input_names(copy, args, kwargs)
    for position, node in enumerate(n for n in traced.graph.nodes if n.op == "placeholder"):
        if position < len(names):
            builder.parameter(node, names[position])
        else:
            builder.input(node, given[position - len(names)])
    for node in traced.graph.nodes:
        if node.op == "get_attr":
            builder.constant(node, getattr(traced, node.target))
        elif node.op == "call_function":
            builder.call(node)
        elif node.op == "output":
            outputs = [builder.arguments(value) for value in node.args[0]]
            builder.finish(pytree.tree_unflatten(outputs, structure[-1]))
    return builder.graph


def _to_be_rewritten(graph: torch.fx.Graph) -> bool:
    """Whether a graph holds what only torch's own rewriting makes pure or writes out; it takes longer than the export.

    Operators that work in place on a value that nobody else reads, as a ReLU after a normalisation does, are made pure
    here: they give the same numbers under another name.
    """
    made: dict[Any, Any] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        target = node.target
        if target in _WRITTEN_OUT or isinstance(target, torch._ops.HigherOrderOperator):
            return True
        if target is torch.ops.aten.batch_norm.default and node.args[5] is True:
            return True  # with the statistics of the batch it is one of two operators, by whether it keeps running ones
        if isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable:
            pure = _pure(node, made)
            if pure is None:
                return True
            made[node] = pure
    for node, pure in made.items():
        node.target = pure
    return False


def _pure(node: Any, made: dict[Any, Any]) -> Any:
    """The operator that gives what an in-place one leaves in its input, where nothing else reads that input."""
    name, source = node.target._schema.name, node.args[0]
    fresh = (
        isinstance(source, torch.fx.Node)
        and len(source.users) == 1
        and (source in made or getattr(getattr(source.target, "_schema", None), "name", "") in _FRESH)
    )
    if not fresh or not name.startswith("aten::") or not name.endswith("_"):
        return None
    precisions = {one.meta["val"].dtype for one in node.all_input_nodes if isinstance(one.meta.get("val"), Tensor)}
    if len(precisions) != 1:
        return None  # in place the result has the input's own precision, otherwise the widest
    packet = getattr(torch.ops.aten, name[6:-1], None)
    return getattr(packet, node.target._overloadname, None)


# their results share memory with nothing
_FRESH = frozenset({
    "aten::add", "aten::batch_norm", "aten::conv1d", "aten::conv2d", "aten::conv3d", "aten::group_norm",
    "aten::layer_norm", "aten::linear",
})  # fmt: skip


def input_names(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """A name for each leaf of the inputs: the argument of ``forward``."""
    named: list[str] = []
    parameters = list(inspect.signature(module.forward).parameters.values())
    for position in range(len(args)):
        parameter = parameters[min(position, len(parameters) - 1)] if parameters else None
        plain = parameter is not None and parameter.kind is not inspect.Parameter.VAR_POSITIONAL
        named.append(parameter.name if parameter is not None and plain else f"input_{position}")
    names: list[str] = []
    for name, value in [*zip(named, args, strict=True), *kwargs.items()]:
        leaves = pytree.tree_leaves(value)
        names += [name] if len(leaves) == 1 else [f"{name}[{k}]" for k in range(len(leaves))]
    return names


def rows_of(inputs: Inputs) -> int:
    """The number of rows: the first size of the first tensor."""
    for leaf in pytree.tree_leaves(inputs):
        if isinstance(leaf, Tensor) and leaf.dim():
            return int(leaf.shape[0])
    return 0


def _doubled(inputs: Inputs, rows: int) -> Inputs:
    def two(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dim() and value.shape[0] == rows:
            return value[:1].expand(2, *value.shape[1:]).contiguous()
        return value

    return pytree.tree_map(two, inputs)  # type: ignore[no-any-return]


def _first_line(error: Exception | None) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:160]}" if text else type(error).__name__


class _Muffled:
    """Standard error without what one thread writes to it."""

    def __init__(self, stream: Any) -> None:
        self.stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() == self._thread:
            return len(text)
        return int(self.stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Warnings of torch about its own tracing are no news to the user; what other threads log or write is theirs."""
    own = threading.get_ident()
    known = list(logging.root.manager.loggerDict.items())
    theirs = [one for name, one in known if name.split(".")[0] == "torch" and isinstance(one, logging.Logger)]
    handlers = [handler for logger in theirs for handler in logger.handlers]

    def others(record: logging.LogRecord) -> bool:
        return record.thread != own

    for handler in handlers:
        handler.addFilter(others)
    # torch.export prints what it had of a graph that it gives up, which may be thousands of lines
    muffled = _Muffled(sys.stderr)
    sys.stderr = muffled
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if sys.stderr is muffled:
            sys.stderr = muffled.stream
        for handler in handlers:
            handler.removeFilter(others)
