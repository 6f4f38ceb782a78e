"""The score of rows without some of their features: what every metric asks, counted and in batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from math import comb

import numpy as np
import torch
from torch import Tensor

from backlight._evaluate.scored import Scored
from backlight._evaluate.units import Units
from backlight.errors import DataError
from backlight.references import Fill, Reference

__all__ = ["Game"]

# numbers at once in a batch of filled rows
_BUDGET = 2**22


@dataclass(slots=True, eq=False)
class Game:
    """f(x without a set of units), averaged over the reference's draws.

    Attributes
    ----------
    scored : Scored
        The model, with the target of each row fixed as it is on the whole rows.
    x : Tensor of shape (n, *features)
    units : Units
    reference : Reference
    seed : int
    evaluations : int
        How many rows the model has scored so far.
    """

    scored: Scored
    x: Tensor
    units: Units
    reference: Reference
    seed: int
    evaluations: int = 0
    _fill: Fill = field(init=False)
    _ends: dict[bool, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._fill = self.reference.bind(self.x, self.scored.encode, self.seed)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def whole(self) -> Tensor:
        """F of the rows as they are, (n,)."""
        return self._end(True)

    @property
    def empty(self) -> Tensor:
        """F of the rows with everything taken away, (n,)."""
        return self._end(False)

    def _end(self, kept: bool) -> Tensor:
        if kept not in self._ends:
            rows = torch.arange(len(self))
            if kept:
                self._ends[kept] = self._score(self.x.clone(), rows)
            else:
                keep = torch.zeros(len(self), self.units.count, dtype=torch.bool)
                self._ends[kept] = self._filled(rows, keep)
        return self._ends[kept]

    def value(self, rows: Tensor, keep: Tensor) -> Tensor:
        """F of rows (m,), by position, with the units kept that ``keep``, (m, count), says; shape (m,).

        Nothing kept and everything kept are scored once a row, for all explanations.
        """
        out = torch.empty(len(rows), dtype=torch.float64)
        all_kept, none_kept = keep.all(1), ~keep.any(1)
        if bool(all_kept.any()):
            out[all_kept] = self.whole[rows[all_kept]]
        if bool(none_kept.any()):
            out[none_kept] = self.empty[rows[none_kept]]
        rest = ~(all_kept | none_kept)
        if bool(rest.any()):
            out[rest] = self._filled(rows[rest], keep[rest])
        return out

    def _filled(self, rows: Tensor, keep: Tensor) -> Tensor:
        found = torch.zeros(len(rows), dtype=torch.float64)
        step = max(1, _BUDGET // max(1, self.x[0].numel()))
        for group in self._groups(keep):
            for part in torch.split(group, step):
                features = self.units.features(rows[part], keep[part])
                for draw in range(self.reference.draws):
                    found[part] += self._score(self._fill(rows[part], features, draw), rows[part])
        return found / self.reference.draws

    def _groups(self, keep: Tensor) -> list[Tensor]:
        """Rows that can be scored together: of equal length, where positions are dropped."""
        if self.reference.name != "dropped":
            return [torch.arange(len(keep))]
        counts = keep.sum(1)
        return [torch.nonzero(counts == c)[:, 0] for c in torch.unique(counts)]

    def _score(self, x: Tensor, rows: Tensor) -> Tensor:
        step = max(1, _BUDGET // max(1, x[0].numel()) // 4)
        parts = [
            self.scored.score(x[start : start + step], rows[start : start + step]).double().cpu()
            for start in range(0, len(x), step)
        ]
        self.evaluations += len(x)
        out = torch.cat(parts)
        if not bool(torch.isfinite(out).all()):
            row = int(rows[int(torch.nonzero(~torch.isfinite(out))[0])])
            raise DataError(
                f"row {row} with some features taken away has a score that is not finite: choose a reference that "
                "lies within the model's support"
            )
        return out

    def sets(self, sizes: np.ndarray, per_size: int, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
        """Sets of units that are taken away: which units are kept, (sets, count), and the size of each set, (sets,).

        All sets of a size where there are at most ``per_size``, else so many random ones, which may repeat.
        """
        count = self.units.count
        gone = []
        for size in sizes.tolist():
            if comb(count, size) <= per_size:
                chosen = np.array(list(combinations(range(count), size)), dtype=int)
            else:
                chosen = rng.random((per_size, count)).argsort(1)[:, :size]
            gone.append(np.zeros((len(chosen), count), dtype=bool))
            np.put_along_axis(gone[-1], chosen, True, axis=1)
        without = np.concatenate(gone)
        return torch.as_tensor(~without), without.sum(1)
