"""What each layer received, passed on and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from backlight.tables import frame_like

__all__ = ["Ledger"]


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """Relevance layer by layer, output first.

    Attributes
    ----------
    layers : tuple of str
    rules : tuple of str
        Which rule ran at each layer.
    entering, leaving : arrays of shape (layers, n)
    """

    layers: tuple[str, ...]
    rules: tuple[str, ...]
    entering: np.ndarray
    leaving: np.ndarray

    @property
    def absorbed(self) -> np.ndarray:
        """What each layer kept, (layers, n): offsets, entropy, rounding."""
        return np.asarray(self.entering - self.leaving)

    def __getitem__(self, rows: Any) -> Ledger:
        return Ledger(self.layers, self.rules, self.entering[:, rows], self.leaving[:, rows])

    def to_frame(self, kind: str = "numpy") -> Any:
        """One line a layer, means over the rows."""
        return frame_like(
            {
                "layer": np.array(self.layers, dtype=object),
                "rule": np.array(self.rules, dtype=object),
                "entering": self.entering.mean(1),
                "leaving": self.leaving.mean(1),
                "absorbed": self.absorbed.mean(1),
            },
            kind,
        )

    def __repr__(self) -> str:
        lines = [f"{'layer':<24}{'rule':<34}{'entering':>12}{'leaving':>12}{'absorbed':>12}"]
        for k, (layer, rule) in enumerate(zip(self.layers, self.rules, strict=True)):
            numbers = (self.entering[k].mean(), self.leaving[k].mean(), self.absorbed[k].mean())
            lines.append(f"{layer:<24}{rule:<34}" + "".join(f"{number:>12.5g}" for number in numbers))
        return "\n".join(lines)
