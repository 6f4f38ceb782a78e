"""References for pictures: (n, channels, height, width)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from backlight.errors import ArgumentError
from backlight.references.base import Encode, Fill, Reference, reference, spread

__all__ = ["Blurred", "Inpainted"]


def _check(x: Tensor, name: str) -> None:
    if x.dim() != 4:
        raise ArgumentError(
            f"reference {name!r} is for pictures of shape (n, channels, height, width), not {tuple(x.shape)}"
        )


@reference("blurred")
class Blurred(Reference):
    """The picture itself, blurred by a Gaussian: what is taken away loses its detail and keeps its colour.

    Parameters
    ----------
    sigma : float, optional
        Width in pixels; by default a tenth of the larger side.
    """

    def __init__(self, sigma: float | None = None) -> None:
        if sigma is not None and not sigma > 0:
            raise ArgumentError(f"sigma must be positive, not {sigma}")
        self.sigma = sigma

    def bind(self, x: Tensor, encode: Encode, seed: int) -> Fill:
        _check(x, self.name)
        sigma = self.sigma or max(x.shape[2:]) / 10
        blurred = x
        for axis in (2, 3):
            reach = min(math.ceil(3 * sigma), x.shape[axis] - 1)
            at = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
            weights = torch.exp(-(at**2) / (2 * sigma**2))
            weights = weights / weights.sum()
            pad = [0, 0, reach, reach] if axis == 2 else [reach, reach, 0, 0]
            shape = (-1, 1) if axis == 2 else (1, -1)
            kernel = weights.view(1, 1, *shape).expand(x.shape[1], 1, *weights.view(shape).shape)
            blurred = F.conv2d(F.pad(blurred, pad, mode="replicate"), kernel, groups=x.shape[1])
        return lambda rows, keep, draw: spread(keep, x[rows], blurred[rows])


@reference("inpainted")
class Inpainted(Reference):
    r"""Every pixel that is taken away is the mean of its four neighbours: the discrete Laplace equation, solved.

    Where nothing of a picture is kept, its mean colour. One sparse system a picture and set of pixels, the same for all
    channels; compare Rong et al., "A consistent and efficient evaluation strategy for attribution methods", ICML 2022,
    who add noise to such a fill.
    """

    def bind(self, x: Tensor, encode: Encode, seed: int) -> Fill:
        _check(x, self.name)

        def fill(rows: Tensor, keep: Tensor, draw: int) -> Tensor:
            out = x[rows].clone()
            for k in range(len(rows)):
                _inpaint(out[k], keep[k].all(0))
            return out

        return fill


def _inpaint(picture: Tensor, keep: Tensor) -> None:
    """Fill in place. picture (channels, height, width), keep (height, width)."""
    from scipy.sparse import csr_array, diags_array
    from scipy.sparse.linalg import spsolve

    gone = ~keep.cpu().numpy()
    if not gone.any():
        return
    if gone.all():
        picture.copy_(picture.mean((1, 2), keepdim=True).expand_as(picture))
        return
    height, width = gone.shape
    number = np.arange(height * width).reshape(height, width)
    pairs = np.concatenate([
        np.stack([number[:-1].ravel(), number[1:].ravel()], 1),
        np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], 1),
    ])  # fmt: skip
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    links = csr_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(number.size, number.size))
    laplace = diags_array(links.sum(1)) - links
    unknown, known = gone.ravel(), ~gone.ravel()
    values = picture.detach().cpu().double().flatten(1).numpy().T
    right = -(laplace[unknown][:, known] @ values[known])
    solved = np.asarray(spsolve(laplace[unknown][:, unknown].tocsc(), right)).reshape(int(unknown.sum()), -1)
    picture.flatten(1)[:, torch.as_tensor(unknown)] = torch.as_tensor(solved.T).to(picture)
