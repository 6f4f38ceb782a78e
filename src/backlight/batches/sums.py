"""`sum_batches`: what is asked of all rows at once, from sums that each batch adds to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backlight._explain import Explainer
from backlight.arguments import checked, shown
from backlight.batches.carriers import TrainingRows, training_rows_of
from backlight.batches.explain import BATCH_ROWS, Run
from backlight.batches.opening import open_rows
from backlight.batches.sources import arrow, column_of
from backlight.errors import ArgumentError, DataError, listed
from backlight.explanation import Explanation
from backlight.hints import ModelLike, RowsLike
from backlight.models.explained import reporter
from backlight.tables import frame_like

__all__ = ["ContributionSums", "sum_batches"]

_GROUPS = 100_000
_PERIODS = ("year", "quarter", "month", "week", "day", "hour")
_SUMS = ("rows", "score", "base", "contributions", "absolute", "squares")


@dataclass(frozen=True, slots=True, eq=False)
class ContributionSums:
    """Sums over rows, for each group; those of parts of a table add up: ``first + second``.

    Attributes
    ----------
    groups : tuple
        What each line is of, in order of its first row: a value, or a tuple of them for several columns. One group
        ``None`` where nothing was asked for.
    names : tuple of str
        The features.
    by : tuple of str
        The columns that the groups are values of.
    rows : (G,) array of int
    score, base : (G,) array
        Sums.
    contributions, absolute, squares : (G, features) array
        ``Σ R``, ``Σ |R|`` and ``Σ R²``.
    training_rows : (G, M, features) array, optional
        How much of Σ R goes through each training row that the model keeps.
    anchors : (M, K) array, optional
        These training rows, as the model itself sees them: behind scalers and encoders.
    """

    groups: tuple[Hashable, ...]
    names: tuple[str, ...]
    by: tuple[str, ...]
    rows: np.ndarray
    score: np.ndarray
    base: np.ndarray
    contributions: np.ndarray
    absolute: np.ndarray
    squares: np.ndarray
    training_rows: np.ndarray | None = None
    anchors: np.ndarray | None = None

    @property
    def mean(self) -> np.ndarray:
        """Mean contribution, (G, features)."""
        return np.asarray(self.contributions / self.rows[:, None])

    @property
    def mean_absolute(self) -> np.ndarray:
        """Mean size of the contribution, (G, features): what is known as importance."""
        return np.asarray(self.absolute / self.rows[:, None])

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation of the contribution within each group, (G, features)."""
        return np.asarray(np.sqrt(np.maximum(self.squares / self.rows[:, None] - self.mean**2, 0.0)))

    def __add__(self, other: ContributionSums) -> ContributionSums:
        """The sums over the rows of both.

        Raises
        ------
        ArgumentError
            When they are sums of other features, or over other groups.
        """
        if (self.names, self.by) != (other.names, other.by):
            raise ArgumentError("these are sums of different features or groups: add sums of one question")
        if (self.training_rows is None) != (other.training_rows is None):
            raise ArgumentError("one of these has sums for training rows and the other has not: ask for the same")
        groups = tuple(dict.fromkeys((*self.groups, *other.groups)))
        place = {group: k for k, group in enumerate(groups)}

        def added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            out = np.zeros((len(groups), *a.shape[1:]), dtype=a.dtype)
            out[[place[group] for group in self.groups]] += a
            out[[place[group] for group in other.groups]] += b
            return out

        kept = [*_SUMS, *([] if self.training_rows is None else ["training_rows"])]
        sums: dict[str, Any] = {name: added(getattr(self, name), getattr(other, name)) for name in kept}
        return replace(self, groups=groups, **sums)

    def to_frame(self, kind: str = "numpy") -> Any:
        """One line a group: its values, ``rows``, and the means of ``score``, ``base`` and each contribution.

        A pandas, polars or pyarrow table: of that ``kind``, or the first that is installed.
        """
        keys: list[Any] = [group if len(self.by) > 1 else (group,) for group in self.groups]
        columns = {f"by {name}": np.array([key[k] for key in keys], dtype=object) for k, name in enumerate(self.by)}
        columns |= {"rows": self.rows, "score": self.score / self.rows, "base": self.base / self.rows}
        taken = {name if name not in columns else f"{name} (feature)": k for k, name in enumerate(self.names)}
        mean = self.mean
        return frame_like({**columns, **{name: mean[:, k] for name, k in taken.items()}}, kind, None)


@checked
def sum_batches(
    explainer: ModelLike,
    source: RowsLike,
    *,
    by: str | Sequence[str] | None = None,
    period: str | None = None,
    training_rows: bool = False,
    columns: Sequence[str] | None = None,
    batch_rows: int = BATCH_ROWS,
    progress: Callable[[int, int], None] | bool | None = None,
) -> ContributionSums:
    """Answer questions about all rows of a table in one pass over it, however long it is.

    Mean contribution and importance of each column, for each value of other columns, for each month; and which training
    rows carry the score of a group. What is kept are sums: memory does not grow with the rows.

    Parameters
    ----------
    explainer : Explainer
        Or a model that one is made of; of one target.
    source : as `explain_batches` takes
    by : str or sequence of str, optional
        Columns whose values are the groups. They may be columns of the model too.
    period : {"year", "quarter", "month", "week", "day", "hour"}, optional
        Dates among ``by`` are cut down to the start of their period. Texts that are dates are read as dates.
    training_rows : bool
        Sum as well what goes through each training row that the model keeps (support vectors, rows of a kernel
        density): Σ over rows of the summand that this training row has in each column's contribution. They add up to
        ``contributions``, but for models that compare with the usual (an `UnsupportedModel` says so).
    columns, batch_rows, progress : as of `explain_batches`

    Returns
    -------
    ContributionSums

    Raises
    ------
    ArgumentError, ColumnsError, DataError, FileError, UnsupportedModel

    Examples
    --------
    >>> import pyarrow as pa
    >>> from sklearn.linear_model import LinearRegression
    >>> import backlight
    >>> table = pa.table({"a": [0.0, 1.0, 2.0, 3.0], "shop": ["x", "y", "x", "y"]})
    >>> model = LinearRegression().fit(table.select(["a"]).to_pandas(), [0.0, 2.0, 4.0, 6.0])
    >>> found = backlight.sum_batches(model, table, by="shop")
    >>> found.groups, found.mean.round(9).tolist()
    (('x', 'y'), [[2.0], [4.0]])
    """
    if period is not None and (period not in _PERIODS or by is None):
        raise ArgumentError(
            f"period={period!r} cuts dates of by= down to one of {listed(_PERIODS)}: name such a column"
        )
    if not isinstance(explainer, Explainer):
        explainer = Explainer(explainer)
    if explainer.targets.several:
        raise ArgumentError("sums are of one target: make the Explainer with target= one of them")
    keys = () if by is None else (by,) if isinstance(by, str) else tuple(by)
    run = Run(explainer, open_rows(source), columns, None, None, batch_rows, reporter(progress), keys)
    carriers = training_rows_of(*run.opened, explainer.targets) if training_rows else None
    total: ContributionSums | None = None
    done = 0
    for table in run.read(0):
        inner = run.inner(table)
        if not hasattr(inner, "shape"):
            raise DataError(f"a batch of the source must be a table, not {shown(inner)}")
        labels = _labels(table, keys, period)
        part = _sums(explainer(inner), labels, keys, carriers, inner)
        total = part if total is None else total + part
        if len(total.groups) > _GROUPS:
            raise DataError(
                f"more than {_GROUPS:,} groups by {listed(keys)}: choose a column of fewer values, or period="
            )
        done += len(labels)
        run.report(done, max(done, run.source.rows or 0))
    if total is None:
        raise DataError("there are no rows: nothing can be summed")
    return total


def _labels(table: Any, keys: Sequence[str], period: str | None) -> list[Hashable]:
    """The group of each row."""
    if not keys:
        return [None] * int(table.shape[0])
    columns = [_cut(column_of(table, key), key, period) for key in keys]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _cut(column: Any, key: str, period: str | None) -> list[Hashable]:
    """Values of a column; NaN is none, and dates are cut down to a period."""
    pyarrow = arrow()
    types, compute = pyarrow.types, pyarrow.compute
    if period is not None:
        if types.is_string(column.type) or types.is_large_string(column.type) or types.is_string_view(column.type):
            try:
                column = compute.cast(column, pyarrow.timestamp("us"))
            except pyarrow.ArrowInvalid as error:
                raise DataError(
                    f"column {key!r} has texts that are no dates: leave period= out, or give dates"
                ) from error
        if types.is_temporal(column.type) and not types.is_time(column.type):
            column = compute.floor_temporal(column, unit=period)
            if period != "hour":
                column = compute.cast(column, pyarrow.date32())
    return [None if value != value else value for value in column.to_pylist()]


def _sums(
    ex: Explanation, labels: Sequence[Hashable], keys: tuple[str, ...], carriers: TrainingRows | None, table: Any
) -> ContributionSums:
    groups = tuple(dict.fromkeys(labels))
    place = {group: k for k, group in enumerate(groups)}
    codes = np.array([place[label] for label in labels], dtype=np.int64)

    def summed(array: np.ndarray) -> np.ndarray:
        out = np.zeros((len(groups), *array.shape[1:]))
        np.add.at(out, codes, array)
        return out

    values, count = ex.values, np.bincount(codes, minlength=len(groups))
    through = None if carriers is None else carriers.sums(table, codes, len(groups))
    output = np.asarray(ex.output)
    return ContributionSums(
        groups, ex.feature_names, keys, count, summed(output), summed(ex.base_values),
        summed(values), summed(np.abs(values)), summed(values**2), through,
        None if carriers is None else carriers.anchors,
    )  # fmt: skip
