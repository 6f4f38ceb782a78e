"""The demo's data: real wines of several kinds, some with mixed-up laboratory values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["MixedUpWines", "mixed_up_wines"]

STORY = (
    "178 real wines of three grape varieties (13 laboratory values each). 118 of them are the normal rows. In the "
    "other 60, three values of every fifth wine were replaced by values of other varieties, as if samples had been "
    "mixed up in the laboratory. Every such value lies inside the normal range of its column (5–95 %); only together "
    "with the others it is wrong. The detector was told neither the varieties nor the faults."
)


@dataclass(frozen=True, slots=True, eq=False)
class MixedUpWines:
    """Two tables and the truth.

    Attributes
    ----------
    names : tuple of str
    normal, batch : arrays of shape (118, 13) and (60, 13)
    normal_ids, batch_ids : tuple of str
    faults : mapping of row of the batch to the set of its faulty columns
    """

    names: tuple[str, ...]
    normal: np.ndarray
    batch: np.ndarray
    normal_ids: tuple[str, ...]
    batch_ids: tuple[str, ...]
    faults: dict[int, set[str]]


def mixed_up_wines(seed: int = 0) -> MixedUpWines:
    """Scikit-learn's wine data, split, with values exchanged between varieties in every fifth row of the batch."""
    from sklearn.datasets import load_wine

    wine = load_wine()
    X, variety = wine.data, wine.target
    names = tuple(str(name).replace("_", " ") for name in wine.feature_names)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(X))
    usual, batch = order[:118], order[118:]
    table = X[batch].copy()
    spread = X.std(0)
    low, high = np.quantile(X[usual], [0.05, 0.95], axis=0)
    faults: dict[int, set[str]] = {}
    for row in range(0, len(batch), 5):
        source = batch[row]
        # Values of other varieties that are ordinary by themselves, but not this wine's: 1.5 deviations away from it.
        other = X[variety != variety[source]]
        fits = (other >= low) & (other <= high) & (np.abs(other - X[source]) > 1.5 * spread)
        for j in rng.choice(np.flatnonzero(fits.any(0)), 3, replace=False):
            table[row, j] = rng.choice(other[fits[:, j], j])
            faults.setdefault(row, set()).add(names[j])
    return MixedUpWines(
        names,
        X[usual],
        table,
        tuple(f"wine {i + 1:03d}" for i in usual),
        tuple(f"wine {i + 1:03d}" for i in batch),
        faults,
    )
