r"""The protocol of a prior.

:math:`\Omega(x)`, one number a row; for a density :math:`-\log p(x)` with its normaliser. Priors add and scale:
``Gaussian.fit(X) + 0.1 * TotalVariation()``.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from backlight.errors import ArgumentError, DataError, listed
from backlight.tables import as_frame, frame_like

__all__ = [
    "Prior",
    "Sum",
    "Whitening",
    "array",
    "axes_of",
    "holds_text",
    "knowing_columns",
    "names_columns",
    "one_row",
    "ordinary",
    "rows_of",
    "table_of",
]


Fit = TypeVar("Fit", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    r"""x = mean + L z, in which a quadratic prior is :math:`\Omega = \tfrac12\lVert z\rVert^2 + \text{constant}`.

    Attributes
    ----------
    mean : (d,)
    factor : (d, k), or (d,) for a diagonal L
    constant : float
    """

    mean: Tensor
    factor: Tensor
    constant: float = 0.0

    @property
    def width(self) -> int:
        """k, how many numbers z has."""
        return int(self.factor.shape[-1])

    def decode(self, z: Tensor) -> Tensor:
        """Shape (n, k) to (n, d)."""
        return self.mean + (z * self.factor if self.factor.ndim == 1 else z @ self.factor.T)

    def encode(self, x: Tensor) -> Tensor:
        """The z whose x is nearest, (n, d) to (n, k)."""
        delta = x - self.mean
        if self.factor.ndim == 1:
            return torch.where(self.factor != 0, delta / torch.where(self.factor != 0, self.factor, 1.0), 0.0)
        found: Tensor = torch.linalg.lstsq(self.factor, delta.T, driver="gelsd").solution.T
        return found

    def matrix(self) -> np.ndarray:
        """L as an array (d, k)."""
        L = np.asarray(self.factor)
        return np.diag(L) if L.ndim == 1 else L

    @property
    def diagonal(self) -> bool:
        """Whether the prior takes columns one by one."""
        return self.factor.ndim == 1

    def scaled(self, strength: float) -> Whitening:
        """The same for strength · Ω."""
        return Whitening(self.mean, self.factor / math.sqrt(strength), self.constant * strength)


# of weights and strengths: the squares of such numbers, and of their reciprocals, are numbers still
_LEAST = 1e-100


class Prior(ABC):
    """How implausible an input is.

    Attributes
    ----------
    name : str
        For tables and plots.
    on_code : bool
        Whether it counts the code z where the space has one, and not the input x.
    dimension : int, optional
        How many numbers an input has, where the prior knows.
    shape : tuple of int, optional
        The axes of an input, where the prior was made from inputs of several.
    columns : tuple of str, optional
        Of the table that it was fitted on.
    """

    name: str = ""
    on_code: bool = False
    columns: tuple[str, ...] | None = None
    dimension: int | None = None
    shape: tuple[int, ...] | None = None

    @abstractmethod
    def energy(self, x: Tensor) -> Tensor:
        """Ω of each row, (n, *shape) to (n,); differentiable."""

    def whitening(self) -> Whitening | None:
        """The coordinates in which the prior is ½‖z‖², where it is a quadratic form."""
        return None

    def spread(self) -> Whitening | None:
        """Coordinates in which the prior is about round, for the optimiser."""
        return self.whitening()

    def draw(self, n: int, generator: torch.Generator) -> Tensor | None:
        """Samples (n, d), where the prior can be drawn from."""
        return None

    def located(self, encode: Callable[[Any], Tensor], groups: Sequence[Sequence[int]]) -> Prior:
        """The prior among a model's inputs: ``encode`` makes them of rows, of each of ``groups`` one column is 1."""
        return self

    def parameters(self) -> dict[str, Any]:
        """What was learnt, for the file of a result."""
        return {}

    def check_columns(self, names: Sequence[str]) -> None:
        """Refuse a prior of the same columns in another order, or of others, than those of an input."""
        known = self.columns
        if known is None or known == tuple(names) or not set(known) & set(names):
            return
        order = "the same columns in another order" if set(known) == set(names) else "other columns"
        raise DataError(
            f"{self.name} was fitted on {order} ({listed(known, 6)}) than the model's ({listed(names, 6)}): fit it on "
            "the table that the model takes"
        )

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse inputs of another size than the prior's."""
        size = math.prod(shape)
        if self.dimension is not None and self.dimension != size:
            raise DataError(
                f"{self.name} is a prior for {self.dimension} numbers, but an input has {size} (shape {shape}): "
                "fit the prior on inputs of the model's own shape"
            )

    def __add__(self, other: Prior) -> Prior:
        return Sum([(1.0, self), (1.0, other)]) if isinstance(other, Prior) else NotImplemented

    def __mul__(self, weight: float) -> Prior:
        return Sum([(float(weight), self)])

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return f"priors.{self.name or type(self).__name__}"


class Sum(Prior):
    """A weighted sum of priors."""

    def __init__(self, parts: Sequence[tuple[float, Prior]]) -> None:
        self.parts: list[tuple[float, Prior]]
        flat: list[tuple[float, Prior]] = []
        for weight, prior in parts:
            if not math.isfinite(weight) or weight < 0:
                raise ArgumentError(f"the weight of {prior!r} is {weight}: weights of priors are numbers ≥ 0")
            flat += [(weight * w, p) for w, p in prior.parts] if isinstance(prior, Sum) else [(weight, prior)]
        self.parts = flat
        self.name = " + ".join(p.name if w == 1 else f"{w:g} · {p.name}" for w, p in flat)
        codes = {p.on_code for _, p in flat if p.name}
        self.on_code = codes == {True}
        sizes = {p.dimension for _, p in flat if p.dimension is not None}
        if len(sizes) > 1:
            raise ArgumentError(f"priors for {sorted(sizes)} numbers cannot be added: {self.name}")
        self.dimension = next(iter(sizes), None)
        self.shape = next((p.shape for _, p in flat if p.shape is not None), None)

    def check_columns(self, names: Sequence[str]) -> None:
        """See `Prior.check_columns`."""
        for _, prior in self.parts:
            prior.check_columns(names)

    def located(self, encode: Callable[[Any], Tensor], groups: Sequence[Sequence[int]]) -> Prior:
        """See `Prior.located`."""
        return Sum([(weight, prior.located(encode, groups)) for weight, prior in self.parts])

    def energy(self, x: Tensor) -> Tensor:
        """See `Prior.energy`."""
        total = self.parts[0][0] * self.parts[0][1].energy(x)
        for weight, prior in self.parts[1:]:
            total = total + weight * prior.energy(x)
        return total

    def whitening(self) -> Whitening | None:
        """See `Prior.whitening`: of one quadratic part, scaled."""
        if len(self.parts) == 1 and self.parts[0][0] > 0:
            weight, prior = self.parts[0]
            own = prior.whitening()
            return None if own is None else own.scaled(weight)
        return None

    def spread(self) -> Whitening | None:
        """See `Prior.spread`: the first part's that has one."""
        return next((found for _, p in self.parts if (found := p.spread()) is not None), None)

    def draw(self, n: int, generator: torch.Generator) -> Tensor | None:
        """See `Prior.draw`: from the first part that can be drawn from."""
        return next((found for _, p in self.parts if (found := p.draw(n, generator)) is not None), None)

    def parameters(self) -> dict[str, Any]:
        """See `Prior.parameters`."""
        return {f"{i}.{k}": v for i, (_, p) in enumerate(self.parts) for k, v in p.parameters().items()}


def ordinary(value: Any, what: str, why: str = "") -> float:
    """A positive number whose square and reciprocal are numbers too.

    Raises
    ------
    ArgumentError
        Anything else, with ``why``.
    """
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool | np.bool_)
    if not (number and _LEAST <= value <= 1 / _LEAST):
        said = f": {why}" if why else ""
        raise ArgumentError(f"{what}={value!r} must be a number from {_LEAST:g} to {1 / _LEAST:g}{said}")
    return float(value)


def axes_of(X: Any) -> tuple[int, ...] | None:
    """The axes of one row, where there are several."""
    return tuple(int(n) for n in X.shape[1:]) if isinstance(X, Tensor | np.ndarray) and X.ndim > 2 else None


def array(value: Any, what: str, ndim: int | None = None) -> Tensor:
    """A finite float64 tensor of the user's numbers."""
    try:
        plain = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        found = torch.as_tensor(np.array(plain, dtype=float))
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{what} must hold numbers: {error}") from error
    if ndim is not None and found.ndim != ndim:
        raise ArgumentError(f"{what} must have {ndim} axes, not the shape {tuple(found.shape)}")
    if not bool(torch.isfinite(found).all()):
        raise DataError(f"{what} holds NaN or infinite numbers: replace or drop them first")
    return found


def table_of(row: Any) -> Any:
    """A row as a table of one, where it names its columns: a mapping, or a series of a data frame."""
    if isinstance(row, Mapping):
        return frame_like({name: np.array([value]) for name, value in row.items()}, "numpy")
    if hasattr(row, "to_frame") and np.ndim(row) == 1 and all(isinstance(name, str) for name in row.index):
        return frame_like({name: np.array([value]) for name, value in row.items()}, "numpy")
    if isinstance(row, list | tuple | np.ndarray) and holds_text(row) and np.asarray(row, dtype=object).ndim == 1:
        return np.array(row, dtype=object)[None]
    return row


def knowing_columns(fit: Fit) -> Fit:
    """A prior's ``fit(cls, X, …)`` that keeps the names of the columns of a table, for `Prior.check_columns`."""

    @functools.wraps(fit)
    def fitted(cls: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        prior = fit(cls, X, *args, **kwargs)
        frame = as_frame(X) if names_columns(X) else None
        prior.columns = frame.names if frame is not None and frame.named else None
        return prior

    return fitted  # type: ignore[return-value]


def names_columns(X: Any) -> bool:
    """Whether rows come as a table, whose columns a model may know by name."""
    return X is not None and not isinstance(X, Tensor | np.ndarray | list | tuple) and np.ndim(X) != 1


def holds_text(X: Any) -> bool:
    """Whether rows hold categories or words, which only a model can make numbers of."""
    if X is None or isinstance(X, Tensor):
        return False
    if isinstance(X, np.ndarray | list | tuple):
        given = np.asarray(X, dtype=object).ravel()
        return any(isinstance(value, str) for value in given.tolist())
    columns = as_frame(X).columns
    return any(isinstance(value, str) for column in columns if column.dtype == object for value in column[:64])


def one_row(rows: Tensor) -> Tensor:
    """The only row of an encoded table.

    Raises
    ------
    ArgumentError
    """
    if len(rows) != 1:
        raise ArgumentError(f"the centre is one row of a table, not {len(rows)}: give X.iloc[[i]], a mapping or a list")
    return rows[0].double().flatten()


def rows_of(X: Any, what: str = "data") -> Tensor:
    """Rows of any table or tensor as float64, (n, d): other axes are flattened."""
    if isinstance(X, Tensor | np.ndarray) and X.ndim != 2:
        found = array(X, what)
        if found.ndim < 2:
            raise DataError(f"{what} must have rows: an array of shape (n, d), not {tuple(found.shape)}")
        return found.flatten(1)
    found = array(X, what) if isinstance(X, Tensor | np.ndarray) else array(as_frame(X).matrix(), what)
    if len(found) < 1:
        raise DataError(f"{what} has no rows")
    return found
