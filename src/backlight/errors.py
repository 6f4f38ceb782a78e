"""Every error that backlight raises on purpose.

::

    BacklightError
    ├─ DataError            (ValueError)         the table cannot be used as it is
    │  └─ ColumnsError                           its columns are not those of the model
    ├─ FileError            (ValueError)         a file cannot be read or written
    │  ├─ MissingFileError  (FileNotFoundError)
    │  └─ ExistingFileError (FileExistsError)
    ├─ UntrustedModelError  (ValueError)         a model file that could run code
    ├─ UnsupportedModel     (TypeError)          no exact network is known for this model
    │  ├─ UnsupportedOption (ValueError)         … for this option of a known model
    │  └─ UnsupportedOperator                    … for an operator of a torch model
    ├─ ConservationError    (ArithmeticError)    relevance was lost, and strict=True asked for an error
    ├─ NotFittedModel       (ValueError)         the model was not fitted
    ├─ NoPrototype          (ValueError)         no solution of the problem of a prototype
    │  ├─ Unbounded                              f − strength · Ω grows without end
    │  ├─ Infeasible                             it is proved that no input satisfies the constraints
    │  └─ NotFound                               a search for such an input ended with nothing
    ├─ ArgumentError        (ValueError)         an argument of a public function
    │  └─ UnknownArgument   (TypeError)          it takes none of that name
    ├─ NameNotFound         (KeyError)           a feature or output of an explanation
    └─ MissingDependency    (ImportError)        an extra is not installed

    BacklightWarning        (UserWarning)        something is worth knowing before the numbers are used

A message says what was wrong, with which value, and what to do.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType

__all__ = [
    "ArgumentError",
    "BacklightError",
    "BacklightWarning",
    "ColumnsError",
    "ConservationError",
    "DataError",
    "ExistingFileError",
    "FileError",
    "Infeasible",
    "MissingDependency",
    "MissingFileError",
    "NameNotFound",
    "NoPrototype",
    "NotFittedModel",
    "NotFound",
    "Unbounded",
    "UnknownArgument",
    "UnsupportedModel",
    "UnsupportedOperator",
    "UnsupportedOption",
    "UntrustedModelError",
]


class BacklightError(Exception):
    """The base of every error that backlight raises on purpose."""


class DataError(BacklightError, ValueError):
    """The data cannot be used as they are: infinite values, no rows, an unknown kind of table."""


class ColumnsError(DataError):
    """The columns of the data are not the ones that the model was fitted on."""


class FileError(BacklightError, ValueError):
    """A file cannot be read or written."""


class MissingFileError(FileError, FileNotFoundError):
    """The file is not there."""


class ExistingFileError(FileError, FileExistsError):
    """The output is there already, and nobody asked to replace it."""


class UntrustedModelError(BacklightError, ValueError):
    """Loading this model file could run code that its author chose."""


class UnsupportedModel(BacklightError, TypeError):  # noqa: N818 - the public contract names it so
    """No exact network is known for this model or transformer."""


class UnsupportedOption(UnsupportedModel, ValueError):  # noqa: N818
    """The model is known, but not with this option."""


class UnsupportedOperator(UnsupportedModel):
    """Relevance reaches an operator that no rule is known for."""


class ConservationError(BacklightError, ArithmeticError):
    """Relevance was lost where it should have been passed on, and ``strict=True`` asked for an error."""


class NotFittedModel(BacklightError, ValueError):  # noqa: N818
    """The model must be fitted first."""


class NoPrototype(BacklightError, ValueError):  # noqa: N818
    """The problem argmax f(x) − strength · Ω(x) has no solution."""


class Unbounded(NoPrototype):
    """f(x) − strength · Ω(x) grows without end, and the message says along which direction."""


class Infeasible(NoPrototype):
    """It is proved that no input satisfies the bounds and the constraints."""


class NotFound(NoPrototype):
    """A search found no input that satisfies the bounds and the constraints; there may be one."""


class ArgumentError(BacklightError, ValueError):
    """An argument of a public function has a value that it cannot have."""


class UnknownArgument(ArgumentError, TypeError):  # noqa: N818
    """A public function has no argument of this name."""


class NameNotFound(BacklightError, KeyError):  # noqa: N818
    """An explanation has no feature or output of this name."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class MissingDependency(BacklightError, ImportError):  # noqa: N818
    """Something optional is asked for that is not installed."""


class BacklightWarning(UserWarning):
    """Something is worth knowing before the numbers are used."""


def warn(said: str) -> None:
    """A `BacklightWarning` at the user's own line that called into this package, however deep inside it is said."""
    frame: FrameType | None = sys._getframe(1)
    level, theirs = 2, 2
    while frame is not None:
        level += 1
        if frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
            theirs = level
        frame = frame.f_back
    warnings.warn(said, BacklightWarning, stacklevel=theirs)


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it."""
    known = sys.modules.get(module)
    if known is not None and not getattr(known.__spec__, "_initializing", False):
        return known  # it is asked for once a block and column
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a library says of its own imports
            return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise MissingDependency(
            f"{purpose} needs {name}, which is not installed: pip install 'backlight[{extra}]'"
        ) from error


def listed(names: object, limit: int = 8) -> str:
    """Join names for a message, the first few of them when they are many."""
    items = [str(name) for name in names]  # type: ignore[attr-defined]
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest} more" if rest > 0 else "")


def one_line(error: object, limit: int = 200) -> str:
    """What an error says, on one line and not longer than ``limit`` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """The boundary around a parser of files: whatever it raises becomes one sentence.

    No parser says all that it raises: a damaged file ends in a ``RecursionError``, a ``struct.error``, an
    ``IndexError`` or, from a library in Rust, a panic that is no ``Exception``. Errors that backlight raised itself
    pass unchanged.

    Parameters
    ----------
    path : Path
        The file.
    kind : str
        What it should be, with its article: ``"a safetensors file"``.

    Raises
    ------
    FileError
        Instead of whatever was raised inside.
    """
    try:
        yield
    except (BacklightError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise FileError(f"{path} cannot be read as {kind}: {one_line(error)}") from error
