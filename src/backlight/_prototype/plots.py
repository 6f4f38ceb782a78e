"""Plots of prototypes with matplotlib: each returns its axes; none calls ``show``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from backlight._prototype.data import PrototypeData
from backlight.arguments import shown
from backlight.errors import ArgumentError, require
from backlight.spaces.base import as_shape

__all__ = ["Plots", "path", "picture"]

_UP, _DOWN, _REST = "#c2402c", "#3767a8", "#9aa0a8"


@dataclass(frozen=True, slots=True)
class Plots:
    """``p.plot``: pictures of prototypes."""

    prototypes: PrototypeData

    def __call__(
        self, *, others: dict[str, PrototypeData] | None = None, shape: tuple[int, int] | None = None, k: int = 10,
        columns: int = 10,
    ) -> Any:  # fmt: skip
        """Images in a grid, tables as what moved.

        Parameters
        ----------
        others : dict of name to Prototypes, optional
            More rows of the grid, for instance other priors, of the same targets.
        shape : (height, width), optional
            Draws rows of a table as grey images.
        k : int
            How many columns of a table are shown.
        columns : int
            Images in a row of the grid, where there is one set.

        Returns
        -------
        matplotlib Figure
        """
        plt = require("matplotlib.pyplot", "plot", "plotting")
        p = self.prototypes
        if shape is None and p.x.ndim == 2:
            return self._moved(plt, k)
        sets = {"": p} | (others or {})
        if others and "" in sets:
            sets = {p.provenance.get("prior", "").replace("priors.", ""): p} | others
        images = {name: [picture(x, shape) for x in one.x] for name, one in sets.items()}
        n = len(p)
        wide = n if len(sets) > 1 else min(columns, n)
        high = len(sets) if len(sets) > 1 else -(-n // wide)
        figure, axes = plt.subplots(
            high, wide, figsize=(1.3 * wide + 0.6, 1.62 * high + 0.2), squeeze=False, layout="constrained"
        )
        for ax in axes.ravel():
            ax.axis("off")
        for r, (name, one) in enumerate(sets.items()):
            for t in range(len(one)):
                ax = axes[r, t] if len(sets) > 1 else axes[t // wide, t % wide]
                _image(ax, images[name][t])
                _title(ax, one, t)
            if name:
                axes[r, 0].text(-0.12, 0.5, name, transform=axes[r, 0].transAxes, rotation=90, ha="right", va="center",
                                fontsize="small")  # fmt: skip
        return figure

    def _moved(self, plt: Any, k: int) -> Any:
        p = self.prototypes
        moved = p.moved(k)
        scale = dict(zip(p.feature_names, p._scale(len(p.feature_names)), strict=True))
        wide = min(3, len(p))
        high = -(-len(p) // wide)
        most = max((abs(b - a) / scale[name] for rows in moved for name, a, b in rows), default=1.0)
        tall = max((len(rows) for rows in moved), default=1)
        figure, axes = plt.subplots(high, wide, figsize=(4.6 * wide, (0.32 * tall + 1.1) * high), squeeze=False)
        for ax in axes.ravel()[len(p) :]:
            ax.axis("off")
        for t, rows in enumerate(moved):
            ax = axes[t // wide, t % wide]
            at = np.arange(len(rows))[::-1]
            sizes = [(b - a) / scale[name] for name, a, b in rows]
            ax.barh(at, sizes, color=[_UP if s > 0 else _DOWN for s in sizes], height=0.66)
            ax.set_yticks(at, [name for name, _, _ in rows], fontsize="small")
            for y, s, (_, a, b) in zip(at, sizes, rows, strict=True):
                # on the free side of zero
                ax.annotate(f"{a:.4g} → {b:.4g}", (0, y), xytext=(-4 if s >= 0 else 4, 0), textcoords="offset points",
                            ha="right" if s >= 0 else "left", va="center", fontsize="x-small")  # fmt: skip
            ax.axvline(0, color="0.4", linewidth=0.8)
            ax.set_xlim(-1.25 * most, 1.25 * most)
            ax.set_xlabel("standard deviations from the centre", fontsize="small")
            _title(ax, p, t)
            for side in ("top", "right"):
                ax.spines[side].set_visible(False)
        figure.tight_layout()
        return figure

    def energy(self, *, ax: Any = None) -> Any:
        """Ω of the data as a histogram, and where the prototypes are: off the prior at a glance."""
        plt = require("matplotlib.pyplot", "plot", "plotting")
        p = self.prototypes
        _, problems = p._live()
        one = problems[0]
        if one.data is None or one.prior is None or one.space.has_code:
            raise ArgumentError("the energy plot needs data= and a prior on the input")
        with torch.no_grad():
            energies = one.prior.energy(one.data.reshape(-1, *one.shape)).double().numpy()
        ax = ax or plt.subplots(figsize=(6.4, 2.8))[1]
        ax.hist(energies[np.isfinite(energies)], bins=40, color="0.82")
        top = ax.get_ylim()[1]
        # one below the other from left to right, so that neighbours do not lie on each other
        for rank, t in enumerate(np.argsort(p.omega)):
            good = p.fine(t)
            ax.axvline(p.omega[t], color=_DOWN if good else _UP, linewidth=1.2)
            ax.annotate(p.names[t], (p.omega[t], top * (0.97 - 0.085 * (rank % 11))), xytext=(2, 0),
                        textcoords="offset points", fontsize="x-small", va="top", color=_DOWN if good else _UP,
                        bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5})  # fmt: skip
        ax.set_xlabel(f"Ω by {one.prior!r}")
        ax.set_ylabel("rows of the data")
        return ax

    def restarts(self, *, ax: Any = None) -> Any:
        """Distinct optima of every target, by their value below the best; the size says how many starts ended there."""
        plt = require("matplotlib.pyplot", "plot", "plotting")
        p = self.prototypes
        if not any(p.optima):
            raise ArgumentError("these prototypes are exact: there were no restarts")
        ax = ax or plt.subplots(figsize=(6.4, 0.34 * len(p) + 1.2))[1]
        for t, optima in enumerate(p.optima):
            if not optima:
                continue
            best = optima[0][0]
            ax.scatter([v - best for v, _ in optima], [t] * len(optima), s=[36 * n for _, n in optima],
                       color=[_DOWN, *[_REST] * (len(optima) - 1)], alpha=0.75, linewidth=0)  # fmt: skip
        ax.set_yticks(range(len(p)), p.names)
        ax.invert_yaxis()
        ax.margins(x=0.1, y=0.15)
        ax.set_xlabel("f − strength·Ω, below the best of the target")
        return ax


def picture(x: np.ndarray, shape: tuple[int, int] | None = None) -> np.ndarray:
    """One input as an image of (height, width) or (height, width, 3)."""
    if shape is not None:
        sizes = as_shape(shape)
        if len(sizes) != 2 or x.size != math.prod(sizes):
            raise ArgumentError(f"shape={shown(shape)} does not hold {x.size} numbers: give (height, width)")
        return np.asarray(x.reshape(sizes), dtype=float)
    if x.ndim == 2:
        return np.asarray(x, dtype=float)
    if x.ndim == 3 and x.shape[0] in (1, 3):
        return np.asarray(x[0] if x.shape[0] == 1 else x.transpose(1, 2, 0), dtype=float)
    raise ArgumentError(f"an input of the shape {x.shape} is no image: give shape=(height, width)")


def _image(ax: Any, image: np.ndarray) -> None:
    low, high = float(image.min()), float(image.max())
    if image.ndim == 3:
        ax.imshow(np.clip((image - low) / (high - low or 1.0), 0, 1), interpolation="nearest")
    else:
        ax.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")


def _title(ax: Any, p: PrototypeData, t: int) -> None:
    status = p.outcome(t)
    ax.set_title(f"{p.names[t]}\n{status}, f {p.f[t]:.3g}", fontsize="x-small", color="0.1" if p.fine(t) else _UP)


def path(strengths: Sequence[float], prototypes: Sequence[PrototypeData], ax: Any = None) -> Any:
    """Along the strength of the prior: a strip of pictures for images; otherwise f and Ω."""
    plt = require("matplotlib.pyplot", "plot", "plotting")
    first = prototypes[0]
    if first.x.ndim > 2 and ax is None:
        n, m = len(first), len(strengths)
        figure, axes = plt.subplots(n, m, figsize=(1.3 * m + 0.7, 1.75 * n + 0.2), squeeze=False)
        for k, (strength, p) in enumerate(zip(strengths, prototypes, strict=True)):
            for t in range(n):
                axes[t, k].axis("off")
                _image(axes[t, k], picture(p.x[t]))
                head = f"strength {strength:g}\n" if t == 0 else ""
                bad = not p.fine(t)
                axes[t, k].set_title(f"{head}{p.decided[t]} f {p.f[t]:.3g}", fontsize="x-small",
                                     color=_UP if bad else "0.1")  # fmt: skip
        figure.tight_layout(pad=0.9)
        return figure
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 3.4))
    _curves(ax, strengths, np.stack([p.f for p in prototypes]), first.names)
    return ax


def _curves(ax: Any, strengths: Sequence[float], f: np.ndarray, names: Sequence[str]) -> None:
    for t, name in enumerate(names):
        ax.plot(strengths, f[:, t], marker="o", markersize=3, label=name)
    ax.set_xscale("log")
    ax.set_xlabel("strength of the prior")
    ax.set_ylabel("f")
    ax.legend(fontsize="small", frameon=False)
