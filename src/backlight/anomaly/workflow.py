"""The two ways to a study: a table alone, or a model that the user fitted and a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backlight.anomaly.detectors import FittedDetector, detector_of
from backlight.anomaly.encoding import Encoder, fit_encoder
from backlight.anomaly.fitting import Fitted, fit_detector
from backlight.anomaly.groups import Groups, Level
from backlight.anomaly.prepared import Prepared, prepare
from backlight.anomaly.selfcheck import FaultCheck, check_reasons
from backlight.anomaly.study import Calibration, NormalRows, Options, Progress, Study, Table, Threshold, study
from backlight.anomaly.tail import fit_tail
from backlight.errors import ArgumentError
from backlight.tables import Frame
from backlight.tables.column import Column, Written
from backlight.tables.columns import understand

if TYPE_CHECKING:
    from backlight.classical import NeuralizedModel

__all__ = [
    "TIMELINE_BINS", "Findings", "Learnt", "explain_table", "find_anomalies", "findings_of", "label_of", "learn",
    "moment_text", "row_context", "row_labels", "time_axis",
]  # fmt: skip

# Stretches of time of which the highest score is shown.
TIMELINE_BINS = 120

# Thresholds and p-values need no more.
_MOST_CALIBRATION = 5000
# A tail that holds fewer rows than this says nothing of a rate of 1 %.
_LEAST_ROWS = 99


@dataclass(frozen=True, slots=True, eq=False)
class TimeAxis:
    """When each row happened: the column's name, and moments (datetime64) or numbers, (n,)."""

    name: str
    values: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """A study, with what is needed to present it.

    Attributes
    ----------
    study : Study
    columns : tuple of Column
        What every column was taken for.
    detector : FittedDetector
    transforms : mapping of str to str
        The transform of each number that has one beyond scaling.
    labels : array of str, shape (n,)
        What to call each row: its identifier if it has one, else its position from 1.
    notes : tuple of str
        What the reader must know, in sentences.
    levels : tuple of Level
        Groups of columns that contributions are rolled up to.
    axis : TimeAxis, optional
        When each row happened.
    numbers : array of int, optional
        Which rows of the table these are, for a table that was read in batches.
    """

    study: Study
    columns: tuple[Column, ...]
    detector: FittedDetector
    transforms: Mapping[str, str]
    labels: np.ndarray
    notes: tuple[str, ...]
    levels: tuple[Level, ...] = ()
    axis: TimeAxis | None = None
    numbers: np.ndarray | None = None

    def number(self, row: int) -> int:
        """Which row of the table a row is, from 0."""
        return row if self.numbers is None else int(self.numbers[row])


def find_anomalies(
    frame: Frame,
    *,
    normal: Frame | None = None,
    overrides: Mapping[str, str] | None = None,
    detector: str = "ensemble",
    alarm_rate: float | None = None,
    top: int | None = 20,
    seed: int = 0,
    check: bool = True,
    time: str | None = None,
    groups: Groups | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Findings:
    """Fit a detector on a table (or on a table of normal rows), score every row, explain the most unusual ones.

    Without normal rows the table is its own reference, less its most unusual 5 %. Every row is scored and explained as
    if the detector had not learnt from it. Of large tables a sample, drawn by the seed, is learnt from.

    Parameters
    ----------
    frame : Frame of shape (n, any)
    normal : Frame, optional
        Rows known to be normal; without them the table itself is the reference, anomalies included.
    overrides : mapping of column name to kind, optional
    detector : str
        A name of `backlight.anomaly.DETECTORS`, or PyOD's as ``pyod:NAME``, which has its own threshold.
    alarm_rate : float, optional
        Share of normal rows that may lie above the threshold; by default 0.01, or 0.05 where fewer than 99
        rows say little of 0.01.
    top : int, optional
        How many rows to explain; None for all.
    seed : int
    check : bool
        Whether faults are planted in the table's own rows, to say how often the reasons are right.
    time : str, optional
        The column that orders the rows: every number's change since the row before is judged as well, within each
        series where an identifier column has several rows each.
    groups : Groups, optional
        What contributions are rolled up to.
    """
    if alarm_rate is not None and not 0 < alarm_rate < 1:
        raise ArgumentError(f"the alarm rate must lie between 0 and 1, not {alarm_rate}")
    detector_of(detector)  # known, before anything is read or fitted
    data, reference = prepare(frame, overrides, normal, time)
    learnt = learn(data, reference, detector, seed, progress)
    labels = row_labels(data.columns, len(frame))
    found = study(
        learnt.fitted.detector,
        learnt.table(data),
        learnt.normal(labels if reference is None else row_labels(reference.columns, len(reference.coded))),
        learnt.threshold(alarm_rate, seed),
        learnt.calibration(len(data.coded)),
        Options(top, seed),
        learnt.checks(data, detector, seed, progress) if check else (),
        progress,
    )
    return findings_of(found, data, learnt, labels, groups, time, frame.notes)


def findings_of(
    found: Study, data: Prepared, learnt: Learnt, labels: np.ndarray, groups: Groups | None, time: str | None,
    notes: Sequence[str], numbers: np.ndarray | None = None,
) -> Findings:  # fmt: skip
    """A study with what is needed to present it."""
    said = (*learnt.notes, *notes, *(note for column in data.columns for note in column.notes))
    levels = () if groups is None else groups.for_columns(data.used)
    transforms = transforms_of(data.used, learnt.fitted.encoder)
    axis = time_axis(data.columns, time)
    return Findings(found, data.columns, learnt.fitted.detector, transforms, labels, said, levels, axis, numbers)


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """A detector fitted on a table's own rows or on normal ones, and what follows for both tables.

    Attributes
    ----------
    rows : array of shape (s, d)
        The table itself, or the normal rows.
    from_itself : bool
    chosen : array of int of shape (m,)
        The rows that were offered to the detector.
    own : array of int of shape (s,)
        Which reference row each row became, −1 for none.
    calibrated : array of int
        The rows whose scores the threshold and the p-values come from.
    """

    fitted: Fitted
    rows: np.ndarray
    from_itself: bool
    chosen: np.ndarray
    own: np.ndarray
    calibrated: np.ndarray

    def table(self, data: Prepared) -> Table:
        """All rows, to be judged."""
        own = self.own if self.from_itself else np.full(len(data.coded), -1)
        return Table(data.used, data.levels, data.coded, Written.of(data.columns, data.used), own)

    def checks(self, data: Prepared, detector: str, seed: int, progress: Progress) -> list[FaultCheck]:
        """How often the first reason is right for faults planted into these rows."""
        return check_reasons(self.rows, data, detector, trim=self.from_itself, seed=seed, progress=progress)

    def normal(self, labels: np.ndarray) -> NormalRows:
        """The rows that count as normal; ``labels`` name those that were learnt from."""
        calm = self.chosen[self.fitted.usual]
        return NormalRows(self.rows[calm], labels[calm], self.fitted.encoder)

    def calibration(self, n: int) -> Calibration:
        """The rows that contributions are ranked among, for a table of n rows."""
        position = np.full(n, -1)
        if self.from_itself:
            position[self.calibrated] = np.arange(len(self.calibrated))
        return Calibration(self.rows[self.calibrated], self.own[self.calibrated], position)

    def threshold(self, rate: float | None, seed: int) -> Threshold:
        """The detector's own, or the score that this share of normal rows exceeds."""
        own = self.fitted.detector.own_threshold
        if rate is None and own is not None:
            return Threshold(own, "the detector's own; --alarm-rate asks for another")
        scores = self.fitted.detector.score(self.rows[self.calibrated], self.own[self.calibrated])
        rate = rate if rate is not None else 0.01 if len(scores) >= _LEAST_ROWS else 0.05
        tail = fit_tail(scores)
        low, high = tail.interval(rate, seed)
        value = tail.quantile(rate)
        who = "this table's rows" if self.from_itself else "normal rows"
        note = f"exceeded by about {100 * rate:g} % of {who}; from the tail of {len(scores)} scores"
        return Threshold(value, note, min(low, value), max(high, value))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was learnt from, in a sentence."""
        m, n = len(self.chosen), len(self.rows)
        if self.from_itself:
            sampled = "" if m == n else f" (a sample of {m:,} was learnt from)"
            return (
                f"No table of normal rows was given, so this table is its own reference{sampled}: the "
                f"{m - len(self.fitted.usual)} most unusual rows were set aside, and each of the others is judged "
                "as if it had not been learnt from.",
            )
        return (
            f"Learnt from {m:,} normal rows{'' if m == n else f' of {n:,}'}; each of them is judged as if it had not "
            "been, which calibrates the threshold and the p-values.",
        )


def learn(
    data: Prepared, reference: Prepared | None, detector: str, seed: int, progress: Progress,
    order: np.ndarray | None = None,
) -> Learnt:  # fmt: skip
    """Fit a detector on a table's own rows, or on the reference.

    Parameters
    ----------
    order : array of int, optional
        Positions in the order in which they are drawn from, where the table's rows are a sample already.
    """
    progress("fitting", 0, 1)
    rows = data.coded if reference is None else reference.coded
    if order is None or reference is not None:
        order = np.random.default_rng(seed).permutation(len(rows))
    chosen = np.sort(order[: detector_of(detector).most_rows])
    fitted = fit_detector(rows[chosen], data, detector, trim=reference is None)
    own = np.full(len(rows), -1)
    own[chosen] = fitted.own(len(chosen))
    progress("fitting", 1, 1)
    return Learnt(fitted, rows, reference is None, chosen, own, order[:_MOST_CALIBRATION])


def transforms_of(names: tuple[str, ...], encoder: Encoder) -> dict[str, str]:
    """Which numbers are compared on another scale than their own."""
    return {
        name: transform.name
        for name, transform in zip(names, encoder.transforms, strict=True)
        if transform is not None and transform.name != "linear"
    }


def explain_table(
    network: NeuralizedModel,
    frame: Frame,
    *,
    normal: Frame | None = None,
    labels: np.ndarray | None = None,
    top: int | None = 20,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Findings:
    """Explain a table by a model that the user fitted.

    The threshold is the model's own (one-class SVM), or the score that 99 % of its own training rows stay below, each
    scored without itself (kernel density). A row equal to a training row is taken for it. P-values need ``normal``, a
    table of held-out normal rows.
    """
    from torch import as_tensor

    from backlight.anomaly.detectors.network import UserNetwork

    aligned = network.front.align(frame)
    coded = np.asarray(network.encode(frame))
    names = network.feature_names if not aligned.named else aligned.names
    columns = tuple(understand(Frame(tuple(names), aligned.columns, aligned.kind, aligned.named)))
    levels = {names[j]: tuple(str(v) for v in codes) for j, codes in network.front.vocabulary.codes.items()}
    if network.threshold is not None:
        threshold, note = network.threshold, "the model's own"
    else:
        threshold, note = _line_of(network, aligned if normal is None else normal)
    own = network.self_index(as_tensor(coded))
    calibration = None if normal is None else np.asarray(network.encode(normal))
    if labels is None:
        labels = row_labels(columns, len(frame))
    if calibration is not None and normal is not None:
        usual, usual_labels = calibration, row_labels((), len(calibration))
        notes = [f"Normal ranges and p-values come from {len(calibration)} normal rows."]
    else:
        scores = network.score_without_self(as_tensor(coded), own)
        calm = scores <= threshold if (scores <= threshold).sum() >= 10 else np.ones(len(coded), dtype=bool)
        usual, usual_labels = coded[calm], labels[calm]
        notes = [
            f"Normal ranges come from the {len(usual)} rows of this table "
            + ("below the threshold. " if not calm.all() else "(all of them). ")
            + "There are no p-values without a table of held-out normal rows (--normal)."
        ]
    usual_encoder = fit_encoder(usual, usual, names, levels, np.isnan(coded).any(0) | np.isnan(usual).any(0))
    found = study(
        UserNetwork(network),
        Table(tuple(names), levels, coded, aligned.matrix(), own),
        NormalRows(usual, usual_labels, usual_encoder),
        Threshold(threshold, note),
        None
        if calibration is None
        else Calibration(calibration, np.full(len(calibration), -1), np.full(len(coded), -1)),
        Options(top, seed),
        progress=progress,
    )
    discarded = found.explanation.annotations.get("discarded")
    if discarded is not None:
        notes.append(
            f"The model's PCA discards {100 * discarded.mean():.0f} % of these rows' squared distance from its centre "
            f"(at most {100 * discarded.max():.0f} % of one row): what happens there, the model cannot see."
        )
    notes += frame.notes
    return Findings(found, columns, UserNetwork(network), {}, labels, tuple(notes), axis=time_axis(columns))


def _line_of(network: NeuralizedModel, rows: Frame) -> tuple[float, str]:
    """A threshold for a model that has none: what 99 % of its own training rows stay below, or of a table."""
    alone = network.scores_of_training_rows()
    if alone is not None:
        line = float(np.quantile(alone[np.isfinite(alone)], 0.99))
        return line, "exceeded by 1 % of the model's training rows, each scored without itself"
    scores = network.score_without_self(rows, np.full(len(rows), -1))
    return float(np.quantile(scores, 0.99)), "exceeded by 1 % of the rows given as normal, or of this table"


def time_axis(columns: tuple[Column, ...], time: str | None = None) -> TimeAxis | None:
    """The column that orders the rows, or the first one of dates."""
    named = [c for c in columns if c.name == time] or [c for c in columns if c.kind == "date"]
    named = [c for c in named if c.cells.dtype.kind in "Mf" and not c.missing.all()]
    return TimeAxis(named[0].name, named[0].cells) if named else None


def row_context(columns: tuple[Column, ...], row: int) -> list[tuple[str, str]]:
    """What the table says of a row beside the modelled columns: its identifiers and dates."""
    found = []
    for column in columns:
        value = column.cells[row] if column.kind in ("identifier", "date") else None
        if value is not None and value == value:
            found.append((column.name, label_of(value, row)))
    return found


def row_labels(
    columns: tuple[Column, ...], n: int, numbers: np.ndarray | None = None, counts: Mapping[str, int] | None = None
) -> np.ndarray:
    """The first identifier column's cells; positions from 1 where there is none or a cell is missing.

    Where rows share an identifier, as those of one series do, their positions stand behind it. ``numbers`` are the
    rows' positions, and ``counts`` how often each label occurs, where there are more rows than these.
    """
    rows = np.arange(n) if numbers is None else numbers
    named = next((c for c in columns if c.kind == "identifier"), None)
    if named is None:
        return np.array([str(i + 1) for i in rows], dtype=object)
    labels = [label_of(cell, i) for cell, i in zip(named.cells, rows, strict=True)]
    counts = Counter(labels) if counts is None else counts
    labels = [label if counts[label] == 1 else f"{label} · row {i + 1}" for i, label in zip(rows, labels, strict=True)]
    return np.array(labels, dtype=object)


def label_of(value: Any, row: int) -> str:
    """What an identifier's cell calls its row."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return f"(row {row + 1})"
    return moment_text(value) if isinstance(value, np.datetime64 | float) else str(value)


def moment_text(value: Any) -> str:
    """A moment or a number that orders rows, for people."""
    if isinstance(value, np.datetime64):
        return str(value).replace("T", " ").removesuffix(".000000").removesuffix(" 00:00:00")
    return f"{value:.0f}" if float(value).is_integer() else f"{value:g}"
