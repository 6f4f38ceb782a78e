"""The columns that come out of a stream of explanations, known before the first row is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backlight._version import __version__
from backlight.attribution.requested import Targets
from backlight.batches.sources import arrow
from backlight.errors import ArgumentError, ColumnsError, DataError
from backlight.explanation import Explanation
from backlight.models import Model
from backlight.models.network import NetworkModel

__all__ = ["Layout", "layout_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What the columns of a batch are.

    Attributes
    ----------
    schema : pyarrow.Schema
        ``row``, ``score``, ``base``, one column a feature, then ``target`` where the predicted output is explained and
        ``reasons`` where they are asked for. With several targets score, base and features are there for each,
        ``name[target]``.
    features, targets : tuple of str
        ``targets`` is empty where there is one.
    outputs : tuple of str
        The names of the outputs that a predicted one is chosen from; empty where none is.
    top : int
        How many features the reasons name.
    """

    schema: Any
    features: tuple[str, ...]
    targets: tuple[str, ...]
    outputs: tuple[str, ...]
    top: int

    def batch(self, ex: Explanation, ids: Any) -> Any:
        """A record batch of one explanation.

        Raises
        ------
        DataError
            When it has other features or targets than the schema.
        """
        if ex.feature_names != self.features or ex.values.ndim != (3 if self.targets else 2):
            raise DataError(f"a batch has other features than the first ({len(ex.feature_names)}): give equal columns")
        values, output, base = ex.values, np.asarray(ex.output), ex.base_values
        if not self.targets:
            values, output, base = values[..., None], output[:, None], base[:, None]
        columns: list[Any] = [ids]
        for k in range(output.shape[1]):
            columns += [np.ascontiguousarray(part[:, k]) for part in (output, base)]
            columns += [np.ascontiguousarray(values[:, j, k]) for j in range(values.shape[1])]
        if self.outputs:
            names = np.array(self.outputs, dtype=object)
            columns.append(names[np.asarray(ex.annotations["target"], dtype=np.int64)])
        if self.top:
            columns.append(_reasons(ex, self.top))
        typed = [arrow().array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
        return arrow().RecordBatch.from_arrays(typed, schema=self.schema)


def _reasons(ex: Explanation, top: int) -> list[str]:
    return [", ".join(f"{name} {value:+.4g}" for name, value in row if value) for row in ex.top(top)]


def layout_of(
    model: Model, targets: Targets, names: Sequence[str], named: bool, top: int | None, id_type: Any, id_name: str
) -> Layout:
    """What a model's explanations of columns look like.

    Parameters
    ----------
    names : sequence of str
        The columns as they will be given to the model.
    named : bool
        Whether these are the user's own names.

    Raises
    ------
    ArgumentError, ColumnsError
    """
    if any(item.labels is not None for item in targets.items):
        raise ArgumentError("target is one index a row, and batches have no rows in common: give one for all, or 'all'")
    if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
        raise ArgumentError(f"top must be a positive number of features, not {top!r}")
    if top is not None and targets.several:
        raise ArgumentError("top names the features of one score: leave it out, or choose one target")
    pyarrow = arrow()
    features = tuple(names)
    several: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()
    if isinstance(model, NetworkModel):
        front, outputs = model.network.front, model.network.score.outputs
        if len(names) != len(front.names) and not (front.named and named):
            raise ColumnsError(f"there are {len(names)} columns, and the model takes {len(front.names)}: name columns=")
        features = front.names if front.named or not named else features
        items = outputs.targets(targets)
        if targets.several:
            several = tuple(outputs.name(item) or model.network.score.name for item in items)
        elif outputs.names and items[0].predicted:
            chosen = outputs.names
    elif targets.several:
        several = tuple(item.name for item in targets.items)
        if not several or len(set(several)) < len(several):
            raise ArgumentError("several targets of a torch module need a list of different outputs, not 'all'")
    taken = {*features}
    own = [name if name not in taken else f"backlight_{name}" for name in ("score", "base", "target", "reasons")]
    fields = [pyarrow.field(id_name if id_name not in taken else f"backlight_{id_name}", id_type)]
    for target in several or ("",):
        tail = f"[{target}]" if target else ""
        fields += [pyarrow.field(f"{name}{tail}", pyarrow.float64()) for name in (*own[:2], *features)]
    fields += [pyarrow.field(own[2], pyarrow.string())] * bool(chosen)
    fields += [pyarrow.field(own[3], pyarrow.string())] * bool(top)
    said = {"backlight": json.dumps({"version": __version__, "model": model.kind})}
    return Layout(pyarrow.schema(fields, said), features, several, chosen, top or 0)
