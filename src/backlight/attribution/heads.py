"""Where the heads of attention hand their results on."""

from __future__ import annotations

from backlight.engine.graph import Node, Ref
from backlight.engine.operators.routing import MOVES
from backlight.engine.plan import Plan
from backlight.errors import ArgumentError

__all__ = ["head_places"]

_SOFTMAX = frozenset({"softmax", "_softmax", "_safe_softmax"})
_PRODUCTS = frozenset({"matmul", "bmm", "einsum", "baddbmm"})
# what may be done to attention weights before they weigh
_ON_THE_WAY = MOVES | {"mul", "div", "add", "clone", "dropout", "contiguous", "masked_fill"}


def head_places(plan: Plan) -> dict[str, int]:
    """Places whose value is (n, heads, tokens, width): what each head of attention took from the tokens.

    Raises
    ------
    ArgumentError
        There are none.
    """
    nodes = plan.graph.nodes
    found: dict[int, str] = {}
    for name, index in plan.places.items():
        node = nodes[index]
        if node.shape is not None and len(node.shape) == 3 and _attends(nodes, node):
            found.setdefault(index, name)
    if not found:
        raise ArgumentError("layers='heads': the network has no attention of several heads that is known as that")
    return {name: index for index, name in found.items()}


def _attends(nodes: list[Node], node: Node) -> bool:
    if "scaled_dot_product" in node.op:
        return True
    if node.op not in _PRODUCTS:
        return False
    return any(_weights(nodes, nodes[index], 8) for index in node.inputs)


def _weights(nodes: list[Node], node: Node, depth: int) -> bool:
    if node.op in _SOFTMAX:
        return True
    first = next((given for given in node.args if isinstance(given, Ref)), None)
    return depth > 0 and node.op in _ON_THE_WAY and first is not None and _weights(nodes, nodes[first.index], depth - 1)
