"""The prototype report: what the model looks for, how sure that is, which columns pay, the nearest pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backlight._prototype.plots import picture
from backlight.errors import ArgumentError, FileError, require
from backlight.report.page import write_page
from backlight.report.pictures import png
from backlight.report.svg import waterfall_bar
from backlight.tables.files import atomic, write_table

if TYPE_CHECKING:
    from backlight._prototype import Prototypes

__all__ = ["write_prototype_numbers", "write_prototype_picture", "write_prototype_report"]

_COLUMNS = 12
_NEIGHBOURS = 4
MEANING = {
    "exact": "the maximum, known exactly",
    "global": "the maximum, within the certificate",
    "local": "a maximum of its neighbourhood",
    "stationary": "nothing nearby is higher, as far as gradients tell",
    "max_iter": "the climb ended before it came to rest",
    "wrong_class": "the model sees another class in it",
    "off_prior": "less plausible than anything the prior knows",
    "dead_start": "the target does not react at any start",
    "interrupted": "the climb was interrupted",
    "unbounded": "there is no maximum",
    "infeasible": "nothing satisfies the constraints",
    "not_found": "a search for what satisfies the constraints ended with nothing",
}


def write_prototype_numbers(p: Prototypes, path: Path, *, force: bool = False) -> None:
    """One row a target: its columns, values and status. CSV or Parquet; to a temporary name first."""
    if path.suffix == ".safetensors":
        p.save(path, force=force)
        return
    if path.suffix not in (".csv", ".parquet"):
        raise FileError(f"cannot write {path.name!r}: the name must end in .csv, .parquet, .safetensors or .png")
    columns: dict[str, Any] = {
        "target": list(p.names),
        "status": list(p.status),
        "flags": [" ".join(f) for f in p.flags],
        "f": p.f,
        "omega": p.omega,
    }
    columns |= {"value": p.value, "certificate": [str(c) for c in p.certificate]}
    columns |= {name: list(column) for name, column in p.columns().items()}
    write_table(columns, path, force=force)


def write_prototype_picture(
    p: Prototypes, path: Path, *, shape: tuple[int, int] | None = None, force: bool = False
) -> None:
    """Draw the prototypes into one PNG; to a temporary name first."""
    matplotlib = require("matplotlib", "plot", "drawing prototypes")
    matplotlib.use("Agg", force=False)
    plt = require("matplotlib.pyplot", "plot", "drawing prototypes")
    figure = p.plot(shape=shape)
    with atomic(path, force=force) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)


def write_prototype_report(
    p: Prototypes,
    path: Path,
    *,
    title: str,
    provenance: Mapping[str, str],
    shape: tuple[int, int] | None = None,
    labels: Sequence[str] | None = None,
    force: bool = False,
) -> None:
    """Write one self-contained HTML file; to a temporary name first.

    Parameters
    ----------
    shape : (height, width), optional
        Draws rows of a table as grey images.
    labels : sequence of str, optional
        Names of the rows of the data, by default their numbers.
    """
    images = shape is not None or p.x.ndim > 2
    write_page(
        "prototypes.html.j2", path, force=force, title=title, kind=str(p.provenance["model"]),
        prior=str(p.provenance["prior"]).replace("priors.", ""), strength=f"{p.strength:g}",
        space=str(p.provenance["space"]).replace("spaces.", ""), images=images, side=_side(p, shape),
        fine=sum(p.fine(t) for t in range(len(p))), count=len(p), decides=any(p.decided),
        worst=max((c.value for c in p.certificate if np.isfinite(c.value)), default=0.0),
        exact=all(c.bound for c in p.certificate), smallest=np.isinf(p.strength),
        items=_items(p, shape, images, labels),
        provenance={**provenance, **{name: str(value) for name, value in p.provenance["versions"].items()}},
    )  # fmt: skip


def _side(p: Prototypes, shape: tuple[int, int] | None) -> int:
    return int(shape[1] if shape is not None else p.x.shape[-1])


def _items(
    p: Prototypes, shape: tuple[int, int] | None, images: bool, labels: Sequence[str] | None
) -> list[dict[str, Any]]:
    near, rows = _neighbours(p)
    parts = None if images else _parts(p)
    found = []
    for t, name in enumerate(p.names):
        item: dict[str, Any] = {
            "name": name, "decided": p.decided[t], "f": f"{p.f[t]:.4g}", "omega": f"{p.omega[t]:.4g}",
            "value": f"{p.value[t]:.4g}", "status": p.outcome(t),
            "meaning": "; ".join(MEANING[word] for word in (p.status[t], *p.flags[t])),
            "fine": p.fine(t), "certificate": str(p.certificate[t]), "notes": p.notes[t],
            "columns": [], "left": 0, "image": "", "near": [], "found": bool(np.isfinite(p.x[t]).all()),
        }  # fmt: skip
        if item["found"]:
            if images:
                item["image"] = _shown(p.x[t], shape)
                if near is not None and rows is not None:
                    item["near"] = [
                        {"image": _shown(rows[i], shape), "label": f"row {i + 1}" if labels is None else labels[i]}
                        for i in near[t]
                    ]
            else:
                item |= _moved(p, t, parts)
        found.append(item)
    return found


def _neighbours(p: Prototypes) -> tuple[Any, Any]:
    """The nearest rows of the data, for pictures."""
    if not p.problems or p.problems[0].data is None:
        return None, None
    one = p.problems[0]
    assert one.data is not None
    rows = one.data.reshape(-1, *one.shape).numpy()
    good = np.isfinite(p.x.reshape(len(p), -1)).all(1)
    near = np.zeros((len(p), min(_NEIGHBOURS, len(rows))), dtype=int)
    if good.any():
        near[good] = p[list(np.flatnonzero(good))].nearest(rows, k=near.shape[1])[0]
    return near, rows


def _shown(x: np.ndarray, shape: tuple[int, int] | None) -> str:
    image = picture(np.asarray(x), shape)
    low, high = float(image.min()), float(image.max())
    pixels = (image - low) / ((high - low) or 1.0)
    return png(pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, 2))


def _parts(p: Prototypes) -> Any:
    """What each column pays and costs, where that can be said."""
    try:
        return p.explain().values
    except ArgumentError:
        return None


def _moved(p: Prototypes, t: int, parts: Any) -> dict[str, Any]:
    if p.center is None:
        order = list(range(min(_COLUMNS, len(p.feature_names))))
        moved = [(p.feature_names[i], float("nan"), float(p.x[t].ravel()[i])) for i in order]
    else:
        moved = p[t].moved(_COLUMNS)[0]
    scale = dict(zip(p.feature_names, p._scale(len(p.feature_names)), strict=True))
    sizes = [(b - a) / scale[name] for name, a, b in moved]
    most = max((abs(s) for s in sizes if np.isfinite(s)), default=1.0) or 1.0
    place = {name: i for i, name in enumerate(p.feature_names)}
    columns = []
    for (name, a, b), s in zip(moved, sizes, strict=True):
        own = None if parts is None else parts[t, place[name]]
        columns.append({
            "name": name, "from": "" if np.isnan(a) else f"{a:.5g}", "to": f"{b:.5g}",
            "moved": "" if np.isnan(s) else f"{s:+.2f}",
            "bar": "" if np.isnan(s) else waterfall_bar(0, s, -most, most, "pos" if s >= 0 else "neg"),
            "pays": "" if own is None else f"{own[0]:+.3g}", "costs": "" if own is None else f"{own[1]:+.3g}",
        })  # fmt: skip
    changed = int((np.abs(p.x[t].ravel() - p.center.ravel()) > 0).sum()) if p.center is not None else len(place)
    return {"columns": columns, "left": max(0, changed - len(columns))}
