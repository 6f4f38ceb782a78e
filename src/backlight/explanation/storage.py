"""Explanations in files: Parquet for tables, safetensors for any shape. Nothing here runs code from a file.

Parquet: one double column a feature (its relevance), then ``output``, ``base_value``, ``residual``; everything else is
JSON under the schema key ``backlight``, so that any Parquet reader sees a plain table.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from backlight.errors import FileError, MissingFileError, require
from backlight.explanation.data import ExplanationData
from backlight.explanation.ledger import Ledger
from backlight.tables.files import atomic

__all__ = ["load", "save"]

_SCHEMA = 1
_TEXT = ("feature_names", "output_names", "target", "method", "dims", "kind")


def save(ex: ExplanationData, path: Path, *, force: bool) -> None:
    """Write an explanation, to a temporary name first."""
    writers = {".parquet": _save_parquet, ".safetensors": _save_safetensors}
    if path.suffix not in writers:
        raise FileError(f"cannot save an explanation as {path.name!r}: the name must end in .parquet or .safetensors")
    with atomic(path, force=force) as temporary:
        writers[path.suffix](ex, temporary)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote: the fields of an explanation."""
    if not path.is_file():
        raise MissingFileError(f"{path} is not a file: give the path of an explanation saved with Explanation.save")
    readers = {".parquet": _load_parquet, ".safetensors": _load_safetensors}
    if path.suffix not in readers:
        raise FileError(f"cannot load an explanation from {path.name!r}: it must be a .parquet or .safetensors file")
    return readers[path.suffix](path)


def _header(ex: ExplanationData) -> dict[str, Any]:
    head: dict[str, Any] = {"schema": _SCHEMA}
    head |= {name: getattr(ex, name) for name in _TEXT}
    head["provenance"] = dict(ex.provenance)
    if ex.labels is not None:
        head["labels"] = [
            str(label) if not isinstance(label, int | float | str) else label for label in ex.labels.tolist()
        ]
    if ex.ledger is not None:
        head["ledger"] = {"layers": ex.ledger.layers, "rules": ex.ledger.rules}
    return head


def _arrays(ex: ExplanationData) -> dict[str, np.ndarray]:
    out = {f"annotation.{name}": array for name, array in ex.annotations.items()}
    out |= {f"layer.{name}": array for name, array in ex.layers.items()}
    if ex.ledger is not None:
        out |= {"ledger.entering": ex.ledger.entering, "ledger.leaving": ex.ledger.leaving}
        if ex.ledger.bias is not None:
            out["ledger.bias"] = ex.ledger.bias
    return out


def _build(head: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> dict[str, Any]:
    if head.get("schema") != _SCHEMA:
        raise FileError(
            f"{path} was written with schema {head.get('schema')!r}, and this version reads {_SCHEMA}: "
            "load it with the version of backlight that wrote it"
        )
    ledger = None
    if "ledger" in head:
        ledger = Ledger(
            tuple(head["ledger"]["layers"]),
            tuple(head["ledger"]["rules"]),
            arrays["ledger.entering"],
            arrays["ledger.leaving"],
            arrays.get("ledger.bias"),
        )
    return {
        **{name: tuple(v) if isinstance(v := head[name], list) else v for name in _TEXT},
        "values": arrays["values"],
        "output": arrays["output"],
        "base_values": arrays["base_values"],
        "data": arrays.get("data"),
        "provenance": head["provenance"],
        "ledger": ledger,
        "annotations": _with_prefix(arrays, "annotation."),
        "layers": _with_prefix(arrays, "layer."),
        "labels": np.array(head["labels"]) if "labels" in head else None,
    }


def _with_prefix(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _save_safetensors(ex: ExplanationData, path: Path) -> None:
    from safetensors.numpy import save_file

    head = _header(ex)
    arrays = {"values": ex.values, "output": ex.output, "base_values": ex.base_values, **_arrays(ex)}
    if ex.data is not None:
        if ex.data.dtype == object:
            head["data"] = ex.data.tolist()
        else:
            arrays["data"] = ex.data
    head["texts"] = {name: array.tolist() for name, array in arrays.items() if array.dtype.kind == "U"}
    arrays = {name: array for name, array in arrays.items() if name not in head["texts"]}
    save_file(
        {k: np.ascontiguousarray(v) for k, v in arrays.items()},
        path,
        {"backlight": json.dumps(head, default=str)},
    )


def _load_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        head = _parse((file.metadata() or {}).get("backlight"), path)
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    arrays |= {name: np.array(texts, dtype=str) for name, texts in head.get("texts", {}).items()}
    if "data" in head:
        arrays["data"] = np.array(head["data"], dtype=object)
    return _build(head, arrays, path)


def _parse(text: str | bytes | None, path: Path) -> dict[str, Any]:
    if text is None:
        raise FileError(f"{path} holds no explanation: give a file that Explanation.save wrote")
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def _save_parquet(ex: ExplanationData, path: Path) -> None:
    pyarrow = require("pyarrow", "cli", "saving as Parquet")
    require("pyarrow.parquet", "cli", "saving as Parquet")
    head = _header(ex)
    head["columns"] = list(ex.to_columns())
    head["arrays"] = {name: array.tolist() for name, array in _arrays(ex).items()}
    if ex.data is not None:
        head["data"] = ex.data.tolist()
        head["data_is_object"] = ex.data.dtype == object
    table = pyarrow.table({name: np.ascontiguousarray(column) for name, column in ex.to_columns().items()})
    table = table.replace_schema_metadata({"backlight": json.dumps(head, default=str)})
    pyarrow.parquet.write_table(table, path)


def _load_parquet(path: Path) -> dict[str, Any]:
    parquet = require("pyarrow.parquet", "cli", "loading Parquet")
    # the file itself: a folder of the same name would be read as a partitioned table
    table = parquet.ParquetFile(path).read()
    head = _parse((table.schema.metadata or {}).get(b"backlight"), path)
    columns = [np.asarray(table[name]) for name in head["columns"]]
    arrays = {name: np.array(value) for name, value in head["arrays"].items()}
    arrays |= {"values": np.stack(columns[:-3], 1), "output": columns[-3], "base_values": columns[-2]}
    if "data" in head:
        arrays["data"] = np.array(head["data"], dtype=object if head["data_is_object"] else float)
    return _build(head, arrays, path)
