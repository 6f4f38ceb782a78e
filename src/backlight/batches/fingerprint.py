"""What an explainer is, as a digest: a run goes on only with the explainer that it began with."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from backlight._version import __version__
from backlight.attribution.requested import Targets
from backlight.models import Model, Query
from backlight.models.network import NetworkModel

__all__ = ["fingerprint_of"]


def fingerprint_of(model: Model, query: Query, targets: Targets) -> str:
    """SHA-256 over what a model has learnt and how it is asked, for one version of backlight.

    A target that is a function is known by its name alone.
    """
    digest = hashlib.sha256(f"{__version__} {model.kind}".encode())
    if isinstance(model, NetworkModel):
        digest.update(f"{model.network.fingerprint()} {model.network.score.name} {model.network.dtype}".encode())
    else:
        module = getattr(model, "module", None)
        state = module.state_dict() if isinstance(module, torch.nn.Module) else {}
        for name, tensor in sorted(state.items()):
            digest.update(f"{name} {_said(tensor)}".encode())
    for field in fields(query):
        digest.update(f"{field.name}={_said(getattr(query, field.name))};".encode())
    for item in targets.items:
        digest.update(" ".join(_said(getattr(item, field.name)) for field in fields(item)).encode())
    digest.update(str(targets.several).encode())
    return digest.hexdigest()


def _said(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous()
        return f"{plain.dtype} {hashlib.sha256(plain.view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    parts = getattr(value, "__slots__", None)
    if parts and not isinstance(value, str):
        return type(value).__name__ + " ".join(_said(getattr(value, name)) for name in parts)
    return repr(value)
