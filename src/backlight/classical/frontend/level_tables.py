"""A category's numbers, looked up once, level by level: the library is given rows that differ in that column alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from backlight.classical.frontend.features import Features
from backlight.classical.frontend.preprocessing import level_code
from backlight.classical.frontend.transformers import Lookup
from backlight.errors import require

__all__ = ["levels_of", "looked_up"]

_UNSEEN = "backlight: a level that was not seen"


def levels_of(step: Any, names: list[str]) -> dict[int, list[Any]]:
    """The levels that each encoded column was fitted on."""
    inner = getattr(step, "ordinal_encoder", step)
    if hasattr(step, "base_n_encoder"):
        inner = step.base_n_encoder.ordinal_encoder
    mapped = getattr(inner, "category_mapping", None)
    if mapped is None and isinstance(getattr(inner, "mapping", None), list):
        mapped = inner.mapping
    found: dict[str, Any] = {}
    if mapped is not None:
        found = {one["col"]: list(getattr(one["mapping"], "index", one["mapping"])) for one in mapped}
    elif isinstance(getattr(inner, "mapping", None), dict):
        found = {column: list(series.index) for column, series in inner.mapping.items()}
    elif hasattr(step, "encoder_dict_"):
        found = {column: list(seen) for column, seen in step.encoder_dict_.items()}
    return {names.index(str(column)): seen for column, seen in found.items()}


def looked_up(
    step: Any, features: Features, names: list[str], source: np.ndarray, levels: dict[int, list[Any]]
) -> Features:
    """Tables of every encoded column, and the numbers beside them as they are."""
    pandas = require("pandas", "test", "a transformer of data frames")
    usual = {k: (_present(levels[k])[0] if k in levels else 0.0) for k in range(len(names))}
    tables: list[tuple[int, list[float], list[float], float | None]] = []
    order, passed, place = [], [], 0
    read: dict[int, tuple[list[Any], np.ndarray, np.ndarray | None]] = {}
    for k, seen in levels.items():
        known = _present(seen)
        probe = pandas.DataFrame([{**usual, k: level} for level in known]).reindex(columns=range(len(names)))
        probe.columns = names
        numbers = np.asarray(step.transform(probe), dtype=float)
        unseen = pandas.DataFrame([{**usual, k: _UNSEEN}]).reindex(columns=range(len(names)))
        unseen.columns = names
        try:
            other = np.asarray(step.transform(unseen), dtype=float)[0]
        except Exception:  # the library refuses what it has not seen, and so does the table
            other = None
        read[k] = (known, numbers, other)
    for j, k in enumerate(source.tolist()):
        if k not in levels:
            passed.append(k)
            order.append(("passed", len(passed) - 1))
            continue
        known, numbers, other = read[k]
        codes = [level_code(level, int(features.owner[k]), features) for level in known]
        fallback = None if other is None or not np.isfinite(other[j]) else float(other[j])
        tables.append((k, codes, numbers[:, j].tolist(), fallback))
        order.append(("table", place))
        place += 1
    encoded = features.then(Lookup(tables, type(step).__name__), features.owner[source[np.isin(source, list(levels))]])
    blocks = [encoded] + ([features.pick(np.array(passed))] if passed else [])
    whole = Features.side_by_side(blocks, features.vocabulary)
    return whole.pick(np.array([at if kind == "table" else place + at for kind, at in order]))


def _present(levels: list[Any]) -> list[Any]:
    """Levels that are no mark of something missing."""
    kept = [level for level in levels if not (level is None or level != level or _is_mark(level))]
    return kept or levels


def _is_mark(level: Any) -> bool:
    """Whether a level is one of the negative numbers that stand for something unknown or missing."""
    return isinstance(level, float | int) and level in (-1, -2)
