"""The user's estimator fitted anew: to changed rows, or to other labels. The user's own stays as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from backlight._evaluate.metrics.base import Judge

__all__ = ["fitted_again", "unfit"]


def unfit(judge: Judge) -> str:
    """Why the model cannot be fitted anew, or an empty string."""
    if judge.restore is None:
        return "columns of numbers, since the model is fitted anew"
    if not hasattr(judge.model, "fit") or not hasattr(judge.model, "get_params"):
        return "a scikit-learn estimator, or refit= (a function of rows and labels), since the model is fitted anew"
    return ""


def fitted_again(judge: Judge, rows: Tensor, labels: np.ndarray | None = None) -> Any:
    """An unfitted copy of the judge's model, fitted to rows and, where there are any, labels."""
    from sklearn.base import clone

    assert judge.restore is not None
    given = judge.restore(rows)
    labels = judge.labels if labels is None else labels
    model = clone(judge.model)
    return model.fit(given) if labels is None else model.fit(given, labels)
