"""Everything that is known about the anomalies of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from backlight._evaluate import RemovalCheck, conformal_p_values, removal_check
from backlight.anomaly.bands import Band, bands_of, standard_scores
from backlight.classical import NeuralizedModel, Relevance
from backlight.classical.score_units import NATS, ScoreUnit
from backlight.errors import DataError
from backlight.explanation import Explanation
from backlight.tables.columns import Written

__all__ = ["Group", "Repair", "Study", "study"]

_CHUNK = 20_000
_MOST_COMPARED = 200
_MOST_GROUPED = 2000
# Rows whose shares of relevance are closer than this, in cosine distance on average, have the same cause.
_ONE_CAUSE = 0.4


@dataclass(frozen=True, slots=True)
class Repair:
    """The fewest named causes that, set to the nearest normal row's values, bring a row below the alarm line.

    ``columns`` is empty where the row is below it anyway, or where only the whole normal row would do.
    """

    columns: tuple[int, ...]
    excess_after: float


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Anomalies whose relevance has the same shape."""

    name: str
    members: np.ndarray
    shares: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """Scores of all rows and explanations of the most unusual ones.

    All scores are the excess over the alarm line, in the detector's unit: positive is unusual. A row that the
    detector was fitted on is scored as if it had not been.

    Attributes
    ----------
    excess : array of shape (n,)
    rows : array of int of shape (m,)
        Positions of the explained rows, most unusual first.
    explanation : Explanation
        Of those rows; ``output`` is their excess.
    p_values : array of shape (m, d), optional
    bands : list of Band
    z_scores : array of shape (m, d)
    nearest : array of str of shape (k, 3)
        Labels of the nearest normal rows, for the first k = min(m, 200) explained rows.
    nearest_coded : array of shape (k, d)
        Cells of the first of them.
    repairs : list of k Repair or None
        None where no choice of named causes is enough, or the row is not above the line.
    drivers : array of shape (d,)
        Mean relevance over the rows above the line.
    groups : list of Group
        Rows above the line by the shape of their relevance, largest group first.
    trust : RemovalCheck, optional
    unit : ScoreUnit
        What scores are counted in.
    """

    names: tuple[str, ...]
    excess: np.ndarray
    rows: np.ndarray
    explanation: Explanation
    coded: np.ndarray
    p_values: np.ndarray | None
    bands: list[Band]
    z_scores: np.ndarray
    nearest: np.ndarray
    nearest_coded: np.ndarray
    repairs: list[Repair | None]
    drivers: np.ndarray
    groups: list[Group]
    trust: RemovalCheck | None
    threshold_note: str
    calibration_rows: int
    unit: ScoreUnit = NATS

    @property
    def flagged(self) -> np.ndarray:
        """Which rows are above the alarm line, (n,)."""
        return np.asarray(self.excess > 0)

    def text(self, i: int, name: str) -> str:
        """The cell of an explained row, for people."""
        j = self.names.index(name)
        return self.bands[j].text(float(self.coded[i, j]))


def study(
    network: NeuralizedModel,
    coded: np.ndarray,
    *,
    names: Sequence[str],
    levels: Mapping[str, Sequence[str]],
    data: np.ndarray | Written,
    own: np.ndarray | None,
    normal: np.ndarray,
    normal_labels: np.ndarray,
    threshold: float,
    threshold_note: str,
    calibration: np.ndarray | None = None,
    calibration_own: np.ndarray | None = None,
    top: int | None = 20,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Study:
    """Score all rows, explain the most unusual ones, and gather what makes the explanation readable.

    Parameters
    ----------
    network : NeuralizedModel
        Of the score "outlierness".
    coded : array of shape (n, d)
        The table as the network takes it.
    names, levels, data
        Column names, what category codes mean, and the cells as the user wrote them.
    own : array of int of shape (n,), optional
        Which anchor each row is, −1 for none; None to find equal rows.
    normal : array of shape (r, d)
        Rows that count as normal: for bands, nearest rows, z-scores.
    normal_labels : array of shape (r,)
        What to call them.
    threshold : float
        The alarm line, in the network's score.
    calibration : array of shape (c, d), optional
        Held-out normal rows; without them there are no p-values.
    calibration_own : array of int of shape (n,), optional
        Which calibration row each row is, −1 for none.
    top : int, optional
        How many rows are explained; None for all.
    """
    n = len(coded)
    if own is None:
        own = network.self_index(torch.as_tensor(coded))
    excess = np.empty(n)
    for start in range(0, n, _CHUNK):
        part = slice(start, start + _CHUNK)
        excess[part] = network.score_without_self(torch.as_tensor(coded[part]), own[part]) - threshold
        progress("scoring", min(start + _CHUNK, n), n)
    if not np.isfinite(excess).all():
        row = int(np.flatnonzero(~np.isfinite(excess))[0])
        raise DataError(f"row {row + 1} has no finite score: the model has no other row to compare it with")

    rows = np.argsort(-excess, kind="stable")[: n if top is None else top]
    explanation = _explain(network, coded[rows], own[rows], threshold, names, data[rows], progress)
    p_values = None
    if calibration is not None:
        held_out = network.relevance(
            torch.as_tensor(calibration), network.rule("auto"), own=np.full(len(calibration), -1)
        ).values
        mine = None if calibration_own is None else calibration_own[rows]
        p_values = conformal_p_values(explanation.values, held_out, mine)

    is_category = np.array([name in levels for name in names])
    bands = bands_of(normal, names, levels)
    z = standard_scores(coded[rows], normal, is_category)
    shown = rows[:_MOST_COMPARED]
    near, labels = _nearest(network, coded[shown], normal, normal_labels)
    repairs = _repairs(network, coded[shown], own[shown], near, explanation.values[: len(shown)], threshold)
    unusual = explanation.output > 0
    weight = explanation.values[unusual] if unusual.any() else explanation.values

    def rescored(changed: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return network.score_without_self(torch.as_tensor(changed), own[shown[positions]])

    rng = np.random.default_rng(seed)
    trust = removal_check(
        rescored,
        coded[shown],
        near,
        {
            "relevance": explanation.values[: len(shown)],
            "z-score": z[: len(shown)],
            "random": rng.random((len(shown), len(names))),
        },
        seed,
    )
    return Study(
        names=tuple(names),
        excess=excess,
        rows=rows,
        explanation=explanation,
        coded=coded[rows],
        p_values=p_values,
        bands=bands,
        z_scores=z,
        nearest=labels,
        nearest_coded=near,
        repairs=repairs,
        drivers=np.asarray(weight.mean(0)) if len(weight) else np.zeros(len(names)),
        groups=_groups(explanation, names),
        trust=trust,
        threshold_note=threshold_note,
        calibration_rows=0 if calibration is None else len(calibration),
        unit=network.score.unit,
    )


def _explain(
    network: NeuralizedModel,
    coded: np.ndarray,
    own: np.ndarray,
    threshold: float,
    names: Sequence[str],
    data: np.ndarray,
    progress: Callable[[str, int, int], None],
) -> Explanation:
    parts = []
    for start in range(0, len(coded), _CHUNK):
        part = slice(start, start + _CHUNK)
        parts.append(network.relevance(torch.as_tensor(coded[part]), network.rule("auto"), own=own[part]))
        progress("explaining", min(start + _CHUNK, len(coded)), len(coded))
    found = Relevance.joined(parts)
    annotations = dict(found.annotations)
    alone = annotations.pop("score_without_self")
    return Explanation(
        values=found.values,
        output=alone - threshold,
        base_values=found.base_values + alone - found.output - threshold,
        data=data,
        feature_names=tuple(names),
        output_names=("excess over the alarm line",),
        target="excess over the alarm line",
        method=f"lrp ({getattr(network.rule('auto'), 'name', network.rule('auto'))})",
        annotations=annotations,
    )


def _nearest(
    network: NeuralizedModel, coded: np.ndarray, normal: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest normal row of each row in the model's own distance, not counting rows equal to it.

    Returns its cells, (m, d), and the labels of the three nearest, (m, 3).
    """
    from scipy.spatial.distance import cdist

    z, u = network.embed(torch.as_tensor(coded)), network.embed(torch.as_tensor(normal))
    k = min(3, len(u))
    found = np.empty((len(z), k), dtype=int)
    for start in range(0, len(z), 256):
        part = slice(start, start + 256)
        distance = cdist(z[part], u, "sqeuclidean")
        distance[distance == 0] = np.inf
        found[part] = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return normal[found[:, 0]], labels[found]


def _repairs(
    network: NeuralizedModel,
    coded: np.ndarray,
    own: np.ndarray,
    near: np.ndarray,
    values: np.ndarray,
    threshold: float,
) -> list[Repair | None]:
    """Replace causes by the nearest normal row's cells, strongest first, until the score is below the line."""
    order = np.argsort(-values, axis=1, kind="stable")
    current = coded.copy()
    every = np.arange(len(coded))
    found: list[Repair | None] = [None] * len(coded)
    open_rows = every[network.score_without_self(torch.as_tensor(coded), own) > threshold]
    for k in range(coded.shape[1]):
        if not len(open_rows):
            break
        columns = order[open_rows, k]
        current[open_rows, columns] = near[open_rows, columns]
        after = network.score_without_self(torch.as_tensor(current[open_rows]), own[open_rows]) - threshold
        for row, value in zip(open_rows[after <= 0], after[after <= 0], strict=True):
            changed = [j for j in order[row, : k + 1] if not _same(coded[row, j], near[row, j])]
            found[row] = Repair(tuple(int(j) for j in changed), float(value))
        open_rows = open_rows[after > 0]
    return found


def _same(a: float, b: float) -> bool:
    return a == b or (np.isnan(a) and np.isnan(b))


def _groups(explanation: Explanation, names: Sequence[str]) -> list[Group]:
    """Cluster the shares of relevance of the rows above the line."""
    from sklearn.cluster import AgglomerativeClustering

    above = np.flatnonzero(explanation.output > 0)[:_MOST_GROUPED]
    positive = np.clip(explanation.values[above], 0, None)
    total = positive.sum(1, keepdims=True)
    above, positive, total = above[total[:, 0] > 0], positive[total[:, 0] > 0], total[total[:, 0] > 0]
    if len(above) < 2:
        return [_group(names, above, positive / total)] if len(above) else []
    shares = positive / total
    labels = AgglomerativeClustering(
        n_clusters=None, distance_threshold=_ONE_CAUSE, metric="cosine", linkage="average"
    ).fit_predict(shares)
    groups = [_group(names, above[labels == label], shares[labels == label]) for label in np.unique(labels)]
    return sorted(groups, key=lambda group: -len(group.members))


def _group(names: Sequence[str], members: np.ndarray, shares: np.ndarray) -> Group:
    mean = shares.mean(0)
    order = np.argsort(-mean)
    leading = [names[j] for j in order[:3] if mean[j] >= 0.5 * mean[order[0]]]
    return Group(" + ".join(leading), members, mean)
