"""From rows to one `Explanation`, for every kind of model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backlight.attribution.lrp import TARGET_LINE
from backlight.attribution.requested import Targets
from backlight.errors import ConservationError, DataError, warn
from backlight.explanation import Attribution, Explanation
from backlight.explanation.versions import versions
from backlight.models.protocol import Model, Query

__all__ = ["Progress", "assembled", "explained", "reporter"]

Progress = Callable[[int, int], None]

# more than this share of a score lost without a bias to name is worth a word
_WORTH_A_WORD = 0.01
# what rounding may leave of a score whose parts must add up
_ROUNDING = 1e-9


def explained(
    model: Model,
    X: Any,
    targets: Targets,
    query: Query,
    *,
    batch_size: int | str = "auto",
    feature_names: Sequence[str] | None = None,
    progress: bool | Progress | None = None,
) -> Explanation:
    """Explain rows batch by batch, by a query that the model has prepared.

    Raises
    ------
    ArgumentError, DataError, ConservationError
    """
    report = reporter(progress)
    rows, stream = model.batches(X, batch_size, feature_names, query)
    targets.check_rows(rows)
    parts: list[Attribution] = []
    done = 0
    for batch in stream:
        parts.append(model.attribute(batch, targets.take(done, batch.rows), query))
        done += batch.rows
        report(done, max(done, rows or 0))
    return assembled(model, parts, query)


def assembled(model: Model, parts: Sequence[Attribution], query: Query) -> Explanation:
    """The attributions of all batches as one explanation, checked for what their method promises.

    Raises
    ------
    DataError, ConservationError
    """
    found = Attribution.joined(parts)
    ex = Explanation(
        values=found.values,
        output=found.output,
        base_values=found.base_values,
        data=found.data,
        feature_names=found.feature_names,
        output_names=found.names,
        target=found.target,
        method=found.method,
        dims=(*found.dims, "target") if found.several else found.dims,
        provenance={
            "model": model.kind,
            "seed": query.seed,
            "versions": versions(),
            **found.facts,
            **({} if query.counted_from is None else {"reference": query.counted_from}),
        },
        ledger=found.ledger,
        annotations=found.annotations,
        layers=found.layers,
        labels=found.labels,
        kind=found.kind,
    )
    check_conservation(ex, found.promise, query.strict)
    return ex


def check_conservation(ex: Explanation, promise: str, strict: bool) -> None:
    """Say where relevance was lost.

    Parameters
    ----------
    ex : Explanation
    promise : {"sum", "ledger", "none"}
        Whether the values and the base value make up the score; or every layer books what its bias keeps of it, and
        nothing else is kept; or no such thing holds of the method.
    strict : bool
        Raise where that does not hold. What a ledger shows is otherwise a warning.

    Raises
    ------
    ConservationError
    DataError
        When values are not finite.
    """
    if promise == "ledger" and not np.isfinite(ex.values).all():
        row = int(np.argwhere(~np.isfinite(ex.values))[0][0])
        raise DataError(
            f"row {row} has values that are not finite: the network's own numbers overflow, or a rule divides by next "
            "to nothing; double precision or a rule with a stabiliser helps"
        )
    said = None
    if promise == "ledger":
        said = _lost_in_a_layer(ex)
    elif promise == "sum" and strict:
        said = _left_unexplained(ex)
    if said is None:
        return
    if strict:
        raise ConservationError(said)
    warn(said)


def _left_unexplained(ex: Explanation) -> str | None:
    # A score near zero is the difference of its parts, whose rounding it inherits.
    axes = tuple(range(1, ex.values.ndim - (ex.output.ndim - 1)))
    parts = np.abs(np.asarray(ex.output)) + np.abs(ex.base_values) + np.abs(ex.values).sum(axes)
    off = (np.abs(ex.residual) - _ROUNDING * parts).reshape(len(ex), -1)
    row, k = np.unravel_index(int(np.argmax(off)), off.shape)
    if off[row, k] <= 0:
        return None
    residual, score = (np.asarray(part).reshape(len(ex), -1)[row, k] for part in (ex.residual, ex.output))
    return (
        f"row {row}: {residual:.3g} of the score {score:.6g} is left unexplained (more than 1e-9 of its parts): leave "
        "strict out to see it in ex.residual"
    )


def _lost_in_a_layer(ex: Explanation) -> str | None:
    if ex.ledger is None or not ex.ledger.layers:
        return None
    bias = ex.ledger.bias if ex.ledger.bias is not None else np.zeros_like(ex.ledger.absorbed)
    rest = np.abs(ex.ledger.absorbed - bias)
    axes = tuple(range(1, ex.values.ndim - (ex.output.ndim - 1)))
    # a score of next to nothing may be the difference of much, and has its rounding
    flow = np.maximum(np.abs(np.asarray(ex.output)), np.abs(ex.ledger.entering).max(0))
    rest = np.where(rest <= _ROUNDING * np.abs(ex.values).sum(axes), 0.0, rest)
    share = rest / np.maximum(flow, np.finfo(float).tiny)
    worst = np.unravel_index(int(np.argmax(share)), share.shape)
    if share[worst] <= _WORTH_A_WORD:
        return None
    layer, rule = ex.ledger.layers[worst[0]], ex.ledger.rules[worst[0]]
    if (layer, rule) == TARGET_LINE:
        return (
            f"row {int(worst[1])}: the target is not linear in the output, and {share[worst]:.3g} times the score is "
            "not in its gradient: explain a logit or a difference of logits, or see ex.ledger for what is missing"
        )
    return (
        f"row {int(worst[1])}: {layer!r} ({rule}) kept or added {share[worst]:.3g} times the score: zero "
        "denominators or a rule that does not conserve; ex.ledger has every layer"
    )


def reporter(progress: bool | Progress | None, of: str = "rows", every: int = 1) -> Progress:
    """What is called with how many of something are done, and how many there are."""
    if callable(progress):
        return progress
    if not progress:
        return lambda done, total: None

    def to_terminal(done: int, total: int) -> None:
        if done % every == 0 or done >= total:
            sys.stderr.write(f"\r{done} of {total} {of}" + ("\n" if done >= total else ""))
            sys.stderr.flush()

    return to_terminal
