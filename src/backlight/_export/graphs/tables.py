"""A classical model's explainer as a graph: a table's rows in, their scores and contributions out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from backlight._export.asked import layer_query
from backlight._export.graphs import elements as front_end
from backlight._export.graphs import layers, links, pools, trees
from backlight._export.graphs.graph import Graph, Results, Value
from backlight._export.graphs.rows import Emitted, Rows, embedded, layer, run
from backlight._export.rows import array
from backlight.attribution.requested import Requested, Targets
from backlight.classical import NeuralizedModel
from backlight.classical.frontend.columns import FrontEnd
from backlight.classical.functions import PairVotes
from backlight.classical.targets import Outputs, largest, positive
from backlight.errors import UnsupportedModel, listed
from backlight.models import Query

__all__ = ["KEYS", "Written", "graph_of"]

_EMITTERS = (front_end, layers, links, pools, trees)  # each registers what it writes
MATRIX = "X"
KEYS = ("score", "base", "contributions")


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """A graph with names for what goes in and comes out.

    Attributes
    ----------
    graph : Graph
    results : mapping of name to value, type and shape
    facts : mapping of str to str
        What is said about it.
    outputs : mapping of "score", "base", "contributions", "target" to the names that the graph has for them
    texts : frozenset of str
        Inputs that are words.
    words : tuple of str
        The names of what "target" counts, where it has names.
    """

    graph: Graph
    results: Results
    facts: Mapping[str, str]
    outputs: Mapping[str, str] = field(default_factory=lambda: {key: key for key in (*KEYS, "target")})
    texts: frozenset[str] = frozenset()
    words: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """One matrix, or a column each."""
        return tuple(self.graph.inputs)


def graph_of(network: NeuralizedModel, query: Query, targets: Targets, names: Sequence[str]) -> Written:
    """Write a network's score and contributions as a graph.

    Raises
    ------
    UnsupportedModel, UnsupportedOption
    """
    front, graph = network.front, Graph()
    if front.reader is not None:
        raise UnsupportedModel("texts are not read by a graph in this version: use Explainer.save")
    texts = frozenset(front.vocabulary.codes)
    x = _coded(front, names, graph) if texts else graph.input(MATRIX, np.float64, len(names))
    e = run(front.elements, x)
    rows = Rows(graph, x, e, embedded(front.pullback, e), front.pullback)
    got = layer(network.layer, rows, layer_query(query))
    outputs = network.score.outputs
    asked = outputs.targets(targets)
    refused = _refused(rows.z, network.takes_missing)
    each = [_one(rows, got, outputs, one, refused) for one in asked]
    called = {key: key if key not in graph.inputs else f"backlight_{key}" for key in (*KEYS, "target")}
    tail = [len(asked)] if targets.several else []
    results: dict[str, tuple[Value, type, Sequence[int | str]]] = {
        called["score"]: (_joined([one.score for one in each], targets.several), np.float64, ["rows", *tail]),
        called["base"]: (_joined([one.base for one in each], targets.several), np.float64, ["rows", *tail]),
    }
    values = [graph.op("Unsqueeze", one.values, np.array([2])) if tail else one.values for one in each]
    results[called["contributions"]] = (graph.concat(values), np.float64, ["rows", len(names), *tail])
    if each[0].index is not None and not targets.several:
        results[called["target"]] = (_flat(each[0].index), np.int64, ["rows"])
    facts = {
        "model": network.kind, "score": network.score.name, "rule": repr(query.rules),
        "feature_names": json.dumps(list(names)),
        "targets": json.dumps([outputs.name(one) or network.score.name for one in asked]),
    }  # fmt: skip
    words = tuple(str(name) for name in outputs.names) if called["target"] in results else ()
    return Written(graph, results, facts, called, frozenset(names[j] for j in texts), words)


def _flat(column: Value) -> Value:
    return column.graph.op("Squeeze", column, np.array([1]))


def _joined(columns: Sequence[Value], several: bool) -> Value:
    """One number a row, or one a target."""
    return columns[0].graph.concat(columns) if several else _flat(columns[0])


def _coded(front: FrontEnd, names: Sequence[str], graph: Graph) -> Value:
    """Columns as the numbers that the network takes, from one input each: words where the model knows words."""
    out = []
    for j, name in enumerate(names):
        codes = front.vocabulary.codes.get(j)
        cell = graph.input(name, np.float64 if codes is None else str, 1)
        out.append(cell if codes is None else _code(graph, cell, dict(codes), j in front.vocabulary.knows_nan, name))
    return graph.concat(out)


def _code(graph: Graph, cell: Value, codes: dict[object, int], knows_nan: bool, name: str) -> Value:
    """Codes of words; the empty word stands for a cell without a value."""
    if not all(value is None or (isinstance(value, str) and value) for value in codes):
        raise UnsupportedModel(f"column {name!r} has categories that are no words, or an empty one: graphs know words")
    words = {str(value): float(code) for value, code in codes.items() if value is not None}
    words[""] = float("nan") if knows_nan else float(codes.get(None, -1))
    return graph.op(
        "LabelEncoder", cell, domain="ai.onnx.ml", keys_strings=list(words),
        values_tensor=np.array(list(words.values())), default_tensor=np.array([-1.0]),
    )  # fmt: skip


def _refused(z: Value, takes_missing: bool) -> Value:
    """Rows that have no number in the model's space, or are too far from the data."""
    if takes_missing:
        z = z.graph.where(z.is_nan(), 0.0, z)
    size = (z * z).sum()
    return (size - size).is_nan()


@dataclass(frozen=True, slots=True, eq=False)
class _Target:
    """One target: score and base (n, 1), contributions (n, columns), and which output it is, where that varies."""

    score: Value
    base: Value
    values: Value
    index: Value | None


def _one(rows: Rows, got: Emitted, outputs: Outputs, one: Requested, refused: Value) -> _Target:
    graph = rows.graph
    c, index = _coefficients(outputs, one, got.output, graph)
    score = (c * got.output).sum()
    carried = (c * got.carried).sum()
    # a score that is infinite cannot be shared
    gone = refused | (score - score).is_nan()
    score, base, values = (graph.where(gone, np.nan, value) for value in (score, score - carried, got.back(c)))
    return _Target(score, base, values, index)


def _coefficients(outputs: Outputs, one: Requested, units: Value, graph: Graph) -> tuple[Value, Value | None]:
    """What each unit counts in a target, and which output it is where that is the predicted one."""
    if not outputs.names:
        return graph.constant(np.ones((1, 1))), None
    size = len(outputs.names)
    directions = np.eye(size) if outputs.directions is None else np.asarray(outputs.directions, dtype=float)
    if one.direction is not None:
        return graph.constant((array(one.direction) @ directions)[None]), None
    if isinstance(one.label, int):
        return graph.constant(directions[[one.label]]), None
    if not one.predicted:
        raise UnsupportedModel(
            "a target that differs from row to row is not written as a graph: give one output, or 'all'"
        )
    index = _predicted(outputs, units, graph)
    chosen: Value = index.equals(np.arange(size)[None]).double() @ directions
    return chosen, index


def _predicted(outputs: Outputs, units: Value, graph: Graph) -> Value:
    choose = outputs.choose
    if choose is positive:
        return graph.cast(units.column(0) > 0.0, np.int64)
    if choose is largest:
        return units.argmax()
    if isinstance(choose, PairVotes):
        ends = np.array(choose.ends)
        won = (units > 0.0).double()
        eye = np.eye(choose.classes)
        votes: Value = won @ eye[ends[:, 0]] + (1.0 - won) @ eye[ends[:, 1]]
        if choose.sums is not None:
            sure = units @ np.asarray(choose.sums, dtype=float).T
            votes = votes + sure / (3.0 * (sure.abs() + 1.0))
        return votes.argmax()
    raise UnsupportedModel(
        f"which output is predicted is not written as a graph here: give target=, one of {listed(outputs.names)}"
    )
