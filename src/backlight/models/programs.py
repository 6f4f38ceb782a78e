"""A torch module as the bytes of an exported program, and back, without code: what a saved explainer holds of it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from backlight.attribution.inputs import Batch
from backlight.engine.capture import program_of
from backlight.engine.outputs import Outputs
from backlight.errors import UnsupportedModel
from backlight.programs import Archive, build

__all__ = ["example_of", "probe_of", "read_program", "written_program"]


def _rows_as(batch: Batch, make: Callable[[Tensor], Tensor]) -> Batch:
    rows = batch.rows

    def two(value: Any) -> Any:
        whole = isinstance(value, Tensor) and value.dim() and len(value) == rows
        return make(value[:1].expand(2, *value.shape[1:])) if whole else value

    args, kwargs = pytree.tree_map(two, (batch.args, batch.kwargs))
    return Batch(args, kwargs)


def example_of(batch: Batch) -> Batch:
    """Two rows of zeros of the shapes of a batch: nothing of the user's data is kept."""
    return _rows_as(batch, torch.zeros_like)


def probe_of(example: Batch) -> Batch:
    """Two rows to compare two models on: drawn where numbers have a fraction."""
    generator = torch.Generator().manual_seed(0)

    def drawn(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        return torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)

    return _rows_as(example, drawn)


def written_program(module: nn.Module, example: Batch, output: Any = None) -> bytes:
    """The module as a program for any number of rows and tokens, without the inputs that torch would pickle beside it.

    What it gives is the output that is explained; caches and whatever else a module returns are left out.

    Raises
    ------
    UnsupportedModel
        When torch cannot export it, or the reader of programs would not take what it wrote.
    """
    whole = io.BytesIO()
    try:
        torch.export.save(program_of(module, (example.args, example.kwargs), Outputs(output)), whole)
        found = _without_inputs(whole)
        read_program(found)
    # torch.export documents no common class of what it raises
    except Exception as error:
        said = " ".join(str(error).split())[:100]
        raise UnsupportedModel(
            f"{type(module).__name__} cannot be written without code ({said}): send this explainer by pickle"
        ) from error
    return found


def _without_inputs(whole: io.BytesIO) -> bytes:
    kept = io.BytesIO()
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            if "/data/sample_inputs/" not in info.filename:
                new.writestr(info, old.read(info))
    return kept.getvalue()


def read_program(data: bytes) -> nn.Module:
    """The network of a program's bytes; no code is run from them.

    Raises
    ------
    FileError, UntrustedModelError
    """
    with Archive(io.BytesIO(data), len(data), "the program") as archive:
        return build(archive, "the program").eval()
