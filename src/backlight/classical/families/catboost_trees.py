"""The trees of a model of CatBoost, as its JSON holds them: of numbers alone.

A node asks whether a value is *greater* than a border, in single precision. In a symmetric tree all nodes of one depth
ask the same; the others are nested.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backlight.classical.layers.tree_table import Tree

__all__ = ["trees_of"]

# of each number: its column in the table, and whether a missing cell goes to the side that is not greater
_Columns = dict[int, tuple[int, bool]]


def trees_of(read: dict[str, Any], units: int, scale: float) -> list[Tree]:
    """All trees of a model, of so many units, their leaves times a scale."""
    columns = {
        one["feature_index"]: (
            one.get("flat_feature_index", one["feature_index"]),
            # a column without a border is not counted, and "AsTrue" sends missing cells to the greater side
            one.get("nan_value_treatment") != "AsTrue",
        )
        for one in read["features_info"]["float_features"]
    }
    if "oblivious_trees" in read:
        return [_symmetric(tree, units, scale, columns) for tree in read["oblivious_trees"]]
    return [_nested(tree, units, scale, columns) for tree in read["trees"]]


def _nested(tree: dict[str, Any], units: int, scale: float, columns: _Columns) -> Tree:
    """Nodes in the order of a walk."""
    rows: list[list[Any]] = []
    values: list[np.ndarray] = []

    def visit(node: dict[str, Any]) -> int:
        at = len(rows)
        values.append(scale * np.broadcast_to(np.ravel(node.get("value", 0.0)).astype(float), units))
        rows.append([-1, -1, 0, 0.0, node.get("weight", 0.0), False])
        if "split" in node:
            column, missing = columns[node["split"]["float_feature_index"]]
            rows[at] = [0, 0, column, np.float32(node["split"]["border"]), 0.0, missing]
            rows[at][0] = visit(node["left"])
            rows[at][1] = visit(node["right"])
        return at

    visit(tree)
    left, right, feature, threshold, cover, missing = (np.array(part) for part in zip(*rows, strict=True))
    return Tree(left, right, feature, threshold.astype(float), np.array(values), cover, missing)


def _symmetric(tree: dict[str, Any], units: int, scale: float, columns: _Columns) -> Tree:
    """A full binary tree: the library's own order has the last question at the root, as the highest bit of a leaf."""
    splits = tree["splits"] or []
    depth = len(splits)
    values = np.asarray(tree["leaf_values"], dtype=float).reshape(-1, units) * scale
    weights = np.asarray(tree["leaf_weights"], dtype=float)
    inner = 2**depth - 1
    n = inner + 2**depth
    left, right, feature, threshold = np.full(n, -1), np.full(n, -1), np.zeros(n, dtype=int), np.zeros(n)
    missing, out, cover = np.zeros(n, dtype=bool), np.zeros((n, units)), np.zeros(n)
    for node in range(inner):  # in the order of a heap
        split = splits[depth - (node + 1).bit_length()]
        left[node], right[node] = 2 * node + 1, 2 * node + 2
        feature[node], missing[node] = columns[split["float_feature_index"]]
        threshold[node] = split["border"]
    out[inner:], cover[inner:] = values, weights
    return Tree(left, right, feature, np.float32(threshold).astype(float), out, cover, missing)
