"""A program of SQL: values of a row in stages, each made of those before it, and sums over tables beside the rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from backlight._export.expressions import Dialect, E, identifier, text

__all__ = ["Program"]

_NAME = re.compile(r"\bv\d+\b")


@dataclass(slots=True, eq=False)
class _Sums:
    """Sums over a table for each row: ``levels`` are expressions of both, ``outer`` sums of those."""

    table: str
    levels: Sequence[Mapping[str, str]]
    outer: Mapping[str, str]
    where: str

    def said(self) -> list[str]:
        """Every expression."""
        return [*(one for level in self.levels for one in level.values()), *self.outer.values(), self.where]


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

        self._tables[name] = self.dialect.table(name, columns, rows)
        return name

    def sums(
        self, table: str, levels: Sequence[Mapping[str, str]], outer: Mapping[str, str], where: str = ""
    ) -> dict[str, str]:
        """Values that are sums (or extremes) over a table.

        Parameters
        ----------
        levels : sequence of mapping of name to expression
            Worked out once a pair: the first of values and of the table's columns as ``a``, each further one of the
            columns ``q`` of those before it.
        outer : mapping of name to expression
            Sums of those, of values and of the table's columns, each as a column of ``q``.
        where : str
            Which pairs; by default all. A row that has none has no value.
        """
        found = _Sums(table, levels, outer, where)
        level = self._above(*found.said())
        names = {key: self._fresh(level) for key in outer}
        found = _Sums(table, levels, {names[key]: expression for key, expression in outer.items()}, where)
        self._stages[level].sums.append(found)
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
        needed = sorted(set(_NAME.findall(" ".join(sums.said()))), key=lambda name: int(name[1:]))
        values = "".join(f", s.{name}" for name in needed)
        where = f" WHERE {sums.where}" if sums.where else ""
        first, *others = [*sums.levels] or [{}]
        pairs = f"SELECT s.rid{values}, a.*{_named(first)} FROM s{below} s CROSS JOIN {sums.table} a{where}"
        for level in others:
            pairs = f"SELECT q.*{_named(level)} FROM ({pairs}{self.dialect.fence}) q"
        grouped = f"SELECT q.rid{_named(sums.outer)} FROM ({pairs}{self.dialect.fence}) q GROUP BY q.rid"
        return f"\nLEFT JOIN ({grouped}) g{j} ON g{j}.rid = s.rid"


def _named(expressions: Mapping[str, str]) -> str:
    return "".join(f", {expression} AS {name}" for name, expression in expressions.items())
