"""From prepared rows to a fitted detector: choose the reference, fit the encoder, fit the detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backlight.anomaly.detectors import FittedDetector, Reference, detector_of
from backlight.anomaly.encoding import Encoder, fit_encoder
from backlight.anomaly.prepared import Prepared
from backlight.anomaly.reference import usual_rows
from backlight.errors import DataError

__all__ = ["Fitted", "fit_detector"]


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A detector and what it learnt from.

    Attributes
    ----------
    detector : FittedDetector
    encoder : Encoder
    usual : array of int of shape (r,)
        Which of the rows it learnt from: all given rows, or those that are not themselves unusual.
    """

    detector: FittedDetector
    encoder: Encoder
    usual: np.ndarray

    def own(self, n: int) -> np.ndarray:
        """For each of the n rows that were given, which reference row it is; −1 where it was set aside."""
        out = np.full(n, -1)
        out[self.usual] = np.arange(len(self.usual))
        return out


def fit_detector(rows: np.ndarray, data: Prepared, name: str = "ensemble", *, trim: bool) -> Fitted:
    """Fit a detector on rows of shape (m, d), coded as in ``data``.

    Parameters
    ----------
    trim : bool
        Whether the most unusual rows are set aside first: where nobody said that the rows are normal.
    """
    kind = detector_of(name)
    missing = np.isnan(data.coded).any(0) | np.isnan(rows).any(0)
    gone = np.flatnonzero(np.isnan(rows).all(0))
    if len(gone):
        column = data.used[gone[0]]
        raise DataError(f"column {column!r} has no value in the normal rows: leave it out (--ignore {column})")
    encoder = fit_encoder(rows, rows, data.used, data.levels, missing)
    usual = usual_rows(encoder(rows), rows) if trim else np.arange(len(rows))
    encoder = fit_encoder(rows, rows[usual], data.used, data.levels, missing)
    detector = kind.fit(Reference(encoder, encoder(rows[usual])))
    return Fitted(detector, encoder, usual)
