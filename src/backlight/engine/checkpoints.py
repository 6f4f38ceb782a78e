"""Which values to keep of a long forward pass, so that the rest can be computed again on the way back.

Between two blocks of a network little is alive: the residual stream, masks, positions. Kept are the values that are
alive there, one checkpoint a block; what a block's steps keep for their way back exists for one block at a time.

Source: Chen et al., "Training deep nets with sublinear memory cost", 2016.
"""

from __future__ import annotations

import itertools
import math
import statistics

from backlight.engine.graph import Node
from backlight.engine.plan import Plan

__all__ = ["bytes_kept", "checkpoints"]

# a step holds its input, its result, and on the way back a message, about
_COPIES = 3


def checkpoints(plan: Plan) -> list[int]:
    """The positions of steps before which little is alive, without the first; empty where there are no such places."""
    alive = _alive(plan)
    usual = statistics.median(alive)
    narrow = [k for k in range(1, len(alive) - 1) if alive[k] <= usual and alive[k - 1] >= alive[k] < alive[k + 1]]
    sizes = [_size(plan.graph.nodes[step.out]) for step in plan.steps]
    found: list[int] = []
    since = 0.0
    begin = 0
    for position in narrow:
        since += sum(sizes[begin:position])
        begin = position
        # a block that keeps hardly more than its checkpoint is joined with the next
        if since >= 4 * alive[position]:
            found.append(position)
            since = 0.0
    return found


def bytes_kept(plan: Plan, rows: int) -> tuple[int, int]:
    """About how many bytes the way back of so many rows needs: with everything kept, and block by block."""
    whole, blockwise = plan.bytes_of_a_row = plan.bytes_of_a_row or _of_a_row(plan)
    return int(whole * rows), int(blockwise * rows)


def _of_a_row(plan: Plan) -> tuple[float, float]:
    sizes = [_size(plan.graph.nodes[step.out]) * _width(plan.graph.nodes[step.out]) for step in plan.steps]
    whole = sum(sizes) * _COPIES
    cuts = checkpoints(plan)
    if not cuts:
        return whole, whole
    alive = _alive(plan)
    edges = [0, *cuts, len(sizes)]
    widest = max(sum(sizes[a:b]) for a, b in itertools.pairwise(edges)) * _COPIES
    item = max((_width(plan.graph.nodes[step.out]) for step in plan.steps), default=4)
    return whole, widest + sum(alive[cut] for cut in cuts) * item


def _alive(plan: Plan) -> list[float]:
    """Numbers of one row that are alive before each step, inputs and constants left out."""
    made: dict[int, float] = {}
    found = []
    for step, gone in zip(plan.steps, plan.frees, strict=True):
        found.append(sum(made.values()))
        made[step.out] = _size(plan.graph.nodes[step.out])
        for index in gone:
            made.pop(index, None)
    return [*found, sum(made.values())]


def _size(node: Node) -> float:
    # a value without rows is the same for all of them
    return 0.0 if node.shape is None or node.sizes == () else float(math.prod(node.shape))


def _width(node: Node) -> int:
    return 0 if node.dtype is None else node.dtype.itemsize
