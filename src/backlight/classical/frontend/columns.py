"""From the columns of a table to the space in which a model measures distances.

A `Features` value is carried through the steps of a pipeline. At every point the data are *elements* (each made
from one column of the table: scaled, imputed, one level of a category) and, after a projection, an affine map of
them. That is what makes the way back exact: see `backlight.classical.layers.pullback`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import narwhals as nw
import numpy as np
import torch
from narwhals import selectors
from torch import Tensor, nn

from backlight.classical.frontend.features import Features
from backlight.classical.frontend.native_frames import category_text
from backlight.errors import ColumnsError, DataError, listed
from backlight.tables import Frame, as_frame, frame_like
from backlight.tables.frame import is_installed

__all__ = ["FrontEnd", "TableReader"]


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
        if j in self.vocabulary.open:
            return np.array([self.vocabulary.code(j, category_text(v)) for v in column.tolist()])
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
        if self.vocabulary.native is not None:
            return self.vocabulary.native(dict(zip(self.names, aligned.columns, strict=True)))
        if not (self.named and frame.named):
            return aligned.matrix()
        texts = {j for j, column in enumerate(aligned.columns) if column.dtype == object}
        known = texts & set(self.vocabulary.knows_nan)
        if frame.kind == "pyarrow" and (known or is_installed("pandas")):
            # scikit-learn's column transformers take no Arrow table, and of others it would read a null as None,
            # another category than the NaN that it was fitted on
            import pandas

            cells = [
                np.where(c == np.array(None), math.nan, c) if j in known else c for j, c in enumerate(aligned.columns)
            ]
            named = zip(aligned.names, cells, strict=True)
            return pandas.DataFrame({name: pandas.Series(column, dtype=column.dtype) for name, column in named})
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
