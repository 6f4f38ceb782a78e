"""Trust by comparison: a network is compared with the model's own methods on a few rows before it explains any.

A network is found by class, and a subclass may have changed its score; a version of the library may have, too. So what
the network says of the first rows is compared with what the library says of them, and once more with the whole model,
whose last word may be another one than its last step's. Every score of a class that is not itself registered is
compared, not only the one that was asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from backlight.errors import UnsupportedModel

__all__ = ["METHODS", "compared", "own_method"]

# The method of the library that has the score of each name.
METHODS = {
    "decision_function": "decision_function",
    "predict": "predict",
    "probability": "predict_proba",
    "score_samples": "score_samples",
}
# What rounding may cost: far from zero the libraries' own products lose four digits and more.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-6
_COARSE = 0.3


def own_method(model: Any, score: str, X: Any) -> np.ndarray | None:
    """The whole model's own word on a score that is named after a method; None where it has none."""
    method = getattr(model, METHODS.get(score, ""), None)
    if method is None:
        return None
    try:
        found = method(X)
    except Exception:  # a method of anybody's, which may want another kind of table than its last step
        return None
    return np.asarray(found) if isinstance(found, np.ndarray) and found.dtype.kind in "fiu" else None


def compared(name: str, score: str, pairs: Iterable[tuple[np.ndarray, np.ndarray | None]], exact: bool = True) -> None:
    """Compare a network's numbers with the model's.

    Parameters
    ----------
    name : str
        The model's class.
    score : str
    pairs : iterable of (found, wanted)
        A wanted value of None, or one of another shape, is not compared.
    exact : bool
        False for a network in less than double precision, of which only gross differences are seen.

    Raises
    ------
    UnsupportedModel
        When they differ.
    """
    for found, wanted in pairs:
        if wanted is None or wanted.size != found.size or not found.size:
            continue
        wanted = np.asarray(wanted, dtype=float).reshape(found.shape)
        with np.errstate(invalid="ignore"):  # infinity less infinity
            off = np.abs(found - wanted)
        off = np.where((found == wanted) | (np.isnan(found) & np.isnan(wanted)), 0.0, off)
        finite = np.abs(wanted[np.isfinite(wanted)])
        most = (_RELATIVE if exact else _COARSE) * float(finite.max() if finite.size else 0.0) + _ABSOLUTE
        if not (off <= most).all():
            at = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
            raise UnsupportedModel(
                f"the network known for {name} is not its {score!r}: {found.flat[at]:.5g} for {wanted.flat[at]:.5g}; "
                "register one for this class with backlight.neuralize.register"
            )


class quiet(warnings.catch_warnings):  # noqa: N801 - used like a function
    """No warnings: the user did not call the methods that are asked here."""

    def __enter__(self) -> None:
        """Ignore all."""
        super().__enter__()
        warnings.simplefilter("ignore")
