"""The leaf of every tree that a row comes to, as steps of one size: nodes that ask, then leaves that stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Descent"]


@dataclass(frozen=True, slots=True, eq=False)
class Descent:
    """Trees as arrays of nodes.

    Attributes
    ----------
    roots : (T,) array of int
    feature, left, right : (N,) array of int
        At leaves both children are the leaf itself.
    split : (N,) array of float
        A row goes left where its element is at most that.
    missing_left : (N,) array of bool
    inner : int
        How many nodes ask; leaf k is node ``inner + k``.
    depth : int
    """

    roots: np.ndarray
    feature: np.ndarray
    left: np.ndarray
    right: np.ndarray
    split: np.ndarray
    missing_left: np.ndarray
    inner: int
    depth: int

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Descent:
        """From the attributes of ONNX's operator for trees."""
        inner, leaves = len(attributes["nodes_featureids"]), len(attributes["leaf_targetids"])
        stay = np.arange(inner, inner + leaves)

        def children(side: str) -> np.ndarray:
            ids, ends = np.array(attributes[f"nodes_{side}nodeids"]), np.array(attributes[f"nodes_{side}leafs"])
            return np.concatenate([ids + inner * ends, stay])

        left, right, roots = children("true"), children("false"), np.array(attributes["tree_roots"])
        depth, at = 0, roots
        while len(at := at[at < inner]):
            at, depth = np.unique(np.concatenate([left[at], right[at]])), depth + 1
        none = np.zeros(leaves)
        return cls(
            roots,
            np.concatenate([attributes["nodes_featureids"], none]).astype(np.int64),
            left,
            right,
            np.concatenate([attributes["nodes_splits"], none]),
            np.concatenate([attributes["nodes_missing_value_tracks_true"], none]).astype(bool),
            inner,
            depth,
        )
