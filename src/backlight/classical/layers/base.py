r"""What every layer of a neuralized model does: one pass forward, one pass back.

A layer computes outputs :math:`y_u(x)` (one column a unit) and splits each of them, exactly, into the part that
features *carry* and the part that belongs to none:

.. math::  y_u(x) = \text{carried}_u(x) + \text{base}_u(x)

The way back is linear in coefficients :math:`c_u`, one for each unit: it returns a relevance for every column of the
table with

.. math::  \sum_i R_i = \sum_u c_u\,\text{carried}_u .

So layers compose like functions do, and conservation composes with them: a difference of two layers passes back
(+c, −c), a mean c/m, a link :math:`y=\varphi(s)` its secant slope. Rules that do not conserve (they are published ones,
kept under their names) break the last equation only, and the difference is the explanation's ``residual``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from backlight.attribution.reference import Method

__all__ = ["Account", "Coefficients", "EncodedRows", "ForwardPass", "Layer", "Line", "Propagation", "Query", "Wrapper"]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedRows:
    """Rows at three places of the front end.

    Attributes
    ----------
    coded : (n, columns) the table as numbers
    e : (n, E) elements, each made from columns of the table
    z : (n, K) what the model itself takes: an affine map of the elements, or the elements
    """

    coded: Tensor
    e: Tensor
    z: Tensor

    def __len__(self) -> int:
        return len(self.z)

    @staticmethod
    def at(z: Tensor) -> EncodedRows:
        """Rows that are known in the model's space only, such as its anchors."""
        return EncodedRows(z, z, z)

    def take(self, rows: Any) -> EncodedRows:
        """Some of the rows."""
        return EncodedRows(self.coded[rows], self.e[rows], self.z[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """How relevance is wanted.

    Attributes
    ----------
    rule : object
        One of the layer's ``rules``.
    own : (n,) tensor of int, optional
        Which anchor each row is, −1 for none; without it a layer that leaves rows out looks itself.
    usual : EncodedRows, optional
        Rows that count as usual, for scores that say how normal a row is; for linear layers their mean is where
        relevance is counted from.
    level : float, optional
        The value that a regression's relevance is counted from.
    """

    rule: Any
    own: Tensor | None = None
    usual: EncodedRows | None = None
    level: float | None = None


@dataclass(frozen=True, slots=True)
class Propagation:
    """How hidden units are explained, by the relevance engine; see `backlight.explain` for the fields."""

    rules: Any = "auto"
    method: str | Method = "lrp"
    canonical: bool = False
    strict: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Coefficients:
    """What each unit counts in a target: c of shape (n, U), or one unit a row, which most targets are.

    Attributes
    ----------
    given : (n, U) tensor
        Of no rows where ``only`` says all.
    only : (n,) tensor of int, optional
        The unit of each row that counts, once; the others count nothing.
    """

    given: Tensor
    only: Tensor | None = None

    @property
    def dense(self) -> Tensor:
        """All of them, (n, U)."""
        if self.only is None:
            return self.given
        return self.given.new_zeros((len(self.only), self.given.shape[1])).scatter_(1, self.only.unsqueeze(1), 1.0)

    def sum(self, values: Tensor) -> Tensor:
        """Σ_u c_u · values_u, (n,)."""
        if self.only is None:
            return (self.given * values).sum(1)
        return values.gather(1, self.only.unsqueeze(1)).squeeze(1)

    def times(self, matrix: Tensor) -> Tensor:
        """Σ_u c_u · matrix_u, (n, K), of a matrix (U, K)."""
        if self.only is None:
            return self.given @ matrix
        # rows that do not lie side by side are slow to pick
        return matrix.contiguous().index_select(0, self.only)


# a line of a ledger: layer, rule, what entered (n,), what left (n,), what a bias kept of it (n,) where that is known
Line = tuple[str, str, Tensor, Tensor, Tensor | None]


@dataclass(frozen=True, slots=True, eq=False)
class Account:
    """One target's way back.

    Attributes
    ----------
    relevance : (n, columns)
    carried : (n,)
        What of the target's score features carry.
    flow : mapping of layer name to (n,)
    lines : list of Line, optional
        A ledger, where the layer keeps one.
    """

    relevance: Tensor
    carried: Tensor
    flow: Mapping[str, Tensor]
    lines: list[Line] | None = None

    @staticmethod
    def of(got: ForwardPass, c: Coefficients) -> Account:
        """By a pass, for coefficients."""
        carried = c.sum(got.carried)
        flow = {name: carried if part is got.carried else c.sum(part) for name, part in got.flow.items()}
        return Account(got.back(c.dense), carried, flow)


@dataclass(frozen=True, slots=True, eq=False)
class ForwardPass:
    """One pass forward, and the way back.

    Attributes
    ----------
    output, carried : (n, U)
    back : function of coefficients (n, U) to relevance (n, columns)
    others : (n, U)
        The output had the row not been one of the model's own anchors.
    flow : mapping of layer name to (n, U)
        What each layer hands on, in the units of ``output``, last layer first.
    notes : mapping of str to tensors with leading axis n
    account : function of `Coefficients` to an `Account`, optional
        All of the way back for one target: of a layer that keeps a ledger of its own, or that works out only what the
        coefficients ask for.
    facts : mapping
        For the provenance.
    """

    output: Tensor
    carried: Tensor
    back: Callable[[Tensor], Tensor]
    others: Tensor
    flow: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, Tensor] = field(default_factory=dict)
    account: Callable[[Coefficients], Account] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def joined(parts: Sequence[ForwardPass]) -> ForwardPass:
        """The pass of all rows, from those of consecutive rows: at least one."""
        if len(parts) == 1:
            return parts[0]
        sizes, first = [len(part.output) for part in parts], parts[0]

        def back(c: Tensor) -> Tensor:
            return torch.cat([part.back(some) for part, some in zip(parts, torch.split(c, sizes), strict=True)])

        return ForwardPass(
            output=torch.cat([part.output for part in parts]),
            carried=torch.cat([part.carried for part in parts]),
            back=back,
            others=torch.cat([part.others for part in parts]),
            flow={name: torch.cat([part.flow[name] for part in parts]) for name in first.flow},
            notes={name: torch.cat([part.notes[name] for part in parts]) for name in first.notes},
        )

    def scaled(self, output: Tensor, slope: Tensor, others: Tensor | None = None) -> ForwardPass:
        """The pass of a link y = φ(s) with y = base + slope · carried: slope of shape (n, U)."""
        return replace(
            self,
            output=output,
            carried=slope * self.carried,
            back=lambda c: self.back(c * slope),
            account=None,
            others=output if others is None else others,
            flow={name: slope * value for name, value in self.flow.items()},
        )


class Layer(nn.Module):
    """A network from rows to units, with relevance.

    Attributes
    ----------
    rules : mapping of str to object
        The rules it has, by name; the first is the default.
    units : int
    reads : frozenset of str
        Which parts of an `Query` beside the rule it reads: "rows" (``usual``), "level".
    kept_instead : mapping of attribute to value
        What a file has in place of caches, and of what only the original library can do.
    copied : bool
        Whether it is a copy that `rebuilt` made, whose relevance may be that of inner units instead of columns.
    """

    rules: Mapping[str, Any] = {"exact": "exact"}
    units: int = 1
    reads: frozenset[str] = frozenset()
    kept_instead: Mapping[str, Any] = {}
    copied: bool = False

    @property
    def below(self) -> Mapping[str, Layer]:
        """The layers on the columns that this one stands on, by name."""
        found: dict[str, Layer] = {}
        for name, child in self._modules.items():
            if isinstance(child, Layer):
                found[name] = child
            elif isinstance(child, nn.ModuleList):
                found |= {f"{name}.{k}": one for k, one in enumerate(child) if isinstance(one, Layer)}
        return found

    def rebuilt(self, change: Callable[[str, Layer], Layer]) -> Layer:
        """A copy on other layers, which shares all that was learnt: ``change`` says what stands for each of `below`."""
        new: Layer = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.__dict__["_modules"] = dict(self._modules)
        new.__dict__ |= {name: {} for name, instead in self.kept_instead.items() if instead == {}}  # caches
        for name, child in self.below.items():
            first, _, last = name.partition(".")
            if not last:
                new._modules[first] = change(name, child)
                continue
            group = new._modules[first]
            if group is self._modules[first]:
                group = new._modules[first] = nn.ModuleList(group)  # type: ignore[arg-type]
            group._modules[last] = change(name, child)  # type: ignore[union-attr]
        new.copied = True
        return new

    @property
    def made_of(self) -> Mapping[str, int]:
        """What this layer is made of inside, where that is a layer of units with a share of the score: their number."""
        return {}

    def inside(self, name: str, x: EncodedRows, ask: Query) -> Callable[[Tensor], Tensor]:
        """From coefficients (n, U) to the relevance of one of `made_of`, (n, units)."""
        raise KeyError(name)

    @property
    def references(self) -> frozenset[str]:
        """What kinds of reference this layer or one below it reads: "rows", "level"."""
        return frozenset().union(*(layer.reads for layer in self.modules() if isinstance(layer, Layer)))

    @property
    def learnt(self) -> bytes:
        """A digest of what was learnt and is no tensor."""
        return b""

    @property
    def rows(self) -> int:
        """Rows that may go through at once, by the memory that one of them takes."""
        return 8192

    @abstractmethod
    def forward(self, x: EncodedRows) -> Tensor:
        """Outputs, (n, U)."""

    def without(self, x: EncodedRows, own: Tensor) -> Tensor:
        """Outputs had each row not been one of the anchors: ``own`` names that anchor, −1 for none."""
        out: Tensor = self(x)
        return out

    @abstractmethod
    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """Outputs, and the way back."""

    def run_alone(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """As `run`, where nothing stands on this layer: of the pass only output, others, notes and account are read."""
        return self.run(x, ask)

    def activations(self, x: EncodedRows) -> Mapping[str, Tensor]:
        """What is computed on the way, by name, each (n, units): of layers that are two layers in one."""
        return {}

    def self_index(self, x: EncodedRows) -> Tensor:
        """Which anchor each row itself is, −1 for none."""
        return torch.full((len(x),), -1, device=x.z.device)

    def training_rows(self) -> Tensor | None:
        """Rows of the training set that the layer holds as anchors, in the model's space: (M, K)."""
        return None

    def rule(self, rules: Any, method: Any, options: Mapping[str, Any]) -> Any:
        """The rule that a user means by a name or an object, None for what is none of this layer's.

        ``method`` and ``options`` are for layers that the relevance engine explains.
        """
        default = next(iter(self.rules.values()))
        if isinstance(default, Propagation):
            return rules if isinstance(rules, Propagation) else Propagation(rules, method, **options)
        if method != "lrp":
            return None
        if isinstance(rules, str):
            return default if rules == "auto" else self.rules.get(rules)
        return rules if self.accepts(rules) else None

    def accepts(self, rule: Any) -> bool:
        """Whether a rule object is one of this layer's kinds."""
        return any(type(rule) is type(known) for known in self.rules.values() if not isinstance(known, str))


class Wrapper(Layer):
    """A layer on top of one other, with that one's rules and memory."""

    def __init__(self, inner: Layer) -> None:
        super().__init__()
        self.inner, self.rules = inner, inner.rules

    @property
    def rows(self) -> int:
        """As many rows as the inner layer takes."""
        return self.inner.rows

    def activations(self, x: EncodedRows) -> Mapping[str, Tensor]:
        """As the inner layer's."""
        return self.inner.activations(x)
