"""Whether a model is still the one that was captured: its structure, what its forward reads, and every byte of it.

A graph holds what a forward did once. It is kept while everything that the forward can have read is unchanged: modules,
their attributes and options, tensors that are no parameters, hooks, and, of code that is not a library's, the
globals and closures that it names, the functions that it calls and the objects in them, as far as they are plain.
What lies outside of the program (files, clocks, a foreign library's state) is not seen; a fresh graph is
compared with the model's own forward, which finds counters and chance.
"""

from __future__ import annotations

import dis
import functools
import sys
import sysconfig
import types
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

from backlight.engine.copies import in_slots

__all__ = ["Checksums", "Structure", "checksum"]

_PLAIN = frozenset(
    {bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, range, slice}
)
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
# of a module's own attributes these say nothing of what its forward computes, or are looked at apart
_ASIDE = frozenset({
    "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks", "_state_dict_pre_hooks", "_is_full_backward_hook",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_non_persistent_buffers_set", "_compiled_call_impl",
})  # fmt: skip


def checksum(tensor: Tensor) -> tuple[Any, ...]:
    """Shape, layout and a 64-bit checksum of all bytes of a tensor.

    Source: XXH3 (Collet), at the speed of memory. On accelerators the sum of the words times odd numbers by position,
    modulo 2⁶⁴, which changes with every single word and with every exchange of two.
    """
    x = tensor.detach()
    described = (tuple(x.shape), x.dtype, x.device, x.layout)
    if x.is_meta or not x.numel():
        return described
    if x.layout is not torch.strided:
        x = x.to_dense()
    if x.is_quantized:
        x = x.int_repr()
    if not x.is_contiguous():
        x = x.contiguous()
    if x.device.type != "cpu":
        return *described, _on_device(x)
    try:
        array = x.numpy()
    except (TypeError, RuntimeError):
        # a dtype that NumPy has not, conjugated or negated views
        array = x.resolve_conj().resolve_neg().reshape(-1).view(torch.uint8).numpy()
    return *described, xxhash.xxh3_64_intdigest(array.data)


def _on_device(x: Tensor) -> int:
    raw = x.reshape(-1).view(torch.uint8)
    rest = raw.numel() % 8
    if rest:
        raw = torch.cat([raw, raw.new_zeros(8 - rest)])
    words = raw.view(torch.int64)
    odd = torch.arange(1, 2 * words.numel(), 2, dtype=torch.int64, device=x.device) * -7046029254386353131
    return int((words * (odd | 1)).sum())


class Checksums:
    """The checksums of a model's parameters and buffers."""

    def __init__(self, model: nn.Module) -> None:
        self.sums = self._now(model)

    def changed(self, model: nn.Module) -> bool:
        """Whether a byte was written to since this was made."""
        return self._now(model) != self.sums

    @staticmethod
    def _now(model: nn.Module) -> list[tuple[Any, ...]]:
        return [checksum(tensor) for tensor in (*model.parameters(), *model.buffers())]


class Structure:
    """What a model's forward can have read, but the values of its parameters and buffers."""

    def __init__(self, model: nn.Module) -> None:
        self._then = _Look(model).token

    def changed(self, model: nn.Module) -> bool:
        """Whether anything differs from when this was made."""
        return bool(_Look(model).token != self._then)


class _Is:
    """Compares by identity, and keeps nothing alive that can be referred to weakly."""

    __slots__ = ("_value", "_weak")

    def __init__(self, value: Any) -> None:
        try:
            self._value, self._weak = weakref.ref(value), True
        except TypeError:
            self._value, self._weak = value, False

    def _held(self) -> Any:
        return self._value() if self._weak else self._value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Is):
            return False
        held = self._held()
        return held is other._held() and held is not None

    __hash__ = None  # type: ignore[assignment]


class _Look:
    """One walk over a model, as nested tuples that compare."""

    def __init__(self, model: nn.Module) -> None:
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []
        self._registered = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
        self.token = (torch.get_default_dtype(), self.of(model))
        self._alive.clear()

    def of(self, value: Any) -> Any:
        """What a value is, as far as a forward can see it."""
        kind = type(value)
        if kind in _PLAIN:
            # a number that is not one equals itself here; True is not 1
            return (kind, value) if value == value else (kind, "nan")
        if (number := self._seen.get(id(value))) is not None:
            return ("again", number)
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, Tensor):
            # a graph holds for these sizes and this precision, whatever the values are
            kept = (tuple(value.shape), value.dtype, value.device, value.layout)
            return kept if id(value) in self._registered else checksum(value)
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, Mapping):
            return (kind, tuple((self.of(key), self.of(item)) for key, item in list(value.items())))
        if isinstance(value, tuple | list | set | frozenset | deque):
            return (kind, tuple(map(self.of, tuple(value))))
        return self._other(value, kind)

    def _other(self, value: Any, kind: type) -> Any:
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return ("method", self.of(value.__func__), self.of(value.__self__))
        if isinstance(value, functools.partial):
            return ("partial", self.of(value.func), self.of(value.args), self.of(value.keywords))
        if isinstance(value, staticmethod | classmethod):
            return self.of(value.__func__)
        if isinstance(value, property):
            return self.of(value.fget)
        if isinstance(value, types.ModuleType | type | Enum) or _in_library(kind.__module__):
            return _Is(value)
        # an object of the user's: a configuration, for instance
        inside = getattr(value, "__dict__", None)
        held = tuple((name, self.of(item)) for name, item in in_slots(value).items())
        return (_Is(value), _Is(kind), self.of(dict(inside)) if inside else None, held)

    @staticmethod
    def _array(value: np.ndarray) -> Any:
        if value.dtype.hasobject:
            return ("array", repr(value.tolist()))
        return (value.dtype.str, value.shape, xxhash.xxh3_64_intdigest(np.ascontiguousarray(value).data))

    def _module(self, module: nn.Module) -> Any:
        kind = type(module)
        named = [*module.__dict__.items(), *in_slots(module).items()]
        state = tuple((name, self.of(value)) for name, value in named if name not in _ASIDE)
        code = () if _of_torch(kind) else tuple(self.of(value) for value in _read_by_forward(kind))
        return (_Is(module), _Is(kind), state, code)

    def _function(self, function: types.FunctionType) -> Any:
        library = _in_library(function.__module__)
        cells = tuple(self._cell(cell) for cell in function.__closure__ or ())
        given = (self.of(function.__defaults__), self.of(function.__kwdefaults__))
        if library and not function.__closure__:
            given = ((), ())
        space = function.__globals__
        found = []
        for name in _globals(function.__code__):
            if name in space:
                value = space[name]
                if isinstance(value, types.ModuleType):
                    found.append((name, self._settings(value, function.__code__)))
                elif not library or type(value) in _PLAIN:
                    found.append((name, self.of(value)))
        return (_Is(function.__code__), cells, given, tuple(found))

    def _settings(self, module: types.ModuleType, code: types.CodeType) -> Any:
        """The plain values of a user's own module that a function may read from it."""
        if _in_library(module.__name__):
            return None
        named = [name for name in _names(code) if name in vars(module)]
        return tuple((name, self.of(vars(module)[name])) for name in named)

    def _cell(self, cell: types.CellType) -> Any:
        try:
            return self.of(cell.cell_contents)
        except ValueError:
            return "empty"


@dataclass(frozen=True, slots=True)
class _Members:
    """What a class's forward reads of its classes, and how to see that this is still so."""

    found: tuple[tuple[type, str, Any], ...]
    sizes: tuple[int, ...]


_MEMBERS: weakref.WeakKeyDictionary[type, _Members] = weakref.WeakKeyDictionary()


def _read_by_forward(kind: type) -> Iterable[Any]:
    """Functions and plain values of a class and its bases that its forward names, and those that these name."""
    classes = [cls for cls in kind.__mro__ if cls is not object and not _of_torch(cls)]
    known = _MEMBERS.get(kind)
    if known is None or not _still(known, classes):
        known = _Members(_reachable(classes), tuple(len(vars(cls)) for cls in classes))
        _MEMBERS[kind] = known
    return [value for _, _, value in known.found]


def _still(known: _Members, classes: list[type]) -> bool:
    return known.sizes == tuple(len(vars(cls)) for cls in classes) and all(
        vars(cls).get(name) is value for cls, name, value in known.found
    )


def _reachable(classes: list[type]) -> tuple[tuple[type, str, Any], ...]:
    found: dict[tuple[type, str], Any] = {}
    todo, done = ["forward", "__call__"], set()
    while todo:
        name = todo.pop()
        if name in done:
            continue
        done.add(name)
        for cls in classes:
            if name in vars(cls):
                value = vars(cls)[name]
                found[cls, name] = value
                inner = getattr(value, "__func__", getattr(value, "fget", value))
                if isinstance(inner, types.FunctionType):
                    todo += _names(inner.__code__)
    return tuple((cls, name, value) for (cls, name), value in found.items())


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The names that code reads: globals and attributes, also inside of functions that it makes."""
    inner = [name for item in code.co_consts if isinstance(item, types.CodeType) for name in _names(item)]
    return tuple(dict.fromkeys((*code.co_names, *inner)))


@functools.lru_cache(maxsize=4096)
def _globals(code: types.CodeType) -> tuple[str, ...]:
    """The globals that code reads, also inside of functions that it makes."""
    own = [str(step.argval) for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    inner = [name for item in code.co_consts if isinstance(item, types.CodeType) for name in _globals(item)]
    return tuple(dict.fromkeys((*own, *inner)))


@functools.lru_cache(maxsize=4096)
def _in_library(name: str | None) -> bool:
    """Whether a module came with Python or was installed: its code is taken as constant."""
    module = sys.modules.get(name or "")
    if module is None:
        return False
    file = getattr(module, "__file__", None)
    return module.__name__ in sys.builtin_module_names or (file is not None and file.startswith(_LIBRARIES)) or (
        file is None and name != "__main__"
    )  # fmt: skip


def _of_torch(kind: type) -> bool:
    return kind.__module__.split(".", 1)[0] == "torch"
