"""Relevance propagation of a torch module as a graph: a network's explanation is a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight._export.graphs.graph import Graph, Value
from backlight._export.graphs.steps import Sizes, step
from backlight._export.graphs.tables import KEYS, Written
from backlight._export.graphs.verify import Run
from backlight._export.verify import require_equal
from backlight.attribution.lrp import LayerwiseRelevance, reference_point
from backlight.attribution.reference import named_method
from backlight.attribution.requested import Requested, Targets
from backlight.engine.plan import Plan
from backlight.errors import ArgumentError, UnsupportedModel, UnsupportedOption
from backlight.models import Query
from backlight.models.torch import TorchModel

__all__ = ["check_network", "network_graph"]

KINDS: dict[torch.dtype, type] = {torch.float32: np.float32, torch.float64: np.float64}
# of what the score is made of, by precision
TOLERANCES: dict[type, float] = {np.float32: 1e-4, np.float64: 1e-9}
_ROWS = 256


def network_graph(model: TorchModel, query: Query, explainer: Any, rows: Any) -> tuple[Written, Tensor]:
    """Write a module's score and contributions as a graph; beside it, the rows to compare it on.

    Raises
    ------
    UnsupportedModel, UnsupportedOption
        For an operator, a rule or a target that is not written, by name.
    ArgumentError
        Without rows: a module does not say what it takes.
    """
    if rows is None:
        raise ArgumentError("a torch module does not say the shape of its input: give rows= to compare the export on")
    _require_plain(query)
    _, stream = model.batches(rows, "auto", explainer.feature_names, query)
    batch = next(iter(stream)).take(0, _ROWS)
    tensors = [value for value in (*batch.args, *batch.kwargs.values()) if isinstance(value, Tensor)]
    if len(tensors) != 1 or tensors[0].dtype not in KINDS:
        raise UnsupportedModel("networks of one input of floating-point numbers are written as graphs in this version")
    way = LayerwiseRelevance(
        model.module, query.rules, query.strict, None, query.reference, [], query.output, query.rows
    )
    plan = way.plan(batch, explainer.targets)
    return _written(plan, tensors[0], query, explainer.targets), tensors[0]


def _require_plain(query: Query) -> None:
    name, _ = named_method(query.method)
    for wrong, told in (
        (name != "lrp", f"method={name!r}"),
        (query.canonical, "canonical=True"),
        (bool(query.layers), "layers="),
        (query.rows != "separate", f"rows={query.rows!r}"),
    ):
        if wrong:
            raise UnsupportedOption(f"{told} is not written as a graph in this version: leave it out")


def _written(plan: Plan, x: Tensor, query: Query, targets: Targets) -> Written:
    if len(plan.inputs) != 1:
        raise UnsupportedModel("networks of one input are written as graphs in this version")
    if plan.apart is False or plan.mixing:
        raise UnsupportedModel(f"the rows of a batch see each other at {plan.mixing}: a graph has each row by itself")
    ((name, at),) = plan.inputs.items()
    graph, sizes = Graph(KINDS[x.dtype]), Sizes(plan)
    shape = tuple(int(size) for size in x.shape[1:])
    values = {at: graph.input(name, graph.kind, *shape)}
    ways = []
    for one in plan.steps:
        values[one.out], back = step(one, values, sizes)
        ways.append((one, back))
    output = values[plan.output]
    if len(sizes.at(plan.output)) > 1:
        raise UnsupportedModel("an output of one number a class is written as a graph in this version: give output=")
    flat = not sizes.at(plan.output)
    output = graph.op("Unsqueeze", output, np.array([1])) if flat else output
    width = 1 if flat else sizes.at(plan.output)[0]
    given = values[at]
    if query.reference is not None:
        given = given - np.asarray(_point(query.reference, x))
    scores, parts, index = [], [], None
    for target in targets.each(width):
        seed, index = _seed(target, output, width)
        scores.append((seed * output).sum())
        whole = graph.op("Squeeze", seed, np.array([1])) if flat else seed
        parts.append(given * _sent(ways, plan.output, at, whole))
    tail = [len(scores)] if targets.several else []
    score = graph.concat(scores) if tail else graph.op("Squeeze", scores[0], np.array([1]))
    last = np.array([len(shape) + 1])
    contributions = graph.concat([graph.op("Unsqueeze", part, last) for part in parts]) if tail else parts[0]
    results: dict[str, tuple[Value, type, Sequence[int | str]]] = {
        "score": (score, graph.kind, ["rows", *tail]),
        "base": (score * 0.0, graph.kind, ["rows", *tail]),
        "contributions": (contributions, graph.kind, ["rows", *shape, *tail]),
    }
    if index is not None and not tail:
        results["target"] = (graph.op("Squeeze", index, np.array([1])), np.int64, ["rows"])
    rules = [[one.node.name, one.rule] for one in plan.steps if one.rule != "moves"]
    return Written(graph, results, {"model": plan.title, "rules": json.dumps(rules)})


def _point(reference: Any, x: Tensor) -> Tensor:
    if isinstance(reference, dict):
        (reference,) = reference.values()
    point = reference_point(reference, x)
    if len(point) != 1:
        raise UnsupportedOption("a reference that differs from row to row is not written as a graph: give one row")
    return point.detach().cpu()


def _sent(ways: Sequence[Any], output: int, source: int, seed: Value) -> Value:
    """The modified gradient at the input, from that at the output."""
    mail: dict[int, Value] = {output: seed}
    for one, back in reversed(ways):
        message = mail.pop(one.out, None)
        if message is None:
            continue
        for carrier, part in zip(one.carriers, back(message), strict=True):
            mail[carrier] = mail[carrier] + part if carrier in mail else part
    if source not in mail:
        raise UnsupportedModel("the output does not depend on the input")
    return mail[source]


def _seed(target: Requested, output: Value, width: int) -> tuple[Value, Value | None]:
    """What is sent back from the output: its own gradient of the target, (n, outputs); and the predicted output."""
    graph = output.graph
    if target.predicted:
        index = output.argmax()
        return graph.cast(index.equals(np.arange(width)[None]), graph.kind), index if width > 1 else None
    if target.direction is not None and target.direction.dim() <= 1:
        row = np.asarray(target.direction.detach().cpu(), dtype=float).reshape(1, -1)
        if row.shape[1] == width:
            return graph.constant(row), None
    if isinstance(target.label, int):
        if not -width <= target.label < width:
            raise ArgumentError(f"target={target.label}: the network has {width} outputs")
        return graph.constant(np.eye(width)[[target.label]]), None
    raise UnsupportedModel("this target is not written as a graph: give an output's index, a direction, or 'all'")


def check_network(run: Run, written: Written, x: Tensor, explainer: Any) -> None:
    """Compare what was written with the explainer on rows together, and on the first alone.

    Raises
    ------
    ConservationError
    """
    (name,) = written.inputs
    for rows in (x, x[:1]):
        ex, got = explainer(rows), run({name: np.asarray(rows.detach().cpu())})
        found, wanted = (
            np.concatenate([np.asarray(part, dtype=float).reshape(len(rows), -1) for part in parts], 1)
            for parts in ((got[key] for key in KEYS), (ex.output, ex.base_values, ex.values))
        )
        places = [f"number {k}" for k in range(found.shape[1])]
        require_equal(found, wanted, places, TOLERANCES[KINDS[x.dtype]])
