"""`export`: one file that another system computes the score and its contributions with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backlight._explain import Explainer
from backlight._export.expressions import DIALECTS
from backlight._export.graphs.networks import check_network, network_graph
from backlight._export.graphs.onnx import onnx_of, run_onnx
from backlight._export.graphs.programs import program_of, run_program
from backlight._export.graphs.source import run_source, source_of
from backlight._export.graphs.tables import Written, graph_of
from backlight._export.graphs.verify import Run, check_graph
from backlight._export.sql import select_of
from backlight._export.verify import check_select
from backlight.arguments import checked
from backlight.errors import ArgumentError, ColumnsError, UnsupportedModel, listed
from backlight.hints import ModelLike, RowsLike
from backlight.models import Query
from backlight.models.network import NetworkModel
from backlight.models.torch import TorchModel
from backlight.tables.files import atomic

__all__ = ["export"]


@checked
def export(
    explainer: ModelLike,
    path: str | Path,
    *,
    dialect: str = "duckdb",
    table: str = "rows",
    key: str | None = None,
    rows: RowsLike = None,
    force: bool = False,
) -> Path:
    """Write the score and the contributions as a program of another system.

    Before anything is written it is run beside the explainer, and compared to 1e-9 of what the score is made of.

    Parameters
    ----------
    explainer : Explainer
        Or a model: of scikit-learn, or a torch module for all but SQL.
    path : str or Path
        ``.sql``: one SELECT, with what the model has learnt as tables in it. ``.onnx``: a graph, which is run in
        onnxruntime. ``.pt2``: an exported program of torch, which gives a dict of tensors. ``.py``: a file that needs
        NumPy alone, whose function ``explain`` gives a dict of arrays.

        All but SQL have the outputs ``score``, ``base`` and ``contributions``, of the shapes of ``output``,
        ``base_values`` and ``values``, and ``target``, the predicted output, where that is explained (its position in a
        ``.pt2``). Of a table they take one matrix ``X`` in double precision; where the model reads words, ``.onnx``
        takes one input of shape (n, 1) a column, by name, in which an empty word is a cell without a value, and
        ``.py`` a data frame or another mapping of names to columns. A torch module has its own precision, and is
        compared to 1e-4 where that is single.
    dialect : {"duckdb", "sqlite", "postgresql"}
        SQL only. The text needs EXP and LN, which SQLite has where it was built with its mathematical functions, as
        nearly everywhere. What is written for PostgreSQL is compared in SQLite, as no server is at hand.
    table : str
        The table that is selected from; it has the model's columns by name.
    key : str, optional
        A column of it that names the rows; by default ``row`` counts them from 1, in the table's own order.
    rows : table, optional
        Rows to compare on (the first 256); by default some are made up. A torch module needs them.
    force : bool
        Whether a file that is there is replaced.

    Returns
    -------
    Path
        The file. The SELECT gives the row's name, ``score``, ``base``, one column a feature, and ``target`` where the
        predicted output is explained; for several targets ``name[target]``. A row that `explain` refuses, such as one
        of a category that an encoder refuses, has NULL for all.

    Raises
    ------
    UnsupportedModel, UnsupportedOption
        For a layer, a rule, a step or an operator that is not written in that form, by name.
    ConservationError
        When the program differs from the explainer.
    ArgumentError, ColumnsError, ExistingFileError, FileError

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> import backlight
    >>> X = np.arange(6.0).reshape(3, 2) ** 2
    >>> explainer = backlight.Explainer(LinearRegression().fit(X, X[:, 0]), feature_names=["a", "b"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = backlight.export(explainer, pathlib.Path(folder) / "reasons.sql", dialect="sqlite")
    ...     path.read_text().startswith("WITH")
    True
    """
    path = Path(path)
    writers: dict[str, Callable[[], bytes]] = {
        ".sql": lambda: _sql(explainer, dialect, table, key, rows).encode(),
        **dict.fromkeys(_FORMATS, lambda: _graph(explainer, path.suffix, rows)),
    }
    if path.suffix not in writers:
        raise ArgumentError(
            f"cannot export to {path.name!r} in this version: the ending must be one of {listed(writers)}"
        )
    content = writers[path.suffix]()
    with atomic(path, force=force) as temporary:
        temporary.write_bytes(content)
    return path


def _sql(explainer: Any, dialect: str, table: str, key: str | None, rows: Any) -> str:
    if dialect not in DIALECTS:
        raise ArgumentError(f"dialect must be one of {', '.join(map(repr, DIALECTS))}, not {dialect!r}")
    explainer, model, query, names = _opened(explainer, "SQL")
    select = select_of(model.network, query, explainer.targets, names, dialect, table, key)
    check_select(select, model.network, names, explainer, rows, table, key)
    return select.query


@dataclass(frozen=True, slots=True)
class _Format:
    """How a graph is written, and how that is run."""

    language: str
    write: Callable[[Written], bytes]
    run: Callable[[bytes], Run]


_FORMATS = {
    ".onnx": _Format("ONNX", onnx_of, run_onnx),
    ".pt2": _Format("a program of torch", program_of, run_program),
    ".py": _Format("NumPy", source_of, run_source),
}


def _graph(explainer: Any, suffix: str, rows: Any) -> bytes:
    form = _FORMATS[suffix]
    explainer = explainer if isinstance(explainer, Explainer) else Explainer(explainer)
    opened, query = explainer.opened()
    if isinstance(opened, TorchModel):
        written, x = network_graph(opened, query, explainer, rows)
        content = form.write(written)
        check_network(form.run(content), written, x, explainer)
        return content
    explainer, model, query, names = _opened(explainer, form.language)
    written = graph_of(model.network, query, explainer.targets, names)
    content = form.write(written)
    check_graph(form.run(content), written, model.network, names, explainer, rows)
    return content


def _opened(explainer: Any, language: str) -> tuple[Explainer, NetworkModel, Query, Sequence[str]]:
    """The explainer, its model, the prepared query, and the names of the columns."""
    if not isinstance(explainer, Explainer):
        explainer = Explainer(explainer)
    model, query = explainer.opened()
    if not isinstance(model, NetworkModel):
        raise UnsupportedModel(
            f"{model.kind} is a torch module, which is not written in {language}: use explain_batches"
        )
    front = model.network.front
    names = front.names if front.named or explainer.feature_names is None else explainer.feature_names
    if len(names) != len(front.names):
        raise ColumnsError(f"{len(names)} feature names for {len(front.names)} columns: give one name a column")
    return explainer, model, query, names
