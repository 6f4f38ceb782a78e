"""The one printer of every command: texts from data are printed as they are, and on any terminal.

No markup is read, so that a column named ``[red]`` stays one; control and escape sequences do not reach the terminal;
a letter that its encoding has not is spelled in ASCII.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
import unicodedata
from typing import Any

from rich.console import Console
from rich.text import Text

__all__ = ["cleaned", "console", "one_title", "readable_streams"]

# CSI and OSC sequences, and the other two-byte ones
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]|\x9b[0-?]*[ -/]*[@-~]")
_SPELLED = {
    "→": "->", "←": "<-", "↑": "^", "↓": "v", "−": "-", "–": "-", "—": "-", "·": "-", "•": "*", "…": "...", "±": "+-",
    "×": "x", "≤": "<=", "≥": ">=", "≠": "!=", "Ω": "Omega", "γ": "gamma", "ε": "epsilon", "α": "alpha", "β": "beta",
    "σ": "sigma", "μ": "mu", "‘": "'", "’": "'", "“": '"', "”": '"', "⁺": "+", "²": "2", "°": " deg",
}  # fmt: skip


def cleaned(text: str) -> str:
    """A text without what a terminal would obey: escape sequences, control letters, changes of direction."""
    text = _ESCAPES.sub("", text)
    return "".join(
        one if one in "\n\t" or unicodedata.category(one) not in ("Cc", "Cf", "Cs", "Co") else " " for one in text
    )


class _Printer(Console):
    """Rich's console, for which every text is data."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(cleaned(text), **{**options, "markup": False, "emoji": False, "highlight": False})


def console(*, stderr: bool = False, width: int | None = None, soft_wrap: bool = False) -> Console:
    """A printer on standard output or error."""
    return _Printer(stderr=stderr, width=width, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)


def one_title(first: str, rest: str = "") -> Text:
    """A line that begins in bold."""
    return Text.assemble((cleaned(first), "bold"), cleaned(rest))


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    plain = (unicodedata.normalize("NFKD", one).encode("ascii", "ignore").decode() or "?" for one in letters)
    return "".join(_SPELLED.get(one, other) for one, other in zip(letters, plain, strict=True)), error.end


def readable_streams() -> None:
    """Let standard output and error spell what their encoding has not."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the program
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the program ends
    codecs.register_error("backlight.spelled", _spelled)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backlight.spelled")
