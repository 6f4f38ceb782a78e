"""What an exported program says of the sizes of its inputs, in a language of comparisons of whole numbers.

The texts come from a file. They are parsed, never run: a parsed text is data, and what evaluates it here knows whole
numbers, the sizes of inputs, six comparisons, five operations and three connectives, and nothing else.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Sizes", "holds", "linear", "parsed"]

Sizes = Mapping[str, tuple[Any, ...]]

# Beyond this Python's own parser could run out of stack.
_LONGEST, _DEEPEST = 2000, 40
_LETTERS = re.compile(r"[\w\s()\[\]'\",.=<>!+\-*/%]*", re.ASCII)
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
_OPERATE: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}  # fmt: skip


def parsed(text: str) -> ast.expr:
    """The tree of an expression of sizes.

    Raises
    ------
    ValueError
        Anything beyond the language.
    """
    tree = _tree(text)
    _require_sizes(tree)
    return tree


def holds(tree: ast.expr, sizes: Sizes) -> Any:
    """The value of a parsed expression for inputs of these sizes."""
    match tree:
        case ast.Constant(value=value):
            return value
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [holds(side, sizes) for side in (left, *others)]
            return all(_COMPARE[type(op)](a, b) for op, a, b in zip(ops, sides, sides[1:], strict=False))
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATE[type(op)](holds(left, sizes), holds(right, sizes))
        case ast.UnaryOp(op=ast.Not(), operand=one):
            return not holds(one, sizes)
        case ast.UnaryOp(operand=one):
            return -holds(one, sizes)
        case ast.BoolOp(op=op, values=values):
            return (all if isinstance(op, ast.And) else any)(holds(one, sizes) for one in values)
    name, axis = _size(tree)
    return sizes[name][axis]


def linear(text: str) -> tuple[int, str, int]:
    """An expression of one symbol s as (k, s, c), which is k · s + c: ``"Mul(Integer(2), Symbol('s0'))"``, ``"s0"``.

    Raises
    ------
    ValueError
        Anything else.
    """
    k, name, c = _linear(_tree(text))
    if name is None or not name.isidentifier() or k < 1:
        raise ValueError(f"{text[:80]!r} is no multiple of one size")
    return k, name, c


def _tree(text: str) -> ast.expr:
    depth = deepest = 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        deepest = max(deepest, depth)
    if len(text) > _LONGEST or deepest > _DEEPEST or not _LETTERS.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no expression of sizes")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise ValueError(f"{text[:80]!r} is no expression of sizes") from None


def _require_sizes(tree: ast.expr) -> None:
    match tree:
        case ast.Constant(value=int()):
            return
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARE for op in ops):
            parts = [left, *others]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATE:
            parts = [left, right]
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=one):
            parts = [one]
        case ast.BoolOp(values=parts):
            pass
        case _:
            _size(tree)
            return
    for part in parts:
        _require_sizes(part)


def _size(tree: ast.expr) -> tuple[str, int]:
    """``L['name'].size()[axis]``."""
    match tree:
        case ast.Subscript(
            value=ast.Call(
                func=ast.Attribute(
                    value=ast.Subscript(value=ast.Name(id="L"), slice=ast.Constant(value=str(name))), attr="size"
                ),
                args=[],
                keywords=[],
            ),
            slice=ast.Constant(value=int(axis)),
        ):
            return name, axis
    raise ValueError(f"{ast.unparse(tree)[:80]!r} is no size of an input")


def _linear(tree: ast.expr) -> tuple[int, str | None, int]:
    match tree:
        case ast.Constant(value=int(value)):
            return 0, None, value
        case ast.Call(func=ast.Name(id="Integer"), args=[ast.Constant(value=int(value))], keywords=[]):
            return 0, None, value
        case ast.Name(id=str(name)) | ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))]):
            return 1, name, 0
        case ast.Call(func=ast.Name(id="Add" | "Mul" as kind), args=[first, *rest], keywords=[]):
            found = _linear(first)
            for other in rest:
                found = _combined(kind, found, _linear(other))
            return found
        case ast.BinOp(left=left, op=ast.Add() | ast.Mult() as op, right=right):
            return _combined("Add" if isinstance(op, ast.Add) else "Mul", _linear(left), _linear(right))
    raise ValueError(f"{ast.unparse(tree)[:80]!r} is no multiple of one size")


def _combined(kind: str, a: tuple[int, str | None, int], b: tuple[int, str | None, int]) -> tuple[int, str | None, int]:
    name = a[1] or b[1]
    if kind == "Add" and None not in (a[1], b[1]) and a[1] != b[1]:
        raise ValueError("a size is a sum of two others")
    if kind == "Add":
        return a[0] + b[0], name, a[2] + b[2]
    if a[1] is not None and b[1] is not None:
        raise ValueError("a size is a product of two others")
    return a[0] * b[2] + b[0] * a[2], name, a[2] * b[2]
