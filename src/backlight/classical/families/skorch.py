"""Skorch: networks of PyTorch behind scikit-learn's interface, by the relevance engine, in double precision."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from backlight.classical.families.scores import column, plain
from backlight.classical.layers import Layer
from backlight.classical.layers.deep import Deep
from backlight.classical.network import Inputs, ModelSpec
from backlight.classical.neuralize import neuralize
from backlight.classical.targets import Outputs
from backlight.errors import NotFittedModel

__all__ = ["skorch_net"]


@neuralize.register("skorch.net.NeuralNet", "skorch.NeuralNet")
def skorch_net(net: Any) -> ModelSpec:
    """Neuralize a wrapped module: what its ``forward`` returns."""
    if not getattr(net, "initialized_", False):
        raise NotFittedModel(f"{type(net).__name__} is not fitted: call its fit(X, y) first")
    first = next((one for one in net.module_.modules() if isinstance(one, torch.nn.Linear)), None)
    last = [one for one in net.module_.modules() if isinstance(one, torch.nn.Linear)]
    units = last[-1].out_features if last else 1
    classes = getattr(net, "classes_", None)

    def make(inputs: Inputs) -> Layer:
        module = copy.deepcopy(net.module_).cpu().double().eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        return Deep(module, units, inputs.pullback)

    def forward(model: Any, z: Any) -> np.ndarray:
        found = model.forward(np.asarray(z, dtype=np.float32), training=False)
        return column(np.asarray(found.detach().cpu()).reshape(len(found), -1))

    outputs = Outputs.quantities(units)
    if classes is not None and len(classes) == (units if units > 1 else 2):
        outputs = Outputs.each(classes) if units > 1 else Outputs.binary(classes)
    name = "predict" if classes is None else "logit"
    width = None if first is None else first.in_features
    return ModelSpec(
        f"{type(net.module_).__name__} of skorch", {name: plain(name, make, forward, outputs)}, n_columns=width
    )
