"""What is explained: targets as the user says them, as scores and as seeds at the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.errors import ArgumentError

__all__ = ["Seeds", "resolve"]


@dataclass(frozen=True, slots=True)
class Seeds:
    """Scores and where they come from.

    Attributes
    ----------
    gradient : Tensor of shape (targets, n, *outputs)
        Of each score with respect to the explained output.
    scores : Tensor of shape (targets, n)
    names : tuple of str
    several : bool
        Whether ``values`` get an axis for targets.
    functions : bool
        Whether a target is a function, which may be anything but linear in the output.
    """

    gradient: Tensor
    scores: Tensor
    names: tuple[str, ...]
    several: bool
    functions: bool = False


def resolve(target: Any, output: Tensor, finish: Callable[[Tensor], Tensor], start: int, rows: int | None) -> Seeds:
    """Seeds for a batch.

    Parameters
    ----------
    target : None, int, array of int, callable, direction, list, or "all"
        See `backlight.explain`.
    output : Tensor of shape (n, *outputs)
        The explained output.
    finish : callable
        From that to what the model returns; a callable target sees this.
    start : int
        The first row of this batch among all rows.
    rows : int, optional
        How many rows there are in all, where that is known.
    """
    several = isinstance(target, list) or (isinstance(target, str) and target == "all")
    if isinstance(target, str):
        if target != "all":
            raise ArgumentError(f"target={target!r} is not known: give an index, 'all', a direction or a function")
        if output.dim() != 2:
            raise ArgumentError(
                f"target='all' needs one axis of outputs, not outputs of shape {tuple(output.shape[1:])}"
            )
        target = list(range(output.shape[1]))
    targets = target if isinstance(target, list) else [target]
    if not targets:
        raise ArgumentError("the list of targets is empty")
    made = [_one(item, output, finish, start, rows) for item in targets]
    return Seeds(
        torch.stack([seed for seed, _, _ in made]), torch.stack([score for _, score, _ in made]),
        tuple(name for _, _, name in made), several,
        any(callable(item) and not isinstance(item, Tensor) for item in targets),
    )  # fmt: skip


def _one(
    target: Any, output: Tensor, finish: Callable[[Tensor], Tensor], start: int, rows: int | None
) -> tuple[Tensor, Tensor, str]:
    n = len(output)
    if callable(target) and not isinstance(target, Tensor):
        return _function(target, output, finish)
    if isinstance(target, np.ndarray):
        target = torch.as_tensor(target)
    if isinstance(target, Tensor) and target.dim() == 0 and not target.is_floating_point():
        target = int(target)
    if target is None:
        if output.dim() == 1:
            return torch.ones_like(output), output, "output"
        if output.dim() > 2:
            raise ArgumentError(
                f"the output has shape {tuple(output.shape[1:])} for each row: say which part is explained, by an "
                "index, a direction of that shape or a function such as lambda y: y[:, 3].sum((1, 2))"
            )
        if output.shape[1] == 1:
            return _index(torch.zeros(n, dtype=torch.long), output, "output")
        return _index(output.argmax(1), output, "predicted class")
    if isinstance(target, bool | float):
        raise ArgumentError(f"target={target!r} is neither an index nor a direction")
    if isinstance(target, int | np.integer):
        return _index(torch.full((n,), int(target)), output, f"output {int(target)}")
    if isinstance(target, Tensor) and target.is_floating_point():
        return _direction(target.to(output), output)
    if isinstance(target, Tensor) and target.dim() == 1:
        if rows is not None and len(target) != rows:
            raise ArgumentError(f"target has {len(target)} indices for {rows} rows: give one index a row")
        return _index(target[start : start + n], output, "given class")
    raise ArgumentError(
        f"target={target!r} is not known: give an index, an array of one index a row, a float direction over the "
        "outputs, a function of the output, a list of these, or 'all'"
    )


def _index(index: Tensor, output: Tensor, name: str) -> tuple[Tensor, Tensor, str]:
    if output.dim() == 1:
        output = output[:, None]
        seed, score, name = _index(index, output, name)
        return seed[:, 0], score, name
    size = output.shape[1]
    index = index.to(output.device)
    if len(index) != len(output):
        raise ArgumentError(f"target has too few indices: row {len(index)} has none")
    if bool((index >= size).any()) or bool((index < -size).any()):
        raise ArgumentError(
            f"target {int(index[(index >= size) | (index < -size)][0])} is out of range: there are {size} outputs"
        )
    seed = torch.zeros_like(output)
    seed[torch.arange(len(output), device=output.device), index] = 1
    # for outputs over positions, as of a segmentation, the sum over all of them
    return seed, (seed * output).flatten(1).sum(1), name


def _direction(direction: Tensor, output: Tensor) -> tuple[Tensor, Tensor, str]:
    outputs = output.shape[1:]
    if direction.shape != outputs:
        raise ArgumentError(
            f"a direction has the shape of one row's outputs, {tuple(outputs)}, not {tuple(direction.shape)}"
        )
    seed = direction.expand_as(output)
    return seed, (seed * output).flatten(1).sum(1), "direction"


def _function(
    target: Callable[..., Any], output: Tensor, finish: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, str]:
    name = getattr(target, "__name__", type(target).__name__)
    with torch.inference_mode(False), torch.enable_grad():
        leaf = output.detach().clone().requires_grad_()
        score = target(finish(leaf))
        if not isinstance(score, Tensor) or score.shape != (len(output),):
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ArgumentError(f"the target function must give one number a row, shape ({len(output)},), not {got}")
        if not score.requires_grad:
            raise ArgumentError("the target function's result does not depend on the output by a gradient")
        (seed,) = torch.autograd.grad(score.sum(), leaf)
    return seed, score.detach(), "score" if name == "<lambda>" else name
