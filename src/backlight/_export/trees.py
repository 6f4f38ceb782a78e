"""Trees in SQL, by the path rule: each tree a CASE that finds the leaf, the leaves a table beside the rows."""

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


def _double_threshold(threshold: float) -> float:
    """The largest double that single precision rounds to at most a threshold: x ≤ it means float32(x) ≤ threshold."""
    low = np.float32(threshold)
    if float(low) > threshold:
        low = np.nextafter(low, np.float32(-np.inf))
    high = np.nextafter(low, np.float32(np.inf))
    middle = (float(low) + float(high)) / 2
    # a double half-way goes to the even neighbour
    return middle if float(np.float32(middle)) <= float(low) else float(np.nextafter(middle, -np.inf))


def _leaf(table: TreeTable, node: int, z: Sequence[str]) -> str:
    if table.leaf[node]:
        return number(node)
    cell, threshold = z[table.feature[node]], float(table.threshold[node])
    bound = number(_double_threshold(threshold) if table.single else threshold)
    test = f"{cell} <= {bound}" + (f" OR {cell} IS NULL" if table.missing_left[node] else "")
    left, right = _leaf(table, int(table.left[node]), z), _leaf(table, int(table.right[node]), z)
    return f"CASE WHEN {test} THEN {left} ELSE {right} END"


@register(Trees)
def _trees(found: Trees, rows: Rows, ask: Query) -> Emitted:
    table = found.table
    if not isinstance(ask.rule, TreePath):
        raise UnsupportedOption("trees are written in SQL by the path rule: make the Explainer with rules='path'")
    if table.categorical:
        raise UnsupportedOption("trees that split categories are not written in SQL in this version: encode them")
    z = [text(one) for one in rows.z]
    at = [text(rows.program.let(_leaf(table, int(root), z))) for root in table.roots]
    leaves = np.flatnonzero(table.leaf)
    changes = [table.changes(found.pullback.width, u)[leaves].toarray() for u in range(found.units)]
    columns = ["leaf"]
    body = [leaves[:, None].astype(float)]
    for u in range(found.units):
        columns += [f"y{u}", *(f"c{u}_{k}" for k in range(found.pullback.width))]
        body += [table.values[leaves, u][:, None], changes[u]]
    name = rows.program.table(columns, np.hstack(body))
    got = rows.program.sums(
        name, [], {column: f"SUM(q.{column})" for column in columns[1:]}, where=f"a.leaf IN ({', '.join(at)})"
    )
    expected = table.expected
    output: list[E] = [plus(got[f"y{u}"], float(found.bias[u])) for u in range(found.units)]
    carried: list[E] = [minus(got[f"y{u}"], float(expected[u])) for u in range(found.units)]

    def back(c: Sequence[E]) -> list[E]:
        width = range(found.pullback.width)
        return rows.columns([plus(*(times(one, got[f"c{u}_{k}"]) for u, one in enumerate(c))) for k in width])

    return Emitted(rows.let(output), carried, back)
