"""What f is, as a function of the input, where a network is simple enough to be read.

A formula is read from the layers of the model, and never trusted: `checked` compares it with the model itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight._prototype.categories import Expanded
from backlight._prototype.formula import Formula, Linear, LogSoftmax, MinLinear, Network, Pool, Quadratic
from backlight._prototype.subject import ModuleSubject, NetworkSubject, Subject
from backlight.canonical.consumers import PLAIN_MOVES
from backlight.canonical.form import Affine as AffineValue
from backlight.canonical.form import Form, Given, Held, Operator, Pointwise
from backlight.canonical.lift import lift
from backlight.classical.frontend.features import Branches, MultiplyAdd, Pick, ShiftDivide
from backlight.classical.layers import Layer, SoftMinDistance
from backlight.classical.layers.composition import Stack, Unit, Weighted
from backlight.classical.layers.contrasts import Contrasts
from backlight.classical.layers.deep import Deep
from backlight.classical.layers.linear import Affine, Mahalanobis, Quadratics
from backlight.classical.layers.pools import Link, LogOdds, SoftMin, SoftMinPool
from backlight.classical.layers.radial import Radial
from backlight.classical.layers.surprise import WithSurprise
from backlight.errors import BacklightError, UnsupportedModel
from backlight.targets.base import Objective
from backlight.targets.outputs import LogProbability

__all__ = ["checked", "formula_of"]

# Digits of a formula against the model: both sum in other orders.
_AGREE = 1e-8


def formula_of(subject: Subject, objective: Objective, *, networks: bool) -> Formula | None:
    """The formula of an objective, or None.

    Parameters
    ----------
    networks : bool
        Whether ReLU networks are wanted too: reading them captures the model.
    """
    if isinstance(subject, NetworkSubject):
        return _of_layers(subject, objective, networks)
    if isinstance(subject, ModuleSubject):
        return _of_module(subject, objective, networks)
    return None


def checked(formula: Formula, subject: Subject, objective: Objective, x: Tensor) -> None:
    """Compare a formula with the model on inputs (n, *shape).

    Raises
    ------
    BacklightError
        They differ: the model holds something that its layers do not show.
    """
    with torch.no_grad():
        told = objective.value(subject.see(x.to(subject.dtype), objective.layers)).double().numpy()
    found = formula.value(x.flatten(1).double().numpy())
    digits = _AGREE if subject.dtype == torch.float64 else 2e-4
    off = np.abs(told - found) / (1 + np.abs(told))
    if not np.all(off <= digits):
        raise BacklightError(
            f"{type(formula).__name__} formula of {subject.kind} differs from the model by {np.nanmax(off):.2g}: "
            "please report this; exact='never' uses the model alone"
        )


# -- neuralized models ---------------------------------------------------------------------------------------------


def _of_layers(subject: NetworkSubject, objective: Objective, networks: bool) -> Formula | None:
    front = subject.network.front
    d = len(subject.names or ())
    start = _elements(subject.elements, np.eye(d), np.zeros(d))
    if start is None or objective.layers:
        return None
    D, e0 = start
    way = front.pullback
    T, t = D, e0
    if way.into is not None and way.center is not None and way.shift is not None:
        A = way.into.double().numpy()
        T, t = A @ D, A @ (e0 - way.center.double().numpy()) + way.shift.double().numpy()
    directions = subject.network.score.outputs.directions
    n = len(subject.outputs)
    layer, sign, shift = _peeled(subject.network.layer)
    soft = _softmax_of(objective)
    lines = _lines(layer)
    if lines is not None:
        W, b = sign * (lines[0] @ D), sign * (lines[0] @ e0 + lines[1]) + shift
        if directions is not None:
            W, b = directions @ W, directions @ b
        if soft is not None:
            share = 1.0 if directions is None else 0.5
            return LogSoftmax(share * W, share * b, soft[0], soft[1])
        c = objective.coefficients(n)
        return None if c is None else Linear(np.asarray(c) @ W, float(np.asarray(c) @ b))
    c = objective.coefficients(n)
    if c is None:
        return None
    coefficients = np.asarray(c) if directions is None else np.asarray(c) @ directions
    if isinstance(layer, Deep):
        return _network_formula(layer.module, coefficients, D, e0, len(e0)) if networks else None
    chosen = np.flatnonzero(coefficients)
    if len(chosen) != 1:
        return None
    unit, weight = int(chosen[0]), sign * float(coefficients[chosen[0]])
    constant = shift * float(coefficients[chosen[0]])
    if isinstance(layer, Contrasts):
        return _contrast(layer, unit, weight, constant, T, t)
    return _energies(layer, unit, weight, constant, T, t)


def _lines(layer: Layer) -> tuple[np.ndarray, np.ndarray] | None:
    """Weights and biases of a layer's units on the elements, where they are affine functions."""
    if isinstance(layer, Affine):
        weight = layer.weight.double().numpy()
        return weight, layer.constant.double().numpy() - weight @ layer.reference.double().numpy()
    if isinstance(layer, Stack):
        parts = [_lines(one) for one in layer.members()]
        if any(part is None for part in parts):
            return None
        return np.concatenate([p[0] for p in parts if p]), np.concatenate([p[1] for p in parts if p])
    if isinstance(layer, Weighted):
        parts = [_lines(one) for one in layer.members()]
        if any(part is None for part in parts):
            return None
        w, shift = layer.weights.double().numpy(), layer.bias.double().numpy()
        W = sum(a * p[0] for a, p in zip(w, parts, strict=True) if p)
        return np.asarray(W), np.asarray(sum(a * p[1] for a, p in zip(w, parts, strict=True) if p) + shift)
    return None


def _elements(module: nn.Module, M: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Elements as an affine function of the columns, e = Mx + v."""
    if isinstance(module, Expanded):
        return _expanded(module, M, v)
    if not M.any() and not isinstance(module, nn.Sequential):  # of columns that stay as they are
        with torch.no_grad():
            e = module(torch.as_tensor(v)[None])[0].double().numpy()
        return np.zeros((len(e), M.shape[1])), e
    if isinstance(module, nn.Sequential):
        for child in module:
            found = _elements(child, M, v)
            if found is None:
                return None
            M, v = found
        return M, v
    if isinstance(module, ShiftDivide):
        shift, divisor = module.shift.double().numpy(), module.divisor.double().numpy()
        return M / np.reshape(divisor, (-1, 1)), (v - shift) / divisor
    if isinstance(module, MultiplyAdd) and module.clip is None:
        factor, term = module.factor.double().numpy(), module.term.double().numpy()
        return M * np.reshape(factor, (-1, 1)), v * factor + term
    if isinstance(module, Pick):
        return M[module.positions.numpy()], v[module.positions.numpy()]
    if isinstance(module, Branches):
        parts = [_elements(branch, M, v) for branch in module.branches]
        if any(part is None for part in parts):
            return None
        return np.concatenate([p[0] for p in parts if p]), np.concatenate([p[1] for p in parts if p])
    return None


def _expanded(module: Expanded, M: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The same of numbers, and of categories what each makes."""
    at, of = (list(one) for one in zip(*module.numbers, strict=True)) if module.numbers else ([], [])
    N, n = np.zeros((len(module.base), M.shape[1])), module.base.numpy().copy()
    N[at], n[at] = M[of], v[of]
    found = _elements(module.inner, N, n)
    if found is None:
        return None
    D, e = found[0].copy(), found[1].copy()
    for places, elements, made in module.parts:
        mine = elements.numpy()
        D[mine], e[mine] = made.numpy().T @ M[places], made.numpy().T @ v[places]
    return D, e


def _peeled(layer: Layer) -> tuple[Layer, float, float]:
    """The layer below links that are affine: y = sign · inner + shift."""
    sign, shift = 1.0, 0.0
    while True:
        if isinstance(layer, WithSurprise):
            layer = layer.inner
        elif isinstance(layer, Link):
            line = _line(layer.value)
            if line is None:
                return layer, sign, shift
            sign, shift = sign * line[0], shift + sign * line[1]
            layer = layer.inner
        elif isinstance(layer, Weighted) and len(layer.layers) == 1 and layer.units == 1:
            weight, bias = float(layer.weights[0]), float(layer.bias[0])
            sign, shift = sign * weight, shift + sign * bias
            layer = layer.members()[0]
        else:
            return layer, sign, shift


def _line(value: Callable[[Tensor], Tensor]) -> tuple[float, float] | None:
    """Slope and constant of a link that is a straight line."""
    at = torch.tensor([[-40.0], [-3.0], [0.0], [0.5], [1.0], [60.0]], dtype=torch.float64)
    with torch.no_grad():
        y = value(at)
    slope, start = float(y[4] - y[2]), float(y[2])
    if not bool(torch.isfinite(y).all()) or slope == 0:
        return None
    # exact slopes are small whole numbers in every link that is one
    slope = round(slope, 12)
    straight = bool((y - (slope * at + start)).abs().max() <= 1e-12 * (1 + y.abs().max()))
    return (slope, start) if straight else None


def _contrast(
    layer: Contrasts, unit: int, weight: float, constant: float, T: np.ndarray, t: np.ndarray
) -> Formula | None:
    inner = layer.inner
    if not isinstance(inner, Radial) or inner.metric != "sqeuclidean" or weight <= 0:
        return None
    if _line(inner.profile) != (1.0, 0.0):
        return None
    centers = inner.anchors.double().numpy()
    own, rival = layer.own[unit].numpy(), layer.rival[unit].numpy()
    # ‖z − b‖² − ‖z − a‖² = 2 (a − b)·z + ‖b‖² − ‖a‖², with the midpoint as the zero
    W = 2 * (centers[own] - centers[rival])
    middle = (centers[own] + centers[rival]) / 2
    b = np.einsum("kq,kq->k", W, t - middle)
    return MinLinear(weight * (W @ T), weight * b + constant)


def _energies(layer: Layer, unit: int, weight: float, constant: float, T: np.ndarray, t: np.ndarray) -> Formula | None:
    if isinstance(layer, Unit):
        return _energies(layer.inner, layer.index, weight, constant, T, t)
    if isinstance(layer, Mahalanobis):
        return None if weight == 0 else _mahalanobis(layer, weight, constant, T, t)
    if isinstance(layer, Quadratics):
        U, m = _factor(layer, unit)
        return _quadratic([(weight * 2 * layer.scale, U, m)], constant, T, t)
    if isinstance(layer, LogOdds) and isinstance(layer.inner, Quadratics) and layer.units == 2:
        other = 1 - unit
        s = 2 * layer.inner.scale
        parts = [(weight * s, *_factor(layer.inner, other)), (-weight * s, *_factor(layer.inner, unit))]
        gap = float(layer.constants[other] - layer.constants[unit])
        return _quadratic(parts, constant + weight * gap, T, t)
    if abs(weight) != 1:
        return None
    if isinstance(layer, SoftMinPool) and isinstance(layer.pool, SoftMinDistance) and not layer.pool.still:
        pool = layer.pool
        means = pool.anchors.double().numpy() + pool.center.double().numpy()
        log_c = pool.log_weights.double().numpy()
        return Pool(-weight, log_c, means, float(np.sqrt(2 * pool.gamma)), T, t, constant)
    if isinstance(layer, SoftMin) and isinstance(layer.inner, Quadratics):
        inner = layer.inner
        found = [_factor(inner, k) for k in range(inner.units)]
        U = np.stack([np.sqrt(2 * inner.scale) * f for f, _ in found])
        means = np.stack([m for _, m in found])
        return Pool(-weight, layer.log_weights.double().numpy(), means, U, T, t, constant)
    return None


def _factor(layer: Quadratics, k: int) -> tuple[np.ndarray, np.ndarray]:
    """U with ‖U (z − m)‖² the form of a unit, and m."""
    L = layer.factors[k if len(layer.factors) > 1 else 0].double().numpy()
    return (np.diag(L) if L.ndim == 1 else L.T), layer.means[k].double().numpy()


def _quadratic(
    parts: list[tuple[float, np.ndarray, np.ndarray]], constant: float, T: np.ndarray, t: np.ndarray
) -> Formula:
    """Σ ½ weight ‖U (Tx + t − m)‖² + constant."""
    d = T.shape[1]
    middle = np.linalg.lstsq(T, np.mean([m for _, _, m in parts], 0) - t, rcond=None)[0]
    at = T @ middle + t
    H, w, b = np.zeros((d, d)), np.zeros(d), constant
    for weight, U, m in parts:
        V, delta = U @ T, U @ (at - m)
        H += weight * V.T @ V
        w += weight * V.T @ delta
        b += 0.5 * weight * float(delta @ delta)
    return Quadratic((H + H.T) / 2, w, b, middle)


def _mahalanobis(layer: Mahalanobis, weight: float, constant: float, T: np.ndarray, t: np.ndarray) -> Formula | None:
    if layer.pullback.into is not None:
        return None
    P, m = layer.metric.double().numpy(), layer.center.double().numpy()
    values, vectors = np.linalg.eigh(P)
    U = (vectors * np.sqrt(np.clip(values, 0, None))).T
    return _quadratic([(2 * weight, U, m)], constant, T, t)


def _softmax_of(objective: Objective) -> tuple[int, float] | None:
    """Class and weight, where the objective is one log-probability."""
    if len(objective.parts) != 1:
        return None
    weight, term = objective.parts[0]
    if isinstance(term, LogProbability) and term.log and weight > 0:
        return int(term.which), weight
    return None


# -- torch modules -------------------------------------------------------------------------------------------------


def _of_module(subject: ModuleSubject, objective: Objective, networks: bool) -> Formula | None:
    soft = _softmax_of(objective)
    n = len(subject.outputs)
    coefficients = objective.coefficients(n)
    if objective.layers or (coefficients is None and soft is None):
        return None
    assert subject.shape is not None
    lines = _straight(subject)
    if lines is not None:
        W, b = lines
        if soft is not None:
            return LogSoftmax(W, b, soft[0], soft[1])
        c = np.asarray(coefficients)
        return Linear(c @ W, float(c @ b))
    if not networks or coefficients is None:
        return None
    return _network_formula(subject.model, np.asarray(coefficients), None, None, subject.shape)


def _straight(subject: ModuleSubject) -> tuple[np.ndarray, np.ndarray] | None:
    """Weights and biases of a module that is an affine function; screened by numbers, proved by its graph."""
    assert subject.shape is not None
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1, *subject.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        points = torch.cat([a, b, a + b, torch.zeros_like(a), -3 * a]).to(subject.device, subject.dtype)
        out = subject.see(points).output
    assert out is not None
    y = out.double()
    size = y.abs().max() + 1
    tolerance = 1e-9 if subject.dtype == torch.float64 else 1e-4
    if (y[0] + y[1] - y[2] - y[3]).abs().max() > tolerance * size or (
        3 * (y[0] - y[3]) + (y[4] - y[3])
    ).abs().max() > tolerance * size:
        return None
    form = _lifted(subject.model, subject.shape)
    if form is None:
        return None
    moves = PLAIN_MOVES | {"mean", "avg_pool1d", "avg_pool2d", "avg_pool3d", "sum", "sym_size"}
    for value in form.order():
        if not isinstance(value, AffineValue | Given | Held) and not (
            isinstance(value, Operator) and value.op in moves
        ):
            return None
    name = next(iter(form.inputs))
    d = int(np.prod(subject.shape))
    base = torch.zeros(1, *subject.shape, dtype=torch.float64)
    b0 = form.run({name: base})[form.output].reshape(-1)
    rows = []
    for start in range(0, d, 1024):
        eye = torch.zeros(min(1024, d - start), d, dtype=torch.float64)
        eye[torch.arange(len(eye)), start + torch.arange(len(eye))] = 1.0
        rows.append(form.run({name: eye.reshape(-1, *subject.shape)})[form.output].reshape(len(eye), -1) - b0)
    return torch.cat(rows).T.numpy(), b0.numpy()


def _lifted(model: nn.Module, shape: tuple[int, ...]) -> Form | None:
    """A model in canonical notation; None where it cannot be."""
    example = torch.linspace(-1, 1, 2 * int(np.prod(shape)), dtype=torch.float64).reshape(2, *shape)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float64)
    try:
        form = lift(model, ((example.to(dtype),), {}))
    except BacklightError:
        return None
    return form if len(form.inputs) == 1 else None


def _network_formula(
    model: nn.Module, coefficients: np.ndarray, D: np.ndarray | None, e0: np.ndarray | None, shape: Any
) -> Formula | None:
    size = (shape,) if isinstance(shape, int) else tuple(shape)
    form = _lifted(model, size)
    if form is None:
        return None
    form.refresh()
    for value in form.order():
        relu = isinstance(value, Pointwise) and value.op in ("relu", "leaky_relu")
        moved = isinstance(value, Operator) and value.op in PLAIN_MOVES | {"sym_size"}
        if not (isinstance(value, AffineValue | Given | Held) or relu or moved):
            return None
    if int(np.prod(form.output.shape)) != len(coefficients):
        raise UnsupportedModel("the network's captured output has another size than its output")
    return Network(form, coefficients, D, e0, size)
