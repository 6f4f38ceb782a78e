"""``backlight explain`` for pictures."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from backlight.cli.common import (
    class_names,
    progress_bar,
)
from backlight.cli.terminal import console

__all__ = ["explain_pictures_of"]


def explain_pictures_of(
    model: Path,
    data: list[str],
    architecture: str | None,
    preprocess: str,
    size: int | None,
    classes: Path | None,
    target: int | None,
    method: list[str] | None,
    over: bool,
    out: Path | None,
    report: Path | None,
    force: bool,
    seed: int,
    quiet: bool,
) -> None:
    """Heat maps of pictures: explained, written, and their sums printed."""
    from backlight.tables.files import check_output, expand, file_hash

    for path, suffix in ((out, ".png"), (report, ".html")):
        if path is not None:
            check_output(path, (suffix,), force=force)
    paths = expand(data)
    names = class_names(classes)
    # loads torch: not before the files are known to be there
    from backlight.report.pictures import write_picture_report, write_pictures
    from backlight.vision.files import load_network
    from backlight.vision.pictures import preprocessing
    from backlight.vision.workflow import DEFAULTS, explain_pictures

    prepare = preprocessing(preprocess, size)
    network = load_network(model, architecture)
    with progress_bar(quiet) as progress:
        seen = explain_pictures(
            network, paths, prepare, methods=method or DEFAULTS, target=target, class_names=names, seed=seed,
            progress=progress,
        )  # fmt: skip
    if out is not None:
        write_pictures(seen, out, over=over, force=force)
    if report is not None:
        provenance = {"model sha256": file_hash([model]), "pictures sha256": file_hash(paths), "seed": str(seed)}
        write_picture_report(seen, report, title=f"{model.name}: what it looks at", provenance=provenance, force=force)
    if quiet:
        return
    table = Table(
        box=None, pad_edge=False, caption="under each method: the sum of its relevance", caption_justify="left"
    )
    table.add_column("picture", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("score", justify="right")
    for name in seen.explanations:
        table.add_column(name, justify="right", overflow="fold")
    first = next(iter(seen.explanations.values()))
    for row, name in enumerate(seen.names):
        sums = [f"{ex.values[row].sum():+.4g}" for ex in seen.explanations.values()]
        table.add_row(name, seen.classes[row], f"{float(first.output[row]):.4g}", *sums)
    terminal = console()
    terminal.print(table)
    for path in (out, report):
        if path is not None:
            terminal.print(f"written: {path}")
