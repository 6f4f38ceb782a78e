"""A function of the user's."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from backlight.errors import ArgumentError
from backlight.references.base import Encode, Fill, Reference, reference

__all__ = ["Custom"]


@reference("custom")
class Custom(Reference):
    """``fill(x, keep) -> x``: rows of shape (m, *features) without the features whose ``keep`` is False.

    Parameters
    ----------
    fill : function
    name : str
        What results call it.
    """

    numbers_only = False

    def __init__(self, fill: Callable[[Tensor, Tensor], Tensor], name: str = "custom") -> None:
        self.function, self.title = fill, name

    def bind(self, x: Tensor, encode: Encode, seed: int) -> Fill:
        def fill(rows: Tensor, keep: Tensor, draw: int) -> Tensor:
            out = self.function(x[rows].clone(), keep.clone())
            if not isinstance(out, Tensor) or len(out) != len(rows):
                raise ArgumentError(f"the reference {self.title!r} must give a tensor of {len(rows)} rows")
            return out

        return fill

    def __repr__(self) -> str:
        return self.title
