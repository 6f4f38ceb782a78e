"""Tables larger than memory: learn from a sample and from what one pass shows, judge every batch, explain the highest.

The rows that are learnt from are those that a table in memory would have drawn, so scores and contributions are the
same. What differs: columns are understood by a sample of at least 20,000 rows and by witnesses of what is rare
(`survey`), faults are planted into the sample, and what needs the row before is not judged. A table that is no larger
than the sample has the result that it has in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from backlight._version import __version__
from backlight.anomaly.detectors import detector_of
from backlight.anomaly.groups import Groups, Level
from backlight.anomaly.judging import Judge, Judged, Lookup, as_places, judged_batches
from backlight.anomaly.prepared import Prepared, prepare
from backlight.anomaly.scores import Tally
from backlight.anomaly.study import Calibration, Options, Progress, Table, Threshold, budget_of, study
from backlight.anomaly.survey import READ_ROWS, Survey, frame_of, gather, survey
from backlight.anomaly.workflow import (
    TIMELINE_BINS,
    Findings,
    Learnt,
    findings_of,
    label_of,
    learn,
    row_labels,
    time_axis,
)
from backlight.batches.opening import open_rows
from backlight.batches.shards import Piece, Shards, Written
from backlight.batches.sources import Source, arrow
from backlight.errors import ArgumentError, require
from backlight.tables import Frame
from backlight.tables.alike import read_alike
from backlight.tables.column import Column
from backlight.tables.column import Written as Cells

__all__ = ["Asked", "find_in_batches"]

_SHARD_ROWS = 32 * READ_ROWS


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What is asked of a table that is read in batches; see `find_anomalies` for the first ones.

    Attributes
    ----------
    folder : Path, optional
        Write the score of every row there, as shards of Parquet; a run that was killed goes on.
    reasons : bool
        Write contributions and p-values as well.
    workers : int
        Processes that judge batches.
    """

    overrides: Mapping[str, str] | None = None
    detector: str = "ensemble"
    alarm_rate: float | None = None
    top: int = 20
    seed: int = 0
    check: bool = True
    time: str | None = None
    groups: Groups | None = None
    folder: Path | None = None
    reasons: bool = False
    workers: int = 1


def find_in_batches(
    source: Any,
    asked: Asked | None = None,
    *,
    normal: Frame | None = None,
    progress: Progress = lambda what, done, total: None,
) -> tuple[Findings, Frame, Written | None]:
    """`find_anomalies` for a table that is read in batches; memory is bounded by the batch and the sample.

    Parameters
    ----------
    source
        As of `backlight.explain_batches`, but read more than once: paths, or a table.
    asked : Asked, optional
    normal : Frame, optional

    Returns
    -------
    Findings
        Of the rows that are kept: those with the highest scores, and the highest of every stretch of time.
    Frame
        Those rows.
    Written, optional

    Raises
    ------
    ArgumentError, DataError, FileError, ExistingFileError
    """
    asked = asked or Asked()
    if asked.workers < 1:
        raise ArgumentError(f"workers must be a positive number of processes, not {asked.workers}")
    if asked.alarm_rate is not None and not 0 < asked.alarm_rate < 1:
        raise ArgumentError(f"the alarm rate must lie between 0 and 1, not {asked.alarm_rate}")
    detector_of(asked.detector)
    rows = open_rows(source)
    told = dict(asked.overrides or {})
    seen = survey(rows, asked.seed, [n for n, kind in told.items() if kind in ("ignored", "identifier")], progress)
    if asked.time is not None and not seen.whole:
        raise ArgumentError(
            "--time needs the row before each row, and this table is read in batches: leave it out, or give fewer rows"
        )
    counting = {} if seen.whole else {name: "identifier" for name in seen.counting if name not in told}
    data, reference = prepare(seen.sample, {**told, **counting}, normal, asked.time, whole=seen.whole)
    data = replace(data, columns=tuple(_counted(column, counting) for column in data.columns))
    learnt = learn(data, reference, asked.detector, asked.seed, progress, seen.order)
    run = _Run(asked, rows, seen, data, reference, learnt, learnt.threshold(asked.alarm_rate, asked.seed))
    return run.go(progress)


def _counted(column: Column, counting: Mapping[str, str]) -> Column:
    return replace(column, why="counts the rows") if column.name in counting else column


class _Skyline:
    """The row with the highest score of every stretch of time."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._span = low, high - low
        self._best = np.full(TIMELINE_BINS, -np.inf)
        self._rows = np.full(TIMELINE_BINS, -1)

    def add(self, start: int, excess: np.ndarray, places: np.ndarray | None) -> None:
        """The rows of one batch."""
        if places is None or not self._span > 0:
            return
        there = np.flatnonzero(~np.isnan(places))
        stretch = ((places[there] - self._low) / self._span * TIMELINE_BINS).astype(int).clip(0, TIMELINE_BINS - 1)
        for i in np.unique(stretch):
            rows = there[stretch == i]
            best = rows[np.argmax(excess[rows])]
            if excess[best] > self._best[i]:
                self._best[i], self._rows[i] = excess[best], start + best

    @property
    def rows(self) -> np.ndarray:
        """Their positions."""
        return self._rows[self._rows >= 0]


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """One table, and what was learnt of it."""

    asked: Asked
    source: Source
    seen: Survey
    data: Prepared
    reference: Prepared | None
    learnt: Learnt
    threshold: Threshold

    def go(self, progress: Progress) -> tuple[Findings, Frame, Written | None]:
        axis = time_axis(self.data.columns, self.asked.time)
        judge = self._judge(None if axis is None else axis.name)
        places = np.empty(0) if axis is None else as_places(axis.values)
        known = np.flatnonzero(~np.isnan(places))
        ends = known[[np.argmin(places[known]), np.argmax(places[known])]] if len(known) else known
        skyline = _Skyline(*places[ends]) if len(known) else _Skyline(0.0, 0.0)
        tally = Tally(max(self.asked.top, budget_of(len(self.data.used))))
        written = self._pass(judge, tally, skyline, progress)
        kept = np.unique(np.concatenate([tally.top, skyline.rows, self.seen.positions[ends]])).astype(np.int64)
        return (*self._findings(judge, kept, tally, progress), written)

    def _judge(self, time: str | None) -> Judge:
        own, calibrated = self.learnt.own, self.learnt.calibrated
        places = self.seen.positions
        none = Lookup(places[:0], places[:0])
        order = np.argsort(calibrated, kind="stable")
        itself = self.learnt.from_itself
        plain = self.data.columns[: len(self.seen.sample.names)]
        judge = Judge(
            self.learnt.fitted.detector,
            self.threshold.value,
            self.data if self.seen.whole else read_alike(self.seen.sample, plain),
            self.data.moments,
            self.data.used,
            dict(self.data.levels),
            Lookup(places[own >= 0], own[own >= 0]) if itself else none,
            Lookup(places[calibrated[order]], order) if itself else none,
            time,
        )
        if self.asked.folder is None:
            return judge
        ids = tuple(c.name for c in plain if c.kind == "identifier" and c.name in (self.source.names or ()))
        groups: tuple[Level, ...] = ()
        held = None
        if self.asked.reasons:
            groups = () if self.asked.groups is None else self.asked.groups.for_columns(self.data.used)
            most = slice(budget_of(len(self.data.used)))
            rows = calibrated[most]
            held = judge.detector.contributions(self.learnt.rows[rows], own[rows]).values
        schema = _schema(self.source, self.data.used, ids, groups, self.asked.reasons)
        return replace(judge, schema=schema, ids=ids, reasons=self.asked.reasons, held=held, groups=groups)

    def _pass(self, judge: Judge, tally: Tally, skyline: _Skyline, progress: Progress) -> Written | None:
        """Judge all rows."""
        shards = None if self.asked.folder is None else self._shards(self.asked.folder, judge)
        start = 0
        if shards is not None:
            for judged in self._kept(shards, judge):
                self._count(judged, tally, skyline)
            start = shards.kept
        tables = self.source.read(None, READ_ROWS, start)
        stream = judged_batches(judge, tables, start, self.asked.workers)

        def counted() -> Iterator[Judged]:
            for judged in stream:
                self._count(judged, tally, skyline)
                progress("scoring", tally.rows, self.seen.rows)
                yield judged

        if shards is None:
            for _ in counted():
                pass
            return None
        return shards.write(Piece(judged.table, b"") for judged in counted())

    @staticmethod
    def _count(judged: Judged, tally: Tally, skyline: _Skyline) -> None:
        tally.add(judged.start, judged.excess)
        skyline.add(judged.start, judged.excess, judged.moments)

    def _shards(self, folder: Path, judge: Judge) -> Shards:
        detector = self.learnt.fitted.detector
        identity = {
            "version": __version__,
            "detector": f"{detector.kind} {detector.fingerprint()}",
            "threshold": repr(self.threshold.value),
            "source": self.source.fingerprint or f"{self.seen.rows} rows",
            "reasons": str(self.asked.reasons),
            "schema": ", ".join(f"{one.name}: {one.type}" for one in judge.schema),
        }
        return Shards(folder, judge.schema, identity, _SHARD_ROWS)

    def _kept(self, shards: Shards, judge: Judge) -> Iterator[Judged]:
        """The scores that an earlier run has written, and when those rows happened."""
        if not shards.kept:
            return
        parquet = require("pyarrow.parquet", "scale", "reading shards of Parquet")
        times = iter(()) if judge.time is None else self.source.read(None, READ_ROWS, 0)
        start = 0
        for path in shards.paths:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(READ_ROWS, columns=[judge.schema.names[1 + len(judge.ids)]]):
                    table = next(times, None)
                    moments = None
                    if table is not None:
                        columns = judge.prepared(table, np.arange(start, start + len(table))).columns
                        moments = as_places(next(c.cells for c in columns if c.name == judge.time))[: batch.num_rows]
                    yield Judged(start, batch.column(0).to_numpy(), moments, None)
                    start += batch.num_rows

    def _findings(self, judge: Judge, kept: np.ndarray, tally: Tally, progress: Progress) -> tuple[Findings, Frame]:
        table = gather(self.source, kept)
        data = judge.prepared(table, kept)
        counts = None if self.seen.whole else self._counts(table)
        labels = row_labels(data.columns, len(kept), kept, counts)
        if self.reference is None:
            usual = row_labels(self.data.columns, len(self.seen.positions), self.seen.positions, counts)
        else:
            usual = row_labels(self.reference.columns, len(self.reference.coded))
        own, calibrated = self.learnt.own, self.learnt.calibrated
        checks = (
            self.learnt.checks(self.data, self.asked.detector, self.asked.seed, progress) if self.asked.check else ()
        )
        found = study(
            judge.detector,
            Table(data.used, data.levels, data.coded, Cells.of(data.columns, data.used), judge.own(kept)),
            self.learnt.normal(usual),
            self.threshold,
            Calibration(self.learnt.rows[calibrated], own[calibrated], judge.calibrated(kept)),
            Options(self.asked.top, self.asked.seed),
            checks,
            progress,
            tally.summary,
        )
        data = replace(data, columns=tuple(_noted(*pair) for pair in zip(data.columns, self.data.columns, strict=True)))
        findings = findings_of(found, data, self.learnt, labels, self.asked.groups, self.asked.time, self._notes, kept)
        return findings, frame_of(table)

    @property
    def _notes(self) -> tuple[str, ...]:
        if self.seen.whole:
            return ()
        dates = any(column.kind == "date" for column in self.data.columns)
        said = f"The table was read in batches: its columns were understood by {len(self.seen.positions):,} of its rows"
        return (said + (", and the time since the row before is not judged." if dates else "."),)

    def _counts(self, table: Any) -> Counter[str] | None:
        """How often the labels of the rows at hand occur in the table; None where rows have no names."""
        named = next((c for c in self.data.columns if c.kind == "identifier"), None)
        if named is None or named.name not in self.seen.table.column_names:
            return None
        compute = require("pyarrow.compute", "scale", "reading tables in batches")
        parts = [self.seen.table.column(named.name), table.column(named.name)]
        wanted = (
            arrow().chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type).combine_chunks()
        )
        counts: Counter[str] = Counter()
        start = 0
        for batch in self.source.read([named.name], READ_ROWS, 0):
            hits = batch.filter(compute.is_in(batch.column(0), value_set=wanted, skip_nulls=True))
            if len(hits):
                cells = self._cells(named.name, hits)
                counts.update(label_of(cell, start) for cell in cells)
            start += len(batch)
        return counts

    def _cells(self, name: str, table: Any) -> np.ndarray:
        frame = frame_of(table)
        plain = self.data.columns[: len(self.seen.sample.names)]
        known = tuple(column for column in plain if column.name == name)
        return read_alike(self.seen.sample.select([name]), known)(frame)[0].cells


def _noted(column: Column, known: Column) -> Column:
    return replace(column, notes=known.notes)


def _schema(
    source: Source, used: tuple[str, ...], ids: tuple[str, ...], groups: tuple[Level, ...], reasons: bool
) -> Any:
    pyarrow = arrow()
    number = pyarrow.float64()
    fields = [("row", pyarrow.int64()), *((name, source.kind_of(name)) for name in ids)]
    fields += [("score", number), ("above_threshold", pyarrow.bool_())]
    if reasons:
        fields += [("base", number), *((f"contribution: {name}", number) for name in used)]
        fields += [(f"{level.name}: {group}", number) for level in groups for group in level.groups]
        fields += [(f"p: {name}", number) for name in used]
    return pyarrow.schema(fields)
