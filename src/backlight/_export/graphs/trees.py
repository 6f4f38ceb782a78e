"""Trees as graphs, by the path rule: one operator finds each leaf, and a table says what its path has changed."""

from __future__ import annotations

from typing import Any

import numpy as np

from backlight._export.graphs.graph import Value
from backlight._export.graphs.rows import Emitted, Rows, register
from backlight.classical.layers import Query
from backlight.classical.layers.tree_table import TreeTable
from backlight.classical.layers.trees import Trees
from backlight.errors import UnsupportedOption
from backlight.rules.trees import TreePath

__all__: list[str] = []


@register(Trees)
def _trees(found: Trees, rows: Rows, ask: Query) -> Emitted:
    table, graph = found.table, rows.graph
    if not isinstance(ask.rule, TreePath):
        raise UnsupportedOption("trees are written as graphs by the path rule: make the Explainer with rules='path'")
    if table.categorical:
        raise UnsupportedOption("trees that split categories are not written as a graph in this version: encode them")
    z = graph.cast(graph.cast(rows.z, np.float32), np.float64) if table.single else rows.z
    leaves = np.flatnonzero(table.leaf)
    at = graph.cast(_leaves(table, leaves, z), np.int64)

    def summed(columns: np.ndarray) -> Value:
        """Σ over the trees of rows of a table of leaves, (n, width)."""
        return graph.op("ReduceSum", graph.op("Gather", columns, at, axis=0), np.array([1]), keepdims=0)

    output = summed(table.values[leaves])
    changes = [table.changes(found.pullback.width, u)[leaves].toarray() for u in range(found.units)]

    def back(c: Value) -> Value:
        return rows.columns(graph.total([c.column(u) * summed(change) for u, change in enumerate(changes)]))

    return Emitted(output + found.bias, output - table.expected, back)


def _leaves(table: TreeTable, leaves: np.ndarray, z: Value) -> Value:
    """The leaf that each row comes to in each tree, as its place among the leaves: (n, trees)."""
    place = np.full(len(table.left), -1)
    place[leaves] = np.arange(len(leaves))
    alone = [int(root) for root in table.roots if table.leaf[root]]
    inner = [*np.flatnonzero(~table.leaf).tolist(), *alone]  # a tree of one leaf asks, and goes there either way
    number = {node: k for k, node in enumerate(inner)}

    def side(children: np.ndarray) -> dict[str, list[int]]:
        nodes = [int(children[node]) for node in inner]
        ends = [bool(table.leaf[node]) for node in nodes]
        return {
            "ids": [int(place[node]) if end else number[node] for node, end in zip(nodes, ends, strict=True)],
            "leaf": [int(end) for end in ends],
        }

    left, right = side(table.left), side(table.right)
    attributes: dict[str, Any] = {
        "aggregate_function": 1,
        "post_transform": 0,
        "n_targets": len(table.roots),
        "tree_roots": [number[int(root)] for root in table.roots],
        "nodes_featureids": table.feature[inner].tolist(),
        "nodes_splits": table.threshold[inner].astype(np.float64),
        "nodes_modes": np.zeros(len(inner), dtype=np.uint8),
        "nodes_missing_value_tracks_true": table.missing_left[inner].astype(int).tolist(),
        "nodes_truenodeids": left["ids"],
        "nodes_trueleafs": left["leaf"],
        "nodes_falsenodeids": right["ids"],
        "nodes_falseleafs": right["leaf"],
        "leaf_targetids": _tree_of(table)[leaves].tolist(),
        "leaf_weights": np.arange(len(leaves), dtype=np.float64),
    }
    return z.graph.op("TreeEnsemble", z, domain="ai.onnx.ml", **attributes)


def _tree_of(table: TreeTable) -> np.ndarray:
    """The tree that each node is of."""
    return np.searchsorted(table.roots, np.arange(len(table.left)), side="right") - 1
