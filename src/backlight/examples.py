"""Small networks that everyone tries first."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["MinNetworks", "min_networks"]


class MinNetworks(NamedTuple):
    """Two networks of one function, y = min(a₁, a₂) for a ≥ 0."""

    i: nn.Module
    ii: nn.Module


class _Minimum(nn.Module):
    """y = relu(W₂ relu(W₁ a)), without biases."""

    def __init__(self, hidden: list[list[float]], output: list[float], dtype: torch.dtype) -> None:
        super().__init__()
        self.hidden = nn.Linear(2, 2, bias=False, dtype=dtype)
        self.output = nn.Linear(2, 1, bias=False, dtype=dtype)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.tensor(hidden, dtype=dtype))
            self.output.weight.copy_(torch.tensor([output], dtype=dtype))

    def forward(self, a: Tensor) -> Tensor:
        return torch.relu(self.output(torch.relu(self.hidden(a))))


def min_networks(dtype: torch.dtype = torch.float64) -> MinNetworks:
    """The structure example: one function, two networks, opposite explanations.

    On non-negative inputs both compute y = min(a₁, a₂):

    * (i)  a₃ = relu(a₁), a₄ = relu(a₁ − a₂), y = relu(a₃ − a₄)
    * (ii) a₃ = relu(a₂ − a₁), a₄ = relu(a₂), y = relu(a₄ − a₃)

    At a₁ = a₂ = a, LRP-γ gives R = (a, 0) on the first and (0, a) on the second.

    Parameters
    ----------
    dtype : torch.dtype

    Returns
    -------
    MinNetworks
        ``nets.i`` and ``nets.ii``, modules from (n, 2) to (n, 1).

    Examples
    --------
    >>> import torch, backlight
    >>> nets = backlight.examples.min_networks()
    >>> a = torch.tensor([[1.0, 1.0]])
    >>> for net in nets:
    ...     print(backlight.explain(net, a, rules=backlight.rules.Gamma(0.25)).values)
    [[1. 0.]]
    [[0. 1.]]
    """
    return MinNetworks(
        _Minimum([[1.0, 0.0], [1.0, -1.0]], [1.0, -1.0], dtype),
        _Minimum([[-1.0, 1.0], [0.0, 1.0]], [-1.0, 1.0], dtype),
    )
