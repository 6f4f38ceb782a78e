"""Texts in the colours of their relevance: for a terminal, a notebook, a page."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from backlight.errors import ArgumentError, require
from backlight.explanation.data import ExplanationData, chosen_rows
from backlight.explanation.display import aligned, number
from backlight.explanation.tokens import Span, has_tokens, spans

__all__ = ["MatrixView", "TextView", "draw_text", "lines_of", "visible"]

_RAISES, _LOWERS = (200, 60, 44), (52, 104, 180)
# the strongest colour lets the letters be read on light and dark ground
_STRONGEST = 0.62
# columns of a matrix that a terminal has room for
_WIDEST = 8
_MOST_ROWS = 6
_FONT = "font:15px/1.9 system-ui,'Noto Sans',sans-serif"
_STYLE = (
    ":root{color-scheme:light dark}body{margin:2rem auto;max-width:60rem;padding:0 1rem;background:Canvas;"
    "color:CanvasText}"
)


@dataclass(frozen=True, slots=True)
class Line:
    """One text: its title, its spans, and the relevance at the ends of the colours."""

    title: str
    spans: tuple[Span, ...]
    limit: float


@dataclass(frozen=True, slots=True)
class TextView:
    """Texts whose words are coloured: red raises the score, blue lowers it, none is zero.

    Shows itself in notebooks, printed with rich in a terminal in colours, with ``str`` in letters.

    Attributes
    ----------
    lines : tuple of Line
    """

    lines: tuple[Line, ...]

    def html(self) -> str:
        """A fragment of HTML, everything escaped; the direction of each text is its own."""
        return f'<div style="{_FONT}">{"".join(_line_html(line) for line in self.lines)}</div>'

    def _repr_html_(self) -> str:
        return self.html()

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write a page of its own, for light and dark screens."""
        _save(self.html(), Path(path), force)

    def __rich__(self) -> Any:
        text = require("rich.text", "cli", "colours in a terminal")
        shown = text.Text()
        for k, line in enumerate(self.lines):
            shown.append(("\n" if k else "") + visible(line.title) + "\n", style="bold")
            for span in line.spans:
                blank, word = _parted(span.text)
                shown.append(visible(blank, lines=True))
                shown.append(visible(word, lines=True), style=_terminal_style(span, line.limit))
            shown.append("\n")
        shown.append(f"red raises, blue lowers, full colour at ±{number(max(line.limit for line in self.lines))}")
        return shown

    def __str__(self) -> str:
        out = []
        for line in self.lines:
            top = sorted((s for s in line.spans if s.value), key=lambda s: -abs(s.value))[:8]
            sizes = aligned([span.value for span in top], signed=True)
            out += [visible(line.title), visible("".join(s.text for s in line.spans if not s.special).strip())]
            out.append(", ".join(f"{visible(s.text.strip())} {size}" for s, size in zip(top, sizes, strict=True)))
        return "\n".join(out)

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class MatrixView:
    """Which token speaks for which: a row for each target, a column for each word.

    Attributes
    ----------
    title : str
    rows, columns : tuple of str
    values : array of shape (rows, columns)
    limit : float
        Relevance at the ends of the colours.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray
    limit: float

    def html(self) -> str:
        """A table, everything escaped."""
        down = "writing-mode:vertical-rl;transform:rotate(180deg);font-weight:normal;padding:2px;white-space:nowrap"
        head = "".join(f'<th style="{down}"><bdi>{escape(visible(c.strip()))}</bdi></th>' for c in self.columns)
        body = []
        for name, values in zip(self.rows, self.values, strict=True):
            label = '<th style="text-align:right;font-weight:normal;white-space:nowrap;padding-right:6px"><bdi>'
            cells = "".join(
                f'<td title="{v:+.4g}" style="width:22px;height:20px;{_colour(float(v), self.limit)}"></td>'
                for v in values
            )
            body.append(f"<tr>{label}{escape(visible(name.strip()))}</bdi></th>{cells}</tr>")
        return (
            f'<div style="{_FONT}"><div style="opacity:.75">{escape(self.title)} · {_legend(self.limit)}</div>'
            f'<table style="border-collapse:separate;border-spacing:1px;line-height:1.2;font-size:13px">'
            f"<tr><th></th>{head}</tr>{''.join(body)}</table></div>"
        )

    def _repr_html_(self) -> str:
        return self.html()

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write a page of its own, for light and dark screens."""
        _save(self.html(), Path(path), force)

    def __rich__(self) -> Any:
        rows, columns, values = self.rows, self.columns, self.values
        if len(columns) > _WIDEST:
            # words one under the other
            rows, columns, values = columns, rows, values.T
        if len(columns) > _WIDEST:
            return str(self)
        table = require("rich.table", "cli", "colours in a terminal").Table(box=None, title=visible(self.title))
        text = require("rich.text", "cli", "colours in a terminal").Text
        table.add_column("")
        for column in columns:
            table.add_column(text(visible(column.strip())), justify="right")
        for name, line in zip(rows, values, strict=True):
            cells = [
                text(f"{v:+.2g}" if v else "", style=_terminal_style(Span("", float(v), 0, 0), self.limit))
                for v in line
            ]
            table.add_row(text(visible(name.strip())), *cells)
        return table

    def __str__(self) -> str:
        lines = [self.title]
        for name, values in zip(self.rows, self.values, strict=True):
            top = np.argsort(-np.abs(values), kind="stable")[:3]
            said = ", ".join(f"{visible(self.columns[k].strip())} {values[k]:+.3g}" for k in top if values[k])
            lines.append(f"{visible(name.strip())} ← {said}")
        return "\n".join(lines)

    __repr__ = __str__


def draw_text(
    ex: ExplanationData, rows: int | Sequence[int] | None = None, *, by: str = "word", limit: float | None = None
) -> TextView | MatrixView:
    """See `Plots.text`."""
    if not has_tokens(ex):
        raise ArgumentError("this explanation does not say its tokens: explain what a tokenizer returned, or see "
                            "backlight.text.explain")  # fmt: skip
    chosen = chosen_rows(rows, len(ex), _MOST_ROWS)
    if not chosen:
        raise ArgumentError("there is no text to draw")
    if ex.output.ndim == 2:
        if len(chosen) == 1 or len(ex) == 1:
            return _matrix(ex, chosen[0], by, limit)
        raise ArgumentError('several targets and several texts: choose a row, or a target by name, ex.output("…")')
    lines = []
    for row in chosen:
        found = tuple(spans(ex, row, by))
        label = row if ex.labels is None else ex.labels[row]
        base = float(ex.base_values[row])
        what = ex.annotations["said"][row] if "said" in ex.annotations else ""
        title = (
            f"{label}: {ex.target or 'output'}{f' {what.strip()!r}' if what else ''} {number(float(ex.output[row]))}"
            + (f" (base {number(base)})" if base else "")
        )
        lines.append(Line(title, found, _limit([s.value for s in found], limit)))
    return TextView(tuple(lines))


def lines_of(ex: ExplanationData) -> list[str]:
    """The words that count most, for the first texts of an explanation of one target."""
    if ex.output.ndim != 1 or not has_tokens(ex):
        return []
    lines = []
    for i in range(min(len(ex), _MOST_ROWS)):
        label = i if ex.labels is None else ex.labels[i]
        best = sorted((span for span in spans(ex, i) if span.value), key=lambda span: -abs(span.value))[:4]
        because = ", ".join(f"{visible(span.text.strip())} {span.value:+.3g}" for span in best)
        lines.append(f"  row {label}: {number(ex.output[i])} = {because}, …")
    return [*lines, f"  … {len(ex) - _MOST_ROWS} more rows"] if len(ex) > _MOST_ROWS else lines


def _matrix(ex: ExplanationData, row: int, by: str, limit: float | None) -> MatrixView:
    names = ex.output_names or tuple(str(k) for k in range(ex.output.shape[1]))
    found = []
    for k in range(ex.output.shape[1]):
        one = type(ex)(
            ex.values[row : row + 1, ..., k], ex.output[row : row + 1, k], ex.base_values[row : row + 1, k],
            annotations={name: ex.annotations[name][row : row + 1] for name in ("token", "special", "padding")},
        )  # fmt: skip
        found.append({span.start: span for span in spans(one, 0, by)})
    # padding appears only where it has relevance: for one target perhaps, and not for another
    places = sorted({place for each in found for place in each})
    text = {place: span.text for each in found for place, span in each.items()}
    values = np.array([[each[p].value if p in each else 0.0 for p in places] for each in found])
    title = f"{len(names)} targets, {len(places)} {by}s"
    return MatrixView(title, tuple(names), tuple(text[p] for p in places), values, _limit(values.ravel(), limit))


def _limit(values: Any, given: float | None) -> float:
    if given is not None:
        if not given > 0:
            raise ArgumentError(f"limit={given!r} must be a positive relevance, at which colours are full")
        return float(given)
    return max((abs(float(v)) for v in values), default=0.0) or 1.0


def _share(value: float, limit: float) -> float:
    return max(-1.0, min(1.0, value / limit)) if np.isfinite(value) else 0.0


def _colour(value: float, limit: float) -> str:
    share = _share(value, limit)
    red, green, blue = _RAISES if share > 0 else _LOWERS
    alpha = round(abs(share) * _STRONGEST, 3)
    return f"background:rgba({red},{green},{blue},{alpha})" if alpha else ""


def _terminal_style(span: Span, limit: float) -> str:
    share = _share(span.value, limit)
    if span.special and abs(share) < 0.04:
        return "dim"
    if abs(share) < 0.04:
        return ""
    full = _RAISES if share > 0 else _LOWERS
    # from white, with dark letters, or light ones on a strong colour: readable whatever the terminal's own ground is
    red, green, blue = (round(255 + (channel - 255) * abs(share)) for channel in full)
    return f"{'#ffffff' if abs(share) > 0.7 else '#111111'} on #{red:02x}{green:02x}{blue:02x}"


def _legend(limit: float) -> str:
    red, blue = _colour(limit, limit), _colour(-limit, limit)
    return (
        f'<span style="{blue};padding:1px 6px">−{escape(number(limit))}</span> lowers · raises '
        f'<span style="{red};padding:1px 6px">+{escape(number(limit))}</span>'
    )


def _line_html(line: Line) -> str:
    words = []
    for span in line.spans:
        blank, word = _parted(span.text)
        edge = "opacity:.55;font-size:.8em;" if span.special else ""
        style = edge + "border-radius:3px;padding:2px 0;" + _colour(span.value, line.limit)
        shown = escape(visible(word, lines=True)) or "·"
        # isolated, a mark has no say in the direction of the text
        tag = "bdi" if span.special else "span"
        words.append(f'{escape(blank)}<{tag} style="{style}" title="{span.value:+.4g}">{shown}</{tag}>')
    head = f'<div style="font-size:12px;opacity:.75">{escape(line.title)} · {_legend(line.limit)}</div>'
    body = "".join(words)
    return f'<div style="margin:0 0 1em">{head}<div dir="auto" style="white-space:pre-wrap">{body}</div></div>'


def _parted(text: str) -> tuple[str, str]:
    """The blank before a word, and the word; a span of blanks alone is a word."""
    word = text.lstrip()
    return (text[: len(text) - len(word)], word) if word else ("", text)


def visible(text: str, *, lines: bool = False) -> str:
    """Text without what a terminal or a page would obey: control letters and turns of direction.

    Joiners of emoji and of scripts stay; blanks and line ends stay where ``lines`` says so.
    """
    keep = "\u200c\u200d" + ("\n\t" if lines else "")
    return "".join(
        c if c in keep or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else ("⏎" if c == "\n" else "�")
        for c in text
    )


def _save(fragment: str, path: Path, force: bool) -> None:
    from backlight.tables.files import atomic

    page = f'<!doctype html><html><head><meta charset="utf-8"><title>Relevance</title><style>{_STYLE}</style></head>'
    with atomic(path, force=force) as temporary:
        temporary.write_text(f"{page}<body>{fragment}</body></html>", encoding="utf-8")
