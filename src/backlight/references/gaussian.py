r"""Features filled in by what the kept ones say of them, as if all were Gaussian.

.. math:: x_R \mid x_K \sim N(\mu_R + \Sigma_{RK} \Sigma_{KK}^{-1} (x_K - \mu_K),\;
          \Sigma_{RR} - \Sigma_{RK} \Sigma_{KK}^{-1} \Sigma_{KR})

Aas, Jullum, Løland, "Explaining individual predictions when features are dependent", Artificial Intelligence 298
(2021), section 3.1. Draws by Matheron's rule: with g drawn from N(0, Σ), what remains of g after its own conditional
mean is a draw of the conditional's deviation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backlight.errors import ArgumentError
from backlight.references.base import Encode, Fill, Reference, known_rows, reference, spread

__all__ = ["Gaussian"]

_LARGEST = 2000


@reference("gaussian")
class Gaussian(Reference):
    """The conditional of a Gaussian fitted to rows.

    Parameters
    ----------
    X : rows of the model's kind
    draws : int, optional
        Draws of the conditional that scores are averaged over; 0, the default, takes its mean.
    shrinkage : float
        Share of the covariance's diagonal that it is mixed with, so that constant and repeated columns do no harm.
    """

    def __init__(self, X: Any, draws: int = 0, shrinkage: float = 1e-6) -> None:
        if draws < 0 or not 0 < shrinkage <= 1:
            raise ArgumentError(f"draws must be 0 or more and shrinkage in (0, 1], not {draws} and {shrinkage}")
        self.rows, self.sampled, self.draws, self.shrinkage = X, draws > 0, max(draws, 1), shrinkage

    def bind(self, x: Tensor, encode: Encode, seed: int) -> Fill:
        known = known_rows(self.rows, x, encode).flatten(1).double()
        d = known.shape[1]
        if d > _LARGEST:
            raise ArgumentError(
                f"a Gaussian reference of {d} features: it is for up to {_LARGEST}; take Marginal or Mean"
            )
        if len(known) < 2:
            raise ArgumentError("a Gaussian reference needs at least two rows")
        mean, covariance = known.mean(0), torch.cov(known.T).reshape(d, d)
        diagonal = torch.diag(covariance).clamp_min(1e-12 * float(torch.diag(covariance).max().clamp_min(1e-300)))
        covariance = (1 - self.shrinkage) * covariance + self.shrinkage * torch.diag(diagonal)
        noise = torch.zeros(len(x), self.draws, d, dtype=torch.float64, device=x.device)
        if self.sampled:
            generator = torch.Generator().manual_seed(seed)
            white = torch.randn(len(x), self.draws, d, dtype=torch.float64, generator=generator).to(x.device)
            noise = white @ torch.linalg.cholesky(covariance).T

        def fill(rows: Tensor, keep: Tensor, draw: int) -> Tensor:
            at, g = x[rows].flatten(1).double(), noise[rows, draw]
            k = keep.flatten(1)
            # rows and columns that are taken away become those of the identity: one solve for every set at once
            kk = covariance * k[:, :, None] * k[:, None, :] + torch.diag_embed((~k).double())
            seen = torch.linalg.solve(kk, ((at - mean - g) * k)[:, :, None])
            filled = mean + g + (covariance @ (seen * k[:, :, None]))[:, :, 0]
            return spread(keep, x[rows], filled.to(x).view(x[rows].shape))

        return fill
