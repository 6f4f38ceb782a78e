"""Maxima of many values, written as chains of maxima of two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backlight.canonical.form import Form, Operator, Value
from backlight.canonical.units import Note

__all__ = ["pools"]


def pools(form: Form, note: Note) -> bool:
    """A tree of maxima over the windows of a picture is max pooling."""
    users = form.users()
    for value in form.order():
        if not _is_maximum(value) or any(_is_maximum(user) for user in users[value]):
            continue
        leaves = _leaves(value)
        found = _pool(leaves) if len(leaves) > 1 else None
        if found is not None:
            source, options = found
            pool = Operator(
                value.name, "max_pool2d", torch.ops.aten.max_pool2d.default, (source, *options), shape=value.shape
            )
            form.replace(value, pool)
            note("recognised", value.name, f"max pooling over {' × '.join(map(str, options[0]))}")
            form.refresh()
            return True
    return False


def _is_maximum(value: Value) -> bool:
    return isinstance(value, Operator) and value.op == "maximum"


def _leaves(value: Value) -> list[Value]:
    if _is_maximum(value):
        return [leaf for source in value.sources() for leaf in _leaves(source)]
    return [value]


def _pool(leaves: list[Value]) -> tuple[Value, tuple[list[int], ...]] | None:
    """The picture that all leaves are taken from, and the window, stride and padding that they make."""
    chains = [_chain(leaf) for leaf in leaves]
    source = chains[0][0]
    if any(chain[0] is not source for chain in chains) or len(source.shape) != 3:
        return None
    _, height, width = source.shape
    places = torch.arange(1, height * width + 1, dtype=torch.float64).view(1, 1, height, width)
    places = places.expand(1, *source.shape)
    taken = []
    for _, steps in chains:
        numbers: Any = places
        for step in steps:
            numbers = step.compute({next(step.sources()): numbers})
        if bool((numbers == 0).any()):
            # zeros were put in, and these may be the largest
            return None
        # what is padded is less than everything
        taken.append(torch.where(torch.isfinite(numbers), numbers, torch.zeros_like(numbers)))
    windows = torch.stack(taken).sort(0).values
    out = tuple(windows.shape[-2:])
    for kernel in range(2, 8):
        if kernel * kernel != len(leaves):
            continue
        for stride in range(1, kernel + 1):
            for padding in range(kernel // 2 + 1):
                if all(
                    (n + 2 * padding - kernel) // stride + 1 == o for n, o in zip((height, width), out, strict=True)
                ):
                    expected = _windows(places, kernel, stride, padding)
                    if expected.shape == windows.shape and bool((expected == windows).all()):
                        return source, ([kernel, kernel], [stride, stride], [padding, padding])
    return None


def _windows(places: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    found = torch.nn.functional.unfold(places, kernel, padding=padding, stride=stride)
    channels = places.shape[1]
    height = (places.shape[2] + 2 * padding - kernel) // stride + 1
    return found.view(1, channels, kernel * kernel, height, -1).movedim(2, 0).sort(0).values


_CUTS = frozenset({"slice", "pad", "constant_pad_nd"})


def _chain(leaf: Value) -> tuple[Value, list[Operator]]:
    steps: list[Operator] = []
    while isinstance(leaf, Operator) and leaf.op in _CUTS and len(list(leaf.sources())) == 1:
        steps.insert(0, leaf)
        leaf = next(leaf.sources())
    return leaf, steps
