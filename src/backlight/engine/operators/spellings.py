"""Linear layers in every spelling: sums over products of one signal with constants, as a layer with those weights.

``einsum`` of any form, matrix products with the constant on either side, ``tensordot``, a product followed by a sum.
What is added behind, the bias, is joined by the planner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backlight.engine.graph import Node, Ref
from backlight.engine.operators.registry import Context, find, operator
from backlight.engine.steps import LinearSite, Site
from backlight.rules import Contraction, Convolution, Dense, LinearMap

__all__ = ["contracted", "matrix_product", "sum_of_products", "with_bias"]

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def contracted(
    node: Node, source: int, signal: str, factor: str, result: str, weight: Tensor, inner: tuple[int, ...] = ()
) -> Site | None:
    """A layer z = einsum(a, W), in the form of a fully connected one where it is that.

    Parameters
    ----------
    node : Node
    source : int
        Where a is.
    signal, factor, result : str
        One letter an axis of a, W and z.
    weight : Tensor
    inner : tuple of int
        Nodes whose values are formed inside.
    """
    if any(len(set(letters)) < len(letters) for letters in (signal, factor, result)):
        return None
    # an axis of a that is summed without weights has weights of one: known only where it is of length one
    if any(c not in result and c not in factor for c in signal):
        return None
    if any(c not in result and c not in signal for c in factor):
        kept = "".join(c for c in factor if c in result or c in signal)
        weight, factor = torch.einsum(f"{factor}->{kept}", weight), kept
    summed = [c for c in signal if c not in result]
    added = [c for c in result if c not in signal]
    dense = (
        len(summed) == 1 and len(added) == 1 and set(factor) == {summed[0], added[0]}
        and signal[:-1] + added[0] == result and signal[-1] == summed[0]
    )  # fmt: skip
    if dense:
        matrix = weight if factor == added[0] + summed[0] else weight.t()
        return LinearSite(node, (source,), "linear", None, layer=Dense(matrix, None), inner=inner)
    layer = Contraction(weight, None, signal, factor, result)
    return LinearSite(node, (source,), "linear", None, layer=layer, inner=inner)


def _as_product(node: Node, context: Context) -> Site | None:
    """What a product of two signals is: the file of products reads the moves, which read this one."""
    maker = find("multiply")
    assert maker is not None
    return maker(node, context)


def _rank(node: Node) -> int | None:
    return None if node.shape is None else len(node.shape) + 1


def _operands(node: Node, context: Context) -> list[Any]:
    given = node.args[1] if isinstance(node.args[1], Sequence) else node.args[1:]
    return list(given)


@operator("einsum")
def einsum(node: Node, context: Context) -> Site | None:
    operands = _operands(node, context)
    carrying = [k for k, operand in enumerate(operands) if context.carries(operand)]
    others = [context.constant(operand) for k, operand in enumerate(operands) if k not in carrying]
    constants = [value for value in others if value is not None]
    if len(carrying) != 1 or len(constants) < len(others) or not constants:
        return _as_product(node, context)
    ranks = [_rank(context.node(operand)) for operand in operands]
    letters = _equation(node.args[0].replace(" ", ""), [r for r in ranks if r is not None])
    if letters is None or None in ranks:
        return _as_product(node, context)
    names, result = letters
    signal = names[carrying[0]]
    factors = [name for k, name in enumerate(names) if k != carrying[0]]
    factor, weight = factors[0], constants[0]
    if len(constants) > 1 or len(set(factor)) < len(factor):
        factor = "".join(dict.fromkeys(c for c in "".join(factors) if c in result or c in signal))
        weight = torch.einsum(f"{','.join(factors)}->{factor}", *constants)
    return contracted(node, operands[carrying[0]].index, signal, factor, result, weight) or _as_product(node, context)


def _equation(text: str, ranks: Sequence[int]) -> tuple[list[str], str] | None:
    """The letters of each operand and of the result, an ellipsis spelt out from the right."""
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    spare = [c for c in _LETTERS if c not in text]
    widths = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True) if "..." in term]
    widest = max(widths, default=0)
    if widest > len(spare):
        return None
    dots = "".join(spare[:widest])
    if not arrow:
        once = sorted(c for c in set(left) - set(",.") if left.count(c) == 1)
        right = ("..." if widths else "") + "".join(once)
    names = []
    for term, rank in zip(terms, ranks, strict=True):
        width = rank - len(term.replace("...", ""))
        names.append(term.replace("...", dots[widest - width :] if width else ""))
    return names, right.replace("...", dots)


def matrix_product(node: Node, x: Any, y: Any, context: Context, scale: float = 1.0) -> Site | None:
    """``x @ y`` with one constant side, by the rules of broadcasting; ``None`` where that is not the case."""
    left, right = context.constant(x), context.constant(y)
    if (left is None) == (right is None):
        return None
    signal = y if right is None else x
    weight = left if left is not None else right
    assert weight is not None
    rank = _rank(context.node(signal))
    if rank is None or not context.carries(signal):
        return None
    weight = weight * scale if scale != 1.0 else weight
    ranks = (weight.dim(), rank) if left is not None else (rank, weight.dim())
    first, second, result = _product_letters(*ranks)
    names = {True: (second, first), False: (first, second)}[left is not None]
    return _squeezed(node, signal, names[0], names[1], result, weight, context)


def _product_letters(first: int, second: int) -> tuple[str, str, str]:
    """Letters of ``x @ y`` by the numbers of axes: i is summed over."""
    batch = "abcdefgh"
    lead = max(first, second, 2) - 2
    x = batch[lead - (first - 2) : lead] + "xi" if first > 1 else "i"
    y = batch[lead - (second - 2) : lead] + "iy" if second > 1 else "i"
    result = batch[:lead] + ("x" if first > 1 else "") + ("y" if second > 1 else "")
    return x, y, result


def _squeezed(
    node: Node, signal: Any, names: str, factor: str, result: str, weight: Tensor, context: Context,
    inner: tuple[int, ...] = (),
) -> Site | None:  # fmt: skip
    """`contracted`, with axes of length one, which are repeated, under letters of their own."""
    source = context.node(signal)
    keep = [k for k, size in enumerate(weight.shape) if size != 1 or factor[k] not in names]
    weight = weight.reshape([weight.shape[k] for k in keep])
    factor = "".join(factor[k] for k in keep)
    sizes = dict(zip(factor, weight.shape, strict=True))
    lengths = _lengths(source)
    fresh = iter(c for c in reversed(_LETTERS) if c not in names + factor + result)
    letters = list(names)
    for k, c in enumerate(names):
        if lengths[k] == 1 and sizes.get(c, 1) != 1:
            # the weights alone know this axis: the signal is repeated along it
            letters[k] = next(fresh)
        if letters[k] not in result and letters[k] not in factor:
            if lengths[k] != 1:
                return None
            weight, factor = weight.unsqueeze(-1), factor + letters[k]
    return contracted(node, signal.index, "".join(letters), factor, result, weight, inner)


def _lengths(node: Node) -> list[int | None]:
    """The length of each axis, ``None`` for the one that was left out: of the rows."""
    assert node.shape is not None
    at = node.rows or 0
    lengths: list[int | None] = list(node.shape)
    lengths.insert(at, None)
    return lengths


@operator("mv", "bmm", "dot", "inner", "vdot")
def plain_product(node: Node, context: Context) -> Site | None:
    if node.op in ("mv", "bmm") and (found := matrix_product(node, node.args[0], node.args[1], context)) is not None:
        return found
    return _as_product(node, context)


@operator("tensordot")
def tensordot(node: Node, context: Context) -> Site | None:
    x, y, first, second = node.args[:4]
    left, right = context.constant(x), context.constant(y)
    signal = y if right is None else x
    if (left is None) == (right is None) or not context.carries(signal):
        return None
    ranks = [
        value.dim() if value is not None else _rank(context.node(given)) for value, given in ((left, x), (right, y))
    ]
    if ranks[0] is None or ranks[1] is None:
        return None
    names = [list(_LETTERS[: ranks[0]]), list(_LETTERS[ranks[0] : ranks[0] + ranks[1]])]
    for a, b in zip(first, second, strict=True):
        names[1][b] = names[0][a]
    shared = {names[0][a] for a in first}
    result = "".join(c for c in (*names[0], *names[1]) if c not in shared)
    spelt = ["".join(letters) for letters in names]
    if left is not None:
        return contracted(node, signal.index, spelt[1], spelt[0], result, left)
    assert right is not None
    return contracted(node, signal.index, spelt[0], spelt[1], result, right)


def sum_of_products(node: Node, context: Context) -> Site | None:
    """``(x * W).sum(axes)``, where nothing else reads the product."""
    source = node.args[0] if node.args else None
    if not isinstance(source, Ref) or node.op not in ("sum", "mean"):
        return None
    inner = context.node(source)
    if inner.op not in ("mul", "multiply") or len(inner.args) != 2 or context.users[inner.index] != [node.index]:
        return None
    x, y = inner.args
    constant = context.constant(x) if context.carries(y) else context.constant(y)
    signal = y if context.carries(y) else x
    if constant is None or not context.carries(signal) or inner.shape is None or not constant.is_floating_point():
        return None
    rank, axes = len(inner.shape) + 1, node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    own = _rank(context.node(signal))
    if own is None or not axes or rank > len(_LETTERS) or constant.dim() > rank or not constant.dim():
        return None
    axes = [axis % rank for axis in (axes if isinstance(axes, Sequence) else [axes])]
    kept_axis = bool(node.args[2]) if len(node.args) > 2 else bool(node.kwargs.get("keepdim", False))
    if kept_axis or (inner.rows or 0) in axes or "dtype" in node.kwargs:
        return None
    letters = _LETTERS[:rank]
    result = "".join(c for k, c in enumerate(letters) if k not in axes)
    weight = constant
    if node.op == "mean":
        lengths = [_lengths(inner)[axis] for axis in axes]
        if None in lengths:
            return None
        weight = constant / torch.Size([n for n in lengths if n is not None]).numel()
    return _squeezed(
        node, signal, letters[rank - own :], letters[rank - constant.dim() :], result, weight, context, (inner.index,)
    )


def with_bias(layer: LinearMap, bias: Tensor, node: Node) -> LinearMap | None:
    """The layer with a constant added behind it, one number a unit; ``None`` where it differs within a channel.

    Parameters
    ----------
    layer : LinearMap
    bias : Tensor
        Broadcasts against the layer's result.
    node : Node
        Whose value is the sum.
    """
    if node.shape is None:
        return None
    rank = len(node.shape) + 1
    shape = (1,) * (rank - bias.dim()) + tuple(bias.shape)
    if len(shape) > rank or shape[node.rows or 0] != 1:
        return None
    if isinstance(layer, Contraction):
        added = bias.reshape(shape)
        return replace(layer, bias=added if layer.bias is None else layer.bias + added)
    channel = {Dense: rank - 1, Convolution: 1}.get(type(layer))
    if channel is None or any(size != 1 for axis, size in enumerate(shape) if axis != channel):
        return None
    added = bias.reshape(-1).expand(layer.channels)
    return replace(layer, bias=added if layer.bias is None else layer.bias + added)
