"""From anything that a user has to a `Model`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from backlight.classical import NeuralizedModel, neuralize
from backlight.classical.heads import FeatureHead
from backlight.errors import ArgumentError
from backlight.models.heads import HeadModel
from backlight.models.network import NetworkModel
from backlight.models.protocol import Model
from backlight.models.torch import TorchModel

__all__ = ["open_model", "reopened"]


def open_model(model: Any, *, score: str | None = None, columns: Sequence[str] | None = None) -> Model:
    """Open a model of any kind.

    Parameters
    ----------
    model : fitted scikit-learn estimator or Pipeline, torch.nn.Module, exported program, or what `neuralize` returned
    score : str, optional
        Which score of a classical model.
    columns : sequence of str, optional
        The table's columns, for a model of a third party that does not count them.

    Raises
    ------
    UnsupportedModel, NotFittedModel, ArgumentError
    """
    if isinstance(model, NeuralizedModel):
        if score is not None and score != model.score.name:
            raise ArgumentError(
                f"the network computes {model.score.name!r}, not {score!r}: neuralize(model, score={score!r}) first"
            )
        return NetworkModel(model)
    if isinstance(model, FeatureHead):
        if score is not None and score != model.score.name:
            raise ArgumentError(f"the head computes {model.score.name!r}: neuralize(…, score={score!r}) first")
        return HeadModel(model)
    if isinstance(model, torch.nn.Module | torch.export.ExportedProgram):
        if score is not None:
            raise ArgumentError(f"score={score!r} does not apply to a torch module: leave it out, or give target=")
        return TorchModel(model)
    return NetworkModel(neuralize(model, score=score, columns=columns))


def reopened(kept: dict[str, Any]) -> Model:
    """The model of what `Model.kept` gave, as it was read from a file.

    Raises
    ------
    FileError
    """
    kind = TorchModel if "program" in kept else NetworkModel
    return kind.again(kept)
