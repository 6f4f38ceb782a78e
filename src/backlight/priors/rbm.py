r"""Restricted Boltzmann machines by their free energy.

Binary visible units: :math:`\Omega(x) = -a\cdot x - \sum_j \operatorname{softplus}(b_j + W_j x)`. Gaussian ones of
width s: :math:`\Omega(x) = \lVert x-a\rVert^2/(2s^2) - \sum_j \operatorname{softplus}(b_j + W_j x/s)`, a mixture of
:math:`2^H` Gaussians of covariance :math:`s^2 I` (Hinton, 2010, "A practical guide to training RBMs"). The partition
function is a constant and left out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backlight.arguments import checked
from backlight.errors import ArgumentError
from backlight.priors.base import Prior, Whitening, array

__all__ = ["RBM"]


@checked
class RBM(Prior):
    """The free energy of a restricted Boltzmann machine, up to its log partition function.

    Parameters
    ----------
    W : array of shape (hidden, visible)
    a : array of shape (visible,)
        Biases of visible units, or their means where they are Gaussian.
    b : array of shape (hidden,)
    sigma : float, optional
        Width of Gaussian visible units; without it they are binary, and the prototype needs bounds (0, 1): −Ω is
        convex, and without bounds it has no maximum.
    """

    def __init__(self, W: Any, a: Any, b: Any, *, sigma: float | None = None) -> None:
        self.W, self.a, self.b = array(W, "W", 2), array(a, "a").flatten(), array(b, "b", 1)
        if self.W.shape != (len(self.b), len(self.a)):
            raise ArgumentError(
                f"W has the shape {tuple(self.W.shape)} beside {len(self.b)} hidden and {len(self.a)} visible biases: "
                "give (hidden, visible)"
            )
        if sigma is not None and not (math.isfinite(sigma) and sigma > 0):
            raise ArgumentError(f"sigma={sigma!r} must be a number > 0")
        self.sigma = None if sigma is None else float(sigma)
        self.dimension = len(self.a)
        self.name = f"RBM({len(self.b)})"

    def energy(self, x: Tensor) -> Tensor:
        """The free energy, (n,)."""
        flat = x.flatten(1)
        W, a, b = self.W.to(flat), self.a.to(flat), self.b.to(flat)
        if self.sigma is None:
            return -flat @ a - functional.softplus(b + flat @ W.T).sum(1)
        hidden = functional.softplus(b + flat @ W.T / self.sigma).sum(1)
        return (flat - a).square().sum(1) / (2 * self.sigma**2) - hidden

    def spread(self) -> Whitening | None:
        """For Gaussian units their own width."""
        if self.sigma is None:
            return None
        return Whitening(self.a, torch.full_like(self.a, self.sigma))

    def parameters(self) -> dict[str, Any]:
        """Weights and biases."""
        return {"W": self.W.numpy(), "a": self.a.numpy(), "b": self.b.numpy()} | (
            {} if self.sigma is None else {"sigma": self.sigma}
        )
