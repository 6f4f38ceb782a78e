"""The relevance of a small network as formulas, one for each linear region (one algorithm)."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
import sympy
from torch import nn

from backlight.arguments import checked, numbers_in, shown
from backlight.errors import ArgumentError, listed
from backlight.explanation.faces import as_table
from backlight.hints import DomainLike, RowsLike
from backlight.rules import Rule
from backlight.symbolic.domains import domain_cut, names_of
from backlight.symbolic.formulas import Formula, expression_of, formula, relevances
from backlight.symbolic.naming import DIGITS, Named, named, rounded
from backlight.symbolic.piecewise import Cut, Piece, added, pieces
from backlight.symbolic.plots import draw_phase
from backlight.symbolic.polyhedra import Affine, at
from backlight.symbolic.printing import condition, drawn, positive_factors, rank, relation, said
from backlight.symbolic.program import Program, program

__all__ = ["At", "Derivation", "Region", "derive"]

_REGIONS = 2_000
_KINKS = 6
# beyond that many operations a formula is left as it comes
_FACTORED = 400
# beyond that many in a region, formulas are printed with names for what they share
_PLAIN = 150


@dataclass(frozen=True, repr=False, eq=False)
class Region:
    """A linear region of the network and its formulas.

    Attributes
    ----------
    condition : sympy expression
        The inequalities that bound it, without those that follow from the others; with equalities where a unit is
        exactly at its kink.
    dimension : int
        That of the inputs, or less at a kink.
    raw_output, raw : sympy expressions
        The network and the relevance as they come, without the equalities of a kink.
    """

    condition: Any
    dimension: int
    raw_output: Any
    raw: tuple[Any, ...]
    piece: Piece
    symbols: tuple[sympy.Symbol, ...]

    @cached_property
    def output(self) -> Any:
        """The network there."""
        return sympy.expand(self.raw_output.subs(self.substitution))

    @cached_property
    def relevance(self) -> tuple[Any, ...]:
        """R of each input, factored; at a kink with the equalities put in."""
        return tuple(self._simple(r) for r in self.raw)

    @cached_property
    def total(self) -> Any:
        """Σ R, factored: the output where nothing is lost."""
        return self._simple(sum(self.raw, sympy.Integer(0)))

    def __repr__(self) -> str:
        return f"where {said(rounded(self.condition))}: f = {said(rounded(self.raw_output))}"

    def _repr_html_(self) -> str:
        cells = [self.condition, self.output, *self.relevance]
        head = ["where", "f", *(f"R({s.name})" for s in self.symbols)]
        return as_table("a linear region", head, [[drawn(rounded(cell)) for cell in cells]], ready=True)

    def _simple(self, expression: Any) -> Any:
        expression = expression.subs(self.substitution)
        if sympy.count_ops(expression) >= _FACTORED:
            return expression
        point = {
            s: sympy.Rational(x.numerator, x.denominator)
            for s, x in zip(self.symbols, self.piece.cut.point, strict=True)
        }
        return positive_factors(sympy.factor(expression), point)

    @cached_property
    def substitution(self) -> dict[Any, Any]:
        """The equalities of a kink, solved for some inputs."""
        if not self.piece.cut.zero:
            return {}
        equations = [expression_of(f, self.symbols) for f in self.piece.cut.zero]
        solved = sympy.solve(equations, list(reversed(self.symbols)), dict=True)
        return dict(solved[0]) if solved else {}


@dataclass(frozen=True, slots=True)
class At:
    """A derivation at one input: ``output``, ``relevance`` by input, ``region``."""

    output: Any
    relevance: dict[str, Any]
    region: Region

    def _repr_html_(self) -> str:
        rows = [["f", drawn(self.output)], *([escape(f"R({name})"), drawn(r)] for name, r in self.relevance.items())]
        return as_table("at a point", ["", "value"], rows, ready=True)


@dataclass(frozen=True, repr=False, eq=False)
class Derivation:
    """Formulas for the relevance of a network.

    Attributes
    ----------
    symbols : tuple of sympy.Symbol
        The inputs.
    parameters : tuple of sympy.Symbol
        Of the rule, where they were left open.
    regions : tuple of Region
        Full regions first, then those at kinks.
    rule : str
    assume : str
    """

    symbols: tuple[sympy.Symbol, ...]
    parameters: tuple[sympy.Symbol, ...]
    regions: tuple[Region, ...]
    rule: str
    assume: str
    network: Program = field(repr=False)
    made: Formula = field(repr=False)
    target: int = 0

    def at(self, **values: Any) -> At:
        """The output and relevance at a point: inputs by name, and as many of the rule's parameters as are wanted.

        Numbers are taken exactly as they are written, and the point is on a region or exactly on a kink.

        Examples
        --------
        >>> import backlight
        >>> d = backlight.derive(backlight.examples.min_networks().i, "gamma")
        >>> d.at(a1=2, a2=1, gamma="1/4").relevance
        {'a1': 5/9, 'a2': 4/9}
        """
        names = {s.name: s for s in (*self.symbols, *self.parameters)}
        unknown = set(values) - set(names)
        missing = {s.name for s in self.symbols} - set(values)
        if unknown or missing:
            what = f"{sorted(unknown)} are not in the formulas" if unknown else f"{sorted(missing)} are missing"
            raise ArgumentError(f"{what}: the inputs are {listed([s.name for s in self.symbols], 20)}, the parameters "
                                f"{listed([s.name for s in self.parameters], 5) or 'none'}")  # fmt: skip
        exact = {names[name]: sympy.Rational(str(value)) for name, value in values.items()}
        point = tuple(Fraction(int(exact[s].p), int(exact[s].q)) for s in self.symbols)
        region = self._region(point)
        raw = [sympy.factor(sympy.sympify(r).subs(exact)) for r in region.raw]
        output = region.raw_output.subs(exact)
        return At(output, {s.name: r for s, r in zip(self.symbols, raw, strict=True)}, region)

    def _region(self, point: tuple[Fraction, ...]) -> Region:
        """The formulas at a point, also on the boundary of the assumptions."""
        zero = [(*(Fraction(int(i == j)) for i in range(len(point))), -x) for j, x in enumerate(point)]
        cut = Cut([], zero, point)
        (piece,) = pieces(self.network, cut, kinks=True, open_signs=_open_signs(self.made))
        return _region(self.network, piece, self.symbols, self.made, self.target, cut)

    def evaluate(self, X: Any, **parameters: float) -> tuple[np.ndarray, np.ndarray]:
        """Output (n,) and relevance (n, d) of many inputs, in floating point; NaN outside of the assumptions.

        Inputs on a kink, to rounding, get the formula of a neighbour; 0/0 is 0.
        """
        X = np.atleast_2d(numbers_in(X, "inputs").astype(float))
        X = X.reshape(len(X), math.prod(X.shape[1:]))
        missing = {s.name for s in self.parameters} - set(parameters)
        if missing or X.shape[1] != len(self.symbols):
            raise ArgumentError(
                f"give rows of {len(self.symbols)} inputs, and numbers for {sorted(missing) or 'nothing else'}"
            )
        output, relevance = np.full(len(X), np.nan), np.full(X.shape, np.nan)
        arguments = [parameters[s.name] for s in self.parameters]
        for region, (rows, function) in zip(self.regions, self._compiled, strict=True):
            if region.dimension < len(self.symbols):
                continue
            inside = (X @ rows[:, :-1].T + rows[:, -1] >= 0).all(1) & np.isnan(output)
            if inside.any():
                with np.errstate(divide="ignore", invalid="ignore"):
                    values = function(*X[inside].T, *arguments)
                output[inside] = np.broadcast_to(values[0], inside.sum())
                found = np.stack([np.broadcast_to(v, inside.sum()) for v in values[1:]], 1)
                # on the boundary of a region
                relevance[inside] = np.where(np.isnan(found), 0.0, found)
        return output, relevance

    @cached_property
    def _compiled(self) -> list[tuple[np.ndarray, Any]]:
        found = []
        for region in self.regions:
            rows = np.array([[float(c) for c in f] for f in region.piece.cut.positive])
            rows = rows if len(rows) else np.zeros((0, len(self.symbols) + 1))
            expressions = [sympy.N(e, 17) for e in (region.raw_output, *region.raw)]
            function = sympy.lambdify([*self.symbols, *self.parameters], expressions, "numpy", cse=True)
            found.append((rows, function))
        return found

    @cached_property
    def named(self) -> Named:
        """The formulas with names for what they share: ``definitions``, and for each region output and relevances."""
        cells = [cell for region in self.regions for cell in (region.raw_output, *region.raw)]
        cells = [c.subs(r.substitution) for c, r in zip(cells, self._owners(), strict=True)]
        return named(cells, (*self.symbols, *self.parameters))

    def _owners(self) -> list[Region]:
        return [region for region in self.regions for _ in range(1 + len(self.symbols))]

    @cached_property
    def _long(self) -> bool:
        return any(sympy.count_ops(region.raw, visual=False) > _PLAIN for region in self.regions)

    @cached_property
    def _cells(self) -> list[list[Any]]:
        """Output and relevances of each region as they are printed: with names where they are long."""
        if not self._long:
            return [[rounded(cell) for cell in (r.output, *r.relevance)] for r in self.regions]
        each = 1 + len(self.symbols)
        cells = [rounded(cell) for cell in self.named.formulas]
        return [cells[k : k + each] for k in range(0, len(cells), each)]

    def _definitions(self) -> list[tuple[Any, Any]]:
        return [(name, rounded(e)) for name, e in self.named.definitions.items()] if self._long else []

    def latex(self) -> str:
        """The formulas as a LaTeX ``cases`` environment for each input; names for what long ones share before them.

        Numbers that have no short fraction are written to five digits; ``regions`` and ``named`` hold them exactly.
        """
        parts = []
        if self._long:
            lines = [f"{sympy.latex(name)} &= {sympy.latex(e)} \\\\" for name, e in self._definitions()]
            parts.append("\\begin{aligned}\n" + "\n".join(lines) + "\n\\end{aligned}")
        # as the table has it: one line for each region
        heads = ["f", *(f"R_{{{sympy.latex(symbol)}}}" for symbol in self.symbols)]
        parts += [self._cases(head, [row[k] for row in self._cells]) for k, head in enumerate(heads)]
        return "\n".join(parts)

    def _cases(self, name: str, expressions: Sequence[Any]) -> str:
        lines = [
            f"{sympy.latex(e)} & {sympy.latex(rounded(region.condition))} \\\\"
            for e, region in zip(expressions, self.regions, strict=True)
        ]
        return f"{name} = \\begin{{cases}}\n" + "\n".join(lines) + "\n\\end{cases}"

    def _repr_latex_(self) -> str:
        text = self.latex().replace("\n", " ")
        for end in ("\\end{cases} ", "\\end{aligned} "):
            text = text.replace(end, end.strip() + "$$\n$$")
        return f"$${text}$$"

    def _repr_html_(self) -> str:
        head = ["where", "f", *(f"R({s.name})" for s in self.symbols)]
        rows = [
            [drawn(cell) for cell in (rounded(region.condition), *row)]
            for region, row in zip(self.regions, self._cells, strict=True)
        ]
        shown = as_table(self._title, head, rows, ready=True)
        if not self._long:
            return shown
        names = [[drawn(name), drawn(e)] for name, e in self._definitions()]
        return shown + as_table(f"with, numbers to {DIGITS} digits", ["name", "stands for"], names, ready=True)

    def to_frame(self, kind: str = "numpy") -> Any:
        """One row for each region: condition, output and relevances as text."""
        from backlight.tables import frame_like

        names = ["condition", "output", *(f"R({s.name})" for s in self.symbols)]
        columns: dict[str, list[str]] = {name: [] for name in names}
        for region in self.regions:
            cells = [said(region.condition), said(region.output), *(said(r) for r in region.relevance)]
            for name, cell in zip(columns, cells, strict=True):
                columns[name].append(cell)
        return frame_like({name: np.array(cells, dtype=object) for name, cells in columns.items()}, kind)

    @property
    def plot(self) -> DerivationPlots:
        """``plot.phase(gamma=[…])``: which input is named most relevant, over the plane of two inputs."""
        return DerivationPlots(self)

    def __repr__(self) -> str:
        head = ["where", "f", *(f"R({s.name})" for s in self.symbols)]
        cells = [
            [said(cell) for cell in (rounded(region.condition), *row)]
            for region, row in zip(self.regions, self._cells, strict=True)
        ]
        if self._long:
            return self._listed(head, cells)
        lines = [head, *cells]
        widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
        shown = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([self._title, *shown])

    @property
    def _title(self) -> str:
        return f"{self.rule}, assuming {self.assume}" if self.assume else self.rule

    def _listed(self, head: list[str], cells: list[list[str]]) -> str:
        """Long formulas: names first, then a few lines for each region."""
        lines = [f"{self._title}; numbers to {DIGITS} digits, exact in .regions and .named", "with"]
        lines += [f"  {name} = {said(e)}" for name, e in self._definitions()]
        for where, *row in cells:
            lines.append(f"where {where}")
            lines += [f"  {name} = {cell}" for name, cell in zip(head[1:], row, strict=True)]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class DerivationPlots:
    """``derivation.plot``."""

    derivation: Derivation

    @checked
    def phase(
        self, *, low: float = 0.0, high: float = 3.0, resolution: int = 201, axes: Any = None, **parameter: Any
    ) -> Any:
        """The share of the first of two inputs, over their plane, one picture for each value of the parameter.

        Parameters
        ----------
        low, high : float
            Of both inputs.
        resolution : int
            Points on each axis.
        axes : array of matplotlib axes, optional
        **parameter : sequence of float
            The rule's parameter by name, such as ``gamma=[0.05, 0.25, 1]``; others by one number each.

        Returns
        -------
        array of axes
            Red where the first input has more than half of the absolute relevance, blue where the second has; the line
            between is where both have the same.
        """
        found = self.derivation
        if not (math.isfinite(low) and math.isfinite(high) and low < high and 1 < resolution <= 4096):
            raise ArgumentError(
                f"a picture goes from low to a higher high in 2 to 4096 points: low={low}, high={high}, "
                f"resolution={resolution}"
            )
        names = [symbol.name for symbol in found.symbols]
        return draw_phase(found.evaluate, names, parameter, float(low), float(high), resolution, axes)


@checked
def derive(
    network: nn.Module,
    rule: str | Rule = "gamma",
    *,
    assume: DomainLike = "nonnegative",
    target: int = 0,
    feature_names: Sequence[str] | None = None,
    kinks: bool | None = None,
    limit: int = _REGIONS,
    X: RowsLike = None,
) -> Derivation:
    """The relevance of a small network as formulas, one for each linear region.

    Parameters
    ----------
    network : torch.nn.Module
        Layers with weights, relu, leaky relu, abs, maxima, minima, max pooling, slices, joins, sums and means, of a few
        inputs. Weights are taken as the exact binary fractions that they are.
    rule : str or Rule, default "gamma"
        ``"zero"``, ``"epsilon"`` (relative, see `backlight.rules`), ``"epsilon-absolute"``, ``"gamma"``,
        ``"alphabeta"``, ``"zplus"``, with the parameters left open; or a rule of `backlight.rules` with its numbers.
        For all layers.
    assume : "nonnegative", "all", Box(low, high) or SymPy inequalities, default "nonnegative"
        Where the inputs lie. Regions are given on the interior of that; `Derivation.at` also knows the boundary.
    target : int
        The output unit.
    feature_names : sequence of str, optional
        By default a1, a2, …
    kinks : bool, optional
        Also the places where a unit is exactly at its kink: ties. By default for networks of at most six units.
    limit : int
        Of regions.
    X : array, optional
        A row, where the shape of the input cannot be told from the network.

    Returns
    -------
    Derivation
        Prints as a table; ``regions``, ``at(a1=…, gamma=…)``, ``evaluate(X)``, ``latex()``, ``plot.phase()``.

    Raises
    ------
    UnsupportedOperator, UnsupportedModel, ArgumentError

    Examples
    --------
    >>> import backlight
    >>> print(backlight.derive(backlight.examples.min_networks().i, "zplus"))
    LRP-z⁺, assuming a1 > 0, a2 > 0
    where    f   R(a1)  R(a2)
    a1 > a2  a2  a2     0
    a1 < a2  a1  a1     0
    a1 = a2  a1  a1     0
    """
    made = formula(rule)
    exact = program(network, X)
    positive = isinstance(assume, str) and assume in ("nonnegative", "positive")
    symbols = tuple(names_of(exact.dimension, feature_names, positive=positive))
    start = domain_cut(assume, exact.dimension, symbols)
    if not isinstance(target, numbers.Integral) or not 0 <= target < exact.sizes[-1]:
        raise ArgumentError(f"target={shown(target)} is no output: the network has {exact.sizes[-1]}")
    kinks = exact.units <= _KINKS if kinks is None else kinks
    found = [
        _region(exact, piece, symbols, made, target, start)
        for piece in pieces(exact, start, kinks=kinks, limit=limit, open_signs=_open_signs(made))
    ]
    found.sort(key=lambda region: -region.dimension)
    assumed = ", ".join(said(relation(f, symbols)) for f in start.positive)
    return Derivation(symbols, made.parameters, tuple(_merged(found)), made.title, assumed, exact, made, target)


def _open_signs(made: Formula) -> Any:
    """The signs that the rule needs beside those of the kinks."""
    if not made.signs:
        return None

    def needed(network: Program, k: int, values: list[list[Affine]]) -> list[tuple[Any, Affine]]:
        step = network.instructions[k]
        found: list[tuple[Any, Affine]] = []
        for n, layer in enumerate(step.layers):
            if not layer.weighted:
                continue
            given = values[layer.source]
            found += [(("input", layer.source, j), f) for j, f in enumerate(given)]
            for unit, row in enumerate(layer.weight):
                total: Affine = (Fraction(0),) * len(given[0])
                for w, f in zip(row, given, strict=True):
                    total = added(total, tuple(w * c for c in f))
                if layer.bias is not None:
                    total = (*total[:-1], total[-1] + layer.bias[unit])
                found.append((("z", k, n, unit), total))
        return found

    return needed


def _region(
    network: Program, piece: Piece, symbols: tuple[sympy.Symbol, ...], made: Formula, target: int, start: Cut
) -> Region:
    raw = relevances(network, piece.values, piece.signs, symbols, made, target)
    output = expression_of(piece.values[-1][target], symbols)
    dimension = len(symbols) - rank(piece.cut.zero)
    return Region(condition(piece.cut, start, symbols), dimension, output, tuple(raw), piece, symbols)


def _merged(regions: list[Region]) -> list[Region]:
    """Without the kinks that nothing shows: those where the regions on both sides have the same formulas."""
    full = [region for region in regions if not region.piece.cut.zero]
    kept = list(full)
    for region in regions:
        if region.piece.cut.zero:
            point = region.piece.cut.point
            beside = [other for other in full if all(at(f, point) >= 0 for f in other.piece.cut.positive)]
            formulas = {(other.output, *other.relevance) for other in beside}
            there = (region.output, *region.raw)
            same = len(formulas) == 1 and all(
                sympy.simplify((a - b).subs(region.substitution)) == 0
                for a, b in zip(there, next(iter(formulas)), strict=True)
            )
            if not same:
                kept.append(region)
    return kept
