"""A module in double precision, whatever precision its own code names.

``module.double()`` casts what a module holds. What its forward writes out, ``x.float()``, ``dtype=torch.float32``, a
literal tensor, a mask made on the way, stays in single precision, and meets the rest as an error or as rounding. Here
every such word means double precision while the module runs: the function is the one that its numbers define, without
the rounding between them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from backlight.engine.copies import light_copy

__all__ = ["double_copy"]

_LOWER = frozenset({torch.float16, torch.bfloat16, torch.float32})
# methods that name a precision
_CASTS = frozenset({torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16})


def double_copy(model: nn.Module) -> nn.Module:
    """A copy that computes in double precision; the model is left as it is.

    Its class is one of its own, under the model's name: the forward of that class runs the model's own forward.
    """
    copy = light_copy(model).double()
    kind = type(copy)
    own = inspect.getattr_static(kind, "forward")
    if isinstance(copy, torch.jit.ScriptModule) or "forward" in copy.__dict__ or not inspect.isfunction(own):
        return copy

    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _InDouble():
            return kind.forward(self, *args, **kwargs)

    names = {"forward": forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    copy.__class__ = type(kind.__name__, (kind,), names)
    return copy


class _InDouble(TorchFunctionMode):
    """Lower precisions, named or met, are double precision."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _CASTS:
            func = torch.Tensor.double
        args, kwargs = pytree.tree_map(_doubled, (args, kwargs or {}))
        return pytree.tree_map(_tensor_doubled, func(*args, **kwargs))


def _doubled(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return torch.float64 if value in _LOWER else value
    return _tensor_doubled(value)


def _tensor_doubled(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.dtype in _LOWER else value
