"""Trained networks from files: exported programs, and weights of a named architecture. Nothing here runs code."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backlight.errors import ArgumentError, FileError, MissingFileError, UntrustedModelError, listed
from backlight.vision.architectures import architecture

__all__ = ["load_network"]


def load_network(path: Path, name: str | None = None) -> nn.Module:
    """A network in evaluation mode.

    Parameters
    ----------
    path : Path
        ``.pt2``: a program that ``torch.export.save`` wrote. ``.safetensors``: a state dict.
    name : str, optional
        The architecture of a state dict, see `architecture`.

    Raises
    ------
    UntrustedModelError
        A file that could run code.
    FileError, ArgumentError
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is not there")
    if path.suffix in (".pt", ".pth", ".pkl", ".bin", ".ckpt"):
        raise UntrustedModelError(
            f"{path.name} may be a pickle, which can run any code when it is opened: save the weights with "
            "safetensors.torch.save_file(model.state_dict(), …), or the program with torch.export.save(…)"
        )
    if path.suffix == ".pt2":
        if name is not None:
            raise ArgumentError(f"{path.name} is a whole program: leave --architecture out")
        return _program(path)
    if path.suffix != ".safetensors":
        raise FileError(f"{path.name} is no network: give a .pt2 program or a .safetensors state dict")
    if name is None:
        raise ArgumentError(f"{path.name} holds weights alone: say --architecture, for instance squeezenet1_0")
    return _weights(path, name)


def _weights(path: Path, name: str) -> nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except SafetensorError as error:
        raise FileError(f"{path} is not a readable safetensors file ({error})") from error
    network = architecture(name)
    expected = network.state_dict()
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    # a counter of training steps that takes no part
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unknown:
        said = [f"{kind}: {listed(keys, 4)}" for kind, keys in (("missing", missing), ("unknown", unknown)) if keys]
        raise FileError(f"the weights in {path.name} are not those of {name!r} ({'; '.join(said)})")
    for key in expected:
        if key in state and state[key].shape != expected[key].shape:
            raise FileError(
                f"{key} in {path.name} has shape {tuple(state[key].shape)}, {name!r} has {tuple(expected[key].shape)}"
            )
    network.load_state_dict(state, strict=False)
    return network.eval()


def _program(path: Path) -> nn.Module:
    try:
        _require_data_alone(path)
        return torch.export.load(path).module()
    except zipfile.BadZipFile as error:
        raise FileError(f"{path} is not an exported program: torch.export.save writes one") from error


def _require_data_alone(path: Path) -> None:
    """Refuse an archive with anything in it that only a full unpickler would read.

    torch's own loader falls back to that, so each pickle is first read with the restricted one, which builds tensors
    and nothing else.
    """
    with zipfile.ZipFile(path) as archive:
        raw = _raw_members(archive)
        for member in archive.namelist():
            name = member.rsplit("/", 1)[-1]
            if member.endswith("/") or member in raw:
                continue
            if name.startswith(("custom_obj", "opaque_obj", "script_obj")) or name.endswith(
                (".so", ".py", ".pkl", ".cpp")
            ):
                raise UntrustedModelError(f"{path.name} holds {member}, which could run code: it is not opened")
            data = archive.read(member)
            if data.startswith((b"PK", b"\x80")):
                try:
                    torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
                # whatever stops the restricted reader
                except Exception as error:
                    raise UntrustedModelError(
                        f"{path.name} holds {member}, a pickle of more than tensors, which could run code: it is "
                        "not opened"
                    ) from error
            elif not _is_text(data):
                raise UntrustedModelError(f"{path.name} holds {member}, whose kind is not known: it is not opened")


def _raw_members(archive: zipfile.ZipFile) -> set[str]:
    """The members that torch reads as plain bytes of numbers, by its own table of contents."""
    found: set[str] = set()
    for member in archive.namelist():
        if not (member.endswith(".json") and ("weights" in member or "constants" in member)):
            continue
        folder = member.rsplit("/", 1)[0]
        for entry in _entries(json.loads(archive.read(member))):
            if entry.get("use_pickle") is False and isinstance(entry.get("path_name"), str):
                found.add(f"{folder}/{entry['path_name']}")
    return found


def _entries(tree: Any) -> list[dict[str, Any]]:
    if isinstance(tree, dict):
        own = [tree] if "path_name" in tree else []
        return own + [entry for value in tree.values() for entry in _entries(value)]
    return [entry for value in tree for entry in _entries(value)] if isinstance(tree, list) else []


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    # a pickle of protocol 0 is text too, and ends in a full stop
    return not data.rstrip().endswith(b".")
