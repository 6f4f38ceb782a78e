"""Prototypes by ascent, where no exact solver applies: all targets and restarts in one batch (one algorithm).

Coordinates are whitened by the prior, where it can: with condition number 1e8 two steps are enough there, where five
thousand in x are not. Starts are the top-activating rows. Then L-BFGS, which is fast but stalls at kinks, then Adam,
and the best iterate is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from backlight._prototype.optimizer import Best, adam, evaluate, lbfgs
from backlight._prototype.problem import Certificate, Found, Problem
from backlight.errors import ArgumentError
from backlight.priors import Whitening
from backlight.targets import Seen

__all__ = ["Batch", "Options", "ascend", "finish"]

_LBFGS = 50
_POLISH = 100
_PROJECTED = 250
_SETTLE = 300
_RATE = 0.05
# |∇J| at which a smooth J is at rest, in whitened units and relative to 1 + |v|.
_REST = 1e-5
# The same for the shortest convex combination of gradients nearby.
_CLARKE = 2e-3
_NEAR = 1e-3
# Codes longer than this take too many gradients for such a certificate.
_LONG = 2048
_DRAWS = 64


@dataclass(frozen=True, slots=True)
class Options:
    """How the ascent goes.

    Attributes
    ----------
    init : "top", "random", "data", or starts of shape (k, *shape)
    restarts : int
    optimizer : "auto", "lbfgs" or "adam"
    steps : int, optional
        Of Adam; evaluations of L-BFGS.
    seed : int
    progress : function of (done, total)
    """

    init: Any = "top"
    restarts: int = 8
    optimizer: str = "auto"
    steps: int | None = None
    seed: int = 0
    progress: Callable[[int, int], None] = lambda done, total: None


class Batch:
    """Several problems that differ in their target only, over the same coordinates.

    Row ``t * restarts + r`` is restart r of target t.
    """

    def __init__(self, problems: Sequence[Problem], options: Options, coordinates: Whitening | None = None) -> None:
        self.problems, self.options = list(problems), options
        self.one = problems[0]
        self.generator = torch.Generator().manual_seed(options.seed)
        self.coordinates = self._coordinates() if coordinates is None else coordinates
        self.transform = next((p.objective.transform for p in problems if p.objective.transform is not None), None)
        self.moving = self.transform is not None

    def alone(self, problem: Problem) -> Batch:
        """One problem in the same coordinates."""
        return Batch([problem], self.options, self.coordinates)

    @property
    def width(self) -> int:
        """How many coordinates there are."""
        if self.coordinates is not None:
            return self.coordinates.width
        assert self.one.space.code_dim is not None
        return self.one.space.code_dim

    def _coordinates(self) -> Whitening | None:
        p = self.one
        if p.space.has_code:
            return None
        boxed = p.region.bounded
        found = p.white
        if found is None and p.prior is not None:
            found = p.prior.spread()
        if found is not None and boxed and not found.diagonal:
            sizes = found.factor.square().sum(1).sqrt()
            found = Whitening(found.mean, torch.where(sizes > 0, sizes, 1.0))
        if found is None:
            d = p.dimension
            if p.data is not None and len(p.data) > 1:
                sizes = p.data.std(0)
                found = Whitening(p.data.mean(0), torch.where(sizes > 0, sizes, sizes.max().clamp(min=1e-12)))
            elif p.region.boxed:
                low, high = torch.as_tensor(p.region.low), torch.as_tensor(p.region.high)
                found = Whitening((low + high) / 2, ((high - low) / 4).clamp(min=1e-12))
            else:
                found = Whitening(torch.zeros(d, dtype=torch.float64), torch.ones(d, dtype=torch.float64))
        if boxed and found is not None:
            # a step must be small beside the box too
            width = torch.as_tensor(p.region.high - p.region.low) / 4
            small = torch.isfinite(width) & (width > 0) & (width < found.factor)
            if bool(small.any()):
                found = Whitening(found.mean, torch.where(small, width, found.factor))
        return found

    def code(self, v: Tensor) -> Tensor:
        """Codes z of coordinates v: the input itself in the input space."""
        return v if self.coordinates is None else self.coordinates.decode(v)

    def input(self, v: Tensor) -> Tensor:
        """Inputs (n, *shape) of coordinates."""
        return self.one.decode(self.code(v))

    def split(self, v: Tensor, generator: Any = None) -> tuple[Tensor, Tensor]:
        """Values f and Ω of rows; as many a target, in order."""
        z = self.code(v)
        x = self.one.decode(z)
        seen = self._see(x if generator is None or self.transform is None else self.transform(x, generator))
        size = len(v) // len(self.problems)
        parts = [p.objective.value(seen.rows(slice(t * size, (t + 1) * size))) for t, p in enumerate(self.problems)]
        f = torch.cat(parts).to("cpu", torch.float64)
        return f, self._energy(x, z, v)

    def _see(self, x: Tensor) -> Seen:
        """One pass for all targets, no further than they need."""
        subject = self.one.subject
        layers = tuple(dict.fromkeys(name for p in self.problems for name in p.objective.layers))
        output = any(p.objective.reads_output for p in self.problems)
        return subject.see(x.to(subject.device, subject.dtype), layers, output)

    def _energy(self, x: Tensor, z: Tensor, v: Tensor) -> Tensor:
        p = self.one
        if p.white is not None and self.coordinates is p.white:
            times = 1.0 if p.smallest else p.strength
            return (0.5 * v.square().sum(1) + p.white.constant) / times
        return p.energy(x, z)

    def value(self, v: Tensor, generator: Any = None) -> Tensor:
        """J of rows."""
        f, omega = self.split(v, generator)
        return -omega if self.one.smallest else f - self.one.strength * omega

    def target(self, v: Tensor) -> Tensor:
        """Values of the targets for rows."""
        return self.split(v)[0]

    # -- starts ----------------------------------------------------------------------------------------------------

    def starts(self) -> Tensor:
        """Where every row starts, (targets · restarts, k)."""
        init, n = self.options.init, self.options.restarts
        if not isinstance(init, str):
            given = self.encode(self.one.subject.encode(init).flatten(1))
            if given is None:
                raise ArgumentError(f"{self.one.space!r} cannot encode starts: give it an encoder, or leave init out")
            return given[torch.arange(n) % len(given)].repeat(len(self.problems), 1)
        if init not in ("top", "random", "data"):
            raise ArgumentError(f"init={init!r} must be 'top', 'random', 'data', or starting points")
        pool = self._pool(init)
        if init == "top":
            chosen = self._top(pool, n)
        else:
            # the same for all: what one target gets must not depend on the others
            chosen = [pool[torch.randperm(len(pool), generator=self.generator)[:n]]] * len(self.problems)
        return torch.cat([rows[torch.arange(n) % len(rows)] for rows in chosen])

    def _pool(self, init: str) -> Tensor:
        p = self.one
        if p.data is not None and init != "random":
            found = self.encode(p.data)
            if found is not None:
                return found
        if init == "data":
            raise ArgumentError("init='data' needs data=, and a space that can encode it")
        count = max(_DRAWS, 8 * self.options.restarts)
        if p.space.has_code:
            return p.space.draw(count, self.generator)
        drawn = None if p.prior is None else p.prior.draw(count, self.generator)
        assert self.coordinates is not None
        if drawn is not None:
            return self.coordinates.encode(drawn)
        v = torch.randn(count, self.width, generator=self.generator, dtype=torch.float64)
        return 0.5 * v

    def encode(self, x: Tensor) -> Tensor | None:
        """Coordinates of inputs, within the bounds."""
        p = self.one
        if p.space.has_code:
            return p.space.encode(x)
        assert self.coordinates is not None
        low, high = torch.as_tensor(p.region.low), torch.as_tensor(p.region.high)
        return self.coordinates.encode(torch.minimum(torch.maximum(x.double(), low), high))

    def _top(self, pool: Tensor, n: int) -> list[Tensor]:
        """The n rows that each target likes best."""
        scores: list[list[Tensor]] = [[] for _ in self.problems]
        with torch.no_grad():
            for start in range(0, len(pool), 256):
                seen = self._see(self.input(pool[start : start + 256]))
                for t, p in enumerate(self.problems):
                    scores[t].append(p.objective.value(seen).to("cpu", torch.float64))
        found = []
        for t in range(len(self.problems)):
            order = torch.argsort(torch.nan_to_num(torch.cat(scores[t]), nan=-torch.inf), descending=True, stable=True)
            found.append(pool[order[: min(n, len(pool))]])
        return found

    def dead(self, v: Tensor) -> Tensor:
        """Whether f has no gradient at any start of a target, (targets,)."""
        _, gradient = evaluate(self.target, v)
        moving = gradient.abs().amax(1) > 0
        return ~moving.view(len(self.problems), -1).any(1)

    # -- bounds ----------------------------------------------------------------------------------------------------

    def project(self) -> Callable[[Tensor], Tensor] | None:
        """Into the bounds, where the coordinates are diagonal."""
        p = self.one
        if not p.region.bounded or p.space.has_code:
            return None
        assert self.coordinates is not None
        assert self.coordinates.diagonal
        low, high = torch.as_tensor(p.region.low), torch.as_tensor(p.region.high)
        scale = self.coordinates.factor
        low_v, high_v = (low - self.coordinates.mean) / scale, (high - self.coordinates.mean) / scale
        return lambda v: torch.minimum(torch.maximum(v, low_v), high_v)


def ascend(batch: Batch) -> tuple[Best, bool, Tensor]:
    """The best point of every row, whether it was interrupted, and which targets are dead."""
    options = batch.options
    v = batch.starts()
    dead = batch.dead(v)
    if bool(dead.any()):
        width = v.shape[1]
        wide = 3 * torch.randn(len(v), width, generator=batch.generator, dtype=torch.float64)
        again = batch.dead(wide) & dead
        use = (dead & ~again).repeat_interleave(options.restarts)
        v = torch.where(use[:, None], wide, v)
        dead = again
    project = batch.project()
    if project is not None:
        v = project(v)
    ascent, polish = _schedule(options, project is not None or batch.moving)
    total = ascent + polish

    def climb(w: Tensor) -> Tensor:
        return batch.value(w, batch.generator if batch.moving else None)

    value, gradient = evaluate(climb, v)
    best = Best(v, value, gradient)
    try:
        if ascent:
            best = lbfgs(climb, v, ascent, 1e-9, lambda k: options.progress(k, total))
        if polish:
            best = adam(climb, best, polish, _RATE if ascent else 2 * _RATE, project,
                        lambda k: options.progress(ascent + k, total))  # fmt: skip
    except KeyboardInterrupt:
        options.progress(total, total)
        return best, True, dead
    if batch.moving:
        # what was best under chance is compared without it
        value, gradient = evaluate(batch.value, best.v)
        best = Best(best.v, value, gradient)
    options.progress(total, total)
    return best, False, dead


def _schedule(options: Options, first_order: bool) -> tuple[int, int]:
    """Evaluations of L-BFGS and steps of Adam."""
    if options.optimizer not in ("auto", "lbfgs", "adam"):
        raise ArgumentError(f"optimizer={options.optimizer!r} must be 'auto', 'lbfgs' or 'adam'")
    if options.optimizer == "adam" or first_order:
        return 0, options.steps or _PROJECTED
    if options.optimizer == "lbfgs":
        return options.steps or 4 * _LBFGS, 0
    return _LBFGS, options.steps or _POLISH


def finish(batch: Batch, best: Best, interrupted: bool, dead: Tensor) -> list[Found]:
    """What was found for each target, with its certificate."""
    n = len(best.v) // len(batch.problems)
    if not interrupted and not batch.moving and batch.options.optimizer == "auto":
        best = _settled(batch, best, n)
    results = []
    for t, problem in enumerate(batch.problems):
        rows = slice(t * n, (t + 1) * n)
        v, values = best.v[rows], best.value[rows]
        top = int(values.argmax())
        alone = batch.alone(problem)
        point, gradient = v[top : top + 1], best.gradient[rows][top]
        point, gradient = _refined(alone, point, gradient)
        status, certificate = _certified(alone, point, gradient)
        growth = _growth(alone, point)
        optima = _distinct(v, values)
        notes = [_said(optima, n)]
        if interrupted:
            status = "interrupted"
        if bool(dead[t]):
            status = "dead_start"
            notes.append(
                f"f has no gradient at any of the {n} starts nor at {n} wide ones: give init= rows at which it is alive"
            )
        elif growth:
            status = "unbounded"
            notes.append(growth)
        with torch.no_grad():
            z = alone.code(point)
            x = alone.one.decode(z).detach().double().flatten().numpy()
        low, high = problem.region.low, problem.region.high
        x = x if problem.space.has_code else np.clip(x, low, high)
        code = z[0].detach().double().numpy() if problem.space.has_code else x
        results.append(Found(x, status, certificate, code, optima, notes))
    return results


def _settled(batch: Batch, best: Best, n: int) -> Best:
    """The best restart of each target once more with small steps: on kinks large ones only come near."""
    place = best.value.view(-1, n).argmax(1) + torch.arange(len(batch.problems)) * n
    few = Best(best.v[place], best.value[place], best.gradient[place])
    few = adam(batch.value, few, _SETTLE, _RATE / 5, batch.project())
    v, value, gradient = best.v.clone(), best.value.clone(), best.gradient.clone()
    v[place], value[place], gradient[place] = few.v, few.value, few.gradient
    return Best(v, value, gradient)


def _refined(batch: Batch, point: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Within bounds Adam only comes near: L-BFGS-B ends it."""
    project = batch.project()
    if project is None or point.shape[1] > _LONG or batch.moving:
        return point, gradient
    from scipy.optimize import Bounds, minimize

    low, high = (project(torch.full_like(point, side))[0].numpy() for side in (-math.inf, math.inf))

    def cost(v: np.ndarray) -> tuple[float, np.ndarray]:
        value, g = evaluate(batch.value, torch.as_tensor(v)[None])
        return (-float(value), -g[0].numpy()) if math.isfinite(float(value)) else (1e300, np.zeros_like(v))

    start = point[0].numpy()
    found = minimize(
        cost, start, jac=True, bounds=Bounds(low, high), method="L-BFGS-B",
        options={"maxfun": 200, "ftol": 1e-15, "gtol": 1e-10},
    )  # fmt: skip
    if -found.fun < float(evaluate(batch.value, point)[0]):
        return point, gradient
    end = torch.as_tensor(np.clip(found.x, low, high))[None]
    return end, evaluate(batch.value, end)[1][0]


def _certified(batch: Batch, point: Tensor, gradient: Tensor) -> tuple[str, Certificate]:
    size = 1 + float(point.norm())
    project = batch.project()
    if project is not None:
        residual = float((project(point + gradient) - point).abs().max())
        if residual <= _REST * size:
            return "stationary", Certificate("projected gradient", residual, False)
        if point.shape[1] > _LONG:
            return "max_iter", Certificate("projected gradient", residual, False)
        clarke = _clarke(batch, point, project)
        return ("stationary" if clarke <= _CLARKE * size else "max_iter"), Certificate("Clarke residual", clarke, False)
    residual = float(gradient.norm())
    if residual <= _REST * size:
        curved = _curvature(batch, point)
        return ("local" if curved < 0 else "stationary"), Certificate("gradient", residual, False)
    if point.shape[1] <= _LONG:
        clarke = _clarke(batch, point, None)
        return ("stationary" if clarke <= _CLARKE * size else "max_iter"), Certificate("Clarke residual", clarke, False)
    return "max_iter", Certificate("gradient", residual, False)


def _clarke(batch: Batch, point: Tensor, project: Callable[[Tensor], Tensor] | None) -> float:
    """The shortest convex combination of gradients in a small ball: zero at a maximum that sits on a kink.

    Burke, Lewis, Overton, "A robust gradient sampling algorithm" (2005). min ‖Gα‖ over the simplex is one non-negative
    least squares, min ‖Gu‖² + (1·u − 1)²: its solution is α times a number.
    """
    k = point.shape[1]
    generator = torch.Generator().manual_seed(0)
    found = []
    count = min(800, max(400, k))
    for start in range(0, count, 200):
        some = min(200, count - start)
        ball = torch.randn(some, k, generator=generator, dtype=torch.float64)
        radius = _NEAR * (1 + float(point.abs().max())) * torch.rand(some, 1, generator=generator, dtype=torch.float64)
        near = point + radius * ball / ball.norm(dim=1, keepdim=True) * math.sqrt(k) / 4
        if project is not None:
            near = project(near)
        found.append(evaluate(batch.value, near)[1])
    G = torch.cat([*found, evaluate(batch.value, point)[1]])
    if project is not None:
        # at a bound the part that points outwards is no fault
        inner = (project(point + 1e-9 * G.mean(0, keepdim=True).sign()) - point).abs() > 0
        G = G * inner
    A = np.vstack([G.T.numpy(), np.ones(len(G))])
    b = np.zeros(len(A))
    b[-1] = 1.0
    try:
        u, _ = nnls(A, b, maxiter=20 * len(G))
    except RuntimeError:
        return float(G.norm(dim=1).min())
    return float(np.linalg.norm(G.T.numpy() @ (u / u.sum())))


def _curvature(batch: Batch, point: Tensor) -> float:
    """The largest eigenvalue of J's Hessian, by Lanczos on differences of gradients."""
    k = point.shape[1]
    if k > _LONG:
        return 0.0
    step = 1e-4 * (1 + float(point.abs().max()))

    def product(direction: np.ndarray) -> np.ndarray:
        d = torch.as_tensor(direction.reshape(1, -1))
        d = d / d.norm()
        ends = torch.cat([point + step * d, point - step * d])
        g = evaluate(batch.value, ends)[1]
        return ((g[0] - g[1]) / (2 * step)).numpy() * float(np.linalg.norm(direction))

    if k <= 3:
        H = np.stack([product(row) for row in np.eye(k)])
        return float(np.linalg.eigvalsh((H + H.T) / 2)[-1])
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    try:
        start = np.random.default_rng(0).standard_normal(k)
        operator = LinearOperator((k, k), matvec=product, dtype=float)
        return float(eigsh(operator, 1, which="LA", v0=start, tol=1e-2, maxiter=60, return_eigenvectors=False)[0])
    except ArpackError:  # no convergence, or a Hessian of zeros
        return 0.0


def _growth(batch: Batch, point: Tensor) -> str:
    """Says so where J grows without end along a ray: through the result, or up f's slope there."""
    p = batch.one
    if p.region.boxed or p.smallest:
        return ""
    # a climb without end has long passed what squares can hold
    size = min(1 + float(point.norm()), 1e6)
    _, slope = evaluate(batch.target, point)
    rays = [point, slope]
    for ray in rays:
        if float(ray.norm()) == 0:
            continue
        ray = ray / ray.norm() * size
        times = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 1e3, 1e4, 1e5], dtype=torch.float64)[:, None]
        with torch.no_grad():
            J = batch.value(times * ray)
            start = max(float(J[0]), float(batch.value(point)) if size < 1e6 else -math.inf)
        if bool(torch.isnan(J).any()):
            continue
        far = J[5:]
        # far above everything seen, and steadily: a bounded J has long turned by then
        first, second, third = far.tolist()
        if first > start and second > first + 1 and third > 2 * second - first:
            break
    else:
        return ""
    shown = ", ".join(f"{float(j):.4g}" for j in [*J[:5], *far])
    strength = "no prior" if p.prior is None else f"strength {p.strength:g} of {p.prior!r}"
    return (
        f"f − strength·Ω grows without end: {shown} at 1, 2, 4, 8, 16, 1e3, 1e4 and 1e5 times the distance "
        f"({strength}); give a prior "
        "that grows faster, such as priors.Gaussian.fit(X), a larger strength, or bounds"
    )


def _distinct(v: Tensor, values: Tensor) -> list[tuple[float, int]]:
    """Distinct optima of the restarts, best first."""
    order = torch.argsort(values, descending=True)
    size = 0.05 * (1 + v.norm(dim=1).max())
    kept: list[tuple[int, int]] = []
    for i in order.tolist():
        for k, (j, hits) in enumerate(kept):
            if float((v[i] - v[j]).norm()) <= float(size):
                kept[k] = (j, hits + 1)
                break
        else:
            kept.append((i, 1))
    return [(float(values[i]), hits) for i, hits in kept]


def _said(optima: list[tuple[float, int]], starts: int) -> str:
    once = sum(1 for _, hits in optima if hits == 1)
    return (
        f"{len(optima)} distinct optima from {starts} starts, the best hit {optima[0][1]} times; chance that one more "
        f"start finds a new one ≈ {once / starts:.0%} (Good–Turing)"
    )
