r"""Exact Shapley values of trees with any kind of split, leaf by leaf, in double precision.

A leaf's part of the game is a product over the columns that its path looks at: with a coalition S it is reached with
weight :math:`\prod_{j\in S} o_j \prod_{j\notin S} z_j`, :math:`o_j\in\{0,1\}` whether the row's own value agrees with
the path, :math:`z_j` the share of training rows that agree (path-dependent), or whether the reference row's does
(interventional). The Shapley value of a product of such factors is

.. math::  \phi_j = v\,(o_j - z_j) \int_0^1 \prod_{l\ne j} (t\,o_l + (1-t)\,z_l)\,dt ,

a polynomial that Gauss–Legendre nodes integrate exactly; for two rows it is a ratio of factorials. Rows that agree with
a path in the same places get the same values, so that the work is counted in patterns, not in rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from backlight.classical.layers.tree_table import TreeTable

__all__ = ["interventional", "path_dependent"]


# Cells of rows × nodes that are decided at once.
_CELLS = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class _Path:
    """The way to a leaf: the nodes above it, whether it goes left there, and the elements that they look at."""

    leaf: int
    nodes: np.ndarray
    lefts: np.ndarray
    elements: np.ndarray
    group: np.ndarray

    def patterns(self, goes_left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The different ways in which rows agree, (k, m), and which one each row has, (n,)."""
        agrees = goes_left[:, self.nodes] == self.lefts
        order = np.argsort(self.group, kind="stable")
        starts = np.flatnonzero(np.diff(self.group[order], prepend=-1))
        agrees = np.logical_and.reduceat(agrees[:, order], starts, axis=1)
        packed = np.ascontiguousarray(np.packbits(agrees, axis=1))
        _, first, each = np.unique(packed, axis=0, return_index=True, return_inverse=True)
        return agrees[first], each.reshape(-1)


def _paths(table: TreeTable) -> Iterator[_Path]:
    for leaf in np.flatnonzero(table.leaf).tolist():
        nodes, lefts = [], []
        below, above = leaf, int(table.parents[leaf])
        while above >= 0:
            nodes.append(above)
            lefts.append(bool(table.left[above] == below))
            below, above = above, int(table.parents[above])
        if nodes:
            elements, group = np.unique(table.feature[nodes], return_inverse=True)
            yield _Path(leaf, np.array(nodes), np.array(lefts), elements, group)


def _decisions(table: TreeTable, x: np.ndarray) -> np.ndarray:
    """Whether each row would go left at each node, (n, N)."""
    nodes = np.broadcast_to(np.arange(len(table.left)), (len(x), len(table.left)))
    return table.goes_left(x[:, table.feature], nodes)


def _in_parts(table: TreeTable, x: np.ndarray) -> Iterator[slice]:
    step = max(1, _CELLS // len(table.left))
    return (slice(start, start + step) for start in range(0, len(x), step))


def path_dependent(table: TreeTable, x: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Shapley values of rows as the table rounds them, (n, E, units)."""
    out = np.zeros((*x.shape, len(units)))
    for rows in _in_parts(table, x):
        decided = _decisions(table, x[rows])
        for path in _paths(table):
            agrees, each = path.patterns(decided)
            below = np.where(path.lefts, table.left[path.nodes], table.right[path.nodes])
            whole = table.cover[table.left[path.nodes]] + table.cover[table.right[path.nodes]]
            ratio = np.divide(table.cover[below], whole, out=np.full(len(below), 0.5), where=whole > 0)
            share = np.ones(len(path.elements))
            np.multiply.at(share, path.group, ratio)
            t, weight = np.polynomial.legendre.leggauss(len(share) // 2 + 1)
            t, weight = (t + 1) / 2, weight / 2
            factor = t[:, None, None] * agrees + (1 - t)[:, None, None] * share  # (q, k, m)
            for j, element in enumerate(path.elements):
                phi = (agrees[:, j] - share[j]) * (weight @ np.delete(factor, j, axis=2).prod(2))
                out[rows, element] += phi[each, None] * table.values[path.leaf, units]
    return out


def interventional(table: TreeTable, x: np.ndarray, usual: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Shapley values against reference rows, the mean over them, (n, E, units); rows as the table rounds them."""
    out = np.zeros((*x.shape, len(units)))
    theirs = _decisions(table, usual)
    for rows in _in_parts(table, x):
        decided = _decisions(table, x[rows])
        for path in _paths(table):
            mine, each = path.patterns(decided)
            other, which = path.patterns(theirs)
            weight = np.bincount(which, minlength=len(other)) / len(usual)
            gained, lost = mine[:, None] & ~other, ~mine[:, None] & other  # (k, references, m)
            a, b = gained.sum(2), lost.sum(2)
            reached = (mine[:, None] | other).all(2) * weight
            gain, loss = reached * _share(a, b), reached * _share(b, a)
            for j, element in enumerate(path.elements):
                phi = (gained[:, :, j] * gain - lost[:, :, j] * loss).sum(1)
                out[rows, element] += phi[each, None] * table.values[path.leaf, units]
    return out


def _share(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """(p − 1)! q! / (p + q)!, the Shapley value of one of p columns that must come before q others."""
    return np.asarray(np.where(p > 0, np.exp(gammaln(np.maximum(p, 1)) + gammaln(q + 1) - gammaln(p + q + 1)), 0.0))
