"""A graph as a file of Python that needs NumPy alone: one line an operator."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from backlight._export.graphs.graph import Node
from backlight._export.graphs.leaves import Descent
from backlight._export.graphs.tables import Written
from backlight._export.graphs.verify import Run
from backlight.errors import UnsupportedModel

__all__ = ["run_source", "source_of"]

# rows at once: few, so that blocks of rows and anchors stay small
_ROWS = 64
_WIDTH = 118
_NAME = re.compile(r"\w+")

# operators of values alone
_TEMPLATES = {
    "Add": "{} + {}", "Sub": "{} - {}", "Mul": "{} * {}", "Div": "{} / {}", "MatMul": "{} @ {}", "Neg": "-{}",
    "Less": "{} < {}", "Greater": "{} > {}", "LessOrEqual": "{} <= {}", "GreaterOrEqual": "{} >= {}",
    "And": "{} & {}", "Or": "{} | {}", "Not": "~{}", "Equal": "{} == {}", "Exp": "np.exp({})", "Log": "np.log({})",
    "Abs": "np.abs({})", "Sqrt": "np.sqrt({})", "IsNaN": "np.isnan({})", "Round": "np.round({})",
    "Sign": "np.sign({})", "Relu": "np.maximum({}, 0)", "Tanh": "np.tanh({})", "Max": "np.maximum({}, {})",
    "Where": "np.where({}, {}, {})", "Clip": "np.clip({}, {}, {})", "Sigmoid": "_sigmoid({})", "Erf": "_erf({})",
    "Identity": "{}",
}  # fmt: skip

_HELPERS = {
    "_sigmoid": """
def _sigmoid(x):
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)
""",
    "_erf": """
def _erf(x):
    return np.vectorize(math.erf, otypes=[x.dtype])(x)
""",
    "_codes": """
def _codes(cells, codes, other):
    words = [cell if isinstance(cell, str) else "" for cell in cells[:, 0]]
    return np.array([[codes.get(word, other)] for word in words], dtype=float)
""",
    "_leaves": """
def _leaves(z, roots, feature, split, left, right, missing_left, depth, inner):
    at = np.broadcast_to(roots, (len(z), len(roots)))
    for _ in range(depth):
        cell = np.take_along_axis(z, feature[at], 1)
        at = np.where((cell <= split[at]) | (np.isnan(cell) & missing_left[at]), left[at], right[at])
    return (at - inner).astype(z.dtype)
""",
}


def _axes(known: Any) -> str:
    axes = tuple(int(axis) for axis in known)
    return str(axes[0]) if len(axes) == 1 else str(axes)


def _slice(node: Node, given: Sequence[str], known: Sequence[Any]) -> str:
    start, stop, axis = (int(known[k][0]) for k in (1, 2, 3))
    return f"{given[0]}[{':, ' * axis}{start}:{stop}]"


# operators with attributes, or with inputs that are known numbers
_WRITERS: dict[str, Callable[[Node, Sequence[str], Sequence[Any]], str]] = {
    "Cast": lambda node, given, known: f"{given[0]}.astype(np.{node.attributes['to']})",
    "ReduceSum": lambda node, given, known: (
        f"{given[0]}.sum({_axes(known[1])}, keepdims={bool(node.attributes['keepdims'])})"
    ),
    "ReduceMean": lambda node, given, known: (
        f"{given[0]}.mean({_axes(known[1])}, keepdims={bool(node.attributes['keepdims'])})"
    ),
    "ReduceMin": lambda node, given, known: f"{given[0]}.min({_axes(known[1])}, keepdims=True)",
    "ReduceMax": lambda node, given, known: f"{given[0]}.max({_axes(known[1])}, keepdims=True)",
    "ArgMax": lambda node, given, known: f"{given[0]}.argmax({node.attributes['axis']}, keepdims=True)",
    "Concat": lambda node, given, known: f"np.concatenate([{', '.join(given)}], {node.attributes['axis']})",
    "Gather": lambda node, given, known: f"np.take({given[0]}, {given[1]}, {node.attributes['axis']})",
    "Squeeze": lambda node, given, known: f"{given[0]}.squeeze({_axes(known[1])})",
    "Unsqueeze": lambda node, given, known: f"np.expand_dims({given[0]}, {_axes(known[1])})",
    "Reshape": lambda node, given, known: f"{given[0]}.reshape({tuple(int(size) for size in known[1])})",
    "Slice": _slice,
}


def source_of(written: Written) -> bytes:
    """A module with the function ``explain``, that imports NumPy and nothing else that Python does not bring.

    Whatever is a name of the model's stands in it as a literal of ASCII characters.

    Raises
    ------
    UnsupportedModel
        For an operator that is not written in NumPy.
    """
    known = written.graph.constants()
    names = {name: f"C{k}" for k, name in enumerate(known)}
    names |= {name: f"x{k}" for k, name in enumerate(written.inputs)}
    body: list[str] = []
    tables: list[str] = []
    for k, node in enumerate(written.graph.nodes):
        names |= dict.fromkeys(node.outputs, f"v{k}")
        said, further = _line(node, [names[name] for name in node.inputs], [known.get(name) for name in node.inputs], k)
        tables += further
        body.append(f"v{k} = {said}")
    block = _block(written, names, body)
    used = set(_NAME.findall(block))
    constants = [f"{names[key]} = {_array(value)}" for key, value in known.items() if names[key] in used]
    helpers = [code for name, code in _HELPERS.items() if name in used]
    parts = ["\n".join([_head(written, "_erf" in used), *constants, *tables, ""]), *helpers, block, _whole(written)]
    return "\n".join(parts).encode("ascii")


def _line(node: Node, given: Sequence[str], known: Sequence[Any], k: int) -> tuple[str, list[str]]:
    """An operator as an expression, and what it needs beside the function."""
    if node.kind in _TEMPLATES:
        return _TEMPLATES[node.kind].format(*given), []
    if node.kind in _WRITERS:
        return _WRITERS[node.kind](node, given, known), []
    if node.kind == "LabelEncoder":
        codes = dict(zip(node.attributes["keys_strings"], node.attributes["values_tensor"].tolist(), strict=True))
        pairs = ", ".join(f"{key!a}: {_number(value)}" for key, value in codes.items())
        other = _number(float(node.attributes["default_tensor"][0]))
        return f"_codes({given[0]}, CODES{k}, {other})", [f"CODES{k} = {{{pairs}}}"]
    if node.kind == "TreeEnsemble":
        descent = Descent.of(node.attributes)
        arrays = (descent.roots, descent.feature, descent.split, descent.left, descent.right, descent.missing_left)
        made = [f"T{k}_{i} = {_array(array)}" for i, array in enumerate(arrays)]
        places = ", ".join(f"T{k}_{i}" for i in range(len(arrays)))
        return f"_leaves({given[0]}, {places}, {descent.depth}, {descent.inner})", made
    raise UnsupportedModel(f"{node.kind} is not written in NumPy in this version: export to .onnx or .pt2")


def _number(value: float) -> str:
    return repr(value) if np.isfinite(value) else f"float({str(value)!r})"


def _array(array: np.ndarray) -> str:
    """Numbers as text that reads as the same numbers."""
    if array.dtype == object:
        return f"np.array({array.tolist()!a})"
    said = repr(array.tolist())
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        said = re.sub(r"\b(nan|inf)\b", r"np.\1", said)
    return _wrapped(f"np.array({said}, dtype={'bool' if array.dtype == bool else f'np.{array.dtype.name}'})")


def _wrapped(text: str) -> str:
    """A long line cut behind commas."""
    lines, line = [], ""
    for part in text.split(", "):
        if line and len(line) + len(part) + 2 > _WIDTH:
            lines.append(f"{line},")
            line = part
        else:
            line = f"{line}, {part}" if line else part
    return "\n".join([*lines, line])


def _head(written: Written, needs_math: bool) -> str:
    facts = {key.upper(): value for key, value in written.facts.items()}
    facts = {key: json.loads(value) if value.startswith("[") else value for key, value in facts.items()}
    imports = "import math\n\n" if needs_math else ""
    said = "\n".join(f"{key} = {value!a}" for key, value in facts.items())
    return f'"""Score and contributions by NumPy alone: see `explain`."""\n\n{imports}import numpy as np\n\n{said}\n'


def _block(written: Written, names: Mapping[str, str], body: Sequence[str]) -> str:
    """The function of some rows."""
    results = {name: names[value.name] for name, (value, _, _) in written.results.items()}
    target = written.outputs["target"]
    if written.words and target in results:
        results[target] = f"np.array({list(written.words)!a})[{results[target]}]"
    lines = "\n        ".join(body)
    found = "".join(f"            {name!a}: {value},\n" for name, value in results.items())
    given = ", ".join(names[name] for name in written.inputs)
    return f"""
def _block({given}):
    with np.errstate(all="ignore"):
        {lines}
        return {{
{found}        }}
"""


def _whole(written: Written) -> str:
    """The function of all rows: some at a time."""
    if len(written.inputs) == 1 and not written.texts:
        (kind, _), told, given = next(iter(written.graph.inputs.values())), "a matrix of rows", "X"
        made = f"[np.asarray(X, dtype=np.{np.dtype(kind).name})]"
    else:
        told, given = "a table, a mapping of names to columns; a cell without a value is None, NaN or empty", "table"
        kinds = ["object" if name in written.texts else "float" for name in written.inputs]
        columns = ", ".join(
            f"np.asarray(table[{name!a}], dtype={kind})[:, None]"
            for name, kind in zip(written.inputs, kinds, strict=True)
        )
        made = f"[{columns}]"
    return f'''
def explain({given}):
    """Score, base and contributions of {told}; rows that cannot be explained are NaN."""
    given = {made}
    starts = range(0, max(len(given[0]), 1), {_ROWS})
    parts = [_block(*(one[start : start + {_ROWS}] for one in given)) for start in starts]
    return {{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}}
'''


def run_source(content: bytes) -> Run:
    """What was written as Python runs it: our own text, in which names are literals."""
    space: dict[str, Any] = {}
    exec(compile(content, "exported.py", "exec"), space)  # noqa: S102 - written above, from numbers and literals
    explain = space["explain"]

    def run(inputs: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        # a matrix, or columns by name
        alone = len(inputs) == 1 and "_codes" not in space
        given = next(iter(inputs.values())) if alone else {name: cells[:, 0] for name, cells in inputs.items()}
        found: Mapping[str, Any] = explain(given)
        return found

    return run
