"""From a PyTorch model to a `Graph`, without a trace left on the model.

`torch.export` sees a light copy of the module tree whose parameters are detached views of the user's: nothing of the
user's is exchanged, hooked or flagged. Where export refuses (control flow that depends on data), the operators of one
run are traced instead; such a graph holds for that run only and is not kept.
"""

from __future__ import annotations

import contextlib
import random
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from backlight.engine.graph import Graph, Node, Ref
from backlight.errors import DataError, UnsupportedModel

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

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def capture(model: nn.Module, inputs: Inputs) -> Graph:
    """The graph of a model for inputs of these shapes.

    Raises
    ------
    DataError
        The model itself fails on these inputs.
    UnsupportedModel
        Neither export nor a trace gives a graph; says what torch said.
    """
    rows = rows_of(inputs)
    with _LOCK, torch.no_grad(), undisturbed(), _quiet():
        copy = light_copy(model, buffers="apart")
        first: Exception | None = None
        # With one row export would take the number of rows for a constant; the values do not matter.
        for arguments, how, dynamic in (
            (_doubled(inputs, rows), "exported", True),
            (inputs, f"exported for {rows} rows", False),
        ):
            try:
                return _from_export(copy, arguments, how, dynamic, model)
            # torch.export documents no common class of what it raises
            except Exception as error:
                first = first or error
        try:
            run_once(model, inputs)
        except UnsupportedModel:
            raise
        except Exception as error:
            raise DataError(f"{type(model).__name__} cannot run on these inputs: {_first_line(error)}") from error
        try:
            return _from_trace(copy, own_inputs(inputs), model)
        except Exception as error:
            raise UnsupportedModel(
                f"{type(model).__name__} cannot be captured as a graph: export said {_first_line(first)}; "
                f"a trace of one run said {_first_line(error)}"
            ) from error


def run_once(model: nn.Module, inputs: Inputs) -> Any:
    """What the model's own forward returns, without a trace of the run on the model, its inputs or a random state.

    Raises
    ------
    UnsupportedModel
        The forward writes into a parameter.
    """
    args, kwargs = own_inputs(inputs)
    with torch.inference_mode(False), torch.no_grad(), undisturbed(), _ReadOnly(model):
        return light_copy(model, buffers="apart")(*args, **kwargs)


def own_inputs(inputs: Inputs) -> Inputs:
    """The inputs in memory of our own: a forward may write into them."""
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)  # type: ignore[no-any-return]


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever is drawn inside, the random states of torch, NumPy and Python are afterwards what they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - the user's, not ours
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


class _ReadOnly(TorchDispatchMode):
    """Refuses operators that write into a parameter of the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._name = type(model).__name__
        self._protected = {p.untyped_storage().data_ptr() for p in model.parameters() if p.numel()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable:
            given = {**dict(zip([a.name for a in func._schema.arguments], args, strict=False)), **(kwargs or {})}
            written = [given.get(a.name) for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
            for leaf in pytree.tree_leaves(written):
                if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() in self._protected:
                    raise UnsupportedModel(
                        f"the forward of {self._name} writes into its own parameters ({func.__name__}), which an "
                        "explanation must leave alone: move that into the training loop"
                    )
        return func(*args, **(kwargs or {}))


def light_copy(model: nn.Module, buffers: str = "shared") -> nn.Module:
    """The same tree of modules over the same memory: new module objects, parameters detached.

    With ``buffers="apart"`` buffers, lists and dicts are copies, since a forward may write into them.
    """
    copies: dict[int, nn.Module] = {}
    tensors: dict[int, Any] = {}
    apart = buffers == "apart"

    def tensor(value: Any) -> Any:
        if value is None:
            return None
        if id(value) not in tensors:
            seen = value.detach()
            if apart and not isinstance(value, nn.Parameter):
                seen = seen.clone()
            tensors[id(value)] = nn.Parameter(seen, requires_grad=False) if isinstance(value, nn.Parameter) else seen
        return tensors[id(value)]

    def module(original: nn.Module | None) -> nn.Module | None:
        if original is None:
            return None
        if id(original) in copies:
            return copies[id(original)]
        # a GraphModule's own __new__ would make another class
        copy = object.__new__(original.__class__)
        copies[id(original)] = copy
        state = dict(original.__dict__)
        for hooks in [
            name for name in state if name.endswith("_hooks") or "_hooks_with" in name or "_hooks_always" in name
        ]:
            state[hooks] = state[hooks].copy() if hasattr(state[hooks], "copy") else state[hooks]
        if apart:
            state |= {name: value.copy() for name, value in state.items() if type(value) in (list, dict, set)}
        # they belong to the gradients of the user's own training
        for hooks in ("_backward_hooks", "_backward_pre_hooks"):
            state[hooks] = type(state[hooks])()
        copy.__dict__.update(state)
        copy.__dict__["_parameters"] = {name: tensor(value) for name, value in original._parameters.items()}
        copy.__dict__["_buffers"] = {name: tensor(value) for name, value in original._buffers.items()}
        copy.__dict__["_modules"] = {name: module(value) for name, value in original._modules.items()}
        return copy

    result = module(model)
    assert result is not None
    return result


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, also those that ``state_dict`` leaves out; a shared one under each name."""
    found = dict(model.named_parameters(remove_duplicate=False))
    return found | dict(model.named_buffers(remove_duplicate=False))


def _from_export(copy: nn.Module, inputs: Inputs, how: str, dynamic: bool, model: nn.Module) -> Graph:
    args, kwargs = inputs
    shapes: dict[str, Any] | None = None
    if dynamic:
        rows = torch.export.Dim.DYNAMIC

        def batch(value: Any) -> Any:
            return {0: rows} if isinstance(value, Tensor) and value.dim() else None

        by_position = dict(zip(_argument_names(copy, args), pytree.tree_map(batch, args), strict=True))
        shapes = by_position | pytree.tree_map(batch, kwargs)
    program = torch.export.export(copy, args, kwargs, dynamic_shapes=shapes, strict=False)
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


def _size(size: Any) -> int:
    return size if isinstance(size, int) else int(size.node.hint if hasattr(size, "node") else size)


def _argument_names(module: nn.Module, args: tuple[Any, ...]) -> list[str]:
    import inspect

    parameters = list(inspect.signature(module.forward).parameters.values())
    names: list[str] = []
    for position in range(len(args)):
        parameter = parameters[min(position, len(parameters) - 1)]
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            raise UnsupportedModel("forward(*args) gives its inputs no names")
        names.append(parameter.name)
    return names


def input_names(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """A name for each leaf of the inputs: the argument of ``forward``."""
    try:
        named = _argument_names(module, args)
    except UnsupportedModel:
        named = [f"input_{position}" for position in range(len(args))]
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
