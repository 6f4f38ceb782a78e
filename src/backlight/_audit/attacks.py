r"""Rewrites that are made to move an explanation, without changing one prediction.

A unit p that is added twice with columns +v and −v changes nothing. As v grows, all relevance of the next layer flows
through p under γ > 0, z⁺ and αβ, and from there to whatever p reads: net share (1 + γ)/γ − 1/γ = 1 for γ. So any input
feature can be made the most relevant one. LRP-0 and ε are not moved: there the two copies cancel exactly.
"""

from __future__ import annotations

import torch

from backlight._audit.rewrite import grow, growing, no_columns, normal, rewrite, scale_of_columns, uniform
from backlight.canonical.form import Form
from backlight.canonical.units import HOMOGENEOUS, Layer, layers, rescale

__all__: list[str] = []

# times the usual size of the weights
STRENGTH = 100.0


def _direction(layer: Layer, generator: torch.Generator) -> list[torch.Tensor]:
    """One row that reads one input unit, of the size of the layer's own rows; of a kernel its middle."""
    term = layer.before.terms[0]
    weight = term.map.weight
    row = torch.zeros(1, *weight.shape[1:], dtype=torch.float64)
    unit = int(torch.randint(weight.shape[1], (1,), generator=generator))
    row[(0, unit, *(k // 2 for k in weight.shape[2:]))] = weight.flatten(1).norm(dim=1).mean()
    return [row, *(torch.zeros(1, *t.map.weight.shape[1:], dtype=torch.float64) for t in layer.before.terms[1:])]


def _add(layer: Layer, rows: list[list[torch.Tensor]], signs: list[float], generator: torch.Generator) -> None:
    """Units with these rows, read with one random column times each sign."""
    weights = [torch.cat([row[k] for row in rows]) for k in range(len(layer.before.terms))]
    columns = []
    for reader in layer.readers.mixing:
        block = torch.ones_like(no_columns(reader, 1)) * scale_of_columns(reader) * STRENGTH
        columns.append(torch.cat([sign * block for sign in signs]))
    grow(layer, weights, torch.zeros(len(rows), dtype=torch.float64), columns)


def _minus(row: list[torch.Tensor]) -> list[torch.Tensor]:
    return [-part for part in row]


@rewrite(
    "attack: copies that cancel", why="v p − v p = 0 for two copies of relu(±x_t)", group="attack",
    moves="epsilon gamma zplus alphabeta",
)  # fmt: skip
def copies(form: Form, generator: torch.Generator) -> bool:
    found = growing(form)
    if not found:
        return False
    up = _direction(found[0], generator)
    _add(found[0], [up, up, _minus(up), _minus(up)], [1.0, -1.0, 1.0, -1.0], generator)
    return True


@rewrite(
    "attack: triples that cancel", why="u + v − w = 0 for w = u + v, each written relu(u) − relu(−u)", group="attack",
    moves="epsilon gamma zplus alphabeta",
)  # fmt: skip
def triples(form: Form, generator: torch.Generator) -> bool:
    # a maximum of differences is not the difference of maxima
    found = [layer for layer in growing(form) if layer.readers.direct]
    if not found:
        return False
    u = _direction(found[0], generator)
    v = [part * 0.5 + 0.02 * float(u[0].norm()) * normal(generator, *part.shape) for part in u]
    w = [a + b for a, b in zip(u, v, strict=True)]
    rows = [part for row in (u, v, w) for part in (row, _minus(row))]
    _add(found[0], rows, [1.0, -1.0, 1.0, -1.0, -1.0, 1.0], generator)
    return True


@rewrite(
    "attack: an identity over two layers", why="relu(h₁ + h₂) = relu(h₁) + relu(h₂) for h₁, h₂ ≥ 0", group="attack",
    moves="epsilon gamma zplus alphabeta",
)  # fmt: skip
def two_layers(form: Form, generator: torch.Generator) -> bool:
    found = growing(form)
    for k in range(len(found) - 1):
        below, above = found[k], found[k + 1]
        # the layer above must read the layer below, unit by unit
        reads = [r for r in below.readers.mixing if r.value is above.before and r.direct]
        single = len(below.readers.mixing) == 1 and len(above.before.terms) == 1 and above.readers.direct
        if len(reads) != 1 or not single:
            continue
        up = _direction(below, generator)
        count = below.count
        grow(
            below, [torch.cat([part, -part]) for part in up], torch.zeros(2, dtype=torch.float64),
            [no_columns(below.readers.mixing[0], 2)],
        )  # fmt: skip
        form.refresh()
        above = growing(form)[k + 1]
        weight = above.before.terms[0].map.weight
        rows = []
        size = float(weight.flatten(1).norm(dim=1).mean())
        for parts in ((count, count + 1), (count,), (count + 1,)):
            row = torch.zeros(1, *weight.shape[1:], dtype=torch.float64)
            for unit in parts:
                row[(0, unit, *(n // 2 for n in weight.shape[2:]))] = size
            rows.append([row])
        _add(above, rows, [1.0, -1.0, -1.0], generator)
        return True
    return False


@rewrite("attack: units of very different size", why="relu(d z) = d relu(z) for d > 0", group="attack", moves="epsilon")
def sizes(form: Form, generator: torch.Generator) -> bool:
    found = False
    for k in range(len(layers(form, HOMOGENEOUS))):
        layer = layers(form, HOMOGENEOUS)[k]
        if layer.readers.closed:
            rescale(layer, torch.exp(uniform(generator, layer.count, low=-6.0, high=6.0)))
            found = True
    return found
