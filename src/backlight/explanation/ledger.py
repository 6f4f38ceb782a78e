"""What each layer received, passed on and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backlight.arguments import checked
from backlight.errors import ArgumentError
from backlight.explanation.faces import as_table
from backlight.hints import FrameLike
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
    entering, leaving : arrays of shape (layers, n), with several targets (layers, n, targets)
    bias : array like them, optional
        The part of what a layer kept that its bias, or a constant that joins the signal there, kept: it belongs to the
        model. The rest is what stabilisers, zero denominators and rules that do not conserve kept, and it is lost.
    """

    layers: tuple[str, ...]
    rules: tuple[str, ...]
    entering: np.ndarray
    leaving: np.ndarray
    bias: np.ndarray | None = None

    @property
    def absorbed(self) -> np.ndarray:
        """What each layer kept, like ``entering``: offsets, entropy, rounding."""
        return np.asarray(self.entering - self.leaving)

    def __getitem__(self, rows: Any) -> Ledger:
        return self._map(lambda array: array[:, rows])

    @checked
    def target(self, k: int) -> Ledger:
        """The ledger of one of several targets."""
        count = self.entering.shape[-1] if self.entering.ndim > 2 else 1
        if not -count <= k < count:
            raise ArgumentError(f"target {k} is out of range: the ledger is of {count}")
        return self._map(lambda array: array[..., k])

    @staticmethod
    def joined(parts: Sequence[Ledger]) -> Ledger:
        """The ledger of all rows, from those of consecutive batches.

        A network with branches may run through other places in another batch; there, nothing came by.
        """
        keys = [part._keys() for part in parts]
        lines = list(dict.fromkeys(line for part in keys for line in part))
        at = {line: k for k, line in enumerate(lines)}

        def together(arrays: list[np.ndarray]) -> np.ndarray:
            wide = []
            for part, array in zip(keys, arrays, strict=True):
                out = np.zeros((len(lines), *array.shape[1:]))
                out[[at[line] for line in part]] = array
                wide.append(out)
            return np.concatenate(wide, axis=1)

        bias = [part.bias for part in parts if part.bias is not None]
        return Ledger(
            tuple(layer for layer, _, _ in lines), tuple(rule for _, rule, _ in lines),
            together([part.entering for part in parts]), together([part.leaving for part in parts]),
            together(bias) if len(bias) == len(parts) else None,
        )  # fmt: skip

    def _keys(self) -> list[tuple[str, str, int]]:
        """Its lines by name, rule and how often that was there before."""
        seen: dict[tuple[str, str], int] = {}
        keys = []
        for line in zip(self.layers, self.rules, strict=True):
            seen[line] = seen.get(line, -1) + 1
            keys.append((*line, seen[line]))
        return keys

    def _map(self, change: Callable[[np.ndarray], np.ndarray]) -> Ledger:
        bias = None if self.bias is None else change(self.bias)
        return Ledger(self.layers, self.rules, change(self.entering), change(self.leaving), bias)

    def to_frame(self, kind: str = "numpy") -> FrameLike:
        """One line a layer, means over the rows (and targets)."""
        columns = {
            "layer": np.array(self.layers, dtype=object),
            "rule": np.array(self.rules, dtype=object),
            "entering": self._mean(self.entering),
            "leaving": self._mean(self.leaving),
            "absorbed": self._mean(self.absorbed),
        }
        if self.bias is not None:
            columns["by bias"] = self._mean(self.bias)
        return frame_like(columns, kind)

    @staticmethod
    def _mean(array: np.ndarray) -> np.ndarray:
        return np.asarray(array.reshape(len(array), -1).mean(1))

    def _means(self) -> dict[str, np.ndarray]:
        numbers = {"entering": self.entering, "leaving": self.leaving, "absorbed": self.absorbed}
        if self.bias is not None:
            numbers["by bias"] = self.bias
        return {name: self._mean(array) for name, array in numbers.items()}

    def _repr_html_(self) -> str:
        means = self._means()
        rows = [
            [layer, rule, *(f"{column[k]:.5g}" for column in means.values())]
            for k, (layer, rule) in enumerate(zip(self.layers, self.rules, strict=True))
        ]
        return as_table("Relevance layer by layer, output first", ["layer", "rule", *means], rows)

    def __repr__(self) -> str:
        means = self._means()
        wide = max([24, *(len(layer) + 2 for layer in self.layers)])
        lines = [f"{'layer':<{wide}}{'rule':<34}" + "".join(f"{name:>12}" for name in means)]
        for k, (layer, rule) in enumerate(zip(self.layers, self.rules, strict=True)):
            lines.append(f"{layer:<{wide}}{rule:<34}" + "".join(f"{column[k]:>12.5g}" for column in means.values()))
        return "\n".join(lines)
