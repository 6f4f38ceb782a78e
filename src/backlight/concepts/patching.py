r"""Which places carry the difference between two inputs: relevance patching, and what it estimates.

Activation patching runs the network on one input with the value of one place taken from another, and looks at what that
does to the score: one run a place and position. Its first order is one way back for all of them,

.. math:: \Delta f \approx \sum_k (a'_k - a_k) \, c_k,

with the gradient as c in attribution patching, and the message of relevance propagation, which divides relevance by
value, in relevance patching. The latter holds gates, attention weights and the spread of norms constant.

Sources: Nanda, "Attribution patching", 2023; Syed, Rager, Conmy, "Attribution patching outperforms automated circuit
discovery", 2023; Jafari et al., "RelP: faithful and efficient circuit discovery via relevance patching", 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight.arguments import checked
from backlight.attribution.lrp import Begun
from backlight.concepts.conditional import asked
from backlight.engine.plan import Plan
from backlight.engine.run import forward
from backlight.engine.steps import fill
from backlight.errors import ArgumentError
from backlight.explanation.faces import as_table
from backlight.rules import as_gradient

__all__ = ["METHODS", "Patching", "patching"]

# rows of one run with patches
_TOGETHER = 256


@dataclass(frozen=True, slots=True, eq=False)
class Patching:
    """What taking the value of a place from another input does to the score.

    Attributes
    ----------
    places : tuple of str
    values : array of shape (places, n, positions)
        The change of the score.
    output, other : arrays of shape (n,)
        The score of the input that is patched, and of the other one.
    method : str
    target : str
    """

    places: tuple[str, ...]
    values: np.ndarray
    output: np.ndarray
    other: np.ndarray
    method: str
    target: str

    def correlation(self, other: Patching) -> float:
        """Pearson's correlation with another method's values over all places, rows and positions.

        Raises
        ------
        ArgumentError
            They are of other places.
        """
        if self.places != other.places or self.values.shape != other.values.shape:
            raise ArgumentError("the two are of other places or positions: ask both for the same")
        x, y = self.values.ravel() - self.values.mean(), other.values.ravel() - other.values.mean()
        size = float(np.sqrt((x @ x) * (y @ y)))
        return float(x @ y) / size if size else float("nan")

    @checked
    def top(self, k: int = 10) -> list[tuple[str, int, float]]:
        """Places and positions whose change is largest, on the mean over the rows."""
        mean = self.values.mean(1)
        order = np.argsort(-np.abs(mean), axis=None, kind="stable")[:k]
        return [
            (self.places[i], int(j), float(mean[i, j]))
            for i, j in zip(*np.unravel_index(order, mean.shape), strict=True)
        ]

    def _repr_html_(self) -> str:
        rows = [[place, str(position), f"{change:+.4g}"] for place, position, change in self.top()]
        title, *_ = repr(self).splitlines()
        return as_table(title, ["place", "position", "change"], rows)

    def __repr__(self) -> str:
        lines = [
            f"{self.method} patching of {len(self.places)} places for {self.target}: mean score "
            f"{self.output.mean():.4g}, of the other {self.other.mean():.4g}"
        ]
        lines += [f"  {place} at {position}: {change:+.4g}" for place, position, change in self.top()]
        return "\n".join(lines)


@checked
def patching(
    model: nn.Module,
    X: Any,
    other: Any,
    target: Any = None,
    *,
    places: Sequence[str] | None = None,
    method: str = "relevance",
    rules: Any = "auto",
    output: Any = None,
) -> Patching:
    """How much each place, at each position, carries of the difference between two inputs.

    Parameters
    ----------
    model : torch.nn.Module
    X, other : as in `backlight.explain`
        The input that runs, and the one that values are taken from: a clean and a corrupted text of the same length,
        row by row.
    target : optional
        One target, as in `backlight.explain`, chosen on X: best a contrast of two answers.
    places : sequence of str, optional
        Names or patterns. By default every sum of two branches, which is the residual stream, and the branches.
    method : {"relevance", "gradient", "activation"}
        One way back by relevance propagation; one by the plain gradient (attribution patching); or a run for each place
        and position, which the other two estimate.
    rules, output
        As in `backlight.explain`.

    Returns
    -------
    Patching
        Positions are those of axis 1 where a place's value is (n, positions, width); any other value is one position.

    Raises
    ------
    ArgumentError
    """
    if method not in METHODS:
        raise ArgumentError(f"method={method!r} is not known: choose 'relevance', 'gradient' or 'activation'")
    opened, query, way, targets = asked(model, target, rules, False, output, None)
    if len(targets.items) != 1:
        raise ArgumentError("patching is for one target: ask for the targets one after the other")
    batches = [list(opened.batches(given, 2**62, None, query)[1]) for given in (X, other)]
    if any(len(found) != 1 for found in batches):
        raise ArgumentError("patching takes one batch of each input: give a tensor or a dict of tensors")
    first, second = batches[0][0], batches[1][0]
    plan = way.plan(first, targets)
    chosen = _residual(plan) if places is None else list(places)
    began = way.begun(first, targets, chosen)
    _, _, donor, _ = way.ran(second, chosen, targets)
    if donor.output.shape != began.run.output.shape:
        raise ArgumentError("the two inputs must have the same rows and the same length")
    score = _score_of(began)
    if not began.places:
        raise ArgumentError("there is no place to patch: give names of places, see backlight.plan")
    values = METHODS[method](began, donor.kept, score)
    names = tuple(began.places)
    widest = max(value.shape[1] for value in values.values())
    padded = [np.pad(values[name], ((0, 0), (0, widest - values[name].shape[1]))) for name in names]
    mine, theirs = (score(run.output).double().cpu().numpy() for run in (began.run, donor))
    return Patching(names, np.stack(padded), mine, theirs, method, began.seeds.names[0])


def _residual(plan: Plan) -> list[str]:
    """Sums of two branches, and the branches, in running order."""
    named: dict[int, str] = {}
    for name, index in plan.places.items():
        named.setdefault(index, name)
    found: list[int] = []
    for step in plan.steps:
        if step.node.op == "add" and len(set(step.carriers)) == 2:
            found += [*(index for index in step.carriers if index in named), step.out]
    if not found:
        raise ArgumentError("the network has no sums of two branches: name places=")
    return [named[index] for index in sorted(set(found)) if index in named]


Score = Callable[[Tensor], Tensor]


def _score_of(began: Begun) -> Score:
    """The target as a function of the explained output, its choice of outputs made on the input that runs."""
    if began.seeds.functions:
        raise ArgumentError("patching takes targets that are linear in the output: a token, a class, a contrast")
    seed = began.seeds.gradient[0]

    def score(out: Tensor) -> Tensor:
        repeated = seed.repeat(len(out) // len(seed), *(1,) * (seed.dim() - 1))
        return (repeated * out).flatten(1).sum(1)

    return score


def _by_position(change: Tensor) -> np.ndarray:
    """(n, positions): sums over everything but the rows and the positions of a (n, positions, width)."""
    whole = change.sum(2) if change.dim() == 3 else change.flatten(1).sum(1, keepdim=True)
    return whole.detach().double().cpu().numpy()


def by_relevance(began: Begun, donor: Mapping[int, Tensor], _: Score) -> dict[str, np.ndarray]:
    """(a' − a) c with the messages of relevance propagation."""
    found = began.run.relevance(began.seeds.gradient, until=tuple(began.places.values()))[0]
    values = {}
    for name, index in began.places.items():
        value = began.run.kept[index]
        c = as_gradient(value, found[index])[0] if index in found else torch.zeros_like(value)
        values[name] = _by_position((donor[index] - value) * c)
    return values


def by_gradient(began: Begun, donor: Mapping[int, Tensor], score: Score) -> dict[str, np.ndarray]:
    """(a' − a) ∂f/∂a."""
    plan = began.plan
    values = list(plan.template)
    for name, index in plan.inputs.items():
        values[index] = began.given[name]
    probes: dict[int, Tensor] = {}
    with torch.inference_mode(False), torch.enable_grad():
        for node in plan.graph.nodes[: plan.output + 1]:
            if node.target is None or values[node.index] is not None:
                continue
            values[node.index] = node.target(*fill(node.args, values), **fill(node.kwargs, values))
            if node.index in began.places.values():
                probes[node.index] = torch.zeros_like(values[node.index]).requires_grad_()
                values[node.index] = values[node.index] + probes[node.index]
        slopes = torch.autograd.grad(score(values[plan.output]).sum(), list(probes.values()), allow_unused=True)
    slope = dict(zip(probes, slopes, strict=True))
    return {
        name: _by_position((donor[index] - began.run.kept[index]) * (slope[index] if slope[index] is not None else 0))
        for name, index in began.places.items()
    }


def by_activation(began: Begun, donor: Mapping[int, Tensor], score: Score) -> dict[str, np.ndarray]:
    """The score with the value put in, less the score: a run for each place and position."""
    plan = began.plan
    plain = score(began.run.output)
    values = {}
    for name, index in began.places.items():
        value, there = began.run.kept[index], donor[index]
        n = len(value)
        positions = value.shape[1] if value.dim() == 3 else 1
        step = max(1, _TOGETHER // n) if plan.graph.how == "exported" else 1
        changes = []
        for start in range(0, positions, step):
            chosen = range(start, min(start + step, positions))
            given = {
                key: x.repeat(len(chosen), *(1,) * (x.dim() - 1)) if isinstance(x, Tensor) and x.dim() else x
                for key, x in began.given.items()
            }
            run = forward(plan, given, put={index: _putting(there, chosen, positions)})
            changes.append(score(run.output).reshape(len(chosen), n) - plain)
        values[name] = torch.cat(changes).t().double().cpu().numpy()
    return values


def _putting(there: Tensor, chosen: range, positions: int) -> Callable[[Tensor], Tensor]:
    """Copies of the rows, one a position, with another input's value at that position."""

    def put(value: Tensor) -> Tensor:
        if positions == 1 and value.dim() != 3:
            return there
        copies = value.reshape(len(chosen), -1, *value.shape[1:]).clone()
        for k, position in enumerate(chosen):
            copies[k, :, position] = there[:, position]
        return copies.flatten(0, 1)

    return put


Way = Callable[[Begun, Mapping[int, Tensor], Score], dict[str, np.ndarray]]
METHODS: dict[str, Way] = {"relevance": by_relevance, "gradient": by_gradient, "activation": by_activation}
