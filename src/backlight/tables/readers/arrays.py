"""NumPy's own files: one array (.npy), or several by name (.npz), of which the rows of one are read."""

from __future__ import annotations

import io
import sys
import zipfile
from typing import IO, Any

import numpy as np

from backlight.errors import ColumnsError, FileError, listed
from backlight.tables.readers.registry import Options, Table, reader
from backlight.tables.readers.source import Source

__all__ = ["read_arrays"]

# the first five bits of 0xD800 to 0xDFFF, halves of letters in UTF-16
_SURROGATES = 0xD800 >> 11
_NAMES = ("feature_names", "columns", "features", "names", "columns_", "feature_names_in_")


@reader("NumPy", endings=(".npy", ".npz"), starts=(b"\x93NUMPY", b"PK\x03\x04"))
def read_arrays(source: Source, options: Options) -> Table:
    """Read an array of rows and columns; with it stand, of a .npz, columns as long as it (y) and the columns' names."""
    with source.open() as stream:
        content = stream.read()
    if content.startswith(b"\x93NUMPY"):
        return _table("", _array(io.BytesIO(content), len(content)), {}, source.name, ())
    held: dict[str, np.ndarray] = {}
    left = []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            try:
                with archive.open(member) as packed:
                    held[name] = _array(packed, member.file_size)
            except ValueError:  # objects, which only pickle reads
                left.append(name)
    notes = (f"Left out, as they hold objects: {listed(left)}.",) if left else ()
    tables = {name: array for name, array in held.items() if array.ndim == 2 or array.dtype.names}
    if options.sheet is not None:
        if options.sheet not in held:
            raise ColumnsError(f"{source.name} has no array {options.sheet!r}: its arrays are {listed(list(held))}")
        chosen = options.sheet
    elif tables:
        chosen = "X" if "X" in tables else max(tables, key=lambda name: tables[name].size)
    elif held:
        chosen = max(held, key=lambda name: held[name].size if held[name].ndim == 1 else 0)
    else:
        raise FileError(f"{source.name} holds no array of numbers or texts")
    others = [name for name in tables if name != chosen]
    if others:
        notes = (*notes, f"The array {chosen!r} is read, not {listed(others)}: choose with --sheet.")
    return _table(chosen, held[chosen], held, source.name, notes)


def _array(stream: IO[bytes], size: int) -> np.ndarray:
    """One array, without pickles; a header that promises more than there is is no array."""
    start = io.BytesIO(stream.read(size))
    version = np.lib.format.read_magic(start)
    read: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(start)
    count = 1
    for one in shape:
        count *= int(one)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    if count * dtype.itemsize > size - start.tell():
        raise FileError(f"an array of {shape} is promised, and the file ends before it")
    start.seek(0)
    return np.asarray(np.lib.format.read_array(start, allow_pickle=False))


def _table(name: str, array: np.ndarray, beside: dict[str, np.ndarray], file: str, notes: tuple[str, ...]) -> Table:
    if array.dtype.names:
        return Table(
            tuple(array.dtype.names), tuple(_column(array[field].ravel()) for field in array.dtype.names), notes
        )
    if array.ndim == 0 or array.ndim > 2:
        raise FileError(f"{file} holds an array of {array.ndim} axes: a table has two, rows and columns")
    matrix = array.reshape(len(array), -1)
    names = next(
        (
            [str(one) for one in beside[key]]
            for key in _NAMES
            if key in beside and beside[key].shape == (matrix.shape[1],) and beside[key].dtype.kind in "US"
        ),
        [name] if name and array.ndim == 1 else [f"column_{j + 1}" for j in range(matrix.shape[1])],
    )
    columns = [_column(matrix[:, j]) for j in range(matrix.shape[1])]
    for key, other in beside.items():
        if key != name and key not in _NAMES and other.shape in ((len(matrix),), (len(matrix), 1)):
            names.append(key)
            columns.append(_column(other.ravel()))
    return Table(tuple(names), tuple(columns), notes)


def _column(cells: np.ndarray) -> np.ndarray:
    if cells.dtype.kind in "biuf":
        return cells.astype(np.float64)
    if cells.dtype.kind in "mM":
        return cells
    if cells.dtype.kind == "S":
        cells = np.char.decode(cells, "utf-8", "replace")
    letters = np.frombuffer(np.ascontiguousarray(cells).tobytes(), dtype=cells.dtype.str[0] + "u4")
    if letters.size and (letters.max() > sys.maxunicode or ((letters >> 11) == _SURROGATES).any()):
        raise FileError("texts hold what are no letters")
    out = np.empty(len(cells), dtype=object)
    out[:] = [str(cell) or None for cell in cells]
    return out
