"""Optimisers whose rows do not know of each other: a batch of problems gives what each gives alone.

`torch.optim.LBFGS` sees one vector: its line search and curvature couple all rows of a batch. Here both are kept for
every row. Objectives return one number a row, and the gradient of their sum is the gradient of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Best", "adam", "lbfgs"]

Function = Callable[[Tensor], Tensor]
Step = Callable[[int], None]

_MEMORY = 10
_ARMIJO = 1e-4
# |∇f|, relative to 1 + |v|, at which there is nothing left to polish.
_REST = 1e-8


@dataclass(slots=True)
class Best:
    """The best point of each row so far.

    Attributes
    ----------
    v : (B, k)
    value : (B,)
    gradient : (B, k)
    """

    v: Tensor
    value: Tensor
    gradient: Tensor

    def update(self, v: Tensor, value: Tensor, gradient: Tensor) -> None:
        """Keep what is better."""
        better = value > self.value
        self.v = torch.where(better[:, None], v, self.v)
        self.gradient = torch.where(better[:, None], gradient, self.gradient)
        self.value = torch.where(better, value, self.value)


def evaluate(function: Function, v: Tensor) -> tuple[Tensor, Tensor]:
    """Values (B,) and gradients (B, k); NaN counts as minus infinity."""
    v = v.detach().requires_grad_(True)
    value = function(v)
    if not value.requires_grad:  # constant by pieces: the caller finds it dead
        return value, torch.zeros_like(v)
    (gradient,) = torch.autograd.grad(value.sum(), v)
    bad = ~torch.isfinite(value) | ~torch.isfinite(gradient).all(1)
    value = torch.where(bad, -torch.inf, value.detach())
    return value, torch.where(bad[:, None], 0.0, gradient)


def lbfgs(function: Function, v: Tensor, evaluations: int, tolerance: float, step: Step = lambda k: None) -> Best:
    """Maximise every row by limited-memory BFGS with backtracking (Nocedal, Wright, algorithm 7.4).

    Parameters
    ----------
    function : (B, k) to (B,)
    v : (B, k)
        Where each row starts.
    evaluations : int
    tolerance : float
        On the norm of a row's gradient.
    """
    value, gradient = evaluate(function, v)
    best = Best(v.clone(), value, gradient)
    rows, k = v.shape
    S = v.new_zeros(_MEMORY, rows, k)
    Y, rho = torch.zeros_like(S), v.new_zeros(_MEMORY, rows)
    count = torch.zeros(rows, dtype=torch.long)
    norm = gradient.norm(dim=1)
    direction = gradient / norm.clamp(min=1.0)[:, None]
    size = v.new_ones(rows)
    live = norm > tolerance
    for done in range(evaluations - 1):
        if not bool(live.any()):
            break
        step(done)
        moved = size[:, None] * direction
        new_value, new_gradient = evaluate(function, torch.where(live[:, None], v + moved, v))
        rise = (gradient * direction).sum(1)
        good = live & (new_value >= value + _ARMIJO * size * rise) & torch.isfinite(new_value)
        best.update(v + moved, torch.where(good, new_value, -torch.inf), new_gradient)
        y = gradient - new_gradient  # of −f, which is minimised
        curved = good & ((moved * y).sum(1) > 1e-12 * moved.norm(dim=1) * y.norm(dim=1))
        if bool(curved.any()):
            S[:, curved] = torch.cat([S[1:, curved], moved[None, curved]])
            Y[:, curved] = torch.cat([Y[1:, curved], y[None, curved]])
            rho[:, curved] = torch.cat([rho[1:, curved], 1 / (moved * y).sum(1)[None, curved]])
            count[curved] += 1
        v = torch.where(good[:, None], v + moved, v)
        value = torch.where(good, new_value, value)
        gradient = torch.where(good[:, None], new_gradient, gradient)
        fresh = _two_loops(gradient, S, Y, rho, count)
        upwards = (fresh * gradient).sum(1) > 0
        fresh = torch.where(upwards[:, None], fresh, gradient)
        direction = torch.where(good[:, None], fresh, direction)
        size = torch.where(good, torch.ones_like(size), size / 2)
        live = live & (gradient.norm(dim=1) > tolerance)
        # no step helps: along the gradient once more, then rest
        stuck = live & (size < 1e-8)
        again = stuck & (count > 0)
        if bool(again.any()):
            count[again], rho[:, again] = 0, 0.0
            S[:, again], Y[:, again] = 0.0, 0.0
            direction = torch.where(again[:, None], gradient, direction)
            size = torch.where(again, 1 / gradient.norm(dim=1).clamp(min=1.0), size)
        live = live & ~(stuck & ~again)
    return best


def _two_loops(gradient: Tensor, S: Tensor, Y: Tensor, rho: Tensor, count: Tensor) -> Tensor:
    q = gradient
    alphas = []
    for i in reversed(range(_MEMORY)):
        alpha = rho[i] * (S[i] * q).sum(1)
        q = q - alpha[:, None] * Y[i]
        alphas.append(alpha)
    sy, yy = (S[-1] * Y[-1]).sum(1), Y[-1].square().sum(1)
    known = (count > 0) & (yy > 0)
    scale = torch.where(known, sy / torch.where(known, yy, 1.0), 1 / gradient.norm(dim=1).clamp(min=1.0))
    q = scale[:, None] * q
    for i, alpha in zip(range(_MEMORY), reversed(alphas), strict=True):
        beta = rho[i] * (Y[i] * q).sum(1)
        q = q + (alpha - beta)[:, None] * S[i]
    return q


def adam(
    function: Function,
    best: Best,
    steps: int,
    rate: float,
    project: Callable[[Tensor], Tensor] | None = None,
    step: Step = lambda k: None,
) -> Best:
    """Adam with a cosine decay (Kingma, Ba, 2015), from the best points on; the best iterate is kept."""
    v = best.v.clone()
    # rows at rest stay there, each by itself: what one gets must not depend on the others
    live = best.gradient.norm(dim=1) > _REST * (1 + v.norm(dim=1))
    if not bool(live.any()):
        return best
    first, second = torch.zeros_like(v), torch.zeros_like(v)
    for k in range(1, steps + 1):
        step(k)
        value, gradient = evaluate(function, v)
        best.update(v, torch.where(live, value, -torch.inf), gradient)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.square()
        now = rate * 0.5 * (1 + math.cos(math.pi * (k - 1) / steps))
        v = v + now * (first / (1 - 0.9**k)) / ((second / (1 - 0.999**k)).sqrt() + 1e-12)
        if project is not None:
            v = project(v)
    value, gradient = evaluate(function, v)
    best.update(v, torch.where(live, value, -torch.inf), gradient)
    return best
