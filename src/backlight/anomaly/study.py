"""Everything that is known about the anomalies of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from backlight._evaluate import RemovalCheck, conformal_p_values, removal_check
from backlight.anomaly.bands import Band, bands_of, standard_scores
from backlight.anomaly.changes import Change, Proposer, fewest_changes
from backlight.anomaly.detectors import Contributions, FittedDetector
from backlight.anomaly.encoding import Encoder
from backlight.anomaly.kinds import Kind, kinds_of
from backlight.anomaly.scores import ScoreSummary, summary_of
from backlight.anomaly.selfcheck import FaultCheck
from backlight.errors import DataError
from backlight.explanation import Explanation
from backlight.explanation.score_units import ScoreUnit
from backlight.tables.column import Written

__all__ = ["Calibration", "NormalRows", "Options", "Progress", "Study", "Table", "Threshold", "budget_of", "study"]

Progress = Callable[[str, int, int], None]

_CHUNK = 20_000
_MOST_COMPARED = 200
_MOST_CHANGED = 30
_MOST_GROUPED = 500
# Explaining costs as much as rows × columns × reference rows: for very wide tables fewer rows are grouped and ranked.
_MOST_CELLS = 200_000


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The rows to be judged.

    Attributes
    ----------
    names : tuple of str
    levels : mapping of str to sequence of str
        What the codes of a category mean.
    coded : array of shape (n, d)
    cells : array of shape (n, d)
        As the user wrote them.
    own : array of int of shape (n,)
        Which row of the detector's reference each row is, −1 for none.
    """

    names: tuple[str, ...]
    levels: Mapping[str, Sequence[str]]
    coded: np.ndarray
    cells: np.ndarray | Written
    own: np.ndarray

    @property
    def is_category(self) -> np.ndarray:
        """Which columns are categories, (d,)."""
        return np.array([name in self.levels for name in self.names])


@dataclass(frozen=True, slots=True, eq=False)
class NormalRows:
    """Rows that count as normal, (r, d), what they are called, and the encoder of what is usual among them."""

    coded: np.ndarray
    labels: np.ndarray
    encoder: Encoder


@dataclass(frozen=True, slots=True)
class Threshold:
    """The score above which a row is flagged, in the detector's unit, and the 90 % interval of it where known."""

    value: float
    note: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Normal rows that contributions are ranked among.

    Attributes
    ----------
    coded : array of shape (c, d)
    own : array of int of shape (c,)
        Which reference row each is, −1 for none.
    position : array of int of shape (n,)
        Which calibration row each row of the table is, −1 for none.
    """

    coded: np.ndarray
    own: np.ndarray
    position: np.ndarray


@dataclass(frozen=True, slots=True)
class Options:
    """How many rows are explained (None for all), and the seed of what is drawn."""

    top: int | None = 20
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """Scores of all rows and explanations of the most unusual ones.

    All scores are the excess over the threshold, in the detector's unit: positive is unusual. A row that the
    detector was fitted on is scored as if it had not been.

    Attributes
    ----------
    excess : array of shape (n,)
        Of the rows at hand: all of them, or those that were kept of a table that was read in batches.
    summary : ScoreSummary
        Of the scores of all rows.
    rows : array of int of shape (m,)
        Positions of the explained rows, most unusual first.
    explanation : Explanation
        Of those rows; ``output`` is their excess.
    members : tuple of str
        The detectors of an ensemble; empty for a single one.
    named : array of int of shape (m, d), optional
        How many of them name each column.
    p_values : array of shape (m, d), optional
    bands : list of Band
    z_scores : array of shape (m, d)
    nearest : array of str of shape (k, 3)
        Labels of the nearest normal rows, for the first k = min(m, 200) explained rows.
    nearest_coded : array of shape (k, d)
        Cells of the first of them.
    changes : list of Change or None
        The fewest cells that would have to change, for the first 30 rows; None where eight are not enough.
    drivers : array of shape (d,)
        Mean contribution over the rows above the threshold.
    kinds : list of Kind
        Rows above the threshold by the shape of their reasons, largest kind first.
    grouped : int
        How many of the rows above the threshold were sorted into kinds.
    removal : RemovalCheck, optional
    checks : list of FaultCheck
        How often the first reason is right for planted faults.
    """

    names: tuple[str, ...]
    excess: np.ndarray
    summary: ScoreSummary
    rows: np.ndarray
    explanation: Explanation
    coded: np.ndarray
    members: tuple[str, ...]
    named: np.ndarray | None
    p_values: np.ndarray | None
    bands: list[Band]
    z_scores: np.ndarray
    nearest: np.ndarray
    nearest_coded: np.ndarray
    changes: list[Change | None]
    drivers: np.ndarray
    kinds: list[Kind]
    grouped: int
    removal: RemovalCheck | None
    threshold: Threshold
    calibration_rows: int
    unit: ScoreUnit
    checks: list[FaultCheck]

    @property
    def flagged(self) -> np.ndarray:
        """Which of the rows at hand are above the threshold, (n,)."""
        return np.asarray(self.excess > 0)

    def text(self, i: int, name: str) -> str:
        """The cell of an explained row, for people."""
        return self.cell(i, self.names.index(name))

    def cell(self, i: int, j: int) -> str:
        """The same by the column's position; what should be a number and is none stands as it was written."""
        written = None if self.explanation.data is None else self.explanation.data[i, j]
        if np.isnan(self.coded[i, j]) and isinstance(written, str) and not self.bands[j].is_category:
            return written
        return self.bands[j].text(float(self.coded[i, j]))


def study(
    detector: FittedDetector,
    table: Table,
    normal: NormalRows,
    threshold: Threshold,
    calibration: Calibration | None = None,
    options: Options | None = None,
    checks: Sequence[FaultCheck] = (),
    progress: Progress = lambda what, done, total: None,
    summary: ScoreSummary | None = None,
) -> Study:
    """Score all rows, explain the most unusual ones, and gather what makes the explanation readable.

    ``summary`` is of more rows than those at hand, where these were kept for their scores.
    """
    options = options or Options()
    excess = _scores(detector, table, progress) - threshold.value
    order = np.argsort(-excess, kind="stable")
    rows = order[: len(excess) if options.top is None else options.top]
    budget = budget_of(len(table.names))
    several = order[: max(len(rows), min(int((excess > 0).sum()), budget))]
    found = _contributions(detector, table, several, progress)
    m = len(rows)
    values = found.values[:m]
    explanation = _explanation(detector, table, rows, found, threshold.value)
    bands = bands_of(normal.coded, table.names, table.levels)
    z = standard_scores(table.coded[rows], normal.coded, table.is_category)
    shown = rows[:_MOST_COMPARED]
    near, labels = _nearest(detector, table.coded[shown], normal)
    above = np.flatnonzero(excess[several] > 0)[:budget]
    weight = found.values[above] if len(above) else values
    return Study(
        names=table.names,
        excess=excess,
        summary=summary or summary_of(excess),
        rows=rows,
        explanation=explanation,
        coded=table.coded[rows],
        members=found.members,
        named=None if found.named is None else found.named[:m],
        p_values=_p_values(detector, values, rows, calibration, budget),
        bands=bands,
        z_scores=z,
        nearest=labels,
        nearest_coded=near,
        changes=_changes(detector, table, rows[:_MOST_CHANGED], values, normal, threshold.value, progress),
        drivers=np.asarray(weight.mean(0)) if len(weight) else np.zeros(len(table.names)),
        kinds=kinds_of(several[above], table.coded[several[above]], found.values[above], table.names, bands),
        grouped=len(above),
        removal=_removal(detector, table, shown, near, values, z, options.seed),
        threshold=threshold,
        calibration_rows=0 if calibration is None else min(len(calibration.coded), budget),
        unit=detector.unit,
        checks=list(checks),
    )


def budget_of(width: int) -> int:
    """How many rows are grouped into kinds, and how many calibration rows are explained, for so many columns."""
    return min(_MOST_GROUPED, max(20, _MOST_CELLS // width))


def _scores(detector: FittedDetector, table: Table, progress: Progress) -> np.ndarray:
    n = len(table.coded)
    out = np.empty(n)
    for start in range(0, n, _CHUNK):
        part = slice(start, start + _CHUNK)
        out[part] = detector.score(table.coded[part], table.own[part])
        progress("scoring", min(start + _CHUNK, n), n)
    if not np.isfinite(out).all():
        row = int(np.flatnonzero(~np.isfinite(out))[0])
        raise DataError(f"row {row + 1} has no finite score: the model has no other row to compare it with")
    return out


def _contributions(detector: FittedDetector, table: Table, rows: np.ndarray, progress: Progress) -> Contributions:
    found = []
    for start in range(0, max(len(rows), 1), _CHUNK):
        part = rows[start : start + _CHUNK]
        found.append(detector.contributions(table.coded[part], table.own[part]))
        progress("explaining", min(start + _CHUNK, len(rows)), len(rows))
    first = found[0]
    named = None if first.named is None else np.concatenate([f.named for f in found if f.named is not None])
    return Contributions(
        np.concatenate([f.values for f in found]),
        np.concatenate([f.base for f in found]),
        np.concatenate([f.score for f in found]),
        first.members,
        named,
        {key: np.concatenate([f.annotations[key] for f in found]) for key in first.annotations},
    )


def _explanation(
    detector: FittedDetector, table: Table, rows: np.ndarray, found: Contributions, threshold: float
) -> Explanation:
    m = len(rows)
    return Explanation(
        values=found.values[:m],
        output=found.score[:m] - threshold,
        base_values=found.base[:m] - threshold,
        data=table.cells[rows],
        feature_names=table.names,
        output_names=("excess over the threshold",),
        target="excess over the threshold",
        method=detector.method,
        annotations={key: value[:m] for key, value in found.annotations.items()},
    )


def _p_values(
    detector: FittedDetector, values: np.ndarray, rows: np.ndarray, calibration: Calibration | None, most: int
) -> np.ndarray | None:
    if calibration is None:
        return None
    held = detector.contributions(calibration.coded[:most], calibration.own[:most]).values
    position = calibration.position[rows]
    return conformal_p_values(values, held, np.where(position < most, position, -1))


def _nearest(detector: FittedDetector, coded: np.ndarray, normal: NormalRows) -> tuple[np.ndarray, np.ndarray]:
    """The nearest normal row of each row in the model's own distance, not counting rows equal to it.

    Returns its cells, (m, d), and the labels of the three nearest, (m, 3).
    """
    from scipy.spatial.distance import cdist

    z, u = detector.embed(coded), detector.embed(normal.coded)
    found = np.empty((len(z), min(3, len(u))), dtype=int)
    for start in range(0, len(z), 256):
        part = slice(start, start + 256)
        distance = cdist(z[part], u, "sqeuclidean")
        distance[distance == 0] = np.inf
        found[part] = np.argsort(distance, axis=1, kind="stable")[:, : found.shape[1]]
    return normal.coded[found[:, 0]], normal.labels[found]


def _changes(
    detector: FittedDetector, table: Table, rows: np.ndarray, values: np.ndarray, normal: NormalRows,
    threshold: float, progress: Progress,
) -> list[Change | None]:  # fmt: skip
    propose = Proposer.of(normal.coded, normal.encoder)
    out = []
    for i, row in enumerate(rows):

        def excess(changed: np.ndarray, own: int = int(table.own[row])) -> np.ndarray:
            return detector.score(changed, np.full(len(changed), own)) - threshold

        out.append(fewest_changes(table.coded[row], values[i], propose, excess))
        progress("changing", i + 1, len(rows))
    return out


def _removal(
    detector: FittedDetector, table: Table, shown: np.ndarray, near: np.ndarray, values: np.ndarray, z: np.ndarray,
    seed: int,
) -> RemovalCheck | None:  # fmt: skip
    def rescored(changed: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return detector.score(changed, table.own[shown[positions]])

    k = len(shown) if len(table.names) * len(shown) < _MOST_CELLS else 20
    rankings = {
        "relevance": values[:k],
        "z-score": z[:k],
        "random": np.random.default_rng(seed).random((k, len(table.names))),
    }
    shown = shown[:k]
    if len(table.names) > 500:  # one pass a column
        return None
    return removal_check(rescored, table.coded[shown], near[:k], rankings, seed)
