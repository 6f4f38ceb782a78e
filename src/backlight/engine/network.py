"""A model with its graphs and plans, kept as long as the model lives and is not changed."""

from __future__ import annotations

import hashlib
import threading
import weakref
import zlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from backlight.engine.capture import Inputs, capture, light_copy, tensors_of
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

    _known: weakref.WeakKeyDictionary[nn.Module, Network] = weakref.WeakKeyDictionary()
    _lock = threading.Lock()

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._graphs: dict[Any, Graph] = {}
        self._plans: dict[Any, Plan] = {}
        self._structure: Any = None
        self._weights: Any = None
        self._busy = threading.RLock()

    @classmethod
    def of(cls, model: nn.Module) -> Network:
        """The network of a model."""
        with cls._lock:
            if model not in cls._known:
                cls._known[model] = cls(model)
            return cls._known[model]

    def plan(self, inputs: Inputs, rules: Any, *, strict: bool = False, device: torch.device | None = None) -> Plan:
        """The plan for inputs of these shapes; made once."""
        model = self._model()
        assert model is not None
        with self._busy:
            self._refresh(model)
            signature = _signature(inputs)
            graph, fresh = self._graphs.get(signature), False
            if graph is None:
                fresh = True
                graph = simplify(capture(model, inputs))
                if graph.how == "exported":
                    self._graphs[signature] = graph
                elif graph.how != "traced":
                    signature = (signature, _rows(inputs))
                    graph = self._graphs.setdefault(signature, graph)
            key = (signature, _rules_key(rules), strict, str(device))
            plan = self._plans.get(key)
            # a traced graph followed the branches of one run
            if plan is None or graph.how == "traced":
                plan = make_plan(graph, tensors_of(model), rules, strict=strict, device=device)
                if fresh:
                    _verify(plan, model, inputs)
                while len(self._plans) >= _KEPT_PLANS:
                    del self._plans[next(iter(self._plans))]
                self._plans[key] = plan
            return plan

    def fingerprint(self) -> str:
        """A hash of a sample of the weights, as of the last plan."""
        return hashlib.sha256(repr([held[-1] for held in self._weights or ()]).encode()).hexdigest()[:16]

    def _refresh(self, model: nn.Module) -> None:
        structure = _structure(model)
        if structure != self._structure:
            self._graphs.clear()
            self._plans.clear()
            self._structure = structure
        weights = _weights(model)
        if weights != self._weights:
            self._plans.clear()
            self._weights = weights


def _signature(inputs: Inputs) -> Any:
    leaves, spec = pytree.tree_flatten(inputs)
    described = tuple(
        (tuple(leaf.shape[1:]), leaf.dtype, str(leaf.device)) if isinstance(leaf, Tensor) else repr(leaf)
        for leaf in leaves
    )
    return described, repr(spec)


def _rows(inputs: Inputs) -> int:
    return next(
        (int(leaf.shape[0]) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()), 0
    )


def _rules_key(rules: Any) -> Any:
    try:
        hash(rules)
    except TypeError:
        return ("by identity", id(rules))
    return rules


def _structure(model: nn.Module) -> Any:
    """Modules, their classes, flags and plain options, and which tensors they hold."""
    found: list[Any] = []
    for name, module in model.named_modules(remove_duplicate=False):
        options = tuple(
            (key, value)
            for key, value in module.__dict__.items()
            if isinstance(value, bool | int | float | str | tuple) and _plain(value)
        )
        hooks = tuple(module._forward_hooks) + tuple(module._forward_pre_hooks)
        held = tuple(
            (key, id(value), None if value is None else value.shape) for key, value in module._parameters.items()
        )
        kept = tuple((key, id(value), None if value is None else value.shape) for key, value in module._buffers.items())
        found.append((name, id(module), type(module), options, hooks, held, kept))
    return found


def _plain(value: Any) -> bool:
    return (
        all(_plain(item) for item in value) if isinstance(value, tuple) else isinstance(value, bool | int | float | str)
    )


def _weights(model: nn.Module) -> Any:
    """Versions of the tensors, and a few of their numbers: ``tensor.data`` can be written without a new version."""
    found: list[Any] = []
    for tensor in (*model.parameters(), *model.buffers()):
        flat = tensor.detach().flatten() if tensor.is_contiguous() else tensor.detach().reshape(-1)
        step = max(1, flat.numel() // _SAMPLES)
        found.append((id(tensor), tensor._version, tensor.data_ptr(), tensor.device, zlib.crc32(_bits(flat[::step]))))
    return found


def _bits(sample: Tensor) -> bytes:
    return sample.contiguous().cpu().view(torch.uint8).numpy().tobytes()


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
    slack = 2e4 * torch.finfo(actual.dtype).eps
    for leaf in rebuilt:
        scale = float(leaf.detach().abs().max()) if leaf.numel() else 0.0
        if torch.allclose(
            leaf, actual, rtol=slack, atol=slack * max(scale, torch.finfo(leaf.dtype).tiny), equal_nan=True
        ):
            return
    raise UnsupportedModel(
        f"the captured graph of {type(model).__name__} does not compute what the model computes: its forward depends on "
        "something that a graph does not hold, such as a counter or global state"
    )
