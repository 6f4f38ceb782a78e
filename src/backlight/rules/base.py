r"""What every propagation rule has in common.

A message to a unit says how much relevance it has, as the sum of two parts: a **modified gradient** c, for the
relevance :math:`R_j = a_j c_j`, and relevance r outright. Rules that are proportional to their input (ε, γ, αβ …) send
c, for which reshaping, adding and concatenating need nothing; rules that are not (flat, w², box) send r, since they
give relevance to units with :math:`a_j = 0` too.

A rule is frozen and compares by value. `LinearRule.bind` is called once, when a network is planned: it prepares
modified weights and chooses the cheapest exact form for what is known of the layer.

All that is known of a rule stands on it: what it fits, what messages it sends, what it costs, its formula in symbols.
`named` registers it, and every law of the tests, `derive` and `audit` find it by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from backlight.arguments import checked
from backlight.errors import ArgumentError
from backlight.rules.maps import LinearMap

__all__ = [
    "AUDITED",
    "NAMED_RULES",
    "BoundRule",
    "Facts",
    "LinearRule",
    "Message",
    "Norms",
    "Rule",
    "Symbolic",
    "as_gradient",
    "divide",
    "dot",
    "named",
    "relevance",
    "row_sums",
]


Norms = tuple[Tensor, Tensor | None] | None


class Message(NamedTuple):
    """What one unit is told: R = a · gradient + direct, each (targets, n, *units) or absent."""

    gradient: Tensor | None = None
    direct: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the planner has proved about a linear layer.

    Attributes
    ----------
    nonnegative : bool
        Its inputs are never negative: they come from a ReLU, a pooling of such, a sum of such …
    gated : bool
        No relevance arrives where its output is negative: a ReLU follows.
    """

    nonnegative: bool = False
    gated: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class Rule(ABC):
    """A propagation rule. ``fits`` names the roles of the operators that it can be used for."""

    @property
    @abstractmethod
    def fits(self) -> frozenset[str]:
        """Roles: linear, activation, sum, maximum, pool (a maximum over windows), product."""

    def strictly(self) -> Rule:
        """The rule where nothing may be left open: what it would only warn of is an error."""
        return self

    def __repr__(self) -> str:
        told = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(told)})"


@dataclass(frozen=True, slots=True)
class Symbolic:
    """A rule in symbols, on one linear region: a unit hands its modified gradient on with a factor for each input.

    Attributes
    ----------
    title : str
        With ``{name}`` for each parameter.
    parameters : mapping of str to float
    signs : bool
        Whether the signs of contributions and sums have to be known.
    share : function of a unit and the parameters by name to a factor for each input
        The unit has ``weights``, ``inputs``, ``bias``, ``z``, ``sign`` (of z), ``own`` (which inputs reach it),
        ``part(positive)`` (the weights of the contributions of one sign, and their sum), ``zero`` and ``root``.
    """

    title: str
    parameters: Mapping[str, float]
    signs: bool
    share: Callable[..., list[Any]]


@dataclass(frozen=True, slots=True)
class BoundRule(ABC):
    """A rule made ready for one layer.

    Attributes
    ----------
    layer : LinearMap
    cost : str
        In forward (F) and transposed (B) products of the layer, the forward pass included.
    """

    layer: LinearMap
    cost: str

    @abstractmethod
    def pull(self, a: Tensor, z: Tensor, message: Message) -> tuple[Message, Tensor | float]:
        """Relevance of the inputs a from that of the outputs z, and what the bias keeps, (targets, n).

        Where the layer is gated, z may hold relu(z) instead: no relevance arrives where they differ.
        """


@dataclass(frozen=True, slots=True, repr=False)
class LinearRule(Rule):
    r"""A rule for layers z = W a + b.

    Parameters
    ----------
    epsilon : float
        Stabiliser of denominators. By default it is relative: unit k gets
        :math:`\epsilon\sqrt{\lVert w_k\rVert^2\lVert a\rVert^2 + b_k^2}` with all weights of its channel and its own
        inputs, which bounds :math:`|z_k|` and makes the rule blind to the units of the data and to the scale of a
        neuron.
    absolute : bool
        Add ε itself instead, as most of the literature's software does.
    bias : {"absorb", "exclude"}
        The bias is neuron 0: it takes part in the denominators, modified as the weights are, and what it keeps stands
        in the ledger (default); or it is left out, and the inputs share all relevance by :math:`z_k - b_k`. `Epsilon`
        can distribute it too.
    """

    epsilon: float = field(default=0.0, kw_only=True)
    absolute: bool = field(default=False, kw_only=True)
    bias: str = field(default="absorb", kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < float("inf"):
            raise ArgumentError(f"epsilon must be zero or positive and finite, not {self.epsilon!r}")
        if self.bias not in self.biases:
            raise ArgumentError(f"bias must be one of {', '.join(self.biases)}, not {self.bias!r}")

    # the share of relevance that it may lose besides what biases and stabilisers keep
    leak: ClassVar[float] = 0.0
    # whether an explanation by it says nothing but what the function says where it has a derivative
    function_alone: ClassVar[bool] = False

    def emits_direct(self, layer: LinearMap) -> bool:
        """Whether it may send relevance outright, and not as a modified gradient in proportion to the input."""
        return True

    def symbolic(self) -> Symbolic | None:
        """The rule in symbols; None where it has no such formula. A subclass with another formula has another one."""
        return None

    @property
    def biases(self) -> tuple[str, ...]:
        """The conventions that the rule knows for a bias."""
        return ("absorb", "exclude")

    @property
    def fits(self) -> frozenset[str]:
        return frozenset({"linear"})

    def prepare(self, layer: LinearMap, facts: Facts) -> BoundRule:
        """Prepare the rule for one layer, with its convention for the bias."""
        if self.bias == "exclude" and layer.bias is not None:
            # z − b has a sign of its own: nothing is known of where relevance arrives
            inner = self.bind(replace(layer, bias=None), replace(facts, gated=False))
            return _WithoutBias(layer, inner.cost, inner)
        return self.bind(layer, facts)

    @abstractmethod
    def bind(self, layer: LinearMap, facts: Facts) -> BoundRule:
        """Prepare the rule for one layer, whose bias takes part."""

    def stabiliser(self, layer: LinearMap, a: Tensor, norms: Norms) -> Tensor | float:
        """ε of each unit; ``norms`` is what `norms` prepared."""
        if norms is None:
            return self.epsilon
        weights, bias = norms
        scale = layer.gather(a.square())
        return (scale * weights if bias is None else torch.addcmul(bias, scale, weights)).sqrt_()

    def norms(self, layer: LinearMap) -> Norms:
        """ε² Σ w² and ε² b² of each unit, for a relative ε."""
        if self.absolute or self.epsilon == 0.0:
            return None
        factor = self.epsilon**2
        bias = None if layer.bias is None else layer.per_unit(layer.bias.square() * factor)
        return layer.squared_norm() * factor, bias


@dataclass(frozen=True, slots=True)
class _WithoutBias(BoundRule):
    inner: BoundRule

    def pull(self, a: Tensor, z: Tensor, message: Message) -> tuple[Message, Tensor | float]:
        assert self.layer.bias is not None
        incoming = Message(direct=relevance(z, message))
        return self.inner.pull(a, z - self.layer.per_unit(self.layer.bias), incoming)


class NamedRules(Mapping[str, "LinearRule"]):
    """Rules by name, made when they are first asked for."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[type[LinearRule], dict[str, Any]]] = {}

    def __getitem__(self, name: str) -> LinearRule:
        cls, options = self._kept[name]
        return cls(**options)

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, name: str, cls: type[LinearRule], options: dict[str, Any]) -> None:
        """A rule and its options."""
        self._kept[name] = cls, options

    def remove(self, name: str) -> None:
        """Forget a rule."""
        del self._kept[name]


NAMED_RULES = NamedRules()
AUDITED: list[str] = []

C = TypeVar("C", bound=type[LinearRule])


def named(name: str, *, audits: bool = True, **options: Any) -> Callable[[C], C]:
    """Register a rule, with options, under a name: the laws run over it, and `derive` and `audit` know it.

    Parameters
    ----------
    name : str
    audits : bool
        Whether ``audit(methods=["lrp:name"])`` may use it for all layers.
    **options
        Of the rule that is meant by the name.
    """

    def register(cls: C) -> C:
        checked(cls)
        NAMED_RULES.add(name, cls, options)
        if audits:
            AUDITED.append(name)
        return cls

    return register


def relevance(z: Tensor, message: Message) -> Tensor:
    """R = z · gradient + direct."""
    gradient, direct = message
    if gradient is None:
        assert direct is not None
        return direct
    product = gradient * z
    return product if direct is None else product.add_(direct)


def as_gradient(z: Tensor, message: Message) -> Tensor:
    """The message as a modified gradient: relevance that came outright is divided by z, 0/0 is 0."""
    gradient, direct = message
    if direct is not None:
        share = divide(direct, z)
        gradient = share if gradient is None else gradient + share
    assert gradient is not None
    return gradient


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, 0 where the denominator is 0."""
    return (numerator / denominator).masked_fill_(denominator == 0, 0.0)


def row_sums(x: Tensor) -> Tensor:
    """Σ over units, (targets, n, *units) to (targets, n)."""
    return x.flatten(2).sum(2) if x.dim() > 2 else x


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Σ over units, (targets, n): x is (targets, n, *units), y (n, *units)."""
    if x.dim() == 2:
        return x * y
    if x.dtype != y.dtype:
        widest = torch.promote_types(x.dtype, y.dtype)
        x, y = x.to(widest), y.to(widest)
    if x.dim() != 3:
        x, y = x.flatten(2), y.reshape(y.shape[0], -1)
    product: Tensor = torch.linalg.vecdot(x, y)
    return product
