"""What will run where, before it runs."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from backlight.arguments import checked
from backlight.attribution.inputs import batches, home
from backlight.attribution.lrp import MUCH
from backlight.canonical.lift import torch_module
from backlight.engine.checkpoints import bytes_kept, checkpoints
from backlight.engine.network import Network
from backlight.engine.outputs import Outputs
from backlight.engine.plan import Plan
from backlight.errors import DataError
from backlight.hints import DeviceLike, OutputLike, RowsLike, RulesLike

__all__ = ["plan"]

# bytes that are worth a word
_WORTH_A_WORD = 2**27


@checked
def plan(
    model: nn.Module,
    X: RowsLike,
    rules: RulesLike = "auto",
    *,
    strict: bool = False,
    device: DeviceLike = None,
    output: OutputLike = None,
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
        Prints as a table, with the memory that a batch will take where that is much; ``rows()`` and ``to_frame()`` give
        it as data. Costs count products with a layer's weights, F forward and B transposed, the forward pass included.

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
    whole = next(batches(X, where, "auto")[1], None)
    if whole is None:
        raise DataError("there are no rows to plan for: give at least one")
    batch = whole.take(0, 2)
    elsewhere = where.device if device is not None else None
    network, chosen = Network.of(model), Outputs(output)
    made = network.plan((batch.args, batch.kwargs), rules, strict=strict, device=elsewhere, outputs=chosen)
    words = _words_on_memory(made, whole.rows)
    return replace(made, notes=[*made.notes, *words], _text="") if words else made


def _words_on_memory(made: Plan, rows: int) -> list[str]:
    """What a batch will take, where that is much."""
    much, little = bytes_kept(made, rows)
    if much < _WORTH_A_WORD:
        return []
    said = f"{rows} row{'' if rows == 1 else 's'} together keep about {much / 1e9:.2g} GB for the way back"
    if much <= MUCH or little >= much:
        return [said]
    return [f"{said}; held block by block ({len(checkpoints(made)) + 1} blocks) about {little / 1e9:.2g} GB"]
