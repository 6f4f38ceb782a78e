r"""Rules for signed kernel expansions: support vector classifiers and their kin.

In :math:`f = \sum_j \beta_j k(x, u_j) + b` let A be the sum of the positive terms and B that of the negative ones.
Then f = A − B, and :math:`\log A - \log B` is a difference of two soft-min pools
over distances. One positive number a row, the logarithmic mean
:math:`L(A, B) = (A - B) / (\log A - \log B)`, turns it back into the units of ``decision_function``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from backlight.arguments import checked
from backlight.errors import ArgumentError
from backlight.rules.softmin import SoftMinRule, Stable

__all__ = ["EXPANSION_RULES", "GlobalImportance", "Hybrid", "Midpoint", "SignedPools"]


@dataclass(frozen=True, slots=True)
class SignedPools:
    r"""The default: the pool of B less the pool of A, each by a rule for soft-min pools. Conserves.

    :math:`R = L\,(R_B - R_A)`; base: :math:`L\,(\log S_A - \log S_B)` with the sums of the coefficients, which is zero
    where they cancel (the dual constraint of a support vector machine without intercept).
    """

    pools: SoftMinRule = field(default_factory=lambda: Stable(leave_self_out=False))
    name: str = "signed"


@dataclass(frozen=True, slots=True)
class Midpoint:
    r"""Linear units between pairs of anchors, each with its midpoint as reference; pool weights p, q of A and B.

    :math:`R_i = L\gamma\,(\sum_j q_j (x-u_j)_i^2 - \sum_j p_j (x-u_j)_i^2)`. What the
    pools' entropies take of f is base.
    Bley et al., "Explaining distance-based classifiers" (arXiv 2508.03913, 2025).
    """

    name: str = "midpoint"


@dataclass(frozen=True, slots=True)
class GlobalImportance:
    r"""The same with one reference for all units.

    :math:`R_i = 2L\gamma\,(x-\tilde x)_i\,(\sum_j p_j u_j - \sum_j q_j u_j)_i`, where :math:`\tilde x` is zero,
    or ``reference``: with standardised data the mean. What is left of f, the units
    at the reference, is base.
    """

    name: str = "gi"


@checked
@dataclass(frozen=True, slots=True)
class Hybrid:
    r"""(1 − η) `GlobalImportance` + η `Midpoint`.

    Parameters
    ----------
    eta : float or "auto"
        "auto" is the published heuristic: with :math:`\gamma'` in units of the median squared distance between anchors,
        0 below :math:`\log_{10}\gamma' = -0.5`, 1 above 1.5, and :math:`0.4\log_{10}\gamma' + 0.4` between.
    """

    eta: float | str = "auto"
    name: str = "hybrid"

    def __post_init__(self) -> None:
        if self.eta != "auto" and not (isinstance(self.eta, int | float) and 0 <= self.eta <= 1):
            raise ArgumentError(f"eta must be 'auto' or a number from 0 to 1, not {self.eta!r}")

    def weight(self, gamma: float, median: float) -> float:
        """The η for a kernel coefficient and the median squared distance between anchors."""
        if isinstance(self.eta, int | float):
            return float(self.eta)
        scaled = gamma * median
        if scaled <= 0:
            return 0.0
        size = math.log10(scaled)
        return 0.0 if size < -0.5 else 1.0 if size > 1.5 else 0.4 * size + 0.4


EXPANSION_RULES: dict[str, object] = {
    "signed": SignedPools(),
    "midpoint": Midpoint(),
    "gi": GlobalImportance(),
    "hybrid": Hybrid(),
}
