"""An explainer as one SELECT."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backlight._export import layers, pools, trees
from backlight._export.asked import layer_query
from backlight._export.elements import coded
from backlight._export.expressions import DIALECTS, Dialect, E, minus, number, plus, text, times
from backlight._export.program import Program
from backlight._export.rows import Emitted, Rows, array, embedded, layer, run
from backlight.attribution.requested import Requested, Targets
from backlight.classical import NeuralizedModel
from backlight.classical.targets import Outputs, largest, positive
from backlight.errors import UnsupportedModel, listed
from backlight.models import Query

__all__ = ["Select", "select_of"]

_EMITTERS = (layers, pools, trees)  # each registers what it writes


@dataclass(frozen=True, slots=True)
class Select:
    """A SELECT and the columns it gives: the row's own name, then scores, bases and features, for each target."""

    query: str
    columns: tuple[str, ...]
    dialect: Dialect


def select_of(
    network: NeuralizedModel,
    query: Query,
    targets: Targets,
    names: Sequence[str],
    dialect: str,
    table: str,
    key: str | None,
) -> Select:
    """Write a network's score and contributions in SQL.

    Raises
    ------
    UnsupportedModel, UnsupportedOption
    """
    words = DIALECTS[dialect]
    program = Program(words)
    x = coded(network.front, names, program)
    e = run(network.front.elements, program, x)
    way = network.front.pullback
    z = [program.let(one) for one in embedded(way, e)]
    taken = _taken(program, x, z, network.takes_missing)
    rows = Rows(program, x, e, [program.let(times(one, taken)) if isinstance(one, str) else one for one in z], way)
    got = layer(network.layer, rows, layer_query(query))
    outputs = network.score.outputs
    asked = outputs.targets(targets)
    result: dict[str, E] = {}
    for one in asked:
        tail = f"[{outputs.name(one) or network.score.name}]" if targets.several else ""
        result |= _one(network, names, rows, got, one, tail, taken)
    return Select(program.render(table, key, result), tuple(result), words)


def _taken(program: Program, x: Sequence[E], z: Sequence[E], missing: bool) -> E:
    """One for a row whose numbers are there and can be squared; otherwise no value, as `explain` refuses it."""
    bound = number(math.sqrt(np.finfo(float).max / max(len(z), 1)))
    inner = [one for one in z if isinstance(one, str)]
    cells = [one for one in x if isinstance(one, str) and one not in inner]
    tests = [f"({one} IS NULL OR ABS({one}) <= {bound})" for one in (*cells, *(inner if missing else []))]
    tests += [] if missing else [f"ABS({one}) <= {bound}" for one in inner]
    return program.let(f"CASE WHEN {' AND '.join(tests)} THEN 1e0 END") if tests else 1.0


def _one(
    network: NeuralizedModel, names: Sequence[str], rows: Rows, got: Emitted, one: Requested, tail: str, taken: E
) -> dict[str, E]:
    outputs = network.score.outputs
    score, base, target = (n if n not in names else f"backlight_{n}" for n in ("score", "base", "target"))
    c, index = _coefficients(outputs, one, got.output, rows)
    total = rows.program.let(_sum(c, got.output))
    values = got.back(c)
    found: dict[str, E] = {f"{score}{tail}": total, f"{base}{tail}": minus(total, _sum(c, got.carried))}
    found |= {f"{name}{tail}": value for name, value in zip(names, values, strict=True)}
    if isinstance(taken, str):
        found = {name: f"({text(value)} * {taken})" for name, value in found.items()}
    if index is not None and not tail:
        cases = " ".join(
            "WHEN {} THEN '{}'".format(number(k), name.replace("'", "''")) for k, name in enumerate(outputs.names)
        )
        found[target] = f"CASE {text(times(index, taken))} {cases} END"
    return found


def _sum(c: Sequence[E], terms: Sequence[E]) -> E:
    return plus(*map(times, c, terms))


def _coefficients(outputs: Outputs, one: Requested, units: Sequence[E], rows: Rows) -> tuple[list[E], E | None]:
    """What each unit counts in a target, and which output it is where that is the predicted one."""
    if not outputs.names:
        return [1.0] * len(units), None
    directions = np.eye(len(outputs.names)) if outputs.directions is None else np.asarray(outputs.directions)
    if one.direction is not None:
        return [float(c) for c in array(one.direction) @ directions], None
    if isinstance(one.label, int):
        return [float(c) for c in directions[one.label]], None
    if not one.predicted:
        raise UnsupportedModel("a target that differs from row to row is not written in SQL: give one output, or 'all'")
    index = _predicted(outputs, units, rows)
    names = range(len(outputs.names))
    each: list[E] = []
    for unit in range(len(units)):
        column = [float(v) for v in directions[:, unit]]
        whens = " ".join(f"WHEN {number(k)} THEN {number(column[k])}" for k in names if column[k] != 0)
        each.append(rows.program.let(f"CASE {text(index)} {whens} ELSE 0e0 END"))
    return each, index


def _predicted(outputs: Outputs, units: Sequence[E], rows: Rows) -> E:
    if outputs.choose is positive:
        return rows.program.let(f"CASE WHEN {text(units[0])} > 0 THEN 1e0 ELSE 0e0 END")
    if outputs.choose is not largest:
        raise UnsupportedModel(
            f"which output is predicted is not written in SQL for this model: give target=, one of "
            f"{listed(outputs.names)}"
        )
    most = text(rows.program.let(rows.program.dialect.most(units)))
    whens = " ".join(f"WHEN {text(unit)} >= {most} THEN {number(k)}" for k, unit in enumerate(units))
    return rows.program.let(f"CASE {whens} END")
