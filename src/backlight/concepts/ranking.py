"""Channels, neurons and heads ordered over a data set, with the examples that drive them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight.arguments import checked
from backlight.attribution.conditional import asked_axis, channel_axis
from backlight.concepts.conditional import asked
from backlight.errors import ArgumentError
from backlight.explanation.faces import as_table
from backlight.rules import relevance

__all__ = ["Ranking", "ranking"]

_SHOWN = 10


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """What the channels of a place do for a target, row by row.

    Attributes
    ----------
    layer : str
    relevance : array of shape (n, channels)
        Relevance at the channel, summed over positions; the sum over channels is all that passes the place.
    activation : array of shape (n, channels)
        The largest value at the channel.
    target : str
    """

    layer: str
    relevance: np.ndarray
    activation: np.ndarray
    target: str

    @property
    def order(self) -> np.ndarray:
        """Channels, those of the largest mean absolute relevance first."""
        return np.argsort(-np.abs(self.relevance).mean(0), kind="stable")

    @checked
    def top(self, k: int = _SHOWN) -> list[tuple[int, float]]:
        """The first channels of `order`, each with its mean relevance."""
        return [(int(c), float(self.relevance[:, c].mean())) for c in self.order[:k]]

    @checked
    def examples(self, channel: int, k: int = 8, *, by: str = "relevance") -> np.ndarray:
        """The rows in which a channel has most relevance, or the largest value with ``by="activation"``.

        Raises
        ------
        ArgumentError
        """
        if by not in ("relevance", "activation"):
            raise ArgumentError(f"by={by!r} is not known: choose 'relevance' or 'activation'")
        if k < 1:
            raise ArgumentError(f"k={k}: ask for at least one row")
        if not 0 <= channel < self.relevance.shape[1]:
            raise ArgumentError(f"channel {channel} is out of range: there are {self.relevance.shape[1]}")
        column = (self.relevance if by == "relevance" else self.activation)[:, channel]
        return np.argsort(-column, kind="stable")[:k]

    def _repr_html_(self) -> str:
        rows = [
            [str(channel), f"{mean:+.4g}", ", ".join(map(str, self.examples(channel, 4)))]
            for channel, mean in self.top()
        ]
        title, *_ = repr(self).splitlines()
        return as_table(title, ["channel", "mean relevance", "most in rows"], rows)

    def __repr__(self) -> str:
        lines = [f"{self.layer}: {self.relevance.shape[1]} channels over {len(self.relevance)} rows, for {self.target}"]
        lines += [
            f"  {channel:>5}  mean relevance {mean:+.4g}, most in rows {', '.join(map(str, self.examples(channel, 4)))}"
            for channel, mean in self.top()
        ]
        return "\n".join(lines)


@checked
def ranking(
    model: nn.Module,
    X: Any,
    layer: str,
    target: Any = None,
    *,
    axis: int | None = None,
    rules: Any = "auto",
    output: Any = None,
    batch_size: int | str = "auto",
) -> Ranking:
    """Order the channels of a place by their relevance over a data set, and find the rows that drive each.

    Parameters
    ----------
    model : torch.nn.Module
    X : as in `backlight.explain`
    layer : str
        A place (see `backlight.plan`): a layer of neurons, maps of a convolution, the heads of an attention.
    target : optional
        One target, as in `backlight.explain`.
    axis : int, optional
        Which axis of the place's value counts channels; see `conditional`.
    rules, output, batch_size
        As in `backlight.explain`.

    Raises
    ------
    ArgumentError

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double()
    >>> found = ranking(net, torch.randn(20, 3, dtype=torch.float64), "1", target=0)
    >>> found.relevance.shape, len(found.examples(2, k=3))
    ((20, 4), 3)
    """
    opened, query, way, targets = asked(model, target, rules, False, output, None)
    if len(targets.items) != 1:
        raise ArgumentError("a ranking is for one target: rank for the targets one after the other")
    rows, stream = opened.batches(X, batch_size, None, query)
    targets.check_rows(rows)
    shares: list[Tensor] = []
    largest: list[Tensor] = []
    done = 0
    name = ""
    for batch in stream:
        began = way.begun(batch, targets.take(done, batch.rows), [layer])
        if list(began.places) != [layer]:
            raise ArgumentError(f"{layer!r} is a pattern: name one place")
        index = began.places[layer]
        value = began.run.kept[index]
        found, _ = began.run.relevance(began.seeds.gradient, last=True, until=(index,))
        flow = relevance(value, found[index])[0] if index in found else torch.zeros_like(value)
        along = channel_axis(began.plan, index, value) if axis is None else asked_axis(axis, value)
        shares.append(flow.movedim(along, 1).flatten(2).sum(2) if flow.dim() > 2 else flow)
        largest.append(value.movedim(along, 1).flatten(2).amax(2) if value.dim() > 2 else value)
        name = began.seeds.names[0]
        done += batch.rows
    flows, values = (torch.cat(parts).double().cpu().numpy() for parts in (shares, largest))
    return Ranking(layer, flows, values, name)
