r"""What each feature pays and costs: integrated gradients of f and of strength · Ω from the prior's centre.

:math:`\int_0^1 \delta_i\,\partial_i g(m+t\delta)\,dt` with δ = x* − m, by Gauss–Legendre quadrature; its sum over
features is g(x*) − g(m). For f = w·x + b under N(m, Σ) it is w_i δ_i, and the cost strength · δ_i (Σ⁺δ)_i / 2 is half
of that: at the optimum the last unit paid is the last unit cost, and on the way there the price rises from nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from backlight._prototype.data import PrototypeData
from backlight._prototype.ensemble import EnsembleSubject
from backlight._prototype.problem import Problem
from backlight._prototype.subject import TreeSubject
from backlight.errors import ArgumentError
from backlight.explanation import Explanation

__all__ = ["account"]

_POINTS = 128


def account(found: PrototypeData, problems: Sequence[Problem]) -> Explanation:
    """See the module. What quadrature misses, on kinks, is the explanation's residual."""
    one = problems[0]
    if isinstance(one.subject, TreeSubject | EnsembleSubject):
        raise ArgumentError("a tree is constant between its thresholds, so that no feature pays by degrees")
    if found.center is None:
        raise ArgumentError("there is no centre to count from: the prior has none, and no data were given")
    start = torch.as_tensor(found.center, dtype=torch.float64)[None]
    ends = torch.as_tensor(found.x).double()
    times = 1.0 if one.smallest else one.strength
    nodes, weights = np.polynomial.legendre.leggauss(_POINTS)
    t = torch.as_tensor((nodes + 1) / 2).reshape(-1, *[1] * (ends.ndim - 1))
    share = torch.as_tensor(weights / 2)
    # what a learnt code costs cannot be shared among the inputs that it makes
    on_code = one.space.has_code and one.prior is not None and one.prior.on_code
    counted = one.prior is not None and not (on_code and one.space.affine() is None)
    values, outputs, bases = [], [], []
    for problem, end in zip(problems, ends, strict=True):
        line = start + t * (end - start)

        def energy(x: Tensor, problem: Problem = problem) -> Tensor:
            z = x.flatten(1)
            if on_code:
                code = problem.space.encode(z)
                assert code is not None
                z = code
            return times * problem.energy(x, z)

        parts: list[Callable[[Tensor], Tensor]] = [problem.target, energy] if counted else [problem.target]
        row = [_integral(part, line, share) * (end - start[0]) for part in parts]
        with torch.no_grad():
            outputs.append([float(part(end[None])[0]) for part in parts])
            bases.append([float(part(start)[0]) for part in parts])
        values.append(torch.stack(row, -1).numpy())
    return Explanation(
        values=np.stack(values), output=np.array(outputs), base_values=np.array(bases),
        data=found.x.astype(float), feature_names=found.feature_names if found.x.ndim == 2 else (),
        output_names=("f", "strength · Ω")[: 2 if counted else 1], target="gains and costs, from the prior's centre",
        method="integrated gradients",
        dims=("row", *(["feature"] if found.x.ndim == 2 else [f"axis {k}" for k in range(1, found.x.ndim)]), "output"),
        provenance=dict(found.provenance), labels=np.array(found.names, dtype=object), kind=found.kind,
    )  # fmt: skip


def _integral(part: Callable[[Tensor], Tensor], line: Tensor, share: Tensor) -> Tensor:
    """Mean gradient along the line."""
    total = torch.zeros_like(line[0])
    for start in range(0, len(line), 32):
        rows = slice(start, start + 32)
        x = line[rows].detach().requires_grad_(True)
        value = part(x)
        if not value.requires_grad:
            continue
        (g,) = torch.autograd.grad(value.sum(), x)
        total += (share[rows].reshape(-1, *[1] * (line.ndim - 1)) * g).sum(0)
    return total
