"""`evaluate`: one judge for all explanations of a model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight._evaluate.candidates import Cost, named, read, restorer
from backlight._evaluate.evaluation import Evaluation
from backlight._evaluate.game import Game
from backlight._evaluate.metrics.base import Candidate, Judge, Metric, read_metrics
from backlight._evaluate.scored import Scored, scored
from backlight._evaluate.units import units_of
from backlight.arguments import checked, numbers_in, shown
from backlight.errors import ArgumentError, listed
from backlight.hints import ExplanationsLike, ModelLike, ReferenceLike, RowsLike, TargetLike
from backlight.models.explained import Progress, reporter
from backlight.references import Reference, as_reference

__all__ = ["evaluate"]


DEFAULT_METRICS = ("srg", "deletion", "insertion", "sensitivity_n", "effective_features")


@checked
def evaluate(
    model: ModelLike,
    X: RowsLike,
    explanations: ExplanationsLike,
    *,
    target: TargetLike = None,
    score: str | None = None,
    reference: ReferenceLike = "marginal",
    metrics: str | Metric | Sequence[str | Metric] = DEFAULT_METRICS,
    units: str | RowsLike = "auto",
    fractions: Sequence[float] | int = 9,
    masks: RowsLike = None,
    labels: RowsLike = None,
    feature_names: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool | Progress | None = None,
) -> Evaluation:
    """Judge explanations of one model on the same rows, against one reference, with intervals.

    Parameters
    ----------
    model : anything that `backlight.explain` takes, or a function of a batch
        A function gets an array of shape (n, *features) and gives (n,) or (n, outputs).
    X : as for `backlight.explain`
        The rows that were explained. For a network of several inputs a dict, whose first input is the one explained.
    explanations : dict of str to Explanation, array, SHAP's or Captum's values, function, or method name
        Values of shape (n, *features); of pictures also one map for all channels. A function of the rows, or of (model,
        rows), also has its cost measured, and is asked again by metrics that explain other rows or other models; one
        with a ``target=`` of its own also by those that explain other outputs. Names
        are those of `backlight.explain`'s methods, ``"lrp:"`` with a preset's name, and ``"random"``; they may also
        stand in a list.
    target : optional
        As for `backlight.explain`, one target. Of a classifier by default the class predicted on the whole row, which
        stays the target when features are taken away.
    score : str, optional
        Which score of a classical model.
    reference : Reference, str, or row, default "marginal"
        What stands in for features that are taken away; see `backlight.references`. By a name, its data are ``X``.
    metrics : sequence of str or Metric
        See ``backlight.metrics.METRICS``.
    units : "auto", "feature", "pixel", "token", int, groups or array, default "auto"
        What is taken away together: pixels with their channels for pictures, else each feature; an int is the side of
        a patch; groups of columns by name (one-hot columns); an array numbers the unit of each feature (superpixels).
    fractions : int or sequence of float, default 9
        The points of curves: so many from 0 to 1, or the fractions themselves.
    masks : array of bool, shape (n, *features) or (n, height, width), optional
        Where the object is, for localisation.
    labels : array of shape (n,), optional
        What the rows are (classes or values), for label randomisation.
    feature_names : sequence of str, optional
    seed : int
        Of ties, random sets, draws of the reference and bootstrap. The user's random state is left alone.
    progress : bool or callable, optional

    Returns
    -------
    Evaluation
        Prints as a table; ``difference(metric, a, b)``, ``best(metric)``, ``to_frame()``, ``latex()``, ``plot``.

    Raises
    ------
    ArgumentError, DataError, UnsupportedModel

    Notes
    -----
    It measures what a model's score does under one kind of removal. It does not say that an explanation is right: a
    method whose own reference is the judge's has an advantage, which the result names.

    Examples
    --------
    >>> import numpy as np, backlight
    >>> X = np.random.default_rng(0).normal(size=(40, 5))
    >>> weights = np.array([3.0, -2.0, 1.0, 0.5, 0.0])
    >>> truth = X * weights
    >>> found = backlight.evaluate(
    ...     lambda rows: rows @ weights, X, {"truth": truth, "random": "random"}, reference="zero", metrics=["srg"])
    >>> found.best("srg")
    ('truth',)
    """
    asked = read_metrics(metrics)
    wanted = named(explanations)
    subject, x = scored(model, X, target, score)
    names = tuple(feature_names) if feature_names is not None else subject.names
    stand_in = as_reference(reference, X)
    _check_categories(subject, stand_in)
    units_read = units_of(units, tuple(x.shape[1:]), names, len(x))
    game = Game(subject, x, units_read, stand_in, seed)
    restore = restorer(X)
    judge = Judge(game, _fractions(fractions), seed, _masks(masks, x), _labels(labels, x), model, restore)
    report = reporter(progress, "steps")
    steps, done = len(wanted) * (1 + len(asked)), 0
    start = time.process_time()
    _ = game.whole
    costs = {"one scoring": Cost(time.process_time() - start, len(x))}
    candidates: list[Candidate] = []
    notes: list[str] = []
    for name, given in wanted.items():
        candidate, cost, against = read(name, given, model, X, game, restore, target, score, seed)
        if len(candidate.values) != len(x):
            raise ArgumentError(f"the explanation {name!r} has {len(candidate.values)} rows for {len(x)}")
        candidates.append(candidate)
        if cost is not None:
            costs[name] = cost
        if against is not None and against != repr(stand_in):
            notes.append(
                f"{name} was explained against {against} and is judged against {stand_in!r}: expect it to lose by that."
            )
        done += 1
        report(done, steps)
    scores: dict[str, np.ndarray] = {}
    for metric in asked:
        rows = []
        for candidate in candidates:
            lacks = metric.missing(judge, candidate)
            if lacks:
                notes.append(f"{metric.name} of {candidate.name} needs {lacks}.")
                rows.append(np.full(len(x), np.nan))
            else:
                rows.append(np.asarray(metric(judge, candidate), dtype=float))
            done += 1
            report(done, steps)
        scores[metric.name] = np.stack(rows)
    curves = {
        c.name: (judge.curve(c, "morf"), judge.curve(c, "lerf"))
        for c in candidates
        if {(c.name, "morf"), (c.name, "lerf")} <= judge._curves.keys()
    }
    said = "a function of the output" if callable(target) else "predicted output" if target is None else "given target"
    return Evaluation(
        methods=tuple(wanted), metrics=tuple(asked), scores=scores, curves=curves,
        share=judge.counts / units_read.count, relevance={c.name: c.units.numpy() for c in candidates},
        reference=repr(stand_in), units=units_read.kind, model=subject.kind, target=said, rows=len(x),
        evaluations=game.evaluations, seed=seed, costs=costs, notes=tuple(notes),
    )  # fmt: skip


def _check_categories(subject: Scored, stand_in: Reference) -> None:
    if subject.categories and stand_in.numbers_only:
        raise ArgumentError(
            f"reference {stand_in!r} makes numbers, and columns {listed(subject.categories, 3)} hold categories: take "
            "'marginal' or 'nearest', which are values of other rows"
        )


def _fractions(given: Sequence[float] | int) -> np.ndarray:
    if isinstance(given, int) and 0 < given <= 10_000:
        points = np.linspace(0, 1, given)
    else:
        points = numbers_in(given, "fractions").astype(float)
    if points.ndim != 1 or len(points) < 2 or (points < 0).any() or (points > 1).any():
        raise ArgumentError("fractions must be at least two numbers from 0 to 1, or how many points from 0 to 1")
    return np.unique(points)


def _masks(given: Any, x: Tensor) -> Tensor | None:
    if given is None:
        return None
    masks = torch.as_tensor(numbers_in(given, "masks")).bool()
    if x.dim() == 4 and masks.shape == (len(x), *x.shape[2:]):
        masks = masks[:, None].expand(x.shape)
    if masks.shape != x.shape:
        raise ArgumentError(f"masks have the shape {tuple(masks.shape)}, and the rows {tuple(x.shape)}")
    return masks


def _labels(given: Any, x: Tensor) -> np.ndarray | None:
    if given is None:
        return None
    try:
        labels = np.asarray(given)
    except ValueError as error:
        raise ArgumentError(f"labels= must be one value a row, not {shown(given)}") from error
    if labels.shape[:1] != x.shape[:1]:
        raise ArgumentError(f"labels have the shape {labels.shape}, and there are {len(x)} rows")
    return labels
