"""Layers that touch the data: affine maps, quadratic forms, sums of one-feature terms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from backlight.classical.layers.base import Account, Coefficients, EncodedRows, ForwardPass, Layer, Query
from backlight.classical.layers.pullback import Pullback, owned
from backlight.errors import UnsupportedOption
from backlight.rules.quadratic import QUADRATIC_RULES, PartialContribution, ReconstructionContribution

__all__ = ["Additive", "Affine", "Mahalanobis", "Quadratics", "tensor"]

# Explicit differences are formed for at most this many numbers at once (32 MiB of doubles).
_PAIR_ENTRIES = 1 << 22


def tensor(array: object) -> Tensor:
    """A copy in float64: the user's arrays may be read-only, and stay theirs."""
    return owned(np.asarray(array, dtype=np.float64))


class Affine(Layer):
    r"""y = W z + b. Relevance: :math:`R_k = (A^{\mathsf T} w)_k (e - \tilde e)_k`, base: b + w·z̃.

    The reference z̃ is zero, the front end's own centre where it ends in a projection, or the mean of ``ask.usual``.
    """

    reads = frozenset({"rows"})
    weight: Tensor
    constant: Tensor
    reference: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, pullback: Pullback) -> None:
        super().__init__()
        self.pullback, self.units = pullback, len(weight)
        self.rules = {"linear": "linear"}
        W, b, reference = pullback.linear(weight, bias)
        self.register_buffer("weight", W)
        self.register_buffer("constant", b)
        self.register_buffer("reference", reference)

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        return (x.e - self.reference) @ self.weight.T + self.constant

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        start = self.reference if ask.usual is None else ask.usual.e.mean(0)
        pullback, weight = self.pullback, self.weight
        delta, of_columns = x.e - start, pullback.owned
        if of_columns is not None:
            delta = delta * of_columns
        carried = delta @ weight.T
        plain = ask.usual is None and of_columns is None
        output = carried + self.constant if plain else self.forward(x)

        def account(c: Coefficients) -> Account:
            return Account(pullback.columns(delta * c.times(weight)), c.sum(carried), {})

        return ForwardPass(output, carried, lambda c: account(Coefficients(c)).relevance, output, account=account)


class Quadratics(Layer):
    r"""F_k = s ‖(z − μ_k) L_k‖², one unit for each centre; relevance s δ ⊙ (L Lᵀ δ), which is Euler's identity.

    Parameters
    ----------
    means : (U, K)
    factors : (U, K, r), (1, K, r) for one metric, or (U, K) and (1, K) for diagonal ones
    pullback : Pullback
    scale : float
    """

    means: Tensor
    factors: Tensor

    def __init__(self, means: Tensor, factors: Tensor, pullback: Pullback, scale: float = 0.5) -> None:
        super().__init__()
        self.pullback, self.units, self.scale = pullback, len(means), scale
        self.rules = {"pdc": PartialContribution()}
        self.register_buffer("means", means)
        self.register_buffer("factors", factors)

    def _delta(self, z: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """δ, δL and L."""
        L = self.factors[k if len(self.factors) > 1 else 0]
        delta = z - self.means[k]
        return delta, delta * L if L.dim() == 1 else delta @ L, L

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        found = [self._delta(x.z, k)[1].square().sum(1) for k in range(self.units)]
        return self.scale * torch.stack(found, 1)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        output = self.forward(x)

        def back(c: Tensor) -> Tensor:
            out = x.z.new_zeros((len(x), self.pullback.n_columns))
            for k in range(self.units):
                delta, y, L = self._delta(x.z, k)
                gradient = y * L if L.dim() == 1 else y @ L.T
                out += self.pullback.pair(delta, gradient) * (self.scale * c[:, k, None])
            return out

        return ForwardPass(output, output, back, output, {"quadratic forms": output})


class Mahalanobis(Layer):
    """δᵀPδ around one mean, with the rules of `backlight.rules.quadratic`, in the space of the elements.

    Parameters
    ----------
    P : (K, K) positive semi-definite
    mean : (K,)
    """

    def __init__(self, P: Tensor, mean: Tensor, pullback: Pullback) -> None:
        super().__init__()
        self.rules = QUADRATIC_RULES
        self.pullback = pullback
        M, center = pullback.metric((P + P.T) / 2, mean)
        values, vectors = torch.linalg.eigh(M)
        # What rounding leaves of a zero would be 1e-8 after the root.
        values = torch.where(values > len(M) * torch.finfo(M.dtype).eps * values.max(), values, 0.0)
        root = (vectors * values.sqrt()) @ vectors.T
        self.register_buffer("metric", M)
        self.register_buffer("center", center)
        self.register_buffer("root", root)
        # The blocks of RBC: elements of one column together. A product of columns belongs to none alone.
        owner = pullback.owner.tolist() if pullback.shares is None else None
        blocks = None
        if owner is not None:
            blocks = M.new_zeros(M.shape)
            for column in sorted(set(owner)):
                index = torch.tensor([k for k, c in enumerate(owner) if c == column])
                part = M[index[:, None], index]
                blocks[index[:, None], index] = torch.linalg.pinv(part, hermitian=True)
        self.blocks: Tensor | None
        if blocks is None:
            self.blocks = None
        else:
            self.register_buffer("blocks", blocks)

    metric: Tensor
    center: Tensor
    root: Tensor

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, 1)."""
        delta = x.e - self.center
        return ((delta @ self.metric) * delta).sum(1, keepdim=True)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        delta = x.e - self.center
        gradient = delta @ self.metric
        if isinstance(ask.rule, PartialContribution):
            shares = delta * gradient
        elif isinstance(ask.rule, ReconstructionContribution):
            if self.blocks is None:
                raise UnsupportedOption(
                    "rules='rbc' asks what one column's best value would be, and after a step that multiplies columns "
                    "that has no closed form: use 'pdc' or 'cdc'"
                )
            shares = gradient * (gradient @ self.blocks)
        else:
            shares = (delta @ self.root).square()
        output = self.forward(x)
        values = self.pullback.columns(shares)
        return ForwardPass(output, output, lambda c: c * values, output, {"quadratic form": output})


class Additive(Layer):
    """y_u = Σ_k t_uk(z_k): terms that belong to one feature each, as in naive Bayes.

    Parameters
    ----------
    terms : function of z (n, K) to (n, U, K)
    units : int
    """

    def __init__(self, terms: Callable[[Tensor], Tensor], units: int, pullback: Pullback) -> None:
        super().__init__()
        self.terms, self.units, self.pullback = terms, units, pullback
        self.rules = {"additive": "additive"}

    @property
    def rows(self) -> int:
        """Rows at once."""
        return max(16, min(8192, _PAIR_ENTRIES // max(1, self.units * self.pullback.width)))

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        return self.terms(x.z).sum(2)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        terms = self.terms(x.z)
        output = terms.sum(2)
        return ForwardPass(
            output, output, lambda c: self.pullback.columns(torch.einsum("nu,nuk->nk", c, terms)), output,
            {"terms": output},
        )  # fmt: skip
