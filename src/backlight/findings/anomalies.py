"""Unusual rows in words: their reasons, what would have to change, and how far the reasons can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from backlight._evaluate.planted import Interval
from backlight.anomaly.bands import score_text
from backlight.anomaly.selfcheck import FaultCheck
from backlight.anomaly.study import Study
from backlight.anomaly.workflow import TIMELINE_BINS, Findings, moment_text

__all__ = [
    "ARROWS",
    "GroupLine",
    "KnownFaults",
    "Reason",
    "Timeline",
    "Truth",
    "Verdict",
    "agreement",
    "changes_of",
    "check_sentences",
    "group_lines",
    "judged_by_truth",
    "listed_and",
    "reasons",
    "removal_verdict",
    "sentence",
    "timeline",
]  # fmt: skip

ARROWS = {"above": "↑", "below": "↓", "inside": "·", "rare": "rare", "usual": "·", "missing": "missing"}
# Below this share of the reasons a column is not worth a word.
_LEAST_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class Reason:
    """A column that speaks for a row's being unusual.

    Attributes
    ----------
    name : str
    column : int
    arrow : str
        On which side of the normal range its value lies.
    share : float
        Of all positive contributions.
    named : int
        How many detectors of an ensemble name it; 0 for a single detector.
    """

    name: str
    column: int
    arrow: str
    share: float
    named: int


@dataclass(frozen=True, slots=True, eq=False)
class KnownFaults:
    """Where the truth is known: which columns of which rows are faulty.

    Attributes
    ----------
    columns : mapping of row position to set of column names
    story : str
        What was done to the data, in a sentence.
    z_rank : array of shape (n,)
        The plain baseline for rows: the largest |z| of each.
    """

    columns: Mapping[int, set[str]]
    story: str
    z_rank: np.ndarray


@dataclass(frozen=True, slots=True)
class Truth:
    """How well known faults were found, beside a z-score: area under the ROC curve of rows, share of columns named."""

    rows: int
    explained: int
    auc: float
    auc_z: float
    hit: float
    hit_z: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether removing the named causes lowers scores faster than other orders: in a word and in sentences."""

    good: bool
    short: str
    sentences: str


def reasons(study: Study, i: int, k: int = 3) -> list[Reason]:
    """The k strongest reasons of an explained row."""
    values = study.explanation.values[i]
    positive = np.clip(values, 0, None)
    total = float(positive.sum()) or 1.0
    order = [int(j) for j in np.argsort(-values, kind="stable")[:k] if values[j] > _LEAST_SHARE * total]
    return [
        Reason(
            study.names[j],
            j,
            ARROWS[study.bands[j].side(study.coded[i, j])],
            float(positive[j] / total),
            0 if study.named is None else int(study.named[i, j]),
        )
        for j in order
    ]


def agreement(study: Study, i: int) -> str:
    """How many detectors name the first reason, in words; empty for a single detector."""
    first = reasons(study, i, 1)
    if not study.members or not first:
        return ""
    return f"{first[0].named} of {len(study.members)} detectors name {first[0].name}"


def sentence(findings: Findings, i: int) -> str:
    """An explained row in words, to be copied."""
    study = findings.study
    label = findings.labels[study.rows[i]]
    excess = float(study.explanation.output[i])
    parts = []
    for reason in reasons(study, i, 2):
        band = study.bands[reason.column]
        share = f"{100 * reason.share:.0f} % of the reasons"
        parts.append(f"{reason.name} is {study.cell(i, reason.column)} (normal: {band.normal}; {share})")
    size = score_text(abs(excess)).removeprefix("+")
    where = " ".join(f"{size} {study.unit.name} {'above' if excess > 0 else 'below'} the threshold".split())
    said = f"{label} is {where}: " + ("; ".join(parts) if parts else "no column stands out")
    agreed = agreement(study, i)
    return said + (f"; {agreed}." if agreed and parts else ".")


def changes_of(study: Study, i: int) -> tuple[list[tuple[str, str, str]], float] | None:
    """What would have to change: column, cell and new cell, and the score after that.

    None where no few cells are enough, or where the row was not looked at.
    """
    change = study.changes[i] if i < len(study.changes) else None
    if change is None:
        return None
    cells = [
        (study.names[j], study.cell(i, j), study.bands[j].text(cell))
        for j, cell in zip(change.columns, change.cells, strict=True)
    ]
    return cells, change.excess_after


def check_sentences(checks: Sequence[FaultCheck]) -> list[str]:
    """How often the first reason is right in this table, and where a z-score does as well, why."""
    if not checks:
        return []
    ours = listed_and(f"{_percent(check.reasons)} of {check.fault.plural}" for check in checks)
    plain = listed_and(f"{100 * check.z_score.mean:.0f} %" for check in checks)
    chance = 100 * float(np.mean([check.chance for check in checks]))
    said = [
        f"In this table the first reason is right for {ours}; for a z-score it is {plain}, by chance {chance:.0f} %."
    ]
    worse = [check for check in checks if check.difference.high < 0]
    same = [check for check in checks if check.difference.low <= 0 <= check.difference.high]
    own = [c.fault.plural for c in same if c.fault.name in ("spike", "group", "shift")]
    if own:
        said.append(f"A z-score does as well for {listed_and(own)}, because they stand out in their own columns.")
    for check in same:
        if check.fault.name == "swap":
            why = (
                "there were too few to tell the two apart"
                if check.dependent
                else "the columns hardly depend on each other, so that nothing gives an ordinary value away"
            )
            said.append(f"A z-score does as well for {check.fault.plural}, because {why}.")
    if worse:
        said.append(f"A z-score does better for {listed_and(c.fault.plural for c in worse)}: look at it as well.")
    return said


def removal_verdict(study: Study) -> Verdict | None:
    """Whether replacing the named cells lowers the score faster than by a z-score or at random."""
    check = study.removal
    if check is None:
        return None
    names = {"z-score": "plain z-score", "random": "random order"}
    told = {other: check.beats(other) for other in check.differences}

    def those(answer: bool | None) -> list[str]:
        return [names[other] for other, beats in told.items() if beats is answer]

    won, lost, open_ = those(True), those(False), those(None)
    said = []
    if won:
        said.append(f"Replacing the named cells lowers the score faster than {_or(won)}.")
    if open_:
        said.append(f"Their order cannot be told apart from {_or(open_)} on these {check.rows} rows.")
    if lost:
        said.append(f"Their order is slower than {_or(lost)}: do not rely on it.")
    short = "no" if lost else "in part" if open_ else "yes"
    return Verdict(not lost and not open_, short, " ".join(said))


def judged_by_truth(study: Study, faults: KnownFaults) -> Truth:
    """Compare with known faults."""
    from sklearn.metrics import roc_auc_score

    truth = np.zeros(len(study.excess), dtype=bool)
    truth[list(faults.columns)] = True
    ours: list[float] = []
    plain: list[float] = []
    for i, position in enumerate(study.rows):
        known = faults.columns.get(int(position))
        if known:
            for hits, ranking in ((ours, study.explanation.values[i]), (plain, study.z_scores[i])):
                named = {study.names[j] for j in np.argsort(-ranking, kind="stable")[: len(known)]}
                hits.append(len(named & known) / len(known))
    return Truth(
        int(truth.sum()), len(ours), float(roc_auc_score(truth, study.excess)),
        float(roc_auc_score(truth, faults.z_rank)), float(np.mean(ours)), float(np.mean(plain)),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Scores over time.

    Attributes
    ----------
    name : str
        The column of the moments.
    first, last : str
        Its ends, for people.
    highest : array of shape (bins,)
        The highest excess of each stretch; NaN where no row lies.
    lanes : list of (kind, its rows, where they lie between 0 and 1)
    """

    name: str
    first: str
    last: str
    highest: np.ndarray
    lanes: list[tuple[str, int, np.ndarray]]


def timeline(findings: Findings, bins: int = TIMELINE_BINS) -> Timeline | None:
    """Scores and kinds of anomaly over time, where there is a column of moments with at least two."""
    axis = findings.axis
    if axis is None:
        return None
    values = axis.values
    moments = values.dtype.kind == "M"
    places = values.astype("datetime64[us]").astype(float) if moments else values.astype(float)
    places[np.isnat(values) if moments else np.isnan(values)] = np.nan
    low, high = np.nanmin(places), np.nanmax(places)
    if not high > low:
        return None
    places = (places - low) / (high - low)
    highest = np.full(bins, -np.inf)
    there = ~np.isnan(places)
    np.maximum.at(highest, np.minimum((places[there] * bins).astype(int), bins - 1), findings.study.excess[there])
    highest[np.isneginf(highest)] = np.nan
    lanes = [
        (kind.name, len(kind.members), places[kind.members][~np.isnan(places[kind.members])])
        for kind in findings.study.kinds
    ]
    ends = [moment_text(end) for end in (np.nanmin(values), np.nanmax(values))]
    return Timeline(axis.name, ends[0], ends[1], highest, lanes)


@dataclass(frozen=True, slots=True)
class GroupLine:
    """A group of columns, what it contributes, and how many columns it has."""

    name: str
    value: float
    columns: int


def group_lines(findings: Findings, values: np.ndarray) -> list[tuple[str, list[GroupLine]]]:
    """Contributions of columns, (d,), rolled up at every level, strongest first; each level has the same total."""
    found = []
    for level in findings.levels:
        totals = level.roll_up(values[None])[0]
        sizes = np.bincount(level.member, minlength=len(level.groups))
        order = np.argsort(-totals, kind="stable")
        found.append((level.name, [GroupLine(level.groups[g], float(totals[g]), int(sizes[g])) for g in order]))
    return found


def listed_and(parts: Iterable[str]) -> str:
    """a, b and c."""
    names = list(parts)
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _percent(interval: Interval) -> str:
    low, high = round(100 * interval.low), round(100 * interval.high)
    return f"{100 * interval.mean:.0f} % ({low} to {high})"


def _or(names: Sequence[str]) -> str:
    return " or ".join(f"a {name}" for name in names)
