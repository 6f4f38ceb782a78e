"""A run that is ended from outside leaves whole files or none, says which, and has the exit code that shells expect."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import backlight
from backlight.tables.files import atomic, read_files, write_table

pytest.importorskip("typer")
pytest.importorskip("skops")
import skops.io

from backlight import cli

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    write_table({name: X[:, k] for k, name in enumerate("abc")}, tmp_path / "rows.csv", force=False)
    skops.io.dump(LogisticRegression().fit(X, X[:, 0] > 0), tmp_path / "model.skops")
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    rows = {"input": {0: torch.export.Dim.DYNAMIC}}
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3),), dynamic_shapes=rows), tmp_path / "net.pt2")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ended(folder, monkeypatch, capsys):
    """The command line, asked to end just before the file of this number gets its name."""
    rename = Path.replace

    def run(number, *arguments, asked=signal.SIGTERM):
        # whoever runs the tests may ignore a signal, as under nohup
        theirs = signal.getsignal(asked)
        if theirs is signal.SIG_IGN:
            signal.signal(asked, signal.default_int_handler if asked == signal.SIGINT else signal.SIG_DFL)
        count, handling = iter(range(1, 100)), signal.getsignal(asked)

        def replace(self, target):
            if next(count) == number:
                assert self.stat().st_size
                os.kill(os.getpid(), asked)
            return rename(self, target)

        monkeypatch.setattr(Path, "replace", replace)
        monkeypatch.setattr(sys, "argv", ["backlight", *arguments])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        assert signal.getsignal(asked) is handling
        signal.signal(asked, theirs)
        said = capsys.readouterr().err.splitlines()
        return code, said[-1] if said else "", sorted(path.name for path in folder.iterdir())

    return run


@pytest.mark.parametrize(
    ("asked", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)], ids=lambda x: str(int(x))
)
def test_an_ended_run_leaves_whole_files_or_none_and_says_which(folder, ended, asked, code):
    arguments = ("anomalies", "rows.csv", "--out", "o.csv", "--report", "r.html", "--no-check", "-q")
    said = f"backlight: {'interrupted' if asked == signal.SIGINT else 'terminated'};"
    before = sorted(path.name for path in folder.iterdir())
    assert ended(1, *arguments, asked=asked) == (code, f"{said} nothing was written", before)
    assert ended(2, *arguments, asked=asked) == (code, f"{said} written: o.csv", sorted([*before, "o.csv"]))
    assert len(read_files([folder / "o.csv"])) == 20


def test_an_ended_run_over_shards_goes_on_where_it_was(folder, ended):
    arguments = ("anomalies", "rows.csv", "--out", "scores", "--no-check", "-q")
    # the second name that is given is that of the first shard
    code, said, _ = ended(2, *arguments)
    assert (code, said) == (143, "backlight: terminated; written: scores (the same command goes on there)")
    assert [path.name for path in (folder / "scores").iterdir()] == ["_backlight.json"]
    assert ended(0, *arguments)[:2] == (0, "")
    assert len(read_files([folder / "scores" / "part-00000.parquet"])) == 60


def test_a_folder_whose_run_was_killed_before_it_wrote_down_what_it_is_can_be_used(folder, ended):
    (folder / "scores").mkdir()
    (folder / "scores" / "._backlight.json").write_text('{"format"')
    assert ended(0, "anomalies", "rows.csv", "--out", "scores", "--no-check", "-q")[:2] == (0, "")


@pytest.mark.parametrize(
    "command",
    [
        "explain model.skops rows.csv --out o.parquet",
        "explain model.skops rows.csv --report o.html",
        "audit net.pt2 rows.csv --out o.csv",
        "evaluate model.skops rows.csv --methods lrp,random --out o.csv",
        "prototype model.skops rows.csv --out o.safetensors",
        "demo .",
    ],
)
def test_every_command_that_writes_ends_in_order(folder, ended, command):
    before = sorted(path.name for path in folder.iterdir())
    assert ended(1, *command.split()) == (143, "backlight: terminated; nothing was written", before)


def test_a_command_that_chooses_its_own_names_says_them(ended):
    assert ended(2, "demo", ".")[:2] == (143, "backlight: terminated; written: normal-wines.csv")


def test_a_process_that_is_terminated_has_the_exit_code_of_shells(folder):
    script = """
import os, pathlib, signal
from backlight.cli import main
pathlib.Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGTERM)
main()
"""
    command = [sys.executable, "-c", script, "explain", "model.skops", "rows.csv", "--out", "o.parquet"]
    done = subprocess.run(command, capture_output=True, cwd=folder, text=True)
    assert (done.returncode, done.stderr) == (143, "backlight: terminated; nothing was written\n")
    assert not [path for path in folder.iterdir() if path.suffix == ".parquet"]


def test_a_users_own_handling_of_signals_stays(folder, ended):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("theirs"))
    try:
        assert ended(1, "explain", "model.skops", "rows.csv", "--out", "o.parquet", "-q")[:2] == (0, "")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == ["theirs"]
    assert (folder / "o.parquet").exists()


def test_a_name_to_write_to_is_no_link_of_somebody_else(tmp_path, monkeypatch):
    precious = tmp_path / "precious"
    precious.write_text("kept")
    monkeypatch.setattr("secrets.token_hex", lambda n: "guessed")
    (tmp_path / ".guessed.csv").symlink_to(precious)
    with pytest.raises(backlight.errors.FileError, match="cannot be written"), atomic(tmp_path / "o.csv"):
        raise AssertionError
    assert precious.read_text() == "kept"


def test_what_replaces_a_file_is_read_by_those_who_could_read_it(tmp_path):
    path = tmp_path / "o.csv"
    write_table({"a": [1.0]}, path, force=False)
    own = os.umask(0)
    os.umask(own)
    assert path.stat().st_mode & 0o777 == 0o666 & ~own
    path.chmod(0o600)
    write_table({"a": [2.0]}, path, force=True)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_somebody_wrote_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "o.csv"
    with pytest.raises(backlight.errors.ExistingFileError), atomic(path) as temporary:
        temporary.write_text("ours")
        path.write_text("theirs")
    assert path.read_text() == "theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["o.csv"]


def test_an_export_that_is_killed_leaves_nothing_under_its_name(tmp_path):
    script = """
import os, pathlib, signal, backlight, numpy as np
from sklearn.svm import OneClassSVM
pathlib.Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGTERM)
X = np.random.default_rng(0).normal(size=(30, 3))
backlight.export(OneClassSVM().fit(X), "o.sql")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=tmp_path, text=True)
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert not Path(tmp_path, "o.sql").exists()


@pytest.mark.parametrize("name", ["rows.csv", "./rows.csv", "link.csv", "hard.csv"])
@pytest.mark.parametrize("data", ["rows.csv", "rows.*"])
def test_an_output_does_not_replace_what_is_read(folder, ended, name, data):
    (folder / "link.csv").symlink_to("rows.csv")
    (folder / "hard.csv").hardlink_to("rows.csv")
    before = (folder / "rows.csv").read_bytes()
    code, said, _ = ended(0, "anomalies", data, "--out", name, "--force", "--no-check", "-q")
    assert (code, said) == (2, f"backlight: {Path(name)} is one of the files that are read: choose another name")
    assert (folder / "rows.csv").read_bytes() == before


def test_a_closed_terminal_is_no_error(folder):
    script = "import sys; sys.stdout = sys.stderr = None; from backlight.cli import main; main()"
    command = [sys.executable, "-c", script, "explain", "model.skops", "rows.csv", "--out", "o.parquet"]
    assert subprocess.run(command, capture_output=True, cwd=folder).returncode == 0
    assert (folder / "o.parquet").exists()


def test_a_full_disk_leaves_no_half_manifest(folder, ended, monkeypatch):
    write, count = Path.write_text, iter(range(2))

    def full(self, text, **options):
        if next(count, 1):
            write(self, text[:5])
            raise OSError(28, "No space left on device")
        return write(self, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    code, said, _ = ended(0, "anomalies", "rows.csv", "--out", "scores", "--no-check", "-q")
    assert (code, said) == (2, "backlight: scores cannot be written: No space left on device")
    assert sorted(path.name for path in (folder / "scores").iterdir()) == ["_backlight.json", "part-00000.parquet"]
