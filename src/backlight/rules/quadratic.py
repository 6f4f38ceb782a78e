r"""Rules for a squared Mahalanobis distance :math:`\delta^{\mathsf T} P \delta`.

The three decompositions of multivariate process monitoring (Alcala & Qin, "Reconstruction-based contribution for
process monitoring", Automatica 45, 2009; Garthwaite & Koch, "Evaluating the contributions of individual variables to
a quadratic form", Aust. N. Z. J. Stat. 58, 2016). `PartialContribution` is the relevance of a bilinear form (Euler's
identity), hence LRP's own.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["QUADRATIC_RULES", "CompleteContribution", "PartialContribution", "ReconstructionContribution"]


@dataclass(frozen=True, slots=True)
class CompleteContribution:
    r"""CDC: :math:`R_i = (P^{1/2}\delta)_i^2`; never negative, sums to the distance."""

    name: str = "cdc"


@dataclass(frozen=True, slots=True)
class PartialContribution:
    r"""PDC: :math:`R_i = \delta_i (P\delta)_i`; signed, sums to the distance."""

    name: str = "pdc"


@dataclass(frozen=True, slots=True)
class ReconstructionContribution:
    r"""RBC: :math:`R_i = (P\delta)_i^2 / P_{ii}`.

    What the distance would fall by if feature i were set to its best value given the others: the squared conditional
    z-score. A single fault that is large enough always ranks first. The values do not sum to the distance, and the
    difference is found in ``residual``. For a column with several elements B: :math:`(P\delta)_B^{\mathsf T}
    P_{BB}^{+} (P\delta)_B`.
    """

    name: str = "rbc"


QUADRATIC_RULES: dict[str, object] = {
    "cdc": CompleteContribution(),
    "pdc": PartialContribution(),
    "rbc": ReconstructionContribution(),
}
