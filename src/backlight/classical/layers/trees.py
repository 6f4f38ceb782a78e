r"""Trees as a layer: a sum of leaves, shared among the columns that the splits on the way to them look at.

A tree is a step function: its slope is zero everywhere, and there is no root point to expand it at. What it expects is
known at every node, though, and the score less what the roots expect is what the columns have changed of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.classical.layers.base import EncodedRows, ForwardPass, Layer, Query
from backlight.classical.layers.pullback import Pullback
from backlight.classical.layers.tree_shapley import interventional, path_dependent
from backlight.classical.layers.tree_table import TreeTable
from backlight.errors import UnsupportedModel, require
from backlight.rules.trees import TREE_RULES, TreePath

__all__ = ["Trees"]


class Trees(Layer):
    """Σ_t leaf_t(z) + b, with the rules of `backlight.rules.trees`.

    Parameters
    ----------
    table : TreeTable
    bias : (U,) array
        Base, as is what the roots expect (or the mean score of the reference rows).
    pullback : Pullback

    Raises
    ------
    UnsupportedModel
        Behind a projection: what the splits look at are its axes, which belong to no column.
    """

    reads = frozenset({"rows"})
    kept_instead: Mapping[str, Any] = {"_changes": {}, "_explainers": {}}

    def __init__(self, table: TreeTable, bias: np.ndarray, pullback: Pullback) -> None:
        super().__init__()
        if pullback.into is not None:
            raise UnsupportedModel(
                "trees after a projection split its axes, which belong to no column: fit them without the projection, "
                "or on a selection of columns"
            )
        self.table, self.bias, self.pullback = table, np.asarray(bias, dtype=float), pullback
        self.units = table.values.shape[1]
        self.rules = dict(TREE_RULES)
        self._changes: dict[int, Any] = {}
        self._explainers: dict[int, Any] = {}

    @property
    def rows(self) -> int:
        """Rows at once."""
        return max(64, min(8192, (1 << 22) // max(1, len(self.table.roots))))

    @property
    def learnt(self) -> bytes:
        """A digest of the trees."""
        digest = hashlib.sha256(self.bias.tobytes())
        for part in (self.table.threshold, self.table.values, self.table.feature, self.table.levels):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.digest()

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        return self._tensor(self.table.score(_numbers(x.z)) + self.bias, x)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        z = _numbers(x.z)
        found = self.table.leaves(z)
        output = np.zeros((len(z), self.units))
        for t in range(found.shape[1]):
            output += self.table.values[found[:, t]]
        usual = (
            None if ask.usual is None or isinstance(ask.rule, TreePath) else self.table.rounded(_numbers(ask.usual.z))
        )
        expected = self.table.expected if usual is None else self.table.score(usual).mean(0)
        known: dict[int, np.ndarray] = {}

        def back(c: Tensor) -> Tensor:
            weights = np.asarray(c.detach().cpu(), dtype=float)
            total = np.zeros((len(z), self.pullback.width))
            for unit in np.flatnonzero((weights != 0).any(0)).tolist():
                if isinstance(ask.rule, TreePath):
                    values = self._along(found, unit)
                else:
                    if unit not in known:
                        known.update(self._shapley(z, unit, usual))
                    values = known[unit]
                total += weights[:, unit, None] * values
            return self.pullback.columns(self._tensor(total, x))

        carried = self._tensor(output - expected, x)
        whole = self._tensor(output + self.bias, x)
        return ForwardPass(whole, carried, back, whole, {"trees": carried})

    @property
    def made_of(self) -> Mapping[str, int]:
        """The trees."""
        return {"trees": len(self.table.roots)}

    def inside(self, name: str, x: EncodedRows, ask: Query) -> Callable[[Tensor], Tensor]:
        """See `Layer.inside`: what each tree says of the row, less what it expects."""
        values, table = self.table.values, self.table
        said = values[table.leaves(_numbers(x.z))]  # (n, trees, U)
        if ask.usual is None or isinstance(ask.rule, TreePath):
            expected = values[table.roots]
        else:
            expected = values[table.leaves(table.rounded(_numbers(ask.usual.z)))].mean(0)
        parts = self._tensor(said - expected, x)
        return lambda c: torch.einsum("nu,ntu->nt", c, parts)

    def _tensor(self, array: np.ndarray, x: EncodedRows) -> Tensor:
        return torch.as_tensor(array).to(x.z)

    def _along(self, found: np.ndarray, unit: int) -> np.ndarray:
        """Changes along the paths to the leaves found, (n, E)."""
        changes = self._changes.get(unit)
        if changes is None:
            changes = self._changes[unit] = self.table.changes(self.pullback.width, unit)
        n, T = found.shape
        from scipy import sparse

        reached = sparse.csr_array(
            (np.ones(found.size), found.ravel(), np.arange(0, found.size + 1, T)), shape=(n, len(self.table.left))
        )
        return np.asarray((reached @ changes).toarray())

    def _group(self, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """The trees that have a unit, and the units that these trees have."""
        table = self.table
        used = np.logical_or.reduceat(table.values != 0, table.roots, axis=0)
        alone = bool((used.sum(1) <= 1).all())
        units = np.array([unit]) if alone else np.arange(self.units)
        return np.flatnonzero(used[:, units].any(1)), units

    def _shapley(self, z: np.ndarray, unit: int, usual: np.ndarray | None) -> dict[int, np.ndarray]:
        """Shapley values, (n, E) for each of the units that come together."""
        trees, units = self._group(unit)
        width = self.pullback.width
        if not len(trees):
            return {unit: np.zeros((len(z), width))}
        x = self.table.rounded(z)
        if usual is not None:  # the library beside compares in single precision there
            found = interventional(self.table, x, usual, units)
        elif self.table.categorical:  # … and reads thresholds alone
            found = path_dependent(self.table, x, units)
        else:
            values = self._explainer(unit, trees, units).shap_values(x, check_additivity=False)
            found = np.asarray(values).reshape(len(z), width, len(units))
        return {int(u): found[:, :, k] for k, u in enumerate(units)}

    def _explainer(self, unit: int, trees: np.ndarray, units: np.ndarray) -> Any:
        """The library's explainer of some trees, prepared once."""
        if unit not in self._explainers:
            shap = require("shap", "shap", "sharing a tree's score by Shapley values (rules='path' does without)")
            each = [_for_shap(self.table.one(int(t)), units) for t in trees]
            model = {"trees": each, "internal_dtype": np.float64, "input_dtype": np.float64}
            self._explainers[unit] = shap.TreeExplainer(model, feature_perturbation="tree_path_dependent")
        return self._explainers[unit]


def _numbers(z: Tensor) -> np.ndarray:
    return np.asarray(z.detach().cpu().double())


def _for_shap(tree: Any, units: np.ndarray) -> dict[str, np.ndarray]:
    """A tree as the dictionary that ``shap`` reads."""
    return {
        "children_left": tree.left,
        "children_right": tree.right,
        "children_default": np.where(tree.missing_left, tree.left, tree.right),
        "features": np.where(tree.left < 0, -1, tree.feature),
        "thresholds": tree.threshold.astype(np.float64),
        "values": np.ascontiguousarray(tree.values[:, units], dtype=np.float64),
        "node_sample_weight": np.maximum(tree.cover.astype(np.float64), 1e-300),
    }
