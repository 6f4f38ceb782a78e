"""The model whose prototypes are wanted, as solvers see it: a pass, named outputs, a decision (one protocol)."""

from __future__ import annotations

import contextlib
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight._prototype.categories import Categories, Expanded
from backlight.attribution.inputs import home
from backlight.classical import NeuralizedModel
from backlight.classical.layers import EncodedRows, Layer
from backlight.engine.capture import light_copy
from backlight.errors import ArgumentError, ColumnsError, DataError, UnsupportedModel, listed
from backlight.models import open_model
from backlight.models.heads import HeadModel
from backlight.models.network import NetworkModel
from backlight.models.torch import TorchModel
from backlight.tables import as_frame
from backlight.targets import Seen

__all__ = ["LAYERS", "ModuleSubject", "NetworkSubject", "Subject", "TreeSubject", "subject_of"]


class Subject(ABC):
    """One model.

    Attributes
    ----------
    kind : str
    model : object
        The user's own.
    names : tuple of str, optional
        The columns of a table.
    shape : tuple of int, optional
        Of one input, where the model knows.
    outputs : tuple of str
        Names of its outputs; known after `prepare`.
    classifies : bool
        Whether the largest output is a decision.
    groups : sequence of lists of columns
        One-hot columns that stand for the categories of a column.
    categories : Categories, optional
        What these are, of a model of tables.
    dtype : torch.dtype
        What the model takes.
    """

    kind: str = ""
    model: Any
    names: tuple[str, ...] | None = None
    shape: tuple[int, ...] | None = None
    outputs: tuple[str, ...] = ()
    classifies: bool = False
    groups: Sequence[list[int]] = ()
    categories: Categories | None = None
    dtype: torch.dtype = torch.float64
    device: torch.device = torch.device("cpu")

    def prepare(self, example: Tensor) -> None:
        """Look at the outputs of a few inputs (n, *shape)."""
        return

    @abstractmethod
    def see(self, x: Tensor, layers: Sequence[str] = (), output: bool = True) -> Seen:
        """One pass, no further than the last thing that is asked for."""

    def decide(self, x: Tensor) -> Tensor:
        """The decided output's index, (n,): by default the largest one."""
        out = self.see(x).output
        assert out is not None
        return out.argmax(1)

    @property
    def decides(self) -> bool:
        """Whether there is a decision to ask for: several outputs, or a threshold."""
        return self.classifies

    def leads(self, output: Tensor, wanted: int) -> Tensor:
        """By how much the wanted output leads each other one, (n, outputs − 1): all are > 0 where it is decided."""
        return output[:, wanted, None] - torch.cat([output[:, :wanted], output[:, wanted + 1 :]], 1)

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 over what was learnt."""

    def encode(self, X: Any) -> Tensor:
        """The user's rows as inputs of the model, (n, *shape) in float64."""
        from backlight.priors.base import rows_of

        rows = rows_of(X)
        if isinstance(X, Tensor | np.ndarray) and X.ndim > 2:
            return rows.reshape(len(rows), *X.shape[1:])
        return rows if self.shape is None else self._shaped(rows)

    def _shaped(self, rows: Tensor) -> Tensor:
        assert self.shape is not None
        if rows.shape[1] != math.prod(self.shape):
            raise DataError(f"rows have {rows.shape[1]} numbers, but an input of the model has {math.prod(self.shape)}")
        return rows.reshape(len(rows), *self.shape)


class _Enough(Exception):  # noqa: N818 - it is no error
    """All that was asked for has been seen."""


class ModuleSubject(Subject):
    """A torch module, by a light copy over the same memory: nothing of the user's is touched, weights are frozen."""

    def __init__(self, opened: TorchModel) -> None:
        self.opened, model = opened, opened.module
        self.model = model
        self._copy = light_copy(model)
        self._modules = dict(self._copy.named_modules())
        _refuse_training(model)
        self.kind = opened.kind
        at = home(model)
        self.dtype, self.device = at.dtype, at.device
        first = next((m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)), None)
        self.shape = (first.in_features,) if isinstance(first, nn.Linear) else None
        self.ends_in = ""
        self._last: nn.Module | None = None

    def prepare(self, example: Tensor) -> None:
        """See `Subject.prepare`."""
        self.shape = tuple(example.shape[1:])
        try:
            with torch.no_grad():
                out = self.see(example.to(self.device, self.dtype)).output
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise DataError(
                f"{self.kind} cannot run on inputs of the shape {tuple(example.shape)}: {str(error).splitlines()[0]}"
            ) from error
        assert out is not None
        self.outputs = tuple(f"output {k}" for k in range(out.shape[1])) if out.shape[1] > 1 else ("score",)
        self.classifies = out.shape[1] > 1
        if out.shape[1] > 1:
            self._find_softmax(example, out.detach().double())

    def _find_softmax(self, example: Tensor, out: Tensor) -> None:
        """Where outputs are probabilities or their logarithms, look for the logits before the last softmax module."""
        for kind, log_p in (("softmax", out.clamp(min=1e-300).log()), ("log-softmax", out)):
            if (kind == "softmax" and bool((out < 0).any())) or (log_p.exp().sum(1) - 1).abs().max() > 1e-4:
                continue
            self.ends_in = kind
            last = [m for m in self._copy.modules() if isinstance(m, nn.Softmax | nn.LogSoftmax)][-1:]
            if last:
                self._last = last[0]
                with torch.no_grad():
                    logits = self.see(example.to(self.device, self.dtype)).output
                if (
                    logits is None
                    or logits.shape != out.shape
                    or not torch.allclose(torch.log_softmax(logits.double(), 1).exp(), log_p.exp(), atol=1e-4)
                ):
                    self._last = None
            return

    @property
    def has_logits(self) -> bool:
        """Whether the outputs that targets see are logits, or not probabilities at all."""
        return not self.ends_in or self._last is not None

    def see(self, x: Tensor, layers: Sequence[str] = (), output: bool = True) -> Seen:
        """See `Subject.see`."""
        found: dict[str, Tensor] = {}
        logits: dict[str, Tensor] = {}
        with self._watched(layers, found, stop=not output):
            tap = None
            if self._last is not None:
                tap = self._last.register_forward_pre_hook(lambda module, args: logits.update({"in": args[0]}))
            try:
                out = self._copy(x)
            except _Enough:
                return Seen(None, found)
            finally:
                if tap is not None:
                    tap.remove()
        if isinstance(out, tuple | list):
            out = out[0]
        elif not isinstance(out, Tensor):
            out = getattr(out, "logits", out)
        if not isinstance(out, Tensor):
            raise UnsupportedModel(f"{self.kind} returns {type(out).__name__}: wrap it so that it returns a tensor")
        if out.ndim == 1:
            out = out[:, None]
        elif out.ndim > 2:
            out = out.flatten(1)
        if self._last is not None:
            return Seen(logits["in"].flatten(1), found)
        if self.ends_in == "softmax":
            return Seen(out, found, out.clamp(min=torch.finfo(out.dtype).tiny).log())
        return Seen(out, found)

    @contextlib.contextmanager
    def _watched(self, layers: Sequence[str], found: dict[str, Tensor], stop: bool) -> Iterator[None]:
        handles = []
        for name in layers:
            if name not in self._modules or not name:
                near = [n for n in self._modules if n and (name.split(".")[-1] in n or n in name)][:4]
                hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
                raise ArgumentError(f"the model has no layer {name!r}: give a path of model.named_modules(){hint}")

            def keep(module: nn.Module, args: Any, out: Any, name: str = name) -> None:
                a = out[0] if isinstance(out, tuple | list) else out
                found[name] = a
                if stop and len(found) == len(layers):
                    raise _Enough

            handles.append(self._modules[name].register_forward_hook(keep))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def fingerprint(self) -> str:
        """See `Subject.fingerprint`."""
        return self.opened.fingerprint()


class NetworkSubject(Subject):
    """A neuralized model; inputs are the table's columns as numbers, and of categories as groups of 0 and 1.

    Attributes
    ----------
    elements : torch.nn.Module
        From inputs to the elements of the front end.
    """

    def __init__(self, opened: NetworkModel, original: Any) -> None:
        self.opened, self.model = opened, original
        self.network = network = opened.network
        front = network.front
        self.kind, self.names = opened.kind, network.feature_names
        self.elements: nn.Module = front.elements
        if any(j in front.used for j in front.vocabulary.codes):
            self.categories = of = Categories(network)
            self.elements, self.names, self.groups = Expanded(of), of.names, of.groups
        self.shape = (len(self.names),)
        score = network.score
        self.outputs = score.outputs.names or (score.name,)
        self.classifies = len(score.outputs.names) > 1

    def see(self, x: Tensor, layers: Sequence[str] = (), output: bool = True) -> Seen:
        """See `Subject.see`."""
        if layers:
            raise ArgumentError(f"a {self.kind} has no layers by name: targets are its outputs {self.outputs}")
        units = self._units(x)
        directions = self.network.score.outputs.directions
        if directions is None:
            return Seen(units)
        # two classes are −f and f: their softmax is the logistic function of f when each counts half
        both = units @ torch.as_tensor(directions).to(units).T
        return Seen(both, {}, both / 2)

    @property
    def decides(self) -> bool:
        """See `Subject.decides`."""
        return self.classifies or self._normal() is not None

    def leads(self, output: Tensor, wanted: int) -> Tensor:
        """See `Subject.leads`; of a detector how far its score is on the normal side of its threshold, (n, 1)."""
        side = self._normal()
        if self.classifies or side is None:
            return super().leads(output, wanted)
        return side[0] * (output - side[1])

    def _normal(self) -> tuple[float, float] | None:
        """Sign and threshold with sign · (score − threshold) ≥ 0 for what a detector calls normal."""
        name, threshold = self.network.score.name, self.network.threshold
        if name == "decision_function" and not self.classifies and _is_detector(self.network.estimator):
            return 1.0, 0.0
        return (-1.0, float(threshold)) if name == "outlierness" and threshold is not None else None

    def probabilities_of(self, x: Tensor) -> np.ndarray | None:
        """The library's own probabilities of rows, to compare with; None where the model has none."""
        rows = x.detach().numpy()
        if self.categories is not None:
            return self.network.original("predict_proba", self.categories.frame(rows))
        return self.network.original("predict_proba", as_frame(rows, list(self.names or ())))

    def decide(self, x: Tensor) -> Tensor:
        """The predicted output."""
        return self.network.score.outputs.choose(self._units(x))

    def _units(self, x: Tensor) -> Tensor:
        e = self.elements(x)
        units: Tensor = self.network.layer(EncodedRows(x, e, self.network.front.pullback.embed(e)))
        return units

    def encode(self, X: Any) -> Tensor:
        """See `Subject.encode`; categories become codes."""
        return self.network.encode(X).double() if self.categories is None else self.categories.encode(X)

    def fingerprint(self) -> str:
        """See `Subject.fingerprint`."""
        return self.opened.fingerprint()


class TreeSubject(Subject):
    """A single decision tree: constant on boxes, without gradients.

    Attributes
    ----------
    tree : the fitted estimator's ``tree_``
    values : (nodes, outputs)
        Predicted values, or probabilities of the classes.
    """

    def __init__(self, estimator: Any) -> None:
        self.model = estimator
        self.tree = estimator.tree_
        self.kind = f"{type(estimator).__name__} ({self.tree.n_leaves} leaves)"
        d = int(self.tree.n_features)
        named = getattr(estimator, "feature_names_in_", None)
        self.names = tuple(f"x{i}" for i in range(d)) if named is None else tuple(str(n) for n in named)
        self.shape = (d,)
        value = np.asarray(self.tree.value)
        if value.shape[1] > 1:
            raise UnsupportedModel(f"{self.kind} has {value.shape[1]} outputs at once: fit one tree an output")
        self.values = value[:, 0, :]
        classes = getattr(estimator, "classes_", None)
        self.classifies = classes is not None
        if classes is not None:
            self.values = self.values / self.values.sum(1, keepdims=True)
            self.outputs = tuple(str(c) for c in classes)
        else:
            self.outputs = ("predict",)

    def encode(self, X: Any) -> Tensor:
        """See `Subject.encode`; named columns in the order of the tree's."""
        if isinstance(X, Tensor | np.ndarray):
            return super().encode(X)
        frame = as_frame(X)
        names = self.names or ()
        if frame.named and hasattr(self.model, "feature_names_in_"):
            missing = [name for name in names if name not in frame.names]
            if missing:
                raise ColumnsError(f"the table lacks columns of the tree: {listed(missing)}")
            frame = frame.select(names)
        return super().encode(frame.matrix())

    def see(self, x: Tensor, layers: Sequence[str] = (), output: bool = True) -> Seen:
        """See `Subject.see`."""
        if layers:
            raise ArgumentError("a tree has no layers: targets are its outputs")
        leaves = self.tree.apply(np.ascontiguousarray(x.detach().numpy(), dtype=np.float32))
        return Seen(torch.as_tensor(self.values[leaves]))

    def fingerprint(self) -> str:
        """See `Subject.fingerprint`."""
        digest = hashlib.sha256(np.ascontiguousarray(self.tree.threshold).tobytes())
        digest.update(np.ascontiguousarray(self.values).tobytes())
        return digest.hexdigest()


class _Wrapped(nn.Module):
    def __init__(self, fn: Any) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Any:
        return self.fn(x)


def _is_detector(estimator: Any) -> bool:
    from sklearn.base import is_outlier_detector

    return bool(is_outlier_detector(estimator))


def subject_of(model: Any) -> Subject:
    """The subject of a model of any kind.

    Raises
    ------
    UnsupportedModel, NotFittedModel
    """
    if callable(model) and not isinstance(model, nn.Module) and not hasattr(model, "fit"):
        model = _Wrapped(model)
    return _climbed(open_model(model), model)


LAYERS: dict[type[Layer], Callable[[NeuralizedModel, Any], Subject]] = {}
"""Layers without a gradient, and what makes the subject of a network that holds one."""


@singledispatch
def _climbed(opened: Any, model: Any) -> Subject:
    """The subject of an opened model: one function a kind of model, registered here."""
    raise UnsupportedModel(f"what a {opened.kind} looks for is not known: it has no differentiable score")


@_climbed.register
def _of_module(opened: TorchModel, model: Any) -> Subject:
    return ModuleSubject(opened)


@_climbed.register
def _of_head(opened: HeadModel, model: Any) -> Subject:
    return ModuleSubject(TorchModel(opened.head))


@_climbed.register
def _of_network(opened: NetworkModel, model: Any) -> Subject:
    if hasattr(getattr(model, "tree_", None), "n_leaves"):  # a density's ``tree_`` only looks for neighbours
        return TreeSubject(model)
    for kind, make in LAYERS.items():
        if any(isinstance(layer, kind) for layer in opened.network.modules()):
            return make(opened.network, model)
    return NetworkSubject(opened, model)


def _refuse_training(model: nn.Module) -> None:
    for name, module in model.named_modules():
        random = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        if module.training and (random or isinstance(module, nn.modules.batchnorm._BatchNorm)):
            raise ArgumentError(
                f"the model is in training mode, in which {type(module).__name__} {name!r} depends on chance or on "
                "the other rows: call model.eval() first"
            )
