"""Which rule runs where: composites, and the selectors of their entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from backlight.errors import ArgumentError, listed
from backlight.rules import Rule

__all__ = ["Composite", "Place", "convolution", "dense", "first"]


@dataclass(frozen=True, slots=True)
class Place:
    """What a selector may look at.

    Attributes
    ----------
    name : str
        As in the plan: the module's path, with the operator where the module has several.
    path : str
        Of the module.
    op : str
        The operator: ``conv2d``, ``linear``, ``max_pool2d`` …
    role : str
        linear, scale, activation, sum, move, maximum, pool, product, norm, attention, lookup.
    module : type or None
    shape : tuple of int or None
        Of one row of the output.
    first : bool
        A layer with weights, and none lies between it and an input.
    depth, depths : int
        How many layers with weights lie before it on the longest path, and in the whole network.
    stage, stages : int
        Convolutions of one spatial resolution form a stage, counted from the input; −1 elsewhere.
    """

    name: str
    path: str
    op: str
    role: str
    module: type | None
    shape: tuple[int, ...] | None
    first: bool
    depth: int
    depths: int
    stage: int
    stages: int


Selector = str | type | Callable[..., Any]
RuleOrChoice = Rule | Callable[[Place], Rule]


def first(place: Place) -> bool:
    """The layers that touch the input: in the graph, not in the order in which modules were registered."""
    return place.first and place.role == "linear"


def convolution(place: Place) -> bool:
    """Convolutions of any kind, as modules or as functions."""
    return place.role == "linear" and place.op.startswith("conv")


def dense(place: Place) -> bool:
    """Fully connected layers, as modules or as functions."""
    return place.role == "linear" and not place.op.startswith("conv")


# what a module class means for the same operator called as a function
_FUNCTIONS: dict[type, tuple[str, ...]] = {
    nn.Conv1d: ("conv1d",),
    nn.Conv2d: ("conv2d",),
    nn.Conv3d: ("conv3d",),
    nn.MaxPool2d: ("max_pool2d", "max_pool2d_with_indices"),
    nn.AvgPool2d: ("avg_pool2d",),
}


@dataclass(frozen=True, slots=True)
class Composite:
    """Rules by place: the first entry that matches and whose rule fits the operator decides.

    Parameters
    ----------
    entries : sequence of (selector, rule)
        A selector is a pattern of names (``"features.*"``), a module class (``torch.nn.Conv2d``; the same operator
        called as a function counts), an operator name of torch (``torch.nn.functional.linear``), or a function of a
        `Place`, such as ``backlight.first``. In the place of a rule may stand a function from the `Place` to a rule.
    name : str
        For the plan.
    attention : {"constant", "gradient"}
        Attention weights are constants, so that relevance goes to the values alone; or are followed to queries and
        keys, softmax by its gradient.

    Examples
    --------
    >>> import torch
    >>> from backlight.rules import Epsilon, Gamma
    >>> Composite([("features.*", Gamma(0.25)), (torch.nn.Linear, Epsilon(1e-6))]).entries[0]
    ('features.*', Gamma())
    """

    entries: Sequence[tuple[Selector, RuleOrChoice]]
    name: str = "composite"
    attention: str = "constant"

    def __post_init__(self) -> None:
        if self.attention not in ("constant", "gradient"):
            raise ArgumentError(f"attention={self.attention!r} is not known: choose 'constant' or 'gradient'")
        entries = tuple((selector, rule) for selector, rule in self.entries)
        for selector, rule in entries:
            if not isinstance(rule, Rule) and not callable(rule):
                raise ArgumentError(f"{rule!r} is not a rule; an entry of a composite is (selector, rule)")
            if not isinstance(selector, str) and not callable(selector):
                raise ArgumentError(
                    f"{selector!r} is not a selector: give a pattern of names, a module class, or a function of a place"
                )
        object.__setattr__(self, "entries", entries)

    def choose(self, places: Sequence[Place], fits: Sequence[Callable[[Rule], bool]]) -> list[tuple[Rule, str] | None]:
        """For each place its rule and the reason, or ``None`` where no entry applies.

        Raises
        ------
        ArgumentError
            A pattern of names that matches nothing: it would be silently without effect.
        """
        found: list[tuple[Rule, str] | None] = []
        used = set()
        for place, fit in zip(places, fits, strict=True):
            chosen = None
            for position, (selector, rule) in enumerate(self.entries):
                if not _matches(selector, place):
                    continue
                used.add(position)
                actual = rule if isinstance(rule, Rule) else rule(place)
                if not isinstance(actual, Rule):
                    raise ArgumentError(f"the entry for {_said(selector)} gave {actual!r}, which is not a rule")
                if fit(actual):
                    chosen = (actual, _said(selector))
                    break
            found.append(chosen)
        for position, (selector, _) in enumerate(self.entries):
            if isinstance(selector, str) and position not in used:
                raise ArgumentError(
                    f"no place of the network is named {selector!r}: the names are "
                    f"{listed([place.name for place in places], 12)}"
                )
        return found


def _matches(selector: Selector, place: Place) -> bool:
    if isinstance(selector, str):
        return fnmatchcase(place.name, selector) or fnmatchcase(place.path, selector)
    if isinstance(selector, type):
        if place.module is not None and issubclass(place.module, selector):
            return True
        return dense(place) if selector is nn.Linear else place.op in _FUNCTIONS.get(selector, ())
    module = getattr(selector, "__module__", None) or ""
    if module.startswith("torch") or type(selector).__name__ in (
        "builtin_function_or_method",
        "OpOverloadPacket",
        "OpOverload",
    ):
        return str(getattr(selector, "_opname", getattr(selector, "__name__", ""))).rstrip("_") == place.op
    return bool(selector(place))


def _said(selector: Selector) -> str:
    if isinstance(selector, str):
        return repr(selector)
    return str(getattr(selector, "__name__", selector))
