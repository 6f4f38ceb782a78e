"""From a PyTorch model to a `Graph`, without a trace left on the model.

`torch.export` sees a light copy of the module tree whose parameters are detached views of the user's: nothing of the
user's is exchanged, hooked or flagged. Where export refuses (control flow that depends on data), the operators of one
run are traced instead; such a graph holds for that run only and is not kept.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from backlight.engine.copies import Inputs, light_copy, own_inputs, run_once, tensors_of, undisturbed
from backlight.engine.graph import PRIME, Graph, Node, Ref
from backlight.engine.outputs import Layout, Outputs
from backlight.errors import ArgumentError, UnsupportedModel

__all__ = [
    "Inputs",
    "capture",
    "input_names",
    "light_copy",
    "own_inputs",
    "rows_of",
    "run_once",
    "tensors_of",
    "undisturbed",
    "with_outputs",
]

# torch.export keeps state of its own while it runs
_LOCK = threading.Lock()

# operators that torch can write out in smaller ones which have rules: recurrent layers and cells
_WRITTEN_OUT = (
    torch.ops.aten.lstm.input,
    torch.ops.aten.gru.input,
    torch.ops.aten.rnn_tanh.input,
    torch.ops.aten.rnn_relu.input,
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
                return _laid_out(_from_export(copy, arguments, how, dynamic, model), layout, outputs)
            except ArgumentError:
                raise
            # torch.export documents no common class of what it raises
            except Exception as error:
                first = first or error
        run_once(model, inputs)
        try:
            return _laid_out(_from_trace(copy, own_inputs(inputs), model), layout, outputs)
        except Exception as error:
            raise UnsupportedModel(
                f"{type(model).__name__} cannot be captured as a graph: export said {_first_line(first)}; "
                f"a trace of one run said {_first_line(error)}"
            ) from error


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


def _from_export(copy: nn.Module, inputs: Inputs, how: str, dynamic: bool, model: nn.Module) -> Graph:
    args, kwargs = inputs
    shapes: dict[str, Any] | None = None
    if dynamic:
        rows = torch.export.Dim.DYNAMIC

        def batch(value: Any) -> Any:
            return {0: rows} if isinstance(value, Tensor) and value.dim() else None

        # torch.export wants them by the arguments of forward, *args and **kwargs under their own names
        shapes = pytree.tree_map(batch, dict(inspect.signature(copy.forward).bind(*args, **kwargs).arguments))
    program = torch.export.export(copy, args, kwargs, dynamic_shapes=shapes, strict=False)
    if _to_be_rewritten(program.graph):
        # operators stay whole, in-place ones become pure; whole recurrent layers are written out step by step
        known = torch.export.default_decompositions()
        program = program.run_decompositions({op: known[op] for op in _WRITTEN_OUT})
    signature = program.graph_signature
    held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    lifted = signature.inputs_to_lifted_tensor_constants
    builder = _Builder(model, how)
    given = input_names(copy, args, kwargs)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in held:
                builder.parameter(node, held[node.name])
            elif node.name in lifted:
                builder.constant(node, program.constants[lifted[node.name]])
            else:
                builder.input(node, given[len(builder.inputs)])
        elif node.op == "call_function":
            builder.call(node)
        elif node.op == "output":
            mutated = len(signature.buffers_to_mutate) + len(signature.user_inputs_to_mutate)
            outputs = list(node.args[0])[mutated:]
            tree = program.call_spec.out_spec
            builder.finish(pytree.tree_unflatten([builder.arguments(value) for value in outputs], tree))
        else:
            raise UnsupportedModel(f"the exported program holds {node.op} {node.target}, which is a program of its own")
    return builder.graph


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
    builder = _Builder(model, "traced")
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


class _Builder:
    """Collects nodes in order, and gives each its name."""

    def __init__(self, model: nn.Module, how: str) -> None:
        self.graph = Graph([], {}, {}, {}, None, how)
        self.inputs = self.graph.inputs
        self._model = model
        self._index: dict[Any, int] = {}
        self._rows: Any = None

    def parameter(self, node: Any, name: str) -> None:
        self.graph.parameters[self._add(node, name, "parameter", None)] = name

    def constant(self, node: Any, value: Tensor) -> None:
        self.graph.constants[self._add(node, node.name, "constant", None)] = value.detach()

    def input(self, node: Any, name: str) -> None:
        self.graph.inputs[name] = self._add(node, name, "input", None)

    def call(self, node: Any) -> None:
        target = node.target
        op = _operator_name(target)
        path = _module_path(node)
        module = None
        if path:
            with contextlib.suppress(AttributeError):
                module = type(self._model.get_submodule(path))
        else:
            module = type(self._model)
        index = self._add(node, path, op, target, node.args, node.kwargs)
        self.graph.nodes[index].path = path
        self.graph.nodes[index].module = module

    def finish(self, output: Any) -> None:
        self.graph.output = output
        _name(self.graph.nodes)

    def _add(self, node: Any, name: str, op: str, target: Any, args: Any = (), kwargs: Any = None) -> int:
        index = len(self.graph.nodes)
        value = node.meta.get("val", node.meta.get("tensor_meta"))
        shape = getattr(value, "shape", None)
        rows = None if shape is None else self._rows_axis(op, shape)
        whole = None if shape is None else _whole(shape)
        if shape is not None:
            shape = [_size(size) for axis, size in enumerate(shape) if axis != (rows or 0)]
        self.graph.nodes.append(
            Node(
                index,
                name,
                op,
                target,
                self.arguments(args),
                dict(self.arguments(kwargs or {})),
                shape=None if shape is None else tuple(shape),
                dtype=getattr(value, "dtype", None),
                rows=rows,
                sizes=whole,
            )
        )
        self._index[node] = index
        return index

    def _rows_axis(self, op: str, shape: Any) -> int | None:
        """Which axis counts the user's rows: the first of an input, and where that size comes back."""
        if op == "input" and len(shape):
            self._rows = self._rows or shape[0]
        sizes = [str(size) for size in shape]
        return sizes.index(str(self._rows)) if self._rows is not None and str(self._rows) in sizes else None

    def arguments(self, tree: Any) -> Any:
        """Arguments with references in the place of graph nodes."""
        if isinstance(tree, torch.fx.Node):
            return Ref(self._index[tree])
        if isinstance(tree, list):
            return [self.arguments(item) for item in tree]
        if isinstance(tree, tuple):
            return tuple(self.arguments(item) for item in tree)
        if isinstance(tree, dict):
            return {key: self.arguments(item) for key, item in tree.items()}
        if isinstance(tree, slice):
            return slice(*(self.arguments(item) for item in (tree.start, tree.stop, tree.step)))
        return tree


def _name(nodes: list[Node]) -> None:
    """Unique names: the module's path where the module is one operator, else path and operator."""
    calls = [node for node in nodes if node.target is not None]
    per_module: dict[str, set[str]] = {}
    for node in calls:
        per_module.setdefault(node.path, set()).add(node.op)
    seen: dict[str, int] = {}
    for node in calls:
        inner = any(path.startswith(f"{node.path}.") for path in per_module)
        alone = node.path and not inner and len(per_module[node.path] - {"getitem", "sym_size"}) == 1
        name = node.path if alone else f"{node.path}.{node.op}".lstrip(".")
        if node.op in ("getitem", "sym_size"):
            name = f"{node.path}.{node.op}".lstrip(".")
        seen[name] = seen.get(name, 0) + 1
        node.name = name if seen[name] == 1 else f"{name}@{seen[name]}"


def _operator_name(target: Any) -> str:
    packet = getattr(target, "_opname", None)
    if packet is None:
        return str(getattr(target, "__name__", target))
    namespace = target.namespace
    return str(packet if namespace == "aten" else f"{namespace}.{packet}")


def _module_path(node: Any) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values() if isinstance(entry, tuple)]
    last = str(paths[-1]) if paths else ""
    # a module that is called a second time carries "@1" behind its path
    return last.split("@")[0] if not last.startswith("_empty") else ""


def _whole(shape: Any) -> tuple[int, ...] | None:
    """Sizes for `PRIME` rows; ``None`` where one depends on the data."""
    found = []
    for size in shape:
        if isinstance(size, int) or not hasattr(size, "node"):
            found.append(int(size))
            continue
        symbols = size.node.expr.free_symbols
        if any(str(symbol).startswith("u") for symbol in symbols):
            return None
        found.append(int(size.node.expr.subs(dict.fromkeys(symbols, PRIME))))
    return tuple(found)


def _size(size: Any) -> int:
    return size if isinstance(size, int) else int(size.node.hint if hasattr(size, "node") else size)


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Warnings of torch about its own tracing are no news to the user."""
    import logging

    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.fx.experimental.symbolic_shapes")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        # torch.export prints what it had of a graph that it gives up, which may be thousands of lines
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
