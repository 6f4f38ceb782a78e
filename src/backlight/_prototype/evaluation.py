"""Judging prototypes by models and rows that had no part in making them.

A picture convinces its own network whatever it shows: what counts is whether others see the same class in it
(transfer), how likely it is among real rows, and whether the class mean or the best row of the data would have done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from backlight._prototype.data import PrototypeData
from backlight._prototype.ensemble import EnsembleSubject
from backlight._prototype.problem import Problem
from backlight._prototype.subject import NetworkSubject, Subject, TreeSubject
from backlight.arguments import shown
from backlight.errors import ArgumentError, DataError
from backlight.explanation.faces import as_table

__all__ = ["Evaluation", "judge"]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What `Prototypes.evaluate` returns: one row for each prototype, class mean and best row.

    Attributes
    ----------
    source : tuple of str
        "prototype", "class mean" or "top row".
    target : tuple of str
    f : (n,)
        The target's value.
    confidence : (n,)
        The model's own probability of the class; NaN where it does not classify.
    transfer : (n,)
        Mean confidence of the judges in the class.
    agreed : (n,)
        Share of judges whose first choice is the class.
    percentile : (n,)
        Share of rows that are less likely, under a kernel density fitted on every other row; 0.5 is typical.
    distance : (n,)
        To the nearest row (of the class, where labels are given), in the median of that between rows.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    f: np.ndarray
    confidence: np.ndarray
    transfer: np.ndarray
    agreed: np.ndarray
    percentile: np.ndarray
    distance: np.ndarray

    _NUMBERS = ("f", "confidence", "transfer", "agreed", "percentile", "distance")

    def means(self) -> dict[str, dict[str, float]]:
        """The mean of every column, by source."""
        found: dict[str, dict[str, float]] = {}
        for source in dict.fromkeys(self.source):
            rows = np.array([s == source for s in self.source])
            found[source] = {name: float(np.mean(getattr(self, name)[rows])) for name in self._NUMBERS}
        return found

    def to_frame(self) -> Any:
        """A pandas table."""
        from backlight.tables import frame_like

        columns: dict[str, Any] = {
            "source": np.array(self.source, dtype=object), "target": np.array(self.target, dtype=object),
        }  # fmt: skip
        columns |= {name: getattr(self, name) for name in self._NUMBERS}
        return frame_like(columns, "pandas")

    def _rows(self) -> list[list[str]]:
        rows = [["", "n", *self._NUMBERS]]
        for source, means in self.means().items():
            n = sum(s == source for s in self.source)
            cells = ["–" if np.isnan(means[name]) else f"{means[name]:.3f}" for name in self._NUMBERS]
            rows.append([source, str(n), *cells])
        return rows

    def __repr__(self) -> str:
        rows = self._rows()
        widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
        lines = [
            "  ".join(t.ljust(w) if c == 0 else t.rjust(w) for c, (t, w) in enumerate(zip(row, widths, strict=True)))
            for row in rows
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head, *body = self._rows()
        return as_table("Prototypes, beside rows of the data", head, body)


def judge(found: PrototypeData, problems: Sequence[Problem], X: Any, y: Any, judges: Sequence[Any]) -> Evaluation:
    """See `Prototypes.evaluate`."""
    subject = problems[0].subject
    rows = subject.encode(X).double()
    shape = problems[0].shape
    if math.prod(rows.shape[1:]) != math.prod(shape):
        raise DataError(f"rows of X have the shape {tuple(rows.shape[1:])}, prototypes {tuple(shape)}")
    rows = rows.reshape(len(rows), *shape)
    if len(rows) < 4:
        raise DataError(f"X has {len(rows)} rows: judging needs at least 4")
    labels = None if y is None else _labels(y, subject, len(rows))
    wanted = [p.objective.wanted if subject.classifies else None for p in problems]
    sources, names, points, places = [], [], [], []
    for t in range(len(problems)):
        sources.append("prototype")
        names.append(found.names[t])
        points.append(torch.as_tensor(found.x[t]).double())
        places.append(t)
    if labels is not None:
        for t, k in enumerate(wanted):
            if k is not None and (labels == k).any():
                sources.append("class mean")
                names.append(found.names[t])
                points.append(rows[torch.as_tensor(labels == k)].mean(0))
                places.append(t)
    for t, problem in enumerate(problems):
        with torch.no_grad():
            seen = torch.cat([problem.target(rows[s : s + 256]) for s in range(0, len(rows), 256)])
        sources.append("top row")
        names.append(found.names[t])
        points.append(rows[int(seen.argmax())])
        places.append(t)
    x = torch.stack(points)
    flat, all_rows = x.flatten(1).numpy(), rows.flatten(1).numpy()
    with torch.no_grad():
        f = np.array([float(problems[t].target(x[i : i + 1])[0]) for i, t in enumerate(places)])
    classes = np.array([-1 if wanted[t] is None else int(wanted[t] or 0) for t in places])
    own = _own_confidence(subject, x, classes)
    transfer, agreed = _transfer(judges, subject, x, classes)
    skip = [int(np.flatnonzero((all_rows == row).all(1))[0]) if (all_rows == row).all(1).any() else -1 for row in flat]
    return Evaluation(
        tuple(sources), tuple(names), f, own, transfer, agreed, _percentiles(flat, all_rows),
        _distances(flat, all_rows, labels, classes, skip),
    )  # fmt: skip


def _labels(y: Any, subject: Subject, n: int) -> np.ndarray:
    try:
        given = np.asarray(y.detach() if isinstance(y, torch.Tensor) else y).ravel()
    except ValueError as error:
        raise DataError(f"y is one label a row, not {shown(y)}") from error
    if len(given) != n:
        raise DataError(f"y has {len(given)} labels for {n} rows")
    names = list(subject.outputs)
    text = [str(value) for value in given]
    if all(value in names for value in text):
        return np.array([names.index(value) for value in text])
    if np.issubdtype(given.dtype, np.integer) and given.min() >= 0 and given.max() < len(names):
        return given.astype(int)
    unknown = next(value for value in text if value not in names)
    raise ArgumentError(f"label {unknown!r} is neither a name nor an index of the model's outputs {tuple(names)}")


def _own_confidence(subject: Subject, x: torch.Tensor, classes: np.ndarray) -> np.ndarray:
    if not subject.classifies:
        return np.full(len(x), np.nan)
    with torch.no_grad():
        seen = subject.see(x.to(subject.device, subject.dtype))
    out = seen.output if seen.logits is None else seen.logits
    assert out is not None
    if isinstance(subject, TreeSubject | EnsembleSubject):
        p = out.numpy()
    elif isinstance(subject, NetworkSubject):
        told = subject.probabilities_of(x.to(subject.dtype))
        p = np.full((len(x), len(subject.outputs)), np.nan) if told is None else told
    else:
        p = torch.softmax(out.double(), 1).numpy()
    return np.array([p[i, k] if k >= 0 else np.nan for i, k in enumerate(classes)])


def _transfer(
    judges: Sequence[Any], subject: Subject, x: torch.Tensor, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if not judges:
        return np.full(len(x), np.nan), np.full(len(x), np.nan)
    confidence, first = [], []
    for one in judges:
        p = _probabilities(one, x, subject.outputs)
        confidence.append([p[i, k] if k >= 0 else np.nan for i, k in enumerate(classes)])
        first.append([float(p[i].argmax() == k) if k >= 0 else np.nan for i, k in enumerate(classes)])
    return np.mean(confidence, 0), np.mean(first, 0)


def _probabilities(model: Any, x: torch.Tensor, outputs: Sequence[str]) -> np.ndarray:
    n = len(outputs)
    if isinstance(model, nn.Module):
        parameter = next(model.parameters(), None)
        with torch.no_grad():
            out = model(x.to(torch.float64 if parameter is None else parameter.dtype))
        p = torch.softmax(out.double(), 1).numpy()
        sums = out.double()
        if bool((sums >= 0).all()) and bool((sums.sum(1) - 1).abs().max() < 1e-4):
            p = sums.numpy()
    elif hasattr(model, "predict_proba"):
        p = np.asarray(model.predict_proba(x.flatten(1).numpy()))
        named = [str(c) for c in getattr(model, "classes_", ())]
        if set(named) == set(outputs):
            p = p[:, [named.index(name) for name in outputs]]
    elif callable(model):
        p = np.asarray(model(x))
    else:
        name = type(model).__name__
        raise ArgumentError(f"a judge is a module, an estimator with predict_proba, or a function; not {name}")
    if p.shape != (len(x), n):
        name = type(model).__name__
        raise ArgumentError(f"judge {name} gives {p.shape[1:]} probabilities a row, the model has {n} classes")
    return p


def _percentiles(flat: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Ranks of log-likelihoods under a kernel density of every other row, among the rows left out."""
    from sklearn.neighbors import KernelDensity

    scale = rows.std(0)
    kept = scale > 0
    fit, rest = rows[::2][:, kept] / scale[kept], rows[1::2][:, kept] / scale[kept]
    h = max(len(fit) ** (-1 / (fit.shape[1] + 4)), 1e-3)
    density = KernelDensity(bandwidth=h, leaf_size=len(fit)).fit(fit)
    known = np.sort(density.score_samples(rest))
    ours = density.score_samples(flat[:, kept] / scale[kept])
    return np.asarray(np.searchsorted(known, ours) / len(known))


def _distances(
    flat: np.ndarray, rows: np.ndarray, labels: np.ndarray | None, classes: np.ndarray, skip: list[int]
) -> np.ndarray:
    from scipy.spatial.distance import cdist

    between = cdist(rows[:1000], rows[:1000])
    np.fill_diagonal(between, np.inf)
    usual = float(np.median(between.min(1))) or 1.0
    far = cdist(flat, rows)
    for i, row in enumerate(skip):
        if row >= 0:
            far[i, row] = np.inf  # a row is compared with the others
        if labels is not None and classes[i] >= 0:
            others = labels != classes[i]
            if not others.all():
                far[i, others] = np.inf
    return np.asarray(far.min(1) / usual)
