r"""Modes of mixtures: linear f under a mixture or kernel density, log-densities as f.

Exponential tilting: with :math:`e^{w\cdot x}\,\mathcal N(x;\mu,S) = e^{w\cdot\mu+\frac12 w^\mathsf{T}Sw}\,\mathcal
N(x;\mu+Sw,S)` a linear f plus log p is the logarithm of a mixture again, of means μ_k + S_k w, and a log-density plus
a quadratic prior is one too. So in all cases

.. math::  J(y) = \log\sum_k e^{c_k - \frac12 (y-m_k)^\mathsf{T}\Lambda_k(y-m_k)} .

*Fixed point* (EM; Carreira-Perpiñán, "Mode-finding for mixtures of Gaussian distributions", 2000):
:math:`y \leftarrow (\sum r_k\Lambda_k)^{-1}\sum r_k\Lambda_k m_k` raises J in every step; for a kernel density it is
mean shift with tilted weights. It starts at every shifted mean, and Newton's method ends it.

*Global bound*, derived here. At any y some component j has the largest term. Let ρ be the distance of y from m_j in
the metric Λ_j. The k-th term is at distance at least D_jk − s_jk ρ from its own mean, where D_jk is that of m_j and
s_jk² the largest eigenvalue of Λ_k relative to Λ_j, and it is no larger than the j-th. So

.. math::  J^* \le \max_j \max_\rho \log\Big(e^{c_j-\frac12\rho^2} + \sum_{k\ne j}
           \min\big(e^{c_j-\frac12\rho^2},\; e^{c_k-\frac12\max(0,\,D_{jk}-s_{jk}\rho)^2}\big)\Big)
           \le \log\sum_k e^{c_k} .

The maximum over ρ is taken over shells, each with the near side of the first term and the far side of the others; and
since J ≤ c_j − ρ²/2 + log K, only shells and components that could beat what is known need be looked at. Components
that stand apart leave no gap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, softmax

from backlight._prototype.formula import Linear, Pool
from backlight._prototype.problem import Certificate, Found, Problem
from backlight.priors import KernelDensity, Mixture

__all__ = ["Modes", "modes", "of_modes"]

# Means from which the fixed point starts, the highest first.
_STARTS = 32
_STEPS = 3000
_SHELLS = 100
# What the bound may leave open before a result is called global, in units of J.
_CERTAIN = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Modes:
    """J(y) = log Σ_k exp(log_c_k − ½‖U_k (y − m_k)‖²).

    Attributes
    ----------
    log_c : (K,)
    means : (K, d)
    U : (K, d, d) with Λ_k = U_kᵀU_k, or a number where Λ = U² I for all
    """

    log_c: np.ndarray
    means: np.ndarray
    U: np.ndarray | float

    def terms(self, y: np.ndarray) -> np.ndarray:
        """The exponents at points (n, d), (n, K)."""
        if isinstance(self.U, float):
            center = self.means.mean(0)
            a, m = y - center, self.means - center
            squared = np.square(a).sum(1)[:, None] - 2 * a @ m.T + np.square(m).sum(1)
            return np.asarray(self.log_c - 0.5 * self.U**2 * np.clip(squared, 0, None))
        u = np.einsum("kij,nkj->nki", self.U, y[:, None] - self.means)
        return np.asarray(self.log_c - 0.5 * np.square(u).sum(2))

    def value(self, y: np.ndarray) -> np.ndarray:
        """J at points (n, d), (n,)."""
        return np.asarray(logsumexp(self.terms(y), axis=1))

    def climb(self, y: np.ndarray) -> np.ndarray:
        """The fixed point from points (n, d)."""
        live = np.arange(len(y))
        y = y.copy()
        scale = 1e-13 * (1 + np.abs(self.means).max())
        for _ in range(_STEPS):
            r = softmax(self.terms(y[live]), axis=1)
            if isinstance(self.U, float):
                new = r @ self.means
            else:
                Lambda = np.einsum("kij,kil->kjl", self.U, self.U)
                pulled = np.einsum("kij,kj->ki", Lambda, self.means)
                new = np.linalg.solve(np.einsum("nk,kij->nij", r, Lambda), (r @ pulled)[..., None])[..., 0]
            moved = np.abs(new - y[live]).max(1)
            y[live] = new
            live = live[moved > scale]
            if not len(live):
                break
        return y

    def polish(self, y: np.ndarray) -> tuple[np.ndarray, float]:
        """Newton's method at one mode; the point and |∇J| there, in the metric of the nearest component."""
        for _ in range(20):
            gradient, hessian = self._derivatives(y)
            if np.linalg.eigvalsh(hessian)[-1] >= 0:
                break
            new = y - np.linalg.solve(hessian, gradient)
            if not self.value(new[None])[0] >= self.value(y[None])[0]:
                break
            done = np.abs(new - y).max() <= 1e-15 * (1 + np.abs(y).max())
            y = new
            if done:
                break
        return y, float(np.linalg.norm(self._derivatives(y)[0]))

    def _derivatives(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r = softmax(self.terms(y[None])[0])
        near = np.flatnonzero(r > 1e-18)
        r, delta = r[near], y - self.means[near]
        if isinstance(self.U, float):
            pulls = -(self.U**2) * delta
            curved = self.U**2 * np.eye(len(y))
        else:
            Lambda = np.einsum("kij,kil->kjl", self.U[near], self.U[near])
            pulls = -np.einsum("kij,kj->ki", Lambda, delta)
            curved = np.einsum("k,kij->ij", r, Lambda)
        g = r @ pulls
        return g, (pulls.T * r) @ pulls - np.outer(g, g) - curved

    def bound(self, known: float) -> float:
        """An upper bound of J everywhere, given a value that is reached."""
        top = float(logsumexp(self.log_c))
        best = known
        room = self.log_c + np.log(len(self.log_c)) - known
        for j in np.argsort(-self.log_c):
            if room[j] <= 0 or best >= top:
                break
            best = max(best, self._around(int(j), float(np.sqrt(2 * room[j]))))
        return min(best, top)

    def _around(self, j: int, reach: float) -> float:
        """A bound of J where component j has the largest term and is nearer than ``reach``."""
        away = np.sqrt(2 * np.clip(self.log_c - self.terms(self.means[j][None])[0], 0, None))
        stretch = np.ones(len(away))
        if not isinstance(self.U, float):
            inverse = np.linalg.inv(self.U[j])
            stretch = np.array([np.linalg.norm(U @ inverse, 2) for U in self.U])
        edges = np.linspace(0, reach, _SHELLS + 1)
        own = self.log_c[j] - 0.5 * edges[:-1] ** 2
        left = np.clip(away[:, None] - stretch[:, None] * edges[None, 1:], 0, None)
        terms = np.minimum(self.log_c[:, None] - 0.5 * left**2, own)
        terms[j] = own
        return float(logsumexp(terms, axis=0).max())


def modes(problem: Problem) -> Found | None:
    """See the module."""
    if not problem.region.free or problem.space.has_code or problem.smallest:
        return None
    formula, prior = problem.formula, problem.prior
    if isinstance(formula, Linear) and isinstance(prior, Mixture | KernelDensity):
        w = formula.w / problem.strength
        found = _tilted_rows(prior, w) if isinstance(prior, KernelDensity) else _tilted(prior, w)
        return of_modes(problem, found, problem.strength, formula.b)
    if isinstance(formula, Pool) and formula.sign > 0 and (prior is None or problem.white is not None):
        return _log_density(problem, formula)
    return None


def _tilted(prior: Mixture, w: np.ndarray) -> Modes:
    means, covs = prior.means.numpy(), prior.covs.numpy()
    shift = covs * w if covs.ndim == 2 else covs @ w
    log_c = prior.log_weights.numpy() - prior.log_norm.numpy() + means @ w + 0.5 * shift @ w
    inverse = prior.inverse.numpy()
    U = np.stack([np.diag(one) for one in inverse]) if inverse.ndim == 2 else inverse
    return Modes(log_c, means + shift, U)


def _tilted_rows(prior: KernelDensity, w: np.ndarray) -> Modes:
    rows, h = prior.rows.numpy(), prior.bandwidth
    log_c = prior.log_weights.numpy() - prior.log_norm + rows @ w + 0.5 * h**2 * float(w @ w)
    return Modes(log_c, rows + h**2 * w, 1 / h)


def _log_density(problem: Problem, formula: Pool) -> Found | None:
    """J = log Σ exp(c_k − ½‖U_k (Tx + t − m_k)‖²) − ½‖v‖², a mixture in v; without a prior a mixture in x."""
    white, d = problem.white, problem.dimension
    if white is None:
        if np.linalg.matrix_rank(formula.T) < d:
            return None  # what the model does not see is free
        mean, L, prior = np.zeros(d), np.eye(d), 0.0
    else:
        mean, L, prior = white.mean.numpy(), white.matrix(), 1.0
    TL, at = formula.T @ L, formula.T @ mean + formula.t
    k = L.shape[1]
    n = len(formula.means)
    Us = np.asarray(float(formula.U)) * np.eye(len(at))[None] if np.ndim(formula.U) == 0 else formula.U
    if n * k * k > 4e7:
        return None
    log_c, means, roots = [], [], []
    for j in range(n):
        V, delta = Us[j if len(Us) > 1 else 0] @ TL, Us[j if len(Us) > 1 else 0] @ (at - formula.means[j])
        Lambda = V.T @ V + prior * np.eye(k)
        center = -np.linalg.solve(Lambda, V.T @ delta)
        left = delta + V @ center
        log_c.append(formula.log_c[j] - 0.5 * left @ left - 0.5 * prior * center @ center)
        means.append(center)
        roots.append(np.linalg.cholesky(Lambda).T)
    shared = len(Us) == 1
    found = Modes(np.array(log_c), np.array(means), np.array(roots))
    if shared and np.allclose(roots[0], roots[0][0, 0] * np.eye(k), atol=1e-14 * abs(roots[0][0, 0])):
        found = Modes(found.log_c, found.means, float(roots[0][0, 0]))
    offset = formula.constant - (0.0 if white is None else white.constant)
    return of_modes(problem, found, 1.0, offset, lambda v: mean + L @ v)


def of_modes(problem: Problem, found: Modes, unit: float, offset: float = 0.0, decode: object = None) -> Found:
    """The highest mode, its bound, and how many there are; ``offset`` is what the score has beside the mixture."""
    heights = found.value(found.means) if len(found.means) <= 4096 else found.log_c
    order = np.argsort(-heights)[:_STARTS]
    ends = found.climb(found.means[order])
    values = found.value(ends)
    best, residual = found.polish(ends[int(np.argmax(values))])
    value = float(found.value(best[None])[0])
    gap = unit * max(0.0, found.bound(value) - value)
    kinds: list[tuple[float, int]] = []
    spread = 1e-6 * (1 + np.abs(best).max())
    seen: list[np.ndarray] = []
    for i in np.argsort(-values):
        same = [k for k, y in enumerate(seen) if np.abs(y - ends[i]).max() <= max(spread, 1e-6)]
        if same:
            kinds[same[0]] = (kinds[same[0]][0], kinds[same[0]][1] + 1)
        else:
            seen.append(ends[i])
            kinds.append((unit * float(values[i]) + offset, 1))
    x = best if decode is None else decode(best)  # type: ignore[operator]
    alone = len(found.means) == 1
    status = "exact" if alone else "global" if gap <= _CERTAIN * max(1.0, unit) else "local"
    kind = "closed form" if alone else "tilting bound"
    notes = [] if alone else [f"{len(seen)} modes from {len(order)} starts; |gradient| {residual:.1g}"]
    return Found(np.asarray(x), status, Certificate(kind, gap, True), problem.code_of(np.asarray(x)), kinds, notes)
