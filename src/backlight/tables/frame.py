"""Any table in memory, read once into one plain shape."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from narwhals.exceptions import DuplicateError

from backlight.arguments import shown
from backlight.errors import ArgumentError, ColumnsError, DataError, MissingDependency, listed

__all__ = ["Frame", "Unreadable", "as_frame", "frame_like", "is_installed", "is_missing"]


# Milliseconds from 1970 within which the libraries know zones: the years 2 to 3938. Beyond, moments stay in UTC.
_WITH_ZONES = 6.21e13
# Numbers that a sparse table may become when it is made dense: four gigabytes of them.
_DENSE = 1 << 29
_TWICE = "column names occur twice: {}: rename them"


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A table in memory: named columns, each a typed array.

    Object columns keep None and NaN apart: scikit-learn's imputers and encoders do.

    Attributes
    ----------
    names : tuple of str, length d
    columns : tuple of arrays of shape (n,)
        float64 where the column holds numbers or booleans (missing is NaN), datetime64 or timedelta64 where it holds
        moments or durations (missing is NaT; moments are wall-clock times, without their zone), otherwise object.
    kind : str
        "numpy", "torch", "scipy" or the data frame library that it came from.
    named : bool
        Whether the names are the user's own; otherwise they are ``x0, x1, …`` as in scikit-learn.
    labels : array of shape (n,), optional
        What the user calls the rows (a pandas index), where that is more than their position.
    source : narwhals.DataFrame, optional
        The data frame itself, where it came as one.
    notes : tuple of str
        What was decided while a file was read, in sentences.
    whole : array of shape (n, d), optional
        The columns side by side, where they are views of one array of numbers; read only.
    """

    names: tuple[str, ...]
    columns: tuple[np.ndarray, ...]
    kind: str
    named: bool
    labels: np.ndarray | None = None
    empty_rows: int = 0
    source: Any = None
    notes: tuple[str, ...] = ()
    whole: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.columns[0]) if self.columns else self.empty_rows

    def column(self, name: str) -> np.ndarray:
        """One column by its name."""
        return self.columns[self.names.index(name)]

    def select(self, names: Sequence[str]) -> Frame:
        """Only these columns, in this order."""
        columns = tuple(self.column(n) for n in names)
        return Frame(tuple(names), columns, self.kind, self.named, self.labels, len(self), None, self.notes)

    def take(self, rows: Any) -> Frame:
        """Only these rows: a slice, a mask or positions."""
        columns = tuple(column[rows] for column in self.columns)
        labels = None if self.labels is None else self.labels[rows]
        count = len(np.empty(self.empty_rows, dtype=np.int8)[rows]) if not columns else 0
        whole = None if self.whole is None else self.whole[rows]
        return Frame(self.names, columns, self.kind, self.named, labels, count, None, self.notes, whole)

    def matrix(self) -> np.ndarray:
        """All columns side by side, (n, d): float64 if every column is numeric, otherwise object."""
        dtype = np.float64 if all(c.dtype == np.float64 for c in self.columns) else object
        out = np.empty((len(self), len(self.names)), dtype=dtype)
        for j, column in enumerate(self.columns):
            out[:, j] = _cells(column) if column.dtype.kind in "Mm" else column
        return out


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A cell of a kind that nothing here computes with (a list, bytes): named by its type, never copied."""

    type: str

    def __str__(self) -> str:
        return f"({self.type})"


def _cells(times: np.ndarray) -> np.ndarray:
    """Moments and durations as Python's own objects, as text where Python's cannot hold them, None where missing."""
    out = np.empty(len(times), dtype=object)
    for i, (value, gone) in enumerate(zip(times, np.isnat(times), strict=True)):
        held = None if gone else value.item()
        out[i] = str(value) if isinstance(held, int) else held
    return out


def as_frame(X: Any, names: Sequence[str] | None = None) -> Frame:
    """Read a table of any kind.

    Parameters
    ----------
    X : array-like of shape (n, d)
        NumPy array, nested list, torch tensor, scipy sparse matrix, or anything that narwhals reads (pandas,
        polars, pyarrow, modin, cuDF). Sparse matrices become dense: their relevance is dense as well.
    names : sequence of str, optional
        Column names for data that carry none.

    Raises
    ------
    DataError
        When it is no table: a single row or column, more than two axes, or an unknown type.
    """
    if isinstance(X, Frame):
        return X
    module = type(X).__module__.partition(".")[0]
    if module == "torch" and hasattr(X, "detach"):
        return _from_array(X.detach().cpu().numpy(), "torch", names)
    if module == "scipy" and hasattr(X, "toarray"):
        n, d = X.shape if len(X.shape) == 2 else (0, 0)
        if n * d > _DENSE:
            raise DataError(
                f"a sparse table of {n:,} rows and {d:,} columns is {n * d / 1e9:.1f} billion numbers, and its "
                f"relevance is dense: give at most {_DENSE // d:,} rows at once"
            )
        return _from_array(X.toarray(), "scipy", names)
    if isinstance(X, np.ndarray | list | tuple):
        return _from_array(_array_of(X), "numpy", names)
    try:
        native = nw.from_native(X, eager_only=True, pass_through=True)
    except DuplicateError as error:
        twice = [name for name, count in Counter(map(str, X.columns)).items() if count > 1]
        raise ColumnsError(_TWICE.format(listed(twice))) from error
    if isinstance(native, nw.DataFrame):
        return _from_dataframe(native)
    if hasattr(X, "iloc") or isinstance(nw.from_native(X, series_only=True, pass_through=True), nw.Series):
        raise DataError("a series is one row or one column, not a table: a row is df.iloc[[0]] or df.loc[[label]]")
    if isinstance(X, dict):
        raise DataError("a dictionary is no table: pandas.DataFrame([row]) is a table of one row")
    raise DataError(
        f"cannot read a table from {type(X).__module__}.{type(X).__name__}: "
        "give a NumPy array, a pandas, polars or pyarrow table, a scipy sparse matrix or a torch tensor"
    )


def _array_of(X: Any) -> np.ndarray:
    if isinstance(X, list) and X and isinstance(X[0], dict):
        raise DataError("a list of dictionaries is no table: pandas.DataFrame(rows) makes one of it")
    if isinstance(X, np.ma.MaskedArray) and np.ma.is_masked(X):  # what is under the mask is no value
        plain = np.array(X.data, dtype=float if X.dtype.kind in "fiub" else object)
        plain[np.ma.getmaskarray(X)] = np.nan if plain.dtype == float else None
        return plain
    try:
        return np.asarray(X)
    except ValueError as error:
        raise DataError(f"the rows of the data have different lengths ({error}): give a rectangular table") from error


def _from_array(array: np.ndarray, kind: str, names: Sequence[str] | None) -> Frame:
    if array.ndim != 2:
        hint = "a single row is X.reshape(1, -1)" if array.ndim == 1 else "one row a sample, one column a feature"
        raise DataError(f"the data must have two axes (rows, columns), not shape {array.shape}: {hint}")
    d = array.shape[1]
    if names is not None and len(names) != d:
        raise ColumnsError(f"{len(names)} feature names for {d} columns: give one name a column")
    labels = tuple(names) if names is not None else tuple(f"x{j}" for j in range(d))
    whole = None
    if array.dtype.kind in "fiub":
        whole = np.array(array, dtype=np.float64, order="C")  # the user's array may change while a result is kept
        columns = tuple(whole.T)
    elif array.dtype.kind in "Mm":
        columns = tuple(array[:, j] for j in range(d))
    elif array.dtype.kind in "OUS":
        columns = tuple(_plain(array[:, j].tolist()) for j in range(d))
    else:
        raise DataError(f"cannot read numbers of type {array.dtype}: convert them to float64")
    return Frame(labels, columns, kind, names is not None, None, len(array), whole=whole)


def _from_dataframe(frame: nw.DataFrame[Any]) -> Frame:
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ColumnsError(_TWICE.format(listed(twice)))
    columns = tuple(_series(frame.get_column(name), str(name)) for name in frame.columns)
    kind = str(frame.implementation.value if hasattr(frame.implementation, "value") else frame.implementation)
    labels = None
    if frame.implementation.is_pandas_like():
        index = frame.to_native().index
        if type(index).__name__ != "RangeIndex" or index.start != 0 or index.step != 1:
            labels = np.asarray(index)
    return Frame(tuple(names), columns, kind, True, labels, len(frame), frame)


def _series(series: nw.Series[Any], name: str) -> np.ndarray:
    """One column of a data frame, typed."""
    dtype = series.dtype
    if dtype.is_nested() or dtype in (nw.Binary, nw.Unknown):
        return _unreadable(len(series), str(dtype.base_type()).rpartition(".")[2].strip("'>").lower())
    try:
        if dtype.is_numeric() or dtype == nw.Boolean:
            return _floats(series)
        if dtype in (nw.Datetime, nw.Date, nw.Duration):
            return _times(series)
        return _plain(series.to_list())
    except Exception as error:
        # The one boundary to the table libraries: what they raise on values that their own types can hold, but that
        # Python or NumPy cannot, is theirs to choose.
        raise DataError(f"column {name!r} ({dtype}) cannot be read: {' '.join(str(error).split())[:120]}") from error


def _unreadable(n: int, kind: str) -> np.ndarray:
    out = np.empty(n, dtype=object)
    out[:] = Unreadable(kind)
    return out


def _floats(series: nw.Series[Any]) -> np.ndarray:
    """Numbers and booleans as float64, the nearest to whole numbers beyond 2⁵³ and to decimals."""
    native = series.to_native()
    if "pyarrow" in f"{type(native).__module__} {getattr(native, 'dtype', '')}":
        # Arrow's own cast refuses what float64 cannot hold exactly.
        return np.array(series.to_arrow().cast("float64", safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    return np.array(series.cast(nw.Float64()).to_numpy(), dtype=np.float64)


def _times(series: nw.Series[Any]) -> np.ndarray:
    """Moments as datetime64 (the clock on the wall where there is a zone), durations as timedelta64."""
    if isinstance(series.dtype, nw.Datetime) and series.dtype.time_zone is not None:
        since = np.asarray(series.dt.timestamp("ms").to_numpy(), dtype=np.float64)
        if np.nanmax(np.abs(since), initial=0) > _WITH_ZONES:
            return np.where(np.isnan(since), np.iinfo(np.int64).min, since).astype(np.int64).astype("datetime64[ms]")
        series = series.dt.replace_time_zone(None)
    values = np.asarray(series.to_numpy())
    if values.dtype.kind in "Mm":
        return values
    unit = {nw.Date: "datetime64[D]", nw.Duration: "timedelta64[us]"}.get(series.dtype.base_type(), "datetime64[us]")
    gone = [v is None or v != v for v in values]
    return np.array([None if g else v for v, g in zip(values, gone, strict=True)], dtype=unit)


def _plain(values: list[Any]) -> np.ndarray:
    """Turn a list into float64 where every cell is a number, a boolean or missing; otherwise into objects.

    Equal texts become one object, so that a column of categories holds each of them once.
    """
    missing = [is_missing(v) for v in values]
    present = [v for v, gone in zip(values, missing, strict=True) if not gone]
    if present and all(isinstance(v, bool | int | float | np.number | np.bool_) for v in present):
        return np.array([np.nan if gone else _float(v) for v, gone in zip(values, missing, strict=True)])
    if not present:
        return np.full(len(values), np.nan)
    known: dict[str, str] = {}
    out = np.empty(len(values), dtype=object)
    for i, (value, gone) in enumerate(zip(values, missing, strict=True)):
        if isinstance(value, str):
            value = known.setdefault(value, value)
        out[i] = None if value is None else float("nan") if gone else value
    return out


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def is_missing(value: Any) -> bool:
    """Whether a cell is None, NaN, NaT or pandas' NA."""
    if value is None or isinstance(value, str):
        return value is None
    if isinstance(value, float | np.floating | np.datetime64 | np.timedelta64):
        return bool(value != value)
    return type(value).__name__ in ("NAType", "NaTType") or (type(value).__name__ == "Decimal" and value.is_nan())


def frame_like(columns: dict[str, np.ndarray], kind: str, labels: np.ndarray | None = None) -> Any:
    """Build a data frame of the given kind; for arrays, of the first data frame library that is installed."""
    library: Any = kind
    if not isinstance(kind, str) or kind not in ("pandas", "polars", "pyarrow", "modin", "cudf"):
        if not isinstance(kind, str) or kind not in ("numpy", "torch", "scipy", "file"):
            raise ArgumentError(f"{shown(kind)} is no kind of data frame: choose 'pandas', 'polars' or 'pyarrow'")
        library = next((name for name in ("pandas", "polars", "pyarrow") if is_installed(name)), "")
        if not library:
            raise MissingDependency(
                "a data frame needs pandas, polars or pyarrow, and none is installed: pip install pyarrow"
            )
    clean = {name: _listed_if_object(column) for name, column in columns.items()}
    native = nw.from_dict(clean, backend=library).to_native()
    if labels is not None and library in ("pandas", "modin"):
        native.index = labels
    return native


def _listed_if_object(column: np.ndarray) -> Any:
    return column.tolist() if column.dtype == object else column


def is_installed(name: str) -> bool:
    """Whether a library can be imported, without importing it."""
    from importlib.util import find_spec

    return sys.modules[name] is not None if name in sys.modules else find_spec(name) is not None
