"""`explain_batches`: a stream of rows in, a stream of reasons out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from backlight._explain import Explainer
from backlight.arguments import checked
from backlight.batches.fingerprint import fingerprint_of
from backlight.batches.layout import Layout, layout_of
from backlight.batches.opening import open_rows
from backlight.batches.shards import Piece, Shards, Written
from backlight.batches.sources import Frames, Source, arrow, column_of, digest_of, length_of, without
from backlight.errors import ArgumentError, DataError
from backlight.hints import ModelLike, RowsLike
from backlight.models.explained import reporter
from backlight.models.network import NetworkModel

__all__ = ["BATCH_ROWS", "Run", "explain_batches"]

BATCH_ROWS = 8192
_SHARD_ROWS = 1 << 20


@checked
def explain_batches(
    explainer: ModelLike,
    source: RowsLike,
    *,
    columns: Sequence[str] | None = None,
    sink: str | Path | None = None,
    top: int | None = None,
    row_id: str | None = None,
    batch_rows: int = BATCH_ROWS,
    shard_rows: int = _SHARD_ROWS,
    progress: Callable[[int, int], None] | bool | None = None,
) -> Any:
    """Explain a table that does not fit into memory, batch by batch.

    The values are those of ``explainer(batch)``, batch after batch; one batch is held at a time.

    Parameters
    ----------
    explainer : Explainer
        Or a model that one is made of.
    source : paths, Arrow dataset, scanner, reader or table, polars or DuckDB query, data frame, or frames in turn
        Paths and patterns of Parquet, Arrow or CSV files, or a folder of them; several are read in order. Frames that
        come one after the other keep their own batches.
    columns : sequence of str, optional
        The columns that the model takes; by default those that it was fitted on, by name, or all.
    sink : path, optional
        A folder for shards of Parquet. A run that was killed goes on when it is called again: what is there is kept,
        at most one shard is made again, and the files are the same to the last byte. Rows of a source without a
        fingerprint (a query, frames) are read again, and compared.
    top : int, optional
        A column ``reasons`` with so many features and their contributions, as text.
    row_id : str, optional
        A column of the source that names its rows; by default ``row`` counts them from 0.
    batch_rows, shard_rows : int
        Rows explained at once, and rows of a shard.
    progress : callable or True, optional
        Called with (rows done, rows in all, where that is known).

    Returns
    -------
    pyarrow.RecordBatchReader or Written
        Batches of ``row``, ``score``, ``base``, one column a feature, and, where the predicted output is explained,
        ``target``; ``.schema`` is known before the first row is read. With several targets there are columns for
        each, ``age[fraud]``. With a sink what was written. What a rule absorbs is ``score − base − Σ features``.

    Raises
    ------
    ArgumentError, ColumnsError, DataError, FileError, ExistingFileError

    Examples
    --------
    >>> import numpy as np, pyarrow as pa
    >>> from sklearn.svm import OneClassSVM
    >>> import backlight
    >>> table = pa.table({"a": np.arange(5.0), "b": np.ones(5)})
    >>> explainer = backlight.Explainer(OneClassSVM(nu=0.5).fit(table.to_pandas()))
    >>> reader = backlight.explain_batches(explainer, table, batch_rows=2)
    >>> reader.schema.names
    ['row', 'score', 'base', 'a', 'b']
    >>> [batch.num_rows for batch in reader]
    [2, 2, 1]
    """
    _require_positive("shard_rows", shard_rows)
    if not isinstance(explainer, Explainer):
        explainer = Explainer(explainer)
    rows = open_rows(source)
    run = Run(explainer, rows, columns, top, row_id, batch_rows, reporter(progress))
    if sink is None:
        return arrow().RecordBatchReader.from_batches(run.layout.schema, run.batches())
    return run.write(Path(sink), -(-shard_rows // batch_rows) * batch_rows)


def _require_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(f"{name} must be a positive number of rows, not {value!r}")


class Run:
    """One explainer, one source, one layout; columns ``beside`` are read with the model's, and not for it."""

    def __init__(
        self,
        explainer: Explainer,
        source: Source,
        columns: Sequence[str] | None,
        top: int | None,
        row_id: str | None,
        batch_rows: int,
        report: Callable[[int, int], None],
        beside: Sequence[str] = (),
    ) -> None:
        _require_positive("batch_rows", batch_rows)
        self.beside = [*beside, *([] if row_id is None else [row_id])]
        self.explainer, self.source, self.row_id, self.batch_rows = explainer, source, row_id, batch_rows
        self.report = report
        named = source.names is not None
        if not named and (columns is not None or self.beside):
            raise ArgumentError("columns are asked for by name, and the rows of this source have none: leave that out")
        source.check([*(columns or ()), *self.beside])
        self.columns = self._taken(columns)
        names = self.columns if self.columns is not None else self._unnamed()
        self.opened = explainer.opened(names)
        self.layout: Layout = layout_of(
            self.opened[0],
            explainer.targets,
            names,
            named or explainer.feature_names is not None,
            top,
            arrow().int64() if row_id is None else source.kind_of(row_id),
            row_id or "row",
        )

    def _taken(self, columns: Sequence[str] | None) -> list[str] | None:
        """The columns that are read for the model; None where they have no names."""
        if self.source.names is None or columns is not None:
            return None if columns is None else list(columns)
        rest = [name for name in self.source.names if name not in self.beside]
        model = self.explainer.opened(rest)[0]
        if isinstance(model, NetworkModel) and model.network.front.named:
            known = [name for name in model.network.front.names if name in self.source.names]
            return known if len(known) == len(model.network.front.names) else rest
        return rest

    def _unnamed(self) -> list[str]:
        given = self.explainer.feature_names
        if given is not None:
            return list(given)
        width = self.source.width if isinstance(self.source, Frames) and hasattr(self.source, "width") else None
        if width is None:
            model = self.explainer.opened()[0] if self.explainer.is_open else None
            if isinstance(model, NetworkModel):
                return list(model.network.front.names)  # as of an empty partition
            raise DataError("there are no rows, and nothing says what the columns are: give at least one frame")
        return [f"x{j}" for j in range(width)]

    def read(self, start: int) -> Iterator[Any]:
        """Tables of the columns that are read, from a row on."""
        wanted = None if self.columns is None else [*self.columns, *self._further()]
        return self.source.read(wanted, self.batch_rows, start)

    def _further(self) -> list[str]:
        return [name for name in dict.fromkeys(self.beside) if name not in (self.columns or ())]

    def inner(self, table: Any) -> Any:
        """What the model takes of a table."""
        for name in self._further():
            table = without(table, name)
        return table

    def _explained(self, table: Any, start: int) -> Any:
        count = length_of(table)
        ids = arrow().array(range(start, start + count), arrow().int64())
        if self.row_id is not None:
            ids = column_of(table, self.row_id)
        return self.layout.batch(self.explainer(self.inner(table)), ids)

    def batches(self) -> Iterator[Any]:
        """Record batches of all rows."""
        return (piece.batch for piece in self._pieces(self.read(0), 0))

    def _pieces(self, tables: Iterator[Any], done: int) -> Iterator[Piece]:
        total = self.source.rows or 0
        for table in tables:
            batch = self._explained(table, done)
            done += batch.num_rows
            yield Piece(batch, b"" if self.source.fingerprint is not None else digest_of(table))
            self.report(done, max(done, total))

    def write(self, folder: Path, shard_rows: int) -> Written:
        """Write shards, from where an earlier run was killed."""
        identity = {
            "explainer": fingerprint_of(*self.opened, self.explainer.targets),
            "source": self.source.fingerprint or "",
            "columns": repr(self.columns),
            "row_id": repr(self.row_id),
            "top": str(self.layout.top),
            "batch_rows": str(self.batch_rows),
            "schema": ", ".join(f"{field.name}: {field.type}" for field in self.layout.schema),
        }
        shards = Shards(folder, self.layout.schema, identity, shard_rows)
        if self.source.fingerprint is not None:
            tables = self.read(shards.kept)
        else:
            tables = shards.checked(self.read(0), digest_of)
        return shards.write(self._pieces(tables, shards.kept))
