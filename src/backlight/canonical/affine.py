"""Chains and sums of affine layers become single layers: batch normalisation, factors, merged branches, shifts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backlight.canonical.algebra import RESIDUE, compose, is_zero, pick_columns, plus, rows, simplest
from backlight.canonical.form import Affine, Form, Operator, Term, Value, scale_of
from backlight.rules import Convolution, Dense, Elementwise, LinearMap

__all__ = ["channel_axis", "fold_norms", "fuse", "moved_bias", "only", "side_by_side", "split_scales"]


def fold_norms(form: Form) -> None:
    """Batch normalisation into the layer before it, as every plan does."""
    users = form.users()
    for value in form.order():
        if isinstance(value, Affine) and value.op == "batch_norm":
            inner = value.terms[0].source
            if isinstance(inner, Affine) and any(isinstance(t.map, Dense | Convolution) for t in inner.terms):
                _inline(value, users, [])
    form.refresh()


def fuse(form: Form) -> tuple[int, bool]:
    """Fuse what is affine; says how many values that made superfluous, and whether whole maps cancelled."""
    before = sum(isinstance(value, Affine) for value in form.order())
    changed, cancelled = True, list[str]()
    while changed:
        changed = False
        form.refresh()
        users = form.users()
        for value in form.order():
            if isinstance(value, Affine):
                changed |= _inline(value, users, cancelled)
                changed |= _split(value)
                _tidy(value, cancelled)
        for value in form.order():
            if isinstance(value, Affine) and (same := only(value)) is not None:
                form.replace(value, same)
                changed = True
    form.refresh()
    return before - sum(isinstance(value, Affine) for value in form.order()), bool(cancelled)


def only(value: Affine) -> Value | None:
    """The value that this one is equal to, if it is nothing else."""
    if len(value.terms) != 1 or value.bias is not None:
        return None
    term = value.terms[0]
    factor = scale_of(term)
    if factor is not None and factor.numel() == 1 and float(factor) == 1.0 and term.source.shape == value.shape:
        return term.source
    return None


def moved_bias(term: Term, bias: Tensor, between: tuple[int, ...]) -> Tensor:
    """What a map makes of a constant, (1, *shape)."""
    return term.apply(bias.expand(1, *between))


def _inline(value: Affine, users: dict[Value, list[Value]], cancelled: list[str]) -> bool:
    """Write the affine values that this one is made of by what they are made of."""
    changed = False
    for term in list(value.terms):
        inner = term.source
        if not isinstance(inner, Affine) or not inner.terms:
            continue
        light = len(inner.terms) == 1 and isinstance(inner.terms[0].map, Elementwise)
        lone = users[inner] == [value] and sum(t.source is inner for t in value.terms) == 1
        summing = len(inner.terms) > 1 and all(isinstance(t.map, Elementwise) for t in inner.terms)
        # the sum of branches stays a place of its own, unless it is only summed or scaled on
        if not (light or (lone and (not summing or isinstance(term.map, Elementwise))) or _vanishes(inner, users)):
            continue
        maps = [compose(term.map, part.map, inner.shape) for part in inner.terms]
        if any(found is None for found in maps):
            continue
        value.terms.remove(term)
        value.terms += [
            Term(found, part.source, part.name if isinstance(term.map, Elementwise) else term.name)
            for found, part in zip(maps, inner.terms, strict=True)
            if found is not None
        ]
        if inner.bias is not None:
            moved = moved_bias(term, inner.bias, inner.shape)
            value.bias = moved if value.bias is None else _cancelled(value.bias, moved)
        value.op = ""
        changed = True
    return changed


def _vanishes(inner: Affine, users: dict[Value, list[Value]]) -> bool:
    """Whether a layer without activation can be fused into all that read it, which are such layers too."""
    if any(isinstance(part.map, Elementwise) for part in inner.terms):
        return False
    for user in users[inner]:
        if not isinstance(user, Affine):
            return False
        for term in user.terms:
            if term.source is inner and any(compose(term.map, p.map, inner.shape) is None for p in inner.terms):
                return False
    return bool(users[inner])


def split_scales(form: Form, note: Callable[..., None]) -> bool:
    """Layers on values side by side that only scale each, as sums."""
    found = [value for value in form.order() if isinstance(value, Affine) and _split(value, fusible=False)]
    for value in found:
        for term in value.terms:
            term.map = simplest(term.map)
        note("recognised", value.name, "a layer that only adds values up")
    if found:
        form.refresh()
    return bool(found)


def _split(value: Affine, *, fusible: bool = True) -> bool:
    """A layer on values side by side as a sum of layers, where it only scales each or can be fused with one."""
    for term in value.terms:
        side = term.source
        parts = side_by_side(side, term.map)
        if parts is None:
            continue
        sizes = [part.shape[0 if isinstance(term.map, Convolution) else -1] for part in parts]
        maps, start = [], 0
        for size in sizes:
            maps.append(pick_columns(term.map, torch.arange(start, start + size)))
            start += size
        scales = all(isinstance(simplest(found), Elementwise) for found in maps)
        joined = fusible and any(
            isinstance(part, Affine) and all(compose(found, t.map, part.shape) is not None for t in part.terms)
            for part, found in zip(parts, maps, strict=True)
        )
        if scales or joined:
            value.terms.remove(term)
            value.terms += [Term(found, part, term.name) for found, part in zip(maps, parts, strict=True)]
            return True
    return False


def side_by_side(value: Value, layer: LinearMap) -> list[Value] | None:
    """The values that this one is, one after the other along the units that a layer reads."""
    if (
        not isinstance(value, Operator)
        or value.op not in ("cat", "concat")
        or not isinstance(layer, Dense | Convolution)
    ):
        return None
    if isinstance(layer, Convolution) and (layer.groups != 1 or layer.transposed):
        return None
    axis = value.args[1] if len(value.args) > 1 else value.kwargs.get("dim", 0)
    wanted = 1 if isinstance(layer, Convolution) else len(value.shape)
    parts = list(value.args[0])
    if axis % (len(value.shape) + 1) != wanted or not all(isinstance(part, Value) and part.shape for part in parts):
        return None
    return parts


def _cancelled(x: Tensor, y: Tensor) -> Tensor:
    total = x + y
    return torch.where(total.abs() <= RESIDUE * (x.abs() + y.abs()), torch.zeros_like(total), total)


def _tidy(value: Affine, cancelled: list[str]) -> None:
    """One term for each source, as simple as it can be; no zeros."""
    for term in value.terms:
        term.map = simplest(term.map)
    by_source: dict[Value, list[Term]] = {}
    for term in value.terms:
        by_source.setdefault(term.source, []).append(term)
    kept: list[Term] = []
    for terms in by_source.values():
        merged: list[Term] = []
        for term in terms:
            for held in merged:
                total = plus(held.map, term.map, value.shape)
                if total is not None:
                    if _cancels(held.map, term.map, total):
                        cancelled.append(value.name)
                    held.map = simplest(total)
                    break
            else:
                merged.append(term)
        kept += merged
    nonzero = [term for term in kept if not is_zero(term.map)]
    # a value must be made of something to have a shape
    value.terms = nonzero or kept[:1]
    if value.bias is not None:
        value.bias = _per_channel(value.bias, value)
        if not bool(value.bias.any()):
            value.bias = None


def _per_channel(bias: Tensor, value: Affine) -> Tensor:
    """A bias that is the same at every place of a channel as one number a channel."""
    if not value.shape or bias.numel() <= 1:
        return bias
    axis = channel_axis(value)
    full = bias.expand(1, *value.shape)[0].movedim(axis, 0).reshape(value.shape[axis], -1)
    # shifts that cancel were as large as the sums of the weights
    size = full.abs().max() + sum(_largest_sum(term.map) for term in value.terms)
    if bool(((full - full[:, :1]).abs() <= RESIDUE * size).all()):
        shape = [1] * len(value.shape)
        shape[axis] = -1
        return full[:, 0].reshape(1, *shape)
    return bias


def _cancels(x: LinearMap, y: LinearMap, total: LinearMap) -> bool:
    """Whether weights that are not zero add up to zero: numbers that were trained do not."""
    if not x.weight.shape == y.weight.shape == total.weight.shape:
        return False
    return bool(((x.weight != 0) & (y.weight != 0) & (total.weight == 0)).any())


def _largest_sum(layer: LinearMap) -> Tensor:
    weight = layer.weight.abs()
    return weight.max() if isinstance(layer, Elementwise) else rows(layer).abs().sum(1).max()


def channel_axis(value: Value) -> int:
    """Which axis of a row counts the units: the first of three or more, as of a picture, else the last."""
    if isinstance(value, Affine):
        kinds = {type(term.map).__name__ for term in value.terms}
        if "Dense" in kinds:
            return len(value.shape) - 1
        if "Convolution" in kinds:
            return 0
        factors = [term.map.weight for term in value.terms if term.map.weight.dim() == len(value.shape) + 1]
        for factor in factors:
            wide = [axis for axis, size in enumerate(factor.shape[1:]) if size > 1]
            if len(wide) == 1:
                return wide[0]
    return 0 if len(value.shape) >= 3 else len(value.shape) - 1
