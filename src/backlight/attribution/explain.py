"""Explain a PyTorch module: batches in, one `Explanation` out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from backlight.attribution.inputs import Batch, batches, home
from backlight.attribution.lrp import TARGET_LINE, Attributed, LayerwiseRelevance
from backlight.attribution.reference import REFERENCES, Method, ReferenceMethod
from backlight.canonical.canonize import canonical_of
from backlight.canonical.lift import torch_module
from backlight.engine.network import Network
from backlight.engine.plan import Plan
from backlight.errors import ArgumentError, BacklightWarning, ConservationError, DataError, listed
from backlight.explanation import Explanation, Ledger

__all__ = ["METHODS", "explain_module", "plan"]

METHODS = ("lrp", *REFERENCES)

# more than this share of a score lost without a bias to name is worth a word
_WORTH_A_WORD = 0.01

Report = Callable[[int, int], None]


def explain_module(
    model: nn.Module,
    X: Any,
    target: Any = None,
    *,
    method: str | Method = "lrp",
    rules: Any = "auto",
    reference: Any = None,
    layers: Any = None,
    canonical: bool = False,
    strict: bool = False,
    batch_size: int | str = "auto",
    device: Any = None,
    feature_names: Sequence[str] | None = None,
    seed: int = 0,
    report: Report = lambda done, total: None,
    versions: dict[str, str] | None = None,
) -> Explanation:
    """Explain a PyTorch module; arguments as of `backlight.explain`.

    Raises
    ------
    ArgumentError, DataError, UnsupportedModel, UnsupportedOperator, ConservationError
    """
    model = torch_module(model)
    options = method.options if isinstance(method, Method) else {}
    method = method.name if isinstance(method, Method) else method
    if method not in METHODS:
        raise ArgumentError(f"method={method!r} is not known: the methods are {listed(METHODS, 12)}")
    if layers is not None and method != "lrp":
        raise ArgumentError(f"layers= is for relevance propagation: method={method!r} explains the inputs alone")
    if method == "lrp" and options:
        raise ArgumentError("relevance propagation has no options: its rules say everything")
    steps: tuple[str, ...] = ()
    original = model
    if canonical:
        model, steps = _canonical(model, X, device)
    where = home(model, device)
    asked = [layers] if isinstance(layers, str) else list(layers or ())
    if method == "lrp":
        elsewhere = where.device if device is not None else None
        attribute: Any = LayerwiseRelevance(model, rules, strict, elsewhere, reference, asked)
    else:
        if device is not None and home(model).device != where.device:
            raise ArgumentError(
                f"device={device!r}: method={method!r} runs where the model is, on {home(model).device}"
            )
        attribute = ReferenceMethod(model, method, reference, seed, options)
    parts: list[Attributed] = []
    heads: list[Batch] = []
    done = 0
    rows, stream = batches(X, where, batch_size)
    for batch in stream:
        parts.append(attribute(batch, target, done, rows))
        heads.append(batch)
        done += batch.rows
        report(done, max(done, rows or 0))
    if not parts:
        raise DataError("there are no batches to explain")
    made_by: Plan | None = attribute.last if isinstance(attribute, LayerwiseRelevance) else None
    provenance: dict[str, Any] = {"model": type(original).__name__, "seed": seed, "versions": versions or {}}
    if made_by is not None:
        provenance |= {"plan": made_by.text, "weights": Network.of(model).fingerprint()}
    if canonical:
        provenance["canonical"] = list(steps)
    ex = _assemble(parts, heads, feature_names, method, made_by, provenance)
    _check(ex, strict)
    return ex


def plan(model: nn.Module, X: Any, rules: Any = "auto", *, strict: bool = False, device: Any = None) -> Plan:
    """What will run where, before it runs: a table of places, operators, rules, reasons and costs.

    Parameters
    ----------
    model : torch.nn.Module
    X : as for `backlight.explain`
        Only its shape matters.
    rules, strict : as for `backlight.explain`

    Returns
    -------
    Plan
        Prints as a table; ``rows()`` and ``to_frame()`` give it as data. Costs count products with a layer's weights, F
        forward and B transposed, the forward pass included.

    Examples
    --------
    >>> import torch, backlight
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> print(backlight.plan(net, torch.zeros(1, 3), rules=backlight.rules.Gamma(0.25)))
    rules: Gamma() (exported, 2 places)
    site  operator     rule     why  cost
    0     linear+relu  Gamma()       2F + 2B
    2     linear       Gamma()       2F + 2B
    """
    model = torch_module(model)
    where = home(model, device)
    batch = next(batches(X, where, 2)[1]).take(0, 2)
    elsewhere = where.device if device is not None else None
    return Network.of(model).plan((batch.args, batch.kwargs), rules, strict=strict, device=elsewhere)


def _canonical(model: nn.Module, X: Any, device: Any) -> tuple[nn.Module, tuple[str, ...]]:
    """The canonical form of a model, made once for each shape of input, and the steps to it."""
    if hasattr(X, "__next__"):
        raise ArgumentError("canonical=True looks at the first batch before it explains: give a list, not an iterator")
    where = home(model, device)
    batch = next(batches(X, where, 4)[1]).take(0, 4)
    leaves = [leaf for leaf in pytree.tree_leaves((batch.args, batch.kwargs)) if isinstance(leaf, Tensor)]
    key = ("canonical", *((tuple(leaf.shape[1:]), leaf.dtype) for leaf in leaves))
    made = Network.of(model).derived(key, lambda: canonical_of(model, (batch.args, batch.kwargs)))
    return made.module, tuple(f"{step.kind} {step.where}: {step.what}" for step in made.log)


def _assemble(
    parts: list[Attributed],
    heads: list[Batch],
    feature_names: Sequence[str] | None,
    method: str,
    made_by: Plan | None,
    provenance: dict[str, Any],
) -> Explanation:
    seeds = parts[0].seeds
    several = seeds.several

    def joined(tensors: list[Tensor]) -> np.ndarray:
        """(targets, n, …) of each batch to (n, …) or (n, …, targets)."""
        array = torch.cat(tensors, 1).double().cpu().numpy()
        return np.moveaxis(array, 0, -1) if several else array[0]

    names = list(parts[0].inputs)
    if not names:
        raise ArgumentError("no input of the network received relevance: its output does not depend on them")
    values = [joined([part.values[name] for part in parts]) for name in names]
    data = [torch.cat([part.inputs[name] for part in parts]).cpu() for name in names]
    arrays = [(x.float() if x.dtype is torch.bfloat16 else x).numpy() for x in data]
    columns = tuple(feature_names) if feature_names is not None else heads[0].columns
    dims: tuple[str, ...]
    annotations: dict[str, np.ndarray] = {}
    if len(names) == 1:
        value, shown = values[0], arrays[0]
        dims = _dims(shown.ndim)
    else:
        # one axis of features: those of the inputs one after the other
        n = len(arrays[0])
        tail = (values[0].shape[-1],) if several else ()
        value = np.concatenate([v.reshape(n, -1, *tail) for v in values], axis=1)
        shown = np.concatenate([a.reshape(n, -1) for a in arrays], axis=1)
        dims = ("row", "feature")
        if not columns:
            columns = tuple(
                f"{name}[{', '.join(str(i) for i in index)}]" for name, a in zip(names, arrays, strict=True)
                for index in np.ndindex(a.shape[1:])
            )  # fmt: skip
    ledger = _ledger(parts, several) if made_by is not None else None
    labels = [head.labels for head in heads]
    title = f"lrp ({made_by.title.partition(': ')[0]})" if made_by is not None else method
    return Explanation(
        values=value,
        output=joined([part.seeds.scores for part in parts]),
        base_values=joined([part.base for part in parts]),
        data=shown,
        feature_names=columns,
        output_names=seeds.names,
        target=", ".join(seeds.names[:4]) + (" …" if len(seeds.names) > 4 else ""),
        method=title,
        dims=(*dims, "target") if several else dims,
        provenance=provenance,
        ledger=ledger,
        annotations=annotations,
        layers={layer: joined([part.layers[layer] for part in parts]) for layer in parts[0].layers},
        labels=None if labels[0] is None else np.concatenate([label for label in labels if label is not None]),
        kind=heads[0].kind,
    )


def _dims(axes: int) -> tuple[str, ...]:
    known = {2: ("row", "feature"), 3: ("row", "channel", "position"), 4: ("row", "channel", "height", "width")}
    return known.get(axes, ("row", *(f"axis {k}" for k in range(1, axes))))


def _ledger(parts: list[Attributed], several: bool) -> Ledger:
    # a network with branches may run through other places in another batch; there, nothing came by
    lines = list(dict.fromkeys(line[:2] for part in parts for line in part.ledger))
    scores = torch.cat([part.seeds.scores for part in parts], 1)
    if not lines:
        # nothing between the inputs and the output can keep anything
        empty = np.zeros((0, *(scores.T if several else scores[0]).shape))
        return Ledger((), (), empty, empty, empty)
    found = [{line[:2]: line for line in part.ledger} for part in parts]

    def column(k: int) -> np.ndarray:
        # one copy of everything: layers are many and their sums small
        rows = [
            torch.stack([held[line][k] if line in held else torch.zeros_like(part.seeds.scores) for line in lines])  # type: ignore[misc]
            for part, held in zip(parts, found, strict=True)
        ]
        stacked = torch.cat(rows, 2).double().cpu().numpy()
        return np.moveaxis(stacked, 1, -1) if several else stacked[:, 0]

    return Ledger(tuple(name for name, _ in lines), tuple(rule for _, rule in lines), column(2), column(3), column(4))


def _check(ex: Explanation, strict: bool) -> None:
    if not np.isfinite(ex.values).all():
        row = int(np.argwhere(~np.isfinite(ex.values))[0][0])
        raise DataError(
            f"row {row} has values that are not finite: the network's own numbers overflow, or a rule divides by next "
            "to nothing; double precision or a rule with a stabiliser helps"
        )
    if ex.ledger is None or not ex.ledger.layers:
        return
    bias = ex.ledger.bias if ex.ledger.bias is not None else np.zeros_like(ex.ledger.absorbed)
    rest = np.abs(ex.ledger.absorbed - bias)
    flow = np.maximum(np.abs(np.asarray(ex.output)), np.abs(ex.ledger.entering).max(0))
    share = rest / np.maximum(flow, np.finfo(float).tiny)
    worst = np.unravel_index(int(np.argmax(share)), share.shape)
    if share[worst] <= _WORTH_A_WORD:
        return
    k = int(worst[0])
    layer, rule = ex.ledger.layers[k], ex.ledger.rules[k]
    if (layer, rule) == TARGET_LINE:
        said = (
            f"row {int(worst[1])}: the target is not linear in the output, and {share[worst]:.3g} times the score is "
            "not in its gradient: explain a logit or a difference of logits, or see ex.ledger for what is missing"
        )
    else:
        said = (
            f"row {int(worst[1])}: {layer!r} ({rule}) kept or added {share[worst]:.3g} times the score: zero "
            "denominators or a rule that does not conserve; ex.ledger has every layer"
        )
    if strict:
        raise ConservationError(said)
    warnings.warn(said, BacklightWarning, stacklevel=4)
