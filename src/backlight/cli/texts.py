"""``backlight explain`` for a folder with a model of texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from backlight.cli.common import labels_of, progress_bar, require_columns, split
from backlight.cli.predictions import read_target
from backlight.cli.terminal import console, one_title
from backlight.errors import ColumnsError, DataError, listed

if TYPE_CHECKING:
    from backlight.findings import Texts
    from backlight.tables import Frame

__all__ = ["explain_texts_of"]

_WORDS = 12
_TOGETHER = 16


def explain_texts_of(
    model: Path,
    data: list[str],
    column: str | None,
    target: str | None,
    rules: str,
    ids: list[str] | None,
    sheet: str | None,
    top: int | None,
    out: Path | None,
    report: Path | None,
    force: bool,
    quiet: bool,
    width: int | None,
) -> None:
    """Texts of a table's column, explained word by word, written and printed."""
    from backlight.tables.files import atomic, check_output, expand, file_hash, read_files, write_table

    for path, suffixes in ((out, (".csv", ".parquet", ".json")), (report, (".html",))):
        if path is not None:
            check_output(path, suffixes, force=force)
    paths = expand(data)
    frame = read_files(paths, sheet=sheet)
    texts = _texts(frame, column)
    named = labels_of(frame, split(ids))
    labels = [str(i + 1) for i in range(len(texts))] if named is None else [str(label) for label in named]
    # loads torch: not before the texts are known to be there
    from backlight.findings import texts_of
    from backlight.report.texts import write_text_report
    from backlight.text import explain, load_folder
    from backlight.text.encode import Encoder

    folder = load_folder(model)
    _require_short(Encoder(folder.tokenizer), texts, labels, folder.longest)
    with progress_bar(quiet) as progress:
        ex = explain(
            folder.model, folder.tokenizer, texts, read_target(target), batch_size=_TOGETHER, rules=rules,
            progress=lambda done, total: progress("explaining", done, total),
        )  # fmt: skip
    found = texts_of(replace(ex, labels=np.array(labels, dtype=object)), labels)
    source = f"{model.name} on {paths[0].name}"
    if out is not None and out.suffix == ".json":
        with atomic(out, force=force) as temporary:
            temporary.write_text(json.dumps(found.records(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    elif out is not None:
        write_table(found.columns(), out, force=force)
    if report is not None:
        provenance = {"model sha256": file_hash(folder.files), "data sha256": file_hash(paths)}
        write_text_report(found, report, title=source, provenance=provenance, top=top, force=force)
    if not quiet:
        _print(found, source, top, width)
        for path in (out, report):
            if path is not None:
                console(width=width).print(f"written: {path}")


def _texts(frame: Frame, column: str | None) -> list[str]:
    if column is None:
        if len(frame.names) != 1 and "text" not in frame.names:
            raise ColumnsError(f"which column holds the texts? --column names it: {listed(frame.names, 12)}")
        column = "text" if "text" in frame.names else frame.names[0]
    require_columns(frame, {column: "text"})
    values = frame.column(column)
    for i, value in enumerate(values):
        if value is None or value != value or not str(value).strip():
            raise DataError(f"row {i + 1} has no text in column {column!r}: leave it out")
    return [str(value) for value in values]


def _require_short(encoder: object, texts: list[str], labels: list[str], longest: int | None) -> None:
    if longest is None:
        return
    for text, label in zip(texts, labels, strict=True):
        length = encoder([text]).inputs["input_ids"].shape[1]  # type: ignore[operator]
        if length > longest:
            raise DataError(
                f"row {label} has {length} tokens, and the model takes {longest}: shorten or split the text"
            )


def _print(found: Texts, source: str, top: int | None, width: int | None) -> None:
    from backlight.explanation.display import aligned

    ex = found.ex
    terminal = console(width=width)
    terminal.print(one_title(source, f": {ex.provenance['model']}, {len(ex):,} texts"))
    terminal.print(f"Explained: {ex.target}, by {ex.method}.\n")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("word")
    table.add_column("times", justify="right")
    table.add_column("mean part of the score", justify="right")
    words = found.words[:_WORDS]
    for word, mean in zip(words, aligned([word.mean for word in words], signed=True), strict=True):
        table.add_row(word.text, f"{word.count:,}", mean)
    terminal.print(table)
    shown = range(len(ex) if top is None else min(top, len(ex)))
    view = ex.plot.text(list(shown))
    terminal.print()
    terminal.print(view if terminal.is_terminal else str(view))
    if len(ex) > len(shown):
        terminal.print(f"and {len(ex) - len(shown):,} more texts: --all shows them")
