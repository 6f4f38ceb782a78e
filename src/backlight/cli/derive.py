"""``backlight derive``: the relevance of a small network as formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backlight.cli.common import Force, app, plainly
from backlight.cli.terminal import console
from backlight.errors import ArgumentError

__all__ = ["derive"]

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@app.command()
@plainly
def derive(
    network: Annotated[
        str, typer.Argument(help="min-i or min-ii, the networks of the structure example, or a program (.pt2).")
    ],
    rule: Annotated[str, typer.Option(help="zero, epsilon, epsilon-absolute, gamma, alphabeta or zplus.")] = "gamma",
    assume: Annotated[str, typer.Option(help="Of the inputs: nonnegative or all.")] = "nonnegative",
    target: Annotated[int, typer.Option(min=0, help="The output.")] = 0,
    at: Annotated[str | None, typer.Option(help="A point, such as a1=2,a2=1,gamma=1/4: the numbers there.")] = None,
    latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the phase diagram of two inputs: .png.")] = None,
    force: Force = False,
) -> None:
    """The relevance of a small network as formulas, one for each linear region."""
    from backlight.tables.files import check_output

    if out is not None:
        check_output(out, (".png",), force=force)
    from backlight.examples import min_networks
    from backlight.symbolic import derive as formulas
    from backlight.vision.files import load_network

    known = {"min-i": lambda: min_networks().i, "min-ii": lambda: min_networks().ii}
    net = known[network]() if network in known else load_network(Path(network))
    found = formulas(net, rule, assume=assume, target=target)
    terminal = console(soft_wrap=True)
    terminal.print(found.latex() if latex else repr(found))
    if at is not None:
        point = found.at(**_point(at))
        terminal.print()
        terminal.print(f"at {at}: f = {point.output}")
        for name, value in point.relevance.items():
            terminal.print(f"R({name}) = {value}")
    if out is not None:
        from backlight.report.audit import write_phases

        write_phases(found, out, force=force)
        terminal.print(f"written: {out}")


def _point(text: str) -> dict[str, str]:
    found = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not value.strip():
            raise ArgumentError(f"--at {text!r} is no point: write it as a1=2,a2=1")
        found[name.strip()] = value.strip()
    return found
