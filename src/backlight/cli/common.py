"""What the commands share: the program, options that several have, outputs, progress, one line for a fault."""

from __future__ import annotations

import functools
import glob
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from backlight._version import __version__
from backlight.errors import ArgumentError, BacklightError, DataError, MissingFileError, listed, one_line, reading

try:
    import typer
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from backlight.cli.terminal import console, readable_streams
except ImportError as error:  # pragma: no cover - the message is tested in a process without the extra
    raise SystemExit(f"backlight's command line needs {error.name}: pip install 'backlight[cli]'") from None

if TYPE_CHECKING:
    import numpy as np

    from backlight.tables import Frame

__all__ = [
    "All", "Architecture", "Classes", "Data", "Force", "Ids", "Ignore", "Model", "Normal", "Out", "Preprocess",
    "Quiet", "Report", "ScoreName", "Seed", "Sheet", "Size", "Top", "Trust", "app", "check_outputs", "class_names",
    "is_network", "labels_of", "main", "network_inputs", "overrides_of", "plainly", "progress_bar",
    "require_columns", "split", "width",
]  # fmt: skip

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Why is this row an anomaly, why this picture this class, what does the model look for? And would the answer "
    "survive a rewrite?",
)

Data = Annotated[
    list[str],
    typer.Argument(
        help="CSV, spreadsheets, JSON, Parquet, Arrow, ARFF, NumPy or LIBSVM, also packed; patterns such as "
        "'logs/*.parquet'; - for standard input."
    ),
]
Model = Annotated[
    Path,
    typer.Argument(
        help="A fitted scikit-learn model (.skops), or an image classifier: an exported program (.pt2) or weights "
        "(.safetensors) with --architecture; or a folder with a model of texts and its tokenizer, as "
        "transformers saves it."
    ),
]
Normal = Annotated[list[str] | None, typer.Option(help="Table of rows known to be normal (may be repeated).")]
Top = Annotated[int, typer.Option(min=1, help="How many of the most unusual rows to explain.")]
All = Annotated[bool, typer.Option("--all", help="Explain every row.")]
Out = Annotated[Path | None, typer.Option(help="Write scores, relevances and p-values: .parquet or .csv.")]
Report = Annotated[Path | None, typer.Option(help="Write a report: .html.")]
Force = Annotated[bool, typer.Option(help="Replace outputs that exist.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides the split into fitted and held-out rows.")]
Ignore = Annotated[list[str] | None, typer.Option(help="Column(s) to leave out; repeat, or separate by commas.")]
Sheet = Annotated[str | None, typer.Option(help="A spreadsheet's sheet: its name, or its number from 1.")]
Ids = Annotated[list[str] | None, typer.Option("--id", help="Column(s) that name a row.")]
Architecture = Annotated[
    str | None, typer.Option(help="Weights alone: the network, squeezenet1_0 or a name of torchvision's.")
]
Preprocess = Annotated[str, typer.Option(help="Pictures: imagenet, unit (RGB in 0 to 1) or grey (in 0 to 1).")]
Size = Annotated[int | None, typer.Option(min=1, help="Pictures: side of what the network sees.")]
Classes = Annotated[Path | None, typer.Option(help="Pictures: names of the classes, one a line or as JSON.")]
ScoreName = Annotated[str | None, typer.Option(help="Tables: which score of the model.", show_default="its own")]
Trust = Annotated[list[str] | None, typer.Option(help="Type(s) in the model file that you trust.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def plainly(command: Callable[..., None]) -> Callable[..., None]:
    """One clear line and exit code 2 on bad input, 130 when interrupted, 143 when terminated."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        from backlight.tables.files import outputs

        named = [path for name in ("out", "report") if (path := options.get(name)) is not None]
        with outputs(*named) as written:
            try:
                _require_apart(named, [value for value in options.values() if value not in named])
                command(*arguments, **options)
            except BacklightError as error:
                said, code = str(error), 2
            except (KeyboardInterrupt, Terminated) as ended:
                word, code = ("terminated", ended.code) if isinstance(ended, Terminated) else ("interrupted", 130)
                # a folder is written shard by shard
                files = [f"{path}{' (the same command goes on there)' * path.is_dir()}" for path in written()]
                said = f"{word}; {f'written: {listed(files)}' if files else 'nothing was written'}"
            else:
                return
        console(stderr=True, soft_wrap=True).print(f"backlight: {one_line(said, 2000)}")
        raise typer.Exit(code)

    return run


def _require_apart(outputs: list[Path], given: list[Any]) -> None:
    """Refuse an output that is one of the files that are read, which --force would replace by what was made of it."""
    texts = [str(text) for value in given for text in (value if isinstance(value, list | tuple) else [value])]
    read = [found for text in texts for found in (text, *glob.glob(text))]
    for output in outputs:
        if any(_same_file(output, path) for path in read):
            raise ArgumentError(f"{output} is one of the files that are read: choose another name")


def _same_file(output: Path, path: str) -> bool:
    try:
        return output.is_file() and output.samefile(path)
    except (OSError, ValueError):
        return False


class Terminated(SystemExit):
    """The system asks the program to end: nobody takes it for an error on the way out, and what is half done goes."""

    code: int


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let the signals that ask a program to end do so by way of `Terminated`, where nobody else sees to them."""
    asked = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
    if threading.current_thread() is not threading.main_thread():
        asked = []
    ours = [number for number in asked if signal.getsignal(number) is signal.SIG_DFL]

    def end(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)  # asked twice, it ends at once
        raise Terminated(128 + number)

    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"backlight {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def check_outputs(out: Path | None, report: Path | None, force: bool) -> None:
    """Refuse outputs that cannot be written, before any work is done."""
    from backlight.tables.files import check_output

    if out is not None:
        check_output(out, (".parquet", ".csv"), force=force)
    if report is not None:
        check_output(report, (".html",), force=force)


def split(names: list[str] | None) -> list[str]:
    """Names of an option that may be repeated or hold several, separated by commas."""
    return [name.strip() for text in names or [] for name in text.split(",") if name.strip()]


def overrides_of(**kinds: list[str] | None) -> dict[str, str]:
    """What the user says columns are, by name; a column said to be two things is an error."""
    out: dict[str, str] = {}
    for kind, names in kinds.items():
        for name in split(names):
            if name in out:
                raise ArgumentError(f"column {name!r} is named twice, as {out[name]} and as {kind}: choose one")
            out[name] = kind
    return out


def require_columns(frame: Frame, names: dict[str, str]) -> None:
    """Refuse names that are no columns of the data."""
    from backlight.errors import ColumnsError, listed

    unknown = [name for name in names if name not in frame.names]
    if unknown:
        raise ColumnsError(f"no column {unknown[0]!r} in the data: the columns are {listed(frame.names, 20)}")


def labels_of(frame: Frame, names: list[str]) -> np.ndarray | None:
    """What names each row, from the first of these columns."""
    from backlight.anomaly.workflow import row_labels
    from backlight.tables.columns import understand

    if not names:
        return None
    first = frame.select(names[:1])
    return row_labels(tuple(understand(first, {names[0]: "identifier"})), len(frame))


def width() -> int | None:
    """How wide tables are printed: as the terminal, or 120 where there is none."""
    return None if sys.stdout.isatty() else 120


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Any]:
    """A bar on a terminal, nothing anywhere else."""
    terminal = console(stderr=True)
    if quiet or not terminal.is_terminal:
        yield lambda what, done, total: None
        return
    columns = (TextColumn("{task.description:<11}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=terminal, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield update


def class_names(path: Path | None) -> list[str] | None:
    """Names of classes: one a line, a JSON list (of names, or of lists that end in one), or a JSON object by index."""
    if path is None:
        return None
    import json

    if not path.is_file():
        raise MissingFileError(f"{path} is not there")
    with reading(path, "class names: one a line, a JSON list, or an object by index"):
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return [line.strip() for line in text.splitlines() if line.strip()]
        held = json.loads(text)
        if isinstance(held, dict):
            held = [held[key] for key in sorted(held, key=int)]
        if not isinstance(held, list):
            raise TypeError(f"it holds {type(held).__name__}")
        return [str(item[-1] if isinstance(item, list) else item) for item in held]


def is_network(model: Path, architecture: str | None) -> bool:
    """Whether a model's file is that of a network of pictures."""
    return architecture is not None or model.suffix in (".pt2", ".safetensors", ".pth", ".ckpt")


def network_inputs(paths: list[Path], rows: int, preprocess: str, size: int | None) -> tuple[Any, list[str] | None]:
    """What a network reads, from pictures, arrays or tables of numbers, and the names of columns."""
    import numpy as np

    from backlight.tables.columns import as_numbers
    from backlight.tables.files import read_files
    from backlight.vision.pictures import preprocessing

    kinds = {path.suffix.lower() for path in paths}
    if kinds <= set(_PICTURES):
        prepare = preprocessing(preprocess, size)
        return prepare.inputs([prepare.pixels(path) for path in paths[:rows]]), None
    if kinds == {".npy"}:
        return np.concatenate([array_of(path) for path in paths])[:rows], None
    frame = as_numbers(read_files(paths))
    for name, column in zip(frame.names, frame.columns, strict=True):
        if column.dtype != np.float64:
            raise DataError(f"column {name!r} is not of numbers: a network reads numbers alone")
    return frame.take(slice(0, rows)).matrix(), list(frame.names)


def array_of(path: Path) -> Any:
    """The numbers of a .npy file, without its pickles; a header that promises more than there is is no array."""
    import numpy as np

    with reading(path, "an array of numbers"):
        array = np.lib.format.open_memmap(path, mode="r")
        if array.dtype.kind not in "fiub" or array.ndim == 0:
            raise DataError(f"{path} is no array of numbers: it holds {array.dtype}, {array.ndim} axes")
        return np.array(array)


def main() -> None:
    """Run the command line."""
    readable_streams()
    with _ending_in_order():
        app()
