"""The captured graph without what changes no value: copies, dropout that is off, tuples of which one member counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from backlight.engine.graph import Graph, Node, Ref, references
from backlight.engine.operators import ALIASES, FIRST_OF_TUPLE
from backlight.errors import UnsupportedModel

__all__ = ["simplify"]

_RANDOM = frozenset({
    "bernoulli", "binomial", "cauchy", "exponential", "geometric", "log_normal", "multinomial", "normal",
    "normal_functional", "poisson", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "random",
    "randperm", "uniform", "_sample_dirichlet", "_standard_gamma",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _First:
    """An operator whose value is the first member of its tuple."""

    target: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.target(*args, **kwargs)[0]


def simplify(graph: Graph) -> Graph:
    """Drop what is no operation, and refuse what depends on chance.

    Raises
    ------
    UnsupportedModel
        Dropout, or batch normalisation on the statistics of the batch: the model is in training mode.
    """
    instead: dict[int, int] = {}
    nodes: list[Node] = []
    taken = _members_taken(graph)
    unused = _unused_draws(graph)
    for node in graph.nodes:
        if _without_value(node) or node.index in unused:
            # a check that the model makes of itself, a draw that it does not use; the place in the list stays
            nodes.append(replace(node, target=None, args=(), kwargs={}))
            continue
        _require_deterministic(node)
        given = node.args[0] if node.args else None
        node = replace(node, args=_swap(node.args, instead), kwargs=_swap(node.kwargs, instead))
        if node.op in ("view", "_unsafe_view"):
            # the copies that made a view possible are dropped
            node.target = torch.ops.aten.reshape.default
        if node.op == "getitem" and isinstance(given, Ref) and graph.nodes[given.index].op in _BOTH:
            node = _one_of_two(node, nodes[given.index])
        nodes.append(node)
        source = node.args[0] if node.args else None
        if node.op in ALIASES and isinstance(source, Ref):
            instead[node.index] = source.index
        elif node.op == "copy" and isinstance(node.args[1], Ref):
            # what was written over is gone
            written = node.args[1]
            if graph.nodes[written.index].shape == node.shape:
                instead[node.index] = written.index
            else:
                node.op, node.target = "expand_as", torch.ops.aten.expand_as.default
                node.args, node.kwargs = (written, node.args[0]), {}
        elif node.op in ("to", "_to_copy") and isinstance(source, Ref):
            if graph.nodes[source.index].dtype == node.dtype:
                instead[node.index] = source.index
        elif node.op == "getitem" and isinstance(given, Ref) and taken.get(given.index) == {0}:
            origin = nodes[given.index]
            if origin.op in ALIASES:
                instead[node.index] = instead[given.index]
            elif origin.op in FIRST_OF_TUPLE and node.args[1] == 0:
                instead[node.index] = given.index
                origin.shape, origin.dtype, origin.rows, origin.sizes = node.shape, node.dtype, node.rows, node.sizes
                if origin.target is not None and not isinstance(origin.target, _First):
                    origin.target = _First(origin.target)
    return replace(graph, nodes=nodes, output=_swap(graph.output, instead))


_BOTH = {"std_mean": ("std", "mean"), "var_mean": ("var", "mean"), "aminmax": ("amin", "amax")}


def _one_of_two(node: Node, both: Node) -> Node:
    """One of the two values of an operator, by the operator that gives that one alone."""
    name = _BOTH[both.op][node.args[1]]
    args, kwargs = both.args, dict(both.kwargs)
    if name == "mean":
        kwargs.pop("correction", None)
        kwargs.pop("unbiased", None)
        # the forms with a flag have it behind the axes
        args = tuple(a for k, a in enumerate(args) if not (isinstance(a, bool) and k in (1, 2) and len(args) in (2, 4)))
    if both.op == "aminmax" and isinstance(kwargs.get("dim"), int):
        kwargs["dim"] = [kwargs["dim"]]
    packet = getattr(torch.ops.aten, name)
    target = packet
    return replace(node, op=name, target=target, args=args, kwargs=kwargs)


def _without_value(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and not schema.returns


def _members_taken(graph: Graph) -> dict[int, set[int]]:
    """For each tuple of values the members that something uses."""
    taken: dict[int, set[int]] = {}
    used = {index for node in graph.nodes for index in node.inputs} | {r.index for r in references(graph.output)}
    for node in graph.nodes:
        if node.op == "getitem" and isinstance(node.args[0], Ref) and node.index in used:
            taken.setdefault(node.args[0].index, set()).add(node.args[1])
    return taken


def _swap(tree: Any, instead: dict[int, int]) -> Any:
    if isinstance(tree, Ref):
        return Ref(instead.get(tree.index, tree.index))
    if isinstance(tree, tuple) and not hasattr(tree, "_fields"):
        return tuple(_swap(item, instead) for item in tree)
    if isinstance(tree, list):
        return [_swap(item, instead) for item in tree]
    if isinstance(tree, dict):
        changed = {key: _swap(item, instead) for key, item in tree.items()}
        return changed if type(tree) is dict else type(tree)(changed)
    if isinstance(tree, slice):
        return slice(*(_swap(item, instead) for item in (tree.start, tree.stop, tree.step)))
    return tree


def _draws(node: Node) -> bool:
    return node.op.removesuffix("_") in _RANDOM


def _unused_draws(graph: Graph) -> set[int]:
    """What is drawn at random, and what is made of it, where the output is not computed from it."""
    reaching = {ref.index for ref in references(graph.output)}
    for node in reversed(graph.nodes):
        if node.index in reaching:
            reaching.update(node.inputs)
    found: set[int] = set()
    for node in graph.nodes:
        if node.index not in reaching and (_draws(node) or not found.isdisjoint(node.inputs)):
            found.add(node.index)
    return found


def _require_deterministic(node: Node) -> None:
    dropout = "dropout" in node.op and len(node.args) > 2 and node.args[2] is True and node.args[1] > 0
    batch = node.op in (
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_functional",
        "native_batch_norm",
        "batch_norm",
    )
    training = batch and node.op != "_native_batch_norm_legit_no_training" and node.args[5] is True
    if node.op == "_native_batch_norm_legit" and len(node.args) < 7:
        # the form without running statistics belongs to instance normalisation
        training = False
    if dropout or training:
        what = "drops out at random" if dropout else "normalises by the statistics of the batch"
        raise UnsupportedModel(
            f"the model is in training mode: {node.name} ({node.op}) {what}, so that a row has no explanation of its "
            "own; call model.eval() first, and give a functional form in its forward training=self.training"
        )
    if node.op == "_pack_padded_sequence":
        raise UnsupportedModel(
            f"operator {node.op!r} at {node.name!r} packs rows of several lengths, which relevance cannot follow: "
            "pad, run the layer on all steps, and take each row's last valid step with gather"
        )
    if _draws(node):
        raise UnsupportedModel(f"the model draws at random: {node.name} ({node.op}); its output has no one explanation")
