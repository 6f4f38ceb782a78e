"""Tables of tokens: what vectorizers make of texts, with the tokens as names of the columns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import narwhals as nw
import numpy as np
from torch import Tensor

from backlight.classical.frontend.features import TextBlock
from backlight.errors import ColumnsError, DataError, listed
from backlight.tables import Frame, as_frame, frame_like

__all__ = ["TextFrame", "Texts"]

# Numbers that the tokens of one table may be.
_NUMBERS = 1 << 28


@dataclass(frozen=True, slots=True, eq=False)
class TextFrame(Frame):
    """A table of tokens, with the texts that it was made of: an array of them, or the table that they stand in."""

    original: Any = None

    def take(self, rows: Any) -> TextFrame:
        """See `Frame.take`."""
        some = Frame.take(self, rows)
        original = self.original.take(rows) if isinstance(self.original, Frame) else self.original[rows]
        return replace(self, columns=some.columns, labels=some.labels, whole=some.whole, source=None, original=original)


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """How texts, or a table with columns of text, become a table of tokens.

    Attributes
    ----------
    columns : tuple of str, optional
        The table's columns; None for texts alone.
    named : bool
        Whether these are the user's.
    kept : tuple of int
        Columns that stay columns.
    blocks : tuple of TextBlock
    names : tuple of str
        Of all columns of the table of tokens.
    """

    columns: tuple[str, ...] | None
    named: bool
    kept: tuple[int, ...]
    blocks: tuple[TextBlock, ...]
    names: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", self._names())

    def _names(self) -> tuple[str, ...]:
        """The names of all columns: the table's, then ``column: token``, or the token alone."""
        out = [] if self.columns is None else [self.columns[j] for j in self.kept]
        seen = set(out)
        sources = [block.column for block in self.blocks]
        for block in self.blocks:
            said = [] if self.columns is None else [self.columns[block.column]]
            said += [self._kind(block)] if sources.count(block.column) > 1 else []
            for token in block.tokens:
                name = ": ".join([*said, token])
                while name in seen:
                    name += "′"
                seen.add(name)
                out.append(name)
        return tuple(out)

    def _kind(self, block: TextBlock) -> str:
        """What tells a block from the others of the same text: its analyzer, and a number where that is not enough."""
        alike = [b for b in self.blocks if b.column == block.column and b.step.analyzer == block.step.analyzer]
        name = getattr(block.step.analyzer, "__name__", str(block.step.analyzer))
        return name if len(alike) == 1 else f"{name} {1 + alike.index(block)}"

    def frame(self, X: Any) -> Frame:
        """The table of tokens of texts, of a table with texts, or of what is one already."""
        if isinstance(X, TextFrame | Tensor) or (isinstance(X, Frame) and X.names == self.names):
            return as_frame(X)
        table: Any = _texts(X) if self.columns is None else self._table(X)
        n = len(table)
        if n * len(self.names) > _NUMBERS:
            raise DataError(
                f"{n:,} texts of {len(self.names):,} tokens are {n * len(self.names) / 1e9:.1f} billion numbers: give "
                f"at most {_NUMBERS // len(self.names):,} texts at once"
            )
        made = [self._numbers(block, table) for block in self.blocks]
        if self.columns is None:
            whole = made[0] if len(made) == 1 else np.concatenate(made, 1)
            return TextFrame(
                self.names, tuple(whole.T), "numpy", True, _labels(X), n, whole=whole, original=table
            )  # fmt: skip
        columns = [table.columns[j] for j in self.kept] + [column for part in made for column in part.T]
        return TextFrame(self.names, tuple(columns), table.kind, True, table.labels, n, original=table)

    def _table(self, X: Any) -> Frame:
        frame = as_frame(X)
        columns = self.columns or ()
        if self.named and frame.named:
            missing = [name for name in columns if name not in frame.names]
            if missing:
                raise ColumnsError(f"the columns differ from those at fit time (missing: {listed(missing)})")
            return frame if frame.names == columns else frame.select(columns)
        if len(frame.names) != len(columns):
            raise ColumnsError(f"the table has {len(frame.names)} columns, but the model was fitted on {len(columns)}")
        return frame

    def _numbers(self, block: TextBlock, table: Any) -> np.ndarray:
        """The library's own numbers, (n, tokens)."""
        cells = table.columns[block.column] if isinstance(table, Frame) else table
        step = block.step
        usual = isinstance(step.analyzer, str) and step.preprocessor is None
        odd = next((i for i, cell in enumerate(cells) if usual and not isinstance(cell, str | bytes)), None)
        if odd is not None:
            raise DataError(f"row {odd} holds {cells[odd]!r:.60} where {type(step).__name__} takes a text")
        if not len(cells):
            raise DataError("there are no rows to explain: give at least one text")
        return np.asarray(step.transform(list(cells)).toarray(), dtype=np.float64)

    def native(self, frame: Frame) -> Any:
        """What the original library takes."""
        original = getattr(frame, "original", None)
        if original is None:
            raise DataError("these rows are tokens without their texts, which the original model takes: give the texts")
        if not isinstance(original, Frame):
            return original.tolist()
        if not (self.named and original.named):
            return original.matrix()
        return frame_like(dict(zip(original.names, original.columns, strict=True)), original.kind)


def _labels(X: Any) -> np.ndarray | None:
    """What a series calls its rows, where that is more than their position."""
    series = nw.from_native(X, pass_through=True, allow_series=True, eager_only=True)
    if not isinstance(series, nw.Series) or not series.implementation.is_pandas_like():
        return None
    index = series.to_native().index
    return None if type(index).__name__ == "RangeIndex" else np.asarray(index)


def _texts(X: Any) -> np.ndarray:
    """Texts, one a row, as an array of objects."""
    if isinstance(X, str):
        raise DataError("this is one text, and the model takes several: put it in a list")
    series = nw.from_native(X, pass_through=True, allow_series=True, eager_only=True)
    if isinstance(series, nw.DataFrame):
        if len(series.columns) != 1:
            raise ColumnsError(f"the model takes texts, one a row, not {len(series.columns)} columns: give one of them")
        series = series.get_column(series.columns[0])
    shape: tuple[int, ...] = getattr(X, "shape", ())
    if not isinstance(series, nw.Series) and len(shape) > 1 and shape[1] != 1:
        raise ColumnsError(f"the model takes texts, one a row, not {shape[1]} columns: give one of them")
    items = series.to_list() if isinstance(series, nw.Series) else list(np.ravel(X) if hasattr(X, "ndim") else X)
    out = np.empty(len(items), dtype=object)
    out[:] = items
    return out
