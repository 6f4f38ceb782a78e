"""Chains and sums of affine layers become single layers: batch normalisation, factors, merged branches, shifts."""

from __future__ import annotations

import torch
from torch import Tensor

from backlight.canonical.algebra import compose, is_zero, plus, simplest
from backlight.canonical.form import Affine, Form, Term, Value, scale_of
from backlight.rules import Elementwise

__all__ = ["channel_axis", "fuse", "moved_bias", "only"]


def fuse(form: Form) -> int:
    """Fuse what is affine, and say how many values that made superfluous."""
    before = sum(isinstance(value, Affine) for value in form.order())
    changed = True
    while changed:
        changed = False
        form.refresh()
        users = form.users()
        for value in form.order():
            if isinstance(value, Affine):
                changed |= _inline(value, users)
                _tidy(value)
        for value in form.order():
            if isinstance(value, Affine) and (same := only(value)) is not None:
                form.replace(value, same)
                changed = True
    form.refresh()
    return before - sum(isinstance(value, Affine) for value in form.order())


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


def _inline(value: Affine, users: dict[Value, list[Value]]) -> bool:
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
        if not (light or (lone and (not summing or isinstance(term.map, Elementwise)))):
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


def _cancelled(x: Tensor, y: Tensor) -> Tensor:
    total = x + y
    return torch.where(total.abs() <= 1e-12 * (x.abs() + y.abs()), torch.zeros_like(total), total)


def _tidy(value: Affine) -> None:
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
    if bool(((full - full[:, :1]).abs() <= 1e-13 * full.abs().amax(1, keepdim=True)).all()):
        shape = [1] * len(value.shape)
        shape[axis] = -1
        return full[:, 0].reshape(1, *shape)
    return bias


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


