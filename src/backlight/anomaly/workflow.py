"""The two ways to a study: a table alone, or a model that the user fitted and a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from backlight._evaluate import conformal_threshold
from backlight.anomaly.detector import fit_detector, prepare
from backlight.anomaly.study import Study, study
from backlight.classical import NeuralizedModel
from backlight.errors import ArgumentError
from backlight.tables import Frame
from backlight.tables.columns import Column, Written, understand

__all__ = ["Findings", "explain_table", "find_anomalies"]

Progress = Callable[[str, int, int], None]

# More rows make the fit quadratically dearer and the answer hardly better.
_MOST_FIT = 4000
_MOST_CALIBRATION = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """A study, with what is needed to present it.

    Attributes
    ----------
    study : Study
    columns : tuple of Column
        What every column was taken for.
    network : NeuralizedModel
    estimator : object
        The fitted scikit-learn pipeline.
    labels : array of str, shape (n,)
        What to call each row: its identifier if it has one, else its position from 1.
    notes : tuple of str
        What the reader must know, in sentences.
    """

    study: Study
    columns: tuple[Column, ...]
    network: NeuralizedModel
    estimator: Any
    labels: np.ndarray
    notes: tuple[str, ...]


def find_anomalies(
    frame: Frame,
    *,
    normal: Frame | None = None,
    overrides: Mapping[str, str] | None = None,
    detector: str = "kde",
    alarm_rate: float | None = None,
    top: int | None = 20,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Findings:
    """Fit a detector on a table (or on a table of normal rows), score every row, explain the most unusual ones.

    The normal rows are split by the seed: about two thirds are fitted, the others are held out to calibrate the alarm
    line and the p-values. A row that was fitted is scored and explained as if it had not been.

    Parameters
    ----------
    frame : Frame of shape (n, any)
    normal : Frame, optional
        Rows known to be normal; without them the table itself is the reference, anomalies included.
    overrides : mapping of column name to kind, optional
    detector : str
        A name of `backlight.anomaly.DETECTORS`.
    alarm_rate : float, optional
        Share of normal rows that may lie above the alarm line; by default 0.01, or 0.05 where fewer than 99
        calibration rows make 0.01 impossible.
    top : int, optional
        How many rows to explain; None for all.
    seed : int
    """
    if alarm_rate is not None and not 0 < alarm_rate < 1:
        raise ArgumentError(f"the alarm rate must lie between 0 and 1, not {alarm_rate}")
    data, reference = prepare(frame, overrides, normal)
    source = data if reference is None else reference
    order = np.random.default_rng(seed).permutation(len(source.coded))
    n_fit = min(_MOST_FIT, max(len(order) - _MOST_CALIBRATION, round(2 * len(order) / 3)))
    fit, held_out = order[:n_fit], order[n_fit : n_fit + _MOST_CALIBRATION]
    progress("fitting", 0, 1)
    estimator, network = fit_detector(source.coded[fit], data, detector)
    progress("fitting", 1, 1)

    held_out_scores = network.score_without_self(torch.as_tensor(source.coded[held_out]), np.full(len(held_out), -1))
    rate = alarm_rate if alarm_rate is not None else 0.01 if len(held_out) >= 99 else 0.05
    threshold = conformal_threshold(held_out_scores, rate)
    who = "rows of this table" if reference is None else "normal rows"
    note = f"exceeded by about {100 * rate:g} % of {who} ({len(held_out)} held out)"
    notes = [
        f"Fitted on {n_fit} {who}, calibrated on {len(held_out)} others."
        if reference is not None
        else f"No table of normal rows was given, so this table is its own reference: fitted on {n_fit} of its rows, "
        f"calibrated on {len(held_out)} others. Anomalies among them make the alarm line and the p-values cautious."
    ]
    if rate * (len(held_out) + 1) < 1:
        notes.append(
            f"{len(held_out)} held-out rows are too few for an alarm rate of {100 * rate:g} %: "
            "the line is their largest score."
        )

    anchors = anchor_positions(estimator, network, n_fit)
    calibration_own = None
    if reference is None:
        own = _positions(fit, len(data.coded), anchors)
        calibration_own = _positions(held_out, len(data.coded), np.arange(len(held_out)))
    else:
        own = np.full(len(data.coded), -1)
    labels = row_labels(data.columns, len(frame))
    calm = fit[network.score_without_self(torch.as_tensor(source.coded[fit]), anchors) <= threshold]
    calm = calm if len(calm) else fit
    source_labels = labels if reference is None else row_labels(reference.columns, len(source.coded))
    found = study(
        network,
        data.coded,
        names=data.used,
        levels=data.levels,
        data=Written.of(data.columns, data.used),
        own=own,
        normal=source.coded[calm],
        normal_labels=source_labels[calm],
        threshold=threshold,
        threshold_note=note,
        calibration=source.coded[held_out],
        calibration_own=calibration_own,
        top=top,
        seed=seed,
        progress=progress,
    )
    notes += [*frame.notes, *(said for column in data.columns for said in column.notes)]
    return Findings(found, data.columns, network, estimator, labels, tuple(notes))


def explain_table(
    network: NeuralizedModel,
    frame: Frame,
    *,
    normal: Frame | None = None,
    labels: np.ndarray | None = None,
    top: int | None = 20,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Findings:
    """Explain a table by a model that the user fitted.

    The alarm line is the model's own (one-class SVM), or the score that 99 % of its own training rows stay below, each
    scored without itself (kernel density). A row equal to a training row is taken for it. P-values need ``normal``, a
    table of held-out normal rows.
    """
    aligned = network.front.align(frame)
    coded = np.asarray(network.encode(frame))
    names = network.feature_names if not aligned.named else aligned.names
    columns = tuple(understand(Frame(tuple(names), aligned.columns, aligned.kind, aligned.named)))
    levels = {names[j]: tuple(str(v) for v in codes) for j, codes in network.front.vocabulary.codes.items()}
    if network.threshold is not None:
        threshold, note = network.threshold, "the model's own"
    else:
        threshold, note = _line_of(network, aligned if normal is None else normal)
    own = network.self_index(torch.as_tensor(coded))
    calibration = None if normal is None else np.asarray(network.encode(normal))
    if labels is None:
        labels = row_labels(columns, len(frame))
    if calibration is not None and normal is not None:
        usual, usual_labels = calibration, row_labels((), len(calibration))
        notes = [f"Normal ranges and p-values come from {len(calibration)} normal rows."]
    else:
        scores = network.score_without_self(torch.as_tensor(coded), own)
        calm = scores <= threshold if (scores <= threshold).sum() >= 10 else np.ones(len(coded), dtype=bool)
        usual, usual_labels = coded[calm], labels[calm]
        notes = [
            f"Normal ranges come from the {len(usual)} rows of this table "
            + ("below the alarm line. " if not calm.all() else "(all of them). ")
            + "There are no p-values without a table of held-out normal rows (--normal)."
        ]
    found = study(
        network,
        coded,
        names=names,
        levels=levels,
        data=aligned.matrix(),
        own=own,
        normal=usual,
        normal_labels=usual_labels,
        threshold=threshold,
        threshold_note=note,
        calibration=calibration,
        top=top,
        seed=seed,
        progress=progress,
    )
    discarded = found.explanation.annotations.get("discarded")
    if discarded is not None:
        notes.append(
            f"The model's PCA discards {100 * discarded.mean():.0f} % of these rows' squared distance from its centre "
            f"(at most {100 * discarded.max():.0f} % of one row): what happens there, the model cannot see."
        )
    notes += frame.notes
    return Findings(found, columns, network, None, labels, tuple(notes))


def _line_of(network: NeuralizedModel, rows: Frame) -> tuple[float, str]:
    """An alarm line for a model that has none: what 99 % of its own training rows stay below, or of a table."""
    alone = network.scores_of_training_rows()
    if alone is not None:
        line = float(np.quantile(alone[np.isfinite(alone)], 0.99))
        return line, "exceeded by 1 % of the model's training rows, each scored without itself"
    scores = network.score_without_self(rows, np.full(len(rows), -1))
    return float(np.quantile(scores, 0.99)), "exceeded by 1 % of the rows given as normal, or of this table"


def row_context(columns: tuple[Column, ...], row: int) -> list[tuple[str, str]]:
    """What the table says of a row beside the modelled columns: its identifiers and dates."""
    found = []
    for column in columns:
        value = column.cells[row] if column.kind in ("identifier", "date") else None
        if value is not None and value == value:
            found.append((column.name, _label(value, row)))
    return found


def row_labels(columns: tuple[Column, ...], n: int) -> np.ndarray:
    """The first identifier column's cells; positions from 1 where there is none or a cell is missing."""
    named = next((c for c in columns if c.kind == "identifier"), None)
    if named is None:
        return np.array([str(i + 1) for i in range(n)], dtype=object)
    cells = named.cells
    return np.array([_label(cells[i], i) for i in range(n)], dtype=object)


def _label(value: Any, i: int) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return f"(row {i + 1})"
    if isinstance(value, np.datetime64):
        return str(value).replace("T", " ").removesuffix(".000000").removesuffix(" 00:00:00")
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def _positions(rows: np.ndarray, n: int, to: np.ndarray) -> np.ndarray:
    out = np.full(n, -1)
    out[rows] = to
    return out


def anchor_positions(estimator: Any, network: NeuralizedModel, n_fit: int) -> np.ndarray:
    """Which anchor each fitted row became: all of them in a density, the support vectors in an SVM, none."""
    last = estimator[-1]
    if network.layer.training_rows() is None:
        return np.full(n_fit, -1)
    if not hasattr(last, "support_"):
        return np.arange(n_fit)
    return _positions(last.support_, n_fit, np.arange(len(last.support_)))
