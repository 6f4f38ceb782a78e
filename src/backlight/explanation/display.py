"""How an explanation shows itself: a dozen lines of text, and bars in a notebook."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

import numpy as np

from backlight.explanation.data import ExplanationData
from backlight.explanation.faces import as_table, as_words

__all__ = ["aligned", "as_html", "as_text", "cell_text", "number"]

_LINES = 6
# rows and targets in a notebook
_BLOCKS, _MOST_TARGETS = 3, 10
# pixels of the longest bar
_BAR = 130


def number(value: float) -> str:
    """A number for people: four significant digits."""
    return "0" if value == 0 else f"{value:.4g}"


def aligned(values: Iterable[float], digits: int = 3, *, signed: bool = False, scale: float | None = None) -> list[str]:
    """Numbers that are read together: the same decimals for all, so that the largest one has some digits.

    Exponents only where the largest is below 10⁻⁴ or above 10⁷. ``scale`` stands for the largest where more is read
    beside them.

    Examples
    --------
    >>> aligned([-118.3, 57.21, 0.04], 2, signed=True)
    ['-118', '+57', '0']
    >>> aligned([2, 2.0304])
    ['2.00', '2.03']
    """
    values = [float(value) for value in values]
    most = max((abs(value) for value in values if math.isfinite(value)), default=0.0) if scale is None else scale
    plus = "+" if signed else ""
    if most and not 1e-4 <= most < 1e7:
        return [f"{value:{plus}.{digits - 1}e}" if value else "0" for value in values]
    decimals = max(0, digits - 1 - math.floor(math.log10(most))) if most else 0
    shown = [f"{value:{plus}.{decimals}f}" for value in values]
    # what is nothing at this scale has no sign
    return [text if float(text) else text.lstrip("+-") for text in shown]


def as_text(ex: ExplanationData, texts: list[str] | None = None) -> str:
    """At most a dozen lines; ``texts`` are those of rows that are texts."""
    what = f"{len(ex)} row{'' if len(ex) == 1 else 's'} × {' × '.join(str(s) for s in ex.values.shape[1:])}"
    lines = [f"Explanation of {ex.target or 'the output'} by {ex.method}: {what}"]
    if texts is not None:
        lines += texts
    elif len(ex) and ex.output.ndim == 1 and len(ex.feature_names) == ex.values.shape[1]:
        for i in range(min(len(ex), _LINES)):
            label = i if ex.labels is None else ex.labels[i]
            because = ", ".join(f"{name} {value:+.3g}" for name, value in ex[i].top(3)[0])
            lines.append(f"  row {label}: {number(ex.output[i])} = base {number(ex.base_values[i])}, {because}, …")
        if len(ex) > _LINES:
            lines.append(f"  … {len(ex) - _LINES} more rows")
    if len(ex):
        lines.append(f"largest |residual| {np.abs(ex.residual).max():.1e}")
    return "\n".join(lines)


def as_html(ex: ExplanationData) -> str:
    """Bars for the first rows: relevance in order of size, centred at zero, all text escaped.

    Of several targets a table: the features that count most, a column for each target.
    """
    if not len(ex) or ex.values.ndim > 3 or len(ex.feature_names) != ex.values.shape[1]:
        return as_words(as_text(ex))
    if ex.output.ndim == 2:
        return "".join(_targets_html(ex, i) for i in range(min(_BLOCKS, len(ex))))
    blocks = [_row_html(ex, i) for i in range(min(_BLOCKS, len(ex)))]
    head = f"<b>{escape(ex.target or 'output')}</b> explained by {escape(ex.method)}, {len(ex)} rows"
    return f'<div style="font:13px system-ui,sans-serif;overflow-x:auto">{head}{"".join(blocks)}</div>'


def _targets_html(ex: ExplanationData, i: int) -> str:
    values = ex.values[i]
    count = min(values.shape[1], _MOST_TARGETS)
    order = np.argsort(-np.abs(values).max(1), kind="stable")[:8]
    names = [ex.output_names[k] if k < len(ex.output_names) else str(k) for k in range(count)]
    rows = [[ex.feature_names[j], *(f"{values[j, k]:+.4g}" for k in range(count))] for j in order]
    rows.append(["base", *(number(float(ex.base_values[i, k])) for k in range(count))])
    rows.append(["score", *(number(float(ex.output[i, k])) for k in range(count))])
    label = i if ex.labels is None else ex.labels[i]
    left = values.shape[1] - count
    return as_table(
        f"row {label}: {ex.target or 'output'} explained by {ex.method}", ["", *names], rows,
        [f"{left} more targets: choose one by ex.output(name)"] if left else [],
    )  # fmt: skip


def _row_html(ex: ExplanationData, i: int) -> str:
    top = ex[i].top(8)[0]
    # bars of one sign start at the edge: a telephone has little room
    sizes = [0.0, *(value for _, value in top)]
    low, high = min(sizes), max(sizes)
    scale = _BAR / ((high - low) or 1.0)
    rows = []
    for name, value in top:
        width = max(abs(value) * scale, 0.5)
        left = -low * scale - (width if value < 0 else 0)
        color = "#c8402e" if value >= 0 else "#3d6fb4"
        cell = "" if ex.data is None else escape(cell_text(ex.data[i, ex.feature_names.index(name)]))
        rows.append(
            f'<tr><td style="text-align:right;padding-right:8px;overflow-wrap:anywhere">{escape(name)}</td>'
            f'<td style="opacity:.7">{cell}</td><td style="text-align:right">{value:+.4g}</td>'
            f'<td><svg width="{_BAR}" height="12" role="img" aria-label="{value:+.4g}">'
            f'<rect x="{left:.1f}" width="{width:.1f}" height="12" fill="{color}"/></svg></td></tr>'
        )
    label = i if ex.labels is None else ex.labels[i]
    total = f"{number(ex.output[i])} = base {number(ex.base_values[i])} + Σ {number(float(ex.values[i].sum()))}"
    return f"<p>row {escape(str(label))}: {escape(total)}</p><table>{''.join(rows)}</table>"


def cell_text(value: object) -> str:
    """A cell of the data, for people."""
    if isinstance(value, float | np.floating):
        return "missing" if np.isnan(value) else number(float(value))
    return "missing" if value is None else str(value)
