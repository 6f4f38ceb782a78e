"""A model with its graphs and plans, kept as long as the model lives and is not changed."""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils import _pytree as pytree

from backlight.engine.capture import Inputs, capture, light_copy, rows_of, tensors_of
from backlight.engine.graph import Graph
from backlight.engine.plan import Plan, make_plan
from backlight.engine.run import finish, forward
from backlight.engine.simplify import simplify
from backlight.errors import UnsupportedModel

__all__ = ["Network"]

_SAMPLES = 64
_KEPT_PLANS = 8


class Network:
    """The engine's view of one model.

    ``Network.of(model)`` gives the same object again while the model lives. A change of its structure, its options or
    its parameters is noticed, and what depended on it is made anew.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._graphs: dict[Any, Graph] = {}
        self._plans: dict[Any, Plan] = {}
        self._derived: dict[Any, Any] = {}
        self._structure: _Structure | None = None
        self._weights: _Weights | None = None
        self._busy = threading.RLock()

    @classmethod
    def of(cls, model: nn.Module) -> Network:
        """The network of a model."""
        with _LOCK:
            if model not in _KNOWN:
                _KNOWN[model] = cls(model)
            return _KNOWN[model]

    def plan(self, inputs: Inputs, rules: Any, *, strict: bool = False, device: torch.device | None = None) -> Plan:
        """The plan for inputs of these shapes; made once."""
        model = self._model()
        assert model is not None
        with self._busy:
            self._refresh(model)
            signature = _signature(inputs)
            fixed = (signature, rows_of(inputs))
            if fixed in self._graphs:
                signature = fixed
            graph = self._graphs.get(signature)
            fresh = graph is None
            if graph is None:
                graph = simplify(capture(model, inputs))
                if graph.how == "traced":
                    # it followed the branches of one run, and holds for that run only
                    plan = make_plan(graph, tensors_of(model), rules, strict=strict, device=device)
                    _verify(plan, model, inputs)
                    return plan
                signature = signature if graph.how == "exported" else fixed
                self._graphs[signature] = graph
            key = (signature, _rules_key(rules), strict, str(device))
            kept = self._plans.get(key)
            if kept is None:
                kept = make_plan(graph, tensors_of(model), rules, strict=strict, device=device)
                if fresh:
                    _verify(kept, model, inputs)
                while len(self._plans) >= _KEPT_PLANS:
                    del self._plans[next(iter(self._plans))]
                self._plans[key] = kept
            return kept

    def derived(self, key: Any, make: Callable[[], Any]) -> Any:
        """What was made from the model once; made anew where the model was changed since."""
        model = self._model()
        assert model is not None
        with self._busy:
            self._refresh(model)
            if key not in self._derived:
                self._derived[key] = make()
            return self._derived[key]

    def fingerprint(self) -> str:
        """A hash of a sample of the weights, as of the last plan."""
        parts = [] if self._weights is None else [sample.numpy().tobytes() for sample in self._weights.samples]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def _refresh(self, model: nn.Module) -> None:
        if self._structure is None or self._structure.changed():
            if any(isinstance(t, UninitializedParameter | UninitializedBuffer) for t in tensors_of(model).values()):
                raise UnsupportedModel("the model has parameters without values yet: run it on a batch first")
            self._graphs.clear()
            self._plans.clear()
            self._derived.clear()
            self._structure, self._weights = _Structure(model), None
        if self._weights is None or self._weights.changed():
            self._plans.clear()
            self._derived.clear()
            self._weights = _Weights(model)


def _signature(inputs: Inputs) -> Any:
    leaves, spec = pytree.tree_flatten(inputs)
    described = tuple(
        (tuple(leaf.shape[1:]), leaf.dtype, str(leaf.device)) if isinstance(leaf, Tensor) else repr(leaf)
        for leaf in leaves
    )
    return described, repr(spec)


def _rules_key(rules: Any) -> Any:
    try:
        hash(rules)
    except TypeError:
        return ("by identity", id(rules))
    return rules


_KNOWN: weakref.WeakKeyDictionary[nn.Module, Network] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


class _Structure:
    """Modules, their classes, flags and plain options, and which tensors they hold; cheap to look at again.

    Options inside of other objects (a configuration, for instance) are not looked into.
    """

    def __init__(self, model: nn.Module) -> None:
        # the dicts of modules, not the modules: a model whose explanations are kept must be free to die
        self._seen = []
        for module in model.modules():
            state = module.__dict__
            options = [key for key, value in state.items() if _plain(value)]
            boxes = [key for key, value in state.items() if isinstance(value, list | dict | Tensor) and key[:1] != "_"]
            self._seen.append((state, options, boxes, self._now(state, options, boxes)))

    def changed(self) -> bool:
        """Whether anything differs from when this was made."""
        return any(self._now(state, options, boxes) != then for state, options, boxes, then in self._seen)

    @staticmethod
    def _now(state: dict[str, Any], options: list[str], boxes: list[str]) -> tuple[Any, ...]:
        return (
            len(state),
            [state.get(key) for key in options],
            [_contents(state.get(key)) for key in boxes],
            [*map(id, state["_parameters"].values())],
            [*map(id, state["_buffers"].values())],
            [*map(id, state["_modules"].values())],
            [*state["_forward_hooks"], *state["_forward_pre_hooks"]],
        )


def _plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_plain(item) for item in value)
    return isinstance(value, bool | int | float | str)


def _contents(value: Any) -> Any:
    """What a list, a dict or a tensor that is no parameter holds, as far as it is plain."""
    if isinstance(value, Tensor):
        return id(value), value._version
    items = value.items() if isinstance(value, dict) else enumerate(value or ())
    return [(key, item if _plain(item) else id(item)) for key, item in items]


class _Weights:
    """Versions of the tensors, and a few of their numbers: ``tensor.data`` can be written without a new version."""

    def __init__(self, model: nn.Module) -> None:
        self._tensors = [weakref.ref(tensor) for tensor in (*model.parameters(), *model.buffers())]
        self._then = self._now()
        by_device: dict[torch.device, list[Tensor]] = {}
        for tensor in (*model.parameters(), *model.buffers()):
            flat = tensor.detach().reshape(-1)
            if flat.numel() and flat.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr():
                view = flat[:: max(1, flat.numel() // _SAMPLES)]
                by_device.setdefault(tensor.device, []).append(
                    view.view(torch.int8) if view.dtype is torch.bool else view
                )
        self._views = list(by_device.values())
        self.samples = self._look()

    def changed(self) -> bool:
        """Whether a tensor was written to since this was made."""
        return self._now() != self._then or any(
            not torch.equal(old, new) for old, new in zip(self.samples, self._look(), strict=True)
        )

    def _now(self) -> list[Any]:
        held = [reference() for reference in self._tensors]
        return [None if tensor is None else (tensor._version, tensor.data_ptr()) for tensor in held]

    def _look(self) -> list[Tensor]:
        # as bytes: a weight that is not a number equals itself
        return [torch.cat(views).view(torch.uint8).cpu() for views in self._views]


def _verify(plan: Plan, model: nn.Module, inputs: Inputs) -> None:
    """The plan computes what the model computes, on these inputs."""
    with torch.inference_mode(False), torch.no_grad():
        args, kwargs = inputs
        expected = light_copy(model)(*args, **kwargs)
        leaves = pytree.tree_leaves(inputs)
        run = forward(plan, dict(zip(plan.inputs, leaves, strict=True)))
        actual = finish(plan, run.output)
    rebuilt = [leaf for leaf in pytree.tree_leaves(expected) if isinstance(leaf, Tensor) and leaf.shape == actual.shape]
    # folding changes the order of sums: a few thousand roundings at most
    slack = min(2e4 * torch.finfo(actual.dtype).eps, 0.05)
    for leaf in rebuilt:
        scale = float(leaf.detach().abs().max()) if leaf.numel() else 0.0
        if torch.allclose(
            leaf, actual, rtol=slack, atol=slack * max(scale, torch.finfo(leaf.dtype).tiny), equal_nan=True
        ):
            return
    raise UnsupportedModel(
        f"the captured graph of {type(model).__name__} does not compute what the model computes: its forward depends "
        "on something that a graph does not hold, such as a counter or global state"
    )
