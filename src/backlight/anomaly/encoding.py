"""How cells become numbers that can be compared: one transform a column, chosen from its reference rows and named.

Numbers are centred at their median and scaled by a spread that a few anomalies cannot move. A column whose tails are
heavier than a Gaussian's is compressed by arsinh, which is linear near the centre and a logarithm far from it
("log"); the others by the same curve with four times the reach, so that one absurd value cannot hide all others.
Categories become one indicator a level: two of them are then √2 apart, as far as two typical numbers are on average.
A number that is missing somewhere has a second coordinate that says so. Values are shown to people as they were
written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Encoder", "Transform", "fit_encoder"]

# A Gaussian's 1 % and 99 % quantiles lie 3.45 times as far from its median as its quartiles.
_HEAVY = 4.0
_REACH = {"linear": 4.0, "log": 1.0}
# Reference rows may be alike in a column: a spread below this share of the robust one is not believed.
_LEAST_SPREAD = 0.05
# Where half of the rows have one value, another value is rare rather than far away: a typical one lies at most 3 away.
_LEAST_OF_HABIT = 1 / 3


@dataclass(frozen=True, slots=True)
class Transform:
    """z = (reach · arsinh((x − center) / (spread · reach)) − mean) / deviation.

    ``name`` is "log" or "linear"; ``filled`` says whether the column has a coordinate for missing cells.
    """

    name: str
    center: float
    spread: float
    mean: float
    deviation: float

    def __call__(self, cells: np.ndarray) -> np.ndarray:
        """Encode cells, (n,); missing ones become the mean, 0."""
        reach = _REACH[self.name]
        out = (reach * np.arcsinh((cells - self.center) / (self.spread * reach)) - self.mean) / self.deviation
        return np.where(np.isnan(cells), 0.0, out)

    def undo(self, z: np.ndarray) -> np.ndarray:
        """The cells that have these codes."""
        reach = _REACH[self.name]
        return np.asarray(self.center + self.spread * reach * np.sinh((z * self.deviation + self.mean) / reach))


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """Codes of all columns.

    Attributes
    ----------
    transforms : tuple of Transform or None
        One a column; None for a category.
    sizes : tuple of int
        How many levels a category has; 0 for a number.
    gaps : tuple of bool
        Whether a column has a coordinate that says that a cell is missing.
    column_of : array of int of shape (p,)
        Which column each coordinate belongs to.
    """

    transforms: tuple[Transform | None, ...]
    sizes: tuple[int, ...]
    gaps: tuple[bool, ...]
    column_of: np.ndarray

    @property
    def d(self) -> int:
        """Number of columns."""
        return len(self.sizes)

    def __call__(self, coded: np.ndarray) -> np.ndarray:
        """Encode rows of shape (n, d) as (n, p)."""
        out = np.zeros((len(coded), len(self.column_of)))
        at = 0
        for j, (transform, size, gap) in enumerate(zip(self.transforms, self.sizes, self.gaps, strict=True)):
            cells = coded[:, j]
            missing = np.isnan(cells)
            if transform is not None:
                out[:, at] = transform(cells)
                at += 1
            else:
                known = np.flatnonzero(~missing & (cells >= 0) & (cells < size))
                out[known, at + cells[known].astype(int)] = 1.0
                at += size
            if gap:
                out[missing, at] = 1.0
                at += 1
        return out

    def by_column(self, values: np.ndarray) -> np.ndarray:
        """Sum coordinates, (n, p), over the columns that they belong to, (n, d)."""
        if len(self.column_of) == self.d:
            return values
        out = np.zeros((len(values), self.d))
        np.add.at(out.T, self.column_of, values.T)
        return out


def fit_encoder(
    reference: np.ndarray, usual: np.ndarray, names: Sequence[str], levels: Mapping[str, Sequence[str]],
    missing: np.ndarray,
) -> Encoder:  # fmt: skip
    """Choose every column's transform.

    Parameters
    ----------
    reference : array of shape (m, d)
        Rows that the spread is taken from, robustly.
    usual : array of shape (r, d)
        Those of them that are not themselves unusual: a coordinate has mean 0 and deviation 1 over them.
    missing : array of bool of shape (d,)
        Which columns have missing cells anywhere.
    """
    quantiles = _quantiles(reference)
    transforms: list[Transform | None] = []
    sizes, owner = [], []
    for j, name in enumerate(names):
        size = len(levels.get(name, ()))
        transforms.append(None if size else _transform(reference[:, j], usual[:, j], quantiles[:, j]))
        sizes.append(size)
        owner += [j] * ((size or 1) + bool(missing[j]))
    return Encoder(tuple(transforms), tuple(sizes), tuple(bool(m) for m in missing), np.array(owner))


_LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def _quantiles(rows: np.ndarray) -> np.ndarray:
    """The quantiles that transforms are chosen by, (7, d); NaN for a column without cells."""
    out = np.full((len(_LEVELS), rows.shape[1]), np.nan)
    gaps = np.isnan(rows)
    whole = ~gaps.any(0)
    out[:, whole] = np.quantile(rows[:, whole], _LEVELS, axis=0)
    for j in np.flatnonzero(~whole & ~gaps.all(0)):
        out[:, j] = np.quantile(rows[~gaps[:, j], j], _LEVELS)
    return out


def _transform(cells: np.ndarray, usual: np.ndarray, quantiles: np.ndarray) -> Transform:
    least, low, left, center, right, high, most = (float(q) for q in quantiles)
    if np.isnan(center):
        return Transform("linear", 0.0, 1.0, 0.0, 1.0)
    spread = _spread(cells, center, right - left, high - low)
    core = max(right - center, center - left)
    tail = max(most - center, center - least)
    name = "log" if tail > _HEAVY * (core if core > 0 else spread) else "linear"
    raw = Transform(name, center, spread, 0.0, 1.0)
    here = usual[~np.isnan(usual)]
    codes = raw(here if len(here) else cells[~np.isnan(cells)])
    least = _LEAST_SPREAD if right > left else _LEAST_OF_HABIT
    return Transform(name, center, spread, float(codes.mean()), max(float(codes.std()), least))


def _spread(cells: np.ndarray, center: float, quartiles: float, wide: float) -> float:
    """A standard deviation that a few anomalies cannot move: of the quartiles; where those agree, of less and less."""
    if quartiles > 0:
        return quartiles / 1.349
    if wide > 0:
        return wide / 3.290
    others = np.abs(cells[~np.isnan(cells) & (cells != center)] - center)
    return float(np.median(others)) if len(others) else 1.0
