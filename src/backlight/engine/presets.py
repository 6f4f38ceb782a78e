"""Composites by name, and the automatic choice.

Every preset leaves batch normalisations that could not be folded, activations, sums and pooling to their own ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from backlight.engine.composites import Composite, Place, RuleOrChoice, Selector, convolution, dense, first
from backlight.errors import ArgumentError, listed
from backlight.explanation.faces import as_words
from backlight.rules import AlphaBeta, Box, Epsilon, Flat, Gamma, LinearRule, Proportional, Rule, Zero, ZPlus

__all__ = ["PRESETS", "composite", "follows_attention"]


def _layer(place: Place) -> bool:
    return place.role == "linear"


def _sums(epsilon: float, absolute: bool) -> list[tuple[Callable[[Place], bool], Rule]]:
    """With an absolute ε, sums and averages have it too, as in other software."""

    def sums(place: Place) -> bool:
        return place.role == "sum"

    return [(sums, Proportional(epsilon))] if absolute else []


def _preset(entries: Sequence[tuple[Selector, RuleOrChoice]], name: str, attention: str = "constant") -> Composite:
    """A composite for any network: its entries need not apply to this one."""
    return Composite(entries, name, attention, optional=True)


def epsilon(epsilon: float = 1e-6, *, absolute: bool = False) -> Composite:
    """ε everywhere."""
    return _preset([(_layer, Epsilon(epsilon, absolute=absolute)), *_sums(epsilon, absolute)], "epsilon")


def epsilon_plus(epsilon: float = 1e-6, *, absolute: bool = False) -> Composite:
    """z⁺ in convolutions, ε in dense layers."""
    return _preset(
        [
            (convolution, ZPlus(absolute=absolute, epsilon=epsilon if absolute else 0.0)),
            (dense, Epsilon(epsilon, absolute=absolute)),
            *_sums(epsilon, absolute),
        ],
        "epsilon-plus",
    )


def epsilon_plus_flat(epsilon: float = 1e-6, *, absolute: bool = False) -> Composite:
    """`epsilon_plus` with the flat rule in the first layer."""
    return _preset(
        [
            (first, Flat(epsilon=epsilon if absolute else 0.0, absolute=absolute)),
            *epsilon_plus(epsilon, absolute=absolute).entries,
        ],
        "epsilon-plus-flat",
    )


def epsilon_gamma_box(
    low: Any = None, high: Any = None, gamma: float = 0.25, epsilon: float = 1e-6, *, absolute: bool = False
) -> Composite:
    """Box in the first layer, γ in convolutions, ε in dense layers. Without bounds, each row's own range."""
    own = epsilon if absolute else 0.0
    return _preset(
        [
            (first, Box(low, high, epsilon=own, absolute=absolute)),
            (convolution, Gamma(gamma, epsilon=own, absolute=absolute)),
            (dense, Epsilon(epsilon, absolute=absolute)),
            *_sums(epsilon, absolute),
        ],
        "epsilon-gamma-box",
    )


def epsilon_alpha2_beta1(epsilon: float = 1e-6, *, absolute: bool = False) -> Composite:
    """α = 2, β = 1 in convolutions, ε in dense layers."""
    return _preset(
        [
            (convolution, AlphaBeta(2.0, 1.0, epsilon=epsilon if absolute else 0.0, absolute=absolute)),
            (dense, Epsilon(epsilon, absolute=absolute)),
            *_sums(epsilon, absolute),
        ],
        "epsilon-alpha2-beta1",
    )


def gamma_decreasing(low: Any = None, high: Any = None) -> Composite:
    """Box in the first convolution, γ falling from 1 to 0.01 over the convolutions, LRP-0 in dense layers.

    γ is :math:`10^{-2 s/(S-1)}` in stage s of S, where a stage is the convolutions of one spatial resolution: in VGG-16
    :math:`10^0, 10^{-0.5}, 10^{-1}, 10^{-1.5}, 10^{-2}`. Without bounds, each row's own range.
    """

    def falling(place: Place) -> LinearRule:
        return Gamma(10 ** (-2 * max(place.stage, 0) / max(place.stages - 1, 1)))

    return _preset([(first, Box(low, high)), (convolution, falling), (dense, Zero())], "gamma-decreasing")


def attnlrp() -> Composite:
    """LRP-0 in layers, and relevance through attention weights: AttnLRP.

    Products of two signals share half-half, norms hold their spread constant, softmax goes by its gradient; what its
    constant keeps stands in the ledger. Source: Achtibat et al., ICML 2024.
    """
    return _preset([(_layer, Zero())], "attnlrp", "gradient")


def cplrp() -> Composite:
    """LRP-0 in layers, attention weights and spreads of norms as constants: CP-LRP. Source: Ali et al., ICML 2022."""
    return _preset([(_layer, Zero())], "cplrp")


class _Presets(Mapping[str, Callable[..., Composite]]):
    """``backlight.presets["epsilon-gamma-box"](low, high)`` is a composite; ``rules="…"`` takes the name itself."""

    def __init__(self, makers: dict[str, Callable[..., Composite]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> Callable[..., Composite]:
        return self._makers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def _repr_html_(self) -> str:
        return as_words(repr(self))

    def __repr__(self) -> str:
        return f"presets: {', '.join(self._makers)}"


PRESETS = _Presets(
    {
        "epsilon": epsilon,
        "epsilon-plus": epsilon_plus,
        "epsilon-plus-flat": epsilon_plus_flat,
        "epsilon-gamma-box": epsilon_gamma_box,
        "epsilon-alpha2-beta1": epsilon_alpha2_beta1,
        "gamma-decreasing": gamma_decreasing,
        "attnlrp": attnlrp,
        "cplrp": cplrp,
    }
)


def automatic(places: list[Place]) -> tuple[Composite, str]:
    """The composite for a network by what it holds, and why."""
    convolves, attends = any(map(convolution, places)), any(map(_of_attention, places))
    if convolves and attends:
        # in dense layers nothing is divided by, as in any network that attends
        return _preset([(convolution, Gamma(0.25)), (_layer, Zero())], "auto"), (
            "γ = 0.25 in convolutions, LRP-0 in dense layers, attention weights as constants, as the network attends"
        )
    if convolves:
        chosen = [(convolution, Gamma(0.25)), (dense, Epsilon())]
        return _preset(chosen, "auto"), (
            "γ = 0.25 in convolutions, ε in dense layers, since the network has convolutions"
        )
    if attends:
        # nothing is divided by, so that an ε would only lose relevance
        return _preset([(_layer, Zero())], "auto"), "LRP-0 with attention weights as constants, as the network attends"
    return _preset([(_layer, Epsilon())], "auto"), "ε, since the network has no convolutions"


def _of_attention(place: Place) -> bool:
    return place.role in ("attention", "lookup") or (place.role == "product" and place.op in _MATRIX_PRODUCTS)


_MATRIX_PRODUCTS = frozenset({"matmul", "bmm", "baddbmm", "einsum"})


def follows_attention(rules: Any) -> bool:
    """Whether a choice of rules sends relevance to attention weights."""
    if isinstance(rules, str) and rules in PRESETS:
        rules = PRESETS[rules]()
    return isinstance(rules, Composite) and rules.attention == "gradient"


def composite(rules: Any, places: list[Place]) -> tuple[Composite, str]:
    """What ``rules=`` means for a network, and why.

    Parameters
    ----------
    rules : "auto", a preset's name, Composite, or Rule
    places : list of Place
    """
    if isinstance(rules, Composite):
        return rules, ""
    if isinstance(rules, Rule):
        return Composite([(_anywhere, rules)], repr(rules)), ""
    if rules == "auto":
        return automatic(places)
    if isinstance(rules, str) and rules in PRESETS:
        return PRESETS[rules](), ""
    raise ArgumentError(
        f"rules={rules!r} is not known: give 'auto', a preset ({listed(PRESETS)}), a backlight.Composite or a rule "
        "of backlight.rules"
    )


def _anywhere(place: Place) -> bool:
    # a batch normalisation that stands alone is part of the layer behind it, and keeps the gradient
    return place.role != "scale"
