"""Kinds of anomaly: rows whose reasons have the same shape.

The shares of a row's contributions are a distribution over columns; their square roots lie on a sphere, where the
Euclidean distance is that of Hellinger and a small second reason counts. There k-means groups them, with as many
groups as have the best mean silhouette (Rousseeuw, 1987), or one where none reaches 0.25.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backlight.anomaly.bands import Band

__all__ = ["Kind", "kinds_of"]

_MOST_KINDS = 10
_SEPARATE = 0.25
_ARROWS = {"above": " ↑", "below": " ↓", "missing": " missing", "rare": " rare"}


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """Anomalies whose reasons have the same shape.

    Attributes
    ----------
    name : str
        Its leading columns, and to which side most of its rows lie.
    members : array of int
        Positions of its rows in the table, most unusual first.
    shares : array of shape (d,)
        Mean share of each column.
    """

    name: str
    members: np.ndarray
    shares: np.ndarray


def kinds_of(
    rows: np.ndarray, coded: np.ndarray, values: np.ndarray, names: Sequence[str], bands: Sequence[Band]
) -> list[Kind]:
    """Group anomalies, largest group first.

    Parameters
    ----------
    rows : array of int of shape (m,)
        Their positions in the table.
    coded, values : arrays of shape (m, d)
        Their cells and contributions.
    """
    positive = np.clip(values, 0, None)
    total = positive.sum(1)
    there = np.flatnonzero(total > 0)
    if not len(there):
        return []
    shares = positive[there] / total[there, None]
    labels = _labels(np.sqrt(shares))
    found = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        name = _name(shares[members].mean(0), coded[there[members]], names, bands)
        found.append(Kind(name, rows[there[members]], shares[members].mean(0)))
    return _merged(sorted(found, key=lambda kind: -len(kind.members)))


def _labels(roots: np.ndarray) -> np.ndarray:
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    distinct = len(np.unique(np.round(roots, 9), axis=0))
    best, labels = _SEPARATE, np.zeros(len(roots), dtype=int)
    for k in range(2, min(_MOST_KINDS, distinct - 1, len(roots) - 1) + 1):
        tried = KMeans(k, n_init=4, random_state=0).fit_predict(roots)
        score = float(silhouette_score(roots, tried))
        if score > best + 1e-6:
            best, labels = score, tried
    return labels


def _name(shares: np.ndarray, coded: np.ndarray, names: Sequence[str], bands: Sequence[Band]) -> str:
    order = np.argsort(-shares, kind="stable")
    leading = [int(j) for j in order[:3] if shares[j] >= 0.5 * shares[order[0]]]
    return " + ".join(names[j] + _side(coded[:, j], bands[j]) for j in leading)


def _side(cells: np.ndarray, band: Band) -> str:
    sides = [band.side(float(cell)) for cell in cells]
    most = max(sorted(set(sides)), key=sides.count)
    return _ARROWS.get(most, "") if sides.count(most) > len(sides) / 2 else ""


def _merged(kinds: list[Kind]) -> list[Kind]:
    """Groups that would read the same are one kind."""
    by_name: dict[str, Kind] = {}
    for kind in kinds:
        if kind.name in by_name:
            other = by_name[kind.name]
            members = np.sort(np.concatenate([other.members, kind.members]))
            weight = len(other.members) / len(members)
            kind = Kind(kind.name, members, weight * other.shares + (1 - weight) * kind.shares)
        by_name[kind.name] = kind
    return sorted(by_name.values(), key=lambda kind: -len(kind.members))
