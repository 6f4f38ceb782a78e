"""Prototypes of an image classifier from the command line: pictures in, a prior that fits their number and size out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight import priors, spaces, targets
from backlight._prototype import Prototypes, prototype
from backlight.vision.pictures import Preprocessing

__all__ = ["prototypes_of_pictures"]

# A covariance of more numbers than this is not fitted: the image is written as waves instead.
_PIXELS = 3072
_PICTURES = 50


class _Prepared(nn.Module):
    """The network behind its normalisation: inputs are pixels from 0 to 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, prepare: Preprocessing) -> None:
        super().__init__()
        self.network = network
        dtype = next((p.dtype for p in network.parameters()), torch.float32)
        self.register_buffer("mean", torch.tensor(prepare.mean, dtype=dtype)[:, None, None])
        self.register_buffer("std", torch.tensor(prepare.std, dtype=dtype)[:, None, None])

    def forward(self, x: Tensor) -> Any:
        return self.network((x - self.mean) / self.std)


def prototypes_of_pictures(
    network: nn.Module,
    pixels: np.ndarray,
    prepare: Preprocessing,
    classes: Sequence[int],
    *,
    prior: str = "auto",
    strength: float = 1.0,
    restarts: int = 8,
    seed: int = 0,
    steps: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prototypes:
    """Prototypes of classes, in pixels from 0 to 1.

    Parameters
    ----------
    network : module
        As it takes normalised pictures.
    pixels : (n, height, width, channels) of bytes
        Pictures of the kind that the network sees: for the prior, the colours and the starts.
    classes : sequence of int
    prior : "auto", "gaussian", "mixture" or "waves"
        ``"auto"``: the Gaussian of the pictures where they are small and many, else waves: Fourier coefficients with
        the pictures' own colours and spectrum, total variation, and robustness to small movements.
    """
    X = np.moveaxis(pixels, -1, 1) / 255.0
    few = len(X) < _PICTURES or X[0].size > _PIXELS
    chosen = ("waves" if few else "gaussian") if prior == "auto" else prior
    # eval() of a network that cannot change its mode is a matter of the file
    model = _Prepared(network, prepare)
    model.training = False
    shared: dict[str, Any] = {
        "data": X, "strength": strength, "restarts": restarts, "seed": seed, "progress": progress, "steps": steps,
    }  # fmt: skip
    target = targets.logit(list(classes))
    if chosen == "waves":
        space = spaces.Fourier.fit(X, range=(0, 1))
        held = priors.L2(0.5 / (space.code_dim or 1)) + priors.TotalVariation(1.0 / X[0].size)
        # a handful of pictures is no start: what comes of it would be the pictures, accentuated
        return prototype(
            model, targets.robust(target, jitter=max(1.0, X.shape[-1] / 28)), space=space, prior=held,
            init="random" if len(X) < _PICTURES else "top", **shared,
        )  # fmt: skip
    if chosen == "mixture":
        return prototype(model, target, prior=priors.Mixture.fit(X, seed=seed), bounds=(0, 1), **shared)
    return prototype(model, target, bounds=(0, 1), **shared)
