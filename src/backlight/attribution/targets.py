"""What is explained of a module: targets as scores and as seeds at the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backlight.arguments import users_code
from backlight.attribution.requested import Requested, Targets
from backlight.errors import ArgumentError

__all__ = ["Seeds", "resolve"]


@dataclass(frozen=True, slots=True)
class Seeds:
    """Scores and where they come from.

    Attributes
    ----------
    gradient : Tensor of shape (targets, n, *outputs); joint: (targets, n, n, *outputs)
        Of each score with respect to the explained output: of a row's score to that row's output; joint: of each row's
        score to the outputs of all rows.
    scores : Tensor of shape (targets, n)
    names : tuple of str
    several : bool
        Whether ``values`` get an axis for targets.
    functions : bool
        Whether a target is a function, which may be anything but linear in the output.
    mixing : bool
        Whether a target function's score of a row depends on the outputs of other rows.
    """

    gradient: Tensor
    scores: Tensor
    names: tuple[str, ...]
    several: bool
    functions: bool = False
    mixing: bool = False


def resolve(
    targets: Targets,
    output: Tensor,
    finish: Callable[[Tensor], Any],
    *,
    joint: bool = False,
    last: Tensor | None = None,
) -> Seeds:
    """Seeds for a batch.

    Parameters
    ----------
    targets : Targets
        For the rows of this batch.
    output : Tensor of shape (n, *outputs)
        The explained output.
    finish : callable
        From that to what the model returns; a target that is a function sees this.
    joint : bool
        Every row's score is explained by all rows.
    last : Tensor of shape (n,), optional
        Of outputs over the tokens of texts, (n, tokens, outputs), the position of each text's last token: what is said
        there is explained, unless a target names a position.
    """
    if not targets.items and output.dim() > 2 and last is None:
        raise ArgumentError(f"target='all' needs one axis of outputs, not outputs of shape {tuple(output.shape[1:])}")
    outputs = output.shape[1 if last is None else 2] if output.dim() > 1 else 1
    items = targets.each(outputs)
    made = [_at_last(item, output, finish, last) for item in items]
    seeds = [seed for seed, _, _ in made]
    functions = [(item.function, seed) for item, seed in zip(items, seeds, strict=True) if item.function is not None]
    mixing = not joint and len(output) > 1 and any(_mixes(one, output, finish, seed) for one, seed in functions)
    if joint:
        seeds = [
            _diagonal(seed) if item.function is None else _jacobian(item.function, output, finish)
            for item, seed in zip(items, seeds, strict=True)
        ]
    return Seeds(
        torch.stack(seeds), torch.stack([score for _, score, _ in made]), tuple(name for _, _, name in made),
        targets.several, bool(functions), mixing,
    )  # fmt: skip


def _mixes(target: Callable[..., Any], output: Tensor, finish: Callable[[Tensor], Any], seed: Tensor) -> bool:
    """Whether a row's score depends on other rows' outputs: weights of the rows do not come out of the sum then."""
    weights = 1 + torch.arange(len(output), dtype=output.dtype, device=output.device).mul(0.6180339887498949).frac()
    with torch.inference_mode(False), torch.enable_grad():
        leaf = output.detach().clone().requires_grad_()
        (weighted,) = torch.autograd.grad((target(finish(leaf)) * weights).sum(), leaf)
    apart = seed * weights.view(-1, *(1,) * (seed.dim() - 1))
    slack = 1e4 * torch.finfo(output.dtype).eps * float(apart.abs().max())
    return bool(((weighted - apart).abs() > slack).any())


def _jacobian(target: Callable[..., Any], output: Tensor, finish: Callable[[Tensor], Any]) -> Tensor:
    """Gradients of every row's score with respect to the outputs of all rows, (n, n, *outputs)."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = output.detach().clone().requires_grad_()
        scores = target(finish(leaf))
        return torch.stack([torch.autograd.grad(score, leaf, retain_graph=True)[0] for score in scores])


def _diagonal(seed: Tensor) -> Tensor:
    """(n, *outputs) to (n, n, *outputs): a row's score reads that row's output alone."""
    whole = seed.new_zeros(len(seed), *seed.shape)
    places = torch.arange(len(seed), device=seed.device)
    whole[places, places] = seed
    return whole


def _at_last(
    target: Requested, output: Tensor, finish: Callable[[Tensor], Any], last: Tensor | None
) -> tuple[Tensor, Tensor, str]:
    """A target, of the output at each text's last token where it names no position."""
    if target.linear is not None:
        seed = target.linear.seed(output, last)
        return seed, (seed * output).flatten(1).sum(1), target.name
    everywhere = target.function is not None or (target.direction is not None and target.direction.dim() > 1)
    if last is None or everywhere:
        return _one(target, output, finish)
    n = torch.arange(len(output), device=output.device)
    at, score, name = _one(target, output[n, last], finish)
    seed = torch.zeros_like(output)
    seed[n, last] = at
    return seed, score, _AT_A_TOKEN.get(name, name).replace("output ", "token ")


_AT_A_TOKEN = {"predicted class": "predicted token", "given class": "given token"}


def _one(target: Requested, output: Tensor, finish: Callable[[Tensor], Any]) -> tuple[Tensor, Tensor, str]:
    if target.function is not None:
        return _function(target.function, target.name, output, finish)
    if target.direction is not None:
        return _direction(target.direction.to(output), output)
    if target.predicted:
        return _predicted(output)
    outputs = output.shape[1] if output.dim() > 1 else 1
    index = target.index((), outputs, len(output))
    if target.labels is not None:
        return _index(index, output, "given class")
    return _index(index, output, f"output {target.label}")


def _predicted(output: Tensor) -> tuple[Tensor, Tensor, str]:
    if output.dim() == 1:
        return torch.ones_like(output), output, "output"
    if output.dim() > 2:
        raise ArgumentError(
            f"the output has shape {tuple(output.shape[1:])} for each row: say which part is explained, by an "
            "index, a direction of that shape or a function such as lambda y: y[:, 3].sum((1, 2))"
        )
    if output.shape[1] == 1:
        return _index(torch.zeros(len(output), dtype=torch.long), output, "output")
    return _index(output.argmax(1), output, "predicted class")


def _index(index: Tensor, output: Tensor, name: str) -> tuple[Tensor, Tensor, str]:
    if output.dim() == 1:
        output = output[:, None]
        seed, score, name = _index(index, output, name)
        return seed[:, 0], score, name
    index = index.to(output.device)
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
    target: Callable[..., Any], name: str, output: Tensor, finish: Callable[[Tensor], Any]
) -> tuple[Tensor, Tensor, str]:
    with torch.inference_mode(False), torch.enable_grad():
        leaf = output.detach().clone().requires_grad_()
        with users_code(f"the target function {name} fails on the model's output"):
            score = target(finish(leaf))
        if not isinstance(score, Tensor) or score.shape != (len(output),):
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ArgumentError(f"the target function must give one number a row, shape ({len(output)},), not {got}")
        if not score.requires_grad:
            raise ArgumentError("the target function's result does not depend on the output by a gradient")
        (seed,) = torch.autograd.grad(score.sum(), leaf)
    return seed, score.detach(), name
