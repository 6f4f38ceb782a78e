"""What an explanation holds: its arrays and names, their slices and sums. It knows no plot, page or file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from backlight.arguments import checked, numbers_in, shown
from backlight.errors import ArgumentError, NameNotFound, listed, require
from backlight.explanation.ledger import Ledger
from backlight.hints import FrameLike
from backlight.tables import frame_like

__all__ = ["ExplanationData"]


class Output(np.ndarray):
    """The explained scores; called with a name, the explanation of that output alone: ``ex.output("fraud")``."""

    owner: ExplanationData | None

    def __array_finalize__(self, obj: object) -> None:
        self.owner = None

    def __call__(self, name: str) -> Any:
        if self.owner is None:
            raise NameNotFound(f"no output {name!r} on a derived array: call ex.output({name!r}) on the explanation")
        return self.owner._select_output(name)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ExplanationData:
    """What an `Explanation` holds, how it is sliced and read; how it is shown and stored is told there."""

    values: np.ndarray
    output: np.ndarray
    base_values: np.ndarray
    data: np.ndarray | None = None
    feature_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    target: str = ""
    method: str = "lrp"
    dims: tuple[str, ...] = ("row", "feature")
    provenance: Mapping[str, Any] = field(default_factory=dict)
    ledger: Ledger | None = None
    annotations: Mapping[str, np.ndarray] = field(default_factory=dict)
    layers: Mapping[str, np.ndarray] = field(default_factory=dict)
    labels: np.ndarray | None = None
    kind: str = "numpy"

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("values", "output", "base_values"):
            put(self, name, _frozen(np.asarray(getattr(self, name), dtype=np.float64)))
        output = self.output.view(Output)
        output.owner = self
        put(self, "output", output)
        if self.values.ndim < 2:
            raise ArgumentError(f"values must have a row axis and a feature axis, not shape {self.values.shape}")
        if self.output.shape != self.base_values.shape or len(self.output) != len(self.values):
            raise ArgumentError(
                f"values {self.values.shape}, output {self.output.shape} and base_values {self.base_values.shape} "
                "must agree in their rows and targets"
            )
        if self.output.ndim == 2 and self.output.shape[1] != self.values.shape[-1]:
            raise ArgumentError(
                f"{self.output.shape[1]} targets in output, {self.values.shape[-1]} on the last axis of values"
            )
        names = tuple(self.feature_names)
        if not names and self._tabular:
            names = tuple(f"x{j}" for j in range(self.values.shape[1]))
        if self._tabular and len(names) != self.values.shape[1]:
            raise ArgumentError(f"{len(names)} feature names for {self.values.shape[1]} features")
        put(self, "feature_names", names)
        put(self, "output_names", tuple(self.output_names))
        put(self, "dims", tuple(self.dims))
        put(self, "data", None if self.data is None else _frozen(np.asarray(self.data)))
        put(self, "provenance", MappingProxyType(dict(self.provenance)))
        for name in ("annotations", "layers"):
            put(self, name, MappingProxyType({k: _frozen(np.asarray(v)) for k, v in getattr(self, name).items()}))

    def __reduce__(self) -> tuple[Any, ...]:
        # the views that make it immutable do not travel; building it makes them anew
        held = {one.name: getattr(self, one.name) for one in fields(self)}
        plain = {name: dict(value) if isinstance(value, MappingProxyType) else value for name, value in held.items()}
        plain["output"] = np.asarray(plain["output"])
        return _built, (type(self), plain)

    @property
    def _tabular(self) -> bool:
        return self.values.ndim == (2 if self.output.ndim == 1 else 3)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``values``."""
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    @property
    def residual(self) -> np.ndarray:
        """``output − base_values − values.sum()``, like ``output``: what rules absorbed, and rounding."""
        axes = tuple(range(1, self.values.ndim - (self.output.ndim - 1)))
        return np.asarray(np.asarray(self.output) - self.base_values - self.values.sum(axis=axes))

    # -- slicing -------------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Self:
        if isinstance(key, tuple) and len(key) == 2:
            rows, features = key
            if not isinstance(features, str) and not (isinstance(features, list) and isinstance(features[0], str)):
                features = np.atleast_1d(np.array(self.feature_names, dtype=object)[features]).tolist()
            return (self if _is_everything(rows) else self[rows])._features(
                [features] if isinstance(features, str) else features
            )
        if isinstance(key, str):
            return self._features([key])
        if isinstance(key, list) and key and all(isinstance(name, str) for name in key):
            return self._features(key)
        return self._rows(key)

    def _rows(self, key: Any) -> Self:
        if isinstance(key, int | np.integer):
            n = len(self)
            if not -n <= key < n:
                raise IndexError(f"row {key} of an explanation of {n} rows")
            key = slice(int(key) % n, int(key) % n + 1)
        else:
            key = key if isinstance(key, slice) else np.asarray(key)
        return replace(
            self,
            values=self.values[key],
            output=self.output[key],
            base_values=self.base_values[key],
            data=None if self.data is None else self.data[key],
            ledger=None if self.ledger is None else self.ledger[key],
            annotations={name: value[key] for name, value in self.annotations.items()},
            layers={name: value[key] for name, value in self.layers.items()},
            labels=None if self.labels is None else self.labels[key],
        )

    def _features(self, names: Sequence[str]) -> Self:
        """Some features; the relevance of the others moves into ``base_values``, so that the sum still holds."""
        if not self._tabular:
            raise NameNotFound(f"features of shape {self.values.shape[1:]} have no names: slice ex.values")
        unknown = [name for name in names if name not in self.feature_names]
        if unknown:
            raise NameNotFound(f"no feature {unknown[0]!r}: the features are {listed(self.feature_names)}")
        keep = [self.feature_names.index(name) for name in names]
        gone = np.setdiff1d(np.arange(len(self.feature_names)), keep)
        d = len(self.feature_names)
        return replace(
            self,
            values=self.values[:, keep],
            base_values=self.base_values + self.values[:, gone].sum(axis=1),
            data=None if self.data is None else self.data[:, keep],
            feature_names=tuple(names),
            annotations={k: v[:, keep] if v.ndim > 1 and v.shape[1] == d else v for k, v in self.annotations.items()},
        )

    def _select_output(self, name: str) -> Self:
        """Only the target of this name."""
        if name not in self.output_names:
            raise NameNotFound(f"no output {name!r}: the outputs are {listed(self.output_names) or 'not named'}")
        k = self.output_names.index(name)
        if self.output.ndim == 1:
            return self
        return replace(
            self,
            values=self.values[..., k],
            output=self.output[:, k],
            base_values=self.base_values[:, k],
            output_names=(name,),
            target=name,
            ledger=None if self.ledger is None else self.ledger.target(k),
            layers={layer: array[..., k] for layer, array in self.layers.items()},
        )

    # -- reading -------------------------------------------------------------------------------------------------------

    @checked
    def top(self, k: int = 3) -> list[list[tuple[str, float]]]:
        """The k features of largest absolute relevance, as (name, relevance), for each row."""
        if not self._tabular or self.output.ndim != 1:
            raise ArgumentError("top needs one relevance a feature: choose an output, or look at ex.values")
        order = np.argsort(-np.abs(self.values), axis=1, kind="stable")[:, :k]
        return [
            [(self.feature_names[j], float(row[j])) for j in best] for row, best in zip(self.values, order, strict=True)
        ]

    def heads(self) -> dict[str, np.ndarray]:
        """Relevance of each head of attention, by layer, (n, heads) or (n, heads, targets): of ``layers="heads"``.

        Raises
        ------
        ArgumentError
            No layer of ``layers`` has heads.
        """
        more = self.output.ndim - 1
        found = {name: flow.sum((2, 3)) for name, flow in self.layers.items() if flow.ndim == 4 + more}
        if not found:
            raise ArgumentError('there is no relevance of heads: explain with layers="heads"')
        return found

    def to_columns(self) -> dict[str, np.ndarray]:
        """Relevance of each feature, then output, base value and residual, as columns by name."""
        if not self._tabular or self.output.ndim != 1:
            raise ArgumentError("a table needs one relevance a feature: choose an output, or save as .safetensors")
        columns = {name: self.values[:, j] for j, name in enumerate(self.feature_names)}
        for name, column in (
            ("output", np.asarray(self.output)), ("base_value", self.base_values), ("residual", self.residual)
        ):  # fmt: skip
            columns[name if name not in columns else f"backlight_{name}"] = column
        return columns

    def to_frame(self) -> FrameLike:
        """The relevances as the kind of table that came in.

        One column a feature, then ``output``, ``base_value`` and ``residual``. For arrays: a pandas, polars or
        pyarrow table, the first that is installed.
        """
        return frame_like(self.to_columns(), self.kind, self.labels)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        pyarrow = require("pyarrow", "cli", "the Arrow stream of an explanation")
        table = pyarrow.table({name: np.ascontiguousarray(column) for name, column in self.to_columns().items()})
        return table.__arrow_c_stream__(requested_schema)

    def to_shap(self) -> Any:
        """A genuine `shap.Explanation`, for SHAP's plots."""
        shap = require("shap", "shap", "to_shap")
        return shap.Explanation(
            values=self.values.copy(),
            base_values=self.base_values.copy(),
            data=None if self.data is None else self.data.copy(),
            feature_names=list(self.feature_names) or None,
            output_names=list(self.output_names) if self.output.ndim > 1 else None,
        )


def _built(cls: type[ExplanationData], held: dict[str, Any]) -> ExplanationData:
    return cls(**held)


def _is_everything(key: Any) -> bool:
    return key is Ellipsis or (isinstance(key, slice) and key == slice(None))


def _frozen(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def chosen_rows(rows: Any, count: int, most: int) -> list[int]:
    """Which rows to draw: one, several, or the first ones.

    Raises
    ------
    ArgumentError
    """
    if rows is None:
        return list(range(min(count, most)))
    chosen = np.atleast_1d(numbers_in(rows, "rows"))
    if chosen.ndim > 1 or (chosen.size and chosen.dtype.kind not in "iu"):
        raise ArgumentError(f"rows are whole numbers, not {shown(rows)}")
    if ((chosen < -count) | (chosen >= count)).any():
        raise ArgumentError(
            f"row {int(chosen[(chosen < -count) | (chosen >= count)][0])} is out of range: there are {count}"
        )
    return [int(row) for row in chosen]
