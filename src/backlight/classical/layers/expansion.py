r"""Signed kernel expansions: the log-ratio of two soft-min pools, and regressions counted from a level."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backlight.classical.functions import fixed_level
from backlight.classical.layers.base import EncodedRows, ForwardPass, Layer, Query, Wrapper
from backlight.classical.layers.pullback import Pullback
from backlight.classical.layers.softmin_distance import SoftMinDistance
from backlight.errors import UnsupportedOption
from backlight.rules.expansion import EXPANSION_RULES, GlobalImportance, Hybrid, SignedPools
from backlight.rules.softmin import Free, SoftMinRule

__all__ = ["Levelled", "SignedExpansion", "fitting_rule"]


class SignedExpansion(Layer):
    r"""f = A − B with :math:`A = \sum_{\beta_j>0}\beta_j k_j` and :math:`B = \sum_{\beta_j<0}|\beta_j| k_j`.

    Each side is :math:`S e^{-o}` with a soft-min pool o; an intercept is an anchor that sits on every row, on the side
    of its sign. Rules: `backlight.rules.expansion`.

    Parameters
    ----------
    positive, negative : Layer or None
        Pools with one unit: o of each side. None for a side without terms.
    log_sums : the logarithms of both sums of coefficients; ignored for a side that is None
    """

    def __init__(
        self,
        positive: Layer | None,
        negative: Layer | None,
        log_sums: tuple[float, float],
        pullback: Pullback,
        median: float | None = None,
        named_rules: bool = True,
    ) -> None:
        super().__init__()
        self.positive, self.negative, self.pullback, self.median = positive, negative, pullback, median
        self.log_sums = log_sums
        self.rules = EXPANSION_RULES if named_rules else {"signed": EXPANSION_RULES["signed"]}
        self.reads = frozenset({"rows"}) if named_rules else frozenset()

    @property
    def rows(self) -> int:
        """Rows at once."""
        return min([side.rows for side in (self.positive, self.negative) if side is not None] or [8192])

    def _logs(self, x: EncodedRows) -> tuple[Tensor, Tensor]:
        nothing = x.z.new_full((len(x), 1), -math.inf)
        logs = [
            nothing if side is None else size - side(x)
            for side, size in zip((self.positive, self.negative), self.log_sums, strict=True)
        ]
        return logs[0], logs[1]

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, 1)."""
        a, b = self._logs(x)
        return a.exp() - b.exp()

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        rule = ask.rule
        pools = rule.pools if isinstance(rule, SignedPools) else Free(leave_self_out=False)
        sides = (self.positive, self.negative)
        runs = [None if side is None else side.run(x, Query(fitting_rule(side, pools))) for side in sides]
        logs = [
            x.z.new_full((len(x), 1), -math.inf) if got is None else size - got.output
            for got, size in zip(runs, self.log_sums, strict=True)
        ]
        output = logs[0].exp() - logs[1].exp()
        scale = _log_mean(logs[0], logs[1], self.log_sums)
        signs = (-1.0, 1.0)
        carried = torch.zeros_like(output)
        for sign, got in zip(signs, runs, strict=True):
            if got is not None:
                carried = carried + sign * scale * got.carried
        eta = 1.0
        if isinstance(rule, GlobalImportance):
            eta = 0.0
        elif isinstance(rule, Hybrid):
            eta = rule.weight(*self._width())
        if eta < 1 and self.copied:
            raise UnsupportedOption(
                f"rules={rule!r} gives columns a share that goes through no anchor, so that no inner layer has it all: "
                "with layers= take 'signed'"
            )
        common = self._global(x, ask, scale) if eta < 1 else None
        if common is not None:
            carried = eta * carried + (1 - eta) * common.sum(1, keepdim=True)

        def back(c: Tensor) -> Tensor:
            parts = [] if common is None else [(1 - eta) * c * common]
            for sign, got in zip(signs, runs, strict=True):
                if got is not None and eta > 0:
                    parts.append(got.back(c * scale * (sign * eta)))
            return sum(parts[1:], parts[0])

        return ForwardPass(output, carried, back, output, {"log-ratio of two pools": output, "distance": carried})

    def scale(self, x: EncodedRows) -> Tensor:
        """The logarithmic mean of A and B, (n, 1): what each nat of a side's pool counts in f."""
        return _log_mean(*self._logs(x), self.log_sums)

    def sides(self, rule: SignedPools) -> list[tuple[float, Layer, Any]]:
        """The sides that have terms: how a pool's relevance counts in f, the pool, and its rule."""
        both = ((-1.0, self.positive), (1.0, self.negative))
        return [(sign, side, fitting_rule(side, rule.pools)) for sign, side in both if side is not None]

    def _width(self) -> tuple[float, float]:
        side = self.positive if self.positive is not None else self.negative
        pool = _pool_of(side)
        return pool.gamma, self.median or 0.0

    def _global(self, x: EncodedRows, ask: Query, scale: Tensor) -> Tensor:
        """2Lγ (x − x̃) ⊙ (Σ p u − Σ q u), in columns."""
        difference = torch.zeros_like(x.z)
        gamma = self._width()[0]
        for sign, side in ((1.0, self.positive), (-1.0, self.negative)):
            if side is not None:
                difference = difference + sign * _mean_anchor(_pool_of(side), x.z)
        weight, _, zero = self.pullback.linear(difference, difference.new_zeros(len(difference)))
        start = zero if ask.usual is None else ask.usual.e.mean(0)
        return 2 * gamma * scale * self.pullback.columns((x.e - start) * weight)


class Levelled(Wrapper):
    """A regression f + b, counted from a level: f + (b − level) as one expansion, and the level as base.

    Without a level that is the intercept b itself: what the model says far from all data.

    Parameters
    ----------
    make : function of an intercept to an expansion without level
    intercept : float
    """

    reads = frozenset({"level"})
    kept_instead: Mapping[str, Any] = {"make": fixed_level}

    def __init__(self, make: Callable[[float], Layer], intercept: float) -> None:
        super().__init__(make(0.0))
        self.make, self.intercept = make, intercept
        self._at: dict[float, Layer] = {}

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, 1)."""
        f: Tensor = self.inner(x)
        return f + self.intercept

    def at(self, level: float, like: Tensor) -> Layer:
        """The expansion that counts from a level; the last one is kept."""
        if level == self.intercept:
            return self.inner
        found = self._at.get(level)
        if found is None:
            found = self.make(self.intercept - level).to(like)
            self._at = {level: found}
        return found

    def rebuilt(self, change: Callable[[str, Layer], Layer]) -> Layer:
        """See `Layer.rebuilt`: what counts from other levels is changed alike."""
        new = super().rebuilt(change)
        new.__dict__ |= {"make": lambda level: change("inner", self.make(level)), "_at": {}}
        return new

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        level = self.intercept if ask.level is None else float(ask.level)
        got = self.at(level, x.z).run(x, ask)
        output = got.output + level
        return replace(got, output=output, others=output)


def _pool_of(side: Layer | None) -> SoftMinDistance:
    """The Gaussian pool of a side: only expansions of Gaussians have rules that ask for it."""
    pool: SoftMinDistance = getattr(side, "pool")  # noqa: B009 - a module's attribute, which types do not know
    return pool


def _mean_anchor(pool: SoftMinDistance, z: Tensor) -> Tensor:
    """Σ_j p_j u_j over the real anchors, (n, K): an anchor that sits on the row has mass but no displacement."""
    out = torch.empty_like(z)
    anchors = pool.anchors + pool.center
    for start in range(0, len(z), pool.chunk):
        rows = slice(start, start + pool.chunk)
        centred = z[rows] - pool.center
        p = torch.softmax(pool.log_weights + pool.log_kernels(centred, centred.square().sum(1)), 1)
        out[rows] = p[:, : len(anchors)] @ anchors
    return out


def fitting_rule(side: Layer, rule: SoftMinRule) -> SoftMinRule:
    """A rule for pools, or a side's own default where it has not that one."""
    return rule if side.accepts(rule) else next(iter(side.rules.values()))


def _log_mean(a: Tensor, b: Tensor, log_sums: tuple[float, float]) -> Tensor:
    """L with e^a − e^b = L (a − b); for an empty side the slope of S − S e^{−o} in −o from o = 0."""
    if bool(torch.isneginf(b).all()):
        return _one_side(a, log_sums[0])
    if bool(torch.isneginf(a).all()):
        return _one_side(b, log_sums[1])
    t = a - b
    # e^b (e^t − 1)/t, from the larger side so that nothing overflows
    top, gap = torch.maximum(a, b), t.abs()
    ratio = torch.where(gap > 0, -torch.expm1(-gap) / torch.where(gap > 0, gap, 1.0), 1.0)
    return top.exp() * ratio


def _one_side(log: Tensor, log_sum: float) -> Tensor:
    o = log_sum - log
    return math.exp(log_sum) * torch.where(o > 0, -torch.expm1(-o) / torch.where(o > 0, o, 1.0), 1.0)
