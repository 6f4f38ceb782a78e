"""The report of texts: each in the colours of its words, and the words over all of them; one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backlight.explanation.display import aligned
from backlight.report.page import write_page
from backlight.report.svg import waterfall_bar

if TYPE_CHECKING:
    from backlight.findings import Texts

__all__ = ["write_text_report"]

_WORDS = 30


def write_text_report(
    found: Texts, path: Path, *, title: str, provenance: Mapping[str, str], top: int | None = 20, force: bool = False
) -> None:
    """Write one self-contained HTML file; to a temporary name first."""
    from markupsafe import Markup

    ex = found.ex
    rows = list(range(len(ex) if top is None else min(top, len(ex))))
    words = found.words[:_WORDS]
    scale = max((abs(word.mean) for word in words), default=0.0) or 1.0
    means = aligned([word.mean for word in words], signed=True)
    write_page(
        "texts.html.j2", path, force=force, title=title, kind=str(ex.provenance["model"]), method=ex.method,
        score=ex.target, count=len(ex), gap=aligned([float(np.abs(ex.residual).max())])[0],
        size=aligned([float(np.median(np.abs(ex.output)))])[0],
        words=[
            {
                "text": word.text, "count": word.count, "mean": mean,
                "bar": waterfall_bar(0, word.mean, -scale, scale, "pos" if word.mean >= 0 else "neg"),
            }
            for word, mean in zip(words, means, strict=True)
        ],
        left=len(found.words) - len(words),
        texts=[
            Markup(ex.plot.text(i).html())  # noqa: S704 - escaped where it was made
            for i in rows
        ],
        plan=str(ex.provenance.get("plan", "")),
        provenance={**provenance, **{name: str(v) for name, v in ex.provenance["versions"].items()}},
    )  # fmt: skip
