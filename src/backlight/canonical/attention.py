r"""Attention: what its queries and keys, and its values and output weights, have in common is written in one way.

One head computes softmax(q kᵀ / √d) v with q = W_q x + b_q, and so on, and its values are read by columns W_o of the
output layer. Nothing changes under

* W_q → M W_q, W_k → M⁻ᵀ W_k, since only q kᵀ is used: here from the singular vectors of [W_q b_q]ᵀ [W_k b_k],
* W_v → M W_v, W_o → W_o M⁻¹, since only W_o W_v is used: here from the singular vectors of W_o W_v. The weights of
  attention sum to one, so that b_v is a part of the output's bias.

Heads are found by following the numbers of the units from the layers to the product and from the product to its reader.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from backlight.canonical.affine import moved_bias
from backlight.canonical.consumers import PLAIN_MOVES, Reader, Tracker
from backlight.canonical.form import Affine, Form, Operator, Value
from backlight.canonical.units import Note
from backlight.rules import Dense

__all__ = ["Keys", "Values", "gauge", "keys", "set_rows", "set_values", "spread_norms", "values"]

_CHAIN = PLAIN_MOVES | {"getitem", "unbind", "chunk", "split"}
# what keeps the weights of attention as they are
_SHAPES = frozenset(
    {"view", "reshape", "expand", "permute", "transpose", "squeeze", "unsqueeze", "flatten", "unflatten"}
)
_ATTENTION = frozenset({"scaled_dot_product_attention"})
_PRODUCTS = frozenset({"matmul", "bmm"})
_SOFTMAX = frozenset({"softmax", "_softmax", "_safe_softmax"})


@dataclass(slots=True)
class Keys:
    """Queries and keys of a product: which rows of which layers; (heads, d) each."""

    query: Affine
    query_rows: Tensor
    key: Affine
    key_rows: Tensor


@dataclass(slots=True)
class Values:
    """Values of a product, and who reads them: rows of a layer, columns of the reader, (heads, d) each."""

    value: Affine
    rows: Tensor
    reader: Reader
    columns: Tensor


def keys(form: Form) -> list[Keys]:
    """Every product of queries and keys whose two sides come from layers by moves alone."""
    tracker = Tracker(form)
    found = []
    for product in tracker.order:
        if not isinstance(product, Operator) or len(product.args) < 2:
            continue
        if product.op in _ATTENTION:
            axes = (-1, -1)
        elif product.op in _PRODUCTS:
            axes = (-1, -2)
        else:
            continue
        query, key = (_rows(tracker, product, k, axis) for k, axis in zip((0, 1), axes, strict=True))
        if query is not None and key is not None and query[1].shape == key[1].shape:
            found.append(Keys(*query, *key))
    return found


def values(form: Form) -> list[Values]:
    """Every product of attention weights and values whose values come from a layer and go to one by moves alone."""
    tracker = Tracker(form)
    found = []
    for product in tracker.order:
        if not isinstance(product, Operator):
            continue
        position = 2 if product.op in _ATTENTION else 1
        if product.op not in _ATTENTION and not (product.op in _PRODUCTS and _is_softmax(product.args[0])):
            continue
        given = _rows(tracker, product, position, -1)
        if given is None:
            continue
        heads, size = given[1].shape
        numbers = tracker.values[product]
        places = torch.arange(1, heads * size + 1, dtype=torch.float64).view(heads, 1, size)
        lead = numbers.shape[:-2]
        if torch.Size(lead).numel() != heads:
            continue
        readers = tracker.follow(product, places.expand(heads, numbers.shape[-2], size).reshape(numbers.shape))
        if not readers.closed or readers.scaling or len(readers.mixing) != 1:
            continue
        reader = readers.mixing[0]
        order = torch.argsort(reader.units)
        if not isinstance(reader.term.map, Dense) or not torch.equal(reader.units[order], torch.arange(heads * size)):
            continue
        found.append(Values(*given, reader, order.view(heads, size)))
    return found


def _is_softmax(value: object) -> bool:
    while isinstance(value, Operator) and value.op in _SHAPES:
        value = next(value.sources())
    return isinstance(value, Operator) and value.op in _SOFTMAX


def _rows(tracker: Tracker, product: Operator, position: int, axis: int) -> tuple[Affine, Tensor] | None:
    """The layer that an argument comes from, and its rows (heads, d) in the order of an axis of the argument."""
    chain: list[Operator] = []
    value = product.args[position]
    while isinstance(value, Operator) and value.op in _CHAIN and not tracker.steered(value):
        chain.insert(0, value)
        value = next(value.sources())
    if not isinstance(value, Affine) or len(value.terms) != 1 or not isinstance(value.terms[0].map, Dense):
        return None
    seen: dict[Value, Tensor] = {value: _numbers(tracker.values[value])}
    for step in chain:
        seen[step] = step.compute({**seen, **tracker.beside(step, seen)})
    numbers = seen[product.args[position]].movedim(axis, -1)
    if numbers.dim() < 3 or not bool((numbers == numbers[..., :1, :]).all()):
        return None
    rows = numbers[..., 0, :].reshape(-1, numbers.shape[-1]).long() - 1
    if rows.unique().numel() != rows.numel() or int(rows.min()) < 0:
        # heads that share their keys
        return None
    return (value, rows) if _only_use(tracker, value, rows, (product, position)) else None


def _numbers(value: Tensor) -> Tensor:
    return torch.arange(1, value.shape[-1] + 1, dtype=torch.float64).expand(value.shape)


def _only_use(tracker: Tracker, layer: Affine, rows: Tensor, expected: tuple[Operator, int]) -> bool:
    """Whether these units of a layer go nowhere else."""
    seen: dict[Value, Tensor] = {layer: _numbers(tracker.values[layer])}
    wanted = rows.flatten() + 1
    if layer is tracker.form.output:
        return False
    for user in tracker.order:
        used = [source for source in user.sources() if source in seen]
        if not used or user in seen:
            continue
        if isinstance(user, Operator) and user.op in _CHAIN:
            seen[user] = user.compute({**seen, **tracker.beside(user, seen)})
            continue
        if isinstance(user, Operator) and user.op == "sym_size":
            continue
        for k, argument in enumerate(getattr(user, "args", used)):
            if isinstance(argument, Value) and argument in seen and (user, k) != expected:
                there = seen[argument]
                if not isinstance(there, Tensor) or bool(torch.isin(there.flatten().long(), wanted).any()):
                    return False
    return True


# -- the canonical choice ----------------------------------------------------------------------------------------------


def gauge(form: Form, note: Note) -> None:
    """Write every head by singular vectors."""
    for pair in keys(form):
        for query, key in zip(pair.query_rows, pair.key_rows, strict=True):
            a, b = _augmented(pair.query, query), _augmented(pair.key, key)
            left, size, right = _singular(a.t() @ b, len(query))
            _set_rows(pair.query, query, size.sqrt()[:, None] * left.t())
            _set_rows(pair.key, key, size.sqrt()[:, None] * right.t())
        note("gauged", pair.query.name, f"queries and keys of {len(pair.query_rows)} heads")
        form.refresh()
    for found in values(form):
        for rows, columns in zip(found.rows, found.columns, strict=True):
            value_in_bias(found, rows, columns)
            out = found.reader.term.map.weight
            left, size, right = _singular(out[:, columns] @ found.value.terms[0].map.weight[rows], len(rows))
            set_values(found, rows, columns, size.sqrt()[:, None] * right.t(), left * size.sqrt())
        note("gauged", found.value.name, f"values of {len(found.rows)} heads")
        form.refresh()


def value_in_bias(found: Values, rows: Tensor, columns: Tensor) -> None:
    """Move the bias of values into the bias of their reader: the weights of attention sum to one."""
    held = _augmented(found.value, rows)
    moved = found.reader.term.map.weight[:, columns] @ held[:, -1]
    bias = found.reader.value.bias
    found.reader.value.bias = moved if bias is None else bias + moved
    _set_rows(found.value, rows, torch.cat([held[:, :-1], torch.zeros(len(rows), 1, dtype=held.dtype)], 1))


def set_values(found: Values, rows: Tensor, columns: Tensor, weights: Tensor, out: Tensor) -> None:
    """New rows for the values, new columns for their reader."""
    bias = _augmented(found.value, rows)[:, -1:]
    _set_rows(found.value, rows, torch.cat([weights, bias], 1))
    term = found.reader.term
    weight = term.map.weight.clone()
    weight[:, columns] = out
    term.map = Dense(weight, None)


def _augmented(layer: Affine, rows: Tensor) -> Tensor:
    """[W b] of some rows."""
    weight = layer.terms[0].map.weight[rows]
    bias = torch.zeros(layer.shape[-1], dtype=weight.dtype)
    if layer.bias is not None:
        bias = layer.bias.expand(1, *layer.shape).reshape(-1, layer.shape[-1])[0]
    return torch.cat([weight, bias[rows, None]], 1)


def set_rows(layer: Affine, rows: Tensor, change: Tensor) -> None:
    """Multiply some rows of a layer, and their bias, by a matrix."""
    _set_rows(layer, rows, change @ _augmented(layer, rows))


def _set_rows(layer: Affine, rows: Tensor, augmented: Tensor) -> None:
    weight = layer.terms[0].map.weight.clone()
    weight[rows] = augmented[:, :-1]
    layer.terms[0].map = Dense(weight, None)
    bias = torch.zeros(layer.shape[-1], dtype=weight.dtype)
    if layer.bias is not None:
        bias = layer.bias.expand(1, *layer.shape).reshape(-1, layer.shape[-1])[0].clone()
    bias[rows] = augmented[:, -1]
    layer.bias = bias if bool(bias.any()) else None


def _singular(product: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U, s, V of a product of rank at most so much, each vector of V with its largest entry positive."""
    left, size, right = torch.linalg.svd(product, full_matrices=False)
    left, size, right = left[:, :rank], size[:rank], right[:rank].t()
    largest = right.gather(0, right.abs().argmax(0, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).double()
    missing = rank - len(size)
    if missing > 0:
        left = torch.nn.functional.pad(left * sign, (0, missing))
        return left, torch.nn.functional.pad(size, (0, missing)), torch.nn.functional.pad(right * sign, (0, missing))
    return left * sign, size, right * sign


# -- the weights of a layer norm ---------------------------------------------------------------------------------------


def spread_norms(form: Form, note: Note) -> None:
    """The factors and shifts of a layer norm into the layers that read it, where only such layers do."""
    tracker = Tracker(form)
    for value in tracker.order:
        if not isinstance(value, Operator) or value.op not in ("layer_norm", "rms_norm"):
            continue
        args = list(value.args) + [None] * (4 - len(value.args))
        weight = tracker.values[args[2]] if isinstance(args[2], Value) else None
        bias = tracker.values[args[3]] if value.op == "layer_norm" and isinstance(args[3], Value) else None
        if (weight is None and bias is None) or len(args[1]) != 1:
            continue
        readers = tracker.readers(value, len(value.shape) - 1)
        if not readers.direct or not all(isinstance(r.term.map, Dense) for r in readers.mixing):
            continue
        for reader in readers.mixing:
            if bias is not None:
                moved = moved_bias(reader.term, bias, value.shape)
                reader.value.bias = moved if reader.value.bias is None else reader.value.bias + moved
            if weight is not None:
                reader.term.map = replace(reader.term.map, weight=reader.term.map.weight * weight)
        args[2] = None
        if value.op == "layer_norm":
            args[3] = None
        value.args = tuple(args[: len(value.args)])
        note("fused", value.name, "its factors and shifts into the layers that read it")
    form.refresh()
