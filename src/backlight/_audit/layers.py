"""Rewrites of layers with weights: factors, branches, rotations, batch normalisation, splits of inputs and outputs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from backlight._audit.rewrite import mixing, normal, rewrite, rotation, uniform
from backlight.canonical.affine import channel_axis
from backlight.canonical.algebra import compose
from backlight.canonical.consumers import Readers, Tracker
from backlight.canonical.form import Affine, Form, Given, Pointwise, Term, Value
from backlight.rules import Convolution, Dense, Elementwise, LinearMap

__all__: list[str] = []

_RELU = torch.ops.aten.relu.default


def _weighted(form: Form) -> list[tuple[Affine, Term]]:
    """Layers with weights that mix their inputs."""
    return [
        (value, term)
        for value in form.order()
        if isinstance(value, Affine)
        for term in value.terms
        if isinstance(term.map, Dense)
        or (isinstance(term.map, Convolution) and term.map.groups == 1 and not term.map.transposed)
    ]


def _as_rows(layer: LinearMap) -> Tensor:
    return layer.weight.flatten(1)


def _first_factor(layer: LinearMap, weight: Tensor) -> LinearMap:
    return replace(layer, weight=weight.view(-1, *layer.weight.shape[1:]), bias=None)


def _second_factor(layer: LinearMap, weight: Tensor) -> LinearMap:
    if isinstance(layer, Dense):
        return Dense(weight, None)
    assert isinstance(layer, Convolution)
    ones = (1,) * layer.spatial
    return Convolution(weight.view(*weight.shape, *ones), None, ones, (0,) * layer.spatial, ones, False,
                       (0,) * layer.spatial, 1)  # fmt: skip


@rewrite("factorise layers", why="W = U (S Vᵀ): compression", moves="epsilon gamma zplus alphabeta")
def factorise(form: Form, generator: torch.Generator) -> bool:
    found = _weighted(form)
    for value, term in found:
        left, size, right = torch.linalg.svd(_as_rows(term.map), full_matrices=False)
        inner = Affine(
            (term.name or value.name) + ".v", [Term(_first_factor(term.map, size[:, None] * right), term.source)]
        )
        term.map, term.source = _second_factor(term.map, left), inner
    return bool(found)


@rewrite(
    "low-rank branches", why="W = (W − B A) + B A: adapters that are not merged", moves="epsilon gamma zplus alphabeta"
)
def low_rank(form: Form, generator: torch.Generator) -> bool:
    found = _weighted(form)
    for value, term in found:
        weight = _as_rows(term.map)
        rank = max(1, min(weight.shape) // 8)
        a, b = normal(generator, rank, weight.shape[1]), normal(generator, weight.shape[0], rank)
        b = b * weight.square().mean().sqrt() / (rank**0.5)
        name = term.name or value.name
        inner = Affine(name + ".a", [Term(_first_factor(term.map, a), term.source)])
        value.terms.append(Term(_second_factor(term.map, b), inner, name + ".b"))
        term.map = replace(term.map, weight=(weight - b @ a).view_as(term.map.weight), bias=None)
    return bool(found)


@rewrite(
    "rotate before activations",
    why="Qᵀ Q = 1 between a layer and its activation",
    moves="epsilon gamma zplus alphabeta",
)
def rotate_units(form: Form, generator: torch.Generator) -> bool:
    found = False
    for value in form.order():
        if not isinstance(value, Pointwise) or not isinstance(value.source, Affine):
            continue
        z = value.source
        axis = channel_axis(z)
        if not any(isinstance(term.map, Dense | Convolution) for term in z.terms) or axis != (
            0 if len(z.shape) >= 3 else len(z.shape) - 1
        ):
            continue
        q = rotation(generator, z.shape[axis])
        turned = Affine(z.name + ".q", [Term(mixing(z, q), z)], shape=z.shape)
        value.source = Affine(z.name + ".qt", [Term(mixing(z, q.t().contiguous()), turned)], shape=z.shape)
        found = True
    return found


def _read_by_layers(form: Form) -> list[tuple[Given, int, Readers]]:
    """The inputs that layers with weights alone read: how many units they have, and who reads them."""
    tracker = Tracker(form)
    found = []
    for value in form.inputs.values():
        if value.shape:
            axis = 0 if len(value.shape) >= 3 else len(value.shape) - 1
            readers = tracker.readers(value, axis)
            if readers.direct:
                found.append((value, value.shape[axis], readers))
    return found


@rewrite("rotate the input", why="W = (W Qᵀ) Q: whitening, or another basis", moves="epsilon gamma zplus alphabeta")
def rotate_input(form: Form, generator: torch.Generator) -> bool:
    found = False
    for value, count, readers in _read_by_layers(form):
        if count < 2:
            continue
        q = rotation(generator, count)
        turned = Affine(value.name + "_rotated", [Term(mixing(value, q), value)], shape=value.shape)
        for reader in readers.mixing:
            made = compose(reader.term.map, mixing(value, q.t().contiguous()), value.shape)
            assert made is not None
            reader.term.map, reader.term.source = made, turned
        found = True
    return found


@rewrite("split the input", why="x = relu(x) − relu(−x): unsigned hardware", group="symmetry", moves="epsilon")
def split_input(form: Form, generator: torch.Generator) -> bool:
    found = False
    for value, count, readers in _read_by_layers(form):
        eye = torch.eye(count, dtype=torch.float64)
        both = _split(value.name, value, torch.cat([eye, -eye]))
        for reader in readers.mixing:
            weight = reader.term.map.weight
            reader.term.map = replace(reader.term.map, weight=torch.cat([weight, -weight], 1), bias=None)
            reader.term.source = both
        found = True
    return found


def _split(name: str, value: Value, matrix: Tensor) -> Value:
    return Pointwise(name + "_split", "relu", _RELU, Affine(name + "_signs", [Term(mixing(value, matrix), value)]))


@rewrite("split the output", why="y = relu(y) − relu(−y)", group="symmetry", moves="zplus alphabeta")
def split_output(form: Form, generator: torch.Generator) -> bool:
    value = form.output
    if not isinstance(value, Affine) or len(value.terms) != 1 or not isinstance(value.terms[0].map, Dense):
        return False
    weight = value.terms[0].map.weight
    eye = torch.eye(len(weight), dtype=torch.float64)
    bias = None if value.bias is None else value.bias.expand(1, *value.shape)
    bias = None if bias is None else torch.cat([bias, -bias], -1)
    term = value.terms[0]
    signs = Affine(
        value.name + ".signs", [Term(Dense(torch.cat([weight, -weight]), None), term.source, term.name)], bias
    )
    rectified = Pointwise(value.name + ".split", "relu", _RELU, signs)
    form.output = Affine(value.name + ".sum", [Term(Dense(torch.cat([eye, -eye], 1), None), rectified)])
    return True


@rewrite("unfold batch normalisation", why="an affine layer is a layer and a batch normalisation: training graphs")
def unfold(form: Form, generator: torch.Generator) -> bool:
    found = False
    for value in form.order():
        if not isinstance(value, Affine) or len(value.terms) != 1 or value.op:
            continue
        term = value.terms[0]
        pictures = isinstance(term.map, Convolution) and not term.map.transposed and len(value.shape) == 3
        if not (pictures or (isinstance(term.map, Dense) and len(value.shape) == 1)) or value is form.output:
            continue
        count = value.shape[0]
        scale = torch.exp(uniform(generator, count, low=-1.0, high=1.0))
        shift = 0.1 * normal(generator, count)
        columns = (1, -1, *(1,) * (len(value.shape) - 1))
        weight = term.map.weight / scale.view(-1, *(1,) * (term.map.weight.dim() - 1))
        bias = torch.zeros(1, dtype=torch.float64) if value.bias is None else value.bias
        inner = Affine(
            value.name + ".layer", [Term(replace(term.map, weight=weight, bias=None), term.source, term.name)],
            (bias - shift.view(columns)) / scale.view(columns),
        )  # fmt: skip
        value.terms = [Term(Elementwise(scale.view(columns), None), inner)]
        value.bias, value.op = shift.view(columns), "batch_norm"
        found = True
    return found
