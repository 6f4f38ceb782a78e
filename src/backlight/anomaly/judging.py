"""The second look: every batch is judged by what was learnt, in this process or in several."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np

from backlight._evaluate import conformal_p_values
from backlight.anomaly.detectors import FittedDetector
from backlight.anomaly.groups import Level
from backlight.anomaly.moments import Moments
from backlight.anomaly.prepared import Prepared, coded
from backlight.anomaly.survey import frame_of
from backlight.errors import DataError, require
from backlight.tables.alike import ReadAlike

__all__ = ["Judge", "Judged", "Lookup", "as_places", "judged_batches"]


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """What some rows of a table are known as: their positions, in ascending order, and a number each."""

    positions: np.ndarray
    values: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of these rows, −1 for a row that is not known."""
        if not len(self.positions):
            return np.full(len(rows), -1)
        place = np.minimum(np.searchsorted(self.positions, rows), len(self.positions) - 1)
        return np.where(self.positions[place] == rows, self.values[place], -1)


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A batch that was judged.

    Attributes
    ----------
    start : int
    excess : array of shape (b,)
    moments : array of shape (b,), optional
        When each row happened, as numbers; NaN where that is not known.
    table : pyarrow.RecordBatch, optional
        What is written of it.
    """

    start: int
    excess: np.ndarray
    moments: np.ndarray | None
    table: Any


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """All that is needed to judge rows; it travels to other processes.

    Attributes
    ----------
    detector : FittedDetector
    threshold : float
    read : ReadAlike, or Prepared
        How cells become columns; or all rows, where there are no more than those of the sample.
    moments : Moments
    used : tuple of str
    levels : mapping of str to tuple of str
    own, calibrated : Lookup
        Which reference row and which calibration row a row of the table is.
    time : str, optional
        The column whose moments the report shows.
    schema : pyarrow.Schema, optional
        Of what is written.
    ids : tuple of str
        Columns that are written beside the scores.
    reasons : bool
        Whether contributions are written.
    held : array of shape (c, d), optional
        Contributions of the calibration rows.
    groups : tuple of Level
    """

    detector: FittedDetector
    threshold: float
    read: ReadAlike | Prepared
    moments: Moments
    used: tuple[str, ...]
    levels: dict[str, tuple[str, ...]]
    own: Lookup
    calibrated: Lookup
    time: str | None
    schema: Any = None
    ids: tuple[str, ...] = ()
    reasons: bool = False
    held: np.ndarray | None = None
    groups: tuple[Level, ...] = ()

    def prepared(self, table: Any, rows: np.ndarray) -> Prepared:
        """Rows as the detector takes them; a level that the sample did not show is one more."""
        if isinstance(self.read, Prepared):
            return self.read.take(rows)
        columns = self.read(frame_of(table), int(rows[0]))
        levels = {name: list(known) for name, known in self.levels.items()}
        return coded(columns + self.moments.columns(columns), self.used, levels, self.moments)

    def __call__(self, start: int, table: Any) -> Judged:
        """Judge a batch whose first row is row ``start`` of the table.

        Raises
        ------
        DataError
            For a row without a finite score.
        """
        rows = np.arange(start, start + len(table))
        data = self.prepared(table, rows)
        own = self.own(rows)
        excess = self.detector.score(data.coded, own) - self.threshold
        if not np.isfinite(excess).all():
            row = start + int(np.flatnonzero(~np.isfinite(excess))[0])
            raise DataError(f"row {row + 1} has no finite score: the model has no other row to compare it with")
        moments = next((column.cells for column in data.columns if column.name == self.time), None)
        places = None if moments is None else as_places(moments)
        written = None if self.schema is None else self._written(table, data, rows, own, excess)
        return Judged(start, excess, places, written)

    def _written(self, table: Any, data: Prepared, rows: np.ndarray, own: np.ndarray, excess: np.ndarray) -> Any:
        pyarrow = require("pyarrow", "scale", "writing shards of Parquet")
        columns: list[Any] = [rows + 1, *(table.column(name) for name in self.ids), excess, excess > 0]
        if self.reasons:
            found = self.detector.contributions(data.coded, own)
            columns += [found.base - self.threshold, *found.values.T]
            columns += [part for level in self.groups for part in level.roll_up(found.values).T]
            if self.held is not None:
                place = self.calibrated(rows)
                place = np.where(place < len(self.held), place, -1)
                columns += list(conformal_p_values(found.values, self.held, place).T)
        typed = [_array(column, kind.type, pyarrow) for column, kind in zip(columns, self.schema, strict=True)]
        return pyarrow.RecordBatch.from_arrays(typed, schema=self.schema)


def _array(column: Any, kind: Any, pyarrow: Any) -> Any:
    if isinstance(column, pyarrow.ChunkedArray):
        return column.combine_chunks()
    return pyarrow.array(np.ascontiguousarray(column), kind)


def as_places(moments: np.ndarray) -> np.ndarray:
    """Moments as numbers; NaN where there is none."""
    if moments.dtype.kind != "M":
        return np.asarray(moments, dtype=float)
    places = moments.astype("datetime64[us]").astype(float)
    places[np.isnat(moments)] = np.nan
    return np.asarray(places)


def judged_batches(judge: Judge, tables: Iterable[Any], start: int, workers: int) -> Iterator[Judged]:
    """Judge batches in their order, ``workers`` at a time, each in a process of its own; one is this process."""
    if workers == 1:
        for table in tables:
            yield judge(start, table)
            start += len(table)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (judge,)) as pool:
        waiting: deque[Future[Judged]] = deque()
        try:
            for table in tables:
                waiting.append(pool.submit(_judge, start, table))
                start += len(table)
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


_mine: list[Judge] = []


def _begin(judge: Judge) -> None:
    """A worker computes on one core: the others have their own."""
    require("threadpoolctl", "cli", "several processes").threadpool_limits(1)
    _mine[:] = [judge]


def _judge(start: int, table: Any) -> Judged:
    return _mine[0](start, table)
