r"""Layers that compare: the nearest rival of a cluster, two signed pools, order statistics of distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from backlight.neural.layers.base import Ask, Layer, Pass, Point
from backlight.neural.layers.pullback import Pullback
from backlight.neural.layers.softmin_distance import SoftMinDistance
from backlight.rules.expansion import EXPANSION_RULES, GlobalImportance, Hybrid, SignedPools
from backlight.rules.softmin import Free, SoftMinRule

__all__ = [
    "ClassOrderStatistics",
    "Contrasts",
    "Levelled",
    "Nearest",
    "NearestRows",
    "OrderStatistics",
    "SignedExpansion",
]


class Contrasts(Layer):
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
        super().__init__()
        self.inner, self.units, self.beta = inner, len(rivals), beta
        self.rules = {"neon": "neon"}
        self.own = [torch.tensor([a for a, _ in pairs]) for pairs in rivals]
        self.rival = [torch.tensor([b for _, b in pairs]) for pairs in rivals]

    @property
    def rows(self) -> int:
        """Rows at once."""
        return self.inner.rows

    def forward(self, x: Point) -> Tensor:
        """Shape (n, U)."""
        d = self.inner(x)
        return torch.stack([(d[:, b] - d[:, a]).amin(1) for a, b in zip(self.own, self.rival, strict=True)], 1)

    def run(self, x: Point, ask: Ask) -> Pass:
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
        return Pass(output, sums, back, output, {"nearest rival": output, "differences of distances": sums})


class Nearest(Layer):
    """min_k h_k of one layer's units: all relevance goes to the nearest."""

    def __init__(self, inner: Layer) -> None:
        super().__init__()
        self.inner, self.rules = inner, inner.rules

    @property
    def rows(self) -> int:
        """Rows at once."""
        return self.inner.rows

    def forward(self, x: Point) -> Tensor:
        """Shape (n, 1)."""
        h: Tensor = self.inner(x)
        return h.amin(1, keepdim=True)

    def run(self, x: Point, ask: Ask) -> Pass:
        """See `Layer.run`."""
        below = self.inner.run(x, ask)
        output, index = below.output.min(1, keepdim=True)
        carried = below.carried.gather(1, index)

        def back(c: Tensor) -> Tensor:
            return below.back(torch.zeros_like(below.output).scatter(1, index, c))

        return Pass(output, carried, back, output, {"nearest": output})


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

    def _logs(self, x: Point) -> tuple[Tensor, Tensor]:
        nothing = x.z.new_full((len(x), 1), -math.inf)
        logs = [
            nothing if side is None else size - side(x)
            for side, size in zip((self.positive, self.negative), self.log_sums, strict=True)
        ]
        return logs[0], logs[1]

    def forward(self, x: Point) -> Tensor:
        """Shape (n, 1)."""
        a, b = self._logs(x)
        return a.exp() - b.exp()

    def run(self, x: Point, ask: Ask) -> Pass:
        """See `Layer.run`."""
        rule = ask.rule
        pools = rule.pools if isinstance(rule, SignedPools) else Free(leave_self_out=False)
        sides = (self.positive, self.negative)
        runs = [None if side is None else side.run(x, Ask(_fitting(side, pools))) for side in sides]
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
        common = self._global(x, ask, scale) if eta < 1 else None
        if common is not None:
            carried = eta * carried + (1 - eta) * common.sum(1, keepdim=True)

        def back(c: Tensor) -> Tensor:
            out = x.z.new_zeros((len(x), self.pullback.n_columns))
            for sign, got in zip(signs, runs, strict=True):
                if got is not None and eta > 0:
                    out = out + got.back(c * scale * (sign * eta))
            return out if common is None else out + (1 - eta) * c * common

        return Pass(output, carried, back, output, {"log-ratio of two pools": output, "distance": carried})

    def _width(self) -> tuple[float, float]:
        side = self.positive if self.positive is not None else self.negative
        pool = _pool_of(side)
        return pool.gamma, self.median or 0.0

    def _global(self, x: Point, ask: Ask, scale: Tensor) -> Tensor:
        """2Lγ (x − x̃) ⊙ (Σ p u − Σ q u), in columns."""
        difference = torch.zeros_like(x.z)
        gamma = self._width()[0]
        for sign, side in ((1.0, self.positive), (-1.0, self.negative)):
            if side is not None:
                difference = difference + sign * _mean_anchor(_pool_of(side), x.z)
        weight, _, zero = self.pullback.linear(difference, difference.new_zeros(len(difference)))
        start = zero if ask.usual is None else ask.usual.e.mean(0)
        return 2 * gamma * scale * self.pullback.columns((x.e - start) * weight)


class Levelled(Layer):
    """A regression f + b, counted from a level: f + (b − level) as one expansion, and the level as base.

    Without a level that is the intercept b itself: what the model says far from all data.

    Parameters
    ----------
    make : function of an intercept to an expansion without level
    intercept : float
    """

    reads = frozenset({"level"})

    def __init__(self, make: Callable[[float], Layer], intercept: float) -> None:
        super().__init__()
        self.make, self.intercept = make, intercept
        self.inner = make(0.0)
        self.rules = self.inner.rules
        self._at: dict[float, Layer] = {}

    @property
    def rows(self) -> int:
        """Rows at once."""
        return self.inner.rows

    def forward(self, x: Point) -> Tensor:
        """Shape (n, 1)."""
        f: Tensor = self.inner(x)
        return f + self.intercept

    def run(self, x: Point, ask: Ask) -> Pass:
        """See `Layer.run`."""
        level = self.intercept if ask.level is None else float(ask.level)
        inner = self.inner
        if level != self.intercept:
            inner = self._at.get(level) or self.make(self.intercept - level).to(x.z)
            self._at = {level: inner}
        got = inner.run(x, ask)
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
        p = torch.softmax(pool.log_weights - pool._distances(centred, centred.square().sum(1)), 1)
        out[rows] = p[:, : len(anchors)] @ anchors
    return out


def _fitting(side: Layer, rule: SoftMinRule) -> SoftMinRule:
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


class NearestRows:
    """The k nearest training rows, as the library's own search finds them: which ones is a gate, not a function.

    Parameters
    ----------
    search : function of rows (n, K) and a number k
        Positions of the k nearest training rows, nearest first, (n, k).
    rows : (M, K) training rows
    """

    def __init__(self, search: Callable[[np.ndarray, int], np.ndarray], rows: Tensor) -> None:
        self.search, self.rows = search, rows

    def find(self, z: Tensor, k: int, own: Tensor | None) -> Tensor:
        """Positions (n, k), leaving out each row's own."""
        numbers = z.detach().cpu().numpy()
        if own is None or not bool((own >= 0).any()):
            return torch.as_tensor(self.search(numbers, k).copy(), device=z.device)
        found = torch.as_tensor(self.search(numbers, min(k + 1, len(self.rows))).copy(), device=z.device)
        mine = found == own[:, None]
        none = ~mine.any(1)
        mine[none, -1] = True  # not among them: the last one goes
        if found.shape[1] == k:  # every training row is a neighbour, and there is no other to take
            found = torch.cat([found, found[:, -1:]], 1)
            mine = torch.cat([mine, mine.new_zeros((len(mine), 1))], 1)
        return found[~mine].reshape(len(z), k)


class OrderStatistics(Layer):
    r"""y = A(x) Σ_r w_r max(m_r, d_(r)) + b: a weighted sum of the distances to the nearest training rows.

    d_(r) is the r-th smallest distance. Relevance: :math:`R_i = A\sum_r w_r\,
    d_{(r)}\,\delta_{ri}^2/\lVert\delta_r\rVert^2`; a neighbour at distance zero carries nothing. With floors m (the
    reach of a local outlier factor) the larger one is shared in the same way, and a gate A, made of constants of the
    training set, is passed as it is.

    Parameters
    ----------
    rows : NearestRows
    weights : (k,)
    squared : bool
        Whether d is squared.
    floor : (M,), optional
        m_r: a constant of each training row.
    gate : function of neighbours (n, k) to (n,), optional
    extra : float
        Added to the sum, before the gate; base.
    """

    weights: Tensor
    anchors: Tensor

    def __init__(
        self,
        rows: NearestRows,
        weights: Tensor,
        pullback: Pullback,
        squared: bool = False,
        floor: Tensor | None = None,
        gate: Callable[[Tensor], Tensor] | None = None,
        extra: float = 0.0,
    ) -> None:
        super().__init__()
        self.nearest, self.pullback, self.squared = rows, pullback, squared
        self.gate, self.extra = gate, extra
        self.floor: Tensor | None
        if floor is None:
            self.floor = None
        else:
            self.register_buffer("floor", floor)
        self.rules = {"distance": "distance"}
        self.register_buffer("weights", weights)
        self.register_buffer("anchors", rows.rows)

    @property
    def rows(self) -> int:
        """Rows at once."""
        return max(16, min(8192, (1 << 22) // (len(self.weights) * self.anchors.shape[1])))

    def _terms(self, x: Point, own: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found = self.nearest.find(x.z, len(self.weights), own)
        delta = x.z[:, None, :] - self.anchors[found]
        square = delta.square().sum(2)
        # the root of zero has no gradient
        d = square if self.squared else torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)
        if self.floor is not None:
            d = torch.maximum(d, self.floor[found])
        scale = torch.ones_like(d[:, 0]) if self.gate is None else self.gate(found)
        return delta, square, d * self.weights, scale

    def forward(self, x: Point) -> Tensor:
        """Shape (n, 1)."""
        _, _, terms, scale = self._terms(x, None)
        return (scale * (terms.sum(1) + self.extra))[:, None]

    def without(self, x: Point, own: Tensor) -> Tensor:
        """Shape (n, 1)."""
        _, _, terms, scale = self._terms(x, own)
        return (scale * (terms.sum(1) + self.extra))[:, None]

    def run(self, x: Point, ask: Ask) -> Pass:
        """See `Layer.run`."""
        own = ask.own
        delta, square, terms, scale = self._terms(x, None)
        output = (scale * (terms.sum(1) + self.extra))[:, None]
        others = output
        if own is not None and bool((own >= 0).any()):  # explained by the others, as pools do
            delta, square, terms, scale = self._terms(x, own)
            others = (scale * (terms.sum(1) + self.extra))[:, None]
        weight = torch.where(square > 0, scale[:, None] * terms / torch.where(square > 0, square, 1.0), 0.0)
        carried = (weight * square).sum(1, keepdim=True)
        parts = [self.pullback.squares(delta[:, r]) * weight[:, r, None] for r in range(weight.shape[1])]
        shared = torch.stack(parts).sum(0)
        none = (carried <= 0).squeeze(1)
        notes = {"no_distance": none}
        if own is not None:
            notes["self_anchor"] = own >= 0
        return Pass(output, carried, lambda c: c * shared, others, {"order statistics": output}, notes)

    def self_index(self, x: Point) -> Tensor:
        """Which training row each row is, −1 for none."""
        nearest = self.nearest.find(x.z, 1, None).squeeze(1)
        gap = (x.z - self.anchors[nearest]).abs().amax(1)
        size = x.z.abs().amax(1) + self.anchors.abs().amax()
        return torch.where(gap <= 64 * torch.finfo(x.z.dtype).eps * size, nearest, -1)

    def training_rows(self) -> Tensor:
        """The rows that distances are measured to."""
        return self.anchors


class ClassOrderStatistics(Layer):
    r"""The contrast f_ab = d_(m)^b − d_(m)^a: the m-th nearest row of class a against that of class b.

    Squared distances. With an odd number k of neighbours and two classes, m = (k + 1)/2 makes f > 0 exactly where the
    vote goes to a: the ball through the m-th row of a then holds fewer than m rows of b. In general m = min(v_a, v_b) +
    1 with the votes v of the k nearest rows, a gate: of the class with more votes that row lies inside the ball, of the
    other one outside. A class with fewer rows than that is represented by the k-th nearest row of all.

    Relevance: :math:`(z-u_b)_i^2 - (z-u_a)_i^2` of the two rows, which sums to f. Where a vote is a tie the library
    gives the first of the classes and the contrast decides by distance; the annotation ``tie`` says so.

    Bley et al. (arXiv 2508.03913, 2025) for two classes; the rest is derived here.
    """

    anchors: Tensor

    def __init__(self, rows: NearestRows, labels: Tensor, n_classes: int, k: int, pullback: Pullback) -> None:
        super().__init__()
        self.nearest, self.pullback, self.k = rows, pullback, k
        self.labels, self.n_classes = labels, n_classes
        self.units = n_classes if n_classes > 2 else 1
        self.rules = {"neighbours": "neighbours"}
        self.register_buffer("anchors", rows.rows)
        self.counts = torch.bincount(labels, minlength=n_classes)
        self.members = [torch.nonzero(labels == c).squeeze(1) for c in range(n_classes)]

    @property
    def rows(self) -> int:
        """Rows at once."""
        return max(16, min(4096, (1 << 21) // len(self.anchors)))

    def _pairs(self, x: Point) -> tuple[Tensor, Tensor, Tensor]:
        """For every unit the anchors of rival and own class, (n, U) each, and whether the vote is a tie."""
        z = x.z.detach()
        d = torch.cdist(z, self.anchors, compute_mode="donot_use_mm_for_euclid_dist")
        near = self.nearest.find(z, self.k, None)
        votes = torch.stack([(self.labels[near] == c).sum(1) for c in range(self.n_classes)], 1)
        ranked = []
        for rows in self.members:
            top = torch.topk(d[:, rows], min(self.k + 1, len(rows)), largest=False).indices
            ranked.append(rows[top])
        last = near[:, -1]
        first = votes.sort(1, descending=True).values
        tie = first[:, 0] == first[:, 1]

        def anchor(c: int, m: Tensor) -> Tensor:
            have = ranked[c].shape[1]
            picked = ranked[c].gather(1, (m.clamp_max(have) - 1)[:, None]).squeeze(1)
            return torch.where(m > have, last, picked)

        if self.n_classes == 2:
            m = torch.full_like(last, (self.k + 1) // 2) if self.k % 2 else votes.amin(1) + 1
            return anchor(0, m)[:, None], anchor(1, m)[:, None], tie
        rivals, owns = [], []
        for a in range(self.n_classes):
            best = torch.full_like(d[:, 0], math.inf)
            rival, own = torch.zeros_like(last), torch.zeros_like(last)
            for b in range(self.n_classes):
                if a == b:
                    continue
                m = torch.minimum(votes[:, a], votes[:, b]) + 1
                u, v = anchor(b, m), anchor(a, m)
                gap = d.gather(1, u[:, None]).square() - d.gather(1, v[:, None]).square()
                better = gap.squeeze(1) < best
                best = torch.where(better, gap.squeeze(1), best)
                rival, own = torch.where(better, u, rival), torch.where(better, v, own)
            rivals.append(rival)
            owns.append(own)
        return torch.stack(rivals, 1), torch.stack(owns, 1), tie

    def forward(self, x: Point) -> Tensor:
        """Shape (n, U)."""
        rival, mine, _ = self._pairs(x)
        z = x.z[:, None, :]
        return (z - self.anchors[rival]).square().sum(2) - (z - self.anchors[mine]).square().sum(2)

    def run(self, x: Point, ask: Ask) -> Pass:
        """See `Layer.run`."""
        rival, mine, tie = self._pairs(x)
        z = x.z[:, None, :]
        far, near = z - self.anchors[rival], z - self.anchors[mine]
        output = far.square().sum(2) - near.square().sum(2)

        def back(c: Tensor) -> Tensor:
            out = x.z.new_zeros((len(x), self.pullback.n_columns))
            for u in range(self.units):
                out += c[:, u, None] * (self.pullback.squares(far[:, u]) - self.pullback.squares(near[:, u]))
            return out

        return Pass(output, output, back, output, {"order statistics": output}, {"tie": tie})
