"""A Gaussian pool that also answers with exact conditional surprise."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from backlight.classical.layers.base import EncodedRows, ForwardPass, Layer, Query
from backlight.classical.layers.pools import SoftMinPool
from backlight.errors import UnsupportedOption
from backlight.rules.softmin import Free
from backlight.rules.surprise import ConditionalSurprise

__all__ = ["WithSurprise"]

_ENTRIES = 1 << 21


class WithSurprise(Layer):
    """`SoftMinPool` with one more rule, `backlight.rules.surprise.ConditionalSurprise`."""

    def __init__(self, inner: SoftMinPool) -> None:
        super().__init__()
        self.inner = inner
        self.rules = {**inner.rules, "conditional_surprise": ConditionalSurprise()}

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, 1)."""
        out: Tensor = self.inner(x)
        return out

    def without(self, x: EncodedRows, own: Tensor) -> Tensor:
        """Shape (n, 1)."""
        return self.inner.without(x, own)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        if not isinstance(ask.rule, ConditionalSurprise):
            return self.inner.run(x, ask)
        if self.copied:
            raise UnsupportedOption(
                "rules='conditional_surprise' asks each column what it says given the others, which goes through no "
                "inner layer: with layers= take another rule"
            )
        own = ask.own
        if own is None and ask.rule.leave_self_out:
            own = self.inner.self_index(x)
        got = self.inner.run(x, Query(Free(leave_self_out=ask.rule.leave_self_out), own))
        values = self._surprise(x, own)
        return replace(got, back=lambda c: c * values)

    def _surprise(self, x: EncodedRows, own: Tensor | None) -> Tensor:
        pool = self.inner.pool
        way = pool.pullback
        if way.into is not None or way.shares is not None:
            raise UnsupportedOption(
                "rules='conditional_surprise' marginalises columns, and after a projection or a product of columns "
                "that has no closed form: use 'auto', or fit the density without that step"
            )
        z = x.z - pool.center
        n, M = len(z), len(pool.anchors)
        out = z.new_zeros((n, way.n_columns))
        owner = torch.arange(z.shape[1]) if way.identity else way.owner
        step = max(1, _ENTRIES // M)
        for start in range(0, n, step):
            rows = slice(start, start + step)
            D = pool.gamma * torch.cdist(z[rows], pool.anchors, compute_mode="donot_use_mm_for_euclid_dist").square()
            logits = pool.log_weights - D
            if own is not None:
                mine = torch.nonzero(own[rows] >= 0).squeeze(1)
                logits[mine, own[rows][mine]] = -torch.inf
            whole = torch.logsumexp(logits, 1)
            for column in torch.unique(owner).tolist():
                parts = torch.nonzero(owner == column).squeeze(1)
                mine_only = pool.gamma * sum((z[rows, k, None] - pool.anchors[:, k]).square() for k in parts.tolist())
                out[rows, column] = torch.logsumexp(logits + mine_only, 1) - whole
        return torch.where(torch.isfinite(out), out, 0.0)

    def self_index(self, x: EncodedRows) -> Tensor:
        """Which anchor each row is."""
        return self.inner.self_index(x)

    def training_rows(self) -> Tensor:
        """The anchors."""
        return self.inner.training_rows()
