"""``backlight demo``: planted faults in real data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from backlight.cli.anomalies import deliver
from backlight.cli.common import (
    Seed,
    app,
    plainly,
    progress_bar,
    width,
)
from backlight.cli.terminal import console
from backlight.errors import ArgumentError

__all__ = ["demo"]


@app.command()
@plainly
def demo(
    folder: Annotated[Path, typer.Argument(help="Where to put the two tables and the report.")] = Path(
        "backlight-demo"
    ),
    force: Annotated[bool, typer.Option(help="Replace an earlier demo.")] = True,
    seed: Seed = 0,
) -> None:
    """Explain planted faults in real data: three kinds of wine, three laboratory values mixed up in every fifth row."""
    import numpy as np

    from backlight.anomaly.bands import standard_scores
    from backlight.anomaly.workflow import find_anomalies
    from backlight.demo import STORY, mixed_up_wines
    from backlight.findings import KnownFaults
    from backlight.tables.files import file_hash, read_files, write_table

    wines = mixed_up_wines(seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"cannot make the folder {folder}: {error.strerror}") from error
    paths = {"normal": folder / "normal-wines.csv", "batch": folder / "wines.csv"}
    for name, rows, labels in (
        ("normal", wines.normal, wines.normal_ids),
        ("batch", wines.batch, wines.batch_ids),
    ):
        columns: dict[str, Any] = {"sample": list(labels)}
        columns |= {column: rows[:, j] for j, column in enumerate(wines.names)}
        write_table(columns, paths[name], force=force)
    frame, reference = read_files([paths["batch"]]), read_files([paths["normal"]])
    with progress_bar(False) as progress:
        found = find_anomalies(frame, normal=reference, top=20, seed=seed, progress=progress)
    plain = standard_scores(wines.batch, wines.normal, np.zeros(len(wines.names), dtype=bool)).max(1)
    faults = KnownFaults(wines.faults, STORY, plain)
    report = folder / "report.html"
    provenance = {
        "data sha256": file_hash([paths["batch"]]),
        "normal rows sha256": file_hash([paths["normal"]]),
        "seed": str(seed),
    }
    deliver(found, frame, "wines.csv", folder / "reasons.parquet", report, force, False, provenance, faults)
    terminal = console(width=width())
    terminal.print(f"\nOpen {report} in a browser. The same on the two files themselves:")
    again = [
        "backlight",
        "anomalies",
        str(paths["batch"]),
        "--normal",
        str(paths["normal"]),
        "--report",
        "report.html",
    ]
    terminal.print("  " + shlex.join(again), soft_wrap=True)
