"""Marks: small inline SVG pictures. What they show stands in text, inside or beside them; no colour stands alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

__all__ = [
    "bands", "bar", "compared_bars", "curves", "histogram", "interval", "lane", "range_plot", "skyline",
    "waterfall_bar",
]  # fmt: skip


def _svg(width: float, height: float, label: str | None, body: Markup, css: str) -> Markup:
    """Without a label the picture repeats what stands beside it as text, and is hidden from screen readers."""
    said = Markup('aria-hidden="true"') if label is None else Markup('role="img" aria-label="{}"').format(label)
    frame = Markup('<svg class="{}" viewBox="0 0 {} {}" {} preserveAspectRatio="none">{}</svg>')
    return frame.format(css, f"{width:g}", f"{height:g}", said, body)


def _rect(x: float, y: float, width: float, height: float, css: str) -> Markup:
    return Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}"/>').format(
        f"{x:.2f}", f"{y:.2f}", f"{max(width, 0.4):.2f}", f"{height:.2f}", css
    )


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(
        f"{x1:.2f}", f"{y1:.2f}", f"{x2:.2f}", f"{y2:.2f}", css
    )


def waterfall_bar(start: float, end: float, low: float, high: float, css: str) -> Markup:
    """One step of a waterfall from ``start`` to ``end`` on the axis low … high, with the line at zero."""
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return 100 * (value - low) / span

    left, right = sorted((at(start), at(end)))
    body = _line(at(0), 0, at(0), 20, "zero") + _rect(left, 4, right - left, 12, css)
    return _svg(100, 20, None, body, "step")


def bar(value: float, most: float) -> Markup:
    """A bar from zero, to the right for positive values and to the left for negative ones of a centred scale."""
    if most <= 0:
        most = 1.0
    length = 100 * abs(value) / most
    return _svg(100, 12, None, _rect(0, 1, length, 10, "pos" if value >= 0 else "neg"), "bar")


def compared_bars(ours: float, plain: float, chance: float) -> Markup:
    """Three shares of one, below each other."""
    body = Markup("")
    for k, (share, css) in enumerate(((ours, "pos"), (plain, "neg"), (chance, "base"))):
        body += _rect(0, 1 + 7 * k, 100 * share, 5, css)
    return _svg(100, 22, None, body, "compared")


def lane(places: Sequence[float], css: str = "pos") -> Markup:
    """Marks on a line from 0 to 1."""
    body = _line(0, 11, 100, 11, "axis")
    for place in places:
        body += _line(100 * place, 3, 100 * place, 11, f"tick {css}")
    return _svg(100, 14, None, body, "lane")


def skyline(heights: Sequence[float], line: float, label: str) -> Markup:
    """The highest score of each stretch of time; NaN where there is none. All between 0 and 1, as the threshold is."""
    body, n = Markup(""), len(heights)
    for i, height in enumerate(heights):
        if np.isfinite(height):
            css = "pos" if height > line else "neg"
            body += _rect(1000 * i / n + 0.5, 98 - 96 * height, 1000 / n - 1, 96 * height + 2, css)
    body += _line(0, 98 - 96 * line, 1000, 98 - 96 * line, "alarm") + _line(0, 100, 1000, 100, "axis")
    return _svg(1000, 101, label, body, "skyline")


def range_plot(value: float, low: float, high: float, median: float, least: float, most: float) -> Markup:
    """A value against the band of normal rows; the axis spans the normal rows and the value."""
    ends = [v for v in (least, most, value) if np.isfinite(v)]
    left, right = min(ends), max(ends)
    span = (right - left) or 1.0

    def at(v: float) -> float:
        return 4 + 92 * (v - left) / span

    body = _line(4, 8, 96, 8, "axis") + _rect(at(low), 4, at(high) - at(low), 8, "band")
    body += _line(at(median), 3, at(median), 13, "median")
    if np.isfinite(value):
        outside = value < low or value > high
        # A line of no length with round ends is a dot that keeps its shape however wide the picture is.
        body += _line(at(value), 8, at(value), 8, "mark out" if outside else "mark")
    return _svg(100, 16, None, body, "range")


def share_plot(share: float) -> Markup:
    """How many normal rows have the same category."""
    return _svg(100, 16, None, _line(4, 8, 96, 8, "axis") + _rect(4, 4, 92 * share, 8, "band"), "range")


def histogram(
    scores: np.ndarray, label: str, weights: np.ndarray | None = None, bins: int = 48
) -> tuple[Markup, float, bool]:
    """Counts of scores, split in colour at zero, the threshold.

    Where a few scores dwarf all others the axis is linear around zero and logarithmic further out. Returns the picture,
    the place of zero in per cent, and whether the axis is stretched so. ``weights`` count how often each score occurs.
    """
    sizes = np.abs(scores)
    if weights is None:
        unit = float(np.quantile(sizes, 0.75)) or 1.0
    else:
        unit = float(np.quantile(sizes, 0.75, weights=weights, method="inverted_cdf")) or 1.0
    stretched = float(np.abs(scores).max()) > 20 * unit
    values = np.arcsinh(scores / unit) if stretched else scores
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    # Edges are laid so that one of them is the threshold: no bar mixes both sides.
    width = ((high - low) or 1.0) / bins
    below, above = int(np.ceil(-low / width - 1e-9)), max(1, int(np.ceil(high / width - 1e-9)))
    edges = width * np.arange(-below, above + 1)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges, weights=weights)
    most, n = np.log1p(counts.max()), len(counts)
    body = Markup("")
    for i, count in enumerate(counts):
        if count:
            height = 8 + 112 * np.log1p(count) / most
            css = "pos" if i >= below else "neg"
            ends = unit * np.sinh(edges[i : i + 2]) if stretched else edges[i : i + 2]
            title = Markup("<title>{} rows from {:.2f} to {:.2f}</title>").format(count, *ends)
            bar = _rect(1000 * i / n + 1, 124 - height, 1000 / n - 2, height, css)
            body += Markup("<g>{}{}</g>").format(title, bar)
    zero = 100 * below / n
    body += _line(10 * zero, 0, 10 * zero, 124, "alarm") + _line(0, 124, 1000, 124, "axis")
    return _svg(1000, 125, label, body, "histogram"), zero, stretched


def curves(lines: Mapping[str, Sequence[float]], label: str) -> Markup:
    """Curves that start at one, on an axis down to their least value."""
    low = min(0.0, *(min(line) for line in lines.values()))
    high = max(1.0, *(max(line) for line in lines.values()))

    def at(k: int, n: int, value: float) -> str:
        return f"{2 + 296 * k / max(1, n - 1):.1f},{4 + 112 * (high - value) / (high - low):.1f}"

    body = _line(2, 116, 298, 116, "axis")
    for index, line in enumerate(lines.values()):
        points = " ".join(at(k, len(line), value) for k, value in enumerate(line))
        body += Markup('<polyline points="{}" class="curve c{}"/>').format(points, index)
    return _svg(300, 120, label, body, "curves")


def bands(
    share: np.ndarray, lines: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], low: float, high: float, label: str
) -> Markup:
    """Curves with bands, (mean, lower end, upper end) each, over ``share`` from 0 to 1, on the axis low … high."""

    def at(x: float, value: float) -> str:
        return f"{2 + 296 * x:.1f},{4 + 112 * (high - value) / ((high - low) or 1.0):.1f}"

    body = _line(2, 116, 298, 116, "axis")
    for index, (mean, lower, upper) in enumerate(lines):
        edge = [at(x, v) for x, v in zip(share, upper, strict=True)]
        edge += [at(x, v) for x, v in zip(share[::-1], lower[::-1], strict=True)]
        body += Markup('<polygon points="{}" class="band"/>').format(" ".join(edge))
        points = " ".join(at(x, v) for x, v in zip(share, mean, strict=True))
        body += Markup('<polyline points="{}" class="curve c{}"/>').format(points, index)
    return _svg(300, 120, label, body, "curves")


def interval(mean: float, low: float, high: float, least: float, most: float) -> Markup:
    """A mean and its interval on the axis least … most."""

    def at(value: float) -> float:
        return 4 + 92 * (value - least) / ((most - least) or 1.0)

    body = _line(4, 8, 96, 8, "axis") + _rect(at(low), 4, at(high) - at(low), 8, "band")
    return _svg(100, 16, None, body + _line(at(mean), 8, at(mean), 8, "mark"), "range")
