"""The kinds of functions that solvers know how to maximise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from backlight.canonical.form import Form, Pointwise

__all__ = ["Formula", "Linear", "LogSoftmax", "MinLinear", "Network", "Pool", "Quadratic"]


class Formula(ABC):
    """A function of inputs (n, d) as arrays."""

    @abstractmethod
    def value(self, x: np.ndarray) -> np.ndarray:
        """f, (n,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Linear(Formula):
    """w·x + b."""

    w: np.ndarray
    b: float

    def value(self, x: np.ndarray) -> np.ndarray:
        """See `Formula.value`."""
        return np.asarray(x @ self.w + self.b)


@dataclass(frozen=True, slots=True, eq=False)
class Quadratic(Formula):
    """½ (x − m)ᵀH(x − m) + w·(x − m) + b."""

    H: np.ndarray
    w: np.ndarray
    b: float
    m: np.ndarray

    def value(self, x: np.ndarray) -> np.ndarray:
        """See `Formula.value`."""
        delta = x - self.m
        return np.asarray(0.5 * np.einsum("ni,ij,nj->n", delta, self.H, delta) + delta @ self.w + self.b)


@dataclass(frozen=True, slots=True, eq=False)
class MinLinear(Formula):
    """min_k w_k·x + b_k."""

    W: np.ndarray
    b: np.ndarray

    def value(self, x: np.ndarray) -> np.ndarray:
        """See `Formula.value`."""
        return np.asarray((x @ self.W.T + self.b).min(1))


@dataclass(frozen=True, slots=True, eq=False)
class LogSoftmax(Formula):
    """weight · log softmax(Wx + b)_c."""

    W: np.ndarray
    b: np.ndarray
    c: int
    weight: float = 1.0

    def value(self, x: np.ndarray) -> np.ndarray:
        """See `Formula.value`."""
        from scipy.special import log_softmax

        return np.asarray(self.weight * log_softmax(x @ self.W.T + self.b, axis=1)[:, self.c])


@dataclass(frozen=True, slots=True, eq=False)
class Pool(Formula):
    """sign · log Σ_k exp(c_k − ½‖U_k (z − m_k)‖²) + constant, with z = Tx + t.

    Attributes
    ----------
    sign : +1 for a log-density, −1 for an outlier score
    U : (K, r, q), or a scalar √(2γ) for one round metric
    """

    sign: float
    log_c: np.ndarray
    means: np.ndarray
    U: Any
    T: np.ndarray
    t: np.ndarray
    constant: float

    def value(self, x: np.ndarray) -> np.ndarray:
        """See `Formula.value`."""
        from scipy.special import logsumexp

        z = x @ self.T.T + self.t
        delta = z[:, None] - self.means
        if np.ndim(self.U) == 0:
            energy = 0.5 * self.U**2 * np.square(delta).sum(2)
        else:
            energy = 0.5 * np.square(np.einsum("krq,nkq->nkr", self.U, delta)).sum(2)
        return np.asarray(self.sign * logsumexp(self.log_c - energy, axis=1) + self.constant)


@dataclass(frozen=True, slots=True, eq=False)
class Network(Formula):
    """coefficients · network(Dx + e0), a network of affine layers and ReLUs in canonical notation."""

    form: Form
    coefficients: np.ndarray
    D: np.ndarray | None
    e0: np.ndarray | None
    shape: tuple[int, ...]

    def value(self, x: np.ndarray) -> np.ndarray:
        """See `Formula.value`."""
        e = x if self.D is None or self.e0 is None else x @ self.D.T + self.e0
        given = torch.as_tensor(e).reshape(len(x), *self.shape)
        name = next(iter(self.form.inputs))
        out = self.form.run({name: given})[self.form.output].reshape(len(x), -1)
        return np.asarray(out.numpy() @ self.coefficients)

    @property
    def units(self) -> int:
        """Number of ReLU units."""
        return int(sum(np.prod(v.shape) for v in self.form.order() if isinstance(v, Pointwise)))
