"""What the user gives a network, as batches of tensors of its dtype on its device."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from backlight.arguments import shown
from backlight.attribution.tokens import tokens_of
from backlight.engine.copies import run_once
from backlight.engine.network import Network
from backlight.errors import ArgumentError, DataError, UnsupportedModel
from backlight.tables import as_frame, in_batches

__all__ = ["Batch", "Home", "batches", "home"]

# values of one row's input at once in a batch chosen automatically
_BUDGET = 2**22


@dataclass(frozen=True, slots=True)
class Home:
    """Where a model lives: the dtype and device of its parameters."""

    model: nn.Module
    dtype: torch.dtype
    device: torch.device
    # no tensor of the model says in which precision it computes
    free: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs of some rows: positional and by keyword, with the names of columns and tokens where they have some."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    columns: tuple[str, ...] = ()
    kind: str = "numpy"
    labels: np.ndarray | None = None
    annotations: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, Tensor) and value.dim():
                return int(value.shape[0])
        raise DataError("the inputs hold no tensor with rows")

    @property
    def step(self) -> int:
        """How many rows go through a network at once."""
        size = sum(v[0].numel() for v in (*self.args, *self.kwargs.values()) if isinstance(v, Tensor) and v.dim())
        return max(1, min(4096, _BUDGET // max(size, 1) // 2))

    def take(self, start: int, stop: int) -> Batch:
        """Some of the rows."""
        rows = self.rows

        def cut(value: Any) -> Any:
            return value[start:stop] if isinstance(value, Tensor) and value.dim() and len(value) == rows else value

        return Batch(
            tuple(cut(value) for value in self.args), {name: cut(value) for name, value in self.kwargs.items()},
            self.columns, self.kind, None if self.labels is None else self.labels[start:stop],
            {name: value[start:stop] for name, value in self.annotations.items()},
        )  # fmt: skip


def home(model: nn.Module, device: Any = None) -> Home:
    """Dtype and device of the first parameter that is computed with; double precision for a model without any.

    Raises
    ------
    UnsupportedModel
        A parameter is on the device "meta", so that it has no values.
    """
    empty = next((name for name, tensor in model.named_parameters() if tensor.is_meta), None)
    if empty is not None:
        raise UnsupportedModel(
            f"{type(model).__name__} has no weights yet ({empty!r} is on the device 'meta'): load them first"
        )
    where, dtype = torch.device("cpu"), torch.get_default_dtype()
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        # in eight bits numbers are kept, and computed with in others
        if tensor.is_floating_point() and tensor.dtype.itemsize > 1:
            where, dtype, free = tensor.device, tensor.dtype, False
            break
    else:
        dtype, free = torch.float64, True
    return Home(model, dtype, where if device is None else _device(device), free)


def _device(device: Any) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    # torch says in many ways that there is none: by an assertion where it was built without CUDA
    except (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
        said = str(error).partition("\n")[0][:100]
        raise ArgumentError(f"device={shown(device)} is not there ({said}): leave it out, or give 'cpu'") from error
    return found


def batches(X: Any, where: Home, batch_size: int | str) -> tuple[int | None, Iterator[Batch]]:
    """How many rows there are, where that is known beforehand, and batches of the model's dtype.

    A tuple is several inputs, a dict inputs by name; a stream's batches may be tuples (inputs, labels, …), of which the
    inputs are the first.
    """

    def read(item: Any) -> Batch:
        here = replace(where, dtype=_precision(item, where)) if where.free else where
        return _read(_batch(item, here), here)

    return in_batches(X, read, batch_size)


def _precision(item: Any, where: Home) -> torch.dtype:
    """In which precision a model runs whose parameters do not say it: tensors that are none may take one alone."""

    def found() -> torch.dtype:
        for dtype in (torch.float64, torch.float32):
            if _runs(_batch(item, replace(where, dtype=dtype)).take(0, 2), where, ()):
                return dtype
        return torch.float64

    precision: torch.dtype = Network.of(where.model).derived("precision", found)
    return precision


def _read(batch: Batch, where: Home) -> Batch:
    """Whole numbers as the model takes them: as they are, where it runs on them so, or as quantities of its dtype.

    Whether they are positions in a table or quantities is not in the numbers, nor in the classes of the modules: the
    model itself decides, which runs on one or on the other.
    """
    leaves, spec = pytree.tree_flatten((batch.args, batch.kwargs))
    whole = [k for k, leaf in enumerate(leaves) if _is_whole(leaf)]
    if not whole:
        return batch
    kinds = tuple((tuple(leaf.shape[1:]), leaf.dtype) if isinstance(leaf, Tensor) else None for leaf in leaves)
    key = ("whole numbers", kinds, repr(spec), str(where.device))
    cast = Network.of(where.model).derived(key, lambda: _quantities(batch, where, whole))
    for k in cast:
        leaves[k] = leaves[k].to(where.dtype)
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return replace(batch, args=args, kwargs=kwargs)


def _is_whole(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not leaf.is_floating_point() and leaf.dtype is not torch.bool


def _quantities(batch: Batch, where: Home, whole: Sequence[int]) -> tuple[int, ...]:
    """Which of the whole inputs the model wants as numbers of its dtype: the fewest that it runs with."""
    if home(where.model).device != where.device:
        # the model cannot run there; its tables of vectors decide
        tables = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in where.model.modules())
        return () if tables else tuple(whole)
    choices = [(), tuple(whole), *(c for size in range(1, len(whole)) for c in itertools.combinations(whole, size))]
    for part in (batch.take(0, 2), batch):
        for choice in choices[:32]:
            if _runs(part, where, choice):
                return choice
    # it runs on none of them: what it says of the inputs as they are is said then
    return ()


def _runs(batch: Batch, where: Home, cast: Sequence[int]) -> bool:
    leaves, spec = pytree.tree_flatten((batch.args, batch.kwargs))
    for k in cast:
        leaves[k] = leaves[k].to(where.dtype)
    try:
        run_once(where.model, pytree.tree_unflatten(leaves, spec))
    # the user's own code may raise anything; what it says of the choice in the end is said by the capture
    except Exception:
        return False
    return True


def _batch(X: Any, where: Home) -> Batch:
    if isinstance(X, Mapping):
        given = {str(name): _tensor(value, where, str(name)) for name, value in X.items()}
        return Batch((), given, annotations=tokens_of(X, given))
    if isinstance(X, tuple):
        return Batch(tuple(_tensor(value, where, f"input {k}") for k, value in enumerate(X)), {})
    if isinstance(X, Tensor | np.ndarray):
        return Batch((_tensor(X, where, "X"),), {})
    if isinstance(X, list) and X and isinstance(X[0], Tensor):
        raise ArgumentError(
            "a list of tensors could be several inputs or several batches: give a tuple for several inputs, "
            "torch.stack(X) for rows, or a DataLoader for batches"
        )
    if isinstance(X, Sequence) and not isinstance(X, str):
        return Batch((_tensor(_array(X), where, "X"),), {})
    frame = as_frame(X)
    return Batch((_tensor(frame.matrix(), where, "X"),), {}, tuple(frame.names), frame.kind, frame.labels)


def _array(X: Sequence[Any]) -> np.ndarray:
    try:
        return np.asarray(X)
    except ValueError as error:
        raise DataError(
            f"the rows of X have different shapes ({error}): give rows of one shape, texts with padding=True"
        ) from error


def _tensor(value: Any, where: Home, name: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list) and value and isinstance(value[0], list | int):
        # as a tokenizer gives them without return_tensors: whole numbers stay what they are
        value = _array(value)
    if isinstance(value, np.ndarray):
        if value.dtype == object or value.dtype.kind in "US":
            texts = (
                ": strings go to backlight.text.explain(model, tokenizer, texts)" if value.dtype.kind in "US" else ""
            )
            raise DataError(f"{name} holds {value.dtype} values: a network needs numbers{texts}")
        value = torch.as_tensor(np.ascontiguousarray(value))
    elif not isinstance(value, Tensor):
        value = torch.as_tensor(as_frame(value).matrix())
    if value.is_meta:
        raise DataError(f"{name} is on the device 'meta' and holds no values")
    if value.layout is not torch.strided or value.is_nested or value.is_quantized:
        kind, way = (
            ("a nested", "nested.to_padded_tensor, and a mask")
            if value.is_nested
            else ("a quantised", "X.dequantize()")
            if value.is_quantized
            else ("a sparse", "X.to_dense()")
        )
        raise DataError(f"{name} is {kind} tensor, whose numbers have no place of their own: give {way}")
    value = value.detach().to(where.device)
    if value.is_inference():
        # tensors of inference mode cannot take part in a way back
        value = value.clone()
    if value.is_floating_point():
        value = value.to(where.dtype)
        if not bool(torch.isfinite(value).all()):
            raise DataError(f"{name} holds missing or infinite values: a network has no value for them")
    return value
