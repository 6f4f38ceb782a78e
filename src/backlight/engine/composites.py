"""Which rule runs where: composites, and the selectors of their entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from backlight.arguments import checked, shown
from backlight.errors import ArgumentError, listed
from backlight.explanation.faces import as_table
from backlight.rules import Rule

__all__ = ["Choice", "Composite", "Place", "convolution", "dense", "first"]


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


@checked
@dataclass(frozen=True, slots=True, repr=False)
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
    optional : bool
        Whether entries may apply nowhere, as those of a preset that serves every network. Otherwise such an entry is
        named in the plan, with a warning, or an error under ``strict=True``.

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
    optional: bool = False

    def __post_init__(self) -> None:
        if self.attention not in ("constant", "gradient"):
            raise ArgumentError(f"attention={self.attention!r} is not known: choose 'constant' or 'gradient'")
        pairs = self.entries
        if not isinstance(pairs, list | tuple) or not all(
            isinstance(one, list | tuple) and len(one) == 2 for one in pairs
        ):
            raise ArgumentError(f"a composite is a list of pairs (selector, rule), not {shown(pairs)}")
        entries = tuple((selector, rule) for selector, rule in pairs)
        for selector, rule in entries:
            if not isinstance(rule, Rule) and not callable(rule):
                raise ArgumentError(f"{rule!r} is not a rule; an entry of a composite is (selector, rule)")
            if not isinstance(selector, str) and not callable(selector):
                raise ArgumentError(
                    f"{selector!r} is not a selector: give a pattern of names, a module class, or a function of a place"
                )
        object.__setattr__(self, "entries", entries)

    def __repr__(self) -> str:
        said = ", ".join(f"{_said(selector)} → {_said(rule)}" for selector, rule in self.entries)
        return f"Composite {self.name!r}: {said}"

    def _repr_html_(self) -> str:
        rows = [[_said(selector), _said(rule)] for selector, rule in self.entries]
        return as_table(f"Composite {self.name!r}, the first entry that fits decides", ["place", "rule"], rows)

    def choose(self, places: Sequence[Place], fits: Sequence[Callable[[Rule], bool]]) -> Choice:
        """For each place its rule, and what is to be said of entries that have none of the effect they ask for.

        Raises
        ------
        ArgumentError
            A pattern of names that matches nothing: it would be silently without effect.
        """
        rules: list[tuple[Rule, str] | None] = []
        seen = [_Seen() for _ in self.entries]
        for place, fit in zip(places, fits, strict=True):
            chosen: tuple[Rule, str] | None = None
            for (selector, rule), entry in zip(self.entries, seen, strict=True):
                if not _matches(selector, place):
                    continue
                entry.matched = True
                if chosen is not None:
                    continue
                actual = rule if isinstance(rule, Rule) else rule(place)
                if not isinstance(actual, Rule):
                    raise ArgumentError(f"the entry for {_said(selector)} gave {actual!r}, which is not a rule")
                if fit(actual):
                    chosen, entry.ran = (actual, _said(selector)), True
                else:
                    entry.barred.append((place, actual))
            rules.append(chosen)
        for (selector, _), entry in zip(self.entries, seen, strict=True):
            if isinstance(selector, str) and not entry.matched:
                raise ArgumentError(
                    f"no place of the network is named {selector!r}: the names are "
                    f"{listed([place.name for place in places], 12)}"
                )
        left = {place.name for place, choice in zip(places, rules, strict=True) if choice is None}
        words = [self._word(selector, entry, left) for (selector, _), entry in zip(self.entries, seen, strict=True)]
        return Choice(rules, [word for word in words if word])

    def _word(self, selector: Selector, entry: _Seen, left: set[str]) -> str:
        """What is to be said of one entry, empty where it does what it asks for.

        A pattern may take in activations and pools beside the layers that it is for. A rule is kept from running
        where it names operators of that kind and cannot do this one, or where a layer is left to the default.
        """
        # a rule for the whole network stands behind a selector of our own
        named = "the rule" if _said(selector).startswith("_") else f"the entry for {_said(selector)}"
        barred = [
            (place, rule)
            for place, rule in entry.barred
            if not entry.ran or place.role in rule.fits or (place.role == "linear" and place.name in left)
        ]
        if entry.barred and (barred if not self.optional else [one for one in barred if one[0].role in one[1].fits]):
            # an operator of the kind that the rule is for says most
            place, rule = next((one for one in barred if one[0].role in one[1].fits), barred[0])
            more = f" and {len(barred) - 1} more" if len(barred) > 1 else ""
            return f"{named}: {rule!r} cannot run at {place.name!r} ({place.op}){more}, where another rule runs"
        if entry.ran or self.optional:
            return ""
        return f"{named} " + ("has no effect: earlier entries decide" if entry.matched else "matches no place")


@dataclass(slots=True)
class _Seen:
    """Of an entry: whether a place matched, whether its rule runs anywhere, and where it cannot."""

    matched: bool = False
    ran: bool = False
    barred: list[tuple[Place, Rule]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a composite decides for a network.

    Attributes
    ----------
    rules : list of (Rule, str) or None
        For each place its rule and the reason; ``None`` where no entry applies.
    words : list of str
        Of entries that apply nowhere, or to places where their rule cannot run.
    """

    rules: list[tuple[Rule, str] | None]
    words: list[str]


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


def _said(selector: Selector | RuleOrChoice) -> str:
    if isinstance(selector, str | Rule):
        return repr(selector)
    return str(getattr(selector, "__name__", selector))
