"""Rewrites of hidden units: their order, their size, copies of them, and units that do nothing."""

from __future__ import annotations

from dataclasses import replace

import torch

from backlight._audit.rewrite import (
    column_blocks,
    grow,
    growing,
    identity,
    no_columns,
    normal,
    permuted,
    rewrite,
    row_like,
    scale_of_columns,
    uniform,
)
from backlight.canonical.affine import moved_bias
from backlight.canonical.consumers import Tracker
from backlight.canonical.form import Affine, Form, Operator, Pointwise, Term, Value, lengthwise, scaling
from backlight.canonical.units import HOMOGENEOUS, Layer, layers, rescale
from backlight.rules import Dense, Elementwise

__all__: list[str] = []

_RELU = torch.ops.aten.relu.default
_CAT = torch.ops.aten.cat.default


@rewrite("permute units", why="sums commute", group="symmetry")
def permute(form: Form, generator: torch.Generator) -> bool:
    found = [layer for layer in layers(form) if layer.free and layer.readers.all_mix]
    for layer in found:
        order = torch.randperm(layer.count, generator=generator)
        maps = [permuted(reader, order) for reader in layer.readers.mixing]
        layer.units.source = layer.part(order, layer.before.name)
        for reader, made in zip(layer.readers.mixing, maps, strict=True):
            reader.term.map = made
    return bool(found)


@rewrite("rescale units", why="relu(d z) = d relu(z) for d > 0: cross-layer equalisation", moves="epsilon")
def rescale_units(form: Form, generator: torch.Generator) -> bool:
    found = False
    for k in range(len(layers(form, HOMOGENEOUS))):
        # what a layer reads changes with the layer before it
        layer = layers(form, HOMOGENEOUS)[k]
        if layer.readers.closed:
            rescale(layer, torch.exp(uniform(generator, layer.count, low=-2.0, high=2.0)))
            found = True
    return found


def _copies(layer: Layer, generator: torch.Generator, share: float) -> torch.Tensor:
    count = max(1, int(share * layer.count))
    return torch.randperm(layer.count, generator=generator)[:count]


def _duplicate(form: Form, generator: torch.Generator, *, signed: bool) -> bool:
    for k in range(len(growing(form))):
        layer = growing(form)[k]
        index = _copies(layer, generator, 0.25)
        part = torch.full((len(index),), 2.0).double() if signed else uniform(generator, len(index), low=0.2, high=0.8)
        weights = [term.map.weight[index] for term in layer.before.terms]
        if layer.biases().shape[1] > 1:
            continue
        columns = []
        for reader in layer.readers.mixing:
            block = column_blocks(reader)[index]
            columns.append(block * (1 - part).view(-1, *(1,) * (block.dim() - 1)))
        matrix = torch.eye(layer.count, dtype=torch.float64)
        matrix[index, index] = part
        bias = layer.biases()[index, 0]
        layer.transform(matrix)
        grow(layer, weights, bias, columns)
        form.refresh()
    return bool(growing(form))


@rewrite("duplicate units", why="λ + (1 − λ) = 1: wider networks from narrower ones", group="symmetry", moves="epsilon")
def duplicate(form: Form, generator: torch.Generator) -> bool:
    return _duplicate(form, generator, signed=False)


@rewrite(
    "duplicate units with opposite signs", why="2 − 1 = 1", group="symmetry", moves="epsilon gamma zplus alphabeta"
)
def signed_duplicate(form: Form, generator: torch.Generator) -> bool:
    return _duplicate(form, generator, signed=True)


@rewrite("dead units", why="relu(−1) = 0: what pruning removes", group="symmetry", moves="epsilon")
def dead(form: Form, generator: torch.Generator) -> bool:
    for k in range(len(growing(form))):
        layer = growing(form)[k]
        count = max(1, layer.count // 4)
        weights = [torch.zeros_like(row) for row in row_like(layer, generator, count)]
        columns = []
        for reader in layer.readers.mixing:
            shape = no_columns(reader, count).shape
            columns.append(normal(generator, *shape) * scale_of_columns(reader))
        grow(layer, weights, -torch.ones(count, dtype=torch.float64), columns)
        form.refresh()
    return bool(growing(form))


@rewrite("bias as a unit", why="1 = relu(1): formats that know no bias", moves="epsilon")
def bias_unit(form: Form, generator: torch.Generator) -> bool:
    found = False
    for k in range(len(growing(form))):
        layer = growing(form)[k]
        readers = layer.readers.mixing
        bias = readers[0].value.bias if len(readers) == 1 else None
        if bias is None or not isinstance(readers[0].term.map, Dense) or len(readers[0].value.shape) != 1:
            continue
        block = no_columns(readers[0], 1)
        block[:, 0] = bias.expand(1, *readers[0].value.shape)
        readers[0].value.bias = None
        grow(layer, [torch.zeros_like(row) for row in row_like(layer, generator, 1)], torch.ones(1).double(), [block])
        form.refresh()
        found = True
    return found


@rewrite(
    "cancelling copies",
    why="+v − v = 0 for two copies of any unit",
    group="symmetry",
    moves="epsilon gamma zplus alphabeta",
)
def phantoms(form: Form, generator: torch.Generator) -> bool:
    for k in range(len(growing(form))):
        layer = growing(form)[k]
        count = max(1, layer.count // 4)
        weights = [torch.cat([row, row]) for row in row_like(layer, generator, count)]
        bias = torch.zeros(2 * count, dtype=torch.float64)
        columns = []
        for reader in layer.readers.mixing:
            block = normal(generator, *no_columns(reader, count).shape) * scale_of_columns(reader)
            columns.append(torch.cat([block, -block]))
        grow(layer, weights, bias, columns)
        form.refresh()
    return bool(growing(form))


# -- layers that do nothing --------------------------------------------------------------------------------------------


def _rectified(form: Form) -> list[Pointwise]:
    rectifiers = (value for value in form.order() if isinstance(value, Pointwise) and value.op == "relu")
    return [value for value in rectifiers if value is not form.output]


@rewrite("identity layers", why="relu ∘ relu = relu: deeper networks from shallower ones", moves="epsilon alphabeta")
def identity_layers(form: Form, generator: torch.Generator) -> bool:
    found = _rectified(form)
    for value in found:
        layer = Affine(value.name + ".identity", [Term(identity(value), value)])
        again = Pointwise(value.name + ".again", "relu", _RELU, layer)
        form.replace(value, again, keep=[layer])
    return bool(found)


@rewrite(
    "shifted layers", why="relu(h + 1) − 1 = h for h ≥ 0: zero points of quantised layers",
    moves="epsilon gamma zplus alphabeta",
)  # fmt: skip
def shifted_layers(form: Form, generator: torch.Generator) -> bool:
    found = False
    for value in _rectified(form):
        tracker = Tracker(form)
        axis = 0 if len(value.shape) >= 3 else len(value.shape) - 1
        readers = tracker.readers(value, axis)
        layer = Affine(value.name + ".shifted", [Term(identity(value), value)], torch.ones(1, dtype=torch.float64))
        up = Pointwise(value.name + ".up", "relu", _RELU, layer, shape=value.shape)
        if readers.direct:
            # the zero point goes into the biases of the layers behind
            for reader in readers.mixing:
                moved = moved_bias(reader.term, -torch.ones(1, dtype=torch.float64), value.shape)
                reader.value.bias = moved if reader.value.bias is None else reader.value.bias + moved
                reader.term.source = up
        else:
            down = Affine(value.name + ".down", [Term(scaling(1.0), up)], -torch.ones(1, dtype=torch.float64))
            form.replace(value, down, keep=[layer])
        form.refresh()
        found = True
    return found


@rewrite(
    "flip units", why="relu(z) = z + relu(−z), with a skip connection for z", group="symmetry",
    moves="epsilon gamma zplus alphabeta",
)  # fmt: skip
def flip(form: Form, generator: torch.Generator) -> bool:
    found = []
    for k in range(len(layers(form, frozenset({"relu"})))):
        layer = layers(form, frozenset({"relu"}))[k]
        if not layer.free or layer.units is form.output:
            continue
        found.append(layer)
        sign = torch.where(uniform(generator, layer.count) < 0.5, -1.0, 1.0).double()
        sign[0] = -1.0
        name = layer.units.name
        turned = layer.part(torch.arange(layer.count), layer.before.name, sign)
        if layer.readers.direct:
            # one layer that reads the units and, beside them, those that were flipped before their activation
            index = torch.nonzero(sign < 0).flatten()
            line = layer.part(index, name + ".line")
            rest = Pointwise(name, "relu", _RELU, turned)
            side = Operator(name + ".side", "cat", _CAT, ([rest, line], layer.axis + 1))
            for reader in layer.readers.mixing:
                weight = reader.term.map.weight
                both = torch.cat([weight, weight[:, index]], 1)
                reader.term.map, reader.term.source = replace(reader.term.map, weight=both, bias=None), side
        else:
            z = layer.before
            rest = Pointwise(
                name,
                "relu",
                _RELU,
                Affine(name + ".turned", [Term(Elementwise(lengthwise(sign, z.shape, layer.axis), None), z)]),
            )
            mask = Elementwise(lengthwise((sign < 0).double(), z.shape, layer.axis), None)
            form.replace(layer.units, Affine(name + ".sum", [Term(scaling(1.0), rest), Term(mask, z)]))
        form.refresh()
    return bool(found)


@rewrite("explicit skip connections", why="x = relu(I x) for x ≥ 0: a skip becomes a layer", moves="epsilon alphabeta")
def explicit_skips(form: Form, generator: torch.Generator) -> bool:
    found = False
    for value in form.order():
        if not isinstance(value, Affine) or len(value.terms) < 2:
            continue
        for term in value.terms:
            source: Value = term.source
            if isinstance(source, Pointwise) and source.op == "relu" and isinstance(term.map, Elementwise):
                layer = Affine(source.name + ".skip", [Term(identity(source), source)])
                term.source = Pointwise(source.name + ".skipped", "relu", _RELU, layer, shape=source.shape)
                found = True
    return found
