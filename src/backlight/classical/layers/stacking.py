r"""Models on the answers of models: stacking and chains.

The last model has inputs :math:`p_k`, units of other layers or columns of the table, and relevance :math:`R_k` for each
of them. Where it is linear in them, :math:`R_k = w_k p_k` and each unit is handed its weight :math:`w_k`, as any
weighted sum. Where it is not, a unit's columns share all of :math:`R_k` as they share what they carry of the unit,
:math:`R_i = \sum_k R_k\,R^{(k)}_i / \text{carried}_k`; a unit that carries nothing keeps its :math:`R_k` as base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from backlight.classical.layers.base import EncodedRows, ForwardPass, Layer, Query
from backlight.classical.layers.composition import Signed
from backlight.classical.layers.linear import Affine
from backlight.classical.layers.pools import Link, LogOdds
from backlight.classical.layers.pullback import Pullback

__all__ = ["Columns", "Stacked"]

# A share of a unit below which it carries nothing that could be shared out.
_NOTHING = 1e-9


class Columns(Affine):
    """The table's own columns in the model's space, handed on as they are."""

    def __init__(self, pullback: Pullback) -> None:
        eye = torch.eye(pullback.width, dtype=torch.float64)
        super().__init__(eye, eye.new_zeros(len(eye)), pullback)


class Stacked(Layer):
    """A layer on the units of other layers, side by side.

    Parameters
    ----------
    parts : sequence of (Layer, positions of its units)
    last : Layer
        On rows (n, K) of those units.
    """

    def __init__(self, parts: Sequence[tuple[Layer, Sequence[int]]], last: Layer) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer for layer, _ in parts])
        self.positions = [list(positions) for _, positions in parts]
        self.last, self.units = last, last.units
        self.rules = {"own": "own"}
        for layer in [last, *(layer for layer, _ in parts)]:
            self.rules.update({name: rule for name, rule in layer.rules.items() if not isinstance(rule, str)})
        kinds = (Affine, Signed, Link, LogOdds)
        self.linear = all(isinstance(one, kinds) or type(one).__name__ == "Member" for one in _layers(last))

    @property
    def rows(self) -> int:
        """Rows at once."""
        return max(16, min(layer.rows for layer in _layers(self) if layer is not self))

    @property
    def below(self) -> Mapping[str, Layer]:
        """The layers on the columns: the last one stands on their units."""
        return {name: layer for name, layer in super().below.items() if name != "last"}

    @property
    def made_of(self) -> Mapping[str, int]:
        """The inputs of the last layer."""
        return {"answers": sum(map(len, self.positions))}

    def inside(self, name: str, x: EncodedRows, ask: Query) -> Callable[[Tensor], Tensor]:
        """See `Layer.inside`."""
        handed, carried = self._answers(x, ask)[2:]
        return lambda c: handed(c) * carried

    def _columns(self, outputs: Sequence[Tensor]) -> EncodedRows:
        return EncodedRows.at(torch.cat([y[:, at] for y, at in zip(outputs, self.positions, strict=True)], 1))

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        out: Tensor = self.last(self._columns([layer(x) for layer in self.layers]))
        return out

    def _answers(
        self, x: EncodedRows, ask: Query
    ) -> tuple[list[ForwardPass], ForwardPass, Callable[[Tensor], Tensor], Tensor]:
        """The passes below and above, what each input counts, and what columns carry of it."""
        below = [layer.run(x, _asked(layer, ask)) for layer in self.layers]  # type: ignore[arg-type, operator]
        inputs = self._columns([got.output for got in below])
        above = self.last.run(inputs, Query(_asked(self.last, ask).rule))
        p = inputs.z
        carried = self._columns([got.carried for got in below]).z
        whole = p if self.linear else carried
        some = whole.abs() > (0.0 if self.linear else _NOTHING * (p.abs() + 1e-300))

        def handed(c: Tensor) -> Tensor:
            """What each input counts, (n, K), of relevance that the last layer gives it."""
            return torch.where(some, above.back(c) / torch.where(some, whole, 1.0), 0.0)

        return below, above, handed, carried

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        below, above, handed, carried = self._answers(x, ask)

        def back(c: Tensor) -> Tensor:
            r, start, out = handed(c), 0, torch.zeros(())
            for got, at in zip(below, self.positions, strict=True):
                given = torch.zeros_like(got.output)
                given[:, at] = r[:, start : start + len(at)]
                if bool((given != 0).any()) or start == 0:
                    out = out + got.back(given)
                start += len(at)
            return out

        units = []
        for u in range(self.units):
            one = torch.zeros_like(above.output)
            one[:, u] = 1.0
            units.append((handed(one) * carried).sum(1))
        total = torch.stack(units, 1)
        return ForwardPass(above.output, total, back, above.output, {"answers": total})


def _layers(layer: Layer) -> list[Layer]:
    return [one for one in layer.modules() if isinstance(one, Layer)]


def _asked(layer: Layer, ask: Query) -> Query:
    """The question for a part: the same rule where it has it, else its own."""
    known = layer.accepts(ask.rule) or any(ask.rule is rule or ask.rule == rule for rule in layer.rules.values())
    return Query(ask.rule if known else next(iter(layer.rules.values())), None, ask.usual, ask.level)
