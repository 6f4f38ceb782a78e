r"""Layers that compare distances to centres: the nearest one, and how much nearer it is than its rivals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backlight.classical.layers.base import Account, Coefficients, EncodedRows, ForwardPass, Layer, Query, Wrapper

__all__ = ["Contrasts", "Nearest"]


class Contrasts(Wrapper):
    r"""How much nearer a target's own centre is than the next one: f_c = min_k (d_{b_k} − d_{a_k}).

    Each difference of squared distances to centres is one linear unit h_k with its midpoint as reference:
    :math:`d_b-d_a = \sum_i (z-\mu_b)_i^2-(z-\mu_a)_i^2`. Where the row is assigned to c, all h_k > 0 and
    :math:`R_k = p_k f_c` with the soft-min weights :math:`p_k \propto e^{-\beta h_k}`: ΣR = f_c. Where it is not, h_k
    changes sign, the same ratio would amplify relevance without bound, and each unit is given p_k h_k instead: what is
    left of f_c is base.

    Kauffmann, Esders, Ruff, Montavon, Samek, Müller, "From clustering to cluster explanations via neural networks"
    (IEEE TNNLS 2022), with β = 1/E[f_c]. Without data the mean is that of f_c at the centres: E[h_k] over a cluster is
    h_k at its centre, so E[f_c] is at most that.

    Parameters
    ----------
    inner : Layer
        Distances to centres.
    rivals : for each target a list of (own centre, rival centre)
    """

    def __init__(self, inner: Layer, rivals: Sequence[Sequence[tuple[int, int]]], beta: float) -> None:
        super().__init__(inner)
        self.units, self.beta = len(rivals), beta
        self.rules = {"neon": "neon"}
        self.own = [torch.tensor([a for a, _ in pairs]) for pairs in rivals]
        self.rival = [torch.tensor([b for _, b in pairs]) for pairs in rivals]
        k = len(rivals)
        # each centre against all others: one row asks for one of them, and the rest need not be worked out
        self.flat = [list(pairs) for pairs in rivals] == [[(c, b) for b in range(k) if b != c] for c in range(k)]

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        d = self.inner(x)
        return torch.stack([(d[:, b] - d[:, a]).amin(1) for a, b in zip(self.own, self.rival, strict=True)], 1)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        below = self.inner.run(x, ask)
        d = below.output
        outputs, carried, weights = [], [], []
        for a, b in zip(self.own, self.rival, strict=True):
            h = d[:, b] - d[:, a]
            f = h.amin(1)
            p = torch.softmax(-self.beta * h, 1)
            inside = (f > 0)[:, None]
            w = torch.where(inside, p * (f[:, None] / torch.where(inside, h, 1.0)), p)
            outputs.append(f)
            carried.append((w * (below.carried[:, b] - below.carried[:, a])).sum(1))
            weights.append(w)
        output = torch.stack(outputs, 1)

        def back(c: Tensor) -> Tensor:
            down = torch.zeros_like(d)
            for t, (a, b) in enumerate(zip(self.own, self.rival, strict=True)):
                given = weights[t] * c[:, t, None]
                down.index_add_(1, b, given)
                down.index_add_(1, a, -given)
            return below.back(down)

        sums = torch.stack(carried, 1)
        return ForwardPass(output, sums, back, output, {"nearest rival": output, "differences of distances": sums})

    def run_alone(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run_alone`."""
        if not self.flat:
            return self.run(x, ask)
        below = self.inner.run(x, ask)
        d = below.output
        first, nearest = d.min(1, keepdim=True)
        second = d.scatter(1, nearest, torch.inf).amin(1, keepdim=True)
        output = (first - d).scatter_(1, nearest, second - first)

        def account(c: Coefficients) -> Account:
            if c.only is None:
                return Account.of(self.run(x, ask), c)
            t = c.only.unsqueeze(1)
            f = output.gather(1, t)
            h = (d - d.gather(1, t)).scatter_(1, t, torch.inf)
            p = torch.exp((f - h).mul_(self.beta))  # the smallest of all h is f
            inside = f > 0
            kept = p * (f / h) if bool(inside.all()) else torch.where(inside, p * (f / h), p)
            w = kept * (1 / p.sum(1, keepdim=True))
            carried = (w * (below.carried - below.carried.gather(1, t))).sum(1)
            flow = {"nearest rival": f[:, 0], "differences of distances": carried}
            return Account(below.back(w.scatter_(1, t, -w.sum(1, keepdim=True))), carried, flow)

        def back(c: Tensor) -> Tensor:
            return account(Coefficients(c)).relevance

        return ForwardPass(output, output, back, output, account=account)


class Nearest(Wrapper):
    """min_k h_k of one layer's units: all relevance goes to the nearest."""

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, 1)."""
        h: Tensor = self.inner(x)
        return h.amin(1, keepdim=True)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        below = self.inner.run(x, ask)
        output, index = below.output.min(1, keepdim=True)
        carried = below.carried.gather(1, index)

        def back(c: Tensor) -> Tensor:
            return below.back(torch.zeros_like(below.output).scatter(1, index, c))

        return ForwardPass(output, carried, back, output, {"nearest": output})
