"""What is folded into a neighbouring layer before rules are assigned: batch normalisation, and a bias added apart."""

from __future__ import annotations

from dataclasses import replace

from backlight.engine.operators.spellings import with_bias
from backlight.engine.steps import LinearSite, Site
from backlight.rules import Convolution, Dense, Elementwise, LinearMap

__all__ = ["fold"]


def fold(sites: dict[int, Site], alive: list[list[int]]) -> dict[int, int]:
    """Batch normalisation into the layer before it, else into the one behind; what is added behind a layer into it.

    Parameters
    ----------
    sites : dict of int to Site
        By node; changed in place.
    alive : list of list of int
        For each node those of the plan that use its value.

    Returns
    -------
    dict of int to int
        For each node that is formed inside of another one's step, that one.
    """
    fused: dict[int, int] = {}
    for index in sorted(sites):
        norm = sites[index]
        if _join_bias(sites, index, alive, fused):
            continue
        if not isinstance(norm, LinearSite) or not isinstance(norm.layer, Elementwise) or "norm" not in norm.node.op:
            continue
        source = norm.carriers[0]
        before = sites.get(source)
        shape = norm.node.shape or ()
        if (
            isinstance(before, LinearSite)
            and alive[source] == [index]
            and (isinstance(before.layer, Convolution) or (isinstance(before.layer, Dense) and len(shape) == 1))
        ):
            assert norm.layer.bias is not None
            layer = _as_precise(
                before.layer.scaled(norm.layer.weight.flatten(), norm.layer.bias.flatten()), before.layer
            )
            sites[index] = LinearSite(before.node, before.carriers, before.role, before.default, layer=layer)
            del sites[source]
            fused[source] = index
            continue
        behind = sites.get(alive[index][0]) if len(alive[index]) == 1 else None
        if (
            isinstance(behind, LinearSite)
            and behind.role == "linear"
            and (len(shape) == 1 or isinstance(behind.layer, Convolution))
        ):
            assert norm.layer.bias is not None
            after = behind.layer.preceded(norm.layer.weight.flatten(), norm.layer.bias.flatten())
            if after is not None:
                after = _as_precise(after, behind.layer)
                sites[alive[index][0]] = LinearSite(
                    behind.node, norm.carriers, behind.role, behind.default, layer=after
                )
                del sites[index]
                fused[index] = alive[index][0]
    return fused


def _as_precise(made: LinearMap, layer: LinearMap) -> LinearMap:
    """A folded layer in the precision of the one that runs: under autocast its neighbour computes in another."""
    dtype = layer.weight.dtype
    if made.weight.dtype == dtype:
        return made
    return replace(made, weight=made.weight.to(dtype), bias=None if made.bias is None else made.bias.to(dtype))


def _join_bias(sites: dict[int, Site], index: int, alive: list[list[int]], fused: dict[int, int]) -> bool:
    """A constant that is added behind a layer is its bias."""
    shift = sites[index]
    if not isinstance(shift, LinearSite) or shift.node.op not in ("add", "sub") or shift.layer.bias is None:
        return False
    source = shift.carriers[0]
    before = sites.get(source)
    if not isinstance(before, LinearSite) or before.role != "linear" or alive[source] != [index]:
        return False
    if not isinstance(shift.layer, Elementwise) or not bool((shift.layer.weight == 1).all()):
        return False
    layer = with_bias(before.layer, shift.layer.bias, shift.node)
    if layer is None:
        return False
    sites[index] = replace(before, layer=layer)
    del sites[source]
    fused[source] = index
    return True
