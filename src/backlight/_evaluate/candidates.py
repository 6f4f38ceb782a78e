"""Explanations of any origin as candidates: ready values, functions, explainers, names of methods."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight._evaluate.game import Game
from backlight._evaluate.metrics.base import Candidate
from backlight._explain import explain
from backlight.arguments import shown, users_code
from backlight.errors import ArgumentError
from backlight.explanation import Explanation
from backlight.tables import as_frame, frame_like

__all__ = ["Cost", "named", "read", "restorer"]

Restore = Callable[[Tensor], Any]


@dataclass(frozen=True, slots=True)
class Cost:
    """What an explanation took.

    Attributes
    ----------
    seconds : float
        Of this process.
    evaluations : int or None
        Rows that the model itself scored meanwhile; None where it was not seen to (ready values, or a captured graph).
    """

    seconds: float
    evaluations: int | None


def named(explanations: Any) -> dict[str, Any]:
    """A dict of what is judged, by name; names of methods may stand alone or in a list."""
    if isinstance(explanations, Mapping):
        found = {str(name): value for name, value in explanations.items()}
    elif isinstance(explanations, str):
        found = {explanations: explanations}
    elif isinstance(explanations, Sequence) and all(isinstance(one, str) for one in explanations):
        found = {one: one for one in explanations}
    else:
        found = {"explanation": explanations}
    if not found:
        raise ArgumentError("there are no explanations to judge")
    return found


def read(
    name: str, given: Any, model: Any, X: Any, game: Game, restore: Restore | None, target: Any, score: str | None,
    seed: int,
) -> tuple[Candidate, Cost | None, str | None]:  # fmt: skip
    """One candidate, what it cost, and the reference that it says it was made against."""
    if isinstance(given, str):
        if given == "random":
            return _random(name, game, seed), None, None
        given = _Named(given, model, target, score, seed)
    if isinstance(given, Explanation) or not callable(given):
        return _ready(name, given, game), None, _said(given)
    two = _takes_a_model(given)
    call: Callable[[Any], Any] = (lambda rows: given(model, rows)) if two else given
    with _counted(model) as seen:
        start = time.process_time()
        with users_code(f"the explanation {name!r} fails on these rows"):
            first = call(X)
        seconds = time.process_time() - start
    candidate = _ready(name, first, game)
    if restore is not None:
        candidate.explain = lambda rows: _values(call(restore(rows)), game)
        if isinstance(given, _Named):
            candidate.remake = lambda other: lambda rows: _values(given.of(other)(restore(rows)), game)
        elif two:
            candidate.remake = lambda other: lambda rows: _values(given(other, restore(rows)), game)
    if isinstance(given, _Named):
        candidate.retarget = lambda targets: _values(given.to(targets)(X), game)
    elif _takes_a_target(given):
        candidate.retarget = lambda targets: _values(
            given(model, X, target=targets) if two else given(X, target=targets), game
        )
    return candidate, Cost(seconds, seen[0] or None), _said(first) or _said(given)


@dataclass(frozen=True, slots=True)
class _Named:
    """A method of `backlight.explain` by its name: "lrp", "lrp:" with a preset's name, "gradient_x_input", …."""

    name: str
    model: Any
    target: Any
    score: str | None
    seed: int

    def of(self, model: Any) -> _Named:
        return _Named(self.name, model, self.target, self.score, self.seed)

    def to(self, target: Any) -> _Named:
        return _Named(self.name, self.model, target, self.score, self.seed)

    def __call__(self, X: Any) -> Explanation:
        method, _, rules = self.name.partition(":")
        options: dict[str, Any] = {"score": self.score} if self.score is not None else {}
        return explain(self.model, X, self.target, method=method, rules=rules or "auto", seed=self.seed, **options)


def _takes_a_model(given: Any) -> bool:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return (
        sum(p.kind in positional and p.default is inspect.Parameter.empty and p.name != "target" for p in _of(given))
        == 2
    )


def _takes_a_target(given: Any) -> bool:
    return any(p.name == "target" and p.kind is not inspect.Parameter.POSITIONAL_ONLY for p in _of(given))


def _of(given: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(given).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        return []


@contextmanager
def _counted(model: Any) -> Iterator[list[int]]:
    """Rows that a module scores meanwhile; the module itself is left alone."""
    seen = [0]
    if not isinstance(model, nn.Module):
        yield seen
        return

    def count(module: nn.Module, args: Any) -> None:
        if module is model:
            seen[0] += next((len(a) for a in args if isinstance(a, Tensor) and a.dim()), 0)

    handle = torch.nn.modules.module.register_module_forward_pre_hook(count)
    try:
        yield seen
    finally:
        handle.remove()


def restorer(X: Any) -> Restore | None:
    """How other rows are made in the kind that the user's own came in; None for columns that are not all numbers."""
    if isinstance(X, Tensor):
        return lambda rows: rows
    if isinstance(X, np.ndarray):
        return lambda rows: rows.cpu().numpy()
    if isinstance(X, Mapping):
        return None
    frame = as_frame(X)
    if frame.kind not in ("pandas", "polars", "pyarrow") or any(c.dtype != np.float64 for c in frame.columns):
        return None
    return lambda rows: frame_like(dict(zip(frame.names, rows.cpu().double().numpy().T, strict=True)), frame.kind)


def _random(name: str, game: Game, seed: int) -> Candidate:
    """An explanation by chance, another one whenever it is asked."""
    rng = np.random.default_rng(seed + 1)

    def explain(rows: Tensor) -> Tensor:
        return torch.as_tensor(rng.normal(size=tuple(rows.shape)))

    candidate = _candidate(name, explain(game.x), game)
    candidate.explain = explain
    candidate.remake = lambda model: explain
    candidate.retarget = lambda targets: explain(game.x)
    return candidate


def _ready(name: str, given: Any, game: Game) -> Candidate:
    candidate = _candidate(name, _values(given, game), game)
    if isinstance(given, Explanation):
        if given.output.ndim != 1:
            raise ArgumentError(f"{name!r} explains several targets: give one of them, ex.output(name)")
        candidate.output = np.asarray(given.output)
        candidate.base = np.asarray(given.base_values)
    return candidate


def _candidate(name: str, values: Tensor, game: Game) -> Candidate:
    if not bool(torch.isfinite(values).all()):
        raise ArgumentError(f"the explanation {name!r} holds values that are not finite")
    return Candidate(name, values, game.units.total(values))


def _values(given: Any, game: Game) -> Tensor:
    """Relevance as (n, *features), from an explanation of any library."""
    found = given.values if hasattr(given, "values") and not isinstance(given, Tensor | Mapping) else given
    if hasattr(found, "to_numpy"):
        found = found.to_numpy()
    if isinstance(found, tuple | list) and len(found) == 1:
        found = found[0]
    try:
        values = torch.as_tensor(found.detach().cpu() if isinstance(found, Tensor) else np.array(found)).double()
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"an explanation is an array of numbers in the rows' shape, not {shown(found)}") from error
    shape = tuple(game.x.shape)
    if values.shape[1:] == shape[1:]:
        return values
    if game.x.dim() == 4 and values.shape[1:] in (shape[2:], (1, *shape[2:])):
        # one map for all channels: each has an equal part, so that the sum of a pixel is the map's
        return (values.view(len(values), 1, *shape[2:]) / shape[1]).expand(len(values), *shape[1:])
    if game.x.dim() > 2 and values.dim() == 2 and values.shape[1] == shape[1]:
        rest = int(np.prod(shape[2:]))
        return (values.view(*values.shape, *(1,) * (len(shape) - 2)) / rest).expand(len(values), *shape[1:])
    raise ArgumentError(f"an explanation has the shape {tuple(values.shape)}, and the rows {shape}")


def _said(given: Any) -> str | None:
    """The reference that an explanation or an explainer names, in words."""
    if isinstance(given, Explanation):
        found = given.provenance.get("reference")
        return None if found is None else str(found)
    found = getattr(given, "reference", None)
    return None if found is None else repr(found)
