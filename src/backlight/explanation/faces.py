"""How results show themselves in a notebook: tables and text that read in light and in dark, every name escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["as_table", "as_words"]

# no colours of their own: the notebook's text on the notebook's ground; wide tables scroll, the page does not
_BOX = "font:13px system-ui,sans-serif;overflow-x:auto;max-width:100%;margin-bottom:8px"
_CELL = "padding:2px 10px 2px 0;border-bottom:1px solid rgba(128,128,128,.3);vertical-align:top"


def as_table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = (), *, ready: bool = False
) -> str:
    """A table with a title above and sentences below.

    Parameters
    ----------
    title : str
    head : sequence of str
        Names of the columns.
    rows : sequence of sequences of str
        Columns of numbers are recognised and stand to the right.
    notes : sequence of str
    ready : bool
        Whether the cells of ``rows`` are HTML made here, escaped already.
    """
    right = [bool(rows) and all(_number(row[k]) for row in rows) for k in range(len(head))]

    def line(cells: Sequence[str], tag: str) -> str:
        shown = [cell if ready and tag == "td" else escape(cell) for cell in cells]
        return "".join(
            f'<{tag} style="text-align:{"right" if right[k] else "left"};{_CELL}">{text}</{tag}>'
            for k, text in enumerate(shown)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    below = "".join(f"<div>{escape(note)}</div>" for note in notes)
    return (
        f'<div style="{_BOX}"><b>{escape(title)}</b><table style="border-collapse:collapse">'
        f"<thead><tr>{line(head, 'th')}</tr></thead><tbody>{body}</tbody></table>{below}</div>"
    )


def as_words(text: str) -> str:
    """Text as it is printed, lines wrapped."""
    return f'<pre style="white-space:pre-wrap;background:none;color:inherit">{escape(text)}</pre>'


def _number(text: str) -> bool:
    try:
        float(text.replace("–", "0").replace(",", "").replace("%", "") or "0")
    except ValueError:
        return False
    return True
