"""A program of SQL: values of a row in stages, each made of those before it, and sums over tables beside the rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from backlight._export.expressions import Dialect, E, identifier, number, text

__all__ = ["Program"]

_NAME = re.compile(r"\bv\d+\b")


@dataclass(slots=True, eq=False)
class _Sums:
    """Sums over a table for each row: ``inner`` and ``then`` are expressions of both, ``outer`` sums of those."""

    table: str
    inner: Mapping[str, str]
    then: Mapping[str, str]
    outer: Mapping[str, str]
    where: str


@dataclass(slots=True, eq=False)
class _Stage:
    lets: dict[str, str] = field(default_factory=dict)
    sums: list[_Sums] = field(default_factory=list)


class Program:
    """The stages of one SELECT.

    Names of values are ``v0, v1, …``; those of tables are theirs, and in sums their columns stand beside the values.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self._level: dict[str, int] = {}
        self._known: dict[str, str] = {}
        self._stages: list[_Stage] = []
        self._tables: dict[str, str] = {}

    def _fresh(self, level: int) -> str:
        name = f"v{len(self._level)}"
        self._level[name] = level
        while len(self._stages) <= level:
            self._stages.append(_Stage())
        return name

    def _above(self, *expressions: str) -> int:
        used = {name for one in expressions for name in _NAME.findall(one)}
        return 1 + max((self._level[name] for name in used), default=0)

    def column(self, expression: str) -> str:
        """A value that is read from the table's columns."""
        name = self._fresh(0)
        self._stages[0].lets[name] = expression
        return name

    def let(self, expression: E) -> E:
        """Give a value a name, so that it is worked out once."""
        if not isinstance(expression, str) or _NAME.fullmatch(expression):
            return expression
        if expression not in self._known:
            level = self._above(expression)
            name = self._known[expression] = self._fresh(level)
            self._stages[level].lets[name] = expression
        return self._known[expression]

    def table(self, columns: Sequence[str], rows: np.ndarray) -> str:
        """A table beside the rows; its numbers are part of the text."""
        name = f"t{len(self._tables)}"

        def row(values: Sequence[float], first: bool) -> str:
            cells = [number(float(value)) for value in values]
            return "(" + ", ".join(f"CAST({cell} AS DOUBLE PRECISION)" if first else cell for cell in cells) + ")"

        body = ",\n".join(row(values, k == 0) for k, values in enumerate(rows.tolist()))
        self._tables[name] = f"{name}({', '.join(columns)}) AS (VALUES\n{body})"
        return name

    def sums(
        self,
        table: str,
        inner: Mapping[str, str],
        outer: Mapping[str, str],
        then: Mapping[str, str] | None = None,
        where: str = "",
    ) -> dict[str, str]:
        """Values that are sums (or extremes) over a table.

        Parameters
        ----------
        inner : mapping of name to expression
            Of values and the table's columns, worked out once a pair.
        outer : mapping of name to expression
            Sums of those, of values and of the table's columns, each as a column of ``q``.
        then : mapping of name to expression, optional
            Worked out once a pair from ``q``.
        where : str
            Which pairs; by default all.
        """
        then = then or {}
        level = self._above(*inner.values(), *then.values(), *outer.values(), where)
        names = {key: self._fresh(level) for key in outer}
        self._stages[level].sums.append(_Sums(table, inner, then, {names[k]: e for k, e in outer.items()}, where))
        return names

    def render(self, source: str, key: str | None, result: Mapping[str, E]) -> str:
        """The whole SELECT, of a table's rows."""
        row = "ROW_NUMBER() OVER ()" if key is None else identifier(key)
        stages = self._stages or [_Stage()]
        lines = []
        for k, stage in enumerate(stages):
            lets = "".join(f",\n  {expression} AS {name}" for name, expression in stage.lets.items())
            if k == 0:
                body = f"SELECT ROW_NUMBER() OVER () AS rid, {row} AS rkey{lets}\nFROM {identifier(source)}"
            else:
                found = "".join(f", g{j}.{name}" for j, sums in enumerate(stage.sums) for name in sums.outer)
                joins = "".join(self._join(j, k - 1, sums) for j, sums in enumerate(stage.sums))
                body = f"SELECT s.*{found}{lets}\nFROM s{k - 1} s{joins}"
            lines.append(f"s{k} AS MATERIALIZED (\n{body})")
        head = ",\n".join([*self._tables.values(), *lines])
        columns = ",\n".join(f"  {text(value)} AS {identifier(name)}" for name, value in result.items())
        own = identifier("row" if key is None else key)
        return f"WITH {head}\nSELECT rkey AS {own},\n{columns}\nFROM s{len(stages) - 1}\n"

    def _join(self, j: int, below: int, sums: _Sums) -> str:
        said = " ".join([*sums.inner.values(), *sums.then.values(), *sums.outer.values(), sums.where])
        needed = sorted(set(_NAME.findall(said)) - set(sums.outer), key=lambda name: int(name[1:]))
        values = "".join(f", s.{name}" for name in needed)
        inner = "".join(f", {expression} AS {name}" for name, expression in sums.inner.items())
        outer = ", ".join(f"{expression} AS {name}" for name, expression in sums.outer.items())
        where = f" WHERE {sums.where}" if sums.where else ""
        pairs = f"SELECT s.rid{values}, a.*{inner} FROM s{below} s CROSS JOIN {sums.table} a{where}"
        if sums.then:
            pairs = f"SELECT q.*{''.join(f', {e} AS {n}' for n, e in sums.then.items())} FROM ({pairs}) q"
        return f"\nLEFT JOIN (SELECT q.rid, {outer} FROM ({pairs}) q GROUP BY q.rid) g{j} ON g{j}.rid = s.rid"
