"""Decision trees: every leaf is a box with one value, and the best point of each is known.

f is constant on a leaf, so the prototype is the point of its box that the prior likes best: the prior's centre clipped
to the box where the prior takes columns one by one, a quadratic program where they are correlated. Trees compare
thresholds in single precision; a box therefore ends at the single-precision number next to its threshold.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from backlight._prototype.exact.quadratic import Form, branch
from backlight._prototype.problem import Certificate, Found, Problem
from backlight._prototype.subject import TreeSubject
from backlight.errors import ArgumentError, Infeasible

__all__ = ["boxes", "inside", "leaves"]


def leaves(problem: Problem) -> Found | None:
    """See the module."""
    subject, white = problem.subject, problem.white
    if not isinstance(subject, TreeSubject):
        return None
    if white is None:
        raise ArgumentError(
            "f is constant on each leaf of a tree, so that a prototype needs a quadratic prior to choose a point: give "
            "prior=priors.Gaussian.fit(X), data=X, priors.L2(lam) or priors.Near(x0)"
        )
    coefficients = problem.objective.coefficients(len(subject.outputs))
    if coefficients is None:
        raise ArgumentError("of a tree targets are its outputs: logit(class), or sums of them")
    region, wanted = problem.region, problem.objective.wanted
    f = subject.values @ np.asarray(coefficients)
    found: tuple[float, np.ndarray, int] | None = None
    visited, gap = 0, 0.0
    every = boxes(subject)
    for leaf in sorted(every, key=lambda one: -f[one]):
        value = 0.0 if problem.smallest else float(f[leaf])
        if found is not None and value <= found[0]:
            break
        if region.margin is not None and wanted is not None:
            lead = subject.values[leaf, wanted] - np.delete(subject.values[leaf], wanted).max()
            if lead < max(region.margin, 1e-12):
                continue
        box = np.maximum(every[leaf][0], region.low), np.minimum(every[leaf][1], region.high)
        if np.any(box[0] > box[1]):
            continue
        visited += 1
        best = inside(problem, box)
        if best is not None and (found is None or value - best[0] > found[0]):
            found, gap = (value - best[0], best[1], leaf), best[2]
    if found is None:
        raise Infeasible(f"none of the {len(every)} leaves has a point within the bounds and constraints")
    x = found[1]
    notes = [f"leaf {found[2]}, {visited} of {len(every)} leaves looked at"]
    return Found(x, "exact", Certificate("leaves", gap, True), problem.code_of(x), notes=notes)


def inside(problem: Problem, box: tuple[np.ndarray, np.ndarray]) -> tuple[float, np.ndarray, float] | None:
    """½‖v‖², the point and its gap: the least of strength · Ω in a box."""
    white = problem.white
    assert white is not None
    region = replace(problem.region, low=box[0], high=box[1], margin=None)
    mean = white.mean.numpy()
    if white.diagonal and not region.rules and not region.mixed:
        scale = white.factor.numpy()
        x = np.clip(mean, *box)
        if np.any((scale == 0) & (x != mean)):
            return None
        v = (x - mean) / np.where(scale == 0, 1.0, scale)
        return 0.5 * float(v @ v), x, 0.0
    small = replace(problem, region=region, strength=float("inf"))
    form = Form(small, mean, white.matrix(), np.zeros(white.width), True)
    if region.mixed:
        try:
            found = branch(small, form)
        except Infeasible:
            return None
        v = np.linalg.lstsq(white.matrix(), found.x - mean, rcond=None)[0]
        return 0.5 * float(v @ v), found.x, found.certificate.value
    solved = form.inside(region.low, region.high)
    return None if solved is None else (solved[0], np.clip(solved[1], *box), solved[2])


def boxes(subject: TreeSubject) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """The box of every leaf: its node, lowest and highest values."""
    tree, d = subject.tree, len(subject.names or ())
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    todo = [(0, np.full(d, -np.inf), np.full(d, np.inf))]
    while todo:
        node, low, high = todo.pop()
        left, right = tree.children_left[node], tree.children_right[node]
        if left == right:
            found[int(node)] = (low, high)
            continue
        i, threshold = tree.feature[node], float(tree.threshold[node])
        # the largest single-precision number ≤ threshold, and the one after it
        down = np.float32(threshold)
        if float(down) > threshold:
            down = np.nextafter(down, np.float32(-np.inf))
        up = np.nextafter(down, np.float32(np.inf))
        high_, low_ = high.copy(), low.copy()
        high_[i], low_[i] = min(high_[i], float(down)), max(low_[i], float(up))
        if low[i] <= high_[i]:
            todo.append((int(left), low, high_))
        if low_[i] <= high[i]:
            todo.append((int(right), low_, high))
    return found
