r"""What only moves and averages the units of one layer, joined with the fully connected layer that reads them.

W · M(h) = (W J) · h + W M(0) with the matrix J of M, found by sending unit vectors through: a pad, a slice, halves put
together again, a mean. Only rows of units are taken: of a picture the matrix would be as large as its square.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backlight.canonical.consumers import LINEAR, Tracker
from backlight.canonical.form import Affine, Form, Given, Held, Operator, Value
from backlight.canonical.units import Note
from backlight.rules import Dense, Elementwise

__all__ = ["moves"]

_LARGEST = 4_000_000


def moves(form: Form, note: Note) -> bool:
    """Join what stands between a row of units and a fully connected layer."""
    tracker = Tracker(form)
    changed = False
    for value in tracker.order:
        if not isinstance(value, Affine):
            continue
        for term in value.terms:
            moved_row = (
                isinstance(term.map, Dense) and len(term.source.shape) == 1 and isinstance(term.source, Operator)
            )
            leaf = _leaf(term.source, tracker) if moved_row else None
            if leaf is None or leaf is term.source or leaf.shape[0] * term.source.shape[0] > _LARGEST:
                continue
            size = leaf.shape[0]
            given = torch.cat([torch.eye(size, dtype=torch.float64), torch.zeros(1, size, dtype=torch.float64)])
            sent = _sent(term.source, leaf, given, tracker)
            matrix = (sent[:-1] - sent[-1:]).t()
            if isinstance(leaf, Given) and bool((matrix == 0).all(0).any()):
                # columns that were cut off stay apart from the others
                continue
            note("fused", value.name, f"what stands between {leaf.name!r} and it")
            if bool(sent[-1].any()):
                moved = term.apply(sent[-1:])
                value.bias = moved if value.bias is None else value.bias + moved
            term.map, term.source = Dense(term.map.weight @ matrix, None), leaf
            changed = True
    if changed:
        form.refresh()
    return changed


def _scales(value: Value) -> bool:
    return isinstance(value, Affine) and all(isinstance(term.map, Elementwise) for term in value.terms)


def _leaf(value: Value, tracker: Tracker) -> Value | None:
    """The one row of units that a value is moved from."""
    found: set[Value] = set()
    todo = [value]
    while todo:
        now = todo.pop()
        if _scales(now) or (isinstance(now, Operator) and now.op in LINEAR and not tracker.steered(now)):
            todo += [source for source in now.sources() if not isinstance(source, Held)]
        elif isinstance(tracker.values[now], Tensor) and tracker.values[now].is_floating_point():
            found.add(now)
        elif not (isinstance(now, Operator) and now.op == "sym_size"):
            return None
    leaf = found.pop() if len(found) == 1 else None
    return leaf if leaf is not None and len(leaf.shape) == 1 else None


def _sent(value: Value, leaf: Value, rows: Tensor, tracker: Tracker) -> Tensor:
    """The value for given rows of the leaf."""
    known: dict[Value, Any] = {leaf: rows}
    todo = [value]
    while todo:
        now = todo[-1]
        if now in known:
            todo.pop()
            continue
        if _scales(now) or (isinstance(now, Operator) and now.op in LINEAR):
            missing = [source for source in now.sources() if source not in known]
            if missing:
                todo += missing
                continue
            known[now] = now.compute(known)
        elif isinstance(now, Operator):
            # of a size: how many rows there are
            source = next(now.sources())
            like = tracker.values[source]
            known[now] = now.compute({source: like.expand(len(rows), *like.shape[1:])})
        else:
            known[now] = tracker.values[now]
        todo.pop()
    found: Tensor = known[value]
    return found
