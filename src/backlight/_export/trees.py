"""Trees in SQL, by the path rule: few splits as a CASE a tree that finds the leaf, many as a table of boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backlight._export.expressions import E, minus, number, plus, text, times
from backlight._export.rows import Emitted, Rows, register
from backlight.classical.layers import Query
from backlight.classical.layers.tree_table import TreeTable
from backlight.classical.layers.trees import Trees
from backlight.errors import UnsupportedOption
from backlight.rules.trees import TreePath

__all__: list[str] = []

# splits that are written out as text, of some 60 characters each
_WRITTEN = 400
_LARGEST = float(np.finfo(float).max)


def _double_threshold(threshold: float) -> float:
    """The largest double that single precision rounds to at most a threshold: x ≤ it means float32(x) ≤ threshold."""
    low = np.float32(threshold)
    if float(low) > threshold:
        low = np.nextafter(low, np.float32(-np.inf))
    high = np.nextafter(low, np.float32(np.inf))
    middle = (float(low) + float(high)) / 2
    # a double half-way goes to the even neighbour
    return middle if float(np.float32(middle)) <= float(low) else float(np.nextafter(middle, -np.inf))


def _bound(table: TreeTable, node: int) -> float:
    """What a cell is at most that goes left; a split of nothing but missing cells has an infinite threshold."""
    threshold = float(table.threshold[node])
    bound = _double_threshold(threshold) if table.single and np.isfinite(threshold) else threshold
    return float(np.clip(bound, -_LARGEST, _LARGEST))


def _leaf(table: TreeTable, node: int, z: Sequence[str]) -> str:
    if table.leaf[node]:
        return number(node)
    cell = z[table.feature[node]]
    test = f"{cell} <= {number(_bound(table, node))}" + (f" OR {cell} IS NULL" if table.missing_left[node] else "")
    left, right = _leaf(table, int(table.left[node]), z), _leaf(table, int(table.right[node]), z)
    return f"CASE WHEN {test} THEN {left} ELSE {right} END"


def _inside(table: TreeTable, leaves: np.ndarray, z: Sequence[str], columns: list[str], body: list[np.ndarray]) -> str:
    """The test that a row is in the box of a leaf; the boxes' sides become columns of the table of leaves."""
    used = np.unique(table.feature[~table.leaf])
    place = {int(feature): i for i, feature in enumerate(used)}
    # a side (above, at most), and whether a cell without a value comes here
    box = np.tile(np.array([-_LARGEST, _LARGEST, 1.0]), (len(table.leaf), len(used), 1))
    for node in _downwards(table):
        i, left, right = place[int(table.feature[node])], table.left[node], table.right[node]
        bound, missing_left = _bound(table, node), bool(table.missing_left[node])
        box[left] = box[right] = box[node]
        box[left, i, 1] = min(box[node, i, 1], bound)
        box[right, i, 0] = max(box[node, i, 0], bound)
        box[left if not missing_left else right, i, 2] = 0.0
    tests = []
    for feature, i in place.items():
        columns += [f"low{i}", f"high{i}", f"gone{i}"]
        body.append(box[leaves, i])
        inside = f"{z[feature]} > a.low{i} AND {z[feature]} <= a.high{i}"
        tests.append(f"CASE WHEN {z[feature]} IS NULL THEN a.gone{i} > 0 ELSE {inside} END")
    return " AND ".join(tests)


def _downwards(table: TreeTable) -> list[int]:
    """Inner nodes, each before its children."""
    waiting, order = [int(root) for root in table.roots], []
    while waiting:
        node = waiting.pop()
        if not table.leaf[node]:
            order.append(node)
            waiting += [int(table.left[node]), int(table.right[node])]
    return order


@register(Trees)
def _trees(found: Trees, rows: Rows, ask: Query) -> Emitted:
    table = found.table
    if not isinstance(ask.rule, TreePath):
        raise UnsupportedOption("trees are written in SQL by the path rule: make the Explainer with rules='path'")
    if table.categorical:
        raise UnsupportedOption("trees that split categories are not written in SQL in this version: encode them")
    z = [text(one) for one in rows.z]
    leaves = np.flatnonzero(table.leaf)
    changes = [table.changes(found.pullback.width, u)[leaves].toarray() for u in range(found.units)]
    columns = ["leaf"]
    body = [leaves[:, None].astype(float)]
    for u in range(found.units):
        columns += [f"y{u}", *(f"c{u}_{k}" for k in range(found.pullback.width))]
        body += [table.values[leaves, u][:, None], changes[u]]
    summed = {column: f"SUM(q.{column})" for column in columns[1:]}
    if (~table.leaf).sum() <= _WRITTEN:
        at = [text(rows.program.let(_leaf(table, int(root), z))) for root in table.roots]
        where = f"a.leaf IN ({', '.join(at)})"
    else:
        where = _inside(table, leaves, z, columns, body)
    got = rows.program.sums(rows.program.table(columns, np.hstack(body)), [], summed, where)
    expected = table.expected
    output: list[E] = [plus(got[f"y{u}"], float(found.bias[u])) for u in range(found.units)]
    carried: list[E] = [minus(got[f"y{u}"], float(expected[u])) for u in range(found.units)]

    def back(c: Sequence[E]) -> list[E]:
        width = range(found.pullback.width)
        return rows.columns([plus(*(times(one, got[f"c{u}_{k}"]) for u, one in enumerate(c))) for k in width])

    return Emitted(rows.let(output), carried, back)
