r"""The layer pair "distance, then soft-min pool": the network inside one-class SVMs and kernel densities (one layer).

.. math::  o(z) = -\log \sum_j \alpha_j e^{-D_j(z)}, \qquad D_j(z) = \gamma \lVert z - u_j \rVert^2,
           \qquad \sum_j \alpha_j = 1

so :math:`o \ge 0`, in nats: how far :math:`z` is from the anchors, counted in kernel widths.

Evaluation. The squared distance is expanded into a matrix product, and so is the relevance: for weights
:math:`w_j` with :math:`s=\sum_j w_j`,

.. math::  \sum_j w_j (z-u_j)_i^2 = s z_i^2 - 2 z_i (wU)_i + (wU^2)_i .

Rows go through in chunks that stay in the processor's cache; an (n, M, d) tensor is never formed. The expansion
cancels when the row is close to an anchor in comparison with the spread of the data. Data are therefore centred
first, the rounding error of each row is bounded from its norms, and the few rows whose bound is too large are
computed again from explicit differences to the anchors that carry weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from backlight.classical.layers.leave_one_out import Selves
from backlight.classical.layers.pullback import Pullback, owned
from backlight.rules.softmin import SoftMinRule

__all__ = ["NO_DISTANCE", "PoolRelevance", "SoftMinDistance"]

# A chunk's (rows, anchors) block: three of 2^16 doubles are 1.5 MiB, which a core's cache holds.
_CHUNK_ENTRIES = 1 << 16
# Beyond these, 8 MiB of doubles, memory costs more than small matrix products do.
_MOST_ENTRIES = 1 << 20
# A matrix product is a sixth faster where its result has a multiple of this many columns.
_LANES = 8
# The centre is the median of so many anchors.
_CENTRAL = 512
# Anchors whose weight is below e^-46 = 1e-20 of the heaviest one cannot change a double.
_NEGLIGIBLE = 46.0
# Explicit differences are formed for at most this many numbers at once (32 MiB of doubles).
_PAIR_ENTRIES = 1 << 22
# Below this score the log-sum-exp loses relative accuracy and the log1p form takes over.
_SMALL_SCORE = 1e-2
# Below this share of distance in the score there is nothing that features could be given.
NO_DISTANCE = 1e-6


@dataclass(frozen=True, slots=True)
class PoolRelevance:
    """What `SoftMinDistance.relevance` returns.

    Attributes
    ----------
    values : (n, columns) relevance of each column, in nats
    score : (n,) the pool's output
    others : (n,) the same without the row's own anchor; infinite where there is no other
    carried : (n,) what the rule gives to features: ``values.sum(1)`` but for rounding
    self_anchor : (n,) whether the row was itself an anchor and left out
    no_distance : (n,) whether the row sits on its anchors, so that no feature carries relevance
    """

    values: Tensor
    score: Tensor
    others: Tensor
    carried: Tensor
    self_anchor: Tensor
    no_distance: Tensor


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums over anchors, one number or vector a row; those of weights w are divided by Σ p, whose logarithm is kept."""

    log_sum: Tensor
    mean: Tensor
    wu: Tensor
    wv: Tensor
    weight_sum: Tensor
    still: Tensor
    mass: Tensor


class SoftMinDistance(nn.Module):
    """Scaled squared distances to anchors, then a soft-min pool with log-weights.

    Parameters
    ----------
    anchors : array of shape (M, K)
        Support vectors or training rows.
    log_weights : array of shape (M,)
        Logarithms of positive weights; they are normalised here so that the weights sum to one.
    gamma : float
        Kernel coefficient, in 1 / (unit of z)².
    pullback : Pullback
        How a squared difference in z is shared among the columns of the table.
    dtype : torch.dtype
    still : float, optional
        Log-weight of one more anchor that sits on every row: mass without displacement. An intercept is one.
    cancellation : float
        How many roundings the matrix products may lose of what they add up to, before a row is computed again from
        explicit differences.

    References
    ----------
    Kauffmann, Müller, Montavon (2020), Pattern Recognition 101; log-sum-exp after Blanchard, Higham, Higham (2021).
    """

    anchors: Tensor
    center: Tensor
    log_weights: Tensor
    keys: Tensor
    payload: Tensor

    def __init__(
        self,
        anchors: np.ndarray,
        log_weights: np.ndarray,
        gamma: float,
        pullback: Pullback,
        dtype: torch.dtype = torch.float64,
        still: float | None = None,
        cancellation: float = 1e5,
    ) -> None:
        super().__init__()
        self.gamma = float(gamma)
        self.pullback = pullback
        self.still = still is not None
        self.cancellation = cancellation
        # A median, so that one far anchor does not take the centre away from all others; that of some anchors, as any
        # point among them serves. It is rounded to the working precision first, so that rows and anchors lose the same
        # number.
        center = owned(np.median(anchors[:: 1 + len(anchors) // _CENTRAL], axis=0), dtype)
        U = owned(anchors) - center.double()
        log_w = owned(log_weights)
        if still is not None:
            log_w = torch.cat([log_w, log_w.new_tensor([still])])
        log_w = log_w - torch.logsumexp(log_w, 0)
        squared = U.square().sum(1)
        spread = float(log_w.max() - log_w.min())  # infinite where a weight is zero
        self.uniform = math.isfinite(spread) and spread <= 1e-15 * abs(float(log_w[0]))
        self.radius = float(squared.max())
        self.register_buffer("center", center)
        self.register_buffer("anchors", U.to(dtype))
        self.register_buffer("log_weights", log_w.to(dtype))
        # One product gives log k = −γ‖z − u‖²: [z, ‖z‖², 1] · [2γu, −γ, −γ‖u‖²]. Log-weights stay out of it, so that
        # distances keep their digits where γ is tiny.
        M, K = U.shape
        keys = U.new_zeros((K + 2, M + self.still))
        keys[:K, :M], keys[K, :M], keys[K + 1, :M] = (2 * self.gamma) * U.T, -self.gamma, -self.gamma * squared
        self.register_buffer("keys", keys.to(dtype))
        # What the weights multiply, in one product: the anchors, what they carry for each column, ones, and columns of
        # zeros up to a width that the matrix product is fast at.
        carried = pullback.carried(U)
        last = K + carried.shape[1]
        payload = U.new_zeros((M + self.still, _LANES * math.ceil((last + 1) / _LANES)))
        payload[:M, :K], payload[:M, K:last], payload[:M, last] = U, carried, 1.0
        self.parts = [K, last - K, 1, payload.shape[1] - last - 1]
        self.register_buffer("payload", payload.to(dtype))
        self.selves = Selves(self.anchors, center)

    def extra_repr(self) -> str:
        """Sizes, for the module's printed form."""
        return f"anchors={len(self.anchors)}, features={self.anchors.shape[1]}, gamma={self.gamma:.6g}"

    @property
    def chunk(self) -> int:
        """Rows that go through at once: as many as a core's cache holds, or as the matrix products want."""
        M, width = self.anchors.shape
        fast = min(max(32, 2 * width), 128, max(16, _MOST_ENTRIES // M))
        return max(fast, min(1024, _CHUNK_ENTRIES // M))

    def forward(self, z: Tensor) -> Tensor:
        """Outlierness o(z) in nats, shape (n,), from z of shape (n, K)."""
        return self.score_without(z, torch.full((len(z),), -1, device=z.device))

    def relevance(self, z: Tensor, rule: SoftMinRule, own: Tensor | None = None) -> PoolRelevance:
        """Share the score of each row among the columns of the table by the given rule.

        ``own`` says which anchor each row is (−1 for none); without it, equal rows are found here.
        """
        centred = z - self.center
        if not rule.leave_self_out:
            own = torch.full((len(z),), -1, device=z.device)
        elif own is None:
            own = self.self_index(centred)
        return self._share(centred, own, rule)

    def score_without(self, z: Tensor, own: Tensor) -> Tensor:
        """The score of each row with one anchor left out (index, or -1 for none), the other weights renormalised.

        For rows that were changed a little: their original is an anchor next to them, and no evidence.
        """
        if not len(z):
            return z.new_zeros(0)
        rows, left_out = torch.split(z - self.center, self.chunk), torch.split(own, self.chunk)
        return torch.cat([self._score(*pair) for pair in zip(rows, left_out, strict=True)])

    def self_index(self, centred: Tensor) -> Tensor:
        """Index of the anchor that each centred row is, or -1."""
        return self.selves.find(centred, self.anchors)

    def coefficients(self, z: Tensor, rule: SoftMinRule, own: Tensor | None = None) -> Tensor:
        """C with values = Σ_j C_j · shares of ‖z − u_j‖², (n, M): how much of each row goes through each anchor.

        From explicit distances, as `relevance` sums over them without keeping a block of rows and anchors.
        """
        return self.gamma * self._weights(z, rule, own)[0]

    def handed(self, z: Tensor, rule: SoftMinRule, own: Tensor | None = None) -> Tensor:
        """Relevance of the distance to each anchor, (n, M): what adds up to ``carried`` of `relevance`."""
        weights, D = self._weights(z, rule, own)
        return weights * D

    def _weights(self, z: Tensor, rule: SoftMinRule, own: Tensor | None) -> tuple[Tensor, Tensor]:
        """What each distance counts in what a row hands on, and the distances D, (n, M) each."""
        centred, M, tau = z - self.center, len(self.anchors), rule.stabiliser
        D = z.new_zeros((len(z), M + self.still))
        exact = torch.cdist(centred, self.anchors, compute_mode="donot_use_mm_for_euclid_dist")
        D[:, :M] = self.gamma * exact.square()
        logits = self.log_weights - D
        if not rule.leave_self_out:
            own = torch.full((len(z),), -1, device=z.device)
        elif own is None:
            own = self.self_index(centred)
        selves = torch.nonzero(own >= 0).squeeze(1)
        logits[selves, own[selves]] = -math.inf
        log_sum = torch.logsumexp(logits, 1, keepdim=True)
        alone = log_sum == -math.inf
        p = torch.where(alone, 0.0, (logits - log_sum).exp())
        mean = (p * D).sum(1, keepdim=True)
        o = (self._log_rest(own)[:, None] - log_sum).clamp_min(0)
        w = p
        if tau is not None:
            bottom = D + tau * mean
            w = torch.where(bottom > 0, p / torch.where(bottom > 0, bottom, 1.0), 0.0)
        factor = torch.ones_like(o)
        if rule.conserves:
            mass = (w * D).sum(1, keepdim=True)
            factor = o if tau == 0 else o / torch.where(mass > 0, mass, 1.0)
        if tau is not None or rule.conserves:
            factor = torch.where(~(mean >= NO_DISTANCE * o) | (mean <= 0) | alone, 0.0, factor)
        return torch.where(alone, 0.0, factor * w)[:, :M], D[:, :M]

    # -- the score -----------------------------------------------------------------------------------------------

    @staticmethod
    def _queries(z: Tensor, norm: Tensor) -> Tensor:
        """What the keys are multiplied with, for centred rows."""
        return torch.cat([z, norm[:, None], torch.ones_like(norm)[:, None]], 1)

    def log_kernels(self, z: Tensor, norm: Tensor, own: Tensor | None = None) -> Tensor:
        """−D = −γ‖z − u_j‖² for centred rows, (rows, M), −∞ for each row's own anchor.

        Rounding can make it slightly positive.
        """
        log_k = self._queries(z, norm) @ self.keys
        if own is not None:
            selves = torch.nonzero(own >= 0).squeeze(1)
            log_k[selves, own[selves]] = -math.inf
        return log_k

    def _log_rest(self, own: Tensor) -> Tensor:
        """log(1 − α) of each row's own anchor: what the weights of the others sum to."""
        log_rest = torch.zeros(len(own), dtype=self.log_weights.dtype, device=own.device)
        selves = torch.nonzero(own >= 0).squeeze(1)
        log_rest[selves] = torch.log1p(-self.log_weights[own[selves]].exp())
        return log_rest

    def _rest_weights(self, own: Tensor) -> Tensor:
        """The weights α without each row's own anchor, renormalised: (rows, M)."""
        weights = self.log_weights.exp().expand(len(own), -1).clone()
        kept = torch.nonzero(own >= 0).squeeze(1)
        weights[kept, own[kept]] = 0
        return weights / weights.sum(1, keepdim=True)

    def _score(self, z: Tensor, own: Tensor) -> Tensor:
        norm = z.square().sum(1)
        log_k, log_rest = self.log_kernels(z, norm, own), self._log_rest(own)
        log_sum = torch.logsumexp(self.log_weights + log_k, 1)
        alone = log_sum == -math.inf
        score = log_rest - log_sum
        rough = self._cancels(self._magnitude(norm, score), score) & ~alone
        if bool(rough.any()):
            score = score.clone()
            score[rough] = log_rest[rough] - _Pairs(self, z[rough], log_k[rough]).log_sum
        small = (score < _SMALL_SCORE) & ~rough & ~alone
        if bool(small.any()):
            score = score.clone()
            score[small] = _small_soft_min(-log_k[small], self._rest_weights(own[small]))
        return torch.where(alone, math.inf, score.clamp_min(0))

    def _magnitude(self, norm: Tensor, score: Tensor) -> Tensor:
        """γ(‖z‖² + max ‖u_j‖²) over the anchors that carry weight: what the rounding of D is proportional to.

        A weight above e^−46 means D_j ≤ o + 46, and so √γ‖u_j‖ ≤ √γ‖z‖ + √(o + 46). Anchors further out have
        large distances with small relative errors, and no weight.
        """
        scaled = self.gamma * norm
        reach = (scaled.sqrt() + (score.clamp_min(0) + _NEGLIGIBLE).sqrt()).square()
        return scaled + reach.clamp_max(self.gamma * self.radius)

    def _cancels(self, magnitude: Tensor, score: Tensor) -> Tensor:
        """Rows whose expanded distances could move the score by more than about 10⁴ roundings of max(1, score)."""
        return 8 * magnitude > 1e4 * score.clamp_min(1)

    # -- the relevance ---------------------------------------------------------------------------------------------

    def _pass(self, z: Tensor, norm: Tensor, own: Tensor, tau: float | None) -> _Sums:
        """Everything that needs the (rows, M) block, chunk by chunk: only sums over anchors leave it."""
        n, step = len(z), self.chunk
        top, total, drop, still, mass = z.new_zeros((5, n)).unbind()
        sums = z.new_empty((n, self.payload.shape[1]))
        leaves_out, shifts = bool((own >= 0).any()), self._can_underflow(norm)
        blocks = z.new_empty((3, min(step, n), self.keys.shape[1]))
        pieces = (
            torch.split(part, step) for part in (self._queries(z, norm), own, sums, top, total, drop, still, mass)
        )
        for queries, its_own, its_sums, its_top, its_total, its_drop, its_still, its_mass in zip(*pieces, strict=True):
            log_k, p, product = (blocks if len(queries) == step else blocks[:, : len(queries)]).unbind()
            torch.mm(queries, self.keys, out=log_k)
            if leaves_out:
                selves = torch.nonzero(its_own >= 0).squeeze(1)
                log_k[selves, its_own[selves]] = -math.inf
            # p_j ∝ α_j e^(−D_j); equal weights α need no pass of their own.
            logits = log_k if self.uniform else torch.add(log_k, self.log_weights, out=p)
            if shifts:
                torch.amax(logits, 1, out=its_top)
                high = torch.where(its_top == -math.inf, 0.0, its_top)
                logits = torch.sub(logits, high[:, None], out=p)
            torch.exp(logits, out=p)
            torch.sum(p, 1, out=its_total)
            if leaves_out:
                log_k[selves, its_own[selves]] = -1.0  # its weight p is zero; infinity times zero would not be
            torch.sum(torch.mul(p, log_k, out=product), 1, out=its_drop)
            if tau == 0:
                p = torch.where(log_k < 0, -p / log_k, 0.0)
                its_mass.copy_(-torch.mul(p, log_k, out=product).sum(1))
            elif tau is not None:
                p.div_(torch.sub((its_drop / its_total * -tau)[:, None], log_k, out=log_k))
            torch.mm(p, self.payload, out=its_sums)
            if self.still:
                its_still.copy_(p[:, -1])
        wu, wv, weight_sum, _ = torch.split(sums.div_(total[:, None]), self.parts, dim=1)
        return _Sums(top + total.log(), -drop / total, wu, wv, weight_sum.squeeze(1), still / total, mass / total)

    def _can_underflow(self, norm: Tensor) -> bool:
        """Whether any α_j e^(−D_j) may be too small a number, so that exponents must be counted from the largest."""
        if not len(norm):
            return False
        farthest = self.gamma * (math.sqrt(float(norm.max())) + math.sqrt(self.radius)) ** 2
        least = -math.log(torch.finfo(norm.dtype).tiny) / 2
        return not farthest - float(self.log_weights.min()) < least

    def _share(self, z: Tensor, own: Tensor, rule: SoftMinRule) -> PoolRelevance:
        norm = z.square().sum(1)
        tau = rule.stabiliser
        got = self._pass(z, norm, own, tau)
        mean, weight_sum = got.mean, got.weight_sum
        alone = got.log_sum == -math.inf
        mean = torch.where(alone, 0.0, mean)
        log_sum = got.log_sum + self.log_weights[0] if self.uniform else got.log_sum
        log_rest = self._log_rest(own)
        others = log_rest - log_sum

        magnitude = self._magnitude(norm, others)
        rough = self._cancels(magnitude, others) & ~alone
        small = (others < _SMALL_SCORE) & ~rough & ~alone
        if bool(small.any()):
            log_k = self.log_kernels(z[small], norm[small], own[small])
            others[small] = _small_soft_min(-log_k, self._rest_weights(own[small]))

        values = self.gamma * self.pullback.share(z, weight_sum, got.wu, got.wv)
        if tau is None:
            mass = mean.clone()
        elif tau == 0:
            mass = got.mass
        else:  # Σ_j w_j D_j, from Σ_j p_j = 1
            mass = 1 - tau * mean * (weight_sum + got.still)

        # Bound of the cancellation in the products above, against the mass that they should add up to.
        eps = torch.finfo(z.dtype).eps
        error = 8 * eps * weight_sum.abs() * magnitude
        if tau:  # where anchors at distance zero have most of the weight, the mass is what 1 less nearly 1 leaves
            error = error + 4 * eps
        rough |= ~(error <= self.cancellation * eps * mass) & ~alone
        if bool(rough.any()):
            pairs = _Pairs(self, z[rough], self.log_kernels(z[rough], norm[rough], own[rough]))
            values[rough], mass[rough], mean[rough] = pairs.share(rule)
            others[rough] = log_rest[rough] - pairs.log_sum

        others = others.clamp_min(0)
        no_distance = ~(mean >= NO_DISTANCE * others) | (mean <= 0) | alone
        factor = torch.ones_like(others)
        if rule.conserves:
            # The published rule (τ = 0) gives p_j·o to every anchor, also to one at distance zero that cannot
            # pass it on; the others divide by what arrives.
            factor = others if tau == 0 else others / mass
        if tau is not None or rule.conserves:
            factor = torch.where(no_distance, 0.0, factor)
        values = torch.where(alone[:, None], 0.0, values * factor[:, None])
        carried = torch.where(alone, 0.0, mass * factor)

        others = torch.where(alone, math.inf, others)
        score = others.clone()
        selves = torch.nonzero(own >= 0).squeeze(1)
        own_log_weight = self.log_weights[own[selves]]
        own_distance = self.gamma * (z[selves] - self.anchors[own[selves]]).square().sum(1)
        score[selves] = -torch.logaddexp(own_log_weight - own_distance, log_rest[selves] - score[selves])
        return PoolRelevance(values, score.clamp_min(0), others, carried, own >= 0, no_distance)


class _Pairs:
    """Rows against the anchors that carry weight for them, from explicit differences.

    Anchors with k = 0 are left out. ``log_sum`` is log Σ_j α_j e^(−D_j) over the others, their weights not
    renormalised.
    """

    def __init__(self, pool: SoftMinDistance, z: Tensor, log_k: Tensor) -> None:
        self.pool = pool
        self.z = z
        self.n = len(z)
        logits = pool.log_weights + log_k
        slack = 16 * torch.finfo(z.dtype).eps * pool.gamma * (z.square().sum(1) + pool.radius)
        active = logits >= (logits.amax(1) - _NEGLIGIBLE - slack)[:, None]
        active &= logits > -math.inf
        self.row, self.anchor = torch.nonzero(active, as_tuple=True)
        self.step = max(1, _PAIR_ENTRIES // max(1, z.shape[1]))
        self.D = torch.cat([delta.square().sum(1) for _, delta in self._differences()]) * pool.gamma
        logit = pool.log_weights[self.anchor] - self.D
        top = torch.full((self.n,), -math.inf, dtype=z.dtype, device=z.device)
        top = top.scatter_reduce(0, self.row, logit, "amax")
        p = (logit - top[self.row]).exp()
        total = self._sum(p)
        self.p = p / total[self.row]
        self.log_sum = top + total.log()

    def _differences(self) -> Iterator[tuple[slice, Tensor]]:
        """z_row − u_anchor, in parts of bounded size."""
        for start in range(0, len(self.row), self.step):
            part = slice(start, start + self.step)
            anchor = self.anchor[part]
            if not self.pool.still:
                yield part, self.z[self.row[part]] - self.pool.anchors[anchor]
                continue
            last = len(self.pool.anchors)
            delta = self.z[self.row[part]] - self.pool.anchors[anchor.clamp_max(last - 1)]
            yield part, torch.where((anchor == last)[:, None], 0.0, delta)

    def _sum(self, per_pair: Tensor) -> Tensor:
        return per_pair.new_zeros(self.n).index_add_(0, self.row, per_pair)

    def share(self, rule: SoftMinRule) -> tuple[Tensor, Tensor, Tensor]:
        """Unscaled relevance, its mass Σ w D, and E_p[D]."""
        mean = self._sum(self.p * self.D)
        tau = rule.stabiliser
        if tau is None:
            weight = self.p
        else:
            bottom = self.D + tau * mean[self.row]
            weight = torch.where(bottom > 0, self.p / bottom, 0.0)
        values = self.z.new_zeros((self.n, self.pool.pullback.n_columns))
        for part, delta in self._differences():
            shared = self.pool.pullback.squares(delta) * (self.pool.gamma * weight[part, None])
            values.index_add_(0, self.row[part], shared)
        return values, self._sum(weight * self.D), mean


def _small_soft_min(distances: Tensor, weights: Tensor) -> Tensor:
    """D_min − log1p(Σ α_j expm1(−(D_j − D_min))): full relative accuracy where all D_j are small."""
    # Distances come from an expansion: a row on its anchor may show −1e-17 there.
    D = distances.clamp_min(0)
    least = torch.where(weights > 0, D, math.inf).amin(1)
    return least - torch.log1p((weights * torch.expm1(-(D - least[:, None]))).sum(1))
