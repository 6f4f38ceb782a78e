"""A model's light copy, its run on inputs of our own, and what that leaves undisturbed: everything of the user's."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from backlight.errors import UnsupportedModel

__all__ = ["Inputs", "light_copy", "own_inputs", "run_once", "tensors_of", "undisturbed"]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def run_once(model: nn.Module, inputs: Inputs) -> Any:
    """What the model's own forward returns, without a trace of the run on the model, its inputs or a random state.

    Raises
    ------
    UnsupportedModel
        The forward writes into a parameter.
    """
    args, kwargs = own_inputs(inputs)
    with torch.inference_mode(False), torch.no_grad(), undisturbed(), _ReadOnly(model):
        return light_copy(model, buffers="apart")(*args, **kwargs)


def own_inputs(inputs: Inputs) -> Inputs:
    """The inputs in memory of our own: a forward may write into them."""
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)  # type: ignore[no-any-return]


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever is drawn inside, the random states of torch, NumPy and Python are afterwards what they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - the user's, not ours
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


class _ReadOnly(TorchDispatchMode):
    """Refuses operators that write into a parameter of the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._name = type(model).__name__
        self._protected = {p.untyped_storage().data_ptr() for p in model.parameters() if p.numel()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable:
            given = {**dict(zip([a.name for a in func._schema.arguments], args, strict=False)), **(kwargs or {})}
            written = [given.get(a.name) for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
            for leaf in pytree.tree_leaves(written):
                if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() in self._protected:
                    raise UnsupportedModel(
                        f"the forward of {self._name} writes into its own parameters ({func.__name__}), which an "
                        "explanation must leave alone: move that into the training loop"
                    )
        return func(*args, **(kwargs or {}))


def light_copy(model: nn.Module, buffers: str = "shared") -> nn.Module:
    """The same tree of modules over the same memory: new module objects, parameters detached.

    With ``buffers="apart"`` buffers, lists and dicts are copies, since a forward may write into them.
    """
    copies: dict[int, nn.Module] = {}
    tensors: dict[int, Any] = {}
    apart = buffers == "apart"

    def tensor(value: Any) -> Any:
        if value is None:
            return None
        if id(value) not in tensors:
            seen = value.detach()
            if apart and not isinstance(value, nn.Parameter):
                seen = seen.clone()
            tensors[id(value)] = nn.Parameter(seen, requires_grad=False) if isinstance(value, nn.Parameter) else seen
        return tensors[id(value)]

    def module(original: nn.Module | None) -> nn.Module | None:
        if original is None:
            return None
        if id(original) in copies:
            return copies[id(original)]
        # a GraphModule's own __new__ would make another class
        copy = object.__new__(original.__class__)
        copies[id(original)] = copy
        state = dict(original.__dict__)
        for hooks in [
            name for name in state if name.endswith("_hooks") or "_hooks_with" in name or "_hooks_always" in name
        ]:
            state[hooks] = state[hooks].copy() if hasattr(state[hooks], "copy") else state[hooks]
        if apart:
            state |= {name: value.copy() for name, value in state.items() if type(value) in (list, dict, set)}
        # they belong to the gradients of the user's own training
        for hooks in ("_backward_hooks", "_backward_pre_hooks"):
            state[hooks] = type(state[hooks])()
        copy.__dict__.update(state)
        copy.__dict__["_parameters"] = {name: tensor(value) for name, value in original._parameters.items()}
        copy.__dict__["_buffers"] = {name: tensor(value) for name, value in original._buffers.items()}
        copy.__dict__["_modules"] = {name: module(value) for name, value in original._modules.items()}
        return copy

    result = module(model)
    assert result is not None
    return result


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, also those that ``state_dict`` leaves out; a shared one under each name."""
    found = dict(model.named_parameters(remove_duplicate=False))
    return found | dict(model.named_buffers(remove_duplicate=False))
