"""What signatures call the things that users hand over: one name for each, as libraries of arrays say ``ArrayLike``.

Frames, estimators and explanations of other libraries are recognised by what they do, not by their class, so that to a
type checker each of these is any object; the docstrings say what is taken.

``ModelLike``         a fitted estimator or pipeline, a torch module, an exported program, what `neuralize` returned
``RowsLike``          a table (NumPy, pandas, polars, pyarrow, scipy sparse), a tensor, or batches of them
``TargetLike``        an index, a name, one index a row, a direction, a function of the output, a list of these, "all"
``RulesLike``         the name of a preset or rule, a rule, a `Composite`
``ReferenceLike``     a `Reference`, its name, rows, a point, a number
``LayersLike``        names or patterns of layers
``OutputLike``        a name or position of an output, or a function of what a module returns
``DeviceLike``        a torch device or its name
``BoundsLike``        a pair of ends, a mapping of columns to such pairs, or "data"
``ExplanationsLike``  explanations or methods by name, a list of methods
``DomainLike``        where a function is looked at: "nonnegative", a box
``FrameLike``         a table of the kind that came in
"""

from __future__ import annotations

import types
from typing import Any, TypeAlias

__all__ = [
    "BoundsLike", "DeviceLike", "DomainLike", "ExplanationsLike", "FrameLike", "LayersLike", "ModelLike", "OutputLike",
    "ReferenceLike", "RowsLike", "RulesLike", "TargetLike",
    "readable",
]  # fmt: skip

ModelLike: TypeAlias = Any
RowsLike: TypeAlias = Any
TargetLike: TypeAlias = Any
RulesLike: TypeAlias = Any
ReferenceLike: TypeAlias = Any
LayersLike: TypeAlias = Any
OutputLike: TypeAlias = Any
DeviceLike: TypeAlias = Any
BoundsLike: TypeAlias = Any
ExplanationsLike: TypeAlias = Any
DomainLike: TypeAlias = Any
FrameLike: TypeAlias = Any


class Hint(str):
    """An annotation that prints as it is written, and is resolved as the string that it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def readable(thing: Any) -> None:
    """Let the signatures of a function, or of a class's own public methods, print types instead of quoted strings.

    Before Python 3.14 ``help`` shows an annotation that is not evaluated as a string in quotes.
    """
    for function in _functions(thing):
        written = function.__annotations__
        function.__annotations__ = {name: Hint(hint) if type(hint) is str else hint for name, hint in written.items()}
    if isinstance(thing, types.FunctionType):
        # where a user finds it
        thing.__module__ = "backlight"


def _functions(thing: Any) -> list[Any]:
    if isinstance(thing, types.FunctionType):
        return _with_wrapped(thing)
    found: list[Any] = []
    for base in (thing if isinstance(thing, type) else type(thing)).__mro__:
        if base.__module__.partition(".")[0] != "backlight":
            continue
        for value in vars(base).values():
            if isinstance(value, staticmethod | classmethod):
                value = value.__func__
            elif isinstance(value, property):
                value = value.fget
            found += _with_wrapped(value)
    return found


def _with_wrapped(value: Any) -> list[Any]:
    """A signature is that of the innermost function."""
    found = []
    while isinstance(value, types.FunctionType):
        found.append(value)
        value = getattr(value, "__wrapped__", None)
    return found
