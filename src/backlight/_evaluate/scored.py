"""Any model as a score a row, with its target fixed: a module, a classical model, a plain function of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from backlight.arguments import numbers_in, users_code
from backlight.attribution.inputs import batches, home
from backlight.attribution.requested import Targets, read_targets
from backlight.attribution.targets import resolve
from backlight.attribution.tokens import last_tokens
from backlight.errors import ArgumentError, DataError, UnsupportedModel
from backlight.models import open_model
from backlight.models.heads import HeadModel
from backlight.models.network import NetworkModel
from backlight.models.torch import TorchModel
from backlight.tables import as_frame

__all__ = ["Scored", "scored"]


class Scored(Protocol):
    """A model whose score of a row is one number.

    Attributes
    ----------
    names : tuple of str, of the columns of a table
    categories : tuple of str, the columns whose numbers are codes
    kind : str, what the model is called
    """

    names: tuple[str, ...]
    categories: tuple[str, ...]
    kind: str

    def encode(self, X: Any) -> Tensor:
        """Rows as the tensor that features are taken away from, (n, *features)."""
        ...

    def fix(self, x: Tensor, target: Any) -> None:
        """Decide the target of each row on the rows as they are."""
        ...

    def score(self, x: Tensor, rows: Tensor) -> Tensor:
        """The score of changed rows, (m,); ``rows`` says which of the whole rows each came from."""
        ...

    def own_outputs(self) -> tuple[np.ndarray | None, int]:
        """Which output each row is judged by, (n,), where it is one of several, and how many there are."""
        ...


def scored(model: Any, X: Any, target: Any, score: str | None) -> tuple[Scored, Tensor]:
    """A model as a score, and the rows as its tensor.

    Raises
    ------
    ArgumentError, UnsupportedModel, DataError
    """
    function = callable(model) and not isinstance(model, nn.Module) and not hasattr(model, "fit")
    found = _Function(model) if function else _judged(open_model(model, score=score))
    x = found.encode(X)
    if not len(x):
        raise DataError("there are no rows to judge explanations on")
    found.fix(x, target)
    return found, x


@singledispatch
def _judged(opened: Any) -> Scored:
    """An opened model as a score: one function a kind of model, registered below."""
    raise UnsupportedModel(f"explanations of a {opened.kind} are not judged: it has no score for changed rows")


@dataclass(slots=True)
class _Seeded(ABC):
    """What is the same for all: the gradient of the score with respect to the outputs, a row."""

    seeds: Tensor | None = None
    function: Callable[..., Any] | None = None
    names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    kind: str = ""
    # whether the target names positions of its own
    spread: bool = False

    @abstractmethod
    def outputs(self, x: Tensor, rows: Tensor) -> Tensor:
        """What the model gives for changed rows, (m, *outputs)."""

    def fix(self, x: Tensor, target: Any) -> None:
        """Decide the target of each row on the rows as they are."""
        targets = _one_target(target, len(x))
        if targets.items[0].function is not None:
            self.function = targets.items[0].function
            return
        linear = targets.items[0].linear
        self.spread = linear is not None and not linear.at_last
        parts = []
        for rows in torch.split(torch.arange(len(x)), 256):
            out = self.outputs(x[rows], rows)
            parts.append(resolve(targets.take(int(rows[0]), len(rows)), out, lambda o: o).gradient[0])
        self.seeds = torch.cat(parts)

    def score(self, x: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            out = self.outputs(x, rows)
            if self.function is not None:
                with users_code("the target function fails on the model's output"):
                    found = self.function(out)
                if not isinstance(found, Tensor) or found.shape != (len(out),):
                    raise ArgumentError("the target function must give one number a row")
                return found
            assert self.seeds is not None
            return (
                (out * self.seeds[rows].to(out)).flatten(1).sum(1) if out.dim() > 1 else out * self.seeds[rows].to(out)
            )

    def own_outputs(self) -> tuple[np.ndarray | None, int]:
        """Which output each row is judged by, (n,), where it is one of several, and how many there are."""
        seeds = self.seeds
        if seeds is None or seeds.dim() != 2 or not bool(((seeds != 0).sum(1) == 1).all()):
            return None, 0
        return seeds.abs().argmax(1).cpu().numpy(), seeds.shape[1]


def _one_target(target: Any, rows: int) -> Targets:
    targets = read_targets(target)
    if targets.several:
        raise ArgumentError(
            "explanations are judged for one target: give an index, a name, one of these a row or a function"
        )
    targets.check_rows(rows)
    return targets


class _Module(_Seeded):
    def __init__(self, opened: TorchModel) -> None:
        super().__init__(kind=opened.kind)
        self.opened = opened
        self.module = module = opened.module
        self.home = home(module)
        self.others: dict[str, Any] = {}
        self.key: str | None = None
        if module.training:
            raise ArgumentError(
                f"{self.kind} is in training mode: call .eval() on it, since judging must not depend on chance"
            )

    def encode(self, X: Any) -> Tensor:
        _, stream = batches(X, self.home, 2**62)
        found = list(stream)
        first = found[0]
        if len(first.args) + len(first.kwargs) == 1:
            tensors = [(b.args or tuple(b.kwargs.values()))[0] for b in found]
            self.key = self.key or next(iter(first.kwargs), None)
            self.names = self.names or first.columns
            return torch.cat(tensors)
        if first.args or len(found) > 1:
            raise ArgumentError(
                "a network of several inputs is judged on a dict whose first input is the one explained"
            )
        if self.key is None:
            self.key = next(iter(first.kwargs))
            self.others = {k: v for k, v in first.kwargs.items() if k != self.key}
        x: Tensor = first.kwargs[self.key]
        return x

    def outputs(self, x: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            if self.key is None:
                return self._at_last({"X": x}, self.opened.score(x))
            n = max((len(v) for v in self.others.values() if isinstance(v, Tensor) and v.dim()), default=0)
            rest = {
                k: v[rows] if isinstance(v, Tensor) and v.dim() and len(v) == n else v for k, v in self.others.items()
            }
            given = {self.key: x, **rest}
            return self._at_last(given, self.opened.score(**given))

    def _at_last(self, given: dict[str, Any], out: Tensor) -> Tensor:
        """Of outputs over tokens those at each text's last one, unless the target looks at all of them."""
        last = None if self.function is not None or self.spread else last_tokens(given, out)
        return out if last is None else out[torch.arange(len(out), device=out.device), last]


class _Network(_Seeded):
    """The network of a classical model: the score is a sum of its layer's units."""

    def __init__(self, opened: NetworkModel) -> None:
        super().__init__(kind=opened.kind, names=tuple(opened.network.feature_names))
        self.network = opened.network
        self.own: np.ndarray | None = None
        self.count = 0

    def encode(self, X: Any) -> Tensor:
        if not isinstance(X, Tensor):
            frame = as_frame(X)
            self.categories = tuple(
                name for name, column in zip(frame.names, frame.columns, strict=True) if column.dtype == object
            )
        return self.network.encode(X)

    def fix(self, x: Tensor, target: Any) -> None:
        outputs = self.network.score.outputs
        (one,) = outputs.targets(_one_target(target, len(x)))
        units = self.outputs(x, torch.arange(len(x)))
        index = outputs.index(one, units)
        self.seeds = outputs.coefficients(one, units, index).dense
        if index is not None:
            self.own, self.count = index.cpu().numpy(), len(outputs.names)

    def own_outputs(self) -> tuple[np.ndarray | None, int]:
        """Which output each row is judged by, (n,), where it is one of several, and how many there are."""
        return self.own, self.count

    def outputs(self, x: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            step = self.network.layer.rows
            return torch.cat([self.network.layer(self.network.point(part)) for part in torch.split(x, step)])


_judged.register(TorchModel, _Module)
_judged.register(HeadModel, lambda opened: _Module(TorchModel(opened.head)))
_judged.register(NetworkModel, _Network)


class _Function(_Seeded):
    """A function of a batch, an array of shape (n, *features), to (n,) or (n, outputs)."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__(kind=getattr(function, "__name__", type(function).__name__))
        self.call = function

    call: Callable[[Any], Any]

    def encode(self, X: Any) -> Tensor:
        if isinstance(X, Tensor):
            return X.detach()
        if isinstance(X, np.ndarray):
            return torch.as_tensor(numbers_in(np.array(X), "X"))
        frame = as_frame(X)
        self.names = tuple(frame.names)
        return torch.as_tensor(frame.matrix())

    def outputs(self, x: Tensor, rows: Tensor) -> Tensor:
        with users_code("the function that is evaluated fails on these rows"):
            given = self.call(x.numpy())
        out = torch.as_tensor(numbers_in(given, "what the evaluated function gives"))
        if out.shape[:1] != x.shape[:1]:
            raise ArgumentError(f"the function gives {tuple(out.shape)} for {len(x)} rows: it must give one number, or "
                                "several, a row")  # fmt: skip
        return out.double()
