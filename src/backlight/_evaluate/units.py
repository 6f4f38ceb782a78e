"""What is taken away together: columns, groups of columns, pixels, patches, superpixels, tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.arguments import numbers_in
from backlight.errors import ArgumentError, NameNotFound

__all__ = ["Units", "units_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """A partition of the features.

    Attributes
    ----------
    index : Tensor of shape (1 or n, *features)
        The unit of each feature; for superpixels another partition each row.
    count : int
    kind : str
    names : tuple of str
        Empty where units have none.
    """

    index: Tensor
    count: int
    kind: str
    names: tuple[str, ...] = ()

    def total(self, values: Tensor) -> Tensor:
        """Σ of values (n, *features) within each unit, (n, count)."""
        flat = self.index.expand_as(values).flatten(1)
        return torch.zeros(len(values), self.count, dtype=values.dtype).scatter_add_(1, flat, values.flatten(1))

    def features(self, rows: Tensor, keep: Tensor) -> Tensor:
        """Which features are kept, (m, *features), where units are kept, (m, count), for rows by position."""
        index = self.index[rows] if len(self.index) > 1 else self.index.expand(len(rows), *self.index.shape[1:])
        return torch.gather(keep, 1, index.flatten(1)).view(index.shape)


def units_of(given: Any, shape: tuple[int, ...], names: Sequence[str], n: int) -> Units:
    """Read the ``units`` argument of `backlight.evaluate`.

    Parameters
    ----------
    given : "auto", "feature", "pixel", "token", int, mapping or sequence of groups, or array of int
        Pixels have their channels together, an int is the side of a patch, "token" a position along the first axis.
        Groups hold names or positions of columns; those in no group stand alone. An array of shape ``features`` or
        (n, *features) numbers the unit of each feature, for instance superpixels.
    shape : of one row
    names : of the features of a table
    n : how many rows there are

    Raises
    ------
    ArgumentError
    """
    if isinstance(given, str):
        if given == "auto":
            given = "pixel" if len(shape) == 3 else "feature"
        if given == "feature":
            count = int(np.prod(shape))
            known = tuple(names) if len(names) == count else ()
            return Units(torch.arange(count).view(1, *shape), count, "feature", known)
        if given == "pixel":
            given = 1
        elif given == "token":
            index = torch.arange(shape[0]).view(1, -1, *(1,) * (len(shape) - 1)).expand(1, *shape)
            return Units(index.contiguous(), shape[0], "token")
        else:
            raise ArgumentError(
                f"units={given!r} is not known: give 'feature', 'pixel', 'token', a patch's side or groups"
            )
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        return _patches(int(given), shape)
    if isinstance(given, Mapping):
        if not all(isinstance(group, list | tuple) for group in given.values()):
            raise ArgumentError("units= as a dict must have a list of columns for each name")
        return _groups(list(given.values()), tuple(str(k) for k in given), shape, names)
    if isinstance(given, list) and given and isinstance(given[0], list | tuple):
        return _groups(given, (), shape, names)
    index = torch.as_tensor(numbers_in(given, "units"))
    if index.is_floating_point() or index.shape not in (shape, (n, *shape)):
        raise ArgumentError(
            f"units must be whole numbers of shape {shape} or {(n, *shape)}, not {index.dtype} of {tuple(index.shape)}"
        )
    index = torch.unique(index, return_inverse=True)[1].view(1 if index.shape == shape else n, *shape)
    return Units(index, int(index.max()) + 1, "group")


def _patches(side: int, shape: tuple[int, ...]) -> Units:
    if len(shape) != 3:
        raise ArgumentError(f"patches are for pictures of shape (channels, height, width), not {shape}")
    if side < 1:
        raise ArgumentError(f"a patch's side must be at least 1, not {side}")
    down, across = (torch.arange(size) // side for size in shape[1:])
    wide = int(across.max()) + 1
    index = (down[:, None] * wide + across).expand(1, *shape).contiguous()
    return Units(index, int(index.max()) + 1, "pixel" if side == 1 else f"patch of {side} × {side}")


def _groups(groups: list[Any], titles: tuple[str, ...], shape: tuple[int, ...], names: Sequence[str]) -> Units:
    if len(shape) != 1:
        raise ArgumentError("groups of columns are for tables: give an array of whole numbers for other inputs")
    index = np.full(shape, -1)
    for number, group in enumerate(groups):
        for member in group:
            at = _position(member, shape[0], names)
            if index[at] >= 0:
                raise ArgumentError(f"column {member!r} is in two groups")
            index[at] = number
    alone = np.flatnonzero(index < 0)
    index[alone] = len(groups) + np.arange(len(alone))
    known = tuple(names) if len(names) == shape[0] else tuple(f"x{j}" for j in range(shape[0]))
    titles = titles or tuple(" + ".join(str(m) for m in group) for group in groups)
    return Units(torch.as_tensor(index)[None], len(groups) + len(alone), "group", (*titles, *(known[j] for j in alone)))


def _position(member: Any, width: int, names: Sequence[str]) -> int:
    if isinstance(member, str):
        if member not in names:
            raise NameNotFound(f"no column {member!r} to put into a group")
        return list(names).index(member)
    if not 0 <= int(member) < width:
        raise ArgumentError(f"column {member!r} of a group is out of range: there are {width}")
    return int(member)
