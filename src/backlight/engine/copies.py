"""A model's light copy, its run on inputs of our own, and what that leaves undisturbed: everything of the user's."""

from __future__ import annotations

import contextlib
import copy
import copyreg
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from backlight.errors import BacklightError, DataError, UnsupportedModel

__all__ = ["Inputs", "called", "in_slots", "light_copy", "own_inputs", "run_once", "tensors_of", "undisturbed"]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def run_once(model: nn.Module, inputs: Inputs) -> Any:
    """What the model's own forward returns, without a trace of the run on the model, its inputs or a random state.

    Raises
    ------
    UnsupportedModel
        The forward writes into a parameter.
    DataError
        It fails on these inputs.
    """
    return run_and_tell(model, inputs)[0]


def operators_of_functions(model: nn.Module, inputs: Inputs) -> list[str]:
    """The names of the operators that take functions (a branch, a loop, a scan) in one run; raises as `run_once`."""
    args, kwargs = own_inputs(inputs)
    own = light_copy(model, buffers="apart")
    with torch.inference_mode(False), torch.no_grad(), undisturbed(), _ReadOnly(model) as read:
        called(own, args, kwargs)
    found: list[str] = read.of_functions
    return found


def run_and_tell(model: nn.Module, inputs: Inputs, seed: int | None = None) -> tuple[Any, bool]:
    """See `run_once`; and whether something was drawn from a random state. ``seed`` sets these states before."""
    args, kwargs = own_inputs(inputs)
    own = light_copy(model, buffers="apart")
    with torch.inference_mode(False), torch.no_grad(), undisturbed() as drawn, _ReadOnly(model):
        if seed is not None:
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - what a forward draws from is not ours to choose
            random.seed(seed)
        return called(own, args, kwargs), drawn()


def called(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """What a module of the user's returns: the one boundary around a forward, where whatever it raises is a sentence.

    Nothing else belongs inside: a fault of ours would be taken for one of theirs.
    """
    try:
        return module(*args, **kwargs)
    except BacklightError:
        raise
    # a forward is anybody's code and may raise anything
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        raise DataError(
            f"{type(module).__name__} cannot run on these inputs: {type(error).__name__}"
            + (f": {said}" if said else "")
        ) from error


def in_slots(value: Any) -> dict[str, Any]:
    """What an object keeps in the slots of its class, by name."""
    names: list[str] = copyreg._slotnames(type(value))  # type: ignore[attr-defined]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def own_inputs(inputs: Inputs) -> Inputs:
    """The inputs in memory of our own: a forward may write into them."""
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)  # type: ignore[no-any-return]


@contextlib.contextmanager
def undisturbed() -> Iterator[Callable[[], bool]]:
    """Whatever is drawn inside, the random states of torch, NumPy and Python are afterwards what they were.

    What it yields says whether one of them has changed since.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - the user's, not ours
    torch_state = torch.get_rng_state()

    def drawn() -> bool:
        now = np.random.get_state()  # noqa: NPY002
        return (
            any(not np.array_equal(a, b) for a, b in zip(now, numpy_state, strict=True))
            or random.getstate() != python_state
            or not torch.equal(torch.get_rng_state(), torch_state)
        )

    try:
        with torch.random.fork_rng():
            yield drawn
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


class _ReadOnly(TorchDispatchMode):
    """Refuses operators that write into a parameter of the model."""

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._name = type(model).__name__
        self.of_functions: list[str] = []
        self._protected = {p.untyped_storage().data_ptr() for p in model.parameters() if p.numel()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, HigherOrderOperator):
            # a branch, a loop, a scan: it has no schema of its own
            self.of_functions.append(func.name())
        elif func._schema.is_mutable:
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

    With ``buffers="apart"`` buffers, and whatever else a module holds, are copies, since a forward may write into them:
    containers at any depth, arrays, tensors, objects of the user's own. What cannot be copied is shared.
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
        made = object.__new__(original.__class__)
        copies[id(original)] = made
        state = dict(original.__dict__)
        for name, value in in_slots(original).items():
            object.__setattr__(made, name, value)
        for hooks in [
            name for name in state if name.endswith("_hooks") or "_hooks_with" in name or "_hooks_always" in name
        ]:
            state[hooks] = state[hooks].copy() if hasattr(state[hooks], "copy") else state[hooks]
        # they belong to the gradients of the user's own training
        for hooks in ("_backward_hooks", "_backward_pre_hooks"):
            state[hooks] = type(state[hooks])()
        made.__dict__.update(state)
        made.__dict__["_parameters"] = {name: tensor(value) for name, value in original._parameters.items()}
        made.__dict__["_buffers"] = {name: tensor(value) for name, value in original._buffers.items()}
        made.__dict__["_modules"] = {name: module(value) for name, value in original._modules.items()}
        return made

    result = module(model)
    assert result is not None
    if apart:
        # objects may hold modules and parameters of the tree
        known = {**copies, **tensors}
        for held in copies.values():
            for name, value in held.__dict__.items():
                if name not in _TREE and "_hooks" not in name:
                    held.__dict__[name] = _apart(value, tensor, known)
            for name, value in in_slots(held).items():
                object.__setattr__(held, name, _apart(value, tensor, known))
    return result


# what a module keeps of its own tree
_TREE = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"})

# options and the like, which a forward reads
_READ = frozenset({"torch", "transformers", "tokenizers"})


def _apart(value: Any, tensor: Callable[[Any], Any], known: dict[int, Any]) -> Any:
    """A copy of what a forward may write into; tensors and modules of the tree as the light copy has them."""
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, Tensor):
        return tensor(value)
    if type(value) in (list, set, tuple):
        return type(value)(_apart(item, tensor, known) for item in value)
    if type(value) is dict:
        return {key: _apart(item, tensor, known) for key, item in value.items()}
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if isinstance(value, nn.Module) or type(value).__module__.partition(".")[0] in _READ:
        return value
    try:
        return copy.deepcopy(value, dict(known))
    # an object's own way of being copied may raise anything: a lock, an open file
    except Exception:
        return value


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, also those that ``state_dict`` leaves out; a shared one under each name."""
    found = dict(model.named_parameters(remove_duplicate=False))
    return found | dict(model.named_buffers(remove_duplicate=False))
