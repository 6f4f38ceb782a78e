"""CSV and its relatives: cells between commas, semicolons, tabs, bars or spaces."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

import numpy as np

from backlight.errors import FileError, listed, require
from backlight.tables.numbers import MISSING, PLAIN, looks_like_a_number
from backlight.tables.readers.encoding import decoded, encoding_of, from_chunks
from backlight.tables.readers.layout import find_layout
from backlight.tables.readers.registry import Options, Table, reader
from backlight.tables.readers.source import Source
from backlight.tables.readers.typed import Growing, Interned

__all__ = ["read_delimited"]

_SAMPLE = 1 << 18
_SNIFFED = 20_000
_BLOCK = 1 << 20
# rows a block at least, up to the largest block
_ROWS = 512
_LARGEST_BLOCK = 1 << 26
_SNIFFED_LINES = 200
_DELIMITERS = [",", ";", "\t", "|", " "]
_EXACT = 2.0**53
# More lines than this with another number of cells: the file is not the table that it was taken for.
_MOST_RAGGED = 0.02
_OPEN = "{}: a quotation mark is not closed, so that all that follows it is one cell: see {!r}"


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How cells are separated and quoted, the lines above the values, and the text's encoding."""

    delimiter: str
    quote: str
    skip: int
    encoding: str
    old_mac: bool

    @property
    def spaced(self) -> bool:
        """Whether any run of spaces separates two cells."""
        return self.delimiter == " "


@reader("CSV", endings=(".csv", ".tsv", ".txt", ".tab", ".dat", ".psv", ".data", ".asc"))
def read_delimited(source: Source, options: Options) -> Table:
    """Read a delimited text: columns of plain numbers as float64, all others as texts."""
    encoding, said = encoding_of(source)
    with source.open() as stream:
        old_mac = b"\r" in source.head and b"\n" not in source.head and not encoding.startswith("utf-16")
        sample = decoded(stream, encoding, old_mac=old_mac).read(_SAMPLE).decode("utf-8", "replace")
    if len(sample) >= _SAMPLE // 4 and "\n" in sample:
        sample = sample[: sample.rindex("\n") + 1]
    told = re.match(r"sep=(.)\r?\n", sample, re.IGNORECASE)
    delimiter, quote = (told[1], '"') if told else _sniffed(sample, source.ending)
    rows, lines, ends = _rows(sample, delimiter, quote, 1 if told else 0)
    if _in_single_quotes(sample, delimiter, 1 if told else 0):
        quote = "'"
        rows, lines, ends = _rows(sample, delimiter, quote, 1 if told else 0)
    if not any(any(row) for row in rows):
        raise FileError(f"{source.name} holds no cells")
    layout = find_layout(rows, lines)
    skip = ends[layout.start - 1] if layout.start else (1 if told else 0)
    dialect = _Dialect(delimiter, quote, skip, encoding, old_mac)
    columns, ragged = _columns(source, dialect, len(layout.names), rows[layout.start :])
    return Table(layout.names, columns, (*said, *layout.notes, *ragged))


def _sniffed(sample: str, ending: str) -> tuple[str, str]:
    """Delimiter and quote, by CleverCSV; a text without the delimiter in its first lines is one column."""
    clevercsv = require("clevercsv", "cli", "reading CSV")
    sample = re.sub(r"(\w{200})\w+", r"\1", sample)  # long words say nothing, and the search is quadratic in them
    few = sample if len(sample) < _SNIFFED else sample[: sample.rfind("\n", 0, _SNIFFED) + 1] or sample[:_SNIFFED]
    if ending in (".tsv", ".tab") and "\t" in few:
        return "\t", '"'
    try:
        found = clevercsv.Sniffer().sniff(few, delimiters=_DELIMITERS)
    except clevercsv.Error:
        return ",", '"'
    delimiter = found.delimiter if found is not None and found.delimiter in _DELIMITERS else ""
    first = [line for line in few.splitlines() if line.strip()][:8]
    if not delimiter or (delimiter in ", " and delimiter not in first[0].strip() and len(first) < 3):
        return ",", '"'
    if delimiter in ", " and delimiter not in first[0].strip() and not any(len(row) > 1 for row in _split(first, ",")):
        return ",", '"'
    return delimiter, '"'


def _in_single_quotes(sample: str, delimiter: str, skip: int) -> bool:
    """Whether texts stand in single quotes: all of the first line's, and on no line is there an odd one."""
    lines = [line for line in sample.splitlines()[skip:] if line.strip()][:_SNIFFED_LINES]
    if not lines or any(line.count("'") % 2 for line in lines):
        return False
    cells = next(csv.reader(lines[:1], delimiter=delimiter, quotechar="'"), [])
    texts = [cell for cell in cells if cell.strip() and not looks_like_a_number(cell)]
    return bool(texts) and all(f"'{cell}'" in lines[0] for cell in texts)


def _split(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    return list(csv.reader(lines, delimiter=delimiter))


def _rows(sample: str, delimiter: str, quote: str, skip: int) -> tuple[list[list[str]], list[int], list[int]]:
    """The sample's rows, the line on which each begins, and the number of lines at its end."""
    text = io.StringIO(sample, newline="")
    for _ in range(skip):
        text.readline()
    if delimiter == " ":
        source: Any = (re.sub(r"[ \t]+", " ", line.strip()) + "\n" for line in text)
    else:
        source = text
    found = csv.reader(source, delimiter=delimiter, quotechar=quote)
    rows, lines, ends = [], [], []
    before = skip
    while True:
        try:
            row = next(found)
        except StopIteration:
            break
        except csv.Error:
            break
        rows.append(row)
        lines.append(before + 1)
        before = found.line_num + skip
        ends.append(before)
    return rows, lines, ends


def _columns(
    source: Source, dialect: _Dialect, width: int, sample: Sequence[Sequence[str]]
) -> tuple[tuple[np.ndarray, ...], tuple[str, ...]]:
    """All columns: once through the file, and once more for those that turned out to be no plain numbers."""
    numbers = [_plain_numbers([row[j] for row in sample if j < len(row)]) for j in range(width)]
    # every block costs a call a column, so that wide rows need larger blocks
    line = max((sum(len(cell) + 1 for cell in row) for row in sample), default=0)
    block = min(max(_BLOCK, _ROWS * line), _LARGEST_BLOCK)
    first = _Pass(source, dialect, numbers, None, block)
    if "\n" in first.end.strip() and not _ends_quoted(source, dialect):
        raise FileError(_OPEN.format(source.name, first.end.partition("\n")[0][:40]))
    again = [j for j, column in enumerate(first.columns) if column is None]
    columns = list(first.columns)
    if again:
        second = _Pass(source, dialect, [False] * width, again, block)
        for j in again:
            columns[j] = second.columns[j]
    return tuple(column for column in columns if column is not None), first.notes


def _plain_numbers(cells: Sequence[str]) -> bool:
    present = [cell.strip() for cell in cells if cell.strip() not in MISSING]
    return all(PLAIN.fullmatch(cell) for cell in present)


class _Pass:
    """One time through a file, block by block, so that no more than a block of texts is in memory."""

    def __init__(
        self, source: Source, dialect: _Dialect, numbers: Sequence[bool], only: list[int] | None, block: int
    ) -> None:
        self.dialect, self.block = dialect, block
        self.width = len(numbers)
        self.odd: list[tuple[int, str]] = []
        keep = range(self.width) if only is None else only
        grown: dict[int, Growing | None] = {j: Growing(np.float64 if numbers[j] else object) for j in keep}
        texts = {j: Interned() for j in keep}
        size, done = source.size, 0
        self.end = ""
        with source.open() as stream:
            for batch in self._batches(stream, [str(j) for j in keep]):
                done += batch.num_rows
                if only is None and batch.num_rows:
                    self.end = batch.column(self.width - 1)[-1].as_py() or ""
                rows = done * max(1, size // block) if done == batch.num_rows else 0
                for place, j in enumerate(keep):
                    held = grown[j]
                    if held is None:
                        continue
                    cells = _floats(batch.column(place)) if numbers[j] else texts[j](batch.column(place))
                    if cells is None:
                        grown[j] = None
                    else:
                        held.append(cells, rows)
        self.columns: list[np.ndarray | None] = [None] * self.width
        for j in keep:
            column = grown[j]
            self.columns[j] = None if column is None else texts[j].logical(column.cells)
        self.notes: tuple[str, ...] = ()
        if self.odd:
            self._mend(source.name)

    def _batches(self, stream: IO[bytes], names: list[str]) -> Any:
        arrow, pyarrow = require("pyarrow.csv", "cli", "reading CSV"), require("pyarrow", "cli", "reading CSV")
        text = decoded(stream, self.dialect.encoding, old_mac=self.dialect.old_mac)
        lines = text if isinstance(text, io.BufferedReader) else io.BufferedReader(_Raw(text), 1 << 20)
        for _ in range(self.dialect.skip):
            lines.readline()
        delimiter = self.dialect.delimiter
        if self.dialect.spaced:
            lines, delimiter = _tabbed(lines), "\t"
        if not lines.peek(1):
            return
        every = [str(j) for j in range(self.width)]
        kinds = {name: pyarrow.string() for name in every}
        try:
            found = arrow.open_csv(
                lines,
                read_options=arrow.ReadOptions(column_names=every, use_threads=False, block_size=self.block),
                parse_options=arrow.ParseOptions(
                    delimiter=delimiter, quote_char=self.dialect.quote, newlines_in_values=True,
                    invalid_row_handler=self._odd,
                ),
                convert_options=arrow.ConvertOptions(
                    column_types=kinds, include_columns=names, null_values=list(MISSING), strings_can_be_null=True
                ),
            )  # fmt: skip
            yield from found
        except pyarrow.ArrowInvalid as error:
            if "Empty CSV file" not in str(error):
                raise

    def _odd(self, row: Any) -> str:
        self.odd.append((row.number, row.text))
        return "skip"

    def _mend(self, name: str) -> None:
        """Put rows with too few or too many cells back in their places, and say so; refuse a file of many."""
        rows = max(len(column) for column in self.columns if column is not None) + len(self.odd)
        line = self.dialect.skip
        kept: list[tuple[int, list[str]]] = []
        dropped = 0
        short: list[int] = []
        long: list[int] = []
        for number, text in self.odd:
            if "\n" in text.rstrip() and _is_open(text, self.dialect):
                raise FileError(_OPEN.format(name, text.partition("\n")[0][:40]))
            cells = next(csv.reader([text], delimiter="\t" if self.dialect.spaced else self.dialect.delimiter), [])
            if text.lstrip().startswith("#") or (len(cells) == 1 and self.width > 2):
                dropped += 1
                continue
            kept.append((number - 1 - dropped - len(kept), [*cells, *[""] * self.width][: self.width]))
            (short if len(cells) < self.width else long).append(number + line)
        if len(kept) > max(3, _MOST_RAGGED * rows) or dropped > max(20, 0.2 * rows):
            raise FileError(
                f"{name}: {len(self.odd)} lines do not have {self.width} cells as the others (the first is line "
                f"{self.odd[0][0] + line}): is a separator or a quotation mark missing?"
            )
        self.notes = _ragged_notes(dropped, short, long, self.width)
        for j, column in enumerate(self.columns):
            if column is not None and kept:
                self.columns[j] = _inserted(column, [p for p, _ in kept], [cells[j] for _, cells in kept])


def _is_open(text: str, dialect: _Dialect) -> bool:
    """Whether a quotation mark is not closed at the end of a row."""
    delimiter = "\t" if dialect.spaced else dialect.delimiter
    found = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quotechar=dialect.quote, strict=True)
    try:
        list(found)
    except csv.Error as error:
        # a cell without an end, or a longer one than csv takes
        return "unexpected end" in str(error) or "limit" in str(error)
    return False


def _ends_quoted(source: Source, dialect: _Dialect) -> bool:
    """Whether the last thing in a file is a quotation mark."""
    end = b""
    with source.open() as stream:
        text = decoded(stream, dialect.encoding, old_mac=dialect.old_mac)
        while part := text.read(_BLOCK):
            end = (end + part)[-64:]
    return end.rstrip().endswith(dialect.quote.encode())


def _ragged_notes(dropped: int, short: list[int], long: list[int], width: int) -> tuple[str, ...]:
    notes = []
    if dropped:
        notes.append(f"{dropped} line{'s' if dropped > 1 else ''} between or below the values left out (comments).")
    for lines, said in ((short, "fewer cells than {}: the others are missing"), (long, "more cells than {}: left out")):
        if lines:
            noun = f"Line {lines[0]} has" if len(lines) == 1 else f"Lines {listed(lines, 5)} have"
            notes.append(f"{noun} {said.format(width)}.")
    return tuple(notes)


def _inserted(column: np.ndarray, places: list[int], cells: list[str]) -> np.ndarray:
    texts = [None if cell.strip() in MISSING else cell for cell in cells]
    if column.dtype == np.float64:
        if all(text is None or PLAIN.fullmatch(text.strip()) for text in texts):
            return np.insert(column, places, [np.nan if text is None else float(text) for text in texts])
        column = np.array([None if v != v else f"{v:.15g}" for v in column], dtype=object)
    out = np.empty(len(texts), dtype=object)
    out[:] = texts
    return np.insert(column, places, out)


def _floats(cells: Any) -> np.ndarray | None:
    """Texts as float64; None where one is no plain number, begins with a zero as codes do, or is too long for it."""
    compute, pyarrow = require("pyarrow.compute", "cli", "reading CSV"), require("pyarrow", "cli", "reading CSV")
    cells = compute.utf8_trim_whitespace(cells)
    codes = compute.match_substring_regex(cells, r"^[+-]?0[0-9]|_|^[+]|^$")
    if compute.any(codes).as_py():
        return None
    try:
        out = cells.cast(pyarrow.float64()).to_numpy(zero_copy_only=False)
    except pyarrow.ArrowInvalid:
        return None
    if np.isinf(out).any():
        return None
    return None if (np.abs(out) >= _EXACT).any() and _whole(cells, out) else np.array(out, dtype=np.float64)


def _whole(cells: Any, numbers: np.ndarray) -> bool:
    """Whether a number beyond 2⁵³ is written out in digits."""
    return any(
        cells[int(i)].as_py().lstrip("-").isdigit() for i in islice(np.flatnonzero(np.abs(numbers) >= _EXACT), 100)
    )


def _tabbed(lines: IO[bytes]) -> io.BufferedReader:
    """Runs of spaces as one tab."""
    found: Any = from_chunks(re.sub(r"[ \t]+", "\t", line.decode("utf-8", "replace").strip()) + "\n" for line in lines)
    return found  # type: ignore[no-any-return]


class _Raw(io.RawIOBase):
    """A stream that a buffer can stand before."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer from the stream."""
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
