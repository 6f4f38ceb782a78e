"""Phase diagrams: which input is named most relevant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backlight.errors import ArgumentError, require

if TYPE_CHECKING:
    from backlight.symbolic.derive import Derivation

__all__ = ["DerivationPlots"]


class DerivationPlots:
    """``derivation.plot``."""

    def __init__(self, derivation: Derivation) -> None:
        self._derivation = derivation

    def phase(
        self, *, low: float = 0.0, high: float = 3.0, resolution: int = 201, axes: Any = None, **parameter: Any
    ) -> Any:
        """The share of the first of two inputs, over their plane, one picture for each value of the parameter.

        Parameters
        ----------
        low, high : float
            Of both inputs.
        resolution : int
            Points on each axis.
        axes : array of matplotlib axes, optional
        **parameter : sequence of float
            The rule's parameter by name, such as ``gamma=[0.05, 0.25, 1]``; others by one number each.

        Returns
        -------
        array of axes
            Red where the first input has more than half of the absolute relevance, blue where the second has; the line
            between is where both have the same.
        """
        plt = require("matplotlib.pyplot", "plot", "plots")
        found = self._derivation
        if len(found.symbols) != 2:
            raise ArgumentError(f"a phase diagram is over two inputs, and the network has {len(found.symbols)}")
        series = [name for name, value in parameter.items() if isinstance(value, Sequence | np.ndarray)]
        if len(series) > 1:
            raise ArgumentError(f"one parameter can vary from picture to picture, not {series}")
        values: Sequence[Any] = parameter[series[0]] if series else [None]
        if axes is None:
            axes = plt.subplots(
                1, len(values), figsize=(1.0 + 2.6 * len(values), 3.1), layout="constrained", sharey=True, squeeze=False
            )[1][0]
        axis = np.linspace(low, high, resolution)
        a, b = np.meshgrid(axis, axis)
        image = None
        for ax, value in zip(np.atleast_1d(axes), values, strict=True):
            given = {**parameter, **({series[0]: float(value)} if series else {})}
            _, relevance = found.evaluate(np.stack([a.ravel(), b.ravel()], 1), **given)
            size = np.abs(relevance)
            with np.errstate(invalid="ignore", divide="ignore"):
                share = (size[:, 0] / size.sum(1)).reshape(a.shape)
            image = ax.imshow(
                share, origin="lower", extent=(low, high, low, high), cmap="RdBu_r", vmin=0, vmax=1, aspect="equal"
            )
            if np.nanmin(share) < 0.5 < np.nanmax(share):
                ax.contour(axis, axis, share, levels=[0.5], colors="black", linewidths=1)
            ax.set_xlabel(found.symbols[0].name)
            if series:
                ax.set_title(f"{series[0]} = {float(value):.4g}", fontsize=10)
        np.atleast_1d(axes)[0].set_ylabel(found.symbols[1].name)
        np.atleast_1d(axes)[0].figure.colorbar(
            image, ax=list(np.atleast_1d(axes)), label=f"share of |R| of {found.symbols[0].name}", shrink=0.85
        )
        return np.atleast_1d(axes)
