"""The canonical form of a module, made once for each shape of input."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from backlight.attribution.inputs import Batch
from backlight.canonical.canonize import canonical_of
from backlight.engine.network import Network

__all__ = ["canonical_module"]


def canonical_module(model: nn.Module, batch: Batch) -> tuple[nn.Module, tuple[str, ...]]:
    """The canonical form of a model for inputs of a batch's shape, and the steps to it."""
    few = batch.take(0, 4)
    leaves = [leaf for leaf in pytree.tree_leaves((few.args, few.kwargs)) if isinstance(leaf, Tensor)]
    key = ("canonical", *((tuple(leaf.shape[1:]), leaf.dtype) for leaf in leaves))
    made = Network.of(model).derived(key, lambda: canonical_of(model, (few.args, few.kwargs)))
    return made.module, tuple(f"{step.kind} {step.where}: {step.what}" for step in made.log)
