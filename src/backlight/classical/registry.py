"""Functions by class: which one neuralizes an estimator, which one carries features through a transformer.

Registries are keyed by qualified class names, so that registering imports nothing; a class is found by its
method resolution order, private module parts left out (``sklearn.svm._classes.OneClassSVM`` is
``sklearn.svm.OneClassSVM``).
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["ClassRegistry", "public_name", "without_names"]

F = TypeVar("F", bound=Callable[..., Any])


def public_name(cls: type) -> str:
    """``package.Class`` as users import it.

    From the first package on the way to its module that offers it; else without private modules.
    """
    parts = cls.__module__.split(".")
    for end in range(1, len(parts)):
        package = ".".join(parts[:end])
        if getattr(sys.modules.get(package), cls.__name__, None) is cls:
            return f"{package}.{cls.__qualname__}"
    return ".".join([*(part for part in parts if not part.startswith("_")), cls.__qualname__])


def without_names(estimator: Any) -> Any:
    """A view of a fitted estimator that takes arrays without a warning about the names of columns."""
    bare = copy.copy(estimator)
    for attribute in ("feature_names_in_", "_sklearn_output_config"):
        bare.__dict__.pop(attribute, None)
    return bare


class ClassRegistry(Generic[F]):
    """Functions by class, found by method resolution order."""

    def __init__(self) -> None:
        self._functions: dict[str, F] = {}

    def register(self, *classes: type | str) -> Callable[[F], F]:
        """Register a function for one or several classes (or their public qualified names)."""

        def keep(function: F) -> F:
            for cls in classes:
                self._functions[cls if isinstance(cls, str) else public_name(cls)] = function
            return function

        return keep

    def find(self, value: object) -> F | None:
        """The function of the nearest class, or None."""
        for cls in type(value).__mro__:
            function = self._functions.get(public_name(cls))
            if function is not None:
                return function
        return None

    def knows(self, cls: type) -> bool:
        """Whether a class itself is registered, and not only one that it inherits from."""
        return public_name(cls) in self._functions

    @property
    def names(self) -> list[str]:
        """What is registered, sorted."""
        return sorted(self._functions)
