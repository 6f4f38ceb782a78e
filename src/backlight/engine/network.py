"""A model with its graphs and plans, kept as long as the model lives and is not changed."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils import _pytree as pytree

from backlight.engine.capture import Inputs, capture, capture_lengths, input_names, rows_of, tensors_of
from backlight.engine.copies import run_and_tell
from backlight.engine.graph import Graph, Ref
from backlight.engine.lengths import Exported, axes_of_lengths
from backlight.engine.outputs import Outputs
from backlight.engine.plan import Plan, make_plan
from backlight.engine.precision import double_copy
from backlight.engine.run import finish, forward
from backlight.engine.simplify import simplify
from backlight.engine.watch import Checksums, Structure
from backlight.errors import BacklightError, DataError, UnsupportedModel, warn

__all__ = ["Network"]

_KEPT_PLANS = 8
# texts of another length are another graph, made from what was captured once: those of the last lengths are kept
_KEPT_GRAPHS = 16
# how often a forward that draws is run again: a branch that one coin decides is missed once in 16
_DRAWS = 4

_WIDENED = (
    "{} holds double precision and its forward names a lower one, so that it cannot run itself: it is explained with "
    "double precision in the place of every one that is named"
)


class Network:
    """The engine's view of one model.

    ``Network.of(model)`` gives the same object again while the model lives. A change of its structure, its options or
    its parameters is noticed, and what depended on it is made anew.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._graphs: dict[Any, Graph] = {}
        self._exported: dict[Any, tuple[Any, list[Exported]]] = {}
        self._unproved: dict[Any, Graph] = {}
        self._lengths_said = False
        self._plain: set[Any] = set()
        self._plans: dict[Any, Plan] = {}
        self._derived: dict[Any, Any] = {}
        self._structure: Structure | None = None
        self._weights: Checksums | None = None
        self._busy = threading.RLock()
        self._steady = threading.local()

    @classmethod
    def of(cls, model: nn.Module) -> Network:
        """The network of a model."""
        with _LOCK:
            if model not in _KNOWN:
                if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
                    raise UnsupportedModel(
                        f"{type(model).__name__} is compiled by TorchScript, whose operators cannot be followed: give "
                        "the module that it was made from"
                    )
                if any(
                    isinstance(value, torch.ScriptObject)
                    for module in model.modules()
                    for value in vars(module).values()
                ):
                    raise UnsupportedModel(
                        f"{type(model).__name__} is quantised: its weights are packed, and whole numbers have no "
                        "gradient; explain the network that it was made from"
                    )
                _KNOWN[model] = cls(model)
            return _KNOWN[model]

    def plan(
        self,
        inputs: Inputs,
        rules: Any,
        *,
        strict: bool = False,
        device: torch.device | None = None,
        outputs: Outputs | None = None,
    ) -> Plan:
        """The plan for inputs of these shapes and for the chosen output; made once."""
        outputs = outputs or Outputs()
        model = self._model()
        assert model is not None
        with self._busy:
            self._refresh(model)
            signature: Any = _signature(inputs)
            signature = (signature, None if signature in self._plain else outputs)
            fixed = (signature, rows_of(inputs))
            if fixed in self._graphs:
                signature = fixed
            graph = self._graphs.get(signature)
            if graph is None:
                graph, plan = self._captured(model, inputs, outputs, rules, strict=strict, device=device)
                if outputs.choice is None and graph.layout is None and isinstance(graph.output, Ref):
                    # one tensor: whatever the target looks at, it is that
                    loose = _signature(inputs, self._open_axes(model, inputs))
                    self._plain |= {signature[0], loose}
                    if (loose, outputs) in self._exported:
                        self._exported[loose, None] = self._exported.pop((loose, outputs))
                    signature = (signature[0], None)
                    fixed = (signature, rows_of(inputs))
                if graph.how == "traced":
                    # it followed the branches of one run, and holds for that run only
                    return plan
                signature = signature if graph.how == "exported" else fixed
                _keep(self._graphs, signature, graph, _KEPT_GRAPHS)
                _keep(self._plans, (signature, _rules_key(rules), strict, str(device)), plan, _KEPT_PLANS)
                return plan
            key = (signature, _rules_key(rules), strict, str(device))
            kept = self._plans.get(key)
            if kept is None:
                kept = make_plan(graph, tensors_of(model), rules, strict=strict, device=device)
                _keep(self._plans, key, kept, _KEPT_PLANS)
            return kept

    def _captured(
        self, model: nn.Module, inputs: Inputs, outputs: Outputs, rules: Any, **options: Any
    ) -> tuple[Graph, Plan]:
        """A graph for inputs of these shapes, and a plan that computes on them what the model computes."""
        whole, model, note, drew = _ran(model, inputs)
        expected, _ = outputs.take(whole)

        def planned(found: Graph) -> tuple[Graph, Plan] | None:
            graph = replace(simplify(found), note=note)
            plan = make_plan(graph, tensors_of(model), rules, **options)
            if drew:
                _require_one_output(model, inputs, whole)
            return (graph, plan) if _agrees(plan, model, inputs, expected) else None

        def tried(exported: Exported) -> tuple[Graph, Plan] | None:
            try:
                found = exported.at(model, inputs)
                return None if found is None else planned(found)
            except BacklightError:
                raise
            # at a length that it does not hold for, a program may fail in any way; it is captured for that length then
            except Exception:
                return None

        for exported in self._of_lengths(model, inputs, outputs):
            if (made := tried(exported)) is not None:
                return made
        # what was captured in vain, since these rules do not fit it, serves other rules
        key = (_signature(inputs), rows_of(inputs), outputs)
        if key not in self._unproved:
            self._unproved = {key: capture(model, inputs, outputs)}
        made = planned(self._unproved[key])
        self._unproved.clear()
        if made is not None:
            return made
        raise UnsupportedModel(
            f"the captured graph of {type(model).__name__} does not compute what the model computes: its forward "
            "depends on something that a graph does not hold, such as a counter or global state"
        )

    @staticmethod
    def _open_axes(model: nn.Module, inputs: Inputs) -> dict[int, tuple[int, ...]]:
        return axes_of_lengths(input_names(model, *inputs), pytree.tree_leaves(inputs))

    def _of_lengths(self, model: nn.Module, inputs: Inputs, outputs: Outputs) -> Iterator[Exported]:
        """What was captured of this model for texts of any length; where none of it holds, it is captured now."""
        axes = self._open_axes(model, inputs)
        if not axes:
            return
        loose = _signature(inputs, axes)
        key = (loose, None if loose in self._plain else outputs)
        first, known = self._exported.get(key, (_signature(inputs), []))
        yield from known
        if key in self._exported and not any(exported.open for exported in known):
            if first != _signature(inputs) and not self._lengths_said:
                self._lengths_said = True
                warn(
                    f"{type(model).__name__} is captured anew for each length of its texts, since its forward goes by "
                    "their length or by the data: pad them to a few lengths",
                )
            return
        exported = capture_lengths(model, inputs, outputs)
        if exported is not None:
            known = [*known[1 - _KEPT_GRAPHS :], exported]
        _keep(self._exported, key, (first, known), _KEPT_GRAPHS)
        if exported is not None:
            yield exported

    def run(self, inputs: Inputs) -> Any:
        """What the model itself returns where its weights are, or, if it is explained in double precision, so.

        Raises
        ------
        DataError
            It fails on these inputs.
        """
        model = self._model()
        assert model is not None
        where = next((tensor.device for tensor in tensors_of(model).values()), None)
        here = pytree.tree_map(lambda leaf: leaf.to(where) if where and isinstance(leaf, Tensor) else leaf, inputs)
        return _ran(model, here)[0]

    @contextlib.contextmanager
    def steady(self) -> Iterator[None]:
        """While one batch is explained the model is looked at once, by this thread."""
        if getattr(self._steady, "looked", None) is not None:
            yield
            return
        self._steady.looked = False
        try:
            yield
        finally:
            self._steady.looked = None

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
        """A hash of all weights, as of the last plan."""
        sums = [] if self._weights is None else [item[-1] if len(item) > 4 else 0 for item in self._weights.sums]
        return hashlib.sha256(repr(sums).encode()).hexdigest()[:16]

    def _refresh(self, model: nn.Module) -> None:
        if getattr(self._steady, "looked", False):
            return
        if self._structure is None or self._structure.changed(model):
            if any(isinstance(t, UninitializedParameter | UninitializedBuffer) for t in tensors_of(model).values()):
                raise UnsupportedModel("the model has parameters without values yet: run it on a batch first")
            self._graphs.clear()
            self._exported.clear()
            self._unproved.clear()
            self._plain.clear()
            self._plans.clear()
            self._derived.clear()
            self._structure, self._weights = Structure(model), None
        if self._weights is None or self._weights.changed(model):
            self._plans.clear()
            self._derived.clear()
            self._weights = Checksums(model)
        if getattr(self._steady, "looked", None) is not None:
            self._steady.looked = True


def _signature(inputs: Inputs, without: Mapping[int, tuple[int, ...]] | None = None) -> Any:
    """The kinds of inputs by their sizes but the rows, and but axes that are left out."""
    leaves, spec = pytree.tree_flatten(inputs)

    def sizes(position: int, leaf: Tensor) -> tuple[int | None, ...]:
        out = (without or {}).get(position, ())
        return tuple(None if axis in out else size for axis, size in enumerate(leaf.shape[1:], start=1))

    described = tuple(
        (sizes(position, leaf), leaf.dtype, str(leaf.device)) if isinstance(leaf, Tensor) else repr(leaf)
        for position, leaf in enumerate(leaves)
    )
    return described, repr(spec)


def _keep(held: dict[Any, Any], key: Any, value: Any, count: int) -> None:
    """Keep a value, and no more than so many."""
    while len(held) >= count and key not in held:
        del held[next(iter(held))]
    held[key] = value


def _rules_key(rules: Any) -> Any:
    try:
        hash(rules)
    except TypeError:
        return ("by identity", id(rules))
    return rules


_KNOWN: weakref.WeakKeyDictionary[nn.Module, Network] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def _not_finite(model: nn.Module) -> str:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return f"{type(model).__name__}: {name!r} holds values that are not finite, and so does the output"
    return f"the output of {type(model).__name__} is not finite on these inputs, and infinity cannot be shared"


def _ran(model: nn.Module, inputs: Inputs) -> tuple[Any, nn.Module, str, bool]:
    """What the model returns, the model that returned it, a word where that is not the one given, whether it drew.

    A network cast to double precision whose own code names a lower one cannot run. What was asked for by the cast is
    the function of its numbers in double precision, and that is unambiguous.
    """
    try:
        whole, drew = run_and_tell(model, inputs)
        return whole, model, "", drew
    except DataError:
        held = {tensor.dtype for tensor in tensors_of(model).values() if tensor.is_floating_point()}
        if held != {torch.float64}:
            raise
        wide = double_copy(model)
        with contextlib.suppress(DataError):
            whole, drew = run_and_tell(wide, inputs)
            return whole, wide, _WIDENED.format(type(model).__name__), drew
        raise


def _require_one_output(model: nn.Module, inputs: Inputs, whole: Any) -> None:
    """Refuse a forward whose output changes with what it draws: a graph would hold one draw for good."""
    for seed in range(_DRAWS):
        again, _ = run_and_tell(model, inputs, seed)
        for one, other in zip(pytree.tree_leaves(whole), pytree.tree_leaves(again), strict=False):
            if isinstance(one, Tensor) and one.is_floating_point() and not torch.allclose(one, other, 1e-3, 1e-6):
                raise UnsupportedModel(
                    f"the forward of {type(model).__name__} draws at random and its output changes with it, so that it "
                    "has no one explanation: switch the draws off, or give a model with what it draws held fixed"
                )


def _agrees(plan: Plan, model: nn.Module, inputs: Inputs, expected: Any) -> bool:
    """Whether the plan computes what the model computed on these inputs.

    Raises
    ------
    DataError
        What the model computes is not finite.
    """
    with torch.inference_mode(False), torch.no_grad():
        leaves = pytree.tree_leaves(inputs)
        # nothing goes back: what the steps would keep is dropped
        run = forward(plan, dict(zip(plan.inputs, leaves, strict=True)), cuts=(0,))
        actual = finish(plan, run.output)
    rebuilt = [leaf for leaf in pytree.tree_leaves(expected) if isinstance(leaf, Tensor) and leaf.shape == actual.shape]
    # folding changes the order of sums: a few thousand roundings at most, in the coarsest precision of the graph
    eps = max(torch.finfo(dtype).eps for dtype in {actual.dtype, *plan.graph.precisions})
    slack = min(2e4 * eps, 0.05)
    for leaf in rebuilt:
        if not bool(torch.isfinite(leaf).all()):
            raise DataError(_not_finite(model))
        scale = float(leaf.detach().abs().max()) if leaf.numel() else 0.0
        if torch.allclose(
            leaf, actual, rtol=slack, atol=slack * max(scale, torch.finfo(leaf.dtype).tiny), equal_nan=True
        ):
            return True
    return False
