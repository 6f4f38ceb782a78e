"""What will run where, before it runs."""

from __future__ import annotations

from typing import Any

from torch import nn

from backlight.attribution.inputs import batches, home
from backlight.canonical.lift import torch_module
from backlight.engine.network import Network
from backlight.engine.outputs import Outputs
from backlight.engine.plan import Plan

__all__ = ["plan"]


def plan(
    model: nn.Module, X: Any, rules: Any = "auto", *, strict: bool = False, device: Any = None, output: Any = None
) -> Plan:
    """What will run where, before it runs: a table of places, operators, rules, reasons and costs.

    Parameters
    ----------
    model : torch.nn.Module
    X : as for `backlight.explain`
        Only its shape matters.
    rules, strict, output : as for `backlight.explain`

    Returns
    -------
    Plan
        Prints as a table; ``rows()`` and ``to_frame()`` give it as data. Costs count products with a layer's weights, F
        forward and B transposed, the forward pass included.

    Examples
    --------
    >>> import torch, backlight
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> print(backlight.plan(net, torch.zeros(1, 3), rules=backlight.rules.Gamma(0.25)))
    rules: Gamma() (exported, 2 places)
    site  operator     rule     why  cost
    0     linear+relu  Gamma()       2F + 2B
    2     linear       Gamma()       2F + 2B
    """
    model = torch_module(model)
    where = home(model, device)
    batch = next(batches(X, where, 2)[1]).take(0, 2)
    elsewhere = where.device if device is not None else None
    network, chosen = Network.of(model), Outputs(output)
    return network.plan((batch.args, batch.kwargs), rules, strict=strict, device=elsewhere, outputs=chosen)
