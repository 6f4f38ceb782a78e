"""PyOD's detectors that are sums of one term a column: the library's own terms.

* HBOS, ECOD, COPOD, MAD. ECOD and COPOD rank the rows that are given together, with the training rows, so that a row's
  score depends on the others beside it, as it does there;
* LODA: each random cut's term, shared by the squares of the cut's weights, as the cut is a step of a projection. The
  least training row of every cut stands on the first edge of its histogram, so that the last digit of a product decides
  its bin, there as here: such rows are named.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.classical.families.pyod import Reading, reads
from backlight.classical.layers.linear import Additive
from backlight.errors import listed, require, warn
from backlight.explanation.score_units import PLAIN

__all__: list[str] = []


def _terms(function: Callable[[np.ndarray], np.ndarray], width: int) -> Reading:
    """A sum over columns of the library's own terms, (n, K)."""

    def terms(z: Tensor) -> Tensor:
        return torch.as_tensor(np.array(function(np.asarray(z.detach().cpu().double())))).to(z)[:, None, :]

    return lambda inputs: _Together(terms, 1, inputs.pullback), width, PLAIN


class _Together(Additive):
    """Terms of rows that are scored together."""

    @property
    def rows(self) -> int:
        """As many rows as there are."""
        return 1 << 30


@reads("ECOD", "COPOD")
def _tails(model: Any) -> Reading:
    def terms(z: np.ndarray) -> np.ndarray:
        one = copy.copy(model)  # it writes its terms on itself
        one.n_jobs = 1
        one.decision_function(z)
        return np.asarray(one.O)[-len(z) :]

    return _terms(terms, model.X_train.shape[1])


@reads("HBOS")
def _hbos(model: Any) -> Reading:
    hbos = require("pyod.models.hbos", "pyod", "scoring by histograms")

    def terms(z: np.ndarray) -> np.ndarray:
        if isinstance(model.n_bins, str):
            found = hbos._calculate_outlier_scores_auto(z, model.bin_edges_, model.hist_, model.alpha, model.tol)
        else:
            found = hbos._calculate_outlier_scores(
                z, model.bin_edges_, model.hist_, model.n_bins, model.alpha, model.tol
            )
        return -np.asarray(found)

    width = len(model.hist_) if isinstance(model.n_bins, str) else np.shape(model.hist_)[1]
    return _terms(terms, width)


@reads("MAD")
def _mad(model: Any) -> Reading:
    return _terms(lambda z: 0.6745 * np.abs(z - model.median_) / model.median_diff_, 1)


def _on_edges(unsure: np.ndarray) -> None:
    """Name the rows whose score rounding decides."""
    rows = np.flatnonzero(unsure > 1e-9)
    if len(rows):
        named = listed([str(row) for row in rows])
        warn(
            f"{len(rows)} of {len(unsure)} rows ({named}) stand on an edge of LODA's histograms to the last digit: its "
            f"own score of them changes by up to {unsure.max():.2g} with the rows that are scored beside"
        )


@reads("LODA")
def _loda(model: Any) -> Reading:
    cuts = np.asarray(model.projections_, dtype=float)
    shares = cuts**2 / (cuts**2).sum(1, keepdims=True)

    def terms(z: np.ndarray) -> np.ndarray:
        each, unsure = [], np.zeros(len(z))
        for i, cut in enumerate(cuts):
            last = (model.n_bins_[i] if isinstance(model.n_bins, str) else model.n_bins) - 1
            edges, at = model.limits_[i][:last], cut.dot(z.T)
            terms = -model.weights[i] * np.log(model.histograms_[i]) / len(cuts)
            each.append(terms[np.searchsorted(edges, at, side="left")])
            digits = (len(cut) + 1) * np.finfo(float).eps * (np.abs(z) @ np.abs(cut))
            least, most = (np.searchsorted(edges, at + step, side="left") for step in (-digits, digits))
            unsure += np.abs(terms[most] - terms[least])
        _on_edges(unsure)
        return np.asarray(np.stack(each, 1) @ shares)

    return _terms(terms, cuts.shape[1])
