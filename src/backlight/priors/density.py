"""Any log-density: a flow, an energy model, a function of the user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backlight.arguments import checked
from backlight.errors import ArgumentError, warn

__all__ = ["LogProb"]

from backlight.priors.base import Prior

FLOW_WARNING = (
    "a log-probability is only as good as its tails: densities of flows are not trustworthy away from their samples, "
    "and a better optimiser then gives a worse prototype. Compare p.evaluate(X) and the status off_prior, and prefer "
    "the code of an invertible map: space=Generator(flow.decode, d), prior=L2(0.5)"
)


@checked
class LogProb(Prior):
    """−fn(x), for a function that gives log p(x), one number a row.

    A learnt density (a normalizing flow, a module) is warned of once: its log-probability is high in places where no
    sample ever is. Also, a maximum of a density depends on the coordinates: prior=LogProb(flow.log_prob) in x and
    prior=L2(0.5) on the flow's code differ by its log-determinant.

    Parameters
    ----------
    fn : function of (n, *shape) to (n,), differentiable
    name : str, optional
    sample : function of n to (n, *shape), optional
        For starting points.
    """

    def __init__(
        self, fn: Callable[[Tensor], Tensor], *, name: str | None = None, sample: Callable[[int], Tensor] | None = None
    ) -> None:
        if not callable(fn):
            raise ArgumentError(f"LogProb takes a function from inputs to log p(x), not {type(fn).__name__}")
        self.fn, self.sample = fn, sample
        owner = getattr(fn, "__self__", fn)
        self.name = name or f"LogProb({type(owner).__name__ if owner is not fn else getattr(fn, '__name__', 'fn')})"
        if isinstance(owner, torch.nn.Module):
            warn(f"{self.name}: {FLOW_WARNING}")

    def energy(self, x: Tensor) -> Tensor:
        """−log p(x), (n,)."""
        out: Any = self.fn(x)
        if not isinstance(out, Tensor) or tuple(out.shape) != (len(x),):
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ArgumentError(f"{self.name} must give one number a row, ({len(x)},), not {got}")
        return -out

    def draw(self, n: int, generator: torch.Generator) -> Tensor | None:
        """Samples by the user's function."""
        if self.sample is None:
            return None
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            return self.sample(n).detach().flatten(1).double()
