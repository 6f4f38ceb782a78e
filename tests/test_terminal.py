"""What a terminal is given: names as they are, no markup, no control letters, on every encoding."""

import io
import os
import subprocess
import sys
import time

import numpy as np
import pytest

typer = pytest.importorskip("typer")
from rich.table import Table

from backlight.cli import common
from backlight.cli.terminal import cleaned, console, one_title, readable_streams
from backlight.tables.files import write_table

NAMES = ["[/]", "[red]name", "[bold", "\\[/]", "\x1b[31mcmd\x1b]0;title\x07 →γ", ":smile:", "a\x00b\x9b1m\u202ec"]


def printed(encoding, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    readable_streams()
    table = Table(box=None)
    table.add_column(NAMES[0])
    for name in NAMES:
        table.add_row(name)
    terminal = console(width=200)
    terminal.print(table)
    terminal.print(*NAMES)
    terminal.print(one_title(NAMES[0], NAMES[4]))
    sys.stdout.flush()
    return raw.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8", "utf-16"])
def test_hostile_names_are_printed_as_they_are_on_any_terminal(encoding, monkeypatch):
    data = printed(encoding, monkeypatch)
    said = data.decode(encoding)
    for text in (
        "[/]",
        "[red]name",
        "[bold",
        "\\[/]",
        "cmd",
        ":smile:",
        "->gamma" if encoding != "utf-8" and encoding != "utf-16" else "→γ",
    ):
        assert said.count(text) >= 2, text
    assert "\x1b" not in said
    assert not any(letter in said for letter in "\x00\x07\x9b\u202e")


def test_cleaning_keeps_what_can_be_read():
    assert cleaned("Größe → 5 µm\n\tß") == "Größe → 5 µm\n\tß"
    assert cleaned("\x1b[1;31mred\x1b[0m") == "red"
    assert cleaned("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\") == "link"


def test_cells_that_a_spreadsheet_would_run_are_texts(tmp_path):
    cells = ["=1+1", "+1", "-1", "@x", "\tx", "plain", ""]
    write_table(
        {"=name": cells, "x": np.array([-1.5] * 7), "y": np.array(cells, dtype=object)}, tmp_path / "a.csv", force=False
    )
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == '"\'=name","x","y"'
    assert lines[1:5] == [f'"\'{cell}",-1.5,"\'{cell}"' for cell in cells[:4]]
    assert lines[6] == '"plain",-1.5,"plain"'
    from pyarrow.parquet import read_table

    write_table({"x": cells}, tmp_path / "a.parquet", force=False)
    assert read_table(tmp_path / "a.parquet")["x"].to_pylist() == cells


def test_an_interruption_says_what_was_written(tmp_path, capsys):
    out, report = tmp_path / "a.csv", tmp_path / "b.html"
    report.write_text("before")

    @common.plainly
    def command(out, report, write):
        if write:
            time.sleep(0)
            out.write_text("x")
        raise KeyboardInterrupt

    for write, words in ((True, f"written: {out}"), (False, "nothing was written")):
        with pytest.raises(typer.Exit) as raised:
            command(out=out, report=report, write=write)
        assert raised.value.exit_code == 130
        said = capsys.readouterr().err
        assert words in said.replace("\n", "")
        assert "b.html" not in said


def test_the_command_line_survives_a_terminal_of_ascii_letters(tmp_path):
    name = "no[/]\x1b[31m→.csv"
    done = subprocess.run(
        [sys.executable, "-m", "backlight", "anomalies", name], capture_output=True, cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 2
    assert b"no[/]->.csv" in done.stderr
    assert b"\x1b" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
