"""Sums of trees as subjects: forests, boosting, isolation forests, behind steps that take columns one by one or not.

They are constant on boxes. A column of numbers comes apart into intervals on which no split changes, a column of
categories into its categories: `choices` finds them, by the model's own arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight._prototype.categories import Categories
from backlight._prototype.subject import LAYERS, Subject
from backlight.classical import NeuralizedModel
from backlight.classical.families.trees import Single
from backlight.classical.frontend.features import Branches, MultiplyAdd, Pick, ShiftDivide
from backlight.classical.frontend.preprocessing import Impute, OneHot
from backlight.classical.frontend.transformers import Lookup, Original
from backlight.classical.layers.composition import Member
from backlight.classical.layers.tree_table import TreeTable
from backlight.classical.layers.trees import Trees
from backlight.errors import ArgumentError, UnsupportedModel
from backlight.targets import Seen

__all__ = ["EnsembleSubject", "ensemble_of"]

_RISING = ("PowerTransformer", "QuantileTransformer", "Binarizer", "KBinsDiscretizer")


@dataclass(frozen=True, slots=True)
class TreesOf:
    """The trees of a network, the modules before them, and the column that each of their elements is made from."""

    table: TreeTable
    bias: np.ndarray
    elements: nn.Sequential
    owner: np.ndarray


def ensemble_of(network: NeuralizedModel, model: Any) -> EnsembleSubject:
    """The subject of a network made of trees.

    Raises
    ------
    UnsupportedModel
        Its score is no sum of trees over single columns.
    """
    trees = _trees_of(network)
    if trees is None:
        raise UnsupportedModel(
            f"the score {network.score.name!r} of this {network.kind} is no sum of trees over single columns: it is "
            "constant on boxes that are not known; look at its top rows in your data"
        )
    return EnsembleSubject(network, trees, model)


def _trees_of(network: NeuralizedModel) -> TreesOf | None:
    """The trees that a network's score is a sum of; None where it is anything else."""
    layer: Any = network.layer
    elements: Any = network.front.elements
    while isinstance(layer, Member):
        layer, elements = layer.inner, layer.elements
    if not isinstance(layer, Trees) or layer.pullback.shares is not None:
        return None
    return TreesOf(layer.table, layer.bias, elements, layer.pullback.owner.cpu().numpy())


class EnsembleSubject(Subject):
    """A sum of trees.

    Inputs are the table's columns of numbers, and for each column of categories one column of 0 and 1 a category.

    Attributes
    ----------
    network : NeuralizedModel
    trees : TreesOf
    categories : Categories
    levels : dict of column of the table to numbers
        Columns of numbers that are encoded as categories, and their categories.
    """

    categories: Categories

    def __init__(self, network: NeuralizedModel, trees: TreesOf, original: Any) -> None:
        self.network, self.trees, self.model = network, trees, original
        self.kind, score = network.kind, network.score
        self.outputs = score.outputs.names or (score.name,)
        self.classifies = len(score.outputs.names) > 1
        front = network.front
        self.categories = of = Categories(network)
        self.known, self.places, self.groups, self.names = of.known, of.places, of.groups, of.names
        self.shape = (len(of.names),)
        self.levels: dict[int, np.ndarray] = {}
        for j, kind in enumerate(_columns_seen(trees, len(front.names))):
            if isinstance(kind, np.ndarray) and j not in self.known:
                self.levels[j] = kind
            elif kind is None and j not in self.known:
                raise UnsupportedModel(
                    f"column {front.names[j]!r} passes a step before the trees that neither rises with it nor tells "
                    "categories apart: encode the table before the model is fitted"
                )

    def elements(self, x: np.ndarray) -> np.ndarray:
        """What the splits look at, as they compare it, (n, E)."""
        with torch.no_grad():
            e = self.trees.elements(self.categories.coded(torch.as_tensor(x)))
        with np.errstate(over="ignore"):
            return self.trees.table.rounded(e.numpy())

    def see(self, x: Tensor, layers: Any = (), output: bool = True) -> Seen:
        """See `Subject.see`."""
        if layers:
            raise ArgumentError(f"a {self.kind} has no layers by name: targets are its outputs {self.outputs}")
        units = torch.as_tensor(self.trees.table.score(self.elements(x.detach().numpy())) + self.trees.bias)
        return Seen(units @ torch.as_tensor(self.directions).T)

    @property
    def directions(self) -> np.ndarray:
        """What each unit counts in each output, (outputs, units)."""
        given = self.network.score.outputs.directions
        return np.eye(self.trees.table.values.shape[1]) if given is None else np.asarray(given)

    @property
    def decides(self) -> bool:
        """See `Subject.decides`."""
        return self.classifies or (self.network.score.name == "outlierness" and self.network.threshold is not None)

    def leads(self, output: Tensor, wanted: int) -> Tensor:
        """See `Subject.leads`; of a detector how far its score is on the normal side of its threshold, (n, 1)."""
        if self.classifies or not self.decides:
            return super().leads(output, wanted)
        assert self.network.threshold is not None
        return float(self.network.threshold) - output

    def encode(self, X: Any) -> Tensor:
        """See `Subject.encode`; each category becomes a column of 0 and 1."""
        return self.categories.encode(X)

    def fingerprint(self) -> str:
        """See `Subject.fingerprint`."""
        return self.network.fingerprint()


Kind = str | np.ndarray | None
"""What an element is: "same" as its column, "monotone" in it, numbers of it that are told apart, or None: else."""


def _columns_seen(trees: TreesOf, n_columns: int) -> list[Kind]:
    """What the elements that splits look at do with each column."""
    kinds = _through(trees.elements, ["same"] * n_columns)
    used = set(trees.table.feature[~trees.table.leaf].tolist())
    found: list[Kind] = ["monotone"] * n_columns
    for e in sorted(used):
        j, kind = int(trees.owner[e]), kinds[e]
        old = found[j]
        if kind is None or old is None:
            found[j] = None
        elif isinstance(kind, np.ndarray):
            found[j] = np.union1d(old, kind) if isinstance(old, np.ndarray) else kind
    return found


def _through(module: nn.Module, kinds: list[Kind]) -> list[Kind]:
    """What elements do with their columns, after one more module."""
    if isinstance(module, nn.Sequential):
        for one in module:
            kinds = _through(one, kinds)
        return kinds
    if isinstance(module, Branches):
        return [kind for branch in module.branches for kind in _through(branch, kinds)]
    if isinstance(module, Pick):
        return [kinds[i] for i in module.positions.tolist()]
    if isinstance(module, ShiftDivide | MultiplyAdd | Single):
        return [_moved(kind) for kind in kinds]
    if isinstance(module, Impute):
        marked = [None if not bool(torch.isnan(m)) else kind for m, kind in zip(module.marks, kinds, strict=True)]
        return [marked[i] for i in [*module.kept.tolist(), *module.indicated.tolist()]]
    if isinstance(module, OneHot):
        told = [_told(kind, module.level[module.element == k]) for k, kind in enumerate(kinds)]
        owner: list[Kind] = [None] * module.width
        for k, place in [*zip(module.element.tolist(), module.target.tolist(), strict=True)]:
            if place < module.width:
                owner[place] = told[k]
        return owner
    if isinstance(module, Lookup):
        return [_told(kinds[k], getattr(module, f"levels{i}")) for i, k in enumerate(module.element)]
    if isinstance(module, Original) and type(module.step).__name__ in _RISING:
        bins = getattr(module.step, "encode", "ordinal")
        return [_moved(k) for k in kinds] if bins == "ordinal" else [None] * int(np.sum(module.step.n_bins_))
    return [None] * _width(module, len(kinds))


def _told(kind: Kind, levels: Tensor) -> Kind:
    """Categories of a column itself; of anything made of it, they cannot be traced back."""
    return levels[~torch.isnan(levels)].numpy() if isinstance(kind, str) and kind == "same" else None


def _moved(kind: Kind) -> Kind:
    """After a step that rises or falls with each element."""
    return "monotone" if isinstance(kind, str) else None


def _width(module: nn.Module, width: int) -> int:
    with torch.no_grad():
        return int(module(torch.zeros(1, width, dtype=torch.float64)).shape[1])


LAYERS[Trees] = ensemble_of
