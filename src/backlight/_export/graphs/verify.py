"""A graph beside the explainer, in onnxruntime, before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backlight._export.graphs.tables import KEYS, Written
from backlight._export.verify import compared_rows, require_equal
from backlight.classical import NeuralizedModel
from backlight.errors import require
from backlight.tables import Frame

__all__ = ["check_graph", "session"]

# what is said of it by onnxruntime: errors alone
_ERRORS = 3


def session(content: bytes) -> Any:
    """A graph in onnxruntime, on one thread."""
    runtime = require("onnxruntime", "onnx", "comparing an export to ONNX")
    options = runtime.SessionOptions()
    options.log_severity_level = _ERRORS
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def check_graph(written: Written, network: NeuralizedModel, names: Sequence[str], explain: Any, rows: Any) -> None:
    """Compare a graph with the explainer.

    Raises
    ------
    ConservationError
        When they differ by more than 1e-9 of what the score is made of.
    UnsupportedModel
        When no row could be explained.
    """
    frame, wanted = compared_rows(network, names, explain, rows)
    asked = [written.outputs[key] for key in KEYS]
    score, base, values = session(written.content).run(asked, _cells(frame, written))
    if score.ndim == 1:
        score, base, values = score[:, None], base[:, None], values[..., None]
    found = np.concatenate([score[:, None], base[:, None], values], 1)
    each = [*KEYS[:2], *names]
    require_equal(np.moveaxis(found, 2, 1).reshape(len(found), -1), wanted, each * score.shape[1])


def _cells(frame: Frame, written: Written) -> dict[str, np.ndarray]:
    """Rows as the graph's inputs."""
    if not written.texts:
        return {written.inputs[0]: np.ascontiguousarray(frame.matrix(), dtype=np.float64)}
    return {
        name: _words(column) if j in written.texts else np.asarray(column, dtype=np.float64)[:, None]
        for j, (name, column) in enumerate(zip(written.inputs, frame.columns, strict=True))
    }


def _words(column: np.ndarray) -> np.ndarray:
    return np.array([["" if cell is None or cell != cell else cell] for cell in column.tolist()], dtype=object)
