r"""Conditional surprise: what a feature's value costs once all others are known.

For a product kernel, :math:`R_i = o(x) - o_{-i}(x) = -\log E_{q}[e^{-D_{ij}}]` where :math:`o_{-i}` is the score
without feature i (exact marginalisation), :math:`D_{ij}=\gamma\delta_{ij}^2` and q the pool's weights without it. No
relevance rule: the values do not sum to the score, and the difference is found in ``residual``. It costs one
exponential a row, anchor and feature.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ConditionalSurprise"]


@dataclass(frozen=True, slots=True)
class ConditionalSurprise:
    """R_i = o(x) − o without feature i; see the module.

    Attributes
    ----------
    leave_self_out : bool
        A row that is itself an anchor is scored by all the others.
    """

    leave_self_out: bool = True
    name: str = "conditional_surprise"
