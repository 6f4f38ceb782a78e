"""References that are other rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backlight.errors import ArgumentError
from backlight.references.base import Encode, Fill, Reference, known_rows, reference, spread

__all__ = ["Marginal", "Nearest"]


@reference("marginal")
class Marginal(Reference):
    """Whole rows drawn at random: what is taken away gets its values of another row, all from the same one.

    Parameters
    ----------
    X : rows of the model's kind
    draws : int
        How many are drawn for each explained row; scores are averaged over them.
    """

    numbers_only = False

    def __init__(self, X: Any, draws: int = 4) -> None:
        if draws < 1:
            raise ArgumentError(f"draws must be at least 1, not {draws}")
        self.rows, self.draws = X, draws

    def population(self) -> Any:
        return self.rows

    def bind(self, x: Tensor, encode: Encode, seed: int) -> Fill:
        known = known_rows(self.rows, x, encode)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(known), (len(x), self.draws), generator=generator).to(x.device)
        return lambda rows, keep, draw: spread(keep, x[rows], known[drawn[rows, draw]])


@reference("nearest")
class Nearest(Reference):
    """The nearest other rows, in the features' own standard deviations: what a row could be without being odd.

    Parameters
    ----------
    X : rows of the model's kind
    k : int
        How many; scores are averaged over them. A row that equals the explained one does not count.
    """

    numbers_only = False

    def __init__(self, X: Any, k: int = 1) -> None:
        if k < 1:
            raise ArgumentError(f"k must be at least 1, not {k}")
        self.rows, self.draws = X, k

    def bind(self, x: Tensor, encode: Encode, seed: int) -> Fill:
        known = known_rows(self.rows, x, encode)
        scale = known.flatten(1).double().std(0, correction=0)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        distance = torch.cdist(
            x.flatten(1).double() / scale, known.flatten(1).double() / scale,
            compute_mode="donot_use_mm_for_euclid_dist",
        )  # fmt: skip
        distance = distance.masked_fill(distance == 0, float("inf"))
        if int(torch.isfinite(distance).sum(1).min()) < self.draws:
            raise ArgumentError(f"the reference has fewer than {self.draws} rows that differ from each explained row")
        near = distance.topk(self.draws, largest=False).indices
        return lambda rows, keep, draw: spread(keep, x[rows], known[near[rows, draw]])
