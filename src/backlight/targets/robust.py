"""Robustness: the model sees the image shifted, scaled and turned a little, anew in every step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backlight.arguments import checked, numbers_in, shown
from backlight.errors import ArgumentError
from backlight.targets.base import Target

__all__ = ["robust"]


@checked
def robust(
    target: Target, *, jitter: float = 2.0, scale: tuple[float, float] = (0.95, 1.05), rotate: float = 5.0
) -> Target:
    """The same target, seen through random small movements of the image.

    One bilinear resampling a step, of the image's own size. What is reported at the end is of the image itself.

    Parameters
    ----------
    target : Target
    jitter : float
        Largest shift, in pixels.
    scale : (low, high)
        Range of the scale.
    rotate : float
        Largest turn, in degrees.
    """
    if not isinstance(target, Target):
        raise ArgumentError(f"robust() takes a target such as targets.logit(3), not {shown(target)}")
    sizes = numbers_in(scale, "scale")
    if sizes.shape != (2,):
        raise ArgumentError(f"scale is a pair (low, high), not {shown(scale)}")
    if jitter < 0 or rotate < 0 or not 0 < scale[0] <= scale[1]:
        raise ArgumentError(f"robust(jitter={jitter}, scale={scale}, rotate={rotate}): sizes must not be negative")

    def move(x: Tensor, generator: Any) -> Tensor:
        if x.ndim != 4:
            raise ArgumentError(f"robust() moves images (n, channels, height, width), not {tuple(x.shape)}")
        # one movement a step for all rows: no row depends on how many others there are
        u = torch.rand(4, generator=generator, dtype=torch.float64)
        angle = math.radians(rotate) * float(2 * u[0] - 1)
        size = 1 / (scale[0] + (scale[1] - scale[0]) * float(u[1]))
        dy, dx = (2 * jitter * float(2 * u[k] - 1) / x.shape[k] for k in (2, 3))
        cos, sin = size * math.cos(angle), size * math.sin(angle)
        grid = functional.affine_grid(
            torch.tensor([[[cos, -sin, dx], [sin, cos, dy]]], dtype=x.dtype, device=x.device).expand(len(x), 2, 3),
            list(x.shape),
            align_corners=False,
        )
        return functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)

    return replace(target, transform=move)
