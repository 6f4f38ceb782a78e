"""Pictures of an audit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backlight.errors import require

__all__ = ["heatmap"]


def heatmap(change: np.ndarray, rewrites: Sequence[str], methods: Sequence[str], title: str, ax: Any = None) -> Any:
    """Rewrites × methods: mean total variation, from 0 (white) to 1. Returns the axes."""
    plt = require("matplotlib.pyplot", "plot", "plots")
    if ax is None:
        size = (2.6 + 0.95 * len(methods), 1.2 + 0.3 * len(rewrites))
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    image = ax.imshow(change, cmap="Reds", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(methods)), methods, rotation=30, ha="right")
    ax.set_yticks(range(len(rewrites)), rewrites)
    for (r, m), value in np.ndenumerate(change):
        shown = "0" if value < 5e-4 else f"{value:.2f}"
        ax.text(m, r, shown, ha="center", va="center", fontsize=8, color="white" if value > 0.6 else "black")
    ax.figure.colorbar(image, ax=ax, label="change of the explanation (total variation)")
    ax.set_title(title, fontsize=10)
    return ax
