"""Trees of any library as one table of nodes: who goes where, and what is expected there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

__all__ = ["Tree", "TreeTable", "table_of"]

# Cells of rows × trees that are followed at once: a few blocks of them stay in a core's cache.
_CELLS = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """One tree, node by node; node 0 is its root.

    Attributes
    ----------
    left, right : (N,) array of int
        Children, −1 at leaves.
    feature : (N,) array of int
        The element that a node looks at.
    threshold : (N,) array of float
        A row goes left where its element is at most that.
    values : (N, U) array
        What the tree adds to each unit; read at leaves only.
    cover : (N,) array
        Weight of the training rows that came to each node.
    missing_left : (N,) array of bool
        Whether a row without a value goes left.
    categories : mapping of node to (levels that go left, levels that are known), optional
        Nodes that look at categories; a level that is not known counts as missing.
    """

    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    values: np.ndarray
    cover: np.ndarray
    missing_left: np.ndarray
    categories: dict[int, tuple[frozenset[int], frozenset[int]]] | None = None


@dataclass(frozen=True, eq=False)
class TreeTable:
    """The nodes of all trees, one after the other.

    Attributes
    ----------
    roots : (T,) array of int
    left, right, feature, threshold, cover, missing_left : as of `Tree`
        At leaves both children are the leaf itself.
    values : (N, U)
        At inner nodes the mean over the leaves below, weighted by their cover: what is expected there.
    leaf : (N,) array of bool
    levels : array of shape (K, L) of −1 (unknown), 0 (right) or 1 (left)
        For nodes that look at categories.
    level_row : (N,) array of int
        The row of ``levels``, −1 for a threshold.
    single : bool
        Whether rows are rounded to single precision before they are compared.
    """

    roots: np.ndarray
    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    values: np.ndarray
    cover: np.ndarray
    missing_left: np.ndarray
    leaf: np.ndarray
    levels: np.ndarray
    level_row: np.ndarray
    single: bool

    @property
    def categorical(self) -> bool:
        """Whether any node looks at categories."""
        return len(self.levels) > 0

    @property
    def expected(self) -> np.ndarray:
        """The sum over trees of what their roots expect, (U,)."""
        return np.asarray(self.values[self.roots].sum(0))

    def rounded(self, X: np.ndarray) -> np.ndarray:
        """Rows as the trees compare them."""
        return X.astype(np.float32).astype(np.float64) if self.single else np.asarray(X, dtype=np.float64)

    def goes_left(self, x: np.ndarray, node: np.ndarray) -> np.ndarray:
        """Whether elements x go left at nodes, both of one shape; elements as `rounded` gives them."""
        left = x <= self.threshold[node]
        if self.categorical:
            row = self.level_row[node]
            inside = (x > -1) & (x < self.levels.shape[1])
            code = self.levels[row, np.where(inside, x, 0).astype(np.intp)]
            code = np.where(inside, code, -1)
            left = np.where(row >= 0, np.where(code >= 0, code == 1, self.missing_left[node]), left)
        return np.asarray(np.where(np.isnan(x), self.missing_left[node], left))

    def leaves(self, X: np.ndarray) -> np.ndarray:
        """The leaf that each row comes to in each tree, (n, T)."""
        x = self.rounded(X)
        step = max(1, _CELLS // max(1, len(self.roots)))
        parts = [self._follow(x[start : start + step]) for start in range(0, len(x), step)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.roots)), dtype=np.intp)

    def _follow(self, x: np.ndarray) -> np.ndarray:
        n, T = len(x), len(self.roots)
        node = np.tile(self.roots, n)
        row = np.repeat(np.arange(n), T)
        where = np.flatnonzero(~self.leaf[node])
        while len(where):
            at = node[where]
            left = self.goes_left(x[row[where], self.feature[at]], at)
            down = np.where(left, self.left[at], self.right[at])
            node[where] = down
            where = where[~self.leaf[down]]
        return node.reshape(n, T)

    def score(self, X: np.ndarray) -> np.ndarray:
        """The sum over trees, (n, U)."""
        found = self.leaves(X)
        out = np.zeros((len(X), self.values.shape[1]))
        for t in range(found.shape[1]):  # in the order of the libraries, whose rounding it has
            out += self.values[found[:, t]]
        return out

    @cached_property
    def parents(self) -> np.ndarray:
        """(N,), −1 at roots."""
        out = np.full(len(self.left), -1)
        inner = np.flatnonzero(~self.leaf)
        out[self.left[inner]] = inner
        out[self.right[inner]] = inner
        return out

    @cached_property
    def ancestry(self) -> sparse.csr_array:
        """(N, N): 1 where the second node is the first one or above it, roots left out."""
        rows, columns = [], []
        at, above = np.arange(len(self.left)), np.arange(len(self.left))
        while True:
            keep = self.parents[above] >= 0
            at, above = at[keep], above[keep]
            if not len(at):
                break
            rows.append(at)
            columns.append(above)
            above = self.parents[above]
        pair = (np.concatenate(rows or [at]), np.concatenate(columns or [at]))
        return sparse.csr_array((np.ones(len(pair[0])), pair), shape=(len(self.left),) * 2)

    def changes(self, n_elements: int, unit: int) -> sparse.csr_array:
        """What the way to each node has changed of the expected value, by elements: (N, n_elements)."""
        below = np.flatnonzero(self.parents >= 0)
        above = self.parents[below]
        step = self.values[below, unit] - self.values[above, unit]
        one = sparse.csr_array((step, (below, self.feature[above])), shape=(len(self.left), n_elements))
        return sparse.csr_array(self.ancestry @ one)

    def one(self, t: int) -> Tree:
        """One of the trees, its nodes counted from zero."""
        start = int(self.roots[t])
        end = int(self.roots[t + 1]) if t + 1 < len(self.roots) else len(self.left)
        cut = slice(start, end)
        leaf = self.leaf[cut]
        left, right = (np.where(leaf, -1, child[cut] - start) for child in (self.left, self.right))
        return Tree(
            left, right, self.feature[cut], self.threshold[cut], self.values[cut], self.cover[cut],
            self.missing_left[cut],
        )  # fmt: skip


def table_of(trees: Sequence[Tree], single: bool = True) -> TreeTable:
    """Put trees into one table."""
    sizes = [len(tree.left) for tree in trees]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.intp)[:-1]
    leaf = np.concatenate([tree.left for tree in trees]) < 0
    itself = np.arange(len(leaf))
    left, right = (
        np.where(leaf, itself, np.concatenate([side + start for side, start in zip(sides, starts, strict=True)]))
        for sides in ([tree.left for tree in trees], [tree.right for tree in trees])
    )
    marked = [
        (start + node, *sets)
        for tree, start in zip(trees, starts, strict=True)
        for node, sets in (tree.categories or {}).items()
    ]
    width = 1 + max((max(known | going, default=0) for _, going, known in marked), default=0)
    levels = np.full((len(marked), width), -1, dtype=np.int8)
    level_row = np.full(len(leaf), -1, dtype=np.intp)
    for k, (node, going, known) in enumerate(marked):
        level_row[node] = k
        levels[k, sorted(known)] = 0
        levels[k, sorted(going)] = 1
    cover = np.concatenate([tree.cover for tree in trees]).astype(float)
    values = np.concatenate([tree.values for tree in trees]).astype(float)
    table = TreeTable(
        starts, left, right, np.where(leaf, 0, np.concatenate([tree.feature for tree in trees])),
        np.concatenate([tree.threshold for tree in trees]).astype(float), values, cover,
        np.concatenate([tree.missing_left for tree in trees]).astype(bool), leaf, levels, level_row, single,
    )  # fmt: skip
    _expect(table)
    return table


def _expect(table: TreeTable) -> None:
    """Write the weights and expected values of inner nodes, from the leaves upwards."""
    depth = np.zeros(len(table.left), dtype=int)
    level = table.roots
    while len(level):
        inner = level[~table.leaf[level]]
        below = np.concatenate([table.left[inner], table.right[inner]])
        depth[below] = depth[np.concatenate([inner, inner])] + 1
        level = below
    for d in range(int(depth.max(initial=0)), -1, -1):
        nodes = np.flatnonzero((depth == d) & ~table.leaf)
        a, b = table.left[nodes], table.right[nodes]
        # some libraries round the weights of inner nodes
        whole = table.cover[nodes] = table.cover[a] + table.cover[b]
        share = np.divide(table.cover[a], whole, out=np.full(len(nodes), 0.5), where=whole > 0)[:, None]
        table.values[nodes] = share * table.values[a] + (1 - share) * table.values[b]
