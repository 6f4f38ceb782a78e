"""What was written of a graph beside the explainer, before anything is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from backlight._export.graphs.tables import KEYS, Written
from backlight._export.verify import compared_rows, require_equal
from backlight.classical import NeuralizedModel
from backlight.tables import Frame

__all__ = ["Run", "check_graph"]

# what was written, as it runs: arrays by the names of its inputs, to arrays by the names of its outputs
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]


def check_graph(
    run: Run, written: Written, network: NeuralizedModel, names: Sequence[str], explain: Any, rows: Any
) -> None:
    """Compare it with the explainer.

    Raises
    ------
    ConservationError
        When they differ by more than 1e-9 of what the score is made of.
    UnsupportedModel
        When no row could be explained.
    """
    frame, wanted = compared_rows(network, names, explain, rows)
    got = run(_cells(frame, written))
    score, base, values = (np.asarray(got[written.outputs[key]]) for key in KEYS)
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
        name: _words(column) if name in written.texts else np.asarray(column, dtype=np.float64)[:, None]
        for name, column in zip(written.inputs, frame.columns, strict=True)
    }


def _words(column: np.ndarray) -> np.ndarray:
    return np.array([["" if cell is None or cell != cell else cell] for cell in column.tolist()], dtype=object)
