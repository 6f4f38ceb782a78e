"""The audit: how much each method's explanations change under rewrites that leave the function as it is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from backlight._audit.measure import between, rank_correlation, top_changed, total_variation
from backlight._audit.result import Audit
from backlight._audit.rewrite import Rewrite, pick
from backlight._explain import explain
from backlight.arguments import checked
from backlight.attribution import Method
from backlight.attribution.inputs import batches, home
from backlight.attribution.reference import REFERENCES
from backlight.canonical.affine import fold_norms
from backlight.canonical.canonize import canonical_form
from backlight.canonical.form import Form
from backlight.canonical.lift import lift, torch_module
from backlight.canonical.lower import lower
from backlight.engine import presets
from backlight.engine.capture import light_copy
from backlight.engine.precision import double_copy
from backlight.errors import ArgumentError, BacklightWarning, UnsupportedModel, listed
from backlight.hints import RowsLike, RulesLike, TargetLike
from backlight.models.explained import Progress, reporter
from backlight.rules.base import AUDITED, NAMED_RULES

__all__ = ["METHODS", "audit"]

METHODS = ("gradient_x_input", "lrp:epsilon", "lrp:gamma")


# more is no rewrite of this network: of the largest output
_SAME = 1e-9
_CHANGED = "it changed the function"


@checked
def audit(
    model: nn.Module,
    X: RowsLike,
    target: TargetLike = None,
    *,
    methods: Sequence[str] | Mapping[str, RulesLike] = METHODS,
    rewrites: str | Rewrite | Sequence[str | Rewrite] = "deploy",
    canonical: bool = True,
    feature_names: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool | Progress | None = None,
) -> Audit:
    """Measure how much explanations change when the same function is written differently.

    The network is rewritten in many ways that leave its function as it is, on the captured graph and in double
    precision; each is checked on the inputs and on random points, which are put together from the inputs number by
    number, and left out where the function changed by more than 1e-9. A good explanation does not change.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode; left as it is.
    X : table, tensor, or iterable of batches
        Inputs to explain. Some tens are enough.
    target : optional
        As for `backlight.explain`. By default the class that the model predicts; it stays the same for all rewrites.
    methods : sequence of str, or dict of str to what explains
        ``"gradient_x_input"`` and the other reference methods; ``"lrp"`` for the default rules; ``"lrp:"`` with a
        preset's name, or with zero, epsilon (ε = 0.1), gamma (γ = 0.25), zplus, alphabeta (α = 2, β = 1). In a dict a
        `Rule`, a `Composite` or a `Method` by any name.
    rewrites : str, Rewrite, or list of these, default "deploy"
        ``"deploy"``: what tools do on the way to production. ``"all"``: other identities too. ``"attack"``: made to
        move explanations, to show how far they can be moved.
    canonical : bool, default True
        Also measure how much of it is left between canonical forms (see `canonize`), for methods with rules.
    feature_names : sequence of str, optional
    seed : int
        Rewrites draw at random from a generator of their own.
    progress : bool or callable, optional
        ``True`` writes the count of rewrites to the terminal; a callable gets (done, in all).

    Returns
    -------
    Audit
        Prints as a table with advice; ``to_frame()``, ``plot.heatmap()``, ``worst()``.

    Raises
    ------
    ArgumentError, DataError, UnsupportedModel

    Examples
    --------
    >>> import torch, backlight
    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator object at ...>
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> found = backlight.audit(net, torch.randn(10, 6), rewrites="all")
    >>> bool(found.ssi["gradient_x_input"] < 1e-9 < found.ssi["lrp:gamma"])
    True
    """
    chosen = pick(rewrites)
    ways = _methods(methods)
    model = torch_module(model)
    copy = double_copy(model)
    inputs, kwargs = _all(X, copy)
    report = reporter(progress, "rewrites")
    form = lift(copy, (inputs, kwargs))
    fold_norms(form)
    given = dict(zip(form.inputs, [*inputs, *kwargs.values()], strict=True))
    with torch.no_grad():
        output = form.run(given)[form.output]
    fixed = _target(target, output)
    examples = {name: given[name] for name in form.inputs}
    data: Any = inputs[0] if len(inputs) == 1 and not kwargs else (kwargs if kwargs else inputs)

    shuffled = pytree.tree_map(lambda value: _mixed(value, torch.Generator().manual_seed(seed)), data)
    with torch.no_grad():
        points = [(data, output), (shuffled, _call(copy, shuffled))]

    def explained(module: nn.Module) -> dict[str, np.ndarray]:
        return {name: _explained(module, data, fixed, way, seed) for name, way in ways.items()}

    report(0, len(chosen))
    base = explained(copy)
    with_rules = {name: way for name, way in ways.items() if way[0] == "lrp"}
    own = canonical_form(form.copy())
    simple = {name: _explained(own.module, data, fixed, way, seed) for name, way in with_rules.items() if canonical}
    generator = np.random.default_rng(seed)
    classes = output.argmax(1).numpy() if output.dim() == 2 else np.zeros(len(output))
    left_out: dict[str, str] = {}
    kept: list[Rewrite] = []
    cells: list[list[np.ndarray]] = []
    after: list[np.ndarray] = []
    changes: list[float] = []
    for done, made in enumerate(chosen):
        tried = _tried(made, form, copy, examples, seed, points)
        if isinstance(tried, str):
            left_out[made.name] = tried
        else:
            new, module, change = tried
            now = explained(module)
            kept.append(made)
            changes.append(change)
            pairs = [(base[name], now[name]) for name in ways]
            cells.append(
                [np.stack([f(a, b) for a, b in pairs]) for f in (total_variation, rank_correlation, top_changed)]
            )
            if canonical:
                after.append(_after(new, simple, ways, data, fixed, seed))
        report(done + 1, len(chosen))
    if not kept:
        _refuse_changed(left_out)
    none = np.zeros((0, len(ways), len(output)))
    moved, rank, top = (np.stack([cell[k] for cell in cells]) if cells else none for k in range(3))
    return Audit(
        tuple(ways), tuple(kept), left_out, moved, rank, top.astype(bool),
        (np.stack(after) if after else none) if canonical else None,
        np.array(changes), np.array([between(values, classes, generator) for values in base.values()]), own.log,
        own.planted, own.unsearched, base, type(model).__name__, len(output), seed, tuple(feature_names or ()),
    )  # fmt: skip


def _refuse_changed(left_out: dict[str, str]) -> None:
    wrong = [f"{name}: {why}" for name, why in left_out.items() if why.startswith(_CHANGED)]
    if wrong:
        raise UnsupportedModel(f"no rewrite leaves this network's function as it is: {'; '.join(wrong)}")


def _tried(
    made: Rewrite,
    form: Form,
    model: nn.Module,
    examples: dict[str, Any],
    seed: int,
    points: list[tuple[Any, Tensor]],
) -> tuple[Form, nn.Module, float] | str:
    """The rewritten network and how much its function changed; or why it is left out."""
    try:
        rewritten = _rewritten(made, form, model, examples, seed)
    except UnsupportedModel as error:
        return str(error)
    if rewritten is None:
        return "not tried: no place for it was found, which does not show that explanations are safe"
    change = _function_change(rewritten[1], points)
    return f"{_CHANGED} by {change:.1g} of its largest output" if change > _SAME else (*rewritten, change)


def _rewritten(
    made: Rewrite, form: Form, model: nn.Module, example: dict[str, Any], seed: int
) -> tuple[Form, nn.Module] | None:
    generator = torch.Generator().manual_seed(seed)
    if made.module is not None:
        module = made.module(light_copy(model))
        if not isinstance(module, nn.Module):
            raise ArgumentError(f"the rewrite {made.name!r} gave {type(module).__name__}, which is no torch module")
        module = double_copy(module).eval()
        return lift(module, (tuple(example.values()), {})), module
    assert made.apply is not None
    new = form.copy()
    if not made.apply(new, generator):
        return None
    new.refresh()
    return new, lower(new)


def _mixed(value: Any, generator: torch.Generator) -> Any:
    """Rows put together from different ones, number by number: points that are not in the data."""
    if not isinstance(value, Tensor) or value.dim() < 2:
        return value
    flat = value.flatten(1)
    order = torch.rand(flat.shape, generator=generator).argsort(0)
    return flat.gather(0, order).view_as(value)


def _function_change(module: nn.Module, points: list[tuple[Any, Tensor]]) -> float:
    """The largest change on any of the points, relative to the largest output there."""
    found = 0.0
    for data, output in points:
        with torch.no_grad():
            now = _call(module, data)
        found = max(found, float((now - output).abs().max() / output.abs().max().clamp(min=1e-300)))
    return found


def _call(module: nn.Module, data: Any) -> Tensor:
    if isinstance(data, dict):
        output: Tensor = module(**data)
    else:
        output = module(*data) if isinstance(data, tuple) else module(data)
    return output


def _after(
    new: Form, simple: dict[str, np.ndarray], ways: dict[str, Any], data: Any, target: Any, seed: int
) -> np.ndarray:
    form = canonical_form(new.copy())
    found = []
    for name, way in ways.items():
        if name in simple:
            found.append(total_variation(simple[name], _explained(form.module, data, target, way, seed)))
        else:
            found.append(np.full(_rows(data), np.nan))
    return np.stack(found)


def _rows(data: Any) -> int:
    first = next(iter(data.values())) if isinstance(data, dict) else data[0] if isinstance(data, tuple) else data
    return len(first)


def _explained(module: nn.Module, data: Any, target: Any, way: tuple[str, Any], seed: int) -> np.ndarray:
    method, rules = way
    with warnings.catch_warnings():
        # what a rule loses is not what is asked here
        warnings.simplefilter("ignore", BacklightWarning)
        ex = explain(module, data, target, method=method, rules=rules, seed=seed)
    return ex.values


def _methods(methods: Any) -> dict[str, tuple[Any, Any]]:
    """By name: (method, rules)."""
    if isinstance(methods, str):
        methods = [methods]
    if not isinstance(methods, Mapping):
        methods = {name: name for name in methods}
    found: dict[str, tuple[Any, Any]] = {}
    for name, way in methods.items():
        if isinstance(way, Method):
            found[name] = (way, "auto")
        elif not isinstance(way, str):
            found[name] = ("lrp", way)
        elif way == "lrp":
            found[name] = ("lrp", "auto")
        elif way.startswith("lrp:") and (way[4:] in AUDITED or way[4:] in presets):
            # a preset of a single rule has the rule's name; with one place to look for it, the rule is meant
            found[name] = ("lrp", NAMED_RULES[way[4:]] if way[4:] in AUDITED else way[4:])
        elif way in REFERENCES:
            found[name] = (way, "auto")
        else:
            known = [*REFERENCES, "lrp", *(f"lrp:{rule}" for rule in (*AUDITED, *presets))]
            raise ArgumentError(f"method {way!r} is not known: the methods are {listed(dict.fromkeys(known), 30)}")
    if not found:
        raise ArgumentError("there is no method to audit: the list is empty")
    return found


def _all(X: Any, model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    parts = list(batches(X, home(model), "auto")[1])
    if not parts:
        raise ArgumentError("there are no inputs to audit with")
    args = tuple(torch.cat([part.args[k] for part in parts]) for k in range(len(parts[0].args)))
    kwargs = {name: torch.cat([part.kwargs[name] for part in parts]) for name in parts[0].kwargs}
    return args, kwargs


def _target(target: Any, output: Tensor) -> Any:
    if target is not None:
        return target
    if output.dim() != 2 or output.shape[1] == 1:
        return None
    # the class of the network as it is, also where a rewritten one differs in the last digit
    return output.argmax(1)
