"""Phase diagrams: which input is named most relevant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from backlight.errors import ArgumentError, require

__all__ = ["draw_phase"]


def draw_phase(
    evaluate: Callable[..., tuple[np.ndarray, np.ndarray]],
    names: Sequence[str],
    parameter: Mapping[str, Any],
    low: float,
    high: float,
    resolution: int,
    axes: Any,
) -> Any:
    """The share of the first of two inputs in ``evaluate``'s relevance; see ``derivation.plot.phase``."""
    plt = require("matplotlib.pyplot", "plot", "plots")
    if len(names) != 2:
        raise ArgumentError(f"a phase diagram is over two inputs, and the network has {len(names)}")
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
        _, relevance = evaluate(np.stack([a.ravel(), b.ravel()], 1), **given)
        size = np.abs(relevance)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = (size[:, 0] / size.sum(1)).reshape(a.shape)
        image = ax.imshow(
            share, origin="lower", extent=(low, high, low, high), cmap="RdBu_r", vmin=0, vmax=1, aspect="equal"
        )
        if np.nanmin(share) < 0.5 < np.nanmax(share):
            ax.contour(axis, axis, share, levels=[0.5], colors="black", linewidths=1)
        ax.set_xlabel(names[0])
        if series:
            ax.set_title(f"{series[0]} = {float(value):.4g}", fontsize=10)
    np.atleast_1d(axes)[0].set_ylabel(names[1])
    np.atleast_1d(axes)[0].figure.colorbar(
        image, ax=list(np.atleast_1d(axes)), label=f"share of |R| of {names[0]}", shrink=0.85
    )
    return np.atleast_1d(axes)
