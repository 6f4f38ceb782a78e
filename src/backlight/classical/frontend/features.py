"""Features of a table: elements that are each made from a column, and maps of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight.classical.layers.pullback import Pullback, owned

__all__ = ["Branches", "Features", "Linear", "MultiplyAdd", "Pick", "ShiftDivide", "TextBlock", "Vocabulary"]


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """z = (e − center) Aᵀ + shift."""

    A: np.ndarray
    center: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class TextBlock:
    """The columns that a vectorizer makes of one column of text."""

    column: int
    step: Any
    tokens: tuple[str, ...]


@dataclass(slots=True)
class Vocabulary:
    """Codes of the categories of each text column. None is a category; NaN is none, its code is NaN.

    Where columns of text become a block of columns for each vectorizer, these start at ``start``, after those that are
    ``kept`` of the table. ``native`` makes the table that the library takes of the named columns, where it reads more
    than their cells, such as their dtypes. Categories of ``open`` columns are known to the library alone, and have
    codes in the order in which they come.
    """

    codes: dict[int, dict[Any, int]] = field(default_factory=dict)
    knows_nan: set[int] = field(default_factory=set)
    start: int = 0
    kept: tuple[int, ...] | None = None
    blocks: list[TextBlock] = field(default_factory=list)
    native: Callable[[Mapping[str, np.ndarray]], Any] | None = None
    open: set[int] = field(default_factory=set)

    def place(self, owner: int, step: Any, tokens: tuple[str, ...]) -> np.ndarray:
        """Where the columns of a vectorizer stand, by the owner of the text that it reads."""
        column = -1 - owner if owner < 0 else owner if self.kept is None else self.kept[owner]
        at = self.start
        for block in self.blocks:
            if block.column == column and block.step is step:
                return np.arange(at, at + len(tokens))
            at += len(block.tokens)
        self.blocks.append(TextBlock(column, step, tokens))
        return np.arange(at, at + len(tokens))

    def code(self, column: int, value: Any) -> float:
        """The code of a category, a new one if it was not seen."""
        known = self.codes.setdefault(column, {})
        return float(known.setdefault(value, len(known)))


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What the data are at one point of a pipeline.

    Attributes
    ----------
    layers : tuple of modules
        From the coded columns to the elements.
    owner : array of int of shape (E,), or of float of shape (E, columns)
        The column of each element, or each column's share in it.
    vocabulary : Vocabulary
        Shared by all branches of a pipeline.
    linear : Linear, optional
        The map from elements to the data, after a projection.
    imputed : frozenset of int
        Columns in which missing cells are replaced.
    n_columns : int
        How many columns the table has.
    """

    layers: tuple[nn.Module, ...]
    owner: np.ndarray
    vocabulary: Vocabulary
    linear: Linear | None = None
    imputed: frozenset[int] = frozenset()
    n_columns: int = 0

    @property
    def width(self) -> int:
        """Number of columns that the data have at this point."""
        return len(self.owner) if self.linear is None else len(self.linear.A)

    @property
    def used(self) -> frozenset[int]:
        """The columns that anything is made of."""
        if self.owner.ndim == 2:
            return frozenset(int(c) for c in np.flatnonzero((self.owner != 0).any(0)))
        return frozenset(int(column) for column in self.owner)

    def pullback(self, n_columns: int, dtype: torch.dtype) -> Pullback:
        """The affine end of these features, and the way back to the columns."""
        if self.linear is None:
            return Pullback(self.owner, n_columns, None, dtype)
        return Pullback(self.owner, n_columns, self.linear.A, dtype, self.linear.center, self.linear.shift)

    def then(self, layer: nn.Module, owner: np.ndarray | None = None) -> Features:
        """These features after one more element-wise layer."""
        return replace(self, layers=(*self.layers, layer), owner=self.owner if owner is None else owner)

    def pick(self, positions: np.ndarray) -> Features:
        """Some of the data's columns."""
        if self.linear is None:
            return self.then(Pick(positions), self.owner[positions])
        A, center, shift = self.linear.A[positions], self.linear.center, self.linear.shift[positions]
        return replace(self, linear=Linear(A, center, shift))

    def scaled(self, shift: np.ndarray, divisor: np.ndarray) -> Features:
        """(x − shift) / divisor."""
        if self.linear is None:
            return self.then(ShiftDivide(shift, divisor))
        old = self.linear
        return replace(self, linear=Linear(old.A / divisor[:, None], old.center, (old.shift - shift) / divisor))

    def projected(self, A: np.ndarray, center: np.ndarray) -> Features:
        """(x − center) Aᵀ."""
        A = np.ascontiguousarray(A)  # some solvers return their axes as a view in reverse, which torch cannot take
        if self.linear is None:
            return replace(self, linear=Linear(A, center, np.zeros(len(A))))
        old = self.linear
        return replace(self, linear=Linear(A @ old.A, old.center, (old.shift - center) @ A.T))

    @staticmethod
    def side_by_side(blocks: list[Features], vocabulary: Vocabulary) -> Features:
        """Several branches put next to each other."""
        imputed = frozenset().union(*(block.imputed for block in blocks))
        layer = Branches([nn.Sequential(*block.layers) for block in blocks])
        owner = _together([block.owner for block in blocks])
        linear = None
        if any(block.linear is not None for block in blocks):
            from scipy.linalg import block_diag

            maps = [block.linear or _identity(len(block.owner)) for block in blocks]
            linear = Linear(
                block_diag(*(m.A for m in maps)),
                np.concatenate([m.center for m in maps]),
                np.concatenate([m.shift for m in maps]),
            )
        return Features((layer,), owner, vocabulary, linear, imputed, blocks[0].n_columns)


def _together(owners: list[np.ndarray]) -> np.ndarray:
    """Owners of several blocks of elements, in the form that all of them fit."""
    if all(owner.ndim == 1 for owner in owners):
        return np.concatenate(owners)
    width = next(owner.shape[1] for owner in owners if owner.ndim == 2)
    return np.concatenate([owner if owner.ndim == 2 else np.eye(width)[owner] for owner in owners])


def _identity(width: int) -> Linear:
    return Linear(np.eye(width), np.zeros(width), np.zeros(width))


class Pick(nn.Module):
    """Some of the columns."""

    positions: Tensor

    def __init__(self, positions: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("positions", owned(positions, torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, E) to (n, len(positions))."""
        return x[:, self.positions]


class ShiftDivide(nn.Module):
    """(x − shift) / divisor, in scikit-learn's own order of operations."""

    shift: Tensor
    divisor: Tensor

    def __init__(self, shift: np.ndarray, divisor: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("shift", owned(shift))
        self.register_buffer("divisor", owned(divisor))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, E) to (n, E)."""
        return (x - self.shift) / self.divisor


class MultiplyAdd(nn.Module):
    """x · factor + term, then optionally clipped."""

    factor: Tensor
    term: Tensor

    def __init__(self, factor: np.ndarray, term: np.ndarray, clip: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("factor", owned(factor))
        self.register_buffer("term", owned(term))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, E) to (n, E)."""
        out = x * self.factor + self.term
        return out if self.clip is None else out.clamp(*self.clip)


class Branches(nn.Module):
    """Several front ends on the same columns, their elements side by side."""

    def __init__(self, branches: list[nn.Sequential]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, columns) to (n, elements)."""
        return torch.cat([branch(x) for branch in self.branches], 1)
