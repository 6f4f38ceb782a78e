"""Slow, obvious references, one row and one anchor at a time, written from the formulas."""

import math

import mpmath
import numpy as np


def outlierness(x: np.ndarray, anchors: np.ndarray, weights: np.ndarray, gamma: float) -> float:
    """−log Σ_j α_j exp(−γ‖x − u_j‖²), with 60 digits."""
    with mpmath.workdps(60):
        total = mpmath.fsum(mpmath.mpf(float(a)) for a in weights)
        kernel = mpmath.mpf(0)
        for u, a in zip(anchors, weights, strict=True):
            squared = mpmath.fsum((mpmath.mpf(float(s)) - mpmath.mpf(float(t))) ** 2 for s, t in zip(x, u, strict=True))
            kernel += mpmath.mpf(float(a)) / total * mpmath.exp(-mpmath.mpf(gamma) * squared)
        return float(-mpmath.log(kernel))


def relevance(
    x: np.ndarray, anchors: np.ndarray, weights: np.ndarray, gamma: float, rule: str, tau: float = 0.01
) -> np.ndarray:
    """R_i by each rule's definition; no row is its own anchor here."""
    M, d = anchors.shape
    weights = weights / weights.sum()
    D = np.array([sum(gamma * (x[i] - anchors[j, i]) ** 2 for i in range(d)) for j in range(M)])
    h = [math.log(weights[j]) - D[j] for j in range(M)]
    top = max(h)
    o = -(top + math.log(math.fsum(math.exp(value - top) for value in h)))
    p = np.exp([value + o for value in h])
    mean = math.fsum(p * D)
    w, t = np.zeros(M), 1.0
    for j in range(M):
        if rule in ("free", "pool"):
            w[j] = p[j]
        elif rule == "dtd":
            w[j] = p[j] / D[j]
        elif rule == "stable":
            w[j] = p[j] / (D[j] + tau * mean)
    if rule in ("pool", "stable"):
        t = o / math.fsum(w * D)
    elif rule == "dtd":
        t = o
    R = np.zeros(d)
    for i in range(d):
        R[i] = t * math.fsum(w[j] * gamma * (x[i] - anchors[j, i]) ** 2 for j in range(M))
    return R
