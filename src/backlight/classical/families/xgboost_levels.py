"""The categories of a model of XGBoost, as its JSON holds them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from backlight.classical.frontend.native_frames import Levels
from backlight.errors import UnsupportedOption

__all__ = ["levels_of", "sets_of"]


def levels_of(learner: dict[str, Any], model: dict[str, Any], name: str) -> Levels:
    """The levels of the columns of categories; of those that were given as codes, how many of them any tree names."""
    columns = [column for column, kind in enumerate(learner.get("feature_types", [])) if kind == "c"]
    if not columns:
        return {}
    each = model.get("cats", {}).get("enc", [])
    levels: dict[int, Any] = {}
    for column in columns:
        found = each[column] if column < len(each) else {}
        values = found.get("values", [])
        if "offsets" in found and values:  # texts, one after the other
            if min(values) < 0 or max(values) > 127:
                raise UnsupportedOption(
                    f"{name} has categories in column {column} that are not ASCII, of which XGBoost keeps cut pieces: "
                    "rename them before fitting"
                )
            text, ends = bytes(values).decode("ascii"), found["offsets"]
            levels[column] = [text[a:b] for a, b in pairwise(ends)]
        else:
            levels[column] = list(values) or _named(model, column)
    return levels


def _named(model: dict[str, Any], column: int) -> int:
    """One more than the largest code that any tree names in a column."""
    most = -1
    for tree in model["trees"]:
        for node, start, size in sets_of(tree):
            if tree["split_indices"][node] == column:
                most = max(most, *tree["categories"][start : start + size])
    return most + 1


def sets_of(tree: dict[str, Any]) -> Iterator[tuple[int, int, int]]:
    """Nodes that look at categories, and where theirs stand."""
    return zip(tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True)
