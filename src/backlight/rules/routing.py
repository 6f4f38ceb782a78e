r"""Rules for operators without weights: activations, sums and averages, maxima, products.

Sums and averages are linear, and sharing in proportion to the summands is what a modified gradient does by itself.
Maxima: winner take all sends relevance where the maximum came from (ties share as the framework's gradient does).
Products: of a gate and a signal, the signal takes all (Arras, Montavon, Müller, Samek, "Explaining recurrent neural
network predictions in sentiment analysis", WASSA 2017, and for squeeze-and-excitation the same argument); of two
signals, each takes half (Achtibat et al., "AttnLRP", ICML 2024, proposition 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from backlight.arguments import checked
from backlight.errors import ArgumentError
from backlight.rules.base import Rule

__all__ = ["Pass", "Proportional", "SignalTakesAll", "SoftmaxShare", "Uniform", "WinnerTakesAll"]


@dataclass(frozen=True, slots=True, repr=False)
class Pass(Rule):
    """R_in = R_out, unit by unit: the rule of activations, and of any layer with as many outputs as inputs."""

    @property
    def fits(self) -> frozenset[str]:
        return frozenset({"activation", "linear"})


@checked
@dataclass(frozen=True, slots=True, repr=False)
class Proportional(Rule):
    r"""Sums, averages, average pooling: :math:`R_j = a_j w_j / (z + \epsilon\,\mathrm{sign} z)\, R`.

    Parameters
    ----------
    epsilon : float
        None is needed in modified-gradient form; other software adds an absolute one here.
    """

    epsilon: float = 0.0
    absolute: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < float("inf"):
            raise ArgumentError(f"epsilon must be zero or positive and finite, not {self.epsilon!r}")
        if not self.absolute:
            raise ArgumentError("a sum has no weights to scale epsilon with: Proportional has an absolute epsilon")

    @property
    def fits(self) -> frozenset[str]:
        return frozenset({"sum"})


@dataclass(frozen=True, slots=True, repr=False)
class WinnerTakesAll(Rule):
    """The relevance of a maximum goes where the maximum came from."""

    @property
    def fits(self) -> frozenset[str]:
        return frozenset({"maximum", "pool"})


@checked
@dataclass(frozen=True, slots=True, repr=False)
class SoftmaxShare(Rule):
    r"""Max pooling as a soft maximum: :math:`R_j = e^{\beta a_j} / \sum_{j'} e^{\beta a_{j'}} R` over the window.

    Parameters
    ----------
    beta : float
        β → ∞ is `WinnerTakesAll` with ties shared equally, β = 0 equal parts.
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta < float("inf"):
            raise ArgumentError(f"beta must be zero or positive and finite, not {self.beta!r}")

    @property
    def fits(self) -> frozenset[str]:
        return frozenset({"pool"})


@dataclass(frozen=True, slots=True, repr=False)
class SignalTakesAll(Rule):
    """Of a product gate × signal, the signal takes all relevance and the gate counts as a constant."""

    @property
    def fits(self) -> frozenset[str]:
        return frozenset({"product"})


@dataclass(frozen=True, slots=True, repr=False)
class Uniform(Rule):
    """Of a product of two signals, each takes half."""

    @property
    def fits(self) -> frozenset[str]:
        return frozenset({"product"})
