"""Classical heads on the features of a torch module, explained to the module's inputs.

A head that measures distances in feature space is a function of differences of features, and every difference is
carried back between two rows: `backlight.classical.head_forms` says which, `backlight.classical.paired` how.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight.classical.head_forms import FORMS, core_of, slopes
from backlight.classical.layers.linear import Affine, Mahalanobis
from backlight.classical.layers.pools import Budget
from backlight.classical.network import NeuralizedModel
from backlight.classical.paired import PairedModule
from backlight.errors import ArgumentError, UnsupportedModel

__all__ = ["Center", "FeatureHead"]


class Center:
    """The squared distance to one point.

    Parameters
    ----------
    center : array of shape (K,)
    """

    def __init__(self, center: Any) -> None:
        self.center_ = np.asarray(center, dtype=float)
        if self.center_.ndim != 1:
            raise ArgumentError(f"a centre is one point of shape (K,), not an array of shape {self.center_.shape}")
        self.n_features_in_ = len(self.center_)

    def fit(self, *_: Any) -> Center:
        """Nothing: the centre was given."""
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """‖x − center‖², (n,)."""
        return np.asarray(((np.asarray(X, dtype=float) - self.center_) ** 2).sum(1))


class FeatureHead(nn.Module):
    """A head on the features of a module, as one network.

    Parameters
    ----------
    network : NeuralizedModel
        The head: it takes features.
    features : nn.Module
        From inputs (n, …) to features (n, K). A copy of it is kept.
    data : array or tensor of shape (M, …)
        Inputs whose features the head was fitted on: what differences are counted from.
    """

    def __init__(self, network: NeuralizedModel, features: nn.Module, data: Any) -> None:
        super().__init__()
        core = core_of(network.layer)
        if type(core) not in FORMS:
            hint = "ask for score='outlierness'" if isinstance(network.layer, Budget) else "give another head"
            raise UnsupportedModel(
                f"score {network.score.name!r} of this {network.kind} has no reference rows that differences of "
                f"features could be carried to: {hint}"
            )
        module = copy.deepcopy(features).to(network.dtype).eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        self.features, self.network = PairedModule(module), network
        # these two are written in elements, whatever affine map follows
        self.front = network.front.elements if isinstance(core, Affine | Mahalanobis) else network.front
        self.kind = f"{network.kind} on features of {type(features).__name__}"
        self.register_buffer("data", torch.as_tensor(data).detach().clone().to(network.dtype))
        if self.data.ndim < 2 or not len(self.data):
            raise ArgumentError("data= takes the inputs whose features the head was fitted on, one a row")
        self.register_buffer("rows", torch.cat([self._embed(part) for part in torch.split(self.data, 64)]))

    data: Tensor
    rows: Tensor

    @property
    def score(self) -> Any:
        """The head's score."""
        return self.network.score

    @property
    def deep(self) -> bool:
        """Whether the features have hidden units."""
        weighted = (nn.Linear, nn.Conv1d, nn.Conv2d)
        return sum(isinstance(module, weighted) for module in self.features.modules()) > 1

    def _embed(self, x: Tensor) -> Tensor:
        """The head's own space, (n, K)."""
        with torch.no_grad():
            z: Tensor = self.front(self.features(x))
        return z

    def forward(self, x: Tensor) -> Tensor:
        """The score of each row, as the head gives it for its features."""
        out: Tensor = self.network(self.features(x.to(self.data)))
        return out

    def attribute(self, x: Tensor, c: Tensor, units: Tensor, z: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
        """Relevance of inputs (n, …) and the base (n,), for coefficients (n, U) of the head's units."""
        place, slope = slopes(self.network.layer, c, z, self.rows)
        relevance = torch.zeros_like(x)
        carried = torch.zeros_like(units[:, 0])
        whole = PairedModule(nn.Sequential(self.features, self.front))
        whole.module.eval()
        for r in range(place.shape[1]):
            start = place[:, r]
            carried += (slope[:, r] * (z - self.rows[start])).sum(1)
            relevance += whole.back(x, self.data[start], slope[:, r], gamma)
        return relevance, (c * units).sum(1) - carried

    def extra_repr(self) -> str:
        """What the module says of itself when printed."""
        return f"{self.kind}, score={self.score.name!r}, {len(self.data)} rows"
