"""The protocol of references, and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from backlight.arguments import checked
from backlight.errors import ArgumentError, listed

__all__ = ["KINDS", "Encode", "Fill", "Reference", "as_reference", "known_rows", "reference", "spread"]

Encode = Callable[[Any], Tensor]


class Fill(Protocol):
    """Rows without some of their features.

    ``fill(rows, keep, draw)``: for rows of the data that it was bound to, by position, shape (m,), the inputs in which
    the features with ``keep`` False, shape (m, *features), are replaced.
    """

    def __call__(self, rows: Tensor, keep: Tensor, draw: int) -> Tensor:
        """Rows without some of their features, shape (m, *features)."""
        ...


class Reference(ABC):
    """What stands in for a feature that is taken away.

    Attributes
    ----------
    draws : int
        How many fillings a score is averaged over; 1 for references without chance.
    numbers_only : bool
        Whether it makes values of its own (a mean, a zero), which categories cannot take.
    name : str
        Its name in ``Reference.<name>(…)``, and in results.
    """

    draws: int = 1
    numbers_only: ClassVar[bool] = True
    name: ClassVar[str] = ""
    # set by the registry
    zero: ClassVar[Callable[..., Reference]]
    mean: ClassVar[Callable[..., Reference]]
    point: ClassVar[Callable[..., Reference]]
    marginal: ClassVar[Callable[..., Reference]]
    nearest: ClassVar[Callable[..., Reference]]
    gaussian: ClassVar[Callable[..., Reference]]
    blurred: ClassVar[Callable[..., Reference]]
    inpainted: ClassVar[Callable[..., Reference]]
    dropped: ClassVar[Callable[..., Reference]]
    custom: ClassVar[Callable[..., Reference]]

    @abstractmethod
    def bind(self, x: Tensor, encode: Encode, seed: int) -> Fill:
        """Prepare for these rows: all that is drawn at random is drawn here, the same for every explanation.

        Parameters
        ----------
        x : Tensor of shape (n, *features)
        encode : function from the user's rows to such a tensor
        seed : int
        """

    def origin(self) -> Any:
        """The one point that relevance of a network is counted from.

        Raises
        ------
        ArgumentError
            The reference is no single point.
        """
        raise ArgumentError(
            f"reference {self!r} is no single point, and relevance is counted from one: give Zero, Mean or Point"
        )

    def population(self) -> Any:
        """The rows, or the level, that relevance of a classical model is counted from.

        Raises
        ------
        ArgumentError
            The reference is neither.
        """
        raise ArgumentError(
            f"reference {self!r} holds no rows that a classical model can be counted from: give Mean or Marginal"
        )

    def __repr__(self) -> str:
        return self.name


KINDS: dict[str, type[Reference]] = {}
R = TypeVar("R", bound=type[Reference])


def reference(name: str) -> Callable[[R], R]:
    """Register a reference; it is then known by its name and as ``Reference.<name>``."""

    def register(cls: R) -> R:
        checked(cls)
        cls.name = name
        KINDS[name] = cls
        setattr(Reference, name, cls)
        return cls

    return register


def as_reference(given: Any, X: Any) -> Reference:
    """Read a ``reference`` argument: an object, a name (its data are then the explained rows), or one point.

    Raises
    ------
    ArgumentError
        The name is not known.
    """
    if isinstance(given, Reference):
        return given
    if isinstance(given, str):
        kind = KINDS.get(given)
        if kind is None or given in ("custom", "point"):
            names = [name for name in KINDS if name not in ("custom", "point")]
            raise ArgumentError(f"reference={given!r} is not known: choose from {listed(names, 12)}, or give an object")
        make: Callable[..., Reference] = kind
        return make(X) if given in ("mean", "marginal", "gaussian", "nearest") else make()
    return Reference.point(given)


def known_rows(data: Any, x: Tensor, encode: Encode) -> Tensor:
    """A reference's own rows as the model sees them, shape (N, *features)."""
    found = encode(data)
    if found.shape[1:] != x.shape[1:]:
        raise ArgumentError(
            f"the reference's rows have the shape {tuple(found.shape[1:])}, the explained rows {tuple(x.shape[1:])}"
        )
    if not len(found):
        raise ArgumentError("the reference has no rows")
    return found.to(x)


def spread(keep: Tensor, x: Tensor, instead: Tensor) -> Tensor:
    """``x`` where kept, else what stands in for it."""
    return torch.where(keep, x, instead)
