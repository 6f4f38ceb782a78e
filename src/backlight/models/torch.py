"""Torch modules and exported programs."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight.arguments import shown
from backlight.attribution.canonical import canonical_module
from backlight.attribution.inputs import Batch, batches, home
from backlight.attribution.lrp import Attributed, LayerwiseRelevance
from backlight.attribution.reference import ReferenceMethod, named_method, only_output
from backlight.attribution.requested import Linear, Requested, Targets
from backlight.canonical.lift import torch_module
from backlight.engine.capture import tensors_of
from backlight.engine.copies import called
from backlight.engine.network import Network
from backlight.engine.outputs import Outputs
from backlight.errors import ArgumentError, FileError, UnsupportedModel
from backlight.explanation import Attribution, Ledger
from backlight.models.programs import example_of, probe_of, read_program, written_program
from backlight.models.protocol import Query, layer_names

__all__ = ["TorchModel", "as_arrays", "dims_of"]


class TorchModel:
    """A torch module; it is left as it is."""

    def __init__(self, model: nn.Module | torch.export.ExportedProgram) -> None:
        self.module: nn.Module = torch_module(model)
        self.kind = type(self.module).__name__
        self._example: Batch | None = None
        # of a model from a file: what it was read from, and what its layers were called
        self._program: tuple[Tensor, tuple[str, ...]] | None = None

    @property
    def columns(self) -> tuple[str, ...] | None:
        """See `Model.columns`."""
        return None

    def score(self, *inputs: Any, **named: Any) -> Tensor:
        """See `Model.score`: the one output that the module returns."""
        return only_output(Outputs().take(called(self.module, inputs, named))[0])

    def fingerprint(self) -> str:
        """See `Model.fingerprint`."""
        digest = hashlib.sha256()
        for name, tensor in sorted(tensors_of(self.module).items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor.detach().cpu().double().numpy()).tobytes())
        return digest.hexdigest()

    def asked(self, targets: Targets) -> Targets:
        """See `Model.asked`."""
        return targets

    def prepare(self, query: Query) -> Query:
        """See `Model.prepare`."""
        if query.canonical and query.output is not None:
            raise ArgumentError("canonical=True explains what the model itself returns: wrap it to choose an output")
        name, _ = named_method(query.method)
        if query.layers is not None and name != "lrp":
            raise ArgumentError(f"layers= is for relevance propagation: method={name!r} explains the inputs alone")
        if not isinstance(query.rows, str) or query.rows not in ("separate", "joint"):
            raise ArgumentError(f"rows must be 'separate' or 'joint', not {shown(query.rows)}")
        if query.rows == "joint" and name != "lrp":
            raise ArgumentError(f"rows='joint' is for relevance propagation, not for method={name!r}")
        here = home(self.module)
        if name != "lrp" and query.device is not None and home(self.module, query.device).device != here.device:
            raise ArgumentError(f"device={query.device!r}: method={name!r} runs where the model is, on {here.device}")
        return replace(query, layers=layer_names(query.layers))

    def batches(
        self, X: Any, size: int | str, names: Sequence[str] | None, query: Query
    ) -> tuple[int | None, Iterator[Batch]]:
        """See `Model.batches`."""
        rows, stream = batches(X, home(self.module, query.device), size if query.rows == "separate" else 2**62)
        if query.rows == "joint":
            stream = _only(stream)
        columns = () if names is None else tuple(names)
        return rows, (replace(batch, columns=columns) for batch in stream) if columns else stream

    def attribute(self, batch: Batch, targets: Targets, query: Query) -> Attribution:
        """See `Model.attribute`."""
        self._example = self._example or example_of(batch)
        name, options = named_method(query.method)
        model, facts = self.module, {}
        if query.canonical:
            model, steps = canonical_module(model, batch)
            facts["canonical"] = list(steps)
        if name == "lrp":
            elsewhere = None if query.device is None else home(model, query.device).device
            way = LayerwiseRelevance(
                model,
                query.rules,
                query.strict,
                elsewhere,
                query.reference,
                query.layers,
                query.output,
                query.rows,
            )
            with Network.of(model).steady():
                facts = {**way.facts(batch, targets), **facts}
                found = way(batch, targets)
        else:
            reference = ReferenceMethod(model, name, query.reference, query.seed, options, query.output, query.strict)
            found = reference(batch, targets)
        joint = query.rows == "joint"
        if joint and len(found.inputs) > 1:
            raise ArgumentError("rows='joint' is for networks of one input: give a module that takes them as one")
        method = str(facts.pop("method", name))
        made = as_arrays(found, batch, method, "ledger" if name == "lrp" else "none", facts)
        return replace(made, dims=(made.dims[0], "input row", *dims_of(len(made.dims) - 1)[1:])) if joint else made

    @property
    def layers(self) -> tuple[str, ...]:
        """See `Model.layers`."""
        if self._program is not None:
            return self._program[1]
        return tuple(name for name, module in self.module.named_modules() if name and not list(module.children()))

    def plan(self, query: Query) -> str:
        """See `Model.plan`."""
        rules = query.rules if query.method == "lrp" else query.method
        return f"{self.kind} by {rules!r}: backlight.plan(module, X, rules) shows what will run for inputs like X"

    def kept(self, query: Query) -> dict[str, Any]:
        """See `Model.kept`."""
        if self._program is not None:
            return {"program": self._program[0], "layers": self._program[1], "kind": self.kind}
        if self._example is None:
            raise ArgumentError("the shapes of a torch module's inputs are not known yet: explain a row before saving")
        data = torch.frombuffer(bytearray(written_program(self.module, self._example, query.output)), dtype=torch.uint8)
        found = {"program": data, "layers": self.layers, "kind": self.kind}
        asked, probe = Targets((Requested(linear=_Sum()),), False), probe_of(self._example)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the user is told of them where rows are explained
            own = self.attribute(probe, asked, query)
            other = type(self).again(found).attribute(probe, asked, replace(query, output=None))
        if not (np.array_equal(own.values, other.values) and np.array_equal(own.output, other.output)):
            raise UnsupportedModel(f"{self.kind} is explained otherwise as a program: send this explainer by pickle")
        return found

    @classmethod
    def again(cls, kept: dict[str, Any]) -> TorchModel:
        """The model of what `kept` gave."""
        program, layers, kind = kept["program"], kept["layers"], kept["kind"]
        if not isinstance(program, Tensor) or not isinstance(layers, tuple) or program.dtype is not torch.uint8:
            raise FileError("the file does not hold a program")
        model = cls(read_program(program.numpy().tobytes()))
        model.kind, model._program = str(kind), (program, layers)
        return model


class _Sum(Linear):
    """All outputs of a row together."""

    name = "sum"

    def seed(self, output: Tensor, last: Tensor | None) -> Tensor:
        """See `Linear.seed`."""
        return torch.ones_like(output)


def _only(stream: Iterator[Batch]) -> Iterator[Batch]:
    for number, batch in enumerate(stream):
        if number:
            raise ArgumentError("rows='joint' explains all rows together: give one batch, not several")
        yield batch


def as_arrays(found: Attributed, batch: Batch, method: str, promise: str, facts: dict[str, Any]) -> Attribution:
    """Attributions of one batch as arrays, with what the batch says of its columns and tokens."""
    several = found.seeds.several

    def array(tensor: Tensor) -> np.ndarray:
        """(targets, n, …) to (n, …) or (n, …, targets)."""
        whole = tensor.double().cpu().numpy()
        return np.moveaxis(whole, 0, -1) if several else whole[0]

    names = list(found.inputs)
    if not names:
        raise ArgumentError("no input of the network received relevance: its output does not depend on them")
    values = [array(found.values[name]) for name in names]
    data = [found.inputs[name].detach().cpu().clone() for name in names]  # the user's tensors may change later
    shown = [(x.float() if x.dtype is torch.bfloat16 else x).numpy() for x in data]
    columns = batch.columns
    if len(names) > 1:
        # one axis of features: those of the inputs one after the other
        if not columns:
            columns = tuple(
                f"{name}[{', '.join(str(i) for i in index)}]" for name, a in zip(names, shown, strict=True)
                for index in np.ndindex(a.shape[1:])
            )  # fmt: skip
        n, tail = len(shown[0]), (values[0].shape[-1],) if several else ()
        values = [np.concatenate([v.reshape(n, -1, *tail) for v in values], axis=1)]
        shown = [np.concatenate([a.reshape(n, -1) for a in shown], axis=1)]
    titles = found.seeds.names
    texts = len(names) == 1 and all(shown[0].shape == note.shape for note in batch.annotations.values())
    return Attribution(
        values=values[0],
        output=array(found.seeds.scores),
        base_values=array(found.base),
        names=titles,
        target=", ".join(titles[:4]) + (" …" if len(titles) > 4 else ""),
        ledger=_ledger(found, several) if promise == "ledger" else None,
        layers={layer: array(relevance) for layer, relevance in found.layers.items()},
        data=shown[0],
        annotations=batch.annotations if texts else {},
        feature_names=columns,
        dims=("row", "token") if texts and batch.annotations else dims_of(shown[0].ndim),
        method=method,
        promise=promise,
        facts=facts,
        labels=batch.labels,
        kind=batch.kind,
    )


def dims_of(axes: int) -> tuple[str, ...]:
    """The names of the axes of inputs."""
    known = {2: ("row", "feature"), 3: ("row", "channel", "position"), 4: ("row", "channel", "height", "width")}
    return known.get(axes, ("row", *(f"axis {k}" for k in range(1, axes))))


def _ledger(found: Attributed, several: bool) -> Ledger:
    scores = found.seeds.scores
    if not found.ledger:
        # nothing between the inputs and the output can keep anything
        empty = np.zeros((0, *(scores.T if several else scores[0]).shape))
        return Ledger((), (), empty, empty, empty)
    # one copy of everything: layers are many and their sums small
    flat = torch.stack(list(itertools.chain.from_iterable(line[2:] for line in found.ledger)))
    flow = flat.double().cpu().numpy().reshape(len(found.ledger), 3, *scores.shape)
    flow = np.moveaxis(flow, 2, -1) if several else flow[:, :, 0]
    names, rules = zip(*(line[:2] for line in found.ledger), strict=True)
    return Ledger(tuple(names), tuple(rules), flow[:, 0], flow[:, 1], flow[:, 2])
