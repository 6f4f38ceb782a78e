"""Columns of categories as inputs that can be moved: for each one a group of columns of 0 and 1, one a category.

What a model makes of such a column is a choice among as many rows of numbers as there are categories, and so a linear
function of the group: a linear model stays linear, a network a network, with the same value at every row of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight.classical import NeuralizedModel
from backlight.classical.layers.composition import Member
from backlight.classical.layers.contributed import Contributed
from backlight.constraints import Constraint
from backlight.errors import ArgumentError, DataError, UnsupportedModel, listed
from backlight.tables import frame_like

__all__ = ["Categories", "Expanded"]


class Categories:
    """The columns of a network's table, and those that inputs have instead.

    Attributes
    ----------
    network : NeuralizedModel
    known : dict of column of the table to its categories and their codes
    names : tuple of str
        Of the inputs' columns: ``country=de`` for a category.
    places : list of lists of int
        For each column of the table the inputs' columns that it became.
    groups : list of lists of int
        Exactly one of each is 1.
    """

    def __init__(self, network: NeuralizedModel) -> None:
        self.network = network
        codes, front = network.front.vocabulary.codes, network.front
        self.known = {j: {v: c for v, c in codes[j].items() if v is not None and v == v} for j in sorted(codes)}
        names: list[str] = []
        self.places: list[list[int]] = []
        for j, name in enumerate(front.names):
            told = [f"{name}={level}" for level in self.known[j]] if j in self.known else [name]
            self.places.append(list(range(len(names), len(names) + len(told))))
            names += told
        self.names = tuple(names)
        self.groups = [self.places[j] for j in self.known]

    def coded(self, x: Tensor) -> Tensor:
        """Inputs (n, d) as the network's columns."""
        columns = []
        for j, places in enumerate(self.places):
            if j in self.known:
                codes = torch.tensor(list(self.known[j].values()), dtype=x.dtype)
                columns.append(codes[x[:, places].argmax(1)])
            else:
                columns.append(x[:, places[0]])
        return torch.stack(columns, 1)

    def encode(self, X: Any) -> Tensor:
        """Rows of a table as inputs; rows of as many numbers as inputs have are taken as such.

        Raises
        ------
        DataError
            A category that the model has not seen.
        """
        width = len(self.names)
        if isinstance(X, Tensor | np.ndarray) and X.ndim == 2 and X.shape[1] == width and X.dtype != object:
            return torch.as_tensor(np.asarray(X, dtype=float))
        raw = self.network.encode(X).double()
        out = torch.zeros(len(raw), width, dtype=torch.float64)
        for j, places in enumerate(self.places):
            if j not in self.known:
                out[:, places[0]] = raw[:, j]
                continue
            hit = raw[:, j, None] == torch.tensor(list(self.known[j].values()), dtype=raw.dtype)
            if not bool(hit.any(1).all()):
                row, name = int(torch.nonzero(~hit.any(1))[0]), self.network.feature_names[j]
                raise DataError(f"row {row} has no category in column {name!r} that the model has seen: leave it out")
            out[:, places] = hit.double()
        return out

    def told(self) -> list[tuple[str, list[int], list[Any] | None]]:
        """Each column of the table by name, the inputs' columns that it became, and its categories."""
        names = self.network.front.names
        return [
            (name, places, list(self.known[j]) if j in self.known else None)
            for j, (name, places) in enumerate(zip(names, self.places, strict=True))
        ]

    def rules(self, constraints: Sequence[Any], bounds: Any, center: np.ndarray | None) -> list[Any]:
        """Rules on columns of categories as rules on the inputs' columns.

        Raises
        ------
        ArgumentError
            What only numbers can keep.
        """
        told = {name: places for name, places, levels in self.told() if levels is not None}
        for name in told.keys() & set(bounds if isinstance(bounds, Mapping) else ()):
            raise ArgumentError(self._no_number("bounds=", name, told[name]))
        out: list[Any] = []
        for rule in constraints:
            columns = rule.columns if isinstance(rule, Constraint) else ()
            for name in told.keys() & set(columns):
                if rule.kind != "fix":
                    raise ArgumentError(self._no_number(f"{rule.kind}()", name, told[name]))
                out += self._kept(rule, name, told[name], center)
            rest = tuple(column for column in columns if column not in told)
            if rest or not columns:
                out.append(replace(rule, columns=rest) if columns else rule)
        return out

    def _no_number(self, where: str, name: str, places: Sequence[int]) -> str:
        levels = listed([repr(self.names[i]) for i in places])
        return (
            f"{where} is for numbers, and {name!r} holds categories: fix({name!r}, value=…) keeps one, and "
            f"rules on single ones take the columns of 0 and 1 {levels}"
        )

    def _kept(self, rule: Constraint, name: str, places: list[int], center: np.ndarray | None) -> list[Constraint]:
        """One category's column is 1, the others are 0."""
        levels = [self.names[i].removeprefix(f"{name}=") for i in places]
        if rule.word is None and (rule.numbers or center is None):
            raise ArgumentError(f"fix({name!r}) needs value= to be one of {listed(map(repr, levels))}")
        if rule.word is not None and rule.word not in levels:
            raise ArgumentError(f"{rule.word!r} is no category of {name!r}: choose from {listed(map(repr, levels))}")
        kept = int(np.argmax(np.asarray(center)[places])) if rule.word is None else levels.index(rule.word)
        return [Constraint("fix", (i,), (float(k == kept),)) for k, i in enumerate(places)]

    @staticmethod
    def table(x: np.ndarray, told: Sequence[tuple[str, list[int], list[Any] | None]]) -> dict[str, np.ndarray]:
        """Inputs (n, d) in the columns of the table, by what `told` gave; an input without a solution has none."""
        out: dict[str, np.ndarray] = {}
        for name, places, levels in told:
            if levels is None:
                out[name] = x[:, places[0]].astype(float)
                continue
            best = [None if np.isnan(row).any() else levels[int(np.argmax(row))] for row in x[:, places]]
            out[name] = np.array(best, dtype=object)
        return out

    def frame(self, x: np.ndarray) -> Any:
        """Inputs as a table that the model takes."""
        return frame_like(self.table(x, self.told()), "numpy")


class Expanded(nn.Module):
    """From inputs to elements: a column of categories counts by what its categories are made of.

    Parameters
    ----------
    categories : Categories

    Raises
    ------
    UnsupportedModel
        What is made of a category depends on other columns too.
    """

    def __init__(self, categories: Categories) -> None:
        super().__init__()
        network = categories.network
        way = network.front.pullback
        alone = way.shares is None and not any(isinstance(part, Member | Contributed) for part in network.modules())
        if not alone:
            name = network.front.names[next(iter(categories.known))]
            raise UnsupportedModel(
                f"column {name!r} holds categories, and this {network.kind} multiplies columns or encodes them in its "
                "members: encode the table before the model (columns of 0 and 1) and give constraints=[onehot(...)]"
            )
        self.inner = network.front.elements
        self.numbers = [(j, places[0]) for j, places in enumerate(categories.places) if j not in categories.known]
        base = torch.zeros(len(categories.places), dtype=torch.float64)
        for j, codes in categories.known.items():
            base[j] = next(iter(codes.values()))
        self.base = base
        owner = way.owner.cpu()
        self.parts: list[tuple[list[int], Tensor, Tensor]] = []  # columns of inputs, elements, what each category makes
        for j, codes in categories.known.items():
            mine = torch.nonzero(owner == j)[:, 0]
            rows = base.repeat(len(codes), 1)
            rows[:, j] = torch.tensor(list(codes.values()), dtype=torch.float64)
            with torch.no_grad():
                self.parts.append((categories.places[j], mine, self.inner(rows)[:, mine].double()))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, d) to (n, E)."""
        coded = self.base.to(x).repeat(len(x), 1)
        to, of = [j for j, _ in self.numbers], [i for _, i in self.numbers]
        coded = coded.index_copy(1, torch.tensor(to, dtype=torch.long), x[:, of])
        e: Tensor = self.inner(coded)
        for places, mine, made in self.parts:
            e = e.index_copy(1, mine, x[:, places] @ made.to(e))
        return e
