r"""Soft-min pools as layers, and the links that turn their output into scores.

``SoftMinPool``  distance and pool in one, for Gaussian kernels: `backlight.classical.layers.softmin_distance`
``SoftMin``      the pool alone, over any layer of non-negative units
``Link``         a score that is a function of one output
``Budget``       a score that says how normal a row is: what the row leaves of the usual
``LogOdds``      log-odds of each unit against all others, from energies
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backlight.classical.layers.base import Account, Coefficients, EncodedRows, ForwardPass, Layer, Query, Wrapper
from backlight.classical.layers.softmin_distance import SoftMinDistance
from backlight.rules.softmin import SOFTMIN_RULES, SoftMinRule

__all__ = ["NO_DISTANCE", "Budget", "Link", "LogOdds", "SoftMin", "SoftMinPool"]

# Below this share of distance in the score there is nothing that features could be given.
NO_DISTANCE = 1e-6

Function = Callable[[Tensor], Tensor]


class SoftMinPool(Layer):
    """Gaussian distances and their soft-min, with the rules of `backlight.rules.softmin`; one unit, in nats."""

    def __init__(self, pool: SoftMinDistance) -> None:
        super().__init__()
        self.pool = pool
        self.rules = {name: rule() for name, rule in SOFTMIN_RULES.items()}

    def forward(self, x: EncodedRows) -> Tensor:
        """Outlierness o(z) ≥ 0, shape (n, 1)."""
        out: Tensor = self.pool(x.z)
        return out[:, None]

    def without(self, x: EncodedRows, own: Tensor) -> Tensor:
        """Shape (n, 1)."""
        return self.pool.score_without(x.z, own)[:, None]

    def activations(self, x: EncodedRows) -> Mapping[str, Tensor]:
        """Distances D_j, and the pool's weights p_j ∝ α_j e^(−D_j)."""
        z = x.z - self.pool.center
        D = -self.pool.log_kernels(z, z.square().sum(1)).clamp_max(0)
        return {"distance": D, "weight": torch.softmax(self.pool.log_weights - D, 1)}

    @property
    def made_of(self) -> Mapping[str, int]:
        """The distance to each anchor."""
        return {"distance": len(self.pool.anchors)}

    def inside(self, name: str, x: EncodedRows, ask: Query) -> Callable[[Tensor], Tensor]:
        """See `Layer.inside`."""
        given = self.pool.handed(x.z, ask.rule, ask.own)
        return lambda c: c * given

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        rule: SoftMinRule = ask.rule
        got = self.pool.relevance(x.z, rule, ask.own)
        return ForwardPass(
            output=got.score[:, None],
            carried=got.carried[:, None],
            back=lambda c: c * got.values,
            others=got.others[:, None],
            flow={"soft-min pool": got.score[:, None], "distance": got.carried[:, None]},
            notes={"self_anchor": got.self_anchor, "no_distance": got.no_distance},
        )

    def self_index(self, x: EncodedRows) -> Tensor:
        """Which anchor each row itself is, −1 for none."""
        return self.pool.self_index(x.z - self.pool.center)

    def training_rows(self) -> Tensor:
        """The anchors, (M, K)."""
        return self.pool.anchors + self.pool.center


class _OnAnchors(Wrapper):
    """A layer on top of one that may hold anchors."""

    def self_index(self, x: EncodedRows) -> Tensor:
        """As the inner layer's."""
        return self.inner.self_index(x)

    def training_rows(self) -> Tensor | None:
        """As the inner layer's."""
        return self.inner.training_rows()


class SoftMin(_OnAnchors):
    r"""o = −log Σ_j e^{w_j − h_j} over the units h_j ≥ 0 of another layer, with log-weights w_j of any sum.

    With :math:`p_j \propto e^{w_j-h_j}` and weights on the simplex, o = E_p[h] + KL(p‖α). ``free`` hands p_j to each
    unit and leaves the entropy to the base; the other rules hand on all of o, as `SoftMinPool` does. The
    normaliser −log Σ_j e^{w_j} is base in any case.

    Parameters
    ----------
    inner : Layer
    log_weights : tensor of shape (U,)
    default : str
        The rule that "auto" stands for.
    """

    log_weights: Tensor
    log_total: Tensor

    def __init__(self, inner: Layer, log_weights: Tensor, default: str = "free") -> None:
        super().__init__(inner)
        self.register_buffer("log_weights", log_weights)
        self.register_buffer("log_total", torch.logsumexp(log_weights, 0))
        names = [default, *(name for name in SOFTMIN_RULES if name != default)]
        self.rules = {name: SOFTMIN_RULES[name]() for name in names}

    @property
    def rows(self) -> int:
        """Rows at once: the units' block is cut here, where all that needs it is."""
        return 8192

    def _parts(self, n: int) -> list[slice]:
        step = self.inner.rows
        return [slice(start, start + step) for start in range(0, n, step)] or [slice(0, 0)]

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, 1)."""
        return torch.cat([self._pooled(self.inner(x.take(rows))) for rows in self._parts(len(x))])

    def without(self, x: EncodedRows, own: Tensor) -> Tensor:
        """Shape (n, 1)."""
        parts = self._parts(len(x))
        return torch.cat([self._pooled(self._hidden(self.inner(x.take(rows)), own[rows])) for rows in parts])

    def activations(self, x: EncodedRows) -> Mapping[str, Tensor]:
        """The units h_j, and the pool's weights p_j ∝ e^(w_j − h_j)."""
        h: Tensor = self.inner(x)
        return {"distance": h, "weight": torch.softmax(self.log_weights - h, 1)}

    def _pooled(self, h: Tensor) -> Tensor:
        return -torch.logsumexp(self.log_weights - h, 1, keepdim=True)

    def _hidden(self, h: Tensor, own: Tensor) -> Tensor:
        if not bool((own >= 0).any()):
            return h
        h = h.clone()
        selves = torch.nonzero(own >= 0).squeeze(1)
        log_rest = torch.log1p(-(self.log_weights[own[selves]] - self.log_total).exp())
        h[selves] = h[selves] + log_rest[:, None]
        h[selves, own[selves]] = math.inf
        return h

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        rule: SoftMinRule = ask.rule
        own = ask.own
        if own is None:
            own = self.self_index(x) if rule.leave_self_out else torch.full((len(x),), -1, device=x.z.device)
        return ForwardPass.joined([self._part(x.take(rows), rule, own[rows]) for rows in self._parts(len(x))])

    def _part(self, x: EncodedRows, rule: SoftMinRule, own: Tensor) -> ForwardPass:
        below = self.inner.run(x, Query(next(iter(self.inner.rules.values())), None))
        # Comparisons and choices cost as much as exponentials, and new memory more: the former are made for rows, and
        # for entries only if need be; the latter is used again.
        h = below.output
        logits = self.log_weights - (self._hidden(h, own) if rule.leave_self_out else h)
        top = logits.amax(1)
        alone = top == -math.inf
        p = logits.sub_(torch.where(alone, 0.0, top)[:, None]).exp_()
        total = p.sum(1)
        others = -(top + total.log())
        total = torch.where(alone, 1.0, total)
        if bool((h.amax(1) == math.inf).any()):  # a unit at infinity has no weight
            h = torch.where(torch.isfinite(h), h, 0.0)
        scratch = p * h
        mean = scratch.sum(1) / total
        o = others + self.log_total
        tau = rule.stabiliser
        if tau is None:
            weight, mass = p, mean
        else:
            if tau == 0:
                weight = torch.where(h > 0, p / torch.where(h > 0, h, 1.0), 0.0)
            else:  # where E_p[h] is zero, so is h wherever it has weight
                least = (tau * mean).clamp_min(torch.finfo(h.dtype).tiny)
                weight = p.div_(torch.add(h, least[:, None], out=scratch))
            mass = torch.mul(weight, h, out=scratch).sum(1) / total
        none = (mean < NO_DISTANCE * o) | (mean <= 0) | alone
        factor = torch.ones_like(o)
        if rule.conserves:
            factor = o if tau == 0 else o / torch.where(mass > 0, mass, 1.0)
        if tau is not None or rule.conserves:
            factor = torch.where(none, 0.0, factor)
        coefficients = weight.mul_(torch.where(alone, 0.0, factor / total)[:, None])
        output = others[:, None]
        if rule.leave_self_out and bool((own >= 0).any()):
            output = self._pooled(below.output)
        # often the units carry all that they are, and the sum is known
        carried = mass * factor if below.carried is h else (coefficients * below.carried).sum(1)
        carried = torch.where(alone, 0.0, carried)[:, None]
        flow = {
            name: carried if value is below.carried else (coefficients * value).sum(1, keepdim=True)
            for name, value in below.flow.items()
        }
        values = below.back(coefficients)  # at once: the block of units is not kept
        return ForwardPass(
            output=output,
            carried=carried,
            back=lambda c: c * values,
            others=others[:, None],
            flow={"soft-min pool": output, **flow},
            notes={**below.notes, "no_distance": none, "self_anchor": own >= 0},
        )


class Link(_OnAnchors):
    """y = φ(s) of one layer, element by element; relevance passes by the slope (φ(s) − φ(s₀)) / (s − s₀).

    Parameters
    ----------
    inner : Layer
    value, slope : functions of the inner output (n, U)
    """

    def __init__(self, inner: Layer, value: Function, slope: Function) -> None:
        super().__init__(inner)
        self.value, self.slope, self.units = value, slope, inner.units

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        return self.value(self.inner(x))

    def without(self, x: EncodedRows, own: Tensor) -> Tensor:
        """Shape (n, U)."""
        return self.value(self.inner.without(x, own))

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        got = self.inner.run(x, ask)
        return got.scaled(self.value(got.output), self.slope(got.output), self.value(got.others))


class Budget(Link):
    """How normal a row is: y = φ(o) with φ falling, read as what the row leaves of the usual.

    Every column has a budget b_i, its mean relevance over rows that count as usual, and R_i = |φ′| (b_i − R_i^out) with
    the link's own secant for φ′. The rows are ``ask.usual`` or the layer's anchors.

    Parameters
    ----------
    inner : Layer with one unit
    value, slope : functions of o; the slope is negative
    total : float, optional
        What the budgets add up to; by default the mean relevance itself.
    """

    reads = frozenset({"rows"})
    kept_instead: Mapping[str, Any] = {"_known": {}}

    def __init__(self, inner: Layer, value: Function, slope: Function, total: float | None = None) -> None:
        super().__init__(inner, value, slope)
        self.total = total
        self._known: dict[object, Tensor] = {}

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        got = self.inner.run(x, ask)
        slope = self.slope(got.output).abs()
        usual = self.usual(ask)
        if usual is None:  # nothing to compare with: only what the row takes off
            usual = torch.zeros_like(got.back(torch.ones_like(slope))[0])
        given = usual.sum()
        return replace(
            got,
            output=self.value(got.output),
            others=self.value(got.others),
            carried=slope * (given - got.carried),
            back=lambda c: c * slope * (usual - got.back(torch.ones_like(slope))),
            account=None,
            flow={name: slope * (given - value) for name, value in got.flow.items()},
        )

    def usual(self, ask: Query) -> Tensor | None:
        """Mean relevance of the rows that count as usual, (columns,), or None where there are none."""
        rows, key = ask.usual, ask.rule
        if rows is None:
            if key in self._known:
                return self._known[key]
            anchors = self.inner.training_rows()
            if anchors is None:
                return None
            rows = EncodedRows.at(anchors)
        parts, n = [], max(1, min(self.rows, 4096))
        for start in range(0, len(rows), n):
            got = self.inner.run(rows.take(slice(start, start + n)), Query(ask.rule))
            parts.append(got.back(torch.ones_like(got.output)))
        usual = torch.cat(parts).mean(0)
        if self.total is not None:
            whole = float(usual.sum())
            usual = usual * (self.total / whole) if whole > 0 else torch.full_like(usual, self.total / len(usual))
        if ask.usual is None:
            self._known[key] = usual
        return usual


class LogOdds(Layer):
    r"""log q_c/(1−q_c) for each c, with q the softmax of −E: energies E = units of a layer + constants.

    .. math::  y_c = \operatorname{smin}_{k\ne c} E_k - E_c, \qquad R = \sum_{k\ne c} \pi_k R(E_k) - R(E_c)

    with :math:`\pi` the softmax over the others. Their entropy and all constants are base. For two units this is the
    difference of the energies, exactly.

    Parameters
    ----------
    inner : Layer
        Its units are the energies' x-dependent parts.
    constants : tensor of shape (U,)
    """

    constants: Tensor

    def __init__(self, inner: Layer, constants: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.rules, self.units = inner.rules, inner.units
        self.register_buffer("constants", constants)

    @property
    def rows(self) -> int:
        """Rows at once: (n, U, U) weights are formed."""
        return max(16, min(self.inner.rows, (1 << 22) // (self.units * self.units)))

    def _rivals(self, energies: Tensor) -> Tensor:
        """−E_k for every c and k ≠ c, (n, c, k), with −∞ on the diagonal."""
        others = (-energies)[:, None, :].expand(-1, energies.shape[1], -1).clone()
        others.diagonal(dim1=1, dim2=2).fill_(-math.inf)
        return others

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        energies: Tensor = self.inner(x) + self.constants
        return -torch.logsumexp(self._rivals(energies), 2) - energies

    def run_alone(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run_alone`: for one c a row, without the matrix of all."""
        below = self.inner.run(x, ask)
        energies = below.output + self.constants
        # log q/(1−q) as it stands loses digits only where q is nearly one, and that is one c a row
        least, first = energies.min(1, keepdim=True)
        q = torch.exp(least - energies)
        whole = q.sum(1, keepdim=True)
        rest = energies.scatter(1, first, math.inf)
        second = rest.amin(1, keepdim=True)
        alone = second - torch.log(torch.exp(second - rest).sum(1, keepdim=True))
        output = (least - torch.log(whole - q)).scatter_(1, first, alone) - energies

        def account(c: Coefficients) -> Account:
            if c.only is None:
                return Account.of(self.run(x, ask), c)
            t = c.only.unsqueeze(1)
            apart = energies.scatter(1, t, math.inf)
            p = torch.exp(apart.amin(1, keepdim=True) - apart)
            w = p.mul_(1 / p.sum(1, keepdim=True)).scatter_(1, t, -1.0)
            flow = {name: (w * value).sum(1) for name, value in below.flow.items()}
            carried = (w * below.carried).sum(1)
            return Account(below.back(w), carried, {"log-odds": c.sum(output), **flow})

        def back(c: Tensor) -> Tensor:
            return account(Coefficients(c)).relevance

        return ForwardPass(output, output, back, output, notes=below.notes, account=account)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        below = self.inner.run(x, ask)
        energies = below.output + self.constants
        rivals = self._rivals(energies)
        matrix = torch.softmax(rivals, 2)
        matrix.diagonal(dim1=1, dim2=2).fill_(-1.0)

        def through(value: Tensor) -> Tensor:
            return torch.einsum("nck,nk->nc", matrix, value)

        output = -torch.logsumexp(rivals, 2) - energies
        return ForwardPass(
            output=output,
            carried=through(below.carried),
            back=lambda c: below.back(torch.einsum("nc,nck->nk", c, matrix)),
            others=output,
            flow={"log-odds": output, **{name: through(value) for name, value in below.flow.items()}},
            notes=below.notes,
        )
