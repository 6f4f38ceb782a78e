"""Conformal calibration: ranks among held-out normal rows.

Scope. For a row that is exchangeable with the calibration rows, P(p ≤ a) ≤ a for every a, whatever the model and the
relevance are. So a small p-value says: *this column's relevance is unusual for a normal row*. It does not control the
share of wrongly named columns on an anomalous row, where one faulty column can move the relevance of others.

References
----------
Vovk, Gammerman, Shafer, "Algorithmic learning in a random world" (2005), chapter 2; Bates et al., "Testing for outliers
with conformal p-values", Annals of Statistics 51 (2023).
"""

from __future__ import annotations

import numpy as np

__all__ = ["conformal_p_values"]


def conformal_p_values(values: np.ndarray, calibration: np.ndarray, own: np.ndarray | None = None) -> np.ndarray:
    """One p-value a cell: (1 + #{calibration ≥ value}) / (number of calibration rows + 1).

    Parameters
    ----------
    values : array of shape (n, d)
    calibration : array of shape (c, d)
        The same quantity for held-out normal rows.
    own : array of int of shape (n,), optional
        Where a row is itself a calibration row, its position there (otherwise −1): it is not counted against itself.

    Returns
    -------
    array of shape (n, d)
        Between 1/(c + 1) and 1.
    """
    c = len(calibration)
    ordered = np.sort(calibration, axis=0)
    at_least = np.empty(values.shape)
    for j in range(values.shape[1]):
        at_least[:, j] = c - np.searchsorted(ordered[:, j], values[:, j], side="left")
    others = np.full((len(values), 1), c)
    if own is not None:
        mine = own >= 0
        at_least[mine] -= calibration[own[mine]] >= values[mine]
        others[mine] -= 1
    return np.asarray((1 + at_least) / (1 + others))
