"""Sparse rows as LIBSVM, SVMlight and the boosters write them: ``label 1:0.5 7:2``, a line a row."""

from __future__ import annotations

import re

import numpy as np

from backlight.errors import FileError
from backlight.tables.readers.registry import Options, Table, reader
from backlight.tables.readers.source import Source

__all__ = ["read_sparse_text"]

_LINE = re.compile(rb"\s*[^\s:,;]+(\s+qid:\d+)?(\s+\d+:[-+.\deEnaif]+)*\s*(#.*)?")
_MOST_COLUMNS = 20_000


def _looks_sparse(head: bytes) -> bool:
    """Whether the first lines of a text are such rows."""
    lines = [line for line in head.splitlines()[:6] if line.strip() and not line.lstrip().startswith(b"#")]
    whole = lines[:-1]
    return any(b":" in line for line in whole) and all(_LINE.fullmatch(line) for line in whole)


@reader("LIBSVM", endings=(".svm", ".libsvm", ".svmlight"), looks=_looks_sparse)
def read_sparse_text(source: Source, options: Options) -> Table:
    """Read the label and every column that some row names; what a row does not name is zero."""
    from sklearn.datasets import load_svmlight_file

    with source.open() as stream:
        matrix, labels = load_svmlight_file(stream, zero_based=True)
    held = np.unique(matrix.indices)
    if len(held) > _MOST_COLUMNS:
        raise FileError(f"{source.name} has {len(held):,} columns with values: choose at most {_MOST_COLUMNS:,}")
    table = matrix[:, held].toarray()
    note = "Sparse rows: what a row does not name is zero."
    names = ("label", *(f"feature_{j}" for j in held))
    return Table(names, (labels, *(np.ascontiguousarray(column) for column in table.T)), (note,))
