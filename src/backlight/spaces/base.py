"""The protocol of a space, and the plainest one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from backlight.arguments import numbers_in, shown
from backlight.errors import ArgumentError

__all__ = ["Input", "Space"]


class Space(ABC):
    """How an input is written as a code z.

    Attributes
    ----------
    name : str
    shape : tuple of int, optional
        Of one input, where the space knows.
    code_dim : int, optional
        How many numbers a code has; None: as many as the input.
    has_code : bool
        Whether z is something else than the input itself.
    """

    name: str = ""
    shape: tuple[int, ...] | None = None
    code_dim: int | None = None
    has_code: bool = True

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Codes (n, k) to inputs (n, d) or (n, *shape); differentiable."""

    def encode(self, x: Tensor) -> Tensor | None:
        """Codes of inputs (n, d), where they can be found."""
        return None

    def affine(self) -> tuple[Tensor, Tensor] | None:
        """A and c of x = Az + c, where the space is affine."""
        return None

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Codes to start from, (n, k)."""
        if self.code_dim is None:
            raise ArgumentError(f"{self!r} does not know the size of its code")
        return torch.randn(n, self.code_dim, generator=generator, dtype=torch.float64)

    def __repr__(self) -> str:
        return f"spaces.{self.name or type(self).__name__}"


def as_shape(given: Any) -> tuple[int, ...]:
    """A shape of one input, as a number or several.

    Raises
    ------
    ArgumentError
    """
    sizes = numbers_in(given, "a shape")
    if sizes.dtype.kind not in "iu" or sizes.ndim > 1 or (sizes < 0).any():
        raise ArgumentError(f"a shape is a whole number or several, not {shown(given)}")
    return tuple(int(size) for size in sizes.reshape(-1))


class Input(Space):
    """The input itself.

    Parameters
    ----------
    shape : int or tuple of int, optional
        Of one input, where neither data nor prior nor bounds say it.
    """

    has_code = False
    name = "Input"

    def __init__(self, shape: int | tuple[int, ...] | None = None) -> None:
        if shape is not None:
            self.shape = as_shape(shape)
            if math.prod(self.shape) < 1:
                raise ArgumentError(f"Input(shape={shape!r}) holds no number")

    def decode(self, z: Tensor) -> Tensor:
        """The code itself."""
        return z

    def encode(self, x: Tensor) -> Tensor:
        """The input itself."""
        return x
