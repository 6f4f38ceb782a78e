"""From the columns of a table to the space in which a model measures distances.

A `Features` value is carried through the steps of a pipeline. At every point the data are *elements* (each made
from one column of the table: scaled, imputed, one level of a category) and, after a projection, an affine map of
them. That is what makes the way back exact: see `backlight.classical.layers.pullback`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import narwhals as nw
import numpy as np
import torch
from narwhals import selectors
from torch import Tensor, nn

from backlight.classical.layers.pullback import Pullback, owned
from backlight.errors import ColumnsError, DataError, listed
from backlight.tables import Frame, as_frame, frame_like

__all__ = ["Features", "FrontEnd", "Linear", "TableReader", "TextBlock", "Vocabulary"]


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
    ``kept`` of the table.
    """

    codes: dict[int, dict[Any, int]] = field(default_factory=dict)
    knows_nan: set[int] = field(default_factory=set)
    start: int = 0
    kept: tuple[int, ...] | None = None
    blocks: list[TextBlock] = field(default_factory=list)

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


class TableReader(Protocol):
    """What makes the table that is explained of something else, such as texts."""

    def frame(self, X: Any) -> Frame:
        """The table."""

    def native(self, frame: Frame) -> Any:
        """What the table was made of."""


class FrontEnd(nn.Module):
    """The layers between a table and the distances.

    Attributes
    ----------
    names : tuple of str
        The table's columns.
    pullback : Pullback
    """

    def __init__(
        self,
        names: tuple[str, ...],
        named: bool,
        features: Features,
        dtype: torch.dtype,
        reader: TableReader | None = None,
    ) -> None:
        super().__init__()
        self.names = names
        self.named = named
        self.reader = reader
        self.vocabulary = features.vocabulary
        self.imputed = features.imputed
        self.used = features.used
        self.elements = nn.Sequential(*features.layers)
        self.pullback = features.pullback(len(names), dtype)
        self.register_buffer("place", torch.zeros(0))
        self.to(dtype)

    place: Tensor

    def device_of(self, dtype: torch.dtype) -> Tensor:
        """An empty tensor where the network is, of a dtype."""
        return self.place.to(dtype)

    def forward(self, coded: Tensor) -> Tensor:
        """Coded columns (n, d) to the space of the model (n, K)."""
        return self.pullback.embed(self.elements(coded))

    def discarded(self, e: Tensor) -> Tensor | None:
        """Share of ‖e − center‖² in directions that a projection discards, (n,); None without a projection."""
        way = self.pullback
        if way.into is None or way.back is None or way.center is None:
            return None
        centred = e - way.center
        seen = (centred @ way.into.T) @ way.back
        whole = centred.square().sum(1)
        return torch.where(whole > 0, (centred - seen).square().sum(1) / whole, 0.0)

    def frame(self, X: Any, names: Sequence[str] | None = None) -> Frame:
        """Rows of any kind as a table."""
        return as_frame(X, names) if self.reader is None else self.reader.frame(X)

    # -- tables ------------------------------------------------------------------------------------------------------

    def align(self, frame: Frame) -> Frame:
        """The table with the model's columns in the model's order."""
        if not (self.named and frame.named):
            if len(frame.names) != len(self.names):
                raise ColumnsError(
                    f"the table has {len(frame.names)} columns, but the model was fitted on {len(self.names)}: "
                    f"{listed(self.names)}"
                )
            return frame
        if frame.names == self.names:
            return frame
        missing = [name for name in self.names if name not in frame.names]
        extra = [name for name in frame.names if name not in self.names]
        if missing or extra:
            said = []
            if missing:
                said.append(f"missing: {listed(missing)}")
            if extra:
                said.append(f"unknown to the model: {listed(extra)}")
            raise ColumnsError(
                f"the columns differ from those at fit time ({'; '.join(said)}): "
                "give the table that the model was fitted on, column by column"
            )
        return frame.select(self.names)

    def encode(self, frame: Frame) -> Tensor:
        """Numbers for the network: text as codes, missing as NaN. Shape (n, columns), float64.

        A tensor is taken as encoded already.
        """
        frame = self.align(frame)
        if frame.whole is not None and (not self.vocabulary.codes or frame.kind == "torch"):
            self._check(frame.whole)
            return torch.from_numpy(frame.whole)
        out = np.empty((len(frame), len(self.names)))
        for j, column in enumerate(frame.columns):
            if j in self.vocabulary.codes and frame.kind != "torch":
                out[:, j] = self._codes(column, j, frame.kind)
            elif column.dtype == np.float64:
                out[:, j] = column
            elif j in self.used:
                out[:, j] = self._numbers(column, j)
            else:
                out[:, j] = 0.0
        self._check(out)
        return torch.as_tensor(out)

    def _codes(self, column: np.ndarray, j: int, kind: str) -> np.ndarray:
        codes: dict[Any, float] = dict(self.vocabulary.codes[j])
        if kind not in ("numpy", "pandas") and j in self.vocabulary.knows_nan:
            codes[None] = np.nan  # one kind of missing only, and scikit-learn made it NaN
        return np.array([np.nan if v != v else codes.get(v, -1) for v in column], dtype=np.float64)

    def _numbers(self, column: np.ndarray, j: int) -> np.ndarray:
        row = next(i for i, v in enumerate(column) if not isinstance(v, int | float))
        raise DataError(
            f"column {self.names[j]!r} holds {column[row]!r} in row {row}, but the model takes numbers there: "
            "encode the column (for instance with OneHotEncoder) before fitting"
        )

    def _check(self, coded: np.ndarray) -> None:
        if np.isfinite(coded).all():
            return
        used = sorted(self.used)
        bad = ~np.isfinite(coded[:, used])
        if not bad.any():
            return
        for row, k in np.argwhere(bad):
            column, value = used[k], coded[row, used[k]]
            if np.isinf(value):
                raise DataError(
                    f"column {self.names[column]!r} is {value} in row {row}: replace infinite values, or drop the row"
                )
            if column not in self.imputed and column not in self.vocabulary.codes:
                raise DataError(
                    f"column {self.names[column]!r} is missing in row {row}, and the model has no imputer for it: "
                    "put a SimpleImputer in the pipeline before fitting"
                )

    def check_finite(self, coded: Tensor, row: int) -> None:
        """Name the cell that makes a row not finite."""
        bad = torch.isinf(coded)
        if bool(bad.any()):
            column = int(torch.nonzero(bad)[0])
            raise DataError(
                f"column {self.names[column]!r} is {float(coded[column])} in row {row}: "
                "replace infinite values, or drop the row"
            )

    def native(self, frame: Frame) -> Any:
        """The table for the original library: the user's own data frame where there is one, numbers in float64."""
        aligned = self.align(frame)
        if self.reader is not None:
            return self.reader.native(aligned)
        if not (self.named and frame.named):
            return aligned.matrix()
        texts = {j for j, column in enumerate(aligned.columns) if column.dtype == object}
        known = texts & set(self.vocabulary.knows_nan)
        if frame.kind == "pyarrow" and known:
            # scikit-learn would read a null as None, another category than the NaN that it was fitted on
            cells = [
                np.where(c == np.array(None), math.nan, c) if j in known else c for j, c in enumerate(aligned.columns)
            ]
            return frame_like(dict(zip(aligned.names, cells, strict=True)), "pandas")
        if frame.source is None:
            return frame_like(dict(zip(aligned.names, aligned.columns, strict=True)), frame.kind)
        ordered = frame.source.select(list(aligned.names))
        return ordered.with_columns(selectors.by_dtype(nw.Float32).cast(nw.Float64)).to_native()

    def missing(self, coded: Tensor) -> Tensor:
        """Which cells hold no value, (n, columns)."""
        if not self.vocabulary.codes:
            return torch.isnan(coded)
        nothing = [float(self.vocabulary.codes.get(j, {}).get(None, float("nan"))) for j in range(len(self.names))]
        return torch.isnan(coded) | (coded == torch.tensor(nothing, dtype=coded.dtype))
