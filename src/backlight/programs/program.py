"""An exported program built from the JSON and the numbers of its archive, of the very bytes read (one reader).

``torch.export.load`` unpickles, evaluates symbolic expressions and compiles conditions, so it is not called. What can
be built here is a list of calls of the operators in `backlight.programs.operators` on tensors, numbers and
texts; anything else in the file is an error that names it. Nothing is compiled: the list is interpreted.
"""

from __future__ import annotations

import keyword
import math
import operator
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from backlight.errors import FileError, UntrustedModelError
from backlight.programs import operators
from backlight.programs.archive import Archive
from backlight.programs.exported import Condition, ExportedNetwork, Input
from backlight.programs.guards import linear, parsed

__all__ = ["build"]

_DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 9: torch.complex32, 10: torch.complex64, 11: torch.complex128, 12: torch.bool,
    13: torch.bfloat16,
}  # fmt: skip
_FORMATS = {
    1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format,
}  # fmt: skip
_STRIDED = 7
_NAME = re.compile(r"[\w -]+(\.[\w -]+)*", re.ASCII)
_SPECIAL = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
_NO_GRAD = "torch.ops.higher_order.wrap_with_set_grad_enabled"
# A size of 0 or 1 is what torch's own conditions let pass below a smallest size of 2.
_SMALLEST = 2


def build(archive: Archive, name: str) -> ExportedNetwork:
    """The network of a program.

    Parameters
    ----------
    archive : Archive
    name : str
        The file's name, for messages.

    Raises
    ------
    UntrustedModelError
        An operator or expression beyond those that are known to be harmless.
    FileError
        No program, or one of a kind that is not read here.
    """
    program = archive.program
    version = program["schema_version"]["major"]
    if version != 8:
        raise FileError(f"{name} was written with schema {version!r} of torch.export, and 8 is read: export it anew")
    held = program["graph_module"]
    tensors = _Tensors(archive, name)
    reader = _Reader(name)
    inputs = reader.signature(held, tensors)
    reader.nodes(held["graph"]["nodes"])
    specs = held["signature"]["output_specs"]
    if any(set(spec) - {"user_output", "buffer_mutation"} for spec in specs):
        raise FileError(f"{name} gives more than outputs (a loss, a changed input): export the model's forward alone")
    values = [reader.value(spec["user_output"]["arg"]) for spec in specs if "user_output" in spec]
    reader.graph.output(tuple(values))
    structure = _tree(_json(held["module_call_graph"][0]["signature"]["out_spec"]), iter(range(len(values))))
    checks = _conditions(program, held["graph"]["tensor_values"], inputs, name)
    return ExportedNetwork(reader.graph, tensors.used, tuple(inputs), structure, checks).eval()


class _Tensors:
    """Parameters, buffers and constants by name."""

    def __init__(self, archive: Archive, name: str) -> None:
        self._archive = archive
        self._name = name
        self._entries = {"weights": archive.weights, "constants": archive.constants}
        self._bytes: dict[tuple[str, str], bytearray] = {}
        self._seen: dict[str, Tensor] = {}
        self.used: dict[str, Tensor] = {}

    def take(self, name: str, folder: str) -> str:
        """Note that the program uses a tensor, and give the name that it has in the network."""
        if _NAME.fullmatch(name) is None:
            raise UntrustedModelError(f"{self._name} names a tensor {name[:80]!r}: it is not opened")
        entry = self._entries[folder][name]
        if entry["use_pickle"] is not False:
            raise UntrustedModelError(
                f"{self._name} holds {name} as a pickle, which could run code: it is not opened (is it your own? give "
                "the model that torch.export.load returns to backlight in Python)"
            )
        value = self._tensor(entry, folder)
        wanted = entry["is_param"] is True and value.is_floating_point()
        self.used[name] = (
            nn.Parameter(value, requires_grad=entry["tensor_meta"]["requires_grad"] is True) if wanted else value
        )
        return name

    def _tensor(self, entry: dict[str, Any], folder: str) -> Tensor:
        meta, path = entry["tensor_meta"], entry["path_name"]
        dtype = _DTYPES.get(meta["dtype"])
        if dtype is None or meta["layout"] != _STRIDED:
            raise FileError(f"{self._name} holds a tensor of a kind that is not read here (number {meta['dtype']})")
        sizes = [_whole(size["as_int"]) for size in meta["sizes"]]
        strides = [_whole(stride["as_int"]) for stride in meta["strides"]]
        offset = _whole(meta["storage_offset"]["as_int"])
        if (folder, path) not in self._bytes:
            self._bytes[folder, path] = self._archive.tensor_bytes(folder, path)
        data = self._bytes[folder, path]
        count = math.prod(sizes)
        last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        if count == 0:
            return torch.empty(sizes, dtype=dtype)
        if count > len(data) or (last + 1) * dtype.itemsize > len(data):
            raise FileError(f"{self._name} holds fewer numbers in {path} than its table of contents says")
        flat = torch.frombuffer(data, dtype=dtype, count=len(data) // dtype.itemsize)
        return torch.as_strided(flat, sizes, strides, offset)


class _Reader:
    """Collects the calls of a program as an fx graph."""

    def __init__(self, name: str) -> None:
        self.graph = fx.Graph()
        self._name = name
        self._values: dict[str, Any] = {}

    def signature(self, held: dict[str, Any], tensors: _Tensors) -> list[Input]:
        """Placeholders for what the user gives, look-ups for what the network holds."""
        specs = held["signature"]["input_specs"]
        given = [spec for spec in specs if "user_input" in spec or "constant_input" in spec]
        names = _argument_names(held["module_call_graph"][0]["signature"], len(given), self._name)
        inputs = []
        for spec, name in zip(given, names, strict=True):
            default = spec["constant_input"]["value"] if "constant_input" in spec else None
            inputs.append(Input(name, default is None, None if default is None else _plain(default)))
            node = self.graph.placeholder(name)
            if default is None:
                source = _text(spec["user_input"]["arg"]["as_tensor"]["name"])
                self._values[source] = node
                sizes = held["graph"]["tensor_values"][source]["sizes"]
                if all("as_int" in size for size in sizes[1:]):
                    # two rows stand for any number of them
                    row = [_whole(size["as_int"]) for size in sizes[1:]]
                    node.meta["val"] = torch.empty([2, *row] if sizes else [], device="meta")
        for spec in specs:
            for kind, key, folder in (
                ("parameter", "parameter_name", "weights"),
                ("buffer", "buffer_name", "weights"),
                ("tensor_constant", "tensor_constant_name", "constants"),
            ):
                if kind in spec:
                    source = "constants" if kind == "buffer" and spec[kind]["persistent"] is not True else folder
                    target = tensors.take(_text(spec[kind][key]), source)
                    self._values[_text(spec[kind]["arg"]["name"])] = self.graph.create_node("get_attr", target)
            unknown = set(spec) - {"user_input", "constant_input", "parameter", "buffer", "tensor_constant"}
            if unknown:
                raise UntrustedModelError(f"{self._name} holds an object that is no tensor: it is not opened")
        return inputs

    def nodes(self, nodes: list[dict[str, Any]]) -> None:
        """The calls, in order."""
        for node in nodes:
            target = _text(node["target"])
            if target == _NO_GRAD:
                self._without_gradient(node)
                continue
            size = operators.symbolic(target)
            function = size or operators.aten(target)
            if function is None:
                raise UntrustedModelError(
                    f"{self._name} calls {target[:80]!r}, which is not among the operators known to be harmless: it is "
                    "not opened (is it your own? give the model that torch.export.load returns to backlight in Python)"
                )
            arguments = [(_text(one["name"]), self.value(one["arg"]), one.get("kind", 1)) for one in node["inputs"]]
            positional = tuple(value for _, value, kind in arguments if kind != 2)
            named = {key: value for key, value, kind in arguments if kind == 2}
            if size is None:
                self._require_evaluation(function, positional, named)
            call = self.graph.create_node("call_function", function, positional, named)
            call.meta = _modules(node.get("metadata", {}))
            self._returned(call, node["outputs"])

    def value(self, argument: dict[str, Any]) -> Any:
        """An argument: a tensor or number of the program, or a constant."""
        ((kind, held),) = argument.items()
        match kind:
            case "as_none":
                return None
            case "as_tensor":
                return self._values[held["name"]]
            case "as_tensors":
                return [self._values[one["name"]] for one in held]
            case "as_optional_tensor" | "as_sym_int" | "as_sym_float" | "as_sym_bool":
                return self._either(held)
            case "as_optional_tensors" | "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
                return [self._either(one) for one in held]
            case "as_scalar_type":
                return _DTYPES[held]
            case "as_memory_format":
                return _FORMATS[held]
            case "as_layout" if held == _STRIDED:
                return torch.strided
            case "as_device":
                # wherever it was exported: the file is read for the processor
                return torch.device("cpu")
        return _plain(argument)

    def _either(self, held: dict[str, Any]) -> Any:
        if "as_name" in held:
            return self._values[held["as_name"]]
        return self.value(held)

    def _returned(self, call: fx.Node, outputs: list[dict[str, Any]]) -> None:
        if len(outputs) == 1:
            ((kind, held),) = outputs[0].items()
            if kind == "as_tensors":
                self._items(call, [{"as_tensor": one} for one in held])
            elif kind != "as_none":
                self._values[_text(held.get("name", held.get("as_name")))] = call
            return
        self._items(call, outputs)

    def _items(self, call: fx.Node, outputs: list[dict[str, Any]]) -> None:
        for position, output in enumerate(outputs):
            ((kind, held),) = output.items()
            if kind == "as_none":
                continue
            item = self.graph.create_node("call_function", operator.getitem, (call, position))
            item.meta = dict(call.meta)
            if kind == "as_tensors":
                self._items(item, [{"as_tensor": one} for one in held])
            else:
                self._values[_text(held.get("name", held.get("as_name")))] = item

    def _without_gradient(self, node: dict[str, Any]) -> None:
        """A part that ran under ``torch.no_grad``: the same calls, whose outputs carry no gradient."""
        enabled, inner, *rest = (one["arg"] for one in node["inputs"])
        graph = inner["as_graph"]["graph"]
        given = [self.value(one) for one in rest]
        outside, self._values = self._values, {}
        for argument, value in zip(graph["inputs"], given, strict=True):
            ((_, held),) = argument.items()
            self._values[_text(held.get("name", held.get("as_name")))] = value
        self.nodes(graph["nodes"])
        found = [(next(iter(output)), self.value(output)) for output in graph["outputs"]]
        self._values = outside
        outputs = node["outputs"]
        if len(outputs) == 1 and "as_tensors" in outputs[0]:
            outputs = [{"as_tensor": one} for one in outputs[0]["as_tensors"]]
        for output, (kind, value) in zip(outputs, found, strict=True):
            ((_, held),) = output.items()
            kept = kind == "as_tensor" and enabled.get("as_bool") is False
            self._values[_text(held.get("name", held.get("as_name")))] = (
                self.graph.create_node("call_function", torch.ops.aten.detach.default, (value,)) if kept else value
            )

    def _require_evaluation(self, function: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        for argument, value in zip(function._schema.arguments, positional, strict=False):
            if argument.name in ("train", "training") and value is True:
                break
        else:
            if True not in (named.get("train"), named.get("training")):
                return
        raise FileError(
            f"{self._name} was exported in training mode ({function}): call model.eval() before exporting it"
        )


def _conditions(
    program: dict[str, Any], tensors: dict[str, Any], inputs: list[Input], name: str
) -> tuple[Condition, ...]:
    specs = program["graph_module"]["signature"]["input_specs"]
    placeholders = [
        spec["user_input"]["arg"]["as_tensor"]["name"] if "user_input" in spec else None
        for spec in specs
        if "user_input" in spec or "constant_input" in spec
    ]
    found: list[Condition] = []
    ranges = program["range_constraints"]
    for placeholder, given in zip(placeholders, inputs, strict=True):
        if placeholder is None:
            continue
        for axis, size in enumerate(tensors[placeholder]["sizes"]):
            if "as_int" in size:
                found.append(Condition(given.name, axis, 0, "", _whole(size["as_int"]), 0, None))
                continue
            try:
                k, symbol, c = linear(_text(size["as_expr"]["expr_str"]))
            except ValueError as error:
                raise UntrustedModelError(f"{name} holds a size that is not read here: {error}") from error
            low, high = _range(ranges.get(symbol, {}))
            found.append(Condition(given.name, axis, k, symbol, c, low, high))
    known = {given.name for given in inputs}
    for text in program.get("guards_code", []):
        try:
            tree = parsed(_text(text))
        except ValueError as error:
            raise UntrustedModelError(
                f"{name} holds a condition beyond comparisons of its inputs' sizes, which could run code: it is not "
                f"opened ({error})"
            ) from error
        found.append(Condition(tree=tree, text=text))
        asked = found[-1].names() - known
        if asked:
            raise FileError(f"{name} holds a condition on {sorted(asked)[0]!r}, which is none of its inputs")
    return tuple(found)


def _range(held: dict[str, Any]) -> tuple[int, int | None]:
    low, high = held.get("min_val"), held.get("max_val")
    low = 0 if low is None or _whole(low) <= _SMALLEST else low
    return low, None if high is None else _whole(high)


def _argument_names(signature: dict[str, Any], count: int, name: str) -> list[str]:
    """Names of the arguments: tensors side by side, by position and then by keyword."""
    spec = _json(signature["in_spec"])
    positional, keywords = spec["children_spec"]
    leaves = [*positional["children_spec"], *keywords["children_spec"]]
    if len(leaves) != count or any(leaf["type"] is not None for leaf in leaves):
        raise FileError(f"{name} takes inputs that are not tensors side by side: give backlight the model in Python")
    names = signature.get("forward_arg_names") or []
    if len(names) != count:
        named = _json_list(keywords.get("context"))
        names = [f"input_{k}" for k in range(count - len(named))] + named
    for one in names:
        if not isinstance(one, str) or not one.isidentifier() or not one.isascii() or keyword.iskeyword(one):
            raise FileError(f"{name} names an input {str(one)[:80]!r}")
    if len(set(names)) != count:
        raise FileError(f"{name} names two inputs alike")
    return names


def _tree(spec: dict[str, Any], leaves: Iterator[int]) -> Any:
    """The structure that the model gave its outputs, of their positions: tuples, lists, and dictionaries by name."""
    if spec["type"] is None:
        return next(leaves)
    parts = [_tree(child, leaves) for child in spec["children_spec"]]
    if spec["type"] == "builtins.tuple":
        return tuple(parts)
    if spec["type"] == "builtins.list":
        return parts
    return dict(zip(_json_list(spec["context"]), parts, strict=True))


def _json(text: str) -> dict[str, Any]:
    import json

    version, tree = json.loads(text)
    if version != 1 or not isinstance(tree, dict):
        raise ValueError("the structure of the inputs or outputs is of an unknown version")
    return tree


def _json_list(text: Any) -> list[str]:
    import json

    held = json.loads(text) if isinstance(text, str) else None
    return [_text(one) for one in held or []]


def _modules(metadata: dict[str, str]) -> dict[str, Any]:
    """The path of the module that an operator came from, which gives it its name."""
    stack = {}
    for item in str(metadata.get("nn_module_stack", "")).split(";"):
        parts = item.split(",", 2)
        if len(parts) == 3 and (not parts[1] or _NAME.fullmatch(parts[1])):
            stack[f"L__self__{parts[1]}"] = (parts[1], parts[2])
    return {"nn_module_stack": stack} if stack else {}


def _plain(argument: dict[str, Any]) -> Any:
    ((kind, held),) = argument.items()
    kinds: dict[str, type] = {"as_int": int, "as_float": float, "as_bool": bool, "as_string": str}
    if kind in ("as_float", "as_floats"):
        return [_float(one) for one in held] if kind == "as_floats" else _float(held)
    if kind in kinds and type(held) is kinds[kind]:
        return held
    if kind in ("as_ints", "as_bools", "as_strings") and all(type(one) is kinds[kind[:-1]] for one in held):
        return list(held)
    if kind == "as_int_lists":
        return [[_whole(one) for one in row] for row in held]
    if kind == "as_complex":
        return complex(_float(held["real"]), _float(held["imag"]))
    if kind == "as_none":
        return None
    raise ValueError(f"an argument of the kind {kind[:40]!r} is not read here")


def _float(held: Any) -> float:
    if isinstance(held, str):
        return _SPECIAL[held]
    if isinstance(held, bool) or not isinstance(held, int | float):
        raise TypeError(f"{str(held)[:40]!r} is no number")
    return float(held)


def _whole(held: Any) -> int:
    if type(held) is not int or held < 0:
        raise ValueError(f"{str(held)[:40]!r} is no size")
    return held


def _text(held: Any) -> str:
    if not isinstance(held, str):
        raise TypeError(f"{str(held)[:40]!r} is no text")
    return held
