"""The exported program beside the explainer, on rows, before anything is written."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from typing import Any

import numpy as np

from backlight._export.sql import Select
from backlight.classical import NeuralizedModel
from backlight.errors import BacklightError, ConservationError, UnsupportedModel, require
from backlight.explanation import Explanation
from backlight.tables import Frame, as_frame

__all__ = ["check_select", "compared_rows", "made_rows", "require_equal"]

_TOLERANCE = 1e-9
DOUBLE = "DOUBLE PRECISION"
_MADE = 48


def made_rows(network: NeuralizedModel, names: Sequence[str]) -> Frame:
    """Rows to compare on where the user has given none: near, far, missing, seen and unseen cells.

    Only those that the network itself takes are used.
    """
    rng = np.random.default_rng(0)
    front = network.front
    columns = []
    for j in range(len(front.names)):
        if j in front.vocabulary.codes:
            levels = [*front.vocabulary.codes[j], "a level that nobody has seen", None]
            cells = np.empty(_MADE, dtype=object)
            cells[:] = [levels[k] for k in rng.integers(0, len(levels), _MADE)]
        else:
            cells = rng.normal(size=_MADE) * rng.choice([0.0, 1.0, 1.0, 30.0], _MADE)
            cells[rng.random(_MADE) < 0.1] = np.nan
        columns.append(cells)
    return Frame(tuple(names), tuple(columns), "pyarrow", True)


def check_select(
    select: Select, network: NeuralizedModel, names: Sequence[str], explain: Any, rows: Any, table: str, key: str | None
) -> int:
    """Compare a SELECT with the explainer, and say on how many rows it was.

    Raises
    ------
    ConservationError
        When they differ by more than 1e-9 of what the score is made of.
    UnsupportedModel
        When no row could be explained.
    """
    frame, wanted = compared_rows(network, names, explain, rows)
    shown = [name for name in select.columns if not name.startswith(("target", "backlight_target"))]
    require_equal(_run(select, frame, names, table, key), wanted, shown)
    return len(frame)


def compared_rows(network: NeuralizedModel, names: Sequence[str], explain: Any, rows: Any) -> tuple[Frame, np.ndarray]:
    """Rows that can be explained, and score, base and values of each, target after target.

    Raises
    ------
    UnsupportedModel
        When there is none.
    """
    frame = network.front.align(as_frame(made_rows(network, names) if rows is None else rows))
    frame = frame.take(slice(0, 256))
    kept, wanted = _explained(explain, frame, strict=rows is not None)
    if not len(kept):
        raise UnsupportedModel("no row to compare the export on could be explained: give rows= of the model's table")
    return frame.take(kept), wanted


def require_equal(found: np.ndarray, wanted: np.ndarray, columns: Sequence[str], tolerance: float = _TOLERANCE) -> None:
    """Compare numbers (n, columns), each row by the size of all of them.

    Raises
    ------
    ConservationError
    """
    off = np.abs(found - wanted) / np.maximum(np.abs(wanted).sum(1, keepdims=True), 1.0)
    bad = np.argwhere(~(off <= tolerance))
    if len(bad):
        row, column = (int(k) for k in bad[0])
        raise ConservationError(
            f"the export differs from the explainer in {columns[column]!r} of row {row} "
            f"({found[row, column]:.12g} for {wanted[row, column]:.12g}): nothing was written"
        )


def _explained(explain: Any, frame: Frame, strict: bool) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows that can be explained, and score, base and values of each."""
    if strict:
        return np.arange(len(frame)), _numbers(explain(frame))
    kept, parts = [], []
    for row in range(len(frame)):
        try:
            parts.append(_numbers(explain(frame.take(slice(row, row + 1)))))
        except BacklightError:
            continue  # a row that was made up, and that the model does not take
        kept.append(row)
    return np.array(kept, dtype=int), np.concatenate(parts) if parts else np.zeros((0, 0))


def _numbers(ex: Explanation) -> np.ndarray:
    values, output, base = ex.values, np.asarray(ex.output), ex.base_values
    if output.ndim == 1:
        values, output, base = values[..., None], output[:, None], base[:, None]
    whole = np.concatenate([output[:, None], base[:, None], values], 1)
    return np.moveaxis(whole, 2, 1).reshape(len(whole), -1)


def _run(select: Select, frame: Frame, names: Sequence[str], table: str, key: str | None) -> np.ndarray:
    cells = [[_cell(value) for value in column.tolist()] for column in frame.columns]
    texts = [any(isinstance(value, str) for value in column) for column in cells]
    rows = list(zip(range(len(frame)), *cells, strict=True))
    own = "row" if key is None else key
    spare = key if key is not None and key not in names else "backlight_row"
    kinds = ["INTEGER", *("VARCHAR" if some else DOUBLE for some in texts)]
    made = ", ".join(f'"{n.replace(chr(34), chr(34) * 2)}" {k}' for n, k in zip([spare, *names], kinds, strict=True))
    connection: Any = _duckdb() if select.dialect.name == "duckdb" else _sqlite(select.dialect.name)
    try:
        connection.execute(f"CREATE TABLE {_quoted(table)} ({made})")
        marks = ", ".join("?" for _ in range(len(names) + 1))
        connection.executemany(f"INSERT INTO {_quoted(table)} VALUES ({marks})", rows)
        text = select.query
        if select.dialect.name == "postgresql":  # SQLite has no NaN, reads the word as zero, and fences otherwise
            text = text.replace(f"CAST('NaN' AS {DOUBLE})", "NULL").replace(select.dialect.fence, " LIMIT -1")
        cursor = connection.execute(text)
        heads = [head[0] for head in cursor.description]
        fetched = cursor.fetchall()
    finally:
        connection.close()
    order = sorted(fetched, key=lambda row: row[heads.index(own)])
    places = [heads.index(name) for name in select.columns if not name.startswith(("target", "backlight_target"))]
    return np.array([[math.nan if row[k] is None else float(row[k]) for k in places] for row in order])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _cell(value: Any) -> Any:
    return None if value is None or value != value else value


def _duckdb() -> Any:
    return require("duckdb", "scale", "comparing an export for DuckDB").connect()


def _sqlite(dialect: str) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    if dialect != "sqlite":  # PostgreSQL's text runs in SQLite once two of its words are known
        connection.create_function("GREATEST", -1, lambda *terms: None if None in terms else max(terms))
    for name, function in (("EXP", math.exp), ("LN", math.log)):
        try:
            connection.execute(f"SELECT {name}(1.0)")
        except sqlite3.OperationalError:  # SQLite may be built without mathematics
            connection.create_function(name, 1, lambda x, f=function: None if x is None else f(x))
    return connection
