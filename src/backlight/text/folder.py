"""A folder as `save_pretrained` writes it: weights, configuration, tokenizer. Nothing in it is run.

Weights are read from safetensors alone. A folder that brings code of its own, or names some for the library to fetch,
is refused before the library is told of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from backlight.arguments import checked
from backlight.errors import FileError, MissingFileError, UnsupportedModel, listed, reading, require

__all__ = ["Folder", "load_folder"]

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_LARGEST = 2**26
# keys of a configuration by which the library would fetch or run code
_CODE = frozenset({"auto_map", "custom_pipelines", "trust_remote_code"})


@dataclass(frozen=True, slots=True)
class Folder:
    """A model and its tokenizer.

    Attributes
    ----------
    model : torch.nn.Module
        In evaluation mode, in single precision or better.
    tokenizer : callable
    files : tuple of Path
        What was read, for a hash.
    longest : int, optional
        How many tokens the model takes.
    """

    model: nn.Module
    tokenizer: Any
    files: tuple[Path, ...]
    longest: int | None


@checked
def load_folder(path: str | Path) -> Folder:
    """Read a model of `transformers` and its tokenizer from a folder, without code and without a network.

    Parameters
    ----------
    path : str or Path
        With ``config.json``, ``model.safetensors`` (or its parts and their index), and the tokenizer's files.

    Raises
    ------
    MissingFileError, FileError, UnsupportedModel, MissingDependency

    Examples
    --------
    >>> from pathlib import Path
    >>> load_folder(Path("no/such/folder"))
    Traceback (most recent call last):
    ...
    backlight.errors.MissingFileError: no/such/folder is not there
    """
    path = Path(path)
    if not path.is_dir():
        raise MissingFileError(f"{path} is not there")
    config = _checked(path)
    transformers = require("transformers", "transformers", "a folder with a model of texts")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = _class_of(config, transformers, path)
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with reading(path, "a folder with a model"):
        model = _loaded(kind, path, local)
    with reading(path, "a folder with a tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), **local)
    if next(model.parameters()).dtype.itemsize < 4:
        model = model.float()
    longest = getattr(model.config, "max_position_embeddings", None)
    files = tuple(sorted(one for one in path.iterdir() if one.suffix in (".json", ".safetensors")))
    return Folder(model.eval(), tokenizer, files, longest if isinstance(longest, int) else None)


def _checked(path: Path) -> dict[str, Any]:
    """The configuration of a folder that holds no code and no pickles that would be needed."""
    if not (path / "config.json").is_file():
        raise MissingFileError(f"{path} holds no config.json: it is no folder as save_pretrained writes one")
    code = sorted(one.name for one in path.rglob("*") if one.suffix in (".py", ".so", ".pyd", ".pyc"))
    if code:
        raise UnsupportedModel(f"{path} holds code of its own ({listed(code, 3)}), which is not run")
    for file in sorted(path.glob("*.json")):
        if file.name != "tokenizer.json" and any(key in _CODE for key in _keys(_json(file))):
            raise UnsupportedModel(f"{file} names code for the library to run, which is refused")
    if not any((path / name).is_file() for name in _WEIGHTS):
        pickles = sorted(one.name for one in path.iterdir() if one.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
        if pickles:
            raise FileError(
                f"{path} holds its weights as a pickle ({pickles[0]}), which is not opened: save it with "
                "save_pretrained, which writes model.safetensors"
            )
        raise MissingFileError(f"{path} holds no model.safetensors")
    config = _json(path / "config.json")
    if not isinstance(config, dict):
        raise FileError(f"{path / 'config.json'} is no object with the model's settings")
    return config


def _json(file: Path) -> Any:
    if file.stat().st_size > _LARGEST:
        raise FileError(f"{file} has {file.stat().st_size} bytes, more than settings need")
    with reading(file, "JSON"):
        return json.loads(file.read_text(encoding="utf-8"))


def _keys(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield str(key)
            yield from _keys(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _keys(value)


def _class_of(config: dict[str, Any], transformers: Any, path: Path) -> Any:
    """The model's class: one of the library's own."""
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named else None
    known = isinstance(name, str) and name.isidentifier() and not name.startswith("_")
    kind = getattr(transformers, str(name), None) if known else None
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        raise UnsupportedModel(
            f"{path / 'config.json'}: architectures names {name!r}, which is no model of transformers"
        )
    return kind


def _loaded(kind: Any, path: Path, local: dict[str, Any]) -> Any:
    # said here, so that no configuration can name an attention that the library would fetch
    for attention in ("sdpa", "eager"):
        try:
            return kind.from_pretrained(str(path), use_safetensors=True, attn_implementation=attention, **local)
        except ValueError as error:
            if attention == "eager" or "attention" not in str(error):
                raise
    raise AssertionError("every attention was tried")  # pragma: no cover
