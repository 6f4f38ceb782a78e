"""Heat maps: relevance over pixels, beside or over the picture, several methods, targets or layers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from backlight.arguments import shown
from backlight.errors import ArgumentError, require
from backlight.explanation.data import ExplanationData, chosen_rows
from backlight.explanation.display import number
from backlight.explanation.png import data_uri

__all__ = ["Panel", "colours", "draw", "is_picture", "panels", "photograph", "pictures_html"]

_RAISES, _LOWERS = "#b2182b", "#2166ac"
_MOST_ROWS = 6
# in a notebook: rows, maps beside each other, pixels along a side, and how wide each is shown
_SHOWN, _BESIDE, _SIDE, _WIDE = 3, 4, 256, 150


@dataclass(frozen=True, slots=True)
class Panel:
    """One heat map.

    Attributes
    ----------
    title : str
    map : array of shape (height, width)
        Relevance, summed over channels.
    score : float
    total : float
        The signed sum of all relevance.
    limit : float
        Relevance at the ends of the colour scale.
    quantile : float
        Of the absolute relevance, that the limit is.
    """

    title: str
    map: np.ndarray
    score: float
    total: float
    limit: float
    quantile: float

    @property
    def caption(self) -> str:
        """The signed sum beside the score, and what the colours mean."""
        kind = "largest |relevance|" if self.quantile >= 1 else f"{100 * self.quantile:g} % of |relevance| below"
        return f"sum {self.total:+.4g} of score {number(self.score)}\nscale ±{self.limit:.2g} ({kind})"


def panels(
    ex: ExplanationData, row: int, *, compare: Mapping[str, ExplanationData], layers: Sequence[str], quantile: float
) -> list[Panel]:
    """The heat maps of one row: each method, each target, each layer."""
    if not 0 < quantile <= 1:
        raise ArgumentError(f"quantile must lie above 0 and at most at 1, not {quantile!r}")
    found: list[Panel] = []
    for name, one in {"": ex, **compare}.items():
        if len(one) != len(ex):
            raise ArgumentError(
                f"{name!r} explains {len(one)} rows, not {len(ex)}: compare explanations of the same rows"
            )
        several = one.output.ndim == 2
        for k in range(one.output.shape[1]) if several else (None,):
            values = one.values[row] if k is None else one.values[row, ..., k]
            score = float(one.output[row] if k is None else one.output[row, k])
            title = name or one.method
            if several and k is not None:
                title = one.output_names[k] if not compare else f"{title}, {one.output_names[k]}"
            found.append(_panel(title, _map(values, one), score, quantile))
            for layer in layers:
                if layer not in one.layers:
                    if name:
                        continue
                    raise ArgumentError(
                        f"no relevance at layer {layer!r}: ask for it with explain(…, layers=[{layer!r}])"
                    )
                inner = one.layers[layer][row] if k is None else one.layers[layer][row, ..., k]
                found.append(_panel(f"at {layer}", _map(inner, one), score, quantile))
    return found


def _panel(title: str, values: np.ndarray, score: float, quantile: float) -> Panel:
    size = np.abs(values)
    limit = float(np.quantile(size, quantile)) or float(size.max()) or 1.0
    return Panel(title, values, score, float(values.sum()), limit, quantile)


def _map(values: np.ndarray, ex: ExplanationData) -> np.ndarray:
    if values.ndim == 3:
        return np.asarray(values.sum(0))
    if values.ndim == 2:
        return np.asarray(values)
    raise ArgumentError(
        f"relevance of shape {values.shape} is no picture: images have (channels, height, width); ex.dims is {ex.dims}"
    )


def photograph(ex: ExplanationData, row: int, pictures: Any = None) -> np.ndarray:
    """The picture of a row, (height, width) or (height, width, 3) in [0, 1]; without pictures the inputs, stretched."""
    if pictures is not None:
        picture = np.asarray(pictures[row])
        if picture.ndim == 3 and picture.shape[0] in (1, 3) and picture.shape[-1] not in (1, 3):
            picture = np.moveaxis(picture, 0, -1)
        picture = picture / 255.0 if picture.dtype == np.uint8 else picture.astype(float)
    else:
        assert ex.data is not None
        picture = ex.data[row].astype(float)
        if picture.ndim == 3:
            picture = np.moveaxis(picture, 0, -1)
            if picture.shape[-1] not in (1, 3):
                picture = picture.mean(-1)
        low, high = float(picture.min()), float(picture.max())
        picture = (picture - low) / ((high - low) or 1.0)
    if picture.ndim == 3 and picture.shape[-1] == 1:
        picture = picture[..., 0]
    return np.clip(picture, 0, 1)


def colours(panel: Panel) -> np.ndarray:
    """A map as colours, (height, width, 3) in [0, 1]: red raises the score, blue lowers it, white is zero."""
    matplotlib = require("matplotlib.colors", "plot", "a heat map")
    scale = matplotlib.LinearSegmentedColormap.from_list("relevance", [_LOWERS, "#ffffff", _RAISES])
    return np.asarray(scale(np.clip(panel.map / panel.limit, -1, 1) / 2 + 0.5)[..., :3])


def is_picture(ex: ExplanationData) -> bool:
    """Whether rows are pictures: (height, width) or (channels, height, width) of at least four pixels a side."""
    shape = ex.values.shape[1 : ex.values.ndim - (ex.output.ndim - 1)]
    return len(shape) in (2, 3) and min(shape[-2:]) >= 4 and (len(shape) == 3 and shape[0] <= 4)


def pictures_html(ex: ExplanationData) -> str:
    """The first rows as pictures within a page: each input, and beside it the heat map of each target.

    Red raises the score, blue lowers it; where nothing counts the notebook's own ground is seen, light or dark.
    """
    lines = []
    for row in range(min(len(ex), _SHOWN)):
        label = f"row {row}" if ex.labels is None else str(ex.labels[row])
        cells = []
        if ex.data is not None:
            grey = photograph(ex, row)
            cells.append(_figure(label, np.round(255 * grey).astype(np.uint8), "input, stretched to its range"))
        found = panels(ex, row, compare={}, layers=(), quantile=0.995)
        cells += [_figure(panel.title, _tinted(panel), panel.caption) for panel in found[:_BESIDE]]
        lines.append(f'<div style="display:flex;flex-wrap:wrap;gap:12px;margin:6px 0">{"".join(cells)}</div>')
    more = [f"{len(ex) - _SHOWN} more rows"] if len(ex) > _SHOWN else []
    more += [f"{len(ex.output_names) - _BESIDE} more targets"] if len(ex.output_names) > _BESIDE else []
    told = f"{', '.join(more)}: ex.plot.image() draws any" if more else ""
    head = f"<b>{escape(ex.target or 'output')}</b> explained by {escape(ex.method)}, {len(ex)} rows"
    return f'<div style="font:13px system-ui,sans-serif">{head}{"".join(lines)}{told}</div>'


def _figure(title: str, pixels: np.ndarray, caption: str) -> str:
    step = -(-max(pixels.shape[:2]) // _SIDE)
    said = "<br>".join(escape(line) for line in caption.splitlines())
    style = f"width:{_WIDE}px;image-rendering:pixelated;border:1px solid rgba(128,128,128,.4)"
    return (
        f'<figure style="margin:0;width:{_WIDE + 2}px"><div>{escape(title)}</div>'
        f'<img style="{style}" alt="{escape(title)}" src="{data_uri(pixels[::step, ::step])}">'
        f'<figcaption style="font-size:11px;opacity:.75">{said}</figcaption></figure>'
    )


def _tinted(panel: Panel) -> np.ndarray:
    """A map as colours that are the fuller the more a pixel counts, (height, width, 4) bytes."""
    share = np.clip(np.nan_to_num(panel.map / panel.limit), -1, 1)
    ends = [[int(end[k : k + 2], 16) for k in (1, 3, 5)] for end in (_LOWERS, _RAISES)]
    colour = np.array(ends, dtype=np.uint8)[(share > 0).astype(int)]
    return np.concatenate([colour, np.round(255 * np.abs(share)).astype(np.uint8)[..., None]], -1)


def draw(
    ex: ExplanationData,
    rows: int | Sequence[int] | None,
    *,
    compare: Mapping[str, ExplanationData] | None,
    layers: Sequence[str],
    pictures: Any,
    over: bool,
    quantile: float,
    ax: Any,
) -> Any:
    """Draw the grid; see `Plots.image`."""
    plt = require("matplotlib.pyplot", "plot", "ex.plot.image()")
    if ex.data is None and pictures is None:
        raise ArgumentError("the explanation holds no data: give the pictures")
    chosen = chosen_rows(rows, len(ex), _MOST_ROWS)
    if compare is not None and not isinstance(compare, Mapping):
        raise ArgumentError(f"compare= takes a dict of explanations by name, not {shown(compare)}")
    if not chosen:
        raise ArgumentError("there is no row to draw")
    grid = [panels(ex, row, compare=compare or {}, layers=layers, quantile=quantile) for row in chosen]
    first = 0 if over else 1
    columns = len(grid[0]) + first
    if ax is not None:
        if len(grid) * len(grid[0]) != 1:
            raise ArgumentError(f"ax= takes one heat map, and there are {len(grid) * len(grid[0])}: leave it out")
        _heat(ax, grid[0][0], photograph(ex, chosen[0], pictures) if over else None)
        return ax
    if columns == 1:
        # one map a row reads better as a line of pictures
        _, line = plt.subplots(1, len(grid), figsize=(2.7 * len(grid), 3.25), squeeze=False, layout="constrained")
        axes = line.T
    else:
        _, axes = plt.subplots(
            len(grid), columns, figsize=(2.7 * columns, 3.25 * len(grid)), squeeze=False, layout="constrained"
        )
    for line, row, found in zip(axes, chosen, grid, strict=True):
        picture = photograph(ex, row, pictures)
        if not over:
            line[0].imshow(picture, cmap="gray", vmin=0, vmax=1)
            label = row if ex.labels is None else ex.labels[row]
            line[0].set_title(f"{label}" if ex.labels is not None else f"row {label}", fontsize=10)
            line[0].set_xlabel(
                "input" if pictures is not None else "input, stretched to its range", fontsize=8, color="#626b78"
            )
            _bare(line[0])
        for cell, panel in zip(line[first:], found, strict=True):
            _heat(cell, panel, picture if over else None)
    return axes if len(grid) > 1 or columns > 1 else axes[0, 0]


def _heat(ax: Any, panel: Panel, picture: np.ndarray | None) -> None:
    shown = colours(panel)
    if picture is not None:
        grey = picture if picture.ndim == 2 else picture @ np.array([0.299, 0.587, 0.114])
        height, width = grey.shape
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        ax.imshow(grey, cmap="gray", vmin=-0.6, vmax=1.2, extent=extent)
        strength = np.clip(np.abs(panel.map) / panel.limit, 0, 1)[..., None] ** 0.7
        ax.imshow(np.concatenate([shown, strength], -1), extent=extent)
    else:
        ax.imshow(shown)
    ax.set_title(panel.title, fontsize=10)
    ax.set_xlabel(panel.caption, fontsize=8, color="#626b78")
    _bare(ax)


def _bare(ax: Any) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ax.spines.values():
        side.set_color("#dedcd5")
