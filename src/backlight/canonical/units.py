r"""Hidden units: unit norm, one unit for each hyperplane, and none that is constant, dead or always on (one algorithm).

A layer of units h = σ(W x + b) read by V h + M x + c. What is used, for σ = relu:

* relu(d z) = d relu(z) for d > 0: rows of W get length one, the length goes to the columns of V.
* collinear rows (w₁, b₁) = (w₂, b₂): one unit with the sum of the columns. A sum of zero drops the unit.
* opposite rows: relu(−z) = relu(z) − z, so the pair is one unit and a linear part.
* z ≥ 0 on the whole domain: relu(z) = z; z ≤ 0: relu(z) = 0; w = 0: a constant.
* relu(z) = z + relu(−z) in the other direction: where M holds −V_k w_k of a unit, the unit was flipped.

With one hidden layer the form {hyperplanes, pairwise not collinear, with columns that are not zero; linear part} is
unique, since the kinks of the function are the hyperplanes. With more it is unique up to what the bounds can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from backlight.canonical.affine import channel_axis
from backlight.canonical.algebra import RESIDUE, pick_columns, pick_rows, rows, scale_columns, scale_rows, simplest
from backlight.canonical.bounds import Interval
from backlight.canonical.consumers import Reader, Readers, Tracker
from backlight.canonical.form import Affine, Form, Pointwise, Term, Value, lengthwise, scale_of
from backlight.rules import Convolution, Dense, Elementwise, LinearMap

__all__ = [
    "HOMOGENEOUS", "Layer", "Note", "collapse", "layers", "normalise", "opposite", "orient",
    "rectifiers", "unsearched",
]  # fmt: skip

# σ(d z) = d σ(z) for d > 0
HOMOGENEOUS = frozenset({"relu", "leaky_relu", "abs"})

_EQUAL = 1e-10
_SHARE = 1e-6

# kind, where, what, and whether units were there that cancel
Note = Callable[..., None]


@dataclass(slots=True)
class Layer:
    """Units with an activation: what they read, and who reads them.

    Attributes
    ----------
    units : Pointwise
    before : Affine
        What it is a function of.
    first : Pointwise
        The function that stands on it: the same, where the activation is one function.
    axis : int
        Which axis of a row counts the units.
    readers : Readers
    tracker : Tracker
    """

    units: Pointwise
    before: Affine
    first: Pointwise
    axis: int
    readers: Readers
    tracker: Tracker
    homogeneous: bool

    @property
    def count(self) -> int:
        """How many units there are."""
        return self.units.shape[self.axis]

    @property
    def free(self) -> bool:
        """Whether every unit has weights of its own, so that units can be left out and added."""
        return all(
            isinstance(term.map, Dense)
            or (isinstance(term.map, Convolution) and term.map.groups == 1 and not term.map.transposed)
            for term in self.before.terms
        )

    def weights(self) -> Tensor:
        """What each unit reads, (units, …); of a term that only scales, one number a unit."""
        return torch.cat([self._of_term(term) for term in self.before.terms], 1)

    def _of_term(self, term: Term) -> Tensor:
        factor = scale_of(term)
        if factor is None:
            return rows(term.map)
        full = factor.expand(1, *self.before.shape)[0].movedim(self.axis, 0).reshape(self.count, -1)
        return full[:, :1]

    def biases(self) -> Tensor:
        """The bias of each unit, (units, places)."""
        if self.before.bias is None:
            return torch.zeros(self.count, 1, dtype=torch.float64)
        full = self.before.bias.expand(1, *self.before.shape)[0].movedim(self.axis, 0).reshape(self.count, -1)
        return full[:, :1] if bool((full == full[:, :1]).all()) else full

    def part(self, index: Tensor, name: str, factor: Tensor | None = None) -> Affine:
        """Some of the units before their activation, times one number each."""
        scale = torch.ones(len(index), dtype=torch.float64) if factor is None else factor
        terms = [Term(scale_rows(pick_rows(t.map, index), scale), t.source, t.name) for t in self.before.terms]
        bias = self.before.bias
        if bias is not None:
            full = bias.expand(1, *self.before.shape)
            bias = full.index_select(self.axis + 1, index) * lengthwise(scale, self.before.shape, self.axis)
        return Affine(name, terms, bias)

    def keep(self, mask: Tensor) -> None:
        """Leave units out: what they gave must have been seen to."""
        index = torch.nonzero(mask).flatten()
        self.first.source = self.part(index, self.before.name)
        for reader in self.readers.mixing:
            alive = (reader.units < 0) | mask[reader.units.clamp(min=0)]
            reader.term.map = pick_columns(reader.term.map, torch.nonzero(alive).flatten())

    def transform(self, matrix: Tensor) -> bool:
        """New columns Σ_k T[k, j] v_k for unit j, in every reader; says whether any of them cancel."""
        cancels = False
        for reader in self.readers.mixing:
            reader.term.map, lost = _mixed(reader, matrix)
            cancels |= lost
        return cancels


def layers(form: Form, ops: frozenset[str] | None = None) -> list[Layer]:
    """The layers of units of a form, in running order."""
    tracker = Tracker(form)
    users = form.users()
    found = []
    for value in tracker.order:
        if not isinstance(value, Pointwise) or (ops is not None and value.op not in ops):
            continue
        chain = [value]
        while ops is None and isinstance(inner := chain[-1].source, Pointwise) and users[inner] == [chain[-1]]:
            chain.append(inner)
        goes_on = any(isinstance(user, Pointwise) for user in users[value]) and len(users[value]) == 1
        before = chain[-1].source
        if isinstance(before, Affine) and value.shape and not (ops is None and goes_on):
            axis = channel_axis(before)
            readers = tracker.readers(value, axis)
            readers.alike = not readers.closed or tracker.alike(value, axis, readers)
            homogeneous = all(unit.op in HOMOGENEOUS for unit in chain)
            found.append(Layer(value, before, chain[-1], axis, readers, tracker, homogeneous))
    return found


def unsearched(form: Form) -> tuple[str, ...]:
    """Units of which it cannot be told whether some cancel, and why: one sentence for each place."""
    found = []
    for layer in layers(form):
        if not layer.free:
            found.append(f"units of {layer.units.name!r} ({layer.units.op}): they share weights")
        elif not layer.readers.mergeable:
            found.append(f"units of {layer.units.name!r} ({layer.units.op}): {layer.readers.hindrance()}")
    return tuple(found)


# -- scale -------------------------------------------------------------------------------------------------------------


def normalise(form: Form, note: Note) -> None:
    """Rows of length one; the length goes to who reads the unit."""
    for layer in layers(form, HOMOGENEOUS):
        if not layer.readers.closed:
            continue
        length = layer.weights().square().sum(1).sqrt()
        length = torch.where(length > 0, length, torch.ones_like(length))
        if bool(((length - 1).abs() <= 1e-14).all()):
            continue
        rescale(layer, 1 / length)
        spread = float(length.max() / length.min())
        note("normalised", layer.units.name, f"{layer.count} units, lengths within a factor of {spread:.3g}")


def rescale(layer: Layer, factor: Tensor) -> None:
    """Multiply units by positive numbers, and what reads them by the reciprocals."""
    up = lengthwise(factor, layer.units.shape, layer.axis)
    before = layer.before.twin()
    for term in before.terms:
        if isinstance(term.map, Elementwise):
            term.map = Elementwise(term.map.weight * up, None)
        else:
            term.map = scale_rows(term.map, factor)
    if before.bias is not None:
        before.bias = before.bias * up
    before.op = ""
    layer.units.source = before
    for reader in layer.readers.mixing:
        by_column = torch.where(reader.units < 0, 1.0, 1 / factor[reader.units.clamp(min=0)])
        reader.term.map = scale_columns(reader.term.map, by_column.double())
    for reader in layer.readers.scaling:
        shape = reader.term.source.shape
        if shape == layer.units.shape and reader.direct:
            reader.term.map = Elementwise(reader.term.map.weight / up, None)
        else:
            reader.term.map = _through_scaled(layer, reader, 1 / factor)


def _through_scaled(layer: Layer, reader: Reader, factor: Tensor) -> Elementwise:
    """The factor of each unit as it arrives behind what stands between."""
    numbers = lengthwise(factor, layer.units.shape, layer.axis).expand(1, *layer.units.shape)
    seen = layer.tracker.carried(layer.readers, layer.units, numbers)
    arrived = seen[reader.term.source]
    arrived = torch.where(arrived == 0, torch.ones_like(arrived), arrived)
    return simplest(Elementwise(reader.term.map.weight * arrived, None))  # type: ignore[return-value]


# -- constants, dead units, units that are always on -------------------------------------------------------------------


def rectifiers(form: Form, known: dict[Value, Interval], note: Note) -> bool:
    """Relus whose sign is known: whole ones, then unit by unit."""
    changed = False
    for value in form.order():
        if isinstance(value, Pointwise) and value.op == "relu" and bool((known[value.source].low >= 0).all()):
            note("always on", value.name, "relu(z) = z: the relu is dropped")
            form.replace(value, value.source)
            changed = True
    if changed:
        form.refresh()
        return True
    for layer in layers(form, frozenset({"relu"})):
        if layer.free and layer.readers.all_mix and layer.before in known:
            sides = known[layer.before]
            if _drop_constant(layer, sides, note) or _drop_linear(layer, sides, note):
                form.refresh()
                return True
    return False


def _by_unit(layer: Layer, value: Tensor) -> Tensor:
    return value[0].movedim(layer.axis, 0).reshape(layer.count, -1)


def _drop_constant(layer: Layer, known: Interval, note: Note) -> bool:
    low, high = (_by_unit(layer, side) for side in (known.low, known.high))
    dead = (high <= 0).all(1)
    constant = dead | (low == high).all(1)
    if not bool(constant.any()) or bool(constant.all()):
        return False
    where = lengthwise(constant, layer.units.shape, layer.axis)
    value = torch.where(where, known.high.clamp(min=0), torch.zeros_like(known.high))
    if bool(value.any()):
        seen, silent = (layer.tracker.carried(layer.readers, layer.units, v) for v in (value, torch.zeros_like(value)))
        for reader in layer.readers.mixing:
            moved = reader.term.apply(seen[reader.term.source] - silent[reader.term.source])
            reader.value.bias = moved if reader.value.bias is None else reader.value.bias + moved
    note("dropped", layer.units.name, f"{int(constant.sum())} of {layer.count} units, constant or never on")
    layer.keep(~constant)
    return True


def _drop_linear(layer: Layer, known: Interval, note: Note) -> bool:
    """Units that are always on."""
    on = (_by_unit(layer, known.low) >= 0).all(1)
    if not bool(on.any()) or bool(on.all()) or not layer.readers.direct:
        return False
    return _make_linear(layer, torch.nonzero(on).flatten(), [], note)


def opposite(form: Form, known: dict[Value, Interval], note: Note) -> bool:
    """One unit for each pair of opposite ones, together with those that are always on, if they only cancel together."""
    for layer in layers(form, frozenset({"relu"})):
        if not (layer.free and layer.readers.direct) or layer.before not in known:
            continue
        on = (_by_unit(layer, known[layer.before].low) >= 0).all(1)
        found = [(i, j, d) for i, j, d in _groups(layer, opposite=True) if not on[i] and not on[j]]
        always = torch.nonzero(on).flatten()
        if found and any(_make_linear(layer, chosen, found, note) for chosen in (always[:0], always)):
            form.refresh()
            return True
    return False


def _make_linear(layer: Layer, always: Tensor, pairs: list[tuple[int, int, float]], note: Note) -> bool:
    # relu(−d z) = d relu(z) − d z: the line of unit j is its own z_j
    other = torch.tensor([j for _, j, _ in pairs], dtype=torch.long)
    index = torch.cat([always, other])
    cancels = _dependent(layer, index)
    handed = _hand_over(layer, index, torch.ones(len(index), dtype=torch.float64))
    if handed is None:
        return False
    matrix = torch.eye(layer.count, dtype=torch.float64)
    alive = torch.ones(layer.count, dtype=torch.bool)
    for i, j, ratio in pairs:
        matrix[j, i] = ratio
    alive[index] = False
    layer.transform(matrix)
    # a split of a value into its two signs is not planted: a line is left of it
    cancels &= len(always) > 0 or handed == 0
    if len(always):
        what = f"{len(always)} of {layer.count} units are linear: now a linear part"
        note("always on", layer.units.name, what, cancels=cancels)
    if pairs:
        what = f"{len(pairs)} pairs relu(z), relu(−z) of {layer.count} units: one and a linear part"
        note("collapsed", layer.units.name, what, cancels=cancels)
    layer.keep(alive)
    return True


def _dependent(layer: Layer, index: Tensor) -> bool:
    """Whether some of these units, taken as linear, cancel: their rank-one parts V_k wᵀ_k are linearly dependent."""
    weights = torch.cat([layer.weights(), layer.biases()], 1)[index]
    columns = torch.cat([_of_unit(reader, index) for reader in layer.readers.mixing], 1)
    if len(index) > weights.shape[1] * columns.shape[1]:
        # so many are dependent anyway
        return False
    gram = (weights @ weights.t()) * (columns @ columns.t())
    size = gram.diagonal().clamp(min=1e-300).sqrt()
    return bool(torch.linalg.eigvalsh(gram / (size[:, None] * size))[0] < 1e-12)


def _of_unit(reader: Reader, index: Tensor) -> Tensor:
    """All columns that read each of some units, (units, …)."""
    columns, known = _columns(reader).flatten(1), torch.nonzero(reader.units >= 0).flatten()
    order = known[torch.argsort(reader.units[known], stable=True)]
    return columns[order].reshape(int(reader.units.max()) + 1, -1)[index]


def _hand_over(layer: Layer, index: Tensor, sign: Tensor) -> int | None:
    """Add V_k · sign_k · z_k to every reader; the number of terms, ``None`` if no term can say it."""
    ahead = [
        _linear_part(layer, reader, pick_columns(reader.term.map, index), index, sign)
        for reader in layer.readers.mixing
    ]
    if any(part is None for part in ahead):
        return None
    for reader, part in zip(layer.readers.mixing, ahead, strict=True):
        reader.value.terms += part or []
    return sum(len(part or []) for part in ahead)


def _linear_part(layer: Layer, reader: Reader, columns: LinearMap, index: Tensor, sign: Tensor) -> list[Term] | None:
    """Terms that stand for a linear part of a layer; ``None`` where no term can."""
    weights = torch.cat([layer.weights(), layer.biases()], 1)[index] * sign[:, None]
    read = columns.weight.transpose(0, 1).flatten(1)
    total, size = read.t() @ weights, read.t().abs() @ weights.abs()
    if bool((total.abs() <= RESIDUE * 1e2 * size.amax().clamp(min=1e-300)).all()):
        # the units cancel
        return []
    linear = layer.part(index, layer.before.name + ".linear", sign)
    if isinstance(columns, Convolution):
        reduced = _fewest(read, weights)
        linear, columns = _reduced(layer, linear, columns, *reduced)
        if not all(_pointwise(term.map) for term in linear.terms):
            return None
    return [Term(columns, linear, reader.term.name)]


def _fewest(read: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_k c_k ⊗ w_k by as few products as possible: (units, out) and (units, in)."""
    qc, rc = torch.linalg.qr(read.t())
    qw, rw = torch.linalg.qr(weights.t())
    left, size, right = torch.linalg.svd(rc @ rw.t())
    rank = int((size > 1e-11 * (rc.norm() * rw.norm())).sum())
    made = right[:rank] @ qw.t()
    made = torch.where(made.abs() <= 1e-10, torch.zeros_like(made), made)
    return (qc @ left[:, :rank] * size[:rank]).t(), made


def _reduced(
    layer: Layer, linear: Affine, columns: Convolution, read: Tensor, weights: Tensor
) -> tuple[Affine, Convolution]:
    made = linear.twin()
    start = 0
    for term, own in zip(made.terms, layer.before.terms, strict=True):
        width = own.map.weight[0].numel()
        part = weights[:, start : start + width].view(-1, *own.map.weight.shape[1:])
        term.map = simplest(replace(own.map, weight=part.contiguous(), bias=None))
        start += width
    bias = weights[:, start:]
    shape = layer.before.shape[1:] if bias.shape[1] > 1 else (1,) * (len(layer.before.shape) - 1)
    made.bias = bias.reshape(1, -1, *shape) if bool(bias.any()) else None
    weight = read.view(len(read), columns.weight.shape[0], *columns.weight.shape[2:]).transpose(0, 1).contiguous()
    return made, replace(columns, weight=weight, bias=None)


def _pointwise(layer: LinearMap) -> bool:
    if isinstance(layer, Elementwise):
        return True
    if not isinstance(layer, Convolution) or layer.weight[0, 0].numel() != 1:
        return False
    return all(s == 1 for s in layer.stride) and not any(layer.padding)


# -- collinear and opposite rows ---------------------------------------------------------------------------------------


def collapse(form: Form, note: Note) -> bool:
    """One unit for each hyperplane, none without a column."""
    changed = False
    for layer in layers(form):
        if not (layer.free and layer.readers.mergeable):
            continue
        done = _merge(layer, note)
        if done:
            form.refresh()
            return True
        if layer.readers.resizable and _drop_unread(layer, note):
            form.refresh()
            return True
    return changed


def _groups(layer: Layer, opposite: bool) -> list[tuple[int, int, float]]:
    """Pairs (first, other, ratio) of units with other = ratio · first."""
    weights = torch.cat([layer.weights(), layer.biases()], 1)
    length = layer.weights().square().sum(1).sqrt()
    scale = torch.where(length > 0, length, torch.ones_like(length)) if layer.homogeneous else torch.ones_like(length)
    rows_ = weights / scale[:, None]
    gram = rows_ @ rows_.t()
    size = rows_.square().sum(1)
    sign = -1.0 if opposite else 1.0
    near = size[:, None] + size[None, :] - 2 * sign * gram <= 1e-8 * (size[:, None] + size[None, :])
    found, taken = [], torch.zeros(layer.count, dtype=torch.bool)
    for i, j in torch.nonzero(torch.triu(near, 1)).tolist():
        if taken[i] or taken[j] or not float(length[i]) or not float(length[j]):
            continue
        tolerance = _EQUAL * float(rows_[i].abs().max())
        if bool(((rows_[j] - sign * rows_[i]).abs() <= tolerance).all()):
            found.append((i, j, float(scale[j] / scale[i])))
            taken[j] = True
            if opposite:
                taken[i] = True
    return found


def _merge(layer: Layer, note: Note) -> bool:
    pairs = _groups(layer, opposite=False)
    if not layer.readers.resizable:
        # they stay in their places, with nothing that reads them: once is enough
        size = _read_of(layer)
        pairs = [(first, other, ratio) for first, other, ratio in pairs if size[first] and size[other]]
    if not pairs:
        return False
    matrix = torch.eye(layer.count, dtype=torch.float64)
    alive = torch.ones(layer.count, dtype=torch.bool)
    for first, other, ratio in pairs:
        matrix[other, first] = ratio
        matrix[other, other] = 0.0
        alive[other] = False
    cancels = layer.transform(matrix)
    what = f"{len(pairs)} of {layer.count} units have the hyperplane of another"
    note("merged", layer.units.name, what, cancels=cancels)
    if layer.readers.resizable:
        layer.keep(alive)
    return True


def _drop_unread(layer: Layer, note: Note) -> bool:
    unread = _read_of(layer) == 0
    if not bool(unread.any()) or bool(unread.all()):
        return False
    note("dropped", layer.units.name, f"{int(unread.sum())} of {layer.count} units that nothing reads")
    layer.keep(~unread)
    return True


def _read_of(layer: Layer) -> Tensor:
    """The largest weight that reads each unit."""
    size = torch.zeros(layer.count, dtype=torch.float64)
    for reader in layer.readers.mixing:
        by_column = _columns(reader).flatten(1).abs().amax(1)
        known = reader.units >= 0
        size = size.scatter_reduce(0, reader.units[known], by_column[known], "amax")
    return size


def _columns(reader: Reader) -> Tensor:
    return reader.term.map.weight.transpose(0, 1)


def _mixed(reader: Reader, matrix: Tensor) -> tuple[LinearMap, bool]:
    """The reader's map with new columns, and whether some cancel; a unit's places are mixed with those of others."""
    columns = _columns(reader).clone()
    known = torch.nonzero(reader.units >= 0).flatten()
    order = known[torch.argsort(reader.units[known], stable=True)]
    count = len(matrix)
    index = order.view(count, -1)
    kept = columns[index]
    mixed = torch.einsum("kj,km...->jm...", matrix, kept)
    size = torch.einsum("kj,km...->jm...", matrix.abs(), kept.abs())
    columns[index] = torch.where(mixed.abs() <= RESIDUE * size, torch.zeros_like(mixed), mixed)
    # cancelled but for rounding, measured by what was cancelled: then nothing is left of the unit
    made = replace(reader.term.map, weight=columns.transpose(0, 1).contiguous(), bias=None)
    # opposite signs: in training copies of a unit drift apart, they do not work against each other
    merged = (matrix != 0).sum(0) > 1
    against = bool((mixed.abs() < (1 - 1e-6) * size)[merged].any())
    return made, against


# -- flipped units -----------------------------------------------------------------------------------------------------


def orient(form: Form, note: Note) -> bool:
    """Turn units round where that takes away a linear part: relu(z) = z + relu(−z).

    The linear part M of all readers is written by the rank-one parts V_k wᵀ_k of the units, M ≈ Σ_k s_k V_k wᵀ_k. To
    flip unit k adds one to s_k. It is done where every s_k is zero or minus one: a linear part that the network has
    for other reasons, such as a skip connection, is not such a sum, and is left as it is.
    """
    for layer in layers(form, frozenset({"relu"})):
        if not (layer.free and layer.readers.direct) or len(layer.before.terms) != 1:
            continue
        read = layer.before.terms[0]
        if not isinstance(read.map, Dense) or not all(isinstance(r.term.map, Dense) for r in layer.readers.mixing):
            continue
        lines = [
            [t for t in r.value.terms if t.source is read.source and isinstance(t.map, Dense | Elementwise)]
            for r in layer.readers.mixing
        ]
        if not any(lines):
            continue
        width = read.source.shape[-1]
        linear = torch.cat([_summed(terms, r, width) for terms, r in zip(lines, layer.readers.mixing, strict=True)])
        columns = torch.cat([r.term.map.weight for r in layer.readers.mixing])
        weights = rows(read.map)
        gram = (columns.t() @ columns) * (weights @ weights.t())
        right = torch.einsum("ok,oi,ki->k", columns, linear, weights)
        share = torch.linalg.lstsq(gram, right[:, None], driver="gelsd").solution[:, 0]
        flip = (share + 1).abs() < _SHARE
        if not bool(flip.any()) or not bool((flip | (share.abs() < _SHARE)).all()):
            continue
        index = torch.nonzero(flip).flatten()
        if _hand_over(layer, index, torch.ones(len(index), dtype=torch.float64)) is None:
            continue
        sign = torch.where(flip, -1.0, 1.0).double()
        layer.units.source = layer.part(torch.arange(layer.count), layer.before.name, sign)
        note("flipped", layer.units.name, f"{len(index)} of {layer.count} units, which takes away a linear part")
        form.refresh()
        return True
    return False


def _summed(terms: list[Term], reader: Reader, width: int) -> Tensor:
    total = torch.zeros(reader.value.shape[-1], width, dtype=torch.float64)
    for term in terms:
        weight = term.map.weight
        total = total + (weight if isinstance(term.map, Dense) else torch.diag(weight.flatten().expand(width)))
    return total
