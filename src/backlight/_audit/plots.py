"""Pictures of an audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from backlight.errors import require

if TYPE_CHECKING:
    from backlight._audit.result import Audit

__all__ = ["AuditPlots"]


class AuditPlots:
    """``audit.plot``."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def heatmap(self, ax: Any = None) -> Any:
        """Rewrites × methods: mean total variation, from 0 (white) to 1. Returns the axes."""
        plt = require("matplotlib.pyplot", "plot", "plots")
        found = self._audit
        values = found.change.mean(2)
        if ax is None:
            size = (2.6 + 0.95 * len(found.methods), 1.2 + 0.3 * len(found.rewrites))
            ax = plt.subplots(figsize=size, layout="constrained")[1]
        image = ax.imshow(values, cmap="Reds", vmin=0, vmax=1, aspect="auto")
        ax.set_xticks(range(len(found.methods)), found.methods, rotation=30, ha="right")
        ax.set_yticks(range(len(found.rewrites)), [made.name for made in found.rewrites])
        for (r, m), value in np.ndenumerate(values):
            shown = "0" if value < 5e-4 else f"{value:.2f}"
            ax.text(m, r, shown, ha="center", va="center", fontsize=8, color="white" if value > 0.6 else "black")
        ax.figure.colorbar(image, ax=ax, label="change of the explanation (total variation)")
        ax.set_title(f"structure audit of {found.model}, {found.rows} inputs", fontsize=10)
        return ax
