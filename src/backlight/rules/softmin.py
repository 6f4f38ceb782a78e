r"""Rules for the layer pair "distance, then soft-min pool".

The pool computes :math:`o = -\log\sum_j \alpha_j e^{-D_j}` from scaled squared distances
:math:`D_j = \gamma\lVert x-u_j\rVert^2 = \gamma\sum_i \delta_{ji}^2` and log-weights on the simplex. With the
pool's weights :math:`p_j = \alpha_j e^{-D_j}/\sum_k \alpha_k e^{-D_k}` two identities hold exactly:

* :math:`o = E_p[D] + \mathrm{KL}(p\,\|\,\alpha)` (Gibbs), so a rule that hands each anchor :math:`p_j D_j`
  leaves the entropic term to no feature;
* :math:`o` is linear along the direction of equal change of all :math:`D_j`, so a first-order Taylor
  expansion at the root on that line is exact and hands anchor :math:`j` the relevance :math:`p_j\,o`.

Every rule here is :math:`R_i = t \sum_j w_j\, \gamma\,\delta_{ji}^2` with its own weights :math:`w_j` and scalar
:math:`t`.

References
----------
Kauffmann, Müller, Montavon, "Towards explaining anomalies: a deep Taylor decomposition of one-class models",
Pattern Recognition 101 (2020). The rules `Free`, `Pool` and `Stable` follow from the identities above.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from backlight.arguments import checked
from backlight.errors import ArgumentError

__all__ = ["SOFTMIN_RULES", "Free", "OneClassDTD", "Pool", "SoftMinRule", "Stable"]


@dataclass(frozen=True, slots=True)
class SoftMinRule(ABC):
    """How a soft-min pool hands its score on.

    Attributes
    ----------
    leave_self_out : bool
        A row that is itself one anchor (a training row that became a support vector) is explained by all the
        others: its own anchor is left out, once, and what its presence takes off the score is part of
        ``base_values``. Without this the row's nearest anchor is itself, at distance zero, where no feature
        can carry relevance.
    """

    leave_self_out: bool = field(default=True, kw_only=True)

    @property
    @abstractmethod
    def name(self) -> str:
        """The rule's short name."""

    @property
    @abstractmethod
    def stabiliser(self) -> float | None:
        """The τ of w_j = p_j / (D_j + τ E_p[D]); ``None`` stands for w_j = p_j."""

    @property
    def conserves(self) -> bool:
        """Whether the features receive the whole score of the pool (if not, the KL term is base)."""
        return True


@checked
@dataclass(frozen=True, slots=True)
class Stable(SoftMinRule):
    r"""The default: w_j = p_j / (D_j + τ E_p[D]), t = o / Σ_j w_j D_j.

    τ → 0 is the published `OneClassDTD`, τ → ∞ is `Pool`. A small τ keeps the shares of the published rule and
    stays finite where an anchor with much weight is at distance zero.

    Parameters
    ----------
    tau : float, default 0.01
    """

    tau: float = 0.01

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tau) and self.tau > 0):
            raise ArgumentError(
                f"tau must be a positive number, not {self.tau}: tau -> 0 is the rule 'dtd', infinity 'pool'"
            )

    @property
    def name(self) -> str:
        """The rule's short name."""
        return "stable"

    @property
    def stabiliser(self) -> float:
        """The field ``tau``."""
        return self.tau


@checked
@dataclass(frozen=True, slots=True)
class OneClassDTD(SoftMinRule):
    """The published deep Taylor rule: w_j = p_j / D_j, t = o.

    An anchor at distance zero has no direction to hand its relevance to; its share is then found in
    ``base_values``.
    """

    @property
    def name(self) -> str:
        """The rule's short name."""
        return "dtd"

    @property
    def stabiliser(self) -> float:
        """None is added to the distance."""
        return 0.0


@checked
@dataclass(frozen=True, slots=True)
class Pool(SoftMinRule):
    """In proportion through the pool: w_j = p_j, t = o / E_p[D]."""

    @property
    def name(self) -> str:
        """The rule's short name."""
        return "pool"

    @property
    def stabiliser(self) -> None:
        """Weights are the pool's own."""


@checked
@dataclass(frozen=True, slots=True)
class Free(SoftMinRule):
    """Only what distances can carry: w_j = p_j, t = 1; the entropic term KL(p‖α) stays in ``base_values``."""

    @property
    def name(self) -> str:
        """The rule's short name."""
        return "free"

    @property
    def stabiliser(self) -> None:
        """Weights are the pool's own."""

    @property
    def conserves(self) -> bool:
        """The KL term is left to the base."""
        return False


SOFTMIN_RULES: dict[str, type[SoftMinRule]] = {
    "stable": Stable,
    "dtd": OneClassDTD,
    "pool": Pool,
    "free": Free,
}
