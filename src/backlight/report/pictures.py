"""The picture report: photographs, their heat maps side by side, sums and scales, the plan; one self-contained file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backlight.errors import require
from backlight.explanation.images import colours, panels, photograph
from backlight.report.page import write_page
from backlight.tables.files import atomic

if TYPE_CHECKING:
    from backlight.vision import Seen

__all__ = ["png", "write_picture_report", "write_pictures"]

_QUANTILE = 0.995


def write_pictures(seen: Seen, path: Path, *, over: bool = False, force: bool = False) -> None:
    """Draw every picture and its heat maps into one PNG; to a temporary name first."""
    matplotlib = require("matplotlib", "plot", "drawing heat maps")
    matplotlib.use("Agg", force=False)
    plt = require("matplotlib.pyplot", "plot", "drawing heat maps")
    first, *others = seen.explanations
    axes = seen.explanations[first].plot.image(
        range(len(seen.names)), compare={name: seen.explanations[name] for name in others}, pictures=seen.pixels,
        over=over, quantile=_QUANTILE,
    )  # fmt: skip
    figure = np.atleast_1d(axes).flat[0].figure
    with atomic(path, force=force) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)


def write_picture_report(
    seen: Seen, path: Path, *, title: str, provenance: Mapping[str, str], force: bool = False
) -> None:
    """Write one self-contained HTML file; to a temporary name first."""
    first = next(iter(seen.explanations.values()))
    write_page(
        "pictures.html.j2",
        path,
        force=force,
        title=title,
        names=list(seen.explanations),
        rows=[_row(seen, row) for row in range(len(seen.names))],
        side=seen.pixels.shape[1],
        quantile=f"{100 * _QUANTILE:g}",
        plans=[
            {"name": name, "text": ex.provenance["plan"], "ledger": repr(ex.ledger)}
            for name, ex in seen.explanations.items()
            if "plan" in ex.provenance
        ],
        provenance={**provenance, **{name: str(value) for name, value in first.provenance["versions"].items()}},
    )


def _row(seen: Seen, row: int) -> dict[str, Any]:
    first = next(iter(seen.explanations.values()))
    picture = photograph(first, row, seen.pixels)
    found = []
    for name, ex in seen.explanations.items():
        (panel,) = panels(ex, row, compare={}, layers=(), quantile=_QUANTILE)
        found.append(
            {
                "name": name, "image": png(colours(panel)), "sum": f"{panel.total:+.4g}",
                "limit": f"{panel.limit:.2g}",
                "share": f"{100 * panel.total / panel.score:.3g} %" if panel.score else "–",
            }
        )  # fmt: skip
    return {
        "file": seen.names[row], "class": seen.classes[row], "score": f"{float(first.output[row]):.4g}",
        "picture": _jpeg(picture), "panels": found,
    }  # fmt: skip


def png(pixels: np.ndarray) -> str:
    """A heat map; 128 shades are more than an eye tells apart on one axis from blue to red."""
    buffer = io.BytesIO()
    _picture(pixels).quantize(128).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _jpeg(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    _picture(pixels).save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _picture(pixels: np.ndarray) -> Any:
    image = require("PIL.Image", "plot", "drawing heat maps")
    return image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))
