"""What the arguments of public functions may be, by their names, so that a slip is one sentence and nothing is guessed.

A text such as ``strict="false"`` is true in Python, an array compared with a name is an array: what is not of its kind
never reaches the arithmetic.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
import os
import reprlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from typing import Any, ParamSpec, TypeVar, overload

import numpy as np

from backlight.errors import ArgumentError, BacklightError, UnknownArgument

__all__ = ["checked", "numbers_in", "shown", "users_code"]

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)


@dataclass(frozen=True, slots=True)
class Kind:
    """What values an argument takes.

    Attributes
    ----------
    said : str
        In words, as in "strict must be True or False".
    holds : callable
        Whether a value is one.
    """

    said: str
    holds: Callable[[Any], bool]


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not _is_flag(value)


def _is_number(value: Any) -> bool:
    if not isinstance(value, numbers.Real) or _is_flag(value):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _is_names(value: Any) -> bool:
    if isinstance(value, str | bytes | dict) or not isinstance(value, Iterable):
        return False
    return hasattr(value, "__len__") and all(isinstance(item, str) for item in value)


def _is_one(value: Any) -> bool:
    return not hasattr(value, "__array__") and not isinstance(value, numbers.Number | list | set | bytes)


def _is_several(value: Any) -> bool:
    if hasattr(value, "name"):
        return True
    several = isinstance(value, Iterable) and not hasattr(value, "__array__")
    return several and (not isinstance(value, list | tuple) or all(isinstance(item, Hashable) for item in value))


_FLAG = Kind("True or False", _is_flag)
_NAME = Kind("a name", lambda value: isinstance(value, str) and bool(value))
_PATH = Kind("the path of a file or folder", lambda value: isinstance(value, str | os.PathLike) and bool(str(value)))
_NAMES = Kind("a list of names", _is_names)
_SEED = Kind("a whole number from 0 to 2**63 − 1", lambda value: _is_whole(value) and 0 <= value < 2**63)
_COUNT = Kind("a whole number from 1 to 2**31 − 1", lambda value: _is_whole(value) and 1 <= value < 2**31)
_ONE = Kind("a name, or what backlight has under such names", _is_one)
_LAYERS = Kind(
    "a name of a layer, or a list of names",
    lambda value: isinstance(value, str | dict) or (isinstance(value, Iterable) and not hasattr(value, "__array__")),
)
_SEVERAL = Kind("a name, or a list of names", _is_several)

_KINDS = {
    **dict.fromkeys(("strict", "canonical", "force", "kinks", "training_rows"), _FLAG),
    **dict.fromkeys(("score", "exact", "optimizer", "dialect", "table", "key", "row_id", "period"), _NAME),
    **dict.fromkeys(("feature_names", "columns"), _NAMES),
    **dict.fromkeys(("restarts", "steps", "count", "limit", "top", "batch_rows", "shard_rows"), _COUNT),
    "method": Kind(
        "a name of a method, or a Method", lambda value: isinstance(value, str) or hasattr(value, "options")
    ),
    **dict.fromkeys(("rules", "rule", "prior", "space"), _ONE),
    **dict.fromkeys(("methods", "rewrites", "metrics"), _SEVERAL),
    **dict.fromkeys(("path", "sink"), _PATH),
    "by": Kind("a name, or a list of names", lambda value: isinstance(value, str) or _is_names(value)),
    "seed": _SEED,
    "layers": _LAYERS,
    "strength": Kind("a number", lambda value: _is_number(value) or (isinstance(value, float) and value > 0)),
    "tolerance": Kind("a finite number", _is_number),
    "constraints": Kind(
        "a list of backlight.constraints", lambda value: isinstance(value, Iterable) or is_dataclass(value)
    ),
    "progress": Kind("True, False or a function of (done, total)", lambda value: _is_flag(value) or callable(value)),
    "batch_size": Kind(
        "'auto' or a positive number of rows",
        lambda value: value == "auto" if isinstance(value, str) else _is_whole(value) and value > 0,
    ),
}


def shown(value: Any) -> str:
    """A value in an error's sentence: on one line, and short."""
    if hasattr(value, "__array__") and hasattr(value, "shape"):
        return f"an array of shape {tuple(value.shape)}"
    return " ".join(reprlib.repr(value).split())


def numbers_in(value: Any, said: str) -> np.ndarray:
    """An array of numbers or switches.

    Raises
    ------
    ArgumentError
        Begins with ``said``, what the argument is.
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{said} must be numbers in rows of one length, not {shown(value)}") from error
    if array.dtype.kind not in "fiub":
        raise ArgumentError(f"{said} must be numbers, not {shown(value)}")
    return array


@contextmanager
def users_code(says: str) -> Iterator[None]:
    """Whatever a function of the user's raises, as one sentence that names it.

    Raises
    ------
    ArgumentError
    """
    try:
        yield
    except BacklightError:
        raise
    # the user's own code may raise anything
    except Exception as error:
        said = str(error).partition("\n")[0][:100]
        raise ArgumentError(f"{says}: {type(error).__name__}" + (f": {said}" if said else "")) from error


# what a plain annotation says, where the name of an argument says no more
_TYPES = {
    "bool": _FLAG,
    "int": Kind("a whole number", _is_whole),
    "float": Kind("a number", lambda value: _is_number(value) or (isinstance(value, float) and not math.isnan(value))),
    "str": Kind("a text", lambda value: isinstance(value, str)),
    "Path": _PATH,
    "pathlib.Path": _PATH,
    "Sequence[str]": _NAMES,
    "None": Kind("None", lambda value: value is None),
}


def _annotated(annotation: Any) -> Kind | None:
    """What ``float | None`` and the like say; None where an annotation says more."""
    said = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    parts = [part.strip() for part in said.split("|")]
    if not set(parts) <= _TYPES.keys():
        return None
    kinds = [_TYPES[part] for part in parts]
    said = " or ".join(kind.said for kind, part in zip(kinds, parts, strict=True) if part != "None")
    return Kind(said, lambda value: any(kind.holds(value) for kind in kinds))


# what other libraries call what is meant here, the likelier first
_ELSEWHERE = {
    "background": ("reference",), "background_data": ("reference",), "baseline": ("reference",),
    "baselines": ("reference",), "masker": ("reference", "model"), "reference_inputs": ("reference",),
    "class_idx": ("target",), "class_index": ("target",), "class_": ("target",), "label": ("target",),
    "target_class": ("target",), "output_index": ("target",), "y": ("target",), "desired_class": ("target",),
    "model_output": ("score",), "link": ("score",), "function": ("score",),
    "composite": ("rules",), "rule": ("rules",), "canonizers": ("canonical",), "canonizer": ("canonical",),
    "algorithm": ("method",), "attributor": ("method",), "attribution": ("method",),
    "columns": ("feature_names",), "names": ("feature_names",), "layer": ("layers",), "layer_names": ("layers",),
    "data": ("X", "source"), "inputs": ("X",), "samples": ("X",), "input": ("X",), "x": ("X",),
    "estimator": ("model",), "net": ("model",), "network": ("model",), "clf": ("model",),
    "total_CFs": ("count",), "permitted_range": ("bounds",), "features_to_vary": ("constraints",),
    "random_state": ("seed",), "verbose": ("progress",), "metric": ("metrics",),
}  # fmt: skip


def _unknown(called: str, name: str, known: Sequence[str]) -> UnknownArgument:
    meant = [ours for ours in _ELSEWHERE.get(name, ()) if ours in known]
    meant = meant or difflib.get_close_matches(name, known, 1, 0.75)
    hint = f"here it is {meant[0]}=" if meant else f"it takes {', '.join(known)}"
    return UnknownArgument(f"{called} has no argument {name!r}: {hint}")


@overload
def checked(function: C) -> C: ...
@overload
def checked(function: Callable[P, R]) -> Callable[P, R]: ...
def checked(function: Any) -> Any:
    """A public function or class whose arguments are looked at first; what it is called with by default always passes.

    What an argument may be is known by its name, or says its annotation.

    Raises
    ------
    ArgumentError
        Names the argument, what it takes, and what was given.
    """
    if isinstance(function, type):
        made = vars(function).get("__init__")
        if made is not None and not hasattr(made, "__wrapped__"):
            type.__setattr__(function, "__init__", checked(made))
        return function
    parameters = inspect.signature(function).parameters
    places = [name for name, one in parameters.items() if one.kind <= one.POSITIONAL_OR_KEYWORD]
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    called = function.__qualname__.removesuffix(".__init__").removesuffix(".__call__")
    kinds: dict[str, tuple[Kind, Any]] = {}
    for name, one in parameters.items():
        kind = None if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) else _KINDS.get(name)
        annotated = _annotated(one.annotation)
        # a limit of regions is a count, one of a colour's scale is not
        kind = annotated if kind is _COUNT and "float" in str(one.annotation) else kind or annotated
        if kind is not None:
            kinds[name] = kind, one.default

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name not in parameters and not takes_any:
                raise _unknown(called, name, [one for one in parameters if one != "self"])
        for name, value in (*zip(places, args, strict=False), *kwargs.items()):
            if name not in kinds:
                continue
            kind, default = kinds[name]
            if value is not default and not kind.holds(value):
                raise ArgumentError(f"{name} must be {kind.said}, not {shown(value)}")
        return function(*args, **kwargs)

    return call
