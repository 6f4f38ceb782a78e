"""From a network and picture files to explanations side by side."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from backlight._explain import explain
from backlight.engine import presets
from backlight.errors import ArgumentError, listed
from backlight.explanation import Explanation
from backlight.vision.pictures import Preprocessing

__all__ = ["DEFAULTS", "Seen", "explain_pictures"]

DEFAULTS = ("gamma-decreasing", "gradient_x_input")
_NAMES = {
    "gradient_x_input": "gradient × input",
    "integrated_gradients": "integrated gradients",
    "smoothgrad": "SmoothGrad",
}
_METHODS = ("gradient", "gradient_x_input", "integrated_gradients", "smoothgrad", "occlusion", "shapley")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Pictures and what explains them.

    Attributes
    ----------
    names : tuple of str
        Of the files.
    pixels : array of shape (n, height, width, channels)
    explanations : mapping of str to Explanation
        By what explains, in the order asked for.
    classes : tuple of str
        The explained class of each picture.
    """

    names: tuple[str, ...]
    pixels: np.ndarray
    explanations: Mapping[str, Explanation]
    classes: tuple[str, ...]


def explain_pictures(
    network: nn.Module,
    paths: Sequence[Path],
    prepare: Preprocessing,
    *,
    methods: Sequence[str] = DEFAULTS,
    target: int | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Seen:
    """Explain each picture by each method: presets of rules, or reference methods.

    A preset whose first layer has a box gets the bounds of the preprocessing.
    """
    pixels = [prepare.pixels(path) for path in paths]
    inputs = prepare.inputs(pixels)
    found: dict[str, Explanation] = {}
    chosen: np.ndarray | None = None
    for name in methods:
        report = _reporter(progress, name)
        how = _how(name, prepare)
        ex = explain(network, inputs, target if chosen is None else chosen, seed=seed, progress=report, **how)
        if chosen is None:
            chosen = _classes(network, inputs, target)
        found[_NAMES.get(name, name)] = replace(ex, labels=np.array([path.stem for path in paths]))
    assert chosen is not None
    if class_names is not None and int(chosen.max()) >= len(class_names):
        raise ArgumentError(f"class {int(chosen.max())} is explained, and there are {len(class_names)} class names")
    said = tuple(class_names[k] if class_names is not None else f"class {k}" for k in chosen)
    return Seen(tuple(path.name for path in paths), np.stack(pixels), found, said)


def _classes(network: nn.Module, inputs: np.ndarray, target: int | None) -> np.ndarray:
    import torch

    if target is not None:
        return np.full(len(inputs), target)
    with torch.no_grad():
        found: np.ndarray = network(torch.as_tensor(inputs)).flatten(1).argmax(1).numpy()
    return found


def _how(name: str, prepare: Preprocessing) -> dict[str, Any]:
    if name in _METHODS:
        return {"method": name}
    if name == "auto":
        return {"rules": "auto"}
    if name not in presets:
        raise ArgumentError(f"{name!r} is no preset ({listed(presets)}) and no method ({listed(_METHODS)})")
    bounded = "low" in inspect.signature(presets[name]).parameters
    return {"rules": presets[name](prepare.low, prepare.high) if bounded else presets[name]()}


def _reporter(progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(_NAMES.get(name, name), done, total)
