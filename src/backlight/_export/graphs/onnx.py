"""A graph as ONNX, and that in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from backlight._export.graphs.graph import Node
from backlight._export.graphs.tables import Written
from backlight._export.graphs.verify import Run
from backlight.errors import UnsupportedModel, require

__all__ = ["onnx_of", "run_onnx", "session"]

# opsets: reductions take their axes as inputs from 18 on; trees in double precision are of the fifth of "ml"
_OPSETS = {"": 18, "ai.onnx.ml": 5}
_IR = 10
# what is said of it by onnxruntime: errors alone
_ERRORS = 3


def onnx_of(written: Written) -> bytes:
    """The whole model: results by name with their types and shapes, and what is said about it.

    Raises
    ------
    UnsupportedModel
    MissingDependency
        Without the package ``onnx``.
    """
    onnx = require("onnx", "onnx", "export to ONNX")
    helper, graph = onnx.helper, written.graph
    outputs, target = [], written.outputs["target"]
    for name, (value, kind, shape) in written.results.items():
        if name == target and written.words:
            graph.op("Gather", np.array(written.words, dtype=object), value, axis=0, name=name)
            kind = str
        else:
            graph.op("Identity", value, name=name)
        outputs.append(helper.make_tensor_value_info(name, _code(onnx, kind), list(shape)))
    if graph.kind is not np.float32 and any(node.kind == "Conv" for node in graph.nodes):
        raise UnsupportedModel("onnxruntime convolves in single precision alone: export the network as module.float()")
    inputs = [
        helper.make_tensor_value_info(name, _code(onnx, kind), ["rows", *shape])
        for name, (kind, shape) in graph.inputs.items()
    ]
    kept = [
        onnx.numpy_helper.from_array(np.ascontiguousarray(known).reshape(known.shape), name)
        for name, known in graph.constants().items()
    ]
    nodes = [_node(onnx, node) for node in graph.nodes]
    made = helper.make_model(
        helper.make_graph(nodes, "explanation", inputs, outputs, kept),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()],
        ir_version=_IR,
        producer_name="backlight",
    )
    helper.set_model_props(made, dict(written.facts))
    onnx.checker.check_model(made)
    found: bytes = made.SerializeToString()
    return found


def _code(onnx: Any, kind: type) -> int:
    return int(onnx.TensorProto.STRING if kind is str else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)))


def _node(onnx: Any, node: Node) -> Any:
    attributes = {
        key: onnx.numpy_helper.from_array(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
        for key, value in node.attributes.items()
    }
    if node.kind == "Cast":
        attributes["to"] = int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(node.attributes["to"])))
    return onnx.helper.make_node(node.kind, node.inputs, node.outputs, domain=node.domain, **attributes)


def session(content: bytes) -> Any:
    """A graph in onnxruntime, on one thread."""
    runtime = require("onnxruntime", "onnx", "comparing an export to ONNX")
    options = runtime.SessionOptions()
    options.log_severity_level = _ERRORS
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run_onnx(content: bytes) -> Run:
    """A graph as it runs in onnxruntime."""
    opened = session(content)
    names = [one.name for one in opened.get_outputs()]

    def run(inputs: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        return dict(zip(names, opened.run(names, dict(inputs)), strict=True))

    return run
