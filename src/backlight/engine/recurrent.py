"""Recurrent layers as one operator while a model is captured, and written out step by step afterwards.

`torch.export` runs a recurrent layer step by step, three times, with a symbolic number of rows: seconds for thirty
steps, minutes for a thousand. Here it sees one operator whose shapes are known at once; the steps, which are all alike,
are then put into the graph without being run. Formulas, as in the documentation of `torch.nn.LSTM`, `GRU` and `RNN`:

* LSTM: c′ = σ(f) c + σ(i) tanh(g), h′ = σ(o) tanh(c′), with i, f, g, o the parts of W x + b + U h + d;
* GRU: n = tanh(W_n x + b_n + σ(r) (U_n h + d_n)), h′ = (h − n) σ(z) + n;
* RNN: h′ = tanh(W x + b + U h + d), or its positive part.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

Node: TypeAlias = Any  # of torch.fx, whose arguments are typed too widely to be read

__all__ = ["RecurrentLayersWhole", "write_out"]

_OPTIONS = "Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, "
_LIBRARY = torch.library.Library("backlight", "FRAGMENT")
_LIBRARY.define(f"lstm(Tensor input, Tensor[] hx, {_OPTIONS} bool batch_first) -> (Tensor, Tensor, Tensor)")
for _name in ("gru", "rnn_tanh", "rnn_relu"):
    _LIBRARY.define(f"{_name}(Tensor input, Tensor hx, {_OPTIONS} bool batch_first) -> (Tensor, Tensor)")
_OF_TORCH: dict[Any, Any] = {
    torch.lstm: torch.ops.backlight.lstm.default,
    torch.gru: torch.ops.backlight.gru.default,
    torch.rnn_tanh: torch.ops.backlight.rnn_tanh.default,
    torch.rnn_relu: torch.ops.backlight.rnn_relu.default,
}


def _lstm_shapes(given: Tensor, hx: Sequence[Tensor], *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _output(given, hx[0], *options), hx[0].new_empty(hx[0].shape), hx[1].new_empty(hx[1].shape)


def _one_state_shapes(given: Tensor, hx: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return _output(given, hx, *options), hx.new_empty(hx.shape)


torch.library.register_fake("backlight::lstm", _lstm_shapes, lib=_LIBRARY)
for _name in ("gru", "rnn_tanh", "rnn_relu"):
    torch.library.register_fake(f"backlight::{_name}", _one_state_shapes, lib=_LIBRARY)


def _output(given: Tensor, h: Tensor, *options: Any) -> Tensor:
    bidirectional, batch_first = options[5:7]
    # the steps are written out, so that their number is a number
    int(given.shape[1 if batch_first else 0])
    return given.new_empty((*given.shape[:2], h.shape[2] * (2 if bidirectional else 1)))


class RecurrentLayersWhole(TorchFunctionMode):
    """While it is entered, recurrent layers on padded sequences are one operator each."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _OF_TORCH and not kwargs and len(args) == 9:
            states, params, train, dropout = args[1], args[2], args[6], args[5]
            # packed sequences have other arguments in these places; dropout between layers draws
            padded = not isinstance(params, Tensor) and isinstance(states, Tensor) is (func is not torch.lstm)
            if padded and not (train and dropout):
                return _OF_TORCH[func](args[0], states, list(params), *args[3:])
        return func(*args, **(kwargs or {}))


def write_out(graph: fx.Graph) -> None:
    """Put the steps of every recurrent layer into a graph, in the place of its one operator."""
    found: list[Node] = [node for node in graph.nodes if node.op == "call_function" and node.target in _STEPS]
    for node in found:
        with graph.inserting_before(node):
            results = _Layers(graph, node).results()
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)
    if found:
        graph.eliminate_dead_code()


class _Seen(NamedTuple):
    """What a graph's builder asks of a value."""

    shape: tuple[Any, ...]
    dtype: torch.dtype


class _Layers:
    """The nodes of one recurrent operator."""

    def __init__(self, graph: fx.Graph, node: Node) -> None:
        names = ("given", "states", "params", "has_biases", "num_layers", "_", "_", "bidirectional", "batch_first")
        said = dict(zip(names, node.args, strict=True))
        self.graph, self.step = graph, _STEPS[node.target]
        self.given, self.batch_first = said["given"], said["batch_first"]
        self.ways = 2 if said["bidirectional"] else 1
        self.layers, self.has_biases = int(said["num_layers"]), said["has_biases"]
        self.params: list[Any] = list(said["params"])
        states = said["states"]
        self.states = list(states) if isinstance(states, list | tuple) else [states]
        self.modules = node.meta.get("nn_module_stack")
        value = self.given.meta["val"]
        self.dtype: torch.dtype = value.dtype
        first, second, _ = value.shape
        self.rows, self.steps = (first, int(second)) if self.batch_first else (second, int(first))

    def call(self, target: Any, *args: Any, shape: tuple[Any, ...] | None = None) -> Node:
        made = self.graph.call_function(target, args)
        made.meta["nn_module_stack"] = self.modules
        if shape is not None:
            made.meta["val"] = _Seen(shape, self.dtype)
        return made

    def parts(self, value: Node, count: int, axis: int, shape: tuple[Any, ...]) -> list[Node]:
        whole = self.call(torch.ops.aten.split.Tensor, value, shape[-1], axis)
        return [self.call(operator.getitem, whole, k, shape=shape) for k in range(count)]

    def linear(self, value: Node, weight: Node, bias: Node | None, leading: tuple[Any, ...]) -> Node:
        units = int(weight.meta["val"].shape[0])
        return self.call(torch.ops.aten.linear.default, value, weight, bias, shape=(*leading, units))

    def results(self) -> list[Node]:
        """The output of the last layer, and the last states of all."""
        value = self.swapped(self.given, (self.steps, self.rows)) if self.batch_first else self.given
        firsts = [self.of_layers(state) for state in self.states]
        size = len(self.params) // (self.layers * self.ways)
        lasts: list[list[Node]] = [[] for _ in firsts]
        for layer in range(self.layers):
            made = []
            for way in range(self.ways):
                at = layer * self.ways + way
                params = self.params[at * size : (at + 1) * size]
                output, states = self.one(value, [state[at] for state in firsts], params, way == 1)
                made.append(output)
                for kept, state in zip(lasts, states, strict=True):
                    kept.append(state)
            value = made[0] if len(made) == 1 else self.both(made)
        output = self.swapped(value, (self.rows, self.steps)) if self.batch_first else value
        stacked = [
            self.call(torch.ops.aten.stack.default, kept, shape=(len(kept), *kept[0].meta["val"].shape))
            for kept in lasts
        ]
        return [output, *stacked]

    def swapped(self, value: Node, leading: tuple[Any, Any]) -> Node:
        return self.call(torch.ops.aten.transpose.int, value, 0, 1, shape=(*leading, value.meta["val"].shape[2]))

    def both(self, made: list[Node]) -> Node:
        shape = made[0].meta["val"].shape
        return self.call(torch.ops.aten.cat.default, made, 2, shape=(*shape[:2], 2 * shape[2]))

    def of_layers(self, state: Node) -> list[Node]:
        whole = self.call(torch.ops.aten.unbind.int, state)
        shape = tuple(state.meta["val"].shape[1:])
        return [self.call(operator.getitem, whole, k, shape=shape) for k in range(self.layers * self.ways)]

    def one(self, given: Node, states: list[Node], params: list[Any], backwards: bool) -> tuple[Node, list[Node]]:
        """One layer in one direction: its output at every step, and its last states."""
        aten, lead = torch.ops.aten, (self.steps, self.rows)
        before = self.linear(given, params[0], params[2] if self.has_biases else None, lead)
        if backwards:
            before = self.call(aten.flip.default, before, [0], shape=before.meta["val"].shape)
        steps = self.call(aten.unbind.int, before)
        width = before.meta["val"].shape[2]
        now = [self.call(aten.unsqueeze.default, state, 0, shape=(1, *state.meta["val"].shape)) for state in states]
        outputs = []
        for k in range(self.steps):
            now = self.step(self, self.call(operator.getitem, steps, k, shape=(self.rows, width)), now, params)
            outputs.append(now[0])
        output = self.call(
            aten.cat.default, outputs[::-1] if backwards else outputs, shape=(*lead, now[0].meta["val"].shape[2])
        )
        last = [self.call(aten.squeeze.dim, state, 0, shape=state.meta["val"].shape[1:]) for state in now]
        return output, last

    def recurrence(self, h: Node, params: list[Any]) -> Node:
        return self.linear(h, params[1], params[3] if self.has_biases else None, (1, self.rows))


def _lstm_step(layers: _Layers, before: Node, states: list[Node], params: list[Any]) -> list[Node]:
    aten, (h, c) = torch.ops.aten, states
    units = int(c.meta["val"].shape[2])
    shape = (1, layers.rows, units)
    gates = layers.call(aten.add.Tensor, layers.recurrence(h, params), before, shape=(1, layers.rows, 4 * units))
    i, f, g, o = layers.parts(gates, 4, 2, shape)
    i, f, o = (layers.call(aten.sigmoid.default, gate, shape=shape) for gate in (i, f, o))
    kept = layers.call(aten.mul.Tensor, f, c, shape=shape)
    new = layers.call(aten.mul.Tensor, i, layers.call(aten.tanh.default, g, shape=shape), shape=shape)
    c = layers.call(aten.add.Tensor, kept, new, shape=shape)
    h = layers.call(aten.mul.Tensor, o, layers.call(aten.tanh.default, c, shape=shape), shape=shape)
    # a projection is the last of 3 without biases, of 5 with them
    if len(params) == (5 if layers.has_biases else 3):
        h = layers.linear(h, params[-1], None, (1, layers.rows))
    return [h, c]


def _gru_step(layers: _Layers, before: Node, states: list[Node], params: list[Any]) -> list[Node]:
    aten, (h,) = torch.ops.aten, states
    units = int(h.meta["val"].shape[2])
    shape = (1, layers.rows, units)
    of_x = layers.parts(before, 3, 1, (layers.rows, units))
    of_h = layers.parts(layers.recurrence(h, params), 3, 2, shape)
    r, z = (
        layers.call(aten.sigmoid.default, layers.call(aten.add.Tensor, of_h[k], of_x[k], shape=shape), shape=shape)
        for k in range(2)
    )
    reset = layers.call(aten.mul.Tensor, of_h[2], r, shape=shape)
    n = layers.call(aten.tanh.default, layers.call(aten.add.Tensor, of_x[2], reset, shape=shape), shape=shape)
    rest = layers.call(aten.sub.Tensor, h, n, shape=shape)
    return [layers.call(aten.add.Tensor, layers.call(aten.mul.Tensor, rest, z, shape=shape), n, shape=shape)]


def _rnn_step(function: Any) -> Callable[[_Layers, Node, list[Node], list[Any]], list[Node]]:
    def step(layers: _Layers, before: Node, states: list[Node], params: list[Any]) -> list[Node]:
        past = layers.recurrence(states[0], params)
        shape = tuple(past.meta["val"].shape)
        return [layers.call(function, layers.call(torch.ops.aten.add.Tensor, past, before, shape=shape), shape=shape)]

    return step


_STEPS: dict[Any, Callable[[_Layers, Node, list[Node], list[Any]], list[Node]]] = {
    torch.ops.backlight.lstm.default: _lstm_step,
    torch.ops.backlight.gru.default: _gru_step,
    torch.ops.backlight.rnn_tanh.default: _rnn_step(torch.ops.aten.tanh.default),
    torch.ops.backlight.rnn_relu.default: _rnn_step(torch.ops.aten.relu.default),
    torch.ops.aten.lstm.input: _lstm_step,
    torch.ops.aten.gru.input: _gru_step,
    torch.ops.aten.rnn_tanh.input: _rnn_step(torch.ops.aten.tanh.default),
    torch.ops.aten.rnn_relu.input: _rnn_step(torch.ops.aten.relu.default),
}
