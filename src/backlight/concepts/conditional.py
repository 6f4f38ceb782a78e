"""Explanations conditional on parts of a network's inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from backlight.arguments import checked
from backlight.attribution.conditional import Conditional, Part, asked_axis, channel_axis
from backlight.attribution.inputs import Batch
from backlight.attribution.lrp import LayerwiseRelevance
from backlight.attribution.requested import Targets, read_targets
from backlight.errors import ArgumentError
from backlight.explanation import Explanation
from backlight.models import Query
from backlight.models.explained import assembled
from backlight.models.torch import TorchModel, as_arrays

__all__ = ["asked", "conditional", "each_channel"]


@checked
def conditional(
    model: nn.Module,
    X: Any,
    conditions: Mapping[str, Part] | Sequence[Mapping[str, Part]],
    target: Any = None,
    *,
    start: str | None = None,
    axis: int | None = None,
    rules: Any = "auto",
    strict: bool = False,
    output: Any = None,
    reference: Any = None,
    batch_size: int | str = "auto",
) -> Explanation:
    """Relevance that passes through chosen channels, heads or directions: concept relevance propagation.

    Parameters
    ----------
    model : torch.nn.Module
    X : as in `backlight.explain`
    conditions : list of dict
        Each is one map: by place (see `backlight.plan`) a channel, several, a mask of the shape of one row's value
        there, or `Directions`. Several places: what passes all of them. `each_channel` makes one for every channel.
    target : optional
        One target, as in `backlight.explain`.
    start : str, optional
        A place that is explained in place of the output: what makes the channels of the condition active. A layer and
        the ReLU behind it are one place.
    axis : int, optional
        Which axis of the places' values counts channels, the rows being axis 0. By default the heads of attention and
        the maps of a convolution (axis 1), and the last of everything else.
    rules, strict, output, reference, batch_size
        As in `backlight.explain`.

    Returns
    -------
    Explanation
        ``values`` of shape (n, *features, conditions); ``output`` (n, conditions) is the relevance that passes each
        condition, so that of a score whose relevance all passes a place, conditions that divide the place add up to the
        explanation. Relevance that goes around the place is in none of them.

    Raises
    ------
    ArgumentError, UnsupportedModel

    Notes
    -----
    All conditions share one forward pass, and the way from the output to the highest place.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double()
    >>> X = torch.randn(5, 3, dtype=torch.float64)
    >>> ex = conditional(net, X, [{"1": [0, 1]}, {"1": [2, 3]}], target=0)
    >>> ex.shape, ex.output_names
    ((5, 3, 2), ('1: 0, 1', '1: 2, 3'))
    """
    several = isinstance(conditions, Sequence) and not isinstance(conditions, str)
    found = [conditions] if isinstance(conditions, Mapping) else list(conditions) if several else []
    if not found or not all(isinstance(one, Mapping) and one for one in found):
        raise ArgumentError("conditions are dicts of parts by place, one a map: give at least one, none of them empty")
    opened, query, way, targets = asked(model, target, rules, strict, output, reference)
    explain = Conditional(way, found, start, axis)
    rows, stream = opened.batches(X, batch_size, None, query)
    targets.check_rows(rows)
    parts, done = [], 0
    for batch in stream:
        taken = targets.take(done, batch.rows)
        facts = way.facts(batch, taken)
        method = str(facts.pop("method")).replace("lrp", "conditional relevance", 1)
        parts.append(as_arrays(explain(batch, taken), batch, method, "ledger", facts))
        done += batch.rows
    return assembled(opened, parts, query)


@checked
def each_channel(model: nn.Module, X: Any, layer: str, *, axis: int | None = None) -> list[dict[str, Part]]:
    """A condition for every channel of a place.

    Parameters
    ----------
    model : torch.nn.Module
    X : as in `backlight.explain`
        The first batch says how many channels there are.
    layer : str
    axis : int, optional
        See `conditional`.

    Raises
    ------
    ArgumentError
    """
    opened, query, way, _ = asked(model, None, "auto", False, None, None)
    _, stream = opened.batches(X, "auto", None, query)
    value, found = value_at(way, next(iter(stream)).take(0, 1), layer, axis)
    return [{layer: k} for k in range(value.shape[found])]


def value_at(way: LayerwiseRelevance, batch: Batch, layer: str, axis: int | None) -> tuple[torch.Tensor, int]:
    """A place's value, and which of its axes counts channels.

    Raises
    ------
    ArgumentError
        The name is a pattern, or names nothing.
    """
    plan, _, run, places = way.ran(batch, [layer])
    if list(places) != [layer]:
        raise ArgumentError(f"{layer!r} is a pattern: name one place")
    value = run.kept[places[layer]]
    return value, channel_axis(plan, places[layer], value) if axis is None else asked_axis(axis, value)


def asked(
    model: nn.Module, target: Any, rules: Any, strict: bool, output: Any, reference: Any
) -> tuple[TorchModel, Query, LayerwiseRelevance, Targets]:
    """A module that is ready to be explained by relevance, and what is asked of it."""
    opened = TorchModel(model)
    query = opened.prepare(Query("lrp", rules, reference, None, False, strict, None, output, 0, None, "separate"))
    way = LayerwiseRelevance(opened.module, rules, strict, None, reference, (), output)
    return opened, query, way, read_targets(target)
