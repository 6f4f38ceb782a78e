"""``backlight audit``: would explanations of a network survive another wiring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from backlight.cli.common import (
    Architecture,
    Force,
    Preprocess,
    Quiet,
    Report,
    Size,
    app,
    network_inputs,
    plainly,
    progress_bar,
    width,
)
from backlight.cli.terminal import console

if TYPE_CHECKING:
    from backlight._audit import Audit

__all__ = ["audit"]


@app.command()
@plainly
def audit(
    model: Annotated[
        Path, typer.Argument(help="An exported program (.pt2), or weights (.safetensors) with --architecture.")
    ],
    data: Annotated[
        list[str], typer.Argument(help="Inputs: pictures, tables of numbers (CSV, Parquet, Arrow), or arrays (.npy).")
    ],
    rewrites: Annotated[
        list[str] | None,
        typer.Option(help="deploy, all, attack, or names; repeat for several.", show_default="deploy"),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="A method: gradient_x_input, lrp:gamma, …; repeat for several.",
            show_default="gradient_x_input, lrp:epsilon, lrp:gamma",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="At most so many inputs, the first ones.")] = 64,
    architecture: Architecture = None,
    preprocess: Preprocess = "imagenet",
    size: Size = None,
    target: Annotated[int | None, typer.Option(min=0, help="The output to explain.", show_default="predicted")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the numbers: .csv or .parquet; the heat map: .png.")] = None,
    report: Report = None,
    force: Force = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides the random rewrites.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Measure how far explanations of a network move when its function is written differently."""
    from backlight.tables.files import check_output, expand, file_hash

    for path, suffixes in ((out, (".csv", ".parquet", ".png")), (report, (".html",))):
        if path is not None:
            check_output(path, suffixes, force=force)
    paths = expand(data)
    from backlight._audit import audit as study
    from backlight.report.audit import write_audit_numbers, write_audit_picture, write_audit_report
    from backlight.vision.files import load_network

    network = load_network(model, architecture)
    inputs, names = network_inputs(paths, rows, preprocess, size)
    with progress_bar(quiet) as progress:
        found = study(
            network, inputs, target, methods=method or ("gradient_x_input", "lrp:epsilon", "lrp:gamma"),
            rewrites=rewrites or "deploy", feature_names=names, seed=seed,
            progress=lambda done, total: progress("rewrites", done, total),
        )  # fmt: skip
    if out is not None and out.suffix == ".png":
        write_audit_picture(found, out, force=force)
    elif out is not None:
        write_audit_numbers(found, out, force=force)
    if report is not None:
        provenance = {"model sha256": file_hash([model]), "data sha256": file_hash(paths), "seed": str(seed)}
        write_audit_report(found, report, title=f"Structure audit of {model.name}", provenance=provenance, force=force)
    if not quiet:
        _print_audit(found, model.name)
        for path in (out, report):
            if path is not None:
                console().print(f"written: {path}")


def _print_audit(found: Audit, name: str) -> None:
    head, *lines = found.table()
    table = Table(
        box=None, pad_edge=False, title=f"{name}, {found.rows} inputs: mean change of explanations, 0 to 1",
        title_justify="left", title_style="bold",
    )  # fmt: skip
    for k, name in enumerate(head):
        table.add_column(name, justify="left" if k == 0 else "right", overflow="fold")
    for line in lines:
        if line[0] == "mean (SSI)":
            table.add_section()
        table.add_row(*line, style="bold" if line[0] == "mean (SSI)" else None)
    terminal = console(width=width())
    terminal.print(table)
    terminal.print()
    for sentence in found.advice():
        terminal.print("• " + sentence)
